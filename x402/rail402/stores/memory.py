"""A store in the memory of one process: for tests, and for a server that may forget."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from rail402.errors import ConfigurationError, KeyTaken, StaleCharge, StoreError
from rail402.protocol.charge import IN_FLIGHT, Charge, Delivery, PaymentState
from rail402.protocol.payment import ConsumptionKey
from rail402.stores.base import Claim, Issued, Store, StoredResponse, TokenBucket, nanoseconds
from rail402.stores.rows import ISSUED_KEPT
from rail402.stores.wakeups import Wakeups

__all__ = ["MemoryStore"]

_OPEN: Final = {PaymentState.CLAIMED, PaymentState.HELD, PaymentState.UNKNOWN, *IN_FLIGHT}


class MemoryStore(Store):
    """A store in memory, for one process and one event loop.

    A verb never awaits between reading and writing, which makes it atomic. Closing keeps what is in it.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._charges: dict[str, Charge] = {}
        self._holders: dict[ConsumptionKey, str] = {}
        self._responses: dict[str, dict[str, StoredResponse]] = {}
        self._uses: dict[str, dict[str, tuple[str, int]]] = {}  # under way: slot, and until when
        self._issued: dict[ConsumptionKey, Issued] = {}
        self._settings: dict[str, str] = {}
        self._leaders: dict[str, tuple[str, int]] = {}
        self._buckets: dict[str, int] = {}
        self._wakeups = Wakeups()

    # --- charges

    async def claim(self, charge: Charge) -> Claim:
        """Insert `charge` with all of its keys, or return the charge that holds any of them.

        Raises:
            ConfigurationError: this process is a copy (a fork, a pickle) of the one that made the store.
        """
        if os.getpid() != self._pid:
            raise ConfigurationError("a MemoryStore is not shared between processes; use sqlite:///charges.db")
        holder = self._find(charge.keys)
        if holder is not None:
            return Claim(won=False, charge=holder)
        if charge.id in self._charges:
            raise StoreError(f"there is another charge {charge.id}")
        self._put(charge)
        return Claim(won=True, charge=charge)

    async def save(self, charge: Charge, *, response: StoredResponse | None = None, slot: str = "") -> Charge:
        """Write `charge` if its `version` is still the stored one; return it with the next version."""
        stored = self._charges.get(charge.id)
        if stored is None or stored.version != charge.version:
            raise StaleCharge(f"{charge.id} is no longer at version {charge.version}")
        if any(self._holders.get(key, charge.id) != charge.id for key in charge.keys):
            raise KeyTaken(f"a key that {charge.id} gained belongs to another charge")
        if response is not None:
            self._responses.setdefault(charge.id, {})[slot] = response
        return self._put(charge.model_copy(update={"version": charge.version + 1, "uses_taken": stored.uses_taken}))

    async def find(self, keys: Iterable[ConsumptionKey]) -> Charge | None:
        """Return the charge that holds any of `keys`."""
        return self._find(keys)

    async def get(self, charge_id: str) -> Charge | None:
        """Return the charge of that id."""
        return self._charges.get(charge_id)

    async def response(self, charge_id: str, slot: str = "") -> StoredResponse | None:
        """Return the response stored under `slot`."""
        return self._responses.get(charge_id, {}).get(slot)

    async def wait(self, charge: Charge, *, timeout: float) -> Charge | None:
        """Wait, `timeout` seconds at most, until the stored version differs from `charge.version`."""
        return await self._wakeups.wait(self.get, charge, timeout=timeout)

    async def unresolved(
        self, *, now: int, limit: int, rails: Collection[str] | None = None, origin: str | None = None
    ) -> Sequence[Charge]:
        """Return charges whose lease lapsed at `now` and that are not finished; oldest lease first."""
        lapsed = [charge for charge in self._charges.values() if _is_open(charge) and charge.lease_until <= now]
        if rails is not None:
            lapsed = [charge for charge in lapsed if charge.offer.rail in rails]
        if origin is not None:
            lapsed = [charge for charge in lapsed if charge.order.url.startswith(f"{origin}/")]
        return sorted(lapsed, key=lambda charge: (charge.lease_until, charge.id))[:limit]

    async def recent(self, *, limit: int, before: str | None = None) -> Sequence[Charge]:
        """Return charges, newest first; `before` is the id to go on from."""
        charges = sorted(self._charges.values(), key=_age, reverse=True)
        if before is not None:
            start = self._charges.get(before)
            charges = [charge for charge in charges if start is not None and _age(charge) < _age(start)]
        return charges[:limit]

    # --- passes

    async def take_use(self, charge_id: str, use: str, *, now: int, lease_until: int, slot: str = "") -> Charge | None:
        """Take one use of a settled pass; None where none is left."""
        if charge_id not in self._charges:
            return None
        under_way = self._uses.setdefault(charge_id, {})
        lapsed = [name for name, (_, until) in under_way.items() if until <= now]
        for name in lapsed:
            del under_way[name]
        self._count_use(self._charges[charge_id], -len(lapsed))
        slots = {*self._responses.get(charge_id, {}), *(other for other, _ in under_way.values())}
        if slot and slot in slots:
            raise KeyTaken(f"there is a use of {charge_id} with this key")
        charge = self._charges[charge_id]
        if charge.payment is not PaymentState.SETTLED or charge.uses_taken >= charge.uses:
            return None
        under_way[use] = slot, lease_until
        return self._count_use(charge, 1)

    async def renew_use(self, charge_id: str, use: str, *, lease_until: int) -> bool:
        """Extend the lease of a use that is under way; say whether it is."""
        under_way = self._uses.get(charge_id, {})
        if use not in under_way:
            return False
        under_way[use] = under_way[use][0], lease_until
        return True

    async def return_use(self, charge_id: str, use: str) -> None:
        """Give back a use that is under way (its handler failed)."""
        if self._uses.get(charge_id, {}).pop(use, None) is not None:
            self._count_use(self._charges[charge_id], -1)

    async def end_use(self, charge_id: str, use: str, *, response: StoredResponse | None = None) -> bool:
        """Count a use that is under way as served, and store its response; say whether it was under way."""
        ended = self._uses.get(charge_id, {}).pop(use, None)
        if ended is not None and ended[0] and response is not None:
            self._responses.setdefault(charge_id, {}).setdefault(ended[0], response)
        return ended is not None

    # --- issued rows

    async def issue(self, issued: Issued, *, now: int, capacity: int) -> bool:
        """Insert the row unless `capacity` rows are there that have not expired."""
        there = self._issued.get(issued.key)
        if there is not None:
            return there == issued
        if sum(row.expires_at > now for row in self._issued.values()) >= capacity:
            return False
        self._issued[issued.key] = issued
        return True

    async def issued(self, key: ConsumptionKey) -> Issued | None:
        """Return the row of that key."""
        return self._issued.get(key)

    # --- between workers

    async def lead(self, name: str, holder: str, *, now: int, seconds: int) -> bool:
        """Become or stay the leader called `name` until `now + seconds`; say whether `holder` is it."""
        leader, until = self._leaders.get(name, (holder, now))
        if leader != holder and until > now:
            return False
        self._leaders[name] = (holder, now + seconds)
        return True

    async def spend(self, bucket: str, tokens: int, limit: TokenBucket, *, now: float) -> int:
        """Take up to `tokens` tokens from the bucket of that name; return how many were taken."""
        taken, full_at = limit.take(self._buckets.get(bucket, 0), tokens, now=now)
        if taken:
            self._buckets[bucket] = full_at
        return taken

    # --- housekeeping

    async def remember(self, name: str, value: str) -> str:
        """Return the setting `name`, setting it to `value` if it is not there."""
        return self._settings.setdefault(name, value)

    async def prune(self, *, before: int, now: int) -> int:
        """Delete finished charges, expired issued rows, lapsed leaderships and full buckets."""
        charges = [charge for charge in self._charges.values() if _is_past(charge, before)]
        for charge in charges:
            del self._charges[charge.id]
            self._responses.pop(charge.id, None)
            self._uses.pop(charge.id, None)
        self._holders = {key: holder for key, holder in self._holders.items() if holder in self._charges}
        rows = self._count_rows()
        self._issued = {key: row for key, row in self._issued.items() if row.expires_at > now - ISSUED_KEPT}
        self._leaders = {name: leader for name, leader in self._leaders.items() if leader[1] > now}
        self._buckets = {name: full_at for name, full_at in self._buckets.items() if full_at > nanoseconds(now)}
        return len(charges) + rows - self._count_rows()

    # --- inside

    def _count_rows(self) -> int:
        return len(self._issued) + len(self._leaders) + len(self._buckets)

    def _find(self, keys: Iterable[ConsumptionKey]) -> Charge | None:
        holders = {self._holders[key] for key in keys if key in self._holders}
        return min((self._charges[holder] for holder in holders), key=_age, default=None)

    def _put(self, charge: Charge) -> Charge:
        self._charges[charge.id] = charge
        self._holders.update(dict.fromkeys(charge.keys, charge.id))
        self._wakeups.wake(charge.id)
        return charge

    def _count_use(self, charge: Charge, change: int) -> Charge:
        counted = self._charges[charge.id] = charge.model_copy(update={"uses_taken": charge.uses_taken + change})
        return counted


def _age(charge: Charge) -> tuple[int, str]:
    return charge.created_at, charge.id


def _is_open(charge: Charge) -> bool:
    return charge.payment in _OPEN or charge.delivery is Delivery.RUNNING


def _is_past(charge: Charge, before: int) -> bool:
    """Whether a finished charge was created, valid and leased before that time."""
    newest = max(charge.created_at, charge.lease_until, charge.valid_until or 0)
    return not _is_open(charge) and newest < before
