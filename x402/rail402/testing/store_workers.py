"""What a store must do for workers who share more than charges: one leads, and all count in the same buckets."""

from __future__ import annotations

import pytest

from rail402.stores.base import Store, TokenBucket
from rail402.testing.store_support import NOW, StoreCases, together

__all__ = ["BucketCases", "LeaderCases"]

_TEN = TokenBucket(rate=2, burst=10)


class LeaderCases(StoreCases):
    """One leads at a time."""

    async def test_of_50_who_would_lead_one_does(self, store: Store) -> None:
        answers = await together(50, lambda n: store.lead("reconciler", f"worker-{n}", now=NOW, seconds=30))
        assert answers.count(True) == 1
        assert answers.count(False) == 49
        leader = f"worker-{answers.index(True)}"
        assert await store.lead("reconciler", leader, now=NOW, seconds=30)

    async def test_leader_leads_until_its_time_has_lapsed(self, store: Store) -> None:
        assert await store.lead("reconciler", "a", now=NOW, seconds=30)
        assert not await store.lead("reconciler", "b", now=NOW + 29, seconds=30)
        assert await store.lead("reconciler", "b", now=NOW + 30, seconds=30)
        assert not await store.lead("reconciler", "a", now=NOW + 31, seconds=30)

    async def test_leader_that_goes_on_keeps_the_others_out(self, store: Store) -> None:
        for later in (0, 20, 40):
            assert await store.lead("reconciler", "a", now=NOW + later, seconds=30)
        assert not await store.lead("reconciler", "b", now=NOW + 69, seconds=30)
        assert await store.lead("reconciler", "b", now=NOW + 70, seconds=30)

    async def test_leader_resigns(self, store: Store) -> None:
        await store.lead("reconciler", "a", now=NOW, seconds=30)
        assert not await store.lead("reconciler", "b", now=NOW, seconds=0)
        await store.lead("reconciler", "a", now=NOW, seconds=0)
        assert await store.lead("reconciler", "b", now=NOW, seconds=30)

    async def test_names_do_not_disturb_each_other(self, store: Store) -> None:
        assert await store.lead("reconciler", "a", now=NOW, seconds=30)
        assert await store.lead("pruner", "b", now=NOW, seconds=30)

    async def test_lapsed_leadership_is_pruned_and_a_running_one_is_not(self, store: Store) -> None:
        await store.lead("reconciler", "a", now=NOW - 30, seconds=30)
        await store.lead("pruner", "a", now=NOW - 30, seconds=31)
        assert await store.prune(before=0, now=NOW) == 1
        assert await store.lead("reconciler", "b", now=NOW - 1, seconds=30)
        assert not await store.lead("pruner", "b", now=NOW, seconds=30)


class BucketCases(StoreCases):
    """No more tokens are taken than there are, whoever takes them and whatever the clocks say."""

    async def test_bucket_is_full_at_first(self, store: Store) -> None:
        assert await store.spend("ip:1", 4, _TEN, now=NOW) == 4
        assert await store.spend("ip:1", 6, _TEN, now=NOW) == 6
        assert await store.spend("ip:1", 1, _TEN, now=NOW) == 0

    async def test_what_is_there_is_taken_where_more_is_wanted(self, store: Store) -> None:
        assert await store.spend("ip:1", 7, _TEN, now=NOW) == 7
        assert await store.spend("ip:1", 7, _TEN, now=NOW) == 3
        assert await store.spend("ip:2", 999, _TEN, now=NOW) == 10

    async def test_nothing_is_taken_where_nothing_is_wanted(self, store: Store) -> None:
        assert await store.spend("ip:1", 0, _TEN, now=NOW) == 0
        assert await store.spend("ip:1", -3, _TEN, now=NOW) == 0
        assert await store.spend("ip:1", 99, _TEN, now=NOW) == 10

    async def test_of_200_who_take_a_token_ten_get_one(self, store: Store) -> None:
        answers = await together(200, lambda _: store.spend("ip:1", 1, _TEN, now=NOW))
        assert answers.count(1) == 10
        assert answers.count(0) == 190

    async def test_tokens_come_back_with_time(self, store: Store) -> None:
        await store.spend("ip:1", 10, _TEN, now=NOW)
        assert await store.spend("ip:1", 99, _TEN, now=NOW + 0.4) == 0
        assert await store.spend("ip:1", 99, _TEN, now=NOW + 2.5) == 5
        assert await store.spend("ip:1", 99, _TEN, now=NOW + 3) == 1

    async def test_bucket_is_never_fuller_than_full(self, store: Store) -> None:
        await store.spend("ip:1", 1, _TEN, now=NOW)
        assert await store.spend("ip:1", 99, _TEN, now=NOW + 86_400) == 10

    @pytest.mark.parametrize("rate", [0.3, 3, 7, 1000, 99_999.5])
    async def test_many_small_steps_yield_what_one_long_one_does(self, store: Store, rate: float) -> None:
        limit = TokenBucket(rate=rate, burst=1_000_000)
        await store.spend("ip:1", limit.burst, limit, now=NOW)
        taken = [await store.spend("ip:1", 99_999, limit, now=NOW + step / 16) for step in range(1, 161)]
        assert sum(taken) == 10 * 10**9 // limit.token_ns

    async def test_clock_that_goes_back_makes_no_tokens(self, store: Store) -> None:
        await store.spend("ip:1", 10, _TEN, now=NOW)
        for _ in range(5):  # two workers whose clocks disagree
            assert await store.spend("ip:1", 99, _TEN, now=NOW - 60) == 0
            assert await store.spend("ip:1", 99, _TEN, now=NOW) == 0
        assert await store.spend("ip:1", 99, _TEN, now=NOW + 1) == 2

    async def test_smaller_limit_is_kept_at_once(self, store: Store) -> None:
        await store.spend("ip:1", 10, _TEN, now=NOW)
        smaller = TokenBucket(rate=2, burst=3)
        assert await store.spend("ip:1", 1, smaller, now=NOW + 3) == 0
        assert await store.spend("ip:1", 99, smaller, now=NOW + 5) == 3

    async def test_full_bucket_is_pruned_and_another_is_not(self, store: Store) -> None:
        await store.spend("ip:1", 2, _TEN, now=NOW - 1)
        await store.spend("ip:2", 3, _TEN, now=NOW - 1)
        assert await store.prune(before=0, now=NOW) == 1
        assert await store.spend("ip:1", 99, _TEN, now=NOW) == 10
        assert await store.spend("ip:2", 99, _TEN, now=NOW) == 9

    async def test_every_full_bucket_goes_however_many_there_are(self, store: Store) -> None:
        await together(1100, lambda n: store.spend(f"ip:{n}", 1, _TEN, now=NOW - 1))
        assert await store.prune(before=0, now=NOW) == 1100
