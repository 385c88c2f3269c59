"""A gate's 402 without offers: none of its own rails can charge the price. Pure."""

from __future__ import annotations

from typing import Final

from rail402.errors import ConfigurationError, MalformedInput
from rail402.money import Money
from rail402.protocol.base import parse_json

__all__ = ["Unsold", "unsold"]

_MAX_BODY: Final = 131_072
_MAX_WORDS: Final = 200

Unsold = tuple[Money, str]
"""The price, and the server's words for why nobody can pay it: a stranger's text, for people to read."""


def unsold(body: bytes | None) -> Unsold | None:
    """Return what a gate that makes no offer says in its body; None where this is not the body of such a 402."""
    try:
        said = parse_json(body or b"", field="body", max_bytes=_MAX_BODY)
        price = Money.parse(said.get("price", ""))
    except (MalformedInput, ConfigurationError):
        return None
    why = said.get("detail", said.get("error"))
    return (price, why[:_MAX_WORDS]) if said.get("offers") == [] and isinstance(why, str) else None
