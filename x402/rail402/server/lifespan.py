"""Opening a store and the rails over it, running the reconciler, and closing all of it again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection

from rail402.errors import RailUnavailable
from rail402.protocol.rail import PaymentRail
from rail402.server.reconciler import Reconciler
from rail402.server.services import Services
from rail402.stores.base import Store
from rail402.upstream import is_private_host

__all__ = ["Lifespan"]


class Lifespan:
    """From start to close.

    Args:
        store, rails: what is opened, and closed in the opposite order.
        logger: where it is said that a rail cannot be reached.

    Attributes:
        services: the parts while it is open, else None.
    """

    def __init__(self, store: Store, rails: Collection[PaymentRail], logger: logging.Logger) -> None:
        self._store, self._rails, self._logger = store, rails, logger
        self.services: Services | None = None
        self._opened = contextlib.AsyncExitStack()
        self._starting = asyncio.Lock()
        self._reconciling: asyncio.Task[None] | None = None

    async def start(
        self,
        assemble: Callable[[], Awaitable[Services]],
        prepare: Callable[[Services], Awaitable[None]] | None = None,
        *,
        reconciling: bool = True,
    ) -> Services:
        """Open the store and the rails, and start the reconciler; further calls do nothing. Return the services.

        Args:
            assemble: puts the services together, once the store is open.
            prepare: does what remains before the first request, once the rails are open.
            reconciling: whether the reconciler runs, where the settings have it run.
        """
        async with self._starting:
            if self.services is not None:
                return self.services
            async with contextlib.AsyncExitStack() as opened:  # what was opened is closed where the rest fails
                await self._store.start()
                opened.push_async_callback(self._store.close)
                services = await assemble()
                if services.redis is not None:
                    opened.push_async_callback(services.redis.close)
                    services.redis.start(self._store.wakeups)
                if all(rail.is_sandbox for rail in self._rails) and not is_private_host(services.settings.realm):
                    self._logger.warning("%s takes play money: its rails are sandboxes", services.settings.public_url)
                for rail in self._rails:
                    opened.push_async_callback(rail.close)
                    await self._start(rail)
                if prepare is not None:
                    await prepare(services)
                self._opened = opened.pop_all()
            self.services = services
            if services.settings.reconcile_seconds and reconciling:
                work = Reconciler(services).run_forever(services.settings.reconcile_seconds)
                self._reconciling = services.start(work)
            return services

    async def close(self) -> None:
        """Finish what is under way, then close the rails and the store."""
        services, self.services = self.services, None
        if services is None:
            return
        if self._reconciling is not None:
            self._reconciling.cancel()
        await services.drain()
        await self._opened.aclose()

    async def _start(self, rail: PaymentRail) -> None:
        """Start a rail; one that cannot be reached now makes no offers until it can, and stops nobody else."""
        try:
            await rail.start()
        except RailUnavailable as error:
            self._logger.warning("rail %s cannot be reached yet: %s", rail.spec.name, error)
