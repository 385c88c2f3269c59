"""Which charges changed, told between workers by PostgreSQL's NOTIFY: a wait ends at once, not with the next poll.

What is told may be lost, with a connection or with the process that would have told it; whoever waits polls too. A
notification is never part of the write that it is about: PostgreSQL lets transactions that notify commit one by one,
so that they would wait for the disk one by one.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

import psycopg
from psycopg import sql

from rail402.errors import StoreError
from rail402.stores.postgres_database import PostgresDatabase
from rail402.stores.sql import queries
from rail402.stores.wakeups import Wakeups

__all__ = ["Changes"]

logger = logging.getLogger("rail402.stores")

_SQL: Final = queries("postgres")
_AT_ONCE: Final = 100  # a notification holds 8000 bytes
_LONGEST_PAUSE: Final = 30


class Changes:
    """Tells other workers which charges changed here, and wakes who waits here for what changed there.

    Args:
        database: the one that the workers share.
        wakeups: who waits in this process.
    """

    def __init__(self, database: PostgresDatabase, wakeups: Wakeups) -> None:
        self._database, self._wakeups = database, wakeups
        self._changed: list[str] = []
        self._telling: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None

    def tell(self, charge_id: str) -> None:
        """Wake who waits for a charge, here now and elsewhere soon. What changes meanwhile is told together."""
        self._wakeups.wake(charge_id)
        self._changed.append(charge_id)
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell())

    def listen(self) -> None:
        """Hear what changes elsewhere from now on, on a connection of its own."""
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())

    async def close(self) -> None:
        """Tell what there is to tell, and listen no more."""
        telling, listening = self._telling, self._listening
        self._telling = self._listening = None
        if listening is not None:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        if telling is not None:
            await telling

    async def _tell(self) -> None:
        with suppress(StoreError):  # they poll
            while self._changed:
                some, self._changed = self._changed[:_AT_ONCE], self._changed[_AT_ONCE:]
                await self._database.fetch(_SQL["notify"], {"changed": " ".join(some)})

    async def _listen(self) -> None:
        pause = 1
        while True:
            try:
                async with await self._database.connect() as connection:
                    pause = 1
                    await self._hear(connection)
            except psycopg.Error as error:
                logger.info("changes in %s are polled for now: %s", self._database.address, type(error).__name__)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _hear(self, connection: psycopg.AsyncConnection[tuple[str, ...]]) -> None:
        row = await (await connection.execute(_SQL["channel"])).fetchone()
        assert row is not None
        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(row[0])))
        self._wakeups.wake_all()  # for what changed before
        async for notification in connection.notifies():
            for charge_id in notification.payload.split():
                self._wakeups.wake(charge_id)
