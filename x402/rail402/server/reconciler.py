"""Closes what requests left open: lapsed claims, held money nobody captured, and outcomes that are unknown.

It only ever believes the rail's lookup. Any number of workers may run it at once: every step is a versioned write, and
who comes second finds the charge changed and leaves it. To spare the rails, the workers of one gate (which have one
`public_url` and the same rails) leave it to one of them, the leader; what a person asks for (`Gate.reconcile`, the
command line) is done in any case. What another gate on the store has sold is left to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from rail402.errors import OutcomeUnknown, Rail402Error, RailUnavailable, StaleCharge, StoreError
from rail402.protocol.base import canonical_json, sha256_hex
from rail402.protocol.charge import Charge, Delivery, Operation, PaymentEvent, PaymentState
from rail402.protocol.rail import Held, PaymentRail, Pending, Refunded, Released, Settled, Unknown
from rail402.server.operations import Answer, Finished, conclude, last_word, record, refund, release, settle
from rail402.server.report import OpenCharge, Report, is_open, is_waiting, open_charge, open_since
from rail402.server.services import Services

__all__ = ["Progress", "Reconciler"]

logger = logging.getLogger("rail402.server")

_BATCH: Final = 100
_MANY: Final = 1000
_EVERYTHING: Final = 100_000
_AT_ONCE: Final = 8
"""Lookups of one rail at the same time: one that hangs must not keep the others open."""

_MAX_BACKOFF: Final = 600
_PRUNE_EVERY: Final = 3600
_LEFT_ALONE: Final = 900
"""Seconds after a charge's turn: a gate that has it to close, and runs, has looked at it by then."""

_LEAST_LEADERSHIP: Final = 15
_NEVER: Final = 1 << 53
_WORTH_A_WARNING: Final = 60
"""Seconds: what closes sooner is in the log only where its outcome was lost."""

_DONE: Final = {
    Operation.HOLD: Held,
    Operation.SETTLE: Settled,
    Operation.RELEASE: Released,
    Operation.REFUND: Refunded,
}
"""What says that an operation has been done. Anything else may still change while its call is landing."""

Progress = Callable[[int, int], None]
"""Told after every charge how many have been looked at, and of how many."""


class Reconciler:
    """Looks after one store's open charges."""

    def __init__(self, services: Services) -> None:
        self._services = services
        gate = canonical_json([services.settings.public_url, *sorted(services.rails)])
        self._leader = f"reconciler {sha256_hex(gate)[:32]}"
        self._holder = services.random_bytes(8).hex()

    async def run_forever(self, every: int) -> None:
        """Run once every `every` seconds, and prune once an hour, until cancelled; only while this worker leads."""
        led = max(3 * every, _LEAST_LEADERSHIP)
        try:
            while True:
                await asyncio.sleep(every)
                try:
                    if await self._leads(led):
                        await self._keep_leading(self._turn(), led)
                except Rail402Error as error:
                    logger.warning("the reconciler will try again: %s", error)
        finally:
            with contextlib.suppress(Rail402Error):  # the next leader need not wait
                await self._services.shielded(self._leads(0))

    async def _leads(self, seconds: int) -> bool:
        services = self._services
        return await services.store.lead(self._leader, self._holder, now=services.clock(), seconds=seconds)

    async def _keep_leading(self, work: asyncio.Future[None], seconds: int) -> None:
        """Wait for `work`, and renew the leadership meanwhile; where it is lost, what is under way is finished."""
        while not work.done():
            done, _ = await asyncio.wait({work}, timeout=seconds / 3)
            if not done:
                await self._leads(seconds)
        await work

    def _turn(self) -> asyncio.Future[None]:
        return self._services.start(self._run_and_prune())

    async def _run_and_prune(self) -> None:
        services = self._services
        await self.run_once()
        # Nobody holds this for a second time: the hour is the store's, however short its workers live.
        turn = services.random_bytes(8).hex()
        if await services.store.lead("prune", turn, now=services.clock(), seconds=_PRUNE_EVERY):
            await self.prune()
            self._tell_left_alone(await self._left_alone())

    async def prune(self) -> int:
        """Forget finished charges older than the retention, and expired invoices; return how many rows went."""
        now = self._services.clock()
        return await self._services.store.prune(before=now - self._services.settings.retention_seconds, now=now)

    async def run_once(self) -> Report:
        """Take every charge of this gate whose turn has come one step on; return what came of it."""
        services = self._services
        charges = await services.store.unresolved(
            now=services.clock(), limit=_BATCH, rails=services.rails.keys(), origin=services.settings.public_url
        )
        return await self._run(charges, None)

    async def run_all(self, progress: Progress | None = None) -> Report:
        """Look at everything of this gate that is open, whether its turn has come or not, except what a worker is
        working on; report also what no gate looks at.

        Args:
            progress: told how far it is.
        """
        now, public_url = self._services.clock(), self._services.settings.public_url
        found = await self._services.store.unresolved(now=_NEVER, limit=_EVERYTHING, origin=public_url)
        charges = [charge for charge in found if charge.lease_until <= now or is_waiting(charge)]
        report = await self._run(charges, progress)
        others = [charge for charge in await self._left_alone() if charge.order.origin != public_url]
        return replace(report, open=(*report.open, *map(self._open_charge, others)))

    async def _run(self, charges: Sequence[Charge], progress: Progress | None) -> Report:
        slots: dict[str, asyncio.Semaphore] = {}
        seen = 0

        async def one(charge: Charge) -> bool:
            nonlocal seen
            async with slots.setdefault(charge.offer.rail, asyncio.Semaphore(_AT_ONCE)):
                try:
                    return await self._guarded(charge)
                finally:
                    seen += 1
                    if progress is not None:
                        progress(seen, len(charges))

        outcomes = await asyncio.gather(*map(one, charges), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        report = Report(looked_at=len(charges), closed=sum(outcome is True for outcome in outcomes))
        return replace(report, open=await self._left_open(charges, outcomes))

    async def _left_open(self, charges: Sequence[Charge], outcomes: Sequence[object]) -> tuple[OpenCharge, ...]:
        left = []
        for charge, closed in zip(charges, outcomes, strict=True):
            current = None if closed is True else await self._services.store.get(charge.id)
            if current is not None and is_open(current):
                left.append(self._open_charge(current))
        return tuple(left)

    def _open_charge(self, charge: Charge) -> OpenCharge:
        return open_charge(charge, self._services.rails, self._services.settings.public_url)

    async def _left_alone(self) -> Sequence[Charge]:
        """Return the open charges that are not this gate's to close, and that no gate looks at. Of these, claims whose
        worker is gone are let go of: that needs no rail."""
        services, left = self._services, []
        now = services.clock()
        for charge in await services.store.unresolved(now=now - _LEFT_ALONE, limit=_MANY):
            if services.has_to_close(charge):
                continue
            with contextlib.suppress(StaleCharge):
                lapsed = charge.lapsed(now)
                current = charge if lapsed is charge else await services.store.save(lapsed)
                if is_open(current):
                    left.append(current)
        return left

    def _tell_left_alone(self, charges: Sequence[Charge]) -> None:
        by_gate: dict[tuple[str, str], list[Charge]] = defaultdict(list)
        for charge in charges:
            by_gate[charge.order.origin, charge.offer.rail].append(charge)
        for (sold_at, rail), left in by_gate.items():
            text = "no gate closes %d open charges on rail %s that were sold at %s, such as %s; %s"
            logger.error(text, len(left), rail, sold_at, left[0].id, self._open_charge(left[0]).advice)

    async def _guarded(self, charge: Charge) -> bool:
        """Take a step; what goes wrong with one charge, a bug of its rail included, must not keep the others open."""
        (outcome,) = await asyncio.gather(self._step(charge), return_exceptions=True)
        if isinstance(outcome, StaleCharge):
            logger.debug("charge %s: another worker has it", charge.id)
            return False
        if isinstance(outcome, StoreError):
            raise outcome
        if isinstance(outcome, BaseException):
            logger.error("charge %s: %s", charge.id, outcome, exc_info=outcome)
            await self._put_off(charge)
            return False
        return outcome

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
        if charge.operation is operation and services.has_to_close(charge):
            await self._look_up(services.rails[charge.offer.rail], charge)

    async def _put_off(self, charge: Charge) -> None:
        """Look at a charge again later whose step went wrong, wherever it went wrong."""
        current = await self._services.store.get(charge.id)
        with contextlib.suppress(StaleCharge):
            await self._postpone(current or charge, "looking at it went wrong; see the log")

    async def _step(self, charge: Charge) -> bool:
        services = self._services
        lapsed = charge.lapsed(services.clock())
        if lapsed is not charge:
            charge = await services.store.save(lapsed)
        rail = services.rails.get(charge.offer.rail)
        if rail is None:
            return not is_open(charge)
        if charge.payment is PaymentState.UNKNOWN:
            owed_since = open_since(charge) if charge.is_owed_back else None
            charge = await self._look_up(rail, charge)
            if owed_since is not None and charge.payment is PaymentState.SETTLED:
                charge = await self._give_back(rail, charge, owed_since)
        if charge.payment is PaymentState.HELD:
            charge = await self._resolve_hold(rail, charge)
            if charge.payment is PaymentState.UNKNOWN:
                charge = await self._postpone(charge, charge.last_word)
        return charge.payment not in (PaymentState.UNKNOWN, PaymentState.HELD)

    async def _look_up(self, rail: PaymentRail, charge: Charge) -> Charge:
        assert charge.operation is not None
        answer: Answer
        try:
            async with asyncio.timeout(self._services.settings.settle_seconds):
                answer = await rail.lookup(charge, charge.operation)
        except TimeoutError:
            answer = Unknown(detail="the lookup took too long")
        except (RailUnavailable, OutcomeUnknown) as error:
            answer = Unknown(detail=error.detail)
        answer = self._landed(charge, charge.operation, answer)
        concluded = conclude(self._services, charge, answer)
        if concluded is charge:
            return await self._postpone(charge, last_word(answer), answer)
        logger.info("charge %s: %s turned out to be %s", charge.id, charge.operation, concluded.payment)
        # Nobody works on it any more: whoever presents the payment next may go on at once.
        concluded = concluded.model_copy(update={"lease_until": self._services.clock()})
        return await record(self._services, charge, Finished(concluded))

    def _landed(self, charge: Charge, operation: Operation, answer: Answer) -> Answer:
        """Return an answer that stands; while a call that was cut off may still arrive, only "done" does."""
        left = (charge.landing_until or 0) - self._services.clock()
        return answer if left <= 0 or isinstance(answer, _DONE[operation]) else Pending(retry_after=left)

    async def _give_back(self, rail: PaymentRail, charge: Charge, since: int) -> Charge:
        """Ask once more for a refund that the rail never had: whoever asked died before, or could not reach it."""
        charge = await refund(self._services, rail, charge, refund_asked_at=since, looks=charge.looks)
        if charge.payment is PaymentState.UNKNOWN:
            charge = await self._postpone(charge, charge.last_word)
        return charge

    async def _resolve_hold(self, rail: PaymentRail, charge: Charge) -> Charge:
        """Capture what was held for a response that is stored, release any other."""
        if charge.delivery is Delivery.STORED:
            return await settle(self._services, rail, charge, None, Finished)
        return await release(self._services, rail, charge)

    async def _postpone(self, charge: Charge, word: str, answer: Answer | None = None) -> Charge:
        age = self._services.clock() - open_since(charge)
        if isinstance(answer, Pending):  # a rail that says itself that it is under way is asked again sooner
            wait = max(answer.retry_after, min(age // 4, _MAX_BACKOFF))
        else:
            wait = min(max(age, 2), _MAX_BACKOFF)  # about as long as it has been open
        until = self._services.clock() + wait
        put_off = charge.model_copy(update={"lease_until": until, "looks": charge.looks + 1, "last_word": word})
        saved = await self._services.store.save(put_off)
        self._tell(saved, age)
        return saved

    def _tell(self, charge: Charge, age: int) -> None:
        """Log that a charge stays open: each time that it has been looked at twice as often."""
        if not is_open(charge) or charge.looks & (charge.looks - 1):
            return
        if age >= _WORTH_A_WARNING:
            found = self._open_charge(charge)
            text = "charge %s: %s on %s is open for %d s: %s; %s"
            logger.warning(text, charge.id, found.operation, found.rail, age, found.last_word, found.advice)
