"""A further use of a pass: the handler runs for a payment that was settled before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from rail402.errors import PaymentRejected, Rail402Error, StoreError
from rail402.protocol.charge import Charge
from rail402.protocol.payment import Payment
from rail402.server.admission import Use
from rail402.server.delivery import Withheld
from rail402.server.exchange import Exchange
from rail402.server.fields import Remaining, content_length, end_to_end
from rail402.server.request import Message
from rail402.server.services import Services
from rail402.stores.base import StoredResponse

__all__ = ["PassDelivery"]

logger = logging.getLogger("rail402.server")


class PassDelivery:
    """The answer to one use; a failed one is given back, and one with an Idempotency-Key is kept for its repeat.

    A use is under way from when it is taken until its answer is complete, with a lease: one whose worker dies comes
    back. Nothing (more) of an answer leaves once that has happened. How slowly a client reads does not bring it back.

    Attributes:
        refusal: why the response is withheld, once it is.
        has_begun: whether anything has left.
    """

    def __init__(self, services: Services, payment: Payment, charge: Charge, use: Use, exchange: Exchange) -> None:
        self._services, self._payment, self._charge, self._exchange = services, payment, charge, exchange
        self._use = use
        self._head: Message = {}
        self._remaining = Remaining({}, "")
        self._copy: bytearray | None = bytearray() if exchange.request.slot else None
        self._served = self._ended = False
        self._staying: asyncio.Task[None] | None = None
        self.refusal: Rail402Error | None = None
        self.has_begun = False

    async def send(self, message: Message) -> None:
        """Take one ASGI message of the handler's response."""
        if self.refusal is not None:
            raise Withheld
        if message["type"] == "http.response.start":
            await self._start(message)
            return
        if message["type"] == "http.response.body" and self._served:
            await self._tee(message.get("body", b""), message.get("more_body", False))
            await self._begin()
        await self._exchange.send(message)

    async def close(self) -> None:
        """Give the use back where nothing usable was sent; count it where some of it was."""
        if self._staying is not None:
            self._staying.cancel()
        if self._ended:
            return
        store, use = self._services.store, self._use.id
        try:
            if self._served and self.has_begun:
                await self._services.shielded(store.end_use(self._charge.id, use))
            else:
                await self._services.shielded(store.return_use(self._charge.id, use))
        except StoreError as error:
            logger.warning("charge %s: a use comes back when its lease has ended: %s", self._charge.id, error)

    async def _start(self, message: Message) -> None:
        self._head, self._served = message, message["status"] < 400
        self._remaining = Remaining(message, self._exchange.request.order.method)
        if self._served:
            await self._renew()
        if not self._served or content_length(message) is None:
            await self._begin()  # else it waits for the body, which is usually whole

    async def _begin(self) -> None:
        """Let the head go, once."""
        if not self.has_begun:
            self.has_begun = True
            await self._exchange.begin(self._head, self._charge, self._payment if self._served else None)

    async def _tee(self, body: bytes, more: bool) -> None:
        if self._copy is not None:
            self._copy += body
            if len(self._copy) > self._services.settings.max_stored:
                self._copy = None
        more = self._remaining.after(body, more)
        if not more and self._remaining.is_missing:
            self._served = self.has_begun  # else nothing usable was sent
        elif more:
            await self._renew()
            self._staying = self._staying or asyncio.create_task(self._stay())
        elif not self._ended:
            await self._end()

    async def _renew(self) -> None:
        """Keep the lease of a long answer alive, until the use is counted."""
        settings, charge = self._services.settings, self._charge.id
        if not self._ended and self._use.lease_until - self._services.clock() < settings.lease_seconds // 2:
            self._use = Use(self._use.id, self._services.lease())
            renewing = self._services.store.renew_use(charge, self._use.id, lease_until=self._use.lease_until)
            await self._check(renewing)

    async def _stay(self) -> None:
        """Keep the lease while a client takes its time over a piece: it has that, and must not get its use back."""
        with suppress(Withheld):  # which the next piece meets
            while True:
                await asyncio.sleep(self._services.settings.lease_seconds / 4)
                await self._renew()

    async def _end(self) -> None:
        """Count the use before the last of its answer leaves, and keep that for a repeat."""
        response = None
        if self._copy is not None:
            head = self._head["status"], end_to_end(self._head.get("headers", ()))
            response = StoredResponse(*head, bytes(self._copy))
        self._ended = True
        if self._staying is not None:
            self._staying.cancel()
        await self._check(self._services.store.end_use(self._charge.id, self._use.id, response=response))

    async def _check(self, writing: Coroutine[Any, Any, bool]) -> None:
        """Withhold what has not left where the use is not ours any more; it goes out where the store is down."""
        try:
            is_ours = await self._services.shielded(writing)
        except StoreError as error:
            logger.warning("charge %s: what became of a use is not written: %s", self._charge.id, error)
            return
        if not is_ours:
            self._ended = True
            self.refusal = PaymentRejected(
                "it took too long, and its use was given back", code="payment_in_progress", retry_after=2
            )
            raise Withheld
