"""The client's durable memory: what it bought, what it may still spend, and whose receipts it believes.

One SQLite file, made with mode 600 because proofs are in it. Every verb is one transaction on a thread of its own;
one that returns has reached the disk. Any number of threads, event loops and processes of one machine may share the
file; payers that share it share one budget, and should be given the same limits.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from rail402.client.limits import SPENDING_EXPONENT, WINDOWS, Entry, Level, Spent
from rail402.client.pins import Known, Pin, PinnedPayee, PinnedPrice, check_and_pin, known_of, listed, unpin
from rail402.client.records import OPEN, PurchaseRecord, PurchaseState
from rail402.client.rules import host_of
from rail402.errors import BudgetExceeded, ConfigurationError, StaleCharge, StoreError
from rail402.money import Money
from rail402.stores.connections import ConnectionThreads, Operation, group_commit
from rail402.stores.sql import queries
from rail402.stores.sqlite_file import open_writer

__all__ = ["PAUSED", "Journal", "JournalConflict"]

T = TypeVar("T")

APPLICATION_ID: Final = int.from_bytes(b"r4jl")
_SQL: Final = queries("journal")
_BATCH: Final = 64

PAUSED: Final = "purchases are paused; `rail402 budget resume` lets them be made again"
"""What is said to who wants to buy while the kill switch is on."""


class JournalConflict(StaleCharge):
    """Another process went on with the purchase, or resolved it; nothing was written."""


class Journal:
    """The record of purchases, in one SQLite file.

    Args:
        url: `sqlite:///wallet.db`, relative to the working directory, or `sqlite:////home/me/wallet.db`.
        busy_timeout: seconds to wait for other processes that are writing.

    Raises:
        ConfigurationError: the URL has another form.
    """

    def __init__(self, url: str = "sqlite:///wallet.db", *, busy_timeout: float = 30.0) -> None:
        path = url.removeprefix("sqlite:///")
        if path in (url, "", ":memory:") or "?" in path or "#" in path:
            # Not quoted: another database's URL may hold a password.
            raise ConfigurationError('journal: write "sqlite:///relative.db" or "sqlite:////absolute.db"')
        self.path = Path(path).absolute()
        self._busy_timeout = busy_timeout
        self._threads: ConnectionThreads | None = None
        self._file: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return f"Journal({str(self.path)!r})"

    async def start(self) -> None:
        """Open the file, making it if need be; nothing happens if it is open.

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

    # --- purchases

    async def reserve(
        self, record: PurchaseRecord, entries: Iterable[Entry], *, now: int, pin: Pin | None = None
    ) -> None:
        """Write a new purchase, if all of its entries fit in the budget's windows, and pin what it asks for.

        Atomic: of any number of processes that reserve at once, none passes a limit.

        Raises:
            BudgetExceeded: a limit would be passed, or purchases are paused; nothing was written.
            OfferRefused: what is pinned has changed, and nobody has approved that; nothing was written.
        """

        def work(connection: sqlite3.Connection) -> None:
            self._check_file()
            if connection.execute(_SQL["paused_since"]).fetchone() is not None:
                raise BudgetExceeded(PAUSED)
            if pin is not None:
                check_and_pin(connection, pin, now)
            connection.execute(_SQL["insert_purchase"], _columns(record))
            for entry in entries:
                if entry.limit is not None:
                    entry.check(_window(connection, entry, now))
                place = {"scope": entry.scope, "period": entry.window, "currency": entry.amount.currency}
                row = {"id": record.id, "amount": _units(entry.amount), "now": now}
                connection.execute(_SQL["insert_spending"], place | row)

        await self._run(work)

    async def save(self, record: PurchaseRecord, *, now: int) -> PurchaseRecord:
        """Write the next version of an open purchase; what it counts in the budget follows its state.

        The first such write also notes the time, because by then the wallet may have been asked to pay.

        Raises:
            JournalConflict: another process wrote it since it was read, or resolved it; nothing was changed.
        """
        if record.asked_by is None:
            record = record.model_copy(update={"asked_by": now})

        def work(connection: sqlite3.Connection) -> None:
            if connection.execute(_SQL["update_purchase"], _columns(record)).rowcount != 1:
                raise JournalConflict(f"another process went on with the purchase {record.id}")
            if record.state is PurchaseState.RELEASED and not record.withdrawn:
                connection.execute(_SQL["delete_spending"], {"id": record.id})
            elif record.state not in OPEN or record.moved:
                _close_spending(connection, record, now)

        await self._run(work)
        return record

    async def adopt(self, record: PurchaseRecord, *, now: int, lease_until: int) -> PurchaseRecord | None:
        """Take over an open purchase whose worker is gone; None while its lease runs or where another was faster."""
        if record.lease_until > now:
            return None
        with suppress(JournalConflict):
            return await self.save(record.changed(lease_until=lease_until), now=now)
        return None

    async def reopen(self, record: PurchaseRecord) -> PurchaseRecord:
        """Open a committed purchase again, so that the next call asks for it once more; the money stays counted."""
        again = record.changed(state=PurchaseState.UNKNOWN, moved=True, detail="the response broke off")
        await self._run(lambda connection: connection.execute(_SQL["reopen_purchase"], _columns(again)).rowcount)
        return again

    async def open_for(self, order_digest: str) -> Sequence[PurchaseRecord]:
        """Return the purchases of that order that are not resolved, the oldest first."""
        return await self._records("open_for_order", {"order_digest": order_digest})

    async def unresolved(self) -> Sequence[PurchaseRecord]:
        """Return all purchases that are not resolved, the oldest first."""
        return await self._records("unresolved", {})

    async def newest(self, *, limit: int = 100, before: str | None = None) -> Sequence[PurchaseRecord]:
        """Return purchases, the newest first; `before` is the id to go on from."""
        return await self._records("newest", {"limit": limit, "before": before})

    async def get(self, record_id: str) -> PurchaseRecord | None:
        """Return the purchase of that id."""
        found = await self._records("get_purchase", {"id": record_id})
        return found[0] if found else None

    async def spent(self, *, now: int) -> Mapping[Level, Mapping[str, Spent]]:
        """Return what each window holds, by window (`hour`, `day`, `total`) and currency."""
        return (await self.spent_by_scope(now=now)).get("", {window: {} for window in WINDOWS})

    async def spent_by_scope(self, *, now: int) -> Mapping[str, Mapping[Level, Mapping[str, Spent]]]:
        """Return the same for every scope that holds anything: all purchases (`""`), a host, a payee or a rail, written
        as in `Entry`."""

        def work(connection: sqlite3.Connection) -> dict[str, dict[Level, dict[str, Spent]]]:
            found: dict[str, dict[Level, dict[str, Spent]]] = {}
            for window in WINDOWS:
                rows = connection.execute(_SQL["windows"], {"period": window, "since": _since(window, now)})
                for scope, currency, total, unresolved in rows.fetchall():
                    windows = found.setdefault(scope, {each: {} for each in WINDOWS})
                    windows[window][currency] = _spent(currency, total, unresolved)
            return found

        return await self._run(work)

    # --- the kill switch

    async def pause(self, *, now: int) -> None:
        """Let nothing new be bought by anybody on this journal, from now on. What is open can still be resolved."""
        await self._run(lambda connection: connection.execute(_SQL["pause"], {"now": now}).rowcount)

    async def unpause(self) -> None:
        """Let purchases be made again."""
        await self._run(lambda connection: connection.execute(_SQL["unpause"]).rowcount)

    async def paused_since(self) -> int | None:
        """Return since when nothing is bought, Unix seconds; None where purchases are made."""
        row = await self._run(lambda connection: connection.execute(_SQL["paused_since"]).fetchone())
        return None if row is None else int(row[0])

    # --- payees and prices

    async def known(self, pin: Pin) -> Known:
        """Return what is pinned for what a purchase asks for."""
        return await self._run(lambda connection: known_of(connection, pin))

    async def pins(self) -> tuple[Sequence[PinnedPayee], Sequence[PinnedPrice]]:
        """Return all payees and all prices that are pinned."""
        return await self._run(listed)

    async def unpin(self, host: str) -> int:
        """Forget the payees and prices of a host: those of the next purchase are believed. Return how many they were.

        Raises:
            ConfigurationError: it is not the name of a host.
        """
        name = host_of(host)
        return await self._run(lambda connection: unpin(connection, name))

    # --- the keys of issuers

    async def pinned(self, origin: str) -> Sequence[Mapping[str, str]]:
        """Return the public keys (JWK) that receipts of that origin may be signed with."""
        return await self._run(lambda connection: _pinned(connection, origin))

    async def pin(self, origin: str, keys: Iterable[Mapping[str, str]], *, now: int) -> bool:
        """Pin the keys of that origin; say whether it was done.

        The first keys of an origin are believed. Later ones only where one of the pinned keys is still among them.
        """
        offered = list(keys)

        def work(connection: sqlite3.Connection) -> bool:
            known = {key["x"] for key in _pinned(connection, origin)}
            if not offered or (known and known.isdisjoint(key["x"] for key in offered)):
                return False
            for key in offered:
                connection.execute(_SQL["pin_key"], {"origin": origin, "x": key["x"], "kid": key["kid"], "now": now})
            return True

        return await self._run(work)

    async def forget(self, origin: str) -> None:
        """Unpin the keys of that origin: those that it publishes at the next purchase are believed."""
        await self._run(lambda connection: connection.execute(_SQL["forget_keys"], {"origin": origin}).rowcount)

    # --- the one seam to SQLite

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

    async def _records(self, query: str, values: Mapping[str, Any]) -> Sequence[PurchaseRecord]:
        rows = await self._run(lambda connection: connection.execute(_SQL[query], dict(values)).fetchall())
        try:
            return [PurchaseRecord.model_validate_json(text) for (text,) in rows]
        except ValidationError as error:
            raise StoreError(f"the journal {self.path} holds a record that cannot be read") from error

    async def _run(self, operation: Operation[T]) -> T:
        if self._threads is None:
            raise StoreError("the journal is not open")
        try:
            return await self._threads.run(operation)
        except (sqlite3.Error, OverflowError) as error:
            raise StoreError(f"the journal {self.path} cannot be used: {error}") from error


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _columns(record: PurchaseRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "version": record.version,
        "order_digest": record.order.digest,
        "state": record.state.value,
        "lease_until": record.lease_until,
        "created_at": record.created_at,
        "purchase": json.dumps(record.model_dump(mode="json"), separators=(",", ":")),
    }


def _units(amount: Money) -> int:
    return amount.to_atomic(SPENDING_EXPONENT)


def _window(connection: sqlite3.Connection, entry: Entry, now: int) -> Spent:
    """Return what the window of an entry holds already."""
    place = {"scope": entry.scope, "period": entry.window, "currency": entry.amount.currency}
    total, unresolved = connection.execute(_SQL["window"], place | {"since": _since(entry.window, now)}).fetchone()
    return _spent(entry.amount.currency, total, unresolved)


def _since(window: Level, now: int) -> int:
    """Return the time after which what was spent counts in a window."""
    seconds = WINDOWS[window]
    return -1 if seconds is None else now - seconds


def _spent(currency: str, total: int, unresolved: int) -> Spent:
    return Spent(
        Money.from_atomic(total, SPENDING_EXPONENT, currency),
        Money.from_atomic(unresolved, SPENDING_EXPONENT, currency),
    )


def _close_spending(connection: sqlite3.Connection, record: PurchaseRecord, now: int) -> None:
    """Count what it did cost; what was converted shrinks in the same proportion."""
    cost = record.reserved if record.cost is None else record.cost
    for scope, period, amount in connection.execute(_SQL["spending_of"], {"id": record.id}).fetchall():
        true = -(-amount * _units(cost) // _units(record.reserved)) if record.reserved.amount else amount
        row = {"id": record.id, "scope": scope, "period": period, "amount": true, "now": now}
        connection.execute(_SQL["close_spending"], row)


def _pinned(connection: sqlite3.Connection, origin: str) -> list[dict[str, str]]:
    rows = connection.execute(_SQL["pinned_keys"], {"origin": origin}).fetchall()
    return [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid} for x, kid in rows]
