from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
import stripe

from rail402_stripe.client import RailStripeClient
from rail402_stripe.sandbox import SANDBOX_URL

Balance = Callable[[], Awaitable[dict[str, int]]]


def order(**changes: Any) -> Any:
    line = {"price_data": {"currency": "usd", "unit_amount": 250, "product_data": {"name": "Credits"}}, "quantity": 2}
    return {
        "mode": "payment",
        "line_items": [line],
        "success_url": "https://shop.example/paid?session={CHECKOUT_SESSION_ID}",
        "metadata": {"charge": "c1"},
        "payment_intent_data": {"metadata": {"charge": "c1"}, "description": "Top-up"},
        "client_reference_id": "c1",
        **changes,
    }


def path_of(session: stripe.checkout.Session) -> str:
    assert session.url is not None
    return session.url.removeprefix(SANDBOX_URL)


async def test_a_person_pays_on_the_hosted_page(
    client: RailStripeClient, http: httpx.AsyncClient, balance: Balance
) -> None:
    session = await client.v1.checkout.sessions.create_async(order())
    assert (session.status, session.payment_status, session.amount_total) == ("open", "unpaid", 500)
    assert (session.payment_intent, session.client_reference_id) == (None, "c1")
    page = await http.get(path_of(session), headers={"authorization": ""})
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "Pay 5.00 USD" in page.text

    paid = await http.post(path_of(session), data={"payment_method": "pm_card_visa"}, headers={"authorization": ""})
    assert paid.status_code == 303
    assert paid.headers["location"] == f"https://shop.example/paid?session={session.id}"
    after = await client.v1.checkout.sessions.retrieve_async(session.id, {"expand": ["payment_intent.latest_charge"]})
    assert (after.status, after.payment_status, after.url) == ("complete", "paid", None)
    intent = after.payment_intent
    assert isinstance(intent, stripe.PaymentIntent)
    assert (intent.status, intent.amount_received, intent.description) == ("succeeded", 500, "Top-up")
    assert intent.metadata.to_dict() == {"charge": "c1"}
    assert intent.latest_charge.captured is True
    assert await balance() == {"usd": 500}

    twice = await http.post(path_of(session))
    assert (twice.status_code, "not open" in twice.text) == (402, True)
    assert await balance() == {"usd": 500}


@pytest.mark.parametrize("card", ["pm_card_visa_chargeDeclined", "pm_card_nonsense"])
async def test_a_declined_card_leaves_the_session_open_for_another(
    client: RailStripeClient, http: httpx.AsyncClient, balance: Balance, card: str
) -> None:
    session = await client.v1.checkout.sessions.create_async(order())
    declined = await http.post(path_of(session), data={"payment_method": card})
    assert declined.status_code == 402
    assert "<form" in declined.text
    assert (await client.v1.checkout.sessions.retrieve_async(session.id)).status == "open"
    assert await balance() == {"usd": 0}
    assert (await http.post(path_of(session))).status_code == 303
    assert await balance() == {"usd": 500}


async def authenticating(client: RailStripeClient, http: httpx.AsyncClient, **changes: Any) -> tuple[Any, str]:
    """Return a session that is paid with a card that wants its holder, and the path of the bank's page."""
    session = await client.v1.checkout.sessions.create_async(order(**changes))
    sent_on = await http.post(path_of(session), data={"payment_method": "pm_card_authenticationRequired"})
    assert sent_on.status_code == 303
    path = httpx.URL(sent_on.headers["location"]).path
    assert path.startswith("/c/authenticate/pi_")
    return session, path


async def test_a_cardholder_approves_at_the_bank_and_goes_back_to_the_shop(
    client: RailStripeClient, http: httpx.AsyncClient, balance: Balance
) -> None:
    session, bank = await authenticating(client, http)
    assert (await client.v1.checkout.sessions.retrieve_async(session.id)).status == "open"
    assert "Approve" in (await http.get(bank)).text
    assert await balance() == {"usd": 0}
    approved = await http.post(bank, data={"outcome": "approve"})
    assert approved.status_code == 303
    assert approved.headers["location"] == str(session.success_url).replace("{CHECKOUT_SESSION_ID}", session.id)
    after = await client.v1.checkout.sessions.retrieve_async(session.id)
    assert (after.status, after.payment_status) == ("complete", "paid")
    assert await balance() == {"usd": 500}
    again = await http.post(bank, data={"outcome": "approve"})
    assert (again.status_code, "nothing to approve" in again.text) == (200, True)
    assert await balance() == {"usd": 500}


async def test_a_cardholder_who_refuses_is_back_at_checkout_and_may_pay_otherwise(
    client: RailStripeClient, http: httpx.AsyncClient, balance: Balance
) -> None:
    session, bank = await authenticating(client, http)
    refused = await http.post(bank, data={"outcome": "fail"})
    assert refused.status_code == 303
    assert refused.headers["location"].endswith(path_of(session))
    assert (await client.v1.checkout.sessions.retrieve_async(session.id)).status == "open"
    assert await balance() == {"usd": 0}
    assert (await http.post(path_of(session))).status_code == 303
    assert await balance() == {"usd": 500}


async def test_what_is_approved_after_the_session_has_ended_takes_nothing(
    client: RailStripeClient, http: httpx.AsyncClient, balance: Balance, clock: Any
) -> None:
    session, bank = await authenticating(client, http, expires_at=clock.now + 1800)
    clock.now += 1800
    assert (await client.v1.checkout.sessions.retrieve_async(session.id)).status == "expired"
    assert (await http.post(bank, data={"outcome": "approve"})).status_code == 200
    assert await balance() == {"usd": 0}


@pytest.mark.parametrize("form", [{"outcome": "perhaps"}])
async def test_the_bank_has_two_buttons(client: RailStripeClient, http: httpx.AsyncClient, form: Any) -> None:
    _, bank = await authenticating(client, http)
    assert (await http.post(bank, data=form)).status_code == 400
    assert (await http.get("/c/authenticate/pi_unknown")).status_code == 404
    assert (await http.get("/c/elsewhere/pi_unknown")).status_code in (401, 404)


async def test_manual_capture_holds_the_money(client: RailStripeClient, http: httpx.AsyncClient) -> None:
    session = await client.v1.checkout.sessions.create_async(order(payment_intent_data={"capture_method": "manual"}))
    await http.post(path_of(session))
    after = await client.v1.checkout.sessions.retrieve_async(session.id, {"expand": ["payment_intent"]})
    assert (after.status, after.payment_status) == ("complete", "unpaid")
    assert isinstance(after.payment_intent, stripe.PaymentIntent)
    assert after.payment_intent.status == "requires_capture"


async def test_a_session_expires(client: RailStripeClient, http: httpx.AsyncClient, clock: Any) -> None:
    session = await client.v1.checkout.sessions.create_async(order(expires_at=clock.now + 1800))
    clock.now += 1800
    assert (await http.post(path_of(session))).status_code == 402
    after = await client.v1.checkout.sessions.retrieve_async(session.id)
    assert (after.status, after.url, after.payment_intent) == ("expired", None, None)
    page = await http.get(path_of(session))
    assert "expired" in page.text
    assert "<form" not in page.text


async def test_a_session_can_be_closed_by_hand_once(client: RailStripeClient) -> None:
    session = await client.v1.checkout.sessions.create_async(order())
    assert (await client.v1.checkout.sessions.expire_async(session.id)).status == "expired"
    with pytest.raises(stripe.InvalidRequestError, match="not open"):
        await client.v1.checkout.sessions.expire_async(session.id)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"mode": "subscription"}, "mode"),
        ({"mode": None}, "mode"),
        ({"success_url": None}, "success_url"),
        ({"success_url": "javascript:alert(1)"}, "success_url"),
        ({"success_url": "https://shop.example/\r\nSet-Cookie: a=b"}, "success_url"),
        ({"cancel_url": "shop.example"}, "cancel_url"),
        ({"line_items": None}, "line_items"),
        ({"line_items": [{"price": "price_1", "quantity": 1}]}, "line_items[0][price]"),
        ({"expires_at": 1}, "expires_at"),
        ({"payment_intent_data": {"application_fee_amount": 1}}, "payment_intent_data[application_fee_amount]"),
    ],
)
async def test_a_session_that_makes_no_sense_is_a_400(
    client: RailStripeClient, changes: dict[str, Any], param: str
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await client.v1.checkout.sessions.create_async(order(**changes))
    assert (caught.value.http_status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ({"currency": "usd", "unit_amount": 24}, "amount_too_small"),
        ({"currency": "zzz", "unit_amount": 500}, None),
        ({"currency": "usd"}, "parameter_missing"),
        ({"currency": "usd", "unit_amount": 99_999_999}, "amount_too_large"),
    ],
)
async def test_the_total_must_be_chargeable(client: RailStripeClient, line: dict[str, Any], code: str | None) -> None:
    item = {"price_data": {**line, "product_data": {"name": "Credits"}}, "quantity": 2}
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await client.v1.checkout.sessions.create_async(order(line_items=[item]))
    assert caught.value.code == code


async def test_all_lines_have_one_currency(client: RailStripeClient) -> None:
    lines = [
        {"price_data": {"currency": code, "unit_amount": 500, "product_data": {"name": "Credits"}}, "quantity": 1}
        for code in ("usd", "eur")
    ]
    with pytest.raises(stripe.InvalidRequestError, match="one currency"):
        await client.v1.checkout.sessions.create_async(order(line_items=lines))


async def test_an_unknown_session_is_a_404_on_the_page_too(client: RailStripeClient, http: httpx.AsyncClient) -> None:
    assert (await http.get("/c/pay/cs_test_unknown")).status_code == 404
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await client.v1.checkout.sessions.retrieve_async("cs_test_unknown")
    assert caught.value.http_status == 404
