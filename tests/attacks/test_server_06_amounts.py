"""6: a smallest unit too little, and one too much."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks.cases import Observe
from tests.attacks.chain import PRICE, Stand
from tests.conformance.test_base_end_to_end import World, header, signed
from tests.conformance.test_base_transfers import AGENT
from tests.conformance.test_base_transfers import World as Transfers
from tests.conformance.test_stripe_end_to_end import Shop
from tests.services.anvil import EvmChain
from tests.unit.rail402_stripe.account import PRICE as CENTS
from tests.unit.rail402_stripe.account import Account


@pytest.mark.parametrize("off", [-1, 1])
async def test_an_authorization_is_for_the_price(world: World, off: int, observed: Observe) -> None:
    assert await world.refused("/article", await world.payment("/article", value=PRICE + off)) == "amount_mismatch"
    altered = await world.accepted("/article") | {"amount": str(PRICE + off)}
    fields = header(altered, signed(world.authorization(altered)))
    assert await world.refused("/article", fields) == "resource_mismatch"
    observed(
        "a unit more or less by authorization: 402 `amount_mismatch`, or 402 `resource_mismatch` with the offer altered"
    )


@pytest.mark.parametrize("off", [-1, 1])
async def test_on_the_chain_no_gas_is_spent_on_it(evm: EvmChain, tmp_path: Path, off: int, observed: Observe) -> None:
    async with Stand(evm, tmp_path).sell() as stand:
        authorization = stand.shop.authorize(PRICE + off)
        fields = await stand.pay(authorization, stand.shop.sign(authorization))
        assert await stand.refused(fields) == "amount_mismatch"
    observed("no gas was spent on them")


async def test_a_transfer_may_be_for_more(tmp_path: Path, observed: Observe) -> None:
    async with Transfers(tmp_path).open() as world:
        short = await world.show(await world.transfer(PRICE - 1))
        assert (short.status_code, short.json()["code"], world.runs) == (402, "amount_mismatch", [])
        transaction = await world.transfer(PRICE + 1)
        assert (await world.show(transaction)).status_code == 200
        (charge,) = [each for each in await world.gate.services().store.recent(limit=9) if each.settled_at]
        assert (charge.rail_state["received"], charge.payer) == (str(PRICE + 1), AGENT)
        await world.assert_books(paid=2 * PRICE)
    observed(
        "by plain transfer a unit less: 402 `amount_mismatch`; a unit more is served, and the charge says what came"
    )


async def test_two_transfers_do_not_add_up(tmp_path: Path, observed: Observe) -> None:
    async with Transfers(tmp_path).open() as world:
        for transaction in [await world.transfer(PRICE // 2) for _ in range(2)]:
            answer = await world.show(transaction)
            assert (answer.status_code, answer.json()["code"]) == (402, "amount_mismatch")
        assert world.runs == []
    observed("two halves are not the whole")


async def test_a_token_for_a_cent_less(tmp_path: Path, observed: Observe) -> None:
    account = Account(tmp_path)
    try:
        async with Shop(account, "escrow", "memory://").open() as shop:
            refused = await shop.show(await shop.offer(), await account.token(max_amount=CENTS - 1))
            assert (refused.status_code, refused.json()["code"]) == (402, "amount_mismatch")
            assert (await shop.show(await shop.offer(), await account.token(max_amount=CENTS + 1))).status_code == 200
            assert await account.balance() == CENTS
    finally:
        await account.close()
    observed("a Stripe token limited to a cent less: 402 `amount_mismatch`; of one limited to more the price is taken")
