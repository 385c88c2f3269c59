"""A file that any earlier version made is opened by this one, with everything in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rail402.protocol.charge import Charge
from rail402.stores import Issued, SqliteStore, StoredResponse, TokenBucket
from rail402.stores.base import Claim
from rail402.stores.sql import migrations
from rail402.stores.sqlite_file import open_writer
from rail402.testing.store_support import NOW, make_charge, settled

EARLIER = [step.number for step in migrations("sqlite")[:-1]]

CHARGE = settled("tx:1", "offer:1", uses=3, uses_taken=1, valid_until=NOW + 60)
OPEN = make_charge("tx:2", lease_until=NOW - 60)


def charge_row(charge: Charge) -> tuple[str, Sequence[Any]]:
    names = ["id", "version", "payment", "delivery", "lease_until", "created_at", "valid_until", "uses", "uses_taken"]
    row = charge.model_dump(mode="json")
    marks = ", ".join("?" * (len(names) + 1))
    text = f"INSERT INTO charges ({', '.join(names)}, charge) VALUES ({marks})"
    return text, [*(row[name] for name in names), charge.model_dump_json()]


ROWS: dict[int, list[tuple[str, Sequence[Any]]]] = {
    1: [
        charge_row(CHARGE),
        charge_row(OPEN),
        *(
            ("INSERT INTO consumption_keys VALUES (?, ?)", (key, each.id))
            for each in (CHARGE, OPEN)
            for key in each.keys
        ),
        ("INSERT INTO responses VALUES (?, '', 200, '[]', ?)", (CHARGE.id, b"paid")),
        ("INSERT INTO settings VALUES ('salt', 'old')", ()),
        ("INSERT INTO issued VALUES ('lnbc:1', 'ab', '{}', ?)", (NOW,)),
    ],
    2: [
        ("INSERT INTO leases VALUES ('reconciler', 'old', ?)", (NOW + 60,)),
        ("INSERT INTO buckets VALUES ('ip:1', ?)", ((NOW + 2) * 10**9,)),
    ],
    3: [("INSERT INTO uses VALUES (?, 'old', 'slot', ?)", (CHARGE.id, NOW + 60))],
}
"""What stands in the tables that each version brought."""


def make_old_file(path: Path, version: int) -> None:
    """Make a file as that version did, with a row in each of its tables."""
    with closing(open_writer(path, busy_timeout=1, schema=migrations("sqlite")[:version])) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (version,)
        for each in range(1, version + 1):
            for statement, values in ROWS.get(each, ()):
                connection.execute(statement, values)
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() != (0,), table


def described(path: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


@pytest.mark.parametrize("version", EARLIER)
async def test_old_file_is_brought_up_to_date(version: int, tmp_path: Path) -> None:
    make_old_file(tmp_path / "charges.db", version)
    store = SqliteStore(tmp_path / "charges.db")
    for _ in range(2):  # the second start finds nothing to do
        await store.start()
        assert await store.claim(make_charge("offer:1")) == Claim(won=False, charge=CHARGE)
        assert await store.unresolved(now=NOW, limit=5) == [OPEN]
        assert await store.response(CHARGE.id) == StoredResponse(200, body=b"paid")
        assert await store.remember("salt", "new") == "old"
        assert await store.issued("lnbc:1") == Issued(key="lnbc:1", order_digest="ab", offer="{}", expires_at=NOW)
        assert await store.lead("reconciler", "a", now=NOW, seconds=30) is (version < 2)
        assert await store.renew_use(CHARGE.id, "old", lease_until=NOW + 60) is (version >= 3)
        await store.close()
    await store.start()
    taken = await store.take_use(CHARGE.id, "one", now=NOW, lease_until=NOW)
    assert taken == CHARGE.model_copy(update={"uses_taken": 2})
    assert await store.spend("ip:1", 9, TokenBucket(rate=1, burst=5), now=NOW) == (5 if version < 2 else 3)
    await store.prune(before=NOW + 60, now=NOW)
    assert await store.recent(limit=5) == [OPEN, taken]
    await store.prune(before=NOW + 61, now=NOW)
    assert await store.recent(limit=5) == [OPEN]
    await store.close()


@pytest.mark.parametrize("version", EARLIER)
async def test_old_file_becomes_what_a_new_one_is(version: int, tmp_path: Path) -> None:
    make_old_file(tmp_path / "old.db", version)
    for name in ("old.db", "new.db"):
        store = SqliteStore(tmp_path / name)
        await store.start()
        await store.close()
    assert described(tmp_path / "old.db") == described(tmp_path / "new.db")
