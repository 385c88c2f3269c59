"""Rails by name, for configuration files: the entry-point group `rail402.rails`.

Nothing is enabled by being installed: a file lists the rails it wants, and only those are imported. In code, make the
rail's own classes instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from rail402.errors import ConfigurationError
from rail402.protocol.base import Record
from rail402.protocol.offer import Offer
from rail402.protocol.rail import PaymentRail, RailSpec, Wallet

__all__ = ["Explained", "RailPlugin", "installed_rails", "load_plugin"]

GROUP = "rail402.rails"


@dataclass(frozen=True, slots=True)
class Explained:
    """What a text says.

    Args:
        kind: what it is, for people: `BOLT 11 invoice`.
        facts: what it says by name: JSON values, a `SecretStr` where it is secret. A name that ends in `_at` holds Unix
            seconds.
        notes: what a person should know beside it.
    """

    kind: str
    facts: Mapping[str, Any]
    notes: Sequence[str] = ()


def _nothing(_: object) -> None:
    """Say that this rail knows nothing about it."""


@dataclass(frozen=True, slots=True)
class RailPlugin:
    """What a rail's distribution registers.

    The last five are for tools, which move no money; a rail can do without them.

    Args:
        rail_config, wallet_config: pydantic models of its tables: a rail's in `rail402.toml`, a wallet's in an agent's.
        rail, wallet: make the server and the client side from a validated table.
        specs: make specs for all the networks that the rail knows. They may share a name, so each one goes into a
            `Registry` of its own.
        network_name: what people call a network, None where it is none of this rail's.
        describe: what would really be paid for an offer of this rail: JSON values as in `Explained.facts`.
        explain: what a text of this rail's own says (an invoice, a payment URI), None where it is none. Raises
            `MalformedInput` where it is one and cannot be read.
        wallet_examples: tables for a new `wallets.toml`: one with play money, and one for every other way to pay, with
            `#` before each of its lines. `{folder}` in it is the folder of that file. Empty: its sandbox's alone.
    """

    rail_config: type[Record]
    wallet_config: type[Record]
    rail: Callable[..., PaymentRail]
    wallet: Callable[..., Wallet]
    specs: Callable[[], Sequence[RailSpec]] = tuple
    network_name: Callable[[str], str | None] = _nothing
    describe: Callable[[Offer], Mapping[str, Any] | None] = _nothing
    explain: Callable[[str], Explained | None] = _nothing
    wallet_examples: Callable[[], str] = str


def installed_rails() -> list[str]:
    """Return the names of the rails that are installed, without importing them."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load_plugin(name: str) -> RailPlugin:
    """Import the rail called `name`.

    Raises:
        ConfigurationError: it is not installed, an extra is missing, or what is registered is no plugin.
    """
    for point in entry_points(group=GROUP, name=name):
        try:
            plugin = point.load()
        except ImportError as error:
            hint = f"pip install 'rail402[{name}]'"
            raise ConfigurationError(f"rail {name!r} cannot be imported ({error.name}); try: {hint}") from error
        if not isinstance(plugin, RailPlugin):
            raise ConfigurationError(f"rail {name!r}: {point.value} is no RailPlugin")
        return plugin
    raise ConfigurationError(f"there is no rail {name!r}; installed are: {', '.join(installed_rails()) or 'none'}")
