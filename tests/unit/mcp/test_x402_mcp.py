"""x402 over MCP: what a tool answers, what a client sends, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.dialects.x402_v2 import X402V2
from rail402.errors import MalformedInput, PaymentRejected, Rail402Error
from rail402.mcp import X402Mcp
from rail402.protocol.charge import PaymentState
from rail402.protocol.dialect import Fields
from tests.unit.dialects.dialect_fakes import (
    BASE,
    CLIENT,
    LIGHTNING,
    SERVER,
    STRIPE,
    challenge_of,
    charge_of,
    offer_of,
)

MCP = X402Mcp()


def asked(*offers: Any) -> dict[str, Any]:
    result = MCP.result(challenge_of(*offers), SERVER)
    assert result is not None
    return result


def paid(result: dict[str, Any], proof: str = "sig") -> dict[str, Any]:
    (offer, *_) = MCP.offers(result, CLIENT)
    return json.loads(json.dumps(MCP.credential(offer, {"proof": proof}, CLIENT)))  # type: ignore[no-any-return]


def test_a_tool_asks_in_an_error_result_and_says_it_in_text_too() -> None:
    result = asked(offer_of(BASE), offer_of(LIGHTNING))
    assert result["isError"] is True
    required = result["structuredContent"]
    assert (required["x402Version"], [entry["network"] for entry in required["accepts"]]) == (
        2,
        ["eip155:84532", LIGHTNING.network],
    )
    assert result["content"] == [{"type": "text", "text": json.dumps(required, separators=(",", ":"))}]


def test_a_tool_that_x402_cannot_speak_for_asks_nothing() -> None:
    assert MCP.result(challenge_of(offer_of(STRIPE)), SERVER) is None


@pytest.mark.parametrize("as_text", [False, True])
def test_the_payment_comes_back_with_its_offer(as_text: bool) -> None:
    offer = offer_of(BASE)
    meta = paid(asked(offer))
    if as_text:
        meta["x402/payment"] = json.dumps(meta["x402/payment"])
    payment = MCP.payment(meta, SERVER)
    assert payment is not None
    assert (payment.rail, payment.offer_token, payment.payload) == ("base", offer.token, {"proof": "sig"})
    assert payment.identifier is not None


def test_the_text_alone_is_enough_for_a_client() -> None:
    result = asked(offer_of(BASE))
    del result["structuredContent"]
    assert [offer.rail for offer in MCP.offers(result, CLIENT)] == ["base"]


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"isError": False, "structuredContent": {"x402Version": 2, "accepts": []}},
        {"isError": True},
        {"isError": True, "content": []},
        {"isError": True, "content": [{"type": "text", "text": "it failed"}]},
        {"isError": True, "structuredContent": {"error": "it failed"}},
        {"isError": True, "structuredContent": []},
    ],
)
def test_other_results_ask_for_nothing(result: dict[str, Any]) -> None:
    assert MCP.offers(result, CLIENT) == []


def test_a_settlement_is_told_in_the_result() -> None:
    payment = MCP.payment(paid(asked(offer_of(BASE))), SERVER)
    assert payment is not None
    told = MCP.receipt(charge_of(offer_of(BASE), payment=PaymentState.SETTLED), payment, SERVER)[
        "x402/payment-response"
    ]
    assert (told["success"], told["network"], told["amount"]) == (True, "eip155:84532", "3000")
    assert MCP.receipt(charge_of(offer_of(BASE), payment=PaymentState.CLAIMED), payment, SERVER) == {}


def test_a_request_without_a_payment_has_none() -> None:
    assert MCP.payment({}, SERVER) is None
    assert MCP.payment({"progressToken": 1, "x402/payment": None}, SERVER) is None


@pytest.mark.parametrize(
    ("payment", "detail"),
    [
        (1, "must be the PaymentPayload's object"),
        ([], "must be the PaymentPayload's object"),
        ("{", "x402/payment"),
        ("[1]", "x402/payment"),
        ({"x402Version": 1}, "x402Version must be 2"),
        ({"x402Version": 2}, "accepted must be an object"),
    ],
)
def test_what_is_no_payment_is_malformed(payment: Any, detail: str) -> None:
    with pytest.raises(MalformedInput, match=detail):
        MCP.payment({"x402/payment": payment}, SERVER)


def test_a_payment_for_an_offer_of_others_is_rejected() -> None:
    meta = paid(asked(offer_of(BASE)))
    meta["x402/payment"]["accepted"]["network"] = "eip155:1"
    with pytest.raises(PaymentRejected) as caught:
        MCP.payment(meta, SERVER)
    assert caught.value.code == "method_not_offered"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["x402Version", "accepted", "payload", "extensions", "resource"]), json_values)
def test_hostile_payments(member: str, value: Any) -> None:
    meta = paid(asked(offer_of(BASE)))
    meta["x402/payment"][member] = value
    try:
        MCP.payment(meta, SERVER)
    except Rail402Error as error:
        assert isinstance(error, MalformedInput | PaymentRejected)  # noqa: PT017


@given(st.sampled_from(["isError", "structuredContent", "content"]), json_values)
def test_hostile_results(member: str, value: Any) -> None:
    try:
        MCP.offers({**asked(offer_of(BASE)), member: value}, CLIENT)
    except Rail402Error as error:
        assert isinstance(error, MalformedInput)  # noqa: PT017


def test_what_is_asked_and_paid_travels_over_http_too() -> None:
    offer = offer_of(BASE)
    result, dialect = asked(offer), X402V2()
    fields = Fields(MCP.fields_of(result))
    (read,) = dialect.offers(fields, b"", CLIENT)
    shown = dialect.credential(read, {"proof": "sig"}, CLIENT)
    assert MCP.meta_of(Fields(shown)) == paid(result)
    assert MCP.fields_of({"isError": False}) == []
    assert MCP.meta_of(Fields()) == {}
