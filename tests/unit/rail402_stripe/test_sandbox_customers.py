"""Customers of the sandbox: what is attached to one pays again and again, and for nobody else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import stripe

from rail402_stripe.client import RailStripeClient

Balance = Callable[[], Awaitable[dict[str, int]]]
WANTS_PERSON = "pm_card_authenticationRequired"


async def saved(client: RailStripeClient, card: str = "pm_card_visa") -> tuple[str, str]:
    """Return a customer and a payment method of its own."""
    customer = await client.v1.customers.create_async({"name": "Alice", "email": "alice@example.com"})
    method = await client.v1.payment_methods.attach_async(card, {"customer": customer.id})
    assert method.customer == customer.id
    return customer.id, method.id


def charge(customer: str | None, method: str, **changes: Any) -> Any:
    made = {"amount": 500, "currency": "usd", "payment_method": method, "confirm": True, "off_session": True}
    return made | ({} if customer is None else {"customer": customer}) | changes


async def test_what_is_saved_pays_again_and_again(client: RailStripeClient, balance: Balance) -> None:
    customer, method = await saved(client)
    for paid in (500, 1000):
        intent = await client.v1.payment_intents.create_async(charge(customer, method))
        assert (intent.status, intent.customer, intent.payment_method) == ("succeeded", customer, method)
        assert await balance() == {"usd": paid}
    assert (await client.v1.customers.retrieve_async(customer)).name == "Alice"


async def test_a_customer_may_be_made_with_its_payment_method(client: RailStripeClient, balance: Balance) -> None:
    customer = await client.v1.customers.create_async({"payment_method": "pm_card_visa"})
    assert customer.id.startswith("cus_")
    assert await balance() == {"usd": 0}


async def test_it_pays_for_nobody_else(client: RailStripeClient, balance: Balance) -> None:
    customer, method = await saved(client)
    other, _ = await saved(client)
    for wrong in (charge(other, method), charge(None, method), charge("cus_unknown", method), charge("", method)):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await client.v1.payment_intents.create_async(wrong)
        assert caught.value.http_status == 400
    with pytest.raises(stripe.InvalidRequestError, match="already been attached"):
        await client.v1.payment_methods.attach_async(method, {"customer": other})
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.payment_methods.attach_async("pm_unknown", {"customer": customer})
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.payment_methods.attach_async("pm_card_visa", {"customer": "cus_unknown"})
    assert await balance() == {"usd": 0}


async def test_off_session_a_card_that_wants_its_holder_declines(client: RailStripeClient, balance: Balance) -> None:
    customer, method = await saved(client, WANTS_PERSON)
    with pytest.raises(stripe.CardError) as caught:
        await client.v1.payment_intents.create_async(charge(customer, method))
    assert caught.value.code == "authentication_required"
    assert await balance() == {"usd": 0}


async def test_an_unknown_customer_is_a_404(client: RailStripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await client.v1.customers.retrieve_async("cus_unknown")
    assert caught.value.http_status == 404
