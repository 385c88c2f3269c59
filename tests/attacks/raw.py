"""An HTTP/1.1 server that sends whatever bytes a test wants, on a loopback port, and keeps what it was sent.

It parses as little as it can: what arrives is there byte for byte, and nothing corrects what leaves.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

__all__ = ["Connection", "Handler", "RawRequest", "RawServer", "answer", "challenge", "fake_terms"]


@dataclass(frozen=True)
class RawRequest:
    """A request as it came: the head's lines and the body, undecoded."""

    method: str
    target: str
    lines: tuple[bytes, ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a field, None where it is not there."""
        for line in self.lines:
            key, _, value = line.partition(b":")
            if key.strip().lower() == name.lower().encode():
                return value.strip().decode("latin-1")
        return None

    @property
    def proof(self) -> str | None:
        """The payment in it, of whichever dialect."""
        authorization = self.header("authorization") or ""
        if authorization.lower().startswith("payment "):
            return authorization
        names = ("payment-signature", "x-payment", "payment-authorization", "x-receipt")
        return next((value for name in names if (value := self.header(name)) is not None), None)


class Connection:
    """The client's connection, to write raw bytes to. Everything that a client does not wait for is dropped."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer, self.sent = writer, 0

    async def write(self, data: bytes) -> bool:
        """Send bytes; False where the client has gone."""
        with suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()
            self.sent += len(data)
            return True
        return False

    @property
    def is_open(self) -> bool:
        """Whether the client is still there, as far as is known."""
        return not self._writer.is_closing()


Handler = Callable[[RawRequest, Connection], Awaitable[bytes | None]]
"""Returns the bytes of a response; None where it has written them itself, and the connection is to be closed."""


@dataclass
class RawServer:
    """Serves on a free port of 127.0.0.1 for as long as it is open.

    Attributes:
        requests: everything that came in, in order.
    """

    handler: Handler
    requests: list[RawRequest] = field(default_factory=list)
    port: int = 0

    async def __aenter__(self) -> Self:
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Its origin."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def proofs(self) -> list[str]:
        """The payments that were presented, in order."""
        return [request.proof for request in self.requests if request.proof is not None]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the test is over
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
            method, target, _ = first.decode("latin-1").split(" ", 2)
            request = RawRequest(method, target, tuple(lines), b"")
            body = await _body(reader, request)
            request = RawRequest(method, target, tuple(lines), body)
            self.requests.append(request)
            data = await self.handler(request, Connection(writer))
            if data is None:
                return
            writer.write(data)
            await writer.drain()


async def _body(reader: asyncio.StreamReader, request: RawRequest) -> bytes:
    if "chunked" in (request.header("transfer-encoding") or ""):
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
        return body
    return await reader.readexactly(int(request.header("content-length") or 0))


def answer(
    status: int, fields: Sequence[tuple[str, str]] = (), body: bytes = b"", *, length: int | None = None
) -> bytes:
    """The bytes of a response; `length` is what its Content-Length says, if not the truth."""
    head = [f"HTTP/1.1 {status} -", *(f"{name}: {value}" for name, value in fields)]
    head.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def challenge(
    *terms: Mapping[str, Any], body: bytes = b"", extra: Sequence[tuple[str, str]] = (), **said: Any
) -> bytes:
    """A 402 that asks for those `accepts` in x402 version 2; `said` are further members of its message."""
    message = {"x402Version": 2, "resource": {"url": "https://shop.test/"}, "accepts": list(terms), **said}
    value = base64.b64encode(json.dumps(message).encode()).decode()
    return answer(402, [("PAYMENT-REQUIRED", value), *extra], body)


def fake_terms(amount: object = "3000", **changes: Any) -> dict[str, Any]:
    """Terms that a `FakeWallet` can pay, of an amount in 10^-6 dollars, with members changed."""
    terms = {
        "scheme": "exact",
        "network": "fake:fake",
        "asset": "usd",
        "amount": amount,
        "payTo": "shop",
        "maxTimeoutSeconds": 60,
        "extra": {"paymentFlow": "upfront"},
    }
    return terms | changes
