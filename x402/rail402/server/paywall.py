"""What stands in front of one paid route: pure ASGI, from the request to the challenge, the replay or the handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial

from starlette._exception_handler import wrap_app_handling_exceptions
from starlette.requests import Request

from rail402.errors import MalformedInput, Rail402Error
from rail402.money import Money
from rail402.protocol.challenge import Challenge
from rail402.protocol.charge import Charge
from rail402.protocol.payment import Payment
from rail402.server.answers import refuse, send_challenge
from rail402.server.challenge import price_of
from rail402.server.delivery import Delivery
from rail402.server.exchange import Exchange, read_each
from rail402.server.fields import failed_fields, free_fields, outcome_lines, paid_fields
from rail402.server.request import ClientDisconnected, GatedRequest, Message, Receive, Scope, Send, read_body
from rail402.server.services import Services
from rail402.server.settings import Rule
from rail402.server.visit import Visit

__all__ = ["CHARGE_KEY", "DELIVERY_KEY", "Admittance", "App", "Paywall", "current_admittance"]

App = Callable[[Scope, Receive, Send], Awaitable[None]]

CHARGE_KEY = "rail402.charge"
"""Where the ASGI scope holds the charge that admitted the request."""

DELIVERY_KEY = "rail402.delivery"
"""Where it holds the delivery of what is not settled yet."""

_BODY_EXTENSIONS = ("http.response.pathsend", "http.response.zerocopysend")


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
            await self._sell(services, request, price, send)

    async def _sell(self, services: Services, request: GatedRequest, price: Money, send: Send) -> None:
        async def handle(answer: Send, charge: Charge, delivery: Delivery | None) -> None:
            if delivery is not None:
                request.scope[DELIVERY_KEY] = delivery
            await self._admit(_visible(request.scope), request.receive, answer, charge)

        await Visit(services, self._rule, price, _HttpExchange(services, self._rule, request, send)).run(handle)

    async def _price(self, request: GatedRequest) -> Money | None:
        try:
            return await price_of(self._rule, lambda: Request(dict(request.scope), request.rewind()))
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


class _HttpExchange(Exchange):
    """A request over HTTP: payments, challenges and receipts are header fields in the dialects of its route."""

    def __init__(self, services: Services, rule: Rule, request: GatedRequest, send: Send) -> None:
        self.request: GatedRequest = request
        self._services, self._rule, self._send = services, rule, send

    def payments(self) -> list[Payment]:
        asked = self.request.fields, self.request.order.body_digest, self._services.context()
        return read_each(partial(dialect.payments, *asked) for dialect in self._services.dialects_of(self._rule))

    async def ask(self, challenge: Challenge, charge: Charge | None, payment: Payment | None) -> None:
        outcome = outcome_lines(self._services, charge, payment)
        await send_challenge(self._services, self._rule, self.request, challenge, self._send, outcome)

    async def refuse(self, error: Rail402Error, charge: Charge | None, payment: Payment | None) -> None:
        outcome = outcome_lines(self._services, charge, payment)
        await refuse(self._services, self._rule, self.request, error, self._send, outcome)

    async def begin(self, head: Message, charge: Charge, payment: Payment | None, *, replayed: bool = False) -> None:
        own = head.get("headers", ())
        if payment is None:
            headers = failed_fields(self._services, self._rule, charge, own)
        else:
            headers = paid_fields(self._services, self._rule, charge, payment, own, replayed=replayed)
        await self._send({**head, "headers": headers})

    async def send(self, message: Message) -> None:
        await self._send(message)
