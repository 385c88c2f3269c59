"""What is particular to the two transports: copies of requests, bodies that are read, streams that are watched."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from rail402.client.commands import Read, Send
from rail402.client.httpx import _outgoing, _read_async, _read_sync, _reply, _seen
from tests.unit.client.shop import URL, Market


class Pieces(httpx.AsyncByteStream, httpx.SyncByteStream):
    """A body in pieces; counts what was asked for."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces, self.given, self.closed = pieces, 0, False

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            self.given += 1
            yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


async def read(kind: str, response: httpx.Response, limit: int) -> bytes | None:
    command = Read(_reply(response), limit)
    return await _read_async(command) if kind == "async" else _read_sync(command)


async def test_a_body_is_read_up_to_its_limit_and_closed(kind: str) -> None:
    stream = Pieces(b"four", b"four", b"four")
    assert await read(kind, httpx.Response(402, stream=stream), 12) == b"four" * 3
    assert stream.closed
    stream = Pieces(*[b"four"] * 1000)
    assert await read(kind, httpx.Response(402, stream=stream), 11) is None
    assert (stream.given, stream.closed) == (3, True)


async def test_a_compressed_body_counts_as_what_it_grows_to(kind: str) -> None:
    def answer(body: bytes) -> httpx.Response:
        return httpx.Response(402, headers={"Content-Encoding": "gzip"}, stream=Pieces(body))

    assert await read(kind, answer(gzip.compress(b"{}")), 100) == b"{}"
    assert await read(kind, answer(gzip.compress(b"0" * 50_000_000)), 1_048_576) is None
    assert await read(kind, answer(b"\x1f\x8bnot gzip"), 100) == b""


@pytest.mark.parametrize(
    ("url", "origin", "whole"),
    [
        ("HTTPS://Shop.Test:443/a%2Fb?q=%20#part", "https://shop.test", "https://shop.test/a%2Fb?q=%20"),
        ("http://shop.test:8080", "http://shop.test:8080", "http://shop.test:8080/"),
        ("https://user:pass@b\u00fccher.test/", "https://xn--bcher-kva.test", "https://xn--bcher-kva.test/"),
    ],
)
def test_the_order_is_what_is_sent(url: str, origin: str, whole: str) -> None:
    request = _seen(httpx.Request("get", url))
    assert (request.method, request.origin, request.url, request.body) == ("GET", origin, whole, b"")


def test_a_payment_is_added_to_a_copy() -> None:
    timeout = {"timeout": {"read": 3}}
    request = httpx.Request("POST", "https://shop.test/", headers={"X-Receipt": "old"}, json={}, extensions=timeout)
    before = list(request.headers.raw)
    copy = _outgoing(Send((("X-RECEIPT", "new"),)), request)
    assert copy.headers.get_list("x-receipt") == ["new"]
    assert (copy.read(), copy.extensions, copy.method, copy.url) == (b"{}", timeout, "POST", request.url)
    assert request.headers.raw == before


async def test_a_paid_body_streams_through(market: Market) -> None:
    sell, body = market.shop.handle, Pieces(b"one", b"two", b"three")

    async def handle(request: httpx.Request) -> httpx.Response:
        answer = await sell(request)
        return answer if answer.status_code == 402 else httpx.Response(200, stream=body)

    payer, seen = market.payer(), []
    if market.kind == "async":
        transport = payer.transport(httpx.MockTransport(handle))
        async with httpx.AsyncClient(transport=transport) as client, client.stream("GET", URL) as response:
            async for piece in response.aiter_raw():
                seen.append((piece, body.given))
    else:

        def work() -> None:
            inner = httpx.MockTransport(lambda request: asyncio.run(handle(request)))
            with httpx.Client(transport=payer.sync_transport(inner)) as client, client.stream("GET", URL) as response:
                seen.extend((piece, body.given) for piece in response.iter_raw())

        await asyncio.to_thread(work)
    assert seen == [(b"one", 1), (b"two", 2), (b"three", 3)]
    assert body.closed
    assert await market.states() == ["committed"]


async def test_errors_of_the_transport_pass_where_nothing_is_paid(market: Market) -> None:
    async def handle(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route")

    market.shop.handle = handle  # type: ignore[method-assign]
    with pytest.raises(httpx.ConnectError):
        await market.request(market.payer())


async def test_a_bug_in_a_wallet_leaves_the_purchase_open_and_free(market: Market) -> None:
    payer = market.payer()

    async def crash(name: str, key: str) -> None:
        if name == "pay":
            raise ZeroDivisionError

    market.ledger.before = crash
    with pytest.raises(ZeroDivisionError):
        await market.request(payer)
    market.ledger.before = None
    (record,) = await payer.journal.unresolved()
    assert (record.state, record.lease_until) == ("reserved", 0)
    assert (await market.request(payer)).text == "article 1"
    assert await market.states() == ["committed", "released"]


async def test_closing_a_client_leaves_the_payer_open(market: Market) -> None:
    closed = []

    class Inner(httpx.AsyncBaseTransport, httpx.BaseTransport):
        async def aclose(self) -> None:
            closed.append("async")

        def close(self) -> None:
            closed.append("sync")

    payer = market.payer()
    await payer.transport(Inner()).aclose()
    payer.sync_transport(Inner()).close()
    assert closed == ["async", "sync"]
    assert (await market.request(payer)).status_code == 200


def test_without_an_inner_transport_httpx_own_is_used(market: Market) -> None:
    payer: Any = market.payer()
    assert isinstance(payer.transport()._inner, httpx.AsyncHTTPTransport)
    transport = payer.sync_transport()
    assert isinstance(transport._inner, httpx.HTTPTransport)
    transport.close()
