"""A tool that is paid for over Lightning: by MPP, since x402 binds an invoice to an HTTP request."""

from __future__ import annotations

from pathlib import Path

import pytest
from mcp.client import Client
from mcp.server import MCPServer
from mcp.shared.exceptions import MCPError

from rail402 import Gate
from rail402.clock import system_clock
from rail402.mcp import MppMcp
from rail402.protocol.dialect import Context
from rail402.protocol.rail import Registry
from rail402.server.mcp import paid_tool
from rail402_lightning import LightningRail, LightningWallet


async def test_a_tool_is_paid_for_by_mpp(tmp_path: Path) -> None:
    wallet = LightningWallet.sandbox(tmp_path)
    gate = Gate(rails=[LightningRail.sandbox(tmp_path)], public_url="http://127.0.0.1", store="memory://")
    server = MCPServer("market", log_level="ERROR")

    @server.tool()
    @paid_tool(gate, "21 sat")
    async def forecast(city: str) -> str:
        return f"sunny in {city}"

    await wallet.start()
    try:
        async with gate, Client(server) as client:
            with pytest.raises(MCPError) as caught:
                await client.call_tool("forecast", {"city": "Rome"})
            asked = {"code": caught.value.code, "data": caught.value.data}
            context = Context(specs=Registry([wallet.spec]), now=system_clock())
            (offer,) = MppMcp().offers({"error": asked}, context)
            paid = await wallet.pay(offer, record_id="r1", now=system_clock())
            meta = MppMcp().credential(offer, dict(paid.payload), context)
            for _ in range(2):
                result = await client.call_tool("forecast", {"city": "Rome"}, meta=meta)  # type: ignore[arg-type]
                assert result.structured_content == {"result": "sunny in Rome"}
            (charge,) = await gate.services().store.recent(limit=10)
            assert (charge.payment, charge.amount, charge.dialect) == ("settled", 21_000, "mpp")
    finally:
        await wallet.close()
