"""5: what was paid for something cheap, shown where something dear is sold."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rail402.server.settings import Receipts
from tests.attacks.cases import Observe
from tests.conformance.test_base_end_to_end import World, header, opened, signed
from tests.conformance.test_lightning_end_to_end import Town, required, signature


async def test_a_cheap_proof_opens_no_dear_route(world: World, observed: Observe) -> None:
    fields = await world.payment("/article")
    accepted, payload = opened(fields)
    dear = await world.accepted("/book")
    swaps: list[Any] = [
        (fields, "resource_mismatch"),
        (header(dear, payload), "amount_mismatch"),
        (header(dear | {"amount": accepted["amount"]}, payload), "resource_mismatch"),
        (header(accepted | {"amount": dear["amount"]}, payload), "resource_mismatch"),
        (header(dear | {"extra": accepted["extra"]}, payload), "resource_mismatch"),
        (header(accepted | {"extra": dear["extra"]}, payload), "resource_mismatch"),
    ]
    for shown, code in swaps:
        assert await world.refused("/book", shown) == code
    tokenless = {name: value for name, value in dear["extra"].items() if name != "token"}
    assert await world.refused("/book", header(dear | {"extra": tokenless}, payload)) in (
        "offer_unknown",
        "amount_mismatch",
    )
    assert (await world.http.get("/article", headers=fields)).status_code == 200
    await world.assert_books(paid=3000)
    observed("402 with the offer, amount or token swapped; the cheap route still honours it")


async def test_a_token_of_ones_own_making_is_none(world: World, observed: Observe) -> None:
    """The price of an offer is in its token: without the gate's secret there is no cheaper one."""
    dear = await world.accepted("/book")
    kid, expiry, nonce, mac = dear["extra"]["token"].split(".")
    tokens = [
        ".".join([kid, expiry, nonce, "A" * len(mac)]),
        ".".join([kid, expiry, nonce, ""]),
        ".".join(["k0", expiry, nonce, mac]),
        ".".join([kid, str(int(expiry) + 1), nonce, mac]),
        ".".join([kid, expiry, nonce[:-1] + ("A" if nonce[-1] != "A" else "B"), mac]),
        "none." + dear["extra"]["token"],
        "",
    ]
    for token in tokens:
        cheaper = dear | {"amount": "1", "extra": dear["extra"] | {"token": token}}
        fields = header(cheaper, signed(world.authorization(cheaper)))
        response = await world.http.get("/book", headers=fields)
        assert response.status_code in (400, 402), response.text
    assert world.runs == []
    await world.assert_books(paid=0)
    observed("no token of an attacker's making is accepted")


async def test_a_cheap_invoice_opens_no_dear_route(town: Town, observed: Observe) -> None:
    cheap, dear = required(await town.http.get("/article/one")), required(await town.http.get("/book"))
    preimage = await town.pay(cheap["extra"]["invoice"])
    mixed = dear | {"extra": dear["extra"] | {"invoice": cheap["extra"]["invoice"]}}
    for fields in (
        {"X-Receipt": preimage},
        signature(cheap, {"preimage": preimage}),
        signature(dear, {"preimage": preimage}),
        signature(mixed, {"preimage": preimage}),
    ):
        refused = await town.http.get("/book", headers=fields)
        assert (refused.status_code, refused.json()["code"]) in ((402, "resource_mismatch"), (402, "preimage_invalid"))
    assert town.runs == []
    observed("402 for the cheap invoice's preimage under the dear offer")


@pytest.fixture
async def tiers(tmp_path: Path) -> AsyncIterator[World]:
    """Passes of two tiers."""
    world = World(tmp_path)

    @world.app.get("/silver/{name}")
    @world.gate.paid("0.003 USD", receipt=Receipts(uses=5))
    async def silver(name: str) -> dict[str, str]:
        world.runs.append(f"silver {name}")
        return {"run": name}

    @world.app.get("/gold/{name}")
    @world.gate.paid("0.50 USD", receipt=Receipts(uses=5))
    async def gold(name: str) -> dict[str, str]:
        world.runs.append(f"gold {name}")
        return {"run": name}

    @world.app.get("/bronze/{name}")
    @world.gate.paid("0.003 USD", receipt=Receipts(uses=5))
    async def bronze(name: str) -> dict[str, str]:
        world.runs.append(f"bronze {name}")
        return {"run": name}

    async with world.open():
        yield world


async def test_a_pass_is_good_for_its_own_tier(tiers: World, observed: Observe) -> None:
    fields = await tiers.payment("/silver/a")
    for name in ("a", "b"):
        assert (await tiers.http.get(f"/silver/{name}", headers=fields)).status_code == 200
    for path in ("/gold/a", "/bronze/a", "/article", "/book"):
        assert await tiers.refused(path, fields) == "resource_mismatch"
    payload = opened(fields)[1]
    for path, status in (("/gold/a", 409), ("/bronze/a", 409)):
        fresh = header(await tiers.accepted(path), payload)
        assert await tiers.refused(path, fresh, status=status) == "replay_not_proven"
    assert tiers.runs == ["silver a", "silver b"]
    await tiers.assert_books(paid=3000)
    observed("a pass opens no route of another tier, nor another route of its price")
