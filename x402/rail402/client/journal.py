"""The client's durable memory: what it bought, what it may still spend, and whose receipts it believes.

It is in one SQLite file, which any number of threads, event loops and processes of one machine may share, or in a
PostgreSQL, for payers on several machines. Payers that share it share one budget, and should be given the same limits.

Every verb is atomic: one that returns has reached the disk, and one that raises has left nothing. `reserve` is measured
against all that anybody has reserved before; of the writes of one purchase each knows the one before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from pydantic import ValidationError

from rail402.client.budget import Budget
from rail402.client.confirmed import loosened, written
from rail402.client.journal_database import JournalDatabase, Session, open_database
from rail402.client.limits import SPENDING_EXPONENT, WINDOWS, Entry, Level, Spent
from rail402.client.pins import Known, Pin, PinnedPayee, PinnedPrice, check_and_pin, known_of, listed, unpin
from rail402.client.records import OPEN, PurchaseRecord, PurchaseState
from rail402.client.rules import host_of
from rail402.errors import BudgetExceeded, ConfigurationError, StaleCharge, StoreError
from rail402.money import Money

__all__ = ["PAUSED", "Journal", "JournalConflict"]

PAUSED: Final = "purchases are paused; `rail402 budget resume` lets them be made again"
"""What is said to who wants to buy while the kill switch is on."""


_REFUNDED: Final = "refunded"
"""In place of a window's name: what came back is kept beside what was spent, and is in no window."""


class JournalConflict(StaleCharge):
    """Another process went on with the purchase, or resolved it; nothing was written."""


class Journal:
    """The record of purchases.

    Args:
        where: `sqlite:///wallet.db`, relative to the working directory; `sqlite:////home/me/wallet.db`;
            `postgresql://user:password@host/database`, which is secret; or a `JournalDatabase`.
        busy_timeout: seconds to wait for others that are writing.

    Attributes:
        address: where it is, for people: a path, or a host and a database.

    Raises:
        ConfigurationError: the URL has another form, or what PostgreSQL needs is not installed.
    """

    def __init__(self, where: str | JournalDatabase = "sqlite:///wallet.db", *, busy_timeout: int = 30) -> None:
        self._database = open_database(where, busy_timeout=busy_timeout) if isinstance(where, str) else where
        self.address = self._database.address

    def __repr__(self) -> str:
        return f"Journal({self.address!r})"

    def exists(self) -> bool:
        """Say whether there may be anything in it. A file that is not there is not made."""
        return self._database.exists()

    async def start(self) -> None:
        """Open it, making it if need be; nothing happens if it is open. In a PostgreSQL it belongs to this event loop.

        Raises:
            ConfigurationError: it is another program's or a newer version's, or others can read the file and its mode
                cannot be changed.
            StoreError: it cannot be opened.
        """
        await self._database.start()

    async def close(self) -> None:
        """Finish what was asked for, and close it."""
        await self._database.close()

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

        counted = tuple(entries)

        async def work(session: Session) -> None:
            if await session.fetch("paused_since", {}):
                raise BudgetExceeded(PAUSED)
            time = await session.now(now)
            if pin is not None:
                await check_and_pin(session, pin, time)
            await session.count("insert_purchase", _columns(record, time - now))
            for entry in counted:
                if entry.limit is not None:
                    entry.check(await _window(session, entry, time))
                place = {"scope": entry.scope, "period": entry.window, "currency": entry.amount.currency}
                row = {"id": record.id, "amount": _units(entry.amount), "now": time}
                await session.count("insert_spending", place | row)

        await self._database.write(work)

    async def save(self, record: PurchaseRecord, *, now: int) -> PurchaseRecord:
        """Write the next version of an open purchase; what it counts in the budget follows its state.

        The first such write also notes the time, because by then the wallet may have been asked to pay.

        Raises:
            JournalConflict: another process wrote it since it was read, or resolved it; nothing was changed.
        """
        return await self._save(record, now=now, takes_over=False)

    async def adopt(self, record: PurchaseRecord, *, now: int, lease_until: int) -> PurchaseRecord | None:
        """Take over an open purchase whose worker is gone; None while its lease runs or where another was faster."""
        with suppress(JournalConflict):
            return await self._save(record.changed(lease_until=lease_until), now=now, takes_over=True)
        return None

    async def _save(self, record: PurchaseRecord, *, now: int, takes_over: bool) -> PurchaseRecord:
        if record.asked_by is None:
            record = record.model_copy(update={"asked_by": now})

        async def work(session: Session) -> None:
            time = await session.now(now)
            if takes_over and await session.fetch("is_leased", {"id": record.id, "now": time}):
                raise JournalConflict(f"another process works on the purchase {record.id}")
            if await session.count("update_purchase", _columns(record, time - now)) != 1:
                raise JournalConflict(f"another process went on with the purchase {record.id}")
            if record.state is PurchaseState.RELEASED and not record.withdrawn:
                await session.count("delete_spending", {"id": record.id})
            elif record.state not in OPEN or record.moved:
                await _close_spending(session, record, time)

        await self._database.write(work, lock=record.id)
        return record

    async def reopen(self, record: PurchaseRecord) -> PurchaseRecord:
        """Open a committed purchase again, so that the next call asks for it once more; the money stays counted."""
        again = record.changed(state=PurchaseState.UNKNOWN, moved=True, detail="the response broke off", lease_until=0)
        await self._database.write(lambda session: session.count("rewrite_purchase", _columns(again)), lock=record.id)
        return again

    async def write_off(self, record_id: str, *, now: int) -> PurchaseRecord:
        """Close an open purchase as spent and never asked for again. It counts as what it did cost; where that is not
        known, as what was reserved for it.

        Raises:
            ConfigurationError: there is no such purchase, it is not open, or it is being worked on.
        """
        record = await self.get(record_id)
        if record is not None and record.is_open:
            closed = record.changed(state=PurchaseState.COMMITTED, detail="written off", lease_until=0)
            with suppress(JournalConflict):
                return await self._save(closed, now=now, takes_over=True)
        raise ConfigurationError(f"there is no open purchase {record_id} that nobody works on")

    async def refund(self, record: PurchaseRecord, *, now: int) -> PurchaseRecord:
        """Write the next version of a committed purchase, whose seller has given `record.refunded` back.

        It counts in the windows as before. They are for what leaves the wallets, whatever comes back.

        Raises:
            JournalConflict: another process wrote it since it was read; nothing was changed.
        """
        assert record.refunded is not None
        place = {"id": record.id, "scope": "", "period": _REFUNDED, "amount": _units(record.refunded)}
        row = place | {"currency": record.refunded.currency, "now": now}

        async def work(session: Session) -> None:
            if await session.count("rewrite_purchase", _columns(record)) != 1:
                raise JournalConflict(f"another process went on with the purchase {record.id}")
            await session.count("insert_spending", row)
            await session.count("close_spending", place | {"now": now})

        await self._database.write(work, lock=record.id)
        return record

    async def refunded(self) -> Mapping[str, Money]:
        """Return all that sellers ever gave back, by currency."""
        values = {"period": _REFUNDED} | _begin("total", 0)
        rows = await self._database.read(lambda session: session.fetch("windows", values))
        return {currency: Money.from_atomic(total, SPENDING_EXPONENT, currency) for _, currency, total, _ in rows}

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
        """Return the same for every scope that holds anything: all purchases (`""`), a host, a payee, a rail or a tool,
        written as in `Entry`."""

        async def work(session: Session) -> dict[str, dict[Level, dict[str, Spent]]]:
            found: dict[str, dict[Level, dict[str, Spent]]] = {}
            time = await session.now(now)
            for window in WINDOWS:
                rows = await session.fetch("windows", {"period": window} | _begin(window, time))
                for scope, currency, total, unresolved in rows:
                    windows = found.setdefault(scope, {each: {} for each in WINDOWS})
                    windows[window][currency] = _spent(currency, total, unresolved)
            return found

        return await self._database.read(work)

    # --- the kill switch

    async def pause(self, *, now: int) -> None:
        """Let nothing new be bought by anybody on this journal, from now on. What is open can still be resolved."""

        async def work(session: Session) -> None:
            await session.count("pause", {"now": await session.now(now)})

        await self._database.write(work)

    async def unpause(self) -> None:
        """Let purchases be made again."""
        await self._database.write(lambda session: session.count("unpause", {}))

    async def paused_since(self) -> int | None:
        """Return since when nothing is bought, Unix seconds; None where purchases are made."""
        rows = await self._database.read(lambda session: session.fetch("paused_since", {}))
        return int(rows[0][0]) if rows else None

    # --- the limits of a configuration file

    async def accept(self, limits: Budget, *, now: int, is_confirmed: bool = False) -> Sequence[str]:
        """Remember a file's limits where they are not looser than those remembered, or somebody has confirmed them.

        Limits that are remembered first count as confirmed by who wrote the file.

        Returns:
            In what they are looser.
        """

        async def work(session: Session) -> Sequence[str]:
            found = await _looser(session, limits)
            if is_confirmed or not found:
                row = {"limits": written(limits), "now": await session.now(now)}
                await session.count("confirm_limits", row)
            return found

        return await self._database.write(work)

    async def looser(self, limits: Budget) -> Sequence[str]:
        """Return in what limits are looser than those remembered, and remember nothing."""
        return await self._database.read(lambda session: _looser(session, limits))

    # --- payees and prices

    async def known(self, pin: Pin) -> Known:
        """Return what is pinned for what a purchase asks for."""
        return await self._database.read(lambda session: known_of(session, pin))

    async def pins(self) -> tuple[Sequence[PinnedPayee], Sequence[PinnedPrice]]:
        """Return all payees and all prices that are pinned."""
        return await self._database.read(listed)

    async def unpin(self, host: str) -> int:
        """Forget the payees and prices of a host: those of the next purchase are believed. Return how many they were.

        Raises:
            ConfigurationError: it is not the name of a host.
        """
        name = host_of(host)
        return await self._database.write(lambda session: unpin(session, name))

    # --- the keys of issuers

    async def pinned(self, origin: str) -> Sequence[Mapping[str, str]]:
        """Return the public keys (JWK) that receipts of that origin may be signed with."""
        return await self._database.read(lambda session: _pinned(session, origin))

    async def pin(self, origin: str, keys: Iterable[Mapping[str, str]], *, now: int) -> bool:
        """Pin the keys of that origin; say whether it was done.

        The first keys of an origin are believed. Later ones only where one of the pinned keys is still among them.
        """
        offered = list(keys)

        async def work(session: Session) -> bool:
            known = {key["x"] for key in await _pinned(session, origin)}
            if not offered or (known and known.isdisjoint(key["x"] for key in offered)):
                return False
            for key in offered:
                row = {"origin": origin, "x": key["x"], "kid": key["kid"], "now": now}
                await session.count("pin_key", row)
            return True

        return await self._database.write(work, lock=origin)

    async def forget(self, origin: str) -> None:
        """Unpin the keys of that origin: those that it publishes at the next purchase are believed."""
        await self._database.write(lambda session: session.count("forget_keys", {"origin": origin}), lock=origin)

    async def _records(self, query: str, values: Mapping[str, Any]) -> Sequence[PurchaseRecord]:
        rows = await self._database.read(lambda session: session.fetch(query, values))
        try:
            return [PurchaseRecord.model_validate_json(text) for (text,) in rows]
        except ValidationError as error:
            raise StoreError(f"the journal {self.address} holds a record that cannot be read") from error


def _columns(record: PurchaseRecord, ahead: int = 0) -> dict[str, Any]:
    """Return the columns of a purchase; `ahead`: seconds that the journal's clock is ahead of the caller's."""
    return {
        "id": record.id,
        "version": record.version,
        "order_digest": record.order.digest,
        "state": record.state.value,
        "lease_until": record.lease_until + ahead,
        "created_at": record.created_at,
        "purchase": json.dumps(record.model_dump(mode="json"), separators=(",", ":")),
    }


def _units(amount: Money) -> int:
    return amount.to_atomic(SPENDING_EXPONENT)


async def _looser(session: Session, limits: Budget) -> Sequence[str]:
    rows = await session.fetch("confirmed_limits", {})
    return () if not rows or rows[0][0] == written(limits) else loosened(rows[0][0], limits)


async def _window(session: Session, entry: Entry, now: int) -> Spent:
    """Return what the window of an entry holds already."""
    place = {"scope": entry.scope, "period": entry.window, "currency": entry.amount.currency}
    ((total, unresolved),) = await session.fetch("window", place | _begin(entry.window, now))
    return _spent(entry.amount.currency, total, unresolved)


def _begin(window: Level, now: int) -> dict[str, int]:
    """Return the time after which what was spent counts in a window, the minute that this is in, and that one's end."""
    seconds = WINDOWS[window]
    since = -1 if seconds is None else now - seconds
    return {"since": since, "first_minute": since // 60, "first_minute_end": (since // 60 + 1) * 60}


def _spent(currency: str, total: int, unresolved: int) -> Spent:
    return Spent(
        Money.from_atomic(total, SPENDING_EXPONENT, currency),
        Money.from_atomic(unresolved, SPENDING_EXPONENT, currency),
    )


async def _close_spending(session: Session, record: PurchaseRecord, now: int) -> None:
    """Count what it did cost; what was converted shrinks in the same proportion."""
    cost = record.reserved if record.cost is None else record.cost
    for scope, period, amount in await session.fetch("spending_of", {"id": record.id}):
        true = -(-amount * _units(cost) // _units(record.reserved)) if record.reserved.amount else amount
        row = {"id": record.id, "scope": scope, "period": period, "amount": true, "now": now}
        await session.count("close_spending", row)


async def _pinned(session: Session, origin: str) -> list[dict[str, str]]:
    rows = await session.fetch("pinned_keys", {"origin": origin})
    return [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid} for x, kid in rows]
