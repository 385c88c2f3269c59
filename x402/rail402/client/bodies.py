"""Reading a body that a stranger sends: bounded in size, in what it can grow to, and in time."""

from __future__ import annotations

import asyncio
import time
import zlib
from typing import Final

import httpx

__all__ = ["READ_SECONDS", "beginning", "decoded", "encoding_of", "read_async", "read_sync"]

READ_SECONDS: Final = 10
"""Seconds after which a body that still trickles in is given up."""

_WINDOW: Final = zlib.MAX_WBITS
_ZLIB: Final = {"gzip": (_WINDOW | 16,), "x-gzip": (_WINDOW | 16,), "deflate": (_WINDOW, -_WINDOW)}
_OTHERS: Final = frozenset({"br", "zstd"})
# These are undone byte by byte, which bounds what one step can grow to, and takes its time.
_MAX_OTHERS: Final = 16_384


async def read_async(response: httpx.Response, limit: int) -> bytes | None:
    """Read and close a body; None where it is larger than `limit` bytes, or slower than `READ_SECONDS`."""
    raw = bytearray()
    try:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in response.stream:
                raw += chunk
                if len(raw) > limit:
                    return None
    except TimeoutError:
        return None
    finally:
        await response.aclose()
    return decoded(encoding_of(response), bytes(raw), limit)


def read_sync(response: httpx.Response, limit: int) -> bytes | None:
    """The same for a synchronous response. The wait for each piece is bounded by the request's own time-outs."""
    raw, until = bytearray(), time.monotonic() + READ_SECONDS
    try:
        assert isinstance(response.stream, httpx.SyncByteStream)
        for chunk in response.stream:
            raw += chunk
            if len(raw) > limit or time.monotonic() > until:
                return None
    finally:
        response.close()
    return decoded(encoding_of(response), bytes(raw), limit)


def decoded(encoding: str, raw: bytes, limit: int) -> bytes | None:
    """Undo the content coding; None where that makes it too large, nothing where it cannot be undone.

    Args:
        encoding: the value of `Content-Encoding`. Several codings in a row are not undone: no server needs them, and
            each one multiplies what a small body can grow to.
        raw: the body as it came.
        limit: bytes.
    """
    body = beginning(encoding, raw, limit)
    return body if len(body) <= limit else None


def beginning(encoding: str, raw: bytes, limit: int) -> bytes:
    """Undo the content coding of a body, or of the beginning of one: at most one byte more than `limit`. The arguments
    are those of `decoded`."""
    coding = encoding.strip().lower()
    if coding in ("", "identity"):
        return raw[: limit + 1]
    if coding in _ZLIB:
        return _inflated(raw, _ZLIB[coding], limit)
    if coding in _OTHERS and len(raw) <= _MAX_OTHERS:
        return _by_httpx(coding, raw, limit)
    return b""


def encoding_of(response: httpx.Response) -> str:
    """Return a response's content codings, as `decoded` takes them."""
    return ", ".join(response.headers.get_list("content-encoding"))


def _inflated(raw: bytes, windows: tuple[int, ...], limit: int) -> bytes:
    for window in windows:  # some servers mean the bare format when they say deflate
        try:
            return zlib.decompressobj(window).decompress(raw, limit + 1)
        except zlib.error:
            continue
    return b""


def _by_httpx(coding: str, raw: bytes, limit: int) -> bytes:
    """Undo a coding for which httpx needs another package; without it httpx passes the body on as it is."""
    body, pieces = bytearray(), (raw[at : at + 1] for at in range(len(raw)))
    try:
        for chunk in httpx.Response(200, headers={"Content-Encoding": coding}, content=pieces).iter_bytes():
            body += chunk
            if len(body) > limit:
                break
    except httpx.DecodingError:
        return b""
    return bytes(body[: limit + 1])
