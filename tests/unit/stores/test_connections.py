"""Threads with connections: batches, their failures, cancellation, and the end."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rail402.errors import StaleCharge, StoreError
from rail402.stores.connections import ConnectionThreads, Operation, group_commit, one_by_one


def connect(path: Path | str = ":memory:") -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY)")
    connection.execute("CREATE TABLE IF NOT EXISTS child (n REFERENCES t (n) DEFERRABLE INITIALLY DEFERRED)")
    return connection


def insert(number: int) -> Operation[int]:
    def operation(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO t VALUES (?)", (number,))
        return number

    return operation


def after(number: int, error: Exception) -> Operation[None]:
    """Write, then fail."""

    def operation(connection: sqlite3.Connection) -> None:
        insert(number)(connection)
        raise error

    return operation


def numbers(connection: sqlite3.Connection) -> list[int]:
    return [n for (n,) in connection.execute("SELECT n FROM t ORDER BY n")]


class Gate:
    """An operation that keeps its thread busy until it is opened."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, connection: sqlite3.Connection) -> None:
        self.entered.set()
        assert self.opened.wait(10)


@asynccontextmanager
async def writer(connection: sqlite3.Connection, *, batch: int = 256) -> AsyncIterator[ConnectionThreads]:
    threads = ConnectionThreads("test", [connection], group_commit, batch=batch)
    yield threads
    await threads.close()


async def queued(threads: ConnectionThreads, *operations: Operation[object]) -> list[asyncio.Future[object]]:
    """Queue the operations behind a gate, so that they make one batch."""
    gate = Gate()
    first = asyncio.ensure_future(threads.run(gate))
    assert await asyncio.to_thread(gate.entered.wait, 10)
    tasks = [asyncio.ensure_future(threads.run(operation)) for operation in operations]
    await asyncio.sleep(0)
    gate.opened.set()
    await first
    return list(tasks)


def commits(connection: sqlite3.Connection) -> Callable[[], int]:
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    return lambda: statements.count("COMMIT")


async def test_what_queued_up_is_committed_once() -> None:
    connection = connect()
    count = commits(connection)
    async with writer(connection) as threads:
        tasks = await queued(threads, *(insert(n) for n in range(100)))
        assert await asyncio.gather(*tasks) == list(range(100))
        assert count() == 2  # the gate's, and one for all hundred
        assert await threads.run(numbers) == list(range(100))


async def test_batch_has_a_bound() -> None:
    connection = connect()
    count = commits(connection)
    async with writer(connection, batch=10) as threads:
        await asyncio.gather(*await queued(threads, *(insert(n) for n in range(25))))
        assert count() == 1 + 3


@pytest.mark.parametrize(
    "failing",
    [
        after(2, StaleCharge("late")),
        after(2, ValueError("unreadable")),
        after(2, OverflowError("too large")),
        insert(2**70),
        insert(1),
        lambda connection: connection.execute("no SQL"),
    ],
)
async def test_operation_that_fails_undoes_only_itself(failing: Operation[object]) -> None:
    async with writer(connect()) as threads:
        tasks = await queued(threads, insert(1), failing, insert(3))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results[::2] == [1, 3]
        assert isinstance(results[1], StaleCharge | ValueError | OverflowError | sqlite3.Error)
        assert await threads.run(numbers) == [1, 3]


async def test_transaction_that_sqlite_undid_fails_the_whole_batch() -> None:
    def undone(connection: sqlite3.Connection) -> None:
        connection.execute("ROLLBACK")  # as SQLite itself does when the disk is full
        raise sqlite3.OperationalError("disk full")

    async with writer(connect()) as threads:
        tasks = await queued(threads, insert(1), undone, insert(3))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(result) for result in results] == ["the transaction was undone"] * 3
        assert await threads.run(insert(4)) == 4
        assert await threads.run(numbers) == [4]


async def test_commit_that_fails_stores_nothing_and_answers_everyone() -> None:
    def orphan(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO child VALUES (99)")  # checked at the commit

    async with writer(connect()) as threads:
        tasks = await queued(threads, insert(1), orphan)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, sqlite3.IntegrityError) for result in results)
        assert await threads.run(insert(2)) == 2
        assert await threads.run(numbers) == [2]


async def test_locked_file_fails_the_batch_and_the_next_one_works(tmp_path: Path) -> None:
    other = connect(tmp_path / "x.db")
    async with writer(connect(tmp_path / "x.db")) as threads:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await threads.run(insert(1))
        other.execute("ROLLBACK")
        assert await threads.run(insert(2)) == 2
        assert await threads.run(numbers) == [2]
    other.close()


async def test_cancelled_caller_leaves_a_whole_operation() -> None:
    async with writer(connect()) as threads:
        gate = Gate()
        first = asyncio.ensure_future(threads.run(gate))
        assert await asyncio.to_thread(gate.entered.wait, 10)
        cancelled = asyncio.ensure_future(threads.run(insert(1)))
        await asyncio.sleep(0)
        cancelled.cancel()
        first.cancel()
        gate.opened.set()
        results = await asyncio.gather(first, cancelled, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert await threads.run(numbers) == [1]


async def test_caller_whose_loop_is_gone_harms_nobody() -> None:
    async with writer(connect()) as threads:
        gate = Gate()
        first = asyncio.ensure_future(threads.run(gate))
        assert await asyncio.to_thread(gate.entered.wait, 10)

        async def leave() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(threads.run(insert(1)), 0)
            asyncio.ensure_future(threads.run(insert(2)))  # noqa: RUF006 - cancelled by the end of its loop
            await asyncio.sleep(0)

        await asyncio.to_thread(asyncio.run, leave())
        gate.opened.set()
        await first
        assert await threads.run(insert(3)) == 3
        assert 2 in await threads.run(numbers)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_bug_in_an_operation_leaves_nobody_waiting() -> None:
    def bug(connection: sqlite3.Connection) -> None:
        insert(2)(connection)
        raise LookupError("a bug")

    threads = ConnectionThreads("test", [connect()], group_commit, batch=2)
    tasks = await queued(threads, insert(1), bug, insert(3), insert(4))
    async with asyncio.timeout(10):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, StoreError) for result in results)
    with pytest.raises(StoreError, match="closed"):
        await threads.run(numbers)
    await threads.close()


async def test_close_finishes_what_is_queued(tmp_path: Path) -> None:
    threads = ConnectionThreads("test", [connect(tmp_path / "x.db")], group_commit, batch=2)
    tasks = await queued(threads, *(insert(n) for n in range(9)))
    await threads.close()
    assert await asyncio.gather(*tasks) == list(range(9))
    with pytest.raises(StoreError, match="closed"):
        await threads.run(numbers)
    await threads.close()
    reopened = connect(tmp_path / "x.db")
    assert numbers(reopened) == list(range(9))
    reopened.close()


async def test_several_readers_work_at_once_and_all_end(tmp_path: Path) -> None:
    connections = [connect(tmp_path / "x.db") for _ in range(3)]
    threads = ConnectionThreads("several", connections, one_by_one, batch=1)
    meeting = threading.Barrier(3)
    async with asyncio.timeout(10):
        await asyncio.gather(*(threads.run(lambda _: meeting.wait(10)) for _ in range(3)))
    await threads.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rail402-several")]


async def test_reader_answers_each_by_itself() -> None:
    threads = ConnectionThreads("test", [connect()], one_by_one, batch=8)
    tasks = await queued(threads, insert(1), insert(1), numbers)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert (results[0], results[2]) == (1, [1])
    assert isinstance(results[1], sqlite3.IntegrityError)
    await threads.close()


async def test_forked_copy_refuses_instead_of_waiting_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async with writer(connect()) as threads:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(StoreError, match="forked"):
            await threads.run(numbers)
