"""What tools cost, as the client of the protocol's own SDK is told before it calls one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client
from mcp.server import MCPServer, Server
from mcp.types import ListToolsResult, Tool

from rail402 import Gate
from rail402.dialects import DEFAULT_DIALECTS
from rail402.protocol.rail import Registry
from rail402.server.mcp import paid_call_tool, paid_tool, price_meta, price_sentence
from rail402.server.settings import Receipts
from rail402_base import BaseRail
from rail402_lightning import LightningRail

FORECAST = {
    "price": "0.01 USD",
    "accepts": [
        {"rail": "base", "network": "eip155:402402", "currency": "USDC"},
        {"rail": "lightning", "network": "lnbtc:0f9188f13cb7b2c71f2a335e3a4fc328", "currency": "BTC"},
    ],
    "dialects": ["x402-v2", "mpp"],
}


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return make(tmp_path)


def make(folder: Path, *dialects: str) -> Gate:
    rails = [BaseRail.sandbox(folder), LightningRail.sandbox(folder)]
    options: dict[str, Any] = {"dialects": [each for each in DEFAULT_DIALECTS if each.name in dialects]}
    return Gate(rails=rails, public_url="http://127.0.0.1", store="memory://", **options if dialects else {})


async def forecast(city: str) -> str:
    """Say what the weather will be."""
    return f"sunny in {city}"


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_price_is_listed_beside_the_author_s_own_words(mode: Any, gate: Gate) -> None:
    server, sold = MCPServer("market", log_level="ERROR"), paid_tool(gate, "0.01 USD")
    server.tool(meta={**sold.meta, "my/own": 1})(sold(forecast))
    server.tool(name="again", description=f"The weather. {sold.sentence}", meta=sold.meta)(sold(forecast))
    async with Client(server, mode=mode) as client:
        first, again = (await client.list_tools()).tools
    assert (first.description, first.meta) == (
        "Say what the weather will be.",
        {"rail402/price": FORECAST, "my/own": 1},
    )
    assert (again.description, again.meta) == (
        "The weather. Costs 0.01 USD, to be paid by base or lightning.",
        {"rail402/price": FORECAST},
    )


async def test_the_low_level_server_lists_it_too(gate: Gate) -> None:
    rule = gate.rule("0.01 USD")

    async def list_tools(*_: object) -> ListToolsResult:
        return ListToolsResult(
            tools=[Tool(name="forecast", input_schema={"type": "object"}, _meta=price_meta(gate, rule))]
        )

    @paid_call_tool(gate, {"forecast": rule})
    async def call_tool(*_: object) -> Any: ...

    async with Client(Server("market", on_list_tools=list_tools, on_call_tool=call_tool)) as client:
        (tool,) = (await client.list_tools()).tools
    assert tool.meta == {"rail402/price": FORECAST}
    assert price_sentence(gate, rule) == "Costs 0.01 USD, to be paid by base or lightning."


def test_what_cannot_be_known_before_is_left_out(gate: Gate) -> None:
    sold = paid_tool(gate, lambda arguments: "1 USD", rails=["base"])
    assert sold.meta["rail402/price"] == {"accepts": FORECAST["accepts"][:1], "dialects": FORECAST["dialects"]}
    assert sold.sentence == "Costs what its arguments decide, to be paid by base."


def test_a_pass_says_what_it_is_good_for(gate: Gate) -> None:
    sold = paid_tool(gate, "1 USD", rails=["lightning", "base"], receipt=Receipts(valid="2h", uses=50))
    said = sold.meta["rail402/price"]
    assert (said["price"], said["uses"], said["seconds"]) == ("1 USD", 50, 7200)
    assert [each["rail"] for each in said["accepts"]] == ["lightning", "base"]
    assert sold.sentence == "Costs 1 USD for 50 calls within 7200 seconds, to be paid by lightning or base."


@pytest.mark.parametrize("dialect", ["mpp", "x402-v2"])
def test_only_what_the_gate_speaks_is_named(dialect: str, tmp_path: Path) -> None:
    gate = make(tmp_path, dialect, "l402")
    assert paid_tool(gate, "1 USD").meta["rail402/price"]["dialects"] == [dialect]


def test_a_rail_that_no_tool_can_be_paid_with_is_not_named(gate: Gate) -> None:
    speaks_l402_only = type("", (), {"name": "other", "bindings": {"l402": None}, "mechanisms": ()})
    gate._registry = Registry([*gate.specs, speaks_l402_only])
    sold = paid_tool(gate, "1 USD")
    assert [each["rail"] for each in sold.meta["rail402/price"]["accepts"]] == ["base", "lightning"]
    assert sold.sentence == "Costs 1 USD, to be paid by base or lightning."
