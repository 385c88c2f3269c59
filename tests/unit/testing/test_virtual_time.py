"""A loop in which waiting takes no time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from rail402.testing.virtual_time import VirtualClock, VirtualTimeLoop

T = TypeVar("T")


def run(main: Callable[[], Awaitable[T]]) -> T:
    async def started() -> T:
        return await main()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(started())


def test_waiting_takes_no_time_and_ends_in_order() -> None:
    ended: list[str] = []

    async def wait(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        ended.append(name)

    async def main() -> float:
        await asyncio.gather(wait("a day", 86_400), wait("an hour", 3600), wait("a moment", 0.001))
        return asyncio.get_running_loop().time()

    began = time.monotonic()
    assert run(main) == 86_400
    assert time.monotonic() - began < 10
    assert ended == ["a moment", "an hour", "a day"]


def test_timeouts_come_when_they_should() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.sleep(11)
        return asyncio.get_running_loop().time()

    assert run(main) == 10


def test_what_is_given_to_an_executor_runs_at_once_and_may_fail() -> None:
    async def main() -> tuple[int, int]:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        return await asyncio.to_thread(threading.get_ident), threading.get_ident()

    here, there = run(main)
    assert here == there


def test_time_waits_for_a_thread_where_it_is_held() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        answer = loop.create_future()

        def work() -> None:
            time.sleep(0.05)
            loop.call_soon_threadsafe(answer.set_result, None)

        thread = threading.Thread(target=work)
        later = asyncio.create_task(asyncio.sleep(5))
        thread.start()
        with loop.held():
            await answer
        thread.join()
        reached = loop.time()
        await later
        return reached

    assert run(main) == 0


def test_waiting_for_ever_is_an_error() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="nothing is going to happen"):
        run(main)


def test_the_clock_goes_with_the_loop_and_can_be_set_wrong() -> None:
    async def main() -> list[int]:
        clock, seen = VirtualClock(1000), []
        for jump in (0, 7200, -7290):
            clock.jump(jump)
            seen.append(clock())
            await asyncio.sleep(61.5)
        return seen

    assert run(main) == [1000, 8261, 1033]
