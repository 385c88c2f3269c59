"""What a store must do with passes, issued rows, settings, and what has had its day."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from rail402.errors import KeyTaken
from rail402.protocol.charge import Charge, PaymentState
from rail402.stores.base import Issued, Store, StoredResponse
from rail402.testing.store_support import (
    NOW,
    RESPONSE,
    StoreCases,
    every_state,
    is_open,
    make_charge,
    must_raise,
    settled,
    together,
)

__all__ = ["IssuedCases", "PassCases", "PruneCases", "SettingCases"]

_HOUR = 3600


async def take(
    store: Store, charge: Charge, use: str = "one", *, now: int = NOW, lease_until: int = NOW + 60, slot: str = ""
) -> Charge | None:
    """Take a use under that name."""
    return await store.take_use(charge.id, use, now=now, lease_until=lease_until, slot=slot)


class PassCases(StoreCases):
    """A pass is used as often as it was paid for."""

    async def test_uses_taken_never_exceed_the_uses(self, store: Store) -> None:
        charge = settled("tx:1", uses=7)
        await store.claim(charge)
        answers = await together(200, lambda n: take(store, charge, f"use {n}"))
        taken = [answer for answer in answers if isinstance(answer, Charge)]
        numbers = sorted(one.uses_taken for one in taken)
        assert numbers == [1, 2, 3, 4, 5, 6, 7], "take_use: uses taken never exceed the uses"
        assert answers.count(None) == 193, "take_use: None where no use is left"
        stored = await store.get(charge.id)
        assert stored == charge.model_copy(update={"uses_taken": 7}), "take_use: the version stays"

    async def test_use_given_back_can_be_taken_again(self, store: Store) -> None:
        charge = settled("tx:1", uses=1)
        await store.claim(charge)
        assert await take(store, charge, "one") is not None, "take_use: there is a use left"
        assert await take(store, charge, "two") is None, "take_use: None where no use is left"
        await store.return_use(charge.id, "one")
        taken = await take(store, charge, "one")
        assert taken == charge.model_copy(update={"uses_taken": 1}), "return_use: the use can be taken again"

    async def test_a_use_comes_back_once(self, store: Store) -> None:
        charge = settled("tx:1", uses=5, uses_taken=2)
        await store.claim(charge)
        await take(store, charge, "one")
        await together(20, lambda _: store.return_use(charge.id, "one"))
        assert await store.get(charge.id) == charge, "return_use: a use comes back once"
        await store.return_use(charge.id, "unknown")
        await store.return_use("ch_unknown", "one")
        assert await store.get(charge.id) == charge, "return_use: what is not under way does not come back"

    async def test_a_use_whose_lease_has_lapsed_comes_back_when_another_is_taken(self, store: Store) -> None:
        charge = settled("tx:1", uses=3)
        await store.claim(charge)
        for number, lease in enumerate((5, 10, 20)):
            await take(store, charge, f"use {number}", lease_until=NOW + lease)
        assert await take(store, charge, "more", now=NOW + 4) is None, "take_use: no lease has lapsed yet"
        answers = await together(20, lambda n: take(store, charge, f"more {n}", now=NOW + 10))
        taken = sum(isinstance(answer, Charge) for answer in answers)
        assert taken == 2, "take_use: a use whose lease has lapsed comes back, once"
        full = charge.model_copy(update={"uses_taken": 3})
        assert await store.get(charge.id) == full, "take_use: uses that came back are counted once"
        assert not await store.end_use(charge.id, "use 0"), "end_use: False for a use that has lapsed and come back"
        await store.return_use(charge.id, "use 1")
        assert await store.end_use(charge.id, "use 2"), "end_use: True for a use whose lease has not lapsed"
        assert await store.get(charge.id) == full, "return_use: a use that has come back does not come back again"

    async def test_a_use_that_is_renewed_stays(self, store: Store) -> None:
        charge = settled("tx:1", uses=1)
        await store.claim(charge)
        await take(store, charge, "one", lease_until=NOW + 5)
        assert await store.renew_use(charge.id, "one", lease_until=NOW + 50), "renew_use: True while it is under way"
        assert await take(store, charge, "two", now=NOW + 49) is None, "renew_use: the lease is extended"
        assert await take(store, charge, "two", now=NOW + 50) is not None, "renew_use: as long as it was asked to be"
        lapsed = await store.renew_use(charge.id, "one", lease_until=NOW + 500)
        unknown = await store.renew_use("ch_unknown", "one", lease_until=NOW + 500)
        assert (lapsed, unknown) == (False, False), "renew_use: False for what is not under way"

    async def test_renewing_a_use_leaves_the_others_as_they_are(self, store: Store) -> None:
        charge = settled("tx:1", uses=3)
        await store.claim(charge)
        for use, lease in {"short": 5, "one": 10, "long": 90}.items():
            await take(store, charge, use, lease_until=NOW + lease)
        await store.renew_use(charge.id, "one", lease_until=NOW + 50)
        late = await take(store, charge, "late", now=NOW + 49)
        assert late is not None, "renew_use: it extends no other lease"
        later = await take(store, charge, "later", now=NOW + 50)
        assert later is not None, "renew_use: the renewed lease has lapsed"
        assert await store.end_use(charge.id, "long"), "renew_use: it shortens no other lease"

    async def test_a_use_that_was_served_never_comes_back(self, store: Store) -> None:
        charge = settled("tx:1", uses=1)
        await store.claim(charge)
        await take(store, charge, "one")
        assert await store.end_use(charge.id, "one"), "end_use: True for a use that is under way"
        assert not await store.end_use(charge.id, "one"), "end_use: False for a use that has ended"
        await store.return_use(charge.id, "one")
        assert await take(store, charge, "two", now=NOW + 10**6) is None, "end_use: a use that was served is used up"

    async def test_one_use_of_a_slot_is_under_way(self, store: Store) -> None:
        charge = settled("tx:1", uses=5)
        await store.claim(charge)
        answers = await together(20, lambda n: take(store, charge, f"use {n}", slot="key"))
        taken = sum(isinstance(answer, Charge) for answer in answers)
        assert taken == 1, "take_use: one use of a slot is under way at a time"
        refused = sum(isinstance(answer, KeyTaken) for answer in answers)
        assert refused == 19, "take_use: KeyTaken where a use of the slot is under way"
        assert await take(store, charge, "another", slot="KEY") is not None, "take_use: slots are compared exactly"
        again = await take(store, charge, "again", now=NOW + 60, slot="key")
        assert again is not None, "take_use: a use that has lapsed frees its slot"
        assert await store.get(charge.id) == charge.model_copy(update={"uses_taken": 1}), "take_use: it came back"

    async def test_only_a_settled_pass_is_used(self, store: Store) -> None:
        for charge in every_state(uses=5):
            await store.claim(charge)
            taken = await take(store, charge)
            assert (taken is not None) is (charge.payment is PaymentState.SETTLED), "take_use: of a settled pass only"
            assert await store.get(charge.id) == (taken or charge), "take_use: it returns what is stored"
        unknown = await store.take_use("ch_unknown", "one", now=NOW, lease_until=NOW + 60)
        assert unknown is None, "take_use: None where there is no such charge"

    async def test_save_neither_disturbs_the_uses_nor_is_disturbed_by_them(self, store: Store) -> None:
        charge = settled("tx:1", uses=5, rail_state={"nonce": 2**255, "text": "ä"}, payer="0xpayer")
        await store.claim(charge)
        taken = await take(store, charge, "one")
        assert taken == await store.get(charge.id), "take_use: it returns what is stored"
        assert taken == charge.model_copy(update={"uses_taken": 1}), "take_use: it changes nothing but uses_taken"
        saved = await store.save(charge)
        assert saved == await store.get(charge.id), "save: it returns what is stored"
        assert (saved.uses_taken, saved.version) == (1, 1), "save: uses_taken is left as it is stored"
        await store.return_use(charge.id, "one")
        saved = await store.save(saved)
        assert (saved.uses_taken, saved.version) == (0, 2), "save: uses_taken is left as it is stored"

    async def test_response_of_a_use_is_kept_once(self, store: Store) -> None:
        charge = settled("tx:1", uses=5)
        await store.claim(charge)
        responses = [StoredResponse(200, body=str(number).encode()) for number in range(20)]
        await take(store, charge, "one", slot="slot")
        ended = await together(20, lambda n: store.end_use(charge.id, "one", response=responses[n]))
        assert (ended.count(True), ended.count(False)) == (1, 19), "end_use: a use ends once"
        kept = responses[ended.index(True)]
        assert await store.response(charge.id, "slot") == kept, "end_use: the response is stored in the use's slot"
        with must_raise(KeyTaken, "take_use: a slot whose response is stored is refused"):
            await take(store, charge, "two", slot="slot")
        assert await store.response(charge.id, "slot") == kept, "take_use: the stored response stays"
        await take(store, charge, "three")
        assert await store.end_use(charge.id, "three", response=RESPONSE), "end_use: True for a use without a slot"
        assert await store.response(charge.id, "") is None, "end_use: a use without a slot stores no response"
        unknown = await store.end_use("ch_unknown", "one", response=RESPONSE)
        assert not unknown, "end_use: False where there is no such charge"
        assert await store.response("ch_unknown", "slot") is None, "end_use: nothing is stored for no charge"
        counted = charge.model_copy(update={"uses_taken": 2})
        assert await store.get(charge.id) == counted, "end_use: a use that was served stays counted"

    async def test_two_uses_under_way_have_each_its_own_response(self, store: Store) -> None:
        charge = settled("tx:1", uses=5)
        await store.claim(charge)
        responses = {slot: StoredResponse(200, body=slot.encode()) for slot in ("a", "b", "c")}
        for slot in responses:
            await take(store, charge, f"use of {slot}", slot=slot)
        await take(store, charge, "without")
        assert await store.end_use(charge.id, "without", response=RESPONSE), "end_use: True for what is under way"
        for slot in ("b", "c", "a"):
            await store.end_use(charge.id, f"use of {slot}", response=responses[slot])
        kept = {slot: await store.response(charge.id, slot) for slot in responses}
        assert kept == responses, "end_use: the response is stored in the slot of that use, and in no other"

    async def test_two_passes_do_not_disturb_each_other(self, store: Store) -> None:
        one, other = settled("tx:1", uses=3), settled("tx:2", uses=2)
        for charge in (one, other):
            await store.claim(charge)
        await take(store, one, "same", slot="slot")
        await take(store, one, "short", lease_until=NOW + 5)
        assert await take(store, other, "same", slot="slot") is not None, "take_use: a slot is its own charge's"
        taken = await take(store, other, "second", now=NOW + 5)
        counted = other.model_copy(update={"uses_taken": 2})
        assert taken == counted, "take_use: a use that has lapsed comes back to its own charge"
        for use in ("same", "second"):
            await store.return_use(other.id, use)
        assert await store.get(other.id) == other, "return_use: it gives its own charge's use back"
        await take(store, other, "same", slot="slot")
        assert await store.end_use(other.id, "same", response=RESPONSE), "end_use: True for a use that is under way"
        assert await store.response(one.id, "slot") is None, "end_use: the response is its own charge's"
        under_way = await store.renew_use(one.id, "same", lease_until=NOW + 90)
        assert under_way, "return_use, end_use: another charge's use of that name stays under way"
        await store.return_use(one.id, "same")
        assert await take(store, one, "again", slot="slot") is not None, "take_use: a slot is its own charge's"


class IssuedCases(StoreCases):
    """Unpaid invoices are bounded, and none makes way for another."""

    async def test_issued_row_comes_back(self, store: Store) -> None:
        row = _issued("lnbc:1", offer='{"a":"ä"}')
        assert await store.issue(row, now=NOW, capacity=1), "issue: True where there is room"
        assert await store.issued("lnbc:1") == row, "issued: it returns the row of that key"
        assert await store.issued("LNBC:1") is None, "issued: keys are compared exactly"

    async def test_capacity_holds_under_concurrency(self, store: Store) -> None:
        answers = await together(50, lambda n: store.issue(_issued(f"lnbc:{n}"), now=NOW, capacity=10))
        assert answers.count(True) == 10, "issue: no more rows than the capacity"
        for number, answer in enumerate(answers):
            there = await store.issued(f"lnbc:{number}") is not None
            assert there is answer, "issue: a row is there if it answered True; none makes way for another"

    async def test_expired_rows_do_not_count_and_stay(self, store: Store) -> None:
        assert await store.issue(_issued("lnbc:1", expires_at=NOW), now=NOW - 1, capacity=1), "issue: there is room"
        full = not await store.issue(_issued("lnbc:2"), now=NOW - 1, capacity=1)
        assert full, "issue: False where the capacity is used up"
        assert await store.issue(_issued("lnbc:2"), now=NOW, capacity=1), "issue: a row that has expired takes no room"
        assert await store.issued("lnbc:1") is not None, "issue: a row that has expired stays until it is pruned"

    async def test_row_that_is_there_is_not_replaced(self, store: Store) -> None:
        row = _issued("lnbc:1")
        await store.issue(row, now=NOW, capacity=5)
        assert await store.issue(row, now=NOW, capacity=1), "issue: True where this very row is there"
        other = await store.issue(_issued("lnbc:1", order_digest="cd" * 32), now=NOW, capacity=5)
        assert not other, "issue: False where the key is another row's"
        assert await store.issued("lnbc:1") == row, "issue: the row that is there stays"


class SettingCases(StoreCases):
    """What all workers must agree on."""

    async def test_first_value_is_everybodys(self, store: Store) -> None:
        values = await together(50, lambda n: store.remember("salt", str(n)))
        assert len(set(values)) == 1, "remember: all get one value"
        assert await store.remember("salt", "late") == values[0], "remember: the value that is there stays"
        assert await store.remember("Salt", "ä") == "ä", "remember: each name has its own value"


class PruneCases(StoreCases):
    """What may be forgotten, and what never is."""

    async def test_finished_charge_goes_with_all_that_it_had(self, store: Store) -> None:
        charge = settled("tx:1", "offer:1", created_at=NOW - 10, lease_until=NOW - 5, valid_until=NOW - 1)
        await store.claim(charge)
        await store.save(charge, response=RESPONSE)
        await store.take_use(charge.id, "one", now=NOW, lease_until=NOW + 60)
        assert await store.prune(before=NOW, now=NOW) == 1, "prune: it counts the charge that went"
        assert await store.get(charge.id) is None, "prune: a finished charge goes"
        assert await store.find(charge.keys) is None, "prune: its keys go with it"
        assert (await store.claim(charge.model_copy(update={"version": 0}))).won, "prune: its keys are free again"
        assert await store.response(charge.id) is None, "prune: its responses go with it"
        assert not await store.end_use(charge.id, "one"), "prune: its uses go with it"

    @pytest.mark.parametrize(
        "newer", [{"created_at": NOW}, {"lease_until": NOW}, {"valid_until": NOW}, {"valid_until": NOW + _HOUR}]
    )
    async def test_newer_charge_stays(self, store: Store, newer: Mapping[str, Any]) -> None:
        times = {"created_at": NOW - 10, "lease_until": NOW - 5, "valid_until": NOW - 1}
        charge = settled("tx:1", **times | dict(newer))
        await store.claim(charge)
        assert await store.prune(before=NOW, now=NOW) == 0, "prune: created, valid and leased before the time"
        assert await store.find(["tx:1"]) == charge, "prune: what is newer stays"

    async def test_charge_that_is_written_late_stays(self, store: Store) -> None:
        charge = settled("tx:1", created_at=NOW - 10, lease_until=NOW - 5, valid_until=NOW - 1)
        await store.claim(charge)
        granted = await store.save(charge.model_copy(update={"refund_due_at": NOW, "lease_until": NOW}))
        assert await store.prune(before=NOW, now=NOW) == 0, "prune: a lease that was saved counts"
        assert await store.find(["tx:1"]) == granted, "prune: what is newer stays"
        assert await store.prune(before=NOW + 1, now=NOW) == 1, "prune: it goes when its lease is older"

    async def test_open_charge_stays_forever(self, store: Store) -> None:
        charges = every_state(created_at=0, lease_until=0, valid_until=1)
        for charge in charges:
            await store.claim(charge)
        kept = [charge for charge in charges if is_open(charge)]
        assert await store.prune(before=NOW, now=NOW) == len(charges) - len(kept), "prune: it counts what went"
        assert await store.recent(limit=100) == kept[::-1], "prune: what is under way, unknown or held stays"

    async def test_issued_rows_go_an_hour_after_they_expired(self, store: Store) -> None:
        await store.issue(_issued("lnbc:old", expires_at=NOW - _HOUR), now=NOW - _HOUR - 1, capacity=5)
        await store.issue(_issued("lnbc:new", expires_at=NOW - _HOUR + 1), now=NOW - _HOUR, capacity=5)
        assert await store.prune(before=0, now=NOW) == 1, "prune: it counts the row that went"
        assert await store.issued("lnbc:old") is None, "prune: an issued row goes an hour after it expired"
        assert await store.issued("lnbc:new") is not None, "prune: an issued row stays for an hour"

    async def test_every_old_row_goes_however_many_there_are(self, store: Store) -> None:
        old = [settled(f"tx:{n}", created_at=NOW - 10, lease_until=NOW - 5) for n in range(1100)]
        await asyncio.gather(*(store.claim(charge) for charge in old))
        kept = make_charge("tx:kept", created_at=0, lease_until=0)
        await store.claim(kept)
        assert await store.prune(before=NOW, now=NOW) == 1100, "prune: all that is past goes, however much it is"
        assert await store.recent(limit=5) == [kept], "prune: what is under way stays"


def _issued(key: str, **changes: Any) -> Issued:
    fields = {"key": key, "order_digest": "ab" * 32, "offer": "{}", "expires_at": NOW + 300}
    return Issued(**fields | changes)
