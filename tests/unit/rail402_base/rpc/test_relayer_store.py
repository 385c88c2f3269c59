"""What only the SQLite file of a relayer has to prove; what every store of it does is in `tests/conformance`."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import pytest

from rail402.errors import ConfigurationError, StoreError
from rail402.stores.sql import read_migrations
from rail402.stores.sqlite_file import open_writer
from rail402_base.rpc.relayer_store import APPLICATION_ID, Account, Purpose, SqliteRelayerStore, Stored
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


async def test_file_is_private(tmp_path: Path, store: SqliteRelayerStore) -> None:
    await allocate(store)
    assert (tmp_path / "relayer.db").stat().st_mode & 0o777 == 0o600


async def test_file_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    folder = files("rail402_base.rpc") / "sql"
    with closing(
        open_writer(
            tmp_path / "relayer.db", busy_timeout=1, schema=read_migrations(folder)[:1], application_id=APPLICATION_ID
        )
    ) as connection:
        connection.execute(
            "INSERT INTO transactions VALUES ('0xaa', ?, ?, 4, x'01', ?, ?, ?, ?, 'live', 0, ?)",
            (84532, RELAYER, TOKEN.address, PAYER, purpose().nonce, str(purpose().valid_before), NOW),
        )
    store = open_store(tmp_path)
    await store.start()
    (old,) = await store.live(ACCOUNT)
    assert (old.hash, old.nonce, old.raw, old.purpose) == ("0xaa", 4, b"\x01", purpose())
    assert (await allocate(store, 2, floor=4)).nonce == 5
    await store.finish(old, "mined")
    assert await store.prune(ACCOUNT, before=NOW + 601) == 1
    assert (await allocate(store, 3, floor=4, salt=3)).nonce == 6
    await store.close()


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
