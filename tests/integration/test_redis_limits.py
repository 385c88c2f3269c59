"""Buckets and wake-ups in a real Redis: shared by processes, exact, and never in the way when it is gone."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from rail402.errors import ConfigurationError, RateLimited, StoreError
from rail402.server.limits import Limiter, Limits
from rail402.stores import SqliteStore, TokenBucket
from rail402.stores.limits_redis import RedisLimits
from rail402.testing.fakes import FakeClock
from rail402.testing.stores import make_charge
from tests.services import installed
from tests.services.processes import free_ports, running
from tests.services.redis import _answers, _program
from tests.unit.server.shop import Shop


async def goods(_: Request) -> Response:
    return PlainTextResponse("the goods")


TEN = TokenBucket(rate=2, burst=10)
NOW = 1_800_000_000


@pytest.fixture
def prefix() -> str:
    return f"test:{secrets.token_hex(6)}:"


@pytest.fixture
async def shared(redis_url: str, prefix: str) -> AsyncIterator[RedisLimits]:
    shared = RedisLimits(redis_url, prefix=prefix, own_clock=True)
    yield shared
    await shared.close()


class TestBuckets:
    async def test_are_full_at_first_and_give_what_is_there(self, shared: RedisLimits) -> None:
        assert await shared.spend("ip:1", 4, TEN, now=NOW) == 4
        assert await shared.spend("ip:1", 99, TEN, now=NOW) == 6
        assert await shared.spend("ip:1", 1, TEN, now=NOW) == 0
        assert await shared.spend("ip:2", 99, TEN, now=NOW) == 10
        for nothing in (0, -3):
            assert await shared.spend("ip:3", nothing, TEN, now=NOW) == 0

    async def test_fill_with_time_and_never_more_than_full(self, shared: RedisLimits) -> None:
        await shared.spend("ip:1", 10, TEN, now=NOW)
        assert await shared.spend("ip:1", 99, TEN, now=NOW + 0.4) == 0
        assert await shared.spend("ip:1", 99, TEN, now=NOW + 2.5) == 5
        assert await shared.spend("ip:1", 99, TEN, now=NOW - 60) == 0  # a clock that goes back makes no tokens
        assert await shared.spend("ip:1", 99, TEN, now=NOW + 86_400) == 10

    @pytest.mark.parametrize("rate", [0.3, 3, 7, 1000])
    async def test_many_small_steps_never_yield_more_than_one_long_one(self, shared: RedisLimits, rate: float) -> None:
        limit = TokenBucket(rate=rate, burst=1_000_000)
        await shared.spend("ip:1", limit.burst, limit, now=NOW)
        taken = [await shared.spend("ip:1", 99_999, limit, now=NOW + step / 16) for step in range(1, 161)]
        assert 10 * rate * 0.99 - 1 <= sum(taken) <= 10 * rate

    async def test_of_200_who_take_a_token_ten_get_one(self, shared: RedisLimits) -> None:
        answers = await asyncio.gather(*(shared.spend("ip:1", 1, TEN, now=NOW) for _ in range(200)))
        assert sum(answers) == 10

    async def test_go_away_once_they_are_full_again(self, shared: RedisLimits, redis_url: str, prefix: str) -> None:
        quick = TokenBucket(rate=1000, burst=10)
        await shared.spend("ip:1", 10, quick, now=NOW)
        await shared.spend("ip:2", 10, TEN, now=NOW)
        async with Redis.from_url(redis_url) as redis:
            async with asyncio.timeout(5):
                while await redis.exists(f"{prefix}bucket:ip:1"):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert 4000 < await redis.pttl(f"{prefix}bucket:ip:2") <= 5000

    async def test_count_by_the_clock_of_redis_unless_told(self, redis_url: str, prefix: str) -> None:
        slow = TokenBucket(rate=1 / 3600, burst=3)
        shared = RedisLimits(redis_url, prefix=prefix)
        found = [await shared.spend("ip:1", 1, slow, now=now) for now in (0, NOW, 0, NOW + 10**6)]
        await shared.close()
        assert found == [1, 1, 1, 0]


def worker(url: str, prefix: str, results: Any) -> None:
    """Ask for all that can be had."""

    async def flood() -> int:
        shared, granted = RedisLimits(url, prefix=prefix), 0
        limiter = Limiter(Limits(challenges="300/h", route_challenges="99999999/s"), shared, FakeClock())
        for _ in range(400):
            try:
                await limiter.challenge({"client": ("192.0.2.1", 1), "headers": []}, "GET /a")
                granted += 1
            except RateLimited:
                await asyncio.sleep(0)
        await shared.close()
        return granted

    results.put(asyncio.run(flood()))


async def test_four_workers_grant_no_more_than_one_bucket_holds(redis_url: str, prefix: str) -> None:
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    workers = [context.Process(target=worker, args=(redis_url, prefix, results)) for _ in range(4)]
    for each in workers:
        each.start()
    granted = [await asyncio.to_thread(results.get, timeout=60) for _ in workers]
    for each in workers:
        each.join()
    assert 240 <= sum(granted) <= 300


class TestWakeUps:
    async def test_who_waits_in_another_process_is_woken(self, redis_url: str, prefix: str, tmp_path: Path) -> None:
        ours, theirs = (SqliteStore(tmp_path / "charges.db", poll=60) for _ in range(2))
        here, there = (RedisLimits(redis_url, prefix=prefix) for _ in range(2))
        for store, shared in ((ours, here), (theirs, there)):
            await store.start()
            shared.start(store.wakeups)
        charge = (await ours.claim(make_charge("tx:1"))).charge
        async with Redis.from_url(redis_url) as redis, asyncio.timeout(5):
            while (await redis.pubsub_numsub(f"{prefix}charges"))[0][1] < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        waiting = asyncio.create_task(theirs.wait(charge, timeout=30))
        await asyncio.sleep(0.05)
        saved = await ours.save(charge)
        async with asyncio.timeout(5):
            found = await waiting
        assert found is not None
        assert found.version == saved.version
        for closed in (here, there, ours, theirs):
            await closed.close()
        assert len(asyncio.all_tasks()) == 1

    async def test_silence_breaks_nothing(self, redis_url: str, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
        """Longer than the time-out of a socket."""
        store = SqliteStore("unused.db")
        shared = RedisLimits(redis_url, prefix=prefix)
        shared.start(store.wakeups)
        await asyncio.sleep(1.5)
        assert caplog.records == []
        await shared.close()
        assert store.wakeups is not None
        assert store.wakeups.relay is None


async def test_gates_that_share_nothing_else_share_their_limits(redis_url: str, tmp_path: Path) -> None:
    route = f"/{secrets.token_hex(6)}"  # this test's own, since the limits of a route are kept in the server
    statuses = []
    for number in range(2):
        limits = Limits(challenges="9999/s", route_challenges="10/h")
        shop = Shop(store=f"sqlite:///{tmp_path}/{number}.db", limits=limits, redis=redis_url)
        shop.app.add_route(route, shop.gate.paid("0.003 USD")(goods))
        async with shop.open():
            statuses += [(await shop.client.get(route)).status_code for _ in range(8)]
            assert len(asyncio.all_tasks()) == 3  # besides this one, who tells of charges and who listens
        assert len(asyncio.all_tasks()) == 1
    assert statuses == [402] * 10 + [429] * 6


async def test_without_its_redis_a_gate_sells(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (port,) = free_ports(1)
    limits = Limits(challenges="10/h")
    shop = Shop(store=f"sqlite:///{tmp_path}/charges.db", limits=limits, redis=f"redis://127.0.0.1:{port}/0")
    shop.app.add_route("/goods", shop.gate.paid("0.003 USD")(goods))
    async with shop.open():
        assert (await shop.buy("/goods")).status_code == 200
        statuses = [(await shop.client.get("/goods")).status_code for _ in range(12)]
        assert statuses == [402] * 9 + [429] * 3
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len([text for text in said if "counted by this worker alone" in text]) == 1


async def test_when_it_dies_limits_go_on_and_it_is_used_again(
    tmp_path: Path, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    if not installed("redis"):
        pytest.skip("needs a Redis that may be stopped")
    (port,) = free_ports(1)
    command = [str(_program()), "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    shared = RedisLimits(f"redis://127.0.0.1:{port}/0")
    clock = FakeClock()
    limiter = Limiter(Limits(challenges="20/h", route_challenges="99999999/s"), shared, clock)

    async def granted(times: int) -> int:
        count = 0
        for _ in range(times):
            try:
                await limiter.challenge({"client": ("192.0.2.1", 1), "headers": []}, "GET /a")
                count += 1
            except RateLimited:
                pass
        return count

    with caplog.at_level(logging.INFO, "rail402.server"):
        with pytest.raises(StoreError, match="Redis cannot be used"):
            await shared.spend("a", 1, TEN, now=NOW)
        assert await granted(50) == 20
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        with running("redis", command, tmp_path) as process:
            process.wait_until("PONG", lambda: _answers(port))
            clock.advance(3600)
            assert await granted(50) == 20
            assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
        clock.advance(3600)
        assert await granted(50) <= 20
    await shared.close()


@pytest.mark.parametrize(
    "url", ["", "http://a", "127.0.0.1:6379", "postgresql://u:secret@a", "redis://u:secret@a:port"]
)
def test_a_url_that_cannot_be_used_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RedisLimits(url)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(RedisLimits("redis://u:secret@127.0.0.1:1"))
