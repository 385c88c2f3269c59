"""Closes what requests left open: lapsed claims, held money nobody captured, and outcomes that are unknown.

It only ever believes the rail's lookup. Any number of workers may run it at once: every step is a versioned write, and
who comes second finds the charge changed and leaves it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from rail402.errors import OutcomeUnknown, Rail402Error, RailUnavailable, StaleCharge, StoreError
from rail402.protocol.charge import Charge, Delivery, Operation, PaymentEvent, PaymentState
from rail402.protocol.rail import PaymentRail, Pending, Unknown
from rail402.server.operations import Answer, Finished, conclude, record, release, settle
from rail402.server.services import Services

__all__ = ["Reconciler"]

logger = logging.getLogger("rail402.server")

_BATCH = 100
_MAX_BACKOFF = 600
_PRUNE_EVERY = 3600


class Reconciler:
    """Looks after one store's open charges."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._prune_at = services.clock() + _PRUNE_EVERY

    async def run_forever(self, every: int) -> None:
        """Run once every `every` seconds, and prune once an hour, until cancelled."""
        while True:
            await asyncio.sleep(every)
            try:
                await self.run_once()
                if self._services.clock() >= self._prune_at:
                    await self.prune()
            except Rail402Error as error:
                logger.warning("the reconciler will try again: %s", error)

    async def prune(self) -> int:
        """Forget finished charges older than the retention, and expired invoices; return how many rows went."""
        now = self._services.clock()
        self._prune_at = now + _PRUNE_EVERY
        return await self._services.store.prune(before=now - self._services.settings.retention_seconds, now=now)

    async def run_once(self) -> int:
        """Take every open charge one step on; return how many were closed."""
        now, closed = self._services.clock(), 0
        for charge in await self._services.store.unresolved(now=now, limit=_BATCH):
            # What goes wrong with one charge, a bug of its rail included, must not keep the others open.
            (outcome,) = await asyncio.gather(self._step(charge), return_exceptions=True)
            if outcome is True:
                closed += 1
            elif isinstance(outcome, StaleCharge):
                logger.debug("charge %s: another worker has it", charge.id)
            elif isinstance(outcome, StoreError):
                raise outcome
            elif isinstance(outcome, BaseException):
                logger.error("charge %s: %s", charge.id, outcome, exc_info=outcome)
                await self._put_off(charge)
        return closed

    async def look_at(self, charge: Charge, operation: Operation) -> None:
        """Look an operation up now instead of at its turn; settled money may have been refunded elsewhere.

        Raises:
            StaleCharge: another worker is at it.
            OutcomeUnknown: its answer is on its way out; ask again.
        """
        services, now = self._services, self._services.clock()
        refunded = operation is Operation.REFUND and charge.payment is PaymentState.SETTLED
        if charge.delivery is Delivery.RUNNING and (refunded or charge.operation is operation):
            raise OutcomeUnknown(f"charge {charge.id} is being served", retry_after=60)
        if refunded:
            asked = charge.on(PaymentEvent.REFUND, lease_until=now)
            charge = await services.store.save(asked.on(PaymentEvent.LOST, lease_until=now))
        if charge.operation is operation and charge.offer.rail in services.rails:
            await self._look_up(services.rails[charge.offer.rail], charge)

    async def _put_off(self, charge: Charge) -> None:
        """Look at a charge again later whose step went wrong, wherever it went wrong."""
        current = await self._services.store.get(charge.id)
        with contextlib.suppress(StaleCharge):
            await self._postpone(current or charge)

    async def _step(self, charge: Charge) -> bool:
        services = self._services
        lapsed = charge.lapsed(services.clock())
        if lapsed is not charge:
            charge = await services.store.save(lapsed)
        rail = services.rails.get(charge.offer.rail)
        if rail is None:
            logger.error("charge %s is on rail %s, which this gate does not have", charge.id, charge.offer.rail)
            await self._postpone(charge)
            return False
        if charge.payment is PaymentState.UNKNOWN:
            charge = await self._look_up(rail, charge)
        if charge.payment is PaymentState.HELD:
            charge = await self._resolve_hold(rail, charge)
            if charge.payment is PaymentState.UNKNOWN:
                charge = await self._postpone(charge)
        return charge.payment not in (PaymentState.UNKNOWN, PaymentState.HELD)

    async def _look_up(self, rail: PaymentRail, charge: Charge) -> Charge:
        assert charge.operation is not None
        answer: Answer
        try:
            async with asyncio.timeout(self._services.settings.settle_seconds):
                answer = await rail.lookup(charge, charge.operation)
        except (TimeoutError, RailUnavailable, OutcomeUnknown) as error:
            logger.warning("charge %s: the lookup gave no answer: %s", charge.id, error)
            answer = Unknown()
        concluded = conclude(self._services, charge, answer)
        if concluded is charge:  # still open: a rail that says so itself is asked again sooner
            wait = answer.retry_after if isinstance(answer, Pending) else self._backoff(charge)
            return await self._postpone(charge, wait)
        logger.info("charge %s: %s turned out to be %s", charge.id, charge.operation, concluded.payment)
        # Nobody works on it any more: whoever presents the payment next may go on at once.
        concluded = concluded.model_copy(update={"lease_until": self._services.clock()})
        return await record(self._services, charge, Finished(concluded))

    async def _resolve_hold(self, rail: PaymentRail, charge: Charge) -> Charge:
        """Capture what was held for a response that is stored, release any other."""
        if charge.delivery is Delivery.STORED:
            return await settle(self._services, rail, charge, None, Finished)
        return await release(self._services, rail, charge)

    async def _postpone(self, charge: Charge, seconds: int | None = None) -> Charge:
        until = self._services.clock() + (self._backoff(charge) if seconds is None else seconds)
        return await self._services.store.save(charge.model_copy(update={"lease_until": until}))

    def _backoff(self, charge: Charge) -> int:
        """Return how long to wait before the next look, in seconds: about as long as it has been open."""
        return int(min(max(self._services.clock() - charge.created_at, 2), _MAX_BACKOFF))
