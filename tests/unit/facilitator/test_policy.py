"""For whom payments are settled, and how many at once."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from rail402.errors import ConfigurationError, PaymentRejected
from rail402.facilitator.policy import FacilitatorSettings, Limits, Policy
from rail402.money import Money
from tests.unit.facilitator.desk import SPEC, offer

ADDRESS = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"


def policy(*, is_sandbox: bool = False, **settings: Any) -> Policy:
    return Policy(FacilitatorSettings(**settings), SPEC.mechanisms, is_sandbox=is_sandbox)


def is_settled(decides: Policy, **terms: Any) -> bool:
    try:
        decides.check(offer(**terms))
    except PaymentRejected as error:
        return error.reason.x402 != "invalid_payment_requirements"
    return True


def test_it_needs_a_payee_or_the_word_that_any_will_do() -> None:
    with pytest.raises(ConfigurationError, match="pay_to: name the payees"):
        policy()
    assert is_settled(policy(any_payee=True), payee="anybody")


def test_only_named_payees_are_settled_for() -> None:
    decides = policy(pay_to=("shop", ADDRESS))
    assert not decides.any_payee
    found = [is_settled(decides, payee=payee) for payee in ("shop", "Shop", "thief", ADDRESS, ADDRESS.lower(), "")]
    assert found == [True, False, False, True, True, False]


def test_a_sandbox_settles_for_all_unless_it_names_some() -> None:
    assert is_settled(policy(is_sandbox=True), payee="anybody")
    assert not is_settled(policy(is_sandbox=True, pay_to=("shop",)), payee="anybody")


def test_less_than_the_minimum_is_not_worth_the_gas() -> None:
    decides = policy(any_payee=True, minimum=Money.parse("0.003 USD"))
    assert [is_settled(decides, amount=amount) for amount in (2999, 3000, 3001)] == [False, True, True]
    with pytest.raises(ConfigurationError, match="minimum: 1 EUR must be in USD"):
        policy(any_payee=True, minimum=Money.parse("1 EUR"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_per_payer", 0),
        ("validity_seconds", 0),
        ("settle_seconds", 0),
        ("wait_seconds", -1),
        ("max_body", 0),
        ("retention_seconds", 86_399),
        ("reconcile_seconds", -1),
    ],
)
def test_numbers_out_of_range_are_refused(name: str, value: int) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}={value}"):
        FacilitatorSettings(**{name: value})


def test_every_payer_has_so_many_places() -> None:
    limits = Limits(2)
    with ExitStack() as places:
        free = [places.enter_context(limits.place(payer)) for payer in ("alice", "alice", "alice", "bob", None)]
    assert free == [True, True, False, True, True]
    with limits.place("alice") as again:
        assert again
    assert limits._running == {}
