"""Whether a payment that is not known yet is good: each kind of proof by what Stripe says about it. Moves no money.

What was prepared on demand has been paid already, so its payer is never told to pay again lightly. When it was paid is
what counts, by the time of Stripe's charge: within `PAY_GRACE` of the offer's expiry, for who began to pay in time has
a form to fill in. It may be presented until `PRESENT_GRACE` after the expiry. What nobody presents by then is not ours
to keep: a reservation ends at Stripe by itself, within a week; money that was taken is for the publisher to refund.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from rail402.errors import OutcomeUnknown, PaymentRejected, RailUnavailable
from rail402.protocol.base import Json
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Verified
from rail402_stripe.api import Refused, StripeApi
from rail402_stripe.customers import Customers
from rail402_stripe.intents import OFFER_MARK, PREPARED_FOR, intent_id
from rail402_stripe.proofs import Proof, ProofKind, offer_key, proof_of

__all__ = ["INTENT", "PAID_WITHIN", "PAY_GRACE", "PRESENT_GRACE", "STRIPE_TIME", "VERIFIED_AT", "Verifier"]

PAY_GRACE: Final = 1800
"""Seconds after an offer's expiry for which a payment that was prepared in time may be made."""

PRESENT_GRACE: Final = 7200
"""Seconds after an offer's expiry until which such a payment may be presented for the first time. Charges must be kept
for longer, or a payment could be used again when its charge is gone."""

PAID_WITHIN: Final = PAY_GRACE + 300
"""Seconds after an offer's expiry after which Stripe's clock tells that a payment was surely made too late."""

# Members of a charge's `rail_state`.
VERIFIED_AT: Final = "verified_at"
STRIPE_TIME: Final = "stripe_time"  # the same moment by Stripe's clock, where a lookup would need it
INTENT: Final = "payment_intent"

_PROCESSING_RETRY_AFTER: Final = 60


class Verifier:
    """Asks one Stripe account.

    Args:
        customers: whose secret that is; None where no customers are taken.
    """

    def __init__(self, api: StripeApi, customers: Customers | None) -> None:
        self._api, self._customers = api, customers

    async def verify(self, offer: Offer, payment: Payment, verified: Verified, *, now: int) -> Verified:
        """Return `verified` with what Stripe and the publisher say; see `PaymentRail.verify`.

        Raises:
            PaymentRejected: with the reason code. `action_required`: its payer has not finished paying; `not_settled`:
                the money is under way. The same payment may be sent again after either.
            RailUnavailable: Stripe cannot be asked.
        """
        proof = proof_of(payment.payload)
        late = now - offer.expires_at
        if late > (PRESENT_GRACE if proof.kind in _PREPARED else 0):
            raise PaymentRejected("ask for a new offer", code="offer_expired")
        match proof.kind:
            case ProofKind.SPT:
                found = await self._token(proof, offer, verified, now=now)
            case ProofKind.CUSTOMER:
                found = await self._customer(proof, verified)
            case _:
                found = await self._prepared(proof, offer, offer_key(payment), verified)
        return replace(found, state={**found.state, VERIFIED_AT: now})

    async def _token(self, proof: Proof, offer: Offer, verified: Verified, *, now: int) -> Verified:
        """Look at the token: whose it is, for what and for how long.

        It is a courtesy that keeps most bad tokens from becoming failed payments: Stripe checks all of it again.
        """
        try:
            token = await self._api.granted_token(proof.value)
        except Refused as error:
            detail = "Stripe knows no such shared payment token for this seller"
            raise PaymentRejected(detail, code="payment_declined") from error
        _check_token(token, offer, now=now)
        state = {**verified.state, STRIPE_TIME: self._api.time}
        agent = _members(token, "agent_details").get("network_business_profile")
        return replace(verified, payer=agent if isinstance(agent, str) else None, state=state)

    async def _customer(self, proof: Proof, verified: Verified) -> Verified:
        saved = None if self._customers is None else await self._customers(proof.value)
        if saved is None:
            raise PaymentRejected("no customer has this secret", code="payment_declined")
        state = {**verified.state, **saved.state, STRIPE_TIME: await self._api.ask_time()}
        return replace(verified, payer=saved.customer, state=state)

    async def _prepared(self, proof: Proof, offer: Offer, key: str, verified: Verified) -> Verified:
        """Believe a payment that was prepared for this very offer, as far as Stripe itself calls it paid."""
        try:
            if proof.kind is ProofKind.PAYMENT_INTENT:
                intent = await self._api.intent(proof.value)
            else:
                intent = _intent_of(await self._api.session(proof.value), offer, key)
            found = intent_id(intent)
        except Refused as error:
            raise PaymentRejected("Stripe knows no such payment to this seller", code="payment_declined") from error
        except OutcomeUnknown as error:  # nothing was sent that could have an outcome
            raise RailUnavailable(error.detail) from error
        _check_prepared(intent, offer, key)
        state = {**verified.state, INTENT: found, PREPARED_FOR: key}
        return replace(verified, keys=verified.keys | {f"{offer.network}:{found}"}, state=state)


_PREPARED: Final = (ProofKind.PAYMENT_INTENT, ProofKind.CHECKOUT_SESSION)


def _check_token(token: Json, offer: Offer, *, now: int) -> None:
    """Check a token against the offer, as far as Stripe shows it.

    Raises:
        PaymentRejected: it cannot pay for the offer.
    """
    if token.get("livemode") is not (offer.network == "stripe:live"):
        raise PaymentRejected("the token is of Stripe's other mode", code="network_mismatch")
    if token.get("deactivated_at") is not None:
        codes = {"consumed": "proof_already_used", "expired": "authorization_expired"}
        code = codes.get(str(token.get("deactivated_reason")), "payment_declined")
        raise PaymentRejected("the token has been deactivated", code=code)
    limits = _members(token, "usage_limits")
    if limits.get("currency", offer.asset) != offer.asset:
        raise PaymentRejected(f"the token is not for {offer.asset}", code="asset_mismatch")
    used = _members(_members(token, "usage_details"), "amount_captured").get("value")
    most = limits.get("max_amount")
    if type(most) is int and most - (used if type(used) is int else 0) < offer.amount:
        raise PaymentRejected(f"the token is for less than {offer.price}", code="amount_mismatch")
    expires_at = limits.get("expires_at")
    if type(expires_at) is int and expires_at <= now:
        raise PaymentRejected("the token has expired", code="authorization_expired")


def _intent_of(session: Json, offer: Offer, key: str) -> Json:
    """Return the PaymentIntent of a Checkout Session that was made for the offer.

    Raises:
        PaymentRejected: it was made for another offer, or is not paid (yet).
    """
    _check_mark(session, offer, key)
    if session.get("status") == "open":
        raise _person_needed("the Checkout Session is not paid yet")
    if session.get("status") == "expired":
        raise PaymentRejected("the Checkout Session was not paid in time", code="offer_expired")
    # `payment_status` is no help: it is `unpaid` for what is reserved. The PaymentIntent tells.
    return _members(session, "payment_intent")


def _check_mark(found: Json, offer: Offer, key: str) -> None:
    """Check that a payment is of the offer's network and was prepared for it. Its metadata can be written with the
    publisher's secret key alone."""
    _check_form(found, livemode=bool, metadata=Mapping)
    if OFFER_MARK in found["metadata"]:
        _check_form(found["metadata"], **{OFFER_MARK: str})
    if found.get("livemode") is not (offer.network == "stripe:live"):
        raise PaymentRejected("the payment is of Stripe's other mode", code="network_mismatch")
    if found["metadata"].get(OFFER_MARK) != key:
        raise PaymentRejected("the payment was made for another offer", code="resource_mismatch")


def _check_form(found: Mapping[str, Any], **kinds: type) -> None:
    """Check that members of an answer are what Stripe always sends. One that something on the way has spoilt says
    nothing, and who has paid is not told to pay again for it.

    Raises:
        RailUnavailable: they are not.
    """
    if wrong := [name for name, kind in kinds.items() if not isinstance(found.get(name), kind)]:
        raise RailUnavailable(f"Stripe gave an answer that cannot be read: its {', '.join(wrong)}")


def _check_prepared(intent: Json, offer: Offer, key: str) -> None:
    """Check that a PaymentIntent (with its `latest_charge`) is the offer's, and paid as the offer's flow wants it.

    Raises:
        PaymentRejected: it is not, or not yet. RailUnavailable: the answer cannot be read.
    """
    _check_mark(intent, offer, key)
    _check_form(intent, currency=str, amount=int, amount_capturable=int, amount_received=int)
    if intent.get("currency") != offer.asset:
        raise PaymentRejected(f"the payment is not in {offer.asset}", code="asset_mismatch")
    if intent.get("amount") != offer.amount:
        raise PaymentRejected(f"the payment is not of {offer.price}", code="amount_mismatch")
    payment = _members(intent, "latest_charge")
    match intent.get("status"):
        case "requires_capture" if offer.flow is Flow.ESCROW:
            paid = intent.get("amount_capturable")
        case "succeeded" if offer.flow is Flow.UPFRONT:
            paid = intent.get("amount_received")
            _check_kept(payment)
        case "succeeded" if offer.flow is Flow.ESCROW:  # what is reserved only we capture, and for one charge
            raise PaymentRejected("the payment was taken before", code="proof_already_used")
        case "requires_payment_method" | "requires_confirmation" | "requires_action":
            raise _person_needed("the PaymentIntent is not paid yet")
        case "processing":
            detail = "Stripe is still waiting for the money"
            raise PaymentRejected(detail, code="not_settled", retry_after=_PROCESSING_RETRY_AFTER)
        case "canceled":
            raise PaymentRejected("it was canceled and takes nothing: get a new offer", code="authorization_expired")
        case _:
            raise RailUnavailable("the PaymentIntent is in a state that does not fit its offer")
    if paid != offer.amount:
        raise PaymentRejected(f"less than {offer.price} was paid", code="amount_mismatch")
    paid_at = payment.get("created")
    if type(paid_at) is not int:
        raise RailUnavailable("Stripe does not say when it was paid")
    if paid_at > offer.expires_at + PAID_WITHIN:
        raise PaymentRejected("it was paid too late", code="offer_expired")


def _check_kept(payment: Mapping[str, Any]) -> None:
    """Check that money that was taken is still there."""
    _check_form(payment, captured=bool, disputed=bool, refunded=bool, amount_refunded=int)
    if payment.get("captured") is not True or payment.get("disputed") is not False:
        raise PaymentRejected("the payment is disputed", code="payment_declined")
    if payment.get("refunded") is not False or payment.get("amount_refunded") != 0:
        raise PaymentRejected("the payment was given back", code="refunded")


def _person_needed(detail: str) -> PaymentRejected:
    """Return the refusal of what its payer has not finished. Nothing is used up by showing it too early."""
    return PaymentRejected(f"{detail}; send the same again after that, and pay in no other way", code="action_required")


def _members(value: Json, name: str) -> Mapping[str, Any]:
    found = value.get(name)
    return found if isinstance(found, Mapping) else {}
