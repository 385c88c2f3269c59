"""Stores that are broken in one place each, for `test_store_kit_catches.py`; other processes import them too."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rail402.errors import KeyTaken, StaleCharge
from rail402.protocol.charge import Charge, Delivery, PaymentState
from rail402.stores import Claim, Issued, MemoryStore, SqliteStore, StoredResponse, TokenBucket

NOW = 1_800_000_000  # as in the cases, whose modules need pytest
_HOUR = 3600


# --- broken claims


class ClaimsInTwoSteps(MemoryStore):
    async def claim(self, charge: Charge) -> Claim:
        holder = self._find(charge.keys)
        await asyncio.sleep(0)
        return Claim(False, holder) if holder is not None else Claim(True, self._put(charge))


class LooksAtOneKey(MemoryStore):
    async def claim(self, charge: Charge) -> Claim:
        holder = self._find(charge.keys[:1])
        return Claim(False, holder) if holder is not None else Claim(True, self._put(charge))


class StoresOneKey(MemoryStore):
    async def claim(self, charge: Charge) -> Claim:
        claim = await super().claim(charge)
        for key in charge.keys[1:] if claim.won else ():
            del self._holders[key]
        return claim


class KeepsWhatLost(MemoryStore):
    async def claim(self, charge: Charge) -> Claim:
        claim = await super().claim(charge)
        for key in charge.keys:
            self._holders.setdefault(key, claim.charge.id)
        return claim


class FindsTheNewest(MemoryStore):
    def _find(self, keys: Any) -> Charge | None:
        held = [self._charges[self._holders[key]] for key in keys if key in self._holders]
        return max(held, key=lambda charge: charge.created_at, default=None)


class FoldsCase(MemoryStore):
    def _find(self, keys: Any) -> Charge | None:
        folded = {key.casefold(): holder for key, holder in self._holders.items()}
        return next((self._charges[folded[key.casefold()]] for key in keys if key.casefold() in folded), None)


class FoldsAccents(MemoryStore):
    def _find(self, keys: Any) -> Charge | None:
        folded = {key.encode("ascii", "ignore"): holder for key, holder in self._holders.items()}
        plain = [key.encode("ascii", "ignore") for key in keys]
        return next((self._charges[folded[key]] for key in plain if key in folded), None)


class Overwrites(MemoryStore):
    async def claim(self, charge: Charge) -> Claim:
        holder = self._find(charge.keys)
        return Claim(False, holder) if holder is not None else Claim(True, self._put(charge))


class ClaimsKeysLater(MemoryStore):
    async def claim(self, charge: Charge) -> Claim:
        if (holder := self._find(charge.keys)) is not None:
            return Claim(False, holder)
        self._charges[charge.id] = charge
        await asyncio.sleep(0)
        return Claim(True, self._put(charge))


class LosesAField(MemoryStore):
    def _put(self, charge: Charge) -> Charge:
        return super()._put(charge.model_copy(update={"receipt": None}))


# --- broken saves


class IgnoresVersions(MemoryStore):
    async def save(self, charge: Charge, *, response: StoredResponse | None = None, slot: str = "") -> Charge:
        if (stored := self._charges.get(charge.id)) is None:
            raise StaleCharge("it is not there")
        charge = charge.model_copy(update={"version": stored.version})
        return await super().save(charge, response=response, slot=slot)


class SavesInTwoSteps(MemoryStore):
    async def save(self, charge: Charge, *, response: StoredResponse | None = None, slot: str = "") -> Charge:
        stored = self._charges.get(charge.id)
        if stored is None or stored.version != charge.version:
            raise StaleCharge("it is another version")
        await asyncio.sleep(0)
        return self._put(charge.model_copy(update={"version": charge.version + 1}))


class NeverCounts(MemoryStore):
    async def save(self, charge: Charge, *, response: StoredResponse | None = None, slot: str = "") -> Charge:
        saved = await super().save(charge, response=response, slot=slot)
        return self._put(saved.model_copy(update={"version": charge.version}))


class Inserts(MemoryStore):
    async def save(self, charge: Charge, *, response: StoredResponse | None = None, slot: str = "") -> Charge:
        if charge.id not in self._charges:
            return self._put(charge)
        return await super().save(charge, response=response, slot=slot)


class KeepsTheResponseFirst(MemoryStore):
    async def save(self, charge: Charge, *, response: StoredResponse | None = None, slot: str = "") -> Charge:
        if response is not None:
            self._responses.setdefault(charge.id, {})[slot] = response
        return await super().save(charge, response=response, slot=slot)


class GainsNothing(MemoryStore):
    async def save(self, charge: Charge, *, response: StoredResponse | None = None, slot: str = "") -> Charge:
        keys = [key for key in charge.keys if key not in self._holders]
        saved = await super().save(charge, response=response, slot=slot)
        for key in keys:
            del self._holders[key]
        return saved


class GainsWhatIsFree(MemoryStore):
    async def save(self, charge: Charge, *, response: StoredResponse | None = None, slot: str = "") -> Charge:
        for key in charge.keys:
            self._holders.setdefault(key, charge.id)
        return await super().save(charge, response=response, slot=slot)


class GainsInTwoSteps(MemoryStore):
    async def save(self, charge: Charge, *, response: StoredResponse | None = None, slot: str = "") -> Charge:
        if any(self._holders.get(key, charge.id) != charge.id for key in charge.keys):
            raise KeyTaken("it is another's")
        await asyncio.sleep(0)
        return self._put(charge.model_copy(update={"version": charge.version + 1}))


class SavesItsUses(MemoryStore):
    async def save(self, charge: Charge, *, response: StoredResponse | None = None, slot: str = "") -> Charge:
        saved = await super().save(charge, response=response, slot=slot)
        return self._put(saved.model_copy(update={"uses_taken": charge.uses_taken}))


class KeepsTheFirst(MemoryStore):
    async def save(self, charge: Charge, *, response: StoredResponse | None = None, slot: str = "") -> Charge:
        first = await self.response(charge.id, slot)
        return await super().save(charge, response=first or response, slot=slot)


class CutsBodies(MemoryStore):
    async def response(self, charge_id: str, slot: str = "") -> StoredResponse | None:
        found = await super().response(charge_id, slot)
        return found and replace(found, body=found.body[: 2**20])


class TakesFieldsForADict(MemoryStore):
    async def response(self, charge_id: str, slot: str = "") -> StoredResponse | None:
        found = await super().response(charge_id, slot)
        return found and replace(found, fields=tuple(dict(found.fields).items()))


class HasOneSlot(MemoryStore):
    async def response(self, charge_id: str, slot: str = "") -> StoredResponse | None:
        return next(iter(self._responses.get(charge_id, {}).values()), None)


# --- broken look-ups, and waiting


class FindsAnyoneForNobody(MemoryStore):
    def _find(self, keys: Any) -> Charge | None:
        return super()._find(keys or self._holders)


class LeavesRunningOut(MemoryStore):
    async def unresolved(self, **asked: Any) -> Sequence[Charge]:
        found = await super().unresolved(**asked)
        return [charge for charge in found if charge.payment is not PaymentState.SETTLED]


class IgnoresLeases(MemoryStore):
    async def unresolved(self, **asked: Any) -> Sequence[Charge]:
        return await super().unresolved(**asked | {"now": NOW + 10**6})


class OldestChargeFirst(MemoryStore):
    async def unresolved(self, **asked: Any) -> Sequence[Charge]:
        return sorted(await super().unresolved(**asked), key=lambda charge: charge.id)


class FiltersAfterwards(MemoryStore):
    async def unresolved(self, *, rails: Any = None, origin: str | None = None, **asked: Any) -> Sequence[Charge]:
        some = await super().unresolved(**asked)
        wanted = await super().unresolved(rails=rails, origin=origin, **asked)
        return [charge for charge in some if charge in wanted]


class RemembersTheFirstLease(MemoryStore):
    async def unresolved(self, *, now: int, **asked: Any) -> Sequence[Charge]:
        found = await super().unresolved(now=now + 10**6, **asked)
        first = self.__dict__.setdefault("first", {})
        return [charge for charge in found if first.setdefault(charge.id, NOW) <= now]


class ByIdOnly(MemoryStore):
    async def recent(self, *, limit: int, before: str | None = None) -> Sequence[Charge]:
        newest = sorted(self._charges.values(), key=lambda charge: charge.id, reverse=True)
        return [charge for charge in newest if before is None or charge.id < before][:limit]


class RepeatsTheLast(MemoryStore):
    async def recent(self, *, limit: int, before: str | None = None) -> Sequence[Charge]:
        found = await super().recent(limit=limit, before=before)
        return [self._charges[before], *found][:limit] if before in self._charges else found


class SleepsItOut(MemoryStore):
    async def wait(self, charge: Charge, *, timeout: float) -> Charge | None:
        await asyncio.sleep(timeout)
        return await self.get(charge.id)


class WakesForAnything(MemoryStore):
    async def wait(self, charge: Charge, *, timeout: float) -> Charge | None:
        found = await self.get(charge.id)
        if found is not None and found.version == charge.version:
            await asyncio.sleep(min(timeout, 0.001))
        return found


class WaitsForEver(MemoryStore):
    async def wait(self, charge: Charge, *, timeout: float) -> Charge | None:
        return await super().wait(charge, timeout=60)


class GivesUpWithNothing(MemoryStore):
    async def wait(self, charge: Charge, *, timeout: float) -> Charge | None:
        found = await super().wait(charge, timeout=timeout)
        return None if found == charge else found


# --- broken passes


class TakesInTwoSteps(MemoryStore):
    async def take_use(self, charge_id: str, use: str, **terms: Any) -> Charge | None:
        charge = self._charges[charge_id]
        await asyncio.sleep(0)
        return self._count_use(charge, 1) if charge.uses_taken < charge.uses else None


class CountsAVersion(MemoryStore):
    def _count_use(self, charge: Charge, change: int) -> Charge:
        counted = super()._count_use(charge, change)
        return self._put(counted.model_copy(update={"version": counted.version + bool(change)}))


class GivesNothingBack(MemoryStore):
    async def return_use(self, charge_id: str, use: str) -> None:
        pass


class GivesAnythingBack(MemoryStore):
    async def return_use(self, charge_id: str, use: str) -> None:
        if charge_id in self._charges:
            self._count_use(self._charges[charge_id], -1)


class NeverLapses(MemoryStore):
    async def take_use(self, charge_id: str, use: str, *, now: int, lease_until: int, slot: str = "") -> Charge | None:
        return await super().take_use(charge_id, use, now=0, lease_until=lease_until, slot=slot)


class LapsesASecondLate(MemoryStore):
    async def take_use(self, charge_id: str, use: str, *, now: int, lease_until: int, slot: str = "") -> Charge | None:
        return await super().take_use(charge_id, use, now=now - 1, lease_until=lease_until, slot=slot)


class EndsWhatHasLapsed(MemoryStore):
    async def end_use(self, charge_id: str, use: str, *, response: StoredResponse | None = None) -> bool:
        return await super().end_use(charge_id, use, response=response) or charge_id in self._charges


class RenewsNothing(MemoryStore):
    async def renew_use(self, charge_id: str, use: str, *, lease_until: int) -> bool:
        return use in self._uses.get(charge_id, {})


class RenewsAnything(MemoryStore):
    async def renew_use(self, charge_id: str, use: str, *, lease_until: int) -> bool:
        await super().renew_use(charge_id, use, lease_until=lease_until)
        return True


class RenewsAll(MemoryStore):
    async def renew_use(self, charge_id: str, use: str, *, lease_until: int) -> bool:
        uses = self._uses.get(charge_id, {})
        uses.update({one: (slot, lease_until) for one, (slot, _) in uses.items()})
        return use in uses


class ShortensOthers(MemoryStore):
    async def renew_use(self, charge_id: str, use: str, *, lease_until: int) -> bool:
        for other, (slot, until) in self._uses.get(charge_id, {}).items():
            self._uses[charge_id][other] = slot, min(until, lease_until)
        return await super().renew_use(charge_id, use, lease_until=lease_until)


class EndsForNothing(MemoryStore):
    async def end_use(self, charge_id: str, use: str, *, response: StoredResponse | None = None) -> bool:
        if ended := await super().end_use(charge_id, use, response=response):
            self._count_use(self._charges[charge_id], -1)
        return ended


class IgnoresSlots(MemoryStore):
    async def take_use(self, charge_id: str, use: str, *, now: int, lease_until: int, slot: str = "") -> Charge | None:
        taken = await super().take_use(charge_id, use, now=now, lease_until=lease_until)
        if taken is not None:
            self._uses[charge_id][use] = slot, lease_until
        return taken


class TakesFromEveryCharge(MemoryStore):
    async def take_use(self, charge_id: str, use: str, **terms: Any) -> Charge | None:
        charge = self._charges.get(charge_id)
        if charge is None or charge.payment is PaymentState.SETTLED:
            return await super().take_use(charge_id, use, **terms)
        return self._count_use(charge, 1)


class KeepsTheLastResponse(MemoryStore):
    async def end_use(self, charge_id: str, use: str, *, response: StoredResponse | None = None) -> bool:
        if slot := self._uses.get(charge_id, {}).get(use, ("", 0))[0]:
            self.__dict__["last"] = slot
        if response is not None and charge_id in self._charges:
            self._responses.setdefault(charge_id, {})[self.__dict__.get("last", "")] = response
        return await super().end_use(charge_id, use)


class KeepsItWithoutASlot(MemoryStore):
    async def end_use(self, charge_id: str, use: str, *, response: StoredResponse | None = None) -> bool:
        slot, _ = self._uses.get(charge_id, {}).get(use, ("none", 0))
        if not slot and response is not None:
            self._responses.setdefault(charge_id, {})[""] = response
        return await super().end_use(charge_id, use, response=response)


class KeepsItInTheFirstSlot(MemoryStore):
    async def end_use(self, charge_id: str, use: str, *, response: StoredResponse | None = None) -> bool:
        uses = self._uses.get(charge_id, {})
        if use in uses:
            uses[use] = next(slot for slot, _ in uses.values() if slot or len(uses) == 1), 0
        return await super().end_use(charge_id, use, response=response)


class MixesSlotsOfPasses(MemoryStore):
    async def take_use(self, charge_id: str, use: str, *, now: int, lease_until: int, slot: str = "") -> Charge | None:
        if slot and any(slot == other for uses in self._uses.values() for other, _ in uses.values()):
            raise KeyTaken("some use has this slot")
        return await super().take_use(charge_id, use, now=now, lease_until=lease_until, slot=slot)


class MixesResponsesOfPasses(MemoryStore):
    async def take_use(self, charge_id: str, use: str, *, now: int, lease_until: int, slot: str = "") -> Charge | None:
        if slot and any(slot in responses for responses in self._responses.values()):
            raise KeyTaken("some response has this slot")
        return await super().take_use(charge_id, use, now=now, lease_until=lease_until, slot=slot)


class MixesNamesOfUses(MemoryStore):
    async def return_use(self, charge_id: str, use: str) -> None:
        charge_id = next((one for one, uses in self._uses.items() if use in uses), charge_id)
        await super().return_use(charge_id, use)


class MixesEndsOfUses(MemoryStore):
    async def end_use(self, charge_id: str, use: str, *, response: StoredResponse | None = None) -> bool:
        charge_id = next((one for one in self._uses if use in self._uses[one]), charge_id)
        return await super().end_use(charge_id, use, response=response)


class LapsesAllPasses(MemoryStore):
    async def take_use(self, charge_id: str, use: str, *, now: int, lease_until: int, slot: str = "") -> Charge | None:
        for uses in self._uses.values():
            for name in [name for name, (_, until) in uses.items() if until <= now]:
                del uses[name]
                self._count_use(self._charges[charge_id], -1)
        return await super().take_use(charge_id, use, now=now, lease_until=lease_until, slot=slot)


# --- broken issued rows, settings, leaders and buckets


class NoRoom(MemoryStore):
    async def issue(self, issued: Issued, *, now: int, capacity: int) -> bool:
        return await super().issue(issued, now=now, capacity=capacity - 1)


class Evicts(MemoryStore):
    async def issue(self, issued: Issued, *, now: int, capacity: int) -> bool:
        if len(self._issued) >= capacity:
            del self._issued[next(iter(self._issued))]
        return await super().issue(issued, now=now, capacity=capacity)


class CountsTheExpired(MemoryStore):
    async def issue(self, issued: Issued, *, now: int, capacity: int) -> bool:
        return await super().issue(issued, now=0, capacity=capacity)


class ReplacesRows(MemoryStore):
    async def issue(self, issued: Issued, *, now: int, capacity: int) -> bool:
        self._issued.pop(issued.key, None)
        return await super().issue(issued, now=now, capacity=capacity)


class RemembersTheLast(MemoryStore):
    async def remember(self, name: str, value: str) -> str:
        self._settings[name] = value
        return value


class FoldsNames(MemoryStore):
    async def remember(self, name: str, value: str) -> str:
        return await super().remember(name.casefold(), value)

    async def lead(self, name: str, holder: str, *, now: int, seconds: int) -> bool:
        return await super().lead(name.casefold(), holder, now=now, seconds=seconds)

    async def spend(self, bucket: str, tokens: int, limit: TokenBucket, *, now: float) -> int:
        return await super().spend(bucket.casefold(), tokens, limit, now=now)

    async def issued(self, key: str) -> Issued | None:
        return await super().issued(key.casefold())


class AllLead(MemoryStore):
    async def lead(self, name: str, holder: str, *, now: int, seconds: int) -> bool:
        leader, until = self._leaders.get(name, (holder, now))
        await asyncio.sleep(0)
        self._leaders[name] = holder, now + seconds
        return leader == holder or until <= now


class LeadsForEver(MemoryStore):
    async def lead(self, name: str, holder: str, *, now: int, seconds: int) -> bool:
        return self._leaders.setdefault(name, (holder, NOW + 10**6))[0] == holder


class LeadsNoLonger(MemoryStore):
    async def lead(self, name: str, holder: str, *, now: int, seconds: int) -> bool:
        leader, until = self._leaders.get(name, ("", 0))
        return (leader == holder and until > now) or await super().lead(name, holder, now=now, seconds=seconds)


class AnyoneResigns(MemoryStore):
    async def lead(self, name: str, holder: str, *, now: int, seconds: int) -> bool:
        if seconds == 0:
            self._leaders.pop(name, None)
            return False
        return await super().lead(name, holder, now=now, seconds=seconds)


class OneLeadsAll(MemoryStore):
    async def lead(self, name: str, holder: str, *, now: int, seconds: int) -> bool:
        return await super().lead("all", holder, now=now, seconds=seconds)


class StartsEmpty(MemoryStore):
    async def spend(self, bucket: str, tokens: int, limit: TokenBucket, *, now: float) -> int:
        self._buckets.setdefault(bucket, limit.take(0, limit.burst, now=now)[1])
        return await super().spend(bucket, tokens, limit, now=now)


class AllOrNothing(MemoryStore):
    async def spend(self, bucket: str, tokens: int, limit: TokenBucket, *, now: float) -> int:
        there, _ = limit.take(self._buckets.get(bucket, 0), tokens, now=now)
        return await super().spend(bucket, tokens if there == tokens else 0, limit, now=now)


class GivesTokens(MemoryStore):
    async def spend(self, bucket: str, tokens: int, limit: TokenBucket, *, now: float) -> int:
        if tokens >= 0:
            return await super().spend(bucket, tokens, limit, now=now)
        self._buckets[bucket] = self._buckets.get(bucket, 0) - tokens * limit.token_ns
        return tokens


class SpendsInTwoSteps(MemoryStore):
    async def spend(self, bucket: str, tokens: int, limit: TokenBucket, *, now: float) -> int:
        taken, full_at = limit.take(self._buckets.get(bucket, 0), tokens, now=now)
        await asyncio.sleep(0)
        self._buckets[bucket] = full_at
        return taken


class NeverRefills(MemoryStore):
    async def spend(self, bucket: str, tokens: int, limit: TokenBucket, *, now: float) -> int:
        return await super().spend(bucket, tokens, limit, now=NOW)


class FillsOver(MemoryStore):
    async def spend(self, bucket: str, tokens: int, limit: TokenBucket, *, now: float) -> int:
        spare = max(0, int(now) - NOW - 60) * 2
        return await super().spend(bucket, tokens, limit, now=now) + min(tokens, spare)


class Rounds(MemoryStore):
    async def spend(self, bucket: str, tokens: int, limit: TokenBucket, *, now: float) -> int:
        taken = await super().spend(bucket, tokens, limit, now=now)
        self._buckets[bucket] -= self._buckets[bucket] % 10**6
        return taken


class BelievesClocks(MemoryStore):
    async def spend(self, bucket: str, tokens: int, limit: TokenBucket, *, now: float) -> int:
        seen = self.__dict__.get("seen", now)
        self.__dict__["seen"] = now
        if bucket in self._buckets and now > seen:  # so long ago it was asked, so much has come back
            self._buckets[bucket] = min(self._buckets[bucket], int(seen * 10**9))
        return await super().spend(bucket, tokens, limit, now=now)


class RemembersTheLimit(MemoryStore):
    async def spend(self, bucket: str, tokens: int, limit: TokenBucket, *, now: float) -> int:
        limit = self.__dict__.setdefault("limits", {}).setdefault(bucket, limit)
        return await super().spend(bucket, tokens, limit, now=now)


# --- broken pruning


class PrunesAtMost1000(MemoryStore):
    async def prune(self, *, before: int, now: int) -> int:
        return min(1000, await super().prune(before=before, now=now))


class PrunesKeysNever(MemoryStore):
    async def prune(self, *, before: int, now: int) -> int:
        holders = dict(self._holders)
        charges = dict(self._charges)
        gone = await super().prune(before=before, now=now)
        self.__dict__.setdefault("old", {}).update(
            {key: charges[holder] for key, holder in holders.items() if holder not in self._charges}
        )
        return gone

    def _find(self, keys: Any) -> Charge | None:
        keys = list(keys)
        old = self.__dict__.get("old", {})
        return super()._find(keys) or next((old[key] for key in keys if key in old), None)


class PrunesResponsesNever(MemoryStore):
    async def prune(self, *, before: int, now: int) -> int:
        kept = dict(self._responses)
        gone = await super().prune(before=before, now=now)
        self._responses = kept
        return gone


class PrunesUsesNever(MemoryStore):
    async def prune(self, *, before: int, now: int) -> int:
        kept = dict(self._uses)
        gone = await super().prune(before=before, now=now)
        self._uses = kept
        return gone


class PrunesByAge(MemoryStore):
    async def prune(self, *, before: int, now: int) -> int:
        old = [charge for charge in self._charges.values() if charge.created_at < before]
        for charge in old:
            self._charges[charge.id] = charge.model_copy(update={"lease_until": 0, "valid_until": None})
        return await super().prune(before=before, now=now)


class PrunesOnTheDot(MemoryStore):
    async def prune(self, *, before: int, now: int) -> int:
        return await super().prune(before=before + 1, now=now)


class PrunesRunning(MemoryStore):
    async def prune(self, *, before: int, now: int) -> int:
        for charge in self._charges.values():
            self._charges[charge.id] = charge.model_copy(update={"delivery": Delivery.NONE})
        return await super().prune(before=before, now=now)


class PrunesTheUnknown(MemoryStore):
    async def prune(self, *, before: int, now: int) -> int:
        unknown = [charge for charge in self._charges.values() if charge.payment is PaymentState.UNKNOWN]
        for charge in unknown:
            self._charges[charge.id] = charge.model_copy(update={"payment": PaymentState.RELEASED})
        return await super().prune(before=before, now=now)


class PrunesRowsAtOnce(MemoryStore):
    async def prune(self, *, before: int, now: int) -> int:
        return await super().prune(before=before, now=now + _HOUR)


class PrunesNoLeaders(MemoryStore):
    async def prune(self, *, before: int, now: int) -> int:
        kept = dict(self._leaders)
        gone = await super().prune(before=before, now=now)
        self._leaders = kept
        return gone


class PrunesEveryBucket(MemoryStore):
    async def prune(self, *, before: int, now: int) -> int:
        gone = len(self._buckets)
        self._buckets.clear()
        return gone + await super().prune(before=before, now=now)


# --- broken files: what they have in memory is sound


class FileStore(MemoryStore):
    """All of it in one file, for one process at a time: read at the start, and written as the class says."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    async def start(self) -> None:
        if self.path.exists():
            self.__dict__.update(pickle.loads(self.path.read_bytes()))

    def write(self) -> None:
        kept = {name: value for name, value in self.__dict__.items() if isinstance(value, dict)}
        self.path.write_bytes(pickle.dumps(kept))


class WritesNothing(FileStore):
    async def start(self) -> None:
        self.__dict__.update(MemoryStore().__dict__)


class WritesWhenItCloses(FileStore):
    async def close(self) -> None:
        self.write()


class ReadsOnce(FileStore):
    """It knows nothing of what others write."""

    async def claim(self, charge: Charge) -> Claim:
        claim = await super().claim(charge)
        self.write()
        return claim


class WritesNoUses(FileStore):
    async def close(self) -> None:
        self._uses = {}
        self.write()


# --- broken between processes: sound in each of them


class ClaimsHere(SqliteStore):
    async def claim(self, charge: Charge) -> Claim:
        return await super().claim(charge.model_copy(update={"keys": charge.keys[-1:]}))


class SavesAnything(SqliteStore):
    async def save(self, charge: Charge, *, response: StoredResponse | None = None, slot: str = "") -> Charge:
        stored = await self.get(charge.id)
        assert stored is not None
        return await super().save(charge.model_copy(update={"version": stored.version}))


class TakesHere(SqliteStore):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.memory = MemoryStore()

    async def take_use(self, charge_id: str, use: str, **terms: Any) -> Charge | None:
        charge = await self.get(charge_id)
        assert charge is not None
        await self.memory.claim(charge)
        return await self.memory.take_use(charge_id, use, **terms)


class OnlyHere(SqliteStore):
    """Does one verb in the memory of its process."""

    def __init__(self, path: Path, verb: str) -> None:
        super().__init__(path)
        setattr(self, verb, getattr(MemoryStore(), verb))
