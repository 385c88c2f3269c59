"""A file that the first version made is opened by this one, with everything in it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from rail402.stores import Issued, SqliteStore, StoredResponse, TokenBucket
from rail402.stores.base import Claim
from rail402.stores.sql import migrations
from rail402.stores.sqlite_file import open_writer
from rail402.testing.store_support import NOW, make_charge, settled

CHARGE = settled("tx:1", "offer:1", uses=3, valid_until=NOW + 60)


def make_old_file(path: Path) -> None:
    """Make a file of the first schema, with a row in each of its tables."""
    with closing(open_writer(path, busy_timeout=1, schema=migrations("sqlite")[:1])) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        connection.execute(
            "INSERT INTO charges (id, version, payment, delivery, lease_until, created_at, valid_until, uses, "
            "uses_taken, charge) VALUES (?, 0, 'settled', 'stored', ?, ?, ?, 3, 0, ?)",
            (CHARGE.id, CHARGE.lease_until, CHARGE.created_at, CHARGE.valid_until, CHARGE.model_dump_json()),
        )
        keys = [(key, CHARGE.id) for key in CHARGE.keys]
        connection.executemany("INSERT INTO consumption_keys VALUES (?, ?)", keys)
        connection.execute("INSERT INTO responses VALUES (?, '', 200, '[]', ?)", (CHARGE.id, b"paid"))
        connection.execute("INSERT INTO settings VALUES ('salt', 'old')")
        connection.execute("INSERT INTO issued VALUES ('lnbc:1', 'ab', '{}', ?)", (NOW,))


def described(path: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


async def test_old_file_is_brought_up_to_date(tmp_path: Path) -> None:
    make_old_file(tmp_path / "charges.db")
    store = SqliteStore(tmp_path / "charges.db")
    for _ in range(2):  # the second start finds nothing to do
        await store.start()
        assert await store.claim(make_charge("offer:1")) == Claim(won=False, charge=CHARGE)
        assert await store.response(CHARGE.id) == StoredResponse(200, body=b"paid")
        assert await store.remember("salt", "new") == "old"
        assert await store.issued("lnbc:1") == Issued(key="lnbc:1", order_digest="ab", offer="{}", expires_at=NOW)
        assert await store.lead("reconciler", "a", now=NOW, seconds=30)
        await store.close()
    await store.start()
    assert await store.take_use(CHARGE.id, "one", now=NOW, lease_until=NOW) == CHARGE.model_copy(
        update={"uses_taken": 1}
    )
    assert await store.spend("ip:1", 9, TokenBucket(rate=1, burst=5), now=NOW) == 5
    await store.close()


async def test_old_file_becomes_what_a_new_one_is(tmp_path: Path) -> None:
    make_old_file(tmp_path / "old.db")
    for name in ("old.db", "new.db"):
        store = SqliteStore(tmp_path / name)
        await store.start()
        await store.close()
    assert described(tmp_path / "old.db") == described(tmp_path / "new.db")
