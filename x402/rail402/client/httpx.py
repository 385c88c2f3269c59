"""The two faces of a payer for httpx: a transport for `httpx.AsyncClient`, and one for `httpx.Client`.

Both run the same purchase (`flow.py`) and differ only in how they wait. They are transports and not `auth=`, because
httpx follows redirects around a transport and inside an authentication flow, which would carry a payment to another
origin.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final

import httpx

from rail402.client.background import BackgroundLoop
from rail402.client.commands import Call, Command, Read, Reply, Request, Send
from rail402.client.flow import PurchaseFlow
from rail402.client.records import Purchase
from rail402.client.services import Services
from rail402.errors import Rail402Error
from rail402.protocol.dialect import Fields

__all__ = ["EXTENSION", "AsyncPayingTransport", "PayingTransport"]

EXTENSION: Final = "rail402"
"""The response extension that holds the `Purchase`."""

# What a purchase can act on; anything else ends it, and its record stays in the journal as it is.
_THROWN_IN: Final = (Rail402Error, httpx.TransportError, TimeoutError)

_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}

# Small pieces bound what a compressed body can grow to before it is counted.
_PIECE: Final = 1024


class AsyncPayingTransport(httpx.AsyncBaseTransport):
    """Sends requests through `inner` and pays for those that are answered with 402; see `Payer.transport`."""

    def __init__(self, services: Services, inner: httpx.AsyncBaseTransport) -> None:
        self._services, self._inner = services, inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request; see `PurchaseFlow.run` for what is raised."""
        flow = PurchaseFlow(self._services, _seen(request))
        steps = flow.run()
        try:
            command = next(steps)
            while True:
                try:
                    answer = await self._perform(command, request)
                except _THROWN_IN as error:
                    command = steps.throw(error)
                else:
                    command = steps.send(answer)
        except StopIteration as end:
            return self._finished(flow, *end.value)
        finally:
            steps.close()
            if flow.has_begun:
                await asyncio.shield(flow.let_go())

    async def _perform(self, command: Command, request: httpx.Request) -> Any:
        if isinstance(command, Call):
            return await command.function()
        if isinstance(command, Send):
            return _reply(await self._inner.handle_async_request(_outgoing(command, request)))
        return await _read_async(command)

    def _finished(self, flow: PurchaseFlow, reply: Reply, purchase: Purchase | None) -> httpx.Response:
        response = reply.response
        if purchase is not None:
            response.extensions = {**response.extensions, EXTENSION: purchase}
            response.stream = _WatchedAsync(response.stream, flow.broke_off)
        return response

    async def aclose(self) -> None:
        """Close the inner transport; the payer stays open."""
        await self._inner.aclose()


class PayingTransport(httpx.BaseTransport):
    """The same for `httpx.Client`; coroutines run on the payer's background loop. See `Payer.sync_transport`."""

    def __init__(self, services: Services, inner: httpx.BaseTransport, loop: BackgroundLoop) -> None:
        self._services, self._inner, self._loop = services, inner, loop

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request; see `PurchaseFlow.run` for what is raised."""
        flow = PurchaseFlow(self._services, _seen(request))
        steps = flow.run()
        try:
            command = next(steps)
            while True:
                try:
                    answer = self._perform(command, request)
                except _THROWN_IN as error:
                    command = steps.throw(error)
                else:
                    command = steps.send(answer)
        except StopIteration as end:
            return self._finished(flow, *end.value)
        finally:
            steps.close()
            if flow.has_begun:
                self._loop.run(flow.let_go)

    def _perform(self, command: Command, request: httpx.Request) -> Any:
        if isinstance(command, Call):
            return self._loop.run(command.function)
        if isinstance(command, Send):
            return _reply(self._inner.handle_request(_outgoing(command, request)))
        return _read_sync(command)

    def _finished(self, flow: PurchaseFlow, reply: Reply, purchase: Purchase | None) -> httpx.Response:
        response = reply.response
        if purchase is not None:
            response.extensions = {**response.extensions, EXTENSION: purchase}
            response.stream = _WatchedSync(response.stream, lambda: self._loop.run(flow.broke_off))
        return response

    def close(self) -> None:
        """Close the inner transport; the payer stays open."""
        self._inner.close()


# --- between httpx's messages and ours


def _seen(request: httpx.Request) -> Request:
    try:
        body = request.content
    except httpx.RequestNotRead:
        body = None
    scheme, authority = request.url.scheme, request.url.netloc.decode("ascii")
    origin = f"{scheme}://{authority.removesuffix(_DEFAULT_PORTS.get(scheme, ''))}"
    return Request(
        method=request.method.upper(),
        origin=origin,
        url=origin + request.url.raw_path.decode("ascii"),
        fields=Fields.from_raw(request.headers.raw),
        body=body,
    )


def _outgoing(command: Send, request: httpx.Request) -> httpx.Request:
    """Return the caller's own request, or a copy of it with a payment, or one for another URL of the origin."""
    if command.url is not None:
        return httpx.Request(
            "GET", command.url, headers={"Accept": "application/json"}, extensions=dict(request.extensions)
        )
    if not command.fields:
        return request
    replaced = {name.lower().encode("ascii") for name, _ in command.fields}
    kept = [(name, value) for name, value in request.headers.raw if name.lower() not in replaced]
    added = [(name.encode("ascii"), value.encode("latin-1")) for name, value in command.fields]
    return httpx.Request(
        request.method,
        request.url,
        headers=kept + added,
        stream=httpx.ByteStream(request.content),
        extensions=dict(request.extensions),
    )


def _reply(response: httpx.Response) -> Reply:
    return Reply(response.status_code, Fields.from_raw(response.headers.raw), response)


async def _read_async(command: Read) -> bytes | None:
    response, raw = command.reply.response, bytearray()
    try:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        async for chunk in response.stream:
            raw += chunk
            if len(raw) > command.limit:
                return None
    finally:
        await response.aclose()
    return _decoded(response, bytes(raw), command.limit)


def _read_sync(command: Read) -> bytes | None:
    response, raw = command.reply.response, bytearray()
    try:
        assert isinstance(response.stream, httpx.SyncByteStream)
        for chunk in response.stream:
            raw += chunk
            if len(raw) > command.limit:
                return None
    finally:
        response.close()
    return _decoded(response, bytes(raw), command.limit)


def _decoded(response: httpx.Response, raw: bytes, limit: int) -> bytes | None:
    """Undo the content encoding; None where that makes it too large, nothing where it cannot be undone."""
    encoding = response.headers.get("content-encoding")
    if encoding is None:
        return raw
    pieces = (raw[start : start + _PIECE] for start in range(0, len(raw), _PIECE))
    body = bytearray()
    try:
        for chunk in httpx.Response(200, headers={"Content-Encoding": encoding}, content=pieces).iter_bytes():
            body += chunk
            if len(body) > limit:
                return None
    except httpx.DecodingError:
        return b""
    return bytes(body)


# --- a paid body that breaks off


class _WatchedAsync(httpx.AsyncByteStream):
    """The body of a paid response; tells the purchase if it breaks off."""

    def __init__(self, inner: object, broke_off: Callable[[], Awaitable[None]]) -> None:
        assert isinstance(inner, httpx.AsyncByteStream)
        self._inner, self._broke_off = inner, broke_off

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._inner:
                yield chunk
        except httpx.TransportError:
            await self._broke_off()
            raise

    async def aclose(self) -> None:
        await self._inner.aclose()


class _WatchedSync(httpx.SyncByteStream):
    """The same for a synchronous response."""

    def __init__(self, inner: object, broke_off: Callable[[], None]) -> None:
        assert isinstance(inner, httpx.SyncByteStream)
        self._inner, self._broke_off = inner, broke_off

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._inner
        except httpx.TransportError:
            self._broke_off()
            raise

    def close(self) -> None:
        self._inner.close()
