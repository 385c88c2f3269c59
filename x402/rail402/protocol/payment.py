"""What a client presents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from rail402.protocol.base import Record
from rail402.protocol.offer import Offer

__all__ = ["ConsumptionKey", "Payment"]

ConsumptionKey = str
"""What can be used up once, such as `eip3009:<chain>/<token>/<from>/<nonce>`: all are claimed together."""


class Payment(Record):
    """What a client presents to pay an order.

    Args:
        dialect: the dialect it came in.
        rail: the rail it is for.
        payload: the rail's own proof, by the rail's names: a signed authorization, a preimage, a token. Secret.
        offer: the offer it accepts, as echoed, with its token; None in dialects without an echo.
        token: the offer's token, where the dialect sends that back and not the offer.
        identifier: the payer's own name for it, under which no other payment is taken; None where it has none.
        envelope: what the dialect needs again to answer (the echoed challenge, say).
    """

    dialect: str
    rail: str
    payload: Mapping[str, Any] = Field(repr=False)
    offer: Offer | None = None
    token: str | None = Field(default=None, repr=False)
    identifier: str | None = None
    envelope: Mapping[str, Any] = Field(default_factory=dict, repr=False)

    @property
    def offer_token(self) -> str | None:
        """The token of the offer it accepts, echoed with the offer or by itself; None where it came bare."""
        return self.token if self.offer is None else self.offer.token or ""
