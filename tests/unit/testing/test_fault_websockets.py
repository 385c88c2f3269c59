"""Websockets that cannot be opened, say nothing, or say nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rail402.testing.faults import FAULTS, Faults, FaultyWebsockets
from rail402.testing.virtual_time import VirtualTimeLoop


class Socket:
    async def recv(self) -> str:
        return "paid"


@asynccontextmanager
async def connect(url: str, **options: Any) -> AsyncIterator[Socket]:
    yield Socket()


def listen(fault: str | None) -> tuple[str | bytes, float]:
    """What one hears, and after how many seconds."""
    sockets = FaultyWebsockets(connect, Faults())
    if fault is not None:
        sockets.faults.on(FAULTS[fault], "WEBSOCKET", "/ws/*")

    async def main() -> tuple[str | bytes, float]:
        async with asyncio.timeout(60), sockets("wss://service.example/ws/1", open_timeout=9) as messages:
            heard = await messages.recv()
        (call,) = sockets.calls
        assert (call.method, call.path, call.host) == ("WEBSOCKET", "/ws/1", "service.example")
        return heard, asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main())


def test_without_a_fault() -> None:
    assert listen(None) == ("paid", 0)


@pytest.mark.parametrize("fault", ["connection refused", "no such host", "certificate expired", "reset, carried out"])
def test_it_cannot_be_opened(fault: str) -> None:
    with pytest.raises(OSError, match=r"refused|not known"):
        listen(fault)


@pytest.mark.parametrize("fault", ["connect timeout", "answer lost", "endless body", "arrives 90 s late"])
def test_it_says_nothing(fault: str) -> None:
    with pytest.raises(TimeoutError):
        listen(fault)


@pytest.mark.parametrize("fault", ["502 page", "null", "answer to another call"])
def test_it_says_nonsense(fault: str) -> None:
    heard, seconds = listen(fault)
    assert "<html>" in str(heard)
    assert seconds == 1
