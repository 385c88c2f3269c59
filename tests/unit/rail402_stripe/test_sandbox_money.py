"""Refunds and the balance: the books always balance."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import stripe

from rail402_stripe.client import RailStripeClient

Balance = Callable[[], Awaitable[dict[str, int]]]
CARD: dict[str, Any] = {"amount": 500, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}


async def test_a_full_refund_gives_everything_back_once(client: RailStripeClient, balance: Balance) -> None:
    intent = await client.v1.payment_intents.create_async(CARD)
    refund = await client.v1.refunds.create_async(
        {"payment_intent": intent.id, "reason": "requested_by_customer", "metadata": {"charge": "c1"}}
    )
    assert (refund.amount, refund.currency, refund.status) == (500, "usd", "succeeded")
    assert (refund.payment_intent, refund.charge, refund.reason) == (
        intent.id,
        intent.latest_charge,
        "requested_by_customer",
    )
    assert await balance() == {"usd": 0}
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await client.v1.refunds.create_async({"payment_intent": intent.id})
    assert caught.value.code == "charge_already_refunded"
    again = await client.v1.payment_intents.retrieve_async(intent.id, {"expand": ["latest_charge"]})
    assert isinstance(again.latest_charge, stripe.Charge)
    assert (again.status, again.amount_received) == ("succeeded", 500)
    assert (again.latest_charge.refunded, again.latest_charge.amount_refunded) == (True, 500)
    assert await balance() == {"usd": 0}


async def test_partial_refunds_never_exceed_the_charge(client: RailStripeClient, balance: Balance) -> None:
    intent = await client.v1.payment_intents.create_async(CARD)
    await client.v1.refunds.create_async({"charge": str(intent.latest_charge), "amount": 300})
    with pytest.raises(stripe.InvalidRequestError, match=r"3\.00 usd.*2\.00 usd") as caught:
        await client.v1.refunds.create_async({"payment_intent": intent.id, "amount": 300})
    assert caught.value.param == "amount"
    rest = await client.v1.refunds.create_async({"payment_intent": intent.id})
    assert rest.amount == 200
    assert await balance() == {"usd": 0}


async def test_what_a_partial_capture_released_cannot_be_refunded_too(
    client: RailStripeClient, balance: Balance
) -> None:
    held = await client.v1.payment_intents.create_async({**CARD, "capture_method": "manual"})
    await client.v1.payment_intents.capture_async(held.id, {"amount_to_capture": 200})
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.refunds.create_async({"payment_intent": held.id, "amount": 201})
    assert (await client.v1.refunds.create_async({"payment_intent": held.id})).amount == 200
    charge = await client.v1.charges.retrieve_async(str(held.latest_charge))
    assert (charge.amount_refunded, charge.refunded) == (500, True)
    assert await balance() == {"usd": 0}


async def test_only_captured_money_is_refunded(client: RailStripeClient, balance: Balance) -> None:
    bare = await client.v1.payment_intents.create_async({"amount": 500, "currency": "usd"})
    held = await client.v1.payment_intents.create_async({**CARD, "capture_method": "manual"})
    gone = await client.v1.payment_intents.create_async({**CARD, "capture_method": "manual"})
    await client.v1.payment_intents.cancel_async(gone.id)
    with pytest.raises(stripe.CardError) as declined:
        await client.v1.payment_intents.create_async({**CARD, "payment_method": "pm_card_visa_chargeDeclined"})
    for intent_id in (bare.id, held.id, gone.id, declined.value.error.payment_intent.id):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await client.v1.refunds.create_async({"payment_intent": intent_id})
        assert caught.value.code == "charge_not_refundable"
    assert await balance() == {"usd": 0}


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({}, "parameter_missing"),
        ({"payment_intent": "pi_x", "charge": "ch_x"}, None),
        ({"payment_intent": "pi_x"}, "resource_missing"),
        ({"charge": "ch_x"}, "resource_missing"),
        ({"charge": "ch_x", "amount": 0}, "parameter_invalid_integer"),
        ({"charge": "ch_x", "amount": -5}, "parameter_invalid_integer"),
        ({"charge": "ch_x", "reason": "bored"}, None),
    ],
)
async def test_a_refund_of_nothing_is_a_400(client: RailStripeClient, params: dict[str, Any], code: str | None) -> None:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await client.v1.refunds.create_async(params)  # type: ignore[arg-type]
    assert (caught.value.http_status, caught.value.code) == (400, code)


async def test_refunds_are_found_again(client: RailStripeClient) -> None:
    first, second = [await client.v1.payment_intents.create_async(CARD) for _ in range(2)]
    ids = [(await client.v1.refunds.create_async({"payment_intent": first.id, "amount": 100})).id for _ in range(3)]
    await client.v1.refunds.create_async({"payment_intent": second.id})
    found = await client.v1.refunds.list_async({"payment_intent": first.id, "limit": 2})
    assert ([refund.id for refund in found.data], found.has_more) == (ids[:0:-1], True)
    refund = await client.v1.refunds.retrieve_async(ids[0], {"expand": ["charge", "payment_intent"]})
    assert isinstance(refund.charge, stripe.Charge)
    assert refund.charge.amount_refunded == 300
    assert isinstance(refund.payment_intent, stripe.PaymentIntent)


async def test_card_money_is_pending_for_two_days(client: RailStripeClient, clock: Any) -> None:
    intent = await client.v1.payment_intents.create_async(CARD)
    fresh = await client.v1.balance.retrieve_async()
    assert ([part.amount for part in fresh.available], [part.amount for part in fresh.pending]) == ([0], [500])
    await client.v1.refunds.create_async({"payment_intent": intent.id, "amount": 100})
    clock.now += 2 * 24 * 3600
    later = await client.v1.balance.retrieve_async()
    assert ([part.amount for part in later.available], [part.amount for part in later.pending]) == ([400], [0])
    assert (later.object, later.livemode) == ("balance", False)


async def test_after_any_sequence_of_operations_captures_less_refunds_are_the_balance(
    client: RailStripeClient, balance: Balance
) -> None:
    dice = random.Random(402)
    captured = {"usd": 0, "jpy": 0}
    refunded = {"usd": 0, "jpy": 0}
    intents: list[tuple[str, str]] = []
    cards = ["pm_card_visa", "pm_card_visa_chargeDeclined", "pm_card_visa"]
    for _ in range(150):
        operation = dice.choice(["create", "capture", "capture", "cancel", "refund", "refund"])
        try:
            if operation == "create" or not intents:
                currency = dice.choice(["usd", "jpy"])
                made = await client.v1.payment_intents.create_async(
                    {
                        "amount": dice.randint(40, 300),
                        "currency": currency,
                        "confirm": True,
                        "payment_method": dice.choice(cards),
                        "capture_method": dice.choice(["manual", "automatic"]),
                    }
                )
                intents.append((made.id, currency))
                captured[currency] += made.amount_received
            elif operation == "capture":
                intent_id, currency = dice.choice(intents)
                done = await client.v1.payment_intents.capture_async(
                    intent_id, {"amount_to_capture": dice.randint(1, 200)}
                )
                captured[currency] += done.amount_received
            elif operation == "cancel":
                await client.v1.payment_intents.cancel_async(dice.choice(intents)[0])
            else:
                intent_id, currency = dice.choice(intents)
                refund = await client.v1.refunds.create_async(
                    {"payment_intent": intent_id, "amount": dice.randint(1, 150)}
                )
                refunded[currency] += refund.amount
        except (stripe.InvalidRequestError, stripe.CardError):
            continue
    assert all(captured.values())
    assert all(refunded.values())
    assert await balance() == {currency: captured[currency] - refunded[currency] for currency in captured}
