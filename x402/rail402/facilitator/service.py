"""The facilitator without its HTTP: rails, a store, and what `/verify`, `/settle` and `/supported` come to."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rail402.clock import Clock, RandomBytes, system_clock, system_random
from rail402.errors import (
    ConfigurationError,
    OutcomeUnknown,
    PaymentRejected,
    Rail402Error,
    StaleCharge,
)
from rail402.facilitator.policy import FacilitatorSettings, Limits, Policy
from rail402.facilitator.settling import Settling, check_known, is_owed, look_up, sent_transaction, verify_unused
from rail402.facilitator.wire import (
    Kind,
    Presented,
    Question,
    failed_settlement,
    kinds_of,
    read_payment,
    refused_verdict,
    settled,
    supported,
    valid_verdict,
)
from rail402.protocol.binding import OfferKeys
from rail402.protocol.charge import Charge, DeliveryEvent, PaymentState
from rail402.protocol.offer import Flow
from rail402.protocol.rail import PaymentRail, Registry, Verified
from rail402.protocol.receipt import ReceiptKeys
from rail402.server.lifespan import Lifespan
from rail402.server.operations import verdict
from rail402.server.reconciler import Reconciler
from rail402.server.services import Services
from rail402.server.settings import GateSettings
from rail402.stores import open_store
from rail402.stores.base import Store

__all__ = ["DEFAULT_STORE", "Answer", "Facilitator"]

logger = logging.getLogger("rail402.facilitator")

DEFAULT_STORE: Final = "sqlite:///facilitator.db"

_UNTOLD: Final = "https://facilitator.invalid"  # receipts and offers are a gate's; nothing here carries the address
_LEASE_MARGIN: Final = 5
_HEALTH_SECONDS: Final = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call is answered.

    Attributes:
        status: the HTTP status.
        body: a JSON object.
        retry_after: seconds.
        told: the charge whose one success this is; give it to `Facilitator.told` once the answer has left.
    """

    status: int
    body: dict[str, Any]
    retry_after: int | None = None
    told: Charge | None = None


class Facilitator:
    """Checks and hands in payments for sellers.

    Args:
        rails: what is taken, each from a rail by which a payer signs and another hands in; the others are refused.
        store: where settlements are kept, `sqlite:///facilitator.db` unless given; never a gate's. All workers share
            it.
        settings: for whom, and the limits.
        clock: Unix seconds.
        random_bytes: for ids.

    Raises:
        ConfigurationError: a rail takes nothing that could be handed in, sandbox and live rails are mixed, or see
            `Policy`.
    """

    def __init__(
        self,
        rails: Sequence[PaymentRail],
        *,
        store: str | Store = DEFAULT_STORE,
        settings: FacilitatorSettings | None = None,
        clock: Clock = system_clock,
        random_bytes: RandomBytes = system_random,
    ) -> None:
        self.settings = settings or FacilitatorSettings()
        if not rails:
            raise ConfigurationError("rails=[]: give the facilitator at least one rail")
        if len({(rail.is_sandbox, rail.is_test) for rail in rails}) > 1:
            raise ConfigurationError("sandbox, test and live rails do not mix: run several facilitators")
        self._registry = Registry([rail.spec for rail in rails])
        self._rails = {rail.spec.name: rail for rail in rails}
        found = {rail.spec.name: list(kinds_of(rail.spec)) for rail in rails}
        if idle := sorted(name for name, kinds in found.items() if not kinds):
            detail = "its payers move the money themselves, which a seller sees in its own books"
            raise ConfigurationError(f"rails: {', '.join(idle)} needs no facilitator: {detail}")
        taken = [each for kinds in found.values() for each in kinds]
        self.kinds: tuple[Kind, ...] = tuple(dict.fromkeys(kind for _, kind in taken))
        is_sandbox = rails[0].is_sandbox
        self.policy = Policy(self.settings, [mechanism for mechanism, _ in taken], is_sandbox=is_sandbox)
        self._limits = Limits(self.settings.max_per_payer)
        self._store = open_store(store) if isinstance(store, str) else store
        self._clock, self._random = clock, random_bytes
        self._life = Lifespan(self._store, self._rails.values(), logger)
        self._health: tuple[int, str | None] = (0, None)

    # --- start and stop

    async def start(self) -> None:
        """Open the store and the rails, and start the reconciler. Further calls do nothing.

        Raises:
            ConfigurationError, StoreError: see the rails and the store.
        """
        await self._started()

    async def _assemble(self) -> Services:
        settings = self.settings
        return Services(
            settings=GateSettings(
                public_url=_UNTOLD,
                handler_seconds=_LEASE_MARGIN,
                settle_seconds=settings.settle_seconds,
                wait_seconds=settings.wait_seconds,
                retention_seconds=settings.retention_seconds,
                reconcile_seconds=settings.reconcile_seconds,
            ),
            rails=self._rails,
            registry=self._registry,
            dialects=(),
            store=self._store,
            # Nothing is offered here, and no receipt leaves: both have keys that nobody knows.
            offer_keys=OfferKeys({"k1": self._random(32)}),
            receipt_keys=ReceiptKeys.generate()[0],
            rates=None,
            clock=self._clock,
            random_bytes=self._random,
        )

    async def close(self) -> None:
        """Finish what is under way, then close the rails and the store."""
        await self._life.close()

    async def __aenter__(self) -> Facilitator:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def reconcile(self) -> int:
        """Run the reconciler once, and forget what is past its retention; return how many charges it closed."""
        reconciler = Reconciler(await self._started())
        report = await reconciler.run_once()
        await reconciler.prune()
        return report.closed

    async def _started(self) -> Services:
        return await self._life.start(self._assemble)

    # --- what is asked

    def supported(self) -> dict[str, Any]:
        """Return the answer of `/supported`."""
        signers: dict[str, Sequence[str]] = {}
        for rail in self._rails.values():
            for mechanism in rail.spec.mechanisms:
                if rail.signers and Flow.AUTHORIZATION in mechanism.flows:
                    signers[mechanism.network] = rail.signers
        return supported(self.kinds, signers)

    async def health(self) -> str | None:
        """Return what is wrong with a rail or the store, None where all is well; looked at every few seconds."""
        services, now = await self._started(), self._clock()
        if not 0 <= now - self._health[0] < _HEALTH_SECONDS:
            problem = None
            try:
                await services.store.get("ch_none")
                for rail in self._rails.values():
                    await rail.health()
            except Rail402Error as error:
                logger.warning("not well: %s", error)
                problem = error.reason.title
            self._health = now, problem
        return self._health[1]

    async def verify(self, question: Question) -> Answer:
        """Say whether a payment would be settled; no money moves."""
        payer = None
        try:
            services = await self._started()
            presented, rail, verified = self._read(question)
            payer = verified.payer
            await self._check(services, rail, presented, verified)
        except Rail402Error as error:
            return _refusal(error, refused_verdict(error, payer))
        return Answer(200, valid_verdict(payer))

    async def _check(self, services: Services, rail: PaymentRail, presented: Presented, verified: Verified) -> None:
        charge = await services.store.find(verified.keys)
        if charge is not None:
            check_known(charge, verified)
            charge = charge.lapsed(services.clock())
            if charge.payment is PaymentState.UNKNOWN:
                charge = await look_up(services, charge)
            error = verdict(charge)
            if charge.payment is PaymentState.REJECTED and error is not None:
                raise error
            if is_owed(charge):
                return  # settled, and whoever asked did not hear of it: who presents it now may be served for it
            if charge.payment is PaymentState.SETTLED:
                raise PaymentRejected(f"it was settled by {charge.transaction}", code="proof_already_used")
            if charge.payment is not PaymentState.RELEASED:
                raise OutcomeUnknown("it is being settled", retry_after=2)
        await verify_unused(rail, presented, verified, now=services.clock())

    async def settle(
        self, question: Question, *, secret: str | None = None, is_here: Callable[[], Awaitable[bool]] | None = None
    ) -> Answer:
        """Have a payment taken, once, or say what became of it; see `settling`.

        Args:
            secret: the caller's `Idempotency-Key`.
            is_here: says whether the caller still waits.
        """
        payer, charge = None, None
        try:
            services = await self._started()
            presented, rail, verified = self._read(question)
            payer = verified.payer
            if "proof_digest" in verified.state:  # anybody may have made it: it must not take the payer's places
                await self._confirm(services, rail, presented, verified)
            with self._limits.place(payer) as is_free:
                if not is_free:
                    return _busy(question, payer)
                settling = Settling(
                    services,
                    rail,
                    presented,
                    secret=secret,
                    is_here=is_here or _always,
                    repeat=self.settings.repeat,
                )
                outcome = await settling.run(verified)
            charge = outcome.charge
            if outcome.error is not None:
                raise outcome.error
        except Rail402Error as error:
            transaction = None if charge is None else sent_transaction(charge)
            body = failed_settlement(question, error, transaction=transaction, payer=payer)
            return _refusal(error, body, is_settling=True)
        logger.info("%s settled by %s for %s", charge.price, charge.transaction, charge.offer.payee)
        body = settled(question, transaction=str(charge.transaction), amount=charge.amount, payer=charge.payer)
        return Answer(200, body, told=charge if outcome.is_told else None)

    async def _confirm(self, services: Services, rail: PaymentRail, presented: Presented, verified: Verified) -> None:
        charge = await services.store.find(verified.keys)
        if charge is None:
            await verify_unused(rail, presented, verified, now=services.clock())
        else:
            check_known(charge, verified)

    async def told(self, charge: Charge) -> None:
        """Note that the one success of a settlement has left."""
        services = await self._started()
        stored = charge.deliver(DeliveryEvent.STORE, lease_until=services.clock())
        with contextlib.suppress(StaleCharge):  # it took so long that it counts as not heard
            await services.store.save(stored)

    def _read(self, question: Question) -> tuple[Presented, PaymentRail, Verified]:
        """Return the payment of a question, checked as far as that needs nobody else.

        Raises:
            PaymentRejected: it is not settled here, or is not good.
        """
        presented = read_payment(question, self._registry, self.kinds, now=self._clock())
        self.policy.check(presented.offer)
        # What a rail wants a payment to be valid for is a gate's: its handler runs first. Here it is at its end.
        offer = presented.offer.model_copy(update={"timeout_seconds": self.settings.timeout_seconds})
        payment = presented.payment.model_copy(update={"offer": offer})
        rail = self._rails[payment.rail]
        verified = rail.spec.authenticate(offer, payment)
        return Presented(offer=offer, payment=payment), rail, verified


async def _always() -> bool:
    return True


_PENDING: Final = "outcome_unknown"


def _refusal(error: Rail402Error, body: dict[str, Any], *, is_settling: bool = False) -> Answer:
    """Return the answer to an error: 200 where it is about the payment, 5xx where it is about us."""
    about_us = error.status >= 500 and error.code != _PENDING
    if not about_us:
        return Answer(200, body)
    logger.error("%s failed: %s", "/settle" if is_settling else "/verify", error)
    said = {**body, "error": error.code, ("errorMessage" if is_settling else "invalidMessage"): error.reason.title}
    return Answer(error.status, said, retry_after=error.retry_after or 2)


def _busy(question: Question, payer: str | None) -> Answer:
    error = PaymentRejected("too many payments of this payer at once: settle it again later", code="store_conflict")
    body = failed_settlement(question, error, payer=payer) | {"error": "too_many_requests"}
    return Answer(429, body, retry_after=1)
