"""Released clients pay for our tools over MCP, on a server that offers every rail in both payment transports."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from mcp.server import MCPServer
from mcp.server.mcpserver import Context

from rail402 import Gate
from rail402.clock import system_clock
from rail402.server.mcp import paid_tool
from rail402.testing.fakes import FakeLedger, FakeRail
from rail402_base import BaseRail
from rail402_stripe import StripeRail
from tests.interop.bank import ENDOWMENT, FAKE_SECRET, TOKEN, Bank, listening, served
from tests.interop.peers import MPPX_MCP, PYMPP_MCP, X402_MCP, Case, cases, program, run

PRICE = {"stripe": 50, "evm": 500_000, "fake": 500_000}
PROGRAMS = {X402_MCP: "x402_mcp_client.py", MPPX_MCP: "mppx_client.mjs", PYMPP_MCP: "pympp_client.py"}
ALL = [case for package in PROGRAMS for case in cases(package, "client")]
DEAF = [case for case in ALL if case.reason]


class ToolShop:
    """Our MCP server: its tools cost 0.50 USD, on all rails that keep their money in the bank."""

    def __init__(self, bank: Bank, url: str) -> None:
        self.url, self.ledger, self.served = url, FakeLedger(), 0
        self.base = BaseRail.sandbox(bank.directory)
        rails = [StripeRail.sandbox(bank.directory), self.base, FakeRail(self.ledger, clock=system_clock)]
        self.gate = Gate(rails=rails, store=f"sqlite:///{bank.directory}/charges.db", public_url=url)
        self.server = MCPServer("shop", log_level="ERROR")

        async def report(n: int, context: Context[Any, Any]) -> str:
            self.served += 1
            await context.report_progress(1, 2, "half done")
            return f"report {n}"

        for name, asks in {"report": "auto", "report_by_mpp": "mpp"}.items():
            self.server.tool(name=name)(paid_tool(self.gate, "0.50 USD", asks=asks)(report))  # type: ignore[arg-type]


@pytest.fixture
async def tools(bank: Bank) -> AsyncIterator[ToolShop]:
    with listening() as (found, url):
        shop = ToolShop(bank, url)
        async with shop.gate, served(shop.server.streamable_http_app(), found):
            yield shop


def method_of(case: Case) -> str:
    """How the peer pays."""
    route = case.route.rpartition(", ")[2]
    return {"stripe": "stripe", "custom method": "fake"}.get(route, "evm")


async def buy(case: Case, shop: ToolShop, bank: Bank, directory: Path) -> tuple[Any, str]:
    """Have the peer buy; return what it says, and the address of its account."""
    account = Account.create()
    await bank.chain.endow(account.address)
    method = method_of(case)
    key = FAKE_SECRET if method == "fake" else "0x" + bytes(account.key).hex()
    tool = "report_by_mpp" if "asks as MPP does" in case.route else "report"
    given = {"url": f"{shop.url}/mcp", "tool": tool, "bank": bank.url, "method": method, "token": TOKEN, "key": key}
    command = program(case.package.service, PROGRAMS[case.package], directory)
    return await run(command, json.dumps(given), directory=directory), account.address


@pytest.mark.parametrize("case", [case for case in ALL if case not in DEAF], ids=str)
async def test_a_tool_is_paid_for_once(case: Case, tools: ToolShop, bank: Bank, tmp_path: Path) -> None:
    answer, payer = await buy(case, tools, bank, tmp_path)
    (charge,) = await tools.gate.services().store.recent(limit=10)
    method = method_of(case)
    assert answer["content"][0]["text"] == "report 1", answer
    assert (charge.payment, charge.amount) == ("settled", PRICE[method])
    if case.package is X402_MCP:
        settled = answer["settled"]
        assert (settled["success"], settled["payer"], settled["transaction"]) == (True, payer, charge.transaction)
    else:
        receipt = answer["receipt"]
        assert (receipt["status"], receipt["method"], receipt["reference"]) == ("success", method, charge.transaction)
        assert len(receipt["challengeId"]) == 43

    again = answer["again"]
    assert again["content"][0]["text"] == "report 1"
    assert again["_meta"]["rail402/replayed"] is True
    assert (tools.served, answer["payments"]) == (1, 1)
    assert answer.get("progress", [[1, 2, "half done"]]) == [[1, 2, "half done"]]

    assert await bank.cents() == (50 if method == "stripe" else 0)
    assert await bank.chain.balance_of(payer) == ENDOWMENT - (500_000 if method == "evm" else 0)
    assert tools.ledger.charged_total == (500_000 if method == "fake" else 0)


@pytest.mark.parametrize("case", DEAF, ids=str)
async def test_who_cannot_read_what_is_asked_is_not_served(
    case: Case, tools: ToolShop, bank: Bank, tmp_path: Path
) -> None:
    answer, _ = await buy(case, tools, bank, tmp_path)
    assert answer["is_error"]
    assert "x402Version" in answer["content"][0]["text"]
    assert (tools.served, await tools.gate.services().store.recent(limit=10)) == (0, [])
