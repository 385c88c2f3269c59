"""One event loop on a thread of its own, on which synchronous callers run coroutines."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from rail402.errors import ConfigurationError

__all__ = ["BackgroundLoop"]

T = TypeVar("T")


class BackgroundLoop:
    """A loop that starts with the first call and runs until it is closed. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    @property
    def is_running(self) -> bool:
        """Whether anything was run on it since it was made or closed."""
        return self._loop is not None

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Await what `function` returns on the loop, and return its result. An interrupted caller cancels it.

        Raises:
            ConfigurationError: the caller runs on the loop itself, and would wait for itself.
        """
        if threading.current_thread() is self._thread:
            raise ConfigurationError("a wallet of a payer must not call through the payer's synchronous transport")
        with self._lock:  # nothing may be handed to the loop behind its end
            future = asyncio.run_coroutine_threadsafe(_awaited(function), self._started())
        try:
            return future.result()
        finally:
            future.cancel()  # nothing happens if it is done

    def close(self) -> None:
        """End the loop and its thread; what still runs on it is cancelled."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None or self._pid != os.getpid():  # a thread does not live on in a forked process
            self._pid, self._loop = os.getpid(), asyncio.new_event_loop()
            self._thread = threading.Thread(target=_serve, args=(self._loop,), name="rail402-payer", daemon=True)
            self._thread.start()
        return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        # The runner cancels and collects what is left when the loop was stopped.
        runner.get_loop().run_forever()


async def _awaited(function: Callable[[], Awaitable[T]]) -> T:
    return await function()
