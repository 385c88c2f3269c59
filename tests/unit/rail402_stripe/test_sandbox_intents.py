from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
import stripe

from rail402_stripe.client import RailStripeClient

Balance = Callable[[], Awaitable[dict[str, int]]]
CARD = {"amount": 500, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}


async def test_create_and_confirm_takes_the_money(client: RailStripeClient, balance: Balance) -> None:
    customer = await client.v1.customers.create_async()
    intent = await client.v1.payment_intents.create_async(
        {
            **CARD,
            "metadata": {"charge": "c1", "realm": "api.example.com"},
            "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
            "customer": customer.id,
            "off_session": True,
            "description": "Article",
        }
    )
    assert (intent.status, intent.amount_received, intent.amount_capturable) == ("succeeded", 500, 0)
    assert intent.id.startswith("pi_")
    assert intent.payment_method != "pm_card_visa"
    assert intent.metadata.to_dict() == {"charge": "c1", "realm": "api.example.com"}
    assert intent.livemode is False
    assert (intent.customer, intent.description) == (customer.id, "Article")
    assert intent.automatic_payment_methods is not None
    assert intent.automatic_payment_methods.allow_redirects == "never"
    assert intent.client_secret is not None
    assert intent.client_secret.startswith(f"{intent.id}_secret_")
    assert await balance() == {"usd": 500}


async def test_the_charge_is_an_id_until_it_is_expanded(client: RailStripeClient) -> None:
    intent = await client.v1.payment_intents.create_async(CARD)
    assert isinstance(intent.latest_charge, str)
    again = await client.v1.payment_intents.retrieve_async(intent.id, {"expand": ["latest_charge", "payment_method"]})
    charge = again.latest_charge
    assert isinstance(charge, stripe.Charge)
    assert charge.id == intent.latest_charge
    assert (charge.status, charge.captured, charge.amount_captured, charge.amount_refunded) == (
        "succeeded",
        True,
        500,
        0,
    )
    assert (charge.refunded, charge.disputed, charge.payment_intent) == (False, False, intent.id)
    assert isinstance(again.payment_method, stripe.PaymentMethod)
    direct = await client.v1.charges.retrieve_async(charge.id, {"expand": ["payment_intent.latest_charge"]})
    assert isinstance(direct.payment_intent, stripe.PaymentIntent)
    assert direct.payment_intent.latest_charge.id == charge.id
    assert not [name for name in direct.to_dict() if name.startswith("_")]
    circle = "payment_intent.latest_charge.payment_intent.latest_charge.payment_intent"
    with pytest.raises(stripe.InvalidRequestError, match="cannot be expanded"):
        await client.v1.charges.retrieve_async(charge.id, {"expand": [circle]})


async def test_step_by_step_create_attach_confirm(client: RailStripeClient) -> None:
    bare = await client.v1.payment_intents.create_async({"amount": 500, "currency": "usd"})
    assert (bare.status, bare.latest_charge) == ("requires_payment_method", None)
    with pytest.raises(stripe.InvalidRequestError, match="missing a payment method"):
        await client.v1.payment_intents.confirm_async(bare.id)
    done = await client.v1.payment_intents.confirm_async(bare.id, {"payment_method": "pm_card_visa"})
    assert done.status == "succeeded"

    attached = await client.v1.payment_intents.create_async(
        {"amount": 500, "currency": "usd", "payment_method": "pm_card_visa"}
    )
    assert attached.status == "requires_confirmation"
    assert (await client.v1.payment_intents.confirm_async(attached.id)).status == "succeeded"

    attached = await client.v1.payment_intents.create_async(
        {"amount": 500, "currency": "usd", "payment_method": "pm_card_visa"}
    )
    its_own: Any = {"payment_method": attached.payment_method}
    assert (await client.v1.payment_intents.confirm_async(attached.id, its_own)).status == "succeeded"


async def test_manual_capture_holds_then_takes_all(client: RailStripeClient, balance: Balance) -> None:
    held = await client.v1.payment_intents.create_async({**CARD, "capture_method": "manual"})
    assert (held.status, held.amount_capturable, held.amount_received) == ("requires_capture", 500, 0)
    assert await balance() == {"usd": 0}
    taken = await client.v1.payment_intents.capture_async(held.id, {"expand": ["latest_charge"]})
    assert (taken.status, taken.amount_capturable, taken.amount_received) == ("succeeded", 0, 500)
    assert await balance() == {"usd": 500}


async def test_partial_capture_releases_the_rest(client: RailStripeClient, balance: Balance) -> None:
    held = await client.v1.payment_intents.create_async({**CARD, "capture_method": "manual"})
    taken = await client.v1.payment_intents.capture_async(
        held.id, {"amount_to_capture": 200, "metadata": {"units": "2"}, "expand": ["latest_charge"]}
    )
    assert (taken.status, taken.amount, taken.amount_received) == ("succeeded", 500, 200)
    assert taken.metadata.to_dict() == {"units": "2"}
    charge = taken.latest_charge
    assert isinstance(charge, stripe.Charge)
    assert (charge.amount_captured, charge.amount_refunded, charge.refunded) == (200, 300, False)
    assert await balance() == {"usd": 200}
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await client.v1.payment_intents.capture_async(held.id, {"amount_to_capture": 100})
    assert caught.value.code == "payment_intent_unexpected_state"
    assert await balance() == {"usd": 200}


async def test_capture_cannot_exceed_what_is_held(client: RailStripeClient, balance: Balance) -> None:
    held = await client.v1.payment_intents.create_async({**CARD, "capture_method": "manual"})
    for amount in (501, 0, -1):
        with pytest.raises(stripe.InvalidRequestError):
            await client.v1.payment_intents.capture_async(held.id, {"amount_to_capture": amount})
    assert (await client.v1.payment_intents.retrieve_async(held.id)).status == "requires_capture"
    assert await balance() == {"usd": 0}


async def test_cancel_gives_a_hold_back(client: RailStripeClient, balance: Balance) -> None:
    held = await client.v1.payment_intents.create_async({**CARD, "capture_method": "manual"})
    gone = await client.v1.payment_intents.cancel_async(
        held.id, {"cancellation_reason": "abandoned", "expand": ["latest_charge"]}
    )
    assert (gone.status, gone.amount_capturable, gone.cancellation_reason) == ("canceled", 0, "abandoned")
    assert gone.canceled_at is not None
    charge = gone.latest_charge
    assert isinstance(charge, stripe.Charge)
    assert (charge.captured, charge.refunded) == (False, True)
    for operation in ("capture_async", "cancel_async", "confirm_async"):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await getattr(client.v1.payment_intents, operation)(held.id)
        assert caught.value.code == "payment_intent_unexpected_state"
        assert caught.value.error.payment_intent.status == "canceled"
    assert await balance() == {"usd": 0}


async def test_what_succeeded_cannot_be_confirmed_captured_or_cancelled(
    client: RailStripeClient, balance: Balance
) -> None:
    intent = await client.v1.payment_intents.create_async(CARD)
    for operation in ("capture_async", "cancel_async", "confirm_async"):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await getattr(client.v1.payment_intents, operation)(intent.id)
        assert caught.value.code == "payment_intent_unexpected_state"
    assert await balance() == {"usd": 500}


async def test_a_hold_nobody_captures_lapses_after_seven_days(client: RailStripeClient, clock: Any) -> None:
    held = await client.v1.payment_intents.create_async({**CARD, "capture_method": "manual"})
    clock.now += 7 * 24 * 3600 - 1
    assert (await client.v1.payment_intents.retrieve_async(held.id)).status == "requires_capture"
    clock.now += 1
    with pytest.raises(stripe.InvalidRequestError, match="status of canceled"):
        await client.v1.payment_intents.capture_async(held.id)
    (listed,) = (await client.v1.payment_intents.list_async()).data
    assert (listed.status, listed.cancellation_reason) == ("canceled", "automatic")


@pytest.mark.parametrize(
    ("card", "decline_code"),
    [
        ("pm_card_visa_chargeDeclined", "generic_decline"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "insufficient_funds"),
    ],
)
async def test_a_decline_is_a_402_with_the_payment_intent_inside(
    client: RailStripeClient, balance: Balance, card: str, decline_code: str
) -> None:
    with pytest.raises(stripe.CardError) as caught:
        await client.v1.payment_intents.create_async({**CARD, "payment_method": card, "metadata": {"n": "1"}})
    error = caught.value
    assert (error.http_status, error.code, error.error.decline_code) == (402, "card_declined", decline_code)
    assert error.error.type == "card_error"
    intent = error.error.payment_intent
    assert (intent.status, intent.amount_received) == ("requires_payment_method", 0)
    stored = await client.v1.payment_intents.retrieve_async(intent.id, {"expand": ["latest_charge"]})
    assert stored.last_payment_error.decline_code == decline_code
    assert (stored.latest_charge.status, stored.latest_charge.paid) == ("failed", False)
    assert await balance() == {"usd": 0}
    again = await client.v1.payment_intents.confirm_async(intent.id, {"payment_method": "pm_card_visa"})
    assert (again.status, again.last_payment_error) == ("succeeded", None)


@pytest.mark.parametrize(
    ("settings", "code", "decline_code"),
    [
        ({"off_session": True}, "authentication_required", "authentication_required"),
        ({"error_on_requires_action": True}, "card_declined", "authentication_not_handled"),
    ],
)
async def test_a_card_that_wants_its_holder_declines_when_nobody_is_there(
    client: RailStripeClient, settings: dict[str, bool], code: str, decline_code: str
) -> None:
    with pytest.raises(stripe.CardError) as caught:
        await client.v1.payment_intents.create_async(
            {**CARD, "payment_method": "pm_card_authenticationRequired", **settings}
        )
    assert (caught.value.code, caught.value.error.decline_code) == (code, decline_code)
    assert caught.value.error.payment_intent.status == "requires_payment_method"


async def test_otherwise_it_waits_for_its_holder(client: RailStripeClient, balance: Balance) -> None:
    card = {**CARD, "payment_method": "pm_card_authenticationRequired"}
    waiting = await client.v1.payment_intents.create_async(card)
    assert (waiting.status, waiting.next_action.type) == ("requires_action", "use_stripe_sdk")
    redirected = await client.v1.payment_intents.create_async({**card, "return_url": "https://shop.example/back"})
    assert redirected.next_action.redirect_to_url.return_url == "https://shop.example/back"
    assert (await client.v1.payment_intents.cancel_async(waiting.id)).status == "canceled"
    other = await client.v1.payment_intents.confirm_async(redirected.id, {"payment_method": "pm_card_visa"})
    assert (other.status, other.next_action) == ("succeeded", None)
    assert await balance() == {"usd": 500}


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"amount": 49}, "amount_too_small", "amount"),
        ({"amount": 29, "currency": "gbp"}, "amount_too_small", "amount"),
        ({"amount": 17499, "currency": "huf"}, "amount_too_small", "amount"),
        ({"amount": 100_000_000}, "amount_too_large", "amount"),
        ({"amount": 0}, "parameter_invalid_integer", "amount"),
        ({"amount": "5.0"}, "parameter_invalid_integer", "amount"),
        ({"amount": "1e3"}, "parameter_invalid_integer", "amount"),
        ({"amount": 550, "currency": "isk"}, None, "amount"),
        ({"amount": 1001, "currency": "kwd"}, None, "amount"),
        ({"amount": None}, "parameter_missing", "amount"),
        ({"currency": None}, "parameter_missing", "currency"),
        ({"currency": "zzz"}, None, "currency"),
        ({"payment_method": "pm_card_unknown"}, "resource_missing", "payment_method"),
        ({"payment_method": ""}, "parameter_invalid_empty", "payment_method"),
        ({"capture_method": "later"}, None, "capture_method"),
        ({"confirm": "maybe"}, None, "confirm"),
        ({"colour": "red"}, "parameter_unknown", "colour"),
        ({"metadata": {"k": "v" * 501}}, None, "metadata[k]"),
        ({"metadata": {"k" * 41: "v"}}, None, f"metadata[{'k' * 41}]"),
        ({"metadata": {f"k{n}": "v" for n in range(51)}}, None, "metadata"),
        (
            {"payment_method_types": ["card"], "automatic_payment_methods": {"enabled": True}},
            None,
            "payment_method_types",
        ),
        (
            {"payment_method_types": ["us_bank_account"]},
            "payment_intent_incompatible_payment_method",
            "payment_method",
        ),
        ({"payment_method_types": ["<script>"]}, None, "payment_method_types"),
        ({"confirm": False, "off_session": True}, None, "off_session"),
        ({"payment_method_data": {"type": "card"}, "payment_method": None}, None, "payment_method_data"),
        ({"expand": ["customer"]}, None, "expand"),
    ],
)
async def test_what_stripe_would_not_take_is_a_400_and_leaves_nothing(
    client: RailStripeClient, change: dict[str, Any], code: str | None, param: str
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await client.v1.payment_intents.create_async({**CARD, **change})
    assert (caught.value.http_status, caught.value.code, caught.value.param) == (400, code, param)
    assert (await client.v1.payment_intents.list_async()).data == []


async def test_the_minimum_itself_is_charged(client: RailStripeClient, balance: Balance) -> None:
    for amount, currency in ((50, "usd"), (30, "gbp"), (50, "jpy"), (100, "isk"), (10, "kwd")):
        await client.v1.payment_intents.create_async({**CARD, "amount": amount, "currency": currency})
    assert await balance() == {"usd": 50, "gbp": 30, "jpy": 50, "isk": 100, "kwd": 10}


async def test_an_unknown_payment_intent_is_a_404(client: RailStripeClient) -> None:
    for operation in ("retrieve_async", "confirm_async", "capture_async", "cancel_async"):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await getattr(client.v1.payment_intents, operation)("pi_unknown")
        assert (caught.value.http_status, caught.value.code) == (404, "resource_missing")


async def test_lists_go_back_in_time_in_pages(client: RailStripeClient, clock: Any) -> None:
    ids = []
    for _ in range(5):
        ids.append((await client.v1.payment_intents.create_async({"amount": 500, "currency": "usd"})).id)
        clock.now += 10
    newest_first = ids[::-1]
    first = await client.v1.payment_intents.list_async({"limit": 2, "expand": ["data.latest_charge"]})
    assert ([intent.id for intent in first.data], first.has_more) == (newest_first[:2], True)
    rest = await client.v1.payment_intents.list_async({"limit": 100, "starting_after": first.data[-1].id})
    assert ([intent.id for intent in rest.data], rest.has_more) == (newest_first[2:], False)
    assert [intent.id async for intent in first.auto_paging_iter()] == newest_first
    recent = await client.v1.payment_intents.list_async({"created": {"gte": clock.now - 20, "lt": clock.now - 10}})
    assert [intent.id for intent in recent.data] == [ids[3]]


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0},
        {"limit": 101},
        {"starting_after": "pi_none"},
        {"created": {"gte": "now"}},
        {"created": {"ge": 1}},
        {"expand": ["latest_charge"]},
        {"expand": ["data.customer"]},
    ],
)
async def test_a_list_that_makes_no_sense_is_a_400(client: RailStripeClient, params: dict[str, Any]) -> None:
    await client.v1.payment_intents.create_async({"amount": 500, "currency": "usd"})
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.payment_intents.list_async(params)


async def test_a_publishable_key_confirms_and_reads_with_the_client_secret_only(
    client: RailStripeClient, http: httpx.AsyncClient, balance: Balance
) -> None:
    intent = await client.v1.payment_intents.create_async(
        {"amount": 500, "currency": "usd", "metadata": {"internal": "note"}}
    )
    pk = {"authorization": "Bearer pk_test_shop"}
    url = f"/v1/payment_intents/{intent.id}"
    seen = await http.get(url, params={"client_secret": intent.client_secret}, headers=pk)
    assert seen.status_code == 200
    assert seen.json()["status"] == "requires_payment_method"
    assert not {"metadata", "latest_charge", "amount_received", "customer"} & seen.json().keys()
    wrong = await http.get(url, params={"client_secret": f"{intent.id}_secret_wrong"}, headers=pk)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "payment_intent_invalid_parameter")
    assert (await http.get(url, headers=pk)).json()["error"]["code"] == "parameter_missing"
    assert (await http.post(f"{url}/confirm", data={"payment_method": "pm_card_visa"}, headers=pk)).status_code == 400
    assert await balance() == {"usd": 0}

    declined = await http.post(
        f"{url}/confirm",
        data={"client_secret": intent.client_secret, "payment_method": "pm_card_visa_chargeDeclined"},
        headers=pk,
    )
    assert declined.status_code == 402
    assert "metadata" not in declined.json()["error"]["payment_intent"]
    # As Stripe.js does: the key is in the body.
    body = {"key": "pk_test_shop", "client_secret": intent.client_secret, "payment_method": "pm_card_visa"}
    paid = await http.post(f"{url}/confirm", data=body, headers={"authorization": ""})
    assert (paid.status_code, paid.json()["status"]) == (200, "succeeded")
    assert "metadata" not in paid.json()
    assert await balance() == {"usd": 500}


async def test_manual_confirmation_is_for_the_secret_key(client: RailStripeClient, http: httpx.AsyncClient) -> None:
    intent = await client.v1.payment_intents.create_async(
        {"amount": 500, "currency": "usd", "confirmation_method": "manual"}
    )
    body = {"client_secret": intent.client_secret, "payment_method": "pm_card_visa"}
    url = f"/v1/payment_intents/{intent.id}/confirm"
    refused = await http.post(url, data=body, headers={"authorization": "Bearer pk_test_shop"})
    assert refused.status_code == 400
    assert (await http.post(url, data=body)).json()["status"] == "succeeded"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/payment_intents"),
        ("GET", "/v1/payment_intents"),
        ("POST", "/v1/payment_intents/pi_1/capture"),
        ("POST", "/v1/payment_intents/pi_1/cancel"),
        ("POST", "/v1/refunds"),
        ("GET", "/v1/balance"),
        ("POST", "/v1/test_helpers/shared_payment/granted_tokens"),
        ("POST", "/v1/checkout/sessions"),
    ],
)
async def test_a_publishable_key_does_nothing_else(http: httpx.AsyncClient, method: str, path: str) -> None:
    response = await http.request(method, path, headers={"authorization": "Bearer pk_test_shop"})
    assert (response.status_code, response.json()["error"]["code"]) == (401, "secret_key_required")
