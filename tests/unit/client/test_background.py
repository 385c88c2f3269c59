from __future__ import annotations

import asyncio
import threading

import pytest

from rail402.client.background import BackgroundLoop


@pytest.fixture
def loop() -> BackgroundLoop:
    return BackgroundLoop()


def test_all_calls_run_on_one_loop_of_its_own(loop: BackgroundLoop) -> None:
    async def where() -> tuple[int, int]:
        return id(asyncio.get_running_loop()), threading.get_ident()

    assert not loop.is_running
    first = loop.run(where)
    assert first == loop.run(where)
    assert first[1] != threading.get_ident()
    loop.close()
    assert not loop.is_running
    loop.close()


def test_errors_come_back(loop: BackgroundLoop) -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        loop.run(fail)
    loop.close()


def test_what_still_runs_is_cancelled_at_the_end(loop: BackgroundLoop) -> None:
    ended = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def leave_behind() -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(forever())
        await asyncio.sleep(0)
        return task

    task = loop.run(leave_behind)
    loop.close()
    assert ended == [True]
    assert task.cancelled()


def test_an_interrupted_caller_cancels_its_call(loop: BackgroundLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    started, cancelled = threading.Event(), threading.Event()

    async def forever() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def interrupted(self: object, timeout: float | None = None) -> None:
        started.wait(5)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("concurrent.futures.Future.result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            loop.run(forever)
    assert cancelled.wait(5)
    loop.close()


def test_it_starts_again_after_it_was_closed(loop: BackgroundLoop) -> None:
    async def one() -> int:
        return 1

    assert loop.run(one) == 1
    loop.close()
    assert loop.run(one) == 1
    loop.close()
