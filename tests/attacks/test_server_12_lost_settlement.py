"""12: the transaction is on its way, and nobody says what became of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from rail402.protocol.charge import PaymentState
from tests.attacks.cases import Observe
from tests.attacks.chain import PRICE, Stand
from tests.conformance.test_base_end_to_end import World
from tests.integration.test_base_rpc import NEVER, until
from tests.services.anvil import EvmChain


async def test_until_the_block_comes_nothing_is_guessed(evm: EvmChain, tmp_path: Path, observed: Observe) -> None:
    async with Stand(evm, tmp_path, settle_seconds=1, tend_seconds=NEVER).sell() as stand:
        authorization, fields = await stand.honest()
        with evm.mining(None):
            for _ in range(3):
                answer = await stand.show(fields)
                assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
                assert int(answer.headers["retry-after"]) > 0
                assert "payment-required" not in answer.headers, "no invitation to pay twice"
                assert "www-authenticate" not in answer.headers
                await stand.gate.reconcile()
            (waiting,) = evm.waiting(stand.shop.relayer.address)
            (charge,) = await stand.gate.services().store.recent(limit=9)
            assert charge.payment is PaymentState.UNKNOWN
            # Another payment with that nonce would be the same money: it is not taken as a new one.
            second = await stand.show(await stand.pay(authorization, stand.shop.sign(authorization)))
            assert second.status_code in (409, 503)
            assert stand.runs == 1
            evm.mine()
        await until(lambda: evm.receipt(waiting) is not None)
        for _ in range(20):
            await stand.gate.reconcile()
            answer = await stand.show(fields)
            if answer.status_code == 200:
                break
            await asyncio.sleep(0.2)
        assert (answer.status_code, answer.json(), stand.runs) == (200, {"run": 1}, 1)
        stand.assert_paid(1)
        assert stand.shop.nonce() == 1
    observed(
        "503 `outcome_unknown` with `Retry-After` and no challenge, however often it is shown; its nonce stays claimed;"
        " the reconciler found the block, and the stored answer went out: one run, one transaction, one transfer"
    )


@pytest.mark.parametrize("fault", ["lost_answer", "dropped"])
async def test_a_node_that_loses_the_answer(world: World, fault: Any, observed: Observe) -> None:
    fields = await world.payment("/article", valid_before=world.clock() + 900)
    await world.chain.inject(fault)
    answer = await world.http.get("/article", headers=fields)
    assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
    assert "payment-required" not in answer.headers
    for _ in range(10):
        world.clock.advance(30 if fault == "lost_answer" else 100)
        await world.gate.reconcile()
    answer = await world.http.get("/article", headers=fields)
    if fault == "lost_answer":
        assert (answer.status_code, answer.json()) == (200, {"run": 1})
        await world.assert_books(paid=PRICE)
    else:
        assert answer.status_code == 402
        await world.assert_books(paid=0)
    assert world.runs == ["article"]
    observed("where the chain shows that nothing was taken, and it has expired, it is closed as not paid")
