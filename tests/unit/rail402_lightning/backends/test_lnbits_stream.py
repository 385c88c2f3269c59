"""Waiting by the websocket of LNbits, which may lie, break, hang or not be there; on a loopback port."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.server import Request, Response, ServerConnection, serve

from rail402.errors import RailUnavailable
from rail402_lightning.backends.lnbits import LnbitsReceiver
from tests.unit.rail402_lightning.backends.certificates import Certificate
from tests.unit.rail402_lightning.backends.fake_lnbits import INVOICE_KEY, FakeLnbits, Step, found, row
from tests.unit.rail402_lightning.invoices import HASH

Handler = Callable[[ServerConnection], Awaitable[None]]
OPEN, PAID = found(row("pending")), found(row("success"))


async def silent(connection: ServerConnection) -> None:
    await connection.wait_closed()


def saying(*messages: str | bytes) -> Handler:
    async def say(connection: ServerConnection) -> None:
        for message in messages:
            await connection.send(message)
        await connection.wait_closed()

    return say


async def hanging_up(connection: ServerConnection) -> None:
    await connection.close()


async def breaking_off(connection: ServerConnection) -> None:
    connection.transport.abort()


@asynccontextmanager
async def lnbits(handler: Handler, *, below: str = "", **options: Any) -> AsyncIterator[tuple[str, list[Request]]]:
    """An LNbits of which only the websocket is there; yields its address and the requests that came."""
    asked: list[Request] = []

    async def handle(connection: ServerConnection) -> None:
        assert connection.request is not None
        asked.append(connection.request)
        await handler(connection)

    async with serve(handle, "127.0.0.1", 0, **options) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"http://127.0.0.1:{port}{below}", asked


def receiver(url: str, *look: Step) -> tuple[LnbitsReceiver, FakeLnbits]:
    fake = FakeLnbits()
    fake.look.extend(look or [OPEN])
    return LnbitsReceiver(url, INVOICE_KEY, transport=fake.transport), fake


async def time_of(waiting: Awaitable[None]) -> float:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await waiting
    return loop.time() - begun


@pytest.mark.parametrize("below", ["", "/node", "/node/"])
async def test_it_listens_for_the_invoice_and_tells_nobody_the_key(below: str) -> None:
    async with lnbits(saying('{"pending": false, "status": "success"}'), below=below) as (url, asked):
        receiving, fake = receiver(url)
        assert await time_of(receiving.wait(HASH, seconds=5)) < 0.9  # no poll

    (request,) = asked
    assert request.path == f"{below.rstrip('/')}/api/v1/ws/{HASH.hex()}"
    assert INVOICE_KEY not in str(request)
    assert len(fake.requests) == 1


@pytest.mark.parametrize("message", ["", "not JSON", b"\x00", '{"pending": true}', "[" * 10_000])
async def test_whatever_it_says_is_a_hint_to_look(message: str | bytes) -> None:
    async with lnbits(saying(message)) as (url, _):
        receiving, _ = receiver(url)

        assert await time_of(receiving.wait(HASH, seconds=5)) < 2
        status = await receiving.status(HASH)

    assert status is not None
    assert status.state == "open"


async def test_silence_ends_with_the_time_and_costs_one_look() -> None:
    async with lnbits(silent) as (url, _):
        receiving, fake = receiver(url)
        took = await time_of(receiving.wait(HASH, seconds=0.2))

    assert 0.19 < took < 1.5
    assert len(fake.requests) == 1


async def test_what_was_paid_before_the_stream_was_open_is_not_missed() -> None:
    async with lnbits(silent) as (url, _):
        receiving, _ = receiver(url, PAID)

        assert await time_of(receiving.wait(HASH, seconds=30)) < 5


def refuse(_: ServerConnection, request: Request) -> Response:
    return Response(HTTPStatus.BAD_GATEWAY, "no", request.headers.__class__())


@pytest.mark.parametrize(
    ("handler", "options"),
    [
        (hanging_up, {}),
        (breaking_off, {}),
        (saying("x" * (1 << 17)), {}),  # more than is read
        (silent, {"process_request": refuse}),
    ],
    ids=["closed", "broken", "too long", "no websockets here"],
)
async def test_a_stream_that_is_lost_makes_for_a_slow_poll(
    handler: Handler, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with lnbits(handler, **options) as (url, _):
        receiving, fake = receiver(url)
        with caplog.at_level(logging.WARNING, "rail402.lightning"):
            took = await time_of(receiving.wait(HASH, seconds=0.3)) + await time_of(receiving.wait(HASH, seconds=0.3))

    assert 0.5 < took < 2  # it rests, and no longer than it was given
    assert len(fake.requests) <= 2
    assert caplog.text.count("payments are polled for") == 1


async def test_nobody_there_never_raises() -> None:
    async with lnbits(silent) as (url, _):
        pass
    receiving, _ = receiver(url)

    assert 0.19 < await time_of(receiving.wait(HASH, seconds=0.2)) < 1.5


async def test_a_rest_that_fails_never_raises_either() -> None:
    async with lnbits(silent) as (url, _):
        receiving, _ = receiver(url, httpx.ConnectError("x"))

        assert 0.19 < await time_of(receiving.wait(HASH, seconds=0.2)) < 1.5


async def test_a_server_that_never_answers_the_handshake_is_given_up() -> None:
    ended = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the client hangs up
        writer.close()
        await writer.wait_closed()
        ended.set()

    async with await asyncio.start_server(mute, "127.0.0.1", 0) as server:
        receiving, _ = receiver(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert await time_of(receiving.wait(HASH, seconds=0.2)) < 2
        await asyncio.wait_for(ended.wait(), 5)


async def test_who_stops_waiting_leaves_nothing_open() -> None:
    closed = asyncio.Event()

    async def watch(connection: ServerConnection) -> None:
        await connection.wait_closed()
        closed.set()

    async with lnbits(watch) as (url, asked):
        receiving, fake = receiver(url)
        waiting = asyncio.create_task(receiving.wait(HASH, seconds=30))
        while not (asked and fake.requests):  # noqa: ASYNC110 - two sides to wait for
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.wait_for(closed.wait(), 5)


# TLS.


@pytest.mark.parametrize(
    ("expired", "trusted", "why"),
    [(True, True, "certificate has expired"), (False, False, "self-signed|self signed")],
    ids=["expired", "unknown"],
)
async def test_a_bad_certificate_is_named_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expired: bool, trusted: bool, why: str
) -> None:
    certificate = Certificate(tmp_path / "tls", valid=(-2, -1) if expired else (-1, 1))
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.path))
    async with lnbits(saying("hint"), ssl=certificate.context) as (url, _):
        receiving = LnbitsReceiver(url.replace("http:", "https:"), INVOICE_KEY)
        with pytest.raises(RailUnavailable, match=f"certificate is refused .*({why}).*have it renewed"):
            await receiving.start()
        await receiving.wait(HASH, seconds=0.1)
        await receiving.close()


async def test_the_stream_trusts_what_the_rest_trusts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = Certificate(tmp_path / "tls")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.path))
    async with lnbits(saying("hint"), ssl=certificate.context) as (url, asked):
        receiving, _ = receiver(url.replace("http:", "https:"))
        await receiving.wait(HASH, seconds=5)

    assert len(asked) == 1
