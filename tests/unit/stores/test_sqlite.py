"""What only the SQLite store has to prove: durability, damage, other writers, and what one failure does to the rest."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from rail402.errors import ConfigurationError, StoreError
from rail402.protocol.charge import Delivery, PaymentState
from rail402.stores import SqliteStore, StoredResponse
from rail402.stores.base import Claim, Issued
from rail402.testing.stores import make_charge

WRITES_FOREVER = """
import asyncio, sys
from rail402.stores import SqliteStore, StoredResponse
from rail402.testing.stores import make_charge

async def write(store, task):
    number = 0
    while True:
        charge = make_charge(f"tx:{task}/{number}", id=f"ch_{task}_{number}")
        await store.claim(charge)
        await store.save(charge, response=StoredResponse(200, body=charge.id.encode()))
        print(charge.id, flush=True)
        number += 1

async def main():
    store = SqliteStore(sys.argv[1])
    await store.start()
    await asyncio.gather(*(write(store, task) for task in range(8)))

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "charges.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, busy_timeout=0.05)
    await store.start()
    yield store
    await store.close()


@contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program's connection to the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def files(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b" if path.exists() else "wb") as file:
        file.seek(offset)
        file.write(data)


# --- durability


def write_until_killed(path: Path) -> list[str]:
    """Return the charges that another process had been told were stored when it was killed."""
    command = [sys.executable, "-c", WRITES_FOREVER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            returned = [child.stdout.readline().strip() for _ in range(100)]
        finally:
            child.kill()
        returned += [line.strip() for line in child.stdout if line.endswith("\n")]
    assert child.returncode == -signal.SIGKILL
    return returned


async def test_what_was_returned_survives_kill_9(path: Path) -> None:
    returned = write_until_killed(path)
    assert len(returned) >= 100
    store = SqliteStore(path)
    await store.start()
    for charge_id in returned:
        charge = await store.get(charge_id)
        assert charge is not None
        assert charge.version == 1
        assert await store.find(charge.keys) == charge
        assert await store.response(charge_id) == StoredResponse(200, body=charge_id.encode())
    with raw(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    await store.close()


async def test_everything_is_there_after_reopening(store: SqliteStore) -> None:
    charge, row = make_charge("tx:1"), Issued(key="lnbc:1", order_digest="ab", offer="{}", expires_at=5)
    await store.claim(charge)
    await store.issue(row, now=0, capacity=1)
    await store.remember("salt", "first")
    await store.close()
    assert files(store.path.parent) == ["charges.db"]
    await store.start()
    assert await store.claim(make_charge("tx:1")) == Claim(won=False, charge=charge)
    assert await store.issued("lnbc:1") == row
    assert await store.remember("salt", "second") == "first"


async def test_start_and_close_may_be_repeated(store: SqliteStore) -> None:
    await store.start()
    await store.claim(make_charge("tx:1"))
    await store.close()
    await store.close()


# --- what cannot be opened, what is damaged


@pytest.mark.parametrize("path", ["", ":memory:", "."])
def test_what_is_no_file_name_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError, match="memory://"):
        SqliteStore(path)


async def test_missing_directory_is_named(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "missing" / "charges.db")
    with pytest.raises(StoreError, match=r"missing/charges\.db") as caught:
        await store.start()
    assert caught.value.code == "store_unavailable"
    assert caught.value.status == 503


async def test_file_that_is_no_database_is_refused(path: Path) -> None:
    overwrite(path, 0, b"not a database, but long enough to have a header of a hundred bytes" * 4)
    with pytest.raises(StoreError, match="not a database"):
        await SqliteStore(path).start()


async def test_reader_that_cannot_open_closes_the_writer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, *, busy_timeout: float) -> sqlite3.Connection:
        raise sqlite3.OperationalError("too many open files")

    monkeypatch.setattr("rail402.stores.sqlite.open_reader", fail)
    with pytest.raises(StoreError, match="too many"):
        await SqliteStore(path).start()
    assert files(path.parent) == ["charges.db"]  # its log went when the last connection closed


async def test_newer_schema_is_refused(path: Path, store: SqliteStore) -> None:
    await store.close()
    with raw(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigurationError, match="newer"):
        await store.start()
    with pytest.raises(StoreError, match="not open"):
        await store.get("ch_1")


async def test_damaged_pages_are_an_error_and_no_absence(path: Path, store: SqliteStore) -> None:
    await store.claim(make_charge("tx:1"))
    await store.close()
    overwrite(path, 4096, b"\xa5" * 4096 * 15)
    await store.start()
    for verb in (store.find(["tx:1"]), store.claim(make_charge("tx:1"))):
        with pytest.raises(StoreError, match=r"charges\.db") as caught:
            await verb
        assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)


async def test_charge_that_cannot_be_read_is_an_error_and_no_absence(path: Path, store: SqliteStore) -> None:
    await store.claim(make_charge("tx:1", payer="0xpayer"))
    with raw(path) as connection:
        connection.execute("UPDATE charges SET charge = json_set(charge, '$.later_field', 1)")
    for verb in (store.find(["tx:1"]), store.claim(make_charge("tx:1"))):
        with pytest.raises(StoreError, match="another version"):
            await verb


async def test_charges_that_cannot_be_read_keep_nobody_from_the_others(
    path: Path, store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    charges = [make_charge(f"tx:{n}", payer="0xpayer", lease_until=n, created_at=n) for n in range(6)]
    for charge in charges:
        await store.claim(charge)
    unreadable = [charges[n].id for n in (0, 1, 3, 5)]
    with raw(path) as connection:
        for charge_id in unreadable:
            connection.execute(
                "UPDATE charges SET charge = json_set(charge, '$.later_field', 1) WHERE id = ?", (charge_id,)
            )
    for _ in range(2):
        assert await store.unresolved(now=9, limit=1) == [charges[2]]
        assert await store.unresolved(now=9, limit=9) == [charges[2], charges[4]]
        assert await store.recent(limit=1) == [charges[4]]
        assert await store.recent(limit=9, before=charges[4].id) == [charges[2]]
    told = [record.getMessage().split()[1] for record in caplog.records if record.levelname == "ERROR"]
    assert sorted(told) == unreadable
    assert "0xpayer" not in caplog.text


@pytest.mark.parametrize(("verb", "more"), [("get", ()), ("return_use", ("one",))])
async def test_store_that_is_not_open_says_so(path: Path, verb: str, more: tuple[str, ...]) -> None:
    store = SqliteStore(path)
    with pytest.raises(StoreError, match="start"):
        await getattr(store, verb)("ch_1", *more)
    assert files(path.parent) == []


# --- other writers, other operations


async def test_writer_elsewhere_stops_writes_and_not_reads(path: Path, store: SqliteStore) -> None:
    charge = make_charge("tx:1")
    await store.claim(charge)
    with raw(path) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.ensure_future(store.claim(make_charge("tx:2")))
        await asyncio.sleep(0)
        assert await store.find(["tx:1"]) == charge
        with pytest.raises(StoreError, match="locked"):
            await waiting
        other.execute("ROLLBACK")
    assert await store.find(["tx:2"]) is None
    assert (await store.claim(make_charge("tx:2"))).won


async def test_wait_is_woken_without_looking_again_and_again(path: Path) -> None:
    store = SqliteStore(path, readers=1, poll=60)
    await store.start()
    charge = make_charge("tx:1", uses=2, payment=PaymentState.SETTLED)
    await store.claim(charge)
    for verb in (store.save, store.save):
        current = await store.get(charge.id)
        assert current is not None
        waiting = asyncio.ensure_future(store.wait(current, timeout=60))
        await asyncio.sleep(0)
        await store.get(charge.id)  # the only reader answered the look before this one
        await verb(current)
        async with asyncio.timeout(10):
            changed = await waiting
        assert changed is not None
        assert changed.version == current.version + 1
    await store.close()


async def test_wait_sees_what_another_process_wrote(path: Path, store: SqliteStore) -> None:
    other = SqliteStore(path)
    await other.start()
    charge = make_charge("tx:1")
    await store.claim(charge)
    waiting = asyncio.ensure_future(store.wait(charge, timeout=60))
    saved = await other.save(charge)
    async with asyncio.timeout(10):
        assert await waiting == saved
    await other.close()


async def test_claim_that_fails_takes_nobody_with_it(store: SqliteStore) -> None:
    charges = [make_charge(f"tx:{n}", uses=2**70 if n == 10 else 1) for n in range(20)]
    results = await asyncio.gather(*(store.claim(charge) for charge in charges), return_exceptions=True)
    assert [n for n, result in enumerate(results) if isinstance(result, BaseException)] == [10]
    assert isinstance(results[10], OverflowError)
    assert await store.find(["tx:10"]) is None
    assert len(await store.recent(limit=100)) == 19


async def test_cancelled_saves_leave_every_charge_whole(store: SqliteStore) -> None:
    charges = [make_charge(f"tx:{n}") for n in range(50)]
    await asyncio.gather(*(store.claim(charge) for charge in charges))
    gained = [charge.model_copy(update={"keys": (*charge.keys, f"offer:{charge.id}")}) for charge in charges]
    tasks = [asyncio.ensure_future(store.save(charge, response=StoredResponse(200))) for charge in gained]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await store.claim(make_charge("tx:last"))
    for charge in gained:
        found = await store.get(charge.id)
        saved = charge.model_copy(update={"version": 1})
        if found == saved:
            assert await store.find([f"offer:{charge.id}"]) == saved
            assert await store.response(charge.id) is not None
        else:
            assert await store.find([f"offer:{charge.id}"]) is None
            assert await store.response(charge.id) is None


async def test_columns_agree_with_the_record(path: Path, store: SqliteStore) -> None:
    charge = make_charge("tx:1", uses=3)
    await store.claim(charge)
    settled = {"payment": PaymentState.SETTLED, "delivery": Delivery.STORED, "valid_until": 7, "lease_until": 5}
    await store.save(charge.model_copy(update=settled))
    for use in ("one", "two"):
        await store.take_use(charge.id, use, now=1, lease_until=2)
    await store.return_use(charge.id, "one")
    names = "id, version, payment, delivery, lease_until, created_at, valid_until, uses, uses_taken"
    with raw(path) as connection:
        *columns, text = connection.execute(f"SELECT {names}, charge FROM charges").fetchone()
    record = json.loads(text)
    assert columns == [record[name] for name in names.split(", ")]
    assert (record["version"], record["uses_taken"]) == (1, 1)
