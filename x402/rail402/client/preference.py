"""Which wallets are asked first for a request: the owner's order, or another one for a host or a route. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rail402.client.rules import Names, fits, host_pattern
from rail402.errors import ConfigurationError

__all__ = ["Preference", "preference_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """In which order wallets are asked to pay for some requests. Of several that fit a request the first one holds.

    Args:
        host: `api.example.com`, or `*.example.com` for every host below it; any host unless given.
        path: `/reports`, or `/reports/*` for every path that begins so; any path unless given. The query has no part
            in it.
        wallets: names of wallets or of rails, the preferred ones first. The others come after them, in their own order.
        only: whether the others are not asked at all.
        cheapest: whether what a wallet would pay in total decides before the order does. What cannot be converted to a
            dollar, for want of a rate, comes last.

    Raises:
        ConfigurationError: the host is none, the path does not begin with `/`, or nothing is preferred.
    """

    host: str | None = None
    path: str | None = None
    wallets: Names = field(default=(), compare=False)
    only: bool = False
    cheapest: bool = False
    names: tuple[str, ...] = field(init=False, repr=False)
    _pattern: str | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = (self.wallets,) if isinstance(self.wallets, str) else tuple(self.wallets)
        if not names and (self.only or not self.cheapest):
            raise ConfigurationError("prefer: name wallets or rails, or write cheapest = true")
        if self.path is not None and not self.path.startswith("/"):
            raise ConfigurationError(f"prefer: the path {self.path!r} must begin with /")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "_pattern", None if self.host is None else host_pattern(self.host))

    def fits(self, host: str, path: str) -> bool:
        """Whether it is for a request to this host (in the form that is compared) and this path."""
        if self._pattern is not None and not fits(self._pattern, host):
            return False
        if self.path is None:
            return True
        return path.startswith(self.path[:-1]) if self.path.endswith("*") else path == self.path

    def order(self, wallets: Sequence[tuple[str, str]]) -> list[str]:
        """Return the names of those that may pay, in order, of wallets given by name and rail in the owner's order."""
        ranks = {name: self._rank(name, rail) for name, rail in wallets}
        named = sorted((name for name, rank in ranks.items() if rank is not None), key=lambda name: ranks[name] or 0)
        return named if self.only else named + [name for name, rank in ranks.items() if rank is None]

    def _rank(self, name: str, rail: str) -> int | None:
        return next((rank for rank, wanted in enumerate(self.names) if wanted in (name, rail)), None)


def preference_for(preferences: Sequence[Preference], host: str, path: str) -> Preference | None:
    """Return the first preference that fits a request, None where none does."""
    return next((preference for preference in preferences if preference.fits(host, path)), None)
