"""X-Receipt: the body's members, the bare receipt, and how tolerant reading is."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.dialects import XReceipt
from rail402.errors import ConfigurationError, MalformedInput, PaymentRejected
from rail402.protocol.dialect import Context, Fields
from rail402.protocol.offer import Offer
from rail402.protocol.order import EMPTY_BODY_DIGEST
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Registry

from .dialect_fakes import (
    BASE,
    CLIENT,
    KEYS,
    LIGHTNING,
    NOW,
    ORDER,
    SERVER,
    STRIPE,
    challenge_of,
    charge_of,
    name_of,
    offer_of,
    terms,
    vectors,
)

X = XReceipt()
VECTORS = vectors("x_receipt.json")
PAYMENT = {"network": "lightning", "invoice": "lnbcrt1", "amount_sats": 21, "expiry_seconds": 600}


def offers(document: object, context: Context = CLIENT) -> list[Offer]:
    return X.offers(Fields(), json.dumps(document).encode(), context)


def payments(*values: str, context: Context = SERVER) -> list[Payment]:
    return X.payments(Fields(("X-Receipt", value) for value in values), EMPTY_BODY_DIGEST, context)


@pytest.mark.parametrize("vector", VECTORS["accept"], ids=name_of)
def test_bodies_that_are_read(vector: dict[str, Any]) -> None:
    assert [offer.amount for offer in offers(vector["body"])] == vector["amounts"]


@pytest.mark.parametrize("vector", VECTORS["reject"], ids=name_of)
def test_bodies_that_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput):
        offers(vector["body"])


@pytest.mark.parametrize("vector", VECTORS["payments"], ids=name_of)
def test_receipts_that_are_read(vector: dict[str, Any]) -> None:
    (payment,) = payments(vector["value"])
    assert payment.rail == vector["rail"]


@pytest.mark.parametrize("vector", VECTORS["refused_payments"], ids=name_of)
def test_receipts_that_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput):
        payments(vector["value"])


# --- server


def test_the_body_says_the_first_offer_that_fits() -> None:
    envelope = X.challenge(challenge_of(offer_of(STRIPE), offer_of(LIGHTNING), offer_of(BASE)), SERVER)
    assert envelope.fields == ()
    assert envelope.body == {
        "type": "x402",
        "payment": {
            "network": "lightning",
            "amount_sats": 3000,
            "expiry_seconds": 60,
            "payee": "payee",
            "invoice": "lnbcrt1",
        },
        "retry_after": "payment",
    }


def test_no_offer_no_body() -> None:
    assert X.challenge(challenge_of(offer_of(STRIPE)), SERVER).body == {}


@pytest.mark.parametrize(("value", "rail"), [("base-0xabc", "base"), ("  lightning-00ff\t", "lightning")])
def test_the_receipt_goes_to_the_rail_that_knows_it(value: str, rail: str) -> None:
    (payment,) = payments(value)
    assert (payment.dialect, payment.rail) == ("x-receipt", rail)
    assert payment.payload == {"proof": value.strip().partition("-")[2]}
    assert payment.offer is None


def test_no_field_no_payment() -> None:
    assert payments() == []


@pytest.mark.parametrize("value", ["", "nonsense", "stripe-pi_1", "\xff" * 100])
def test_what_no_rail_knows_is_refused_and_told_what_would_do(value: str) -> None:
    with pytest.raises(MalformedInput, match=r"preimage.*transaction hash.*PaymentIntent id.*: base, lightning$"):
        payments(value)


def test_without_rails_nothing_would_do() -> None:
    with pytest.raises(MalformedInput, match=r"rails: none$"):
        payments("x", context=Context(specs=Registry([]), now=NOW))


def test_a_rail_that_knows_it_may_say_what_is_wrong_unless_another_takes_it() -> None:
    with pytest.raises(MalformedInput, match="is cut short"):
        payments("base-")
    greedy = type("Greedy", (), {"decode_proof": staticmethod(lambda wire: dict(wire))})()
    other = type("Other", (), {"name": "other", "bindings": {"x-receipt": greedy}})()
    context = Context(specs=Registry([BASE, other]), now=NOW)  # type: ignore[list-item]
    assert payments("base-", context=context)[0].rail == "other"


def test_two_receipts_are_refused() -> None:
    assert len(payments("base-1", "base-1")) == 1
    with pytest.raises(MalformedInput) as caught:
        payments("base-1", "base-2")
    assert caught.value.code == "several_payments"


def test_the_signed_receipt_is_handed_over() -> None:
    (payment,) = payments("base-1")
    assert X.receipt(charge_of(offer_of(BASE), receipt="jws"), payment, SERVER) == [("X-Receipt-Record", "jws")]
    assert X.receipt(charge_of(offer_of(BASE)), payment, SERVER) == []


# --- client


def test_reads_the_published_form_and_pays_it() -> None:
    document = {"type": "x402", "payment": PAYMENT, "retry_after": "payment"}
    (offer,) = offers(document)
    assert (offer.rail, offer.amount, offer.expires_at, offer.dialect) == ("lightning", 21, NOW + 600, "x-receipt")
    assert offer.envelope == {"payment": PAYMENT}
    assert X.credential(offer, {"proof": "00ff"}, CLIENT) == [("X-Receipt", "lightning-00ff")]


@pytest.mark.parametrize(
    ("changes", "amount", "expires_at"),
    [
        ({"amount_sats": "0021"}, 21, NOW + 600),
        ({"expiry_seconds": "30"}, 21, NOW + 30),
        ({"expiry_seconds": None}, 21, NOW + 3600),
        ({"memo": "hello", "more": {"a": [1]}, "network": None}, 21, NOW + 600),
    ],
)
def test_small_differences_are_tolerated(changes: dict[str, Any], amount: int, expires_at: int) -> None:
    for document in ({"type": "x402"}, {}, {"type": "lightning", "error": "pay", "x402Version": 1}):
        (offer,) = offers(document | {"payment": PAYMENT | changes})
        assert (offer.amount, offer.expires_at) == (amount, expires_at)
        assert offer.envelope == {"payment": PAYMENT | changes}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"Payment required",
        b"<html>" + b" " * 2_000_000,
        b"[1]",
        b"{}",
        b'{"type":"x402"}',
        b'{"type":"x402","payment":null}',
        b'{"type":"x402","payment":"soon"}',
        b'{"payment":{"status":"overdue"}}',
        b'{"type":"x402","payment":{"network":"dogecoin"}}',
    ],
)
def test_bodies_without_an_offer(body: bytes) -> None:
    assert X.offers(Fields(), body, CLIENT) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"expiry_seconds": 0},
        {"expiry_seconds": -1},
        {"expiry_seconds": True},
        {"expiry_seconds": "soon"},
        {"expiry_seconds": 1.5},
        {"expiry_seconds": 2**31},
        {"expiry_seconds": "9" * 17},
        {"amount_sats": "2e1"},
        {"amount_sats": "٢١"},
        {"amount_sats": 0},
        {"amount_sats": -21},
        {"amount_sats": None},
    ],
)
def test_refused_payment_objects(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput, match=r"payment\.|amount|offer"):
        offers({"type": "x402", "payment": PAYMENT | changes})


@pytest.mark.parametrize(
    "body", [b"{oops", b' \n{"a":1,"a":2}', b'{"a":1e999}', b"{" + b" " * 1_048_576 + b"}", b'{"a":"\xff"}']
)
def test_refused_bodies(body: bytes) -> None:
    with pytest.raises(MalformedInput, match="body"):
        X.offers(Fields(), body, CLIENT)


# --- properties


@given(st.sampled_from([BASE, LIGHTNING]), st.integers(1, 10**15), st.integers(1, 2**31 - 1), st.text(min_size=1))
def test_round_trip(rail: Any, amount: int, seconds: int, payee: str) -> None:
    offer = offer_of(rail, amount=amount, seconds=seconds, payee=payee)
    (read,) = offers(X.challenge(challenge_of(offer), SERVER).body)
    assert terms(read) == terms(offer) | {"token": None, "expires_at": NOW + seconds, "timeout_seconds": 60}
    (payment,) = X.payments(Fields(X.credential(read, {"proof": "p"}, CLIENT)), EMPTY_BODY_DIGEST, SERVER)
    assert (payment.rail, payment.payload) == (rail.name, {"proof": "p"})
    assert KEYS.current == "k1"


@given(st.binary() | st.binary().map(lambda tail: b"{" + tail))
def test_hostile_bodies(body: bytes) -> None:
    with contextlib.suppress(MalformedInput):
        X.offers(Fields(), body, CLIENT)


@given(
    st.dictionaries(
        st.sampled_from([*PAYMENT, "payee", "x"]),
        st.none() | st.integers() | st.text() | st.floats(allow_nan=False) | st.lists(st.integers()),
    )
)
def test_hostile_payment_objects(payment: dict[str, Any]) -> None:
    with contextlib.suppress(MalformedInput):
        offers({"type": "x402", "payment": payment})


@given(st.text(st.characters(max_codepoint=0xFF)))
def test_hostile_receipts(value: str) -> None:
    with contextlib.suppress(MalformedInput):
        payments(value)


# --- the token that goes with a receipt which is no secret


def test_a_public_receipt_has_the_offers_token_beside_it() -> None:
    offer = offer_of(BASE)
    payment = X.challenge(challenge_of(offer), SERVER).body["payment"]
    assert (payment["offer_token"], payment["order"]) == (offer.token, ORDER.digest)
    (read,) = offers({"payment": payment, "type": "x402"})
    lines = X.credential(read, {"proof": "00"}, CLIENT)
    assert lines == [("X-Receipt", "base-00"), ("X-Payment-Token", offer.token)]
    (shown,) = X.payments(Fields(lines), EMPTY_BODY_DIGEST, SERVER)
    assert (shown.offer, shown.token) == (None, offer.token)


def test_where_the_rail_says_no_expiry_the_offers_own_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    binding: Any = BASE.bindings["x-receipt"]
    said = {name: value for name, value in binding.encode_offer(offer_of(BASE)).items() if name != "expiry_seconds"}
    monkeypatch.setattr(type(binding), "encode_offer", lambda self, offer: said)
    late = Context(specs=SERVER.specs, now=NOW + 900)
    for context, seconds in ((SERVER, 300), (late, 1)):
        assert X.challenge(challenge_of(offer_of(BASE)), context).body["payment"]["expiry_seconds"] == seconds


def test_the_receipt_that_is_a_secret_comes_first() -> None:
    body = X.challenge(challenge_of(offer_of(BASE), offer_of(LIGHTNING)), SERVER).body
    assert body["payment"]["network"] == "lightning"


@pytest.mark.parametrize("token", ["a\r\nx: y", 7, "", "a b"])
def test_a_token_that_does_not_go_into_a_field_is_refused(token: object) -> None:
    with pytest.raises(MalformedInput, match=r"payment\.offer_token"):
        offers({"type": "x402", "payment": PAYMENT | {"offer_token": token}})


def test_a_payment_object_that_comes_back_is_proven_by_its_token() -> None:
    offer = offer_of(BASE)
    payment = X.challenge(challenge_of(offer), SERVER).body["payment"]
    found = X.offer_of({"payment": payment}, SERVER)
    assert terms(found) == terms(offer)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"offer_token": None}, "offer_unknown"),
        ({"offer_token": "k1.1.a.b"}, "offer_unknown"),
        ({"order": None}, "offer_unknown"),
        ({"order": "F" * 64}, "offer_unknown"),
        ({"order": "f" * 64}, "resource_mismatch"),
        ({"amount_sats": 1}, "resource_mismatch"),
        ({"payee": "me"}, "resource_mismatch"),
        ({"network": "dogecoin"}, "offer_unknown"),
    ],
)
def test_one_that_was_altered_is_not(changes: dict[str, Any], code: str) -> None:
    payment = X.challenge(challenge_of(offer_of(BASE)), SERVER).body["payment"]
    with pytest.raises(PaymentRejected) as caught:
        X.offer_of({"payment": payment | changes}, SERVER)
    assert caught.value.code == code


def test_nothing_that_could_be_proven() -> None:
    with pytest.raises(MalformedInput, match="payment object"):
        X.offer_of({"payment": "soon"}, SERVER)
    with pytest.raises(ConfigurationError, match="offer keys"):
        X.offer_of({"payment": {}}, CLIENT)
