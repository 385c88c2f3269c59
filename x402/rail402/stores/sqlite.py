"""A store in one SQLite file: durable, and shared by all processes of one machine."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from rail402.errors import ConfigurationError, KeyTaken, StaleCharge, StoreError
from rail402.protocol.charge import Charge
from rail402.protocol.payment import ConsumptionKey
from rail402.stores.base import Claim, Issued, Store, StoredResponse, TokenBucket, nanoseconds
from rail402.stores.connections import ConnectionThreads, Operation, group_commit, one_by_one
from rail402.stores.rows import (
    ISSUED_KEPT,
    PRUNE_BATCH,
    charge_row,
    decode_charge,
    decode_issued,
    decode_response,
    readable_charges,
    response_row,
)
from rail402.stores.sql import queries
from rail402.stores.sqlite_file import open_reader, open_writer
from rail402.stores.wakeups import Wakeups

__all__ = ["SqliteStore"]

T = TypeVar("T")

_SQL: Final = queries("sqlite")
_WRITE_BATCH: Final = 256
_READ_BATCH: Final = 8


class SqliteStore(Store):
    """A store in one SQLite file (write-ahead log, every commit synced to the disk).

    Writes that arrive together share one transaction and one wait for the disk; reads do not wait for writes. Any
    number of processes of one machine may open the same file; a network file system will not do.

    Args:
        path: the file; made with mode 600 if it is not there. Its directory must exist.
        readers: how many reads may run at the same time.
        busy_timeout: seconds to wait for another process that is writing.
        poll: seconds after which `wait` looks for what other processes wrote.

    Raises:
        ConfigurationError: `path` is not a file name.
    """

    def __init__(self, path: str | Path, *, readers: int = 2, busy_timeout: float = 5.0, poll: float = 0.05) -> None:
        if str(path) in ("", ".", ":memory:"):
            raise ConfigurationError(f'{str(path)!r} is not the name of a file; for a store in memory use "memory://"')
        self.path = Path(path).absolute()
        self._readers, self._busy_timeout, self._poll = readers, busy_timeout, poll
        self.wakeups = self._wakeups = Wakeups()
        self._told_unreadable: set[str] = set()
        self._write_threads: ConnectionThreads | None = None
        self._read_threads: ConnectionThreads | None = None

    def __repr__(self) -> str:
        return f"SqliteStore({str(self.path)!r})"

    async def start(self) -> None:
        """Open the file, making it if need be, and bring its schema up to date.

        Raises:
            ConfigurationError: the file was written by a newer version, or is another program's.
            StoreError: it cannot be opened, or is damaged.
        """
        if self._write_threads is not None:
            return
        try:
            writer, readers = await asyncio.to_thread(self._connect)
        except (sqlite3.Error, OSError) as error:
            raise self._unavailable(error) from error
        self._write_threads = ConnectionThreads("writer", [writer], group_commit, batch=_WRITE_BATCH)
        self._read_threads = ConnectionThreads("reader", readers, one_by_one, batch=_READ_BATCH)

    async def close(self) -> None:
        """Finish what was asked for, and close the file."""
        writers, readers = self._write_threads, self._read_threads
        self._write_threads = self._read_threads = None
        for threads in (readers, writers):
            if threads is not None:
                await threads.close()

    # --- charges

    async def claim(self, charge: Charge) -> Claim:
        """Insert `charge` with all of its keys, or return the charge that holds any of them."""
        keys = {"id": charge.id, "keys": json.dumps(charge.keys)}
        row = charge_row(charge)

        def claim(connection: sqlite3.Connection) -> Claim:
            holder = _charge(connection, "find_charge", keys)
            if holder is not None:
                return Claim(won=False, charge=holder)
            connection.execute(_SQL["insert_charge"], row)
            connection.execute(_SQL["insert_keys"], keys)
            return Claim(won=True, charge=charge)

        return await self._write(claim)

    async def save(self, charge: Charge, *, response: StoredResponse | None = None, slot: str = "") -> Charge:
        """Write `charge` if its `version` is still the stored one; return it with the next version."""
        saved = charge.model_copy(update={"version": charge.version + 1})
        keys = {"id": charge.id, "keys": json.dumps(charge.keys)}
        row, stored = charge_row(saved), None if response is None else response_row(charge.id, slot, response)

        def save(connection: sqlite3.Connection) -> Charge:
            if connection.execute(_SQL["update_charge"], row).rowcount == 0:
                raise StaleCharge(f"{charge.id} is no longer at version {charge.version}")
            if connection.execute(_SQL["taken_key"], keys).fetchall():
                raise KeyTaken(f"a key that {charge.id} gained belongs to another charge")
            connection.execute(_SQL["insert_keys"], keys)
            if stored is not None:
                connection.execute(_SQL["put_response"], stored)
            if not saved.is_pass:
                return saved
            return _charge(connection, "get_charge", {"id": charge.id}) or saved

        written = await self._write(save)
        self._wakeups.wake(charge.id)
        return written

    async def find(self, keys: Iterable[ConsumptionKey]) -> Charge | None:
        """Return the charge that holds any of `keys`."""
        wanted = {"keys": json.dumps(list(keys))}
        return await self._read(lambda connection: _charge(connection, "find_charge", wanted))

    async def get(self, charge_id: str) -> Charge | None:
        """Return the charge of that id."""
        return await self._read(lambda connection: _charge(connection, "get_charge", {"id": charge_id}))

    async def response(self, charge_id: str, slot: str = "") -> StoredResponse | None:
        """Return the response stored under `slot`."""
        where = {"id": charge_id, "slot": slot}
        row = await self._read(lambda connection: _one(connection, "get_response", where))
        return None if row is None else decode_response(row)

    async def wait(self, charge: Charge, *, timeout: float) -> Charge | None:
        """Wait, `timeout` seconds at most, until the stored version differs from `charge.version`."""
        return await self._wakeups.wait(self.get, charge, timeout=timeout, poll=self._poll)

    async def unresolved(
        self, *, now: int, limit: int, rails: Collection[str] | None = None, origin: str | None = None
    ) -> Sequence[Charge]:
        """Return charges whose lease lapsed at `now` and that are not finished; oldest lease first."""
        names = None if rails is None else json.dumps(list(rails))
        return await self._list("unresolved_charges", {"now": now, "rails": names, "origin": origin}, limit)

    async def recent(self, *, limit: int, before: str | None = None) -> Sequence[Charge]:
        """Return charges, newest first; `before` is the id to go on from."""
        if before is None:
            return await self._list("recent_charges", {}, limit)
        return await self._list("recent_charges_before", {"before": before}, limit)

    # --- passes

    async def take_use(self, charge_id: str, use: str, *, now: int, lease_until: int, slot: str = "") -> Charge | None:
        """Take one use of a settled pass; None where none is left."""
        row = {"id": charge_id, "use": use, "slot": slot, "now": now, "lease_until": lease_until}

        def take(connection: sqlite3.Connection) -> Charge | None:
            if returned := _count(connection, "end_lapsed_uses", row):
                _count(connection, "return_uses", row | {"returned": returned})
            if slot and _one(connection, "use_of_slot", row):
                raise KeyTaken(f"there is a use of {charge_id} with this key")
            if _count(connection, "take_use", row) == 0:
                return None
            connection.execute(_SQL["insert_use"], row)
            return _charge(connection, "get_charge", row)

        return await self._write(take)

    async def renew_use(self, charge_id: str, use: str, *, lease_until: int) -> bool:
        """Extend the lease of a use that is under way; say whether it is."""
        row = {"id": charge_id, "use": use, "lease_until": lease_until}
        return await self._write(lambda connection: _count(connection, "renew_use", row)) > 0

    async def return_use(self, charge_id: str, use: str) -> None:
        """Give back a use that is under way (its handler failed)."""
        row = {"id": charge_id, "use": use, "returned": 1}

        def give_back(connection: sqlite3.Connection) -> None:
            if _count(connection, "end_use", row):
                connection.execute(_SQL["return_uses"], row)

        await self._write(give_back)

    async def end_use(self, charge_id: str, use: str, *, response: StoredResponse | None = None) -> bool:
        """Count a use that is under way as served, and store its response; say whether it was under way."""
        row = {"id": charge_id, "use": use}

        def end(connection: sqlite3.Connection) -> bool:
            found = _one(connection, "get_use", row)
            if found is None:
                return False
            connection.execute(_SQL["end_use"], row)
            if response is not None and found[0]:
                connection.execute(_SQL["keep_response"], response_row(charge_id, found[0], response))
            return True

        return await self._write(end)

    # --- issued rows

    async def issue(self, issued: Issued, *, now: int, capacity: int) -> bool:
        """Insert the row unless `capacity` rows are there that have not expired."""

        def issue(connection: sqlite3.Connection) -> bool:
            there = _one(connection, "get_issued", {"key": issued.key})
            if there is not None:
                return decode_issued(there) == issued
            if connection.execute(_SQL["issued_is_full"], {"now": now, "capacity": capacity}).fetchall() == [(1,)]:
                return False
            connection.execute(_SQL["insert_issued"], issued.model_dump())
            return True

        return await self._write(issue)

    async def issued(self, key: ConsumptionKey) -> Issued | None:
        """Return the row of that key."""
        row = await self._read(lambda connection: _one(connection, "get_issued", {"key": key}))
        return None if row is None else decode_issued(row)

    # --- between workers

    async def lead(self, name: str, holder: str, *, now: int, seconds: int) -> bool:
        """Become or stay the leader called `name` until `now + seconds`; say whether `holder` is it."""
        row = {"name": name, "holder": holder, "now": now, "lapses_at": now + seconds}
        return await self._write(lambda connection: _count(connection, "lead", row)) > 0

    async def spend(self, bucket: str, tokens: int, limit: TokenBucket, *, now: float) -> int:
        """Take up to `tokens` tokens from the bucket of that name; return how many were taken."""

        def spend(connection: sqlite3.Connection) -> int:
            row = _one(connection, "get_bucket", {"name": bucket})
            taken, full_at = limit.take(row[0] if row else 0, tokens, now=now)
            if taken:
                connection.execute(_SQL["put_bucket"], {"name": bucket, "full_at": full_at})
            return taken

        return await self._write(spend)

    # --- housekeeping

    async def remember(self, name: str, value: str) -> str:
        """Return the setting `name`, setting it to `value` if it is not there."""

        def remember(connection: sqlite3.Connection) -> str:
            connection.execute(_SQL["set_default"], {"name": name, "value": value})
            return str(connection.execute(_SQL["get_setting"], {"name": name}).fetchall()[0][0])

        return await self._write(remember)

    async def prune(self, *, before: int, now: int) -> int:
        """Delete what has had its day, few rows in one transaction: other writers need not wait long."""
        charges = await self._delete("prune_charges", {"before": before})
        issued = await self._delete("prune_issued", {"expired": now - ISSUED_KEPT})
        leases = await self._delete("prune_leases", {"now": now})
        return charges + issued + leases + await self._delete("prune_buckets", {"now_ns": nanoseconds(now)})

    # --- the two ways to the file

    async def _read(self, operation: Operation[T]) -> T:
        return await self._run(self._read_threads, operation)

    async def _write(self, operation: Operation[T]) -> T:
        return await self._run(self._write_threads, operation)

    async def _run(self, threads: ConnectionThreads | None, operation: Operation[T]) -> T:
        if threads is None:
            raise StoreError(f"{self.path} is not open; `await store.start()` first")
        try:
            return await threads.run(operation)
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    async def _list(self, query: str, values: Mapping[str, Any], limit: int) -> Sequence[Charge]:
        def read(connection: sqlite3.Connection) -> Sequence[Charge]:
            with closing(connection.execute(_SQL[query], values)) as rows:
                return list(islice(readable_charges(rows, decode_charge, self._told_unreadable), limit))

        return await self._read(read)

    async def _delete(self, query: str, values: Mapping[str, Any]) -> int:
        total, deleted = 0, PRUNE_BATCH
        chunk = {**values, "limit": PRUNE_BATCH}
        while deleted == PRUNE_BATCH:
            deleted = await self._write(lambda connection: _count(connection, query, chunk))
            total += deleted
        return total

    def _connect(self) -> tuple[sqlite3.Connection, list[sqlite3.Connection]]:
        writer = open_writer(self.path, busy_timeout=self._busy_timeout)
        try:
            return writer, [open_reader(self.path, busy_timeout=self._busy_timeout) for _ in range(self._readers)]
        except sqlite3.Error:
            writer.close()
            raise

    def _unavailable(self, error: Exception) -> StoreError:
        return StoreError(f"the SQLite store {self.path}: {error}")


# --- rows


def _one(connection: sqlite3.Connection, query: str, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
    # fetchall ends the statement; one that is left open would keep its reader on an old snapshot.
    rows = connection.execute(_SQL[query], values).fetchall()
    return rows[0] if rows else None


def _count(connection: sqlite3.Connection, query: str, values: Mapping[str, Any]) -> int:
    return connection.execute(_SQL[query], values).rowcount


def _charge(connection: sqlite3.Connection, query: str, values: Mapping[str, Any]) -> Charge | None:
    row = _one(connection, query, values)
    return None if row is None else decode_charge(row[0])
