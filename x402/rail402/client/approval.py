"""Asking the owner of a payer before something unusual is bought: a dear thing, a new payee, a risen price."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from rail402.client.choice import Candidate
from rail402.client.commands import Request
from rail402.client.journal import PAUSED
from rail402.client.records import Quote
from rail402.client.services import Services
from rail402.errors import BudgetExceeded, OfferRefused, PaymentRefused

__all__ = ["approved", "check_confirmed", "check_windows", "question", "quote_for"]

_PATIENCE: Final = 300
"""Seconds after which nobody has answered."""


def quote_for(candidate: Candidate, request: Request) -> Quote:
    """Return what would be paid, and what is unusual about it."""
    return Quote(
        wallet=candidate.name,
        price=candidate.cost.price,
        total=candidate.total,
        offer=candidate.offer,
        method=request.method,
        url=request.url,
        why=tuple(change.detail for change in candidate.changes),
    )


def question(quote: Quote) -> str:
    """Return what a person is asked: what is paid, for what and to whom, and why it is asked. It has no word of a
    server's choosing but the payee."""
    offer = quote.offer
    lines = [
        f"Pay {quote.total} for {quote.method} {quote.url}?",
        f"To {offer.payee} on {offer.network}, from the wallet {quote.wallet}.",
        *(f"Asked because {why}." for why in quote.why),
    ]
    return "\n".join(lines)


async def approved(services: Services, candidate: Candidate, request: Request) -> Candidate:
    """Have the owner asked where something is unusual; return what may be bought then, which is what was shown.

    Nothing is reserved meanwhile: that comes after, and checks everything once more.

    Raises:
        PaymentRefused: the answer was no, or did not come while the offer was good, at most 300 seconds.
        BudgetExceeded: it would not fit in the budget anyway; nobody was asked.
        OfferRefused: the offer has expired meanwhile.
    """
    approve = request.approve or services.approve
    if not candidate.changes or approve is None:
        return candidate
    await check_windows(services, candidate)
    offer, answer = candidate.offer, False
    try:
        async with asyncio.timeout(max(min(offer.expires_at - services.now(), _PATIENCE), 1)):
            answer = await approve(quote_for(candidate, request))
    except TimeoutError as error:
        raise PaymentRefused("nobody has answered in time", code="not_approved") from error
    if answer is not True:
        raise PaymentRefused(f"the answer was no to {candidate.total} for {request.origin}", code="not_approved")
    if services.now() >= offer.expires_at:
        raise OfferRefused("the offer has expired before it was approved; make the request again")
    agreed = frozenset(change.kind for change in candidate.changes)
    return replace(candidate, pin=replace(candidate.pin, approved=agreed))


async def check_confirmed(services: Services) -> None:
    """Check that the limits of the configuration file are not looser than those that were confirmed last.

    Raises:
        PaymentRefused: they are; the message says in what.
    """
    if services.file_limits is None:
        return
    looser = await services.journal.looser(services.file_limits)
    if looser:
        raise PaymentRefused(
            f"the limits of the configuration are looser than those confirmed last ({'; '.join(looser)}): confirm them "
            "with `rail402 budget confirm`",
            code="limits_loosened",
        )


async def check_windows(services: Services, candidate: Candidate) -> None:
    """Check that a purchase fits beside what the windows hold; only reserving it decides.

    Raises:
        BudgetExceeded: it does not, or purchases are paused.
    """
    if await services.journal.paused_since() is not None:
        raise BudgetExceeded(PAUSED)
    spent = await services.journal.spent_by_scope(now=services.now())
    for entry in candidate.entries:
        entry.check(entry.held(spent))
