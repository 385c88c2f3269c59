"""The connection breaks during a statement: before it arrives, or after it was done and before anybody was told."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from rail402.errors import KeyTaken, StaleCharge, StoreError
from rail402.stores import Issued, TokenBucket
from rail402.stores.base import Claim
from rail402.stores.postgres import PostgresStore
from rail402.stores.postgres_database import ConnectionLost
from rail402.testing.store_support import NOW, RESPONSE, make_charge, settled
from tests.services.lossy import EITHER, LossyRelay, What


@pytest.fixture
async def other(schema: str) -> AsyncIterator[PostgresStore]:
    """Another worker, whose connections nobody breaks."""
    store = PostgresStore(schema)
    await store.start()
    yield store
    await store.close()


@pytest.fixture
async def store(lossy_url: str, relay: LossyRelay, other: PostgresStore) -> AsyncIterator[PostgresStore]:
    # One connection: the pool opens no other one that would be lost in its place.
    store = PostgresStore(lossy_url, connections=1)
    await store.start()
    assert await store.get("ch_1") is None
    yield store
    assert relay.losses == 1
    await store.close()


# --- claim


@EITHER
async def test_claim_is_won_once(store: PostgresStore, other: PostgresStore, relay: LossyRelay, what: What) -> None:
    charge = make_charge("tx:1", "offer:1")
    relay.lose(what)
    assert await store.claim(charge) == Claim(won=True, charge=charge)
    assert await other.claim(make_charge("offer:1")) == Claim(won=False, charge=charge)
    assert await other.recent(limit=10) == [charge]


async def test_claim_is_not_won_where_another_came_first(
    store: PostgresStore, other: PostgresStore, relay: LossyRelay
) -> None:
    theirs = make_charge("tx:1")
    relay.lose("request", meanwhile=lambda: other.claim(theirs))
    assert await store.claim(make_charge("tx:1", "tx:2")) == Claim(won=False, charge=theirs)
    assert await other.find(["tx:2"]) is None


async def test_claim_is_not_won_of_what_another_has_taken_over_since(
    store: PostgresStore, other: PostgresStore, relay: LossyRelay
) -> None:
    charge = make_charge("tx:1")
    taken_over = charge.model_copy(update={"version": 1})
    relay.lose("answer", meanwhile=lambda: other.save(charge))
    assert await store.claim(charge) == Claim(won=False, charge=taken_over)


async def test_second_charge_of_an_id_is_refused_after_a_loss_too(
    store: PostgresStore, other: PostgresStore, relay: LossyRelay
) -> None:
    charge = make_charge("tx:1")
    await other.claim(charge)
    relay.lose("request")
    with pytest.raises(StoreError):
        await store.claim(make_charge("tx:2", id=charge.id))
    assert await other.find(["tx:2"]) is None


# --- save


@EITHER
async def test_save_is_done_once(store: PostgresStore, other: PostgresStore, relay: LossyRelay, what: What) -> None:
    charge = make_charge("tx:1")
    await other.claim(charge)
    relay.lose(what)
    saved = await store.save(charge.model_copy(update={"keys": ("tx:1", "tx:2")}), response=RESPONSE)
    assert saved.version == 1
    assert await other.find(["tx:2"]) == saved
    assert await other.response(charge.id) == RESPONSE


async def test_save_is_stale_where_another_wrote_the_very_same(
    store: PostgresStore, other: PostgresStore, relay: LossyRelay
) -> None:
    # Two workers take a charge over, with the same lease in the same second: one of them has it.
    charge = make_charge("tx:1")
    await other.claim(charge)
    takes_over = charge.model_copy(update={"lease_until": NOW + 60})
    relay.lose("request", meanwhile=lambda: other.save(takes_over))
    with pytest.raises(StaleCharge):
        await store.save(takes_over)


async def test_save_is_stale_where_another_wrote_on_top_of_it(
    store: PostgresStore, other: PostgresStore, relay: LossyRelay
) -> None:
    charge = make_charge("tx:1")
    await other.claim(charge)
    relay.lose("answer", meanwhile=lambda: other.save(charge.model_copy(update={"version": 1})))
    with pytest.raises(StaleCharge):
        await store.save(charge)
    found = await other.get(charge.id)
    assert found is not None
    assert found.version == 2


async def test_taken_key_is_refused_after_a_loss(store: PostgresStore, other: PostgresStore, relay: LossyRelay) -> None:
    charge = make_charge("tx:1")
    await other.claim(charge)
    relay.lose("request", meanwhile=lambda: other.claim(make_charge("tx:2")))
    with pytest.raises(KeyTaken):
        await store.save(charge.model_copy(update={"keys": ("tx:1", "tx:2")}))
    assert await other.get(charge.id) == charge


# --- passes


@EITHER
async def test_use_is_taken_once_at_most_and_nobody_is_told_that_he_has_it(
    store: PostgresStore, other: PostgresStore, relay: LossyRelay, what: What
) -> None:
    charge = settled("tx:1", uses=5)
    await other.claim(charge)
    relay.lose(what)
    with pytest.raises(ConnectionLost):
        await store.take_use(charge.id, "one", now=NOW, lease_until=NOW + 60)
    found = await other.get(charge.id)
    assert found is not None
    assert found.uses_taken <= (what == "answer")
    taken = await store.take_use(charge.id, "two", now=NOW + 60, lease_until=NOW + 99)
    assert taken == charge.model_copy(update={"uses_taken": 1})


@EITHER
async def test_use_comes_back_once(store: PostgresStore, other: PostgresStore, relay: LossyRelay, what: What) -> None:
    charge = settled("tx:1", uses=5, uses_taken=3)
    await other.claim(charge)
    await other.take_use(charge.id, "one", now=NOW, lease_until=NOW + 60)
    relay.lose(what)
    await store.return_use(charge.id, "one")
    assert await other.get(charge.id) == charge


@EITHER
async def test_response_of_a_use_is_kept_once(
    store: PostgresStore, other: PostgresStore, relay: LossyRelay, what: What
) -> None:
    charge = settled("tx:1", uses=5)
    await other.claim(charge)
    await other.take_use(charge.id, "one", now=NOW, lease_until=NOW + 60, slot="slot")
    relay.lose(what)
    assert await store.end_use(charge.id, "one", response=RESPONSE)
    assert await other.response(charge.id, "slot") == RESPONSE
    assert not await store.end_use(charge.id, "one")


# --- the rest


@EITHER
async def test_reading_is_done_again(store: PostgresStore, other: PostgresStore, relay: LossyRelay, what: What) -> None:
    charge = make_charge("tx:1")
    await other.claim(charge)
    relay.lose(what)
    assert await store.find(["tx:1"]) == charge


@EITHER
@pytest.mark.parametrize("after", [0, 1])  # the beginning of the transaction; all the rest of it, sent together
async def test_row_is_issued_once(
    store: PostgresStore, other: PostgresStore, relay: LossyRelay, what: What, after: int
) -> None:
    row = Issued(key="lnbc:1", order_digest="ab" * 32, offer="{}", expires_at=NOW + 300)
    relay.lose(what, after=after)
    assert await store.issue(row, now=NOW, capacity=1)
    assert await other.issued("lnbc:1") == row


@EITHER
async def test_setting_is_remembered(store: PostgresStore, other: PostgresStore, relay: LossyRelay, what: What) -> None:
    relay.lose(what)
    assert await store.remember("salt", "first") == "first"
    assert await other.remember("salt", "second") == "first"


@EITHER
async def test_leader_leads(store: PostgresStore, other: PostgresStore, relay: LossyRelay, what: What) -> None:
    relay.lose(what)
    assert await store.lead("reconciler", "a", now=NOW, seconds=30)
    assert not await other.lead("reconciler", "b", now=NOW, seconds=30)


@EITHER
async def test_token_is_spent_once_at_most(
    store: PostgresStore, other: PostgresStore, relay: LossyRelay, what: What
) -> None:
    limit = TokenBucket(rate=1, burst=5)
    relay.lose(what)
    with pytest.raises(ConnectionLost):
        await store.spend("ip:1", 2, limit, now=NOW)
    assert await other.spend("ip:1", 9, limit, now=NOW) == (3 if what == "answer" else 5)
