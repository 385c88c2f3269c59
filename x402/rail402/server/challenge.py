"""The 402: every offer that the route's rails can make, said in every dialect at once; and all other refusals."""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request

from rail402.errors import ConfigurationError, Rail402Error, RailUnavailable
from rail402.money import Money, as_money
from rail402.protocol.challenge import Challenge
from rail402.protocol.dialect import Dialect
from rail402.protocol.endpoint import DISCOVERY, Endpoints
from rail402.protocol.offer import Flow, Mechanism, Offer
from rail402.protocol.rail import PaymentRail, Terms
from rail402.rates import convert
from rail402.server.fields import gate_fields
from rail402.server.request import GatedRequest, Send
from rail402.server.services import Services
from rail402.server.settings import Rule
from rail402.stores.base import Issued

__all__ = ["make_challenge", "offers_anew", "price_of", "refuse", "send_challenge"]

logger = logging.getLogger("rail402.server")

_OFFER_SECONDS = 10  # a rail that hangs must not keep the others from being offered

PROBLEMS = "https://paymentauth.org/problems/"


async def price_of(rule: Rule, request: GatedRequest) -> Money | None:
    """Return what this request costs; None where the price function says that it is free.

    Raises:
        ConfigurationError: the function returned something that is no price.
    """
    if not callable(rule.price):
        return as_money(rule.price)
    value = rule.price(Request(dict(request.scope), request.rewind()))
    if inspect.isawaitable(value):
        value = await value
    if value is None:
        return None
    price = as_money(value)
    if price.amount <= 0:
        raise ConfigurationError("a price function must return more than zero, or None where the request is free")
    return price


async def make_challenge(
    services: Services, rule: Rule, request: GatedRequest, price: Money, error: Rail402Error | None
) -> Challenge:
    """Make the offers for an order, each with its token.

    Raises:
        RailUnavailable: no rail of the route can be reached.
    """
    now = services.clock()
    pairs = [(rail, mechanism) for rail in services.rails_of(rule) for mechanism in rail.spec.mechanisms]
    made = await asyncio.gather(*(_offer(services, rule, request, price, *pair, now=now) for pair in pairs))
    failures = [offer for offer in made if isinstance(offer, RailUnavailable)]
    offers = tuple(offer for offer in made if isinstance(offer, Offer))
    if failures and not offers:
        raise failures[0]
    detail = error.detail if error is not None else ""
    if not offers:
        detail = f"no rail of this route can charge {price}"
    return Challenge(
        order=request.order,
        price=price,
        offers=offers,
        code="payment_required" if error is None else error.code,
        detail=detail,
        description=rule.description,
        now=now,
    )


async def _offer(
    services: Services,
    rule: Rule,
    request: GatedRequest,
    price: Money,
    rail: PaymentRail,
    mechanism: Mechanism,
    *,
    now: int,
) -> Offer | RailUnavailable | None:
    """Make one rail's offer; None where it cannot serve this price, the error where it cannot be reached."""
    try:
        amount = await convert(price, mechanism.currency, services.rates)
        if amount is None:
            return None
        terms = Terms(
            amount=amount.to_atomic(mechanism.exponent, step=mechanism.step),
            flow=_flow(rule.flow, mechanism),
            now=now,
            expires_at=now + services.settings.offer_seconds,
            timeout_seconds=services.settings.timeout_seconds,
            description=rule.description,
        )
        async with asyncio.timeout(_OFFER_SECONDS):
            offer = await rail.offer(request.order, mechanism, terms)
        if offer is None or not await _remember(services, rail, request, offer, now):
            return None
    except (RailUnavailable, TimeoutError) as error:
        logger.warning("no %s offer: %s", rail.spec.name, error)
        return error if isinstance(error, RailUnavailable) else RailUnavailable("it takes too long to make an offer")
    return services.offer_keys.issue(offer, request.order, services.random_bytes(16))


async def offers_anew(
    services: Services, rule: Rule, request: GatedRequest, price: Money, rail: PaymentRail
) -> list[Offer]:
    """Make a rail's offers once more, for a payment that came without its offer; nothing is kept of them.

    Raises:
        RailUnavailable: it cannot be reached.
    """
    made = []
    for mechanism in rail.spec.mechanisms:
        offer = await _offer(services, rule, request, price, rail, mechanism, now=services.clock())
        if isinstance(offer, RailUnavailable):
            raise offer
        if offer is not None:
            made.append(offer.model_copy(update={"token": None}))
    return made


def _flow(wanted: Flow | None, mechanism: Mechanism) -> Flow:
    return wanted if wanted in mechanism.flows else mechanism.flows[0]


async def _remember(services: Services, rail: PaymentRail, request: GatedRequest, offer: Offer, now: int) -> bool:
    """Keep an issued row where the rail needs one; False where the table is full: nothing is evicted for an offer."""
    key = rail.issued_key(offer)
    if key is None:
        return True
    row = Issued(key=key, order_digest=request.order.digest, offer=offer.model_dump_json(), expires_at=offer.expires_at)
    return await services.store.issue(row, now=now, capacity=services.settings.issued_capacity)


async def send_challenge(
    services: Services,
    rule: Rule,
    request: GatedRequest,
    challenge: Challenge,
    send: Send,
    outcome: Sequence[tuple[str, str]] = (),
) -> None:
    """Send the 402 in every dialect of the route; `outcome` says what became of the payment that came."""
    context = services.context()
    envelopes = [
        dialect.challenge(_sayable(services, challenge, dialect), context) for dialect in services.dialects_of(rule)
    ]
    lines = [*(line for envelope in envelopes for line in envelope.fields), *outcome]
    if _wants_problem(request):
        body = _problem(challenge.code, challenge.detail, status=402)
    else:
        body = {"error": challenge.detail or "Payment required", "code": challenge.code}
        for envelope in envelopes:
            body |= envelope.body
    body |= {
        "resource": {"url": challenge.order.url, "description": challenge.description},
        "price": str(challenge.price),
        "offers": [_for_people(services, rule, challenge, offer) for offer in challenge.offers],
    }
    await _respond(services, rule, 402, body, lines, _wants_problem(request), send)


def _sayable(services: Services, challenge: Challenge, dialect: Dialect) -> Challenge:
    """Return the challenge with the offers that can be paid in `dialect`.

    Where the client does not send the offer back, only one that is remembered, or can be made anew, is recognised.
    """
    if dialect.echo == "full":
        return challenge
    known = tuple(offer for offer in challenge.offers if _recognised(services.rails[offer.rail], offer))
    return challenge.model_copy(update={"offers": known})


def _recognised(rail: PaymentRail, offer: Offer) -> bool:
    return rail.has_fixed_terms or rail.issued_key(offer) is not None


async def refuse(
    services: Services,
    rule: Rule,
    request: GatedRequest | None,
    error: Rail402Error,
    send: Send,
    outcome: Sequence[tuple[str, str]] = (),
) -> None:
    """Answer an error without a challenge: a payer that automatically pays 402s must not pay again for these."""
    problem = request is not None and _wants_problem(request)
    body: dict[str, Any] = _problem(error.code, error.detail, status=error.status)
    body |= {"error": str(error)}
    lines = [*outcome, ("Retry-After", str(error.retry_after or 2))] if error.retryable else outcome
    await _respond(services, rule, error.status, body, lines, problem, send)


def _problem(code: str, detail: str, *, status: int) -> dict[str, Any]:
    reason = Rail402Error(code=code).reason
    return {"type": PROBLEMS + reason.mpp, "title": reason.title, "status": status, "detail": detail, "code": code}


def _for_people(services: Services, rule: Rule, challenge: Challenge, offer: Offer) -> dict[str, Any]:
    said = {
        "rail": offer.rail,
        "price": str(offer.price),
        "network": offer.network,
        "payee": offer.payee,
        "expires_at": offer.expires_at,
    }
    link = _pay_url(services, rule, challenge, offer)
    return said if link is None else said | {"pay_url": link}


def _pay_url(services: Services, rule: Rule, challenge: Challenge, offer: Offer) -> str | None:
    """Return where a person can pay the offer, if its rail has such a page. The offer itself is in the link.

    There is none where a browser could not fetch what was bought, which it does by GET.
    """
    rail = services.rails[offer.rail]
    path = rail.pay_path(offer) if isinstance(rail, Endpoints) and challenge.order.method == "GET" else None
    if path is None:
        return None
    for dialect in services.dialects_of(rule):
        envelope = dialect.envelope(offer, challenge, services.context())
        if envelope is not None:
            carried = base64.urlsafe_b64encode(json.dumps(envelope, separators=(",", ":")).encode()).rstrip(b"=")
            order = {"url": challenge.order.url, "route": challenge.order.route}
            query = urlencode({"dialect": dialect.name, "offer": carried.decode(), **order})
            return f"{services.settings.public_url}{DISCOVERY}{path}?{query}"
    return None


def _wants_problem(request: GatedRequest) -> bool:
    return any("application/problem+json" in line.lower() for line in request.fields.all("accept"))


async def _respond(
    services: Services,
    rule: Rule,
    status: int,
    body: dict[str, Any],
    lines: Sequence[tuple[str, str]],
    problem: bool,
    send: Send,
) -> None:
    content = json.dumps(body, separators=(",", ":")).encode()
    media_type = b"application/problem+json" if problem else b"application/json"
    headers = [
        (b"content-type", media_type),
        (b"content-length", str(len(content)).encode()),
        (b"cache-control", b"no-store"),
        *gate_fields(services, rule),
        *((name.encode("latin-1"), value.encode("latin-1")) for name, value in lines),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
