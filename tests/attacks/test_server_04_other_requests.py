"""4: the same path, but another method, query or body than was paid for."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Request

from tests.attacks.cases import Observe
from tests.conformance.test_base_end_to_end import World, header, opened, signed


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[World]:
    """Translates what it is sent, whatever the method, at a price that the length of the text makes."""
    world = World(tmp_path)

    async def price(request: Request) -> str:
        return "0.50 USD" if len(await request.body()) > 100 else "0.003 USD"

    @world.app.api_route("/translate", methods=["GET", "POST", "PUT", "DELETE"])
    @world.gate.paid(price)
    async def translate(request: Request) -> dict[str, str]:
        world.runs.append(f"{request.method} {request.url.query} {(await request.body()).decode()}")
        return {"run": "done"}

    async with world.open():
        yield world


async def pay(world: World, method: str, path: str, body: bytes) -> dict[str, str]:
    """A payment for a fresh offer of that request."""
    accepted = _accepted(await world.http.request(method, path, content=body))
    return header(accepted, signed(world.authorization(accepted)))


def _accepted(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 402
    (accepted,) = json.loads(base64.b64decode(response.headers["payment-required"]))["accepts"]
    found: dict[str, Any] = accepted
    return found


OTHERS = {
    "method": ("PUT", "/translate?to=de", b"cheap"),
    "no body": ("POST", "/translate?to=de", b""),
    "query": ("POST", "/translate?to=fr", b"cheap"),
    "no query": ("POST", "/translate", b"cheap"),
    "order of the query": ("POST", "/translate?&to=de", b"cheap"),
    "another body": ("POST", "/translate?to=de", b"other"),
    "a longer body": ("POST", "/translate?to=de", b"cheap "),
    "a body of the dear price": ("POST", "/translate?to=de", b"x" * 101),
}


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
async def test_only_what_was_paid_for(
    desk: World, other: tuple[str, str, bytes], settled: bool, observed: Observe
) -> None:
    mine = ("POST", "/translate?to=de", b"cheap")
    fields = await pay(desk, *mine)
    if settled:
        assert (await desk.http.request(mine[0], mine[1], content=mine[2], headers=fields)).status_code == 200
    runs, books = list(desk.runs), await desk.chain.books()
    refused = await desk.http.request(other[0], other[1], content=other[2], headers=fields)
    assert (refused.status_code, refused.json()["code"]) == (402, "resource_mismatch")
    assert (desk.runs, await desk.chain.books()) == (runs, books)
    assert (await desk.http.request(mine[0], mine[1], content=mine[2], headers=fields)).status_code == 200
    assert desk.runs == ["POST to=de cheap"]
    await desk.assert_books(paid=3000)
    observed("402 `resource_mismatch` for another method, query or body, before and after it was settled")


async def test_a_body_that_changes_the_price_needs_its_own_offer(desk: World, observed: Observe) -> None:
    cheap = opened(await pay(desk, "POST", "/translate", b"cheap"))[1]
    accepted = _accepted(await desk.http.post("/translate", content=b"x" * 101))
    refused = await desk.http.post("/translate", content=b"x" * 101, headers=header(accepted, cheap))
    assert (refused.status_code, refused.json()["code"]) == (402, "amount_mismatch")
    assert desk.runs == []
    observed("402 `amount_mismatch` for the cheap signature under the dear offer")


async def test_what_the_handler_reads_is_what_was_paid_for(desk: World, observed: Observe) -> None:
    """A body in pieces, with lengths that lie about it, is one body to the gate and to the handler."""
    fields = await pay(desk, "POST", "/translate", b"cheap")

    async def pieces() -> AsyncIterator[bytes]:
        yield b"che"
        yield b"ap"

    answer = await desk.http.post("/translate", content=pieces(), headers=fields)
    assert (answer.status_code, desk.runs) == (200, ["POST  cheap"])
    observed("the handler reads the bytes that were priced and bound")
