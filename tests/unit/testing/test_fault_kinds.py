"""Each fault: what the caller sees, and how often the service has carried the request out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx
import pytest

from rail402.testing.faults import (
    ANSWER_LOST,
    FAULTS,
    Fault,
    FaultyTransport,
    clock_jump,
    delayed,
    json_rpc_methods,
    members_of,
    too_many_requests,
    with_other_type,
    without,
)
from rail402.testing.virtual_time import VirtualTimeLoop

T = TypeVar("T")

NEVER = {
    "connection refused": httpx.ConnectError,
    "no such host": httpx.ConnectError,
    "certificate expired": httpx.ConnectError,
    "connect timeout": httpx.ConnectTimeout,
    "timeout, never arrived": httpx.ReadTimeout,
    "reset, never arrived": httpx.WriteError,
}
AFTER = {
    "answer lost": httpx.ReadTimeout,
    "reset, carried out": httpx.ReadError,
    "closed, carried out": httpx.RemoteProtocolError,
    "body stalls": httpx.ReadTimeout,
    "body cut off": httpx.RemoteProtocolError,
}
ANSWERS = {
    "500 JSON": 500,
    "502 page": 502,
    "404 page": 404,
    "403 JSON": 403,
    "200 page": 200,
    "redirect to another host": 302,
    "429, Retry-After 2": 429,
}
TRUTH = {"id": "pay_1", "amount": 5, "parts": [{"at": 1}, {"at": 2}]}


class World:
    """A service that carries things out, and what a caller of it sees."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.jumps: list[int] = []
        self.wire = FaultyTransport(httpx.MockTransport(self._serve), jump=self.jumps.append)
        self.client = httpx.AsyncClient(transport=self.wire, base_url="https://service.example", timeout=7)

    def _serve(self, request: httpx.Request) -> httpx.Response:
        self.done.append(request.url.path)
        return httpx.Response(200, json=TRUTH | {"path": request.url.path})

    async def call(self, path: str = "/pay/1") -> httpx.Response:
        return await self.client.post(path, headers={"Authorization": "Bearer hush"}, json={"q": 1})

    async def spoilt(self, fault: Fault | str) -> httpx.Response:
        self.wire.faults.on(FAULTS[fault] if isinstance(fault, str) else fault)
        return await self.call()


def virtually(main: Callable[[World], Awaitable[T]]) -> tuple[T, World, float]:
    """Run it where waiting takes no time; also return how long it would have taken."""

    async def run() -> tuple[T, World, float]:
        world = World()
        async with world.client:
            result = await main(world)
        return result, world, asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(run())


@pytest.mark.parametrize("name", [*NEVER, *AFTER])
def test_no_answer(name: str) -> None:
    async def main(world: World) -> None:
        with pytest.raises((NEVER | AFTER)[name]):
            await world.spoilt(name)

    _, world, seconds = virtually(main)
    assert len(world.done) == (0 if name in NEVER else 1)
    assert (seconds >= 7) is ("timeout" in name or name in ("answer lost", "body stalls"))


@pytest.mark.parametrize("carried_out", [False, True])
@pytest.mark.parametrize("name", ANSWERS)
def test_another_answer(name: str, carried_out: bool) -> None:
    response, world, _ = virtually(lambda world: world.spoilt(name + (", carried out" if carried_out else "")))
    assert response.status_code == ANSWERS[name]
    assert len(world.done) == carried_out
    if name.endswith(("page", "JSON")) or response.status_code == 429:
        assert "Bearer hush" in response.text  # it repeats what it got
    if response.status_code == 302:
        assert response.headers["Location"].startswith("https://elsewhere.example/")


def test_an_empty_body() -> None:
    response, world, _ = virtually(lambda world: world.spoilt("empty body, carried out"))
    assert (response.status_code, response.content, len(world.done)) == (200, b"", 1)


@pytest.mark.parametrize("name", ["2", "a date", "absurd"])
def test_too_many_requests(name: str) -> None:
    response, world, _ = virtually(lambda world: world.spoilt(f"429, Retry-After {name}"))
    assert (response.status_code, world.done) == (429, [])
    assert response.headers["Retry-After"]
    mine, _, _ = virtually(lambda world: world.spoilt(too_many_requests("soon")))
    assert mine.headers["Retry-After"] == "soon"


def test_a_late_request_arrives_after_its_caller_has_gone() -> None:
    async def main(world: World) -> list[int]:
        with pytest.raises(httpx.ReadTimeout):
            await world.spoilt(delayed(90))
        before = len(world.done)
        await asyncio.sleep(91)
        return [before, len(world.done)]

    assert virtually(main)[0] == [0, 1]


@pytest.mark.parametrize(("name", "least", "most"), [("slow body", 10, 30), ("endless body", 100, 1000)])
def test_a_slow_body_takes_long_and_never_long_enough_for_a_read_timeout(name: str, least: int, most: int) -> None:
    response, world, seconds = virtually(lambda world: world.spoilt(name))
    assert response.json()["id"] == "pay_1"
    assert least < seconds < most
    assert len(world.done) == 1


def test_truncated_json() -> None:
    response, _, _ = virtually(lambda world: world.spoilt("truncated JSON"))
    with pytest.raises(json.JSONDecodeError):
        response.json()


def test_a_huge_body_goes_on_and_on() -> None:
    async def main(world: World) -> int:
        world.wire.faults.on(FAULTS["huge body"])
        size = 0
        async with world.client.stream("GET", "/") as response:
            async for piece in response.aiter_bytes():
                size += len(piece)
                if size > 20 << 20:
                    break
        return size

    assert virtually(main)[0] > 20 << 20


@pytest.mark.parametrize(("name", "body"), [("null", b"null"), ("empty object", b"{}")])
def test_other_documents(name: str, body: bytes) -> None:
    response, world, _ = virtually(lambda world: world.spoilt(name))
    assert (response.content, len(world.done)) == (body, 1)


def test_delivered_twice() -> None:
    _, world, _ = virtually(lambda world: world.spoilt("delivered twice"))
    assert world.done == ["/pay/1", "/pay/1"]


def test_the_answer_of_earlier_and_the_answer_to_another_call() -> None:
    async def main(world: World) -> list[str]:
        for path in ("/pay/9", "/unlike", "/pay/1"):
            await world.call(path)
        mixed = await world.spoilt("answer to another call")
        stale = await world.spoilt("answer of earlier")
        return [mixed.json()["path"], stale.json()["path"]]

    (mixed, stale), world, _ = virtually(main)
    assert (mixed, stale) == ("/pay/9", "/pay/9")  # of a like call; and what this very call was answered last
    assert world.done == ["/pay/9", "/unlike", "/pay/1", "/pay/1", "/pay/1"]


def test_where_there_was_no_other_call_the_answer_is_the_usual_one() -> None:
    response, _, _ = virtually(lambda world: world.spoilt("answer to another call"))
    assert response.json()["path"] == "/pay/1"


def test_a_clock_that_jumps() -> None:
    response, world, _ = virtually(lambda world: world.spoilt(clock_jump(-90)))
    assert (response.status_code, world.jumps) == (200, [-90])


def test_members_are_listed_left_out_and_changed() -> None:
    assert members_of(TRUTH) == ["id", "amount", "parts", "parts.0", "parts.0.at", "parts.1", "parts.1.at"]
    assert members_of(TRUTH, 1) == ["id", "amount", "parts"]
    assert members_of("text") == members_of([]) == []

    async def main(world: World) -> list[Any]:
        faults = [without("id"), without("parts.1.at"), with_other_type("id"), with_other_type("amount"), without("no")]
        return [(await world.spoilt(fault)).json() for fault in faults]

    said, _, _ = virtually(main)
    whole = TRUTH | {"path": "/pay/1"}
    assert "id" not in said[0]
    assert said[1]["parts"] == [{"at": 1}, {}]
    assert said[2]["id"] == {"unexpected": True}
    assert said[3]["amount"] == "unexpected"
    assert said[4] == whole


def test_json_rpc_is_named_by_its_methods() -> None:
    one = httpx.Request("POST", "https://node.example", json={"method": "eth_chainId"})
    two = httpx.Request("POST", "https://node.example", json=[{"method": "eth_call"}, {"method": "eth_getLogs"}])
    assert json_rpc_methods(one) == ("POST", "eth_chainId")
    assert json_rpc_methods(two) == ("POST", "eth_call,eth_getLogs")


def test_every_fault_has_a_name_of_its_own() -> None:
    assert [str(fault) for fault in FAULTS.values()] == list(FAULTS)
    assert FAULTS["answer lost"] is ANSWER_LOST
