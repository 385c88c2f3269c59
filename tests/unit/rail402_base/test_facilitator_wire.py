"""What a facilitator is sent and answers, in both versions of x402."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402_base.eip3009 import Authorization, parse_authorization
from rail402_base.facilitator_wire import (
    Settlement,
    SignedTransfer,
    Verdict,
    parse_settlement,
    parse_verdict,
    request_body,
    spoken_version,
    taken_networks,
)
from rail402_base.tokens import BASE, BASE_SEPOLIA
from tests.unit.rail402_base.facilitators import AUTHORIZATION, HASH, PAYMENT, SETTLED, SIGNATURE, TOKEN
from tests.unit.rail402_base.payments import NOW, PAYEE, PAYER


def kind(version: Any, network: Any, scheme: Any = "exact") -> dict[str, Any]:
    return {"x402Version": version, "scheme": scheme, "network": network}


PAYLOAD = {
    "signature": "0x" + SIGNATURE.hex(),
    "authorization": {
        "from": PAYER,
        "to": PAYEE,
        "value": "3000",
        "validAfter": "0",
        "validBefore": str(NOW + 180),
        "nonce": "0x" + AUTHORIZATION.nonce.hex(),
    },
}


def test_version_2_is_sent_the_payment_with_what_it_must_pay() -> None:
    requirements = {
        "scheme": "exact",
        "network": "eip155:84532",
        "amount": "3000",
        "asset": TOKEN.address,
        "payTo": PAYEE,
        "maxTimeoutSeconds": 180,
        "extra": {"name": "USDC", "version": "2"},
    }
    assert request_body(2, PAYMENT, now=NOW) == {
        "x402Version": 2,
        "paymentPayload": {"x402Version": 2, "accepted": requirements, "payload": PAYLOAD},
        "paymentRequirements": requirements,
    }


def test_version_1_is_sent_the_same_by_its_own_names_and_not_what_is_sold() -> None:
    assert request_body(1, PAYMENT, now=NOW) == {
        "x402Version": 1,
        "paymentPayload": {"x402Version": 1, "scheme": "exact", "network": "base-sepolia", "payload": PAYLOAD},
        "paymentRequirements": {
            "scheme": "exact",
            "network": "base-sepolia",
            "maxAmountRequired": "3000",
            "asset": TOKEN.address,
            "payTo": PAYEE,
            "maxTimeoutSeconds": 180,
            "resource": "https://resource.invalid/",
            "description": "",
            "mimeType": "",
            "extra": {"name": "USDC", "version": "2"},
        },
    }


@pytest.mark.parametrize(("valid_before", "seconds"), [(NOW - 5, 1), (NOW, 1), (NOW + 7, 7), (2**256 - 1, 3600)])
@pytest.mark.parametrize("version", [1, 2])
def test_the_time_left_is_a_number_that_any_parser_has(version: int, valid_before: int, seconds: int) -> None:
    payment = SignedTransfer(TOKEN, replace(AUTHORIZATION, valid_before=valid_before), SIGNATURE)
    body = request_body(version, payment, now=NOW)
    assert body["paymentRequirements"]["maxTimeoutSeconds"] == seconds
    assert body["paymentPayload"]["payload"]["authorization"]["validBefore"] == str(valid_before)


def test_a_signature_does_not_show() -> None:
    assert SIGNATURE.hex()[:20] not in repr(PAYMENT)
    assert repr(SIGNATURE)[2:20] not in repr(PAYMENT)


@pytest.mark.parametrize(
    ("kinds", "version"),
    [
        ([kind(2, "eip155:84532")], 2),
        ([kind(1, "base-sepolia")], 1),
        ([kind(1, "base-sepolia"), kind(2, "eip155:84532")], 2),
        ([kind(2, "eip155:*")], 2),
        ([kind(2, "eip155:8453"), kind(1, "base-sepolia")], 1),
        ([], None),
        ([kind(2, "eip155:8453"), kind(1, "base")], None),
        ([kind(1, "eip155:84532"), kind(2, "base-sepolia")], None),
        ([kind(2, "eip155:84532", "upto"), kind(2, "eip155:84532", None)], None),
        ([kind("2", "eip155:84532"), kind(True, "base-sepolia"), kind(3, "eip155:84532")], None),
        ([kind(2, ["eip155:84532"]), kind(2, None), "exact", None, 5], None),
        ("exact", None),
        (5, None),
        (None, None),
    ],
)
def test_the_version_is_the_newest_that_both_speak(kinds: Any, version: int | None) -> None:
    assert spoken_version({"kinds": kinds}, BASE_SEPOLIA) == version


def test_the_networks_are_told_apart() -> None:
    supported = {"kinds": [kind(2, "eip155:84532"), kind(1, "base"), kind(2, "solana:x", "upto"), kind(2, "solana:y")]}
    assert spoken_version(supported, BASE) == 1
    assert taken_networks(supported) == ["base", "eip155:84532", "solana:y"]


@pytest.mark.parametrize("is_valid", [None, "true", 1, 0, [], {}])
def test_what_is_no_boolean_is_no_answer(is_valid: Any) -> None:
    assert parse_verdict({"isValid": is_valid}) is None
    assert parse_settlement(SETTLED | {"success": is_valid}) is None


def test_a_verdict_says_why_and_whose() -> None:
    verdict = parse_verdict({"isValid": False, "invalidReason": "insufficient_funds", "payer": PAYER})
    assert verdict is not None
    assert (verdict.is_valid, verdict.reason, verdict.payer) == (False, "insufficient_funds", PAYER)
    assert parse_verdict({}) is None


@pytest.mark.parametrize("reason", [None, 5, "", "two words", "<b>", "x" * 101, "https://node.example.com/key"])
def test_a_reason_that_is_no_code_is_not_repeated(reason: Any) -> None:
    verdict = parse_verdict({"isValid": False, "invalidReason": reason, "invalidMessage": "https://node/key"})
    assert verdict is not None
    assert verdict.reason == "no reason given"


@pytest.mark.parametrize("transaction", [None, "", "0x", HASH[:-1], HASH + "0", HASH[2:], "0x" + 64 * "g", 5, [HASH]])
def test_what_is_no_hash_is_no_transaction(transaction: Any) -> None:
    settlement = parse_settlement(SETTLED | {"transaction": transaction})
    assert settlement is not None
    assert settlement.transaction is None


def test_a_hash_is_read_in_any_case() -> None:
    settlement = parse_settlement(SETTLED | {"transaction": "0x" + HASH[2:].upper()})
    assert settlement is not None
    assert settlement.transaction == HASH


@pytest.mark.parametrize("member", ["payer", "network", "amount"])
def test_what_is_no_text_is_not_taken_for_left_out(member: str) -> None:
    for value, read in ((None, None), ("", None), ("x", "x"), (5, "5"), ([], "[]"), (False, "False")):
        settlement = parse_settlement(SETTLED | {member: value})
        assert getattr(settlement, member) == read


# Properties.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = ["isValid", "invalidReason", "success", "errorReason", "transaction", "payer", "network", "amount", "kinds"]


@given(
    st.sampled_from([1, 2]),
    st.builds(
        Authorization,
        from_=st.just(PAYER),
        to=st.just(PAYEE),
        value=st.integers(1, 2**256 - 1),
        valid_after=st.integers(0, 2**256 - 1),
        valid_before=st.integers(0, 2**256 - 1),
        nonce=st.binary(min_size=32, max_size=32),
    ),
    st.binary(min_size=65, max_size=200),
)
def test_any_payment_is_read_as_it_was_sent(version: int, authorization: Authorization, signature: bytes) -> None:
    body = request_body(version, SignedTransfer(TOKEN, authorization, signature), now=NOW)
    sent = json.loads(json.dumps(body))
    assert parse_authorization(sent["paymentPayload"]["payload"]) == (authorization, signature)
    assert 1 <= sent["paymentRequirements"]["maxTimeoutSeconds"] <= 3600


@given(st.booleans(), st.from_regex(r"[A-Za-z0-9_:.-]{1,100}", fullmatch=True), st.text(min_size=1))
def test_any_answer_is_read_as_it_was_given(is_good: bool, reason: str, text: str) -> None:
    verdict = parse_verdict({"isValid": is_good, "invalidReason": reason, "payer": text})
    assert verdict == Verdict(is_valid=is_good, reason=reason, payer=text)
    said = {"success": is_good, "errorReason": reason, "transaction": HASH}
    settlement = parse_settlement(said | dict.fromkeys(["payer", "network", "amount"], text))
    assert settlement == Settlement(
        success=is_good, reason=reason, transaction=HASH, payer=text, network=text, amount=text
    )


def survives(answer: dict[str, Any]) -> None:
    """Whatever a facilitator answers, it is an answer or none, and no error at all."""
    assert spoken_version(answer, BASE_SEPOLIA) in (None, 1, 2)
    assert all(isinstance(network, str) for network in taken_networks(answer))
    verdict, settlement = parse_verdict(answer), parse_settlement(answer)
    assert (verdict is None) is not isinstance(answer.get("isValid"), bool)
    assert (settlement is None) is not isinstance(answer.get("success"), bool)
    if settlement is not None:
        assert settlement.transaction is None or settlement.transaction == answer["transaction"].lower()


@given(st.sampled_from(MEMBERS), JSON)
def test_hostile_members_raise_nothing(member: str, value: Any) -> None:
    survives({"isValid": True, "kinds": [kind(2, "eip155:84532")], **SETTLED, member: value})


@given(st.dictionaries(st.sampled_from(MEMBERS) | st.text(max_size=6), JSON))
def test_hostile_json_raises_nothing(answer: dict[str, Any]) -> None:
    survives(answer)


@given(st.lists(st.builds(kind, JSON | st.sampled_from([1, 2]), JSON, JSON | st.just("exact")) | JSON) | JSON)
def test_hostile_kinds_raise_nothing(kinds: Any) -> None:
    survives({"kinds": kinds})
