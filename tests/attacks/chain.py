"""A publisher on a real EVM, and a payer who makes payments by hand, honest or not."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from rail402_base.eip3009 import Authorization
from rail402_base.wire import payload_of
from tests.conformance.test_base_end_to_end import header
from tests.integration.test_base_rpc import PRICE, URL, Market, Shop
from tests.services.anvil import Account, EvmChain

__all__ = ["PRICE", "Stand"]


class Stand(Market):
    """A gate whose relayer is real, in front of `/article`; `http` shows whatever it is given."""

    def __init__(self, evm: EvmChain, path: Path, **options: Any) -> None:
        super().__init__(Shop(evm, path), path, **options)
        self.http: httpx.AsyncClient

    @asynccontextmanager
    async def sell(self) -> AsyncIterator[Stand]:
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        async with self.gate, httpx.AsyncClient(transport=transport, base_url=URL, timeout=90) as self.http:
            yield self

    async def accepted(self) -> dict[str, Any]:
        """What a fresh 402 asks."""
        response = await self.http.get("/article")
        assert response.status_code == 402, response.text
        (accepted,) = json.loads(base64.b64decode(response.headers["payment-required"]))["accepts"]
        found: dict[str, Any] = accepted
        return found

    async def pay(self, authorization: Authorization, signature: bytes) -> dict[str, str]:
        """The field that shows that authorization under a fresh offer."""
        return header(await self.accepted(), payload(authorization, signature))

    async def honest(self) -> tuple[Authorization, dict[str, str]]:
        """A good payment, and the field that shows it."""
        authorization = self.shop.authorize()
        return authorization, await self.pay(authorization, self.shop.sign(authorization))

    async def show(self, fields: dict[str, str]) -> httpx.Response:
        return await self.http.get("/article", headers=fields)

    async def refused(self, fields: dict[str, str], status: int = 402) -> str:
        """The code of a refusal: nothing has moved, and no gas was spent."""
        before = self.spent(), self.evm.usdc_of(self.shop.payee.address)
        response = await self.show(fields)
        assert response.status_code == status, response.text
        assert "run" not in response.json()
        assert before == (self.spent(), self.evm.usdc_of(self.shop.payee.address))
        code: str = response.json()["code"]
        return code

    def spent(self) -> tuple[int, int]:
        """How many transactions the relayer has made, and what ether it has left."""
        return self.shop.nonce(), self.evm.ether_of(self.shop.relayer.address)

    def account(self, usdc: int = 0) -> Account:
        return self.evm.account(usdc=usdc)


def payload(authorization: Authorization, signature: bytes) -> dict[str, Any]:
    """As it travels; the signature may be any bytes."""
    document = dict(payload_of(authorization, bytes(65)))
    return document | {"signature": "0x" + signature.hex()}
