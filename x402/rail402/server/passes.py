"""A further use of a pass: the handler runs for a payment that was settled before."""

from __future__ import annotations

import logging

from rail402.errors import StoreError
from rail402.protocol.charge import Charge
from rail402.protocol.payment import Payment
from rail402.server.fields import end_to_end, failed_fields, paid_fields
from rail402.server.request import Message, Send
from rail402.server.services import Services
from rail402.server.settings import Rule
from rail402.stores.base import StoredResponse

__all__ = ["PassDelivery"]

logger = logging.getLogger("rail402.server")


class PassDelivery:
    """The answer to one use; a failed one is given back, and one with an Idempotency-Key is kept for its repeat.

    Attributes:
        has_begun: whether anything has left.
    """

    def __init__(self, services: Services, rule: Rule, payment: Payment, charge: Charge, slot: str, send: Send) -> None:
        self._services, self._rule, self._payment, self._charge = services, rule, payment, charge
        self._slot, self._send = slot, send
        self._head: Message = {}
        self._copy: bytearray | None = bytearray() if slot else None
        self._served = False
        self.has_begun = False

    async def send(self, message: Message) -> None:
        """Take one ASGI message of the handler's response."""
        if message["type"] == "http.response.start":
            await self._start(message)
            return
        if message["type"] == "http.response.body" and self._served:
            await self._tee(message.get("body", b""), message.get("more_body", False))
        await self._send(message)

    async def close(self) -> None:
        """Give the use back where nothing usable was sent."""
        if self._served:
            return
        try:
            await self._services.shielded(self._services.store.return_use(self._charge.id))
        except StoreError as error:
            logger.warning("charge %s: a failed use is not given back: %s", self._charge.id, error)

    async def _start(self, message: Message) -> None:
        self._head, own = message, list(message.get("headers", ()))
        self._served = message["status"] < 400
        if self._served:
            headers = paid_fields(self._services, self._rule, self._charge, self._payment, own)
        else:
            headers = failed_fields(self._services, self._rule, self._charge, own)
        self.has_begun = True
        await self._send({**message, "headers": headers})

    async def _tee(self, body: bytes, more: bool) -> None:
        if self._copy is None:
            return
        self._copy += body
        if len(self._copy) > self._services.settings.max_stored:
            self._copy = None
        elif not more:
            await self._keep(bytes(self._copy))

    async def _keep(self, body: bytes) -> None:
        """Keep the response for its repeat; it goes out even where the store is down."""
        response = StoredResponse(self._head["status"], end_to_end(self._head.get("headers", ())), body)
        try:
            await self._services.shielded(self._services.store.keep_use(self._charge.id, self._slot, response))
        except StoreError as error:
            logger.warning("charge %s: the response of a use is not kept: %s", self._charge.id, error)
