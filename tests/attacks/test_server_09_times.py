"""9: authorizations that are over, not begun, too short, and clocks that differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rail402_lightning.rail import SETTLE_GRACE
from tests.attacks.cases import Observe
from tests.attacks.chain import Stand
from tests.conformance.test_base_end_to_end import World
from tests.conformance.test_lightning_end_to_end import Town, required, signature
from tests.services.anvil import EvmChain

NEEDED = 120
"""Seconds that the handler and settling may take, which an authorization must outlast."""


@pytest.mark.parametrize("seconds", [-(10**9), -1, 0, 1, NEEDED - 1])
async def test_over_or_too_short(world: World, seconds: int, observed: Observe) -> None:
    fields = await world.payment("/article", valid_before=world.clock() + seconds)
    assert await world.refused("/article", fields) == "authorization_expired"
    longer = await world.payment("/article", valid_before=world.clock() + NEEDED)
    assert (await world.http.get("/article", headers=longer)).status_code == 200
    observed("402 `authorization_expired` where it is over, or would be over before the work is done and settled")


@pytest.mark.parametrize("seconds", [0, 1, 10**9])
async def test_not_begun(world: World, seconds: int, observed: Observe) -> None:
    fields = await world.payment("/article", valid_after=world.clock() + seconds, valid_before=2**255)
    assert await world.refused("/article", fields) == "not_yet_valid"
    response = await world.http.get("/article", headers=fields)
    assert "payment-required" not in response.headers, "no invitation to pay twice"
    world.clock.advance(seconds + 1)
    observed("402 `not_yet_valid` without a fresh challenge where it has not begun: it may be sent again")


async def test_it_runs_out_while_the_handler_works(world: World, observed: Observe) -> None:
    """The gate accepts it with enough left; the handler takes longer than it may."""
    fields = await world.payment("/article", valid_before=world.clock() + NEEDED)

    async def dawdle() -> None:
        world.clock.advance(NEEDED + 1)

    world.in_handler = dawdle
    answer = await world.http.get("/article", headers=fields)
    assert answer.status_code in (402, 503), answer.text
    assert "run" not in answer.json()
    await world.assert_books(paid=0)
    observed("one that runs out while the handler dawdles withholds the answer")


async def test_an_old_offer(world: World, observed: Observe) -> None:
    fields = await world.payment("/article", valid_before=2**255)
    world.clock.advance(601)
    assert await world.refused("/article", fields) == "offer_expired"
    observed("402 `offer_expired` ten minutes after the offer")


@pytest.mark.parametrize("skew", [-3600, 3600])
async def test_a_payer_whose_clock_is_wrong(world: World, skew: int, observed: Observe) -> None:
    now = world.clock() + skew
    fields = await world.payment("/article", valid_after=now - 60, valid_before=now + 180)
    code = await world.refused("/article", fields)
    assert code == ("authorization_expired" if skew < 0 else "not_yet_valid")
    observed("a payer's clock that is an hour off is refused, and costs nothing")


@pytest.mark.parametrize("late", [0, 1])
async def test_an_invoice_that_was_paid_too_late(
    town: Town, monkeypatch: pytest.MonkeyPatch, late: int, observed: Observe
) -> None:
    """A node may take a payment after an invoice is over: one that was held on its way, say."""
    accepted = required(await town.http.get("/article/one"))
    preimage = await town.pay(accepted["extra"]["invoice"])
    status, paid_at = town.receiver.status, town.clock() + 600 + SETTLE_GRACE + late

    async def delayed(payment_hash: bytes) -> Any:
        found = await status(payment_hash)
        assert found is not None
        return replace(found, settled_at=paid_at)

    monkeypatch.setattr(town.receiver, "status", delayed)
    answer = await town.http.get("/article/one", headers=signature(accepted, {"preimage": preimage}))
    assert (answer.status_code, town.runs) == ((402, []) if late else (200, ["one"]))
    assert not late or answer.json()["code"] == "offer_expired"
    observed("402 `offer_expired` for an invoice that was paid more than a minute after its offer was over")


async def test_on_the_chain_no_gas_is_spent_on_them(evm: EvmChain, tmp_path: Path, observed: Observe) -> None:
    async with Stand(evm, tmp_path).sell() as stand:
        for valid_before in (1, evm.now() - 1, evm.now() + 60):
            authorization = stand.shop.authorize(valid_before=valid_before)
            fields = await stand.pay(authorization, stand.shop.sign(authorization))
            assert await stand.refused(fields) == "authorization_expired"
    observed("no gas was spent on them")
