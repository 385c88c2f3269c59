"""An event loop in which waiting takes no time: timeouts, pauses and deadlines pass at once, and in the right order.

::

    def test_a_slow_service():
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(buy_from_a_service_that_takes_an_hour())

For what runs in one process: time does not wait for sockets.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = ["VirtualClock", "VirtualTimeLoop"]

T = TypeVar("T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that moves its clock to the next timer as soon as nothing else is left to do.

    What is handed to an executor (`asyncio.to_thread`) runs at once, in the loop's own thread: tests stay the same in
    every run. For other threads there is `held`.

    A test that would wait for ever raises RuntimeError instead.
    """

    def __init__(self) -> None:
        self._now: float = 0
        self._selector_of_ours = _Jumping(self)
        super().__init__(self._selector_of_ours)

    def time(self) -> float:
        """Return the loop's own seconds."""
        return self._now

    def jump(self, seconds: float) -> None:
        """Let that much time pass."""
        self._now += seconds

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the time from passing in this block, in which a thread is waited for."""
        self._selector_of_ours.held += 1
        try:
            yield
        finally:
            self._selector_of_ours.held -= 1

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Call `func` at once, in this thread."""

        async def call() -> T:
            return func(*args)

        return self.create_task(call())


class _Jumping(selectors.DefaultSelector):
    """Instead of waiting until something happens or the time is over, it lets the time be over."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop, self.held = loop, 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if ready or timeout == 0:
            return ready
        if self.held:
            ready = super().select(None)
        elif timeout is None:
            raise RuntimeError("everything waits, and nothing is going to happen")
        else:
            self._loop.jump(timeout)
        return ready


class VirtualClock:
    """Unix seconds that go by with the event loop's time, and that can be set wrong, as clocks are.

    Args:
        now: what it shows at the loop's time 0.
    """

    def __init__(self, now: int = 1_800_000_000) -> None:
        self._now = now

    def __call__(self) -> int:
        return self._now + int(asyncio.get_running_loop().time())

    def jump(self, seconds: int) -> None:
        """Set it forward, or back by a negative number; what waits does not wait less or longer for that."""
        self._now += seconds
