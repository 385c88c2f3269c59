"""Having a person act in the middle of a purchase, where the owner of the payer has somebody to ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from rail402.client.commands import Steps, call
from rail402.client.presenting import PRESENT_MARGIN, Attempt, Served
from rail402.client.services import Ask, Services
from rail402.errors import PaymentActionRequired
from rail402.protocol.offer import Offer
from rail402.protocol.rail import Paid

__all__ = ["with_person"]


def with_person(services: Services, attempt: Attempt, pay: Callable[[], Steps[Paid]]) -> Steps[Served]:
    """Pay and present; where a person must act, have `on_action` ask once, and go on until the call's deadline.

    Raises:
        PaymentActionRequired: nobody is there to be asked, or nobody has acted; the next call goes on with it.
        PaymentFailed, PaymentOutcomeUnknown: see `Attempt.present`.
    """
    until = services.now() + services.deadline
    try:
        return (yield from attempt.present((yield from pay())))
    except PaymentActionRequired as action:
        if services.on_action is None or action.url is None or action.outcome == "not_paid":
            raise
        ask = partial(_ask, services.on_action, action.url, attempt.record.offer, max(until - services.now(), 1))
    # Nobody else may go on with the purchase meanwhile.
    yield from attempt.save(attempt.record.changed(lease_until=until + PRESENT_MARGIN))
    yield from call(ask)
    return (yield from attempt.present((yield from attempt.found_again()), until=until))


async def _ask(ask: Ask, url: str, offer: Offer, seconds: int) -> None:
    with suppress(TimeoutError):  # what the person did by then is asked of the wallet
        async with asyncio.timeout(seconds):
            await ask(url, offer)
