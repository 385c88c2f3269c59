"""A journal in a PostgreSQL, for payers on several machines, whose clocks may differ: the server's clock decides."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cache
from typing import Any, Final, TypeVar

from psycopg.errors import UniqueViolation

from rail402.client.journal_database import BUDGET, JournalDatabase, Session, Work
from rail402.errors import StoreError
from rail402.stores.postgres_database import Connection, PostgresDatabase
from rail402.stores.sql import migrations, queries

__all__ = ["PostgresJournal"]

T = TypeVar("T")

_SQL: Final = queries("journal")
_OWN_SQL: Final = queries("journal_postgres")
_PLACEHOLDER: Final = re.compile(r"(?<!:):([a-z_]+)", re.ASCII)
_TABLE: Final = re.compile(r"\b(FROM|INTO|UPDATE|JOIN) ([a-z_]+)", re.ASCII)


class PostgresJournal(JournalDatabase):
    """The tables of a journal in a PostgreSQL, version 13 or newer; see `JournalDatabase` and
    `rail402.stores.postgres.PostgresStore`. It belongs to the event loop that started it.

    Args:
        url: `postgresql://user:password@host/database`. Secret.
        connections: how many to have at most.
        timeout: seconds to wait for a connection, and for a statement, which may wait for other writers.
        server_clock: whether the server's clock decides; else the caller's, which is for tests.

    Raises:
        ConfigurationError: the URL is not one of a PostgreSQL.
    """

    def __init__(self, url: str, *, connections: int = 4, timeout: int = 30, server_clock: bool = True) -> None:
        steps = migrations("journal_postgres")
        self._database = PostgresDatabase(url, part="journal", steps=steps, connections=connections, timeout=timeout)
        self.address = self._database.address
        self._server_clock = server_clock
        self._reserving = asyncio.Lock()
        self._writes: set[asyncio.Task[Any]] = set()

    def exists(self) -> bool:
        """Say True: nothing is known without a connection."""
        return True

    async def start(self) -> None:
        """Connect, and bring the schema up to date.

        Raises:
            ConfigurationError: the schema is a newer version's, or the database's encoding is not UTF8.
            StoreError: it cannot be reached, or refuses the user.
        """
        self._reserving = asyncio.Lock()  # of this event loop
        await self._database.start()

    async def close(self) -> None:
        """Finish what is being written, and close the connections."""
        await asyncio.gather(*self._writes, return_exceptions=True)
        await self._database.close()

    async def read(self, work: Work[T]) -> T:
        """Run what only reads; see `JournalDatabase`."""
        return await self._database.run(lambda connection: work(self._session(connection)), repeatable=True)

    async def write(self, work: Work[T], *, lock: str = BUDGET) -> T:
        """Run `work` as one transaction; see `JournalDatabase`."""
        task = asyncio.ensure_future(self._write(work, lock))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return await asyncio.shield(task)

    async def _write(self, work: Work[T], lock: str) -> T:
        async def locked(connection: Connection) -> None:
            await connection.execute(_OWN_SQL["lock"], {"name": lock})

        async def write(connection: Connection) -> T:
            return await work(self._session(connection))

        try:
            # One of this process waits for the budget; else all of its connections would.
            async with self._reserving if lock == BUDGET else nullcontext():
                return await self._database.transact(write, lock=locked)
        except UniqueViolation as error:
            raise StoreError(f"the journal {self.address} holds this already") from error

    def _session(self, connection: Connection) -> Session:
        return _Session(connection, server_clock=self._server_clock)


class _Session:
    def __init__(self, connection: Connection, *, server_clock: bool) -> None:
        self._connection = connection
        self._server_clock = server_clock

    async def fetch(self, query: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return await (await self._connection.execute(_sql(query), values)).fetchall()

    async def count(self, query: str, values: Mapping[str, Any]) -> int:
        return (await self._connection.execute(_sql(query), values)).rowcount

    async def now(self, told: int) -> int:
        if not self._server_clock:
            return told
        ((time,),) = await (await self._connection.execute(_OWN_SQL["now"])).fetchall()
        return int(time)


@cache
def _sql(query: str) -> str:
    """Return one of the journal's queries as a PostgreSQL wants it."""
    return _TABLE.sub(r"\1 rail402_\2", _PLACEHOLDER.sub(r"%(\1)s", _SQL[query]))
