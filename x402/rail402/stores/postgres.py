"""A store in a PostgreSQL database: durable, and shared by all workers of any number of machines.

Each verb is one statement that is atomic by itself, or a few that are sent together, so no transaction stays open while
we do something else. Where the connection breaks during one nobody knows whether it was done. Reading is then done
again; a claim looks who holds its keys, and a save whether the version that is there came from it. What cannot be asked
about (a use taken, a token spent) is not done again, and is a `StoreError`: a use that was taken all the same lapses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

from psycopg.errors import UniqueViolation

from rail402.errors import KeyTaken, StaleCharge, StoreError
from rail402.protocol.charge import Charge
from rail402.protocol.payment import ConsumptionKey
from rail402.stores.base import Claim, Issued, Store, StoredResponse, TokenBucket, nanoseconds
from rail402.stores.postgres_changes import Changes
from rail402.stores.postgres_database import Connection, ConnectionLost, PostgresDatabase
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
from rail402.stores.sql import migrations, queries
from rail402.stores.wakeups import Wakeups

__all__ = ["PostgresStore"]

_SQL: Final = queries("postgres")
_TRIES: Final = 10
_NO_RESPONSE: Final = {"slot": None, "status": None, "fields": None, "body": None}


class PostgresStore(Store):
    """A store in a PostgreSQL database, version 13 or newer, in tables whose names begin with `rail402_`.

    It belongs to the event loop that started it. Every commit waits for the server's disk, whatever the database's
    default is. A pooler between may not share connections between transactions (PgBouncer: `pool_mode = session`).

    Args:
        url: as libpq has it, `postgresql://user:password@host:5432/database?sslmode=verify-full`. Secret. The tables
            are in the first schema of the `search_path`, which `options=-csearch_path%3Dshop` says.
        connections: how many to have at most; one more is there while somebody waits for a change.
        timeout: seconds to wait for a connection, and for a statement.
        poll: seconds after which `wait` looks for what it was not told.

    Raises:
        ConfigurationError: the URL is not one of a PostgreSQL.
    """

    def __init__(self, url: str, *, connections: int = 10, timeout: float = 10.0, poll: float = 0.5) -> None:
        self._database = PostgresDatabase(
            url, part="store", steps=migrations("postgres"), connections=connections, timeout=timeout
        )
        self._poll = poll
        self._wakeups = Wakeups()
        self._changes = Changes(self._database, self._wakeups)
        self._told_unreadable: set[str] = set()

    def __repr__(self) -> str:
        return f"PostgresStore({self._database.address!r})"

    async def start(self) -> None:
        """Connect, and bring the schema up to date.

        Raises:
            ConfigurationError: the schema is a newer version's, or the database's encoding is not UTF8.
            StoreError: it cannot be reached, or refuses the user.
        """
        await self._database.start()

    async def close(self) -> None:
        """Tell what changed, and close the connections."""
        await self._changes.close()
        await self._database.close()

    # --- charges

    async def claim(self, charge: Charge) -> Claim:
        """Insert `charge` with all of its keys, or return the charge that holds any of them."""
        row = charge_row(charge) | {"keys": list(charge.keys), "written_by": uuid4()}
        lost: ConnectionLost | None = None
        for _ in range(_TRIES):
            try:
                holders = await self._database.fetch(_SQL["claim"], row)
            except ConnectionLost as error:
                lost = error  # so a holder with our id may be this claim
            except UniqueViolation as error:
                # Somebody claimed a key meanwhile, and is seen now. Or it was this claim, whose connection was lost.
                if _is_about(error, "rail402_charges") and lost is None:
                    raise StoreError(f"there is another charge {charge.id}") from error
            else:
                if not holders:
                    return Claim(won=True, charge=charge)
                holder = _charge(*holders[0])
                is_this = (holder.id, holder.version) == (charge.id, charge.version)
                return Claim(won=lost is not None and is_this, charge=holder)
        raise lost or StoreError(f"the keys of {charge.id} are claimed and released all the time; try again")

    async def save(self, charge: Charge, *, response: StoredResponse | None = None, slot: str = "") -> Charge:
        """Write `charge` if its `version` is still the stored one; return it with the next version."""
        saved = charge.model_copy(update={"version": charge.version + 1})
        stored = _NO_RESPONSE if response is None else response_row(charge.id, slot, response)
        row = {**stored, **charge_row(saved), "keys": list(charge.keys), "written_by": uuid4()}
        try:
            uses = await self._save(row)
        except UniqueViolation as error:
            raise KeyTaken(f"a key that {charge.id} gained belongs to another charge") from error
        if uses is None:
            raise StaleCharge(f"{charge.id} is no longer at version {charge.version}")
        self._changes.tell(charge.id)
        return saved if uses == saved.uses_taken else saved.model_copy(update={"uses_taken": uses})

    async def _save(self, row: Mapping[str, Any]) -> int | None:
        """Return the uses taken, or None where the version is another; see `save`."""
        lost: ConnectionLost | None = None
        for _ in range(_TRIES):
            try:
                saved = await self._database.fetch(_SQL["save"], row)
                if not saved and lost is not None:
                    saved = await self._database.fetch(_SQL["written"], row, repeatable=True)
                return int(saved[0][0]) if saved else None
            except ConnectionLost as error:
                lost = error
        assert lost is not None
        raise lost

    async def find(self, keys: Iterable[ConsumptionKey]) -> Charge | None:
        """Return the charge that holds any of `keys`."""
        return await self._one("find_charge", {"keys": list(keys)})

    async def get(self, charge_id: str) -> Charge | None:
        """Return the charge of that id."""
        return await self._one("get_charge", {"id": charge_id})

    async def response(self, charge_id: str, slot: str = "") -> StoredResponse | None:
        """Return the response stored under `slot`."""
        where = {"id": charge_id, "slot": slot}
        rows = await self._database.fetch(_SQL["get_response"], where, repeatable=True, binary=True)
        return decode_response(rows[0]) if rows else None

    async def wait(self, charge: Charge, *, timeout: float) -> Charge | None:
        """Wait, `timeout` seconds at most, until the stored version differs from `charge.version`."""
        self._changes.listen()
        return await self._wakeups.wait(self.get, charge, timeout=timeout, poll=self._poll)

    async def unresolved(
        self, *, now: int, limit: int, rails: Collection[str] | None = None, origin: str | None = None
    ) -> Sequence[Charge]:
        """Return charges whose lease lapsed at `now` and that are not finished; oldest lease first."""
        names = None if rails is None else list(rails)
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

        async def take(connection: Connection) -> list[tuple[Any, ...]]:
            async with connection.pipeline(), connection.transaction():
                await connection.execute(_SQL["lock_pass"], row)
                await connection.execute(_SQL["return_lapsed_uses"], row)
                cursor = await connection.execute(_SQL["take_use"], row)
            return await cursor.fetchall()

        ((text, uses_taken, is_there),) = await self._database.run(take)
        if is_there:
            raise KeyTaken(f"there is a use of {charge_id} with this key")
        return None if text is None else _charge(text, uses_taken)

    async def renew_use(self, charge_id: str, use: str, *, lease_until: int) -> bool:
        """Extend the lease of a use that is under way; say whether it is."""
        row = {"id": charge_id, "use": use, "lease_until": lease_until}
        return await self._database.count(_SQL["renew_use"], row, repeatable=True) > 0

    async def return_use(self, charge_id: str, use: str) -> None:
        """Give back a use that is under way (its handler failed)."""
        await self._database.count(_SQL["return_use"], {"id": charge_id, "use": use}, repeatable=True)

    async def end_use(self, charge_id: str, use: str, *, response: StoredResponse | None = None) -> bool:
        """Count a use that is under way as served, and store its response; say whether it was under way."""
        stored = _NO_RESPONSE if response is None else response_row(charge_id, "", response)
        row = {**stored, "id": charge_id, "use": use}
        try:
            return await self._database.count(_SQL["end_use"], row) > 0
        except ConnectionLost:
            await self._database.count(_SQL["end_use"], row, repeatable=True)
            return True  # by the first try or by this one: it was ours when it was last renewed

    # --- issued rows

    async def issue(self, issued: Issued, *, now: int, capacity: int) -> bool:
        """Insert the row unless `capacity` rows are there that have not expired."""
        row = issued.model_dump() | {"now": now, "capacity": capacity}

        async def insert(connection: Connection) -> bool:
            # One at a time, or two would count the same rows.
            async with connection.pipeline(), connection.transaction():
                await connection.execute(_SQL["lock_issued"])
                cursor = await connection.execute(_SQL["issue"], row)
            return cursor.rowcount > 0

        if capacity > 0 and await self._database.run(insert, repeatable=True):
            return True
        return await self.issued(issued.key) == issued

    async def issued(self, key: ConsumptionKey) -> Issued | None:
        """Return the row of that key."""
        rows = await self._database.fetch(_SQL["get_issued"], {"key": key}, repeatable=True)
        return decode_issued(rows[0]) if rows else None

    # --- between workers

    async def lead(self, name: str, holder: str, *, now: int, seconds: int) -> bool:
        """Become or stay the leader called `name` until `now + seconds`; say whether `holder` is it."""
        row = {"name": name, "holder": holder, "now": now, "lapses_at": now + seconds}
        return await self._database.count(_SQL["lead"], row, repeatable=True) > 0

    async def spend(self, bucket: str, tokens: int, limit: TokenBucket, *, now: float) -> int:
        """Take up to `tokens` tokens from the bucket of that name; return how many were taken."""
        if tokens <= 0:
            return 0
        row = {
            "name": bucket,
            "tokens": min(tokens, limit.burst),
            "burst": limit.burst,
            "token_ns": limit.token_ns,
            "now_ns": nanoseconds(now),
        }
        rows = await self._database.fetch(_SQL["spend"], row)
        return int(rows[0][0]) if rows else 0

    # --- housekeeping

    async def remember(self, name: str, value: str) -> str:
        """Return the setting `name`, setting it to `value` if it is not there."""
        row = {"name": name, "value": value}
        await self._database.count(_SQL["set_default"], row, repeatable=True)
        return str((await self._database.fetch(_SQL["get_setting"], row, repeatable=True))[0][0])

    async def prune(self, *, before: int, now: int) -> int:
        """Delete what has had its day, few rows in one transaction: other writers need not wait long."""
        charges = await self._delete("prune_charges", {"before": before})
        issued = await self._delete("prune_issued", {"expired": now - ISSUED_KEPT})
        leases = await self._delete("prune_leases", {"now": now})
        return charges + issued + leases + await self._delete("prune_buckets", {"now_ns": nanoseconds(now)})

    # --- the ways to the database

    async def _one(self, query: str, values: Mapping[str, Any]) -> Charge | None:
        rows = await self._database.fetch(_SQL[query], values, repeatable=True)
        return _charge(*rows[0]) if rows else None

    async def _list(self, query: str, values: Mapping[str, Any], limit: int) -> Sequence[Charge]:
        async def read(connection: Connection) -> Sequence[Charge]:
            found: list[Charge] = []
            async with connection.transaction(), connection.cursor("charges") as cursor:
                await cursor.execute(_SQL[query], values)
                while len(found) < limit and (rows := await cursor.fetchmany(limit - len(found))):
                    found += readable_charges(rows, _charge, self._told_unreadable)
            return found

        return await self._database.run(read, repeatable=True)

    async def _delete(self, query: str, values: Mapping[str, Any]) -> int:
        total, deleted = 0, PRUNE_BATCH
        while deleted == PRUNE_BATCH:
            deleted = await self._database.count(_SQL[query], {**values, "limit": PRUNE_BATCH})
            total += deleted
        return total


def _charge(text: str, uses_taken: int) -> Charge:
    charge = decode_charge(text)
    return charge if charge.uses_taken == uses_taken else charge.model_copy(update={"uses_taken": uses_taken})


def _is_about(error: UniqueViolation, table: str) -> bool:
    return error.diag.table_name == table
