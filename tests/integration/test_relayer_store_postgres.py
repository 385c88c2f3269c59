"""The connection breaks at each step of an allocation: the nonce is handed out once, and nothing appears later."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from rail402.errors import StoreError
from rail402.stores.postgres import PostgresStore
from rail402.testing.stores import make_charge
from rail402_base.rpc.relayer_store import Account, Purpose
from rail402_base.rpc.relayer_store_postgres import PostgresRelayerStore
from rail402_base.rpc.transactions import SignedTransaction
from tests.services.lossy import EITHER, LossyRelay, What
from tests.services.postgres import PASSWORD
from tests.services.processes import free_ports

NOW = 1_800_000_000
ACCOUNT = Account(84532, "0xrelayer")
PURPOSE = Purpose(token="0xtoken", authorizer="0xpayer", nonce=bytes(32), valid_before=NOW + 600)
OTHER_PURPOSE = Purpose(token="0xtoken", authorizer="0xpayer", nonce=bytes([1]) * 32, valid_before=NOW + 600)


class Signer:
    """Signs, and counts how often: each signature is another one."""

    def __init__(self, salt: int = 0) -> None:
        self.count = salt

    def __call__(self, nonce: int) -> SignedTransaction:
        self.count += 1
        return SignedTransaction(nonce, f"0x{nonce:032x}{self.count:032x}", b"raw")


@pytest.fixture
async def other(schema: str) -> AsyncIterator[PostgresRelayerStore]:
    """Another worker, whose connections nobody breaks."""
    store = PostgresRelayerStore(schema)
    await store.start()
    yield store
    await store.close()


@pytest.fixture
async def store(lossy_url: str, relay: LossyRelay, other: PostgresRelayerStore) -> AsyncIterator[PostgresRelayerStore]:
    # One connection: the pool opens no other one that would be lost in its place.
    store = PostgresRelayerStore(lossy_url, connections=1, timeout=5)
    await store.start()
    await store.allocate(ACCOUNT, OTHER_PURPOSE, Signer(100), floor=0, now=NOW)  # so that the account is there
    yield store
    assert relay.losses == 1
    await store.close()


# BEGIN, the lock, the authorization, the nonce, the insertion, COMMIT.
@pytest.mark.parametrize("after", range(6))
@EITHER
async def test_nonce_is_handed_out_once(
    store: PostgresRelayerStore, other: PostgresRelayerStore, relay: LossyRelay, after: int, what: What
) -> None:
    relay.lose(what, after=after)
    stored, is_new = await store.allocate(ACCOUNT, PURPOSE, Signer(), floor=0, now=NOW)
    assert (stored.nonce, is_new) == (1, True)
    assert (await other.live(ACCOUNT))[1:] == [stored]
    assert await other.of(ACCOUNT, PURPOSE) == [stored]


@pytest.mark.parametrize("after", range(5))
@EITHER
async def test_gap_is_filled_once(
    store: PostgresRelayerStore, other: PostgresRelayerStore, relay: LossyRelay, after: int, what: What
) -> None:
    relay.lose(what, after=after)
    filler, is_new = await store.allocate(ACCOUNT, None, Signer(), floor=0, now=NOW)
    assert (filler.nonce, is_new) == (1, True)
    assert (await other.live(ACCOUNT))[1:] == [filler]


async def test_another_worker_that_was_faster_has_it(
    store: PostgresRelayerStore, other: PostgresRelayerStore, relay: LossyRelay
) -> None:
    async def meanwhile() -> None:
        await other.allocate(ACCOUNT, PURPOSE, Signer(50), floor=0, now=NOW)

    relay.lose("request", after=0, meanwhile=meanwhile)
    stored, is_new = await store.allocate(ACCOUNT, PURPOSE, Signer(), floor=0, now=NOW)
    assert not is_new
    assert (await other.live(ACCOUNT))[1:] == [stored]


@pytest.mark.parametrize("after", range(4))
@EITHER
async def test_replacement_is_stored_once(
    store: PostgresRelayerStore, other: PostgresRelayerStore, relay: LossyRelay, after: int, what: What
) -> None:
    (first,) = await other.live(ACCOUNT)
    relay.lose(what, after=after)
    second = await store.replace(ACCOUNT, first, OTHER_PURPOSE, Signer(7)(first.nonce), now=NOW)
    assert second is not None
    assert await other.live(ACCOUNT) == [second]


@EITHER
async def test_refusal_is_noted_once(
    store: PostgresRelayerStore, other: PostgresRelayerStore, relay: LossyRelay, what: What
) -> None:
    (first,) = await other.live(ACCOUNT)
    relay.lose(what)
    assert await store.refuse(first)
    assert await other.live(ACCOUNT) == []


async def test_refusal_that_came_too_late_is_none(
    store: PostgresRelayerStore, other: PostgresRelayerStore, relay: LossyRelay
) -> None:
    (first,) = await other.live(ACCOUNT)
    relay.lose("request", meanwhile=lambda: other.share(first))
    assert not await store.refuse(first)
    assert await other.live(ACCOUNT) == [first]


async def test_charges_and_transactions_share_a_schema(schema: str, other: PostgresRelayerStore) -> None:
    store = PostgresStore(schema)
    await store.start()
    assert (await store.claim(make_charge("tx:1"))).won
    await store.close()
    assert await other.live(ACCOUNT) == []


async def test_password_is_not_told() -> None:
    (port,) = free_ports(1)
    store = PostgresRelayerStore(f"postgresql://u:{PASSWORD}@127.0.0.1:{port}/relayer", timeout=1)
    with pytest.raises(StoreError) as caught:
        await store.start()
    assert PASSWORD not in str(caught.value) + repr(store)
