"""Waiting for a charge to change: woken at once by this process, by asking again for what other processes write."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from rail402.protocol.charge import Charge

__all__ = ["Wakeups"]


class Wakeups:
    """Who waits for which charge. Nothing runs while nobody waits.

    Attributes:
        relay: told of every charge that this process changes, where other processes are to hear of it.
    """

    relay: Callable[[str], None] | None = None

    def __init__(self) -> None:
        self._waiting: dict[str, set[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = {}

    def wake(self, charge_id: str) -> None:
        """Tell everyone who waits for this charge that it has changed here."""
        self.heard(charge_id)
        if self.relay is not None:
            self.relay(charge_id)

    def heard(self, charge_id: str) -> None:
        """Tell everyone who waits for this charge, on whatever loop of this process, to look again."""
        for loop, event in tuple(self._waiting.get(charge_id, ())):
            loop.call_soon_threadsafe(event.set)

    def wake_all(self) -> None:
        """Tell everyone to look again: something may have changed unheard."""
        for charge_id in tuple(self._waiting):
            self.wake(charge_id)

    async def wait(
        self,
        read: Callable[[str], Awaitable[Charge | None]],
        charge: Charge,
        *,
        timeout: float,
        poll: float | None = None,
    ) -> Charge | None:
        """Return what `read` finds as soon as its version is not `charge.version`, or after `timeout` seconds.

        Args:
            read: returns the stored charge of an id.
            poll: seconds after which to read without having been woken; None where only this process writes.
        """
        event = asyncio.Event()
        waiter = (asyncio.get_running_loop(), event)
        # Listening before the first look: a change between the two is not missed.
        waiters = self._waiting.setdefault(charge.id, set())
        waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout):
                while (found := await read(charge.id)) is not None and found.version == charge.version:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(event.wait(), poll)
                    event.clear()
                return found
        except TimeoutError:
            return await read(charge.id)
        finally:
            waiters.discard(waiter)
            if not waiters and self._waiting.get(charge.id) is waiters:
                del self._waiting[charge.id]
