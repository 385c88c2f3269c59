"""The two faces of a payer for httpx: a transport for `httpx.AsyncClient`, and one for `httpx.Client`.

Both run the same purchase (`flow.py`) and differ only in how they wait. They are transports and not `auth=`, because
httpx follows redirects around a transport and inside an authentication flow, which would carry a payment to another
origin.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final
from weakref import WeakSet

import httpx

from rail402.client.background import BackgroundLoop
from rail402.client.bodies import read_async, read_sync
from rail402.client.commands import Call, Command, Reply, Request, Send
from rail402.client.flow import PurchaseFlow
from rail402.client.presenting import MAX_BODY
from rail402.client.quotes import Quote, quote_of
from rail402.client.records import Purchase
from rail402.client.rules import tool_name
from rail402.client.services import Services
from rail402.errors import Rail402Error
from rail402.money import Money, as_money
from rail402.protocol.dialect import Fields

__all__ = [
    "APPROVE",
    "AT_MOST",
    "EXTENSION",
    "METHOD",
    "TOOL",
    "AsyncPayingTransport",
    "PayingTransport",
    "bought_by",
    "quote",
]

EXTENSION: Final = "rail402"
"""The response extension that holds the `Purchase`."""

AT_MOST: Final = "rail402_at_most"
"""The request extension with the most that this request may cost, such as `"0.10 USD"`, or several amounts that all
hold; see `Budget.tightened`."""

TOOL: Final = "rail402_tool"
"""The request extension with the name of the tool that it is made for, which a `Rule` may limit."""

METHOD: Final = "rail402_method"
"""The request extension with the method of the order, where another protocol's request travels as one of HTTP."""

APPROVE: Final = "rail402_approve"
"""The request extension with who is asked about this request; see `Payer.approve`, in whose place it is asked."""

# What a purchase can act on; anything else ends it, and its record stays in the journal as it is.
_THROWN_IN: Final = (Rail402Error, httpx.TransportError, TimeoutError)

_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}

# For what is fetched beside the caller's request, while the paid response waits and holds its connection.
_FETCH_SECONDS: Final = 5
_FETCH_TIMEOUTS: Final = dict.fromkeys(("connect", "read", "write", "pool"), _FETCH_SECONDS)


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
            response = _finished(request, *end.value)
            if flow.is_delivering or self._services.on_progress is not None:
                response.stream = _WatchedAsync(response, flow)
            return response
        finally:
            steps.close()
            if flow.has_begun and not flow.is_delivering:
                await asyncio.shield(self._let_go(flow))

    async def _let_go(self, flow: PurchaseFlow) -> None:
        try:
            if flow.unread is not None:
                await flow.unread.aclose()
        finally:
            await flow.let_go()

    async def _perform(self, command: Command, request: httpx.Request) -> Any:
        if isinstance(command, Call):
            return await command.function()
        if isinstance(command, Send):
            async with asyncio.timeout(_FETCH_SECONDS if command.url is not None else None):
                return _reply(await self._inner.handle_async_request(_outgoing(command, request)))
        return await read_async(command.reply.response, command.limit)

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
            response = _finished(request, *end.value)
            if flow.is_delivering or self._services.on_progress is not None:
                response.stream = _WatchedSync(response, flow, self._loop)
            return response
        finally:
            steps.close()
            if flow.has_begun and not flow.is_delivering:
                self._let_go(flow)

    def _let_go(self, flow: PurchaseFlow) -> None:
        try:
            if flow.unread is not None:
                flow.unread.close()
        finally:
            self._loop.run(flow.let_go)

    def _perform(self, command: Command, request: httpx.Request) -> Any:
        if isinstance(command, Call):
            return self._loop.run(command.function)
        if isinstance(command, Send):
            return _reply(self._inner.handle_request(_outgoing(command, request)))
        return read_sync(command.reply.response, command.limit)

    def close(self) -> None:
        """Close the inner transport; the payer stays open."""
        self._inner.close()


async def quote(services: Services, inner: httpx.AsyncBaseTransport, request: httpx.Request) -> Quote | None:
    """Send a request and return what would be paid for it; None where it is answered with anything but a 402.

    Raises: see `quote_of`.
    """
    reply = _reply(await inner.handle_async_request(request))
    if reply.status != 402:
        await reply.response.aclose()
        return None
    body = await read_async(reply.response, MAX_BODY)
    return await quote_of(services, _seen(request), reply, body)


def bought_by(request: httpx.Request) -> Purchase | None:
    """Return what was bought by sending a request, also where httpx raised an error over the answer."""
    call = request.extensions.get(EXTENSION)
    return call.bought if isinstance(call, _Call) else None


# --- one call of a client


class _Call:
    """What a call has done so far. httpx hands a request's extensions on to the requests that follow a redirect."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.bought: Purchase | None = None
        self._seen: WeakSet[httpx.Request] = WeakSet()

    @classmethod
    def of(cls, request: httpx.Request, origin: str) -> _Call:
        """Return the call that a request belongs to: a new one, unless it follows a redirect."""
        call = request.extensions.get(EXTENSION)
        if not isinstance(call, _Call) or request in call._seen:  # sending the same request again is another call
            call = cls(origin)
            request.extensions = {**request.extensions, EXTENSION: call}
        call._seen.add(request)
        return call

    def objection(self, origin: str) -> str | None:
        """Say why nothing may be bought at `origin`, if so."""
        if origin != self.origin:
            return (
                f"the call was made to {self.origin} and redirected to {origin}, and a payment goes only to the origin "
                f"that was asked; make the request to {origin} itself to pay there"
            )
        return "this call was redirected after it had paid, and one call pays once" if self.bought is not None else None


# --- between httpx's messages and ours


def _seen(request: httpx.Request) -> Request:
    # After a redirect httpx hands the body on as it is in memory, without having read it.
    body = request.read() if isinstance(request.stream, httpx.ByteStream) else None
    scheme, authority = request.url.scheme, request.url.netloc.decode("ascii")
    origin = f"{scheme}://{authority.removesuffix(_DEFAULT_PORTS.get(scheme, ''))}"
    # httpx lets a caller send another target than the URL's.
    target = request.extensions.get("target", request.url.raw_path)
    return Request(
        method=request.extensions.get(METHOD, request.method.upper()),
        origin=origin,
        url=origin + (target if isinstance(target, str) else target.decode("latin-1")),
        fields=Fields.from_raw(request.headers.raw),
        body=body,
        objection=_Call.of(request, origin).objection(origin),
        at_most=_limits(request.extensions.get(AT_MOST, ())),
        approve=request.extensions.get(APPROVE),
        tool=None if (tool := request.extensions.get(TOOL)) is None else tool_name(tool),
    )


def _limits(most: Money | str | Sequence[Money | str]) -> tuple[Money, ...]:
    return (as_money(most),) if isinstance(most, Money | str) else tuple(as_money(each) for each in most)


def _outgoing(command: Send, request: httpx.Request) -> httpx.Request:
    """Return the caller's own request, or a copy of it with a payment, or one for another URL of the origin."""
    if command.url is not None:
        extensions: dict[str, Any] = {"timeout": _FETCH_TIMEOUTS}
        if "sni_hostname" in request.extensions:
            extensions["sni_hostname"] = request.extensions["sni_hostname"]
        return httpx.Request("GET", command.url, headers={"Accept": "application/json"}, extensions=extensions)
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


def _finished(request: httpx.Request, reply: Reply, purchase: Purchase | None) -> httpx.Response:
    if purchase is not None:
        request.extensions[EXTENSION].bought = purchase
        reply.response.extensions = {**reply.response.extensions, EXTENSION: purchase}
    return reply.response


# --- the body of an answer


class _WatchedAsync(httpx.AsyncByteStream):
    """The body of a response that was paid for or is watched; tells the purchase how it ended."""

    def __init__(self, response: httpx.Response, flow: PurchaseFlow) -> None:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        self._inner, self._flow, self._expected = response.stream, flow, _length(response)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        received = 0
        try:
            async for chunk in self._inner:
                received += len(chunk)
                self._flow.received(received, self._expected)
                yield chunk
        except (httpx.TransportError, TimeoutError, asyncio.CancelledError):
            await asyncio.shield(self._flow.broke_off())
            raise

    async def aclose(self) -> None:
        # The last thing that httpx does before it hands a body over, and the first when its reader wants no more of it.
        try:
            await self._inner.aclose()
        finally:
            task = asyncio.current_task()
            if self._flow.is_lost or (task is not None and task.cancelling()):
                await asyncio.shield(self._flow.broke_off())
            else:
                await self._flow.delivered()


class _WatchedSync(httpx.SyncByteStream):
    """The same for a synchronous response."""

    def __init__(self, response: httpx.Response, flow: PurchaseFlow, loop: BackgroundLoop) -> None:
        assert isinstance(response.stream, httpx.SyncByteStream)
        self._inner, self._flow, self._loop = response.stream, flow, loop
        self._expected = _length(response)

    def __iter__(self) -> Iterator[bytes]:
        received = 0
        try:
            for chunk in self._inner:
                received += len(chunk)
                self._flow.received(received, self._expected)
                yield chunk
        except (httpx.TransportError, TimeoutError, KeyboardInterrupt):
            self._loop.run(self._flow.broke_off)
            raise

    def close(self) -> None:
        try:
            self._inner.close()
        finally:
            if self._flow.is_delivering:
                self._loop.run(self._flow.broke_off if self._flow.is_lost else self._flow.delivered)


def _length(response: httpx.Response) -> int | None:
    text = response.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
