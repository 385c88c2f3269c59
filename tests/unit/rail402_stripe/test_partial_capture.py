"""A cheaper outcome: the whole price is reserved, and only what the outcome was worth is captured."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request

from rail402.client.httpx import EXTENSION
from rail402.errors import ConfigurationError
from rail402.money import Money
from rail402.protocol.charge import Delivery, Operation, PaymentEvent, PaymentState
from rail402.protocol.offer import Flow
from rail402.protocol.rail import Failed, Settled, Terms, Unknown
from rail402.protocol.receipt import Receipt
from rail402_stripe import StripeRail
from tests.conformance.test_stripe_end_to_end import Shop, paying
from tests.unit.rail402_stripe.account import CANCEL, CAPTURE, ORDER, PRICE, Account, step

WHOLE = 100


class Estimator(Shop):
    """A shop with one more route: `/answer` costs 1.00 USD at the most, and what it was worth in the end is `worth`."""

    def __init__(self, account: Account, flow: str = "escrow", store: str = "memory://") -> None:
        super().__init__(account, flow, store)
        self.worth: list[str] = []
        self.took: list[bool] = []

        @self.app.get("/answer")
        @self.gate.paid("1.00 USD", flow=flow)
        async def answer(request: Request) -> dict[str, int]:
            for worth in self.worth:
                self.took.append(self.gate.reduce(request, worth))
            return self._serve()

    async def buy(self, *worth: str) -> Any:
        """Buy an answer that turns out to be worth that; returns the response."""
        self.worth = list(worth)
        self.last = await self.offer("/answer"), await self.account.token(max_amount=WHOLE)
        return await self.again()

    async def again(self) -> Any:
        """Show the last payment once more."""
        return await self.show(*self.last, "/answer")


@asynccontextmanager
async def estimator(account: Account, **options: Any) -> AsyncIterator[Estimator]:
    shop = Estimator(account, **options)
    async with shop.open():
        yield shop


async def captured(account: Account) -> list[tuple[str, int]]:
    """What Stripe says of every PaymentIntent: its state, and what was taken."""
    return [(intent["status"], intent["amount_received"]) for intent in await account.intents()]


# --- through the gate


@pytest.mark.parametrize(
    ("worth", "taken", "exact"),
    [
        ("1.00 USD", 100, True),
        ("0.60 USD", 60, True),
        ("0.50 USD", 50, True),
        ("0.605 USD", 61, True),  # there are no half cents: the seller's favour
        ("0.49 USD", 50, False),  # the least that Stripe takes
        ("0.001 USD", 50, False),
    ],
)
async def test_only_what_it_was_worth_is_taken(account: Account, worth: str, taken: int, exact: bool) -> None:
    async with estimator(account) as shop:
        assert (await shop.buy(worth)).json() == {"n": 1}
        assert shop.took == [exact]
        assert await captured(account) == [("succeeded", taken)]
        assert await account.balance() == taken
        charge = await shop.only_charge()
        assert (charge.payment, charge.delivery, charge.amount) == (PaymentState.SETTLED, Delivery.STORED, taken)
        token = await account.api.granted_token(shop.last[1])
        assert token["usage_details"]["amount_captured"]["value"] == taken
        assert (await shop.again()).json() == {"n": 1}  # a replay
        assert await account.balance() == taken


async def test_the_last_word_counts(account: Account) -> None:
    async with estimator(account) as shop:
        await shop.buy("0.60 USD", "0.90 USD", "0.80 USD")
        assert shop.took == [True, True, True]
        assert await account.balance() == 80


async def test_the_receipt_says_what_was_taken(account: Account) -> None:
    async with estimator(account) as shop, paying(shop) as client:
        shop.worth = ["0.60 USD"]
        response = await client.get("/answer")
        receipt = response.extensions[EXTENSION].receipt
        assert (receipt.amount, receipt.price) == ("60", str(Money.parse("0.60 USD")))
        assert receipt.transaction == (await account.intents())[0]["id"]
        assert await account.balance() == 60
        shown = response.headers["payment-receipt"]
        assert json.loads(base64.urlsafe_b64decode(shown + "=="))["reference"] == receipt.transaction


async def test_a_receipt_for_more_than_was_offered_is_none(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    true = Receipt.of
    monkeypatch.setattr(Receipt, "of", lambda *args, **facts: true(*args, **facts).model_copy(update={"amount": "101"}))
    async with estimator(account) as shop, paying(shop) as client:
        purchase = (await client.get("/answer")).extensions[EXTENSION]
        assert (purchase.outcome, purchase.receipt) == ("paid", None)
        assert "amount" in str(purchase.receipt_error)


async def test_what_was_paid_first_is_taken_whole(account: Account) -> None:
    async with estimator(account, flow="upfront") as shop:
        assert (await shop.buy("0.60 USD")).json() == {"n": 1}
        assert shop.took == [False]
        assert await account.balance() == WHOLE


async def test_a_cheaper_outcome_that_fails_costs_nothing(account: Account) -> None:
    async with estimator(account) as shop:
        shop.status = iter([500])
        assert (await shop.buy("0.60 USD")).status_code == 500
        assert (await captured(account), await account.balance()) == ([("canceled", 0)], 0)
        shop.worth = []  # tried again, and worth all of it
        assert (await shop.again()).json() == {"n": 1}
        assert await account.balance() == WHOLE


@pytest.mark.parametrize("worth", ["1.01 USD", "0 USD", "0.60 EUR"])
async def test_a_worth_that_makes_no_sense_is_a_bug_of_the_handler(account: Account, worth: str) -> None:
    async with estimator(account) as shop:
        assert (await shop.buy(worth)).status_code == 500
        assert await account.balance() == 0


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("answer", ["timeout", "server_error", "html"])
async def test_a_lost_partial_capture_ends_at_the_lower_price(
    account: Account, tmp_path: Path, answer: Any, applied: bool
) -> None:
    async with estimator(account, store=f"sqlite:///{tmp_path}/charges.db") as shop:
        account.spoil(CAPTURE, answer, applied=applied)
        assert (await shop.buy("0.60 USD")).status_code == 503
        charge = await shop.reconcile()
        assert (charge.payment, charge.delivery, charge.amount) == (PaymentState.SETTLED, Delivery.STORED, 60)
        assert await captured(account) == [("succeeded", 60)]
        assert (await shop.again()).json() == {"n": 1}
        assert (shop.served, await account.balance()) == (1, 60)


async def test_a_partial_capture_is_refunded_whole(account: Account) -> None:
    async with estimator(account) as shop:
        await shop.buy("0.60 USD")
        charge = await shop.only_charge()
        assert (await shop.gate.refund(charge.id)).payment is PaymentState.REFUNDED
        assert await account.balance() == 0
        assert (await shop.again()).json()["code"] == "refunded"


async def test_what_stripe_will_never_capture_is_given_back(
    account: Account, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As it is where the account settles in another currency, whose minimum only Stripe can tell."""
    monkeypatch.setattr(StripeRail, "least_taken", lambda self, offer, amount: amount)
    async with estimator(account) as shop:
        answer = await shop.buy("0.10 USD")
        assert (answer.status_code, answer.json()["code"]) == (402, "payment_declined")
        assert (await shop.only_charge()).payment is PaymentState.REJECTED
        assert (await captured(account), await account.balance()) == ([("canceled", 0)], 0)
        assert "does not capture as little as 10 usd" in caplog.text


async def test_giving_it_back_can_get_lost_too(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StripeRail, "least_taken", lambda self, offer, amount: amount)
    async with estimator(account) as shop:
        account.spoil(CANCEL, "timeout", applied=True)
        assert (await shop.buy("0.10 USD")).status_code == 503
        assert (await shop.reconcile()).payment is PaymentState.RELEASED
        assert (await captured(account), await account.balance()) == ([("canceled", 0)], 0)


# --- the rail by itself


@pytest.mark.parametrize(
    ("asset", "whole", "asked", "taken"),
    [
        ("usd", 200, 1, 50),
        ("usd", 200, 50, 50),
        ("usd", 200, 51, 51),
        ("usd", 200, 200, 200),
        ("gbp", 200, 1, 30),
        ("jpy", 500, 49, 50),
        ("huf", 20_000, 17_400, 17_500),
        ("isk", 20_000, 10_001, 10_100),  # whole krónur only, which count hundredfold
        ("isk", 20_000, 19_901, 20_000),
        ("kwd", 2_000, 1_001, 1_010),  # three decimals, the last of which is 0
    ],
)
async def test_the_least_above_what_was_asked(tmp_path: Path, asset: str, whole: int, asked: int, taken: int) -> None:
    rail = StripeRail.sandbox(tmp_path, currency=asset)
    terms = Terms(amount=whole, flow=Flow.ESCROW, now=0, expires_at=600, timeout_seconds=180)
    offer = await rail.offer(ORDER, rail.spec.mechanisms[0], terms)
    assert offer is not None
    assert rail.least_taken(offer, asked) == taken
    await rail.close()


async def reduced(account: Account, to: int) -> Any:
    """A charge that is held and about to be captured for less."""
    charge, _ = await account.held()
    return step(charge.model_copy(update={"reduced_to": to}), PaymentEvent.SETTLE)


async def test_the_same_try_captures_once(account: Account) -> None:
    charge = await reduced(account, 50)
    charge = charge.model_copy(update={"offer": charge.offer.model_copy(update={"amount": PRICE})})
    first, second = await account.rail.settle(charge, None), await account.rail.settle(charge, None)
    assert isinstance(first, Settled)
    assert first == second
    assert await account.balance() == PRICE


async def test_another_amount_than_ours_is_not_taken_for_ours(account: Account) -> None:
    """Somebody captured less by hand: what we wanted has not happened, and not nothing either."""
    charge, _ = await account.held()
    intent = charge.rail_state["payment_intent"]
    await account.api.capture(intent, "by hand", PRICE)
    charge = step(charge.model_copy(update={"reduced_to": PRICE - 10}), PaymentEvent.SETTLE)
    assert isinstance(await account.rail.settle(charge, None), Unknown)
    assert isinstance(await account.rail.lookup(charge, Operation.SETTLE), Unknown)
    assert await account.balance() == PRICE


async def test_too_small_is_final(account: Account) -> None:
    answer = await account.rail.settle(await reduced(account, 10), None)
    assert answer == Failed(code="payment_declined", detail="amount_too_small")
    assert await account.statuses() == ["canceled"]


async def test_the_price_is_reduced_before_the_response_begins(account: Account) -> None:
    async with estimator(account) as shop:
        late: list[Exception] = []

        @shop.app.middleware("http")
        async def afterwards(request: Request, call_next: Any) -> Any:
            response = await call_next(request)
            if response.status_code == 200:
                with pytest.raises(ConfigurationError) as caught:
                    shop.gate.reduce(request, "0.60 USD")
                late.append(caught.value)
            return response

        assert (await shop.buy()).status_code == 200
        assert len(late) == 1
        assert await account.balance() == WHOLE
