"""The flow of one request that has a price, from its payment to the challenge, the replay or the handler.

It is written once, for everything that can be sold: an `Exchange` says how a request carries payments and how it is
answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from rail402.errors import (
    MalformedInput,
    OutcomeUnknown,
    PaymentRejected,
    Rail402Error,
    RailUnavailable,
    RateLimited,
    StoreError,
)
from rail402.money import Money
from rail402.protocol.charge import Charge
from rail402.protocol.payment import Payment
from rail402.protocol.rail import PaymentRail
from rail402.server.admission import Admission, Admitted, Use
from rail402.server.challenge import make_challenge
from rail402.server.delivery import Delivery, Withheld
from rail402.server.exchange import Exchange
from rail402.server.passes import PassDelivery
from rail402.server.pending import pending_among
from rail402.server.request import Send
from rail402.server.services import Services
from rail402.server.settings import Rule

__all__ = ["Handler", "Visit"]

_ANSWERED = (PaymentRejected, MalformedInput, RateLimited, RailUnavailable, OutcomeUnknown, StoreError)

Handler = Callable[[Send, Charge, "Delivery | None"], Awaitable[None]]
"""Makes what is sold for a charge and sends it as ASGI messages; the delivery is of what is not settled yet."""


def _is_same(one: Payment, other: Payment) -> bool:
    """Whether two dialects have read the same proof, for the same offer where they say so."""
    return (one.rail, one.payload, one.offer_token) == (other.rail, other.payload, other.offer_token)


class Visit:
    """One request that has a price."""

    def __init__(self, services: Services, rule: Rule, price: Money, exchange: Exchange) -> None:
        self._services, self._rule, self._price, self._exchange = services, rule, price, exchange
        self._request = exchange.request

    async def run(self, handler: Handler) -> None:
        """Answer the request; what the handler raises, and what is a bug, goes on to the caller."""
        payment: Payment | None = None
        admission: Admission | None = None
        try:
            payment = self._payment()
            if payment is None:
                await self._challenge(None)
                return
            rail = self._rail(payment)
            admission = Admission(self._services, self._rule, self._request, self._price, payment, rail)
            admitted = await admission.admit()
        except Rail402Error as error:
            known = admission.charge if admission is not None and isinstance(error, OutcomeUnknown) else None
            await self._answer(error, known, payment)
            return
        if admitted.replay is not None:
            await self._replay(admitted, payment)
        elif admitted.use is not None:
            await self._use(admitted.charge, admitted.use, payment, handler)
        else:
            await self._deliver(admitted.charge, payment, rail, handler)

    def _payment(self) -> Payment | None:
        """Return the one payment that the request carries; two different ones are refused.

        Dialects that read the same field find the same payment; it is the first one's.
        """
        found = list[Payment]()
        for payment in self._exchange.payments():
            if not any(_is_same(payment, known) for known in found):
                found.append(payment)
        if len(found) > 1:
            raise MalformedInput("payment", "send one payment, in one dialect", code="several_payments")
        return found[0] if found else None

    def _rail(self, payment: Payment) -> PaymentRail:
        for rail in self._services.rails_of(self._rule):
            if rail.spec.name == payment.rail:
                return rail
        raise PaymentRejected(f"this route does not take {payment.rail}", code="method_not_offered")

    # --- answers without the handler

    async def _challenge(
        self, error: Rail402Error | None, charge: Charge | None = None, payment: Payment | None = None
    ) -> None:
        # An invoice that came back with a wrong preimage is shown once more: nobody can pay it twice.
        wrong = payment is not None and error is not None and error.code == "preimage_invalid"
        unpaid = payment.offer if payment is not None and wrong else None
        shown = [*([] if payment is None else [payment]), *([] if error is None else error.shown)]
        try:
            await self._services.limiter.challenge(self._request.scope, self._request.order.route)
            pending = await pending_among(self._services, shown)
            if pending is not None:
                await self._exchange.refuse(pending, None, payment)
                return
            challenge = await make_challenge(self._services, self._rule, self._request, self._price, error, unpaid)
        except (RailUnavailable, RateLimited, StoreError) as unavailable:
            await self._exchange.refuse(unavailable, charge, payment)
        else:
            await self._exchange.ask(challenge, charge, payment)

    async def _answer(self, error: Rail402Error, charge: Charge | None = None, payment: Payment | None = None) -> None:
        """Answer an error: with a fresh challenge only where a new payment is what helps."""
        if not isinstance(error, _ANSWERED):
            raise error
        if payment is not None:
            error.rail = payment.rail
        payable = isinstance(error, PaymentRejected | MalformedInput)
        if payable and error.status == 402 and not error.retryable:
            await self._challenge(error, charge, payment)
        else:
            await self._exchange.refuse(error, charge, payment)

    async def _replay(self, admitted: Admitted, payment: Payment) -> None:
        response = admitted.replay
        assert response is not None
        head = {"type": "http.response.start", "status": response.status, "headers": list(response.fields)}
        await self._exchange.begin(head, admitted.charge, payment, replayed=True)
        await self._exchange.send({"type": "http.response.body", "body": response.body})

    # --- the handler

    async def _deliver(self, charge: Charge, payment: Payment, rail: PaymentRail, handler: Handler) -> None:
        delivery = Delivery(self._services, rail, payment, charge, self._exchange)
        try:
            await delivery.prepare()
        except Rail402Error as error:
            await self._answer(error, delivery.charge, payment)
            return
        try:
            await handler(delivery.send, delivery.charge, delivery)
        except* Withheld:
            pass  # what is sent instead follows; anything else that the handler raised goes on to the server
        finally:
            await self._finish(delivery, payment)

    async def _finish(self, delivery: Delivery, payment: Payment) -> None:
        """Answer in the handler's place where nothing of its response has left."""
        await delivery.abandon()
        if delivery.refusal is not None:
            await self._answer(delivery.refusal, delivery.charge, payment)
        elif not delivery.has_begun:
            await self._failed(delivery.charge)

    async def _failed(self, charge: Charge) -> None:
        error = Rail402Error(f"the payment is {charge.payment}", code="handler_failed")
        await self._exchange.refuse(error, charge, None)

    async def _use(self, charge: Charge, use: Use, payment: Payment, handler: Handler) -> None:
        delivery = PassDelivery(self._services, payment, charge, use, self._exchange)
        try:
            await handler(delivery.send, charge, None)
        except* Withheld:
            pass
        finally:
            await delivery.close()
            if delivery.has_begun:
                pass
            elif delivery.refusal is not None:
                await self._answer(delivery.refusal, charge, payment)
            else:
                await self._failed(charge)
