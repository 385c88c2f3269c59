"""Refunds on every rail that gives money back: once, to who paid, and said in a signed receipt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Response

from rail402.client.payer import Payer
from rail402.errors import ConfigurationError
from rail402.protocol.charge import Charge, PaymentState
from rail402.protocol.rail import PaymentRail
from rail402.protocol.receipt import verify_receipt, verify_refund
from rail402.server.gate import Gate
from rail402.testing.fakes import FakeClock
from rail402_base.rail import BaseRail
from rail402_base.wallet import BaseWallet
from rail402_stripe.rail import StripeRail
from rail402_stripe.wallet import StripeWallet

URL = "http://testserver"
RAILS = ["base", "stripe"]
PRICES = {"base": "0.003 USD", "stripe": "0.60 USD"}


class Dead(BaseException):
    """The process is gone."""


class Shop:
    """One worker's gate; all that are opened on a directory share money, store and clock.

    Args:
        rail: `base` or `stripe`.
    """

    def __init__(self, path: Path, rail: str, clock: FakeClock, *, flow: str = "upfront") -> None:
        self.name, self.path, self.clock, self.status = rail, path, clock, 200
        self.rail: PaymentRail
        match rail:
            case "base":
                self.rail = BaseRail.sandbox(path, clock=clock)
            case _:
                self.rail = StripeRail.sandbox(path, clock=clock)
        self.gate = Gate(
            rails=[self.rail],
            public_url=URL,
            store=f"sqlite:///{path}/charges.db",
            clock=clock,
            reconcile_seconds=0,
            wait_seconds=0,
        )
        self.app = FastAPI()
        self.gate.install(self.app)
        self.runs = 0

        @self.app.get("/goods")
        @self.gate.paid(PRICES[rail], flow=flow)
        async def goods(response: Response) -> dict[str, int]:
            self.runs += 1
            response.status_code = self.status
            return {"run": self.runs}

    def wallet(self) -> Any:
        if self.name == "base":
            return BaseWallet.sandbox(self.path, clock=self.clock)
        return StripeWallet.sandbox(self.path, clock=self.clock)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Shop]:
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        payer = Payer([self.wallet()], journal=f"sqlite:///{self.path}/wallet.db", clock=self.clock)
        payer.sleep = self._sleep
        self.sent: list[httpx.Request] = []
        async with AsyncExitStack() as stack:
            for each in (self.gate, payer):
                await stack.enter_async_context(each)
            self.http = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url=URL))
            noting = _Noting(transport, self.sent)
            self.agent = await stack.enter_async_context(
                httpx.AsyncClient(transport=payer.transport(noting), base_url=URL)
            )
            yield self

    async def _sleep(self, seconds: float) -> None:
        self.clock.advance(max(int(seconds), 1))

    async def buy(self) -> Charge:
        """Buy once; return the charge."""
        assert (await self.agent.get("/goods")).status_code == 200
        return await self.charge()

    async def again(self) -> httpx.Response:
        """Show the last payment once more."""
        return await self.http.get("/goods", headers=self.sent[-1].headers)

    async def charge(self) -> Charge:
        (charge,) = await self.gate.services().store.recent(limit=2)
        return charge

    async def ours(self) -> int:
        """What the publisher has, in atomic units."""
        received = await self.rail.received()  # type: ignore[attr-defined]
        return int(received.amount * 10 ** (6 if self.name == "base" else 2))

    async def close_all(self) -> Charge:
        """Let every lease lapse and the reconciler work until nothing is open."""
        for _ in range(5):
            self.clock.advance(130)
            await self.gate.reconcile()
        return await self.charge()


class _Noting(httpx.AsyncBaseTransport):
    def __init__(self, inner: httpx.ASGITransport, sent: list[httpx.Request]) -> None:
        self._inner, self._sent = inner, sent

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/goods":
            self._sent.append(request)
        return await self._inner.handle_async_request(request)


@pytest.fixture(params=RAILS)
def shops(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Shop]:
    """Makes workers of one shop."""
    clock = FakeClock()
    return lambda **options: Shop(tmp_path, request.param, clock, **options)


async def test_what_was_paid_goes_back_once_and_both_sides_can_prove_it(shops: Callable[..., Shop]) -> None:
    async with shops().open() as shop:
        charge = await shop.buy()
        assert await shop.ours() == charge.amount
        refunded = await shop.gate.refund(charge.id)
        assert (refunded.payment, await shop.ours()) == (PaymentState.REFUNDED, 0)
        assert (refunded.refunded_at, refunded.receipt) == (shop.clock(), charge.receipt)
        assert refunded.refund_transaction not in (None, charge.transaction)
        jwks = (await shop.http.get("/.well-known/rail402/jwks.json")).json()
        found = (await shop.http.get(f"/.well-known/rail402/receipts/{charge.id}")).json()
        assert (found["charge"], found["payment"]) == (charge.id, "refunded")
        assert verify_receipt(found["receipt"], jwks, issuer=URL).transaction == charge.transaction
        back = verify_refund(found["refund_receipt"], jwks, issuer=URL)
        assert (back.charge, back.amount, back.payment) == (charge.id, str(charge.amount), charge.transaction)
        assert (back.asset, back.network) == (charge.offer.asset, charge.offer.network)
        assert (back.transaction, back.issued_at) == (refunded.refund_transaction, shop.clock())
        assert (back.payer, back.payee, back.sandbox) == (charge.payer, charge.offer.payee, True)
        for _ in range(2):
            assert await shop.gate.refund(charge.id) == refunded
        assert await shop.ours() == 0


async def test_a_payment_that_went_back_buys_nothing_any_more(shops: Callable[..., Shop]) -> None:
    async with shops().open() as shop, shops().open() as other:
        charge = await shop.buy()
        await shop.gate.refund(charge.id)
        other.sent = shop.sent
        for each in (shop, other):
            answer = await each.again()
            assert (answer.status_code, answer.json()["code"]) == (402, "refunded")
        shop.clock.advance(86_400)
        await shop.gate.reconcile()
        answer = await shop.again()
        assert (answer.status_code, shop.runs + other.runs) == (402, 1)
        assert await shop.ours() == 0


async def test_a_failed_handler_gives_back_what_was_paid_first(shops: Callable[..., Shop]) -> None:
    async with shops().open() as shop:
        shop.status = 500
        assert (await shop.agent.get("/goods")).status_code == 500
        charge = await shop.charge()
        assert (charge.payment, await shop.ours()) == (PaymentState.REFUNDED, 0)
        assert charge.refund_receipt is not None
        assert (await shop.again()).json()["code"] == "refunded"


@pytest.mark.parametrize("call", ["made", "not made"])
async def test_it_goes_back_once_when_the_process_dies(shops: Callable[..., Shop], call: str) -> None:
    async with shops().open() as dying, shops().open() as other:
        charge = await dying.buy()
        refund = dying.rail.refund  # type: ignore[attr-defined]

        async def die(charge: Charge) -> Any:
            if call == "made":
                await refund(charge)
            raise Dead

        dying.rail.refund = die  # type: ignore[attr-defined]
        (end,) = await asyncio.gather(dying.gate.refund(charge.id), return_exceptions=True)
        assert isinstance(end, Dead)
        other.sent = dying.sent
        assert (await other.charge()).payment is PaymentState.REFUNDING
        assert (await other.again()).status_code == 503  # it is not known, so nothing is served
        with pytest.raises(ConfigurationError, match="refunding"):
            await other.gate.refund(charge.id)
        found = await other.close_all()
        assert found.payment is (PaymentState.REFUNDED if call == "made" else PaymentState.SETTLED)
        assert await other.ours() == (0 if call == "made" else charge.amount)
        assert (await other.gate.refund(charge.id)).payment is PaymentState.REFUNDED
        assert await other.ours() == 0
        assert (await other.charge()).refund_receipt is not None


async def test_a_refund_that_lands_after_it_was_cut_off_is_seen_by_another_worker(shops: Callable[..., Shop]) -> None:
    """The worker that asked is gone; the other one knows nothing but what is written."""
    async with shops().open() as gone, shops().open() as other:
        charge = await gone.buy()
        refund, arrive = gone.rail.refund, asyncio.Event()  # type: ignore[attr-defined]
        landing: list[asyncio.Task[Any]] = []

        async def late(asked: Charge) -> Any:
            async def land() -> Any:
                await arrive.wait()
                return await refund(asked)

            landing.append(asyncio.create_task(land()))
            await asyncio.Event().wait()

        gone.rail.refund = late  # type: ignore[attr-defined]
        settings = gone.gate.services().settings
        object.__setattr__(settings, "settle_seconds", 0)
        unknown = await gone.gate.refund(charge.id)
        assert unknown.payment is PaymentState.UNKNOWN
        unknown = await gone.gate.services().store.save(unknown.model_copy(update={"landing_until": gone.clock() + 60}))
        other.sent = gone.sent
        for seconds in (0, 5, 54):
            gone.clock.advance(seconds)
            await other.gate.reconcile_all()
            assert (await other.again()).status_code == 503
        arrive.set()
        await landing[0]
        assert (await other.close_all()).payment is PaymentState.REFUNDED
        assert await other.ours() == 0


async def test_many_at_once_give_back_once(shops: Callable[..., Shop]) -> None:
    async with shops().open() as shop, shops().open() as other:
        charge = await shop.buy()
        work: list[Awaitable[Charge]] = [each.gate.refund(charge.id) for each in (shop, other) * 4]
        ends = await asyncio.gather(*work, return_exceptions=True)
        assert any(isinstance(end, Charge) and end.payment is PaymentState.REFUNDED for end in ends), ends
        assert (await shop.gate.refund(charge.id)).payment is PaymentState.REFUNDED
        assert await shop.ours() == 0


async def test_no_refund_receipt_passes_for_a_receipt(shops: Callable[..., Shop]) -> None:
    async with shops().open() as shop:
        charge = await shop.gate.refund((await shop.buy()).id)
        jwks = shop.gate.services().receipt_keys.jwks
        assert charge.receipt is not None
        assert charge.refund_receipt is not None
        for verify, token in ((verify_receipt, charge.refund_receipt), (verify_refund, charge.receipt)):
            with pytest.raises(Exception, match="its header must be"):
                verify(token, jwks)


@pytest.mark.parametrize("name", ["ch_none", "ch_" + "a" * 26, "../jwks.json", ""])
async def test_receipts_of_no_charge(shops: Callable[..., Shop], name: str) -> None:
    async with shops().open() as shop:
        assert (await shop.http.get(f"/.well-known/rail402/receipts/{name}")).status_code in (404, 200)
        if name != "../jwks.json":
            assert (await shop.http.get(f"/.well-known/rail402/receipts/{name}")).status_code == 404
        assert (await shop.http.post(f"/.well-known/rail402/receipts/{name or 'x'}")).status_code in (404, 405)
