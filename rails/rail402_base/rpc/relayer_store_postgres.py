"""The record of what a relayer signed, in a PostgreSQL: for workers with one key on several machines.

Nonces are handed out under the lock of the account's row. Where the connection breaks while one is, the next try takes
the lock first: then the broken one has been stored, or it never will be.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeVar

from psycopg.errors import UniqueViolation

from rail402.errors import StoreError
from rail402.stores.postgres_database import Connection, ConnectionLost, PostgresDatabase
from rail402.stores.sql import parse_queries, read_migrations
from rail402_base.rpc.relayer_store import PRUNE_BATCH, Account, Purpose, Sign, Stored, columns, decode_stored
from rail402_base.rpc.transactions import SignedTransaction

__all__ = ["PostgresRelayerStore"]

T = TypeVar("T")


class PostgresRelayerStore:
    """A relayer's transactions in a PostgreSQL; see `RelayerStore` and `rail402.stores.postgres.PostgresStore`.

    Args:
        url: `postgresql://user:password@host/database`. Secret.
        connections: how many to have at most.
        timeout: seconds to wait for a connection, and for a statement.

    Raises:
        ConfigurationError: the URL is not one of a PostgreSQL.
    """

    def __init__(self, url: str, *, connections: int = 4, timeout: int = 10) -> None:
        steps = read_migrations(files(__package__) / "sql" / "postgres")
        self._database = PostgresDatabase(url, part="relayer", steps=steps, connections=connections, timeout=timeout)
        self._doubtful: set[Account] = set()
        self._allocating, self._timeout = asyncio.Lock(), timeout

    def __repr__(self) -> str:
        return f"PostgresRelayerStore({self._database.address!r})"

    async def start(self) -> None:
        """Connect, and bring the schema up to date; nothing happens if it is open.

        Raises:
            ConfigurationError: the schema is a newer version's, or the database's encoding is not UTF8.
            StoreError: it cannot be reached, or refuses the user.
        """
        await self._database.start()

    async def close(self) -> None:
        """Close the connections."""
        await self._database.close()

    async def allocate(
        self, account: Account, purpose: Purpose | None, sign: Sign, *, floor: int, now: int
    ) -> tuple[Stored, bool]:
        """Take a nonce, sign, and store; see `RelayerStore.allocate`."""
        signed: SignedTransaction | None = None

        async def work(connection: Connection) -> tuple[Stored, bool]:
            nonlocal signed
            async with connection.transaction():
                lowest = max(floor, await _lock(connection, account))
                if signed is not None and (stored := await _get(connection, signed.hash)) and stored.state == "live":
                    return stored, True  # by a try whose connection was lost
                if purpose is not None:
                    known = await _rows(connection, "of_authorization", columns(account, purpose))
                    if known and known[0].state == "live":
                        await connection.execute(_sql("share"), {"hash": known[0].hash})
                        return known[0], False
                values = {**columns(account, None), "floor": lowest}
                row = await (await connection.execute(_sql("next_nonce"), values)).fetchone()
                assert row is not None
                signed = await asyncio.to_thread(sign, row[0])
                return await _insert(connection, account, purpose, signed, now), True

        async with self._one_at_a_time():
            try:
                return await self._run(work)
            except StoreError:
                self._doubtful.add(account)
                raise

    async def replace(
        self, account: Account, stored: Stored, purpose: Purpose | None, signed: SignedTransaction, *, now: int
    ) -> Stored | None:
        """Store another one in its place; see `RelayerStore.replace`."""

        async def work(connection: Connection) -> Stored | None:
            async with connection.transaction():
                values = {"hash": stored.hash, "state": "replaced"}
                if (await connection.execute(_sql("finish"), values)).rowcount == 1:
                    return await _insert(connection, account, purpose, signed, now)
                # Another worker was first; or it was this one, and the connection was lost.
                second = await _get(connection, signed.hash)
                return second if second is not None and second.state == "live" else None

        return await self._run(work)

    async def share(self, stored: Stored) -> bool:
        """Note that somebody else will broadcast it too; see `RelayerStore.share`."""
        return await self._database.count(_sql("share"), {"hash": stored.hash}, repeatable=True) == 1

    async def refuse(self, stored: Stored) -> bool:
        """Note that no node has it; see `RelayerStore.refuse`."""
        values = {"hash": stored.hash}
        try:
            return await self._database.count(_sql("refuse"), values) == 1
        except ConnectionLost:
            await self._database.count(_sql("refuse"), values, repeatable=True)
            rows = await self._database.fetch(_sql("get"), values, repeatable=True)
            return bool(rows) and decode_stored(rows[0]).state == "refused"

    async def finish(self, stored: Stored, state: Literal["mined", "replaced"]) -> None:
        """Note what became of a transaction; see `RelayerStore.finish`."""
        await self._database.count(_sql("finish"), {"hash": stored.hash, "state": state}, repeatable=True)

    async def live(self, account: Account) -> Sequence[Stored]:
        """Return the live transactions, by nonce."""
        rows = await self._database.fetch(_sql("live"), columns(account, None), repeatable=True)
        return [decode_stored(row) for row in rows]

    async def of(self, account: Account, purpose: Purpose) -> Sequence[Stored]:
        """Return all transactions that handed an authorization in; a live one first."""
        if account in self._doubtful:
            # What was being stored when the connection broke must not appear after this answer.
            await self._run(lambda connection: _fence(connection, account))
            self._doubtful.discard(account)
        rows = await self._database.fetch(_sql("of_authorization"), columns(account, purpose), repeatable=True)
        return [decode_stored(row) for row in rows]

    async def prune(self, account: Account, *, before: int) -> int:
        """Forget what is over, and has been for long; see `RelayerStore.prune`."""
        values = {**columns(account, None), "before": before, "limit": PRUNE_BATCH}
        await self._database.count(_sql("raise_floor"), values, repeatable=True)
        total, deleted = 0, PRUNE_BATCH
        while deleted == PRUNE_BATCH:
            deleted = await self._database.count(_sql("prune"), values)
            total += deleted
        return total

    @asynccontextmanager
    async def _one_at_a_time(self) -> AsyncIterator[None]:
        """Let one of this process allocate; else all connections would wait for one row."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._allocating.acquire()
        except TimeoutError as error:
            raise StoreError("too many others wait for a nonce") from error
        try:
            yield
        finally:
            self._allocating.release()

    async def _run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        try:
            return await self._database.run(work, repeatable=True)
        except UniqueViolation as error:
            raise StoreError("the relayer's PostgreSQL holds another transaction with this nonce or purpose") from error


async def _fence(connection: Connection, account: Account) -> None:
    async with connection.transaction():
        await _lock(connection, account)


async def _lock(connection: Connection, account: Account) -> int:
    """Lock the account until the transaction ends; return the lowest nonce that may be free."""
    values = columns(account, None)
    row = await (await connection.execute(_sql("lock_account"), values)).fetchone()
    if row is None:
        await connection.execute(_sql("add_account"), values)
        row = await (await connection.execute(_sql("lock_account"), values)).fetchone()
    assert row is not None
    return int(row[0])


async def _rows(connection: Connection, query: str, values: Mapping[str, Any]) -> Sequence[Stored]:
    rows = await (await connection.execute(_sql(query), values)).fetchall()
    return [decode_stored(row) for row in rows]


async def _get(connection: Connection, transaction: str) -> Stored | None:
    found = await _rows(connection, "get", {"hash": transaction})
    return found[0] if found else None


async def _insert(
    connection: Connection, account: Account, purpose: Purpose | None, signed: SignedTransaction, now: int
) -> Stored:
    values = {"hash": signed.hash, "nonce": signed.nonce, "raw": signed.raw, "now": now}
    await connection.execute(_sql("insert"), {**columns(account, purpose), **values})
    return Stored(hash=signed.hash, nonce=signed.nonce, raw=signed.raw, purpose=purpose, state="live", created_at=now)


@cache
def _queries() -> Mapping[str, str]:
    return parse_queries((files(__package__) / "sql" / "postgres" / "queries.sql").read_text("utf-8"))


def _sql(name: str) -> str:
    return _queries()[name]
