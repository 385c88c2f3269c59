"""What a store must do with charges: claims, saves, look-ups, waiting."""

from __future__ import annotations

import asyncio

import pytest

from rail402.errors import KeyTaken, StaleCharge, StoreError
from rail402.protocol.charge import Charge, Delivery, Operation, PaymentState
from rail402.stores.base import Claim, Store, StoredResponse
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

__all__ = ["ClaimCases", "LookupCases", "SaveCases", "WaitCases"]


class ClaimCases(StoreCases):
    """A payment counts once."""

    async def test_claimed_charge_is_found_by_each_of_its_keys(self, store: Store) -> None:
        charge = make_charge("tx:1", "offer:é", "eip3009:1")
        assert await store.claim(charge) == Claim(won=True, charge=charge)
        assert await store.get(charge.id) == charge
        for key in charge.keys:
            assert await store.find([key, "tx:unknown"]) == charge

    async def test_every_field_comes_back(self, store: Store) -> None:
        charge = make_charge(
            "tx:1",
            version=3,
            payment=PaymentState.UNKNOWN,
            delivery=Delivery.FAILED,
            operation=Operation.SETTLE,
            attempt=2,
            tries=4,
            reruns=1,
            settled_at=NOW + 1,
            payer="0xpayer",
            rail_state={"nonce": 2**255, "list": [1, "ä", None], "flag": True},
            transaction="0xabc",
            secret_digest="ab" * 32,
            context=("digest",),
            uses=5,
            uses_taken=2,
            valid_until=NOW + 600,
            code="payment_declined",
            receipt="ey..",
            sandbox=True,
        )
        await store.claim(charge)
        assert await store.get(charge.id) == charge

    async def test_of_200_claims_of_one_key_one_is_won(self, store: Store) -> None:
        claims = await together(200, lambda _: store.claim(make_charge("tx:1")))
        won = [claim for claim in claims if isinstance(claim, Claim) and claim.won]
        lost = [claim for claim in claims if isinstance(claim, Claim) and not claim.won]
        assert (len(won), len(lost)) == (1, 199)
        assert {claim.charge.id for claim in lost} == {won[0].charge.id}
        assert await store.recent(limit=10) == [won[0].charge]

    async def test_overlapping_key_sets_are_claimed_whole_or_not_at_all(self, store: Store) -> None:
        # A ring: each charge shares a key with its two neighbours.
        charges = [make_charge(f"tx:{n}", f"offer:{n}", f"tx:{(n + 1) % 60}") for n in range(60)]
        claims = await together(60, lambda number: store.claim(charges[number]))
        winners = [claim.charge for claim in claims if isinstance(claim, Claim) and claim.won]
        held = [key for charge in winners for key in charge.keys]
        assert len(held) == len(set(held))
        for charge, claim in zip(charges, claims, strict=True):
            assert isinstance(claim, Claim)
            assert set(claim.charge.keys) & set(charge.keys)
        assert {charge.id for charge in await store.recent(limit=100)} == {charge.id for charge in winners}

    async def test_lost_claim_leaves_nothing_behind(self, store: Store) -> None:
        await store.claim(make_charge("tx:1"))
        loser = make_charge("tx:1", "tx:2")
        assert not (await store.claim(loser)).won
        assert await store.get(loser.id) is None
        assert (await store.claim(make_charge("tx:2"))).won

    async def test_keys_of_two_charges_find_the_older(self, store: Store) -> None:
        newer, older = make_charge("tx:2"), make_charge("tx:1", created_at=NOW - 1)
        await store.claim(newer)
        await store.claim(older)
        assert await store.find(["tx:2", "tx:1"]) == older
        assert await store.claim(make_charge("tx:1", "tx:2")) == Claim(won=False, charge=older)

    async def test_second_charge_of_an_id_is_refused(self, store: Store) -> None:
        charge = make_charge("tx:1")
        await store.claim(charge)
        with pytest.raises(StoreError):
            await store.claim(make_charge("tx:2", id=charge.id))
        assert await store.find(["tx:2"]) is None
        assert await store.get(charge.id) == charge

    async def test_cancelled_claim_is_made_whole_or_not_at_all(self, store: Store) -> None:
        charges = [make_charge(f"tx:{n}", f"offer:{n}") for n in range(20)]
        tasks = [asyncio.ensure_future(store.claim(charge)) for charge in charges]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        last = make_charge("tx:last")
        assert (await store.claim(last)).won
        for charge in charges:
            there = await store.get(charge.id)
            assert [await store.find([key]) for key in charge.keys] == [there, there]


class SaveCases(StoreCases):
    """A write names the version that it read."""

    async def test_save_counts_the_version_and_is_read_at_once(self, store: Store) -> None:
        charge = make_charge("tx:1")
        await store.claim(charge)
        saved = await store.save(charge.model_copy(update={"payer": "0xpayer"}))
        assert saved == charge.model_copy(update={"payer": "0xpayer", "version": 1})
        assert await store.get(charge.id) == await store.find(charge.keys) == saved
        assert (await store.save(saved)).version == 2

    async def test_stale_save_changes_nothing(self, store: Store) -> None:
        charge = make_charge("tx:1")
        await store.claim(charge)
        current = await store.save(charge)
        late = charge.model_copy(update={"payer": "late", "keys": ("tx:1", "tx:2")})
        with pytest.raises(StaleCharge):
            await store.save(late, response=RESPONSE)
        assert await store.get(charge.id) == current
        assert await store.find(["tx:2"]) is None
        assert await store.response(charge.id) is None

    async def test_of_50_saves_of_one_version_one_succeeds(self, store: Store) -> None:
        charge = make_charge("tx:1")
        await store.claim(charge)
        saves = await together(50, lambda n: store.save(charge.model_copy(update={"payer": f"0x{n}"})))
        saved = [one for one in saves if isinstance(one, Charge)]
        assert len(saved) == 1
        assert sum(isinstance(one, StaleCharge) for one in saves) == 49
        assert await store.get(charge.id) == saved[0]

    async def test_save_of_an_unknown_charge_is_stale(self, store: Store) -> None:
        with pytest.raises(StaleCharge):
            await store.save(make_charge("tx:1"), response=RESPONSE)
        assert await store.find(["tx:1"]) is None

    async def test_gained_key_is_claimed(self, store: Store) -> None:
        charge = make_charge("eip3009:1")
        await store.claim(charge)
        saved = await store.save(charge.model_copy(update={"keys": ("eip3009:1", "tx:1")}))
        assert await store.claim(make_charge("tx:1")) == Claim(won=False, charge=saved)

    async def test_save_that_gains_a_taken_key_changes_nothing(self, store: Store) -> None:
        charge, other = make_charge("eip3009:1"), make_charge("tx:1")
        await store.claim(charge)
        await store.claim(other)
        gained = charge.model_copy(update={"keys": ("eip3009:1", "tx:0", "tx:1", "tx:2"), "payer": "0xpayer"})
        with pytest.raises(KeyTaken):
            await store.save(gained, response=RESPONSE)
        assert await store.get(charge.id) == charge
        assert await store.find(["tx:1"]) == other
        assert await store.find(["tx:0", "tx:2"]) is None
        assert await store.response(charge.id) is None

    async def test_of_50_charges_that_gain_one_key_one_succeeds(self, store: Store) -> None:
        charges = [make_charge(f"eip3009:{n}") for n in range(50)]
        await together(50, lambda n: store.claim(charges[n]))
        gained = [charge.model_copy(update={"keys": (*charge.keys, "tx:1")}) for charge in charges]
        saves = await together(50, lambda n: store.save(gained[n]))
        winners = [one for one in saves if isinstance(one, Charge)]
        assert len(winners) == 1
        assert sum(isinstance(one, KeyTaken) for one in saves) == 49
        assert await store.find(["tx:1"]) == winners[0]

    async def test_response_comes_back_byte_for_byte(self, store: Store) -> None:
        charge = make_charge("tx:1")
        await store.claim(charge)
        large = StoredResponse(206, (), bytes(range(256)) * 4096)
        saved = await store.save(charge, response=RESPONSE)
        await store.save(saved, response=large, slot="other")
        assert await store.response(charge.id) == RESPONSE
        assert await store.response(charge.id, "other") == large
        assert await store.response(charge.id, "third") is None
        assert await store.response("ch_unknown") is None

    async def test_later_response_takes_the_place_of_the_first(self, store: Store) -> None:
        charge = make_charge("tx:1")
        await store.claim(charge)
        saved = await store.save(charge, response=RESPONSE)
        await store.save(saved, response=StoredResponse(201))
        assert await store.response(charge.id) == StoredResponse(201)


class LookupCases(StoreCases):
    """What is there, what is not, and what needs somebody's hand."""

    async def test_unknown_things_are_none(self, store: Store) -> None:
        await store.claim(make_charge("tx:1"))
        assert await store.get("ch_unknown") is None
        assert await store.find(["tx:2"]) is None
        assert await store.find([]) is None

    async def test_unresolved_are_the_open_ones(self, store: Store) -> None:
        charges = every_state(lease_until=NOW)
        for charge in charges:
            await store.claim(charge)
        assert await store.unresolved(now=NOW, limit=100) == [charge for charge in charges if is_open(charge)]
        assert await store.unresolved(now=NOW - 1, limit=100) == []

    async def test_unresolved_are_the_lapsed_ones_oldest_lease_first(self, store: Store) -> None:
        leases = {"tx:0": NOW + 1, "tx:1": NOW, "tx:2": NOW - 20, "tx:3": NOW - 10}
        charges = {key: make_charge(key, lease_until=lease) for key, lease in leases.items()}
        for charge in charges.values():
            await store.claim(charge)
        await store.claim(settled("tx:4", lease_until=NOW - 30))
        oldest = [charges["tx:2"], charges["tx:3"], charges["tx:1"]]
        assert await store.unresolved(now=NOW, limit=10) == oldest
        assert await store.unresolved(now=NOW, limit=2) == oldest[:2]

    async def test_save_moves_a_charge_in_and_out_of_the_unresolved(self, store: Store) -> None:
        charge = make_charge("tx:1", lease_until=NOW)
        await store.claim(charge)
        renewed = await store.save(charge.model_copy(update={"lease_until": NOW + 60}))
        assert await store.unresolved(now=NOW, limit=10) == []
        assert await store.unresolved(now=NOW + 60, limit=10) == [renewed]
        await store.save(renewed.model_copy(update={"payment": PaymentState.RELEASED}))
        assert await store.unresolved(now=NOW + 60, limit=10) == []

    async def test_recent_goes_back_page_by_page(self, store: Store) -> None:
        charges = [make_charge(f"tx:{n}", created_at=NOW + n // 2) for n in range(7)]  # pairs in the same second
        for charge in charges:
            await store.claim(charge)
        newest_first = charges[::-1]
        assert await store.recent(limit=3) == newest_first[:3]
        assert await store.recent(limit=3, before=newest_first[2].id) == newest_first[3:6]
        assert await store.recent(limit=3, before=newest_first[5].id) == newest_first[6:]
        assert await store.recent(limit=3, before="ch_unknown") == []


class WaitCases(StoreCases):
    """Waiting ends with the change."""

    async def test_wait_returns_at_once_where_the_version_differs(self, store: Store) -> None:
        charge = make_charge("tx:1")
        await store.claim(charge)
        saved = await store.save(charge)
        assert await store.wait(charge, timeout=60) == saved
        assert await store.wait(make_charge("tx:2"), timeout=60) is None

    async def test_wait_wakes_on_a_save(self, store: Store) -> None:
        charge, other = make_charge("tx:1"), make_charge("tx:2")
        await store.claim(charge)
        await store.claim(other)
        waiting = [asyncio.ensure_future(store.wait(charge, timeout=60)) for _ in range(20)]
        await asyncio.sleep(0)  # a store that answers without waiting must let them look first
        await store.save(other)
        saved = await store.save(charge)
        async with asyncio.timeout(10):
            assert await asyncio.gather(*waiting) == [saved] * 20

    async def test_wait_ends_with_its_time(self, store: Store) -> None:
        charge = make_charge("tx:1")
        await store.claim(charge)
        assert await store.wait(charge, timeout=0.01) == charge
        assert await store.wait(charge, timeout=0) == charge
