"""When an authorization must be valid, to pay for an offer now."""

from __future__ import annotations

from typing import Final

from rail402.errors import PaymentRejected
from rail402.protocol.offer import Offer
from rail402_base.eip3009 import Authorization

__all__ = ["check_validity"]

# What `Terms.timeout_seconds` has on top of the handler's deadline and the settle budget: the time that a payer has
# from signing to our check, clocks that differ included.
_MARGIN: Final = 60

# How much longer than a payment needs it may be valid. As long as it is, nobody can say that it will not be taken; so a
# payer who signs for a century, and empties the account before the block, would have us ask for a century.
_MUCH_LONGER: Final = 86_400


def check_validity(offer: Offer, authorization: Authorization, *, now: int) -> None:
    """Check that an authorization is valid from now until the work is done and settled, and not for much longer.

    The authorization must outlast the handler's deadline and the settle budget, or the payer could have the work done
    and let it run out. A client signs for `timeout_seconds`, so it has a minute to arrive, or until the offer expires.
    That it is valid for a day more than that is its own affair.

    Raises:
        PaymentRejected: `offer_expired`, `not_yet_valid`, or `authorization_expired`: it has, or it is valid for too
            short or too long.
    """
    if now > offer.expires_at:
        raise PaymentRejected("ask for a new offer", code="offer_expired")
    if not authorization.valid_after < now:
        raise PaymentRejected(f"it is valid after {authorization.valid_after}, and it is {now}", code="not_yet_valid")
    left = authorization.valid_before - now
    least = max(offer.timeout_seconds - _MARGIN, 1)
    most = max(offer.timeout_seconds, offer.expires_at - now) + _MUCH_LONGER
    if left < least:
        detail = f"validBefore is {left} s away and must be {least} s away at least"
        raise PaymentRejected(detail, code="authorization_expired")
    if left > most:
        detail = f"validBefore is {left} s away and may be {most} s away at most"
        raise PaymentRejected(detail, code="authorization_expired")
