"""What stands in front of one paid route: pure ASGI, from the request to the challenge, the replay or the handler."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from starlette._exception_handler import wrap_app_handling_exceptions
from starlette.requests import Request

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
from rail402.server.admission import Admission, Admitted
from rail402.server.answers import refuse, send_challenge
from rail402.server.challenge import make_challenge, price_of
from rail402.server.delivery import Delivery, Withheld
from rail402.server.fields import free_fields, outcome_lines, paid_fields
from rail402.server.passes import PassDelivery
from rail402.server.request import ClientDisconnected, GatedRequest, Message, Receive, Scope, Send, read_body
from rail402.server.services import Services
from rail402.server.settings import Rule

__all__ = ["CHARGE_KEY", "DELIVERY_KEY", "Admittance", "App", "Paywall", "current_admittance"]

logger = logging.getLogger("rail402.server")

App = Callable[[Scope, Receive, Send], Awaitable[None]]

CHARGE_KEY = "rail402.charge"
"""Where the ASGI scope holds the charge that admitted the request."""

DELIVERY_KEY = "rail402.delivery"
"""Where it holds the delivery of what is not settled yet."""

_BODY_EXTENSIONS = ("http.response.pathsend", "http.response.zerocopysend")
_BODY_FIELDS = (b"content-length", b"transfer-encoding")

_ANSWERED = (PaymentRejected, MalformedInput, RateLimited, RailUnavailable, OutcomeUnknown, StoreError)


@dataclass(frozen=True, slots=True)
class Admittance:
    """That a request has passed the gate for `rule`; `charge` is None where it was free."""

    rule: Rule
    charge: Charge | None


_admittance: ContextVar[Admittance | None] = ContextVar("rail402_admittance", default=None)


def current_admittance() -> Admittance | None:
    """Return how the running request passed a gate, or None where it passed none."""
    return _admittance.get()


class Paywall:
    """An ASGI app that lets a request through to `app` once it is paid.

    Args:
        app: the matched route's own app.
        rule: what the route asks.
        route: the route's id, such as `GET /article/{slug}`.
        services: returns the gate's parts; called per request, when the gate has started.
    """

    def __init__(self, app: App, rule: Rule, route: str, services: Callable[[], Services]) -> None:
        self._app, self._rule, self._route, self._services = app, rule, route, services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008, "reason": "a websocket cannot be paid for"})
            return
        services = self._services()
        if scope["method"] == "OPTIONS":  # a browser asks before it sends a payment: it needs the fields, never a body
            await self._admit(_visible(scope), receive, _bare(send), None)
            return
        request: GatedRequest | None = None
        try:
            body = await read_body(scope, receive, services.settings.max_body)
            origin = services.settings.public_url
            request = GatedRequest(scope, receive, body, public_url=origin, route=self._route)
            price = await self._price(request)
        except ClientDisconnected:
            return
        except MalformedInput as error:
            await refuse(services, self._rule, request, error, send)
            return
        if price is None:
            await self._admit(scope, request.receive, self._free(services, send), None)
        else:
            await _Visit(services, self._rule, request, price, send).run(self._admit)

    async def _price(self, request: GatedRequest) -> Money | None:
        try:
            return await price_of(self._rule, request)
        except (
            ValueError,
            RecursionError,
        ) as error:  # a price function that parses the body met nonsense
            raise MalformedInput("body", "cannot be read to tell its price", code="malformed_request") from error

    def _free(self, services: Services, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = free_fields(services, self._rule, message.get("headers", ()))
                message = {**message, "headers": headers}
            await send(message)

        return sending

    async def _admit(self, scope: Scope, receive: Receive, send: Send, charge: Charge | None) -> None:
        """Run the handler, which can tell that it was reached through the gate.

        What a bare ASGI app raises (`HTTPException`, as `StaticFiles` does) becomes its response here already, so that
        it is seen what became of the request.
        """
        scope[CHARGE_KEY] = charge
        token = _admittance.set(Admittance(self._rule, charge))
        try:
            await wrap_app_handling_exceptions(self._app, Request(scope, receive, send))(scope, receive, send)
        finally:
            _admittance.reset(token)


def _visible(scope: Scope) -> Scope:
    """Return the scope without the extensions by which a body would pass the gate unseen."""
    offered = scope.get("extensions") or {}
    scope["extensions"] = {name: value for name, value in offered.items() if name not in _BODY_EXTENSIONS}
    return scope


def _bare(send: Send) -> Send:
    """Return a `send` that lets no body through."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [line for line in message.get("headers", ()) if line[0].lower() not in _BODY_FIELDS]
            await send({"type": "http.response.start", "status": message["status"], "headers": kept})
        elif message["type"] == "http.response.body":
            await send({"type": "http.response.body", "body": b"", "more_body": message.get("more_body", False)})

    return sending


Handler = Callable[[Scope, Receive, Send, "Charge | None"], Awaitable[None]]


def _is_same(one: Payment, other: Payment) -> bool:
    """Whether two dialects have read the same proof, for the same offer where they say so."""
    return (one.rail, one.payload, one.offer_token) == (other.rail, other.payload, other.offer_token)


class _Visit:
    """One request that has a price."""

    def __init__(self, services: Services, rule: Rule, request: GatedRequest, price: Money, send: Send) -> None:
        self._services, self._rule, self._request, self._price = services, rule, request, price
        self._send = send

    async def run(self, handler: Handler) -> None:
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
        elif admitted.use:
            await self._use(admitted.charge, payment, handler)
        else:
            await self._deliver(admitted.charge, payment, rail, handler)

    def _payment(self) -> Payment | None:
        """Return the one payment that the request carries; two different ones are refused.

        Dialects that read the same field find the same payment; it is the first one's.
        """
        context, found = self._services.context(), list[Payment]()
        for dialect in self._services.dialects_of(self._rule):
            for payment in dialect.payments(self._request.fields, self._request.order.body_digest, context):
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
        self, error: Rail402Error | None, outcome: Sequence[tuple[str, str]] = (), payment: Payment | None = None
    ) -> None:
        # An invoice that came back with a wrong preimage is shown once more: nobody can pay it twice.
        wrong = payment is not None and error is not None and error.code == "preimage_invalid"
        unpaid = payment.offer if payment is not None and wrong else None
        try:
            await self._services.limiter.challenge(self._request.scope, self._request.order.route)
            challenge = await make_challenge(self._services, self._rule, self._request, self._price, error, unpaid)
        except (RailUnavailable, RateLimited, StoreError) as unavailable:
            await refuse(self._services, self._rule, self._request, unavailable, self._send, outcome)
        else:
            await send_challenge(self._services, self._rule, self._request, challenge, self._send, outcome)

    async def _answer(self, error: Rail402Error, charge: Charge | None = None, payment: Payment | None = None) -> None:
        """Answer an error: with a fresh challenge only where a new payment is what helps."""
        if not isinstance(error, _ANSWERED):
            raise error
        if payment is not None:
            error.rail = payment.rail
        outcome = outcome_lines(self._services, charge, payment)
        payable = isinstance(error, PaymentRejected | MalformedInput)
        if payable and error.status == 402 and not error.retryable:
            await self._challenge(error, outcome, payment)
        else:
            await refuse(self._services, self._rule, self._request, error, self._send, outcome)

    async def _replay(self, admitted: Admitted, payment: Payment) -> None:
        response = admitted.replay
        assert response is not None
        headers = paid_fields(self._services, self._rule, admitted.charge, payment, response.fields, replayed=True)
        await self._send({"type": "http.response.start", "status": response.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": response.body})

    # --- the handler

    async def _deliver(self, charge: Charge, payment: Payment, rail: PaymentRail, handler: Handler) -> None:
        delivery = Delivery(self._services, self._rule, rail, payment, charge, self._request.slot, self._send)
        try:
            await delivery.prepare()
        except Rail402Error as error:
            await self._answer(error, delivery.charge, payment)
            return
        self._request.scope[DELIVERY_KEY] = delivery
        try:
            await handler(_visible(self._request.scope), self._request.receive, delivery.send, delivery.charge)
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
        outcome = outcome_lines(self._services, charge, None)
        await refuse(self._services, self._rule, self._request, error, self._send, outcome)

    async def _use(self, charge: Charge, payment: Payment, handler: Handler) -> None:
        delivery = PassDelivery(self._services, self._rule, payment, charge, self._request.slot, self._send)
        try:
            await handler(_visible(self._request.scope), self._request.receive, delivery.send, charge)
        finally:
            await delivery.close()
            if not delivery.has_begun:
                await self._failed(charge)
