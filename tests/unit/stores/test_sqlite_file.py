"""Opening a file: its mode, its settings, its schema, and what is refused."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rail402.errors import ConfigurationError
from rail402.stores.sql import Migration, migrations
from rail402.stores.sqlite_file import execute_patiently, migrate, open_reader, open_writer

NEWEST = migrations("sqlite")[-1].number


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "charges.db"


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(open_writer(path, busy_timeout=0.1)) as opened:
        yield opened


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def value(connection: sqlite3.Connection, pragma: str) -> object:
    return connection.execute(f"PRAGMA {pragma}").fetchone()[0]


def test_new_file_and_its_log_are_private(connection: sqlite3.Connection, path: Path) -> None:
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["charges.db", "charges.db-shm", "charges.db-wal"]
    assert [mode(file) for file in files] == [0o600] * 3


def test_mode_of_a_file_that_is_there_is_left_alone(path: Path) -> None:
    path.touch(0o640)
    path.chmod(0o640)
    open_writer(path, busy_timeout=1).close()
    assert mode(path) == 0o640


def test_every_commit_reaches_the_disk(connection: sqlite3.Connection) -> None:
    assert value(connection, "journal_mode") == "wal"
    assert value(connection, "synchronous") == 2  # FULL
    assert value(connection, "foreign_keys") == 1


def test_reader_cannot_write(connection: sqlite3.Connection, path: Path) -> None:
    with (
        closing(open_reader(path, busy_timeout=1)) as reader,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        reader.execute("DELETE FROM charges")


def test_file_system_without_a_log_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="local disk"):
        open_writer(Path(":memory:"), busy_timeout=1)  # SQLite keeps no log for this name


def test_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    with closing(open_writer(path, busy_timeout=1)) as newer:
        newer.execute("PRAGMA user_version = 9999")
    with pytest.raises(ConfigurationError, match=r"newer rail402 \(schema 9999"):
        open_writer(path, busy_timeout=1)
    with closing(sqlite3.connect(path)) as left:
        assert value(left, "user_version") == 9999


@pytest.mark.parametrize("statement", ["CREATE TABLE users (id)", "PRAGMA application_id = 7"])
def test_database_of_another_program_is_refused(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute(statement)
        other.execute("PRAGMA user_version = 3")
    with pytest.raises(ConfigurationError, match="another program"):
        open_writer(path, busy_timeout=1)


def test_steps_that_are_missing_are_applied_once(connection: sqlite3.Connection, path: Path) -> None:
    # The second statement fails if it runs twice, and has a semicolon inside a text.
    steps = [
        Migration(NEWEST, "CREATE TABLE never (n);\n"),
        Migration(NEWEST + 1, "CREATE TABLE added (\n  t TEXT\n);\nINSERT INTO added VALUES ('a;b');\n"),
    ]
    for _ in range(2):
        migrate(connection, path, steps)
        assert value(connection, "user_version") == NEWEST + 1
    assert connection.execute("SELECT t FROM added").fetchall() == [("a;b",)]
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        connection.execute("SELECT * FROM never")


def test_step_that_fails_leaves_the_file_as_it_was(connection: sqlite3.Connection, path: Path) -> None:
    steps = [Migration(NEWEST + step, "CREATE TABLE added (n);\n") for step in (1, 2)]
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        migrate(connection, path, steps)
    assert not connection.in_transaction
    assert value(connection, "user_version") == NEWEST
    connection.execute("CREATE TABLE added (n)")


def test_of_many_that_start_together_one_makes_the_schema(path: Path) -> None:
    meeting, errors = threading.Barrier(8), []

    def start() -> None:
        meeting.wait(10)
        try:
            open_writer(path, busy_timeout=10).close()
        except sqlite3.Error as error:
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_patience_ends_and_leaves_the_connection_as_it_was(connection: sqlite3.Connection, path: Path) -> None:
    with closing(open_writer(path, busy_timeout=1)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            execute_patiently(connection, "BEGIN IMMEDIATE")
        assert value(connection, "busy_timeout") == 100
        with pytest.raises(sqlite3.OperationalError, match="syntax"):
            execute_patiently(connection, "BEGIN NOW")
        threading.Timer(0.02, other.execute, ["ROLLBACK"]).start()
        execute_patiently(connection, "BEGIN IMMEDIATE")
        assert connection.in_transaction
