"""13: a facilitator that says that a payment went through. Ours reads the chain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.cases import Observe
from tests.attacks.facilitators import Liar, market, said
from tests.services.anvil import EvmChain

NOWHERE = "0x" + 64 * "a"

LIES: dict[str, Callable[[Liar, dict[str, Any]], Any]] = {
    "no such transaction": lambda liar, body: liar.settled(body, NOWHERE),
    "no transaction": lambda liar, body: liar.settled(body, ""),
    "a transaction that is no hash": lambda liar, body: liar.settled(body, "done"),
    "another payer": lambda liar, body: liar.settled(body, NOWHERE, payer=liar.evm.account().address),
    "another network": lambda liar, body: liar.settled(body, NOWHERE, network="eip155:8453"),
    "another amount": lambda liar, body: liar.settled(body, NOWHERE, amount="1"),
    "success as a word": lambda liar, body: liar.settled(body, NOWHERE, success="true"),
    "success as a number": lambda liar, body: liar.settled(body, NOWHERE, success=1),
    "only success": lambda liar, body: {"success": True},
    "another schema": lambda liar, body: {"status": "ok", "result": {"success": True}},
    "a list": lambda liar, body: [liar.settled(body, NOWHERE)],
    "deep": lambda liar, body: {"success": True, "transaction": {"hash": NOWHERE}},
    "a transfer of somebody else's": lambda liar, body: liar.settled(
        body, liar.evm.send_usdc(liar.evm.account(usdc=3000).address, liar.evm.account().address, 3000)
    ),
}


@pytest.mark.parametrize("lie", LIES)
async def test_success_that_the_chain_does_not_show(evm: EvmChain, tmp_path: Path, lie: str, observed: Observe) -> None:
    async with market(evm, tmp_path) as buyer:
        buyer.liar.says["/settle"] = lambda body: said(LIES[lie](buyer.liar, body))
        authorization, fields = await buyer.honest()
        answer = await buyer.show(fields)
        assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
        assert "run" not in answer.json()
        assert "payment-required" not in answer.headers
        buyer.assert_moved(0)
        buyer.ahead = 1000  # it has expired: it can never be taken any more
        with evm.at(authorization.valid_before + 1):
            await buyer.gate.reconcile()
            again = await buyer.show(fields)
        assert again.status_code == 402
        assert buyer.runs == 1
    observed(
        "503 `outcome_unknown` for 13 kinds of success that the chain does not show, the answer withheld; closed as not"
        " paid when the authorization has expired"
    )


@pytest.mark.parametrize("lie", ["another hash", "a failure", "nothing"])
async def test_money_that_did_move_is_found_whatever_it_says(
    evm: EvmChain, tmp_path: Path, lie: str, observed: Observe
) -> None:
    async with market(evm, tmp_path) as buyer:

        def settle(body: dict[str, Any]) -> bytes:
            buyer.liar.hand_in(body)
            failure = {"success": False, "errorReason": "insufficient_funds", "transaction": "", "network": ""}
            told = {"another hash": buyer.liar.settled(body, NOWHERE), "a failure": failure, "nothing": {}}
            return said(told[lie])

        buyer.liar.says["/settle"] = settle
        _, fields = await buyer.honest()
        answer = await buyer.show(fields)
        assert (answer.status_code, answer.json()) == (200, {"run": 1})
        buyer.assert_moved(1)
    observed("money that did move is found on the chain and served, though it said failure, another hash or nothing")


@pytest.mark.parametrize("payer", ["another", "none of the schema"])
async def test_a_verdict_on_something_else(evm: EvmChain, tmp_path: Path, payer: str, observed: Observe) -> None:
    async with market(evm, tmp_path) as buyer:
        verdict = {"isValid": True, "payer": evm.account().address} if payer == "another" else {"isValid": "yes"}
        buyer.liar.says["/verify"] = said(verdict)
        _, fields = await buyer.honest()
        answer = await buyer.show(fields)
        assert (answer.status_code, answer.json()["code"]) == (503, "rail_unavailable")
        assert "/settle" not in buyer.liar.calls
        assert buyer.runs == 0
    observed("503 `rail_unavailable` for a verdict on another payer, or none that can be read; nothing is settled")


async def test_a_verdict_does_not_replace_our_own(evm: EvmChain, tmp_path: Path, observed: Observe) -> None:
    """It says that everything is valid; the payer has nothing."""
    async with market(evm, tmp_path) as buyer:
        evm.set_usdc(buyer.payer_account.address, 1)
        _, fields = await buyer.honest()
        answer = await buyer.show(fields)
        assert (answer.status_code, answer.json()["code"]) == (402, "insufficient_funds")
        assert (buyer.runs, "/settle" in buyer.liar.calls) == (0, False)
    observed("its `isValid` does not replace our own check: 402 `insufficient_funds`")
