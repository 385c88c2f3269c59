"""What a store must do beyond one process's life: keep what was written, and be one store to all who open it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from rail402.protocol.charge import Charge
from rail402.stores.base import Issued, Store, TokenBucket
from rail402.testing.store_support import NOW, RESPONSE, StoreCases, make_charge, settled
from rail402.testing.store_work import Opener, Race, Worker

__all__ = ["DurabilityCases", "ProcessCases"]

_PROCESSES = 8
_BUCKET: Final = TokenBucket(rate=1, burst=10)


@dataclass(frozen=True, slots=True)
class _Writing:
    """A change by every verb that makes one; in another process too, so it is picklable.

    Attributes:
        paid: a settled pass with two uses or more.
        issued: a row.
    """

    paid: Charge
    issued: Issued

    async def __call__(self, store: Store) -> None:
        await store.claim(self.paid)
        await store.save(self.paid.model_copy(update={"keys": (*self.paid.keys, "tx:gained")}), response=RESPONSE)
        await store.take_use(self.paid.id, "under way", now=NOW, lease_until=NOW + 60, slot="taken")
        await store.renew_use(self.paid.id, "under way", lease_until=NOW + 600)
        await store.take_use(self.paid.id, "served", now=NOW, lease_until=NOW + 60, slot="served")
        await store.end_use(self.paid.id, "served", response=RESPONSE)
        await store.take_use(self.paid.id, "failed", now=NOW, lease_until=NOW + 60)
        await store.return_use(self.paid.id, "failed")
        await store.issue(self.issued, now=NOW, capacity=1)
        await store.lead("reconciler", "a", now=NOW, seconds=30)
        await store.remember("salt", "first")
        await store.spend("ip:1", 10, _BUCKET, now=NOW)

    async def is_all_in(self, store: Store) -> None:
        """Assert that a store has all of it, but for the bucket."""
        paid = self.paid
        found = await store.get(paid.id)
        assert found is not None, "claim: a charge is durable"
        assert found.version == 1, "save: what was saved is durable"
        assert found.uses_taken == 2, "take_use, return_use, end_use: which uses are taken is durable"
        assert await store.find([paid.keys[0]]) == found, "claim: the keys are durable"
        assert await store.find(["tx:gained"]) == found, "save: a gained key is durable"
        assert await store.response(paid.id) == RESPONSE, "save: the response is durable"
        assert await store.response(paid.id, "served") == RESPONSE, "end_use: the response is durable"
        assert not await store.end_use(paid.id, "served"), "end_use: that a use was served is durable"
        assert not await store.end_use(paid.id, "failed"), "return_use: that a use came back is durable"
        later = await store.take_use(paid.id, "later", now=NOW + 599, lease_until=NOW + 999)
        assert later is not None, "take_use: there is a use left"
        assert later.uses_taken == 3, "renew_use: the longer lease is durable"
        assert await store.end_use(paid.id, "under way"), "take_use: a use that is under way is durable"
        assert await store.issued(self.issued.key) == self.issued, "issue: the row is durable"
        assert not await store.lead("reconciler", "b", now=NOW, seconds=30), "lead: who leads is durable"
        assert await store.remember("salt", "second") == "first", "remember: the setting is durable"


def _writing() -> _Writing:
    row = Issued(key="lnbc:1", order_digest="ab" * 32, offer="{}", expires_at=NOW + 300)
    return _Writing(settled("tx:1", "offer:1", uses=9), row)


class DurabilityCases(StoreCases):
    """A verb that returns has made its change durable."""

    async def test_closed_store_that_starts_again_has_it_all(self, store: Store) -> None:
        writing = _writing()
        await writing(store)
        await store.close()
        await store.start()
        assert await store.spend("ip:1", 1, _BUCKET, now=NOW) == 0, "spend: an orderly end leaves the bucket as it is"
        await writing.is_all_in(store)

    async def test_what_was_written_is_there_for_a_new_store(self, anew: Opener) -> None:
        writing, first, second = _writing(), anew(), anew()
        await first.start()
        await writing(first)
        await first.close()
        await second.start()
        try:
            assert await second.spend("ip:1", 1, _BUCKET, now=NOW) == 0, "spend: an orderly end leaves the bucket"
            await writing.is_all_in(second)
        finally:
            await second.close()

    async def test_what_was_written_outlives_a_process_that_is_killed(self, anew: Opener) -> None:
        writing = _writing()
        async with Worker.started(anew, writing) as worker:  # killed at the end of the block
            await worker.open()
            await worker.begin()
            await worker.answer()
        store = anew()
        await store.start()
        try:
            await writing.is_all_in(store)
        finally:
            await store.close()


class ProcessCases(StoreCases):
    """To all processes it is one store."""

    async def test_of_200_claims_in_8_processes_one_is_won(self, anew: Opener) -> None:
        """And so on with whatever else processes may want at once: it takes its time to start them."""
        versioned, used = make_charge("tx:versioned"), settled("tx:used", uses=30)
        store = anew()
        await store.start()
        try:
            for charge in (versioned, used):
                await store.claim(charge)
            answers = await _race(anew, [_racer(str(number), versioned, used) for number in range(_PROCESSES)])
            _check(answers)
            ids = {charge.id for charge in await store.recent(limit=1000)}
            there = {versioned.id, used.id, *answers[0]["seen"]}
            assert ids == there, "claim: one that is lost in another process leaves nothing behind"
        finally:
            await store.close()


def _racer(me: str, versioned: Charge, used: Charge) -> Race:
    claims = [make_charge("tx:1", f"offer:{me}/{number}") for number in range(25)]
    terms = {"order_digest": "ab" * 32, "offer": "{}", "expires_at": 300}
    issues = [Issued(key=f"lnbc:{me}/{number}", **terms) for number in range(25)]
    return Race(me, claims, versioned, used, issues, capacity=40, bucket=TokenBucket(rate=1, burst=40))


async def _race(anew: Opener, racers: list[Race]) -> list[dict[str, Any]]:
    """Start a process for each, let all begin when all are there, and return their answers."""
    async with AsyncExitStack() as running:
        workers = [await running.enter_async_context(Worker.started(anew, racer)) for racer in racers]
        for worker in workers:
            await worker.open()
        for worker in workers:
            await worker.begin()
        answers = await asyncio.gather(*(worker.answer() for worker in workers))
        for worker in workers:
            await worker.close()
    return answers


def _check(answers: list[dict[str, Any]]) -> None:
    def all_of(what: str) -> list[Any]:
        return [one for answer in answers for one in answer[what]]

    others = len(answers) - 1
    assert len(all_of("won")) == 1, "claim: of all claims of a key, in all processes, exactly one is won"
    assert set(all_of("seen")) == set(all_of("won")), "claim: a lost claim returns the charge that has won"
    assert sum(answer["saves"] for answer in answers) == 1, "save: of all saves of one version one succeeds"
    assert sorted(all_of("uses")) == list(range(1, 31)), "take_use: uses taken never exceed the uses"
    assert sum(answer["issued"] for answer in answers) == 40, "issue: no more rows than the capacity"
    assert sum(answer["tokens"] for answer in answers) == 40, "spend: all processes share the bucket"
    leads = sorted(answer["leads"] for answer in answers)
    assert leads == [*[[False] * 3] * others, [True] * 3], "lead: one process leads"
    assert len({answer["setting"] for answer in answers}) == 1, "remember: all processes get one value"
    winners = {number for number, answer in enumerate(answers) if answer["won"]}
    assert {answer["payer"] for answer in answers} == {str(number) for number in winners}, (
        "wait: it returns what another process has saved"
    )
