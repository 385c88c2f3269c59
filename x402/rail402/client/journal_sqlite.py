"""A journal in one SQLite file, for all threads, event loops and processes of one machine.

It is made with mode 600, because proofs are in it. Every read and write runs on one thread of its own, so that no event
loop waits for the disk.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from rail402.client.journal_database import BUDGET, JournalDatabase, Work
from rail402.errors import ConfigurationError, StoreError
from rail402.stores.connections import ConnectionThreads, group_commit
from rail402.stores.sql import queries
from rail402.stores.sqlite_file import open_writer

__all__ = ["SqliteJournal"]

T = TypeVar("T")

APPLICATION_ID: Final = int.from_bytes(b"r4jl")
_SQL: Final = queries("journal")
_BATCH: Final = 64


class SqliteJournal(JournalDatabase):
    """The tables of a journal in a file; see `JournalDatabase`. There is one writer at a time, so there is one lock.

    Args:
        path: the file; a relative one is in the working directory.
        busy_timeout: seconds to wait for other processes that are writing.
    """

    def __init__(self, path: str | Path, *, busy_timeout: int = 30) -> None:
        self.path = Path(path).absolute()
        self.address = str(self.path)
        self._busy_timeout = busy_timeout
        self._threads: ConnectionThreads | None = None
        self._file: tuple[int, int] | None = None

    def exists(self) -> bool:
        """Say whether the file is there."""
        return self.path.exists()

    async def start(self) -> None:
        """Open the file, making it if need be.

        Raises:
            ConfigurationError: the file is another program's or a newer version's, or others can read it and its mode
                cannot be changed.
            StoreError: it cannot be opened.
        """
        if self._threads is not None:
            return
        try:
            connection = await asyncio.to_thread(self._open)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"the journal {self.path} cannot be opened: {error}") from error
        self._threads = ConnectionThreads("journal", [connection], group_commit, batch=_BATCH)

    async def close(self) -> None:
        """Finish what was asked for, and close the file."""
        threads, self._threads = self._threads, None
        if threads is not None:
            await threads.close()

    async def read(self, work: Work[T]) -> T:
        """Run what only reads; see `JournalDatabase`."""
        return await self._run(work, checked=False)

    async def write(self, work: Work[T], *, lock: str = BUDGET) -> T:
        """Run `work` as one transaction; see `JournalDatabase`."""
        return await self._run(work, checked=lock == BUDGET)

    async def _run(self, work: Work[T], *, checked: bool) -> T:
        """Run `work` on the thread; the one seam to SQLite."""

        def operation(connection: sqlite3.Connection) -> T:
            if checked:
                self._check_file()
            return _finished(work(_Session(connection)))

        if self._threads is None:
            raise StoreError("the journal is not open")
        try:
            return await self._threads.run(operation)
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise StoreError(f"the journal {self.path} cannot be used: {error}") from error

    def _open(self) -> sqlite3.Connection:
        connection = open_writer(
            self.path, busy_timeout=self._busy_timeout, schema="journal", application_id=APPLICATION_ID
        )
        try:
            self._make_private()
            self._file = _identity(self.path)
        except (ConfigurationError, OSError):
            connection.close()
            raise
        return connection

    def _check_file(self) -> None:
        """Check that the open file still is the one at its path: another process would spend from that one's budget."""
        with suppress(FileNotFoundError):
            if _identity(self.path) == self._file:
                return
        raise StoreError(f"{self.path} is another file than the one that was opened; restart to use it")

    def _make_private(self) -> None:
        """Take the file from everybody else's eyes: an older copy or an umask may have opened it."""
        for path in (self.path, *(self.path.with_name(self.path.name + end) for end in ("-wal", "-shm"))):
            try:
                if stat.S_IMODE(path.stat().st_mode) & 0o077:
                    os.chmod(path, 0o600)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ConfigurationError(f"{path} holds secrets and others can read it; chmod 600 it") from error


class _Session:
    """Answers at once: it is used on the thread that may wait for the disk."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def fetch(self, query: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return self._connection.execute(_SQL[query], dict(values)).fetchall()

    async def count(self, query: str, values: Mapping[str, Any]) -> int:
        return self._connection.execute(_SQL[query], dict(values)).rowcount

    async def now(self, told: int) -> int:
        return told  # the machine's clock, whoever asks


def _finished(steps: Coroutine[Any, Any, T]) -> T:
    """Run to its end a coroutine that never waits."""
    try:
        steps.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    steps.close()
    raise StoreError("what is done in a journal may wait for nothing but its session")


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino
