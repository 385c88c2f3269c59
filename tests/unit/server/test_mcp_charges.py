"""What a paid tool learns of its charge, and how it asks less than its price."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mcp.server import Server, ServerRequestContext
from mcp.server.mcpserver import Context
from mcp.types import CallToolRequestParams, CallToolResult, ListToolsResult, TextContent, Tool

from rail402.errors import ConfigurationError, GateNotInstalled
from rail402.protocol.charge import Charge, PaymentState
from rail402.server.mcp import current_charge, paid_call_tool, reduce_charge
from rail402.server.settings import Receipts
from tests.unit.server.market import FLOWS, Market, market, text_of

RUNNING = {
    "authorization": PaymentState.CLAIMED,
    "escrow": PaymentState.HELD,
    "upfront": PaymentState.SETTLED,
}


# --- the charge


@pytest.mark.parametrize("flow", FLOWS)
async def test_a_tool_sees_the_charge_that_pays_for_it(flow: str) -> None:
    seen = list[Charge | None]()

    async def work(n: int) -> str:
        seen.append(current_charge())
        return "done"

    def in_a_thread(n: int) -> str:
        seen.append(current_charge())
        return "done"

    selling = market(work, flow=flow)
    selling.sell(in_a_thread, flow=flow)
    async with selling.open():
        ids = [(await selling.buy(tool, n=1))["_meta"]["rail402/charge"]["id"] for tool in ("work", "in_a_thread")]
    assert [charge.id for charge in seen if charge is not None] == ids
    assert {charge.payment for charge in seen if charge is not None} == {RUNNING[flow]}


async def test_two_calls_at_once_see_each_its_own_charge() -> None:
    both = asyncio.Barrier(2)

    async def work(n: int) -> str:
        async with both:
            charge = current_charge()
        assert charge is not None
        return charge.id

    selling = market(work)
    async with selling.open():
        proofs = [await selling.quote("work", n=n) for n in range(2)]
        answers = await asyncio.gather(*(selling.call("work", proof, n=n) for n, proof in enumerate(proofs)))
    told = [answer["_meta"]["rail402/charge"]["id"] for answer in answers]
    assert [text_of(answer) for answer in answers] == told
    assert len(set(told)) == 2


async def test_a_free_call_has_no_charge_and_a_free_tool_is_told_that_it_is_none() -> None:
    async def work(n: int) -> str:
        return f"{current_charge()} {reduce_charge('1 USD')}"

    def unpaid(n: int) -> None:
        for ask in (current_charge, lambda: reduce_charge("1 USD")):
            with pytest.raises(GateNotInstalled, match="no paid tool is running"):
                ask()

    selling = market(work, price=lambda arguments: None)
    selling.server.tool()(unpaid)
    async with selling.open():
        assert text_of(await selling.call("work", n=1)) == "None False"
        assert not (await selling.call("unpaid", n=1))["isError"]


async def test_after_a_tool_that_it_has_called_a_tool_has_its_own_charge_again() -> None:
    async def inner(n: int) -> str:
        return str(current_charge())

    async def outer(n: int, context: Context[Any, Any]) -> str:
        before = current_charge()
        result = await context.mcp_server.call_tool("inner", {"n": n}, context)
        assert isinstance(result, CallToolResult)
        assert result.structured_content == {"result": "None"}
        assert before is not None
        assert current_charge() is before
        return "done"

    selling = market(outer)
    selling.sell(inner, lambda arguments: None)
    async with selling.open():
        assert text_of(await selling.buy("outer", n=1)) == "done"


async def test_each_use_of_a_pass_sees_its_charge_and_nothing_is_reduced() -> None:
    async def work(n: int) -> str:
        charge = current_charge()
        assert charge is not None
        return f"{charge.id} {reduce_charge('0.001 USD')}"

    selling = market(work, receipt=Receipts(uses=2))
    async with selling.open():
        proof = await selling.quote("work", n=0)
        said = [text_of(await selling.call("work", proof, n=n)) for n in range(2)]
        (charge,) = await selling.shop.charges()
    assert said == [f"{charge.id} False"] * 2
    assert selling.ledger.charged_total == 3000


# --- less


@pytest.mark.parametrize("mpp", [False, True])
@pytest.mark.parametrize(("flow", "taken"), [("escrow", 1000), ("authorization", 3000), ("upfront", 3000)])
async def test_less_is_taken_where_the_amount_is_held(flow: str, taken: int, mpp: bool) -> None:
    async def work(n: int) -> bool:
        return reduce_charge("0.001 USD")

    selling = market(work, flow=flow)
    async with selling.open():
        proof = await selling.quote("work", mpp=mpp, n=1)
        answers = [await selling.call("work", proof, n=1) for _ in range(2)]
        (charge,) = await selling.shop.charges()
    assert [answer["structuredContent"] for answer in answers] == [{"result": taken == 1000}] * 2
    assert (selling.ledger.charged_total, charge.amount, selling.ledger.held) == (taken, taken, {})


@pytest.mark.parametrize("asked", ["0.004 USD", "0 USD", "0.001 EUR"])
async def test_what_cannot_be_asked_fails_the_tool_and_nobody_pays(asked: str) -> None:
    def work(n: int) -> str:
        with pytest.raises(ConfigurationError, match="at most the price"):
            reduce_charge(asked)
        raise AssertionError

    selling = market(work, flow="escrow")
    async with selling.open():
        assert (await selling.buy("work", n=1))["isError"]
    assert (selling.ledger.charged_total, selling.ledger.held) == (0, {})


async def test_the_low_level_server_s_tools_have_both_too() -> None:
    selling = Market(server=object())

    @paid_call_tool(selling.gate, {"paid": selling.gate.rule("0.003 USD", flow="escrow")})
    async def call_tool(context: ServerRequestContext[Any, Any], params: CallToolRequestParams) -> CallToolResult:
        charge = current_charge()
        assert charge is not None
        return CallToolResult(content=[TextContent(text=f"{charge.id} {reduce_charge('0.001 USD')}")])

    async def list_tools(*_: object) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name="paid", input_schema={"type": "object"})])

    selling.server = Server("low", on_call_tool=call_tool, on_list_tools=list_tools)
    async with selling.open():
        paid = await selling.buy("paid", n=1)
    assert text_of(paid) == f"{paid['_meta']['rail402/charge']['id']} True"
    assert selling.ledger.charged_total == 1000
