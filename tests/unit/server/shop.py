"""A shop to test the gate with: an app, a fake rail's money, and a buyer."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette

from rail402.dialects import DEFAULT_DIALECTS
from rail402.protocol.charge import Charge
from rail402.protocol.dialect import Context, Fields
from rail402.protocol.offer import Offer
from rail402.protocol.rail import Registry
from rail402.server.gate import Gate
from rail402.testing.fakes import FakeClock, FakeLedger, FakeRail, FakeSpec, FakeWallet

URL = "https://shop.example"


class Shop:
    """A gate over a fake rail. Mount handlers on `app`, then `async with shop.open():`."""

    def __init__(self, app: Any = None, *, style: str = "signed", **options: Any) -> None:
        self.clock = FakeClock()
        self.ledger = FakeLedger()
        spec = FakeSpec(style=style) if style != "signed" else FakeSpec()
        self.rail, self.wallet = FakeRail(self.ledger, spec), FakeWallet(self.ledger, spec)
        self.app = app or Starlette()
        defaults: dict[str, Any] = {
            "store": "memory://",
            "reconcile_seconds": 0,
            "wait_seconds": 1,
            "clock": self.clock,
        }
        self.gate = Gate(rails=[self.rail], public_url=URL, **(defaults | options))
        self.gate.install(self.app)
        self._ids = itertools.count()
        self.client: httpx.AsyncClient

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Shop]:
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=URL) as self.client:
            await self.gate.start()
            yield self
            await self.gate.close()

    def context(self) -> Context:
        return Context(specs=Registry([self.rail.spec]), now=self.clock(), realm="shop.example")

    def offers(self, response: httpx.Response, dialect: str = "x402-v2") -> list[Offer]:
        speaker = next(each for each in DEFAULT_DIALECTS if each.name == dialect)
        return speaker.offers(Fields(response.headers.multi_items()), response.content, self.context())

    async def proof(self, response: httpx.Response, dialect: str = "x402-v2") -> dict[str, str]:
        """Pay what a 402 asks, and return the request fields that show it."""
        speaker = next(each for each in DEFAULT_DIALECTS if each.name == dialect)
        (offer, *_) = self.offers(response, dialect)
        paid = await self.wallet.pay(offer, record_id=f"r{next(self._ids)}", now=self.clock())
        return dict(speaker.credential(offer, dict(paid.payload), self.context()))

    async def quote(self, path: str, method: str = "GET", **kwargs: Any) -> dict[str, str]:
        """Ask for a price and pay it, without asking for the goods yet."""
        response = await self.client.request(method, path, **kwargs)
        assert response.status_code == 402, response.text
        return await self.proof(response)

    async def buy(self, path: str, method: str = "GET", **kwargs: Any) -> httpx.Response:
        """Pay and return the answer."""
        proof = await self.quote(path, method, **kwargs)
        return await self.client.request(method, path, **kwargs, headers=proof)

    async def charges(self) -> list[Charge]:
        return list(await self.gate.services().store.recent(limit=100))

    async def only_charge(self) -> Charge:
        (charge,) = await self.charges()
        return charge
