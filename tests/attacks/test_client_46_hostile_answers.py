"""46: a 402 without terms, and answers that are huge, deep, endless, slow or no HTTP. Nothing is paid, nothing is held
up, nothing fills the memory."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from rail402.client.presenting import MAX_BODY
from rail402.errors import AdministrativePaymentRequired, ClientError, NoUsableOffer, PaymentOutcomeUnknown
from rail402.protocol.base import parse_json
from rail402.testing.fakes import FakeLedger, FakeSpec, FakeWallet
from tests.attacks.agents import Agent, OpenAgent
from tests.attacks.cases import Observe
from tests.attacks.raw import Connection, RawRequest, RawServer, answer, challenge, fake_terms

MEGABYTE = 1_048_576


def always(data: bytes) -> Any:
    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        return data

    return handle


async def is_not_paid(agent: Agent, handler: Any, kind: type[Exception] = AdministrativePaymentRequired) -> None:
    async with RawServer(handler) as server:
        with pytest.raises(kind) as caught:
            await agent.get(server.url)
        assert server.proofs == []
    assert getattr(caught.value, "outcome", "not_paid") == "not_paid"
    assert agent.signed == 0


# --- no terms


NO_TERMS = [
    *(b"", b"Your invoice is overdue", b"<html>402</html>", b"null", b"[]", b'"x"', b"{}", b"\xff\xfe", b"\0" * 999),
    *(b'{"error": "quota"}', b'{"accepts"', b'{"a": NaN}', b'{"a": 1e999}'),
]


@pytest.mark.parametrize("body", NO_TERMS)
async def test_an_administrative_402(agent: Agent, body: bytes, observed: Observe) -> None:
    await is_not_paid(agent, always(answer(402, [("Content-Type", "application/json")], body)), ClientError)
    observed("a 402 without terms is an error, and not paid")


async def test_other_statuses_are_handed_over_with_their_terms_unpaid(agent: Agent) -> None:
    for status in (200, 401, 403, 404, 407, 429, 500, 503):
        data = challenge(fake_terms()).replace(b"HTTP/1.1 402", f"HTTP/1.1 {status}".encode())
        async with RawServer(always(data)) as server:
            assert (await agent.get(server.url)).status_code == status
    assert agent.signed == 0


# --- size


async def pour(request: RawRequest, connection: Connection) -> bytes | None:
    """A 402 of 100 MB."""
    head = [("Content-Type", "application/json")]
    try:
        await connection.write(answer(402, head, b'{"payment": "', length=100 * MEGABYTE))
        while connection.sent < 100 * MEGABYTE and await connection.write(b"x" * 65_536):
            pass
    finally:
        poured.append(connection.sent)
    return None


poured: list[int] = []


async def test_a_hundred_megabytes_are_not_read(agent: Agent, observed: Observe) -> None:
    poured.clear()
    await is_not_paid(agent, pour)
    assert poured[0] < 16 * MEGABYTE, "what the sockets of both ends hold, and no more"
    observed("100 MB are not read")


async def test_terms_in_a_field_count_whatever_the_body_is(agent: Agent) -> None:
    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        return challenge(fake_terms(), body=b"x" * (MAX_BODY + 1)) if request.proof is None else answer(200, body=b"ok")

    async with RawServer(handle) as server:
        assert (await agent.get(server.url)).text == "ok"


ONCE = gzip.compress(bytes(64 * MEGABYTE))
BOMBS = {
    "gzip": ONCE,
    "deflate": zlib.compress(bytes(32 * MEGABYTE)),
    "gzip, gzip": gzip.compress(ONCE),
    "gzip, deflate, gzip": gzip.compress(zlib.compress(ONCE)),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("coding", BOMBS)
async def test_a_body_that_explodes(agent: Agent, coding: str, when: str, observed: Observe) -> None:
    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        if when == "after" and request.proof is None:
            return challenge(fake_terms())
        status = 402 if len(server.proofs) < 2 else 200
        return answer(status, [("Content-Encoding", coding if status == 402 else "identity")], BOMBS[coding])

    tracemalloc.start()
    try:
        async with RawServer(handle) as server:
            if when == "before":
                with pytest.raises(AdministrativePaymentRequired):
                    await agent.get(server.url)
            else:
                assert (await agent.get(server.url)).status_code == 200
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MEGABYTE
    observed("nor what is compressed into a bomb")


@pytest.mark.parametrize("coding", ["\xff\xfe", "gzip;q=1", "aes128gcm", "x" * 5000, ",", "gzip"])
async def test_a_coding_that_cannot_be_undone(agent: Agent, coding: str) -> None:
    await is_not_paid(agent, always(answer(402, [("Content-Encoding", coding)], b'{"type": "x402"}')))


def test_what_is_parsed_holds_nobody_up() -> None:
    """The worst JSON within the limit, against what the bare parser takes for it: our checks add a few times that, so
    it is the limit that bounds it."""
    worst = b'{"a":[' + b"[[[[]]]]," * (MAX_BODY // 9 - 2) + b"1]}"
    bare, ours = [], []
    for _ in range(5):
        bare.append(processor_seconds(lambda: json.loads(worst)))
        ours.append(processor_seconds(lambda: parse_json(worst, field="body", max_bytes=MAX_BODY)))
    assert min(ours) < 25 * min(bare)


def processor_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


# --- depth and shape


UNREADABLE = [
    *("[" * 60_000, '{"a":' * 20_000, '{"x402Version": 2, "accepts": ' + "[" * 33 + "]" * 33 + "}", '{"accepts": 7}'),
    *('{"x402Version": 2, "x402Version": 2, "accepts": []}', '{"x402Version": 1e999, "accepts": []}', "\ud83d", "{}"),
    *('{"accepts": [' + "9" * 5000 + "]}", '{"accepts": [null, 1, [], {}]}', '{"x402Version": true, "accepts": []}'),
]


@pytest.mark.parametrize("text", UNREADABLE, ids=range(len(UNREADABLE)))
async def test_terms_that_cannot_be_read(agent: Agent, text: str) -> None:
    encoded = text.encode("utf-8", "surrogatepass")
    field = base64.b64encode(encoded).decode()[:90_000]
    await is_not_paid(agent, always(answer(402, [("PAYMENT-REQUIRED", field)])), ClientError)
    await is_not_paid(agent, always(answer(402, [], encoded)), ClientError)


async def test_two_different_challenges_in_one_field(agent: Agent) -> None:
    first, second = (challenge(fake_terms(amount)).split(b"\r\n")[1] for amount in ("1", "2"))
    data = b"HTTP/1.1 402 -\r\n" + first + b"\r\n" + second + b"\r\nContent-Length: 0\r\n\r\n"
    await is_not_paid(agent, always(data), NoUsableOffer)


@pytest.mark.parametrize("kind", ["async"])
async def test_a_thousand_offers_ask_the_wallet_a_few_times(open_agent: OpenAgent) -> None:
    class Slow(FakeWallet):
        asked = 0

        async def can_pay(self, offer: Any) -> None:
            self.asked += 1

    ledger = FakeLedger()
    wallet = Slow(ledger, FakeSpec())
    agent = open_agent(ledger=ledger, wallets=[wallet])
    await is_not_paid(agent, always(challenge(*[fake_terms()] * 250)), NoUsableOffer)
    assert 0 < wallet.asked <= 16


async def test_an_offer_too_large_to_be_sent_back(agent: Agent) -> None:
    payment = {"network": "fake:fake", "amount": "1", "payee": "shop", "flow": "upfront", "timeout_seconds": 60}
    body = json.dumps({"type": "x402", "payment": {**payment, "padding": "x" * 70_000}}).encode()
    await is_not_paid(agent, always(answer(402, [], body)), NoUsableOffer)


# --- time


async def trickle(connection: Connection) -> None:
    """Send a body byte by byte for as long as anybody reads it."""
    for _ in range(10_000):
        if not await connection.write(b" "):
            return
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_body_that_trickles_in(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, when: str, observed: Observe
) -> None:
    monkeypatch.setattr("rail402.client.bodies.READ_SECONDS", 0.05)

    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        slow = request.proof is None if when == "before" else len(server.proofs) == 1
        if not slow:
            return answer(200, body=b"ok") if request.proof else challenge(fake_terms())
        head = challenge(fake_terms()).replace(b"Content-Length: 0", b"Content-Length: 999999")
        await connection.write(head)
        await trickle(connection)
        return None

    async with RawServer(handle) as server:
        assert (await agent.get(server.url)).text == "ok"
    assert agent.signed == 1
    observed("a body that trickles in is given up")


@pytest.mark.parametrize("how", ["silent", "trickle"])
@pytest.mark.parametrize("kind", ["async"])  # the wait of a synchronous caller is bounded by its own time-outs
async def test_keys_of_receipts_that_never_come(agent: Agent, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """The paid response is in hand: it is not held back for a receipt, not even by a client without time-outs."""
    monkeypatch.setattr("rail402.client.bodies.READ_SECONDS", 0.05)
    monkeypatch.setattr("rail402.client.httpx._FETCH_SECONDS", 0.05)

    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        if request.target.startswith("/.well-known"):
            if how == "trickle":
                await connection.write(answer(200, length=999))
            await trickle(connection) if how == "trickle" else await asyncio.Event().wait()
            return None
        if request.proof is None:
            return challenge(fake_terms())
        return answer(200, [("Receipt-Record", "a.b.c")], b"bought")

    async with RawServer(handle) as server:
        response = await agent.get(server.url, client={"timeout": None})
    assert response.text == "bought"
    assert response.extensions["rail402"].receipt_error


async def test_a_pool_of_one_connection_does_not_wait_for_itself(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paid response holds the only connection while the keys are wanted."""
    monkeypatch.setattr("rail402.client.httpx._FETCH_TIMEOUTS", {"pool": 0.05})

    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        if request.proof is None:
            return challenge(fake_terms())
        return answer(200, [("Receipt-Record", "a.b.c")], b"bought")

    limits = httpx.Limits(max_connections=1)
    inner = httpx.AsyncHTTPTransport(limits=limits) if agent.kind == "async" else httpx.HTTPTransport(limits=limits)
    async with RawServer(handle) as server:
        response = await agent.get(server.url, inner=inner, client={"timeout": None})
    assert (response.text, response.extensions["rail402"].receipt_error) == ("bought", "PoolTimeout")


@pytest.mark.parametrize("kind", ["async"])
async def test_a_caller_that_gives_up_meanwhile_frees_the_connection(open_agent: OpenAgent) -> None:
    agent, asked = open_agent(), asyncio.Event()

    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        if request.target.startswith("/.well-known"):
            asked.set()
            await asyncio.Event().wait()
        if request.proof is None:
            return challenge(fake_terms())
        return answer(200, [("Receipt-Record", "a.b.c")] if not asked.is_set() else [], b"bought")

    inner = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=2))
    async with (
        RawServer(handle) as server,
        httpx.AsyncClient(transport=agent.payer.transport(inner), timeout=httpx.Timeout(5, pool=0.5)) as client,
    ):
        call = asyncio.create_task(client.get(server.url))
        await asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not inner._pool._requests
        assert (await client.get(server.url)).text == "bought"
        assert (agent.signed, len(set(server.proofs))) == (1, 1)


# --- no HTTP


GARBAGE = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH\r\n\r\n",
    "a line that never ends": b"HTTP/1.1 402 " + b"x" * 200_000,
    "a field of a megabyte": b"HTTP/1.1 402 -\r\nX: " + b"x" * MEGABYTE + b"\r\n\r\n",
    "ten thousand fields": b"HTTP/1.1 402 -\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
    "two lengths": b"HTTP/1.1 402 -\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "chunks without sizes": b"HTTP/1.1 402 -\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "half a body": b"HTTP/1.1 402 -\r\nContent-Length: 100\r\n\r\nabc",
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
async def test_bytes_that_are_no_answer_before_paying(agent: Agent, data: bytes) -> None:
    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        await connection.write(data)
        return None

    await is_not_paid(agent, handle, httpx.TransportError)


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
async def test_bytes_that_are_no_answer_after_paying(agent: Agent, data: bytes) -> None:
    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        if request.proof is None:
            return challenge(fake_terms())
        await connection.write(data)
        return None

    async with RawServer(handle) as server:
        with pytest.raises(PaymentOutcomeUnknown):
            await agent.get(server.url)
        assert len(set(server.proofs)) == 1
        server.handler = always(answer(200, body=b"bought"))
        assert agent.signed == 1
        assert await agent.states() == ["unknown"]
