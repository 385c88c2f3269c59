"""17: the handler fails: a payer may make it fail on purpose, and must neither lose money nor get goods for nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import HTTPException
from starlette.responses import StreamingResponse

from rail402_base.sandbox import ENDOWMENT
from tests.attacks.cases import Observe
from tests.conformance.test_base_end_to_end import AGENT, World
from tests.conformance.test_lightning_end_to_end import PRICE, Town, required, signature
from tests.conformance.test_stripe_end_to_end import Shop
from tests.unit.rail402_stripe.account import Account

WAYS = [400, 404, 422, 500, 503, "HTTPException", "exception"]


class Failing(World):
    """`/fails` fails in some way, or works.

    Attributes:
        way: a status, or what it raises; None where it works.
    """

    way: object = None


def failing(path: Path, flow: str) -> Failing:
    world = Failing(path)

    @world.app.get("/fails")
    @world.gate.paid("0.003 USD", flow=flow)
    async def fails() -> StreamingResponse:
        world.runs.append("fails")
        way = world.way
        match way:
            case "HTTPException":
                raise HTTPException(418, "the goods are a teapot")
            case "exception":
                raise RuntimeError("the goods are lost")
            case int():
                return StreamingResponse(iter([b"no"]), status_code=way)

        async def pieces() -> AsyncIterator[bytes]:
            if way == "exception in the stream":
                raise RuntimeError("before the first byte")
            yield b"the goods"

        return StreamingResponse(pieces())

    return world


@pytest.mark.parametrize("way", WAYS)
async def test_an_authorization_is_not_handed_in(tmp_path: Path, way: object, observed: Observe) -> None:
    world = failing(tmp_path, "authorization")
    async with world.open():
        world.way = way
        fields = await world.payment("/fails")
        for _ in range(3):
            answer = await world.http.get("/fails", headers=fields)
            assert answer.status_code >= 400
            assert "receipt-record" not in answer.headers
            await world.assert_books(paid=0)
        world.way = None
        answer = await world.http.get("/fails", headers=fields)
        assert (answer.status_code, answer.content) == (200, b"the goods")
        await world.assert_books(paid=3000)
    observed("exceptions and any 4xx or 5xx: an authorization is not handed in, and the same one is good afterwards")


@pytest.mark.parametrize("way", WAYS)
async def test_what_was_taken_first_is_owed_one_run(tmp_path: Path, way: object, observed: Observe) -> None:
    world = failing(tmp_path, "upfront")
    async with world.open():
        world.way = way
        fields = await world.payment("/fails")
        assert (await world.http.get("/fails", headers=fields)).status_code >= 400
        await world.gate.services().drain()
        held = await world.chain.balance_of(AGENT)
        assert held == ENDOWMENT - 3000
        world.way = None
        served = await world.http.get("/fails", headers=fields)
        assert (served.status_code, served.content) == (200, b"the goods")
        again = await world.http.get("/fails", headers=fields)
        assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
        await world.assert_books(paid=3000)
        assert len(world.runs) == 2
    observed("what was taken before the handler is owed one more run, and no third")


@pytest.mark.parametrize("flow", ["authorization", "upfront"])
async def test_a_body_that_breaks_off_after_it_was_paid(tmp_path: Path, flow: str, observed: Observe) -> None:
    world = failing(tmp_path, flow)
    async with world.open():
        world.way = "exception in the stream"
        fields = await world.payment("/fails")
        first = await world.http.get("/fails", headers=fields)
        assert b"the goods" not in first.content
        world.way = None
        served = await world.http.get("/fails", headers=fields)
        assert (served.status_code, served.content) == (200, b"the goods")
        await world.assert_books(paid=3000)
    observed("a stream that breaks off is owed one more run, at no further charge")


@pytest.mark.parametrize(("flow", "left"), [("escrow", ["canceled"]), ("upfront", ["succeeded"])])
async def test_a_card_is_released_or_refunded(tmp_path: Path, flow: str, left: list[str], observed: Observe) -> None:
    account = Account(tmp_path)
    try:
        async with Shop(account, flow, "memory://").open() as shop:
            shop.status = iter([500])
            offer, spt = await shop.offer(), await account.token()
            assert (await shop.show(offer, spt)).status_code == 500
            await shop.gate.services().drain()
            assert (await account.balance(), await account.statuses(), shop.served) == (0, left, 0)
    finally:
        await account.close()
    observed("a card's reservation is cancelled, a payment refunded: the balance is 0")


async def test_an_invoice_that_was_paid_is_owed_one_run(town: Town, observed: Observe) -> None:
    town.failures = 2
    accepted = required(await town.http.get("/article/one"))
    headers = signature(accepted, {"preimage": await town.pay(accepted["extra"]["invoice"])})
    statuses = [(await town.http.get("/article/one", headers=headers)).status_code for _ in range(4)]
    assert statuses[0] == 500
    assert len(town.runs) <= 3
    assert (await town.books()).received_msat == PRICE
    observed("a paid invoice is owed one more run")
