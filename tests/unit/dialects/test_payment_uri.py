"""Payment URIs: links for payment, and the body's `payment_uri`."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.dialects import PaymentUri
from rail402.errors import MalformedInput
from rail402.protocol.dialect import Fields
from rail402.protocol.offer import Offer
from rail402.protocol.order import EMPTY_BODY_DIGEST

from .dialect_fakes import BASE, CLIENT, LIGHTNING, NOW, SERVER, STRIPE, challenge_of, offer_of, terms
from .document_vectors import ALL, read, summary

P = PaymentUri()
PROOFS = {"base": "0x" + "ab" * 32, "lightning": "cd" * 32}


def test_each_uri_is_a_link_and_pages_come_last() -> None:
    card, chain, invoice = offer_of(STRIPE, payee="shop"), offer_of(BASE), offer_of(LIGHTNING)
    page = {card.token or "": "https://shop.example/pay?a=b"}
    said = P.challenge(challenge_of(card, chain, invoice, pages=page), SERVER)
    assert said.fields == [
        ("Link", f'<base:payee/3000>; rel="payment"; token="{chain.token}"'),
        ("Link", '<lightning:payee/3000>; rel="payment"'),
        ("Link", '<https://shop.example/pay?a=b>; rel="payment"'),
    ]
    assert said.body == {
        "payment_uri": "base:payee/3000",
        "payment_amount": "0.003 USD",
        "expires_at": NOW + 300,
        "offer_token": chain.token,
    }


def test_a_page_alone() -> None:
    card = offer_of(STRIPE)
    said = P.challenge(challenge_of(card, pages={card.token or "": "https://shop.example/pay"}), SERVER)
    assert said.body["payment_uri"] == "https://shop.example/pay"
    assert "offer_token" not in said.body
    assert P.challenge(challenge_of(card), SERVER).body == {}


@pytest.mark.parametrize("vector", ALL["payment-uri"]["accept"], ids=str)
def test_reads(vector: dict[str, Any]) -> None:
    assert [summary(offer) for offer in read("payment-uri", vector)] == vector["offers"]


@pytest.mark.parametrize("vector", ALL["payment-uri"]["reject"], ids=str)
def test_refuses(vector: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput):
        read("payment-uri", vector)


def links(line: str) -> list[Offer]:
    return P.offers(Fields([("Link", line)]), b"", CLIENT)


def test_no_more_than_sixteen_links_are_read() -> None:
    line = ", ".join(f"<base:{n}/1>; rel=payment" for n in range(40))
    assert [offer.payee for offer in links(line)] == [str(n) for n in range(16)]


@pytest.mark.parametrize(
    "line",
    [
        "<base:a/1>; rel=payment" + "," * 65_600,
        "<" * 65_536,
        '<a:b>; x="' + "\\a" * 32_000,
        "<a:b>" + "; a" * 21_000 + "<",
        "<a:b>" + " " * 65_000,
        "<base:" + "a" * 9_000 + "/1>; rel=next",
        ", " * 32_000 + "<",
    ],
    ids=["too long", "brackets", "escapes", "parameters", "spaces", "target", "commas"],
)
def test_hostile_links_are_passed_over_in_no_time(line: str) -> None:
    before = time.monotonic()
    assert links(line) == []
    assert time.monotonic() - before < 1


@given(
    st.sampled_from([BASE, LIGHTNING]),
    st.integers(1, 10**15),
    st.from_regex(r"[A-Za-z0-9.@?=&-]{1,40}", fullmatch=True),
)
def test_round_trip(rail: Any, amount: int, payee: str) -> None:
    offer = offer_of(rail, amount=amount, payee=payee)
    said = P.challenge(challenge_of(offer), SERVER)
    body = json.dumps(said.body).encode()
    for fields, content in ((Fields(said.fields), body), (Fields(said.fields), b""), (Fields(), body)):
        (found,) = P.offers(fields, content, CLIENT)
        assert terms(found) == terms(offer) | {"token": None}
        assert found.envelope is not None
        assert found.envelope.get("token") == (offer.token if rail is BASE else None)
        (payment,) = P.payments(
            Fields(P.credential(found, {"proof": PROOFS[rail.name]}, CLIENT)), EMPTY_BODY_DIGEST, SERVER
        )
        assert (payment.rail, payment.token) == (rail.name, found.envelope.get("token"))
        assert payment.payload == {"proof": PROOFS[rail.name]}


@given(
    st.lists(
        st.text(st.characters(max_codepoint=0xFF)) | st.from_regex(r"(<[^>]*>|;|,|=|\"|rel|payment| )*"), max_size=3
    )
)
def test_hostile_fields(lines: list[str]) -> None:
    with contextlib.suppress(MalformedInput):
        P.offers(Fields(("Link", line) for line in lines), b"", CLIENT)


@given(
    st.dictionaries(
        st.sampled_from(["payment_uri", "offer_token", "expires_at"]),
        st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers()) | st.just("base:a/1"),
    )
)
def test_hostile_bodies(body: dict[str, Any]) -> None:
    with contextlib.suppress(MalformedInput):
        P.offers(Fields(), json.dumps(body).encode(), CLIENT)
