"""What is asked of a rail, with a write before it and after it.

Every operation is the same three steps: write the *-ing* state, call the rail, write the answer. They run shielded from
the request's cancellation, and a crash between any two of them leaves a row that says what may have happened.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from rail402.errors import (
    KeyTaken,
    OutcomeUnknown,
    PaymentRejected,
    Rail402Error,
    RailUnavailable,
    StaleCharge,
)
from rail402.protocol.charge import (
    IN_FLIGHT,
    Charge,
    Delivery,
    DeliveryEvent,
    IllegalTransition,
    Operation,
    PaymentEvent,
    PaymentState,
)
from rail402.protocol.offer import Flow
from rail402.protocol.payment import Payment
from rail402.protocol.rail import (
    Failed,
    Held,
    Holds,
    NotPaid,
    PaymentRail,
    Pending,
    Refunded,
    Refunds,
    Released,
    Settled,
    Unknown,
)
from rail402.protocol.receipt import Receipt, RefundReceipt
from rail402.server.services import Services
from rail402.stores.base import Store, StoredResponse

__all__ = [
    "Answer",
    "Finish",
    "Finished",
    "conclude",
    "hold",
    "last_word",
    "perform",
    "record",
    "refund",
    "release",
    "settle",
    "verdict",
    "with_receipt",
]

logger = logging.getLogger("rail402.server")

_MAX_LAST_WORD: Final = 300

Answer = Held | Settled | Released | Refunded | NotPaid | Failed | Pending | Unknown


@dataclass(frozen=True, slots=True)
class Finished:
    """A charge with what belongs into the same write: a response and where it is kept."""

    charge: Charge
    response: StoredResponse | None = None
    slot: str = ""

    async def save(self, store: Store) -> Charge:
        """Write it; see `Store.save`."""
        return await store.save(self.charge, response=self.response, slot=self.slot)


Finish = Callable[[Charge], Finished]
"""Adds the delivery's step to a charge that has the rail's answer."""


async def settle(
    services: Services, rail: PaymentRail, charge: Charge, payment: Payment | None, finish: Finish
) -> Charge:
    """Take the money, or capture what is held; `verdict` of what returns says whether it was taken."""
    return await perform(services, charge, PaymentEvent.SETTLE, lambda asked: rail.settle(asked, payment), finish)


async def hold(services: Services, rail: PaymentRail, charge: Charge, payment: Payment, finish: Finish) -> Charge:
    """Reserve the money."""
    assert isinstance(rail, Holds)
    return await perform(services, charge, PaymentEvent.HOLD, lambda asked: rail.hold(asked, payment), finish)


async def release(services: Services, rail: PaymentRail, charge: Charge) -> Charge:
    """Give a reserved amount free."""
    assert isinstance(rail, Holds)
    return await perform(services, charge, PaymentEvent.RELEASE, rail.release, Finished)


async def refund(services: Services, rail: PaymentRail, charge: Charge, **facts: Any) -> Charge:
    """Give settled money back; the charge stays settled where the rail refuses. For `facts` see `perform`."""
    assert isinstance(rail, Refunds)
    return await perform(services, charge, PaymentEvent.REFUND, rail.refund, Finished, **facts)


async def perform(
    services: Services,
    charge: Charge,
    event: PaymentEvent,
    call: Callable[[Charge], Awaitable[Answer]],
    finish: Finish,
    **facts: Any,
) -> Charge:
    """Write that the rail is asked (with `facts`, which become members of the charge), ask it, write its answer.

    Raises:
        StaleCharge: another worker has moved the charge on, and nothing was asked.
        OutcomeUnknown: another worker has it by now, and looks it up.
    """
    return await services.shielded(_write_call_write(services, charge, event, call, finish, facts))


async def _write_call_write(
    services: Services,
    charge: Charge,
    event: PaymentEvent,
    call: Callable[[Charge], Awaitable[Answer]],
    finish: Finish,
    facts: Mapping[str, Any],
) -> Charge:
    charge = await _asked_for(services, charge, event, facts)
    answer: Answer
    code, word, landing = None, "", None
    try:
        async with asyncio.timeout(services.settings.settle_seconds):
            answer = await call(charge)
    except TimeoutError:
        answer = Unknown(detail=f"no answer in {services.settings.settle_seconds} s")
        landing = services.clock() + services.settings.settle_seconds
    except RailUnavailable as error:
        logger.warning("charge %s: %s", charge.id, error)
        owed_back = event is PaymentEvent.REFUND and charge.delivery is Delivery.FAILED
        if owed_back and charge.refund_due_at is None:  # it is tried again
            answer = Unknown(detail=error.detail)
        else:
            answer, code, word = NotPaid(), error.code, error.detail
    except OutcomeUnknown as error:
        answer = Unknown(detail=error.detail)
    concluded = conclude(services, charge, answer)
    if concluded.payment is PaymentState.RELEASED:
        concluded = concluded.model_copy(update={"code": code})
    elif code is not None:  # nothing was given back
        concluded = concluded.model_copy(update={"last_word": word})
    elif concluded.payment is PaymentState.UNKNOWN:
        concluded = concluded.model_copy(update={"landing_until": landing})
    finished = finish(concluded)
    if finished.charge.payment is PaymentState.UNKNOWN and finished.charge.delivery is not Delivery.RUNNING:
        # Nobody here waits for anything any more: the reconciler may look at once.
        finished = replace(finished, charge=finished.charge.model_copy(update={"lease_until": services.clock()}))
    try:
        saved = await record(services, charge, finished)
    except StaleCharge as error:
        # Our lease lapsed while the rail was busy: the row is `unknown` now, and only the reconciler may decide.
        raise OutcomeUnknown(f"charge {charge.id} is being looked up", retry_after=5) from error
    if saved.payment is PaymentState.UNKNOWN:
        logger.warning("charge %s: the outcome of %s is unknown", saved.id, saved.operation)
    return saved


async def _asked_for(services: Services, charge: Charge, event: PaymentEvent, facts: Mapping[str, Any]) -> Charge:
    """Return the charge in its -ing state, with a lease that outlasts the call: nobody looks while it is under way.

    A fresh claim is written in that state already. A write that took so long that another worker could come before the
    call has ended is made again, which fails where one has come.
    """
    while True:
        now, lease = services.clock(), services.lease()
        if charge.payment not in IN_FLIGHT:
            charge = charge.on(event, lease_until=lease, **{"asked_at": now, **facts})
        elif charge.lease_until - now < services.settings.settle_seconds:
            charge = charge.model_copy(update={"lease_until": lease, "asked_at": now})
        else:
            return charge
        charge = await services.store.save(charge)


async def record(services: Services, charge: Charge, finished: Finished) -> Charge:
    """Write what became of `charge`; money that has paid for another charge does not pay for this one as well.

    Raises:
        StaleCharge: another worker has moved the charge on.
    """
    try:
        return await finished.save(services.store)
    except KeyTaken:
        logger.warning("charge %s: what paid for it has paid for another charge", charge.id)
    lease = services.lease()
    rejected = charge.on(PaymentEvent.REJECTED, lease_until=lease, code="proof_already_used")
    if rejected.delivery is Delivery.RUNNING:
        rejected = rejected.deliver(DeliveryEvent.FAIL, lease_until=lease)
    return await services.store.save(rejected)


def conclude(services: Services, charge: Charge, answer: Answer) -> Charge:
    """Return the charge as the rail's answer leaves it; an answer to another question tells nothing."""
    try:
        return _concluded(services, charge, answer)
    except IllegalTransition as error:
        logger.error("charge %s: rail %s answered nonsense: %s", charge.id, charge.offer.rail, error)
        return _concluded(services, charge, Unknown())


def _concluded(services: Services, charge: Charge, answer: Answer) -> Charge:
    lease = services.lease()
    match answer:
        case Settled():
            return _settled(services, charge, answer)
        case Held():
            facts = {"rail_state": {**charge.rail_state, **answer.state}, "keys": _with(charge, answer.keys)}
            return charge.on(PaymentEvent.HELD, lease_until=lease, **facts)
        case Released():
            return charge.on(PaymentEvent.RELEASED, lease_until=lease)
        case Refunded():
            return _refunded(services, charge, answer)
        case NotPaid() | Failed() if _asked(charge) is Operation.REFUND:
            logger.warning("charge %s: it was not refunded: %s", charge.id, answer)
            return charge.on(PaymentEvent.SETTLED, lease_until=lease, last_word=last_word(answer))
        case NotPaid() if not _keeps_hold(charge):
            return charge.on(PaymentEvent.RELEASED, lease_until=lease)
        case Failed():
            return charge.on(PaymentEvent.REJECTED, lease_until=lease, code=answer.code)
        case _ if charge.payment is PaymentState.UNKNOWN:
            return charge
        case _:  # the reconciler may look at once, unless the handler is still at work
            facts = {"last_word": last_word(answer)}
            if isinstance(answer, Unknown):
                facts["rail_state"] = {**charge.rail_state, **answer.state}
            running = charge.delivery is Delivery.RUNNING
            return charge.on(
                PaymentEvent.LOST, lease_until=charge.lease_until if running else services.clock(), **facts
            )


def _keeps_hold(charge: Charge) -> bool:
    """Whether money is reserved at the rail, so that "not done" does not mean that nothing is left to undo."""
    asked = _asked(charge)
    return asked is Operation.RELEASE or (asked is Operation.SETTLE and charge.offer.flow is Flow.ESCROW)


def _asked(charge: Charge) -> Operation:
    return charge.operation or IN_FLIGHT[charge.payment]


def _settled(services: Services, charge: Charge, answer: Settled) -> Charge:
    now = services.clock()
    if charge.settled_at is not None:  # a refund that did not happen: window and receipt stay as they were
        return charge.on(PaymentEvent.SETTLED, lease_until=services.lease())
    charge = charge.on(
        PaymentEvent.SETTLED,
        lease_until=services.lease(),
        transaction=answer.transaction,
        payer=answer.payer or charge.payer,
        settled_at=now,
        valid_until=now + charge.window,
        rail_state={**charge.rail_state, **answer.state},
        keys=_with(charge, answer.keys),
    )
    return with_receipt(services, charge, None)


def _refunded(services: Services, charge: Charge, answer: Refunded) -> Charge:
    charge = charge.on(
        PaymentEvent.REFUNDED,
        lease_until=services.lease(),
        refunded_at=services.clock(),
        refund_transaction=answer.transaction,
        rail_state={**charge.rail_state, **answer.state},
    )
    record = RefundReceipt.of(charge, issuer=services.settings.public_url)
    return charge.model_copy(update={"refund_receipt": services.receipt_keys.sign(record)})


def last_word(answer: Answer) -> str:
    """Return what a rail says of an operation that it does not end, for people."""
    match answer:
        case Failed() | Unknown() if answer.detail:
            return answer.detail[:_MAX_LAST_WORD]
        case Failed():
            return answer.code
        case Pending():
            return "under way"
        case Unknown():
            return "no answer that can be believed"
        case _:
            return f"the rail says: {type(answer).__name__.lower()}"


def with_receipt(services: Services, charge: Charge, response_digest: str | None) -> Charge:
    """Return the settled charge with its signed receipt."""
    record = Receipt.of(charge, issuer=services.settings.public_url, response_digest=response_digest)
    return charge.model_copy(update={"receipt": services.receipt_keys.sign(record)})


def _with(charge: Charge, keys: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted({*charge.keys, *keys}))


def verdict(charge: Charge) -> Rail402Error | None:
    """Return the error that a payer is told about where a payment did not go through; None where all is well."""
    match charge.payment:
        case PaymentState.UNKNOWN:
            return OutcomeUnknown(f"charge {charge.id} is being looked up", retry_after=5)
        case PaymentState.REJECTED:
            return PaymentRejected(code=charge.code)
        case PaymentState.RELEASED if charge.code == "rail_unavailable":
            return RailUnavailable("nothing was taken; the same payment may be sent again", retry_after=5)
        case PaymentState.RELEASED:
            return PaymentRejected("nothing was taken; the same payment may be sent again", code="not_settled")
        case PaymentState.REFUNDED:
            return PaymentRejected(code="refunded")
        case PaymentState.SETTLED if charge.refund_due_at is not None:
            return PaymentRejected("the money waits for its payer to fetch it", code="refunded")
        case _:
            return None
