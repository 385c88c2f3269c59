"""The charge: one durable row per payment, and the only place that says how it may change.

A charge moves on two axes. Everything that affects a transition is in `PAYMENT` and `DELIVERY` below.

Payment, what became of the money:

- `claimed`: this payment's consumption keys are ours; nothing was asked of the rail yet.
- `holding`, `settling`, `releasing`, `refunding`: written **before** the rail is asked, so that a crash leaves a row
  that says what may have happened. Each ends in its past tense, in `rejected`, or in `unknown`.
- `unknown`: a call ended without an answer that can be believed. `operation` says which one. Only what the rail's
  lookup finds leads out of here; it is never guessed.
- `released`: nothing was taken. The same payment may be claimed again, as the next attempt, verified anew.
- `rejected`: the rail refused definitively. `settled`, `refunded`: money moved.

Delivery, what became of the answer:

- `none`, then `running` while the handler works, then `stored` (a repeat gets the same response), `streamed` (sent,
  too long or open-ended to keep) or `failed` (nothing usable reached the payer).

Rules that join the axes:

1. The handler runs only while the money is where the flow wants it: `claimed` in authorization, `held` in escrow,
   `settled` in upfront.
2. Nothing leaves before the payment is `settled`. A finished response may be stored while the settlement is
   `unknown`; it is served once the lookup says settled, and dropped with the next attempt otherwise.
3. A settled payment whose answer was not stored (failed, or streamed past the limit) may run the handler once more,
   uncharged: `RERUNS` times. A run that ended with its worker (`cut_off`) is nobody's: it gives its rerun back, up to
   `CUT_OFFS` times. One that ended by asking its payer for something (tools of MCP can) is none: it is reset.
4. A claim carries a lease. When it lapses, `claimed` is dropped, `held` is released (or used, where its payer comes
   back before and no handler has run), and every *-ing* state becomes `unknown`; a running handler counts as failed.
   The version in the row fences out whoever comes back late.
5. While the handler runs nobody refunds or reclaims: its answer may be on its way out.
6. A refund whose outcome is unknown ends as `refunded` or `settled`, never as `released`: the money had been taken.
7. Every *-ing* state says since when its call may be under way (`asked_at`), written before the call with a lease that
   outlasts it. A call that was cut off may still reach the rail: until `landing_until` a lookup is believed only where
   it says that the operation has been done.
8. Where a refund has been granted (`refund_due_at`), and waits for its payer to say where to, the payment buys nothing
   any more.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from pydantic import Field

from rail402.money import Money
from rail402.protocol.base import Record
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import ConsumptionKey

__all__ = [
    "CUT_OFFS",
    "DELIVERY",
    "IN_FLIGHT",
    "PAYMENT",
    "RERUNS",
    "Charge",
    "Delivery",
    "DeliveryEvent",
    "IllegalTransition",
    "Operation",
    "PaymentEvent",
    "PaymentState",
]


class PaymentState(StrEnum):
    """What became of the money."""

    CLAIMED = "claimed"
    HOLDING = "holding"
    HELD = "held"
    SETTLING = "settling"
    SETTLED = "settled"
    RELEASING = "releasing"
    RELEASED = "released"
    REFUNDING = "refunding"
    REFUNDED = "refunded"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


class Delivery(StrEnum):
    """What became of the answer."""

    NONE = "none"
    RUNNING = "running"
    STORED = "stored"
    STREAMED = "streamed"
    FAILED = "failed"


class Operation(StrEnum):
    """What the rail was asked to do."""

    HOLD = "hold"
    SETTLE = "settle"
    RELEASE = "release"
    REFUND = "refund"


class PaymentEvent(StrEnum):
    """What happens to the money. The first four are ours, before the call; the others are the rail's answers."""

    HOLD = "hold"
    SETTLE = "settle"
    RELEASE = "release"
    REFUND = "refund"
    HELD = "held"
    SETTLED = "settled"
    RELEASED = "released"
    REFUNDED = "refunded"
    REJECTED = "rejected"
    LOST = "lost"
    RECLAIM = "reclaim"


class DeliveryEvent(StrEnum):
    """What happens to the answer."""

    START = "start"
    STORE = "store"
    STREAM = "stream"
    FAIL = "fail"
    RESET = "reset"


_S, _E = PaymentState, PaymentEvent

PAYMENT: Final[Mapping[tuple[PaymentState, PaymentEvent], PaymentState]] = {
    (_S.CLAIMED, _E.HOLD): _S.HOLDING,
    (_S.CLAIMED, _E.SETTLE): _S.SETTLING,
    (_S.CLAIMED, _E.RELEASED): _S.RELEASED,  # the rail was never asked: nothing to undo there
    (_S.HOLDING, _E.HELD): _S.HELD,
    (_S.HOLDING, _E.REJECTED): _S.REJECTED,
    (_S.HOLDING, _E.RELEASED): _S.RELEASED,  # the rail says that it did not happen and may be tried again
    (_S.HOLDING, _E.LOST): _S.UNKNOWN,
    (_S.HELD, _E.SETTLE): _S.SETTLING,
    (_S.HELD, _E.RELEASE): _S.RELEASING,
    (_S.SETTLING, _E.SETTLED): _S.SETTLED,
    (_S.SETTLING, _E.REJECTED): _S.REJECTED,
    (_S.SETTLING, _E.RELEASED): _S.RELEASED,
    (_S.SETTLING, _E.LOST): _S.UNKNOWN,
    (_S.SETTLED, _E.REFUND): _S.REFUNDING,
    (_S.REFUNDING, _E.REFUNDED): _S.REFUNDED,
    (_S.REFUNDING, _E.SETTLED): _S.SETTLED,  # the refund was refused: the money is still ours
    (_S.REFUNDING, _E.LOST): _S.UNKNOWN,
    (_S.RELEASING, _E.RELEASED): _S.RELEASED,
    (_S.RELEASING, _E.SETTLED): _S.SETTLED,  # too late: it had been captured
    (_S.RELEASING, _E.LOST): _S.UNKNOWN,
    (_S.UNKNOWN, _E.HELD): _S.HELD,
    (_S.UNKNOWN, _E.SETTLED): _S.SETTLED,
    (_S.UNKNOWN, _E.RELEASED): _S.RELEASED,
    (_S.UNKNOWN, _E.REFUNDED): _S.REFUNDED,
    (_S.UNKNOWN, _E.REJECTED): _S.REJECTED,
    (_S.RELEASED, _E.RECLAIM): _S.CLAIMED,
}
"""The whole life of a payment; a pair that is not here cannot happen."""

_D, _A = Delivery, DeliveryEvent

DELIVERY: Final[Mapping[tuple[Delivery, DeliveryEvent], Delivery]] = {
    (_D.NONE, _A.START): _D.RUNNING,
    (_D.FAILED, _A.START): _D.RUNNING,
    (_D.STREAMED, _A.START): _D.RUNNING,
    (_D.RUNNING, _A.STORE): _D.STORED,
    (_D.RUNNING, _A.STREAM): _D.STREAMED,
    (_D.RUNNING, _A.FAIL): _D.FAILED,
    (_D.NONE, _A.FAIL): _D.FAILED,
    (_D.FAILED, _A.FAIL): _D.FAILED,
    (_D.NONE, _A.RESET): _D.NONE,
    (_D.FAILED, _A.RESET): _D.NONE,
    (_D.STORED, _A.RESET): _D.NONE,  # stored while the settlement was unknown, and then it was not settled
}
"""The whole life of an answer."""

IN_FLIGHT: Final[Mapping[PaymentState, Operation]] = {
    _S.HOLDING: Operation.HOLD,
    _S.SETTLING: Operation.SETTLE,
    _S.RELEASING: Operation.RELEASE,
    _S.REFUNDING: Operation.REFUND,
}
"""The states in which the rail has been asked and has not answered."""

_RUN_IN: Final = {Flow.AUTHORIZATION: _S.CLAIMED, Flow.ESCROW: _S.HELD, Flow.UPFRONT: _S.SETTLED}

RERUNS: Final = 1
CUT_OFFS: Final = 3


class IllegalTransition(Exception):
    """A bug in the caller: the tables do not allow this step from here."""


class Charge(Record):
    """One payment and what became of it.

    Args:
        id: our name for it, `ch_` and 26 characters; it goes out in errors and receipts.
        version: counts the writes; a write names the version it read, which fences out late workers.
        order, offer: what was bought and on which terms (the offer without its token).
        price: the publisher's own price, before conversion.
        dialect: the dialect the payment came in.
        keys: the consumption keys it holds.
        payment, delivery: the two axes. `operation` is set while `payment` is `unknown`.
        attempt: how often the payment was claimed; `tries`: how often this operation was begun in this attempt.
        reruns: how often the handler ran again after settlement; cut_off: how many runs of this attempt ended with
            their worker.
        lease_until: Unix seconds until which the worker that wrote it last is trusted to be alive.
        asked_at: when the rail was last asked for an operation, Unix seconds; landing_until: see rule 7.
        refund_asked_at: when it was first asked for the refund that is open, or was the last one.
        looks: how often the reconciler has looked at it in vain; `last_word` is what the rail said last.
        payer: who paid, in the rail's own form, if it is known.
        rail_state: what the rail must remember to look the payment up again; never a secret.
        transaction: the rail's reference once money moved: a transaction hash, payment hash, PaymentIntent id.
        secret_digest: SHA-256 of the secret a replay must show again; None where the payment was claimed bare.
        context: digests of the cookies and Authorization that a replay must bring again.
        uses: how many requests one payment buys; `uses_taken`: how many it has served or is serving.
        window: for how long from settlement the payment replays (or the pass is good), seconds.
        valid_until: Unix seconds until which that is.
        code: why it was rejected.
        receipt: the signed receipt (compact JWS).
        refund_due_at: since when its payer may fetch the money back, on a rail that has to be told where to (rule 8).
        refunded_at, refund_transaction, refund_receipt: the same three of the way back, once the money has gone it.
        reduced_to: atomic units to take instead of the whole offer, where the outcome was worth less.
        sandbox: only play money moved.
    """

    id: str
    version: int = 0
    order: Order
    offer: Offer
    price: Money
    dialect: str
    keys: tuple[ConsumptionKey, ...]
    payment: PaymentState = PaymentState.CLAIMED
    delivery: Delivery = Delivery.NONE
    operation: Operation | None = None
    attempt: int = 1
    tries: int = 0
    reruns: int = 0
    cut_off: int = 0
    created_at: int
    lease_until: int
    asked_at: int | None = None
    landing_until: int | None = None
    refund_asked_at: int | None = None
    looks: int = 0
    last_word: str = ""
    settled_at: int | None = None
    payer: str | None = None
    rail_state: Mapping[str, Any] = Field(default_factory=dict)
    transaction: str | None = None
    secret_digest: str | None = Field(default=None, repr=False)
    context: tuple[str, ...] = Field(default=(), repr=False)
    uses: int = 1
    uses_taken: int = 1
    window: int
    valid_until: int | None = None
    code: str | None = None
    receipt: str | None = Field(default=None, repr=False)
    refund_due_at: int | None = None
    refunded_at: int | None = None
    refund_transaction: str | None = None
    refund_receipt: str | None = Field(default=None, repr=False)
    reduced_to: int | None = Field(default=None, gt=0)
    sandbox: bool = False

    def on(self, event: PaymentEvent, *, lease_until: int, **changes: Any) -> Charge:
        """Return the charge after `event`; `changes` are further facts learnt with it.

        Raises:
            IllegalTransition: the table has no such step from this state, or rule 5 or 6 forbids it now.
        """
        state = PAYMENT.get((self.payment, event))
        if state is None or not self._takes(event):
            raise IllegalTransition(f"{self.payment} ({self.operation}, {self.delivery}) does not take {event}")
        facts: dict[str, Any] = {"payment": state, "lease_until": lease_until, "operation": None}
        if state is PaymentState.UNKNOWN:
            facts["operation"] = IN_FLIGHT[self.payment]
        elif state in IN_FLIGHT:
            facts |= {"tries": self.tries + 1, "asked_at": None, "landing_until": None}
        elif event is PaymentEvent.RECLAIM:
            reset = DELIVERY[self.delivery, DeliveryEvent.RESET]
            facts |= {"attempt": self.attempt + 1, "tries": 0, "delivery": reset, "cut_off": 0, "reduced_to": None}
        if event in (PaymentEvent.RECLAIM, PaymentEvent.REFUND):
            facts |= {"looks": 0, "last_word": "", "refund_asked_at": changes.get("asked_at")}
        return self._changed(facts | changes)

    def _takes(self, event: PaymentEvent) -> bool:
        match event:
            case PaymentEvent.REFUND | PaymentEvent.RECLAIM:
                return self.delivery is not Delivery.RUNNING
            case PaymentEvent.HELD | PaymentEvent.RELEASED | PaymentEvent.REJECTED:
                return self.operation is not Operation.REFUND
            case _:
                return True

    def deliver(self, event: DeliveryEvent, *, lease_until: int, **changes: Any) -> Charge:
        """Return the charge after `event` on the delivery axis.

        Raises:
            IllegalTransition: the table has no such step, or the money is not where rules 1 to 3 want it.
        """
        state = DELIVERY.get((self.delivery, event))
        if state is None or not self._may(event):
            raise IllegalTransition(f"{self.delivery} ({self.payment}) does not take {event}")
        facts: dict[str, Any] = {"delivery": state, "lease_until": lease_until}
        if event is DeliveryEvent.START and self.delivery is not Delivery.NONE:
            facts["reruns"] = self.reruns + 1
        return self._changed(facts | changes)

    def takes_proof(self, state: Mapping[str, Any]) -> bool:
        """Whether a proof with this `Verified.state` needs no word of the rail's, or is the one that has it."""
        shown, confirmed = state.get("proof_digest"), self.rail_state.get("proof_digest")
        return shown is None or (confirmed is not None and hmac.compare_digest(shown, confirmed))

    @property
    def may_rerun(self) -> bool:
        """Whether the handler may run once more, uncharged (rule 3)."""
        unstored = self.delivery in (Delivery.FAILED, Delivery.STREAMED)
        buys = self.payment is PaymentState.SETTLED and self.refund_due_at is None
        return buys and unstored and self.reruns < RERUNS + min(self.cut_off, CUT_OFFS)

    @property
    def is_owed(self) -> bool:
        """Whether an answer is still owed for it: it is settled, and its payer was never given one."""
        begun = self.delivery in (Delivery.NONE, Delivery.RUNNING)
        return self.payment is PaymentState.SETTLED and (begun or (self.delivery is Delivery.FAILED and self.may_rerun))

    @property
    def is_owed_back(self) -> bool:
        """Whether we have asked for a refund because the handler failed, and nobody knows what became of that."""
        asked = self.operation is Operation.REFUND and self.asked_at is not None
        return asked and self.delivery is Delivery.FAILED and self.refund_due_at is None

    @property
    def is_first_run(self) -> bool:
        """Whether every run of the handler before this one ended with its worker."""
        return self.reruns <= self.cut_off

    def _may(self, event: DeliveryEvent) -> bool:
        settled = self.payment is PaymentState.SETTLED
        match event:
            case DeliveryEvent.START if self.delivery is Delivery.NONE:
                return settled or self.payment is _RUN_IN[self.offer.flow]
            case DeliveryEvent.START:
                return self.may_rerun
            case DeliveryEvent.STORE:
                return settled or self.operation is Operation.SETTLE
            case DeliveryEvent.STREAM:
                return settled
            case _:
                return True

    def lapsed(self, now: int) -> Charge:
        """Return the charge as it stands once its worker is known to be gone (rule 4); itself if nothing changes.

        A held charge stays: releasing it asks the rail, which is the reconciler's work.
        """
        charge = self
        if charge.lease_until > now:
            return charge
        if charge.delivery is Delivery.RUNNING:
            charge = charge.deliver(DeliveryEvent.FAIL, lease_until=now, cut_off=charge.cut_off + 1)
        if charge.payment is PaymentState.CLAIMED:
            return charge.on(PaymentEvent.RELEASED, lease_until=now)
        if charge.payment in IN_FLIGHT:
            return charge.on(PaymentEvent.LOST, lease_until=now)
        return charge

    def _changed(self, facts: Mapping[str, Any]) -> Charge:
        return self.model_copy(update=dict(facts))

    @property
    def amount(self) -> int:
        """The atomic units that are taken, or were."""
        return self.offer.amount if self.reduced_to is None else self.reduced_to

    @property
    def is_pass(self) -> bool:
        """Whether the payment buys more than one request."""
        return self.uses > 1
