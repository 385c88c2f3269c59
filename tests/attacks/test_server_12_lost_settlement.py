"""12: the transaction is on its way, and nobody says what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rail402.errors import OutcomeUnknown
from rail402.protocol.charge import Charge, PaymentState
from rail402.protocol.payment import Payment
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


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[World]:
    """A publisher who waits a second for its rail."""
    async with World(tmp_path, settle_seconds=1).open() as world:
        yield world


@pytest.mark.parametrize("path", ["/article", "/upfront"])
@pytest.mark.parametrize("arrives", [True, False], ids=["it arrives", "it does not"])
@pytest.mark.parametrize("says", ["nothing", "that it does not know"])
async def test_a_rail_that_never_says_what_became_of_it(
    hasty: World, monkeypatch: pytest.MonkeyPatch, says: str, arrives: bool, path: str, observed: Observe
) -> None:
    """The rail has the money's authorization, and from then on the gate hears nothing, or that nothing is known."""
    settle = hasty.rail.settle

    async def lost(charge: Charge, payment: Payment | None) -> Any:
        if arrives:
            await settle(charge, payment)
        if says == "nothing":
            await asyncio.Event().wait()
        raise OutcomeUnknown("the connection broke off")

    monkeypatch.setattr(hasty.rail, "settle", lost)
    fields = await hasty.payment(path, valid_before=hasty.clock() + 900)
    for _ in range(2):
        answer = await hasty.http.get(path, headers=fields)
        assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
        assert int(answer.headers["retry-after"]) > 0
        assert not {"payment-required", "www-authenticate"} & answer.headers.keys(), "no invitation to pay twice"
    (charge,) = await hasty.gate.services().store.recent(limit=9)
    assert charge.payment is PaymentState.UNKNOWN
    for _ in range(10):
        hasty.clock.advance(30 if arrives else 100)
        await hasty.gate.reconcile()
    monkeypatch.undo()
    answer = await hasty.http.get(path, headers=fields)
    assert answer.status_code == (200 if arrives else 402)
    assert len(hasty.runs) == (1 if arrives or path == "/article" else 0)
    await hasty.assert_books(paid=PRICE if arrives else 0)
    observed("a rail that never answers, or does not know, is no rail that says that nothing was paid")
