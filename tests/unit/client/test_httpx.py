"""What is particular to the two transports: copies of requests, redirects, streams that are watched."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from rail402.client.commands import Send
from rail402.client.httpx import _outgoing, _seen
from tests.unit.client.shop import URL, Market, Pieces


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
