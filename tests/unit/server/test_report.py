"""What is said of charges that stay open."""

from __future__ import annotations

import pytest

from rail402.protocol.charge import IN_FLIGHT, Delivery, Operation, PaymentState
from rail402.server.report import Report, is_open, is_waiting, open_charge, open_since
from rail402.testing.store_support import every_state, make_charge

SHOP = "https://api.example.com"


def test_what_is_open() -> None:
    undecided = {PaymentState.UNKNOWN, PaymentState.HELD, *IN_FLIGHT}
    assert {charge.payment for charge in every_state() if is_open(charge)} == undecided


def test_what_only_waits_for_a_look() -> None:
    waiting = [charge for charge in every_state() if is_waiting(charge)]
    assert {charge.payment for charge in waiting} == {PaymentState.UNKNOWN}
    assert Delivery.RUNNING not in {charge.delivery for charge in waiting}
    looked_at = [charge for charge in every_state(looks=1) if is_waiting(charge)]
    assert {charge.payment for charge in looked_at} == {PaymentState.UNKNOWN, PaymentState.HELD}


def test_since_when() -> None:
    old = make_charge("a", created_at=5, asked_at=900, payment=PaymentState.UNKNOWN, operation=Operation.SETTLE)
    assert open_since(old) == 5
    assert open_since(old.model_copy(update={"operation": Operation.REFUND})) == 900
    assert open_since(old.model_copy(update={"operation": Operation.REFUND, "asked_at": None})) == 5
    assert open_since(old.model_copy(update={"operation": Operation.REFUND, "refund_asked_at": 800})) == 800
    assert open_since(old.model_copy(update={"refund_asked_at": 800})) == 5


@pytest.mark.parametrize("operation", [None, *Operation])
def test_each_has_an_advice_of_its_own(operation: Operation | None) -> None:
    charge = make_charge("a", payment=PaymentState.UNKNOWN if operation else PaymentState.HELD, operation=operation)
    left = open_charge(charge, {charge.offer.rail}, SHOP)
    assert left.operation == (operation or "held")
    assert charge.offer.rail in left.advice
    assert open_charge(charge, (), SHOP).advice.startswith("put the rail base back")
    elsewhere = open_charge(charge, {charge.offer.rail}, "https://b.example").advice
    assert elsewhere.startswith(f"run a gate with the public_url {SHOP} and the rail base")


def test_it_is_plain_json() -> None:
    charge = make_charge("a", payment=PaymentState.UNKNOWN, operation=Operation.REFUND, looks=3, last_word="silence")
    report = Report(looked_at=4, closed=3, open=(open_charge(charge, (), SHOP),))
    facts = report.facts()
    assert (facts["looked_at"], facts["closed"]) == (4, 3)
    assert (facts["open"][0]["looks"], facts["open"][0]["last_word"]) == (3, "silence")
