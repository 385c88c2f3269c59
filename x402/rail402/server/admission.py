"""From a presented payment to the charge that answers for it: claimed, found again, or refused.

What needs no money state is checked on every presentation (token, signature, preimage against hash, binding to the
order). A known charge skips only what changes by being paid, so that a spent nonce never looks unpaid, and a forged
credential with a known hash never passes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from rail402.errors import KeyTaken, MalformedInput, OutcomeUnknown, PaymentRejected, Rail402Error, StaleCharge
from rail402.money import Money
from rail402.protocol.binding import TokenParts, parse_token, read_token
from rail402.protocol.charge import Charge, Delivery, DeliveryEvent, PaymentEvent, PaymentState
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.payment import Payment
from rail402.protocol.rail import PaymentRail, Verified
from rail402.server.challenge import offers_anew
from rail402.server.exchange import Asked
from rail402.server.operations import verdict
from rail402.server.pending import mistaken_keys, pending
from rail402.server.request import LOGIN
from rail402.server.services import Services
from rail402.server.settings import Rule
from rail402.stores.base import Claim, StoredResponse

__all__ = ["Admission", "Admitted", "Use"]


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a pass that is under way, with the Unix seconds until when its worker is trusted to be alive."""

    id: str
    lease_until: int


@dataclass(frozen=True, slots=True)
class Admitted:
    """A payment that is accepted.

    Attributes:
        charge: the charge; the handler is to run for it unless there is a replay.
        replay: the stored response, where the handler has run before.
        use: the one more use of a pass that the handler runs for, if it does.
    """

    charge: Charge
    replay: StoredResponse | None = None
    use: Use | None = None


class Admission:
    """One payment presented with one request.

    Attributes:
        charge: the charge of a payment that is known, and may be told to whoever presents it; as it was last read.
    """

    def __init__(
        self, services: Services, rule: Rule, request: Asked, price: Money, payment: Payment, rail: PaymentRail
    ) -> None:
        self._services, self._rule, self._request = services, rule, request
        self._price, self._payment, self._rail = price, payment, rail
        self._identity = rail.spec.identify(payment)
        self.charge: Charge | None = None
        token = payment.offer_token
        self._token: TokenParts | None = None if token is None else read_token(token)
        self._named = frozenset() if payment.identifier is None else frozenset({f"id:{payment.identifier}"})

    async def admit(self) -> Admitted:
        """Claim the payment, or find out what became of it.

        Raises:
            PaymentRejected: it does not pay for this order, or not now.
            MalformedInput: a proof's public half was sent instead of the proof.
            RateLimited: too many payments are shown.
            OutcomeUnknown: it is being looked up.
            RailUnavailable, StoreError: nothing happened.
        """
        await self._services.limiter.payment(self._request.scope)
        keys = self._identity if self._token is None else self._identity | {self._token.key}
        known = await self._find(keys)
        if known is None:
            claim = await self._claim(keys)
            if claim.won:
                return Admitted(claim.charge)
            known = claim.charge
        return await self._known(known)

    async def _find(self, keys: frozenset[str]) -> Charge | None:
        """Return the charge that the payment has been claimed for."""
        known = await self._services.store.find(keys)
        if known is None and self._named:  # claimed between these two looks, it may be this very payment
            known = await self._services.store.find(self._named)
        return known

    # --- a payment that is new

    async def _claim(self, keys: frozenset[str]) -> Claim:
        """Claim the payment; what comes back may be the claim of somebody who was faster."""
        offer = await self._offer()
        verified = self._rail.spec.authenticate(offer, self._payment)
        await self._services.limiter.new_payment(self._request.order.route)
        try:
            verified = await self._verify(offer, verified)
        except PaymentRejected:
            known = await self._find(keys)
            if known is None:
                raise
            return Claim(won=False, charge=known)  # shown twice at once, it is spent by the other one, and that is why
        claim = await self._services.store.claim(self._begin(self._new(offer, verified, keys | self._named)))
        if not claim.won and not (keys | self._named) & set(claim.charge.keys):
            # The rail alone has learnt that it is the same money.
            used = PaymentRejected("what was paid has paid for something before", code="proof_already_used")
            raise pending(claim.charge) or used
        return claim

    async def _offer(self) -> Offer:
        """Return the offer that is accepted, once it is known to be ours and made for this order."""
        if self._payment.offer is not None:
            self._services.offer_keys.verify(self._payment.offer, self._request.order)
            return self._payment.offer
        for key in self._identity:
            issued = await self._services.store.issued(key)
            if issued is not None:
                if issued.order_digest != self._request.order.digest:
                    raise PaymentRejected("the payment was made for another request", code="resource_mismatch")
                offer = Offer.model_validate_json(issued.offer)
                if self._payment.token is not None:  # it was proven ours; this is the offer that it was made with
                    offer = offer.model_copy(update={"token": self._payment.token})
                    self._services.offer_keys.verify(offer, self._request.order)
                return offer
        for key in mistaken_keys(self._rail.spec, self._payment):
            if await self._services.store.issued(key) or await self._services.store.find([key]):
                raise MalformedInput("payment", "is the payment's public hash; send the preimage, which proves it")
        return await self._offer_anew()

    async def _offer_anew(self) -> Offer:
        """Return an offer that is made once more and that the payment fits."""
        refusal = PaymentRejected("this server made no such offer", code="offer_unknown")
        if self._rail.has_fixed_terms:
            for offer in await offers_anew(self._services, self._rule, self._request, self._price, self._rail):
                try:
                    self._rail.spec.authenticate(offer, self._payment)
                    if self._payment.token is not None:  # it says itself which offer it was made with
                        token = self._payment.token
                        echoed = {"token": token, "expires_at": parse_token(token).expires_at}
                        offer = offer.model_copy(update=echoed)
                        self._services.offer_keys.verify(offer, self._request.order)
                except PaymentRejected as error:
                    if refusal.code == "offer_unknown" or error.code != "payload_invalid":
                        refusal = error  # another mechanism does not know the payload, which says less
                else:
                    return offer
        raise refusal

    async def _verify(self, offer: Offer, verified: Verified) -> Verified:
        """Have the rail verify the payment, and check that it pays us; before each claim of it."""
        verified = await self._rail.verify(offer, self._payment, verified, now=self._services.clock())
        if self._rail.payee not in (None, offer.payee):  # a rail sees by itself what was paid elsewhere
            raise PaymentRejected("the offer is to somebody else", code="payee_mismatch")
        return verified

    def _new(self, offer: Offer, verified: Verified, keys: frozenset[str]) -> Charge:
        services = self._services
        return Charge(
            id=services.new_charge_id(),
            order=self._request.order,
            offer=offer.model_copy(update={"token": None, "envelope": None, "dialect": None}),
            price=self._price,
            dialect=self._payment.dialect,
            keys=tuple(sorted(keys | verified.keys)),
            created_at=services.clock(),
            lease_until=services.lease(),
            payer=verified.payer,
            rail_state=verified.state,
            secret_digest=None if self._token is None else self._token.secret_digest,
            context=self._request.context,
            uses=self._rule.receipts.uses,
            window=self._rule.receipts.seconds,
            sandbox=self._rail.is_sandbox,
        )

    def _begin(self, charge: Charge) -> Charge:
        """Return the charge with the flow's first step taken, so that claim and step are one write."""
        lease, now = self._services.lease(), self._services.clock()
        match charge.offer.flow:
            case Flow.UPFRONT:
                return charge.on(PaymentEvent.SETTLE, lease_until=lease, asked_at=now)
            case Flow.ESCROW:
                return charge.on(PaymentEvent.HOLD, lease_until=lease, asked_at=now)
            case Flow.AUTHORIZATION:
                return charge.deliver(DeliveryEvent.START, lease_until=lease)

    def _conflict(self) -> PaymentRejected:
        return PaymentRejected(f"the id {self._payment.identifier} needs its own payment", code="identifier_conflict")

    # --- a payment that is known

    async def _known(self, charge: Charge) -> Admitted:
        self._check_known(charge)
        if charge.payment is PaymentState.SETTLED:  # who has paid is served, whatever else comes from there
            self._services.limiter.was_settled(self._request.scope)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._services.settings.wait_seconds
        while True:
            try:
                lapsed = charge.lapsed(self._services.clock())
                if lapsed is not charge:
                    charge = await self._services.store.save(lapsed)
                self.charge = charge
                admitted = await self._step(charge)
            except StaleCharge:
                admitted = None
            if admitted is not None:
                return admitted
            remaining = deadline - loop.time()
            if remaining <= 0:
                raise _busy(charge)
            changed = await self._services.store.wait(charge, timeout=remaining)
            if changed is None:
                raise PaymentRejected("its record is gone", code="proof_already_used")
            charge = changed

    def _check_known(self, charge: Charge) -> None:
        """Check what is checked on every presentation, and that this one may have what the first one got."""
        if not self._identity & set(charge.keys):
            if self._named & set(charge.keys):
                raise self._conflict()
            dead = charge.payment in (PaymentState.RELEASED, PaymentState.REJECTED)
            code = "proof_already_used" if dead else "payment_in_progress"
            raise PaymentRejected("another payment was made for this offer", code=code)
        verified = self._rail.spec.authenticate(self._offer_of(charge), self._payment)
        if not charge.takes_proof(verified.state):
            raise PaymentRejected("it is not the signature that was accepted for it", code="signature_invalid")
        shown = None if self._token is None else self._token.secret_digest
        by_payer = verified.is_payer and verified.payer is not None and verified.payer == charge.payer
        known = by_payer or (shown is not None and shown == charge.secret_digest)
        bare = self._rail.spec.bare_replay and charge.secret_digest is None
        # Where its payer is known, browsers' cookies may change, as they do by themselves; a login comes again anyhow.
        needed = {each for each in charge.context if not known or each.startswith(f"{LOGIN}:")}
        if not (known or bare) or not needed <= set(self._request.context):
            raise PaymentRejected("send what came with the first request", code="replay_not_proven")
        mine, order = charge.order, self._request.order
        if charge.is_pass:
            same = (mine.origin, mine.route, charge.price) == (order.origin, order.route, self._price)
        else:
            same = mine.digest == order.digest
        if not same:
            raise PaymentRejected("the payment was made for another request", code="resource_mismatch")

    def _offer_of(self, charge: Charge) -> Offer:
        """Return a charge's offer, with its token where that is shown again: some proofs count only beside it."""
        if self._token is None or self._token.secret_digest != charge.secret_digest:
            return charge.offer
        return charge.offer.model_copy(update={"token": self._payment.offer_token})

    async def _step(self, charge: Charge) -> Admitted | None:
        """Return what the charge's state allows now; None while somebody else works on it."""
        match charge.payment:
            case PaymentState.SETTLED if charge.refund_due_at is None:
                return await self._settled(charge)
            case PaymentState.RELEASED:
                return await self._reclaim(charge)
            case PaymentState.SETTLED | PaymentState.UNKNOWN | PaymentState.REJECTED | PaymentState.REFUNDED:
                error = verdict(charge)
                assert error is not None
                raise error
            case PaymentState.HELD if charge.lease_until <= self._services.clock():
                if charge.delivery is Delivery.NONE:  # a lookup has found it held, and no handler has seen it
                    return await self._run(charge)
                raise OutcomeUnknown(f"charge {charge.id} is being released", retry_after=5)
            case _:
                return None

    async def _settled(self, charge: Charge) -> Admitted | None:
        now = self._services.clock()
        is_late = charge.valid_until is not None and now > charge.valid_until
        if is_late and (charge.is_pass or not charge.is_owed):  # what was never given does not expire
            raise PaymentRejected("pay again", code="receipt_expired")
        if charge.is_pass:
            return await self._use(charge)
        if charge.delivery is Delivery.STORED:
            response = await self._services.store.response(charge.id)
            if response is None:
                raise PaymentRejected("its stored response is gone", code="proof_already_used")
            return Admitted(charge, replay=response)
        at_work = charge.delivery is Delivery.RUNNING or charge.delivery is Delivery.NONE
        if at_work and charge.lease_until > now:
            return None
        if not charge.may_rerun and charge.delivery is not Delivery.NONE:
            raise PaymentRejected("its response was not kept and its rerun is used up", code="proof_already_used")
        return await self._run(charge)

    async def _run(self, charge: Charge) -> Admitted:
        """Run the handler for money that was settled or reserved before."""
        started = charge.deliver(DeliveryEvent.START, lease_until=self._services.lease())
        return Admitted(await self._services.store.save(started))

    async def _use(self, charge: Charge) -> Admitted | None:
        slot = self._request.slot
        response = await self._services.store.response(charge.id, slot) if slot else None
        if response is not None:
            return Admitted(charge, replay=response)
        failed = charge.delivery is Delivery.FAILED and charge.may_rerun
        if failed or charge.delivery is Delivery.NONE:  # the first use, which was taken with the claim, is still owed
            return await self._run(charge)
        at_work = charge.delivery is Delivery.RUNNING and charge.lease_until > self._services.clock()
        if slot and at_work and charge.order.digest == self._request.order.digest:
            return None  # the first use may be of the same key
        use = Use(self._services.random_bytes(16).hex(), self._services.lease())
        now, lease = self._services.clock(), use.lease_until
        try:
            taken = await self._services.store.take_use(charge.id, use.id, now=now, lease_until=lease, slot=slot)
        except KeyTaken as error:
            raise _busy(charge) from error
        if taken is None:
            raise PaymentRejected(f"all {charge.uses} are used", code="uses_exhausted")
        return Admitted(taken, use=use)

    async def _reclaim(self, charge: Charge) -> Admitted:
        """Claim a released payment once more, verified anew."""
        verified = self._rail.spec.authenticate(self._offer_of(charge), self._payment)
        try:
            verified = await self._verify(charge.offer, verified)
        except PaymentRejected as error:
            current = await self._services.store.get(charge.id)
            if current is None or current.version == charge.version:
                raise
            raise StaleCharge(f"charge {charge.id} was claimed meanwhile") from error
        claimed = charge.on(
            PaymentEvent.RECLAIM,
            lease_until=self._services.lease(),
            rail_state=verified.state,
            payer=verified.payer,
            code=None,
        )
        return Admitted(await self._services.store.save(self._begin(claimed)))


def _busy(charge: Charge) -> Rail402Error:
    """Return the error for who has waited long enough for another worker."""
    if charge.payment in (PaymentState.RELEASING, PaymentState.REFUNDING):
        return OutcomeUnknown(f"charge {charge.id} is being undone", retry_after=2)
    return PaymentRejected(f"charge {charge.id}", code="payment_in_progress", retry_after=2)
