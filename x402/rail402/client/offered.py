"""What a 402 offers on rails that no wallet here is on. It is for the error that says so, and decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from rail402.errors import ConfigurationError, MalformedInput
from rail402.plugins import installed_rails, load_plugin
from rail402.protocol.dialect import Context, Dialect, Fields
from rail402.protocol.offer import Offer
from rail402.protocol.rail import RailSpec, Registry

__all__ = ["other_offers"]

_MAX_OFFERS: Final = 16


def other_offers(dialects: Iterable[Dialect], fields: Fields, body: bytes, context: Context) -> list[Offer]:
    """Return what the installed rails read of a 402, in any dialect; what none of them can read is not in it.

    Args:
        context: what the dialects may use, but for its rails.
    """
    found: list[Offer] = []
    for spec in _specs():
        alone = Context(specs=Registry([spec]), now=context.now, realm=context.realm)
        for dialect in dialects:
            with suppress(MalformedInput):
                found += dialect.offers(fields, body, alone)[:_MAX_OFFERS]
    return found


def _specs() -> Iterator[RailSpec]:
    for name in installed_rails():
        with suppress(ConfigurationError):  # an extra is missing
            yield from load_plugin(name).specs()
