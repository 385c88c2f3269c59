"""What one request asks to buy."""

from __future__ import annotations

from functools import cached_property

from rail402.protocol.base import Record, canonical_json, sha256_hex

__all__ = ["EMPTY_BODY_DIGEST", "TOOL_CALL", "Order"]

EMPTY_BODY_DIGEST = sha256_hex(b"")

TOOL_CALL = "tools/call"
"""The method of an order for a tool's answer, over MCP: for its body stand the arguments, in canonical JSON."""


class Order(Record):
    """What one request asks to buy. Its digest is what a payment is bound to.

    The price is not part of it: an offer once made is honoured at its amount until it expires.

    Args:
        method: the request method, upper case, or `TOOL_CALL`.
        url: the canonical absolute URL: the public origin, then path and query exactly as they were sent.
        route: the id of the matched route, such as `GET /article/{slug}`.
        body_digest: SHA-256 of the raw body bytes, 64 hexadecimal digits.
    """

    method: str
    url: str
    route: str
    body_digest: str = EMPTY_BODY_DIGEST

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the order, 64 hexadecimal digits."""
        return sha256_hex(canonical_json(self.model_dump()))

    @cached_property
    def request_digest(self) -> str:
        """SHA-256 over the canonical JSON of the order without its route, which the client cannot know: it is what a
        receipt says, so that both sides can compute it."""
        return sha256_hex(canonical_json(self.model_dump(exclude={"route"})))

    @property
    def origin(self) -> str:
        """Scheme and authority of the URL: where a pass is good."""
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{rest.partition('/')[0].partition('?')[0]}"
