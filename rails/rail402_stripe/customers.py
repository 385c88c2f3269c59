"""A publisher's own customers, who have saved a payment method with it and pay without being there."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rail402.errors import ConfigurationError

__all__ = ["Customers", "SavedCustomer", "unattended"]

# Members of a charge's `rail_state`.
_CUSTOMER: Final = "customer"
_METHOD: Final = "payment_method"

_is_customer = re.compile(r"cus_[A-Za-z0-9_]{1,250}", re.ASCII).fullmatch
_is_method = re.compile(r"(pm|card|src)_[A-Za-z0-9_]{1,250}", re.ASCII).fullmatch


@dataclass(frozen=True, slots=True)
class SavedCustomer:
    """A customer of the publisher's Stripe account, and what it pays with.

    Args:
        customer: `cus_…`.
        payment_method: `pm_…`, attached to that customer and set up for payments off session.

    Raises:
        ConfigurationError: an id has not the form of one.
    """

    customer: str
    payment_method: str

    def __post_init__(self) -> None:
        if not _is_customer(self.customer) or not _is_method(self.payment_method):
            raise ConfigurationError("a saved customer is a customer's id, cus_…, and a payment method's, pm_…")

    @property
    def state(self) -> dict[str, str]:
        """What a charge keeps of it: ids, no secrets."""
        return {_CUSTOMER: self.customer, _METHOD: self.payment_method}


def unattended(rail_state: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a PaymentIntent is created for a charge: with what a customer saved, where one pays.

    Nobody is there to authenticate: a card that wants it is declined instead of left in the middle.
    """
    if _CUSTOMER not in rail_state:
        return {"error_on_requires_action": True}
    return {_CUSTOMER: rail_state[_CUSTOMER], _METHOD: rail_state[_METHOD], "off_session": True}


Customers = Callable[[str], Awaitable[SavedCustomer | None]]
"""Returns whose secret that is; None where it is nobody's. It is called once for each payment that is not known yet.

Compare digests of secrets, not the secrets themselves, and give them 128 random bits at least: who knows one can spend
what the customer saved, up to the price of every route.
"""
