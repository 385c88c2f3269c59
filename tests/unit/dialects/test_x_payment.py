"""X-Payment: one JSON object in a response field, the signed transfer in `X-Payment-Proof`."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.dialects import X402V1, XPayment
from rail402.errors import MalformedInput
from rail402.protocol.base import sha256_hex
from rail402.protocol.dialect import Fields
from rail402.protocol.order import EMPTY_BODY_DIGEST

from .dialect_fakes import BASE, CLIENT, LIGHTNING, NOW, SERVER, challenge_of, charge_of, offer_of, terms
from .document_vectors import ALL, read, summary

X = XPayment()
HASH = "0x" + "ab" * 32


def test_the_field_says_one_offer() -> None:
    offer = offer_of(BASE)
    said = X.challenge(challenge_of(offer_of(LIGHTNING), offer, offer_of(BASE, amount=5)), SERVER)
    ((name, value),) = said.fields
    assert (name, said.body) == ("X-Payment", {})
    assert json.loads(value) == {
        "price": "3000",
        "receiver": "payee",
        "network": "eip155:84532",
        "asset": "coin",
        "nonce": "0x" + sha256_hex((offer.token or "").encode()),
        "expires_at": NOW + 300,
        "offer_token": offer.token,
    }


def test_no_offer_no_field() -> None:
    assert X.challenge(challenge_of(offer_of(LIGHTNING)), SERVER).fields == ()


def test_a_secret_proof_needs_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BASE, "bare_replay", True)
    ((_, value),) = X.challenge(challenge_of(offer_of(BASE)), SERVER).fields
    assert "offer_token" not in json.loads(value)


def test_the_direction_decides_whose_field_it_is() -> None:
    ((_, challenge),) = X.challenge(challenge_of(offer_of(BASE)), SERVER).fields
    assert X.payments(Fields([("X-Payment", challenge)]), EMPTY_BODY_DIGEST, SERVER) == []
    assert X402V1().offers(Fields([("X-Payment", challenge)]), b"", CLIENT) == []
    assert set(X.request_fields).isdisjoint(X402V1.request_fields)


def test_the_signed_receipt_is_handed_over() -> None:
    (payment,) = X.payments(Fields([("X-Payment-Proof", HASH)]), EMPTY_BODY_DIGEST, SERVER)
    assert X.receipt(charge_of(offer_of(BASE), receipt="jws"), payment, SERVER) == [("X-Payment-Receipt", "jws")]
    assert X.receipt(charge_of(offer_of(BASE)), payment, SERVER) == []


@pytest.mark.parametrize("vector", ALL["x-payment"]["accept"], ids=str)
def test_reads(vector: dict[str, Any]) -> None:
    assert [summary(offer) for offer in read("x-payment", vector)] == vector["offers"]


@pytest.mark.parametrize("vector", ALL["x-payment"]["reject"], ids=str)
def test_refuses(vector: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput):
        read("x-payment", vector)


@pytest.mark.parametrize("line", ["{" + " " * 65_536 + "}", "e" * 65_537], ids=["json", "base64"])
def test_refuses_what_is_too_long(line: str) -> None:
    with pytest.raises(MalformedInput, match="longer than 65536 bytes"):
        X.offers(Fields([("X-Payment", line)]), b"", CLIENT)


@given(st.integers(1, 10**15), st.integers(1, 299), st.text(min_size=1))
def test_round_trip(amount: int, seconds: int, payee: str) -> None:
    offer = offer_of(BASE, amount=amount, payee=payee)
    (found,) = X.offers(Fields(X.challenge(challenge_of(offer), SERVER).fields), b"", CLIENT)
    assert terms(found) == terms(offer) | {"token": None, "timeout_seconds": 60}
    lines = X.credential(found, {"proof": HASH}, CLIENT)
    assert lines == [("X-Payment-Proof", HASH), ("X-Payment-Token", offer.token)]
    (payment,) = X.payments(Fields(lines), EMPTY_BODY_DIGEST, SERVER)
    assert (payment.rail, payment.payload, payment.token) == ("base", {"proof": HASH}, offer.token)
    assert X.credential_field(found) == "x-payment-proof"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=5,
)


@given(
    st.text(st.characters(max_codepoint=0xFF))
    | st.dictionaries(
        st.sampled_from(["price", "receiver", "network", "offer_token", "expires_at", "x"]),
        _JSON | st.just("eip155:84532") | st.just("1"),
    ).map(json.dumps)
)
def test_hostile_fields(line: str) -> None:
    with contextlib.suppress(MalformedInput):
        X.offers(Fields([("X-Payment", line)]), b"", CLIENT)
