"""The handler's answer on its way to the payer: held back until it is paid for, never buffered to be able to charge.

`Delivery` stands between the handler and the server as the ASGI `send`. When a 2xx or 3xx response starts, it settles
(or captures) before that message leaves; then the body streams through, copied into the store up to a limit and
committed there before its last message leaves. If the money does not come, `send` raises `Withheld`: nothing of the
response leaves, and background tasks do not run.

A response whose length is known to fit the store waits for its first body message: that is usually the whole body, and
then settlement, receipt (with the response's digest) and stored response are one write.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from decimal import ROUND_CEILING
from enum import Enum, auto

from rail402.errors import ConfigurationError, OutcomeUnknown, Rail402Error, StaleCharge, StoreError
from rail402.money import Money
from rail402.protocol.base import sha256_hex
from rail402.protocol.charge import Charge, DeliveryEvent, PaymentEvent, PaymentState
from rail402.protocol.offer import Offer
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Holds, PaymentRail, Refunds
from rail402.server.exchange import Exchange
from rail402.server.fields import Remaining, content_length, end_to_end
from rail402.server.operations import Finished, hold, refund, release, settle, verdict, with_receipt
from rail402.server.refunds import obstacle
from rail402.server.request import Message
from rail402.server.services import Services
from rail402.stores.base import StoredResponse

__all__ = ["Delivery", "Withheld"]

logger = logging.getLogger("rail402.server")


class Withheld(Exception):
    """Tells the handler's framework that nothing (more) of the response leaves."""


class _Phase(Enum):
    WAITING = auto()  # for the handler, or for the first body message of a response that fits the store
    STREAMING = auto()  # the head has left
    FAILED = auto()  # the handler answered with an error, which passes
    DRAINING = auto()  # settlement unknown: the rest is collected for the day the lookup says settled
    WITHHELD = auto()


class Delivery:
    """The answer to one payment.

    Attributes:
        charge: the charge as it stands.
        refusal: why the response is withheld, once it is.
    """

    def __init__(
        self, services: Services, rail: PaymentRail, payment: Payment, charge: Charge, exchange: Exchange
    ) -> None:
        self.charge = charge
        self.refusal: Rail402Error | None = None
        self._services, self._rail, self._payment, self._exchange = services, rail, payment, exchange
        self._slot = exchange.request.slot
        self._phase = _Phase.WAITING
        self._head: Message = {}
        self._remaining = Remaining({}, "")
        self._copy: bytearray | None = bytearray()
        self._kept = False
        self._goes_on = False

    @property
    def has_begun(self) -> bool:
        """Whether anything has left."""
        return self._phase in (_Phase.STREAMING, _Phase.FAILED)

    def reduce(self, price: Money) -> bool:
        """Take only `price` of what is held, and say whether just that is taken.

        It is not where the rail or the flow takes all or nothing, and where the rail cannot take so little: there the
        least is taken that can be.

        Raises:
            ConfigurationError: it is not between nothing and the whole price, in the price's currency; or the
                response has begun.
        """
        whole = self.charge.price
        if price.currency != whole.currency or not 0 < price.amount <= whole.amount:
            raise ConfigurationError(f"{price} must be more than nothing, and at most the price of {whole}")
        if self._head:
            raise ConfigurationError("reduce the price before the response begins")
        if not self._rail.takes_less or self.charge.payment is not PaymentState.HELD:
            return False
        asked = _share(self.charge.offer, price, whole)
        taken = self._rail.least_taken(self.charge.offer, min(asked, self.charge.offer.amount))
        self.charge = self.charge.model_copy(update={"reduced_to": taken})
        return taken == asked

    def interrupt(self) -> None:
        """Have the end of this run be no failure: it asks for something first, and the same payment pays for its going
        on. What is not settled is released all the same; what is settled stays owed, as if nothing had run yet."""
        self._goes_on = True

    async def prepare(self) -> None:
        """Take or reserve the money where the flow wants that before the handler, and mark the handler as running.

        Raises:
            PaymentRejected, OutcomeUnknown, RailUnavailable: the money did not come.
        """

        def start(charge: Charge) -> Finished:
            if charge.payment in (PaymentState.SETTLED, PaymentState.HELD):
                charge = charge.deliver(DeliveryEvent.START, lease_until=charge.lease_until)
            return Finished(charge)

        if self.charge.payment is PaymentState.SETTLING:
            self.charge = await settle(self._services, self._rail, self.charge, self._payment, start)
        elif self.charge.payment is PaymentState.HOLDING:
            self.charge = await hold(self._services, self._rail, self.charge, self._payment, start)
        error = verdict(self.charge)
        if error is not None:
            raise error

    # --- what the handler sends

    async def send(self, message: Message) -> None:
        """Take one ASGI message of the handler's response."""
        match message["type"], self._phase:
            case _, _Phase.WITHHELD:
                raise Withheld
            case "http.response.start", _Phase.WAITING if not self._head:
                await self._start(message)
            case "http.response.body", _ if self._head:
                await self._body(message, message.get("body", b""), message.get("more_body", False))
            case _ if self.has_begun:
                await self._exchange.send(message)
            case other, _:  # what would leave before the head, and so before the payment
                logger.warning("charge %s: %s came out of order and is dropped", self.charge.id, other)

    async def _start(self, message: Message) -> None:
        self._head = message
        self._remaining = Remaining(message, self._exchange.request.order.method)
        if message["status"] >= 400:
            await self.fail()
            await self._leave(_Phase.FAILED)
        elif not self._fits:
            await self._pay(None)
            await self._leave(_Phase.STREAMING)

    async def _body(self, message: Message, body: bytes, more: bool) -> None:
        more = self._remaining.after(body, more)
        broke_off = not more and self._remaining.is_missing
        if broke_off and self._phase is _Phase.WAITING:
            await self.fail()
            await self._leave(_Phase.FAILED)
        elif self._phase is _Phase.WAITING:
            whole = None if more else body
            if self.charge.payment is PaymentState.SETTLED and whole is not None:
                await self._keep(with_receipt(self._services, self.charge, sha256_hex(whole)), whole)
            else:
                await self._pay(whole)
            if self._phase is _Phase.WAITING:
                await self._leave(_Phase.STREAMING)
        if self._phase is _Phase.FAILED:
            await self._exchange.send(message)
        elif self._phase is _Phase.DRAINING:
            await self._drain(body, more, broke_off=broke_off)
        else:
            if not self._kept and not broke_off:  # what broke off is the end of a failed handler
                await self._tee(body, more)
            await (self._exchange.send(message) if self._kept else self._send_slowly(message))

    async def _send_slowly(self, message: Message) -> None:
        """Send a piece that is not the last. A client that takes its time over it has not lost its worker, and must not
        get another run for that: the lease is renewed meanwhile."""
        every, sent = self._services.settings.lease_seconds / 4, asyncio.Event()
        staying = list[asyncio.Task[None]]()

        async def stay() -> None:
            while not sent.is_set():
                await self._renew()
                with suppress(TimeoutError):
                    async with asyncio.timeout(every):
                        await sent.wait()

        loop = asyncio.get_running_loop()
        timer = loop.call_later(every, lambda: staying.append(loop.create_task(stay())))
        try:
            await self._exchange.send(message)
        finally:
            timer.cancel()
            sent.set()
            if staying:
                await asyncio.gather(*staying)  # never two of our own writes at once

    @property
    def _fits(self) -> bool:
        """Whether the response is known to fit the store."""
        length = content_length(self._head)
        return length is not None and length <= self._services.settings.max_stored

    async def _leave(self, phase: _Phase) -> None:
        """Let the head go, with what the gate has to say."""
        self._phase = phase
        await self._exchange.begin(self._head, self.charge, None if phase is _Phase.FAILED else self._payment)

    # --- the money

    async def _pay(self, whole: bytes | None) -> None:
        """Settle before anything leaves; `whole` is the complete body where it is known already."""
        if self.charge.payment is PaymentState.SETTLED:
            await self._renew()  # after a slow handler the money may have gone back
            return

        def finish(charge: Charge) -> Finished:
            match charge.payment:
                case PaymentState.SETTLED if whole is not None:
                    return self._stored(with_receipt(self._services, charge, sha256_hex(whole)), whole)
                case PaymentState.UNKNOWN if whole is not None:
                    return self._stored(charge, whole)
                case PaymentState.SETTLED:
                    return Finished(charge)
                case PaymentState.UNKNOWN if self._fits:
                    return Finished(charge)  # drained first
                case _:  # the work is done: what became of the money may be looked at
                    return Finished(charge.deliver(DeliveryEvent.FAIL, lease_until=self._services.clock()))

        try:
            self.charge = await settle(self._services, self._rail, self.charge, self._payment, finish)
            self.refusal = verdict(self.charge)
        except Rail402Error as error:  # the store, or our lease: nothing may leave
            self._phase, self.refusal = _Phase.WITHHELD, error
            raise Withheld from error
        if self.refusal is None:
            self._kept = whole is not None
        elif self.charge.payment is PaymentState.UNKNOWN and whole is None and self._fits:
            self._phase = _Phase.DRAINING
        else:
            self._phase = _Phase.WITHHELD
            raise Withheld from self.refusal

    # --- the copy for replays

    def _stored(self, charge: Charge, whole: bytes) -> Finished:
        """Return the charge with its complete response; the first use of a pass keeps it under its Idempotency-Key."""
        settled = charge.payment is PaymentState.SETTLED
        lease = self._services.clock()  # the work is done: nobody has to be trusted with it any longer
        if not charge.is_pass:
            return Finished(charge.deliver(DeliveryEvent.STORE, lease_until=lease), self._response(whole))
        event = DeliveryEvent.STREAM if settled else DeliveryEvent.FAIL
        response = self._response(whole) if settled and self._slot else None
        return Finished(charge.deliver(event, lease_until=lease), response, self._slot)

    def _response(self, whole: bytes) -> StoredResponse:
        return StoredResponse(self._head["status"], end_to_end(self._head.get("headers", ())), whole)

    async def _keep(self, charge: Charge, whole: bytes) -> None:
        self._kept = True  # a caller that is cancelled meanwhile cancels no write
        await self._write(self._stored(charge, whole))

    async def _tee(self, body: bytes, more: bool) -> None:
        if self._copy is not None and len(self._copy) + len(body) <= self._services.settings.max_stored:
            self._copy += body
        else:
            self._copy = None  # past the limit: a partial copy is dropped
        if more:
            await self._renew()
        elif self._copy is not None:
            await self._keep(self.charge, bytes(self._copy))
        else:
            self._kept = True
            await self._write(Finished(self.charge.deliver(DeliveryEvent.STREAM, lease_until=self._services.clock())))

    async def _drain(self, body: bytes, more: bool, *, broke_off: bool) -> None:
        assert self._copy is not None
        self._copy += body
        if len(self._copy) > self._services.settings.max_stored or not more:
            self._phase = _Phase.WITHHELD
            if not more and not broke_off:
                await self._keep(self.charge, bytes(self._copy))
            raise Withheld

    async def _renew(self) -> None:
        """Keep the lease of a long answer alive."""
        if self.charge.lease_until - self._services.clock() < self._services.settings.lease_seconds // 2:
            await self._write(Finished(self.charge.model_copy(update={"lease_until": self._services.lease()})))

    async def _write(self, finished: Finished) -> None:
        """Write the delivery. The money is ours by now: what cannot be written is sent all the same, and not kept.

        A late worker finds the row changed and writes nothing more. Where the store is down, the lease will lapse.
        """
        try:
            self.charge = await self._services.shielded(finished.save(self._services.store))
        except StaleCharge:
            logger.warning("charge %s: another worker has taken over its delivery", self.charge.id)
            self._copy, self._kept = None, True
            await self._give_way()
        except StoreError as error:
            logger.warning("charge %s: its delivery is not written: %s", self.charge.id, error)

    async def _give_way(self) -> None:
        """Withhold a response that has not begun to leave, unless the money is still ours (it may have gone back) and
        nobody runs, or ran, the handler in this run's place."""
        if self.has_begun:
            return
        current = await self._services.store.get(self.charge.id)
        mine = PaymentState.SETTLED, self.charge.reruns
        if current is None or (current.payment, current.reruns) != mine:
            refused = None if current is None else verdict(current)
            self.refusal = refused or OutcomeUnknown(f"charge {self.charge.id} was given up", retry_after=5)
            self._phase = _Phase.WITHHELD
            raise Withheld

    # --- when the handler fails

    async def abandon(self) -> None:
        """Undo what can be undone after a handler that ended without a complete response."""
        if self.refusal is None and not self._kept and self._phase is not _Phase.FAILED:
            await self.fail()

    async def fail(self) -> None:
        """Undo the payment after a failed handler; its answer goes out even where that hangs."""
        await asyncio.wait({self._services.start(self._undo())}, timeout=self._services.settings.release_seconds)

    async def _undo(self) -> None:
        try:
            await self._undo_payment()
        except StaleCharge:  # a write of this very run outlived it, as a rule: the row says what comes of the charge
            logger.debug("charge %s: it has gone on since its handler failed", self.charge.id)
        except Rail402Error as error:  # the row says what may have happened: the reconciler goes on from there
            logger.warning("charge %s: after a failed handler: %s", self.charge.id, error)

    async def _undo_payment(self) -> None:
        services, charge = self._services, self.charge
        failed = charge.deliver(DeliveryEvent.FAIL, lease_until=services.lease())
        if charge.payment is PaymentState.CLAIMED:
            failed = failed.on(PaymentEvent.RELEASED, lease_until=services.lease())
        elif self._is_given_back(failed):  # in the same write: a worker that dies now must not have forgotten it
            failed = failed.on(PaymentEvent.REFUND, lease_until=services.lease(), asked_at=services.clock())
        elif self._goes_on and charge.payment is PaymentState.SETTLED:
            failed = failed.deliver(DeliveryEvent.RESET, lease_until=services.clock())
        elif charge.is_pass and charge.reruns and self._phase is not _Phase.STREAMING:
            failed = failed.model_copy(update={"reruns": charge.reruns - 1})  # as every use that fails is given back
        self.charge = await services.store.save(failed)
        if self.charge.payment is PaymentState.HELD and isinstance(self._rail, Holds):
            self.charge = await release(services, self._rail, self.charge)
        elif self.charge.payment is PaymentState.REFUNDING:
            self.charge = await refund(services, self._rail, self.charge)

    def _is_given_back(self, charge: Charge) -> bool:
        """Whether settled money goes back because it bought nothing.

        The handler's error may have left by now, but none of the goods. After a rerun nothing goes back: the first run
        may have delivered, and payers can make a handler fail.
        """
        if charge.payment is not PaymentState.SETTLED or self._phase is _Phase.STREAMING or charge.is_pass:
            return False
        if self._goes_on:
            return False
        return isinstance(self._rail, Refunds) and charge.is_first_run and obstacle(self._rail, charge) is None


def _share(offer: Offer, price: Money, whole: Money) -> int:
    """Return `price` in the offer's atomic units: exactly where it is in the offer's currency, which may have been made
    at another price than today's; else in proportion to the `whole` price."""
    if price.currency == offer.currency:
        return price.to_atomic(offer.exponent)
    return int((offer.amount * price.amount / whole.amount).to_integral_value(ROUND_CEILING))
