from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from rail402.client.journal import Journal
from rail402.client.journal_sqlite import APPLICATION_ID
from rail402.client.records import PurchaseState
from rail402.errors import ConfigurationError, StoreError
from rail402.stores.sql import migrations, queries
from rail402.stores.sqlite_file import open_writer
from tests.unit.client.purchases import NOW, record, reserve


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/wallet.db"


@pytest.fixture
async def journal(url: str) -> AsyncIterator[Journal]:
    journal = Journal(url)
    await journal.start()
    yield journal
    await journal.close()


async def test_a_file_that_was_replaced_takes_no_new_purchase(journal: Journal) -> None:
    first = await reserve(journal, record())
    os.rename(journal.address, f"{journal.address}.moved")
    for _ in range(2):
        with pytest.raises(StoreError, match="another file"):
            await reserve(journal, record(1))
        shutil.copy(f"{journal.address}.moved", journal.address)
    # What is under way can still be brought to its end.
    await journal.save(first.changed(state=PurchaseState.RELEASED), now=NOW)


async def test_the_file_is_private(journal: Journal) -> None:
    await reserve(journal, record())
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in Path(journal.address).parent.iterdir()}
    assert set(modes.values()) == {0o600}
    assert "wallet.db-wal" in modes


async def test_an_open_file_is_made_private_again(journal: Journal) -> None:
    await journal.close()
    os.chmod(journal.address, 0o644)
    await journal.start()
    assert stat.S_IMODE(os.stat(journal.address).st_mode) == 0o600


async def test_a_file_that_cannot_be_made_private_is_refused(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    await journal.close()
    os.chmod(journal.address, 0o644)

    def refuse(path: object, mode: int) -> None:
        raise PermissionError("not the owner")

    with monkeypatch.context() as patch:
        patch.setattr("os.chmod", refuse)
        with pytest.raises(ConfigurationError, match="chmod 600"):
            await journal.start()
    await journal.start()


async def test_another_programs_file_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE things (name TEXT)")
    connection.close()
    with pytest.raises(ConfigurationError, match="another program"):
        await Journal(f"sqlite:///{tmp_path}/other.db").start()


async def test_what_cannot_be_opened_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        await Journal(f"sqlite:///{tmp_path}/no/such/folder/wallet.db").start()
    with pytest.raises(StoreError, match="not open"):
        await Journal(f"sqlite:///{tmp_path}/wallet.db").unresolved()


async def test_a_damaged_record_is_a_store_error(journal: Journal) -> None:
    await reserve(journal, record())
    with sqlite3.connect(journal.address) as connection:
        connection.execute("UPDATE purchases SET purchase = '{}'")
    connection.close()
    with pytest.raises(StoreError, match="cannot be read"):
        await journal.unresolved()


async def test_what_was_bought_before_there_was_a_total_counts_in_it(tmp_path: Path) -> None:
    first, second, scopes = migrations("journal")[:3]
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        connection.executescript(first.script + second.script)
        connection.execute("INSERT INTO purchases VALUES ('rec_1', 0, 'o', 'committed', 0, 1, '{}')")
        for period in ("hour", "day"):
            connection.execute("INSERT INTO spending VALUES ('rec_1', ?, 'USD', 150000000000, 1, 0)", [period])
        connection.executescript(scopes.script)
        found = connection.execute("SELECT scope, period, amount FROM spending ORDER BY period").fetchall()
    assert found == [("", period, 150_000_000_000) for period in ("day", "hour", "total")]


async def test_what_was_bought_before_there_were_sums_counts_in_them(tmp_path: Path) -> None:
    schema = migrations("journal")[:6]
    with closing(open_writer(tmp_path / "old.db", busy_timeout=1, schema=schema, application_id=APPLICATION_ID)) as old:
        for number in range(6):
            state, is_open = ("presented", 1) if number == 5 else ("committed", 0)
            old.execute(
                "INSERT INTO purchases (id, version, order_digest, state, lease_until, created_at, purchase)"
                " VALUES (?, 0, 'o', ?, 1, 1, '{}')",
                [f"rec_{number}", state],
            )
            for period in ("hour", "day", "total"):
                row = [f"rec_{number}", period, 10**11, NOW - number * 1000, is_open]
                old.execute("INSERT INTO spending VALUES (?, '', ?, 'USD', ?, ?, ?)", row)
    journal = Journal(f"sqlite:///{tmp_path}/old.db")
    await journal.start()
    spent = await journal.spent(now=NOW + 599)
    assert {level: str(used["USD"].total) for level, used in spent.items()} == {
        "hour": "5 USD",
        "day": "6 USD",
        "total": "6 USD",
    }
    assert str((await journal.spent(now=NOW + 600))["hour"]["USD"].total) == "4 USD", "to the second"
    await journal.close()


@pytest.mark.parametrize("minutes", [1, 2880])
async def test_a_window_costs_no_more_to_read_for_what_was_bought_in_it(journal: Journal, minutes: int) -> None:
    await journal.close()
    few, many = _steps(journal, 2880, minutes), _steps(journal, 28_800, minutes)
    assert many < few * 1.2


def _steps(journal: Journal, purchases: int, minutes: int) -> int:
    """Return what SQLite does to read the windows of a day with so many purchases more, in steps of its machine."""
    steps, window = 0, queries("journal")["window"]

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    with closing(sqlite3.connect(journal.address)) as connection, connection:
        connection.executescript("DELETE FROM spending; DELETE FROM purchases")
        for number in range(purchases):
            spent_at = NOW - 60 * (number % minutes) - 30
            connection.execute(
                "INSERT INTO purchases (id, version, order_digest, state, lease_until, created_at, purchase)"
                " VALUES (?, 0, 'o', 'committed', 1, 1, '{}')",
                [f"rec_{number}"],
            )
            for period in ("day", "total"):
                connection.execute(
                    "INSERT INTO spending VALUES (?, '', ?, 'USD', 1, ?, 1)", [f"rec_{number}", period, spent_at]
                )
        connection.execute("UPDATE spending SET is_open = 0")
        connection.set_progress_handler(count, 1)
        for period, since in (("day", NOW - 86_400), ("total", -1)):
            values = {"scope": "", "period": period, "currency": "USD", "since": since}
            values |= {"first_minute": since // 60, "first_minute_end": (since // 60 + 1) * 60}
            ((total, _),) = connection.execute(window, values).fetchall()
            assert total == (purchases if period == "total" else -(-purchases * min(minutes, 1440) // minutes))
        connection.set_progress_handler(None, 0)
    return steps


async def test_half_a_surrogate_pair_is_the_id_of_nothing(journal: Journal) -> None:
    with pytest.raises(StoreError, match="cannot be used"):
        await journal.get("rec_\udcff")
    assert await journal.get("rec_none") is None
