"""Faults of websockets; see `rail402.testing.faults`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from rail402.testing.fault_transport import Call, Fault, Faults, Sleep

__all__ = ["FaultyWebsockets", "Messages"]


class Messages(Protocol):
    """What an open websocket gives."""

    async def recv(self) -> str | bytes:
        """Return the next message, once it comes."""
        ...


Connect = Callable[..., AbstractAsyncContextManager[Messages]]


class FaultyWebsockets:
    """Opens websockets by `connect`, which takes what `websockets.connect` does, except where a fault is ordered.

    A call is named `("WEBSOCKET", path)`. What a fault of HTTP means for a websocket: what stands in the way of a
    connection stands in the way here, and is raised as an OSError or TimeoutError; a lost or late answer is a websocket
    that stays silent; any other is one that says something that makes no sense.
    """

    def __init__(self, connect: Connect, faults: Faults, *, sleep: Sleep = asyncio.sleep) -> None:
        self._connect, self.faults, self._sleep = connect, faults, sleep
        self.calls: list[Call] = []

    def __call__(self, url: str, **options: Any) -> AbstractAsyncContextManager[Messages]:
        """Return a websocket to open with `async with`."""
        parts = urlsplit(url)
        call = Call("WEBSOCKET", parts.path, parts.netloc)
        call.fault = self.faults.of(call)
        self.calls.append(call)
        if call.fault is None:
            return self._connect(url, **options)
        return _Spoilt(call.fault, options.get("open_timeout") or 10, self._sleep)


class _Spoilt:
    def __init__(self, fault: Fault, patience: float, sleep: Sleep) -> None:
        self._fault, self._patience, self._sleep = fault, patience, sleep

    async def __aenter__(self) -> Self:
        match self._fault.name:
            case "no such host":
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            case "connect timeout" | "timeout, never arrived":
                await self._sleep(self._patience)
                raise TimeoutError("timed out during opening handshake")
            case name if "refused" in name or "reset" in name or "certificate" in name or "closed" in name:
                raise ConnectionRefusedError(111, "Connection refused")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def recv(self) -> str:
        if "lost" in self._fault.name or "late" in self._fault.name or "body" in self._fault.name:
            await self._sleep(86_400)
        await self._sleep(1)
        return "<html>" * 100
