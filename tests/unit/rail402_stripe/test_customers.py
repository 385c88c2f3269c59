"""What a publisher says of its customers."""

from __future__ import annotations

import pytest

from rail402.errors import ConfigurationError
from rail402_stripe import SavedCustomer
from rail402_stripe.customers import unattended


def test_a_saved_customer_is_two_ids() -> None:
    saved = SavedCustomer("cus_1", "pm_1")
    assert saved.state == {"customer": "cus_1", "payment_method": "pm_1"}
    assert unattended(saved.state) == {"customer": "cus_1", "payment_method": "pm_1", "off_session": True}


def test_without_a_customer_nothing_is_left_waiting_for_a_person() -> None:
    assert unattended({"verified_at": 1}) == {"error_on_requires_action": True}


@pytest.mark.parametrize(
    ("customer", "method"),
    [
        ("alice@example.com", "pm_1"),
        ("", "pm_1"),
        ("cus_", "pm_1"),
        ("cus_1", ""),
        ("cus_1", "tok_1"),
        ("cus_1/x", "pm_1"),
    ],
)
def test_anything_else_is_a_mistake_of_the_publisher_s(customer: str, method: str) -> None:
    with pytest.raises(ConfigurationError, match="cus_"):
        SavedCustomer(customer, method)
