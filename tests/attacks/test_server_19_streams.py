"""19: a client that goes in the middle of a stream, or never reads it, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.responses import StreamingResponse

from rail402.protocol.charge import Charge, Delivery, PaymentState
from rail402_base.sandbox import ENDOWMENT
from tests.attacks.cases import Observe
from tests.attacks.sockets import connect, head
from tests.conformance.test_base_end_to_end import AGENT, World
from tests.interop.bank import listening, served


class Stream:
    """A route that sends for ever, until it learns that nobody reads."""

    def __init__(self, path: Path, flow: str) -> None:
        self.world = World(path)
        self.sent, self.ended = 0, asyncio.Event()

        @self.world.app.get("/stream")
        @self.world.gate.paid("0.003 USD", flow=flow)
        async def stream() -> StreamingResponse:
            self.world.runs.append("stream")
            return StreamingResponse(self.pieces(), media_type="text/event-stream")

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"data: a token\n\n"
                self.sent += 1
                await asyncio.sleep(0)
        finally:
            self.ended.set()


async def delivered(world: World) -> Charge:
    """The only charge, once nobody works on it any more."""
    async with asyncio.timeout(10):
        while True:
            (charge,) = await world.gate.services().store.recent(limit=9)
            if charge.delivery is not Delivery.RUNNING:
                return charge
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("flow", ["authorization", "upfront"])
async def test_a_client_that_goes_stops_the_work_and_has_paid_once(
    tmp_path: Path, flow: str, observed: Observe
) -> None:
    stream = Stream(tmp_path, flow)
    world = stream.world
    with listening() as (found, _):
        async with world.open(), served(world.app, found):
            fields = await world.payment("/stream")
            port = found.getsockname()[1]
            reader, writer = await connect(port)
            writer.write(head("GET", "/stream", fields))
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"receipt-record" in answer, "paid before the first byte left"
            await world.assert_books(paid=3000)
            await reader.readexactly(64)
            writer.transport.abort()
            async with asyncio.timeout(10):
                await stream.ended.wait()
            sent = stream.sent
            charge = await delivered(world)
            assert (charge.payment, charge.delivery) == (PaymentState.SETTLED, Delivery.FAILED)
            assert (charge.amount, charge.offer.amount) == (3000, 3000)
            assert stream.sent == sent, "the handler has stopped"
            await world.assert_books(paid=3000)
            assert await world.chain.balance_of(AGENT) == ENDOWMENT - 3000
    observed("paid once, before the first byte; the handler is stopped when the client goes, and a rerun is owed")


async def test_a_client_that_comes_again_and_again(tmp_path: Path, observed: Observe) -> None:
    """Each time it goes before the end: it may come back once, and not for ever."""
    stream = Stream(tmp_path, "authorization")
    world = stream.world
    with listening() as (found, _):
        async with world.open(), served(world.app, found):
            fields = await world.payment("/stream")
            statuses = []
            for _ in range(4):
                stream.ended.clear()
                reader, writer = await connect(found.getsockname()[1])
                writer.write(head("GET", "/stream", fields))
                answer = await reader.readuntil(b"\r\n\r\n")
                statuses.append(int(answer.split(b" ")[1]))
                if statuses[-1] == 200:
                    await reader.readexactly(64)
                    writer.transport.abort()
                    async with asyncio.timeout(10):
                        await stream.ended.wait()
                    await delivered(world)
                else:
                    writer.close()
            assert statuses == [200, 200, 402, 402]
            assert world.runs == ["stream", "stream"]
            await world.assert_books(paid=3000)
    observed("whoever breaks off again and again gets two runs for its payment, not more")
