"""Tools that are paid for within a payer's limits: on our own server, and on one that answers as others do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp.client import Client
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp.types import REQUEST_TIMEOUT, CallToolResult, TextContent

from rail402 import Budget, Payer
from rail402.client.records import PurchaseState
from rail402.errors import BudgetExceeded, MalformedInput, PaymentFailed, PaymentOutcomeUnknown, PaymentRefused
from rail402.server.mcp import paid_tool
from rail402.server.settings import Receipts
from rail402.testing.fakes import Ending
from rail402.tools.mcp_client import PayingSession
from tests.unit.server.shop import URL, Shop

ASKS: list[Any] = ["x402", "mpp"]


class Market:
    """Our server, a client of it, and a payer."""

    def __init__(
        self,
        folder: Path,
        tool: Callable[..., Any],
        asks: Any = "auto",
        price: str = "0.003 USD",
        receipt: Receipts | None = None,
    ) -> None:
        self.shop = Shop()
        self.server = MCPServer("market", log_level="ERROR")
        self.server.tool(name="work")(paid_tool(self.shop.gate, price, asks=asks, receipt=receipt)(tool))
        self.payer = Payer(
            [self.shop.wallet],
            Budget(per_request="0.01 USD"),
            journal=f"sqlite:///{folder}/wallet.db",
            clock=self.shop.clock,
            deadline=4,
        )
        self.payer.sleep = self._pass
        self.paying: PayingSession

    async def _pass(self, seconds: float) -> None:
        self.shop.clock.advance(int(seconds))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Market]:
        async with self.shop.open(), Client(self.server) as client, self.payer:
            self.paying = PayingSession(self.payer, client, URL, inner=httpx.ASGITransport(app=self.shop.app))
            yield self

    async def states(self) -> list[PurchaseState]:
        return [record.state for record in await self.payer.journal.newest(limit=10)]


async def forecast(city: str, context: Context[Any, Any]) -> str:
    await context.report_progress(1, 2, "looking")
    return f"sunny in {city}"


@pytest.mark.parametrize("asks", ASKS)
async def test_a_tool_is_paid_for_and_its_receipt_verifies(asks: str, tmp_path: Path) -> None:
    seen: list[Any] = []

    async def progress(*said: Any) -> None:
        seen.append(said)

    market = Market(tmp_path, forecast, asks)
    async with market.open():
        called = await market.paying.call_tool("work", {"city": "Rome"}, progress_callback=progress)
        assert called.result.structured_content == {"result": "sunny in Rome"}
        assert called.purchase is not None
        assert (called.purchase.receipt_error, called.purchase.dialect) == (
            None,
            "mpp" if asks == "mpp" else "x402-v2",
        )
        receipt = called.purchase.receipt
        assert receipt is not None
        assert (receipt.method, receipt.resource) == ("tools/call", f"{URL}/tool/work")
        assert await market.states() == [PurchaseState.COMMITTED]
    assert seen == [(1, 2, "looking")]
    assert market.shop.ledger.charged_total == 3000


async def test_a_free_tool_costs_nothing_and_its_errors_are_its_own(tmp_path: Path) -> None:
    market = Market(tmp_path, forecast)

    @market.server.tool()
    async def free(n: int) -> str:
        if n == 1:
            raise ToolError("one is too few")
        if n == 2:
            raise MCPError(code=-32000, message="two is too many", data={"n": 2})
        return "free"

    async with market.open():
        called = await market.paying.call_tool("free", {"n": 3})
        assert (called.result.structured_content, called.purchase) == ({"result": "free"}, None)
        failed = await market.paying.call_tool("free", {"n": 1})
        assert failed.result.is_error
        with pytest.raises(MCPError, match="two is too many"):
            await market.paying.call_tool("free", {"n": 2})
        assert await market.states() == []


@pytest.mark.parametrize("asks", ASKS)
async def test_limits_hold(asks: str, tmp_path: Path) -> None:
    dear = Market(tmp_path, forecast, asks, price="0.02 USD")
    async with dear.open():
        with pytest.raises(BudgetExceeded):
            await dear.paying.call_tool("work", {"city": "Rome"})
    market = Market(tmp_path, forecast, asks)
    async with market.open():
        with pytest.raises(PaymentRefused):
            await market.paying.call_tool("work", {"city": "Rome"}, at_most="0.001 USD")
        assert await market.states() == []
    assert market.shop.ledger.calls.count(("pay", "")) == 0


@pytest.mark.parametrize("asks", ASKS)
async def test_a_lost_outcome_is_gone_on_with(asks: str, tmp_path: Path) -> None:
    market = Market(tmp_path, forecast, asks)
    async with market.open():
        market.shop.ledger.script("settle", Ending.UNKNOWN_DONE)
        with pytest.raises(PaymentOutcomeUnknown):
            await market.paying.call_tool("work", {"city": "Rome"})
        assert await market.shop.gate.reconcile() == 1
        called = await market.paying.call_tool("work", {"city": "Rome"})
        assert called.result.structured_content == {"result": "sunny in Rome"}
        assert await market.states() == [PurchaseState.COMMITTED]
    assert market.shop.ledger.charged_total == 3000


@pytest.mark.parametrize("asks", ASKS)
async def test_a_payment_that_is_refused_for_good_is_not_shown_for_long(asks: str, tmp_path: Path) -> None:
    market = Market(tmp_path, forecast, asks)
    async with market.open():
        market.shop.ledger.script("verify", Ending.FAILED)
        before = market.shop.clock()
        with pytest.raises((PaymentFailed, PaymentOutcomeUnknown)):
            await market.paying.call_tool("work", {"city": "Rome"})
        assert market.shop.clock() == before, "it was told that sending the same again does not help"
    assert market.shop.ledger.charged_total == 0


@pytest.mark.parametrize("asks", ASKS)
async def test_a_tool_that_fails_is_told_and_not_paid_for(asks: str, tmp_path: Path) -> None:
    async def work(city: str) -> str:
        raise ToolError("no such city")

    market = Market(tmp_path, work, asks)
    async with market.open():
        called = await market.paying.call_tool("work", {"city": "Rome"})
        assert called.result.is_error
        assert called.purchase is not None
        assert called.purchase.outcome == "unknown"
        assert called.result.meta is not None
        assert called.result.meta["rail402/charge"]["payment"] == "released"
    assert market.shop.ledger.charged_total == 0


class Foreign:
    """A session whose server answers as it is told."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.shown = list(answers), list[Any]()

    async def call_tool(self, name: str, arguments: Any = None, *, meta: Any = None, **_: Any) -> Any:
        self.shown.append(meta)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


REQUEST: dict[str, Any] = {
    "amount": "3000",
    "currency": "usd",
    "recipient": "shop",
    "methodDetails": {"extra": {}, "flow": "upfront", "timeoutSeconds": 60},
}
CHALLENGE: dict[str, Any] = {
    "id": "abc",
    "realm": "shop.example",
    "method": "fake",
    "intent": "charge",
    "request": REQUEST,
    "expires": "2027-01-15T08:10:00Z",
    "opaque": {"their": "own"},
    "other": [1],
}
ASKING = MCPError(code=-32042, message="pay", data={"challenges": [CHALLENGE]})
DONE = CallToolResult(content=[TextContent(text="done")])


async def test_the_challenge_goes_back_as_it_came(tmp_path: Path) -> None:
    market = Market(tmp_path, forecast)
    foreign = Foreign(ASKING, DONE)
    async with market.open():
        called = await PayingSession(market.payer, foreign, URL).call_tool("work")
        assert called.result.content == DONE.content
    first, second = foreign.shown
    assert first is None
    assert second["org.paymentauth/credential"]["challenge"] == CHALLENGE


@pytest.mark.parametrize(
    "answer",
    [
        *(
            MCPError(code=-32042, message="no", data={"challenges": challenges, "httpStatus": 503})
            for challenges in ([1], [{}], "abc", [CHALLENGE | {"realm": "a\nb"}], [CHALLENGE | {"id": ["abc"]}])
        ),
        RuntimeError("Invalid structured content returned by tool work"),
        ValueError("1 validation error for CallToolResult"),
    ],
)
async def test_no_answer_to_a_payment_makes_it_forgotten(answer: Exception, tmp_path: Path) -> None:
    market = Market(tmp_path, forecast)
    foreign = Foreign(ASKING, answer, DONE)
    async with market.open():
        called = await PayingSession(market.payer, foreign, URL).call_tool("work")
        assert (called.result.content, await market.states()) == (DONE.content, [PurchaseState.COMMITTED])
    _, first, again = foreign.shown
    assert first == again


async def test_what_the_session_cannot_read_of_a_free_tool_is_its_own_affair(tmp_path: Path) -> None:
    market = Market(tmp_path, forecast)
    async with market.open():
        with pytest.raises(RuntimeError, match="not entered"):
            await PayingSession(market.payer, Foreign(RuntimeError("not entered")), URL).call_tool("work")


@pytest.mark.parametrize("data", [None, "x", {}, {"challenges": []}, {"challenges": [{"id": 1}]}])
async def test_an_error_that_asks_for_nothing_is_handed_on(data: Any, tmp_path: Path) -> None:
    market = Market(tmp_path, forecast)
    async with market.open():
        foreign = Foreign(MCPError(code=-32042, message="no", data=data))
        paying = PayingSession(market.payer, foreign, URL)
        with pytest.raises(MCPError, match="no"):
            await paying.call_tool("work")
        assert await market.states() == []


class Losing:
    """A session that loses the first answers to a payment."""

    def __init__(self, client: Client, losses: int = 1) -> None:
        self._client, self._losses = client, losses
        self.shown = list[Any]()

    async def call_tool(self, name: str, arguments: Any = None, *, meta: Any = None, **options: Any) -> Any:
        self.shown.append(meta)
        result = await self._client.call_tool(name, arguments, meta=meta, **options)
        if meta and self._losses:
            self._losses -= 1
            raise MCPError(code=REQUEST_TIMEOUT, message="no answer")
        return result


async def test_an_answer_that_is_lost_is_asked_for_again_with_the_same_payment(tmp_path: Path) -> None:
    market = Market(tmp_path, forecast)
    async with market.open(), Client(market.server) as client:
        losing = Losing(client)
        inner = httpx.ASGITransport(app=market.shop.app)
        called = await PayingSession(market.payer, losing, URL, inner=inner).call_tool("work", {"city": "Rome"})
        assert called.result.structured_content == {"result": "sunny in Rome"}
        assert called.purchase is not None
        assert called.purchase.receipt is not None
    unpaid, first, again = losing.shown
    assert (unpaid, first) == (None, again)
    assert market.shop.ledger.charged_total == 3000


@pytest.mark.parametrize("asks", ASKS)
async def test_a_call_that_is_made_again_takes_one_use_of_a_pass(asks: str, tmp_path: Path) -> None:
    """It names itself: also where it is made once more after it failed, by another session of the same journal."""
    runs = list[int]()

    async def work(n: int) -> str:
        runs.append(n)
        return f"run {len(runs)}"

    market = Market(tmp_path, work, asks, receipt=Receipts(uses=10))
    async with market.open(), Client(market.server) as client:
        losing, again = Losing(client, losses=10), Losing(client, losses=1)
        inner = httpx.ASGITransport(app=market.shop.app)
        with pytest.raises(PaymentOutcomeUnknown):
            await PayingSession(market.payer, losing, URL, inner=inner).call_tool("work", {"n": 1})
        paying = PayingSession(market.payer, again, URL, inner=inner)
        called = await paying.call_tool("work", {"n": 1})
        assert called.result.structured_content == {"result": "run 1"}
        (charge,) = await market.shop.charges()
        assert (runs, charge.uses_taken) == ([1], 1)
        assert (await paying.call_tool("work", {"n": 1})).result.structured_content == {"result": "run 2"}
    keys = [meta["rail402/idempotency-key"] for meta in [*losing.shown, *again.shown] if meta]
    assert len(keys) > 4
    assert (len(set(keys[:-1])), len(set(keys))) == (1, 2)


async def test_words_that_look_like_terms_are_none(tmp_path: Path) -> None:
    market = Market(tmp_path, forecast)
    said = CallToolResult(content=[TextContent(text='{"x402Version" is what I write')], is_error=True)
    async with market.open():
        called = await PayingSession(market.payer, Foreign(said), URL).call_tool("work")
        assert called.result.content == said.content


async def test_arguments_that_no_payment_can_be_bound_to_are_named(tmp_path: Path) -> None:
    market = Market(tmp_path, forecast)
    paying = PayingSession(market.payer, Foreign(), URL)
    with pytest.raises(MalformedInput, match="canonical JSON"):
        await paying.call_tool("work", {"n": 2**60})
