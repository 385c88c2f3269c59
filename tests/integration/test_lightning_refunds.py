"""Refunds over real channels: what Bob paid Alice goes back to him once, wherever her server dies."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from rail402 import Gate
from rail402.protocol.charge import Charge, PaymentState
from rail402.protocol.receipt import ReceiptKeys, verify_refund
from rail402.testing.fakes import FakeClock
from rail402_lightning import LightningRail, LnbitsSender, bolt11
from rail402_lightning.backends.lnd_macaroon import RECEIVE
from rail402_lightning.refunds import Refunding
from tests.integration.test_lightning_lnd import PRICE, SECRET, Ledger, bake, sender
from tests.services.lightning import RegtestNetwork
from tests.services.lnbits import LnbitsPair

URL = "http://testserver"
REFUND = "/.well-known/rail402/lightning/refund"


class Dead(BaseException):
    """The process is gone."""


def lnd_rail(network: RegtestNetwork, clock: FakeClock) -> LightningRail:
    """A rail with a macaroon that receives and another one that pays."""
    alice = network.alice
    held = bake(alice, *RECEIVE.methods)
    rail = LightningRail.lnd(alice.rest_url, held, "regtest", tls_cert=alice.tls_cert_path, mint_ahead=0)
    return rail.with_refunds(Refunding(sender(alice), clock=clock))


class Worker:
    """One worker of Alice's shop."""

    def __init__(
        self, network: RegtestNetwork, path: Path, clock: FakeClock, rail: LightningRail | None = None
    ) -> None:
        self.network = network
        self.rail = rail or lnd_rail(network, clock)
        self.gate = Gate(
            rails=[self.rail],
            public_url=URL,
            store=f"sqlite:///{path}/charges.db",
            secret=SECRET,
            receipt_key=ReceiptKeys.generate()[1],
            reconcile_seconds=0,
            wait_seconds=0,
            clock=clock,
        )
        self.app = FastAPI()
        self.gate.install(self.app)
        self.http: httpx.AsyncClient

        @self.app.get("/goods")
        @self.gate.paid("21 sat")
        async def goods() -> str:
            return "goods"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Worker]:
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        async with self.gate, httpx.AsyncClient(transport=transport, base_url=URL) as self.http:
            yield self

    async def granted(self) -> tuple[Charge, str]:
        """Have Bob buy, and grant the refund; return the charge and the preimage."""
        invoice = (await self.http.get("/goods")).json()["payment"]["invoice"]
        preimage = await asyncio.to_thread(self.network.bob.pay, invoice)
        assert (await self.http.get("/goods", headers={"X-Receipt": preimage})).status_code == 200
        (charge,) = await self.gate.services().store.recent(limit=1)
        return await self.gate.refund(charge.id), preimage

    async def charge(self) -> Charge:
        return (await self.gate.services().store.recent(limit=1))[0]

    async def fetch(self, preimage: str, invoice: str) -> httpx.Response:
        return await self.http.post(REFUND, json={"preimage": preimage, "invoice": invoice}, timeout=60)


@pytest.fixture
def ledger(regtest: RegtestNetwork) -> Ledger:
    return Ledger(regtest)


@pytest.fixture
async def workers(regtest: RegtestNetwork, tmp_path: Path) -> AsyncIterator[tuple[Worker, Worker]]:
    clock = FakeClock(int(time.time()))
    async with Worker(regtest, tmp_path, clock).open() as one, Worker(regtest, tmp_path, clock).open() as other:
        yield one, other


def invoice_of_bob(network: RegtestNetwork, msat: int = PRICE) -> str:
    return network.bob.create_invoice(msat)


async def test_what_bob_paid_goes_back_to_bob(
    workers: tuple[Worker, Worker], regtest: RegtestNetwork, ledger: Ledger
) -> None:
    shop, before = workers[0], ledger.balances()
    charge, preimage = await shop.granted()
    ledger.expect(before, PRICE, -PRICE)
    assert (await shop.fetch(preimage, invoice_of_bob(regtest, PRICE + 1000))).status_code == 400
    invoice = invoice_of_bob(regtest)
    answer = await shop.fetch(preimage, invoice)
    assert answer.status_code == 200, answer.text
    ledger.expect(before)
    record = verify_refund(answer.json()["refund_receipt"], shop.gate.services().receipt_keys.jwks, issuer=URL)
    assert (record.charge, record.amount) == (charge.id, str(PRICE))
    assert record.transaction == bolt11.decode(invoice).payment_hash.hex()
    again = await shop.fetch(preimage, invoice_of_bob(regtest))
    assert again.json() == answer.json()
    ledger.expect(before)


async def test_six_invoices_at_once_are_paid_once(
    workers: tuple[Worker, Worker], regtest: RegtestNetwork, ledger: Ledger
) -> None:
    before = ledger.balances()
    _, preimage = await workers[0].granted()
    work = [workers[number % 2].fetch(preimage, invoice_of_bob(regtest)) for number in range(6)]
    answers = await asyncio.gather(*work)
    assert 200 in {answer.status_code for answer in answers} <= {200, 409, 503}
    ledger.expect(before)


@pytest.mark.parametrize("call", ["made", "not made"])
async def test_it_goes_back_once_when_the_process_dies(
    workers: tuple[Worker, Worker], regtest: RegtestNetwork, ledger: Ledger, call: str
) -> None:
    (dying, other), before = workers, ledger.balances()
    _, preimage = await dying.granted()
    pay, first = dying.rail.pay_back, invoice_of_bob(regtest)

    async def die(charge: Charge) -> Any:
        if call == "made":
            await pay(charge)
        raise Dead

    dying.rail.pay_back = die  # type: ignore[method-assign]
    await asyncio.gather(dying.fetch(preimage, first), return_exceptions=True)
    assert (await other.charge()).payment is PaymentState.REFUNDING
    other.gate._clock.advance(130)  # type: ignore[attr-defined]
    report = await other.gate.reconcile_all()
    assert (report.closed, report.open) == (1, ())
    expected = PaymentState.REFUNDED if call == "made" else PaymentState.SETTLED
    assert (await other.charge()).payment is expected
    assert (await other.fetch(preimage, first)).status_code == 200
    ledger.expect(before)


async def test_a_refund_that_failed_may_be_fetched_with_another_invoice(
    workers: tuple[Worker, Worker], regtest: RegtestNetwork, ledger: Ledger
) -> None:
    shop, before = workers[0], ledger.balances()
    _, preimage = await shop.granted()
    canceled = invoice_of_bob(regtest)
    payment_hash = base64.b64encode(bolt11.decode(canceled).payment_hash).decode()
    regtest.bob.post("/v2/invoices/cancel", {"payment_hash": payment_hash})
    answer = await shop.fetch(preimage, canceled)
    assert (answer.status_code, "was not paid" in answer.json()["error"]) == (503, True)
    ledger.expect(before, PRICE, -PRICE)
    assert (await shop.fetch(preimage, invoice_of_bob(regtest))).status_code == 200
    ledger.expect(before)


@pytest.mark.parametrize("call", ["made", "not made"])
async def test_a_wallet_of_lnbits_pays_refunds_too(
    lnbits_pair: LnbitsPair, regtest: RegtestNetwork, ledger: Ledger, tmp_path: Path, call: str
) -> None:
    publisher, clock = lnbits_pair.publisher, FakeClock(int(time.time()))

    def rail() -> LightningRail:
        made = LightningRail.lnbits(publisher.url, publisher.invoice_key, "regtest", mint_ahead=0)
        return made.with_refunds(Refunding(LnbitsSender(publisher.url, publisher.admin_key), clock=clock))

    one, other = (Worker(regtest, tmp_path, clock, rail()) for _ in range(2))
    async with one.open(), other.open():
        float_ = await one.rail.receiver.create_invoice(100_000, expiry_seconds=600, hashed_description=b"a float")
        await asyncio.to_thread(regtest.bob.pay, float_)
        await asyncio.to_thread(regtest.wait_until_idle)
        before = ledger.balances()
        _, preimage = await one.granted()
        pay, first = one.rail.pay_back, invoice_of_bob(regtest)

        async def die(charge: Charge) -> Any:
            if call == "made":
                await pay(charge)
            raise Dead

        one.rail.pay_back = die  # type: ignore[method-assign]
        await asyncio.gather(one.fetch(preimage, first), return_exceptions=True)
        clock.advance(130)
        assert (await other.gate.reconcile_all()).open == ()
        for _ in range(2):
            answer = await other.fetch(preimage, first)
            assert (answer.status_code, answer.json()["payment"]) == (200, "refunded"), answer.text
        ledger.expect(before)
