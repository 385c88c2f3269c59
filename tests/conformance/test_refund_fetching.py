"""A payer that fetches a refund on Lightning out of its journal, in every dialect that it can have paid in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from rail402.client.payer import Payer
from rail402.client.records import PurchaseRecord
from rail402.dialects.l402 import L402
from rail402.dialects.mpp import Mpp
from rail402.dialects.x402_v2 import X402V2
from rail402.dialects.x_receipt import XReceipt
from rail402.errors import ConfigurationError, PaymentRejected, RailUnavailable
from rail402.money import Money
from rail402.protocol.charge import PaymentState
from rail402.protocol.dialect import Dialect
from rail402.testing.fakes import FakeClock
from rail402_lightning import LightningWallet, RefundFetcher, refund_fetching
from tests.conformance.test_refunds_lightning import PRICE, URL, Worker

DIALECTS: list[Dialect] = [X402V2(), Mpp(), L402(), XReceipt()]


class Agent:
    """A payer with a journal, at a shop on Lightning's sandbox."""

    def __init__(self, shop: Worker, folder: Path, dialect: Dialect) -> None:
        self.shop, self.sent = shop, list[httpx.Request]()
        self.wallet = LightningWallet.sandbox(folder, clock=shop.clock)
        self.payer = Payer([self.wallet], journal=f"sqlite:///{folder}/wallet.db", dialects=[dialect], clock=shop.clock)
        self.app = httpx.ASGITransport(app=shop.app, raise_app_exceptions=False)
        self.fetcher = RefundFetcher(self.payer.journal, self.wallet.spec, shop.clock, httpx.MockTransport(self.carry))
        self.instead: httpx.Response | Exception | None = None

    async def carry(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(request)
        if isinstance(self.instead, Exception):
            raise self.instead
        return self.instead or await self.app.handle_async_request(request)

    async def buy(self) -> PurchaseRecord:
        async with httpx.AsyncClient(transport=self.payer.transport(self.app), base_url=URL) as client:
            response = await client.get("/goods")
        assert response.status_code == 200
        record = await self.payer.journal.get(response.extensions["rail402"].record_id)
        assert record is not None
        return record


@pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.name)
async def agent(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Agent]:
    async with Worker(tmp_path, FakeClock()).open() as shop:
        agent = Agent(shop, tmp_path, request.param)
        async with agent.payer:
            yield agent


async def test_it_shows_what_it_paid_with_and_the_journal_knows(agent: Agent) -> None:
    record = await agent.buy()
    invoice = await agent.shop.invoice()
    with pytest.raises(PaymentRejected) as early:
        await agent.fetcher.fetch(record.id, invoice)
    assert early.value.code == "refund_not_due"
    await agent.shop.assert_given_back()
    await agent.shop.gate.refund((await agent.shop.charge()).id)
    for _ in range(2):
        found = await agent.fetcher.fetch(record.id, invoice)
        assert found.error is None
    kept = await agent.payer.journal.get(record.id)
    assert kept is not None
    assert (kept.standing, kept.refunded) == ("refunded", Money.parse("21 sat"))
    assert found.record.id == record.id
    assert (await agent.shop.charge()).payment is PaymentState.REFUNDED
    await agent.shop.assert_given_back(invoice)
    assert {request.url.host for request in agent.sent} == {httpx.URL(URL).host}


async def test_what_nobody_would_pay_is_not_sent(agent: Agent) -> None:
    record = await agent.buy()
    await agent.shop.gate.refund((await agent.shop.charge()).id)
    for name, invoice in (
        (record.id, await agent.shop.invoice(PRICE + 1000)),
        (record.id, await agent.shop.invoice(PRICE - 1000)),
        (record.id, "lnbcrt1"),
        ("rec_none", await agent.shop.invoice()),
    ):
        with pytest.raises(ConfigurationError):
            await agent.fetcher.fetch(name, invoice)
    assert agent.sent == []


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (httpx.ReadTimeout("slow"), RailUnavailable, "ReadTimeout"),
        (httpx.Response(503, json={"error": "under way", "code": "rail_unavailable"}), RailUnavailable, "under way"),
        (httpx.Response(429), RailUnavailable, "429"),
        (httpx.Response(502, html="<h1>"), RailUnavailable, "502"),
        (httpx.Response(409, json={"error": "no\x1b[2J!", "code": "replay_not_proven"}), PaymentRejected, "no[2J!"),
        (httpx.Response(302, headers={"location": "https://evil.example"}), PaymentRejected, "302"),
        (httpx.Response(400, json={"error": 5, "code": "made up"}), PaymentRejected, "400"),
        (httpx.Response(404, content=b"{" * 70_000), PaymentRejected, "404"),
    ],
)  # fmt: skip
async def test_an_answer_that_is_no_refund_changes_nothing(
    agent: Agent, answer: httpx.Response | Exception, kind: type[Exception], says: str
) -> None:
    record = await agent.buy()
    agent.instead = answer
    with pytest.raises(kind, match="http") as raised:
        await agent.fetcher.fetch(record.id, await agent.shop.invoice())
    assert says in str(raised.value)
    assert len(agent.sent) == 1
    assert str((record.proof or {})["preimage"]) not in str(raised.value)
    assert await agent.payer.journal.get(record.id) == record


async def test_an_answer_that_never_ends_is_given_up(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    async def trickle() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0)

    record = await agent.buy()
    monkeypatch.setattr(refund_fetching, "_SECONDS", 0)
    agent.instead = httpx.Response(200, content=trickle())
    with pytest.raises(RailUnavailable, match="TimeoutError"):
        await agent.fetcher.fetch(record.id, await agent.shop.invoice())
