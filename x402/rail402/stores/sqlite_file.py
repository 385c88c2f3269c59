"""Opening an SQLite file: private, durable, shared between processes, and with the schema that this code knows."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from rail402.errors import ConfigurationError
from rail402.stores.sql import Migration, migrations

__all__ = ["APPLICATION_ID", "execute_patiently", "migrate", "open_reader", "open_writer"]

APPLICATION_ID: Final = int.from_bytes(b"r402")
"""Marks the file as ours (SQLite's `application_id`)."""

_RETRY_SECONDS: Final = 0.001

# Keys are random, so commits touch pages all over their index; a longer log writes such a page back once for many.
_CHECKPOINT_PAGES: Final = 4000


def open_writer(
    path: Path,
    *,
    busy_timeout: float,
    schema: str | Sequence[Migration] = "sqlite",
    application_id: int = APPLICATION_ID,
) -> sqlite3.Connection:
    """Open the file for writing, making it (mode 600) and bringing its schema up to date.

    Args:
        busy_timeout: seconds to wait for another process that is writing.
        schema: the folder of its migrations below `rail402.stores.sql`, or the migrations themselves, oldest first.
        application_id: marks files of that kind.

    Raises:
        ConfigurationError: the file is not a store, was written by a newer version, or cannot have a write-ahead log.
        OSError, sqlite3.Error: it cannot be opened.
    """
    with suppress(FileExistsError):
        # SQLite gives the -wal and -shm files the mode of the main file.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    connection = _connect(path, busy_timeout)
    try:
        _use_wal(connection, path)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone does not reach the disk there
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        migrate(connection, path, migrations(schema) if isinstance(schema, str) else schema, application_id)
    except (sqlite3.Error, ConfigurationError):
        connection.close()
        raise
    return connection


def open_reader(path: Path, *, busy_timeout: float) -> sqlite3.Connection:
    """Open the file for reading, after `open_writer`."""
    connection = _connect(path, busy_timeout)
    connection.execute("PRAGMA query_only = ON")
    return connection


def execute_patiently(connection: sqlite3.Connection, statement: str) -> sqlite3.Cursor:
    """Run a statement that has to wait, as long as the connection's `busy_timeout` says, while another process writes.

    SQLite's own waiting sleeps longer and longer, so that a busy process starves the others, and does not cover the
    switch to a write-ahead log.

    Raises:
        sqlite3.OperationalError: the file is still locked, or the statement failed.
    """
    (milliseconds,) = connection.execute("PRAGMA busy_timeout").fetchone()
    deadline = time.monotonic() + milliseconds / 1000
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                return connection.execute(statement)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_SECONDS)
    finally:
        connection.execute(f"PRAGMA busy_timeout = {milliseconds}")


def migrate(
    connection: sqlite3.Connection, path: Path, steps: Sequence[Migration], application_id: int = APPLICATION_ID
) -> None:
    """Apply the steps that the file lacks, in one transaction: of many processes that start, one does it.

    Raises:
        ConfigurationError: the file was written by a newer version, or is not a store.
    """
    execute_patiently(connection, "BEGIN IMMEDIATE")
    try:
        version = _version(connection, path, application_id)
        newest = steps[-1].number
        if version > newest:
            raise ConfigurationError(
                f"{path} was written by a newer rail402 (schema {version}, this one knows {newest}); upgrade rail402"
            )
        for step in steps:
            if step.number > version:
                for statement in _statements(step.script):
                    connection.execute(statement)
        if version < newest:
            connection.execute(f"PRAGMA application_id = {application_id}")
            connection.execute(f"PRAGMA user_version = {newest}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _version(connection: sqlite3.Connection, path: Path, application_id: int) -> int:
    """Return the version of the schema; 0 for an empty file."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != application_id and (application or tables):
        raise ConfigurationError(f"{path} is the database of another program; give the store a file of its own")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _statements(script: str) -> Iterator[str]:
    """Split a script; `executescript` would commit the transaction it runs in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _connect(path: Path, busy_timeout: float) -> sqlite3.Connection:
    # Made here, used by one other thread; transactions are begun and ended by our own statements.
    return sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, check_same_thread=False)


def _use_wal(connection: sqlite3.Connection, path: Path) -> None:
    """Switch to a write-ahead log, so that readers and the writer do not wait for each other."""
    (mode,) = execute_patiently(connection, "PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise ConfigurationError(f"{path} is on a file system without shared memory; put the store on a local disk")
