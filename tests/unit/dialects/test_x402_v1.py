"""x402 version 1: the challenge in the body, and payments that bring nothing back."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.dialects import X402V1
from rail402.errors import MalformedInput, PaymentRejected
from rail402.protocol.charge import PaymentState
from rail402.protocol.dialect import Fields
from rail402.protocol.offer import Offer
from rail402.protocol.order import EMPTY_BODY_DIGEST
from rail402.protocol.payment import Payment

from .dialect_fakes import (
    BASE,
    CLIENT,
    LIGHTNING,
    NOW,
    ORDER,
    SERVER,
    STRIPE,
    challenge_of,
    charge_of,
    name_of,
    offer_of,
    vectors,
)

X402 = X402V1()
VECTORS = vectors("x402_v1.json")
PAID = {"x402Version": 1, "scheme": "exact", "network": "eip155:84532", "payload": {"proof": "sig"}}


def encoded(message: object) -> str:
    return base64.b64encode(json.dumps(message).encode()).decode()


def payments(message: object) -> list[Payment]:
    return X402.payments(Fields([("X-Payment", encoded(message))]), EMPTY_BODY_DIGEST, SERVER)


def offers(message: object) -> list[Offer]:
    return X402.offers(Fields(), json.dumps(message).encode(), CLIENT)


def required() -> dict[str, Any]:
    return X402.challenge(challenge_of(offer_of(BASE), description="An article"), SERVER).body


def test_the_challenge_is_the_body() -> None:
    envelope = X402.challenge(
        challenge_of(offer_of(STRIPE), offer_of(BASE), offer_of(LIGHTNING), description="An article"), SERVER
    )
    assert envelope.fields == ()
    assert envelope.body == {
        "x402Version": 1,
        "error": "X-PAYMENT header is required",
        "accepts": [
            {
                "scheme": "exact",
                "network": "eip155:84532",
                "maxAmountRequired": "3000",
                "asset": "coin",
                "payTo": "payee",
                "maxTimeoutSeconds": 60,
                "resource": ORDER.url,
                "description": "An article",
                "mimeType": "",
            }
        ],
    }


def test_a_refusal_keeps_its_own_words() -> None:
    assert "error" not in X402.challenge(challenge_of(offer_of(BASE), code="signature_invalid"), SERVER).body


def test_no_offer_no_challenge() -> None:
    assert X402.challenge(challenge_of(offer_of(STRIPE), offer_of(LIGHTNING)), SERVER).body == {}


def test_a_payment_brings_nothing_back() -> None:
    (payment,) = payments(PAID)
    assert (payment.dialect, payment.rail, payment.payload) == ("x402-v1", "base", {"proof": "sig"})
    assert (payment.offer, payment.offer_token) == (None, None)


def test_no_field_no_payment() -> None:
    assert X402.payments(Fields([("payment-signature", "x")]), EMPTY_BODY_DIGEST, SERVER) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"x402Version": 2}, "version 2 payments go in PAYMENT-SIGNATURE"),
        ({"payload": None}, "payload must be an object"),
        ({"payload": "sig"}, "payload must be an object"),
        ({"scheme": None}, "must be texts"),
        ({"network": 84532}, "must be texts"),
        ({"payload": {"proof": 5}}, r"payload\.proof"),
    ],
)
def test_what_cannot_be_read(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem):
        payments(PAID | change)


@pytest.mark.parametrize("change", [{"scheme": "upto"}, {"network": "base"}, {"payload": {"other": 1}}])
def test_what_no_rail_takes(change: dict[str, Any]) -> None:
    with pytest.raises(PaymentRejected) as caught:
        payments(PAID | change)
    assert caught.value.code == "method_not_offered"


def outcome(state: PaymentState, **facts: Any) -> dict[str, Any] | None:
    (payment,) = payments(PAID)
    lines = X402.receipt(charge_of(offer_of(BASE), state, **facts), payment, SERVER)
    if not lines:
        return None
    ((name, value),) = lines
    assert name == "X-PAYMENT-RESPONSE"
    message: dict[str, Any] = json.loads(base64.b64decode(value, validate=True))
    return message


def test_the_outcome_is_told_with_the_networks_old_name() -> None:
    common = {"network": "eip155:84532"}
    assert outcome(PaymentState.SETTLED, transaction="0xabc", payer="0xp") == common | {
        "success": True,
        "transaction": "0xabc",
        "payer": "0xp",
    }
    assert outcome(PaymentState.REJECTED, code="insufficient_funds") == common | {
        "success": False,
        "errorReason": "insufficient_funds",
        "transaction": "",
    }
    assert outcome(PaymentState.RELEASED) is None


def test_a_client_reads_and_pays() -> None:
    (offer,) = offers(required())
    assert (offer.rail, offer.dialect, offer.amount, offer.expires_at) == ("base", "x402-v1", 3000, NOW + 60)
    ((name, value),) = X402.credential(offer, {"proof": "sig"}, CLIENT)
    assert (name, json.loads(base64.b64decode(value, validate=True))) == ("X-PAYMENT", PAID)


def test_nulls_are_passed_over_and_other_entries_left_alone() -> None:
    entry = required()["accepts"][0]
    other = entry | {"network": "solana"}
    (offer,) = offers({"x402Version": 1, "accepts": [other, entry | {"outputSchema": None, "extra": None}]})
    assert offer.amount == 3000


@pytest.mark.parametrize("body", [b"", b"[1]", b"not json", b"{}", b'{"x402Version":2,"accepts":[]}', b" " * 200_000])
def test_other_bodies_are_left_alone(body: bytes) -> None:
    with contextlib.suppress(MalformedInput):
        assert X402.offers(Fields(), body, CLIENT) == []


@pytest.mark.parametrize(
    "message",
    [
        {"x402Version": 1},
        {"x402Version": 1, "accepts": {}},
        {"x402Version": 1, "accepts": [5]},
        {"x402Version": 1, "accepts": [{"maxTimeoutSeconds": "60"}]},
        {"x402Version": 1, "accepts": [{"maxTimeoutSeconds": 0}]},
    ],
)
def test_a_challenge_that_cannot_be_used(message: object) -> None:
    with pytest.raises(MalformedInput):
        offers(message)


@pytest.mark.parametrize("vector", VECTORS["accept"], ids=name_of)
def test_bodies_that_are_read(vector: dict[str, Any]) -> None:
    assert [offer.amount for offer in offers(vector["body"])] == vector["amounts"]


@pytest.mark.parametrize("vector", VECTORS["reject"], ids=name_of)
def test_bodies_that_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput):
        offers(vector["body"])


@pytest.mark.parametrize("vector", VECTORS["payments"], ids=name_of)
def test_payments_that_are_read(vector: dict[str, Any]) -> None:
    (payment,) = X402.payments(Fields([("X-PAYMENT", vector["value"])]), EMPTY_BODY_DIGEST, SERVER)
    assert (payment.rail, payment.payload) == ("base", {"proof": "sig"})


@pytest.mark.parametrize("vector", VECTORS["refused_payments"], ids=name_of)
def test_payments_that_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises((MalformedInput, PaymentRejected)) as caught:
        X402.payments(Fields([("X-PAYMENT", vector["value"])]), EMPTY_BODY_DIGEST, SERVER)
    assert caught.value.code == vector["code"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@given(json_values, st.sampled_from(["x402Version", "scheme", "network", "payload", "accepts"]))
def test_hostile_members_give_typed_errors(value: Any, member: str) -> None:
    with contextlib.suppress(MalformedInput, PaymentRejected):
        payments(PAID | {member: value})
    with contextlib.suppress(MalformedInput):
        offers(required() | {member: value})


@given(st.binary(max_size=200))
def test_hostile_bytes_give_typed_errors(data: bytes) -> None:
    with contextlib.suppress(MalformedInput, PaymentRejected):
        X402.payments(Fields([("x-payment", data.decode("latin-1"))]), EMPTY_BODY_DIGEST, SERVER)
    with contextlib.suppress(MalformedInput):
        X402.offers(Fields(), b"{" + data, CLIENT)
