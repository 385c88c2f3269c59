"""10: payers that are contracts, which say whether a signature is theirs (ERC-1271), and may lie."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.attacks.cases import Observe
from tests.integration.test_base_contracts import REFUSED_AT_ONCE, Market, with_signature
from tests.services.anvil import EvmChain


@pytest.fixture
async def market(evm: EvmChain, tmp_path: Path) -> AsyncIterator[Market]:
    async with Market(evm, tmp_path).open() as market:
        yield market


@pytest.mark.parametrize("manner", REFUSED_AT_ONCE)
async def test_a_contract_that_does_not_stand_by_it(market: Market, manner: str, observed: Observe) -> None:
    fields = await market.payment()
    market.evm.behave(market.wallet, manner)
    assert await market.refused(fields) == "signature_invalid"
    market.assert_paid(0)
    assert market.sent() == 0
    observed(
        "a contract that refuses, reverts, burns gas or answers nonsense: 402 `signature_invalid`, and no gas spent"
    )


@pytest.mark.parametrize("manner", ["lies to calls", "burns gas when mined"])
async def test_a_contract_that_lies_until_it_is_mined(market: Market, manner: str, observed: Observe) -> None:
    market.evm.behave(market.wallet, manner)
    answer = await market.http.get("/article", headers=await market.payment())
    assert answer.status_code in (402, 503)
    assert "run" not in answer.json()
    assert market.sent() == 1
    for _ in range(3):  # once is enough: the next ones cost nothing
        assert await market.refused(await market.payment()) == "payment_declined"
    assert market.sent() == 1
    market.assert_paid(0)
    observed(
        "one that agrees to every call and refuses when it is mined costs one transaction of limited gas, gets nothing,"
        " and is 402 `payment_declined` for an hour"
    )


async def test_a_contract_that_takes_any_signature(market: Market, observed: Observe) -> None:
    """Its money is anybody's; what it bought is not."""
    fields = await market.payment()
    assert (await market.http.get("/article", headers=fields)).status_code == 200
    market.evm.behave(market.wallet, "takes anything")
    for forged in (b"\x01", bytes(65), bytes(700)):
        assert await market.refused(with_signature(fields, forged)) == "signature_invalid"
    market.assert_paid(1)
    observed("of one that takes any signature nobody gets what its owner bought")


async def test_a_contract_that_is_not_there(market: Market, observed: Observe) -> None:
    fields = await market.payment(more=bytes(95) + bytes.fromhex("6492" * 16))
    assert await market.refused(fields) == "wallet_undeployed"
    market.evm.destroy(market.wallet)
    assert await market.refused(await market.payment()) == "signature_invalid"
    assert market.sent() == 0
    observed("one that is not deployed: 402 `wallet_undeployed`, or 402 `signature_invalid`")
