"""How much may be spent: limits per request, per hour and per day, in one currency or in several. Pure.

Every limit is an amount of one currency, and a level (request, hour, day) may have limits in several. At each level a
purchase is measured against **one** limit, found in this order:

1. the limit in the purchase's own currency (a stablecoin counts as its currency: USDC is a dollar);
2. else the first limit that a rate leads to: the purchase counts there at today's rate;
3. else, for an hour or a day, at the rate that your own limits per request imply: where a request may cost `"1 USD"`
   or `"1000 sat"`, a purchase of 1000 sat takes 1 USD of an hour's `"5 USD"`;
4. else nothing is paid, and the error says which rate is missing.

So a Lightning agent with the default limits needs no rate source, every configured level always holds, and a limit in
sats never gets in the way of a purchase in dollars. What it adds up to: limits in several currencies stand side by
side, `per_hour=["5 USD", "5000 sat"]` allows both in one hour.

A level without limits (`per_hour=None`) is not limited; the level *request* always is. The windows slide: an hour is
the last 3600 seconds. What is reserved counts like what is spent, and what is not resolved counts until it is,
however old.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Literal

from rail402.errors import BudgetExceeded, ConfigurationError
from rail402.money import Money, as_money
from rail402.rates import PAR

__all__ = ["SPENDING_EXPONENT", "WINDOWS", "Budget", "Entry", "Level", "Limits", "Spent", "family"]

Limits = Money | str | Sequence[Money | str]
"""One limit, or one for each of several currencies."""

Level = Literal["request", "hour", "day"]
"""What a limit is for."""

WINDOWS: Final[Mapping[Level, int]] = {"hour": 3600, "day": 86_400}
"""The length of the windows in seconds."""

SPENDING_EXPONENT: Final = 11
"""Spending is added up in 10⁻¹¹ of a currency, rounded up: one millisatoshi, the finest amount that any rail moves."""

_LARGEST: Final = Decimal(10_000_000)


def family(currency: str) -> str:
    """Return the currency that spending in `currency` is counted in: `USD` for `USDC`."""
    return PAR.get(currency, currency)


@dataclass(frozen=True, slots=True)
class Spent:
    """What a window holds already: `total`, and how much of it is in purchases that are not resolved."""

    total: Money
    unresolved: Money


@dataclass(frozen=True, slots=True)
class Entry:
    """One purchase in one window: what it counts there, and the limit it must fit under (None: no limit)."""

    window: Level
    amount: Money
    limit: Money | None

    def check(self, spent: Spent) -> None:
        """Check that the purchase fits in the window beside what it holds.

        Raises:
            BudgetExceeded: it does not; the message says what is left.
        """
        if self.limit is None or spent.total + self.amount <= self.limit:
            return
        left = Money(max(self.limit.amount - spent.total.amount, Decimal(0)), self.limit.currency)
        detail = f"of {self.limit} per {self.window} {left} is left, and this purchase may cost {self.amount}"
        if spent.unresolved.amount:
            detail += f"; {spent.unresolved} is held by purchases under way or not resolved (see Payer.recover)"
        raise BudgetExceeded(detail)


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of one journal.

    Args:
        per_request: the most that one purchase may cost, fees included.
        per_hour, per_day: the most that all purchases of the last 3600 and 86400 seconds may cost; None: no limit.
            Where they are left out, the defaults hold.

    Raises:
        ConfigurationError: a limit cannot be read, is above ten million, two are in the same currency, or there is no
            limit per request.
    """

    per_request: Limits = ("1 USD", "1000 sat")
    per_hour: Limits | None = ("5 USD", "5000 sat")
    per_day: Limits | None = ("20 USD", "20000 sat")
    _levels: Mapping[Level, Mapping[str, Money]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        levels: dict[Level, Mapping[str, Money]] = {
            "request": _by_currency("per_request", self.per_request),
            "hour": _by_currency("per_hour", self.per_hour),
            "day": _by_currency("per_day", self.per_day),
        }
        if not levels["request"]:
            raise ConfigurationError("per_request: give at least one limit; without one nothing would be paid")
        object.__setattr__(self, "_levels", levels)

    @property
    def currencies(self) -> tuple[str, ...]:
        """The currencies that any limit is in: what a purchase should be converted to, where a rate is known."""
        return tuple(dict.fromkeys(currency for limits in self._levels.values() for currency in limits))

    def limits(self, level: Level) -> tuple[Money, ...]:
        """Return the limits of a level."""
        return tuple(self._levels[level].values())

    def entries(self, cost: Money, converted: Mapping[str, Money]) -> tuple[Entry, ...]:
        """Check a purchase against the limit per request, and return what it counts in the windows.

        Args:
            cost: the most that the purchase can cost, in its own currency.
            converted: the same in other currencies, for which a rate is known.

        Raises:
            BudgetExceeded: it costs more than one request may, or a level has no limit that can be checked.
        """
        request = self._entry("request", cost, converted)
        if request.limit is not None and not request.amount <= request.limit:
            raise BudgetExceeded(f"the limit is {request.limit} per request, and this one may cost {request.amount}")
        return tuple(self._entry(window, cost, converted) for window in WINDOWS)

    def _entry(self, level: Level, cost: Money, converted: Mapping[str, Money]) -> Entry:
        limits, own = self._levels[level], _counted(cost, family(cost.currency))
        if not limits or own.currency in limits:
            return Entry(level, own, limits.get(own.currency))
        for currency, limit in limits.items():
            if currency in converted:
                return Entry(level, _counted(converted[currency], currency), limit)
        implied = self._implied(level, own)
        if implied is None:
            missing = " or ".join(f"{own.currency}/{currency}" for currency in limits)
            raise BudgetExceeded(
                f"the limit per {level} is {_or(limits.values())} and no {missing} rate is known to measure {cost} by: "
                f"add a limit in {own.currency}, or a rate source"
            )
        return implied

    def _implied(self, level: Level, cost: Money) -> Entry | None:
        """Count a purchase against a limit in another currency, by the ratio of the two limits per request."""
        request = self._levels["request"]
        for other, limit in self._levels[level].items():
            ratio = [request[each].to_atomic(SPENDING_EXPONENT) for each in (cost.currency, other) if each in request]
            if len(ratio) == 2 and all(ratio):
                units = -(-cost.to_atomic(SPENDING_EXPONENT) * ratio[1] // ratio[0])
                return Entry(level, Money.from_atomic(units, SPENDING_EXPONENT, other), limit)
        return None


def _counted(amount: Money, currency: str) -> Money:
    return Money.from_atomic(amount.to_atomic(SPENDING_EXPONENT), SPENDING_EXPONENT, currency)


def _by_currency(name: str, limits: Limits | None) -> Mapping[str, Money]:
    if limits is None:
        return {}
    found: dict[str, Money] = {}
    for value in [limits] if isinstance(limits, Money | str) else limits:
        limit = as_money(value)
        if limit.amount > _LARGEST:
            raise ConfigurationError(f"{name}: {limit} is more than ten million, which cannot be meant")
        currency = family(limit.currency)
        if currency in found:
            raise ConfigurationError(f"{name}: there are two limits in {currency}; give one")
        found[currency] = Money(limit.amount, currency)
    return found


def _or(limits: Iterable[Money]) -> str:
    return " or ".join(str(limit) for limit in limits)
