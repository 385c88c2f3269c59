"""Asks the upstream: one request up, one response down, both as they come, nothing kept.

What goes wrong before the response begins is answered with 502, 503 or 504, and to the gate that is a handler that has
failed. What goes wrong later breaks the response off, and whoever reads it learns that it is not whole.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import httpx

from rail402.errors import ConfigurationError
from rail402.proxy.fields import Downward, Upward, declared_length
from rail402.proxy.problems import Problem
from rail402.server.addresses import TrustedProxies
from rail402.server.paywall import CHARGE_KEY
from rail402.server.request import ClientDisconnected, Receive, Scope, Send
from rail402.server.services import Services
from rail402.server.settings import is_origin

__all__ = ["Forwarder", "Upstream", "UpstreamBroke"]

T = TypeVar("T")

logger = logging.getLogger("rail402.proxy")


class UpstreamBroke(Exception):
    """The upstream broke its response off after the first part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Where requests go.

    Args:
        to: an origin, such as `http://127.0.0.1:3000`.
        host: what it gets as `Host`: its own name, or the public one.
        connect_seconds: how long connecting may take, and waiting for a free connection.
        answer_seconds: how long it may be silent: before its response and between two parts of it. And the client
            between two parts of its request.
        connections: how many connections to it there are at most; each is for one request.

    Raises:
        ConfigurationError: `to` is no origin.
    """

    to: str
    host: Literal["public", "upstream"] = "public"
    connect_seconds: int = 5
    answer_seconds: int = 30
    connections: int = 100

    def __post_init__(self) -> None:
        if not is_origin(self.to):
            raise ConfigurationError(f"to={self.to!r} must be an origin without a path, such as http://127.0.0.1:3000")


class Forwarder:
    """An ASGI app that hands every request on.

    Args:
        upstream: where to.
        services: returns the parts of a gate that has started.
        transport: what to ask by, in tests.
    """

    def __init__(
        self, upstream: Upstream, services: Callable[[], Services], transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._upstream, self._services = upstream, services
        limits = httpx.Limits(max_connections=upstream.connections)
        self._transport = transport or httpx.AsyncHTTPTransport(limits=limits)

    @cached_property
    def _up(self) -> Upward:
        services = self._services()
        settings = services.settings
        trusted = TrustedProxies(() if settings.limits is None else settings.limits.trusted_proxies)
        host = settings.public_url if self._upstream.host == "public" else self._upstream.to
        return Upward(settings.public_url, urlsplit(host).netloc, services.dialects, trusted)

    @cached_property
    def _down(self) -> Downward:
        return Downward(self._services().settings.public_url, self._upstream.to)

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, and its response back. When the client goes, so does the request.

        Raises:
            UpstreamBroke: in the middle of the response.
        """
        body = _Body(receive, expected=_has_body(scope), patience=self._upstream.answer_seconds)
        gone = asyncio.create_task(body.gone())
        try:
            response = await _unless(gone, self._ask(scope, body))
            body.give_up()
            try:
                await self._answer(response, gone, send)
            finally:
                await response.aclose()
        except Problem as problem:
            await problem.send(send)
        except ClientDisconnected:
            logger.info("the client went away before the response was complete")
        finally:
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)

    async def _ask(self, scope: Scope, body: _Body) -> httpx.Response:
        query = scope["query_string"]
        wait, silence = self._upstream.connect_seconds, self._upstream.answer_seconds
        request = httpx.Request(
            scope["method"],
            self._upstream.to,
            headers=self._up(scope, scope.get(CHARGE_KEY)),
            stream=body,
            extensions={
                "target": scope["raw_path"] + (b"?" + query if query else b""),
                "timeout": {"connect": wait, "pool": wait, "read": silence, "write": silence},
            },
        )
        try:
            response = await self._transport.handle_async_request(request)
        except httpx.TransportError as error:
            raise _failed(error) from error
        if not 200 <= response.status_code <= 599:
            await response.aclose()
            raise Problem(502, "upstream_failed", "the upstream answered with a status that is none")
        return response

    async def _answer(self, response: httpx.Response, gone: asyncio.Task[None], send: Send) -> None:
        """Send the response on. Where a body is announced its first part is waited for: it may not come."""
        assert isinstance(response.stream, httpx.AsyncByteStream)
        parts = aiter(response.stream)
        length, seen = declared_length(response.headers.raw), 0
        part = await _unless(gone, _following(parts)) if length else b""
        fields = self._down(response.headers.raw, response.status_code)
        await send({"type": "http.response.start", "status": response.status_code, "headers": fields})
        try:
            while part is not None and (seen := seen + len(part)) != length:
                if part:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                part = await _unless(gone, _following(parts))
        except Problem as problem:
            raise UpstreamBroke(problem.detail) from problem
        await send({"type": "http.response.body", "body": part or b""})


class _Body(httpx.AsyncByteStream):
    """A request's body on its way up; and after it, the news that the client has gone.

    A client that stalls in the middle does not keep a connection to the upstream: after `patience` seconds it is told.
    """

    def __init__(self, receive: Receive, *, expected: bool, patience: float) -> None:
        self._receive, self._more, self._over = receive, expected, asyncio.Event()
        self._patience = patience
        if not expected:
            self._over.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._more:
            try:
                async with asyncio.timeout(self._patience):
                    message = await self._receive()
            except TimeoutError as error:
                raise Problem(408, "request_timeout", "the rest of the request did not come in time") from error
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            self._more = message.get("more_body", False)
            if message.get("body"):
                yield message["body"]
        self._over.set()

    def give_up(self) -> None:
        """Say that nobody reads it any further."""
        self._over.set()

    async def gone(self) -> None:
        """Wait until the body is read, and then until the client has gone."""
        await self._over.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _has_body(scope: Scope) -> bool:
    chunked = any(name.lower() == b"transfer-encoding" for name, _ in scope["headers"])
    return chunked or bool(declared_length(scope["headers"]))


async def _unless(gone: asyncio.Task[None], work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` does, unless the client goes before: then it is cancelled.

    Raises:
        ClientDisconnected: the client has gone.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnected
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _following(parts: AsyncIterator[bytes]) -> bytes | None:
    """Return the next part of a response; None after the last one."""
    try:
        return await anext(parts, None)
    except httpx.TransportError as error:
        raise _failed(error) from error


def _failed(error: httpx.TransportError) -> Problem:
    """Return what is said of it; what it was exactly is for the log."""
    logger.warning("upstream: %s: %s", type(error).__name__, error or "no more is known")
    match error:
        case httpx.PoolTimeout():
            return Problem(503, "upstream_busy", "too much is asked of the upstream", {"Retry-After": "2"})
        case httpx.TimeoutException():
            return Problem(504, "upstream_timeout", "the upstream did not answer in time")
        case _:
            return Problem(502, "upstream_failed", "the upstream cannot be reached, or broke off")
