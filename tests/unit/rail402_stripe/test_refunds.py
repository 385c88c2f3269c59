"""Refunds: by the publisher, after a failed handler, at the same time twice, under way, failed, and lost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from rail402.errors import ConfigurationError, StoreError
from rail402.protocol.charge import Charge, Delivery, PaymentState
from rail402_stripe.sandbox.charges import REFUND_SECONDS
from tests.conformance.test_stripe_end_to_end import FLOWS, Shop
from tests.unit.rail402_stripe.account import INTENT, PRICE, REFUND, Account

PENDING, FAILING = "pm_card_pendingRefund", "pm_card_refundFail"


async def buy(shop: Shop, card: str = "pm_card_visa") -> Charge:
    """Buy the report; returns the charge."""
    shop.offer_bought, shop.spt = await shop.offer(), await shop.account.token(payment_method=card)
    assert (await again(shop)).status_code == 200
    return await shop.only_charge()


async def again(shop: Shop) -> Any:
    """Show the payment once more."""
    return await shop.show(shop.offer_bought, shop.spt)


async def refunds(account: Account) -> list[tuple[str, int]]:
    """Every refund at Stripe: its state and its amount."""
    (intent,) = await account.intents()
    return [(refund["status"], refund["amount"]) for refund in await account.api.refunds(intent["id"])]


# --- by the publisher


@pytest.mark.parametrize("flow", FLOWS)
async def test_what_was_bought_is_refunded_once(account: Account, tmp_path: Path, flow: str) -> None:
    async with Shop(account, flow, f"sqlite:///{tmp_path}/charges.db").open() as shop:
        charge = await buy(shop)
        assert await account.balance() == PRICE
        refunded = await shop.gate.refund(charge.id)
        assert (refunded.payment, refunded.delivery) == (PaymentState.REFUNDED, Delivery.STORED)
        assert refunded.rail_state["refund"].startswith("re_")
        assert await account.balance() == 0
        answer = await again(shop)
        assert (answer.status_code, answer.json()["code"]) == (402, "refunded")
        assert (await shop.gate.refund(charge.id)) == refunded
        assert await refunds(account) == [("succeeded", PRICE)]
        (intent,) = await account.intents()
        (refund,) = await account.api.refunds(intent["id"])
        assert refund["metadata"]["rail402_charge"] == charge.id


async def test_two_workers_refund_once(account: Account, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/charges.db"
    async with Shop(account, "escrow", store).open() as shop:
        other = Shop(account, "escrow", store)
        charge = await buy(shop)
        async with other.open():
            ends = await asyncio.gather(
                *(each.gate.refund(charge.id) for each in (shop, other, shop, other)), return_exceptions=True
            )
        for end in ends:
            assert isinstance(end, Charge | StoreError | ConfigurationError), end
        assert any(isinstance(end, Charge) and end.payment is PaymentState.REFUNDED for end in ends)
        assert await refunds(account) == [("succeeded", PRICE)]
        assert await account.balance() == 0


@pytest.mark.parametrize("answer", ["rate_limited", "conflict"])
async def test_a_busy_stripe_refunds_later(account: Account, answer: Any) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        charge = await buy(shop)
        account.spoil(REFUND, answer)
        assert (await shop.gate.refund(charge.id)).payment is PaymentState.SETTLED
        assert (await again(shop)).json() == {"n": 1}  # it is still paid for
        assert (await shop.gate.refund(charge.id)).payment is PaymentState.REFUNDED
        assert await account.balance() == 0


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("answer", ["timeout", "server_error", "html"])
async def test_a_lost_refund_is_never_made_twice(account: Account, answer: Any, applied: bool) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        charge = await buy(shop)
        account.spoil(REFUND, answer, applied=applied)
        assert (await shop.gate.refund(charge.id)).payment is PaymentState.UNKNOWN
        assert (await again(shop)).status_code == 503
        with pytest.raises(ConfigurationError, match="unknown"):
            await shop.gate.refund(charge.id)
        found = await shop.reconcile()
        assert found.payment is (PaymentState.REFUNDED if applied else PaymentState.SETTLED)
        assert (await shop.gate.refund(charge.id)).payment is PaymentState.REFUNDED
        assert await refunds(account) == [("succeeded", PRICE)]
        assert await account.balance() == 0


async def test_a_refund_that_lands_late_is_not_made_again(account: Account) -> None:
    """The first was looked up and not there yet; when the second is made, it is."""
    async with Shop(account, "escrow", "memory://").open() as shop:
        charge = await buy(shop)
        account.spoil(REFUND, "timeout")
        await shop.gate.refund(charge.id)
        assert (await shop.reconcile()).payment is PaymentState.SETTLED
        await account.api.refund(str(charge.transaction), "rail402:late", {})
        assert (await shop.gate.refund(charge.id)).payment is PaymentState.REFUNDED
        assert await refunds(account) == [("succeeded", PRICE)]
        assert await account.balance() == 0


async def test_a_lost_refund_is_not_called_undone_while_it_may_land(account: Account) -> None:
    """Otherwise the failed handler would run once more for money that goes back."""
    async with Shop(account, "upfront", "memory://").open() as shop:
        shop.status = iter([500])
        account.spoil(REFUND, "timeout")
        shop.offer_bought, shop.spt = await shop.offer(), await account.token()
        assert (await again(shop)).status_code == 500
        for seconds in (1, 118):
            account.clock.advance(seconds)
            await shop.gate.reconcile()
            assert (await shop.only_charge()).payment is PaymentState.UNKNOWN
            assert (await again(shop)).status_code == 503
        charge = await shop.only_charge()
        await account.api.refund(str(charge.transaction), f"rail402:{charge.id}:refund:1:2", {})  # it lands
        account.clock.advance(2)
        await shop.gate.reconcile()
        assert (await again(shop)).json()["code"] == "refunded"
        assert (shop.served, await account.balance()) == (0, 0)


async def test_what_is_left_after_a_part_was_refunded_by_hand(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        charge = await buy(shop)
        await account.api._post("/v1/refunds", "by hand", payment_intent=charge.transaction, amount=20)
        assert (await shop.gate.refund(charge.id)).payment is PaymentState.REFUNDED
        assert sorted(await refunds(account)) == [("succeeded", 20), ("succeeded", 30)]
        assert await account.balance() == 0


async def test_only_what_was_taken_is_refunded(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        with pytest.raises(ConfigurationError, match="no charge ch_unknown"):
            await shop.gate.refund("ch_unknown")
        shop.status = iter([500])
        await shop.show(await shop.offer(), await account.token())
        with pytest.raises(ConfigurationError, match="released"):
            await shop.gate.refund((await shop.only_charge()).id)
        assert await account.balance() == 0


# --- after a failed handler


@pytest.mark.parametrize("status", [404, 500])
async def test_what_was_paid_first_goes_back_when_the_handler_fails(account: Account, status: int) -> None:
    async with Shop(account, "upfront", "memory://").open() as shop:
        shop.status = iter([status])
        offer, spt = await shop.offer(), await account.token()
        answer = await shop.show(offer, spt)
        assert answer.status_code == status
        assert (await shop.only_charge()).payment is PaymentState.REFUNDED
        assert (await refunds(account), await account.balance()) == ([("succeeded", PRICE)], 0)
        assert (await shop.show(offer, spt)).json()["code"] == "refunded"


async def test_a_refund_that_stripe_has_no_time_for_is_made_later(account: Account) -> None:
    async with Shop(account, "upfront", "memory://").open() as shop:
        shop.status = iter([500])
        account.spoil(REFUND, "rate_limited")
        offer, spt = await shop.offer(), await account.token()
        assert (await shop.show(offer, spt)).status_code == 500
        assert (await shop.only_charge()).payment is PaymentState.UNKNOWN
        assert (await shop.show(offer, spt)).status_code == 503
        assert (await shop.reconcile()).payment is PaymentState.REFUNDED
        assert await account.balance() == 0


# --- refunds that take their time, or fail


async def test_a_refund_under_way_is_waited_for(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        charge = await buy(shop, PENDING)
        assert (await shop.gate.refund(charge.id)).payment is PaymentState.UNKNOWN
        account.clock.advance(REFUND_SECONDS - 1)
        assert await shop.gate.reconcile() == 0
        assert (await shop.only_charge()).payment is PaymentState.UNKNOWN
        assert await refunds(account) == [("pending", PRICE)]
        assert (await shop.reconcile()).payment is PaymentState.REFUNDED
        assert await refunds(account) == [("succeeded", PRICE)]
        assert await account.balance() == 0


async def test_a_refund_under_way_is_not_one_that_can_be_repeated(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        charge = await buy(shop, PENDING)
        await shop.gate.refund(charge.id)
        await shop.gate.reconcile()
        with pytest.raises(ConfigurationError, match="unknown"):
            await shop.gate.refund(charge.id)
        assert await refunds(account) == [("pending", PRICE)]


async def test_a_refund_that_failed_before_it_was_looked_up_leaves_the_money(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        charge = await buy(shop, FAILING)
        account.spoil(REFUND, "timeout", applied=True)
        assert (await shop.gate.refund(charge.id)).payment is PaymentState.UNKNOWN
        account.spoil(INTENT, "server_error", times=3)
        account.clock.advance(REFUND_SECONDS)
        assert await refunds(account) == [("failed", PRICE)]
        found = await shop.reconcile()
        while found.payment is PaymentState.UNKNOWN:
            found = await shop.reconcile()
        assert found.payment is PaymentState.SETTLED
        assert await account.balance() == PRICE
