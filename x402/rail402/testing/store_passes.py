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
        assert sorted(one.uses_taken for one in taken) == [1, 2, 3, 4, 5, 6, 7]
        assert answers.count(None) == 193
        stored = await store.get(charge.id)
        assert stored == charge.model_copy(update={"uses_taken": 7})

    async def test_use_given_back_can_be_taken_again(self, store: Store) -> None:
        charge = settled("tx:1", uses=1)
        await store.claim(charge)
        assert await take(store, charge, "one") is not None
        assert await take(store, charge, "two") is None
        await store.return_use(charge.id, "one")
        taken = await take(store, charge, "one")
        assert taken == charge.model_copy(update={"uses_taken": 1})

    async def test_a_use_comes_back_once(self, store: Store) -> None:
        charge = settled("tx:1", uses=5, uses_taken=2)
        await store.claim(charge)
        await take(store, charge, "one")
        await together(20, lambda _: store.return_use(charge.id, "one"))
        assert await store.get(charge.id) == charge
        await store.return_use(charge.id, "unknown")
        await store.return_use("ch_unknown", "one")
        assert await store.get(charge.id) == charge

    async def test_a_use_whose_lease_has_lapsed_comes_back_when_another_is_taken(self, store: Store) -> None:
        charge = settled("tx:1", uses=3)
        await store.claim(charge)
        for number, lease in enumerate((5, 10, 20)):
            await take(store, charge, f"use {number}", lease_until=NOW + lease)
        assert await take(store, charge, "more", now=NOW + 4) is None
        answers = await together(20, lambda n: take(store, charge, f"more {n}", now=NOW + 10))
        assert sum(isinstance(answer, Charge) for answer in answers) == 2
        assert await store.get(charge.id) == charge.model_copy(update={"uses_taken": 3})
        assert not await store.end_use(charge.id, "use 0")
        await store.return_use(charge.id, "use 1")
        assert await store.end_use(charge.id, "use 2")
        assert await store.get(charge.id) == charge.model_copy(update={"uses_taken": 3})

    async def test_a_use_that_is_renewed_stays(self, store: Store) -> None:
        charge = settled("tx:1", uses=1)
        await store.claim(charge)
        await take(store, charge, "one", lease_until=NOW + 5)
        assert await store.renew_use(charge.id, "one", lease_until=NOW + 50)
        assert await take(store, charge, "two", now=NOW + 49) is None
        assert await take(store, charge, "two", now=NOW + 50) is not None
        assert not await store.renew_use(charge.id, "one", lease_until=NOW + 500)
        assert not await store.renew_use("ch_unknown", "one", lease_until=NOW + 500)

    async def test_a_use_that_was_served_never_comes_back(self, store: Store) -> None:
        charge = settled("tx:1", uses=1)
        await store.claim(charge)
        await take(store, charge, "one")
        assert await store.end_use(charge.id, "one")
        assert not await store.end_use(charge.id, "one")
        await store.return_use(charge.id, "one")
        assert await take(store, charge, "two", now=NOW + 10**6) is None

    async def test_one_use_of_a_slot_is_under_way(self, store: Store) -> None:
        charge = settled("tx:1", uses=5)
        await store.claim(charge)
        answers = await together(20, lambda n: take(store, charge, f"use {n}", slot="key"))
        assert sum(isinstance(answer, Charge) for answer in answers) == 1
        assert sum(isinstance(answer, KeyTaken) for answer in answers) == 19
        assert await take(store, charge, "another", slot="other key") is not None
        assert await take(store, charge, "again", now=NOW + 60, slot="key") is not None
        assert await store.get(charge.id) == charge.model_copy(update={"uses_taken": 1})

    async def test_only_a_settled_pass_is_used(self, store: Store) -> None:
        for charge in every_state(uses=5):
            await store.claim(charge)
            taken = await take(store, charge)
            assert (taken is not None) is (charge.payment is PaymentState.SETTLED)
            assert await store.get(charge.id) == (taken or charge)
        assert await store.take_use("ch_unknown", "one", now=NOW, lease_until=NOW + 60) is None

    async def test_save_neither_disturbs_the_uses_nor_is_disturbed_by_them(self, store: Store) -> None:
        charge = settled("tx:1", uses=5, rail_state={"nonce": 2**255, "text": "ä"}, payer="0xpayer")
        await store.claim(charge)
        taken = await take(store, charge, "one")
        assert taken == await store.get(charge.id) == charge.model_copy(update={"uses_taken": 1})
        saved = await store.save(charge)
        assert saved == await store.get(charge.id)
        assert (saved.uses_taken, saved.version) == (1, 1)
        await store.return_use(charge.id, "one")
        saved = await store.save(saved)
        assert (saved.uses_taken, saved.version) == (0, 2)

    async def test_response_of_a_use_is_kept_once(self, store: Store) -> None:
        charge = settled("tx:1", uses=5)
        await store.claim(charge)
        responses = [StoredResponse(200, body=str(number).encode()) for number in range(20)]
        await take(store, charge, "one", slot="slot")
        ended = await together(20, lambda n: store.end_use(charge.id, "one", response=responses[n]))
        assert (ended.count(True), ended.count(False)) == (1, 19)
        kept = responses[ended.index(True)]
        assert await store.response(charge.id, "slot") == kept
        with pytest.raises(KeyTaken):
            await take(store, charge, "two", slot="slot")
        assert await store.response(charge.id, "slot") == kept
        await take(store, charge, "three")
        assert await store.end_use(charge.id, "three", response=RESPONSE)
        assert await store.response(charge.id, "") is None
        assert not await store.end_use("ch_unknown", "one", response=RESPONSE)
        assert await store.response("ch_unknown", "slot") is None
        assert await store.get(charge.id) == charge.model_copy(update={"uses_taken": 2})


class IssuedCases(StoreCases):
    """Unpaid invoices are bounded, and none makes way for another."""

    async def test_issued_row_comes_back(self, store: Store) -> None:
        row = _issued("lnbc:1", offer='{"a":"ä"}')
        assert await store.issue(row, now=NOW, capacity=1)
        assert await store.issued("lnbc:1") == row
        assert await store.issued("lnbc:2") is None

    async def test_capacity_holds_under_concurrency(self, store: Store) -> None:
        answers = await together(50, lambda n: store.issue(_issued(f"lnbc:{n}"), now=NOW, capacity=10))
        assert answers.count(True) == 10
        for number, answer in enumerate(answers):
            assert (await store.issued(f"lnbc:{number}") is not None) is answer

    async def test_expired_rows_do_not_count_and_stay(self, store: Store) -> None:
        assert await store.issue(_issued("lnbc:1", expires_at=NOW), now=NOW - 1, capacity=1)
        assert not await store.issue(_issued("lnbc:2"), now=NOW - 1, capacity=1)
        assert await store.issue(_issued("lnbc:2"), now=NOW, capacity=1)
        assert await store.issued("lnbc:1") is not None

    async def test_row_that_is_there_is_not_replaced(self, store: Store) -> None:
        row = _issued("lnbc:1")
        await store.issue(row, now=NOW, capacity=5)
        assert await store.issue(row, now=NOW, capacity=1)
        assert not await store.issue(_issued("lnbc:1", order_digest="cd" * 32), now=NOW, capacity=5)
        assert await store.issued("lnbc:1") == row


class SettingCases(StoreCases):
    """What all workers must agree on."""

    async def test_first_value_is_everybodys(self, store: Store) -> None:
        values = await together(50, lambda n: store.remember("salt", str(n)))
        assert len(set(values)) == 1
        assert await store.remember("salt", "late") == values[0]
        assert await store.remember("other", "ä") == "ä"


class PruneCases(StoreCases):
    """What may be forgotten, and what never is."""

    async def test_finished_charge_goes_with_all_that_it_had(self, store: Store) -> None:
        charge = settled("tx:1", "offer:1", created_at=NOW - 10, lease_until=NOW - 5, valid_until=NOW - 1)
        await store.claim(charge)
        await store.save(charge, response=RESPONSE)
        await store.take_use(charge.id, "one", now=NOW, lease_until=NOW + 60)
        assert await store.prune(before=NOW, now=NOW) == 1
        assert await store.get(charge.id) is None
        assert await store.find(charge.keys) is None
        assert await store.response(charge.id) is None
        assert (await store.claim(charge.model_copy(update={"version": 0}))).won

    @pytest.mark.parametrize(
        "newer", [{"created_at": NOW}, {"lease_until": NOW}, {"valid_until": NOW}, {"valid_until": NOW + _HOUR}]
    )
    async def test_newer_charge_stays(self, store: Store, newer: Mapping[str, Any]) -> None:
        times = {"created_at": NOW - 10, "lease_until": NOW - 5, "valid_until": NOW - 1}
        charge = settled("tx:1", **times | dict(newer))
        await store.claim(charge)
        assert await store.prune(before=NOW, now=NOW) == 0
        assert await store.find(["tx:1"]) == charge

    async def test_open_charge_stays_forever(self, store: Store) -> None:
        charges = every_state(created_at=0, lease_until=0, valid_until=1)
        for charge in charges:
            await store.claim(charge)
        kept = [charge for charge in charges if is_open(charge)]
        assert await store.prune(before=NOW, now=NOW) == len(charges) - len(kept)
        assert await store.recent(limit=100) == kept[::-1]

    async def test_issued_rows_go_an_hour_after_they_expired(self, store: Store) -> None:
        await store.issue(_issued("lnbc:old", expires_at=NOW - _HOUR), now=NOW - _HOUR - 1, capacity=5)
        await store.issue(_issued("lnbc:new", expires_at=NOW - _HOUR + 1), now=NOW - _HOUR, capacity=5)
        assert await store.prune(before=0, now=NOW) == 1
        assert await store.issued("lnbc:old") is None
        assert await store.issued("lnbc:new") is not None

    async def test_every_old_row_goes_however_many_there_are(self, store: Store) -> None:
        old = [settled(f"tx:{n}", created_at=NOW - 10, lease_until=NOW - 5) for n in range(1100)]
        await asyncio.gather(*(store.claim(charge) for charge in old))
        kept = make_charge("tx:kept", created_at=0, lease_until=0)
        await store.claim(kept)
        assert await store.prune(before=NOW, now=NOW) == 1100
        assert await store.recent(limit=5) == [kept]


def _issued(key: str, **changes: Any) -> Issued:
    fields = {"key": key, "order_digest": "ab" * 32, "offer": "{}", "expires_at": NOW + 300}
    return Issued(**fields | changes)
