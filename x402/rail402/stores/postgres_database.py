"""A pool of connections to a PostgreSQL, the schema it finds there, and what becomes of a statement that fails.

A statement may end in four ways: it is done; it is refused (by a constraint, a time-out), and nothing of it was done;
it was undone for the sake of another one (a deadlock), and is run again; or the connection was lost, and then it may
have been done. That last end is a `ConnectionLost`, unless the caller says that the statement may be repeated.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from rail402.errors import ConfigurationError, StoreError
from rail402.stores.sql import Migration, queries

__all__ = ["Connection", "ConnectionLost", "PostgresDatabase"]

T = TypeVar("T")

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

_SQL: Final = queries("postgres_session")
_TRIES: Final = 5

# What libpq is told where the URL does not say otherwise; in seconds, the last in milliseconds.
_DEFAULTS: Final = {
    "application_name": "rail402",
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "target_session_attrs": "read-write",  # of several hosts the one that takes writes, after a failover too
    "tcp_user_timeout": 15_000,
}

# The server has undone all of the statement, for a reason that has nothing to do with it.
_UNDONE: Final = (errors.DeadlockDetected, errors.SerializationFailure, errors.ReadOnlySqlTransaction)

# There was no connection to lose.
_NO_CONNECTION: Final = (PoolClosed, PoolTimeout, TooManyRequests)

# The server ends the connection: it shuts down, crashed, or has no patience with one that is idle.
_GOODBYES: Final = ("57P01", "57P02", "57P03", "57P05")


class ConnectionLost(StoreError):
    """The connection broke during a statement, which was done or was not."""


class PostgresDatabase:
    """The tables of one part of rail402 in a PostgreSQL. It belongs to the event loop that started it.

    Args:
        url: as libpq has it: `postgresql://user:password@host:5432/database`. Secret.
        part: what the tables are for; versions of the schema are counted for each part.
        steps: its migrations, oldest first.
        connections: how many to have at most.
        timeout: seconds to wait for a connection, and for a statement.

    Raises:
        ConfigurationError: the URL is not one of a PostgreSQL.
    """

    def __init__(
        self, url: str, *, part: str, steps: Sequence[Migration], connections: int = 10, timeout: float = 10.0
    ) -> None:
        try:
            given = conninfo_to_dict(url) if url.startswith(("postgresql://", "postgres://")) else None
        except psycopg.ProgrammingError:
            given = None  # its text may quote the password
        authority, _, name = url.partition("://")[2].partition("?")[0].partition("/")
        if given is None or authority.count("@") > 1 or "@" in name:  # else some of a password would be in the address
            raise ConfigurationError(
                'not a URL of a PostgreSQL: write "postgresql://user:password@host/database", with %40 for @ and %2F '
                "for / in the password"
            )
        self.address = "{host}:{port}/{dbname}".format_map({"host": "", "port": 5432, "dbname": "", **given})
        self._parameters: dict[str, Any] = {**_DEFAULTS, **given, "client_encoding": "utf8", "autocommit": True}
        self._part, self._steps = part, steps
        self._size, self._timeout, self._milliseconds = connections, timeout, str(round(timeout * 1000))
        self._pool: AsyncConnectionPool[Connection] | None = None
        self._home: tuple[int, asyncio.AbstractEventLoop] | None = None

    def __repr__(self) -> str:
        return f"PostgresDatabase({self.address!r})"

    async def start(self) -> None:
        """Bring the schema up to date and open the pool; nothing happens if it is open.

        Raises:
            ConfigurationError: the schema is a newer version's, or the database cannot hold every text.
            StoreError: the database cannot be reached, or refuses the user.
        """
        if self._pool is not None:
            return
        with self._translating():
            async with await self.connect() as connection:
                await self._migrate(connection)
        pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            kwargs=self._parameters,
            min_size=1,
            max_size=self._size,
            timeout=self._timeout,
            # After that a connection is tried when one is wanted, and not after ever longer pauses.
            reconnect_timeout=self._timeout,
            configure=self._configure,
            open=False,
            name="rail402",
        )
        with self._translating():
            await pool.open()
        self._pool, self._home = pool, (os.getpid(), asyncio.get_running_loop())

    async def close(self) -> None:
        """Close the connections; what runs on them is undone, or done."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def connect(self) -> Connection:
        """Return a connection beside those of the pool; every statement is a transaction. The caller closes it.

        Raises:
            psycopg.Error: there is none.
        """
        connection: Connection = await psycopg.AsyncConnection.connect(**self._parameters)
        await self._configure(connection)
        return connection

    # --- statements

    async def fetch(
        self, query: str, values: Mapping[str, Any], *, repeatable: bool = False, binary: bool = False
    ) -> list[tuple[Any, ...]]:
        """Run one statement in a transaction of its own, and return its rows; see `run`.

        Args:
            binary: get the rows in PostgreSQL's binary format: for large `bytea`.
        """

        async def work(connection: Connection) -> list[tuple[Any, ...]]:
            return await (await connection.execute(query, values, binary=binary)).fetchall()

        return await self.run(work, repeatable=repeatable)

    async def count(self, query: str, values: Mapping[str, Any], *, repeatable: bool = False) -> int:
        """Run one statement in a transaction of its own, and return how many rows it wrote; see `run`."""

        async def work(connection: Connection) -> int:
            return (await connection.execute(query, values)).rowcount

        return await self.run(work, repeatable=repeatable)

    async def run(self, work: Callable[[Connection], Awaitable[T]], *, repeatable: bool = False) -> T:
        """Run `work`, one transaction, on a connection that is lent for the time of the call.

        Args:
            repeatable: whether to do it twice is to do it once; then a lost connection is no failure.

        Raises:
            psycopg.errors.UniqueViolation: nothing was done; another row has such a key.
            ConnectionLost: it was done, or it was not.
            StoreError: nothing was done.
        """
        pool = self._pool_of_this_loop()
        tries, dead = 0, 0
        while True:
            try:
                async with pool.connection() as connection:
                    if not _is_alive(connection) and dead <= self._size:
                        dead += 1  # the pool drops what is closed
                        await connection.close()
                        continue
                    return await self._closing_what_is_of_no_use(connection, work)
            except errors.UniqueViolation:
                raise
            except (psycopg.Error, UnicodeError) as error:
                tries += 1
                may_repeat = isinstance(error, _UNDONE) or (repeatable and _is_lost(error))
                if not may_repeat or tries == _TRIES:
                    raise self._translated(error) from error

    async def transact(
        self, work: Callable[[Connection], Awaitable[T]], *, lock: Callable[[Connection], Awaitable[object]]
    ) -> T:
        """Run `work` as one transaction, also where connections are lost: then the server says whether it was done.

        Args:
            lock: takes what only one transaction has, and has until its end. It is taken before the server is asked,
                so that a lost transaction has ended.

        Raises:
            psycopg.errors.UniqueViolation, StoreError: as `run`.
        """
        begun: tuple[str, T] | None = None

        async def attempt(connection: Connection) -> T:
            nonlocal begun
            async with connection.transaction():
                await lock(connection)
                if begun is not None and await _one(connection, "outcome", {"transaction": begun[0]}) == "committed":
                    return begun[1]
                transaction = str(await _one(connection, "transaction", {}))
                result = await work(connection)
                begun = transaction, result  # from here on it may be done without anybody hearing of it
            return result

        return await self.run(attempt, repeatable=True)

    async def _closing_what_is_of_no_use(self, connection: Connection, work: Callable[[Connection], Awaitable[T]]) -> T:
        try:
            return await work(connection)
        except psycopg.OperationalError as error:
            if _is_lost(error):
                await connection.close()
            raise
        except errors.ReadOnlySqlTransaction:
            # The server has become a standby.
            await connection.close()
            raise

    def _pool_of_this_loop(self) -> AsyncConnectionPool[Connection]:
        if self._pool is None:
            raise StoreError(f"{self.address} is not open; `await store.start()` first")
        if self._home != (os.getpid(), asyncio.get_running_loop()):
            raise StoreError(
                "the store was started by another process or on another event loop; start it in each worker"
            )
        return self._pool

    # --- connections

    async def _configure(self, connection: Connection) -> None:
        await connection.execute(_SQL["configure"], {"milliseconds": self._milliseconds})

    async def _migrate(self, connection: Connection) -> None:
        newest = self._steps[-1].number
        async with connection.transaction():
            await connection.execute(_SQL["take_time"])
            await connection.execute(_SQL["lock_schema"])
            await connection.execute(_SQL["wait_briefly"], {"milliseconds": self._milliseconds})
            version = await self._version(connection)
            if version > newest:
                raise ConfigurationError(
                    f"{self.address} was written by a newer rail402 (schema {version}, this one knows {newest}); "
                    "upgrade rail402"
                )
            for step in self._steps:
                if step.number > version:
                    await connection.execute(step.script)
            if version < newest:
                await connection.execute(_SQL["put_version"], {"part": self._part, "version": newest})

    async def _version(self, connection: Connection) -> int:
        """Return the version of the schema; 0 where there is none."""
        row = await (await connection.execute(_SQL["surroundings"])).fetchone()
        assert row is not None
        schema, encoding, has_versions = row
        if schema is None:
            raise ConfigurationError(f"{self.address} has no schema of the search_path; make it: CREATE SCHEMA ...")
        if encoding != "UTF8":
            raise ConfigurationError(f"{self.address} has the encoding {encoding}; it must be UTF8")
        if not has_versions:
            await connection.execute(_SQL["make_versions"])
        row = await (await connection.execute(_SQL["get_version"], {"part": self._part})).fetchone()
        return 0 if row is None else int(row[0])

    # --- errors

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise self._translated(error) from error

    def _translated(self, error: psycopg.Error | UnicodeError) -> StoreError:
        """Say what happened, without the values that a server quotes in its details."""
        said = error.diag.message_primary if isinstance(error, psycopg.Error) else None
        text = f"the PostgreSQL store {self.address}: {said or str(error).strip() or type(error).__name__}"
        return ConnectionLost(text) if _is_lost(error) else StoreError(text)


async def _one(connection: Connection, query: str, values: Mapping[str, Any]) -> object:
    row = await (await connection.execute(_SQL[query], values)).fetchone()
    return None if row is None else row[0]


def _is_alive(connection: Connection) -> bool:
    """Say whether the connection is there, as far as this side has heard."""
    try:
        connection.pgconn.consume_input()  # the server's last word
        connection.pgconn.consume_input()  # the end
    except psycopg.OperationalError:
        return False
    return not connection.closed and connection.pgconn.status == psycopg.pq.ConnStatus.OK


def _is_lost(error: BaseException) -> bool:
    """Say whether a statement ended with its connection."""
    if not isinstance(error, psycopg.OperationalError) or isinstance(error, _NO_CONNECTION):
        return False
    return error.sqlstate is None or error.sqlstate.startswith("08") or error.sqlstate in _GOODBYES
