"""Which rails of a route can charge its fixed price: asked at the start, so that none of them drops out in silence.

Nobody is called for it but the source of rates. A price that depends on the request shows only when it is asked.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rail402.errors import ConfigurationError, RailUnavailable
from rail402.money import Money, as_money
from rail402.protocol.offer import Mechanism, Offer
from rail402.protocol.rail import PaymentRail
from rail402.rates import convert
from rail402.server.routes import Found
from rail402.server.services import Services
from rail402.server.settings import Rule

__all__ = ["Able", "check_prices"]

logger = logging.getLogger("rail402.server")

Able = Mapping[str, Sequence[Mechanism]]
"""The mechanisms that can charge what a route asks, by rail. One that cannot at today's rate is among them."""

_MOST: Final = (1 << 256) - 1


@dataclass(frozen=True, slots=True)
class _Obstacle:
    """Why a rail cannot charge a price, and what to do; `lasts` where that is no matter of today's rate."""

    why: str
    lasts: bool = True


async def check_prices(
    services: Services, rules: Sequence[Rule], routes: Sequence[tuple[Found, Mapping[str, Rule]]]
) -> dict[int, Able]:
    """Warn of every rail that cannot charge a fixed price, and return what can, by the rule's `id`.

    Args:
        rules: all that is sold, tools included.
        routes: the paid ones, with what they ask by method; it is named by them.

    Raises:
        ConfigurationError: no rail can charge one of the prices, so that nobody could ever pay it.
    """
    names: dict[int, list[str]] = {}
    for found, asked in routes:
        for rule in {id(rule): rule for rule in asked.values()}.values():
            names.setdefault(id(rule), []).append(found.id_under(asked, rule))
    return {id(rule): await _check(services, rule, ", ".join(names.get(id(rule), ()))) for rule in rules}


async def _check(services: Services, rule: Rule, route: str) -> Able:
    what = f"{route or rule.description or 'a price'} for {rule.price}"
    able: dict[str, Sequence[Mechanism]] = {}
    lacking: dict[str, str] = {}
    for rail in services.rails_of(rule):
        found = [(each, await _obstacle(services, rule, rail, each)) for each in rail.spec.mechanisms]
        obstacles = [obstacle for _, obstacle in found if obstacle is not None]
        if len(obstacles) == len(found):
            lacking[rail.spec.name] = " / ".join(dict.fromkeys(obstacle.why for obstacle in obstacles))
        if mechanisms := [each for each, obstacle in found if obstacle is None or not obstacle.lasts]:
            able[rail.spec.name] = mechanisms
    if not able:
        whys = "; ".join(f"{name}: {why}" for name, why in lacking.items())
        raise ConfigurationError(f"{what}: no rail can charge that. {whys}")
    for name, why in lacking.items():
        logger.warning("%s: the rail %s cannot charge that, and is not offered: %s", what, name, why)
    return able


async def _obstacle(services: Services, rule: Rule, rail: PaymentRail, mechanism: Mechanism) -> _Obstacle | None:
    if callable(rule.price):
        return None
    price = as_money(rule.price)
    try:
        converted = await convert(price, mechanism.currency, services.rates)
    except RailUnavailable:
        return None  # a feed that is down now may be up later
    if converted is None:
        return _Obstacle(f"no rate leads from {price} to {mechanism.currency}; give the gate rates=")
    amount = converted.to_atomic(mechanism.exponent, step=mechanism.step)
    least = rail.least_taken(_anything(rail, mechanism), amount)
    if least <= amount:
        return None
    needs_rate = await convert(price, mechanism.currency, None) is None
    said = Money.from_atomic(least, mechanism.exponent, mechanism.currency)
    return _Obstacle(f"it takes {said} at least; ask that much, or name other rails in rails=", lasts=not needs_rate)


def _anything(rail: PaymentRail, mechanism: Mechanism) -> Offer:
    """Return an offer of a mechanism that is larger than any price, to ask what can be taken of it."""
    return mechanism.offer(rail.spec.name, payee=rail.payee or "", amount=_MOST, expires_at=0, timeout_seconds=0)
