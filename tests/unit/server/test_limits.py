"""How much is let through: never more than the limit over any time, with little asked of the store."""

from __future__ import annotations

import asyncio
import logging
import random
import tracemalloc
from functools import partial
from typing import Any

import pytest

from rail402.errors import ConfigurationError, RateLimited, StoreError
from rail402.server import limits as module
from rail402.server.limits import Limiter, Limits, parse_rate
from rail402.stores.base import TokenBucket
from rail402.stores.memory import MemoryStore
from rail402.testing.fakes import FakeClock

START = 1_800_000_000


def scope(address: str = "192.0.2.1") -> dict[str, Any]:
    return {"client": (address, 1), "headers": []}


class Counted:
    """Buckets in memory that count how often they are asked, and that may be out of reach."""

    def __init__(self) -> None:
        self.store, self.asked, self.down = MemoryStore(), list[tuple[str, int]](), False

    async def spend(self, bucket: str, tokens: int, limit: TokenBucket, *, now: float) -> int:
        self.asked.append((bucket, tokens))
        await asyncio.sleep(0)
        if self.down:
            raise StoreError("down")
        return await self.store.spend(bucket, tokens, limit, now=now)


class Worker:
    """A limiter whose 402s are counted, per client; the route's limit is out of the way unless told."""

    def __init__(self, shared: Counted, clock: FakeClock, rate: str | TokenBucket, **limits: Any) -> None:
        made = Limits(challenges=rate, **({"route_challenges": "99999999/s"} | limits))
        self.limiter = Limiter(made, shared, clock)

    async def ask(self, address: str = "192.0.2.1", route: str = "GET /a") -> bool:
        try:
            await self.limiter.challenge(scope(address), route)
        except RateLimited:
            return False
        return True

    async def granted(self, times: int, address: str = "192.0.2.1") -> int:
        return sum([await self.ask(address) for _ in range(times)])


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START)


@pytest.fixture
def shared() -> Counted:
    return Counted()


class TestSettings:
    @pytest.mark.parametrize(
        ("text", "rate", "burst"),
        [("20/s", 20, 20), ("600/m", 10, 600), ("1/h", 1 / 3600, 1), ("5000/h", 5000 / 3600, 5000)],
    )
    def test_a_rate_is_so_many_at_once_and_as_many_again_in_that_time(self, text: str, rate: float, burst: int) -> None:
        assert parse_rate(text) == TokenBucket(rate=rate, burst=burst)
        assert parse_rate(TokenBucket(2, 9)) == TokenBucket(2, 9)

    @pytest.mark.parametrize(
        "value",
        ["", "0/s", "-1/s", "1", "1/d", "1.5/s", "10 /s", "1/S", "٣/s", "1e3/s", "9" * 10 + "/s", None, 5, True],
    )
    def test_what_is_no_rate(self, value: Any) -> None:
        with pytest.raises(ConfigurationError, match="write a number per"):
            parse_rate(value)
        with pytest.raises(ConfigurationError, match="limits: invoices="):
            Limits(invoices=value)

    @pytest.mark.parametrize("proxies", ["10.0.0.0/8", ["nonsense"]])
    def test_proxies_are_a_list_of_networks(self, proxies: Any) -> None:
        with pytest.raises(ConfigurationError, match="trusted_proxies"):
            Limits(trusted_proxies=proxies)

    def test_the_defaults_are_limits_that_no_agent_meets(self) -> None:
        made = Limits()
        assert parse_rate(made.challenges).rate >= 100
        assert parse_rate(made.payments).rate >= 50
        assert parse_rate(made.invoices).rate >= 5
        assert parse_rate(made.addresses).rate >= 5


class TestOneWorker:
    @pytest.mark.parametrize("rate", ["1/s", "7/s", "40/s", "60/m", "300/m", "6000/m"])
    async def test_most_of_a_burst_is_let_through_and_never_more(
        self, shared: Counted, clock: FakeClock, rate: str
    ) -> None:
        burst = parse_rate(rate).burst
        granted = await Worker(shared, clock, rate).granted(burst * 2)
        assert burst * 0.85 <= granted <= burst

    async def test_what_comes_back_with_time_is_let_through(self, shared: Counted, clock: FakeClock) -> None:
        worker = Worker(shared, clock, "600/m")
        await worker.granted(1000)
        granted = []
        for _ in range(60):
            clock.advance(1)
            granted.append(await worker.granted(100))
        assert 600 * 0.85 <= sum(granted) <= 600

    async def test_the_refusal_says_when_to_come_back(self, shared: Counted, clock: FakeClock) -> None:
        worker = Worker(shared, clock, "6/h")
        await worker.granted(6)
        with pytest.raises(RateLimited) as caught:
            await worker.limiter.challenge(scope(), "GET /a")
        assert (caught.value.status, caught.value.retryable, caught.value.retry_after) == (429, True, 600)
        clock.advance(590)
        with pytest.raises(RateLimited) as caught:
            await worker.limiter.challenge(scope(), "GET /a")
        assert caught.value.retry_after == 10
        clock.advance(10)
        assert await worker.ask()

    async def test_clients_do_not_disturb_each_other_and_the_route_counts_them_all(
        self, shared: Counted, clock: FakeClock
    ) -> None:
        worker = Worker(shared, clock, "10/m", route_challenges="15/m")
        assert await worker.granted(20, "192.0.2.1") == 10
        assert await worker.granted(20, "192.0.2.2") == 5
        assert await worker.ask("192.0.2.3", "GET /b")

    async def test_without_limits_nothing_is_counted(self, shared: Counted, clock: FakeClock) -> None:
        limiter = Limiter(None, shared, clock)
        for _ in range(100):
            await limiter.challenge(scope(), "r")
            await limiter.invoice(scope(), "r")
            await limiter.payment(scope())
            await limiter.new_payment("r")
            await limiter.address(scope(), "POST a")
        limiter.was_settled(scope())
        assert (limiter.remembered, shared.asked) == (0, [])

    async def test_each_kind_has_buckets_of_its_own(self, shared: Counted, clock: FakeClock) -> None:
        one = "1/h"
        limiter = Limiter(Limits(challenges=one, payments=one, invoices=one, addresses=one), shared, clock)
        calls: list[Any] = [
            partial(call, scope(), "r") for call in (limiter.challenge, limiter.invoice, limiter.address)
        ]
        calls.append(partial(limiter.payment, scope()))
        for call in calls:
            await call()
        for call in calls:
            with pytest.raises(RateLimited):
                await call()

    async def test_the_ceiling_on_new_payments_is_the_routes(self, shared: Counted, clock: FakeClock) -> None:
        limiter = Limiter(Limits(route_payments="2/h"), shared, clock)
        await limiter.new_payment("GET /a")
        await limiter.new_payment("GET /a")
        with pytest.raises(RateLimited):
            await limiter.new_payment("GET /a")
        await limiter.new_payment("GET /b")

    async def test_a_settled_payment_counts_for_nothing(self, shared: Counted, clock: FakeClock) -> None:
        limiter = Limiter(Limits(payments="3/h"), shared, clock)
        for _ in range(50):
            await limiter.payment(scope())
            limiter.was_settled(scope())
        for _ in range(3):
            await limiter.payment(scope())
        with pytest.raises(RateLimited):
            await limiter.payment(scope())

    async def test_what_is_given_back_does_not_bring_back_what_has_lapsed(
        self, shared: Counted, clock: FakeClock
    ) -> None:
        limiter = Limiter(Limits(payments="6000/m"), shared, clock)
        for _ in range(31):  # all of its own, and one of a chunk of 300
            await limiter.payment(scope())
        clock.advance(3600)
        for _ in range(30):
            await limiter.payment(scope())
        limiter.was_settled(scope())
        await limiter.payment(scope())
        assert len(shared.asked) == 1
        await limiter.payment(scope())
        assert len(shared.asked) == 2

    async def test_a_client_that_is_refused_takes_nothing_from_its_route(
        self, shared: Counted, clock: FakeClock
    ) -> None:
        worker = Worker(shared, clock, "5/h", route_challenges="40/h")
        for _ in range(10):
            await worker.granted(100, "192.0.2.1")
            clock.advance(1)
        assert await worker.granted(5, "192.0.2.2") == 5
        assert await worker.granted(5, "192.0.2.3") == 5

    async def test_a_route_that_is_refused_leaves_no_row_of_its_clients(
        self, shared: Counted, clock: FakeClock
    ) -> None:
        worker = Worker(shared, clock, "5/h", route_challenges="20/h")
        granted = [await worker.ask(f"10.0.{number // 250}.{number % 250}") for number in range(1000)]
        assert granted == [True] * 20 + [False] * 980
        assert len({bucket for bucket, _ in shared.asked}) == 21


class TestTheStoreIsLeftAlone:
    async def test_who_asks_for_little_is_never_seen_there(self, shared: Counted, clock: FakeClock) -> None:
        worker = Worker(shared, clock, "6000/m")
        for client in range(300):
            assert await worker.granted(30, f"192.0.{client // 250}.{client % 250}") == 30
        assert [bucket for bucket, _ in shared.asked if "192.0." in bucket] == []

    async def test_who_asks_for_much_draws_chunks(self, shared: Counted, clock: FakeClock) -> None:
        worker = Worker(shared, clock, "6000/m")
        granted = await worker.granted(10_000)
        asked = [tokens for bucket, tokens in shared.asked if "192.0." in bucket]
        assert (set(asked), len(asked)) == ({300}, 5100 // 300 + 1)
        assert granted == 5100 + 30

    async def test_who_is_refused_does_not_ask_it_again_and_again(self, shared: Counted, clock: FakeClock) -> None:
        worker = Worker(shared, clock, "60/m", route_challenges="60/m")
        await worker.granted(60)
        before = len(shared.asked)
        assert await worker.granted(1000) == 0
        assert len(shared.asked) - before <= 1
        clock.advance(1)
        await worker.granted(1000)
        assert len(shared.asked) - before <= 4

    async def test_of_many_at_once_one_asks_for_all(self, shared: Counted, clock: FakeClock) -> None:
        worker = Worker(shared, clock, TokenBucket(rate=1, burst=20_000))
        answers = await asyncio.gather(*(worker.ask() for _ in range(1000)))
        assert all(answers)
        assert len([bucket for bucket, _ in shared.asked if "192.0." in bucket]) == 1

    async def test_memory_is_bounded_however_many_clients_come(
        self, shared: Counted, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_REMEMBERED", 100)
        worker = Worker(shared, clock, "600/m")
        for client in range(1000):
            assert await worker.ask(f"10.0.{client // 250}.{client % 250}")
        assert worker.limiter.remembered == 100

    async def test_of_very_many_clients_some_megabytes_remain(self, clock: FakeClock) -> None:
        limiter = Limiter(Limits(route_challenges="99999999/s"), MemoryStore(), clock)
        tracemalloc.start(1)
        for client in range(40_000):
            await limiter.challenge(scope(f"10.{client >> 16}.{client >> 8 & 255}.{client & 255}"), "r")
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert limiter.remembered == module._REMEMBERED
        assert size < 12 << 20


class TestManyWorkers:
    @pytest.mark.parametrize("count", [1, 4, 20])
    @pytest.mark.parametrize(
        "limit", [TokenBucket(1, 1), TokenBucket(3, 40), TokenBucket(5, 300), TokenBucket(100, 6000)]
    )
    async def test_over_any_time_no_more_is_granted_than_the_burst_and_what_comes_in_it(
        self, shared: Counted, clock: FakeClock, count: int, limit: TokenBucket
    ) -> None:
        """Bursts after long pauses too, where every worker has something left over."""
        chance = random.Random(f"{count} {limit}")
        workers = [Worker(shared, clock, limit) for _ in range(count)]
        granted: list[tuple[int, int]] = []
        for _ in range(400 if limit.burst < 1000 else 40):
            times = chance.choice([0, 1, limit.burst // 10, limit.burst])
            got = [await chance.choice(workers).ask() for _ in range(times)]
            granted.append((clock() - START, sum(got)))
            clock.advance(chance.choice([0, 1, 1, 2, 5, limit.burst // int(limit.rate)]))
        for first in range(len(granted)):
            total, (began, _) = 0, granted[first]
            for at, number in granted[first:]:
                total += number
                assert total <= limit.burst + limit.rate * (at - began)

    async def test_all_use_one_bucket(self, shared: Counted, clock: FakeClock) -> None:
        workers = [Worker(shared, clock, "300/m") for _ in range(4)]
        granted = [await worker.granted(300) for worker in workers]
        assert 250 <= sum(granted) <= 300


class TestAlone:
    async def test_while_the_store_is_down_each_worker_counts_by_itself(
        self, shared: Counted, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        shared.down = True
        worker = Worker(shared, clock, "60/m")
        with caplog.at_level(logging.INFO, "rail402.server"):
            assert 50 <= await worker.granted(500) <= 60
            for _ in range(60):
                clock.advance(1)
                assert await worker.granted(50) <= 3
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            shared.down = False
            clock.advance(60)
            assert await worker.granted(10) == 10
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
        assert "192.0.2.1" not in caplog.text

    async def test_it_is_asked_again_only_now_and_then(self, shared: Counted, clock: FakeClock) -> None:
        shared.down = True
        worker = Worker(shared, clock, "60/m")
        for _ in range(20):
            await worker.granted(100)
            clock.advance(1)
        assert 2 <= len(shared.asked) <= 10

    async def test_a_bug_of_the_store_is_not_hidden(self, clock: FakeClock) -> None:
        class Broken:
            async def spend(self, *_: Any, **__: Any) -> int:
                raise KeyError("bug")

        with pytest.raises(KeyError):
            await Limiter(Limits(challenges="1/s"), Broken(), clock).challenge(scope(), "r")
