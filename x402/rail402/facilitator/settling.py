"""One call of `/settle`: the payment is claimed and taken, or it is found out what became of it.

The charge of a payment is the same one, with the same states and leases, that a gate keeps: what is known of it is
written before the rail is asked and after, so that a crash or a lost answer ends in a lookup and never in a second
transaction.

A settlement is worth one success. x402's own servers remember nothing: each time that they are told "settled", they
serve. So the answer is given once, to a caller who is there to hear it, and given again where it did not arrive: the
caller had gone, it was `settlement_pending` until now, or we died over it. Anybody else hears `duplicate_settlement`,
with the transaction. A caller that sends an `Idempotency-Key`, which the payer cannot know, may ask as often as it
likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from rail402.errors import OutcomeUnknown, PaymentRejected, Rail402Error, StaleCharge, StoreError
from rail402.facilitator.wire import Presented
from rail402.protocol.charge import Charge, Delivery, DeliveryEvent, Operation, PaymentEvent, PaymentState
from rail402.protocol.order import Order
from rail402.protocol.rail import PaymentRail, Verified
from rail402.server.operations import Finished, settle, verdict
from rail402.server.reconciler import Reconciler
from rail402.server.services import Services

__all__ = ["Outcome", "Settling", "check_known", "is_owed", "look_up", "sent_transaction", "verify_unused"]

ROUTE: Final = "rail402 facilitator"
"""The route in our charges' orders, by which they are told from those of a gate."""

_TELLING_SECONDS: Final = 10
"""How long an answer may take to leave; after that whoever began to give it is taken for dead."""

_LOOK_EVERY: Final = 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call of `/settle` came to.

    Attributes:
        charge: as it stands.
        error: why it did not succeed, or not yet; None where it did.
        is_told: whether this answer is the one success of the settlement, which is to be noted once it has left.
    """

    charge: Charge
    error: Rail402Error | None = None
    is_told: bool = False


class Settling:
    """One call.

    Args:
        services: store, rails, clock and times.
        rail: the payment's.
        presented: the payment, and what it must pay.
        secret: the caller's `Idempotency-Key`.
        is_here: says whether the caller still waits for the answer.
        repeat: see `FacilitatorSettings`.
    """

    def __init__(
        self,
        services: Services,
        rail: PaymentRail,
        presented: Presented,
        *,
        secret: str | None,
        is_here: Callable[[], Awaitable[bool]],
        repeat: bool = False,
    ) -> None:
        self._services, self._rail, self._presented = services, rail, presented
        self._digest = None if secret is None else hashlib.sha256(secret.encode()).hexdigest()
        self._is_here, self._repeat = is_here, repeat
        self._has_tried = False
        self._deadline = asyncio.get_running_loop().time() + services.settings.wait_seconds

    async def run(self, verified: Verified) -> Outcome:
        """Settle the payment, which has been authenticated, or find out what became of it.

        Raises:
            PaymentRejected: it is not good; nothing was written.
            RailUnavailable, StoreError: nothing happened, or the store cannot say.
        """
        store = self._services.store
        charge = await store.find(verified.keys) or await self._claim(verified)
        check_known(charge, verified)
        while True:
            found = await self._step(charge)
            if isinstance(found, Outcome):
                return found
            if self._left <= 0:
                error = OutcomeUnknown("ask again: it is under way, or being looked up", retry_after=2)
                return Outcome(found, error)
            charge = await self._wait(found)

    @property
    def _left(self) -> float:
        return self._deadline - asyncio.get_running_loop().time()

    # --- taking the money

    def _new(self, verified: Verified) -> Charge:
        services, offer = self._services, self._presented.offer
        charge = Charge(
            id=services.new_charge_id(),
            order=Order(method="POST", url=f"{services.settings.public_url}/settle", route=ROUTE),
            offer=offer.model_copy(update={"token": None, "envelope": None, "dialect": None}),
            price=offer.price,
            dialect=self._presented.payment.dialect,
            keys=tuple(sorted(verified.keys)),
            created_at=services.clock(),
            lease_until=services.lease(),
            payer=verified.payer,
            rail_state=verified.state,
            secret_digest=self._digest,
            window=0,
            sandbox=self._rail.is_sandbox,
        )
        return charge.on(PaymentEvent.SETTLE, lease_until=services.lease())

    async def _take(self, charge: Charge) -> Charge:
        """Have the rail settle it; the caller waits no longer than it should, and the work goes on without it."""
        self._has_tried = True
        payment = self._presented.payment
        work = self._services.start(settle(self._services, self._rail, charge, payment, Finished))
        await asyncio.wait({work}, timeout=max(self._left, 0))
        if not work.done():
            return charge
        try:
            return work.result()
        except OutcomeUnknown:  # our lease lapsed over it
            return self._there(await self._services.store.get(charge.id))

    async def _claim(self, verified: Verified) -> Charge:
        """Return the charge of a payment that is new here, taken; or that of a call which was faster."""
        store = self._services.store
        try:
            verified = await verify_unused(self._rail, self._presented, verified, now=self._services.clock())
        except PaymentRejected:
            faster = await store.find(verified.keys)
            if faster is None:
                raise
            return faster
        claim = await store.claim(self._new(verified))
        return await self._take(claim.charge) if claim.won else claim.charge

    async def _retake(self, charge: Charge) -> Charge:
        """Try a payment again that was not taken, verified anew."""
        verified = self._rail.spec.authenticate(charge.offer, self._presented.payment)
        verified = await verify_unused(self._rail, self._presented, verified, now=self._services.clock())
        lease = self._services.lease()
        claimed = charge.on(
            PaymentEvent.RECLAIM, lease_until=lease, rail_state=verified.state, payer=verified.payer, code=None
        )
        return await self._take(await self._services.store.save(claimed.on(PaymentEvent.SETTLE, lease_until=lease)))

    # --- what became of it

    async def _step(self, charge: Charge) -> Outcome | Charge:
        """Return what there is to say; the charge while somebody else works on it, or nobody knows."""
        try:
            return await self._moved(charge)
        except StaleCharge:
            return self._there(await self._services.store.get(charge.id))

    async def _moved(self, charge: Charge) -> Outcome | Charge:
        lapsed = charge.lapsed(self._services.clock())
        if lapsed is not charge:
            charge = await self._services.store.save(lapsed)
        if charge.payment is PaymentState.UNKNOWN:
            charge = await look_up(self._services, charge)
        if charge.payment is PaymentState.RELEASED and not self._has_tried:
            charge = await self._retake(charge)
        match charge.payment:
            case PaymentState.SETTLED:
                return await self._tell(charge)
            case PaymentState.RELEASED | PaymentState.REJECTED:
                return Outcome(charge, verdict(charge))
            case _:
                return charge

    async def _tell(self, charge: Charge) -> Outcome | Charge:
        """Return the success where it is this caller's to hear; the charge while another one may be hearing it."""
        if is_owed(charge):
            if not await self._is_here():
                return Outcome(charge, OutcomeUnknown("nobody is here to hear it"))
            lease = self._services.clock() + _TELLING_SECONDS
            started = charge.deliver(DeliveryEvent.START, lease_until=lease)
            return Outcome(await self._services.store.save(started), is_told=True)
        if self._repeat or self._knows_secret(charge):
            return Outcome(charge)
        if charge.delivery is Delivery.RUNNING:
            return charge
        detail = f"it was settled by {charge.transaction}, and that was said once"
        return Outcome(charge, PaymentRejected(detail, code="proof_already_used"))

    def _knows_secret(self, charge: Charge) -> bool:
        digests = self._digest, charge.secret_digest
        return digests[0] is not None and digests[1] is not None and hmac.compare_digest(digests[0], digests[1])

    async def _wait(self, charge: Charge) -> Charge:
        """Wait until the charge changes, or it is time to look again."""
        changed = await self._services.store.wait(charge, timeout=max(0, min(self._left, _LOOK_EVERY)))
        return self._there(changed)

    @staticmethod
    def _there(charge: Charge | None) -> Charge:
        if charge is None:
            raise StoreError("the record of the settlement is gone")
        return charge


def check_known(charge: Charge, verified: Verified) -> None:
    """Check that a charge which is there already is ours, and that the payment presented is the one it was made for.

    Raises:
        StoreError: it is a gate's: in a store that they share, each would take the other's for its own.
        PaymentRejected: it has another signature than the one that its payer's contract accepted.
    """
    if charge.order.route != ROUTE:
        raise StoreError(f"charge {charge.id} is a gate's: give the facilitator a store of its own")
    if not charge.takes_proof(verified.state):
        raise PaymentRejected("it is not the signature that was accepted for it", code="signature_invalid")


def is_owed(charge: Charge) -> bool:
    """Say whether it is settled and nobody has been told."""
    return charge.payment is PaymentState.SETTLED and (charge.delivery is Delivery.NONE or charge.may_rerun)


async def look_up(services: Services, charge: Charge) -> Charge:
    """Look a settlement up whose outcome is unknown, and return the charge as it stands then."""
    with contextlib.suppress(StaleCharge):  # whoever was faster has looked
        await services.shielded(Reconciler(services).look_at(charge, Operation.SETTLE))
    return await services.store.get(charge.id) or charge


def sent_transaction(charge: Charge) -> str | None:
    """Return the transaction that settles it, or that was sent to; None where none is known."""
    sent = charge.rail_state.get("transaction")
    return charge.transaction or (sent if isinstance(sent, str) else None)


async def verify_unused(rail: PaymentRail, presented: Presented, verified: Verified, *, now: int) -> Verified:
    """Have the rail check a payment that this facilitator has not seen.

    One that has moved its money already is refused: another server may have served for it, and only that one knows.

    Raises:
        PaymentRejected, RailUnavailable: see `PaymentRail.verify`.
    """
    verified = await rail.verify(presented.offer, presented.payment, verified, now=now)
    if verified.came_before:
        raise PaymentRejected("somebody else has handed it in", code="proof_already_used")
    return verified
