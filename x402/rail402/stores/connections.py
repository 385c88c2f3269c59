"""SQLite connections on threads of their own, so that the event loop never waits for a disk.

Threads take what has queued up as one batch. Readers answer it one by one; the writer runs all of it in one
transaction (`group_commit`): under load many operations share one wait for the disk, and none is answered before it
is durable.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from rail402.errors import Rail402Error, StoreError
from rail402.stores.sqlite_file import execute_patiently

__all__ = ["ConnectionThreads", "Operation", "Outcome", "group_commit", "one_by_one"]

T = TypeVar("T")

Operation = Callable[[sqlite3.Connection], T]
"""Statements to run on a connection that is lent for the time of the call."""

# What an operation may end with; the arithmetic and value errors are arguments that SQLite cannot hold.
_FAILURES: Final = (Rail402Error, sqlite3.Error, ArithmeticError, ValueError)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an operation: its value, or the error that it ended with."""

    value: Any = None
    error: Exception | None = None


Runner = Callable[[sqlite3.Connection, Sequence[Operation[Any]]], Sequence[Outcome]]
"""Runs a batch of operations on a connection; returns an outcome for each, in order."""


def group_commit(connection: sqlite3.Connection, operations: Sequence[Operation[Any]]) -> Sequence[Outcome]:
    """Run the operations in one transaction, each in a savepoint of its own: one that fails undoes only itself.

    Where the transaction itself fails, nothing of the batch is stored and every operation has that error.
    """
    try:
        execute_patiently(connection, "BEGIN IMMEDIATE")
        outcomes = [_in_savepoint(connection, operation) for operation in operations]
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        return [Outcome(error=error)] * len(operations)
    return outcomes


def _in_savepoint(connection: sqlite3.Connection, operation: Operation[Any]) -> Outcome:
    connection.execute("SAVEPOINT operation")
    outcome = _run(connection, operation)
    if outcome.error is not None:
        if not connection.in_transaction:
            # A full disk or an I/O error made SQLite undo the whole transaction, the other operations included.
            raise sqlite3.OperationalError("the transaction was undone") from outcome.error
        connection.execute("ROLLBACK TO operation")
    connection.execute("RELEASE operation")
    return outcome


def one_by_one(connection: sqlite3.Connection, operations: Sequence[Operation[Any]]) -> Sequence[Outcome]:
    """Run the operations, each on the newest state."""
    return [_run(connection, operation) for operation in operations]


def _run(connection: sqlite3.Connection, operation: Operation[Any]) -> Outcome:
    try:
        return Outcome(value=operation(connection))
    except _FAILURES as error:
        return Outcome(error=error)


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    operation: Operation[Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


class ConnectionThreads:
    """One thread per connection, all taking batches from one queue. Any event loop may use it.

    Args:
        connections: the connections; the threads own and close them.
        runner: `group_commit` or `one_by_one`.
        batch: how many operations one thread takes at once, at most.
    """

    def __init__(self, name: str, connections: Sequence[sqlite3.Connection], runner: Runner, *, batch: int) -> None:
        self._runner, self._batch, self._pid = runner, batch, os.getpid()
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open = True
        self._threads = [
            threading.Thread(target=self._serve, args=(connection,), name=f"rail402-{name}-{number}", daemon=True)
            for number, connection in enumerate(connections)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, operation: Operation[T]) -> T:
        """Run `operation` on one of the threads and return its value, or raise its error.

        A caller that is cancelled stops waiting; the operation still happens, whole.

        Raises:
            StoreError: the store is closed, or was opened before this process was forked.
        """
        if os.getpid() != self._pid:
            raise StoreError("the store was opened before this process was forked; start it in each worker")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        with self._lock:  # nothing may queue up behind the end that `close` puts there
            if not self._open:
                raise StoreError("the store is closed")
            self._queue.put(_Job(operation, loop, future))
        return await future

    async def close(self) -> None:
        """Finish what is queued, then close the connections."""
        self._end()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _end(self) -> None:
        with self._lock:
            if self._open:
                self._open = False
                self._queue.put(None)

    def _serve(self, connection: sqlite3.Connection) -> None:
        try:
            with closing(connection):
                while jobs := self._take():
                    self._work(connection, jobs)
        finally:
            # After an orderly end nothing is left. After a bug, nobody waits for a thread that is gone.
            self._end()
            _answer(self._left(), None)

    def _take(self) -> list[_Job]:
        """Return what is queued, waiting for the first; nothing at the end, whose mark stays for the other threads."""
        jobs: list[_Job] = []
        with suppress(queue.Empty):
            while len(jobs) < self._batch:
                job = self._queue.get(block=not jobs)
                if job is None:
                    self._queue.put(None)
                    break
                jobs.append(job)
        return jobs

    def _work(self, connection: sqlite3.Connection, jobs: Sequence[_Job]) -> None:
        outcomes = None
        try:
            outcomes = self._runner(connection, [job.operation for job in jobs])
        finally:
            _answer(jobs, outcomes)

    def _left(self) -> list[_Job]:
        jobs: list[_Job] = []
        with suppress(queue.Empty):
            while True:
                job = self._queue.get_nowait()
                if job is not None:
                    jobs.append(job)
        self._queue.put(None)
        return jobs


def _answer(jobs: Sequence[_Job], outcomes: Sequence[Outcome] | None) -> None:
    """Hand the outcomes over, waking each event loop once; without any, a thread ended by a bug."""
    if outcomes is None:
        outcomes = [Outcome(error=StoreError("a thread of the store ended; its traceback is in the log"))] * len(jobs)
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Outcome]]] = {}
    for job, outcome in zip(jobs, outcomes, strict=True):
        by_loop.setdefault(job.loop, []).append((job.future, outcome))
    for loop, answers in by_loop.items():
        with suppress(RuntimeError):  # that loop is closed: nobody waits there
            loop.call_soon_threadsafe(_resolve, answers)


def _resolve(answers: Iterable[tuple[asyncio.Future[Any], Outcome]]) -> None:
    for future, outcome in answers:
        if future.done():
            continue  # the caller was cancelled
        if outcome.error is not None:
            future.set_exception(outcome.error)
        else:
            future.set_result(outcome.value)
