"""What is made once for all offers of the same terms: never for other terms, and never without bound."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from rail402.dialects import DEFAULT_DIALECTS, OPTIONAL_DIALECTS, X402V1, X402V2, Mpp, _rails
from rail402.dialects._rails import as_it_is, payments_in, written
from rail402.errors import Rail402Error
from rail402.protocol.base import Json
from rail402.protocol.dialect import Context, Dialect, Fields
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import EMPTY_BODY_DIGEST
from rail402.protocol.rail import Registry

from .dialect_fakes import BASE, KEYS, LIGHTNING, NOW, ORDER, SERVER, STRIPE, Rail, challenge_of, offer_of

OTHER_TERMS: dict[str, Any] = {
    "mechanism": "other",
    "network": "eip155:1",
    "asset": "other",
    "amount": 3001,
    "currency": "EUR",
    "exponent": 7,
    "payee": "other",
    "timeout_seconds": 61,
    "flow": Flow.ESCROW,
    "extra": {"more": "1"},
}


class Asked:
    """A binding that says all terms, and counts how often it was asked."""

    fixed_terms = True

    def __init__(self, *, silent: bool = False) -> None:
        self.times, self.silent = 0, silent

    def encode_offer(self, offer: Offer) -> Json | None:
        self.times += 1
        return None if self.silent else offer.model_dump(exclude={"token", "expires_at", "dialect", "envelope"})


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    _rails._kept.clear()
    yield
    _rails._kept.clear()


def context_of(binding: Asked) -> Context:
    rail = Rail(BASE.name, BASE.network, BASE.method, flow=BASE.flow)
    rail.bindings = {"mpp": binding}  # type: ignore[dict-item]
    return Context(specs=Registry([rail]), now=NOW, realm="api.example.com", keys=KEYS)  # type: ignore[list-item]


def names(wire: Json) -> list[str]:
    return list(wire)


def test_offers_of_the_same_terms_are_written_once() -> None:
    binding = Asked()
    context, offer = context_of(binding), offer_of(BASE)
    first = written("mpp", offer, context, as_it_is)
    for change in ({"token": "k1.9.n.m"}, {"expires_at": 9}, {"dialect": "mpp"}, {"envelope": {"a": 1}}):
        assert written("mpp", offer.model_copy(update=change), context, as_it_is) is first
    assert written("mpp", KEYS.issue(offer, ORDER, b"m" * 16), context, as_it_is) is first
    assert binding.times == 1


@pytest.mark.parametrize("term", OTHER_TERMS)
def test_offers_of_other_terms_are_written_anew(term: str) -> None:
    context, offer = context_of(Asked()), offer_of(BASE)
    other = offer.model_copy(update={term: OTHER_TERMS[term]})
    for each in (offer, other, offer):
        wire = written("mpp", each, context, as_it_is)
        assert wire is not None
        assert wire[term] == getattr(each, term)


def test_other_rails_and_other_ways_to_write_are_told_apart() -> None:
    one, other, silent, offer = Asked(), Asked(), Asked(silent=True), offer_of(BASE)
    written("mpp", offer, context_of(one), as_it_is)
    written("mpp", offer, context_of(other), as_it_is)
    assert (one.times, other.times) == (1, 1)
    assert written("mpp", offer, context_of(one), names) == list(one.encode_offer(offer) or {})
    for _ in range(2):
        assert written("mpp", offer, context_of(silent), as_it_is) is None
    assert silent.times == 1


def test_what_does_not_come_again_is_not_kept() -> None:
    for rail in (BASE, LIGHTNING, STRIPE):
        assert written("mpp", offer_of(rail), SERVER, as_it_is) is not None
    assert not _rails._kept


def test_what_is_kept_is_bounded_and_names_no_token() -> None:
    context = context_of(Asked())
    for amount in range(1, 600):
        offer = offer_of(BASE, amount=amount)
        written("mpp", offer, context, as_it_is)
        assert 0 < len(_rails._kept) <= 256
        assert str(offer.token) not in repr(_rails._kept)


@pytest.mark.parametrize("dialect", [*DEFAULT_DIALECTS, *OPTIONAL_DIALECTS], ids=lambda dialect: dialect.name)
def test_a_challenge_is_the_same_from_what_was_kept(dialect: Dialect, monkeypatch: pytest.MonkeyPatch) -> None:
    offers = [offer_of(BASE), offer_of(LIGHTNING), offer_of(STRIPE), offer_of(BASE, amount=1, payee="other")]
    challenges = [challenge_of(*some) for some in (offers, offers[2:], offers[::-1])]
    expected = [dialect.challenge(challenge, SERVER) for challenge in challenges]
    for rail in (BASE, LIGHTNING, STRIPE):
        for binding in rail.bindings.values():
            monkeypatch.setattr(type(binding), "fixed_terms", True, raising=False)
    for _ in range(2):
        assert [dialect.challenge(challenge, SERVER) for challenge in challenges] == expected
    assert _rails._kept or dialect.name == "l402", "which none of the three rails speaks"


# --- what a refused payment may be


def test_every_rail_that_knows_a_proof_may_be_meant() -> None:
    found = payments_in("mpp", {"proof": "p"}, SERVER, token="t")
    assert {payment.rail for payment in found} == {"base", "lightning", "stripe"}
    assert {(each.dialect, each.payload["proof"], each.token) for each in found} == {("mpp", "p", "t")}
    assert payments_in("mpp", {"proof": 5}, SERVER) == []
    assert payments_in("mpp", {"preimage": "p"}, SERVER) == []
    assert payments_in("x402-v1", {"scheme": "x", "network": "y"}, SERVER) == []


def shown(dialect: Dialect, field: str, value: str) -> set[tuple[str, str | None]]:
    """Return the rails and tokens of what a refused payment may be."""
    with pytest.raises(Rail402Error) as caught:
        dialect.payments(Fields([(field, value)]), EMPTY_BODY_DIGEST, SERVER)
    assert all(payment.payload == {"proof": "p"} for payment in caught.value.shown)
    return {(payment.rail, payment.token) for payment in caught.value.shown}


def encoded(message: object) -> str:
    return base64.b64encode(json.dumps(message).encode()).decode()


@pytest.mark.parametrize("accepted", [{}, {"scheme": "EXACT", "network": "x"}])
def test_a_refusal_of_x402_tells_what_was_shown(accepted: Json) -> None:
    message = {"accepted": accepted, "payload": {"proof": "p"}}
    assert shown(X402V2(), "payment-signature", encoded(message)) == {("base", None), ("lightning", None)}
    old = {"scheme": "EXACT", "network": "x", "payload": {"proof": "p"}}
    assert shown(X402V1(), "x-payment", encoded(old)) == {("base", None), ("lightning", None)}


@pytest.mark.parametrize(
    ("challenge", "token"),
    [
        (None, None),
        ({}, None),
        ({"id": "x", "opaque": encoded({"token": "t"})}, "t"),
        ({"opaque": {"token": "t"}}, "t"),
        ({"opaque": {"token": 5}}, None),
        ({"opaque": "!"}, None),
        ({"opaque": []}, None),
    ],
)
def test_a_refusal_of_mpp_tells_what_was_shown(challenge: Any, token: str | None) -> None:
    line = "Payment " + encoded({"challenge": challenge, "payload": {"proof": "p"}})
    assert shown(Mpp(), "authorization", line) == {("base", token), ("lightning", token), ("stripe", token)}
    line = "Payment " + encoded({"challenge": challenge, "payload": "p"})
    assert shown(Mpp(), "authorization", line) == set()
