"""24: Stripe: tokens shown again, payments of others, and events that Stripe never sent.

The real `stripe` library talks to the sandbox; every event is signed, or not, as Stripe signs.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rail402.protocol.charge import PaymentState
from rail402_stripe.sandbox import SignedEvent
from tests.attacks.cases import Observe
from tests.conformance.test_stripe_end_to_end import Shop
from tests.conformance.test_stripe_on_demand import (
    PAY,
    PREPARED,
    Customers,
    ask,
    by_customer,
    by_intent,
    by_token,
    challenge,
    code_of,
    confirm,
    saved,
    show,
)
from tests.conformance.test_stripe_webhooks import ADDRESS, SECRET, forge, lose, post, settled
from tests.unit.rail402_stripe.account import CAPTURE, PRICE, Account


@pytest.fixture
def customers() -> Customers:
    return Customers()


@pytest.fixture
async def account(tmp_path: Path, customers: Customers) -> AsyncIterator[Account]:
    account = Account(tmp_path, customers=customers, webhook_secrets=[SECRET])
    yield account
    await account.close()


async def intent_of(account: Account, **facts: Any) -> str:
    """A PaymentIntent that somebody made and paid, with a key of this account's."""
    how = {"confirm": True, "payment_method": "pm_card_visa", "capture_method": "manual"}
    made = await account.api.create_intent(
        None, f"by hand {facts}", **({"amount": PRICE, "currency": "usd"} | how | facts)
    )
    return str(made["id"])


# --- tokens


async def test_a_token_shown_again(account: Account, observed: Observe) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        payload = await by_token(shop, offer)
        assert (await show(shop, offer, payload)).json() == {"n": 1}
        assert code_of(await show(shop, offer, payload, "/other")) == (402, "resource_mismatch")
        for path in ("/report", "/other"):
            fresh, _ = await challenge(shop, path)
            assert code_of(await show(shop, fresh, payload, path)) == (409, "replay_not_proven")
        assert (shop.served, await account.balance(), await account.statuses()) == (1, PRICE, ["succeeded"])
    observed("a token shown again: the stored answer, 402 `resource_mismatch` elsewhere, 409 under a fresh offer")


async def test_a_token_after_its_store_was_lost(account: Account, tmp_path: Path, observed: Observe) -> None:
    """Stripe itself knows that it was used up."""
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        payload = await by_token(shop, offer)
        assert (await show(shop, offer, payload)).status_code == 200
    async with Shop(account, "escrow", f"sqlite:///{tmp_path}/new.db").open() as forgetful:
        fresh, _ = await challenge(forgetful)
        answer = await show(forgetful, fresh, payload)
        assert answer.status_code == 402
        assert (forgetful.served, await account.balance()) == (0, PRICE)
    observed("refused by Stripe where our store was lost")


@pytest.mark.parametrize(
    "spt", ["spt_", "tok_visa", "pm_card_visa", "spt_" + "a" * 5000, "spt_a/../../refunds", "spt_\r\n"]
)
async def test_what_is_no_token(account: Account, spt: str, observed: Observe) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        answer = await show(shop, offer, {"spt": spt})
        assert answer.status_code in (400, 402)
        assert await account.intents() == []
    observed("400 or 402 for what is no token, among it paths and line breaks; Stripe is asked for nothing of the kind")


# --- PaymentIntents


@pytest.mark.parametrize("made", ["by hand", "of another amount", "of another currency", "for another offer"])
async def test_a_payment_intent_that_was_not_made_for_this(account: Account, made: str, observed: Observe) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        await ask(shop, offer, "payment_intent")
        (mine,) = await account.intents()
        marks = {"metadata": mine["metadata"]}
        match made:
            case "by hand":
                found = await intent_of(account)
            case "of another amount":
                found = await intent_of(account, amount=PRICE + 10, **marks)
            case "of another currency":
                found = await intent_of(account, currency="eur", **marks)
            case _:
                other, _ = await challenge(shop, "/other")
                found = (await by_intent(shop, other))["paymentIntent"]
        answer = await show(shop, offer, {"paymentIntent": found})
        assert answer.status_code == 402
        assert answer.json()["code"] in ("resource_mismatch", "amount_mismatch", "asset_mismatch")
        assert (shop.served, await shop.charges()) == (0, [])
    observed("intents made by hand, of another amount, currency or offer: 402, and no charge")


@pytest.mark.parametrize("kind", PREPARED)
async def test_a_payment_to_another_account(account: Account, tmp_path: Path, kind: str, observed: Observe) -> None:
    (tmp_path / "elsewhere").mkdir()
    other = Account(tmp_path / "elsewhere")
    async with Shop(account, "escrow", "memory://").open() as shop, Shop(other, "escrow", "memory://").open() as theirs:
        payload = await PAY[kind](theirs, (await challenge(theirs))[0])
        offer, _ = await challenge(shop)
        assert code_of(await show(shop, offer, payload)) == (402, "payment_declined")
        assert (shop.served, await account.balance()) == (0, 0)
    await other.close()
    observed("402 `payment_declined` for a payment to another account")


async def test_a_payment_that_has_not_succeeded(account: Account, observed: Observe) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        prepared = (await ask(shop, offer, "payment_intent")).json()
        payload = {"paymentIntent": prepared["payment_intent"]}
        assert (await show(shop, offer, payload)).status_code == 402
        await confirm(shop, prepared, "pm_card_visa_chargeDeclined")
        assert (await show(shop, offer, payload)).status_code == 402
        assert (shop.served, await account.balance()) == (0, 0)
        await confirm(shop, prepared)
        assert (await show(shop, offer, payload)).json() == {"n": 1}
    observed("402 while it is not paid, and after a declined card")


async def test_another_customers_secret(account: Account, customers: Customers, observed: Observe) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, _ = await challenge(shop)
        payload = await by_customer(shop, offer)
        customers.known["mallory-0123456789ab"] = await saved(account, "pm_card_pendingRefund")
        assert (await show(shop, offer, payload)).status_code == 200
        assert code_of(await show(shop, offer, {"customer": "mallory-0123456789ab"})) == (409, "payment_in_progress")
        guessed, _ = await challenge(shop, "/other")
        for secret in ("alice-0123456789abcdeg", "", "*", "alice", "' OR 1=1 --"):
            assert (await show(shop, guessed, {"customer": secret}, "/other")).status_code in (400, 402)
        assert (shop.served, await account.balance()) == (1, PRICE)
    observed("another customer's secret gets no replay, a guessed one nothing")


# --- webhooks


def _sign(secret: str, at: object, payload: bytes) -> str:
    return hmac.digest(secret.encode(), f"{at}.".encode() + payload, hashlib.sha256).hex()


async def test_a_forged_event(account: Account, observed: Observe) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        await lose(shop, CAPTURE)
        before, good, now = await shop.only_charge(), await forge(shop), account.clock()
        guesses = ["", "whsec_", "whsec_guessed", SECRET.upper(), SECRET + " "]
        signatures = [f"t={now},v1={_sign(guess, now, good.payload)}" for guess in guesses]
        right = _sign(SECRET, now, good.payload)
        signatures += ["", "t=,v1=", f"v1={right}", f"t={now}", f"t={now},v0={right}", f"t={now},v1={right[:-1]}"]
        signatures += [f"t={now},v1={right.upper()}x", f"t=-1,v1={right}", f"t=9e9,v1={right}", f"t={now};v1={right}"]
        signatures += [f"t={now},t={now + 1},v1={right}x", "t=" + "1" * 5000 + f",v1={right}", f"t={now},v1={'0' * 64}"]
        for signature in signatures:
            answer = await post(shop, SignedEvent(good.payload, signature))
            assert answer.status_code == 400, signature
            assert "whsec" not in answer.text
        altered = good.payload.replace(b"succeeded", b"succeedeD")
        assert (await post(shop, SignedEvent(altered, good.signature))).status_code == 400
        answer = await shop.client.post(ADDRESS, content=good.payload)
        assert (answer.status_code, await shop.only_charge()) == (400, before)
    observed("400 for 18 wrong signatures, an altered body and none; the charge stays as it was")


@pytest.mark.parametrize("seconds", [-86_400, -301, 301, 86_400])
async def test_an_old_event(account: Account, seconds: int, observed: Observe) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        await lose(shop, CAPTURE)
        event = await forge(shop, signed_at=account.clock() + seconds)
        assert (await post(shop, event)).status_code == 400
        assert (await shop.only_charge()).payment is PaymentState.UNKNOWN
    observed("400 for an event that was signed more than five minutes ago, or ahead")


async def test_a_replayed_event(account: Account, observed: Observe) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        charge, offer, spt = await settled(shop)
        event = account.sandbox.webhook(
            "payment_intent.succeeded", (await account.intents())[0]["id"], webhook_secret=SECRET
        )
        for _ in range(5):
            assert (await post(shop, event)).status_code == 200
        assert (await shop.only_charge(), shop.served, await account.balance()) == (charge, 1, PRICE)
        await shop.gate.refund(charge.id)
        assert (await post(shop, event)).status_code == 200
        assert (await shop.only_charge()).payment is PaymentState.REFUNDED
        assert (await shop.show(offer, spt)).json()["code"] == "refunded"
    observed("a replayed event changes nothing, and brings no refunded payment back")


async def test_a_signed_lie(account: Account, observed: Observe) -> None:
    """Of somebody who has the webhook's secret: the gate looks, and believes only what it sees."""
    async with Shop(account, "escrow", "memory://").open() as shop:
        await lose(shop, CAPTURE, applied=False)
        lie = {"status": "succeeded", "amount_received": PRICE, "amount_capturable": 0}
        assert (await post(shop, await forge(shop, document=lie))).status_code == 200
        assert (await shop.only_charge()).payment is not PaymentState.SETTLED
        assert (await account.balance(), shop.served) == (0, 1)
        for name in ("payment_intent.canceled", "payment_intent.payment_failed", "unknown.event"):
            assert (await post(shop, await forge(shop, name=name))).status_code == 200
        lies: list[dict[str, Any]] = [{"id": 7}, {"id": "pi_" + "a" * 9000}, {"metadata": []}, {"object": "charge"}]
        for document in lies:
            assert (await post(shop, await forge(shop, document=document))).status_code in (200, 400, 503)
        body = b"[" * 20_000
        signed = SignedEvent(body, f"t={account.clock()},v1={_sign(SECRET, account.clock(), body)}")
        assert (await post(shop, signed)).status_code == 400
        twice = b'{"id": "evt_1", "id": "evt_2", "type": "payment_intent.succeeded"}'
        signed = SignedEvent(twice, f"t={account.clock()},v1={_sign(SECRET, account.clock(), twice)}")
        assert (await post(shop, signed)).status_code == 400
        assert await account.balance() == 0
        assert json.loads((await shop.client.post(ADDRESS, content=b"x")).text)["code"] == "malformed_request"
    observed("a lie with the right signature makes the gate look at Stripe, and settles nothing")
