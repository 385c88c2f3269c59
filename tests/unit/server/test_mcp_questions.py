"""A paid tool that asks the user something (elicitation): who declines has bought nothing, whichever way it asks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from mcp.client import Client
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.resolve import Elicit, Resolve
from mcp.types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult
from pydantic import BaseModel

from rail402.protocol.charge import Delivery, PaymentState
from rail402.server.settings import Receipts
from rail402.testing.fakes import Ending
from tests.unit.server.market import FLOWS, Market, market, text_of


class Sure(BaseModel):
    sure: bool


# What a charge is while its tool asks, and once its user has declined.
WAITING = {
    "authorization": PaymentState.RELEASED,
    "escrow": PaymentState.RELEASED,
    "upfront": PaymentState.SETTLED,
}
ASKING = {"authorization": PaymentState.CLAIMED, "escrow": PaymentState.HELD, "upfront": PaymentState.SETTLED}
UNDONE = {
    "authorization": PaymentState.RELEASED,
    "escrow": PaymentState.RELEASED,
    "upfront": PaymentState.REFUNDED,
}


async def by_result(n: int, context: Context[Any, Any]) -> str | InputRequiredResult:
    """Asks by its result, and is called again with the answer; twice if `n` says so."""
    rounds = int(context.request_state or "0")
    if context.input_responses is not None:
        answer = context.input_responses["sure"]
        if answer.action != "accept":  # type: ignore[union-attr]
            raise ToolError(f"the user says {answer.action}")  # type: ignore[union-attr]
    if rounds == n:
        return "done"
    schema: dict[str, Any] = {"type": "object", "properties": {"sure": {"type": "boolean"}}}
    question = ElicitRequest(params=ElicitRequestFormParams(message="Sure?", requested_schema=schema))
    return InputRequiredResult(input_requests={"sure": question}, request_state=str(rounds + 1))


async def at_work(n: int, context: Context[Any, Any]) -> str:
    """Asks while it runs, over connections on which a server may ask."""
    answer = await context.elicit("Sure?", Sure)
    if answer.action != "accept":
        raise ToolError(f"the user says {answer.action}")
    return "done"


def ask(n: int) -> Elicit[Sure]:
    return Elicit("Sure?", Sure)


async def before_it_runs(n: int, sure: Annotated[Sure, Resolve(ask)]) -> str:
    """Has the SDK ask, before the tool."""
    return f"done {sure.sure}"


class Asked:
    """A market whose client's user answers as told, and notes what the charge is meanwhile."""

    def __init__(self, tool: Callable[..., Any], *answers: str, mode: Any, **terms: Any) -> None:
        self.selling: Market = market(tool, **terms)
        self._answers, self._mode = list(answers), mode
        self.seen = list[PaymentState]()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Market]:
        selling = self.selling
        client = Client(selling.server, mode=self._mode, elicitation_callback=self._answer)
        async with selling.gate, client as selling.client:
            yield selling

    async def _answer(self, *_: object) -> ElicitResult:
        self.seen += [charge.payment for charge in await self.selling.shop.charges()]
        action: Any = self._answers.pop(0)
        return ElicitResult(action=action, content={"sure": True} if action == "accept" else None)


@pytest.mark.parametrize("action", ["decline", "cancel"])
@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("way", ["by_result", "at_work"])
async def test_what_a_user_declines_is_not_paid_for(way: str, flow: str, action: str) -> None:
    modern = way == "by_result"
    asked = Asked(by_result if modern else at_work, action, mode="auto" if modern else "legacy", flow=flow)
    async with asked.open() as selling:
        answer = await selling.buy(way, n=1)
        (charge,) = await selling.shop.charges()
    assert (answer["isError"], text_of(answer)) == (True, f"Error executing tool {way}: the user says {action}")
    assert answer["_meta"]["rail402/charge"] == {"id": charge.id, "payment": UNDONE[flow]}
    assert asked.seen == [WAITING[flow] if modern else ASKING[flow]]
    assert (charge.payment, charge.delivery) == (UNDONE[flow], Delivery.FAILED)
    assert (selling.ledger.charged_total, selling.ledger.held) == (0, {})


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("way", ["by_result", "at_work"])
async def test_what_a_user_accepts_is_paid_for_once(way: str, flow: str) -> None:
    modern = way == "by_result"
    asked = Asked(by_result if modern else at_work, "accept", mode="auto" if modern else "legacy", flow=flow)
    async with asked.open() as selling:
        proof = await selling.quote(way, n=1)
        answers = [await selling.call(way, proof, n=1) for _ in range(2)]
        (charge,) = await selling.shop.charges()
    assert [text_of(answer) for answer in answers] == ["done", "done"]
    assert answers[1]["_meta"]["rail402/replayed"]
    assert (charge.payment, charge.delivery, charge.reruns) == (PaymentState.SETTLED, Delivery.STORED, 0)
    assert selling.ledger.charged_total == 3000


async def test_who_declines_the_second_question_has_his_money_back_too() -> None:
    asked = Asked(by_result, "accept", "decline", mode="auto", flow="upfront")
    async with asked.open() as selling:
        assert (await selling.buy("by_result", n=2))["isError"]
        (charge,) = await selling.shop.charges()
    assert (asked.seen, charge.payment) == ([PaymentState.SETTLED] * 2, PaymentState.REFUNDED)


async def test_a_tool_that_has_failed_before_it_asks_gives_nothing_back_the_second_time() -> None:
    """As on routes: the first run may have delivered, and payers can make a tool fail."""
    fails = [True]

    async def work(n: int, context: Context[Any, Any]) -> str | InputRequiredResult:
        if fails:
            raise ToolError(f"not now: {fails.pop()}")
        return await by_result(n, context)

    asked = Asked(work, "decline", "accept", mode="auto", flow="upfront")
    asked.selling.ledger.script("refund", Ending.FAILED)
    async with asked.open() as selling:
        proof = await selling.quote("work", n=1)
        answers = [await selling.call("work", proof, n=1) for _ in range(3)]
        (charge,) = await selling.shop.charges()
    assert [answer["isError"] for answer in answers] == [True, True, True]
    assert text_of(answers[1]).endswith("the user says decline")
    assert (charge.payment, charge.reruns) == (PaymentState.SETTLED, 1)
    assert selling.ledger.charged_total == 3000


async def test_who_never_answers_is_owed_the_call_and_the_seller_may_refund_it() -> None:
    selling = market(by_result, flow="upfront")
    async with selling.open():
        proof, session = await selling.quote("by_result", n=1), selling.client.session
        again = await session.call_tool("by_result", {"n": 1}, meta=proof, allow_input_required=True)
        assert isinstance(again, InputRequiredResult)
        selling.shop.clock.advance(86_400)
        assert await selling.gate.reconcile() == 0
        (charge,) = await selling.shop.charges()
        assert (charge.payment, charge.is_owed) == (PaymentState.SETTLED, True)
        again = await session.call_tool("by_result", {"n": 1}, meta=proof, allow_input_required=True)
        assert isinstance(again, InputRequiredResult)
        assert (await selling.gate.refund(charge.id)).payment is PaymentState.REFUNDED


@pytest.mark.parametrize("flow", FLOWS)
async def test_a_question_takes_no_use_of_a_pass(flow: str) -> None:
    asked = Asked(by_result, "accept", "accept", "decline", mode="auto", flow=flow, receipt=Receipts(uses=2))
    async with asked.open() as selling:
        proof = await selling.quote("by_result", n=1)
        answers = [await selling.call("by_result", proof, n=1) for _ in range(2)]
        (charge,) = await selling.shop.charges()
        assert (await selling.call("by_result", proof, n=1))["structuredContent"]["accepts"]
    assert ([text_of(answer) for answer in answers], charge.uses_taken) == (["done", "done"], 2)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_what_the_sdk_asks_for_a_tool_comes_before_the_price(mode: Any) -> None:
    asked = Asked(before_it_runs, "decline", "accept", "accept", mode=mode, flow="upfront")
    async with asked.open() as selling:
        declined = await selling.call("before_it_runs", n=1)
        assert declined["isError"]
        assert "accepts" not in (declined.get("structuredContent") or {})
        assert text_of(await selling.buy("before_it_runs", n=1)) == "done True"
    assert (asked.seen, selling.ledger.charged_total) == ([], 3000)
