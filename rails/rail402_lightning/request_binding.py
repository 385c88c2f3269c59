"""What binds an invoice to one HTTP request: the `http:1` profile of x402's `exact` scheme on `lnbtc`.

The server puts the hash of the request into the invoice as its description hash, which the node signs. The client
computes the same hash from the request that it is about to pay for, so that an invoice made for another request, or by
another server for its own, does not pass for this one's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from rail402.protocol.base import canonical_json
from rail402.protocol.order import Order

__all__ = ["PROFILE", "bound_request", "request_hash"]

PROFILE: Final = "http:1"
_DOMAIN: Final = "x402:exact:lnbtc:bolt11:http:1"
_NO_HEADERS: Final[Mapping[str, str | None]] = MappingProxyType({})


def bound_request(order: Order, headers: Mapping[str, str | None] = _NO_HEADERS) -> bytes:
    """Return the text whose hash stands for the request: canonical JSON (RFC 8785).

    Args:
        headers: the bound header fields by their lower-case names, each with its value (several lines trimmed and
            joined by `, ` as RFC 9421 does; ASCII), or None where the request has no such field.
    """
    return canonical_json(
        {
            "domain": _DOMAIN,
            "method": order.method,
            "url": order.url,
            "bodyHash": order.body_digest,
            "headers": [{"name": name, "valueHash": _value_hash(headers[name])} for name in sorted(headers)],
        }
    )


def request_hash(order: Order, headers: Mapping[str, str | None] = _NO_HEADERS) -> bytes:
    """Return the SHA-256 of the bound request, 32 bytes: the scheme's `requestHash`."""
    return hashlib.sha256(bound_request(order, headers)).digest()


def _value_hash(value: str | None) -> str:
    """Tell an absent field from an empty one."""
    return hashlib.sha256(b"\0" if value is None else b"\1" + value.encode("ascii")).hexdigest()
