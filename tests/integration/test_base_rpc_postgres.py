"""One relayer's key on machines that share a PostgreSQL: no nonce is signed twice, and each payment is mined once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rail402.errors import PaymentRejected
from rail402_base.chain import Transfer
from tests.integration.test_base_rpc import Shop, process
from tests.services.anvil import EvmChain
from tests.services.postgres import PostgresServer


@pytest.fixture
def shop(evm: EvmChain, postgres: PostgresServer, tmp_path: Path) -> Shop:
    shop = Shop(evm, tmp_path, payers=4)
    shop.store = postgres.schema()
    return shop


async def test_two_processes_sign_no_nonce_twice(evm: EvmChain, shop: Shop) -> None:
    payments = [shop.authorize(number + 1, shop.payers[number % 4]) for number in range(40)]
    with process(shop, evm.url, payments[::2]) as one, process(shop, evm.url, payments[1::2]) as other:
        ended = await asyncio.gather(*(asyncio.to_thread(child.wait, 120) for child in (one, other)))
    assert ended == [0, 0]
    shop.assert_paid(payments)
    assert shop.nonce() == 40, "none was left out"


async def test_payment_that_two_relayers_hand_in_is_mined_once(shop: Shop) -> None:
    payments = [shop.authorize(number + 1, shop.payers[number % 4]) for number in range(12)]
    async with shop.open() as one, shop.open() as other:
        handed_in = [shop.settle(backend, each) for each in payments for backend in (one, other)]
        found = await asyncio.gather(*handed_in, return_exceptions=True)
        assert {type(await shop.trace(one, each)) for each in payments} == {Transfer}
    refused = [each for each in found if not isinstance(each, Transfer)]
    assert all(isinstance(each, PaymentRejected) and each.code == "proof_already_used" for each in refused), refused
    shop.assert_paid(payments)


async def test_one_relayer_goes_on_where_a_killed_one_was(evm: EvmChain, shop: Shop) -> None:
    payments = [shop.authorize(number + 1, shop.payers[number % 4]) for number in range(40)]
    async with shop.open() as backend:
        with process(shop, evm.url, payments[:30]) as child:
            tasks = [asyncio.create_task(shop.settle(backend, each)) for each in payments[30:]]
            assert child.stdout is not None
            assert all([await asyncio.to_thread(child.stdout.readline) for _ in range(3)])
            child.kill()  # SIGKILL, with the others on their way
        assert {type(each) for each in await asyncio.gather(*tasks)} == {Transfer}
        # On its own, the survivor tends what the other had stored; what that had not, is handed in again.
        await asyncio.gather(*(shop.settle(backend, each) for each in payments[:30]), return_exceptions=True)
        assert {type(await shop.trace(backend, each)) for each in payments} == {Transfer}
    shop.assert_paid(payments)
