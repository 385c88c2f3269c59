"""What a PaymentIntent says about a charge: each status for each operation, and those that are not believed."""

from __future__ import annotations

from typing import Any

import pytest

from rail402.errors import OutcomeUnknown
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.offer import Flow
from rail402.protocol.rail import Failed, Held, NotPaid, Pending, Refunded, Released, Settled, Unknown
from rail402_stripe.currencies import currency
from rail402_stripe.intents import check_intent, idempotency_key, is_of, metadata_of, outcome
from rail402_stripe.wire import StripeSpec
from tests.unit.rail402_stripe.account import ORDER

HOLD, SETTLE, RELEASE, REFUND = Operation.HOLD, Operation.SETTLE, Operation.RELEASE, Operation.REFUND


def make_charge(flow: Flow = Flow.ESCROW, **changes: Any) -> Charge:
    offer = StripeSpec("stripe:test").offer(
        currency("usd"), payee="profile_1", amount=50, flow=flow, expires_at=600, payment_method_types=["card"]
    )
    facts = {"dialect": "mpp", "keys": ("k",), "created_at": 0, "lease_until": 120, "window": 600, "tries": 1}
    return Charge(id="ch_x", order=ORDER, offer=offer, price=offer.price, **(facts | changes))


def make_intent(status: str = "succeeded", **changes: Any) -> dict[str, Any]:
    payment = {"id": "ch_1", "captured": True, "amount_captured": 50, "amount_refunded": 0}
    intent: dict[str, Any] = {
        "id": "pi_1",
        "status": status,
        "amount": 50,
        "amount_capturable": 50 if status == "requires_capture" else 0,
        "amount_received": 50 if status == "succeeded" else 0,
        "currency": "usd",
        "livemode": False,
        "metadata": metadata_of(make_charge()),
        "latest_charge": payment | changes.pop("payment", {}),
    }
    return intent | changes


@pytest.mark.parametrize(
    ("status", "operation", "flow", "kind"),
    [
        ("requires_capture", HOLD, Flow.ESCROW, Held),
        ("requires_capture", SETTLE, Flow.ESCROW, Held),
        ("requires_capture", RELEASE, Flow.ESCROW, Held),
        ("succeeded", HOLD, Flow.ESCROW, Settled),
        ("succeeded", SETTLE, Flow.ESCROW, Settled),
        ("succeeded", SETTLE, Flow.UPFRONT, Settled),
        ("succeeded", RELEASE, Flow.ESCROW, Settled),
        ("succeeded", REFUND, Flow.UPFRONT, Settled),
        ("processing", HOLD, Flow.ESCROW, Pending),
        ("processing", SETTLE, Flow.UPFRONT, Pending),
        ("canceled", HOLD, Flow.ESCROW, NotPaid),
        ("canceled", SETTLE, Flow.UPFRONT, NotPaid),
        ("canceled", SETTLE, Flow.ESCROW, Released),
        ("canceled", RELEASE, Flow.ESCROW, Released),
        ("canceled", REFUND, Flow.UPFRONT, Unknown),
        ("requires_payment_method", HOLD, Flow.ESCROW, Failed),
        ("requires_payment_method", SETTLE, Flow.ESCROW, Failed),
        ("requires_payment_method", RELEASE, Flow.ESCROW, Released),
        ("requires_action", HOLD, Flow.ESCROW, Failed),
        ("requires_confirmation", SETTLE, Flow.UPFRONT, Failed),
        ("something_new", SETTLE, Flow.UPFRONT, Unknown),
        (None, SETTLE, Flow.UPFRONT, Unknown),
    ],
)
def test_each_status_means_one_thing(status: Any, operation: Operation, flow: Flow, kind: type) -> None:
    assert isinstance(outcome(make_intent(status), make_charge(flow), operation), kind)


def test_what_is_held_is_remembered_by_its_id() -> None:
    assert outcome(make_intent("requires_capture"), make_charge(), HOLD) == Held(
        state={"payment_intent": "pi_1"}, keys=frozenset({"stripe:test:pi_1"})
    )


def test_what_is_settled_is_known_by_both_of_its_ids() -> None:
    answer = outcome(make_intent(), make_charge(), SETTLE)
    assert answer == Settled(
        transaction="pi_1",
        state={"payment_intent": "pi_1"},
        keys=frozenset({"stripe:test:pi_1", "stripe:test:ch_1"}),
    )


def test_a_decline_keeps_its_reason() -> None:
    intent = make_intent("requires_payment_method", last_payment_error={"decline_code": "insufficient_funds"})
    assert outcome(intent, make_charge(), HOLD) == Failed(code="insufficient_funds", detail="pi_1 was declined")
    answer = outcome(make_intent("requires_action"), make_charge(), HOLD)
    assert isinstance(answer, Failed)
    assert answer.code == "action_required"


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": 5000},
        {"amount": "50"},
        {"currency": "eur"},
        {"livemode": True},
        {"livemode": None},
        {"metadata": None},
        {"metadata": {}},
        {"metadata": metadata_of(make_charge()) | {"rail402_charge": "ch_y"}},
        {"metadata": metadata_of(make_charge()) | {"rail402_attempt": "2"}},
        {"metadata": metadata_of(make_charge()) | {"rail402_order": "0" * 64}},
        {"metadata": metadata_of(make_charge()) | {"rail402_realm": "evil.example"}},
        {"id": None},
        {"id": "ch_1"},
        {"id": "pi_1/../../refunds"},
    ],
)
def test_a_payment_intent_of_something_else_is_not_believed(changes: dict[str, Any]) -> None:
    for operation in Operation:
        with pytest.raises(OutcomeUnknown):
            outcome(make_intent(**changes), make_charge(), operation)


def test_the_error_names_what_differs_and_nothing_else() -> None:
    with pytest.raises(OutcomeUnknown, match="amount, livemode differ"):
        check_intent(make_intent(amount=1, livemode=True), make_charge())


@pytest.mark.parametrize(
    "changes",
    [
        {"latest_charge": "ch_1"},
        {"latest_charge": None},
        {"payment": {"id": None}},
        {"payment": {"id": "ch_1\n"}},
        {"payment": {"captured": False}},
        {"payment": {"amount_captured": 49}},
        {"payment": {"amount_refunded": None}},
        {"amount_received": 49},
    ],
)
def test_success_without_the_whole_money_is_not_believed(changes: dict[str, Any]) -> None:
    assert isinstance(outcome(make_intent(**changes), make_charge(), SETTLE), Unknown)


def test_a_reservation_of_less_is_not_believed() -> None:
    assert isinstance(outcome(make_intent("requires_capture", amount_capturable=49), make_charge(), HOLD), Unknown)


@pytest.mark.parametrize(
    ("refunded", "operation", "kind"),
    [(50, REFUND, Refunded), (20, REFUND, Settled), (50, SETTLE, Failed), (1, SETTLE, Failed), (50, RELEASE, Failed)],
)
def test_refunded_money_is_no_payment(refunded: int, operation: Operation, kind: type) -> None:
    answer = outcome(make_intent(payment={"amount_refunded": refunded}), make_charge(Flow.UPFRONT), operation)
    assert isinstance(answer, kind)
    if isinstance(answer, Failed):
        assert answer.code == "refunded"


@pytest.mark.parametrize("decline_code", ["try_again_later", "issuer_not_available", "processing_error"])
def test_a_decline_that_may_pass_leaves_the_payment_as_it_was_but_not_for_ever(decline_code: str) -> None:
    intent = make_intent("requires_payment_method", last_payment_error={"decline_code": decline_code})
    for attempt, kind in ((1, NotPaid), (2, NotPaid), (3, Failed), (4, Failed)):
        charge = make_charge(attempt=attempt)
        marked = intent | {"metadata": metadata_of(charge)}
        assert isinstance(outcome(marked, charge, HOLD), kind)


# --- captured in part: 20 of 50


def captured(back: int, **changes: Any) -> dict[str, Any]:
    payment = {"amount_captured": 20, "amount_refunded": back} | changes
    return make_intent(amount_received=20, payment=payment)


@pytest.mark.parametrize(
    ("payment", "operation", "kind"),
    [
        # The 30 that were released count as refunded.
        (captured(30), SETTLE, Settled),
        (captured(30), HOLD, Settled),
        (captured(30), RELEASE, Settled),
        (captured(30), REFUND, Settled),
        (captured(31), SETTLE, Failed),
        (captured(49), REFUND, Settled),
        (captured(50), REFUND, Refunded),
        (captured(50, refunded=True), REFUND, Refunded),
        (captured(50), SETTLE, Failed),
        # And if they did not.
        (captured(0), SETTLE, Settled),
        (captured(0), REFUND, Settled),
        (captured(20, refunded=True), REFUND, Refunded),
        (captured(20, refunded=True), SETTLE, Failed),
        # Another amount than was asked for.
        (make_intent(), SETTLE, Unknown),
        (captured(30) | {"amount_received": 21}, SETTLE, Unknown),
        (captured(30, amount_captured=19), SETTLE, Unknown),
        (captured(30, captured=False), SETTLE, Unknown),
    ],
)
def test_what_was_captured_in_part_is_judged_by_what_was_asked(payment: Any, operation: Operation, kind: type) -> None:
    assert isinstance(outcome(payment, make_charge(reduced_to=20), operation), kind)


def test_less_than_the_price_settles_nothing_that_was_not_reduced() -> None:
    assert isinstance(outcome(captured(30), make_charge(), SETTLE), Unknown)


def test_a_reservation_is_of_the_whole_amount_whatever_is_taken_of_it() -> None:
    reduced = make_charge(reduced_to=20)
    assert isinstance(outcome(make_intent("requires_capture"), reduced, SETTLE), Held)
    assert isinstance(outcome(make_intent("requires_capture", amount_capturable=20), reduced, SETTLE), Unknown)


def test_the_marks_hold_nothing_personal() -> None:
    marks = metadata_of(make_charge())
    assert marks == {
        "rail402_charge": "ch_x",
        "rail402_attempt": "1",
        "rail402_order": ORDER.digest,
        "rail402_realm": "shop.example",
        "machine_payment": "true",
    }
    assert all(len(name) <= 40 and len(value) <= 500 for name, value in marks.items())


def test_an_attempt_knows_its_own_payment_intents() -> None:
    charge = make_charge()
    assert is_of(make_intent(), charge)
    assert not is_of(make_intent(), charge.model_copy(update={"attempt": 2}))
    assert not is_of({"metadata": ["rail402_charge"]}, charge)
    assert not is_of({}, charge)


def test_every_try_of_every_operation_has_a_key_of_its_own() -> None:
    charges = [make_charge(attempt=attempt, tries=tries) for attempt in (1, 2) for tries in (1, 2)]
    keys = {idempotency_key(charge, operation) for charge in charges for operation in Operation}
    assert len(keys) == 16
    assert idempotency_key(charges[0], HOLD) == "rail402:ch_x:hold:1:1"
    assert max(map(len, keys)) <= 255
