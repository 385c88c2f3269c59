"""48: request bodies that cannot be sent twice, and those that must be sent twice without a difference."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from rail402.errors import StreamingBodyRefused
from tests.attacks.agents import Agent, OpenAgent
from tests.attacks.cases import Observe
from tests.attacks.raw import Connection, RawRequest, RawServer, answer, challenge, fake_terms


async def sell(request: RawRequest, connection: Connection) -> bytes | None:
    return challenge(fake_terms()) if request.proof is None else answer(200, body=b"bought")


def pieces(kind: str) -> Any:
    async def asynchronous() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    def synchronous() -> Iterator[bytes]:
        yield b"one"
        yield b"two"

    return asynchronous() if kind == "async" else synchronous()


async def test_a_stream_is_refused_before_anything_is_paid(agent: Agent, observed: Observe) -> None:
    async with RawServer(sell) as server:
        with pytest.raises(StreamingBodyRefused) as caught:
            await agent.request("POST", server.url, content=pieces(agent.kind))
        assert caught.value.outcome == "not_paid"
        assert [request.body for request in server.requests] == [b"onetwo"]
    assert agent.signed == 0
    assert not agent.payer.journal.exists()
    observed("a stream is refused before anything is paid")


async def test_an_uploaded_file_is_refused_too(open_agent: OpenAgent) -> None:
    agent = open_agent()
    async with RawServer(sell) as server:
        with pytest.raises(StreamingBodyRefused):
            await agent.request("POST", server.url, files={"f": ("a.txt", io.BytesIO(b"text"))})
    assert agent.signed == 0


BODIES: dict[str, dict[str, Any]] = {
    "bytes": {"content": bytes(range(256)) * 100},
    "nothing": {"content": b""},
    "text": {"content": "h\u00e9llo"},
    "form": {"data": {"a": "1 & 2", "b": "=&"}},
    "json": {"json": {"b": 1, "a": [1.10, "\u20ac"]}},
    "no body": {},
}


@pytest.mark.parametrize("options", BODIES.values(), ids=BODIES)
async def test_a_body_is_sent_again_byte_for_byte(agent: Agent, options: dict[str, Any], observed: Observe) -> None:
    fields = [("X-Twice", "1"), ("x-twice", "2"), ("X-Latin", b"\xe9".decode("latin-1"))]
    async with RawServer(sell) as server:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in fields]
        assert (await agent.request("POST", server.url + "/a%2Fb?q=%20", headers=raw, **options)).text == "bought"
        first, second = server.requests
    assert first.target == second.target == "/a%2Fb?q=%20"
    assert first.body == second.body
    added = [line for line in second.lines if line not in first.lines]
    assert [line.partition(b":")[0].lower() for line in added] == [b"payment-signature"]
    assert [line for line in second.lines if line not in added] == list(first.lines)
    observed("any other body is sent again byte for byte")


async def test_a_stream_that_was_read_is_bytes(open_agent: OpenAgent) -> None:
    agent = open_agent()

    async def send(url: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=agent.payer.transport()) as client:
            request = client.build_request("POST", url, content=pieces("async"))
            await request.aread()
            return await client.send(request)

    def send_sync(url: str) -> httpx.Response:
        with httpx.Client(transport=agent.payer.sync_transport()) as client:
            request = client.build_request("POST", url, content=pieces("sync"))
            request.read()
            return client.send(request)

    async with RawServer(sell) as server:
        sent = await (send(server.url) if agent.kind == "async" else asyncio.to_thread(send_sync, server.url))
        assert sent.text == "bought"
        assert [request.body for request in server.requests] == [b"onetwo", b"onetwo"]
        assert all(request.header("transfer-encoding") == "chunked" for request in server.requests)


async def test_another_body_is_another_order(agent: Agent) -> None:
    """A payment that is not resolved is never shown for a request whose body differs in one byte."""

    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        if request.proof is None:
            return challenge(fake_terms())
        return answer(200, body=b"bought") if request.body == b"B" else None

    async with RawServer(handle) as server:
        with pytest.raises(Exception, match="connection failed"):
            await agent.request("POST", server.url, content=b"A")
        assert (await agent.request("POST", server.url, content=b"B")).text == "bought"
        by_body = {request.body: request.proof for request in server.requests if request.proof}
        assert len(set(by_body.values())) == 2
    assert agent.signed == 2
