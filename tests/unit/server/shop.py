"""A shop to test the gate with: an app, a fake rail's money, and a buyer."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette

from rail402.dialects import DEFAULT_DIALECTS
from rail402.protocol.charge import Charge
from rail402.protocol.dialect import Context, Fields
from rail402.protocol.offer import Offer
from rail402.protocol.rail import Registry
from rail402.server.gate import Gate
from rail402.testing.fakes import FakeClock, FakeLedger, FakeRail, FakeSpec, FakeWallet

URL = "https://shop.example"

_ids = itertools.count()

Lines = Mapping[str, str] | Iterable[tuple[bytes, bytes]]


class Wire:
    """One request over bare ASGI, which sees every message at the moment when it is sent.

    Args:
        path: with the query; `raw_path` and `path` go into the scope as they would over HTTP.
        headers: a mapping, or raw lines, which may be as hostile as they like.
        chunks: the messages of the request body.
        scope: members of the scope to change.

    Attributes:
        sent: every message, in order; `watch` is awaited with each before it counts as sent.
        gone: set it, and the client has disconnected.
    """

    def __init__(
        self,
        app: Any,
        path: str,
        method: str = "GET",
        *,
        headers: Lines = (),
        chunks: Iterable[bytes] = (b"",),
        scope: Mapping[str, Any] | None = None,
        watch: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:
        target, _, query = path.partition("?")
        if isinstance(headers, Mapping):
            headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": httpx.URL(URL + target).path,
            "raw_path": target.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in [(b"host", b"shop.example"), *headers]],
            "server": ("shop.example", 443),
            "client": ("192.0.2.1", 50000),
            **(scope or {}),
        }
        self.sent: list[Any] = []
        self.gone, self._news = asyncio.Event(), asyncio.Event()
        self._app, self._chunks, self._watch = app, list(chunks), watch

    async def run(self) -> Wire:
        await self._app(self.scope, self._receive, self._send)
        return self

    async def _receive(self) -> dict[str, Any]:
        if self._chunks:
            body = self._chunks.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(self._chunks)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if self._watch is not None:
            await self._watch(message)
        self.sent.append(message)
        self._news.set()

    async def until(self, chunks: int) -> None:
        """Wait until the head and that many pieces of the body have left."""
        async with asyncio.timeout(5):
            while len(self.sent) < chunks + 1:
                self._news.clear()
                await self._news.wait()

    @property
    def status(self) -> int:
        starts = [message["status"] for message in self.sent if message["type"] == "http.response.start"]
        assert len(starts) == 1, self.sent
        return int(starts[0])

    def all(self, name: str) -> list[str]:
        """Return every line of that name, in order."""
        lines = [line for message in self.sent for line in message.get("headers", ())]
        return [value.decode("latin-1") for key, value in lines if key.decode().lower() == name]

    def one(self, name: str) -> str:
        (value,) = self.all(name)
        return value

    @property
    def chunks(self) -> list[bytes]:
        return [message["body"] for message in self.sent if message["type"] == "http.response.body"]

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def complete(self) -> bool:
        """Whether the last message of a body has left."""
        return any(message["type"] == "http.response.body" and not message.get("more_body") for message in self.sent)

    def json(self) -> Any:
        return json.loads(self.body)


class Shop:
    """A gate over a fake rail. Mount handlers on `app`, then `async with shop.open():`."""

    def __init__(
        self,
        app: Any = None,
        *,
        style: str = "signed",
        install: bool = True,
        clock: FakeClock | None = None,
        ledger: FakeLedger | None = None,
        **options: Any,
    ) -> None:
        self.clock = clock or FakeClock()
        self.ledger = ledger or FakeLedger()
        spec = FakeSpec(style=style) if style != "signed" else FakeSpec()
        self.rail, self.wallet = FakeRail(self.ledger, spec), FakeWallet(self.ledger, spec)
        self.app = app or Starlette()
        defaults: dict[str, Any] = {
            "store": "memory://",
            "reconcile_seconds": 0,
            "wait_seconds": 1,
            "clock": self.clock,
        }
        self.gate = Gate(rails=[self.rail], public_url=URL, **(defaults | options))
        if install:
            self.gate.install(self.app)
        self.client: httpx.AsyncClient

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Shop]:
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=URL) as self.client:
            await self.gate.start()
            yield self
            await self.gate.close()

    def context(self) -> Context:
        return Context(specs=Registry([self.rail.spec]), now=self.clock(), realm="shop.example")

    def offers(self, response: httpx.Response, dialect: str = "x402-v2") -> list[Offer]:
        speaker = next(each for each in DEFAULT_DIALECTS if each.name == dialect)
        return speaker.offers(Fields(response.headers.multi_items()), response.content, self.context())

    async def proof(self, response: httpx.Response, dialect: str = "x402-v2") -> dict[str, str]:
        """Pay what a 402 asks, and return the request fields that show it."""
        speaker = next(each for each in DEFAULT_DIALECTS if each.name == dialect)
        (offer, *_) = self.offers(response, dialect)
        paid = await self.wallet.pay(offer, record_id=f"r{next(_ids)}", now=self.clock())
        return dict(speaker.credential(offer, dict(paid.payload), self.context()))

    async def quote(self, path: str, method: str = "GET", **kwargs: Any) -> dict[str, str]:
        """Ask for a price and pay it, without asking for the goods yet."""
        response = await self.client.request(method, path, **kwargs)
        assert response.status_code == 402, response.text
        return await self.proof(response)

    async def buy(self, path: str, method: str = "GET", **kwargs: Any) -> httpx.Response:
        """Pay and return the answer."""
        proof = await self.quote(path, method, **kwargs)
        return await self.client.request(method, path, **kwargs, headers=proof)

    def request(self, path: str, method: str = "GET", **kwargs: Any) -> Wire:
        """Return a request over bare ASGI; `await` its `run()`."""
        return Wire(self.app, path, method, **kwargs)

    async def charges(self) -> list[Charge]:
        return list(await self.gate.services().store.recent(limit=100))

    async def only_charge(self) -> Charge:
        (charge,) = await self.charges()
        return charge
