"""What moves a charge's money at Stripe: creating its PaymentIntent, capturing, cancelling, refunding, and finding it.

Each ends in what the PaymentIntent is then, as Stripe itself returns it; see `intents.outcome`. `OutcomeUnknown` leaves
here as it is: the rail makes `Unknown` of it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from rail402.clock import Clock
from rail402.errors import Rail402Error, RailUnavailable
from rail402.protocol.base import Json
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Failed, NotPaid, Pending, Refunded, Released, Settled, Unknown
from rail402_stripe.api import Declined, Refused, StripeApi
from rail402_stripe.customers import unattended
from rail402_stripe.intents import (
    SHUT_OUT,
    Outcome,
    after_decline,
    idempotency_key,
    intent_id,
    is_of,
    metadata_of,
    outcome,
)
from rail402_stripe.proofs import ProofKind, proof_of
from rail402_stripe.refusals import KeyUsed
from rail402_stripe.verification import INTENT, STRIPE_TIME, VERIFIED_AT

__all__ = ["Cashier"]

logger = logging.getLogger("rail402.stripe")

# A request whose answer was lost may still be under way, at a proxy say. For so long it is not called undone.
_LANDING_SECONDS: Final = 120
# A payment is charged within so many seconds of its check, or not at all: the landing begins with the check.
_SEND_SECONDS: Final = 30
# Where a PaymentIntent is searched for: from so many seconds before the check (Stripe has many clocks) to the end of
# each of these spans, one after the other. It is next to always in the first, which nobody can fill up afterwards.
_MARGIN_SECONDS: Final = 10
_SPANS: Final = (2, 10, 60, _LANDING_SECONDS + 60)

# Stripe keeps an idempotency key for at least a day from its use. After that one that is free says nothing any more.
_KEY_SECONDS: Final = 24 * 3600

# Codes that say that the request itself is not one, whatever the token: the API's version or its spelling is wrong.
_OUR_FAULT: Final = ("parameter_unknown", "parameter_missing", "url_invalid")
_TOO_SMALL: Final = "amount_too_small"


class Cashier:
    """Moves the money of one account.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, api: StripeApi, clock: Clock) -> None:
        self._api, self._clock = api, clock

    async def prepared(self, charge: Charge, operation: Operation) -> Outcome:
        """See what became of a payment that its payer has made: nothing is sent that could get lost."""
        try:
            return outcome(await self._api.intent(charge.rail_state[INTENT]), charge, operation)
        except Refused as error:
            return Unknown(detail=error.detail)

    async def create(self, charge: Charge, payment: Payment, operation: Operation, *, capture_method: str) -> Outcome:
        """Create the charge's PaymentIntent, which charges what the payer shows (or reserves the amount) at once.

        Raises:
            RailUnavailable: nothing was charged. OutcomeUnknown: it may have been.
        """
        if self._clock() - charge.rail_state[VERIFIED_AT] > _SEND_SECONDS:
            raise RailUnavailable("the payment was checked too long ago")
        proof = proof_of(payment.payload)
        try:
            intent = await self._api.create_intent(
                proof.value if proof.kind is ProofKind.SPT else None,
                idempotency_key(charge, operation),
                amount=charge.offer.amount,
                currency=charge.offer.asset,
                confirm=True,
                capture_method=capture_method,
                automatic_payment_methods={"enabled": True, "allow_redirects": "never"},
                **unattended(charge.rail_state),
                metadata=metadata_of(charge),
            )
        except Declined as error:
            return after_decline(charge, error.code, error.detail, may_pass=error.may_pass)
        except Refused as error:
            if error.stripe_code in _OUR_FAULT:
                logger.error("%s: do api_version and spt_parameter of StripeApi fit together?", error)
                raise RailUnavailable("Stripe does not take the request in this form") from error
            return Failed(code=error.code, detail=error.detail)
        return outcome(intent, charge, operation)

    async def capture(self, charge: Charge) -> Outcome:
        """Take what is held, or as much of it as the charge is reduced to; the rest is free again."""
        pi, key = charge.rail_state[INTENT], idempotency_key(charge, Operation.SETTLE)
        try:
            return outcome(await self._api.capture(pi, key, charge.amount), charge, Operation.SETTLE)
        except (Declined, Refused) as error:
            if isinstance(error, Refused) and error.stripe_code == _TOO_SMALL:
                return await self._give_up(charge)
            # It did not capture; what the PaymentIntent is now says what to make of it.
            return await self._look(charge, pi, Operation.SETTLE)

    async def _give_up(self, charge: Charge) -> Outcome:
        """Cancel what Stripe will never capture: trying again would go on until the reservation ends."""
        logger.error(
            "charge %s: Stripe does not capture as little as %s %s; reduce prices to the minimum of the currency that "
            "the account settles in, at least",
            charge.id,
            charge.amount,
            charge.offer.asset,
        )
        answer = await self.cancel(charge)
        return Failed(code="payment_declined", detail=_TOO_SMALL) if isinstance(answer, Released) else answer

    async def cancel(self, charge: Charge) -> Outcome:
        """Give free what is held."""
        pi, key = charge.rail_state[INTENT], idempotency_key(charge, Operation.RELEASE)
        try:
            return outcome(await self._api.cancel(pi, key), charge, Operation.RELEASE)
        except (Declined, Refused):  # it is not reserved (any more)
            return await self._look(charge, pi, Operation.RELEASE)

    async def refund(self, charge: Charge) -> Outcome:
        """Give back all that was taken."""
        pi, key = charge.rail_state[INTENT], idempotency_key(charge, Operation.REFUND)
        try:
            refund = await self._api.refund(pi, key, metadata_of(charge))
        except (Declined, Refused) as error:
            answer = await self._look(charge, pi, Operation.REFUND)
            if isinstance(answer, Refunded):
                return _refunded(await self._refunds(pi))
            return Failed(code=error.code, detail=error.detail) if isinstance(answer, Settled) else answer
        match refund.get("status"):
            case "succeeded":
                return _refunded([refund])
            case "failed" | "canceled":
                return Failed(code="payment_declined", detail="the refund did not go through")
            case _:
                return Unknown(detail="the refund is under way")

    async def _look(self, charge: Charge, pi: str, operation: Operation) -> Outcome:
        """Judge a PaymentIntent as it is now, after an operation on it was refused."""
        try:
            return outcome(await self._api.intent(pi), charge, operation)
        except (Refused, RailUnavailable) as error:
            return Unknown(detail=error.detail)

    async def look_up(self, charge: Charge, operation: Operation) -> Outcome:
        """Find out what became of an operation whose answer was lost."""
        try:
            pi = charge.rail_state.get(INTENT)
            if pi is None:
                return await self._find(charge, operation)
            answer = outcome(await self._api.intent(pi), charge, operation)
            if operation is Operation.REFUND and isinstance(answer, Settled | Refunded):
                refunds = await self._api.refunds(pi)
                if any(refund.get("status") in ("pending", "requires_action") for refund in refunds):
                    return Pending(retry_after=60)
                if isinstance(answer, Refunded):
                    return _refunded(refunds)
                if (left := self._landing_of_refund(charge)) > 0:
                    return Pending(retry_after=left)
            return answer
        except Refused as error:
            return Unknown(detail=error.detail)

    async def _refunds(self, pi: str) -> Sequence[Json]:
        """Return a PaymentIntent's refunds, which are only for the record: none where Stripe does not say now."""
        try:
            return await self._api.refunds(pi)
        except (Refused, RailUnavailable):
            return []

    def _landing_of_refund(self, charge: Charge) -> int:
        """Return for how many seconds more a refund that Stripe does not show may still reach it."""
        return (charge.asked_at or 0) + _LANDING_SECONDS - self._clock()

    async def _find(self, charge: Charge, operation: Operation, *, shut_out: bool = False) -> Outcome:
        """Find a PaymentIntent of which not even the id is known, by its marks. All times here are Stripe's own.

        Args:
            shut_out: whether the request that would have made it can surely not arrive any more.
        """
        began = charge.rail_state.get(STRIPE_TIME)
        if not isinstance(began, int):
            return Unknown(detail="when it was sent is not known by Stripe's clock")
        since, spans = began - _MARGIN_SECONDS, list(_SPANS)
        if shut_out:  # it may have arrived, and we do not know when
            age = max(self._api.time - began, spans[-1] + 1)
            spans += [*range(spans[-1] + _KEY_SECONDS, age, _KEY_SECONDS), age]  # a day's list is not too long to read
        for span in spans:
            async for intent in self._api.intents_between(since, began + span):
                if is_of(intent, charge):
                    return outcome(intent, charge, operation)
            since = began + span + 1
        left = began + _LANDING_SECONDS - self._api.time
        if left > 0:
            return Pending(retry_after=left)
        if shut_out:
            return NotPaid()
        was_free = await self._shuts_out(charge, operation)
        if was_free and self._api.time < began + _KEY_SECONDS:
            return NotPaid()
        return await self._find(charge, operation, shut_out=True)  # it may have landed since we looked, or long ago

    async def _shuts_out(self, charge: Charge, operation: Operation) -> bool:
        """Use the idempotency key of a request that seems to have got lost for a PaymentIntent that nobody can pay: the
        next attempt has another key, and two charges would come of one payment, should the first arrive after all. Now
        Stripe refuses it.

        Returns:
            Whether the key was free: the request will not arrive any more, and has not within the last day. Where not,
            it has arrived, and has ended.

        Raises:
            RailUnavailable, OutcomeUnknown, Refused: ask again.
        """
        terms = {"amount": charge.offer.amount, "currency": charge.offer.asset}
        try:
            unpaid = await self._api.create_intent(None, idempotency_key(charge, operation), **terms, metadata=SHUT_OUT)
        except KeyUsed:
            return False
        with suppress(Rail402Error):  # it can stay as well: its client secret has gone nowhere
            await self._api.cancel(intent_id(unpaid), f"rail402:{intent_id(unpaid)}:shut_out")
        return True


def _refunded(refunds: Sequence[Json]) -> Refunded:
    """Return that the money went back, by the newest of these refunds that did not fail."""
    made = [str(refund["id"]) for refund in refunds if refund.get("status") == "succeeded" and refund.get("id")]
    return Refunded(transaction=made[0], state={"refund": made[0]}) if made else Refunded()
