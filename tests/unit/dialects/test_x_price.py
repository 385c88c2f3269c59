"""X-Price: a price and an address, in header fields or in nothing but the body."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.dialects import XPrice
from rail402.errors import MalformedInput
from rail402.protocol.dialect import Fields
from rail402.protocol.order import EMPTY_BODY_DIGEST

from .dialect_fakes import BASE, CLIENT, LIGHTNING, NOW, SERVER, challenge_of, offer_of, terms
from .document_vectors import ALL, read, summary

X = XPrice()
HASH = "0x" + "ab" * 32


def test_fields_and_body_say_one_offer() -> None:
    offer = offer_of(BASE)
    said = X.challenge(challenge_of(offer_of(LIGHTNING), offer, offer_of(BASE, amount=5)), SERVER)
    assert said.fields == [
        ("X-Payment-Required", "true"),
        ("X-Price", "3000"),
        ("X-Currency", "USDC"),
        ("X-Payment-Address", "payee"),
    ]
    assert said.body == {
        "price": "3000",
        "currency": "USDC",
        "paymentAddress": "payee",
        "network": "eip155:84532",
        "expiresAt": NOW + 300,
        "offerToken": offer.token,
    }


def test_no_offer_nothing_said() -> None:
    said = X.challenge(challenge_of(offer_of(LIGHTNING)), SERVER)
    assert (said.fields, said.body) == ((), {})


def test_a_secret_proof_needs_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BASE, "bare_replay", True)
    assert "offerToken" not in X.challenge(challenge_of(offer_of(BASE)), SERVER).body


@pytest.mark.parametrize("vector", ALL["x-price"]["accept"], ids=str)
def test_reads(vector: dict[str, Any]) -> None:
    assert [summary(offer) for offer in read("x-price", vector)] == vector["offers"]


@pytest.mark.parametrize("vector", ALL["x-price"]["reject"], ids=str)
def test_refuses(vector: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput):
        read("x-price", vector)


@pytest.mark.parametrize(
    ("said", "currency", "read_as"),
    [
        ("0.10", None, {"price": "0.10"}),
        (0.1, " USDC ", {"price": "0.1", "currency": "USDC"}),
        ("0.10USDC", None, {"price": "0.10", "currency": "USDC"}),
        ("0.10 usdc", "USDC", {"price": "0.10", "currency": "USDC"}),
        ("$ 0.10", None, {"price": "0.10", "currency": "USD"}),
        ("$0.10", "usd", {"price": "0.10", "currency": "usd"}),
    ],
)
def test_what_servers_write_for_a_price(
    said: object, currency: str | None, read_as: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wires: list[Any] = []
    monkeypatch.setattr(type(BASE.bindings["x-price"]), "decode_offer", lambda self, wire, **_: wires.append(wire))
    body = {"price": said, "currency": currency, "paymentAddress": "0xabc", "list": [1], "flag": True, "half": 0.5}
    assert X.offers(Fields(), json.dumps(body).encode(), CLIENT) == []
    assert wires[0] == {"paymentAddress": "0xabc", **read_as}


@given(st.integers(1, 10**15), st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_round_trip(amount: int, payee: str) -> None:
    offer = offer_of(BASE, amount=amount, payee=payee)
    said = X.challenge(challenge_of(offer), SERVER)
    (found,) = X.offers(Fields(said.fields), json.dumps(said.body).encode(), CLIENT)
    assert terms(found) == terms(offer) | {"token": None}
    for fields, body in ((Fields(said.fields), b""), (Fields(), json.dumps(said.body).encode())):
        (half,) = X.offers(fields, body, CLIENT)
        assert (half.amount, half.payee) == (amount, payee)
    lines = X.credential(found, {"proof": HASH}, CLIENT)
    (payment,) = X.payments(Fields(lines), EMPTY_BODY_DIGEST, SERVER)
    assert (payment.rail, payment.payload, payment.token) == ("base", {"proof": HASH}, offer.token)


_FIELD = st.text(st.characters(max_codepoint=0xFF), max_size=80)


@given(st.lists(st.tuples(st.sampled_from(["x-price", "x-currency", "x-payment-address"]), _FIELD)), st.binary())
def test_hostile_fields(lines: list[tuple[str, str]], body: bytes) -> None:
    with contextlib.suppress(MalformedInput):
        X.offers(Fields(lines), body, CLIENT)


@given(
    st.dictionaries(
        st.sampled_from(["price", "currency", "paymentAddress", "address", "network", "expiresAt", "offerToken"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()),
    )
)
def test_hostile_bodies(body: dict[str, Any]) -> None:
    with contextlib.suppress(MalformedInput):
        X.offers(Fields(), json.dumps(body).encode(), CLIENT)
