"""The ways in which a call goes wrong; see `rail402.testing.faults`."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from html import escape
from typing import Any, Final

import httpx

from rail402.testing.fault_transport import Call, Exchange, Fault, Pieces

__all__ = [
    "ANSWER_LOST",
    "FAULTS",
    "clock_jump",
    "delayed",
    "json_rpc_methods",
    "members_of",
    "too_many_requests",
    "with_other_type",
    "without",
]

HUGE: Final = 64 << 20
"""Bytes of the huge body."""

_PIECE: Final = b"x" * (64 << 10)
_TRICKLE_SECONDS: Final = 4
_ABSURD: Final = "99999999999999999999999999"


def json_rpc_methods(request: httpx.Request) -> tuple[str, str]:
    """Name a JSON-RPC request by its methods, in order: `("POST", "eth_chainId,eth_call")`."""
    asked = json.loads(request.content)
    calls = asked if isinstance(asked, list) else [asked]
    return request.method, ",".join(str(each.get("method")) for each in calls)


# --- the service never gets it


async def _refused(exchange: Exchange) -> httpx.Response:
    raise httpx.ConnectError("Connection refused", request=exchange.request) from ConnectionRefusedError(111, "refused")


async def _no_such_host(exchange: Exchange) -> httpx.Response:
    cause = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    raise httpx.ConnectError(str(cause), request=exchange.request) from cause


async def _tls(exchange: Exchange) -> httpx.Response:
    cause = ssl.SSLCertVerificationError(1, "certificate verify failed: certificate has expired")
    cause.verify_code, cause.verify_message = 10, "certificate has expired"
    raise httpx.ConnectError(str(cause), request=exchange.request) from cause


async def _connect_timeout(exchange: Exchange) -> httpx.Response:
    await exchange.sleep(exchange.seconds("connect"))
    raise httpx.ConnectTimeout("", request=exchange.request)


async def _timeout_before(exchange: Exchange) -> httpx.Response:
    await exchange.sleep(exchange.seconds("read"))
    raise httpx.ReadTimeout("", request=exchange.request)


async def _reset_before(exchange: Exchange) -> httpx.Response:
    raise httpx.WriteError("Connection reset by peer", request=exchange.request)


def delayed(seconds: float) -> Fault:
    """The caller waits in vain, and the service gets the request that much later than it gave up."""

    async def behave(exchange: Exchange) -> httpx.Response:
        async def arrive() -> None:
            await exchange.sleep(seconds)
            await exchange.deliver()

        patience = exchange.seconds("read")
        late = asyncio.create_task(arrive())
        _on_their_way.add(late)
        late.add_done_callback(_on_their_way.discard)
        await exchange.sleep(min(patience, seconds))
        raise httpx.ReadTimeout("", request=exchange.request)

    return Fault(f"arrives {seconds:g} s late", behave)


_on_their_way: Final[set[asyncio.Task[None]]] = set()


# --- the service has carried it out, and nothing of that comes back


async def _answer_lost(exchange: Exchange) -> httpx.Response:
    await exchange.deliver()
    await exchange.sleep(exchange.seconds("read"))
    raise httpx.ReadTimeout("", request=exchange.request)


async def _reset_after(exchange: Exchange) -> httpx.Response:
    await exchange.deliver()
    raise httpx.ReadError("Connection reset by peer", request=exchange.request)


async def _closed_after(exchange: Exchange) -> httpx.Response:
    await exchange.deliver()
    raise httpx.RemoteProtocolError("Server disconnected without sending a response.", request=exchange.request)


# --- something answers in its place, before it or after it has carried it out

_Answering = Callable[[Exchange], httpx.Response]


def _instead(name: str, answering: _Answering) -> Iterator[Fault]:
    async def before(exchange: Exchange) -> httpx.Response:
        return answering(exchange)

    async def after(exchange: Exchange) -> httpx.Response:
        await exchange.deliver()
        return answering(exchange)

    yield Fault(name, before)
    yield Fault(f"{name}, carried out", after)


def _page(exchange: Exchange, title: str) -> bytes:
    """A page that repeats all that was sent, secrets included."""
    request = exchange.request
    fields = "\n".join(f"{name}: {value}" for name, value in request.headers.items())
    sent = f"{request.method} {request.url}\n{fields}\n\n{request.content.decode(errors='replace')}"
    return f"<!doctype html><title>{title}</title><pre>{escape(sent)}</pre>".encode()


def _html(status: int, title: str) -> _Answering:
    def answering(exchange: Exchange) -> httpx.Response:
        headers = {"Content-Type": "text/html"}
        return httpx.Response(status, headers=headers, stream=Pieces(_page(exchange, title)))

    return answering


def _failed(exchange: Exchange) -> httpx.Response:
    said = {"error": _page(exchange, "Internal Server Error").decode(), "message": "internal server error", "code": 13}
    return httpx.Response(500, json=said)


def _forbidden(exchange: Exchange) -> httpx.Response:
    said = {"detail": _page(exchange, "Forbidden").decode(), "message": "Forbidden", "code": 7}
    return httpx.Response(403, json=said)


def _content(content: bytes) -> _Answering:
    headers = {"Content-Type": "application/json"}
    return lambda exchange: httpx.Response(200, headers=headers, stream=Pieces(content))


def _redirect(exchange: Exchange) -> httpx.Response:
    return httpx.Response(302, headers={"Location": f"https://elsewhere.example{exchange.request.url.path}"})


def _limited(retry_after: str) -> _Answering:
    def answering(exchange: Exchange) -> httpx.Response:
        headers = {"Retry-After": retry_after, "Content-Type": "text/html"}
        return httpx.Response(429, headers=headers, stream=Pieces(_page(exchange, "Too Many Requests")))

    return answering


def too_many_requests(retry_after: str, *, named: str = "") -> Fault:
    """It answers 429 and does nothing; `retry_after` may be anything that a header can say."""
    return next(_instead(f"429, Retry-After {named or retry_after}", _limited(retry_after)))


# --- its own answer is spoilt on the way back


def _spoilt(name: str, spoil: Callable[[Exchange, bytes], httpx.AsyncByteStream]) -> Fault:
    async def behave(exchange: Exchange) -> httpx.Response:
        response = await exchange.deliver()
        content = await response.aread()
        headers = [(name, value) for name, value in response.headers.items() if name.lower() not in _LENGTHS]
        return httpx.Response(response.status_code, headers=headers, stream=spoil(exchange, content))

    return Fault(name, behave)


_LENGTHS: Final = ("content-length", "transfer-encoding")


class _Trickling(httpx.AsyncByteStream):
    """A body of which a little comes before every timeout: in `pieces` pieces, or never the whole of it."""

    def __init__(self, exchange: Exchange, content: bytes, *, pieces: int, stalls: bool) -> None:
        self._exchange, self._content, self._pieces, self._stalls = exchange, content, pieces, stalls

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = len(self._content) // self._pieces + 1
        for start in range(0, len(self._content), size):
            if self._stalls and start + size >= len(self._content):
                await self._exchange.sleep(self._exchange.seconds("read"))
                raise httpx.ReadTimeout("", request=self._exchange.request)
            await self._exchange.sleep(_TRICKLE_SECONDS)
            yield self._content[start : start + size]


class _CutOff(httpx.AsyncByteStream):
    def __init__(self, exchange: Exchange, content: bytes) -> None:
        self._exchange, self._content = exchange, content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content[: len(self._content) // 2]
        said = "peer closed connection without sending complete message body"
        raise httpx.RemoteProtocolError(said, request=self._exchange.request)


class _Huge(httpx.AsyncByteStream):
    """JSON that goes on and on."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b'{"pad": "'
        for _ in range(HUGE // len(_PIECE)):
            yield _PIECE
        yield b'"}'


# --- answers that are whole, and wrong


def members_of(document: object, depth: int = 3) -> list[str]:
    """Return the path of every member of a JSON document, such as `data.0.id`, down to that depth."""
    if depth == 0:
        return []
    children: list[tuple[str, object]] = []
    if isinstance(document, Mapping):
        children = [(str(name), value) for name, value in document.items() if "." not in str(name)]
    elif isinstance(document, list):
        children = [(str(number), value) for number, value in enumerate(document)]
    paths = []
    for name, value in children:
        paths += [name, *(f"{name}.{each}" for each in members_of(value, depth - 1))]
    return paths


def without(member: str) -> Fault:
    """The answer lacks a member; see `members_of`."""
    return _changed(f"without {member}", member, lambda container, name: container.pop(name))


def with_other_type(member: str) -> Fault:
    """A member of the answer has another type than it had: a text becomes an object, anything else a text."""

    def change(container: Any, name: str | int) -> None:
        container[name] = {"unexpected": True} if isinstance(container[name], str) else "unexpected"

    return _changed(f"{member} of another type", member, change)


def _changed(name: str, member: str, change: Callable[[Any, str | int], object]) -> Fault:
    async def behave(exchange: Exchange) -> httpx.Response:
        response = await exchange.deliver()
        lines = (await response.aread()).split(b"\n")  # some services send one document a line
        changed = b"\n".join(_edited(line, member, change) for line in lines)
        headers = [(name, value) for name, value in response.headers.items() if name.lower() not in _LENGTHS]
        return httpx.Response(response.status_code, headers=headers, stream=Pieces(changed))

    return Fault(name, behave)


def _edited(line: bytes, member: str, change: Callable[[Any, str | int], object]) -> bytes:
    try:
        document = json.loads(line)
    except ValueError:
        return line
    *parents, last = [int(step) if step.isdigit() else step for step in member.split(".")]
    container: Any = document
    try:
        for step in parents:
            container = container[step]
        change(container, last)
    except (LookupError, TypeError):  # this document has no such member
        return line
    return json.dumps(document).encode()


async def _twice(exchange: Exchange) -> httpx.Response:
    await exchange.deliver()
    return await exchange.deliver()


async def _stale(exchange: Exchange) -> httpx.Response:
    """Answer as the same call was answered before; where there was none, as usual."""
    mine = (exchange.call.method, exchange.call.path)
    answer = await exchange.deliver()
    return next((each.answer() for each in exchange.earlier if (each.method, each.path) == mine), answer)


async def _mixed_up(exchange: Exchange) -> httpx.Response:
    """Answer as the most similar call about something else was answered; where there was no other call, as usual."""
    mine, answer = exchange.call, await exchange.deliver()
    others = [each for each in exchange.earlier if (each.method, each.path) != (mine.method, mine.path)]
    if not others:
        return answer
    return max(others, key=lambda other: _likeness(mine, other)).answer()  # of those that are as similar the latest


def _likeness(one: Call, other: Call) -> tuple[bool, int]:
    mine, theirs = one.path.split("/"), other.path.split("/")
    same = sum(each == another for each, another in zip(mine, theirs, strict=False))
    return (one.method, len(mine)) == (other.method, len(theirs)), same


def clock_jump(seconds: int) -> Fault:
    """The call goes well, and the caller's clock jumps while it waits: forward, or back by a negative number."""

    async def behave(exchange: Exchange) -> httpx.Response:
        response = await exchange.deliver()
        exchange.jump(seconds)
        return response

    return Fault(f"clock jumps {seconds:+d} s", behave)


ANSWER_LOST: Final = Fault("answer lost", _answer_lost)
"""The service has carried the request out, and the caller waits for the answer until it gives up."""


def _all() -> Iterator[Fault]:
    yield Fault("connection refused", _refused)
    yield Fault("no such host", _no_such_host)
    yield Fault("certificate expired", _tls)
    yield Fault("connect timeout", _connect_timeout)
    yield Fault("timeout, never arrived", _timeout_before)
    yield Fault("reset, never arrived", _reset_before)
    yield delayed(90)
    yield ANSWER_LOST
    yield Fault("reset, carried out", _reset_after)
    yield Fault("closed, carried out", _closed_after)
    yield from _instead("500 JSON", _failed)
    yield from _instead("502 page", _html(502, "Bad Gateway"))
    yield from _instead("404 page", _html(404, "Not Found"))
    yield from _instead("403 JSON", _forbidden)
    yield from _instead("200 page", _html(200, "Welcome"))
    yield from _instead("empty body", _content(b""))
    yield from _instead("redirect to another host", _redirect)
    yield from _instead("429, Retry-After 2", _limited("2"))
    yield too_many_requests("Fri, 31 Dec 1999 23:59:59 GMT", named="a date")
    yield too_many_requests(_ABSURD, named="absurd")
    yield _spoilt("slow body", lambda exchange, content: _Trickling(exchange, content, pieces=4, stalls=False))
    yield _spoilt("endless body", lambda exchange, content: _Trickling(exchange, content, pieces=200, stalls=False))
    yield _spoilt("body stalls", lambda exchange, content: _Trickling(exchange, content, pieces=2, stalls=True))
    yield _spoilt("body cut off", _CutOff)
    yield _spoilt("truncated JSON", lambda exchange, content: Pieces(content[: len(content) // 2]))
    yield _spoilt("huge body", lambda exchange, content: _Huge())
    yield _spoilt("null", lambda exchange, content: Pieces(b"null"))
    yield _spoilt("empty object", lambda exchange, content: Pieces(b"{}"))
    yield _spoilt("nested too deep", lambda exchange, content: Pieces(b"[" * 100_000))
    yield Fault("delivered twice", _twice)
    yield Fault("answer of earlier", _stale)
    yield Fault("answer to another call", _mixed_up)


FAULTS: Final[Mapping[str, Fault]] = {fault.name: fault for fault in _all()}
"""By name, all those that need no argument."""
