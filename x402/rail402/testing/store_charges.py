"""What a store must do with charges: claims, saves, look-ups, waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection
from typing import TypeVar

import pytest

from rail402.errors import KeyTaken, StaleCharge, StoreError
from rail402.protocol.charge import Charge, Delivery, Operation, PaymentState
from rail402.stores.base import Claim, Store, StoredResponse
from rail402.testing.store_support import (
    LOOKALIKES,
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

__all__ = ["ClaimCases", "LookupCases", "SaveCases", "WaitCases"]

T = TypeVar("T")

_SOON = 5  # seconds, which are plenty for what takes no time


class ClaimCases(StoreCases):
    """A payment counts once."""

    async def test_claimed_charge_is_found_by_each_of_its_keys(self, store: Store) -> None:
        charge = make_charge("tx:1", "offer:é", "eip3009:1")
        assert await store.claim(charge) == Claim(won=True, charge=charge), "claim: a claim of free keys is won"
        assert await store.get(charge.id) == charge, "get: it returns the charge of that id"
        for key in charge.keys:
            assert await store.find([key, "tx:unknown"]) == charge, "find: it returns the charge that holds any key"

    async def test_keys_are_compared_exactly(self, store: Store) -> None:
        charges = {key: make_charge(key) for key in LOOKALIKES}
        for key, charge in charges.items():
            assert (await store.claim(charge)).won, f"claim: {key!a} is a key of its own"
        for key, charge in charges.items():
            assert await store.find([key]) == charge, f"find: {key!a} is a key of its own"
        gained = make_charge("tx:gains")
        await store.claim(gained)
        saved = await store.save(gained.model_copy(update={"keys": ("tx:gains", "TX:GAINS")}))
        assert await store.find(["TX:GAINS"]) == saved, "save: a gained key that differs in case is one of its own"

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
        assert await store.get(charge.id) == charge, "claim: every field is stored"

    async def test_of_200_claims_of_one_key_one_is_won(self, store: Store) -> None:
        claims = await together(200, lambda _: store.claim(make_charge("tx:1")))
        won = [claim for claim in claims if isinstance(claim, Claim) and claim.won]
        lost = [claim for claim in claims if isinstance(claim, Claim) and not claim.won]
        assert (len(won), len(lost)) == (1, 199), "claim: of many claims of a key exactly one is won"
        assert {claim.charge.id for claim in lost} == {won[0].charge.id}, "claim: a lost claim returns the holder"
        assert await store.recent(limit=10) == [won[0].charge], "claim: a lost claim inserts nothing"

    async def test_overlapping_key_sets_are_claimed_whole_or_not_at_all(self, store: Store) -> None:
        # A ring: each charge shares a key with its two neighbours.
        charges = [make_charge(f"tx:{n}", f"offer:{n}", f"tx:{(n + 1) % 61}") for n in range(61)]
        claims = await together(61, lambda number: store.claim(charges[number]))
        winners = [claim.charge for claim in claims if isinstance(claim, Claim) and claim.won]
        held = [key for charge in winners for key in charge.keys]
        assert len(held) == len(set(held)), "claim: no two charges hold the same key"
        for charge, claim in zip(charges, claims, strict=True):
            assert isinstance(claim, Claim), "claim: it answers, whoever claims at the same time"
            assert set(claim.charge.keys) & set(charge.keys), "claim: a lost claim returns who holds one of its keys"
        stored = {charge.id for charge in await store.recent(limit=100)}
        assert stored == {charge.id for charge in winners}, "claim: a lost claim inserts nothing"

    async def test_lost_claim_leaves_nothing_behind(self, store: Store) -> None:
        await store.claim(make_charge("tx:1"))
        loser = make_charge("tx:1", "tx:2")
        assert not (await store.claim(loser)).won, "claim: one of its keys is another's, so it is lost"
        assert await store.get(loser.id) is None, "claim: a lost claim inserts no charge"
        assert (await store.claim(make_charge("tx:2"))).won, "claim: a lost claim holds no key"

    async def test_keys_of_two_charges_find_the_older(self, store: Store) -> None:
        newer, older = make_charge("tx:2"), make_charge("tx:1", created_at=NOW - 1)
        await store.claim(newer)
        await store.claim(older)
        assert await store.find(["tx:2", "tx:1"]) == older, "find: of two charges it returns the older"
        claim = await store.claim(make_charge("tx:1", "tx:2"))
        assert claim == Claim(won=False, charge=older), "claim: of two holders it returns the older"

    async def test_second_charge_of_an_id_is_refused(self, store: Store) -> None:
        charge = make_charge("tx:1")
        await store.claim(charge)
        with must_raise(StoreError, "claim: an id that is there is refused"):
            await store.claim(make_charge("tx:2", id=charge.id))
        assert await store.find(["tx:2"]) is None, "claim: one that is refused holds no key"
        assert await store.get(charge.id) == charge, "claim: one that is refused changes nothing"

    async def test_cancelled_claim_is_made_whole_or_not_at_all(self, store: Store) -> None:
        charges = [make_charge(f"tx:{n}", f"offer:{n}") for n in range(20)]
        tasks = [asyncio.ensure_future(store.claim(charge)) for charge in charges]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        last = make_charge("tx:last")
        assert (await store.claim(last)).won, "claim: the store goes on after claims were cancelled"
        for charge in charges:
            there = await store.get(charge.id)
            found = [await store.find([key]) for key in charge.keys]
            assert found == [there, there], "claim: one that is cancelled is made whole or not at all"


class SaveCases(StoreCases):
    """A write names the version that it read."""

    async def test_save_counts_the_version_and_is_read_at_once(self, store: Store) -> None:
        charge = make_charge("tx:1")
        await store.claim(charge)
        saved = await store.save(charge.model_copy(update={"payer": "0xpayer"}))
        expected = charge.model_copy(update={"payer": "0xpayer", "version": 1})
        assert saved == expected, "save: it returns the charge with the next version"
        assert await store.get(charge.id) == saved, "save: get returns what was saved"
        assert await store.find(charge.keys) == saved, "save: find returns what was saved"
        assert (await store.save(saved)).version == 2, "save: each save counts the version"

    async def test_stale_save_changes_nothing(self, store: Store) -> None:
        charge = make_charge("tx:1")
        await store.claim(charge)
        current = await store.save(charge)
        late = charge.model_copy(update={"payer": "late", "keys": ("tx:1", "tx:2")})
        with must_raise(StaleCharge, "save: a version that is not the stored one is refused"):
            await store.save(late, response=RESPONSE)
        assert await store.get(charge.id) == current, "save: a stale one changes nothing"
        assert await store.find(["tx:2"]) is None, "save: a stale one claims no key"
        assert await store.response(charge.id) is None, "save: a stale one stores no response"

    async def test_of_50_saves_of_one_version_one_succeeds(self, store: Store) -> None:
        charge = make_charge("tx:1")
        await store.claim(charge)
        saves = await together(50, lambda n: store.save(charge.model_copy(update={"payer": f"0x{n}"})))
        saved = [one for one in saves if isinstance(one, Charge)]
        assert len(saved) == 1, "save: of many saves of one version exactly one succeeds"
        assert sum(isinstance(one, StaleCharge) for one in saves) == 49, "save: the others are stale"
        assert await store.get(charge.id) == saved[0], "save: the others change nothing"

    async def test_save_of_an_unknown_charge_is_stale(self, store: Store) -> None:
        with must_raise(StaleCharge, "save: a charge that is not there is refused"):
            await store.save(make_charge("tx:1"), response=RESPONSE)
        assert await store.find(["tx:1"]) is None, "save: a charge that is not there is not inserted"

    async def test_gained_key_is_claimed(self, store: Store) -> None:
        charge = make_charge("eip3009:1")
        await store.claim(charge)
        saved = await store.save(charge.model_copy(update={"keys": ("eip3009:1", "tx:1")}))
        claim = await store.claim(make_charge("tx:1"))
        assert claim == Claim(won=False, charge=saved), "save: a gained key is claimed"

    async def test_save_that_gains_a_taken_key_changes_nothing(self, store: Store) -> None:
        charge, other = make_charge("eip3009:1"), make_charge("tx:1")
        await store.claim(charge)
        await store.claim(other)
        gained = charge.model_copy(update={"keys": ("eip3009:1", "tx:0", "tx:1", "tx:2"), "payer": "0xpayer"})
        with must_raise(KeyTaken, "save: a gained key that is another's is refused"):
            await store.save(gained, response=RESPONSE)
        assert await store.get(charge.id) == charge, "save: one that is refused changes nothing"
        assert await store.find(["tx:1"]) == other, "save: a key stays whose it is"
        assert await store.find(["tx:0", "tx:2"]) is None, "save: one that is refused claims no other key"
        assert await store.response(charge.id) is None, "save: one that is refused stores no response"

    async def test_of_50_charges_that_gain_one_key_one_succeeds(self, store: Store) -> None:
        charges = [make_charge(f"eip3009:{n}") for n in range(50)]
        await together(50, lambda n: store.claim(charges[n]))
        gained = [charge.model_copy(update={"keys": (*charge.keys, "tx:1")}) for charge in charges]
        saves = await together(50, lambda n: store.save(gained[n]))
        winners = [one for one in saves if isinstance(one, Charge)]
        assert len(winners) == 1, "save: of many charges that gain a key exactly one gets it"
        assert sum(isinstance(one, KeyTaken) for one in saves) == 49, "save: the others are refused"
        assert await store.find(["tx:1"]) == winners[0], "save: the others do not get the key"

    async def test_response_comes_back_byte_for_byte(self, store: Store) -> None:
        charge = make_charge("tx:1")
        await store.claim(charge)
        large = StoredResponse(206, (), bytes(range(256)) * 8192)
        saved = await store.save(charge, response=RESPONSE)
        await store.save(saved, response=large, slot="other")
        assert await store.response(charge.id) == RESPONSE, "save: a response comes back byte for byte"
        assert await store.response(charge.id, "other") == large, "save: a large response comes back, in its slot"
        assert await store.response(charge.id, "OTHER") is None, "response: a slot is compared exactly"
        assert await store.response("ch_unknown") is None, "response: a charge that is not there has none"

    async def test_later_response_takes_the_place_of_the_first(self, store: Store) -> None:
        charge = make_charge("tx:1")
        await store.claim(charge)
        saved = await store.save(charge, response=RESPONSE)
        await store.save(saved, response=StoredResponse(201))
        assert await store.response(charge.id) == StoredResponse(201), "save: a later response replaces the first"


class LookupCases(StoreCases):
    """What is there, what is not, and what needs somebody's hand."""

    async def test_unknown_things_are_none(self, store: Store) -> None:
        await store.claim(make_charge("tx:1"))
        assert await store.get("ch_unknown") is None, "get: None where there is no such charge"
        assert await store.find(["tx:2"]) is None, "find: None where nobody holds the key"
        assert await store.find([]) is None, "find: nobody holds one of no keys"

    async def test_unresolved_are_the_open_ones(self, store: Store) -> None:
        charges = every_state(lease_until=NOW)
        for charge in charges:
            await store.claim(charge)
        kept = [charge for charge in charges if is_open(charge)]
        assert await store.unresolved(now=NOW, limit=100) == kept, "unresolved: those on which somebody has to act"
        assert await store.unresolved(now=NOW - 1, limit=100) == [], "unresolved: none whose lease has not lapsed"

    async def test_unresolved_are_the_lapsed_ones_oldest_lease_first(self, store: Store) -> None:
        leases = {"tx:0": NOW + 1, "tx:1": NOW, "tx:2": NOW - 20, "tx:3": NOW - 10}
        charges = {key: make_charge(key, lease_until=lease) for key, lease in leases.items()}
        for charge in charges.values():
            await store.claim(charge)
        await store.claim(settled("tx:4", lease_until=NOW - 30))
        oldest = [charges["tx:2"], charges["tx:3"], charges["tx:1"]]
        assert await store.unresolved(now=NOW, limit=10) == oldest, "unresolved: the lapsed ones, oldest lease first"
        assert await store.unresolved(now=NOW, limit=2) == oldest[:2], "unresolved: no more than the limit"

    async def test_unresolved_are_those_of_one_gate(self, store: Store) -> None:
        def open_at(key: str, rail: str, url: str) -> Charge:
            sample = make_charge(key, lease_until=NOW)
            order, offer = sample.order.model_copy(update={"url": url}), sample.offer.model_copy(update={"rail": rail})
            # No name in what the rail remembers counts, and no text is too odd to be stored.
            state = {"offer": {"rail": "c"}, "order": {"url": "https://c.test/"}, "text": 'a\0b\\u0000\\"\n'}
            return sample.model_copy(update={"order": order, "offer": offer, "rail_state": state})

        places = {
            "tx:0": ("a", "https://a.test/1"),
            "tx:1": ("b", "https://a.test/tool/\0%22é"),
            "tx:2": ("a", "https://a.test:8443/1"),
            "tx:3": ("a", "https://a.test.example/1"),
            "tx:4": ("b", "https://b.test/?https://a.test/"),
        }
        charges = [open_at(key, rail, url) for key, (rail, url) in places.items()]
        for charge in charges:
            await store.claim(charge)

        async def found(rails: Collection[str] | None, origin: str | None, limit: int = 10) -> list[int]:
            there = await store.unresolved(now=NOW, limit=limit, rails=rails, origin=origin)
            return [charges.index(charge) for charge in there]

        assert await found(None, None) == [0, 1, 2, 3, 4], "unresolved: None is any"
        assert await found(["b"], None) == await found({"b", "d"}, None) == [1, 4], "unresolved: only on these rails"
        assert await found(None, "https://a.test") == [0, 1], "unresolved: only below the origin"
        assert await found(["a"], "https://a.test:8443") == [2], "unresolved: by rail and origin"
        room = await found(["b"], "https://b.test", limit=1)
        assert room == [4], "unresolved: what is another gate's takes no room"
        nobodys = [await found(["c"], None), await found([], None), await found(None, "https://c.test")]
        assert nobodys == [[], [], []], "unresolved: nothing where nothing fits"

    async def test_save_moves_a_charge_in_and_out_of_the_unresolved(self, store: Store) -> None:
        charge = make_charge("tx:1", lease_until=NOW)
        await store.claim(charge)
        renewed = await store.save(charge.model_copy(update={"lease_until": NOW + 60}))
        assert await store.unresolved(now=NOW, limit=10) == [], "unresolved: a lease that was renewed has not lapsed"
        assert await store.unresolved(now=NOW + 60, limit=10) == [renewed], "unresolved: the renewed lease has lapsed"
        await store.save(renewed.model_copy(update={"payment": PaymentState.RELEASED}))
        assert await store.unresolved(now=NOW + 60, limit=10) == [], "unresolved: nobody has to act any more"

    async def test_recent_goes_back_page_by_page(self, store: Store) -> None:
        charges = [make_charge(f"tx:{n}", created_at=NOW + n // 2) for n in range(6)]  # pairs in the same second
        charges.insert(0, make_charge("tx:older", created_at=NOW - 1))  # though it comes last
        for charge in charges:
            await store.claim(charge)
        newest_first = charges[::-1]
        assert await store.recent(limit=3) == newest_first[:3], "recent: newest first, no more than the limit"
        pages = [await store.recent(limit=3, before=newest_first[last].id) for last in (2, 5)]
        assert pages == [newest_first[3:6], newest_first[6:]], "recent: each page goes on where the last one ended"
        assert await store.recent(limit=3, before="ch_unknown") == [], "recent: nothing is before what is not there"


class WaitCases(StoreCases):
    """Waiting ends with the change."""

    async def test_wait_returns_at_once_where_the_version_differs(self, store: Store) -> None:
        charge = make_charge("tx:1")
        await store.claim(charge)
        saved = await store.save(charge)
        found = await _soon(store.wait(charge, timeout=60))
        assert found == saved, "wait: it returns the stored charge where the version differs"
        found = await _soon(store.wait(make_charge("tx:2"), timeout=60))
        assert found is None, "wait: it returns None where there is no such charge"

    async def test_wait_wakes_on_a_save(self, store: Store) -> None:
        charge, other = make_charge("tx:1"), make_charge("tx:2")
        await store.claim(charge)
        await store.claim(other)
        waiting = [asyncio.ensure_future(store.wait(charge, timeout=60)) for _ in range(20)]
        await asyncio.sleep(0)  # a store that answers without waiting must let them look first
        await store.save(other)
        saved = await store.save(charge)
        found = await _soon(asyncio.gather(*waiting))
        assert found == [saved] * 20, "wait: a save of this charge ends it, and of no other"

    async def test_wait_ends_with_its_time(self, store: Store) -> None:
        charge = make_charge("tx:1")
        await store.claim(charge)
        for seconds in (0.01, 0):
            found = await _soon(store.wait(charge, timeout=seconds))
            assert found == charge, "wait: when its time is over it returns the charge as it is"


async def _soon(waiting: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(_SOON):
            return await waiting
    except TimeoutError:
        pytest.fail("wait: it returns as soon as the version differs, or its time is over")
