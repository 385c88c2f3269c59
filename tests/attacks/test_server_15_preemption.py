"""15: whoever sees an authorization can hand it in first. The payee has the money then all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks.cases import Observe
from tests.attacks.chain import Stand
from tests.services.anvil import EvmChain


@pytest.mark.parametrize("when", ["before it is shown", "while the handler works"])
async def test_it_is_served_once(evm: EvmChain, tmp_path: Path, when: str, observed: Observe) -> None:
    async with Stand(evm, tmp_path).sell() as stand:
        authorization, fields = await stand.honest()
        stranger, signature = evm.account().address, stand.shop.sign(authorization)
        hashes: list[str] = []

        def preempt(request: object) -> None:
            if not hashes:
                hashes.append(evm.submit(stranger, authorization, signature))

        if when == "before it is shown":
            preempt(None)
        else:
            stand.in_handler = preempt
        first = await stand.show(fields)
        assert (first.status_code, first.json()) == (200, {"run": 1})
        (charge,) = await stand.gate.services().store.recent(limit=9)
        assert charge.transaction == hashes[0]
        again = await stand.show(fields)
        assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
        # The money is on the chain for all to see: it buys nothing for whoever has only seen it.
        assert await stand.refused(await stand.pay(authorization, signature), 409) == "replay_not_proven"
        stand.assert_paid(1)
        assert stand.shop.nonce() == 0, "no gas for what was done"
    observed("found on the chain and served once, under the stranger's transaction; no gas spent by us")


async def test_a_preemption_that_reverts_costs_nobody_anything(
    evm: EvmChain, tmp_path: Path, observed: Observe
) -> None:
    async with Stand(evm, tmp_path).sell() as stand:
        authorization, fields = await stand.honest()
        with evm.mining(None):
            evm.submit(evm.account().address, authorization, bytes(64) + b"\x1b")
            evm.mine()
        assert (await stand.show(fields)).status_code == 200
        stand.assert_paid(1)
    observed("a stranger's attempt that reverts changes nothing")
