from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import stripe

from rail402_stripe.client import RailStripeClient, stripe_client
from rail402_stripe.sandbox import SANDBOX_URL, Sandbox, SandboxTransport

Grant = Callable[..., Awaitable[str]]
Balance = Callable[[], Awaitable[dict[str, int]]]

NEW_SPELLING = "payment_method_data[shared_payment_granted_token]"


def charge_with(token: str, *, amount: int = 500, currency: str = "usd", **settings: Any) -> dict[str, Any]:
    return {
        "amount": amount,
        "currency": currency,
        "confirm": True,
        "payment_method_data": {"shared_payment_granted_token": token},
        **settings,
    }


async def granted(client: RailStripeClient, token: str) -> dict[str, Any]:
    response = await client.raw_request_async(
        "get", f"/v1/shared_payment/granted_tokens/{token}", stripe_version="2026-07-29.preview"
    )
    assert response.headers["stripe-version"] == "2026-07-29.preview"
    return response.data


async def refused(client: RailStripeClient, params: dict[str, Any]) -> stripe.InvalidRequestError:
    before = len((await client.v1.payment_intents.list_async()).data)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await client.v1.payment_intents.create_async(params)
    assert caught.value.http_status == 400
    assert len((await client.v1.payment_intents.list_async()).data) == before
    return caught.value


@pytest.mark.parametrize("spelling", ["old", "new"])
async def test_a_token_pays_once_in_either_spelling(
    client: RailStripeClient, grant: Grant, balance: Balance, spelling: str
) -> None:
    token = await grant(max_amount=500)
    params = charge_with(token)
    if spelling == "old":
        params["shared_payment_granted_token"] = params.pop("payment_method_data")["shared_payment_granted_token"]
    intent = await client.v1.payment_intents.create_async(params, {"stripe_version": "2026-04-22.preview"})
    assert (intent.status, intent.amount_received) == ("succeeded", 500)
    assert intent.payment_method.startswith("pm_")
    assert token not in str(intent)
    spent = await granted(client, token)
    assert (spent["deactivated_reason"], spent["usage_details"]["amount_captured"]["value"]) == ("consumed", 500)
    error = await refused(client, params)
    assert "consumed" in str(error.user_message)
    assert error.param == (NEW_SPELLING if spelling == "new" else "shared_payment_granted_token")
    assert await balance() == {"usd": 500}


async def test_a_fresh_token_says_what_it_allows(client: RailStripeClient, grant: Grant, clock: Any) -> None:
    token = await granted(client, await grant(max_amount=700, expires_at=clock.now + 60))
    assert token["object"] == "shared_payment.granted_token"
    assert token["usage_limits"] == {"currency": "usd", "max_amount": 700, "expires_at": clock.now + 60}
    assert (token["deactivated_at"], token["deactivated_reason"]) == (None, None)
    assert token["payment_method_details"]["card"]["last4"] == "4242"
    assert not [name for name in token if name.startswith("_")]


async def test_the_limits_are_kept(client: RailStripeClient, grant: Grant, balance: Balance, clock: Any) -> None:
    token = await grant(max_amount=500, expires_at=clock.now + 60)
    assert "500 usd" in str((await refused(client, charge_with(token, amount=501))).user_message)
    assert "limited to usd" in str((await refused(client, charge_with(token, currency="eur"))).user_message)
    clock.now += 60
    assert "expired" in str((await refused(client, charge_with(token))).user_message)
    assert (await granted(client, token))["deactivated_reason"] == "expired"
    assert (await granted(client, token))["deactivated_at"] == clock.now
    assert await balance() == {"usd": 0}


async def test_a_token_without_a_maximum_or_an_expiry_has_none(
    client: RailStripeClient, grant: Grant, clock: Any
) -> None:
    token = await grant()
    clock.now += 10**7
    assert (await client.v1.payment_intents.create_async(charge_with(token, amount=99_999_999))).status == "succeeded"


async def test_a_revoked_token_pays_nothing(client: RailStripeClient, grant: Grant, balance: Balance) -> None:
    token = await grant(max_amount=500)
    path = f"/v1/test_helpers/shared_payment/granted_tokens/{token}/revoke"
    revoked = await client.raw_request_async("post", path)
    assert revoked.data["deactivated_reason"] == "revoked"
    assert "revoked" in str((await refused(client, charge_with(token))).user_message)
    with pytest.raises(stripe.InvalidRequestError):
        await client.raw_request_async("post", path)
    assert await balance() == {"usd": 0}


async def test_what_a_token_was_turned_into_pays_no_second_time(
    client: RailStripeClient, grant: Grant, balance: Balance
) -> None:
    paid = await client.v1.payment_intents.create_async(charge_with(await grant(max_amount=500)))
    for changes in ({"confirm": True}, {"confirm": False}):
        params: Any = {"amount": 500, "currency": "usd", "payment_method": paid.payment_method, **changes}
        assert "may not be used again" in str((await refused(client, params)).user_message)
    bare = await client.v1.payment_intents.create_async({"amount": 500, "currency": "usd"})
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.payment_intents.confirm_async(bare.id, {"payment_method": str(paid.payment_method)})
    assert await balance() == {"usd": 500}


async def test_an_unknown_token_is_refused_and_not_repeated(client: RailStripeClient) -> None:
    error = await refused(client, charge_with("spt_secret_of_somebody"))
    assert error.code == "resource_missing"
    assert "somebody" not in str(error)
    for method, path in (
        ("get", "/v1/shared_payment/granted_tokens/spt_secret_of_somebody"),
        ("post", "/v1/test_helpers/shared_payment/granted_tokens/spt_secret_of_somebody/revoke"),
        ("get", "/v1/shared_payment/issued_tokens/spt_secret_of_somebody"),
    ):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await client.raw_request_async(method, path)
        assert caught.value.http_status == 404
        assert "somebody" not in str(caught.value)


async def test_a_hold_keeps_the_token_and_its_capture_consumes_it(
    client: RailStripeClient, grant: Grant, balance: Balance
) -> None:
    token = await grant(max_amount=2000)
    held = await client.v1.payment_intents.create_async(charge_with(token, capture_method="manual"))
    assert held.status == "requires_capture"
    assert (await granted(client, token))["deactivated_reason"] is None
    assert "using it" in str((await refused(client, charge_with(token))).user_message)
    await client.v1.payment_intents.capture_async(held.id, {"amount_to_capture": 300})
    spent = await granted(client, token)
    assert (spent["deactivated_reason"], spent["usage_details"]["amount_captured"]["value"]) == ("consumed", 300)
    assert await balance() == {"usd": 300}


async def test_a_cancelled_hold_frees_the_token(client: RailStripeClient, grant: Grant, balance: Balance) -> None:
    token = await grant(max_amount=500)
    held = await client.v1.payment_intents.create_async(charge_with(token, capture_method="manual"))
    await client.v1.payment_intents.cancel_async(held.id)
    assert (await client.v1.payment_intents.create_async(charge_with(token))).status == "succeeded"
    assert await balance() == {"usd": 500}


async def test_a_declined_token_is_not_consumed(client: RailStripeClient, grant: Grant) -> None:
    token = await grant("pm_card_visa_chargeDeclined", max_amount=500)
    with pytest.raises(stripe.CardError) as caught:
        await client.v1.payment_intents.create_async(charge_with(token))
    assert caught.value.error.payment_intent.status == "requires_payment_method"
    assert token not in caught.value.http_body
    assert (await granted(client, token))["deactivated_reason"] is None


async def test_a_token_confirms_an_existing_payment_intent(client: RailStripeClient, grant: Grant) -> None:
    token = await grant(max_amount=500)
    intent = await client.v1.payment_intents.create_async({"amount": 500, "currency": "usd"})
    params: Any = {"payment_method_data": {"shared_payment_granted_token": token}}
    assert (await client.v1.payment_intents.confirm_async(intent.id, params)).status == "succeeded"


async def test_one_thing_to_charge_at_a_time(client: RailStripeClient, grant: Grant) -> None:
    token = await grant(max_amount=500)
    both = charge_with(token, payment_method="pm_card_visa")
    assert "only specify one" in str((await refused(client, both)).user_message)
    assert "confirm=true" in str((await refused(client, charge_with(token) | {"confirm": False})).user_message)


@pytest.mark.parametrize(
    ("limits", "param"),
    [
        ({}, "usage_limits[currency]"),
        ({"currency": "zzz"}, "usage_limits[currency]"),
        ({"currency": "usd", "max_amount": 0}, "usage_limits[max_amount]"),
        ({"currency": "usd", "max_amount": "many"}, "usage_limits[max_amount]"),
        ({"currency": "usd", "expires_at": 1}, "usage_limits[expires_at]"),
        ({"currency": "usd", "times": 1}, "usage_limits[times]"),
    ],
)
async def test_limits_that_make_no_sense_are_a_400(
    client: RailStripeClient, limits: dict[str, object], param: str
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await client.raw_request_async(
            "post",
            "/v1/test_helpers/shared_payment/granted_tokens",
            payment_method="pm_card_visa",
            usage_limits=limits,
        )
    assert caught.value.param == param


async def test_a_token_for_another_seller_pays_nothing_here(
    client: RailStripeClient, ledger_path: Path, clock: Any, balance: Balance
) -> None:
    async def token_for(seller: str) -> str:
        response = await client.raw_request_async(
            "post",
            "/v1/test_helpers/shared_payment/granted_tokens",
            payment_method="pm_card_visa",
            usage_limits={"currency": "usd", "max_amount": 500},
            seller_details={"network_id": seller},
            shared_metadata={"order": "7"},
            metadata={"challenge": "c1"},
        )
        assert response.data["shared_metadata"] == {"order": "7"}
        return str(response.data["id"])

    ours, theirs = await token_for("profile_ours"), await token_for("profile_theirs")
    sandbox = Sandbox(ledger_path, clock=clock, profile_id="profile_ours")
    async with stripe_client("sk_test_seller", transport=SandboxTransport(sandbox), api_base=SANDBOX_URL) as seller:
        assert (await seller.v1.payment_intents.create_async(charge_with(ours))).status == "succeeded"
        assert "another seller" in str((await refused(seller, charge_with(theirs))).user_message)
    assert await balance() == {"usd": 500}


async def test_the_payers_way_to_issue_a_token(client: RailStripeClient, clock: Any) -> None:
    params: dict[str, Any] = {
        "payment_method": "pm_card_visa",
        "usage_limits": {"currency": "usd", "max_amount": 500, "expires_at": clock.now + 60},
        "seller_details": {"network_business_profile": "internal"},
    }
    path = "/v1/shared_payment/issued_tokens"
    issued = (await client.raw_request_async("post", path, **params)).data
    assert (issued["object"], issued["status"]) == ("shared_payment.issued_token", "active")
    assert issued["seller_details"] == {"network_business_profile": "internal"}
    assert (await client.v1.payment_intents.create_async(charge_with(issued["id"]))).status == "succeeded"
    after = (await client.raw_request_async("get", f"{path}/{issued['id']}")).data
    assert (after["status"], after["deactivated_reason"]) == ("deactivated", "consumed")

    second = (await client.raw_request_async("post", path, **params)).data
    revoked = (await client.raw_request_async("post", f"{path}/{second['id']}/revoke")).data
    assert (revoked["object"], revoked["deactivated_reason"]) == ("shared_payment.issued_token", "revoked")
    for missing in ("seller_details", "payment_method", "usage_limits"):
        with pytest.raises(stripe.InvalidRequestError):
            await client.raw_request_async("post", path, **{name: params[name] for name in params if name != missing})
