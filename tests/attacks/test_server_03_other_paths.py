"""3: the proof of one resource, shown at another of the same price."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from tests.attacks.cases import Observe
from tests.conformance.test_base_end_to_end import URL, World, header, opened
from tests.conformance.test_lightning_end_to_end import Town, required, signature


def library(path: Path) -> World:
    """Two shelves at one price: one route for every book, and one for every film."""
    world = World(path)

    @world.app.get("/books/{name}")
    @world.gate.paid("0.003 USD")
    async def book(name: str) -> dict[str, str]:
        world.runs.append(f"book {name}")
        return {"run": name}

    @world.app.get("/films/{name}")
    @world.gate.paid("0.003 USD")
    async def film(name: str) -> dict[str, str]:
        world.runs.append(f"film {name}")
        return {"run": name}

    return world


ELSEWHERE = ["/books/two", "/books/One", "/films/one", "/books/one?page=2", "/books/one%20", "/article"]


@pytest.mark.parametrize("settled", [False, True])
async def test_it_opens_nothing_else(tmp_path: Path, settled: bool, observed: Observe) -> None:
    async with library(tmp_path).open() as world:
        fields = await world.payment("/books/one")
        if settled:
            assert (await world.http.get("/books/one", headers=fields)).json() == {"run": "one"}
        for path in ELSEWHERE:
            assert await world.refused(path, fields) == "resource_mismatch"
        answer = await world.http.get("/books/one", headers=fields)
        assert (answer.json(), world.runs) == ({"run": "one"}, ["book one"])
        await world.assert_books(paid=3000)
    observed("402 `resource_mismatch` at every other path and query, before and after it was settled; nothing moved")


async def test_under_the_other_offer_the_signature_is_spent_once(tmp_path: Path, observed: Observe) -> None:
    """The signature says payee and amount, not the resource: it fits any offer at that price, and pays for one."""
    async with library(tmp_path).open() as world:
        payload = opened(await world.payment("/books/one"))[1]
        served = await world.http.get("/films/one", headers=header(await world.accepted("/films/one"), payload))
        assert (served.status_code, world.runs) == (200, ["film one"])
        for path in ("/books/one", "/books/two", "/films/two"):
            again = header(await world.accepted(path), payload)
            assert await world.refused(path, again, status=409) == "replay_not_proven"
        await world.assert_books(paid=3000)
    observed("a signature that was moved to another offer of that price bought that, once, and nothing else any more")


async def test_the_url_that_it_says_it_is_for_decides_nothing(world: World, observed: Observe) -> None:
    message = json.loads(base64.b64decode((await world.payment("/article"))["PAYMENT-SIGNATURE"]))
    message["resource"] = {"url": f"{URL}/book"}
    fields = {"PAYMENT-SIGNATURE": base64.b64encode(json.dumps(message).encode()).decode()}
    assert await world.refused("/book", fields) == "resource_mismatch"
    observed("what a payment says it is for decides nothing")


async def test_a_preimage_opens_its_own_request(town: Town, observed: Observe) -> None:
    accepted = required(await town.http.get("/article/one"))
    preimage = await town.pay(accepted["extra"]["invoice"])
    for path in ("/article/two", "/article/one?page=2", "/book"):
        for fields in ({"X-Receipt": preimage}, signature(accepted, {"preimage": preimage})):
            refused = await town.http.get(path, headers=fields)
            assert (refused.status_code, refused.json()["code"]) == (402, "resource_mismatch")
    assert town.runs == []
    observed("the same for a preimage, with its offer and bare")
