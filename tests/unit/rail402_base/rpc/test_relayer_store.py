"""The record of what was signed: nonces are handed out once, and nothing in it is lost."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from rail402.errors import ConfigurationError, StoreError
from rail402_base.rpc.relayer_store import Account, Purpose, SqliteRelayerStore, Stored
from rail402_base.rpc.transactions import SignedTransaction
from tests.unit.rail402_base.rpc.chain import NOW, PAYER, RELAYER, TOKEN

ACCOUNT = Account(84532, RELAYER)


def purpose(number: int = 1) -> Purpose:
    return Purpose(token=TOKEN.address, authorizer=PAYER, nonce=bytes([number]) * 32, valid_before=NOW + 600)


def sign(nonce: int, salt: int = 0) -> SignedTransaction:
    return SignedTransaction(nonce, f"0x{nonce:032x}{salt:032x}", b"raw" + bytes([nonce, salt]))


def open_store(path: Path) -> SqliteRelayerStore:
    return SqliteRelayerStore(f"sqlite:///{path}/relayer.db", busy_timeout=5)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteRelayerStore]:
    store = open_store(tmp_path)
    await store.start()
    yield store
    await store.close()


async def allocate(store: SqliteRelayerStore, number: int = 1, floor: int = 0, salt: int = 0) -> Stored:
    stored, is_new = await store.allocate(
        ACCOUNT, purpose(number), lambda nonce: sign(nonce, salt), floor=floor, now=NOW
    )
    assert is_new
    return stored


async def test_nonces_are_handed_out_in_order_from_the_chains_count(store: SqliteRelayerStore) -> None:
    assert [(await allocate(store, number, floor=7)).nonce for number in (1, 2, 3)] == [7, 8, 9]


async def test_each_of_many_at_once_gets_a_nonce_of_its_own(tmp_path: Path, store: SqliteRelayerStore) -> None:
    other = open_store(tmp_path)  # as a second worker has it open
    await other.start()
    try:
        stored = await asyncio.gather(*(allocate((store, other)[n % 2], n, salt=n) for n in range(60)))
    finally:
        await other.close()
    assert sorted(each.nonce for each in stored) == list(range(60))


async def test_an_authorization_is_handed_in_once(tmp_path: Path, store: SqliteRelayerStore) -> None:
    first = await allocate(store)
    again, is_new = await store.allocate(ACCOUNT, purpose(), sign, floor=0, now=NOW + 9)
    assert (again, is_new) == (first, False)
    assert await store.live(ACCOUNT) == [first]


async def test_what_was_stored_is_there_after_a_crash(tmp_path: Path, store: SqliteRelayerStore) -> None:
    first = await allocate(store)
    # Without closing the first: as another process finds the file, whatever became of this one.
    other = open_store(tmp_path)
    await other.start()
    assert await other.live(ACCOUNT) == [first]
    assert await other.of(ACCOUNT, purpose()) == [first]
    await other.close()
    assert (tmp_path / "relayer.db").stat().st_mode & 0o777 == 0o600


async def test_a_refused_nonce_is_free_again(store: SqliteRelayerStore) -> None:
    first, second = await allocate(store, 1), await allocate(store, 2)
    assert await store.refuse(first)
    assert await store.live(ACCOUNT) == [second]
    third = await allocate(store, 3, salt=3)
    assert third.nonce == first.nonce
    assert (await allocate(store, 4)).nonce == 2


async def test_the_same_bytes_may_be_stored_again_after_a_refusal(store: SqliteRelayerStore) -> None:
    first = await allocate(store)
    assert await store.refuse(first)
    assert await allocate(store) == first
    assert await store.refuse(first), "it is nobody else's again"


async def test_one_that_somebody_else_broadcasts_is_not_refused(store: SqliteRelayerStore) -> None:
    first, second = await allocate(store, 1), await allocate(store, 2)
    assert await store.share(first)
    await store.allocate(ACCOUNT, purpose(2), sign, floor=0, now=NOW)  # by who hands the same authorization in
    for stored in (first, second):
        assert not await store.refuse(stored)
    assert await store.live(ACCOUNT) == [first, second]


async def test_one_that_was_refused_is_broadcast_by_nobody_else(store: SqliteRelayerStore) -> None:
    first = await allocate(store)
    assert await store.refuse(first)
    assert not await store.share(first)
    assert not await store.refuse(first)


@pytest.mark.parametrize("state", ["mined", "replaced"])
async def test_the_nonce_of_one_that_is_over_is_not(store: SqliteRelayerStore, state: str) -> None:
    first = await allocate(store)
    await store.finish(first, state)  # type: ignore[arg-type]
    assert (await allocate(store, 2)).nonce == 1
    assert [each.state for each in await store.of(ACCOUNT, purpose())] == [state]
    assert not await store.refuse(first)
    assert [each.state for each in await store.of(ACCOUNT, purpose())] == [state], "over is over"


async def test_a_gap_is_filled_first(store: SqliteRelayerStore) -> None:
    stored = [await allocate(store, number, salt=number) for number in range(4)]
    assert await store.refuse(stored[1])
    filler, is_new = await store.allocate(ACCOUNT, None, sign, floor=0, now=NOW)
    assert (filler.nonce, filler.purpose, is_new) == (1, None, True)
    assert (await store.allocate(ACCOUNT, None, lambda nonce: sign(nonce, 9), floor=0, now=NOW))[0].nonce == 4


async def test_one_in_the_place_of_another(store: SqliteRelayerStore) -> None:
    first = await allocate(store)
    second = await store.replace(ACCOUNT, first, purpose(), sign(0, 1), now=NOW + 5)
    assert second is not None
    assert (second.nonce, second.created_at) == (0, NOW + 5)
    assert await store.live(ACCOUNT) == [second]
    assert [(each.hash, each.state) for each in await store.of(ACCOUNT, purpose())] == [
        (second.hash, "live"),
        (first.hash, "replaced"),
    ]
    assert await store.replace(ACCOUNT, first, purpose(), sign(0, 2), now=NOW) is None, "another worker was first"
    filler = await store.replace(ACCOUNT, second, None, sign(0, 3), now=NOW)
    assert await store.live(ACCOUNT) == [filler]


async def test_accounts_and_chains_are_apart(store: SqliteRelayerStore) -> None:
    await allocate(store)
    for salt, other in enumerate([Account(8453, RELAYER), Account(84532, PAYER)], start=1):
        stored, is_new = await store.allocate(other, purpose(), partial(sign, salt=salt), floor=0, now=NOW)
        assert (stored.nonce, is_new) == (0, True)
        assert await store.of(other, purpose(2)) == []
    assert len(await store.live(ACCOUNT)) == 1


async def test_an_expiry_beyond_what_a_database_counts_to(store: SqliteRelayerStore) -> None:
    forever = replace(purpose(), valid_before=2**256 - 1)
    stored, _ = await store.allocate(ACCOUNT, forever, sign, floor=0, now=NOW)
    assert (await store.live(ACCOUNT))[0].purpose == forever == stored.purpose


async def test_a_signature_that_fails_takes_no_nonce(store: SqliteRelayerStore) -> None:
    def fail(nonce: int) -> SignedTransaction:
        raise ConfigurationError("no key")

    with pytest.raises(ConfigurationError):
        await store.allocate(ACCOUNT, purpose(), fail, floor=0, now=NOW)
    assert (await allocate(store)).nonce == 0


@pytest.mark.parametrize(
    "url", ["relayer.db", "sqlite://relayer.db", "sqlite:///", "sqlite:///:memory:", "sqlite:///a?b"]
)
def test_a_url_of_another_form(url: str) -> None:
    with pytest.raises(ConfigurationError, match="relayer_db: write"):
        SqliteRelayerStore(url)


async def test_a_file_that_is_not_ours(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "relayer.db") as connection:
        connection.execute("PRAGMA application_id = 7")
        connection.execute("CREATE TABLE a (b)")
    connection.close()
    with pytest.raises(ConfigurationError):
        await open_store(tmp_path).start()


async def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        await SqliteRelayerStore(f"sqlite:///{tmp_path}/nowhere/relayer.db").start()
    with pytest.raises(StoreError, match="is not open"):
        await open_store(tmp_path).live(ACCOUNT)


async def test_the_bytes_show_nowhere(store: SqliteRelayerStore, tmp_path: Path) -> None:
    stored = await allocate(store)
    assert "raw" not in repr(stored)
    assert repr(store) == f"SqliteRelayerStore('{tmp_path}/relayer.db')"
