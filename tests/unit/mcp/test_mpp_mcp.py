"""MPP over JSON-RPC: the error that asks, the credential in `_meta`, the receipt in the result."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.dialects._base64_json import from_base64
from rail402.dialects.mpp import Mpp, challenge_id
from rail402.errors import MalformedInput, PaymentRejected, Rail402Error
from rail402.mcp import MppMcp
from rail402.protocol.charge import PaymentState
from rail402.protocol.dialect import Fields
from tests.unit.dialects.dialect_fakes import BASE, CLIENT, KEYS, SERVER, STRIPE, challenge_of, charge_of, offer_of

MCP = MppMcp()


def asked(*offers: Any, **more: Any) -> dict[str, Any]:
    error = MCP.error(challenge_of(*(offers or (offer_of(STRIPE),)), **more), SERVER)
    assert error is not None
    return json.loads(json.dumps(error))  # type: ignore[no-any-return]


def paid(error: dict[str, Any], proof: str = "sig") -> dict[str, Any]:
    (offer, *_) = MCP.offers({"error": error}, CLIENT)
    return json.loads(json.dumps(MCP.credential(offer, {"proof": proof}, CLIENT)))  # type: ignore[no-any-return]


def read(meta: dict[str, Any]) -> Any:
    return MCP.payment({"method": "tools/call", "params": {"name": "x", "_meta": meta}}, SERVER)


def test_a_call_is_answered_with_every_challenge() -> None:
    error = asked(offer_of(STRIPE), offer_of(BASE))
    assert (error["code"], error["data"]["httpStatus"]) == (-32042, 402)
    assert error["data"]["problem"]["type"] == "https://paymentauth.org/problems/payment-required"
    first, second = error["data"]["challenges"]
    assert (first["method"], second["method"]) == (STRIPE.method, BASE.method)
    assert first["request"]["amount"] == "3000"


def test_the_id_is_that_of_http() -> None:
    (in_mcp,) = asked()["data"]["challenges"]
    (in_http,) = Mpp().challenges(challenge_of(offer_of(STRIPE)), SERVER)
    assert from_base64(in_http["request"], field="request") == in_mcp["request"]
    assert challenge_id(KEYS.derive("mpp"), in_http) == in_http["id"]
    assert {*in_mcp} == {*in_http}


def test_a_refused_payment_is_another_error_with_its_reason() -> None:
    error = asked(code="insufficient_funds", detail="alice holds 1 of 3000")
    assert (error["code"], error["data"]["problem"]["detail"]) == (-32043, "alice holds 1 of 3000")
    assert error["data"]["problem"]["type"].endswith("/payment-insufficient")
    assert error["data"]["challenges"]


@pytest.mark.parametrize("at_the_root", [False, True])
def test_the_payment_comes_back_with_its_offer(at_the_root: bool) -> None:
    offer = offer_of(STRIPE)
    meta = paid(asked(offer))
    request = {"_meta": meta, "params": {}} if at_the_root else {"params": {"_meta": meta}}
    payment = MCP.payment(request, SERVER)
    assert payment is not None
    assert (payment.rail, payment.offer_token, payment.payload) == ("stripe", offer.token, {"proof": "sig"})


@pytest.mark.parametrize("form", ["text", "object", "with meta"])
def test_opaque_may_come_back_in_any_form_that_peers_send(form: str) -> None:
    meta = paid(asked())
    challenge = meta["org.paymentauth/credential"]["challenge"]
    decoded = from_base64(challenge["opaque"], field="opaque")
    if form == "object":
        challenge["opaque"] = decoded
    if form == "with meta":
        challenge["meta"] = decoded
    assert read(meta).rail == "stripe"


def test_a_challenge_goes_back_exactly_as_it_came() -> None:
    error = asked()
    challenge = error["data"]["challenges"][0]
    challenge["unknown"] = {"to": ["us"]}
    challenge["opaque"] = from_base64(challenge["opaque"], field="opaque")
    assert paid(error)["org.paymentauth/credential"] == {"challenge": challenge, "payload": {"proof": "sig"}}


def test_an_altered_challenge_is_not_ours() -> None:
    meta = paid(asked())
    meta["org.paymentauth/credential"]["challenge"]["request"]["amount"] = "1"
    with pytest.raises(PaymentRejected) as caught:
        read(meta)
    assert caught.value.code == "offer_unknown"


def test_a_receipt_is_told_of_a_settled_charge_only() -> None:
    payment = read(paid(asked()))
    told = MCP.receipt(charge_of(offer_of(STRIPE), payment=PaymentState.SETTLED), payment, SERVER)[
        "org.paymentauth/receipt"
    ]
    assert told["status"] == "success"
    assert told["challengeId"] == payment.envelope["challenge"]["id"]
    assert MCP.receipt(charge_of(offer_of(STRIPE), payment=PaymentState.UNKNOWN), payment, SERVER) == {}


@pytest.mark.parametrize(
    "response",
    [
        {},
        {"error": None},
        {"error": {"code": -32602, "data": {"challenges": [{}]}}},
        {"error": {"code": -32042}},
        {"error": {"code": -32042, "data": "x"}},
        {"result": {"_meta": {}}},
        {"result": {}},
        {"result": []},
    ],
)
def test_other_responses_ask_for_nothing(response: dict[str, Any]) -> None:
    assert MCP.offers(response, CLIENT) == []


def test_a_result_can_ask_too() -> None:
    asks = {"result": {"isError": True, "_meta": {"org.paymentauth/payment-required": asked()["data"]}}}
    assert [offer.rail for offer in MCP.offers(asks, CLIENT)] == ["stripe"]


@pytest.mark.parametrize(
    ("member", "value", "field"),
    [
        ("id", "", "challenge.id"),
        ("realm", None, "challenge.realm"),
        ("method", "Not A Method", "www-authenticate"),
        ("request", "!", "request"),
        ("request", 1, "challenge.request"),
        ("request", {"amount": 2**60}, "challenge.request"),
        ("expires", 12, "challenge.expires"),
    ],
)
def test_a_challenge_that_cannot_be_read_is_named(member: str, value: Any, field: str) -> None:
    error = asked()
    error["data"]["challenges"][0][member] = value
    with pytest.raises(MalformedInput, match=field):
        MCP.offers({"error": error}, CLIENT)


@pytest.mark.parametrize("challenges", ["x", {}, [1]])
def test_challenges_are_a_list_of_objects(challenges: Any) -> None:
    with pytest.raises(MalformedInput, match="challenges"):
        MCP.offers({"error": {"code": -32042, "data": {"challenges": challenges}}}, CLIENT)


@pytest.mark.parametrize("credential", [1, "x", {}, {"challenge": {}}, {"challenge": {}, "payload": {}}])
def test_what_is_no_credential_is_malformed(credential: Any) -> None:
    with pytest.raises(MalformedInput):
        read({"org.paymentauth/credential": credential})


def test_a_request_without_a_payment_has_none() -> None:
    for request in ({}, {"params": None}, {"params": {"_meta": None}}, {"params": []}, {"_meta": {}}):
        assert MCP.payment(request, SERVER) is None


def test_nothing_is_asked_where_nothing_can_be_said() -> None:
    assert MCP.error(challenge_of(), SERVER) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["id", "realm", "method", "intent", "request", "expires", "opaque", "digest"]), json_values)
def test_hostile_challenges(member: str, value: Any) -> None:
    error, meta = asked(), paid(asked())
    error["data"]["challenges"][0][member] = value
    meta["org.paymentauth/credential"]["challenge"][member] = value
    for attempt in (lambda: MCP.offers({"error": error}, CLIENT), lambda: read(meta)):
        try:
            attempt()
        except Rail402Error as caught:
            assert isinstance(caught, MalformedInput | PaymentRejected)  # noqa: PT017


@pytest.mark.parametrize("came", [True, False])
def test_what_is_asked_and_paid_travels_over_http_too(came: bool) -> None:
    response = {"error": asked(offer_of(STRIPE), offer_of(BASE), description='a "report"')}
    dialect = Mpp()
    read = dialect.offers(Fields(MCP.fields_of(response)), b"", CLIENT)
    assert [offer.rail for offer in read] == ["stripe", "base"]
    shown = Fields(dialect.credential(read[0], {"proof": "sig"}, CLIENT))
    if came:
        response["error"]["data"]["challenges"][0]["unknown"] = 1
    meta = MCP.meta_of(shown, response if came else {})
    credential = meta["org.paymentauth/credential"]
    assert credential["challenge"] == response["error"]["data"]["challenges"][0]
    assert MCP.payment({"params": {"_meta": meta}}, SERVER).payload == {"proof": "sig"}
    assert MCP.fields_of({"result": {}}) == []
    assert MCP.meta_of(Fields([("Authorization", "Bearer x")]), response) == {}
