from __future__ import annotations

import asyncio
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rail402.errors import ConfigurationError, OutcomeUnknown, RailUnavailable
from rail402_base.eip3009 import address_of
from rail402_base.sandbox_ledger import Ledger, LedgerFile

HOLDER = address_of(32 * b"\x01")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def mint(file: LedgerFile, amount: int = 5) -> None:
    await file.write(lambda ledger: ledger.mint(HOLDER, amount))


async def balance(file: LedgerFile) -> int:
    return await file.read(lambda ledger: ledger.balance(HOLDER))


async def test_the_file_is_made_for_its_owner_only(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path / "ledger.db")
    assert not file.path.exists()
    modes: list[tuple[str, int]] = []

    def look(ledger: Ledger) -> None:
        ledger.mint(HOLDER, 1)
        modes.extend((path.name, mode_of(path)) for path in tmp_path.iterdir())

    await file.write(look)
    # The write-ahead log holds the same data as the file.
    assert sorted(modes) == [("ledger.db", 0o600), ("ledger.db-shm", 0o600), ("ledger.db-wal", 0o600)]
    assert names(tmp_path) == ["ledger.db"]


async def test_a_ledger_that_others_may_read_is_closed(tmp_path: Path) -> None:
    await mint(LedgerFile(tmp_path / "ledger.db"))
    (tmp_path / "ledger.db").chmod(0o644)
    assert await balance(LedgerFile(tmp_path / "ledger.db")) == 5
    assert mode_of(tmp_path / "ledger.db") == 0o600


async def test_it_survives_a_restart(tmp_path: Path) -> None:
    await mint(LedgerFile(tmp_path / "ledger.db"))
    assert await balance(LedgerFile(str(tmp_path / "ledger.db"))) == 5


async def test_it_stays_where_it_was_when_the_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    file = LedgerFile("ledger.db")
    monkeypatch.chdir(tmp_path / "b")
    await mint(file)
    assert (tmp_path / "a" / "ledger.db").exists()


async def test_a_path_with_the_signs_of_a_uri(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path / "a ?mode=memory#%41.db")
    await mint(file)
    assert await balance(file) == 5
    assert file.path.exists()


async def test_many_make_it_at_once(tmp_path: Path) -> None:
    files = [LedgerFile(tmp_path / "ledger.db") for _ in range(8)]
    await asyncio.gather(*(mint(file) for file in files))
    assert await balance(files[0]) == 40
    assert names(tmp_path) == ["ledger.db"]


async def test_who_comes_second_takes_the_ledger_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The race itself: the file appears between looking for it and giving the draft its name."""
    first, second = LedgerFile(tmp_path / "ledger.db"), LedgerFile(tmp_path / "ledger.db")
    link = Path.hardlink_to

    def slow_link(path: Path, target: Path) -> None:
        monkeypatch.setattr(Path, "hardlink_to", link)
        first._run("IMMEDIATE", lambda ledger: ledger.mint(HOLDER, 5))
        link(path, target)

    monkeypatch.setattr(Path, "hardlink_to", slow_link)
    assert await balance(second) == 5
    assert names(tmp_path) == ["ledger.db"]


async def test_an_exception_takes_everything_back(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path / "ledger.db")
    await mint(file)

    def fail(ledger: Ledger) -> None:
        ledger.mint(HOLDER, 7)
        ledger.use_nonce(HOLDER, bytes(32))
        raise LookupError("in between")

    with pytest.raises(LookupError, match="in between"):
        await file.write(fail)
    assert await balance(file) == 5
    assert not await file.read(lambda ledger: ledger.is_nonce_used(HOLDER, bytes(32)))
    assert (await file.read(lambda ledger: ledger.books())).minted == 5


async def test_readers_see_one_state(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path / "ledger.db")
    await mint(file)

    def read_twice(ledger: Ledger) -> tuple[int, int]:
        before = ledger.balance(HOLDER)
        file._run("IMMEDIATE", lambda other: other.mint(HOLDER, 7))  # another process, in between
        return before, ledger.balance(HOLDER)

    assert await file.read(read_twice) == (5, 5)
    assert await balance(file) == 12


# What goes wrong


async def test_the_directory_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none/ledger\.db cannot be made: No such file"):
        await mint(LedgerFile(tmp_path / "none" / "ledger.db"))


async def test_a_directory_is_no_ledger_and_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").mkdir(mode=0o755)
    with pytest.raises(ConfigurationError, match="is not a sandbox ledger"):
        await mint(LedgerFile(tmp_path / "ledger.db"))
    assert mode_of(tmp_path / "ledger.db") == 0o755


@pytest.mark.parametrize("content", [b"", b"not a database, but a text that is long enough to be taken for one" * 20])
async def test_another_file_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(content)
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="is not a sandbox ledger"):
        await mint(LedgerFile(path))
    assert path.read_bytes() == content
    assert mode_of(path) == 0o644


@pytest.mark.parametrize("marks", [{}, {"application_id": 5}, {"application_id": 0x72343032, "user_version": 99}])
async def test_another_database_is_left_as_it_is(tmp_path: Path, marks: dict[str, int]) -> None:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE balances (address, amount)")
        for mark, value in marks.items():
            database.execute(f"PRAGMA {mark} = {value}")
    content = path.read_bytes()
    with pytest.raises(ConfigurationError, match="is not a sandbox ledger of this version"):
        await mint(LedgerFile(path))
    assert path.read_bytes() == content


async def test_a_busy_ledger_is_unavailable(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path / "ledger.db", busy_timeout=0)
    await mint(file)
    with closing(sqlite3.connect(file.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RailUnavailable, match="locked"):
            await mint(file)
        assert await balance(file) == 5  # readers do not wait for writers
    await mint(file)
    assert await balance(file) == 10


async def test_a_ledger_that_is_busy_when_it_is_opened_is_opened_later(tmp_path: Path) -> None:
    await mint(LedgerFile(tmp_path / "ledger.db"))
    file = LedgerFile(tmp_path / "ledger.db", busy_timeout=0)
    with closing(sqlite3.connect(file.path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("DELETE FROM faults")
        with pytest.raises(RailUnavailable, match="locked"):
            await balance(file)
    assert await balance(file) == 5


async def test_a_ledger_taken_away_is_unavailable_and_not_made_anew(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path / "ledger.db")
    await mint(file)
    file.path.unlink()
    with pytest.raises(RailUnavailable, match="unable to open"):
        await balance(file)
    assert not file.path.exists()


class FailingCommit(sqlite3.Connection):
    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        if sql == "COMMIT":
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *arguments)


async def test_a_commit_that_fails_leaves_the_outcome_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = LedgerFile(tmp_path / "ledger.db")
    await mint(file)

    def connect(path: Path) -> sqlite3.Connection:
        return sqlite3.connect(path, isolation_level=None, factory=FailingCommit)

    with monkeypatch.context() as patched:
        patched.setattr(file, "_connect", connect)
        with pytest.raises(OutcomeUnknown, match="disk I/O error"):
            await mint(file)
        with pytest.raises(RailUnavailable, match="disk I/O error"):
            await balance(file)
    assert await balance(file) == 5


async def test_a_long_ledger_takes_no_longer(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path / "ledger.db")

    def steps(ledger: Ledger) -> int:
        """Return what SQLite does to mine a transaction and to look for those that wait, in steps of its machine."""
        counted = 0

        def count() -> int:
            nonlocal counted
            counted += 1
            return 0

        ledger._database.set_progress_handler(count, 1)
        ledger._new_block(1)
        assert not ledger.pending()
        assert not ledger.pending_transfers()
        ledger._database.set_progress_handler(None, 0)
        return counted

    def fill(ledger: Ledger) -> None:
        row = "'mined', ?, '', '', 1, '1', '1', x'00')"
        for block in range(2, 1002):
            ledger._database.execute(f"INSERT INTO transactions VALUES (NULL, {block}, {row}", [block])
            ledger._database.execute(
                "INSERT INTO transfers VALUES (NULL, ?, 'mined', ?, '', '', 1)", [block, block + 1000]
            )

    before = await file.write(steps)
    await file.write(fill)
    assert await file.write(steps) <= before + 10
