"""Plain transfers in the sandbox: signed by their owner, each once, and nothing made or lost."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rail402.errors import ConfigurationError, MalformedInput, OutcomeUnknown, RailUnavailable
from rail402_base.chain import Deposit, Deposits
from rail402_base.sandbox import Mined, Pending, Reverted
from rail402_base.sandbox_transfers import PlainTransfer, sign_transfer
from rail402_base.tokens import BASE_USDC, SANDBOX_USDC
from tests.unit.rail402_base.payments import (
    NOW,
    PAYEE,
    PAYEE_KEY,
    PAYER,
    PAYER_KEY,
    PRICE,
    THIRD,
    Till,
)


@pytest.fixture
async def till(tmp_path: Path) -> Till:
    till = Till(tmp_path)
    await till.chain.mint(PAYER, 10_000)
    return till


def transfer_of(**members: Any) -> PlainTransfer:
    return PlainTransfer(**{"payer": PAYER, "payee": PAYEE, "value": PRICE, "nonce": bytes(32)} | members)


async def send(till: Till, transfer: PlainTransfer, key: bytes = PAYER_KEY) -> Mined | Pending:
    return await till.chain.transfer(SANDBOX_USDC, transfer, sign_transfer(transfer, SANDBOX_USDC, key))


async def assert_books(till: Till, payee: int) -> None:
    books = await till.chain.books()
    assert sum(books.balances.values()) == books.minted == 10_000
    assert books.balances.get(PAYEE, 0) == payee


async def test_it_moves_money_once(till: Till) -> None:
    first = await send(till, transfer_of())
    assert isinstance(first, Mined)
    assert await send(till, transfer_of()) == first
    await assert_books(till, PRICE)
    second = await send(till, transfer_of(nonce=b"\x01" * 32))
    assert isinstance(second, Mined)
    assert second.block == first.block + 1
    await assert_books(till, 2 * PRICE)


async def test_only_its_owner_moves_money(till: Till) -> None:
    for transfer, key in ((transfer_of(), PAYEE_KEY), (transfer_of(value=PRICE + 1), PAYEE_KEY)):
        with pytest.raises(Reverted):
            await send(till, transfer, key)
    signature = sign_transfer(transfer_of(), SANDBOX_USDC, PAYER_KEY)
    for other in (transfer_of(value=1), transfer_of(payee=THIRD), transfer_of(nonce=b"\x01" * 32)):
        with pytest.raises(Reverted):
            await till.chain.transfer(SANDBOX_USDC, other, signature)
    await assert_books(till, 0)


async def test_what_is_not_there_is_not_moved(till: Till) -> None:
    for transfer in (transfer_of(value=10_001), transfer_of(payee="0x" + 40 * "0")):
        with pytest.raises(Reverted):
            await send(till, transfer)
    with pytest.raises(MalformedInput):
        transfer_of(value=-1)
    with pytest.raises(MalformedInput):
        transfer_of(payee="0x1")
    with pytest.raises(ConfigurationError):
        await till.chain.transfer(BASE_USDC, transfer_of(), bytes(65))
    await assert_books(till, 0)


@pytest.mark.parametrize(
    ("fault", "error", "paid"),
    [("lost_answer", OutcomeUnknown, PRICE), ("dropped", OutcomeUnknown, 0), ("unavailable", RailUnavailable, 0)],
)
async def test_faults(till: Till, fault: Any, error: type[Exception], paid: int) -> None:
    await till.chain.inject(fault)
    with pytest.raises(error):
        await send(till, transfer_of())
    await assert_books(till, paid)
    assert isinstance(await send(till, transfer_of()), Mined)
    await assert_books(till, PRICE)


async def test_one_that_waits_is_mined_or_reverted(till: Till) -> None:
    await till.chain.inject("pending", times=2)
    small, large = transfer_of(), transfer_of(value=8000, nonce=b"\x01" * 32)
    for transfer in (small, large):
        assert isinstance(await send(till, transfer), Pending)
        assert isinstance(await send(till, transfer), Pending), "the same again"
    await assert_books(till, 0)
    assert await till.chain.release() == ()
    await assert_books(till, PRICE)
    found = await till.chain.movement(large.hash(SANDBOX_USDC))
    assert found is not None
    assert (found.state, found.block) == ("reverted", None)


async def test_what_a_transaction_brought(till: Till) -> None:
    plain = await till.pay()
    authorization = till.authorization()
    till.clock.advance(5)
    await till.hand_in(authorization)
    handed_in = await till.chain.find_authorization(PAYER, authorization.nonce)
    assert handed_in is not None
    deposits_in = till.backend.deposits_in
    found = Deposit(payer=PAYER, value=PRICE, log_index=0)
    assert await deposits_in(SANDBOX_USDC, plain, PAYEE) == Deposits(at=NOW, succeeded=True, all=(found,))
    assert await deposits_in(SANDBOX_USDC, plain, THIRD) == Deposits(at=NOW, succeeded=True, all=())
    found = replace(found, log_index=1, nonces=(authorization.nonce,))
    assert await deposits_in(SANDBOX_USDC, handed_in.transaction, PAYEE) == Deposits(
        at=NOW + 5, succeeded=True, all=(found,)
    )
    assert await deposits_in(SANDBOX_USDC, "0x" + 64 * "a", PAYEE) is None
    assert await deposits_in(BASE_USDC, plain, PAYEE) is None
    await till.chain.inject("pending")
    assert await deposits_in(SANDBOX_USDC, await till.pay(), PAYEE) is None


async def test_a_ledger_of_before_is_as_good(till: Till) -> None:
    with closing(sqlite3.connect(till.chain.path)) as database:
        database.executescript("DROP TABLE transfers; DROP TABLE block_times;")
    till = Till(till.chain.path.parent)
    assert await till.backend.deposits_in(SANDBOX_USDC, await till.pay(), PAYEE) is not None
    await assert_books(till, PRICE)
