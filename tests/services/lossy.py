"""A TCP relay that breaks a connection at the worst moment: before a request arrives, or before its answer does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Literal

import pytest

__all__ = ["EITHER", "LossyRelay", "What", "lossy_relay"]

What = Literal["request", "answer"]
"""What is lost: a request before it arrives, or its answer when it was done."""

EITHER = pytest.mark.parametrize("what", ["request", "answer"])

_SIZE = 1 << 16
_READY = (b"Z\0\0\0\5I", b"Z\0\0\0\5T", b"Z\0\0\0\5E")
"""How PostgreSQL says that it waits for the next query: outside of a transaction, inside, in a failed one."""


class LossyRelay:
    """Relays to one address, until a loss is armed: then the next bytes of a client are the last of its connection.

    Attributes:
        port: where it listens, on 127.0.0.1.
        losses: how many connections it has broken on purpose.
    """

    port: int

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._armed: What | None = None
        self._after = 0
        self._meanwhile: Callable[[], Awaitable[object]] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.losses = 0

    def lose(
        self,
        what: What,
        *,
        after: int = 0,
        meanwhile: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """Lose the next request, or let it be answered and lose the answer.

        Args:
            after: how many requests come through before.
            meanwhile: what happens before the connection ends.
        """
        self._armed, self._after, self._meanwhile = what, after, meanwhile

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        up_reader, up_writer = await asyncio.open_connection(*self._target)
        down = asyncio.create_task(_pump(up_reader, writer))
        try:
            with suppress(ConnectionError):
                while data := await reader.read(_SIZE):
                    armed = self._next()
                    if armed is None:
                        up_writer.write(data)
                        await up_writer.drain()
                        continue
                    self.losses += 1
                    if armed == "answer":
                        up_writer.write(data)
                        await _swallow(down, reader, up_reader, up_writer)
                    if self._meanwhile is not None:
                        await self._meanwhile()
                    return
        finally:
            down.cancel()
            await asyncio.gather(down, return_exceptions=True)
            for each in (writer, up_writer):
                each.transport.abort()
                with suppress(ConnectionError):
                    await each.wait_closed()
            self._tasks.discard(task)

    def _next(self) -> What | None:
        if self._armed is not None and self._after:
            self._after -= 1
            return None
        armed, self._armed = self._armed, None
        return armed

    async def close(self) -> None:
        """End what is relayed."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(_SIZE):
            writer.write(data)
            await writer.drain()
        writer.close()


async def _swallow(
    down: asyncio.Task[None], reader: asyncio.StreamReader, up_reader: asyncio.StreamReader, up: asyncio.StreamWriter
) -> None:
    """Let the client say all that it has to say, and the server do it, until that is ready for more."""
    down.cancel()
    await asyncio.gather(down, return_exceptions=True)
    asking = asyncio.create_task(_pump(reader, up))
    answer = b""
    while not answer.endswith(_READY) and (more := await up_reader.read(_SIZE)):
        answer += more
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


@asynccontextmanager
async def lossy_relay(host: str, port: int) -> AsyncIterator[LossyRelay]:
    """A relay to a PostgreSQL, on a free port."""
    relay = LossyRelay(host, port)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        await relay.close()
        await server.wait_closed()
