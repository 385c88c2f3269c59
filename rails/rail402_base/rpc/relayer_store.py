"""The durable record of what a relayer signed, which is also what hands out its nonces.

One SQLite file for all workers of a machine, or a PostgreSQL for those of several. A transaction is in it before any
node sees it; what is in it and not mined is broadcast again, so that no nonce stays empty and holds up those after it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeVar

from rail402.errors import ConfigurationError, StoreError
from rail402.stores.connections import ConnectionThreads, Operation, group_commit
from rail402.stores.sql import Migration, parse_queries, read_migrations
from rail402.stores.sqlite_file import open_writer
from rail402_base.rpc.transactions import SignedTransaction

__all__ = [
    "APPLICATION_ID",
    "PRUNE_BATCH",
    "Account",
    "Purpose",
    "RelayerStore",
    "Sign",
    "SqliteRelayerStore",
    "State",
    "Stored",
    "columns",
    "decode_stored",
    "open_relayer_store",
]

T = TypeVar("T")

State = Literal["live", "mined", "refused", "replaced"]
"""`live`: it may yet be mined. `mined`: it was, and succeeded or reverted. `refused`: every node refused it, and its
nonce is free. `replaced`: another transaction has its nonce, or was sent to take it."""

APPLICATION_ID: Final = int.from_bytes(b"r4rl")
_BATCH: Final = 64

PRUNE_BATCH: Final = 500
"""How many rows one transaction deletes, so that other writers need not wait long."""


@dataclass(frozen=True, slots=True)
class Account:
    """Whose nonces they are: an address (EIP-55) on a chain."""

    chain_id: int
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Purpose:
    """The authorization that a transaction hands in; `valid_before` in Unix seconds."""

    token: str
    authorizer: str
    nonce: bytes
    valid_before: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A stored transaction; one without a purpose fills a gap. `created_at` in Unix seconds."""

    hash: str
    nonce: int
    raw: bytes = field(repr=False)
    purpose: Purpose | None
    state: State
    created_at: int


Sign = Callable[[int], SignedTransaction]
"""Signs a transaction with the nonce that it is given."""


class RelayerStore(Protocol):
    """Where a relayer keeps its transactions. Every verb is atomic, and durable when it returns.

    All raise `StoreError` where the store cannot be used.
    """

    async def start(self) -> None:
        """Open it."""
        ...

    async def close(self) -> None:
        """Close it."""
        ...

    async def allocate(
        self, account: Account, purpose: Purpose | None, sign: Sign, *, floor: int, now: int
    ) -> tuple[Stored, bool]:
        """Take the lowest free nonce from `floor` on, sign with it, and store that.

        Returns:
            The stored transaction, and True. Where a live one has the same purpose, that one and False; it is shared
            from then on, see `share`.
        """
        ...

    async def replace(
        self, account: Account, stored: Stored, purpose: Purpose | None, signed: SignedTransaction, *, now: int
    ) -> Stored | None:
        """Store another transaction with a live one's nonce in its place; None where that is not live any more."""
        ...

    async def share(self, stored: Stored) -> bool:
        """Note that somebody else than who stored a transaction will broadcast it; say whether it is live at all.

        To be done before it is broadcast: a transaction that is not live is not to be, and one that is shared cannot
        be refused any more.
        """
        ...

    async def refuse(self, stored: Stored) -> bool:
        """Note that no node has a transaction, and that its nonce is free; say whether that could be noted.

        It is for who stored it, and cannot be noted of one that is shared or not live.
        """
        ...

    async def finish(self, stored: Stored, state: Literal["mined", "replaced"]) -> None:
        """Note what became of a live transaction; nothing happens to one that is not live."""
        ...

    async def live(self, account: Account) -> Sequence[Stored]:
        """Return the live transactions, by nonce."""
        ...

    async def of(self, account: Account, purpose: Purpose) -> Sequence[Stored]:
        """Return all transactions that handed an authorization in; a live one first."""
        ...

    async def prune(self, account: Account, *, before: int) -> int:
        """Forget what was mined, replaced or refused and stored before `before`; return how much that is.

        What is live stays, and what nobody but this store remembers: a transaction whose purpose had not expired then.
        The nonces of what is forgotten stay taken.
        """
        ...


def open_relayer_store(url: str) -> RelayerStore:
    """Return the store that `url` names: `sqlite:///relative.db`, `sqlite:////absolute.db` or `postgresql://…`.

    Raises:
        ConfigurationError: the URL has another form, or what PostgreSQL needs is not installed.
    """
    if not url.startswith(("postgresql://", "postgres://")):
        return SqliteRelayerStore(url)
    try:
        from rail402_base.rpc.relayer_store_postgres import PostgresRelayerStore
    except ImportError as error:
        raise ConfigurationError(f"relayer_db: it needs {error.name}: pip install 'rail402[postgres]'") from error
    return PostgresRelayerStore(url)


class SqliteRelayerStore:
    """A relayer's transactions in one SQLite file on a local disk; see `RelayerStore`.

    Args:
        url: `sqlite:///relayer.db`, relative to the working directory, or `sqlite:////var/lib/shop/relayer.db`.
        busy_timeout: seconds to wait for other processes that are writing.

    Raises:
        ConfigurationError: the URL has another form.
    """

    def __init__(self, url: str, *, busy_timeout: int = 30) -> None:
        path = url.removeprefix("sqlite:///")
        if path in (url, "", ":memory:") or "?" in path or "#" in path:
            raise ConfigurationError(
                'relayer_db: write "sqlite:///relative.db", "sqlite:////absolute.db" or "postgresql://…"'
            )
        self.path = Path(path).absolute()
        self._busy_timeout = busy_timeout
        self._threads: ConnectionThreads | None = None

    def __repr__(self) -> str:
        return f"SqliteRelayerStore({str(self.path)!r})"

    async def start(self) -> None:
        """Open the file, making it (mode 600) if need be; nothing happens if it is open.

        Raises:
            ConfigurationError: the file is another program's or a newer version's.
            StoreError: it cannot be opened.
        """
        if self._threads is not None:
            return
        try:
            connection = await asyncio.to_thread(
                open_writer,
                self.path,
                busy_timeout=self._busy_timeout,
                schema=_migrations(),
                application_id=APPLICATION_ID,
            )
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"the relayer's file {self.path} cannot be opened: {error}") from error
        self._threads = ConnectionThreads("relayer", [connection], group_commit, batch=_BATCH)

    async def close(self) -> None:
        """Finish what was asked for, and close the file."""
        threads, self._threads = self._threads, None
        if threads is not None:
            await threads.close()

    async def allocate(
        self, account: Account, purpose: Purpose | None, sign: Sign, *, floor: int, now: int
    ) -> tuple[Stored, bool]:
        """Take a nonce, sign, and store; see `RelayerStore.allocate`."""

        def work(connection: sqlite3.Connection) -> tuple[Stored, bool]:
            if purpose is not None:
                row = connection.execute(_sql("of_authorization"), columns(account, purpose)).fetchone()
                if row is not None and decode_stored(row).state == "live":
                    connection.execute(_sql("share"), {"hash": decode_stored(row).hash})
                    return decode_stored(row), False
            where = columns(account, None)
            kept = connection.execute(_sql("floor"), where).fetchone()
            lowest = floor if kept is None else max(floor, kept[0])
            (nonce,) = connection.execute(_sql("next_nonce"), {**where, "floor": lowest}).fetchone()
            return _insert(connection, account, purpose, sign(nonce), now), True

        return await self._run(work)

    async def replace(
        self, account: Account, stored: Stored, purpose: Purpose | None, signed: SignedTransaction, *, now: int
    ) -> Stored | None:
        """Store another one in its place; see `RelayerStore.replace`."""

        def work(connection: sqlite3.Connection) -> Stored | None:
            values = {"hash": stored.hash, "state": "replaced"}
            if connection.execute(_sql("finish"), values).rowcount != 1:
                return None
            return _insert(connection, account, purpose, signed, now)

        return await self._run(work)

    async def share(self, stored: Stored) -> bool:
        """Note that somebody else will broadcast it too; see `RelayerStore.share`."""
        return await self._changes("share", {"hash": stored.hash})

    async def refuse(self, stored: Stored) -> bool:
        """Note that no node has it; see `RelayerStore.refuse`."""
        return await self._changes("refuse", {"hash": stored.hash})

    async def finish(self, stored: Stored, state: Literal["mined", "replaced"]) -> None:
        """Note what became of a transaction; see `RelayerStore.finish`."""
        await self._changes("finish", {"hash": stored.hash, "state": state})

    async def live(self, account: Account) -> Sequence[Stored]:
        """Return the live transactions, by nonce."""
        return await self._rows("live", {"chain_id": account.chain_id, "relayer": account.address})

    async def of(self, account: Account, purpose: Purpose) -> Sequence[Stored]:
        """Return all transactions that handed an authorization in; a live one first."""
        return await self._rows("of_authorization", columns(account, purpose))

    async def prune(self, account: Account, *, before: int) -> int:
        """Forget what is over, and has been for long; see `RelayerStore.prune`."""
        values = {**columns(account, None), "before": before, "limit": PRUNE_BATCH}

        def work(connection: sqlite3.Connection) -> int:
            connection.execute(_sql("raise_floor"), values)
            return connection.execute(_sql("prune"), values).rowcount

        total, deleted = 0, PRUNE_BATCH
        while deleted == PRUNE_BATCH:
            deleted = await self._run(work)
            total += deleted
        return total

    async def _rows(self, query: str, values: dict[str, Any]) -> Sequence[Stored]:
        rows = await self._run(lambda connection: connection.execute(_sql(query), values).fetchall())
        return [decode_stored(row) for row in rows]

    async def _changes(self, query: str, values: dict[str, Any]) -> bool:
        """Say whether a statement changed the row that it is about."""
        return await self._run(lambda connection: connection.execute(_sql(query), values).rowcount) == 1

    async def _run(self, operation: Operation[T]) -> T:
        """Run one operation; the one seam to SQLite."""
        if self._threads is None:
            raise StoreError("the relayer's file is not open")
        try:
            return await self._threads.run(operation)
        except (sqlite3.Error, OverflowError) as error:
            raise StoreError(f"the relayer's file {self.path} cannot be used: {error}") from error


def _insert(
    connection: sqlite3.Connection, account: Account, purpose: Purpose | None, signed: SignedTransaction, now: int
) -> Stored:
    values = columns(account, purpose) | {
        "hash": signed.hash,
        "nonce": signed.nonce,
        "raw": signed.raw,
        "now": now,
    }
    connection.execute(_sql("insert"), values)
    return Stored(hash=signed.hash, nonce=signed.nonce, raw=signed.raw, purpose=purpose, state="live", created_at=now)


def columns(account: Account, purpose: Purpose | None) -> dict[str, Any]:
    """Return the columns that say whose a transaction is and what for, by name."""
    return {
        "chain_id": account.chain_id,
        "relayer": account.address,
        "token": purpose and purpose.token,
        "authorizer": purpose and purpose.authorizer,
        "authorization_nonce": purpose and purpose.nonce,
        # Text, because it may be larger than what the database counts to.
        "valid_before": purpose and str(purpose.valid_before),
    }


def decode_stored(row: Sequence[Any]) -> Stored:
    """Return the transaction of a row."""
    hash_, nonce, raw, token, authorizer, authorization_nonce, valid_before, state, created_at = row
    purpose = None
    if token is not None:
        purpose = Purpose(token=token, authorizer=authorizer, nonce=authorization_nonce, valid_before=int(valid_before))
    return Stored(hash=hash_, nonce=nonce, raw=raw, purpose=purpose, state=state, created_at=created_at)


@cache
def _queries() -> dict[str, str]:
    return dict(parse_queries((files(__package__) / "sql" / "queries.sql").read_text("utf-8")))


def _sql(name: str) -> str:
    return _queries()[name]


@cache
def _migrations() -> Sequence[Migration]:
    return read_migrations(files(__package__) / "sql")
