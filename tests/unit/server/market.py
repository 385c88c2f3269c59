"""An MCP server that sells tools over a fake rail, and the client of the protocol's own SDK."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from mcp.client import Client
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError

from rail402.mcp import MppMcp, X402Mcp
from rail402.server.mcp import paid_tool
from tests.unit.server.shop import Shop

__all__ = ["ERAS", "FLOWS", "Market", "forecast", "market", "text_of"]

FLOWS = ["authorization", "escrow", "upfront"]
ERAS = ["legacy", "auto"]

_ids = itertools.count()


class Market:
    """An MCP server over a fake rail, and a client of it."""

    def __init__(self, *, mode: Any = "auto", server: Any = None, **options: Any) -> None:
        self.shop = Shop(install=False, **options)
        self.ledger, self.gate = self.shop.ledger, self.shop.gate
        self.server = server or MCPServer("market", log_level="ERROR")
        self._mode = mode
        self.client: Client
        self.progress: list[tuple[float, float | None, str | None]] = []

    def sell(self, tool: Callable[..., Any], price: Any = "0.003 USD", **terms: Any) -> Callable[..., Any]:
        """Put a tool up for sale."""
        return self.server.tool()(paid_tool(self.gate, price, **terms)(tool))  # type: ignore[no-any-return]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Market]:
        async with self.gate, Client(self.server, mode=self._mode) as self.client:
            yield self

    async def call(self, tool: str, meta: Any = None, **arguments: Any) -> dict[str, Any]:
        """Return the result, or the error, as it is on the wire."""

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            self.progress.append((progress, total, message))

        try:
            result = await self.client.call_tool(tool, arguments, meta=meta, progress_callback=on_progress)
        except MCPError as error:
            return {"error": {"code": error.code, "message": error.message, "data": error.data}}
        return result.model_dump(by_alias=True, exclude_none=True)

    async def pay(self, asked: dict[str, Any], mpp: bool = False) -> dict[str, Any]:
        """Pay what a call asks, and return the `_meta` that shows it."""
        context = self.shop.context()
        offers = MppMcp().offers(_response(asked), context) if mpp else X402Mcp().offers(asked, context)
        paid = await self.shop.wallet.pay(offers[0], record_id=f"m{next(_ids)}", now=self.shop.clock())
        return (MppMcp() if mpp else X402Mcp()).credential(offers[0], dict(paid.payload), context)

    async def quote(self, tool: str, *, mpp: bool = False, **arguments: Any) -> dict[str, Any]:
        """Ask and pay, without calling again yet."""
        return await self.pay(await self.call(tool, **arguments), mpp)

    async def buy(self, tool: str, *, mpp: bool = False, **arguments: Any) -> dict[str, Any]:
        return await self.call(tool, await self.quote(tool, mpp=mpp, **arguments), **arguments)


def _response(asked: dict[str, Any]) -> dict[str, Any]:
    return asked if "error" in asked else {"result": asked}


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["content"][0]["text"])


async def forecast(city: str, context: Context[Any, Any]) -> str:
    """Say what the weather will be."""
    await context.report_progress(1, 2, "looking")
    return f"sunny in {city}"


def market(tool: Callable[..., Any] = forecast, price: Any = "0.003 USD", **more: Any) -> Market:
    terms = {name: more.pop(name) for name in ("rails", "flow", "receipt", "description", "asks") if name in more}
    selling = Market(**more)
    selling.sell(tool, price, **terms)
    return selling
