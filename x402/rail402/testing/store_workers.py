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
        assert answers.count(True) == 1, "lead: of many who would, exactly one leads"
        assert answers.count(False) == 49, "lead: False for the others"
        leader = f"worker-{answers.index(True)}"
        assert await store.lead("reconciler", leader, now=NOW, seconds=30), "lead: True for the one that leads"

    async def test_leader_leads_until_its_time_has_lapsed(self, store: Store) -> None:
        assert await store.lead("reconciler", "a", now=NOW, seconds=30), "lead: nobody leads yet"
        assert not await store.lead("reconciler", "b", now=NOW + 29, seconds=30), "lead: its time has not lapsed"
        assert await store.lead("reconciler", "b", now=NOW + 30, seconds=30), "lead: its time has lapsed"
        assert not await store.lead("reconciler", "a", now=NOW + 31, seconds=30), "lead: another leads now"

    async def test_leader_that_goes_on_keeps_the_others_out(self, store: Store) -> None:
        for later in (0, 20):
            assert await store.lead("reconciler", "a", now=NOW + later, seconds=30), "lead: the leader stays it"
        refused = not await store.lead("reconciler", "b", now=NOW + 49, seconds=30)
        assert refused, "lead: the leader stays it until `now + seconds` of its last time"
        assert await store.lead("reconciler", "b", now=NOW + 50, seconds=30), "lead: its time has lapsed"

    async def test_leader_resigns(self, store: Store) -> None:
        await store.lead("reconciler", "a", now=NOW, seconds=30)
        assert not await store.lead("reconciler", "b", now=NOW, seconds=0), "lead: who does not lead cannot resign"
        refused = not await store.lead("reconciler", "b", now=NOW + 29, seconds=30)
        assert refused, "lead: the leader alone resigns with `seconds=0`"
        await store.lead("reconciler", "a", now=NOW, seconds=0)
        assert await store.lead("reconciler", "b", now=NOW, seconds=30), "lead: the leader resigns with `seconds=0`"

    async def test_names_do_not_disturb_each_other(self, store: Store) -> None:
        assert await store.lead("reconciler", "a", now=NOW, seconds=30), "lead: nobody leads yet"
        assert await store.lead("Reconciler", "b", now=NOW, seconds=30), "lead: each name has its own leader"
        assert not await store.lead("reconciler", "A", now=NOW, seconds=30), "lead: holders are compared exactly"

    async def test_lapsed_leadership_is_pruned_and_a_running_one_is_not(self, store: Store) -> None:
        await store.lead("reconciler", "a", now=NOW - 30, seconds=30)
        await store.lead("pruner", "a", now=NOW - 30, seconds=31)
        assert await store.prune(before=0, now=NOW) == 1, "prune: a leadership that has lapsed goes"
        assert await store.lead("reconciler", "b", now=NOW - 1, seconds=30), "prune: nobody leads any more"
        assert not await store.lead("pruner", "b", now=NOW, seconds=30), "prune: a leadership that is running stays"


class BucketCases(StoreCases):
    """No more tokens are taken than there are, whoever takes them and whatever the clocks say."""

    async def test_bucket_is_full_at_first(self, store: Store) -> None:
        taken = [await store.spend("ip:1", tokens, _TEN, now=NOW) for tokens in (4, 6, 1)]
        assert taken == [4, 6, 0], "spend: a bucket that nobody used is full"

    async def test_what_is_there_is_taken_where_more_is_wanted(self, store: Store) -> None:
        taken = [await store.spend("ip:a", 7, _TEN, now=NOW) for _ in range(2)]
        assert taken == [7, 3], "spend: up to as many tokens are taken as are there"
        assert await store.spend("ip:A", 999, _TEN, now=NOW) == 10, "spend: each name has its own bucket"

    async def test_nothing_is_taken_where_nothing_is_wanted(self, store: Store) -> None:
        taken = [await store.spend("ip:1", tokens, _TEN, now=NOW) for tokens in (0, -3, 99)]
        assert taken == [0, 0, 10], "spend: nothing is taken and nothing given where nothing is wanted"

    async def test_of_200_who_take_a_token_ten_get_one(self, store: Store) -> None:
        answers = await together(200, lambda _: store.spend("ip:1", 1, _TEN, now=NOW))
        assert (answers.count(1), answers.count(0)) == (10, 190), (
            "spend: all share the bucket, and no token is taken twice"
        )

    async def test_tokens_come_back_with_time(self, store: Store) -> None:
        await store.spend("ip:1", 10, _TEN, now=NOW)
        taken = [await store.spend("ip:1", 99, _TEN, now=NOW + later) for later in (0.4, 2.5, 3)]
        assert taken == [0, 5, 1], "spend: `rate` tokens come back in a second, and only whole ones"

    async def test_bucket_is_never_fuller_than_full(self, store: Store) -> None:
        await store.spend("ip:1", 1, _TEN, now=NOW)
        assert await store.spend("ip:1", 99, _TEN, now=NOW + 86_400) == 10, "spend: never more than `burst` tokens"

    @pytest.mark.parametrize("rate", [0.3, 3, 7, 1000, 99_999.5])
    async def test_many_small_steps_yield_what_one_long_one_does(self, store: Store, rate: float) -> None:
        limit = TokenBucket(rate=rate, burst=1_000_000)
        await store.spend("ip:1", limit.burst, limit, now=NOW)
        taken = [await store.spend("ip:1", 99_999, limit, now=NOW + step / 16) for step in range(1, 161)]
        assert sum(taken) == 10 * 10**9 // limit.token_ns, "spend: nothing is lost or won by rounding"

    async def test_clock_that_goes_back_makes_no_tokens(self, store: Store) -> None:
        await store.spend("ip:1", 10, _TEN, now=NOW)
        for _ in range(5):  # two workers whose clocks disagree
            assert await store.spend("ip:1", 99, _TEN, now=NOW - 60) == 0, "spend: none was there a minute ago"
            assert await store.spend("ip:1", 99, _TEN, now=NOW) == 0, "spend: a clock that goes back makes no tokens"
        assert await store.spend("ip:1", 99, _TEN, now=NOW + 1) == 2, "spend: a clock that goes back takes no tokens"

    async def test_smaller_limit_is_kept_at_once(self, store: Store) -> None:
        await store.spend("ip:1", 10, _TEN, now=NOW)
        smaller = TokenBucket(rate=2, burst=3)
        taken = [await store.spend("ip:1", 99, smaller, now=NOW + later) for later in (3, 5)]
        assert taken == [0, 3], "spend: what is stored is when the bucket is full, whatever the limit then was"

    async def test_full_bucket_is_pruned_and_another_is_not(self, store: Store) -> None:
        await store.spend("ip:1", 2, _TEN, now=NOW - 1)
        await store.spend("ip:2", 3, _TEN, now=NOW - 1)
        assert await store.prune(before=0, now=NOW) == 1, "prune: a bucket that is full again goes"
        left = [await store.spend(f"ip:{number}", 99, _TEN, now=NOW) for number in (1, 2)]
        assert left == [10, 9], "prune: a bucket that is not full stays"

    async def test_every_full_bucket_goes_however_many_there_are(self, store: Store) -> None:
        await together(1100, lambda n: store.spend(f"ip:{n}", 1, _TEN, now=NOW - 1))
        assert await store.prune(before=0, now=NOW) == 1100, "prune: every full bucket goes, however many there are"
