"""The answer to an order that is not paid: all offers at once, and why the last payment was not accepted."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from rail402.money import Money
from rail402.protocol.base import Record
from rail402.protocol.offer import Offer
from rail402.protocol.order import Order

__all__ = ["Challenge"]


class Challenge(Record):
    """Everything a 402 says.

    Args:
        order: what was asked for.
        price: the publisher's own price.
        offers: every way to pay it, best first.
        code: a reason code of `errors.REASONS`; `payment_required` where no payment came.
        detail: one sentence for people; never a secret.
        rail: the rail of the payment that was not accepted, where there was one and its rail is known.
        description: what is sold, for people.
        mime_type: the media type that is sold, if known.
        preference: the request's `Accept-Payment`, as it came.
        now: when the challenge is made, Unix seconds.
        pages: where a person can pay an offer, by the offer's token.
    """

    order: Order
    price: Money
    offers: tuple[Offer, ...]
    code: str = "payment_required"
    detail: str = ""
    rail: str = ""
    description: str = ""
    mime_type: str = ""
    preference: str = ""
    now: int
    pages: Mapping[str, str] = Field(default_factory=dict, repr=False)
