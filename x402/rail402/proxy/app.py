"""The proxy as an ASGI app: a gate, the table of routes, and the forwarder behind both."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any, Literal

import httpx
from starlette.routing import Router

from rail402.proxy.fields import folded_name
from rail402.proxy.forwarder import Forwarder, Upstream, UpstreamBroke
from rail402.proxy.paths import RouteTable, plain_path
from rail402.proxy.problems import Problem
from rail402.server.gate import Gate
from rail402.server.paywall import App
from rail402.server.request import Message, Receive, Scope, Send
from rail402.upstream import printable

__all__ = ["ProxyApp"]

logger = logging.getLogger("rail402.proxy")


class ProxyApp:
    """Forwards every request to an upstream, past a gate where it costs something.

    Under uvicorn: `--no-proxy-headers --no-date-header --no-server-header --ws none`.

    Args:
        gate: it is installed here.
        upstream: where requests go.
        priced: the patterns that cost something: those that the gate protects, in the same order.
        free: patterns that cost nothing, although they may match one that does.
        unmatched: whether a request that no pattern is for is refused, or passes for nothing.
        transport: what the upstream is asked by, in tests.

    Attributes:
        routes: what costs something, for the gate to find.

    Raises:
        ConfigurationError: a pattern is none, or cannot match.
    """

    def __init__(
        self,
        gate: Gate,
        upstream: Upstream,
        *,
        priced: Iterable[str],
        free: Iterable[str] = (),
        unmatched: Literal["refuse", "pass"] = "refuse",
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.gate, self.upstream = gate, upstream
        self._forwarder = Forwarder(upstream, gate.services, transport)
        self._table = RouteTable(priced, free, self._forwarder, unmatched=unmatched == "pass")
        self.routes = self._table.routes
        self._router = Router(lifespan=self._closing)
        self._app: App = self._route
        gate.install(self)

    def add_middleware(self, middleware: Any, **options: Any) -> None:
        """Put an ASGI middleware around everything so far."""
        self._app = middleware(self._app, **options)

    async def __aenter__(self) -> ProxyApp:
        await self.gate.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.gate.close()
        await self._forwarder.close()

    @asynccontextmanager
    async def _closing(self, _: Any) -> AsyncIterator[None]:
        yield
        await self._forwarder.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request. Where the upstream breaks its response off it returns without the end of one, whereupon
        servers hang up: so the client learns of it."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = self._dated(message)
                self._log(scope, message)
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except UpstreamBroke as error:
            logger.warning("%s broken off: %s", _name(scope), error)

    def _dated(self, message: Message) -> Message:
        headers = list(message.get("headers", ()))
        if not any(name.lower() == b"date" for name, _ in headers):
            headers.append((b"date", formatdate(self.gate.services().clock(), usegmt=True).encode()))
        return {**message, "headers": headers}

    def _log(self, scope: Scope, message: Message) -> None:
        charges = [value.decode() for name, value in message["headers"] if name == b"rail402-charge"]
        logger.info("%s", " ".join([_name(scope), str(message["status"]), *charges]))

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to its route, which the gate has put its paywall in front of, or straight to the upstream."""
        if scope["type"] == "lifespan":
            await self._router.lifespan(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "websockets are not forwarded"})
            return
        fields = {folded_name(name).decode(): value for name, value in scope["headers"]}
        try:
            if fields.get("upgrade", b"").lower() == b"websocket":
                raise Problem(501, "websocket_not_forwarded", "websockets are not forwarded")
            route = self._table.choose(scope["method"], plain_path(scope["raw_path"]), fields)
        except Problem as problem:
            await problem.send(send)
            return
        await (self._forwarder if route is None else route.handle)(scope, receive, send)


def _name(scope: Scope) -> str:
    """Return method and path for the log: the query may hold what is nobody's business."""
    return printable(f"{scope['method']} {scope['raw_path'].decode('latin-1')}")
