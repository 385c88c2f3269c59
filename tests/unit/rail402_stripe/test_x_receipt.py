"""Stripe in X-Receipt: MPP's request as the payment object, and an id as the receipt."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.errors import MalformedInput, PaymentRejected
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.payment import Payment
from rail402_stripe.currencies import currency
from rail402_stripe.proofs import OtherProofs, Preparation
from rail402_stripe.wire import StripeSpec

NOW = 1_800_000_000
SPEC = StripeSpec("stripe:test")
X = SPEC.bindings["x-receipt"]
URL = "https://shop.example/.well-known/rail402/stripe"
SECRET = "customer-secret-0123456789"
RECEIPTS = {
    "spt_1": {"spt": "spt_1"},
    "pi_1": {"paymentIntent": "pi_1"},
    "cs_test_1": {"checkoutSession": "cs_test_1"},
    f"customer:{SECRET}": {"customer": SECRET},
}
EVERY_PROOF = OtherProofs(payment_intent=Preparation(URL, "pk_test_1"), checkout_url=URL, customers=True)


def make(**changes: Any) -> Offer:
    terms: dict[str, Any] = {
        "payee": "profile_test_1",
        "amount": 50,
        "flow": Flow.ESCROW,
        "expires_at": NOW + 600,
        "payment_method_types": ["card", "link"],
    }
    return SPEC.offer(currency("usd"), **(terms | changes))


def test_the_payment_object_is_the_request_of_mpp() -> None:
    assert X.encode_offer(make()) == {
        "network": "stripe",
        "amount": "50",
        "currency": "usd",
        "methodDetails": {
            "paymentMethodTypes": ["card", "link"],
            "captureMethod": "manual",
            "networkId": "profile_test_1",
        },
    }


@pytest.mark.parametrize(
    "changes", [{}, {"flow": Flow.UPFRONT}, {"payee": "acct_1"}, {"other_proofs": EVERY_PROOF}, {"external_id": "e"}]
)
def test_an_offer_is_read_as_it_was_made(changes: dict[str, Any]) -> None:
    wire = X.encode_offer(make(**changes))
    assert wire is not None
    read = X.decode_offer({**wire, "expiry_seconds": 9, "offer_token": "t", "order": "o"}, expires_at=NOW + 600)
    assert read == make(**changes)


@pytest.mark.parametrize("network", [None, "lightning", "stripe:test", 1])
def test_payment_objects_of_others(network: object) -> None:
    assert X.decode_offer({"network": network, "amount": "1"}, expires_at=NOW) is None


@pytest.mark.parametrize("changes", [{"amount": 50}, {"amount": "0"}, {"currency": "xxx"}, {"methodDetails": None}])
def test_refused_payment_objects(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput):
        X.decode_offer({**(X.encode_offer(make()) or {}), **changes}, expires_at=NOW)


@pytest.mark.parametrize(("receipt", "payload"), RECEIPTS.items())
def test_receipts(receipt: str, payload: dict[str, str]) -> None:
    assert X.encode_proof(payload | {"externalId": "e", "clientSecret": "never sent"}) == {"receipt": receipt}
    assert X.decode_proof({"receipt": receipt}) == payload


@pytest.mark.parametrize("receipt", ["", "f" * 64, "0x" + "f" * 64, "in_1", "customer", "PI_1"])
def test_receipts_of_others(receipt: str) -> None:
    assert X.decode_proof({"receipt": receipt}) is None


@pytest.mark.parametrize("receipt", ["pi_", "pi_1_secret_2", "cs_", "spt_", "customer:", "customer:short", "pi_1 "])
def test_receipts_that_are_cut_short_or_say_too_much(receipt: str) -> None:
    with pytest.raises(MalformedInput) as caught:
        X.decode_proof({"receipt": receipt})
    assert "secret_2" not in str(caught.value)


@pytest.mark.parametrize("receipt", ["pi_1", "cs_test_1"])
def test_an_id_without_the_offers_token_is_no_proof(receipt: str) -> None:
    payload = X.decode_proof({"receipt": receipt})
    assert payload is not None
    offer = make(other_proofs=EVERY_PROOF)
    bare = Payment(dialect="x-receipt", rail="stripe", payload=payload)
    with pytest.raises(PaymentRejected, match="X-Payment-Token") as caught:
        SPEC.authenticate(offer, bare)
    assert caught.value.code == "replay_not_proven"
    assert SPEC.authenticate(offer, bare.model_copy(update={"token": "t"})).keys == {f"stripe:test:{receipt}"}
    assert not SPEC.bare_replay


def test_a_shared_payment_token_is_a_secret_and_is_taken_by_itself() -> None:
    bare = Payment(dialect="x-receipt", rail="stripe", payload={"spt": "spt_1"})
    assert SPEC.authenticate(make(), bare).keys


@given(st.text() | st.sampled_from(["pi_", "cs_", "spt_", "customer:"]).flatmap(lambda a: st.text().map(a.__add__)))
def test_hostile_receipts(receipt: str) -> None:
    with contextlib.suppress(MalformedInput):
        X.decode_proof({"receipt": receipt})
