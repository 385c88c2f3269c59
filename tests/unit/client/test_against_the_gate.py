"""Both ends of this project together: the payer against the real gate, over ASGI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from rail402.client.budget import Budget
from rail402.client.payer import Payer
from rail402.dialects import DEFAULT_DIALECTS, X402V1, X402V2, Mpp
from rail402.errors import PaymentOutcomeUnknown
from rail402.server.gate import Gate
from rail402.testing.fakes import Ending, FakeClock, FakeLedger, FakeRail, FakeSpec, FakeWallet

URL = "https://api.example.com"


class Site:
    """An app behind a gate, and a payer in front of it."""

    def __init__(self, folder: Path, style: Any) -> None:
        self.clock, self.ledger, self.spec, self.folder = FakeClock(), FakeLedger(), FakeSpec(style=style), folder
        self.runs = 0
        self.status = 200
        self.gate = Gate(
            rails=[FakeRail(self.ledger, self.spec)],
            store="memory://",
            public_url=URL,
            clock=self.clock,
            reconcile_seconds=0,
            wait_seconds=1,
        )
        self.app = Starlette()
        self.app.add_route("/article/{slug}", self.gate.paid("0.003 USD")(self.article), methods=["GET", "POST"])
        self.gate.install(self.app)

    async def article(self, request: Request) -> Response:
        self.runs += 1
        return PlainTextResponse(f"run {self.runs} {(await request.body()).decode()}", status_code=self.status)

    def payer(self, dialects: Any = DEFAULT_DIALECTS) -> Payer:
        wallet = FakeWallet(self.ledger, self.spec)
        journal = f"sqlite:///{self.folder}/wallet.db"
        payer = Payer([wallet], Budget(), journal, dialects=dialects, clock=self.clock)

        async def sleep(seconds: float) -> None:
            self.clock.advance(int(seconds))

        payer.sleep = sleep
        return payer

    def client(self, payer: Payer) -> httpx.AsyncClient:
        inner = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=payer.transport(inner), base_url=URL)


@pytest.fixture(params=["signed", "invoice"])
def style(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def site(tmp_path: Path, style: str) -> AsyncIterator[Site]:
    site = Site(tmp_path, style)
    await site.gate.start()
    yield site
    await site.gate.close()


# X-Receipt sends nothing of the offer back: a gate takes it for what it has issued, which is invoices. So is L402.
@pytest.mark.parametrize(
    ("style", "dialect"),
    [
        ("signed", X402V2()),
        ("signed", Mpp()),
        ("signed", X402V1()),
        *(("invoice", dialect) for dialect in DEFAULT_DIALECTS),
    ],
    ids=lambda value: getattr(value, "name", value),
)
async def test_a_purchase_with_a_receipt_in_every_dialect(site: Site, dialect: Any) -> None:
    async with site.payer([dialect]) as payer, site.client(payer) as client:
        response = await client.post("/article/402?x=%20", content=b"body")
        purchase = response.extensions["rail402"]
        assert (response.text, purchase.outcome, purchase.dialect) == ("run 1 body", "paid", dialect.name)
        assert purchase.receipt_error is None
        assert purchase.receipt is not None
        assert purchase.receipt.resource == f"{URL}/article/402?x=%20"
        assert (await client.get("/article/402")).extensions["rail402"].receipt is not None
    assert site.ledger.charged_total == 6000


async def test_a_lost_answer_is_replayed_and_charged_once(site: Site) -> None:
    async with site.payer() as payer, site.client(payer) as client:
        transport: Any = client._transport
        inner, lost = transport._inner.handle_async_request, []

        async def lose(request: httpx.Request) -> httpx.Response:
            response = await inner(request)
            if response.status_code == 200 and not lost:
                lost.append(await response.aread())
                raise httpx.ReadTimeout("no answer")
            return response

        transport._inner.handle_async_request = lose
        response = await client.get("/article/402")
        assert response.headers["Idempotent-Replayed"] == "true"
        assert (response.content, site.runs) == (lost[0], 1)
    assert site.ledger.charged_total == 3000


async def test_an_unknown_settlement_is_gone_on_with_when_it_is_known(site: Site) -> None:
    async with site.payer() as payer, site.client(payer) as client:
        site.ledger.script("settle", Ending.UNKNOWN_DONE)
        with pytest.raises(PaymentOutcomeUnknown):
            await client.get("/article/402")
        site.clock.advance(90)
        await site.gate.reconcile()
        response = await client.get("/article/402")
        assert response.status_code == 200
        assert response.extensions["rail402"].outcome == "paid"
    assert site.ledger.charged_total == 3000
    assert site.ledger.count("pay") == 1
