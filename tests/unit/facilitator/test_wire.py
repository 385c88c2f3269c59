"""What a facilitator is asked and what it answers."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.errors import MalformedInput, PaymentRejected, RailUnavailable
from rail402.facilitator.wire import (
    Kind,
    Question,
    failed_settlement,
    kinds_of,
    read_payment,
    read_question,
    refused_verdict,
    settled,
    supported,
    valid_verdict,
)
from rail402.protocol.offer import Flow
from rail402.protocol.rail import Registry
from rail402.testing.fakes import FakeSpec
from tests.unit.facilitator.desk import NETWORK, PAYEE, PRICE, SPEC, body_of, offer

NOW = 1_800_000_000
REGISTRY = Registry([SPEC])
KINDS = [kind for _, kind in kinds_of(SPEC)]
MAX = 1 << 16


def good(version: int = 2) -> dict[str, Any]:
    return body_of(offer(), version=version, now=NOW)


def question(body: Any) -> Question:
    return read_question(json.dumps(body).encode(), max_bytes=MAX)


def read(body: Any) -> Any:
    return read_payment(question(body), REGISTRY, KINDS, now=NOW)


def changed(path: str, value: Any, version: int = 2) -> dict[str, Any]:
    """Return a good body with one member changed; `...` takes it out."""
    body: Any = copy.deepcopy(good(version))
    *where, last = path.split(".")
    at = body
    for name in where:
        at = at[name]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return dict(body)


@pytest.mark.parametrize("version", [1, 2])
def test_a_payment_is_read_with_what_it_must_pay(version: int) -> None:
    body = good(version)
    presented = read(body)
    assert presented.offer == offer(expires_at=NOW + 300)
    assert presented.payment.offer == presented.offer
    assert presented.payment.payload == body["paymentPayload"]["payload"]
    assert presented.payment.dialect == f"x402-v{version}"
    assert question(body).network == NETWORK


@pytest.mark.parametrize("where", ["paymentRequirements", "paymentPayload.accepted"])
def test_nulls_are_what_is_left_out(where: str) -> None:
    body = changed(f"{where}.description", None)
    body["paymentPayload"]["payload"]["memo"] = None
    presented = read(body)
    assert presented.offer.payee == PAYEE
    assert "memo" not in presented.payment.payload


def test_a_version_is_a_number() -> None:
    body = good(1)
    body["paymentPayload"]["x402Version"] = True
    with pytest.raises(MalformedInput, match="must be 1, as beside it"):
        question(body)


def test_the_version_may_stand_in_the_payload_only() -> None:
    assert question(changed("x402Version", ...)).version == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"[]", "body"),
        (b"{", "body"),
        (b"\xff", "body"),
        (b'{"a":1,"a":1}', "body"),
        (b"{" + b'"a":' * 40 + b"1}", "body"),
        (b'{"a":"' + b"x" * MAX + b'"}', "body"),
        (changed("paymentPayload", ...), "paymentPayload"),
        (changed("paymentPayload", "text"), "paymentPayload"),
        (changed("paymentRequirements", []), "paymentRequirements"),
        (changed("x402Version", 3), "x402Version"),
        (changed("x402Version", "2"), "x402Version"),
        (changed("x402Version", True), "x402Version"),
        (changed("paymentPayload.x402Version", 1), "paymentPayload.x402Version"),
    ],
)
def test_a_body_that_cannot_be_read_names_the_member(body: Any, field: str) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(MalformedInput) as caught:
        read_question(raw, max_bytes=MAX)
    assert (caught.value.field, caught.value.code, caught.value.status) == (field, "malformed_request", 400)


REFUSED = [
    (2, "paymentRequirements.scheme", "upto", "unsupported_scheme"),
    (2, "paymentRequirements.scheme", ..., "unsupported_scheme"),
    (2, "paymentRequirements.network", "eip155:1", "invalid_network"),
    (2, "paymentRequirements.network", 7, "invalid_network"),
    (2, "paymentRequirements.payTo", ..., "invalid_payment_requirements"),
    (2, "paymentRequirements.amount", "0", "invalid_payment_requirements"),
    (2, "paymentRequirements.amount", 3000, "invalid_payment_requirements"),
    (2, "paymentRequirements.extra", "text", "invalid_payment_requirements"),
    (2, "paymentRequirements.extra.paymentFlow", "escrow", "unsupported_scheme"),
    (2, "paymentPayload.accepted", ..., "invalid_payload"),
    (2, "paymentPayload.accepted.network", "eip155:1", "invalid_network"),
    (2, "paymentPayload.accepted.amount", "1", "invalid_exact_evm_payload_authorization_value_mismatch"),
    (2, "paymentPayload.accepted.payTo", "thief", "invalid_exact_evm_payload_recipient_mismatch"),
    (2, "paymentPayload.accepted.extra.paymentFlow", "upfront", "invalid_payment_requirements"),
    (2, "paymentPayload.accepted.extra.more", "terms", "invalid_payment_requirements"),
    (2, "paymentPayload.accepted.amount", [], "invalid_payment_requirements"),
    (2, "paymentPayload.payload", ..., "invalid_payload"),
    (2, "paymentPayload.payload", "text", "invalid_payload"),
    (2, "paymentPayload.payload", {}, "invalid_payload"),
    (1, "paymentPayload.scheme", "upto", "invalid_network"),
    (1, "paymentPayload.network", "base", "invalid_network"),
    (1, "paymentPayload.payload", {}, "invalid_payload"),
    (1, "paymentRequirements.network", "base", "invalid_network"),
    (1, "paymentRequirements.maxAmountRequired", "x", "invalid_payment_requirements"),
]


@pytest.mark.parametrize(("version", "path", "value", "reason"), REFUSED)
def test_what_cannot_be_used_is_refused_in_x402s_words(version: int, path: str, value: Any, reason: str) -> None:
    with pytest.raises(PaymentRejected) as caught:
        read(changed(path, value, version))
    assert refused_verdict(caught.value)["invalidReason"] == reason


def test_another_asset_of_a_network_that_is_taken() -> None:
    class Picky(FakeSpec):
        def __init__(self) -> None:
            super().__init__()
            for binding in self.bindings.values():
                binding.decode_offer = lambda wire, *, expires_at: None  # type: ignore[method-assign]

    with pytest.raises(PaymentRejected, match="that asset") as caught:
        read_payment(question(good()), Registry([Picky()]), KINDS, now=NOW)
    assert caught.value.reason.x402 == "invalid_payment_requirements"


@pytest.mark.parametrize(("said", "counts"), [(86_400, 86_400), (86_401, 86_400), (10**30, 86_400)])
def test_an_offer_counts_for_a_day_at_most(said: int, counts: int) -> None:
    body = changed("paymentRequirements.maxTimeoutSeconds", said, version=1)
    assert read(body).offer.expires_at == NOW + counts


@given(st.binary(max_size=300))
def test_hostile_bytes_are_one_typed_error(data: bytes) -> None:
    with pytest.raises(MalformedInput):
        read_question(data, max_bytes=MAX)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=8), each, max_size=3),
    max_leaves=6,
)
_paths = st.sampled_from(
    [
        *(
            f"paymentRequirements.{name}"
            for name in ("scheme", "network", "asset", "payTo", "maxTimeoutSeconds", "extra")
        ),
        *(f"paymentPayload.{name}" for name in ("accepted", "payload", "payload.nonce", "payload.valid_before")),
        *("paymentPayload", "paymentRequirements", "x402Version"),
    ]
)


@given(path=_paths, value=_json)
def test_one_hostile_member_is_a_typed_error_or_a_payment(path: str, value: Any) -> None:
    try:
        presented = read(changed(path, value))
    except (MalformedInput, PaymentRejected):
        return
    assert presented.offer.amount == PRICE


# --- what is said


def test_kinds_are_concrete_networks_in_both_versions() -> None:
    assert [Kind(version=2, scheme="exact", network=NETWORK), Kind(version=1, scheme="exact", network=NETWORK)] == KINDS
    said = supported(KINDS, {NETWORK: ["relayer"]})
    assert said == {
        "kinds": [
            {"x402Version": 2, "scheme": "exact", "network": NETWORK},
            {"x402Version": 1, "scheme": "exact", "network": NETWORK},
        ],
        "extensions": [],
        "signers": {NETWORK: ["relayer"]},
    }


def test_what_payers_move_themselves_is_no_kind() -> None:
    assert list(kinds_of(FakeSpec(style="invoice"))) == []


def test_answers_leave_out_what_there_is_not() -> None:
    asked, error = question(good()), PaymentRejected("why", code="insufficient_funds")
    assert valid_verdict(None) == {"isValid": True}
    assert valid_verdict("alice") == {"isValid": True, "payer": "alice"}
    refused = refused_verdict(error)
    assert refused == {"isValid": False, "invalidReason": "insufficient_funds", "invalidMessage": str(error)}
    assert settled(asked, transaction="tx", amount=5, payer=None) == {
        "success": True,
        "transaction": "tx",
        "network": NETWORK,
        "amount": "5",
    }
    failed = failed_settlement(None, RailUnavailable("down"))
    assert failed["errorReason"] == "unexpected_settle_error"
    assert (failed["transaction"], failed["network"]) == ("", "")
    assert None not in [*refused.values(), *failed.values()]


def test_the_flow_is_authorization_where_nothing_is_said() -> None:
    assert read(good()).offer.flow is Flow.AUTHORIZATION
