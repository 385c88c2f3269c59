"""A facilitator that says whatever a test wants, over HTTP, and a publisher who uses it on a real EVM."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from rail402_base.eip3009 import Authorization, parse_authorization
from rail402_base.facilitator import Facilitator
from tests.attacks.chain import payload
from tests.attacks.raw import Connection, RawRequest, RawServer, answer
from tests.conformance.test_base_end_to_end import header
from tests.integration.test_base_facilitator import PRICE, URL, Shop
from tests.services.anvil import USDC, EvmChain

__all__ = ["Buyer", "Liar", "said"]


def said(document: object, status: int = 200) -> bytes:
    """The bytes of a JSON answer."""
    return answer(status, [("Content-Type", "application/json")], json.dumps(document).encode())


Says = Callable[[dict[str, Any]], bytes | Awaitable[bytes]]


class Liar:
    """Serves `/supported`, `/verify` and `/settle`.

    Attributes:
        says: by path, the answer to a request's body; an honest one where there is none.
        calls: the paths that were asked.
    """

    def __init__(self, evm: EvmChain) -> None:
        self.evm, self.says, self.calls = evm, dict[str, bytes | Says](), list[str]()

    async def __call__(self, request: RawRequest, connection: Connection) -> bytes:
        self.calls.append(request.target)
        told = self.says.get(request.target)
        if isinstance(told, bytes):
            return told
        body = json.loads(request.body or b"{}")
        if told is not None:
            found = told(body)
            return found if isinstance(found, bytes) else await found
        match request.target:
            case "/supported":
                return said({"kinds": [{"x402Version": 2, "scheme": "exact", "network": self.evm.token.network.caip2}]})
            case "/verify":
                return said({"isValid": True, "payer": self.payer(body)})
            case _:
                return said(self.settled(body, self.hand_in(body)))

    def payer(self, body: dict[str, Any]) -> str:
        return str(body["paymentPayload"]["payload"]["authorization"]["from"])

    def hand_in(self, body: dict[str, Any]) -> str:
        """Do what a facilitator is for; returns the transaction's hash."""
        authorization, signature = parse_authorization(body["paymentPayload"]["payload"])
        return self.evm.submit(self.evm.account().address, authorization, signature)

    def settled(self, body: dict[str, Any], transaction: str, **changes: Any) -> dict[str, Any]:
        honest = {"success": True, "payer": self.payer(body), "transaction": transaction}
        return honest | {"network": self.evm.token.network.caip2} | changes


class Buyer(Shop):
    """A gate that has such a facilitator settle, and a payer by hand."""

    def __init__(self, evm: EvmChain, path: Path, liar: Liar, url: str) -> None:
        super().__init__(evm, path, Facilitator(url, timeout=1, settle_timeout=1))
        self.liar = liar
        self.http: httpx.AsyncClient

    async def accepted(self) -> dict[str, Any]:
        response = await self.http.get("/article")
        assert response.status_code == 402, response.text
        (accepted,) = json.loads(base64.b64decode(response.headers["payment-required"]))["accepts"]
        found: dict[str, Any] = accepted
        return found

    async def honest(self) -> tuple[Authorization, dict[str, str]]:
        authorization = self.evm.authorize(self.payer_account, self.payee.address, PRICE)
        shown = payload(authorization, self.evm.sign(self.payer_account, authorization))
        return authorization, header(await self.accepted(), shown)

    async def show(self, fields: dict[str, str]) -> httpx.Response:
        return await self.http.get("/article", headers=fields)

    def assert_moved(self, times: int) -> None:
        """On both sides."""
        assert self.evm.usdc_of(self.payee.address) == times * PRICE
        assert self.evm.usdc_of(self.payer_account.address) == USDC - times * PRICE


@asynccontextmanager
async def market(evm: EvmChain, path: Path) -> AsyncIterator[Buyer]:
    """A publisher at a facilitator of its own."""
    liar = Liar(evm)
    async with RawServer(liar) as server:
        buyer = Buyer(evm, path, liar, server.url)
        transport = httpx.ASGITransport(app=buyer.app, raise_app_exceptions=False)
        buyer.backend._sleep = _no_time  # between two looks at a chain that mines at once
        async with buyer.gate, httpx.AsyncClient(transport=transport, base_url=URL, timeout=60) as buyer.http:
            yield buyer


async def _no_time(seconds: float) -> None:
    await asyncio.sleep(0)
