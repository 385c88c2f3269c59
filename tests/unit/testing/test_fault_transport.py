"""Which calls are spoilt, and that all others pass as they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from rail402.errors import ConfigurationError
from rail402.testing.fault_transport import Exchange, Fault, Faults, FaultyTransport, Pieces
from rail402.testing.virtual_time import VirtualTimeLoop


async def _teapot(exchange: Exchange) -> httpx.Response:
    return httpx.Response(418, text="teapot")


TEAPOT = Fault("teapot", _teapot)


class Service:
    """Counts what it carries out."""

    def __init__(self) -> None:
        self.got: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.got.append(f"{request.method} {request.url.path} {request.content.decode()}")
        return httpx.Response(200, json={"n": len(self.got)}, headers={"X-One": "1"})


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def wire(service: Service) -> FaultyTransport:
    return FaultyTransport(httpx.MockTransport(service))


@pytest.fixture
async def client(wire: FaultyTransport) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=wire, base_url="https://service.example") as client:
        yield client


async def test_without_faults_everything_passes(
    service: Service, wire: FaultyTransport, client: httpx.AsyncClient
) -> None:
    response = await client.post("/a?b=c", json={"d": 1})
    assert (response.json(), response.headers["X-One"]) == ({"n": 1}, "1")
    assert service.got == ['POST /a {"d":1}']
    (call,) = wire.calls
    assert (call.method, call.path, call.host, call.fault, call.status) == ("POST", "/a", "service.example", None, 200)
    assert bytes(call.body) == b'{"n":1}'
    assert call.answer().json() == {"n": 1}


async def test_the_nth_call_that_matches_is_spoilt(
    service: Service, wire: FaultyTransport, client: httpx.AsyncClient
) -> None:
    wire.faults.on(TEAPOT, "POST", "/v1/*/capture", nth=2)
    statuses = []
    for method, path in (
        ("POST", "/v1/a/capture"),
        ("GET", "/v1/a/capture"),
        ("POST", "/v1/a"),
        ("POST", "/v1/b/capture"),
        ("POST", "/v1/c/capture"),
    ):
        statuses.append((await client.request(method, path)).status_code)
    assert statuses == [200, 200, 200, 418, 200]
    assert len(service.got) == 4
    assert [call.fault for call in wire.calls] == [None, None, None, TEAPOT, None]


async def test_several_calls_or_all_until_it_is_cleared(wire: FaultyTransport, client: httpx.AsyncClient) -> None:
    wire.faults.on(TEAPOT, times=2)
    assert [(await client.get("/")).status_code for _ in range(3)] == [418, 418, 200]
    wire.faults.on(TEAPOT, nth=2, times=None)
    assert [(await client.get("/")).status_code for _ in range(4)] == [200, 418, 418, 418]
    wire.faults.clear()
    assert (await client.get("/")).status_code == 200


async def test_every_rule_counts_every_call(wire: FaultyTransport, client: httpx.AsyncClient) -> None:
    other = Fault("other", _teapot)
    wire.faults.on(TEAPOT, nth=1).on(other, nth=2)
    for _ in range(3):
        await client.get("/")
    assert [call.fault for call in wire.calls] == [TEAPOT, other, None]


@pytest.mark.parametrize(("nth", "times"), [(0, 1), (1, 0)])
def test_counting_begins_at_one(nth: int, times: int) -> None:
    with pytest.raises(ConfigurationError, match="count from 1"):
        Faults().on(TEAPOT, nth=nth, times=times)


async def test_random_faults_are_the_same_in_every_run(service: Service) -> None:
    async def run(seed: int) -> list[bool]:
        wire = FaultyTransport(httpx.MockTransport(service), Faults(seed=seed, rate=0.3, among=[TEAPOT]))
        async with httpx.AsyncClient(transport=wire, base_url="https://service.example") as client:
            for _ in range(100):
                await client.get("/")
            spoilt = [call.fault is not None for call in wire.calls]
            wire.faults.clear()
            assert (await client.get("/")).status_code == 200
        return spoilt

    one = await run(7)
    assert one == await run(7)
    assert one != await run(8)
    assert 15 < sum(one) < 45


def test_random_faults_need_a_choice() -> None:
    with pytest.raises(ConfigurationError, match="among"):
        Faults(rate=0.1)


async def test_a_fault_can_deliver_late_often_and_see_earlier_answers(service: Service) -> None:
    jumps: list[int] = []

    async def behave(exchange: Exchange) -> httpx.Response:
        await exchange.deliver()
        exchange.jump(5)
        (before,) = exchange.earlier
        return httpx.Response(200, json={"said": before.answer().json(), "read": exchange.seconds("read")})

    wire = FaultyTransport(httpx.MockTransport(service), jump=jumps.append)
    wire.faults.on(Fault("mine", behave), path="/second")
    async with httpx.AsyncClient(transport=wire, base_url="https://service.example", timeout=3) as client:
        await client.get("/first")
        assert (await client.get("/second")).json() == {"said": {"n": 1}, "read": 3.0}
    assert service.got == ["GET /first ", "GET /second "]
    assert jumps == [5]


async def test_who_gives_no_clock_gets_told(wire: FaultyTransport, client: httpx.AsyncClient) -> None:
    async def behave(exchange: Exchange) -> httpx.Response:
        exchange.jump(1)
        return await exchange.deliver()

    wire.faults.on(Fault("jumps", behave))
    with pytest.raises(ConfigurationError, match="jump"):
        await client.get("/")


def test_of_an_endless_answer_the_beginning_is_taken() -> None:
    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"one\n"
            yield b"two\n"
            await asyncio.Event().wait()

    async def main() -> None:
        async def behave(exchange: Exchange) -> httpx.Response:
            return await exchange.deliver()

        wire = FaultyTransport(httpx.MockTransport(lambda _: httpx.Response(200, stream=Endless())))
        wire.faults.on(Fault("whole", behave))
        async with httpx.AsyncClient(transport=wire) as client:
            assert (await client.get("https://service.example/")).content == b"one\ntwo\n"

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())


async def test_closing_closes_the_inner_transport() -> None:
    closed: list[bool] = []

    class Inner(httpx.AsyncBaseTransport):
        async def aclose(self) -> None:
            closed.append(True)

    await FaultyTransport(Inner()).aclose()
    assert closed == [True]


async def test_pieces_come_one_by_one() -> None:
    assert [piece async for piece in Pieces(b"a", b"b")] == [b"a", b"b"]
