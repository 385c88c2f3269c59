"""Requests as bytes on a socket, to our own app on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

__all__ = ["connect", "exchange", "head"]


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the app."""
    return await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)


def head(
    method: str, target: str, fields: Mapping[str, str] | Iterable[tuple[str, str]] = (), host: str = "testserver"
) -> bytes:
    """The head of a request, with fields that are written as they are."""
    lines = list(fields.items()) if isinstance(fields, Mapping) else list(fields)
    written = "".join(f"{name}: {value}\r\n" for name, value in [("Host", host), *lines])
    return f"{method} {target} HTTP/1.1\r\n{written}\r\n".encode("latin-1")


async def exchange(port: int, data: bytes, *, seconds: float = 10) -> tuple[int, dict[str, str], bytes]:
    """Send bytes, and return the status, the fields and the body of the first answer; status 0 where there is none."""
    reader, writer = await connect(port)
    try:
        async with asyncio.timeout(seconds):
            writer.write(data)
            try:
                answer = b"HTTP/1.1 100"
                while answer.startswith(b"HTTP/1.1 1"):  # what comes before the answer
                    answer = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return 0, {}, b""
            first, *lines = answer.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            length = int(fields.get("content-length", "0"))
            body = b"" if data.startswith(b"HEAD ") else await reader.readexactly(length)
            return int(first.split(" ")[1]), fields, body
    finally:
        writer.close()
