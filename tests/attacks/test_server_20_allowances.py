"""20: one allowance, many requests: passes, and amounts that are held."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request

from rail402.errors import ConfigurationError
from rail402.server.settings import Receipts
from tests.attacks.cases import Observe
from tests.conformance.test_base_end_to_end import World
from tests.conformance.test_stripe_end_to_end import Shop
from tests.unit.rail402_stripe.account import Account


@pytest.mark.parametrize("store", ["memory://", "sqlite"])
async def test_uses_are_taken_one_by_one(tmp_path: Path, store: str, observed: Observe) -> None:
    world = World(tmp_path, store=store if store != "sqlite" else f"sqlite:///{tmp_path}/charges.db")

    @world.app.get("/calls")
    @world.gate.paid("0.003 USD", receipt=Receipts(uses=7))
    async def calls() -> dict[str, int]:
        world.runs.append("call")
        await asyncio.sleep(0)
        return {"run": len(world.runs)}

    async with world.open():
        fields = await world.payment("/calls")
        answers = await asyncio.gather(*(world.http.get("/calls", headers=fields) for _ in range(50)))
        assert Counter(each.status_code for each in answers) == {200: 7, 402: 43}
        assert {each.json()["code"] for each in answers if each.status_code == 402} == {"uses_exhausted"}
        assert len(world.runs) == 7
        await world.assert_books(paid=3000)
    observed("of 50 requests at once on a pass for seven, seven ran; the others got 402 `uses_exhausted`")


@asynccontextmanager
async def metered(path: Path, asked: list[str], found: list[object]) -> AsyncIterator[tuple[Shop, Account]]:
    """`/metered` holds 5 dollars, and asks what it turned out to be worth."""
    account = Account(path)
    shop = Shop(account, "escrow", "memory://")

    @shop.app.get("/metered")
    @shop.gate.paid("5.00 USD", flow="escrow")
    async def metered_(request: Request) -> dict[str, Any]:
        for price in asked:
            try:
                found.append(shop.gate.reduce(request, price))
            except ConfigurationError as error:
                found.append(error.code)
        return {"n": 1}

    try:
        async with shop.open():
            yield shop, account
    finally:
        await account.close()


@pytest.mark.parametrize("price", ["5.01 USD", "50 USD", "0 USD", "-1 USD", "1 EUR"])
async def test_no_more_than_was_held(tmp_path: Path, price: str, observed: Observe) -> None:
    found: list[object] = []
    async with metered(tmp_path, [price], found) as (shop, account):
        offer = await shop.offer("/metered")
        answer = await shop.show(offer, await account.token(max_amount=500), "/metered")
        assert answer.status_code in (200, 500)
        assert await account.balance() <= 500
        assert found == ["configuration_invalid"]
    observed("a handler that asks more than was held, nothing, or another currency is refused; no more is captured")


async def test_at_once_they_take_what_was_held_for_each(tmp_path: Path, observed: Observe) -> None:
    """Ten purchases on one account, each with a token of its own, each worth less than was held."""
    found: list[object] = []
    async with metered(tmp_path, ["1.00 USD"], found) as (shop, account):
        pairs = [(await shop.offer("/metered"), await account.token(max_amount=500)) for _ in range(10)]
        answers = await asyncio.gather(*(shop.show(offer, spt, "/metered") for offer, spt in pairs))
        assert [each.status_code for each in answers] == [200] * 10
        assert found == [True] * 10
        assert await account.balance() == 10 * 100
        again = await asyncio.gather(*(shop.show(offer, spt, "/metered") for offer, spt in pairs))
        assert {each.headers.get("idempotent-replayed") for each in again} == {"true"}
        assert await account.balance() == 10 * 100
    observed("ten at once captured what each turned out to be worth, and a replay captured nothing more")
