"""Tools that cost something, called by the client of the protocol's own SDK, in both of its eras."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import pytest
from mcp.client import Client
from mcp.client.session import ClientSession
from mcp.server import MCPServer, Server, ServerRequestContext
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp.types import (
    CallToolRequestParams,
    CallToolResult,
    ClientCapabilities,
    InputRequiredResult,
    ListRootsRequest,
    ListToolsResult,
    TextContent,
    Tool,
)
from pydantic import BaseModel, Field
from starlette.requests import Request

from rail402.dialects import DEFAULT_DIALECTS, Mpp
from rail402.errors import ConfigurationError, StoreError
from rail402.protocol.charge import Delivery, PaymentState
from rail402.protocol.receipt import verify_receipt
from rail402.server.mcp import paid_call_tool, paid_tool
from rail402.server.settings import Receipts
from rail402.testing.fakes import Ending
from tests.unit.server.market import ERAS, FLOWS, Market, forecast, market, text_of
from tests.unit.server.shop import URL, Shop

# --- asking


@pytest.mark.parametrize("mode", ERAS)
async def test_an_unpaid_call_is_answered_for_both_kinds_of_clients(mode: str) -> None:
    selling = market(mode=mode, description="A forecast")
    async with selling.open():
        asked = await selling.call("forecast", city="Rome")
    required = asked["structuredContent"]
    assert (asked["isError"], required["x402Version"]) == (True, 2)
    assert required["resource"] == {"url": "mcp://tool/forecast", "description": "A forecast"}
    challenge = asked["_meta"]["org.paymentauth/payment-required"]["challenges"][0]
    assert (challenge["method"], challenge["request"]["amount"]) == ("fake", "3000")
    assert "digest" not in challenge
    assert selling.progress == []
    assert selling.ledger.charged_total == 0


async def test_a_client_that_announces_mpp_gets_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def capabilities(*_: object) -> ClientCapabilities:
        return ClientCapabilities(experimental={"payment": {"methods": {"fake": {"intents": ["charge"]}}}})

    monkeypatch.setattr(ClientSession, "_build_capabilities", capabilities)
    selling = market(mode="legacy")
    async with selling.open():
        asked = (await selling.call("forecast", city="Rome"))["error"]
        assert (asked["code"], asked["data"]["httpStatus"]) == (-32042, 402)
        paid = await selling.call("forecast", await selling.pay({"error": asked}, mpp=True), city="Rome")
    assert text_of(paid) == "sunny in Rome"


@pytest.mark.parametrize(("asks", "is_error"), [("auto", False), ("x402", False), ("mpp", True)])
async def test_how_an_unpaid_call_is_answered_can_be_set(asks: str, is_error: bool) -> None:
    selling = market(asks=asks)
    async with selling.open():
        asked = await selling.call("forecast", city="Rome")
        assert ("error" in asked) is is_error
        assert text_of(await selling.buy("forecast", mpp=is_error, city="Rome")) == "sunny in Rome"


async def test_what_one_of_them_cannot_say_the_other_one_says() -> None:
    only_mpp = market(dialects=[Mpp()], asks="x402")
    async with only_mpp.open():
        assert (await only_mpp.call("forecast", city="Rome"))["error"]["code"] == -32042
    x402 = [dialect for dialect in DEFAULT_DIALECTS if dialect.name == "x402-v2"]
    only_x402 = market(dialects=x402, asks="mpp")
    async with only_x402.open():
        asked = await only_x402.call("forecast", city="Rome")
        assert asked["structuredContent"]["x402Version"] == 2
        assert "org.paymentauth/payment-required" not in asked["_meta"]


async def test_a_price_that_no_rail_can_charge_is_refused() -> None:
    selling = market(price=lambda arguments: "0.0000001 USD")
    selling.shop.rail._minimum = 10
    async with selling.open():
        answer = await selling.call("forecast", city="Rome")
    assert (answer["isError"], answer["structuredContent"]["code"]) == (True, "method_not_offered")
    assert "accepts" not in answer["structuredContent"]


async def test_the_price_may_depend_on_the_arguments_and_be_nothing() -> None:
    def price(arguments: Any) -> str | None:
        return None if arguments["city"] == "Rome" else f"0.00{len(arguments['city'])} USD"

    selling = market(price=price)
    async with selling.open():
        assert text_of(await selling.call("forecast", city="Rome")) == "sunny in Rome"
        asked = await selling.call("forecast", city="Paris")
        assert asked["structuredContent"]["accepts"][0]["amount"] == "5000"


@pytest.mark.parametrize("said", [True, "yes", "true", 1])
async def test_a_price_is_told_what_the_tool_gets(said: Any) -> None:
    """A schema reads one value in many spellings, and none of them may be the cheap one."""

    async def draw(big: bool, city: str = "Rome") -> str:
        return "big" if big else "small"

    def price(arguments: Any) -> str:
        return "5 USD" if arguments["big"] is True and arguments["city"] == "Rome" else "0.001 USD"

    selling = market(draw, price)
    async with selling.open():
        asked = await selling.call("draw", big=said)
        assert asked["structuredContent"]["accepts"][0]["amount"] == "5000000"
        assert text_of(await selling.buy("draw", big=said)) == "big"


async def test_what_came_too_late_for_its_use_of_a_pass_is_withheld() -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def work(n: int) -> str:
        if n == 1:
            began.set()
            await go_on.wait()
        return "done"

    selling = market(work, receipt=Receipts(uses=2))
    async with selling.open():
        proof = await selling.quote("work", n=0)
        await selling.call("work", proof, n=0)
        late = asyncio.create_task(selling.call("work", proof, n=1))
        await began.wait()
        selling.shop.clock.advance(120)
        assert text_of(await selling.call("work", proof, n=2)) == "done"
        store = selling.gate.services().store

        async def down(*_: Any, **__: Any) -> Any:
            raise StoreError("down")

        store.renew_use = down  # type: ignore[method-assign]
        go_on.set()
        answer = await late
    assert answer["structuredContent"]["code"] == "payment_in_progress"


# --- paid


@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("mpp", [False, True])
async def test_a_paid_call_is_answered_with_its_receipts(mode: str, flow: str, mpp: bool) -> None:
    selling = market(mode=mode, flow=flow)
    async with selling.open():
        paid = await selling.buy("forecast", mpp=mpp, city="Rome")
        (charge,) = await selling.shop.charges()
        keys = selling.gate.services().receipt_keys.jwks
    assert (paid["isError"], text_of(paid)) == (False, "sunny in Rome")
    assert paid["structuredContent"] == {"result": "sunny in Rome"}
    assert selling.progress == [(1, 2, "looking")]
    assert selling.ledger.charged_total == 3000
    meta = paid["_meta"]
    assert meta["rail402/charge"] == {"id": charge.id, "payment": "settled"}
    receipt = verify_receipt(meta["rail402/receipt"], keys, issuer=URL)
    assert (receipt.method, receipt.resource, receipt.charge) == ("tools/call", f"{URL}/tool/forecast", charge.id)
    said = meta["org.paymentauth/receipt"] if mpp else meta["x402/payment-response"]
    assert (said["reference"] if mpp else said["transaction"]) == charge.transaction
    assert ("x402/payment-response" in meta) is not mpp
    assert (charge.dialect, charge.delivery) == ("mpp" if mpp else "x402-v2", Delivery.STORED)


@pytest.mark.parametrize("mpp", [False, True])
@pytest.mark.parametrize("flow", FLOWS)
async def test_the_same_payment_gets_the_same_answer_and_the_tool_runs_once(flow: str, mpp: bool) -> None:
    selling = market(flow=flow)
    async with selling.open():
        proof = await selling.quote("forecast", mpp=mpp, city="Rome")
        answers = await asyncio.gather(*(selling.call("forecast", proof, city="Rome") for _ in range(5)))
        again = await selling.call("forecast", proof, city="Rome")
    assert {text_of(answer) for answer in [*answers, again]} == {"sunny in Rome"}
    assert sum("rail402/replayed" in answer["_meta"] for answer in answers) == 4
    assert again["_meta"]["rail402/replayed"] is True
    assert selling.progress == [(1, 2, "looking")]
    assert (selling.ledger.charged_total, selling.ledger.count("settle")) == (3000, 1)


@pytest.mark.parametrize("mpp", [False, True])
async def test_a_payment_is_good_for_these_arguments_of_this_tool_only(mpp: bool) -> None:
    async def map_of(city: str) -> str:
        return "a map"

    selling = market()
    selling.sell(map_of)
    async with selling.open():
        proof = await selling.quote("forecast", mpp=mpp, city="Rome")
        for tool, city in [("forecast", "Paris"), ("map_of", "Rome")]:
            answer = await selling.call(tool, proof, city=city)
            if mpp:
                assert answer["error"]["code"] == -32043
                assert answer["error"]["data"]["problem"]["type"].endswith("/invalid-challenge")
                assert answer["error"]["data"]["challenges"]
            else:
                assert answer["structuredContent"]["accepts"]
        assert selling.ledger.charged_total == 0
        assert text_of(await selling.call("forecast", proof, city="Rome")) == "sunny in Rome"


async def test_one_server_s_payment_is_not_good_at_another_one_that_shares_its_secrets() -> None:
    options = {"secret": "one secret for both, of 32 bytes at least", "receipt_key": None}
    here, there = market(**options), market(**options)
    there.gate._settings = type(there.gate._settings)(
        public_url="https://other.example", reconcile_seconds=0, wait_seconds=1
    )
    async with here.open(), there.open():
        proof = await here.quote("forecast", city="Rome")
        assert (await there.call("forecast", proof, city="Rome"))["structuredContent"]["accepts"]
    assert there.ledger.charged_total == 0


async def test_two_tools_of_one_name_cannot_have_two_prices_in_one_gate() -> None:
    cheap = market()
    dear = Market(server=MCPServer("dear", log_level="ERROR"))
    dear.gate = cheap.gate
    dear.sell(forecast, "0.0030 USD")  # as for another session
    for price in ("5 USD", lambda arguments: "0.003 USD"):
        with pytest.raises(ConfigurationError, match="called forecast and have two prices"):
            dear.sell(forecast, price)
    with pytest.raises(ConfigurationError, match="give each server a gate"):
        paid_call_tool(cheap.gate, {"forecast": cheap.gate.rule("5 USD")})


async def test_a_tool_called_by_another_tool_is_paid_for_by_itself() -> None:
    async def inner(city: str) -> str:
        return "dear"

    async def outer(city: str, context: Context[Any, Any]) -> str:
        result = await context.mcp_server.call_tool("inner", {"city": city}, context)
        assert isinstance(result, CallToolResult)
        return "cheap" if result.is_error else "stolen"

    selling = market(outer, "0.001 USD")
    selling.sell(inner, "5 USD")
    async with selling.open():
        assert text_of(await selling.buy("outer", city="Rome")) == "cheap"
    assert selling.ledger.charged_total == 1000


async def test_one_payment_does_not_pay_for_two_tools_of_one_call() -> None:
    async def cheap(city: str) -> str:
        return "cheap"

    async def dear(city: str) -> str:
        return "dear"

    async def both(city: str, context: Context[Any, Any]) -> list[str]:
        results = [await context.mcp_server.call_tool(name, {"city": city}, context) for name in ("cheap", "dear")]
        return ["asks" if result.is_error else str(result.structured_content) for result in results]  # type: ignore[union-attr]

    selling = market(cheap, "0.001 USD")
    selling.sell(dear, "5 USD")
    selling.server.tool()(both)

    async def ask(city: str, context: Context[Any, Any]) -> Any:
        return await context.mcp_server.call_tool("cheap", {"city": city}, context)

    async with selling.open():
        selling.server.remove_tool("both")
        selling.server.tool(name="both")(ask)
        proof = await selling.quote("both", city="Rome")
        selling.server.remove_tool("both")
        selling.server.tool()(both)
        answer = await selling.call("both", proof, city="Rome")
    assert answer["structuredContent"] == {"result": ["{'result': 'cheap'}", "asks"]}
    assert selling.ledger.charged_total == 1000


async def test_a_login_must_come_again_where_the_first_call_had_one() -> None:
    who = "alice"

    async def logged_in(context: ServerRequestContext[Any, Any], call_next: Any) -> Any:
        headers = [(b"authorization", f"Bearer {who}".encode())]
        return await call_next(replace(context, request=Request({"type": "http", "headers": headers})))

    selling = market(server=MCPServer("market", log_level="ERROR", middleware=[logged_in]))
    async with selling.open():
        proof = await selling.quote("forecast", city="Rome")
        await selling.call("forecast", proof, city="Rome")
        who = "mallory"
        refused = await selling.call("forecast", proof, city="Rome")
        assert (refused["isError"], refused["structuredContent"]["code"]) == (True, "replay_not_proven")
        who = "alice"
        assert text_of(await selling.call("forecast", proof, city="Rome")) == "sunny in Rome"


async def test_two_payments_in_one_call_are_refused() -> None:
    selling = market()
    async with selling.open():
        asked = await selling.call("forecast", city="Rome")
        both = {**await selling.pay(asked), **await selling.pay(asked, mpp=True)}
        answer = await selling.call("forecast", both, city="Rome")
    assert answer["error"]["code"] == -32602
    assert answer["error"]["data"]["problem"]["title"] == "The request carries two different payments"
    assert selling.ledger.charged_total == 0


@pytest.mark.parametrize(
    ("meta", "code"),
    [
        ({"x402/payment": 1}, "malformed_payment"),
        ({"x402/payment": "{"}, "malformed_payment"),
        ({"x402/payment": {"x402Version": 1}}, "malformed_payment"),
        ({"org.paymentauth/credential": "x"}, -32602),
    ],
)
async def test_what_is_no_payment_is_refused_without_asking_for_another(meta: Any, code: str | int) -> None:
    selling = market()
    async with selling.open():
        answer = await selling.call("forecast", meta, city="Rome")
    said = answer["error"]["code"] if "error" in answer else answer["structuredContent"]["code"]
    assert said == code
    assert selling.progress == []


async def test_a_pass_is_good_for_several_calls() -> None:
    selling = market(receipt=Receipts(uses=2))
    async with selling.open():
        proof = await selling.quote("forecast", city="Rome")
        answers = [await selling.call("forecast", proof, city=city) for city in ("Rome", "Paris", "Oslo")]
    assert [text_of(answer) for answer in answers[:2]] == ["sunny in Rome", "sunny in Paris"]
    assert answers[2]["structuredContent"]["accepts"]
    assert selling.ledger.charged_total == 3000


async def test_a_failed_use_of_a_pass_is_given_back() -> None:
    failing = [False, True, False]

    async def work(n: int) -> str:
        if failing[n]:
            raise ToolError("not now")
        return "done"

    selling = market(work, receipt=Receipts(uses=2))
    async with selling.open():
        proof = await selling.quote("work", n=0)
        answers = [await selling.call("work", proof, n=n) for n in range(3)]
    assert [text_of(answer) for answer in answers] == ["done", "Error executing tool work: not now", "done"]


# --- tools that fail


def _fails(how: str) -> Callable[..., Any]:
    async def work(n: int) -> CallToolResult:
        match how:
            case "tool error":
                raise ToolError("no such city")
            case "crash":
                raise ZeroDivisionError("a secret of the server")
            case "protocol error":
                raise MCPError(code=-32000, message="my own")
            case _:
                return CallToolResult(content=[TextContent(text="no such city")], is_error=True)

    return work


FAILURES = {
    "tool error": "Error executing tool work: no such city",
    "crash": "Error executing tool work",
    "result": "no such city",
    "protocol error": None,
}


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("how", FAILURES)
async def test_a_tool_that_fails_is_not_paid_for(how: str, flow: str, caplog: pytest.LogCaptureFixture) -> None:
    selling = market(_fails(how), flow=flow)
    async with selling.open():
        with caplog.at_level(logging.CRITICAL):
            answer = await selling.buy("work", n=1)
        (charge,) = await selling.shop.charges()
    assert selling.ledger.charged_total == 0
    undone = PaymentState.REFUNDED if flow == "upfront" else PaymentState.RELEASED
    assert (charge.payment, charge.delivery) == (undone, Delivery.FAILED)
    if how == "protocol error":
        assert (answer["error"]["code"], answer["error"]["message"]) == (-32000, "my own")
    else:
        assert (answer["isError"], text_of(answer)) == (True, FAILURES[how])
        assert answer["_meta"]["rail402/charge"] == {"id": charge.id, "payment": undone}
        assert "rail402/receipt" not in answer["_meta"]


async def test_what_was_given_free_may_be_paid_with_once_more() -> None:
    failing = [True]

    async def work(n: int) -> str:
        if failing:
            raise ToolError(f"try again: {failing.pop()}")
        return "done"

    selling = market(work)
    async with selling.open():
        proof = await selling.quote("work", n=1)
        assert (await selling.call("work", proof, n=1))["isError"]
        assert text_of(await selling.call("work", proof, n=1)) == "done"
    assert selling.ledger.charged_total == 3000


@pytest.mark.parametrize("flow", FLOWS)
async def test_arguments_that_do_not_fit_are_refused_before_anybody_pays(flow: str) -> None:
    selling = market(flow=flow)
    async with selling.open():
        proof = await selling.quote("forecast", city="Rome")
        answer = await selling.call("forecast", proof, town="Rome")
        assert answer["isError"]
        assert "validation error" in text_of(answer)
        assert await selling.shop.charges() == []


@pytest.mark.parametrize(("value", "detail"), [(2**60, "canonical JSON"), ("x" * 3000, "longer than 2000 bytes")])
async def test_arguments_that_nothing_can_be_bound_to_are_refused(value: Any, detail: str) -> None:
    async def work(n: Any) -> str:
        return "done"

    selling = market(work, max_body=2000)
    async with selling.open():
        answer = await selling.call("work", n=value)
    assert answer["isError"]
    assert detail in text_of(answer)


async def test_a_tool_that_asks_its_client_first_is_paid_for_when_it_has_answered() -> None:
    async def work(n: int, context: Context[Any, Any]) -> str | InputRequiredResult:
        if context.input_responses is None:
            return InputRequiredResult(input_requests={"roots": ListRootsRequest()}, request_state="half done")
        return f"{context.request_state}, now done"

    async def list_roots(_: object) -> Any:
        (charge,) = await selling.shop.charges()
        assert charge.payment is PaymentState.RELEASED
        from mcp.types import ListRootsResult

        return ListRootsResult(roots=[])

    selling = market(work)
    async with selling.gate, Client(selling.server, list_roots_callback=list_roots) as selling.client:
        paid = await selling.buy("work", n=1)
    assert text_of(paid) == "half done, now done"
    assert selling.ledger.charged_total == 3000


@pytest.mark.parametrize("flow", FLOWS)
async def test_however_often_a_tool_asks_it_is_paid_for_once(flow: str) -> None:
    rounds = []

    async def work(n: int, context: Context[Any, Any]) -> str | InputRequiredResult:
        rounds.append(n)
        asks = InputRequiredResult(input_requests={"roots": ListRootsRequest()}, request_state=f"{len(rounds)}")
        return asks if len(rounds) < 4 else "done"

    selling = market(work, flow=flow)
    async with selling.open():
        proof, session = await selling.quote("work", n=1), selling.client.session
        for _ in range(3):
            asked = await session.call_tool("work", {"n": 1}, meta=proof, allow_input_required=True)
            assert isinstance(asked, InputRequiredResult)
        assert text_of(await selling.call("work", proof, n=1)) == "done"
        assert (await selling.call("work", proof, n=1))["_meta"]["rail402/replayed"]
        (charge,) = await selling.shop.charges()
    assert (charge.payment, charge.refund_receipt, len(rounds)) == (PaymentState.SETTLED, None, 4)
    assert selling.ledger.charged_total == 3000


# --- what is lost


@pytest.mark.parametrize("mpp", [False, True])
async def test_an_unknown_outcome_is_never_answered_with_a_challenge(mpp: bool) -> None:
    selling = market()
    async with selling.open():
        proof = await selling.quote("forecast", mpp=mpp, city="Rome")
        selling.ledger.script("settle", Ending.UNKNOWN_DONE)
        for _ in range(2):
            answer = await selling.call("forecast", proof, city="Rome")
            (charge,) = await selling.shop.charges()
            assert charge.payment is PaymentState.UNKNOWN
            if mpp:
                data = answer["error"]["data"]
                assert (answer["error"]["code"], data["httpStatus"]) == (-32603, 503)
                assert "challenges" not in data
            else:
                data = answer["structuredContent"]
                assert (answer["isError"], data["status"]) == (True, 503)
                assert "accepts" not in data
                data |= answer["_meta"]
            assert data["retryAfter"] > 0
            assert data["rail402/charge"] == {"id": charge.id, "payment": "unknown"}
        assert await selling.gate.reconcile() == 1
        paid = await selling.call("forecast", proof, city="Rome")
    assert (text_of(paid), paid["_meta"]["rail402/replayed"]) == ("sunny in Rome", True)
    assert selling.progress == [(1, 2, "looking")]
    assert selling.ledger.charged_total == 3000


async def test_a_store_that_is_down_serves_and_charges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(*_: object, **__: object) -> None:
        raise StoreError("down")

    selling = market()
    async with selling.open():
        proof = await selling.quote("forecast", city="Rome")
        with monkeypatch.context() as patched:
            patched.setattr(selling.gate.services().store, "claim", down)
            answer = await selling.call("forecast", proof, city="Rome")
        assert (answer["structuredContent"]["status"], selling.progress) == (503, [])
        assert text_of(await selling.call("forecast", proof, city="Rome")) == "sunny in Rome"


@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("flow", FLOWS)
async def test_a_call_that_is_cancelled_at_work_is_not_paid_for(flow: str, mode: str) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work(n: int) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    selling = market(work, flow=flow, mode=mode)
    async with selling.open():
        proof = await selling.quote("work", n=1)
        calling = asyncio.create_task(selling.call("work", proof, n=1))
        await begun.wait()
        calling.cancel()
        await asyncio.wait({calling})
        await ended.wait()
        store, (charge,) = selling.gate.services().store, await selling.shop.charges()
        async with asyncio.timeout(5):
            while charge.payment not in (PaymentState.RELEASED, PaymentState.REFUNDED):
                charge = await store.wait(charge, timeout=1) or charge
    assert charge.payment is (PaymentState.REFUNDED if flow == "upfront" else PaymentState.RELEASED)
    assert charge.delivery is Delivery.FAILED
    assert selling.ledger.charged_total == 0


@pytest.mark.parametrize("mode", ERAS)
async def test_a_call_that_is_cancelled_while_it_settles_keeps_its_answer(mode: str) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def before(name: str, key: str) -> None:
        if name == "settle":
            reached.set()
            await go_on.wait()

    selling = market(mode=mode)
    async with selling.open():
        proof = await selling.quote("forecast", city="Rome")
        selling.ledger.before = before
        calling = asyncio.create_task(selling.call("forecast", proof, city="Rome"))
        await reached.wait()
        calling.cancel()
        await asyncio.wait({calling})
        go_on.set()
        paid = await selling.call("forecast", proof, city="Rome")
    assert (text_of(paid), paid["_meta"]["rail402/replayed"]) == ("sunny in Rome", True)
    assert (selling.ledger.charged_total, len(selling.progress)) == (3000, 1)


# --- what a tool may look like


class Weather(BaseModel):
    sky: str


async def test_tools_keep_their_schema_and_may_be_of_any_kind() -> None:
    def add(a: Annotated[int, Field(description="the first")], b: int = 2) -> int:
        """Add up, in a thread."""
        return a + b

    async def look(context: Context[Any, Any], city: str) -> Weather:
        return Weather(sky=f"{city}: clear")

    free, selling = MCPServer("free", log_level="ERROR"), Market()
    for tool in (add, look, forecast):
        free.tool()(tool)
        selling.sell(tool)
    async with selling.open(), Client(free) as client:
        theirs, ours = await client.list_tools(), await selling.client.list_tools()
        assert [tool.model_dump() for tool in ours.tools] == [tool.model_dump() for tool in theirs.tools]
        assert (await selling.buy("add", a=1))["structuredContent"] == {"result": 3}
        assert (await selling.buy("look", city="Rome"))["structuredContent"] == {"sky": "Rome: clear"}


async def test_a_tool_s_own_meta_is_kept_and_cannot_pass_for_ours() -> None:
    async def work(n: int) -> CallToolResult:
        return CallToolResult(
            content=[TextContent(text="done")], _meta={"my/own": 1, "rail402/receipt": "forged", "rail402/charge": {}}
        )

    selling = market(work)
    async with selling.open():
        proof = await selling.quote("work", n=1)
        answers = [await selling.call("work", proof, n=1) for _ in range(2)]
        (charge,) = await selling.shop.charges()
    for meta in (answer["_meta"] for answer in answers):
        assert meta["my/own"] == 1
        assert (meta["rail402/receipt"], meta["rail402/charge"]["id"]) == (charge.receipt, charge.id)


async def test_an_answer_too_long_to_keep_is_sent_all_the_same() -> None:
    async def work(n: int) -> str:
        return "x" * 500

    selling = market(work, max_stored=100)
    async with selling.open():
        paid = await selling.buy("work", n=1)
        (charge,) = await selling.shop.charges()
    assert text_of(paid) == "x" * 500
    assert (charge.payment, charge.delivery) == (PaymentState.SETTLED, Delivery.STREAMED)


async def test_a_name_that_no_url_has_is_escaped() -> None:
    selling = Market()
    selling.server.tool(name="for.cast-1")(paid_tool(selling.gate, "0.003 USD")(forecast))
    async with selling.open():
        asked = await selling.call("for.cast-1", city="Rome")
        assert asked["structuredContent"]["resource"]["url"] == "mcp://tool/for.cast-1"
        assert text_of(await selling.buy("for.cast-1", city="Rome")) == "sunny in Rome"


async def test_the_gate_starts_with_the_first_call() -> None:
    selling = market()
    async with Client(selling.server) as selling.client:
        assert not selling.gate.started
        assert text_of(await selling.buy("forecast", city="Rome")) == "sunny in Rome"
        await selling.gate.close()


def test_settings_that_are_wrong_are_named() -> None:
    gate = Shop(install=False).gate
    with pytest.raises(ConfigurationError, match="asks='both' must be one of auto, x402, mpp"):
        paid_tool(gate, "1 USD", asks="both")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="there is no rail"):
        paid_tool(gate, "1 USD", rails=["gold"])
    l402 = [dialect for dialect in DEFAULT_DIALECTS if dialect.name == "l402"]
    with pytest.raises(ConfigurationError, match="speaks neither"):
        paid_call_tool(Shop(install=False, dialects=l402).gate, {})


async def test_a_price_that_nobody_could_pay_is_found_at_the_start() -> None:
    selling = market(price="3 EUR")
    with pytest.raises(ConfigurationError, match="no rate leads from 3 EUR"):
        await selling.gate.start()


# --- the low-level server


def low_level(**options: Any) -> Market:
    """A server of the low-level SDK, with a tool that costs something, one that fails, and a free one."""
    selling = Market(server=object(), **options)
    rule = selling.gate.rule("0.003 USD")

    async def list_tools(*_: object) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name=name, input_schema={"type": "object"}) for name in ("paid", "free")])

    @paid_call_tool(selling.gate, {"paid": rule, "broken": rule})
    async def call_tool(context: ServerRequestContext[Any, Any], params: CallToolRequestParams) -> CallToolResult:
        if params.name == "broken":
            raise MCPError(code=-32001, message="broken")
        await context.session.report_progress(1, 1, params.name)
        return CallToolResult(content=[TextContent(text=f"{params.name} {params.arguments}")])

    selling.server = Server("low", on_call_tool=call_tool, on_list_tools=list_tools)
    return selling


@pytest.mark.parametrize("mode", ERAS)
async def test_the_low_level_server_sells_by_name(mode: str) -> None:
    selling = low_level(mode=mode)
    async with selling.open():
        assert text_of(await selling.call("free", n=1)) == "free {'n': 1}"
        proof = await selling.quote("paid", mpp=True, n=1)
        for _ in range(2):
            assert text_of(await selling.call("paid", proof, n=1)) == "paid {'n': 1}"
        assert (await selling.buy("broken", n=1))["error"]["code"] == -32001
    assert selling.progress == [(1, 1, "free"), (1, 1, "paid")]
    assert selling.ledger.charged_total == 3000


async def test_a_call_without_arguments_has_none() -> None:
    selling = low_level()
    async with selling.open():
        asked = await selling.client.call_tool("paid")
        proof = await selling.pay(asked.model_dump(by_alias=True, exclude_none=True))
        paid = await selling.client.call_tool("paid", {}, meta=proof)  # type: ignore[arg-type]
        assert text_of(paid.model_dump()) == "paid {}"
