"""Which database a journal's URL names, and what every work on one keeps to."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from rail402.client.journal import Journal
from rail402.client.journal_database import Session
from rail402.client.journal_sqlite import SqliteJournal
from rail402.errors import ConfigurationError, StoreError


@pytest.mark.parametrize(
    "url", ["wallet.db", "mysql://me:hunter2@db/x", "sqlite:///", "sqlite:///:memory:", "sqlite:///a?b", ""]
)
def test_other_urls_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match="write") as caught:
        Journal(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_postgresql_is_told_by_its_address_only(scheme: str) -> None:
    journal = Journal(f"{scheme}://me:hunter2@db.test/wallets?sslmode=require")
    assert journal.address == "db.test:5432/wallets"
    assert repr(journal) == "Journal('db.test:5432/wallets')"


def test_without_its_library_a_postgresql_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rail402.client.journal_postgres", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'rail402\[postgres\]'"):
        Journal("postgresql://me@db.test/wallets")


async def test_a_journal_that_is_not_open_is_a_store_error(tmp_path: Path) -> None:
    for journal in (Journal(f"sqlite:///{tmp_path}/wallet.db"), Journal("postgresql://me@db.test/wallets")):
        with pytest.raises(StoreError, match="not open"):
            await journal.unresolved()


async def test_a_write_that_waits_for_something_else_is_refused(tmp_path: Path) -> None:
    async def waits(session: Session) -> None:
        await asyncio.sleep(0)

    database = SqliteJournal(tmp_path / "wallet.db")
    await database.start()
    with pytest.raises(StoreError, match="nothing but its session"):
        await database.write(waits)
    await database.close()
