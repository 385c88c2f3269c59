"""Waiting for transactions to be mined: one look at the chain's head for all of them, and none while nobody waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from rail402.errors import OutcomeUnknown, Rail402Error, RailUnavailable
from rail402_base.rpc.abi import quantity
from rail402_base.rpc.endpoint import Call, Endpoint
from rail402_base.rpc.reader import ChainReader
from rail402_base.rpc.receipts import Receipt

__all__ = ["Watcher"]

logger = logging.getLogger("rail402.base")

# Where no block comes in so many looks, it looks half as often, then a third, down to an eighth.
_PATIENCE: Final = 8
_SLOWEST: Final = 8

Tend = Callable[[], Awaitable[None]]
"""Looks after what has waited for long."""


class Watcher:
    """Looks for the receipts of transactions until each has one.

    Args:
        reader: asks the nodes.
        poll_ms: milliseconds between two looks at the head while blocks come.
        tend_seconds: seconds between two calls of `tend`, as long as anything is waited for.
    """

    def __init__(self, reader: ChainReader, *, poll_ms: int, tend_seconds: int, tend: Tend) -> None:
        self._reader, self._poll_ms = reader, poll_ms
        self._tend, self._tend_seconds = tend, tend_seconds
        self._waiting: dict[str, asyncio.Future[Receipt | None]] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is waited for and no task is left."""
        return not self._waiting and (self._task is None or self._task.done())

    def watch(self, transaction: str) -> asyncio.Future[Receipt | None]:
        """Look for a transaction's receipt from now on.

        Returns:
            What has the receipt as its result; None where the transaction can never be mined. Others may wait for
            it too: it is not to be cancelled.
        """
        future = self._waiting.get(transaction)
        if future is None:
            future = self._waiting[transaction] = asyncio.get_running_loop().create_future()
            self._news.set()
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._look_until_done(), name="rail402-base-watcher")
        return future

    def resolve(self, transaction: str, receipt: Receipt | None) -> None:
        """Tell those who wait for a transaction what came of it; None: it can never be mined."""
        future = self._waiting.pop(transaction, None)
        if future is not None and not future.done():
            future.set_result(receipt)

    async def close(self) -> None:
        """Stop looking; whoever still waits is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for future in self._waiting.values():
            future.cancel()
        self._waiting.clear()

    async def _look_until_done(self) -> None:
        loop = asyncio.get_running_loop()
        head, quiet, tend_at = -1, 0, loop.time() + self._tend_seconds
        while self._waiting:
            is_new = self._news.is_set()
            self._news.clear()
            try:
                now_at = head if is_new else await self._head()
                if is_new or now_at > head:
                    head = max(head, await self._look())
                    quiet = 0
                else:
                    quiet += 1
                if loop.time() >= tend_at:
                    await self._tend()
                    tend_at = loop.time() + self._tend_seconds
            except Rail402Error as error:
                quiet = _PATIENCE * _SLOWEST
                logger.warning("%d transactions are waited for: %s", len(self._waiting), error)
            if self._waiting:
                await self._pause(min(1 + quiet // _PATIENCE, _SLOWEST))

    async def _pause(self, slowness: int) -> None:
        try:
            async with asyncio.timeout(self._poll_ms * slowness / 1000):
                await self._news.wait()
        except TimeoutError:
            return

    async def _head(self) -> int:
        async def ask(endpoint: Endpoint) -> int:
            (answer,) = await endpoint.ask([Call("eth_blockNumber")])
            return quantity(answer)

        return max(await self._reader.rpc.each(ask))

    async def _look(self) -> int:
        """Look for all receipts; return the newest block."""
        seen = await self._reader.seen(list(self._waiting))
        for transaction, by_node in seen.items():
            try:
                receipt = self._reader.agreed(by_node)
            except (OutcomeUnknown, RailUnavailable) as error:
                logger.error("%s", error)
            else:
                if receipt is not None:
                    self.resolve(transaction, receipt)
        return max((each.head.number for by_node in seen.values() for each in by_node), default=-1)
