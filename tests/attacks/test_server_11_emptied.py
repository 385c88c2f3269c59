"""11: the money is there when it is looked for, and gone when it is to be taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rail402_base.eip3009 import cancel_digest, sign
from tests.attacks.cases import Observe
from tests.attacks.chain import Stand
from tests.integration.test_base_rpc import NEVER, until
from tests.services.anvil import USDC, EvmChain


def emptied(stand: Stand, nonce: bytes) -> None:
    stand.evm.send_usdc(stand.shop.payer.address, stand.evm.account().address, 10 * USDC)


def cancelled(stand: Stand, nonce: bytes) -> None:
    payer = stand.shop.payer
    signature = sign(cancel_digest(stand.evm.token.domain, payer.address, nonce), payer.key_bytes)
    stand.evm.cancel(stand.evm.account().address, payer.address, nonce, signature)


def spent(stand: Stand, nonce: bytes) -> None:
    """The nonce, in an authorization to the payer's other account."""
    other = replace(stand.shop.authorize(), to=stand.evm.account().address, value=10 * USDC, nonce=nonce)
    stand.evm.submit(stand.evm.account().address, other, stand.shop.sign(other))


WAYS = {"emptied": (emptied, "insufficient_funds"), "cancelled": (cancelled, "proof_already_used")}
WAYS["spent otherwise"] = (spent, "proof_already_used")


@pytest.mark.parametrize("way", WAYS)
async def test_while_the_handler_works(evm: EvmChain, tmp_path: Path, way: str, observed: Observe) -> None:
    act: Callable[[Stand, bytes], None]
    act, code = WAYS[way]
    async with Stand(evm, tmp_path).sell() as stand:
        authorization, fields = await stand.honest()
        stand.in_handler = lambda request: act(stand, authorization.nonce)
        answer = await stand.show(fields)
        assert (answer.status_code, answer.json()["code"], stand.runs) == (402, code, 1)
        assert "run" not in answer.text
        stand.in_handler = lambda request: None
        again = await stand.show(fields)
        assert (again.status_code, stand.runs) == (402, 1), "the work is not done once more either"
        assert evm.usdc_of(stand.shop.payee.address) == 0
    observed("402 `insufficient_funds` or 402 `proof_already_used` in place of the answer, and no second run")


@pytest.mark.parametrize("way", WAYS)
async def test_before_it_is_shown(evm: EvmChain, tmp_path: Path, way: str, observed: Observe) -> None:
    act, code = WAYS[way]
    async with Stand(evm, tmp_path).sell() as stand:
        authorization, fields = await stand.honest()
        act(stand, authorization.nonce)
        assert await stand.refused(fields) == code
        assert stand.runs == 0
    observed("noticed before the handler runs where it happened before, with no gas spent")


async def test_while_the_transaction_waits_for_its_block(evm: EvmChain, tmp_path: Path, observed: Observe) -> None:
    """The money goes in the very block: the transaction reverts, and says nothing of a payment."""
    async with Stand(evm, tmp_path, tend_seconds=NEVER).sell() as stand:
        _, fields = await stand.honest()
        with evm.mining(None):
            showing = asyncio.create_task(stand.show(fields))
            await until(lambda: evm.waiting(stand.shop.relayer.address))
            evm.set_usdc(stand.shop.payer.address, 0)
            evm.mine()
            answer = await showing
        assert (answer.status_code, answer.json()["code"], stand.runs) == (503, "outcome_unknown", 1)
        assert "payment-required" not in answer.headers
        assert evm.usdc_of(stand.shop.payee.address) == 0
    observed("503 `outcome_unknown`, and no answer, where the transaction reverts: it could be handed in once more")
