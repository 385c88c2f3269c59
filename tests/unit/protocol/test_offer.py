"""The terms of an offer, and their canonical form."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from rail402.money import Money
from rail402.protocol.offer import Flow, Mechanism, Offer

Make = Callable[..., Offer]

# One change to each term that a payer or a middleman might like to make.
ALTERED: dict[str, Any] = {
    "rail": "lightning",
    "mechanism": "permit2",
    "network": "eip155:84532",
    "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
    "amount": 2999,
    "payee": "0x0000000000000000000000000000000000000001",
    "timeout_seconds": 181,
    "flow": Flow.UPFRONT,
    "extra": {"name": "USD Coin", "version": "1"},
}
# The token carries the expiry; currency and exponent are looked up by asset; the rest is how the offer travelled.
NOT_TERMS: dict[str, Any] = {
    "expires_at": 1,
    "currency": "USD",
    "exponent": 2,
    "token": "k.1.n.m",
    "dialect": "mpp",
    "envelope": {"id": "x"},
}


def test_every_field_is_a_term_or_is_known_not_to_be() -> None:
    assert set(Offer.model_fields) == set(ALTERED) | set(NOT_TERMS)


@pytest.mark.parametrize("term", ALTERED)
def test_an_altered_term_is_another_offer(offer: Offer, term: str) -> None:
    assert offer.model_copy(update={term: ALTERED[term]}).canonical != offer.canonical


@pytest.mark.parametrize("field", NOT_TERMS)
def test_what_is_no_term_does_not_count(offer: Offer, field: str) -> None:
    assert offer.model_copy(update={field: NOT_TERMS[field]}).canonical == offer.canonical


@pytest.mark.parametrize("term", ALTERED)
def test_a_copy_with_another_term_is_canonical_anew(offer: Offer, term: str) -> None:
    known = offer.canonical
    for also in ({}, {"token": "k.1.n.m"}):
        copy = offer.model_copy(update={term: ALTERED[term], **also})
        assert copy.canonical != known
        assert copy.canonical == Offer(**copy.model_dump()).canonical


@pytest.mark.parametrize("field", NOT_TERMS)
def test_a_copy_with_the_same_terms_stays_canonical(offer: Offer, field: str) -> None:
    assert offer.model_copy(update={field: NOT_TERMS[field]}).canonical == offer.canonical
    assert offer.model_copy(update={field: NOT_TERMS[field]}).canonical is offer.canonical


def test_what_is_looked_up_by_the_terms_is_of_the_same_terms(offer: Offer) -> None:
    known = offer.terms_key
    for name, value in {**ALTERED, **NOT_TERMS}.items():
        same = name in ("token", "expires_at", "dialect", "envelope")
        assert (offer.model_copy(update={name: value}).terms_key == known) is same, name


def test_the_canonical_form(offer: Offer) -> None:
    assert json.loads(offer.canonical) == {
        "rail": "base",
        "mechanism": "eip3009",
        "network": "eip155:8453",
        "asset": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
        "amount": "3000",
        "payee": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
        "timeout_seconds": 180,
        "flow": "authorization",
        "extra": {"name": "USD Coin", "version": "2"},
    }


def test_amounts_beyond_what_a_json_number_holds_stay_exact(make_offer: Make) -> None:
    huge = make_offer(amount=2**256 - 1)
    assert json.loads(huge.canonical)["amount"] == str(2**256 - 1)
    assert huge.canonical != make_offer(amount=2**256 - 2).canonical
    assert huge.price.to_atomic(6) == 2**256 - 1


@pytest.mark.parametrize("amount", [0, -1, 1.5, "1e3", "", None, float("nan")])
def test_an_amount_is_a_whole_number_above_zero(make_offer: Make, amount: object) -> None:
    with pytest.raises(ValidationError, match="amount"):
        make_offer(amount=amount)


def test_the_amount_as_money(offer: Offer) -> None:
    assert offer.price == Money(Decimal("0.003"), "USDC")


def test_the_token_and_what_travelled_are_not_in_the_repr(make_offer: Make) -> None:
    text = repr(make_offer(token="k1.1.secret-nonce.mac", envelope={"id": "secret-id"}))
    assert "secret" not in text


def test_an_offer_survives_its_json(make_offer: Make) -> None:
    offer = make_offer(token="k1.1.n.m", dialect="mpp", envelope={"id": "x", "deep": [1, {"a": None}]})
    assert Offer.model_validate_json(offer.model_dump_json()) == offer


def test_a_mechanism_names_its_flows_in_order() -> None:
    mechanism = Mechanism(
        name="bolt11", network="bip122:0", asset="BTC", currency="BTC", exponent=11, flows=(Flow.UPFRONT,)
    )
    assert (mechanism.step, mechanism.flows[0]) == (1, "upfront")
    with pytest.raises(ValidationError, match="flows"):
        Mechanism(name="a", network="b", asset="c", currency="USD", exponent=2, flows=("later",))


def test_a_mechanism_makes_offers_of_its_own() -> None:
    unit = {"network": "bip122:0", "asset": "BTC", "currency": "BTC", "exponent": 11}
    mechanism = Mechanism(name="bolt11", flows=(Flow.UPFRONT, Flow.ESCROW), **unit)
    terms: dict[str, Any] = {"payee": "02ab", "amount": 3000, "expires_at": 900, "timeout_seconds": 60}
    plain = Offer(rail="lightning", mechanism="bolt11", flow=Flow.UPFRONT, **unit, **terms)
    assert mechanism.offer("lightning", **terms) == plain
    other = plain.model_copy(update={"flow": Flow.ESCROW, "extra": {"invoice": "lnbc1"}})
    assert mechanism.offer("lightning", **terms, flow=Flow.ESCROW, extra={"invoice": "lnbc1"}) == other
