"""What a request costs, and every offer that the route's rails can make for it."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable

from rail402.errors import ConfigurationError, PaymentRejected, Rail402Error, RailUnavailable, RateLimited
from rail402.money import Money, as_money
from rail402.protocol.challenge import Challenge
from rail402.protocol.offer import Flow, Mechanism, Offer
from rail402.protocol.rail import PaymentRail, Terms
from rail402.rates import convert
from rail402.server.exchange import Asked
from rail402.server.services import Services
from rail402.server.settings import Rule
from rail402.stores.base import Issued

__all__ = ["make_challenge", "offers_anew", "price_of"]

logger = logging.getLogger("rail402.server")

_FULL_SECONDS = 30
_OFFER_SECONDS = 10  # a rail that hangs must not keep the others from being offered


async def price_of(rule: Rule, asked: Callable[[], object]) -> Money | None:
    """Return what a request costs; None where the price function says that it is free.

    Args:
        asked: returns what a price function is told of the request.

    Raises:
        ConfigurationError: the function returned something that is no price.
    """
    if not callable(rule.price):
        return as_money(rule.price)
    value = rule.price(asked())
    if inspect.isawaitable(value):
        value = await value
    if value is None:
        return None
    price = as_money(value)
    if price.amount <= 0:
        raise ConfigurationError("a price function must return more than zero, or None where the request is free")
    return price


async def make_challenge(
    services: Services,
    rule: Rule,
    request: Asked,
    price: Money,
    error: Rail402Error | None,
    unpaid: Offer | None = None,
) -> Challenge:
    """Make the offers for an order, each with its token.

    Args:
        error: why the payment that came was not accepted.
        unpaid: the offer that it came with, with its token, where that can still be paid.

    Raises:
        RailUnavailable: no rail of the route can be reached.
        RateLimited: no rail can be, or may be now, because too many invoices are asked for.
    """
    now = services.clock()
    pairs = [(rail, mechanism) for rail in services.rails_of(rule) for mechanism in rail.spec.mechanisms]
    kept = None if unpaid is None else _kept(services, request, unpaid, now)

    async def make(rail: PaymentRail, mechanism: Mechanism) -> Offer | RailUnavailable | RateLimited | None:
        if kept is not None and (kept.rail, kept.mechanism) == (rail.spec.name, mechanism.name):
            return kept
        return await _offer(services, rule, request, price, rail, mechanism, now=now)

    made = await asyncio.gather(*(make(rail, mechanism) for rail, mechanism in pairs))
    failures = [offer for offer in made if isinstance(offer, RailUnavailable | RateLimited)]
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
        rail="" if error is None else error.rail,
        description=rule.description,
        preference=request.preference,
        now=now,
    )


def _kept(services: Services, request: Asked, unpaid: Offer, now: int) -> Offer | None:
    """Return an offer that came back unpaid, to be made once more instead of minting another; None where it is not
    ours for this order, or has not most of its time left."""
    try:
        services.offer_keys.verify(unpaid, request.order)
    except PaymentRejected:
        return None
    if (unpaid.expires_at - now) * 2 < services.settings.offer_seconds:
        return None
    return unpaid.model_copy(update={"dialect": None, "envelope": None})


async def _offer(
    services: Services,
    rule: Rule,
    request: Asked,
    price: Money,
    rail: PaymentRail,
    mechanism: Mechanism,
    *,
    now: int,
) -> Offer | RailUnavailable | RateLimited | None:
    """Make one rail's offer; None where it cannot serve this price, the error where it cannot or must not be asked."""
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
            dialects=[dialect.name for dialect in services.dialects_of(rule)],
        )
        if rail.mints_offers:
            await services.limiter.invoice(request.scope, request.order.route)
        async with asyncio.timeout(_OFFER_SECONDS):
            offer = await rail.offer(request.order, mechanism, terms)
        if offer is None:
            return None
        if not await _remember(services, rail, request, offer, now):
            return RateLimited("too many invoices are unpaid", retry_after=_FULL_SECONDS)
    except RateLimited as error:
        return error
    except (RailUnavailable, TimeoutError) as error:
        logger.warning("no %s offer: %s", rail.spec.name, error)
        return error if isinstance(error, RailUnavailable) else RailUnavailable("it takes too long to make an offer")
    return services.offer_keys.issue(offer, request.order, services.random_bytes(16))


async def offers_anew(services: Services, rule: Rule, request: Asked, price: Money, rail: PaymentRail) -> list[Offer]:
    """Make a rail's offers once more, for a payment that came without its offer; nothing is kept of them.

    Raises:
        RailUnavailable: it cannot be reached.
    """
    made = []
    for mechanism in rail.spec.mechanisms:
        offer = await _offer(services, rule, request, price, rail, mechanism, now=services.clock())
        if isinstance(offer, RailUnavailable | RateLimited):
            raise offer
        if offer is not None:
            made.append(offer.model_copy(update={"token": None}))
    return made


def _flow(wanted: Flow | None, mechanism: Mechanism) -> Flow:
    return wanted if wanted in mechanism.flows else mechanism.flows[0]


async def _remember(services: Services, rail: PaymentRail, request: Asked, offer: Offer, now: int) -> bool:
    """Keep an issued row where the rail needs one; False where the table is full: nothing is evicted for an offer."""
    key = rail.issued_key(offer)
    if key is None:
        return True
    row = Issued(key=key, order_digest=request.order.digest, offer=offer.model_dump_json(), expires_at=offer.expires_at)
    return await services.store.issue(row, now=now, capacity=services.settings.issued_capacity)
