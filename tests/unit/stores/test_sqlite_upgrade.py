"""A file that any earlier version made is opened by this one, with everything in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rail402.protocol.charge import Charge
from rail402.stores import SqliteStore
from rail402.stores.sql import migrations
from rail402.stores.sqlite_file import open_writer
from rail402.testing.store_support import NOW
from tests.conformance.upgraded_stores import CHARGE, OPEN, assert_all_there, columns_of

EARLIER = [step.number for step in migrations("sqlite")[:-1]]


def charge_row(charge: Charge) -> tuple[str, Sequence[Any]]:
    row = columns_of(charge)
    marks = ", ".join("?" * len(row))
    return f"INSERT INTO charges ({', '.join(row)}) VALUES ({marks})", list(row.values())


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
    await assert_all_there(SqliteStore(tmp_path / "charges.db"), version)


@pytest.mark.parametrize("version", EARLIER)
async def test_old_file_becomes_what_a_new_one_is(version: int, tmp_path: Path) -> None:
    make_old_file(tmp_path / "old.db", version)
    for name in ("old.db", "new.db"):
        store = SqliteStore(tmp_path / name)
        await store.start()
        await store.close()
    assert described(tmp_path / "old.db") == described(tmp_path / "new.db")
