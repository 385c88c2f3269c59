"""The repeat of a call on a pass, which takes no further use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from mcp.server.mcpserver.exceptions import ToolError

from rail402.server.settings import Receipts
from tests.unit.server.market import ERAS, FLOWS, Market, market, text_of

KEY = "rail402/idempotency-key"


def counting(*endings: Callable[[], Any]) -> tuple[Callable[..., Any], list[int]]:
    """Return a tool that counts its runs and ends them as it is told, and what it has counted."""
    runs, ends = list[int](), iter(endings)

    async def work(n: int) -> str:
        runs.append(n)
        await next(ends, _well)()
        return f"run {len(runs)}"

    return work, runs


async def _well() -> None: ...


async def _badly() -> None:
    raise ToolError("not now")


@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("mpp", [False, True])
@pytest.mark.parametrize("flow", FLOWS)
async def test_a_repeated_key_replays_without_taking_a_use(flow: str, mpp: bool, mode: Any) -> None:
    work, runs = counting()
    selling = market(work, flow=flow, mode=mode, receipt=Receipts(uses=3))
    async with selling.open():
        proof = await selling.quote("work", mpp=mpp, n=1)
        for number, key in enumerate(("one", "two", "three"), start=1):
            for repeat in range(3):
                answer = await selling.call("work", {**proof, KEY: key}, n=1)
                assert text_of(answer) == f"run {number}"
                assert answer["_meta"].get("rail402/replayed", False) is (repeat > 0)
                assert answer["_meta"]["rail402/receipt"]
        fourth = await selling.call("work", {**proof, KEY: "four"}, n=1)
        assert fourth["error"]["data"]["challenges"] if mpp else fourth["structuredContent"]["accepts"]
        assert text_of(await selling.call("work", {**proof, KEY: "one"}, n=1)) == "run 1"
        (charge,) = await selling.shop.charges()
    assert (len(runs), charge.uses_taken, selling.ledger.charged_total) == (3, 3, 3000)


async def test_a_key_is_good_for_its_own_call_only() -> None:
    work, runs = counting()
    selling = market(work, receipt=Receipts(uses=3))
    async with selling.open():
        proof = {**await selling.quote("work", n=1), KEY: "k"}
        said = [text_of(await selling.call("work", proof, n=n)) for n in (1, 2, 1, 2)]
    assert (said, runs) == (["run 1", "run 2", "run 1", "run 2"], [1, 2])


async def test_without_a_key_each_call_takes_a_use() -> None:
    work, runs = counting()
    selling = market(work, receipt=Receipts(uses=2))
    async with selling.open():
        proof = await selling.quote("work", n=1)
        answers = [await selling.call("work", proof, n=1) for _ in range(3)]
    assert ([text_of(answer) for answer in answers[:2]], len(runs)) == (["run 1", "run 2"], 2)
    assert answers[2]["structuredContent"]["accepts"]


async def test_a_failed_use_is_not_replayed() -> None:
    work, runs = counting(_badly, _well, _badly, _well)
    selling = market(work, receipt=Receipts(uses=2))
    async with selling.open():
        proof = await selling.quote("work", n=1)
        answers = [await selling.call("work", {**proof, KEY: key}, n=1) for key in ("1", "1", "2", "2")]
    assert [answer["isError"] for answer in answers] == [True, False, True, False]
    assert len(runs) == 4


@pytest.mark.parametrize("uses_before", [0, 1])
async def test_a_repeat_while_the_first_is_at_work_runs_nothing(uses_before: int) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> None:
        began.set()
        await go_on.wait()

    work, runs = counting(*[_well] * uses_before, slowly)
    selling = market(work, receipt=Receipts(uses=5))
    async with selling.open():
        proof = await selling.quote("work", n=1)
        for _ in range(uses_before):
            await selling.call("work", {**proof, KEY: "before"}, n=1)
        calling = asyncio.create_task(selling.call("work", {**proof, KEY: "k"}, n=1))
        await began.wait()
        repeat = await selling.call("work", {**proof, KEY: "k"}, n=1)
        assert repeat["structuredContent"]["code"] == "payment_in_progress"
        go_on.set()
        first = text_of(await calling)
        assert text_of(await selling.call("work", {**proof, KEY: "k"}, n=1)) == first
    assert len(runs) == uses_before + 1


@pytest.mark.parametrize("key", [1, ["k"], {}, True, "a\nb", "\x00"])
async def test_a_key_that_is_no_text_is_refused_before_anything_is_claimed(key: Any) -> None:
    work, runs = counting()
    selling = market(work)
    async with selling.open():
        proof = await selling.quote("work", n=1)
        answer = await selling.call("work", {**proof, KEY: key}, n=1)
        assert answer["isError"]
        assert "rail402/idempotency-key: must be a printable text" in text_of(answer)
        assert (await selling.shop.charges(), runs) == ([], [])


async def test_one_payment_for_one_call_is_replayed_whatever_its_key() -> None:
    work, runs = counting()
    selling: Market = market(work)
    async with selling.open():
        proof = await selling.quote("work", n=1)
        said = [text_of(await selling.call("work", {**proof, KEY: key}, n=1)) for key in ("a", "b", "a")]
    assert (said, runs) == (["run 1"] * 3, [1])
