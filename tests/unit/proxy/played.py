"""A proxy before an upstream that is played: it says what it was asked, and answers as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from rail402.proxy.app import ProxyApp
from rail402.proxy.forwarder import Upstream
from tests.unit.server.shop import Shop

__all__ = ["TO", "Asked", "Parts", "PlayedUpstream", "answer", "proxied"]

TO = "http://upstream.example:3000"


@dataclass
class Asked:
    """A request as the upstream got it."""

    method: str
    target: bytes
    headers: Sequence[tuple[bytes, bytes]]
    body: Sequence[bytes]
    extensions: Mapping[str, Any] = field(default_factory=dict)

    def all(self, name: str) -> list[str]:
        return [value.decode("latin-1") for key, value in self.headers if key.decode("latin-1").lower() == name]


class Parts(httpx.AsyncByteStream):
    """A response's body: bytes come, an exception is raised, an event is waited for, None waits for ever.

    Attributes:
        closed: set once nobody reads it any more.
    """

    def __init__(self, *parts: bytes | Exception | asyncio.Event | None) -> None:
        self._parts, self.closed = parts, asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
            elif isinstance(part, Exception):
                raise part
            else:
                await (part or asyncio.Event()).wait()

    async def aclose(self) -> None:
        self.closed.set()


def answer(
    *parts: bytes | Exception | asyncio.Event | None,
    status: int = 200,
    headers: Sequence[tuple[str, str]] | None = None,
) -> httpx.Response:
    """Return an answer; without `headers`, of the length of its parts."""
    if headers is None:
        headers = [("Content-Length", str(sum(len(part) for part in parts if isinstance(part, bytes))))]
    return httpx.Response(status, headers=list(headers), stream=Parts(*parts))


class PlayedUpstream(httpx.AsyncBaseTransport):
    """What a proxy asks.

    Attributes:
        play: makes the answer to a request, or raises.
        asked: every request; `reached` is set with the first.
        reads: whether it reads the body before it answers.
    """

    def __init__(self) -> None:
        self.play: Callable[[Asked], Any] = lambda asked: answer(b"the goods")
        self.asked: list[Asked] = []
        self.reached, self.reads, self.closed = asyncio.Event(), True, False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        body = [part async for part in request.stream] if self.reads else []
        raw = [(name, value) for name, value in request.headers.raw]
        self.asked.append(Asked(request.method, request.extensions["target"], raw, body, request.extensions))
        self.reached.set()
        found = self.play(self.asked[-1])
        if isinstance(found, Exception):
            raise found
        if not isinstance(found, httpx.Response):
            await found
            found = answer(b"the goods")
        return found

    async def aclose(self) -> None:
        self.closed = True

    @property
    def last(self) -> Asked:
        return self.asked[-1]


def proxied(
    *priced: str,
    free: Sequence[str] = (),
    unmatched: Any = "refuse",
    price: str = "0.003 USD",
    upstream: Mapping[str, Any] | None = None,
    protect: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[Shop, PlayedUpstream]:
    """Return a shop whose app is a proxy, and what is behind it."""
    shop, played = Shop(install=False, **options), PlayedUpstream()
    for pattern in priced:
        shop.gate.protect(pattern, price=price, **(protect or {}))
    to = Upstream(**({"to": TO} | dict(upstream or {})))
    shop.app = ProxyApp(shop.gate, to, priced=priced, free=free, unmatched=unmatched, transport=played)
    return shop, played
