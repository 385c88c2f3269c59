from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import warnings

import pytest

from rail402.client.background import BackgroundLoop
from rail402.errors import ConfigurationError


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


def test_a_call_from_the_loop_itself_does_not_wait_for_itself(loop: BackgroundLoop) -> None:
    async def nothing() -> None: ...

    async def nested() -> None:
        loop.run(nothing)

    with pytest.raises(ConfigurationError, match="must not call through"):
        loop.run(nested)
    loop.close()


async def test_it_may_be_used_inside_another_loop(loop: BackgroundLoop) -> None:
    async def one() -> int:
        await asyncio.sleep(0)
        return 1

    assert loop.run(one) == 1
    loop.close()


def test_no_call_is_left_waiting_when_it_is_closed(loop: BackgroundLoop) -> None:
    """Threads that call while another one closes it: each gets an answer or a cancellation, none hangs."""
    ended: list[object] = []

    async def short() -> int:
        await asyncio.sleep(0)
        return 1

    def call() -> None:
        for _ in range(50):
            try:
                ended.append(loop.run(short))
            except concurrent.futures.CancelledError as error:
                ended.append(error)

    threads = [threading.Thread(target=call, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        loop.close()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert len(ended) == 400
    loop.close()


def test_a_forked_process_gets_a_loop_of_its_own(loop: BackgroundLoop) -> None:
    async def one() -> int:
        return 1

    assert loop.run(one) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a process with threads is forked, as some servers do
        child = os.fork()
    if child == 0:  # pragma: no cover - in the child
        code = 1
        try:
            code = 0 if loop.run(one) == 1 else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    loop.close()
