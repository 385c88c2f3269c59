"""Bodies that strangers send: bounded in size, in what they grow to, and in time."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from rail402.client.bodies import decoded, read_async, read_sync
from tests.unit.client.shop import Pieces


async def read(kind: str, response: httpx.Response, limit: int) -> bytes | None:
    return await read_async(response, limit) if kind == "async" else read_sync(response, limit)


async def test_a_body_is_read_up_to_its_limit_and_closed(kind: str) -> None:
    stream = Pieces(b"four", b"four", b"four")
    assert await read(kind, httpx.Response(402, stream=stream), 12) == b"four" * 3
    assert stream.closed
    stream = Pieces(*[b"four"] * 1000)
    assert await read(kind, httpx.Response(402, stream=stream), 11) is None
    assert (stream.given, stream.closed) == (3, True)


async def test_a_body_that_trickles_in_is_given_up(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Pieces):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.Event().wait()

        def __iter__(self) -> Iterator[bytes]:
            for _ in range(10**6):
                self.given += 1
                yield b""

    monkeypatch.setattr("rail402.client.bodies.READ_SECONDS", 0.01)
    stream = Slow()
    assert await read(kind, httpx.Response(402, stream=stream), 100) is None
    assert stream.closed
    assert stream.given < 10**6


def test_a_coding_is_undone() -> None:
    raw = b'{"a": 1}'
    assert decoded("", raw, 100) == decoded(" Identity ", raw, 100) == raw
    assert decoded("gzip", gzip.compress(raw), 100) == decoded("X-Gzip", gzip.compress(raw), 100) == raw
    assert decoded("deflate", zlib.compress(raw), 100) == raw
    bare = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    assert decoded("deflate", bare.compress(raw) + bare.flush(), 100) == raw


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_what_grows_beyond_the_limit_is_none(coding: str) -> None:
    body = gzip.compress(bytes(50_000_000)) if coding == "gzip" else zlib.compress(bytes(50_000_000))
    assert decoded(coding, body, 1000) is None
    exactly = gzip.compress(bytes(1000)) if coding == "gzip" else zlib.compress(bytes(1000))
    assert decoded(coding, exactly, 1000) == bytes(1000)
    assert decoded(coding, exactly, 999) is None


@pytest.mark.parametrize("coding", ["gzip, gzip", "gzip,", "compress", "\xff", "x" * 9999, "deflate, br"])
def test_what_cannot_be_undone_is_nothing(coding: str) -> None:
    assert decoded(coding, gzip.compress(gzip.compress(b"x")), 100) == b""


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_junk_is_nothing(coding: str) -> None:
    assert decoded(coding, b"\x1f\x8bjunk", 100) == b""


class Growing:
    """A decoder as httpx has them: every byte grows to a million."""

    steps = 0

    def decode(self, data: bytes) -> bytes:
        Growing.steps += 1
        if data == b"!":
            raise httpx.DecodingError("no")
        return bytes(1_000_000 * len(data))

    def flush(self) -> bytes:
        return b""


def test_other_codings_grow_by_one_byte_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(httpx._decoders.SUPPORTED_DECODERS, "br", Growing)  # type: ignore[arg-type]
    assert decoded("br", b"x" * 500, 1_500_000) is None
    assert Growing.steps == 2
    assert decoded("br", b"x", 1_500_000) == bytes(1_000_000)
    assert decoded("br", b"!", 100) == b""
    assert decoded("br", b"x" * 16_385, 100) == b""
