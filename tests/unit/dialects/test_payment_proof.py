"""`X-Payment-Proof`: one parser for several dialects, whose form decides; and what these dialects share."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.dialects import OPTIONAL_DIALECTS, PaymentUri, XPayment, XPrice
from rail402.dialects._payment_proof import (
    checked_token,
    decimal_text,
    expiry_of,
    first_offer,
    json_body,
    parse_proof,
    token_for,
    write_proof,
)
from rail402.errors import MalformedInput, PaymentRejected
from rail402.protocol.dialect import Context, Dialect, Fields
from rail402.protocol.order import EMPTY_BODY_DIGEST
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Registry

from .dialect_fakes import BASE, CLIENT, LIGHTNING, NOW, SERVER, STRIPE, challenge_of, charge_of, offer_of, vectors

VECTORS = vectors("payment_proof.json")
HASH, PREIMAGE = "0x" + "ab" * 32, "cd" * 32


def payments(dialect: Dialect, *lines: tuple[str, str], context: Context = SERVER) -> list[Payment]:
    return dialect.payments(Fields(lines), EMPTY_BODY_DIGEST, context)


# --- the parser


@pytest.mark.parametrize("vector", VECTORS["accept"], ids=lambda vector: vector["value"][:20])
def test_reads(vector: dict[str, Any]) -> None:
    assert parse_proof(vector["value"]) == vector["proof"]
    assert parse_proof(write_proof(vector["proof"])) == vector["proof"]


@pytest.mark.parametrize("value", [*VECTORS["reject"], "e" * 65_537, "{" + " " * 65_536 + "}"], ids=lambda v: v[:20])
def test_refuses(value: str) -> None:
    with pytest.raises(MalformedInput, match=r"^The payment cannot be read: x-payment-proof: "):
        parse_proof(value)


@pytest.mark.parametrize(
    ("proof", "value"),
    [
        ({"transaction": HASH}, HASH),
        ({"preimage": PREIMAGE}, PREIMAGE),
        ({"paymentIntent": "pi_1"}, "pi_1"),
    ],
)
def test_what_is_one_text_is_written_as_it_is(proof: dict[str, str], value: str) -> None:
    assert write_proof(proof) == value
    for more in (
        proof | {"signature": "0x"},
        dict.fromkeys(proof, 1),
        {name: f"{text}\r\n" for name, text in proof.items()},
    ):
        written = write_proof(more)
        assert json.loads(base64.b64decode(written, validate=True)) == more


@given(
    st.dictionaries(st.text(), st.recursive(st.none() | st.integers(-(2**53), 2**53) | st.text(), st.lists), max_size=5)
)
def test_round_trip(proof: dict[str, Any]) -> None:
    with contextlib.suppress(UnicodeEncodeError):
        json.dumps(proof, ensure_ascii=False).encode()
        written = write_proof(proof)
        assert written.isascii()
        assert written.isprintable()
        assert parse_proof(written) == proof


@given(st.text(st.characters(max_codepoint=0xFF)) | st.binary().map(lambda raw: base64.b64encode(raw).decode()))
def test_hostile_values(value: str) -> None:
    with contextlib.suppress(MalformedInput):
        assert isinstance(parse_proof(value), dict)


# --- who takes it


@pytest.mark.parametrize("dialect", OPTIONAL_DIALECTS, ids=lambda dialect: dialect.name)
def test_the_field_makes_one_payment_with_its_token(dialect: Dialect) -> None:
    assert payments(dialect) == []
    (bare,) = payments(dialect, ("X-Payment-Proof", HASH))
    assert (bare.dialect, bare.rail, bare.payload) == (dialect.name, "base", {"proof": HASH})
    assert (bare.offer, bare.offer_token) == (None, None)
    (full,) = payments(dialect, ("X-Payment-Proof", HASH), ("X-Payment-Token", "k1.t"))
    assert full.offer_token == "k1.t"
    assert payments(dialect, ("X-Payment-Token", "k1.t"), ("X-Payment", "{}"), ("X-Price", "1")) == []


def test_all_of_them_find_the_same_payment() -> None:
    found = [payments(dialect, ("X-Payment-Proof", HASH))[0] for dialect in OPTIONAL_DIALECTS]
    assert len({(payment.rail, payment.payload["proof"], payment.token) for payment in found}) == 1


def test_a_proof_for_another_dialect_of_the_field_is_left_to_that() -> None:
    assert payments(XPayment(), ("X-Payment-Proof", PREIMAGE)) == []
    assert payments(XPrice(), ("X-Payment-Proof", PREIMAGE)) == []
    assert payments(PaymentUri(), ("X-Payment-Proof", PREIMAGE))[0].rail == "lightning"
    # It is for that one to say what is wrong with it.
    assert payments(XPrice(), ("X-Payment-Proof", '{"preimage":1}')) == []
    with pytest.raises(MalformedInput, match=r"payload\.proof"):
        payments(PaymentUri(), ("X-Payment-Proof", '{"preimage":1}'))


@pytest.mark.parametrize("dialect", OPTIONAL_DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("context", [SERVER, Context(specs=Registry([]), now=NOW)], ids=["rails", "none"])
def test_a_proof_that_nobody_takes_is_refused(dialect: Dialect, context: Context) -> None:
    with pytest.raises(PaymentRejected) as caught:
        payments(dialect, ("X-Payment-Proof", "pi_1"), context=context)
    assert caught.value.code == "method_not_offered"


def test_two_proofs_are_refused() -> None:
    with pytest.raises(MalformedInput) as caught:
        payments(XPrice(), ("X-Payment-Proof", HASH), ("X-Payment-Proof", "0x" + "00" * 32))
    assert caught.value.code == "several_payments"


@pytest.mark.parametrize("dialect", [XPrice(), PaymentUri()], ids=lambda dialect: dialect.name)
def test_these_formats_have_no_receipt(dialect: Dialect) -> None:
    (payment,) = payments(dialect, ("X-Payment-Proof", HASH))
    assert dialect.receipt(charge_of(offer_of(BASE), receipt="jws"), payment, SERVER) == []


# --- what they share


def test_the_one_offer_is_the_one_whose_proof_is_secret() -> None:
    found = first_offer("payment-uri", challenge_of(offer_of(STRIPE), offer_of(BASE), offer_of(LIGHTNING)), SERVER)
    assert found is not None
    assert found[0].rail == "lightning"
    found = first_offer("x-price", challenge_of(offer_of(BASE), offer_of(BASE, amount=1)), SERVER)
    assert found is not None
    assert found[0].amount == 3000
    assert first_offer("x-price", challenge_of(offer_of(LIGHTNING)), SERVER) is None


def test_a_token_goes_with_what_others_could_show() -> None:
    offer = offer_of(BASE)
    assert token_for(offer, SERVER) == offer.token
    assert token_for(offer_of(LIGHTNING), SERVER) is None


@pytest.mark.parametrize("value", ["", "a b", "a\r\nx: y", "ü", "a" * 513, 1, ["k1"], True])
def test_a_token_that_does_not_go_into_a_field(value: object) -> None:
    with pytest.raises(MalformedInput, match="visible ASCII"):
        checked_token(value, "offer_token")


def test_tokens() -> None:
    assert checked_token(None, "x") is None
    assert checked_token("k1.~!", "x") == "k1.~!"


@pytest.mark.parametrize(("value", "text"), [("0.10", "0.10"), (1, "1"), (0.1, "0.1"), ("003", "003")])
def test_decimals(value: object, text: str) -> None:
    assert decimal_text(value, "price") == text


@pytest.mark.parametrize(
    "value", ["", "1.", ".5", "-1", "+1", "1e3", 1e-7, -1, True, None, ["1"], "٣", "1,5", "9" * 31]
)
def test_what_is_no_plain_decimal(value: object) -> None:
    with pytest.raises(MalformedInput, match="plain decimal"):
        decimal_text(value, "price")


def test_expiry() -> None:
    assert expiry_of(None, "expires_at", CLIENT) == NOW + 300
    assert expiry_of(NOW + 5, "expires_at", CLIENT) == NOW + 5
    assert expiry_of(str(NOW), "expires_at", CLIENT) == NOW
    for value in (-1, 1.5, True, "soon", "", 10**12, [1]):
        with pytest.raises(MalformedInput, match="Unix seconds"):
            expiry_of(value, "expires_at", CLIENT)


def test_bodies() -> None:
    assert json_body(b' {"a": 1}', required=True) == {"a": 1}
    for body in (b"", b"<html>", b"[1]", b"{" + b" " * 131_072 + b"}"):
        assert json_body(body, required=True) == {}
    assert json_body(b"{oops", required=False) == {}
    with pytest.raises(MalformedInput):
        json_body(b"{oops", required=True)
