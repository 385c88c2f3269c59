"""Both stores of a relayer's transactions: nonces are handed out once, and nothing that is stored is lost."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest

from rail402.errors import ConfigurationError
from rail402_base.rpc.relayer_store import Account, Purpose, RelayerStore, Stored, open_relayer_store
from rail402_base.rpc.transactions import SignedTransaction
from tests.services.processes import run_together

NOW = 1_800_000_000
RELAYER, PAYER, TOKEN = "0x" + "Aa" * 20, "0x" + "Bb" * 20, "0x" + "Cc" * 20
ACCOUNT = Account(84532, RELAYER)


def purpose(number: int = 1) -> Purpose:
    return Purpose(token=TOKEN, authorizer=PAYER, nonce=bytes([number]) * 32, valid_before=NOW + 600)


def sign(nonce: int, salt: int = 0) -> SignedTransaction:
    return SignedTransaction(nonce, f"0x{nonce:032x}{salt:032x}", b"raw" + bytes([nonce, salt]))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RelayerStore]:
    store = open_relayer_store(url)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(url: str) -> AsyncIterator[RelayerStore]:
    async with opened(url) as store:
        yield store


async def allocate(store: RelayerStore, number: int = 1, floor: int = 0, salt: int = 0) -> Stored:
    stored, is_new = await store.allocate(
        ACCOUNT, purpose(number), lambda nonce: sign(nonce, salt), floor=floor, now=NOW
    )
    assert is_new
    return stored


async def test_nonces_are_handed_out_in_order_from_the_chains_count(store: RelayerStore) -> None:
    assert [(await allocate(store, number, floor=7)).nonce for number in (1, 2, 3)] == [7, 8, 9]


async def test_each_of_many_at_once_gets_a_nonce_of_its_own(url: str, store: RelayerStore) -> None:
    async with opened(url) as other:  # as a second worker has it open
        stored = await asyncio.gather(*(allocate((store, other)[n % 2], n, salt=n) for n in range(60)))
    assert sorted(each.nonce for each in stored) == list(range(60))


async def test_each_of_many_with_one_authorization_gets_the_same(url: str, store: RelayerStore) -> None:
    async with opened(url) as other:
        answers = await asyncio.gather(
            *(
                (store, other)[n % 2].allocate(ACCOUNT, purpose(), partial(sign, salt=n), floor=0, now=NOW)
                for n in range(40)
            )
        )
    assert [is_new for _, is_new in answers].count(True) == 1
    assert len({stored.hash for stored, _ in answers}) == 1
    (live,) = await store.live(ACCOUNT)
    assert not await store.refuse(live)


async def test_what_was_stored_is_there_after_a_crash(url: str, store: RelayerStore) -> None:
    first = await allocate(store)
    # Without closing the first: as another process finds it, whatever became of this one.
    async with opened(url) as other:
        assert await other.live(ACCOUNT) == [first]
        assert await other.of(ACCOUNT, purpose()) == [first]


async def test_an_authorization_is_handed_in_once(store: RelayerStore) -> None:
    first = await allocate(store)
    again, is_new = await store.allocate(ACCOUNT, purpose(), sign, floor=0, now=NOW + 9)
    assert (again, is_new) == (first, False)
    assert await store.live(ACCOUNT) == [first]


async def test_a_refused_nonce_is_free_again(store: RelayerStore) -> None:
    first, second = await allocate(store, 1), await allocate(store, 2)
    assert await store.refuse(first)
    assert await store.live(ACCOUNT) == [second]
    third = await allocate(store, 3, salt=3)
    assert third.nonce == first.nonce
    assert (await allocate(store, 4)).nonce == 2


async def test_the_same_bytes_may_be_stored_again_after_a_refusal(store: RelayerStore) -> None:
    first = await allocate(store)
    assert await store.refuse(first)
    assert await allocate(store) == first
    assert await store.refuse(first), "it is nobody else's again"


async def test_one_that_somebody_else_broadcasts_is_not_refused(store: RelayerStore) -> None:
    first, second = await allocate(store, 1), await allocate(store, 2)
    assert await store.share(first)
    await store.allocate(ACCOUNT, purpose(2), sign, floor=0, now=NOW)  # by who hands the same authorization in
    for stored in (first, second):
        assert not await store.refuse(stored)
    assert await store.live(ACCOUNT) == [first, second]


async def test_one_that_was_refused_is_broadcast_by_nobody_else(store: RelayerStore) -> None:
    first = await allocate(store)
    assert await store.refuse(first)
    assert not await store.share(first)
    assert not await store.refuse(first)


@pytest.mark.parametrize("state", ["mined", "replaced"])
async def test_the_nonce_of_one_that_is_over_is_not(store: RelayerStore, state: str) -> None:
    first = await allocate(store)
    await store.finish(first, state)  # type: ignore[arg-type]
    assert (await allocate(store, 2)).nonce == 1
    assert [each.state for each in await store.of(ACCOUNT, purpose())] == [state]
    assert not await store.refuse(first)
    assert [each.state for each in await store.of(ACCOUNT, purpose())] == [state], "over is over"


async def test_a_gap_is_filled_first(store: RelayerStore) -> None:
    stored = [await allocate(store, number, salt=number) for number in range(4)]
    assert await store.refuse(stored[1])
    filler, is_new = await store.allocate(ACCOUNT, None, sign, floor=0, now=NOW)
    assert (filler.nonce, filler.purpose, is_new) == (1, None, True)
    assert (await store.allocate(ACCOUNT, None, lambda nonce: sign(nonce, 9), floor=0, now=NOW))[0].nonce == 4


async def test_one_in_the_place_of_another(store: RelayerStore) -> None:
    first = await allocate(store)
    second = await store.replace(ACCOUNT, first, purpose(), sign(0, 1), now=NOW + 5)
    assert second is not None
    assert (second.nonce, second.created_at) == (0, NOW + 5)
    assert await store.live(ACCOUNT) == [second]
    assert [(each.hash, each.state) for each in await store.of(ACCOUNT, purpose())] == [
        (second.hash, "live"),
        (first.hash, "replaced"),
    ]
    assert await store.replace(ACCOUNT, first, purpose(), sign(0, 2), now=NOW) is None, "another worker was first"
    filler = await store.replace(ACCOUNT, second, None, sign(0, 3), now=NOW)
    assert await store.live(ACCOUNT) == [filler]


async def test_accounts_and_chains_are_apart(store: RelayerStore) -> None:
    await allocate(store)
    for salt, other in enumerate([Account(8453, RELAYER), Account(84532, PAYER)], start=1):
        stored, is_new = await store.allocate(other, purpose(), partial(sign, salt=salt), floor=0, now=NOW)
        assert (stored.nonce, is_new) == (0, True)
        assert await store.of(other, purpose(2)) == []
    assert len(await store.live(ACCOUNT)) == 1


async def test_an_expiry_beyond_what_a_database_counts_to(store: RelayerStore) -> None:
    forever = replace(purpose(), valid_before=2**256 - 1)
    stored, _ = await store.allocate(ACCOUNT, forever, sign, floor=0, now=NOW)
    assert (await store.live(ACCOUNT))[0].purpose == forever == stored.purpose


async def test_a_signature_that_fails_takes_no_nonce(store: RelayerStore) -> None:
    def fail(nonce: int) -> SignedTransaction:
        raise ConfigurationError("no key")

    with pytest.raises(ConfigurationError):
        await store.allocate(ACCOUNT, purpose(), fail, floor=0, now=NOW)
    assert (await allocate(store)).nonce == 0


# --- what is over


LATER = NOW + 700
"""When the purposes have expired."""


async def test_what_is_over_for_long_is_forgotten_and_its_nonces_stay_taken(store: RelayerStore) -> None:
    stored = [await allocate(store, number, floor=7) for number in range(5)]
    assert await store.refuse(stored[4])
    for each in stored[:3]:
        await store.finish(each, "mined")
    assert await store.prune(ACCOUNT, before=NOW) == 0, "none is older"
    assert await store.prune(ACCOUNT, before=NOW + 600) == 0, "none had expired"
    assert await store.prune(ACCOUNT, before=LATER) == 4
    assert await store.of(ACCOUNT, purpose(0)) == []
    assert await store.live(ACCOUNT) == [stored[3]]
    # A worker that counted the chain long ago.
    assert (await allocate(store, 9, floor=7, salt=9)).nonce == 11


async def test_what_is_live_or_has_no_expiry_is_not_forgotten(store: RelayerStore) -> None:
    transfer = replace(purpose(2), valid_before=2**256 - 1)
    live = await allocate(store)
    sent, _ = await store.allocate(ACCOUNT, transfer, sign, floor=0, now=NOW)
    await store.finish(sent, "mined")
    assert await store.prune(ACCOUNT, before=LATER) == 0
    assert await store.live(ACCOUNT) == [live]
    assert [each.hash for each in await store.of(ACCOUNT, transfer)] == [sent.hash]


async def test_replaced_one_is_kept_until_its_nonce_is_mined(store: RelayerStore) -> None:
    first = await allocate(store)
    second = await store.replace(ACCOUNT, first, purpose(), sign(0, 1), now=NOW)
    assert second is not None
    assert await store.prune(ACCOUNT, before=LATER) == 0
    await store.finish(second, "mined")
    assert await store.prune(ACCOUNT, before=LATER) == 2
    assert (await allocate(store, 2)).nonce == 1


async def test_another_account_is_left_alone(store: RelayerStore) -> None:
    first = await allocate(store)
    await store.finish(first, "mined")
    assert await store.prune(Account(8453, RELAYER), before=LATER) == 0
    assert [each.hash for each in await store.of(ACCOUNT, purpose())] == [first.hash]
    assert await store.prune(ACCOUNT, before=LATER) == 1
    stored, _ = await store.allocate(Account(8453, RELAYER), purpose(), partial(sign, salt=1), floor=0, now=NOW)
    assert stored.nonce == 0


async def test_more_is_forgotten_than_one_transaction_deletes(
    store: RelayerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[type(store).__module__], "PRUNE_BATCH", 3)
    for number in range(8):
        await store.finish(await allocate(store, number), "mined")
    assert await store.prune(ACCOUNT, before=LATER) == 8
    assert (await allocate(store)).nonce == 8


# --- many processes

PROCESSES, EACH = 4, 25

ALLOCATES = f"""
import asyncio, json, sys
from rail402_base.rpc.relayer_store import Account, Purpose, open_relayer_store
from rail402_base.rpc.transactions import SignedTransaction

url, me = sys.argv[1], int(sys.argv[2])
account = Account({ACCOUNT.chain_id}, "{RELAYER}")

def purpose(number):
    # Two processes hand in each authorization.
    return Purpose(token="t", authorizer="a", nonce=bytes([me // 2, number]) + bytes(30), valid_before=1)

def signing(number):
    return lambda nonce: SignedTransaction(nonce, f"0x{{me:04x}}{{number:04x}}{{nonce:056x}}", b"raw")

async def main():
    store = open_relayer_store(url)
    await store.start()
    print("ready", flush=True)
    sys.stdin.readline()
    answers = await asyncio.gather(
        *(store.allocate(account, purpose(number), signing(number), floor=5, now=0) for number in range({EACH}))
    )
    await store.close()
    print(json.dumps([[stored.nonce, stored.hash, is_new] for stored, is_new in answers]))

asyncio.run(main())
"""


def allocate_in_processes(url: str) -> list[list[tuple[int, str, bool]]]:
    answers = run_together([[sys.executable, "-c", ALLOCATES, url, str(number)] for number in range(PROCESSES)])
    return [json.loads(answer) for answer in answers]


async def test_many_processes_sign_no_nonce_twice(url: str, store: RelayerStore) -> None:
    answers = await asyncio.to_thread(allocate_in_processes, url)
    new = [(nonce, hash_) for answer in answers for nonce, hash_, is_new in answer if is_new]
    seen = {(nonce, hash_) for answer in answers for nonce, hash_, _ in answer}
    assert sorted(nonce for nonce, _ in new) == list(range(5, 5 + PROCESSES * EACH // 2))
    assert seen == set(new), "who came second got what the first had signed"
    assert [(each.nonce, each.hash) for each in await store.live(ACCOUNT)] == sorted(new)
