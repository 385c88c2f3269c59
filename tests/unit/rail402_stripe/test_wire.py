"""The rail's pure half: what an offer and a proof look like in MPP, and what is wrong with one."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.errors import ConfigurationError, MalformedInput, OfferRefused, PaymentRejected
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.rail import PublicHalves
from rail402_stripe.currencies import currency
from rail402_stripe.proofs import OtherProofs, Preparation, ProofKind
from rail402_stripe.wire import SANDBOX_PROFILE, StripeSpec, check_profile, payload_of, spt_of, token_key
from tests.unit.rail402_stripe.account import ORDER, present

NOW = 1_800_000_000
SPEC = StripeSpec("stripe:test")
MPP = SPEC.bindings["mpp"]
SPT = "spt_1RgaZcFPC5QUO6ZCDVZuVA8q"


def make(**changes: Any) -> Offer:
    terms: dict[str, Any] = {
        "payee": "profile_test_1",
        "amount": 50,
        "flow": Flow.ESCROW,
        "expires_at": NOW + 600,
        "payment_method_types": ["card", "link"],
    }
    return SPEC.offer(currency("usd"), **(terms | changes))


def wire(**changes: Any) -> dict[str, Any]:
    """A challenge as a server of another make sends it; `None` takes a member away."""
    details = {"networkId": "profile_1", "paymentMethodTypes": ["card"]}
    details |= changes.pop("details", {})
    request = {"amount": "5000", "currency": "usd", "methodDetails": details, "description": "One article"} | changes
    cleaned = {name: value for name, value in request.items() if value is not None}
    if isinstance(cleaned.get("methodDetails"), dict):
        cleaned["methodDetails"] = {name: value for name, value in details.items() if value is not None}
    return {"method": "stripe", "intent": "charge", "request": cleaned}


def test_the_mechanisms_say_how_each_currency_is_counted() -> None:
    usd, jpy, isk = StripeSpec("stripe:live", ["USD", "jpy", "isk"]).mechanisms
    assert (usd.name, usd.network, usd.asset, usd.currency) == ("spt", "stripe:live", "usd", "USD")
    assert [(each.exponent, each.step) for each in (usd, jpy, isk)] == [(2, 1), (0, 1), (2, 100)]
    assert usd.flows == (Flow.ESCROW, Flow.UPFRONT)


@pytest.mark.parametrize("arguments", [("stripe:test", []), ("stripe:test", ["usd", "USD"]), ("stripe:test", ["xxx"])])
def test_a_spec_without_usable_currencies_is_refused(arguments: Any) -> None:
    with pytest.raises(ConfigurationError):
        StripeSpec(*arguments)


def test_a_network_that_is_not_one_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="stripe:sandbox"):
        StripeSpec("stripe")  # type: ignore[arg-type]


# --- MPP


@pytest.mark.parametrize("flow", [Flow.ESCROW, Flow.UPFRONT])
@pytest.mark.parametrize("external_id", [None, "order-7"])
def test_an_offer_comes_back_as_it_was_sent(flow: Flow, external_id: str | None) -> None:
    offer = make(flow=flow, external_id=external_id)
    read = MPP.decode_offer(MPP.encode_offer(offer), expires_at=offer.expires_at)
    assert read == offer
    assert read.canonical == offer.canonical


def test_an_offer_has_the_form_of_the_draft() -> None:
    assert MPP.encode_offer(make(flow=Flow.UPFRONT, external_id="order-7")) == {
        "method": "stripe",
        "intent": "charge",
        "request": {
            "amount": "50",
            "currency": "usd",
            "externalId": "order-7",
            "methodDetails": {"networkId": "profile_test_1", "paymentMethodTypes": ["card", "link"]},
        },
    }


def test_a_reserved_amount_is_announced() -> None:
    assert MPP.encode_offer(make())["request"]["methodDetails"]["captureMethod"] == "manual"


def test_an_offer_of_another_server_is_read() -> None:
    challenge = wire(currency="EUR", recipient="acct_1", details={"metadata": {"cart": "9"}})
    offer = MPP.decode_offer(challenge, expires_at=NOW)
    assert offer is not None
    assert (offer.rail, offer.mechanism, offer.network) == ("stripe", "spt", "stripe:test")
    assert (offer.amount, offer.asset, offer.currency, offer.exponent) == (5000, "eur", "EUR", 2)
    assert (offer.payee, offer.flow, offer.expires_at) == ("profile_1", Flow.UPFRONT, NOW)
    assert str(offer.price) == "50 EUR"


@pytest.mark.parametrize("other", [{"method": "tempo"}, {"intent": "session"}, {"method": None}])
def test_what_other_methods_say_is_not_ours(other: dict[str, Any]) -> None:
    assert MPP.decode_offer(wire() | other, expires_at=NOW) is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"amount": None}, "amount"),
        ({"amount": 5000}, "amount"),
        ({"amount": "0"}, "amount"),
        ({"amount": "-5"}, "amount"),
        ({"amount": "5.0"}, "amount"),
        ({"amount": "05"}, "amount"),
        ({"amount": "٥"}, "amount"),
        ({"amount": "9" * 16}, "amount"),
        ({"currency": None}, "currency"),
        ({"currency": "zzz"}, "currency"),
        ({"currency": ["usd"]}, "currency"),
        ({"currency": "ＵＳＤ"}, "currency"),
        ({"methodDetails": None}, "methodDetails"),
        ({"methodDetails": "internal"}, "methodDetails"),
        ({"details": {"networkId": None}}, "networkId"),
        ({"details": {"networkId": 7}}, "networkId"),
        ({"details": {"networkId": "a/b"}}, "networkId"),
        ({"details": {"networkId": ""}}, "networkId"),
        ({"details": {"paymentMethodTypes": None}}, "paymentMethodTypes"),
        ({"details": {"paymentMethodTypes": []}}, "paymentMethodTypes"),
        ({"details": {"paymentMethodTypes": "card"}}, "paymentMethodTypes"),
        ({"details": {"paymentMethodTypes": [{}]}}, "paymentMethodTypes"),
        ({"details": {"paymentMethodTypes": ["card"] * 33}}, "paymentMethodTypes"),
        ({"externalId": 7}, "externalId"),
        ({"externalId": "x" * 513}, "externalId"),
    ],
)
def test_a_malformed_offer_names_the_member(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(MalformedInput) as caught:
        MPP.decode_offer(wire(**changes), expires_at=NOW)
    assert caught.value.field.startswith("request")
    assert caught.value.field.endswith(field)


@pytest.mark.parametrize("request_", [None, [], "x"])
def test_a_request_that_is_no_object_is_malformed(request_: object) -> None:
    with pytest.raises(MalformedInput):
        MPP.decode_offer(wire() | {"request": request_}, expires_at=NOW)


@pytest.mark.parametrize("external_id", [None, "order-7"])
def test_a_proof_travels_as_it_is(external_id: str | None) -> None:
    payload = payload_of(SPT, external_id)
    sent = MPP.encode_proof(payload)
    assert sent == ({"spt": SPT} if external_id is None else {"spt": SPT, "externalId": external_id})
    assert MPP.decode_proof({**sent, "unknown": 1}) == payload


def test_a_proof_of_another_method_is_not_ours() -> None:
    assert MPP.decode_proof({"preimage": "00"}) is None


@pytest.mark.parametrize(
    "spt", [None, 7, "", "spt_", "tok_1", "spt_a b", "spt_a/../b", "spt_é", "spt_" + "a" * 251, ["x"]]
)
def test_a_malformed_token_is_refused_without_being_repeated(spt: Any) -> None:
    with pytest.raises(MalformedInput) as caught:
        MPP.decode_proof({"spt": spt})
    assert caught.value.field == "payload.spt"
    assert "a b" not in str(caught.value)
    with pytest.raises(MalformedInput):
        SPEC.identify(present({"spt": spt}))


def test_a_malformed_external_id_is_refused() -> None:
    with pytest.raises(MalformedInput):
        MPP.decode_proof({"spt": SPT, "externalId": 7})


# --- keys and checks


def test_a_payment_is_known_by_the_hash_of_its_token() -> None:
    key = f"stripe:spt:{hashlib.sha256(SPT.encode()).hexdigest()}"
    payment = present({"spt": SPT})
    assert token_key(SPT) == key
    assert SPEC.identify(payment) == {key}
    verified = SPEC.authenticate(make(), payment)
    assert verified.keys == {key}
    assert SPT not in repr(verified)
    assert SPT not in repr(payment)
    assert not isinstance(SPEC, PublicHalves)
    assert spt_of(payment.payload) == SPT


def test_the_external_id_of_the_offer_must_come_back() -> None:
    offer = make(external_id="order-7")
    SPEC.authenticate(offer, present({"spt": SPT, "externalId": "order-7"}))
    for payload in ({"spt": SPT}, {"spt": SPT, "externalId": "order-8"}, {"spt": SPT, "externalId": "order-7 "}):
        with pytest.raises(PaymentRejected) as caught:
            SPEC.authenticate(offer, present(payload))
        assert caught.value.reason.mpp == "invalid-challenge"


def test_a_client_may_add_an_external_id_of_its_own() -> None:
    SPEC.authenticate(make(), present({"spt": SPT, "externalId": "mine"}))


# --- what a client checks


def test_a_good_offer_passes() -> None:
    SPEC.check_offer(make(), ORDER, now=NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "stripe:live"},
        {"network": "eip155:8453"},
        {"mechanism": "eip3009"},
        {"asset": "zzz"},
        {"currency": "EUR"},
        {"exponent": 0},
        {"amount": 100_000_000},
        {"flow": Flow.AUTHORIZATION},
        {"expires_at": NOW},
        {"payee": SANDBOX_PROFILE},
        {"payee": "a b"},
    ],
)
def test_an_offer_that_is_not_what_it_claims_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(OfferRefused):
        SPEC.check_offer(make().model_copy(update=changes), ORDER, now=NOW)


def test_a_fraction_that_the_currency_does_not_have_is_refused() -> None:
    offer = SPEC.offer(
        currency("isk"),
        payee="profile_test_1",
        amount=550,
        flow=Flow.UPFRONT,
        expires_at=NOW + 600,
        payment_method_types=["card"],
    )
    with pytest.raises(OfferRefused, match="whole unit"):
        SPEC.check_offer(offer, ORDER, now=NOW)


@pytest.mark.parametrize(
    ("profile", "network"),
    [
        (SANDBOX_PROFILE, "stripe:test"),
        (SANDBOX_PROFILE, "stripe:live"),
        ("internal", "stripe:live"),
        ("profile_test_61U92", "stripe:live"),
        ("profile_1", "stripe:sandbox"),
        ("internal", "stripe:sandbox"),
        ("", "stripe:test"),
        ("profile 1", "stripe:test"),
    ],
)
def test_a_profile_of_another_mode_is_refused(profile: str, network: Any) -> None:
    with pytest.raises(ConfigurationError):
        check_profile(profile, network)


@pytest.mark.parametrize(
    ("profile", "network"),
    [
        (SANDBOX_PROFILE, "stripe:sandbox"),
        ("internal", "stripe:test"),
        ("profile_test_61U92", "stripe:test"),
        ("profile_61U92", "stripe:live"),
    ],
)
def test_a_profile_of_the_mode_is_taken(profile: str, network: Any) -> None:
    check_profile(profile, network)


# --- what else a seller takes

PREPARE = f"{ORDER.origin}/.well-known/rail402/stripe"
OTHERS = [
    (
        OtherProofs(payment_intent=Preparation(PREPARE, "pk_test_1")),
        {"paymentIntent": {"url": PREPARE, "publishableKey": "pk_test_1"}},
    ),
    (OtherProofs(checkout_url=PREPARE), {"checkout": {"url": PREPARE}}),
    (OtherProofs(customers=True), {"customers": True}),
]


@pytest.mark.parametrize(("others", "details"), OTHERS)
@pytest.mark.parametrize("payee", ["profile_test_1", "acct_1"])
def test_what_else_is_taken_travels_and_comes_back(others: OtherProofs, details: dict[str, Any], payee: str) -> None:
    offer = make(other_proofs=others, payee=payee)
    said = MPP.encode_offer(offer)
    assert said["request"]["methodDetails"].items() >= details.items()
    assert (said["request"].get("recipient"), said["request"]["methodDetails"].get("networkId")) == (
        ("acct_1", None) if payee == "acct_1" else (None, payee)
    )
    assert MPP.decode_offer(said, expires_at=offer.expires_at) == offer
    SPEC.check_offer(offer, ORDER, now=NOW)


@pytest.mark.parametrize(
    ("details", "field"),
    [
        ({"paymentIntent": "x"}, "paymentIntent"),
        ({"paymentIntent": {"url": PREPARE}}, "paymentIntent"),
        ({"paymentIntent": {"url": PREPARE, "publishableKey": "sk_test_1"}}, "paymentIntent"),
        ({"paymentIntent": {"url": "javascript:alert(1)", "publishableKey": "pk_test_1"}}, "paymentIntent"),
        ({"checkout": True}, "checkout"),
        ({"checkout": {"url": 7}}, "checkout"),
        ({"checkout": {"url": "https://shop.example/ x"}}, "checkout"),
    ],
)
def test_what_else_is_malformed_names_the_member(details: dict[str, Any], field: str) -> None:
    with pytest.raises(MalformedInput) as caught:
        MPP.decode_offer(wire(details=details), expires_at=NOW)
    assert caught.value.field == f"request.methodDetails.{field}"


@pytest.mark.parametrize(
    "others",
    [
        OtherProofs(checkout_url="https://evil.example/.well-known/rail402/stripe"),
        OtherProofs(checkout_url=f"{ORDER.origin}.evil.example/stripe"),
        OtherProofs(payment_intent=Preparation("https://evil.example/stripe", "pk_test_1")),
        OtherProofs(payment_intent=Preparation(PREPARE, "pk_live_1")),
    ],
)
def test_a_payment_that_would_be_prepared_elsewhere_or_in_another_mode_is_refused(others: OtherProofs) -> None:
    with pytest.raises(OfferRefused):
        SPEC.check_offer(make(other_proofs=others), ORDER, now=NOW)


@pytest.mark.parametrize("payload", [{"paymentIntent": "pi_1"}, {"checkoutSession": "cs_1"}, {"customer": "c" * 16}])
def test_other_proofs_travel_without_what_their_payer_keeps(payload: dict[str, str]) -> None:
    kept = {"clientSecret": "pi_1_secret_2", "url": "https://checkout.example/"}
    assert MPP.encode_proof(payload | kept | {"externalId": "e"}) == payload | {"externalId": "e"}
    assert MPP.decode_proof(payload | kept) == payload


@pytest.mark.parametrize("payload", [{"paymentIntent": "pi_1"}, {"checkoutSession": "cs_1"}, {"customer": "c" * 16}])
def test_a_proof_that_the_offer_does_not_take_is_refused(payload: dict[str, str]) -> None:
    with pytest.raises(PaymentRejected) as caught:
        SPEC.authenticate(make(), present(payload))
    assert caught.value.code == "method_not_offered"
    with pytest.raises(PaymentRejected):
        SPEC.authenticate(make(payee="acct_1", other_proofs=OTHERS[0][0]), present({"spt": SPT}))


def test_no_proof_replays_by_itself() -> None:
    assert SPEC.bare_replay is False


# --- properties

NAMES = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.just("url"), inner, max_size=3)
    ),
    max_leaves=8,
)
WORDS = ["amount", "currency", "methodDetails", "externalId", "recipient"]
DETAILS = ["networkId", "paymentMethodTypes", "captureMethod", "customers", "paymentIntent", "checkout"]


def survives(said: Any) -> None:
    """Whatever is said, it is read as an offer that can be said again, or refused by name."""
    with contextlib.suppress(MalformedInput):
        offer = MPP.decode_offer(said, expires_at=NOW)
        if offer is not None:
            assert MPP.decode_offer(MPP.encode_offer(offer), expires_at=NOW) == offer
            with contextlib.suppress(OfferRefused):
                SPEC.check_offer(offer, ORDER, now=NOW)


@given(
    st.integers(1, 10**15 - 1),
    st.sampled_from([Flow.ESCROW, Flow.UPFRONT]),
    st.lists(NAMES, min_size=1, max_size=32),
    st.none() | st.text(max_size=512),
    st.sampled_from(["profile_test_1", "acct_1"]),
    st.builds(
        OtherProofs,
        payment_intent=st.none() | st.just(Preparation(PREPARE, "pk_test_1")),
        checkout_url=st.none() | st.just(PREPARE),
        customers=st.booleans(),
    ),
)
def test_any_offer_comes_back(
    amount: int, flow: Flow, types: list[str], external_id: str | None, payee: str, others: OtherProofs
) -> None:
    offer = make(
        amount=amount,
        flow=flow,
        payment_method_types=types,
        external_id=external_id,
        payee=payee,
        other_proofs=others,
    )
    read = MPP.decode_offer(json.loads(json.dumps(MPP.encode_offer(offer))), expires_at=offer.expires_at)
    assert read == offer
    assert read.canonical == offer.canonical


@given(st.sampled_from(WORDS), st.sampled_from(DETAILS), JSON)
def test_hostile_members_give_typed_errors(word: str, detail: str, value: Any) -> None:
    survives(wire() | {"request": value})
    survives(wire() | {"request": wire()["request"] | {word: value}})
    survives(wire(details={detail: value}))
    survives(wire(details={"paymentIntent": {"url": value, "publishableKey": "pk_test_1"}, "checkout": {"url": value}}))


@given(st.dictionaries(st.sampled_from(["method", "intent", "request"]) | st.text(max_size=6), JSON, max_size=4))
def test_hostile_json_gives_typed_errors(said: dict[str, Any]) -> None:
    survives(said)
    survives(wire() | {"request": said})


@given(st.dictionaries(st.sampled_from([*ProofKind, "externalId"]), JSON | st.just(SPT), max_size=3))
def test_hostile_proofs_give_typed_errors(said: dict[str, Any]) -> None:
    with contextlib.suppress(MalformedInput, PaymentRejected):
        read = MPP.decode_proof(said)
        if read is None:
            assert said.keys().isdisjoint(ProofKind)
        else:
            assert MPP.decode_proof(MPP.encode_proof(read)) == read
            SPEC.authenticate(make(), present(read))
    with contextlib.suppress(MalformedInput, PaymentRejected):
        SPEC.identify(present(said))
