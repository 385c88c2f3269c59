"""Webhooks from the delivery to the closed charge: a shop behind a gate, and the sandbox that signs its events.

The reconciler never runs here unless a test says so: what is closed was closed by a webhook.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rail402.protocol.charge import Charge, Delivery, PaymentState
from rail402_stripe.sandbox import SignedEvent, signed_event
from tests.conformance.test_stripe_end_to_end import Shop, no_telemetry_file
from tests.unit.rail402_stripe.account import CANCEL, CAPTURE, CREATE, INTENT, PRICE, REFUND, Account

__all__ = ["no_telemetry_file"]

ADDRESS = "/.well-known/rail402/stripe/webhook"
SECRET = "whsec_of_this_shop"


@pytest.fixture
async def account(tmp_path: Path) -> AsyncIterator[Account]:
    account = Account(tmp_path, webhook_secrets=["whsec_of_last_year", SECRET])
    yield account
    await account.close()


async def post(shop: Shop, event: SignedEvent) -> httpx.Response:
    return await shop.client.post(ADDRESS, content=event.payload, headers={"stripe-signature": event.signature})


async def tell(shop: Shop, name: str, object_id: str | None = None) -> httpx.Response:
    """Deliver an event about an object, the newest PaymentIntent unless told, as the sandbox has it now."""
    about = object_id or (await shop.account.intents())[0]["id"]
    return await post(shop, shop.account.sandbox.webhook(name, about, webhook_secret=SECRET))


async def forge(shop: Shop, **changes: Any) -> SignedEvent:
    """An event about the newest PaymentIntent with something else about it than the sandbox would say."""
    (intent, *_) = await shop.account.intents()
    facts = {"webhook_secret": SECRET, "event_id": "evt_1", "created": shop.account.clock()}
    document = intent | changes.pop("document", {})
    return signed_event(changes.pop("name", "payment_intent.succeeded"), document, **(facts | changes))


async def lose(shop: Shop, path: str, *, applied: bool = True) -> tuple[Any, str]:
    """Buy, and lose an answer of Stripe's; returns the offer and the token."""
    offer, spt = await shop.offer(), await shop.account.token()
    shop.account.spoil(path, "timeout", applied=applied)
    answer = await shop.show(offer, spt)
    assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
    return offer, spt


# --- lost answers


async def test_a_lost_capture_is_closed_without_the_reconciler(account: Account, tmp_path: Path) -> None:
    async with Shop(account, "escrow", f"sqlite:///{tmp_path}/charges.db").open() as shop:
        offer, spt = await lose(shop, CAPTURE)
        assert (await tell(shop, "payment_intent.succeeded")).status_code == 200
        charge = await shop.only_charge()
        assert (charge.payment, charge.delivery) == (PaymentState.SETTLED, Delivery.STORED)
        replay = await shop.show(offer, spt)
        assert (replay.status_code, replay.json()) == (200, {"n": 1})
        assert (shop.served, await account.balance()) == (1, PRICE)


@pytest.mark.parametrize(
    ("flow", "name"), [("escrow", "payment_intent.amount_capturable_updated"), ("upfront", "payment_intent.succeeded")]
)
async def test_a_lost_creation_is_closed_though_not_even_its_id_is_known(
    account: Account, flow: str, name: str
) -> None:
    async with Shop(account, flow, "memory://").open() as shop:
        offer, spt = await lose(shop, CREATE)
        assert (await tell(shop, name)).status_code == 200
        assert (await shop.show(offer, spt)).json() == {"n": 1}
        assert await account.statuses() == ["succeeded"]
        assert await account.balance() == PRICE


async def test_what_a_webhook_found_held_is_used_or_released_and_never_both(account: Account, tmp_path: Path) -> None:
    """Its payer comes back just when the reconciler releases it."""
    for number in range(6):
        async with Shop(account, "escrow", f"sqlite:///{tmp_path}/{number}.db").open() as shop:
            offer, spt = await lose(shop, CREATE)
            await tell(shop, "payment_intent.amount_capturable_updated")
            assert (await shop.only_charge()).payment is PaymentState.HELD
            reconciling = asyncio.create_task(shop.gate.reconcile()) if number % 2 else None
            showing = asyncio.create_task(shop.show(offer, spt))
            await (reconciling or shop.gate.reconcile())
            answer = await showing
            assert answer.status_code in (200, 409, 503)
            while answer.status_code != 200:
                await shop.gate.reconcile()
                account.clock.advance(5)
                answer = await shop.show(offer, spt)
            assert (answer.json(), shop.served) == ({"n": 1}, 1)
            assert set(await account.statuses()) <= {"succeeded", "canceled"}  # nothing stays reserved
            assert await account.balance() == PRICE * (number + 1)


async def test_what_is_held_after_a_failed_handler_is_only_released(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        shop.status = iter([500])
        offer, spt = await shop.offer(), await account.token()
        account.spoil(CANCEL, "timeout")
        assert (await shop.show(offer, spt)).status_code == 500
        assert (await tell(shop, "payment_intent.canceled")).status_code == 200
        assert (await shop.only_charge()).payment is PaymentState.HELD
        assert (await shop.show(offer, spt)).status_code == 503
        assert shop.served == 0
        await shop.gate.reconcile()
        assert await account.statuses() == ["canceled"]
        assert (await shop.show(offer, spt)).json() == {"n": 1}  # reserved anew
        assert await account.balance() == PRICE


@pytest.mark.parametrize("secret", [SECRET, "whsec_of_last_year"])
async def test_while_a_secret_is_rolled_either_closes(account: Account, secret: str) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        await lose(shop, CAPTURE)
        assert (await post(shop, await forge(shop, webhook_secret=secret))).status_code == 200
        assert (await shop.only_charge()).payment is PaymentState.SETTLED


async def test_a_lost_decline_is_closed(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, spt = await shop.offer(), await account.token(payment_method="pm_card_visa_chargeDeclinedStolenCard")
        account.spoil(CREATE, "timeout", applied=True)
        await shop.show(offer, spt)
        assert (await tell(shop, "payment_intent.payment_failed")).status_code == 200
        answer = await shop.show(offer, spt)
        assert (answer.status_code, answer.json()["code"]) == (402, "payment_declined")
        assert "stolen" not in answer.text


async def test_a_lost_cancellation_is_closed(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        shop.status = iter([500])
        account.spoil(CANCEL, "timeout", applied=True)
        assert (await shop.show(await shop.offer(), await account.token())).status_code == 500
        assert (await shop.only_charge()).payment is PaymentState.UNKNOWN
        assert (await tell(shop, "payment_intent.canceled")).status_code == 200
        assert (await shop.only_charge()).payment is PaymentState.RELEASED


async def test_an_event_is_a_hint_and_never_believed(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, spt = await lose(shop, CAPTURE, applied=False)
        lie = {"status": "succeeded", "amount_received": PRICE, "amount_capturable": 0}
        assert (await post(shop, await forge(shop, document=lie))).status_code == 200
        charge = await shop.only_charge()
        assert charge.payment is not PaymentState.SETTLED  # the lookup found it held; the reconciler captures it
        assert await account.balance() == 0
        await shop.gate.reconcile()
        assert (await shop.show(offer, spt)).json() == {"n": 1}
        assert await account.balance() == PRICE


async def test_a_webhook_while_stripe_is_down_leaves_it_to_the_reconciler(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, spt = await lose(shop, CAPTURE)
        event = account.sandbox.webhook(
            "payment_intent.succeeded", (await account.intents())[0]["id"], webhook_secret=SECRET
        )
        account.spoil(INTENT, "server_error")
        assert (await post(shop, event)).status_code == 200
        assert (await shop.only_charge()).payment is PaymentState.UNKNOWN
        assert (await post(shop, event)).status_code == 200  # sent again
        assert (await shop.show(offer, spt)).json() == {"n": 1}


# --- what is not from Stripe, or not of now


async def test_a_forged_signature_closes_nothing(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        await lose(shop, CAPTURE)
        before = await shop.only_charge()
        good = await forge(shop)
        for event in (
            await forge(shop, webhook_secret="whsec_guessed"),
            SignedEvent(good.payload, ""),
            SignedEvent(good.payload + b" ", good.signature),
            SignedEvent(good.payload, good.signature.replace("v1=", "v0=")),
        ):
            answer = await post(shop, event)
            assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
            assert "whsec" not in answer.text
        assert await shop.only_charge() == before
        assert (await post(shop, good)).status_code == 200
        assert (await shop.only_charge()).payment is PaymentState.SETTLED


@pytest.mark.parametrize(("seconds", "status"), [(-301, 400), (301, 400), (-300, 200), (300, 200)])
async def test_a_delivery_is_good_for_five_minutes_both_ways(account: Account, seconds: int, status: int) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        await lose(shop, CAPTURE)
        event = await forge(shop, signed_at=account.clock() + seconds)
        assert (await post(shop, event)).status_code == status
        wanted = PaymentState.SETTLED if status == 200 else PaymentState.UNKNOWN
        assert (await shop.only_charge()).payment is wanted


async def test_an_event_of_the_other_mode_closes_nothing(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        await lose(shop, CAPTURE)
        assert (await post(shop, await forge(shop, livemode=True))).status_code == 400
        assert (await shop.only_charge()).payment is PaymentState.UNKNOWN


async def test_a_replayed_event_changes_nothing_more(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        await lose(shop, CAPTURE)
        event = await forge(shop)
        assert (await post(shop, event)).status_code == 200
        closed = await shop.only_charge()
        for _ in range(3):
            assert (await post(shop, event)).status_code == 200
        assert await shop.only_charge() == closed
        assert (await account.balance(), shop.served) == (PRICE, 1)


async def test_events_out_of_order_end_the_same(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, spt = await lose(shop, CAPTURE)
        (intent, *_) = await account.intents()
        names = ["payment_intent.canceled", "payment_intent.payment_failed", "payment_intent.amount_capturable_updated"]
        for name in [*names, "payment_intent.succeeded", *names]:
            assert (await tell(shop, name, intent["id"])).status_code == 200
        assert (await shop.show(offer, spt)).json() == {"n": 1}
        assert await account.balance() == PRICE


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "DELETE"])
async def test_only_deliveries_are_answered(account: Account, method: str) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        assert (await shop.client.request(method, ADDRESS)).status_code == 405


@pytest.mark.parametrize("size", [2**18 + 1, 2**20 + 1])
async def test_a_large_body_is_refused(account: Account, size: int) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        answer = await post(shop, SignedEvent(b"a" * size, "t=1,v1=00"))
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


async def test_a_charge_that_is_not_there_yet_is_asked_for_again(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        await lose(shop, CAPTURE)
        (intent, *_) = await account.intents()
        marks = intent["metadata"] | {"rail402_charge": "ch_notyet"}
        early = await forge(shop, document={"id": "pi_elsewhere", "metadata": marks})
        answer = await post(shop, early)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        others = await forge(shop, document={"id": "pi_elsewhere", "metadata": {"order": "6735"}})
        assert (await post(shop, others)).status_code == 200


# --- refunds


async def settled(shop: Shop) -> tuple[Charge, Any, str]:
    offer, spt = await shop.offer(), await shop.account.token()
    assert (await shop.show(offer, spt)).status_code == 200
    return await shop.only_charge(), offer, spt


@pytest.mark.parametrize("flow", ["escrow", "upfront"])
async def test_a_refund_in_the_dashboard_ends_the_replays(account: Account, flow: str) -> None:
    async with Shop(account, flow, "memory://").open() as shop:
        charge, offer, spt = await settled(shop)
        refund = await account.api.refund(str(charge.transaction), "dashboard", {})
        (intent, *_) = await account.intents()
        assert (await shop.show(offer, spt)).status_code == 200  # nobody has told us
        assert (await tell(shop, "charge.refunded", intent["latest_charge"]["id"])).status_code == 200
        assert (await shop.only_charge()).payment is PaymentState.REFUNDED
        answer = await shop.show(offer, spt)
        assert (answer.status_code, answer.json()["code"]) == (402, "refunded")
        assert (await tell(shop, "refund.updated", str(refund["id"]))).status_code == 200
        assert (await shop.gate.refund(charge.id)).payment is PaymentState.REFUNDED
        assert await account.balance() == 0


async def test_a_refund_of_a_part_leaves_the_payment(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        charge, offer, spt = await settled(shop)
        await account.api._post("/v1/refunds", "dashboard", payment_intent=charge.transaction, amount=20)
        (intent, *_) = await account.intents()
        assert (await tell(shop, "charge.refunded", intent["latest_charge"]["id"])).status_code == 200
        assert (await shop.only_charge()).payment is PaymentState.SETTLED
        assert (await shop.show(offer, spt)).json() == {"n": 1}
        assert (await shop.gate.refund(charge.id)).payment is PaymentState.REFUNDED  # and now the rest
        assert await account.balance() == 0


async def test_an_event_about_a_refund_that_is_none_changes_nothing(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        charge, offer, spt = await settled(shop)
        (intent, *_) = await account.intents()
        lie = intent["latest_charge"] | {"refunded": True, "amount_refunded": PRICE}
        assert (await post(shop, await forge(shop, name="charge.refunded", document=lie))).status_code == 200
        now = await shop.only_charge()
        assert now.payment is PaymentState.SETTLED
        assert (now.receipt, now.settled_at) == (charge.receipt, charge.settled_at)
        assert (await shop.show(offer, spt)).json() == {"n": 1}


@pytest.mark.parametrize("flow", ["escrow", "upfront"])
async def test_a_lost_refund_is_closed(account: Account, flow: str) -> None:
    async with Shop(account, flow, "memory://").open() as shop:
        charge, _, _ = await settled(shop)
        account.spoil(REFUND, "timeout", applied=True)
        assert (await shop.gate.refund(charge.id)).payment is PaymentState.UNKNOWN
        (intent, *_) = await account.intents()
        assert (await tell(shop, "charge.refunded", intent["latest_charge"]["id"])).status_code == 200
        assert (await shop.only_charge()).payment is PaymentState.REFUNDED
        assert await account.balance() == 0


async def test_a_dispute_is_told_and_changes_nothing(account: Account, caplog: pytest.LogCaptureFixture) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        charge, offer, spt = await settled(shop)
        dispute = {"id": "dp_1", "object": "dispute", "payment_intent": charge.transaction, "metadata": {}}
        event = await forge(shop, name="charge.dispute.created", document=dispute)
        assert json.loads(event.payload)["data"]["object"]["object"] == "dispute"
        assert (await post(shop, event)).status_code == 200
        assert f"charge {charge.id} ({charge.transaction}) is disputed" in caplog.text
        assert (await shop.show(offer, spt)).json() == {"n": 1}
