"""31: a flood of payments that are none, which wants the processor, the chain, and that nobody else is served."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rail402.server.limits import Limits
from rail402_base.chain import Chain
from rail402_base.eip3009 import address_of
from tests.attacks.cases import Observe
from tests.conformance.test_base_end_to_end import URL, World, header, opened, signed
from tests.conformance.test_lightning_end_to_end import Town, required, signature

LIMITS = Limits(payments="20/h", route_payments="60/h")
OTHERS = "198.51.100.1"


class Counting:
    """What the chain is asked, counted."""

    def __init__(self, world: World) -> None:
        self.asked: Counter[str] = Counter()
        chain = world.rail.chain

        def counted(name: str) -> Any:
            original = getattr(chain, name)

            async def call(*args: Any, **kwargs: Any) -> Any:
                self.asked[name] += 1
                return await original(*args, **kwargs)

            return call

        for name in ("check", "submit", "settle", "lookup"):
            if hasattr(Chain, name) or hasattr(chain, name):
                setattr(chain, name, counted(name))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with World(tmp_path, limits=LIMITS).open() as world:
        yield world


def client(world: World, address: str) -> httpx.AsyncClient:
    """Another client of the same publisher, with an address of its own."""
    transport = httpx.ASGITransport(app=world.app, raise_app_exceptions=False, client=(address, 1))
    return httpx.AsyncClient(transport=transport, base_url=URL)


def forged(accepted: dict[str, Any], payload: dict[str, Any], number: int) -> dict[str, str]:
    """A payment whose signature is somebody's, and not its payer's."""
    authorization = payload["authorization"] | {"nonce": f"0x{number + 10**6:064x}"}
    return header(accepted, payload | {"authorization": authorization})


async def test_bad_signatures_reach_no_chain_and_end_in_429(world: World, observed: Observe) -> None:
    chain = Counting(world)
    accepted = await world.accepted("/article")
    payload = signed(world.authorization(accepted))
    answers = [await world.http.get("/article", headers=forged(accepted, payload, number)) for number in range(200)]
    found = [(each.status_code, each.json()["code"]) for each in answers]
    assert found == [(402, "signature_invalid")] * 20 + [(429, "rate_limited")] * 180
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert not {"payment-required", "www-authenticate"} & answers[-1].headers.keys()
    assert chain.asked == {}
    async with client(world, OTHERS) as other:
        fields = await world.payment("/article")
        assert (await other.get("/article", headers=fields)).status_code == 200
    await world.assert_books(paid=3000)
    observed("402, then 429 with `Retry-After` and no challenge; the chain was never asked, and others went on buying")


async def test_what_cannot_be_read_is_refused_before_it_is_counted(world: World, observed: Observe) -> None:
    junk = [
        {"payment-signature": "A" * 70_000},
        {"payment-signature": "%%%"},
        {"payment-signature": base64.b64encode(b"[" * 5000).decode()},
        {"x-payment": base64.b64encode(b'{"x402Version":1}').decode()},
        {"x-receipt": "0x" + "g" * 64},
        {"authorization": "L402 junk"},
    ]
    for number in range(120):
        answer = await world.http.get("/article", headers=junk[number % len(junk)])
        assert answer.status_code in (400, 402), answer.text
    assert (await world.http.get("/article", headers=await world.payment("/article"))).status_code == 200
    observed("sizes and syntax are checked first, and take nothing from the limit on payments")


async def test_a_settled_payment_is_served_again_during_a_flood_from_elsewhere(world: World, observed: Observe) -> None:
    fields = await world.payment("/article")
    bought = await world.http.get("/article", headers=fields)
    accepted = await world.accepted("/article")
    for attacker in range(4):  # well-signed payments of accounts that hold nothing
        async with client(world, f"203.0.113.{attacker}") as other:
            for number in range(50):
                await other.get("/article", headers=poor(world, accepted, attacker * 100 + number))
    async with client(world, "203.0.113.99") as other:
        assert (await other.get("/article", headers=poor(world, accepted, 999))).status_code == 429
    again = [await world.http.get("/article", headers=fields) for _ in range(100)]
    assert {(each.status_code, each.content) for each in again} == {(200, bought.content)}
    assert world.runs == ["article"]
    await world.assert_books(paid=3000)
    observed("a settled payment replays as often as it is shown, though the route takes no new payments for a while")


def poor(world: World, accepted: dict[str, Any], number: int) -> dict[str, str]:
    """A payment that is signed well, by an account without money."""
    key = (number + 1000).to_bytes(32, "big")
    authorization = world.authorization(accepted, from_=address_of(key))
    return header(accepted, signed(authorization, key))


async def test_well_signed_payments_without_money_reach_the_chain_as_often_as_the_route_allows(
    world: World, observed: Observe
) -> None:
    chain = Counting(world)
    accepted = await world.accepted("/article")
    statuses: Counter[int] = Counter()
    for attacker in range(20):
        async with client(world, f"203.0.113.{attacker}") as other:
            for number in range(20):
                answer = await other.get("/article", headers=poor(world, accepted, attacker * 100 + number))
                statuses[answer.status_code] += 1
    assert set(statuses) == {402, 429}
    assert chain.asked["check"] <= 60
    assert statuses[429] >= 340
    world.clock.advance(3600)
    assert (await world.http.get("/article", headers=await world.payment("/article"))).status_code == 200
    observed("payments of empty accounts, from many addresses, reach the chain no more often than the route's ceiling")


async def test_forgeries_of_a_known_payment_count_and_the_real_one_does_not(world: World) -> None:
    fields = await world.payment("/article")
    async with client(world, OTHERS) as payer:
        assert (await payer.get("/article", headers=fields)).status_code == 200
        accepted, payload = opened(fields)
        broken = header(accepted, payload | {"signature": "0x" + "11" * 65})
        found = [(await world.http.get("/article", headers=broken)).status_code for _ in range(100)]
        assert found[-1] == 429
        assert sum(status != 429 for status in found) == 20
        assert [(await payer.get("/article", headers=fields)).status_code for _ in range(100)] == [200] * 100


async def test_a_payment_that_was_let_go_is_counted_each_time_it_is_tried_again(world: World) -> None:
    """What was not settled is verified anew each time, on the chain."""
    chain = Counting(world)
    fields = await world.payment("/article")
    world.status = 500
    found = [(await world.http.get("/article", headers=fields)).status_code for _ in range(40)]
    assert found == [500] * 20 + [429] * 20
    assert chain.asked["check"] <= 20


async def test_an_agent_that_is_told_to_wait_shows_the_same_payment_again(tmp_path: Path, observed: Observe) -> None:
    async with World(tmp_path, limits=Limits(payments="12/m")).open() as world:
        accepted = await world.accepted("/article")
        payload = signed(world.authorization(accepted))
        for number in range(13):
            answer = await world.http.get("/article", headers=forged(accepted, payload, number))
        assert answer.status_code == 429
        began = world.clock()
        bought = await world.agent.get("/article")
        assert (bought.status_code, world.runs) == (200, ["article"])
        assert world.clock() - began >= 5
        await world.assert_books(paid=3000)
    observed("a payer that meets 429 waits, and pays once")


async def test_a_wrong_preimage_mints_no_further_invoice(tmp_path: Path, observed: Observe) -> None:
    town = Town(tmp_path)
    async with town.gate, town.http:
        first = required(await town.http.get("/article/one"))
        for _ in range(20):
            answer = await town.http.get("/article/one", headers=signature(first, {"preimage": "00" * 32}))
            assert (answer.status_code, answer.json()["code"]) == (402, "preimage_invalid")
            assert required(answer)["extra"] == first["extra"]
        other = required(await town.http.get("/article/one"))
        assert other["extra"]["invoice"] != first["extra"]["invoice"]
        stranger = await town.http.get("/article/two", headers=signature(first, {"preimage": "00" * 32}))
        assert required(stranger)["extra"]["invoice"] not in (first["extra"]["invoice"], other["extra"]["invoice"])
        town.clock.advance(301)
        fresh = required(await town.http.get("/article/one", headers=signature(first, {"preimage": "00" * 32})))
        assert fresh["extra"]["invoice"] != first["extra"]["invoice"]
        preimage = await town.pay(first["extra"]["invoice"])
        assert (
            await town.http.get("/article/one", headers=signature(first, {"preimage": preimage}))
        ).status_code == 200
    observed("a wrong preimage gets the same invoice again, which nobody can pay twice")


async def test_an_offer_that_came_back_altered_is_not_made_once_more(tmp_path: Path, observed: Observe) -> None:
    """Else the gate would say in its own 402 whatever terms somebody has sent it: to a cache, or to an agent."""
    town, other = Town(tmp_path / "here"), Town(tmp_path / "elsewhere")
    async with town.gate, town.http, other.gate, other.http:
        ours = required(await town.http.get("/article/one"))
        stranger = required(await other.http.get("/article/one"))
        two = required(await town.http.get("/article/two"))
        cheap = ours | {"amount": "1000"}
        invoice = ours | {"extra": ours["extra"] | {"invoice": stranger["extra"]["invoice"]}}
        foreign = stranger | {"extra": stranger["extra"] | {"invoice": ours["extra"]["invoice"]}}
        for accepted in (cheap, invoice, foreign, stranger, two, ours | {"payTo": "02" * 33}):
            answer = await town.http.get("/article/one", headers=signature(accepted, {"preimage": "00" * 32}))
            made = required(answer)
            assert (answer.status_code, answer.json()["code"]) == (402, "resource_mismatch")
            shown = [each["extra"]["invoice"] for each in (ours, stranger, two)]
            assert (made["amount"], made["payTo"]) == (ours["amount"], ours["payTo"])
            assert made["extra"]["invoice"] not in shown
        assert town.runs == []
    observed("an altered offer, or one with the token of another offer or server, is none: the 402 has an invoice anew")
