"""Authorizations that somebody else hands in: anybody who sees one on its way to us can do that."""

from __future__ import annotations

from typing import Final

from rail402.errors import OutcomeUnknown, RailUnavailable
from rail402.protocol.offer import Offer
from rail402_base.chain import ChainView, Submitted, Transfer, Unused, Void
from rail402_base.eip3009 import Authorization
from rail402_base.tokens import Token

__all__ = ["preempted"]

# When its offer was made is not known here. But a client signs for a few minutes only, while a gate keeps a charge for
# a day at least after it was settled (`retention_seconds`).
_YOUNG_SECONDS: Final = 3600


async def preempted(
    chain: ChainView, token: Token, offer: Offer, authorization: Authorization, *, now: int
) -> Transfer | None:
    """Return the transfer by which an authorization that is used already has paid us, a short while ago; else None.

    Its payer must not be asked for the money once more. It pays for one charge as ever: its nonce and its transfer are
    claimed. A charge that was forgotten claims nothing any more, so only a transfer counts that is younger than any
    forgotten charge.

    Raises:
        RailUnavailable: the chain does not show yet by what the nonce was used.
    """
    try:
        found = await chain.trace(
            token, authorization.from_, authorization.nonce, valid_before=authorization.valid_before
        )
    except OutcomeUnknown as error:
        raise RailUnavailable(error.detail, retry_after=5) from error
    if isinstance(found, Submitted | Unused):
        raise RailUnavailable("the nonce was used, and the chain does not show yet by what", retry_after=2)
    if isinstance(found, Void) or (found.to, found.value) != (offer.payee, offer.amount):
        return None
    return None if found.at is None or found.at < now - _YOUNG_SECONDS else found
