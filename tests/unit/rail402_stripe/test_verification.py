"""Which payments that were prepared are believed: by what Stripe says of them, one fact at a time.

Stripe is a transport here, so that its answers can be of any form.
"""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import Any

import httpx
import pytest

from rail402.errors import PaymentRejected, RailUnavailable
from rail402.protocol.binding import OfferKeys, parse_token
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Verified
from rail402_stripe import OnDemand, SavedCustomer, StripeApi, StripeSpec
from rail402_stripe.currencies import currency
from rail402_stripe.proofs import Preparation
from rail402_stripe.verification import PAID_WITHIN, PRESENT_GRACE, Verifier
from tests.unit.rail402_stripe.account import ORDER, PRICE

NOW = 1_800_000_000
EXPIRES = NOW + 600
KEYS = OfferKeys({"k1": b"k" * 32})
SECRET = "customer-secret-0123456789"


def offer_of(flow: Flow = Flow.ESCROW) -> Offer:
    """Return an offer of the test mode, with its token."""
    others = OnDemand(publishable_key="pk_test_1", checkout=True).others("https://shop.example", customers=True)
    assert others.payment_intent == Preparation("https://shop.example/.well-known/rail402/stripe", "pk_test_1")
    offer = StripeSpec("stripe:test").offer(
        currency("usd"),
        payee="profile_test_1",
        amount=PRICE,
        flow=flow,
        expires_at=EXPIRES,
        payment_method_types=["card"],
        other_proofs=others,
    )
    return KEYS.issue(offer, ORDER, b"n" * 16)


def intent_of(flow: Flow = Flow.ESCROW) -> dict[str, Any]:
    """Return a PaymentIntent that pays for that offer."""
    reserved = flow is Flow.ESCROW
    charge = {"id": "ch_1", "created": NOW + 5, "captured": not reserved, "disputed": False, "refunded": False}
    return {
        "id": "pi_1",
        "livemode": False,
        "amount": PRICE,
        "currency": "usd",
        "status": "requires_capture" if reserved else "succeeded",
        "amount_capturable": PRICE if reserved else 0,
        "amount_received": 0 if reserved else PRICE,
        "metadata": {"rail402_offer": parse_token(offer_of().token or "").key},
        "latest_charge": {**charge, "amount_refunded": 0},
    }


def session_of(flow: Flow = Flow.ESCROW) -> dict[str, Any]:
    """Return a Checkout Session that pays for that offer."""
    intent = intent_of(flow)
    return {
        "id": "cs_1",
        "livemode": False,
        "status": "complete",
        "metadata": intent["metadata"],
        "payment_intent": intent,
    }


def change(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return the document with one member changed."""
    changed = copy.deepcopy(document)
    *steps, last = path.split(".")
    inner = changed
    for step in steps:
        inner = inner[step]
    inner[last] = value
    return changed


class Stripe:
    """Says what it is told to say."""

    def __init__(self) -> None:
        self.answer: Any = {}
        self.status = 200
        self.asked: list[str] = []
        self.dated = {"date": formatdate(NOW + 7, usegmt=True)}
        self.api = StripeApi("sk_test_1", transport=httpx.MockTransport(self._handle))
        self.known: SavedCustomer | None = None

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.path}")
        return httpx.Response(self.status, content=json.dumps(self.answer).encode(), headers=self.dated)

    async def customer(self, secret: str) -> SavedCustomer | None:
        return self.known if secret == SECRET else None

    async def verify(
        self, payload: dict[str, str], flow: Flow = Flow.ESCROW, *, now: int = NOW + 10, customers: bool = True
    ) -> Verified:
        offer = offer_of(flow)
        payment = Payment(dialect="mpp", rail="stripe", payload=payload, offer=offer)
        verified = StripeSpec("stripe:test").authenticate(offer, payment)
        verifier = Verifier(self.api, self.customer if customers else None)
        return await verifier.verify(offer, payment, verified, now=now)


@pytest.fixture
async def stripe_says() -> AsyncIterator[Stripe]:
    account = Stripe()
    yield account
    await account.api.close()


INTENT = {"paymentIntent": "pi_1"}
SESSION = {"checkoutSession": "cs_1"}


@pytest.mark.parametrize("flow", [Flow.ESCROW, Flow.UPFRONT])
@pytest.mark.parametrize("payload", [INTENT, SESSION])
async def test_a_payment_that_fits_is_believed(stripe_says: Stripe, flow: Flow, payload: dict[str, str]) -> None:
    stripe_says.answer = intent_of(flow) if payload is INTENT else session_of(flow)
    verified = await stripe_says.verify(payload, flow)
    (shown,) = payload.values()
    assert verified.keys == {f"stripe:test:{shown}", "stripe:test:pi_1"}
    key = intent_of()["metadata"]["rail402_offer"]
    assert verified.state == {"payment_intent": "pi_1", "prepared_for": key, "verified_at": NOW + 10}
    assert [line.partition(" ")[0] for line in stripe_says.asked] == ["GET"]  # it only looks


FACTS: list[tuple[str, Any, str]] = [
    ("livemode", True, "network_mismatch"),
    ("livemode", None, "rail_unavailable"),  # the answer cannot be read: that is no reason to pay again
    ("metadata.rail402_offer", "offer:0123456789abcdef0123456789abcdef", "resource_mismatch"),
    ("metadata", {}, "resource_mismatch"),
    ("metadata", None, "rail_unavailable"),
    ("metadata", "rail402_offer", "rail_unavailable"),
    ("metadata.rail402_offer", {}, "rail_unavailable"),
    ("currency", "eur", "asset_mismatch"),
    ("currency", "USD", "asset_mismatch"),
    ("amount", PRICE - 1, "amount_mismatch"),
    ("amount", PRICE + 1, "amount_mismatch"),
    ("amount", str(PRICE), "rail_unavailable"),
    ("amount", None, "rail_unavailable"),
    ("currency", None, "rail_unavailable"),
    ("status", "requires_payment_method", "action_required"),
    ("status", "requires_confirmation", "action_required"),
    ("status", "requires_action", "action_required"),
    ("status", "processing", "not_settled"),
    ("status", "canceled", "authorization_expired"),
    ("status", "something_new", "rail_unavailable"),
    ("status", ["succeeded"], "rail_unavailable"),
    ("latest_charge", None, "rail_unavailable"),
    ("latest_charge", "ch_1", "rail_unavailable"),
    ("latest_charge.created", "1800000005", "rail_unavailable"),
    ("latest_charge.created", EXPIRES + PAID_WITHIN + 1, "offer_expired"),
]
ESCROW_FACTS: list[tuple[str, Any, str]] = [
    ("amount_capturable", PRICE - 1, "amount_mismatch"),
    ("amount_capturable", None, "rail_unavailable"),
    ("status", "succeeded", "proof_already_used"),  # taken before: by another charge, or by hand
]
UPFRONT_FACTS: list[tuple[str, Any, str]] = [
    ("amount_received", PRICE - 1, "amount_mismatch"),
    ("status", "requires_capture", "rail_unavailable"),
    ("latest_charge.captured", False, "payment_declined"),
    ("latest_charge.disputed", True, "payment_declined"),
    ("latest_charge.disputed", None, "rail_unavailable"),
    ("latest_charge.captured", "true", "rail_unavailable"),
    ("latest_charge.refunded", None, "rail_unavailable"),
    ("amount_received", None, "rail_unavailable"),
    ("latest_charge.refunded", True, "refunded"),
    ("latest_charge.amount_refunded", 1, "refunded"),
    ("latest_charge.amount_refunded", None, "rail_unavailable"),
]
ALL_FACTS = [(Flow.ESCROW, *fact) for fact in FACTS + ESCROW_FACTS]
ALL_FACTS += [(Flow.UPFRONT, *fact) for fact in FACTS + UPFRONT_FACTS]


@pytest.mark.parametrize(("flow", "path", "value", "code"), ALL_FACTS)
@pytest.mark.parametrize("payload", [INTENT, SESSION])
async def test_each_fact_counts(
    stripe_says: Stripe, payload: dict[str, str], flow: Flow, path: str, value: Any, code: str
) -> None:
    intent = change(intent_of(flow), path, value)
    stripe_says.answer = intent if payload is INTENT else {**session_of(flow), "payment_intent": intent}
    with pytest.raises((PaymentRejected, RailUnavailable)) as caught:
        await stripe_says.verify(payload, flow)
    assert caught.value.code == code


async def test_an_answer_about_another_payment_says_nothing(stripe_says: Stripe) -> None:
    stripe_says.answer = change(intent_of(), "id", "pi_2")
    with pytest.raises(RailUnavailable):
        await stripe_says.verify(INTENT)


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("livemode", True, "network_mismatch"),
        ("metadata", {}, "resource_mismatch"),
        ("metadata", "", "rail_unavailable"),
        ("status", "open", "action_required"),
        ("status", "expired", "offer_expired"),
        ("payment_intent", None, "rail_unavailable"),
        ("payment_intent", "pi_1", "rail_unavailable"),
        ("payment_intent.id", "ch_1", "rail_unavailable"),
    ],
)
async def test_each_fact_of_a_session_counts(stripe_says: Stripe, path: str, value: Any, code: str) -> None:
    stripe_says.answer = change(session_of(), path, value)
    with pytest.raises((PaymentRejected, RailUnavailable)) as caught:
        await stripe_says.verify(SESSION)
    assert caught.value.code == code


@pytest.mark.parametrize("payload", [INTENT, SESSION])
@pytest.mark.parametrize(
    ("status", "code"),
    [(404, "payment_declined"), (400, "payment_declined"), (500, "rail_unavailable"), (429, "rail_unavailable")],
)
async def test_what_stripe_does_not_know_or_say(
    stripe_says: Stripe, payload: dict[str, str], status: int, code: str
) -> None:
    stripe_says.status, stripe_says.answer = (
        status,
        {"error": {"type": "invalid_request_error", "message": "No such pi_1"}},
    )
    with pytest.raises((PaymentRejected, RailUnavailable)) as caught:
        await stripe_says.verify(payload)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("payload", "grace"), [(INTENT, PRESENT_GRACE), (SESSION, PRESENT_GRACE), ({"customer": SECRET}, 0)]
)
async def test_how_late_a_payment_may_be_presented(stripe_says: Stripe, payload: dict[str, str], grace: int) -> None:
    stripe_says.answer = intent_of() if payload is INTENT else session_of()
    stripe_says.known = SavedCustomer("cus_1", "pm_1")
    await stripe_says.verify(payload, now=EXPIRES + grace)
    before = len(stripe_says.asked)
    with pytest.raises(PaymentRejected) as caught:
        await stripe_says.verify(payload, now=EXPIRES + grace + 1)
    assert caught.value.code == "offer_expired"
    assert len(stripe_says.asked) == before  # Stripe is not asked


async def test_what_was_paid_at_the_last_moment_counts(stripe_says: Stripe) -> None:
    stripe_says.answer = change(intent_of(), "latest_charge.created", EXPIRES + PAID_WITHIN)
    await stripe_says.verify(INTENT, now=EXPIRES + PRESENT_GRACE)


async def test_a_customer_is_who_the_publisher_says(stripe_says: Stripe) -> None:
    stripe_says.known = SavedCustomer("cus_1", "pm_1")
    verified = await stripe_says.verify({"customer": SECRET})
    assert verified.payer == "cus_1"
    assert verified.state == {
        "customer": "cus_1",
        "payment_method": "pm_1",
        "verified_at": NOW + 10,
        "stripe_time": NOW + 7,
    }
    assert SECRET not in repr(verified)
    assert stripe_says.asked == ["GET /v1/payment_intents"]  # for its time
    for payload, customers in (({"customer": "x" * 16}, True), ({"customer": SECRET}, False)):
        with pytest.raises(PaymentRejected) as caught:
            await stripe_says.verify(payload, customers=customers)
        assert caught.value.code == "payment_declined"
