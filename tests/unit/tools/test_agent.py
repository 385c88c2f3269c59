"""What a model gets of an answer: bounded, marked as a stranger's, and never a reason to pay."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from rail402.client.budget import Budget
from rail402.client.httpx import TOOL
from rail402.client.rules import Rule
from rail402.errors import BudgetExceeded, ConfigurationError
from rail402.tools.agent import AgentTools
from tests.unit.client.shop import LOST, URL, Market, Pieces


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[Market]:
    opened = Market(tmp_path, "async")
    yield opened
    await opened.close()


Make = Callable[..., AgentTools]


@pytest.fixture
def tools(market: Market) -> Make:
    def make(handler: Any = None, **options: Any) -> AgentTools:
        budget = options.pop("budget", None)
        return AgentTools(
            market.payer(budget=budget), transport=httpx.MockTransport(handler or market.shop.handle), **options
        )

    return make


def answers(status: int = 200, **answer: Any) -> Callable[[httpx.Request], httpx.Response]:
    return lambda request: httpx.Response(status, **answer)


async def test_what_was_bought_and_what_it_cost(tools: Make) -> None:
    async with tools() as opened:
        said = await opened.fetch(URL)
        assert (said["status"], said["paid"]["price"], said["paid"]["outcome"]) == (200, "0.003 USD", "paid")
        assert "Written by the server at https://shop.test" in said["untrusted"]["warning"]
        assert (await opened.receipts(5))["purchases"][0]["record"] == said["paid"]["record"]


def test_callers_that_are_not_async_run_them(tmp_path: Path) -> None:
    market = Market(tmp_path, "async")
    tools = AgentTools(market.payer(), transport=httpx.MockTransport(market.shop.handle))
    with tools as opened:
        said = opened.run(lambda: opened.fetch(URL))
        assert (said["status"], opened.run(opened.budget)["per_hour"]["used"]) == (200, ["0.003 USD"])
        assert opened.in_background
    with pytest.raises(ConfigurationError, match="by `with`"):
        opened.run(opened.budget)


async def test_what_runs_on_this_loop_is_not_run_on_another(tools: Make) -> None:
    async with tools() as opened:
        with pytest.raises(ConfigurationError, match="by `with`"):
            opened.run(opened.budget)


async def test_a_lost_answer_is_unknown_and_the_same_call_goes_on(tools: Make, market: Market) -> None:
    market.shop.script.extend([LOST] * 40)
    async with tools() as opened:
        said = await opened.fetch(URL)
        assert (said["outcome"], said["record"].startswith("rec_")) == ("unknown", True)
        market.shop.script.clear()
        again = await opened.fetch(URL)
        assert (again["status"], again["paid"]["record"]) == (200, said["record"])
    assert market.ledger.count("pay") == 1


async def test_a_long_text_is_cut(tools: Make) -> None:
    async with tools(answers(text="x" * 1_000_000)) as opened:
        said = await opened.fetch(URL)
    assert len(said["untrusted"]["text"]) == 262_144
    assert said["untrusted"]["cut"] == "only the first 262144 bytes are here"


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("application/ld+json", True),
        ("text/html; charset=latin-1", True),
        ("image/png", False),
        ("application/pdf", False),
    ],
)
async def test_only_text_is_shown(tools: Make, kind: str, shown: bool) -> None:
    async with tools(answers(content=b"caf\xe9", headers={"Content-Type": kind})) as opened:
        text = (await opened.fetch(URL))["untrusted"]["text"]
    assert text.startswith("caf") is shown
    assert shown or text == "4 bytes that are no text are left out"


async def test_a_redirect_is_told_and_not_followed(tools: Make) -> None:
    async with tools(answers(status=302, headers={"Location": "https://other.example/"})) as opened:
        said = await opened.fetch(URL)
    assert (said["status"], said["untrusted"]["redirects_to"], said["paid"]) == (302, "https://other.example/", None)


async def test_nothing_of_ours_is_in_a_failure(tools: Make) -> None:
    def fails(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("took too long")

    async with tools(fails) as opened:
        assert await opened.fetch(URL) == {"error": "took too long", "code": "no_answer", "outcome": "not_paid"}


async def test_the_cap_holds_beside_the_budget_and_the_call_s_own_limit(tools: Make) -> None:
    async with tools(cap="0.002 USD") as opened:
        for most in (None, "1 USD"):
            said = await opened.fetch(URL, max_cost=most)
            assert (said["outcome"], "the limit is 0.002 USD per request" in said["error"]) == ("not_paid", True)
        assert "the limit is 0.001 USD" in (await opened.fetch(URL, max_cost="0.001 USD"))["error"]
        assert "0.002 USD" in (await opened.quote(URL))["error"]
        assert (await opened.budget())["per_call"] == "0.002 USD"


def test_a_cap_that_cannot_be_compared_is_refused_at_once(tools: Make) -> None:
    with pytest.raises(ConfigurationError, match="the limits per request are 1000 sat"):
        tools(budget=Budget(per_request="1000 sat"))


async def test_quotes_and_free_answers(tools: Make, market: Market) -> None:
    async with tools() as opened:
        assert (await opened.quote(URL))["price"] == "0.003 USD"
    async with tools(answers(text="free")) as opened:
        assert (await opened.quote(URL))["price"] is None
        assert (await opened.fetch(URL))["paid"] is None
    assert market.ledger.count("pay") == 0


# --- servers that mean harm


def serving(market: Market, **answer: Any) -> Callable[[httpx.Request], Any]:
    """A shop that takes the money and then answers as it likes."""

    async def handle(request: httpx.Request) -> httpx.Response:
        response = await market.shop.handle(request)
        return response if response.status_code == 402 else httpx.Response(**answer)

    return handle


class Trickle(httpx.AsyncByteStream):
    """A body that never ends."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"the beginning"
        await asyncio.Event().wait()


class Breaks(httpx.AsyncByteStream):
    """A body that breaks off."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"the beginning"
        raise httpx.ReadError("broke off")


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_body_grows_no_further_than_what_is_shown(tools: Make, coding: str) -> None:
    def bomb(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Content-Encoding": coding}, stream=packed)

    packed = Pieces((gzip.compress if coding == "gzip" else zlib.compress)(b"x" * 50_000_000))
    async with tools(bomb) as opened:
        tracemalloc.start()
        said = await opened.fetch(URL)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most < 5_000_000
    assert said["untrusted"]["text"] == "x" * 262_144
    assert "cut" in said["untrusted"]


async def test_codings_in_a_row_are_not_undone(tools: Make) -> None:
    body = gzip.compress(gzip.compress(b"text"))

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Content-Encoding": "gzip, gzip"}, stream=Pieces(body))

    async with tools(answer) as opened:
        assert (await opened.fetch(URL))["untrusted"]["text"] == ""


@pytest.mark.parametrize("charset", ["hex", "idna", "punycode", "undefined", "zlib_codec", "unicode_escape", "x"])
async def test_a_charset_is_one_of_texts(tools: Make, charset: str) -> None:
    kind = {"Content-Type": f"text/plain; charset={charset}"}
    async with tools(answers(content=b"caf\\u0041-", headers=kind)) as opened:
        assert (await opened.fetch(URL))["untrusted"]["text"] == "caf\\u0041-"


@pytest.mark.parametrize("stream", [Trickle, Breaks])
async def test_a_body_that_breaks_off_was_paid_for_and_is_asked_for_again(
    tools: Make, market: Market, monkeypatch: pytest.MonkeyPatch, stream: type[httpx.AsyncByteStream]
) -> None:
    monkeypatch.setattr("rail402.tools.agent._TIMEOUT", 0.2)
    async with tools(serving(market, status_code=200, stream=stream())) as opened:
        said = await opened.fetch(URL)
        assert (said["status"], said["paid"]["outcome"], said["untrusted"]["text"]) == (200, "paid", "the beginning")
        assert "the rest" in said["untrusted"]["cut"]
    async with tools() as opened:
        again = await opened.fetch(URL)
        assert again["paid"]["record"] == said["paid"]["record"]
    assert market.ledger.count("pay") == 1


async def test_an_answer_that_trickles_in_is_given_up(tools: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr("rail402.tools.agent._TIMEOUT", 0.05)
    async with tools(never) as opened:
        for tool in (opened.fetch, opened.quote):
            said = await tool(URL)
            assert (said["code"], said["outcome"]) == ("no_answer", "not_paid")


async def test_what_was_paid_for_is_never_said_to_be_unpaid(tools: Make, market: Market) -> None:
    location = {"Location": "https://shop.test:port/"}
    async with tools(serving(market, status_code=302, headers=location)) as opened:
        said = await opened.fetch(URL)
    assert market.ledger.count("pay") == 1
    assert (said["outcome"], said["record"].startswith("rec_")) == ("paid", True)


async def test_a_server_s_cookies_go_nowhere(tools: Make) -> None:
    seen = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("cookie"))
        return httpx.Response(200, headers={"Set-Cookie": "a=b; Path=/"})

    async with tools(handle) as opened:
        await opened.fetch(URL)
        await opened.fetch(URL)
        await opened.fetch(URL, headers={"Cookie": "mine=1"})
    assert seen == [None, None, "mine=1"]


@pytest.mark.parametrize(
    "name",
    ["Host", "Content-Length", "transfer-encoding", "Connection", "TE", "Upgrade", "Expect", "Proxy-Authorization"],
)
async def test_how_a_request_is_carried_is_not_the_model_s_to_say(tools: Make, name: str) -> None:
    asked: list[httpx.Request] = []
    async with tools(lambda request: asked.append(request)) as opened:
        for tool in (opened.fetch, opened.quote):
            said = await tool(URL, method="POST", body="x", headers={name: "internal.example"})
            assert (said["outcome"], name.lower() in said["error"]) == ("not_paid", True)
    assert asked == []


async def test_a_port_is_one(tools: Make) -> None:
    async with tools() as opened:
        for port in (0, 65_536, 99_999):
            assert "url must" in (await opened.fetch(f"https://shop.test:{port}/"))["error"]


async def test_agents_have_limits_of_their_own(tools: Make, market: Market) -> None:
    """Forty calls at once, of two agents and of a caller without a name, in one budget."""
    rules = [Rule(tool="*", per_day="0.009 USD"), Rule(tool="scout", total="0.006 USD")]
    budget = Budget(per_request="0.01 USD", per_hour="1 USD", per_day="1 USD", rules=rules)
    async with tools(tool="scout", budget=budget) as scout:
        payer = scout._payer
        writer = AgentTools(payer, transport=httpx.MockTransport(market.shop.handle), cap="0.01 USD", tool="writer")
        said = await asyncio.gather(
            *(agent.fetch(f"{URL}?n={number}") for number in range(20) for agent in (scout, writer))
        )
        errors = [each["error"] for each in said if "error" in each]
        assert len(errors) == 40 - 2 - 3
        assert all("for the tool scout" in each or "for the tool writer" in each for each in errors)
        async with httpx.AsyncClient(transport=payer.transport(httpx.MockTransport(market.shop.handle))) as client:
            assert (await client.get(f"{URL}?n=99")).status_code == 200, "who has no name is under no such limit"
            with pytest.raises(BudgetExceeded, match=r"of 0\.006 USD in total for the tool scout 0 USD is left"):
                await client.get(f"{URL}?n=100", extensions={TOOL: "scout"})
        used = (await scout.budget())["used_by"]
        assert used == {
            "tool scout": {"total": {"used": ["0.006 USD"], "held": []}},
            "tool writer": {"per_day": {"used": ["0.009 USD"], "held": []}},
        }


async def test_what_cannot_name_a_tool_is_said_at_once(tools: Make) -> None:
    with pytest.raises(ConfigurationError, match="cannot name a tool"):
        tools(tool="two words")
