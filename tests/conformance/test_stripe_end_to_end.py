"""Stripe from the 402 to the delivery: a FastAPI shop behind a gate, a paying client, and the sandbox between them.

What happened is counted by the sandbox account's balance, in cents.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe
from fastapi import FastAPI, HTTPException

from rail402.client.httpx import EXTENSION
from rail402.client.payer import Payer
from rail402.dialects import Mpp
from rail402.errors import NoUsableOffer, PaymentFailed, PaymentOutcomeUnknown
from rail402.money import Money
from rail402.protocol.charge import Charge, Delivery, PaymentState
from rail402.protocol.dialect import Context, Fields
from rail402.protocol.offer import Offer
from rail402.protocol.rail import Registry
from rail402.server.gate import Gate
from rail402_stripe import StripeWallet
from rail402_stripe.wire import payload_of
from tests.unit.rail402_stripe.account import CANCEL, CAPTURE, CREATE, INTENT, PRICE, REFUND, TOKEN, Account

URL = "http://testserver"
MPP = Mpp()
DECLINED = "pm_card_visa_chargeDeclined"

FLOWS = ["escrow", "upfront"]


@pytest.fixture(autouse=True)
def no_telemetry_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the library from writing its telemetry identifier into the configuration of whoever runs the tests."""
    monkeypatch.setattr(stripe, "enable_telemetry", False)


class Shop:
    """Two routes behind a gate whose only rail is the sandbox's."""

    def __init__(self, account: Account, flow: str, store: str) -> None:
        self.account = account
        self.status: Iterator[int] = iter(())
        self.served = 0
        self.gate = Gate(
            rails=[account.rail],
            store=store,
            public_url=URL,
            clock=account.clock,
            reconcile_seconds=0,
            wait_seconds=0,
        )
        self.app = FastAPI()
        self.gate.install(self.app)

        @self.app.get("/report")
        @self.gate.paid("0.50 USD", flow=flow)
        async def report() -> dict[str, int]:
            return self._serve()

        @self.app.get("/other")
        @self.gate.paid("0.50 USD", flow=flow)
        async def other() -> dict[str, int]:
            return self._serve()

        @self.app.get("/cheap")
        @self.gate.paid(lambda request: "0.49 USD")  # a fixed price like that stops the start
        async def cheap() -> None: ...

    def _serve(self) -> dict[str, int]:
        status = next(self.status, 200)
        if status != 200:
            raise HTTPException(status)
        self.served += 1
        return {"n": self.served}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Shop]:
        async with httpx.AsyncClient(transport=self.transport(), base_url=URL) as self.client:
            await self.gate.start()
            yield self
            await self.gate.close()

    def transport(self) -> httpx.ASGITransport:
        return httpx.ASGITransport(app=self.app, raise_app_exceptions=False)

    # --- a client by hand

    def context(self) -> Context:
        return Context(specs=Registry([self.account.rail.spec]), now=self.account.clock(), realm="testserver")

    async def offer(self, path: str = "/report") -> Offer:
        response = await self.client.get(path)
        assert response.status_code == 402, response.text
        (offer,) = MPP.offers(Fields(response.headers.multi_items()), response.content, self.context())
        return offer

    async def show(self, offer: Offer, spt: str, path: str = "/report") -> httpx.Response:
        """Present a token for an offer."""
        fields = MPP.credential(offer, payload_of(spt, None), self.context())
        return await self.client.get(path, headers=dict(fields))

    # --- what happened

    async def charges(self) -> list[Charge]:
        return list(await self.gate.services().store.recent(limit=10))

    async def only_charge(self) -> Charge:
        (charge,) = await self.charges()
        return charge

    async def reconcile(self) -> Charge:
        """Let the leases lapse and the reconciler work until nothing is left open."""
        for _ in range(5):
            self.account.clock.advance(130)
            await self.gate.reconcile()
        return await self.only_charge()


@pytest.fixture
async def account(tmp_path: Path) -> AsyncIterator[Account]:
    account = Account(tmp_path)
    yield account
    await account.close()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/charges.db"


@asynccontextmanager
async def paying(shop: Shop, wallet: StripeWallet | None = None, deadline: int = 5) -> AsyncIterator[httpx.AsyncClient]:
    """A client that pays with a real payer; its pauses move the shop's clock."""
    account = shop.account

    async def sleep(seconds: float) -> None:
        account.clock.advance(int(seconds))

    payer = Payer(
        [wallet or account.wallet],
        journal=f"sqlite:///{account.directory}/wallet.db",
        clock=account.clock,
        deadline=deadline,
    )
    payer.sleep = sleep
    async with payer, httpx.AsyncClient(transport=payer.transport(shop.transport()), base_url=URL) as client:
        client.payer = payer  # type: ignore[attr-defined]
        yield client


# --- a purchase


@pytest.mark.parametrize("flow", FLOWS)
async def test_bought_once_and_replayed_freely(account: Account, store: str, flow: str) -> None:
    async with Shop(account, flow, store).open() as shop, paying(shop) as client:
        assert await account.balance() == 0
        response = await client.get("/report")
        assert response.json() == {"n": 1}
        purchase = response.extensions[EXTENSION]
        assert (purchase.outcome, purchase.price) == ("paid", Money.parse("0.50 USD"))
        assert purchase.receipt.rail == "stripe"
        assert purchase.receipt.sandbox
        assert await account.balance() == PRICE
        charge = await shop.only_charge()
        assert (charge.payment, charge.delivery) == (PaymentState.SETTLED, Delivery.STORED)
        assert purchase.receipt.transaction == charge.transaction == (await account.intents())[0]["id"]
        assert f"stripe:sandbox:{charge.transaction}" in charge.keys
        assert response.headers["payment-receipt"]


@pytest.mark.parametrize("flow", FLOWS)
async def test_the_same_payment_again_is_a_replay(account: Account, store: str, flow: str) -> None:
    async with Shop(account, flow, store).open() as shop:
        offer, spt = await shop.offer(), await account.token()
        first, second = await shop.show(offer, spt), await shop.show(offer, spt)
        assert first.json() == second.json() == {"n": 1}
        assert second.headers["idempotent-replayed"] == "true"
        assert await account.balance() == PRICE
        assert await account.statuses() == ["succeeded"]
        account.clock.advance(550)  # the token has expired, the payment has not
        assert (await shop.show(offer, spt)).json() == {"n": 1}


async def test_many_at_once_are_one_payment(account: Account, store: str) -> None:
    async with Shop(account, "escrow", store).open() as shop:
        offer, spt = await shop.offer(), await account.token()
        answers = await asyncio.gather(*(shop.show(offer, spt) for _ in range(5)))
        assert {answer.status_code for answer in answers} <= {200, 409}
        assert any(answer.status_code == 200 for answer in answers)
        assert shop.served == 1
        assert await account.balance() == PRICE


async def test_too_cheap_for_stripe_is_not_offered(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        response = await shop.client.get("/cheap")
        assert response.status_code == 402
        assert response.json()["offers"] == []
        assert "www-authenticate" not in response.headers


# --- a payment for something else


async def test_a_token_that_bought_one_thing_buys_nothing_else(account: Account, store: str) -> None:
    async with Shop(account, "escrow", store).open() as shop:
        offer, spt = await shop.offer(), await account.token()
        assert (await shop.show(offer, spt)).status_code == 200
        elsewhere = await shop.show(offer, spt, "/other")  # the same proof at another address
        assert (elsewhere.status_code, elsewhere.json()["code"]) == (402, "resource_mismatch")
        other = await shop.offer("/other")  # the same token for another offer
        refused = await shop.show(other, spt, "/other")
        assert (refused.status_code, refused.json()["code"]) == (409, "replay_not_proven")
        again = await shop.offer()  # and for the same thing, offered anew
        assert (await shop.show(again, spt)).status_code == 409
        assert shop.served == 1
        assert await account.balance() == PRICE


async def test_another_token_for_the_same_offer_is_not_a_second_charge(account: Account, store: str) -> None:
    async with Shop(account, "escrow", store).open() as shop:
        offer = await shop.offer()
        assert (await shop.show(offer, await account.token())).status_code == 200
        second = await shop.show(offer, await account.token())
        assert (second.status_code, second.json()["code"]) == (409, "payment_in_progress")
        assert await account.balance() == PRICE
        assert await account.statuses() == ["succeeded"]


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"max_amount": PRICE - 1}, "amount_mismatch"),
        ({"currency": "eur"}, "asset_mismatch"),
    ],
)
async def test_a_token_that_does_not_cover_it_is_refused(account: Account, limits: Any, code: str) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        response = await shop.show(await shop.offer(), await account.token(**limits))
        assert (response.status_code, response.json()["code"]) == (402, code)
        assert "www-authenticate" in response.headers  # a fresh challenge
        assert await shop.charges() == []
        assert await account.intents() == []


async def test_a_revoked_token_is_refused(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, spt = await shop.offer(), await account.token()
        await account.api._post(f"/v1/test_helpers/shared_payment/granted_tokens/{spt}/revoke", "revoke")
        response = await shop.show(offer, spt)
        assert (response.status_code, response.json()["code"]) == (402, "payment_declined")
        assert spt not in response.text
        assert await account.intents() == []


async def test_an_expired_offer_is_refused(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, spt = await shop.offer(), await account.token(expires_at=account.clock() + 10_000)
        account.clock.advance(601)
        response = await shop.show(offer, spt)
        assert (response.status_code, response.json()["code"]) == (402, "offer_expired")
        assert await account.balance() == 0


@pytest.mark.parametrize("spt", ["tok_1", "spt_", "spt_a/../refunds", "spt_é"])
async def test_what_is_no_token_is_malformed(account: Account, spt: str) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        response = await shop.show(await shop.offer(), spt)
        assert (response.status_code, response.json()["code"]) == (400, "malformed_payment")


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize(
    ("card", "code"),
    [
        (DECLINED, "payment_declined"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "insufficient_funds"),
        ("pm_card_authenticationRequired", "action_required"),
    ],
)
async def test_a_declined_card_buys_nothing(account: Account, flow: str, card: str, code: str) -> None:
    async with Shop(account, flow, "memory://").open() as shop:
        offer, spt = await shop.offer(), await account.token(payment_method=card)
        response = await shop.show(offer, spt)
        assert (response.status_code, response.json()["code"]) == (402, code)
        assert (await shop.show(offer, spt)).json()["code"] == code
        charge = await shop.only_charge()
        assert (charge.payment, charge.code) == (PaymentState.REJECTED, code)
        assert shop.served == 0
        assert await account.balance() == 0


async def test_the_payer_takes_a_declined_token_back(account: Account) -> None:
    async with (
        Shop(account, "escrow", "memory://").open() as shop,
        paying(shop, account.wallet_with(DECLINED)) as client,
    ):
        with pytest.raises(PaymentFailed, match="payment_declined, and nothing was paid"):
            await client.get("/report")
        assert await account.balance() == 0
        payer: Payer = client.payer  # type: ignore[attr-defined]
        (record,) = await payer.journal.newest()
        assert record.proof is not None
        token = await account.api.granted_token(record.proof["spt"])
        assert token["deactivated_reason"] == "revoked"
        assert await payer.recover() == []


async def test_a_wallet_of_another_network_pays_nothing(account: Account) -> None:
    wallet = StripeWallet.test_helper("sk_test_1")
    async with Shop(account, "escrow", "memory://").open() as shop, paying(shop, wallet) as client:
        with pytest.raises(NoUsableOffer, match="profile_sandbox"):
            await client.get("/report")


# --- a handler that fails


@pytest.mark.parametrize("status", [404, 500])
async def test_a_failed_handler_costs_nothing(account: Account, store: str, status: int) -> None:
    async with Shop(account, "escrow", store).open() as shop:
        shop.status = iter([status])
        offer, spt = await shop.offer(), await account.token()
        assert (await shop.show(offer, spt)).status_code == status
        assert await account.statuses() == ["canceled"]
        assert await account.balance() == 0
        assert (await shop.only_charge()).payment is PaymentState.RELEASED
        assert (await shop.show(offer, spt)).json() == {"n": 1}  # the same payment may be tried again
        assert await account.statuses() == ["succeeded", "canceled"]
        assert await account.balance() == PRICE


async def test_a_failed_handler_is_refunded_where_it_was_paid_first(account: Account, store: str) -> None:
    async with Shop(account, "upfront", store).open() as shop:
        shop.status = iter([500])
        response = await shop.show(await shop.offer(), await account.token())
        assert response.status_code == 500
        assert (await shop.only_charge()).payment is PaymentState.REFUNDED
        assert await account.balance() == 0


# --- lost answers: 503, then the reconciler, then what was paid for


@pytest.mark.parametrize("answer", ["timeout", "server_error", "html"])
@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("flow", FLOWS)
async def test_a_lost_creation_is_looked_up(account: Account, flow: str, answer: Any, applied: bool) -> None:
    async with Shop(account, flow, "memory://").open() as shop:
        offer, spt = await shop.offer(), await account.token()
        account.spoil(CREATE, answer, applied=applied)
        first = await shop.show(offer, spt)
        assert (first.status_code, first.json()["code"]) == (503, "outcome_unknown")
        assert "www-authenticate" not in first.headers
        assert (await shop.show(offer, spt)).status_code == 503
        assert shop.served == 0
        account.clock.advance(121)
        assert await shop.gate.reconcile() == 1
        second = await shop.show(offer, spt)
        assert second.json() == {"n": 1}
        assert await account.balance() == PRICE
        assert (await account.statuses())[0] == "succeeded"
        assert (await shop.only_charge()).payment is PaymentState.SETTLED


@pytest.mark.parametrize(
    ("answer", "applied"),
    [("timeout", True), ("timeout", False), ("server_error", True), ("server_error", False), ("truncated", True)],
)
async def test_a_lost_capture_is_looked_up(account: Account, store: str, answer: Any, applied: bool) -> None:
    async with Shop(account, "escrow", store).open() as shop:
        offer, spt = await shop.offer(), await account.token()
        account.spoil(CAPTURE, answer, applied=applied)
        first = await shop.show(offer, spt)
        assert (first.status_code, first.json()["code"]) == (503, "outcome_unknown")
        assert "n" not in first.json()
        charge = await shop.reconcile()
        assert (charge.payment, charge.delivery) == (PaymentState.SETTLED, Delivery.STORED)
        assert (await shop.show(offer, spt)).json() == {"n": 1}
        assert shop.served == 1
        assert await account.balance() == PRICE


@pytest.mark.parametrize("applied", [True, False])
async def test_a_lost_cancellation_is_looked_up(account: Account, applied: bool) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        shop.status = iter([500])
        offer, spt = await shop.offer(), await account.token()
        account.spoil(CANCEL, "timeout", applied=applied)
        assert (await shop.show(offer, spt)).status_code == 500
        assert (await shop.only_charge()).payment is PaymentState.UNKNOWN
        charge = await shop.reconcile()
        assert charge.payment is PaymentState.RELEASED
        assert await account.statuses() == ["canceled"]
        assert await account.balance() == 0


@pytest.mark.parametrize("applied", [True, False])
async def test_a_lost_refund_is_looked_up_and_made_once(account: Account, applied: bool) -> None:
    async with Shop(account, "upfront", "memory://").open() as shop:
        shop.status = iter([500])
        account.spoil(REFUND, "timeout", applied=applied)
        offer, spt = await shop.offer(), await account.token()
        assert (await shop.show(offer, spt)).status_code == 500
        charge = await shop.reconcile()
        assert charge.payment is PaymentState.REFUNDED
        assert await account.balance() == 0


async def test_what_was_held_and_forgotten_is_released(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        account.spoil(CREATE, "timeout", applied=True)
        await shop.show(await shop.offer(), await account.token())
        charge = await shop.reconcile()
        assert charge.payment is PaymentState.RELEASED
        assert await account.statuses() == ["canceled"]


@pytest.mark.parametrize("path", [TOKEN, CREATE])
async def test_a_busy_stripe_burns_nothing(account: Account, path: str) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, spt = await shop.offer(), await account.token()
        account.spoil(path, "rate_limited")
        busy = await shop.show(offer, spt)
        assert (busy.status_code, busy.json()["code"]) == (503, "rail_unavailable")
        assert await account.intents() == []
        assert (await shop.show(offer, spt)).json() == {"n": 1}
        assert await account.balance() == PRICE


async def test_a_lookup_that_fails_is_made_again(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop:
        offer, spt = await shop.offer(), await account.token()
        account.spoil(CAPTURE, "timeout", applied=True)
        assert (await shop.show(offer, spt)).status_code == 503
        account.spoil(INTENT, "server_error", times=2)
        charge = await shop.reconcile()
        while charge.payment is PaymentState.UNKNOWN:
            charge = await shop.reconcile()
        assert (await shop.show(offer, spt)).json() == {"n": 1}
        assert await account.balance() == PRICE


async def test_the_payer_gets_what_it_paid_for_after_a_lost_capture(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop, paying(shop) as client:
        account.spoil(CAPTURE, "timeout", applied=True)
        with pytest.raises(PaymentOutcomeUnknown):
            await client.get("/report")
        await shop.reconcile()
        response = await client.get("/report")
        assert response.json() == {"n": 1}
        assert response.extensions[EXTENSION].outcome == "paid"
        assert await account.balance() == PRICE
        assert len(await account.intents()) == 1


async def test_no_token_no_purchase(account: Account) -> None:
    async with Shop(account, "escrow", "memory://").open() as shop, paying(shop) as client:
        account.spoil("/v1/test_helpers/shared_payment/granted_tokens", "server_error")
        with pytest.raises(PaymentFailed):
            await client.get("/report")
        assert (await client.get("/report")).json() == {"n": 1}
        assert await account.balance() == PRICE
