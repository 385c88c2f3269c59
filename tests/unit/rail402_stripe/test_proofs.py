"""The four proofs: their forms, what an offer says it takes, and the keys that they use up."""

from __future__ import annotations

from typing import Any

import pytest

from rail402.errors import MalformedInput, PaymentRejected
from rail402.protocol.binding import OfferKeys
from rail402.protocol.offer import Offer
from rail402.protocol.payment import Payment
from rail402_stripe.proofs import (
    OtherProofs,
    Preparation,
    Proof,
    ProofKind,
    checkout_url_of,
    keys_of,
    offer_key,
    payload_of,
    preparation_of,
    proof_kinds_of,
    proof_of,
    spt_of,
    token_key,
)
from tests.unit.rail402_stripe.account import ORDER, Account

KEYS = OfferKeys({"k1": b"k" * 32})
URL = "https://shop.example/.well-known/rail402/stripe"
SECRET = "customer-secret-0123456789"
GOOD = {
    ProofKind.SPT: "spt_1",
    ProofKind.PAYMENT_INTENT: "pi_1",
    ProofKind.CHECKOUT_SESSION: "cs_test_1",
    ProofKind.CUSTOMER: SECRET,
}


async def payment_of(account: Account, payload: dict[str, str], nonce: bytes = b"n" * 16) -> Payment:
    """Return a payment of an offer of ours, with its token."""
    offer = KEYS.issue(await account.offer(), ORDER, nonce)
    return Payment(dialect="mpp", rail="stripe", payload=payload, offer=offer)


@pytest.mark.parametrize("kind", ProofKind)
def test_what_is_shown_is_read(kind: ProofKind) -> None:
    payload = payload_of(GOOD[kind], None, kind)
    assert payload == {kind.value: GOOD[kind]}
    assert proof_of(payload) == Proof(kind, GOOD[kind])
    assert payload_of(GOOD[kind], "e", kind) == {**payload, "externalId": "e"}
    assert GOOD[kind] not in repr(proof_of(payload))


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"spt": "spt_1", "customer": SECRET},
        {"spt": None},
        {"spt": 1},
        {"spt": "spt_"},
        {"spt": "spt_" + "a" * 251},
        {"spt": "spt_a/../refunds"},
        {"paymentIntent": "pi_1_secret_2"},  # the client secret does not travel
        {"paymentIntent": "pi_1/../2"},
        {"paymentIntent": "PI_1"},
        {"paymentIntent": "pi_é"},
        {"paymentIntent": "pi_1\n"},
        {"checkoutSession": "cs_"},
        {"checkoutSession": "cs_1?expand=a"},
        {"checkoutSession": ["cs_1"]},
        {"customer": "short"},
        {"customer": "c" * 513},
        {"customer": "with a space 0123456789"},
        {"customer": "ümläut-0123456789"},
    ],
)
def test_anything_else_is_malformed_and_not_repeated(payload: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput) as caught:
        proof_of(payload)
    assert caught.value.field.startswith("payload")
    for value in payload.values():
        assert not isinstance(value, str) or len(value) < 5 or value not in str(caught.value)


def test_a_token_is_asked_for() -> None:
    assert spt_of({"spt": "spt_1"}) == "spt_1"
    with pytest.raises(MalformedInput, match=r"payload\.spt"):
        spt_of({"paymentIntent": "pi_1"})


@pytest.mark.parametrize(
    ("others", "kinds"),
    [
        (OtherProofs(), {"spt"}),
        (OtherProofs(payment_intent=Preparation(URL, "pk_test_1")), {"spt", "paymentIntent"}),
        (OtherProofs(checkout_url=URL), {"spt", "checkoutSession"}),
        (OtherProofs(customers=True), {"spt", "customer"}),
    ],
)
async def test_an_offer_says_what_it_takes(account: Account, others: OtherProofs, kinds: set[str]) -> None:
    offer = (await account.offer()).model_copy(update={"extra": others.extra})
    assert proof_kinds_of(offer) == kinds
    assert preparation_of(offer) == others.payment_intent
    assert checkout_url_of(offer) == others.checkout_url
    account_alone = offer.model_copy(update={"payee": "acct_1"})
    assert proof_kinds_of(account_alone) == kinds - {"spt"}


async def test_the_keys_that_a_proof_uses_up(account: Account) -> None:
    def keys(payment: Payment) -> set[str]:
        return set(keys_of(payment, "stripe:test"))

    assert keys(await payment_of(account, {"spt": "spt_1"})) == {token_key("spt_1")}
    assert "spt_1" not in token_key("spt_1")
    assert keys(await payment_of(account, {"paymentIntent": "pi_1"})) == {"stripe:test:pi_1"}
    assert keys(await payment_of(account, {"checkoutSession": "cs_1"})) == {"stripe:test:cs_1"}


async def test_a_customer_has_another_key_for_each_offer(account: Account) -> None:
    def keys(payment: Payment) -> frozenset[str]:
        return keys_of(payment, "stripe:test")

    mine = {"customer": SECRET}
    first = await payment_of(account, mine)
    assert keys(first) == keys(await payment_of(account, mine))
    assert keys(first) != keys(await payment_of(account, mine, b"m" * 16))
    assert keys(first) != keys(await payment_of(account, {"customer": SECRET + "x"}))
    assert SECRET not in str(keys(first))


@pytest.mark.parametrize("garble", [lambda token: token[:-1], lambda token: "k9.x." + token.split(".", 2)[2]])
async def test_a_customer_is_known_by_the_nonce_of_a_garbled_token(account: Account, garble: Any) -> None:
    """Whether it has been paid with is to be found out, and nobody is asked to pay again because of the rest of it."""
    first = await payment_of(account, {"customer": SECRET})
    garbled = first.model_copy(update={"offer": None, "token": garble(first.offer_token)})
    assert keys_of(garbled, "stripe:test") == keys_of(first, "stripe:test")
    with pytest.raises(PaymentRejected):
        offer_key(garbled)


@pytest.mark.parametrize("token", [None, "", "x", "k1.1.n.m"])
async def test_what_needs_an_offer_is_refused_without(account: Account, token: str | None) -> None:
    offer: Offer = (await account.offer()).model_copy(update={"token": token})
    for payment in (
        Payment(dialect="mpp", rail="stripe", payload={"customer": SECRET}, offer=offer),
        Payment(dialect="mpp", rail="stripe", payload={"customer": SECRET}),
    ):
        with pytest.raises(PaymentRejected) as caught:
            keys_of(payment, "stripe:test")
        assert caught.value.code == "offer_unknown"
        with pytest.raises(PaymentRejected):
            offer_key(payment)
