"""Amounts of money that may be spent, by level and currency, and what a purchase counts against them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

from rail402.errors import BudgetExceeded, ConfigurationError
from rail402.money import Money, as_money
from rail402.rates import PAR

__all__ = [
    "LEVELS",
    "SPENDING_EXPONENT",
    "WINDOWS",
    "Caps",
    "Entry",
    "Level",
    "Limits",
    "Room",
    "Spent",
    "by_currency",
    "either",
    "family",
    "phrase",
]

Limits = Money | str | Sequence[Money | str]
"""One limit, or one for each of several currencies."""

Level = Literal["request", "hour", "day", "total"]
"""What a limit is for."""

WINDOWS: Final[Mapping[Level, int | None]] = {"hour": 3600, "day": 86_400, "total": None}
"""The length of the windows in seconds; None: all that was ever bought."""

LEVELS: Final[Mapping[Level, str]] = {"request": "per_request", "hour": "per_hour", "day": "per_day", "total": "total"}
"""Every level, and what its limits are called in a configuration."""

SPENDING_EXPONENT: Final = 11
"""Spending is added up in 10⁻¹¹ of a currency, rounded up: one millisatoshi, the finest amount that any rail moves."""

_LARGEST: Final = Decimal(10_000_000)


def family(currency: str) -> str:
    """Return the currency that spending in `currency` is counted in: `USD` for `USDC`."""
    return PAR.get(currency, currency)


def phrase(level: Level) -> str:
    """Return a level as it is said of an amount: `per hour`, `in total`."""
    return "in total" if level == "total" else f"per {level}"


def either(limits: Iterable[Money]) -> str:
    """Return limits as one says them."""
    return " or ".join(str(limit) for limit in limits)


@dataclass(frozen=True, slots=True)
class Spent:
    """What a window holds already: `total`, and how much of it is in purchases that are not resolved."""

    total: Money
    unresolved: Money


@dataclass(frozen=True, slots=True)
class Room:
    """What is left of a limit of a window; `scope` is as in `Entry`."""

    left: Money
    limit: Money
    window: Level
    scope: str = ""

    @property
    def per(self) -> str:
        """What the limit is for, as one says it: `per day for the host a.test`."""
        return phrase(self.window) + _for(self.scope)


@dataclass(frozen=True, slots=True)
class Entry:
    """One purchase in one window: what it counts there, and the limit it must fit under (None: no limit).

    `scope` is empty for the window of all purchases; else the one host, payee, rail or tool that it is for, such as
    `host a.test`.
    """

    window: Level
    amount: Money
    limit: Money | None
    scope: str = ""

    def held(self, spent: Mapping[str, Mapping[Level, Mapping[str, Spent]]]) -> Spent:
        """Return what its window holds, out of what all windows of a journal hold (`Journal.spent_by_scope`)."""
        nothing = Money.from_atomic(0, SPENDING_EXPONENT, self.amount.currency)
        window = spent.get(self.scope, {}).get(self.window, {})
        return window.get(self.amount.currency, Spent(nothing, nothing))

    def room(self, spent: Spent) -> Room | None:
        """Return what is left of the limit beside what the window holds; None where there is no limit."""
        if self.limit is None:
            return None
        left = Money(max(self.limit.amount - spent.total.amount, Decimal(0)), self.limit.currency)
        return Room(left, self.limit, self.window, self.scope)

    def check(self, spent: Spent) -> None:
        """Check that the purchase fits in the window beside what it holds.

        Raises:
            BudgetExceeded: it does not; the message says what is left.
        """
        room = self.room(spent)
        if room is None or spent.total + self.amount <= room.limit:
            return
        detail = f"of {room.limit} {room.per} {room.left} is left, and this purchase may cost {self.amount}"
        if spent.unresolved.amount:
            detail += f"; {spent.unresolved} is held by purchases under way or not resolved (see Payer.recover)"
        raise BudgetExceeded(detail)


@dataclass(frozen=True, slots=True)
class Caps:
    """The limits of a budget or of one of its rules, by level and currency."""

    by_level: Mapping[Level, Mapping[str, Money]]

    @classmethod
    def read(cls, limits: Mapping[Level, Limits | None]) -> Caps:
        """Read the limits of each level.

        Raises:
            ConfigurationError: one cannot be read, is above ten million, or two are in the same currency.
        """
        return cls({level: by_currency(LEVELS[level], value) for level, value in limits.items()})

    @property
    def currencies(self) -> tuple[str, ...]:
        """The currencies that any limit is in."""
        return tuple(dict.fromkeys(currency for limits in self.by_level.values() for currency in limits))

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels that have limits."""
        return tuple(level for level, limits in self.by_level.items() if limits)

    def limits(self, level: Level) -> tuple[Money, ...]:
        """Return the limits of a level."""
        return tuple(self.by_level[level].values())

    def entry(
        self, level: Level, cost: Money, converted: Mapping[str, Money], worth: Mapping[str, Money], scope: str = ""
    ) -> Entry:
        """Return what a purchase counts at a level, and against which limit.

        Args:
            converted: the cost in other currencies, for which a rate is known.
            worth: amounts that the owner holds to be worth the same, by currency.
            scope: see `Entry`.

        Raises:
            BudgetExceeded: the level has limits, and none that the cost can be measured by.
        """
        limits, own = self.by_level[level], _counted(cost, family(cost.currency))
        if not limits or own.currency in limits:
            return Entry(level, own, limits.get(own.currency), scope)
        for currency, limit in limits.items():
            if currency in converted:
                return Entry(level, _counted(converted[currency], currency), limit, scope)
        for currency, limit in limits.items():
            ratio = [worth[each].to_atomic(SPENDING_EXPONENT) for each in (own.currency, currency) if each in worth]
            if len(ratio) == 2 and all(ratio):
                units = -(-own.to_atomic(SPENDING_EXPONENT) * ratio[1] // ratio[0])
                return Entry(level, Money.from_atomic(units, SPENDING_EXPONENT, currency), limit, scope)
        missing = " or ".join(f"{own.currency}/{currency}" for currency in limits)
        raise BudgetExceeded(
            f"the limit {phrase(level)}{_for(scope)} is {either(limits.values())} and no {missing} rate is known to "
            f"measure {cost} by: add a limit in {own.currency}, or a rate source"
        )

    def check_request(
        self, cost: Money, converted: Mapping[str, Money], worth: Mapping[str, Money], scope: str = ""
    ) -> None:
        """Check a purchase against the limit per request. The arguments are those of `entry`.

        Raises:
            BudgetExceeded: it costs more than one request may, or cannot be measured.
        """
        request = self.entry("request", cost, converted, worth, scope)
        if request.limit is not None and not request.amount <= request.limit:
            level = phrase("request") + _for(scope)
            raise BudgetExceeded(f"the limit is {request.limit} {level}, and this one may cost {request.amount}")


def _for(scope: str) -> str:
    return f" for the {scope}" if scope else ""


def _counted(amount: Money, currency: str) -> Money:
    return Money.from_atomic(amount.to_atomic(SPENDING_EXPONENT), SPENDING_EXPONENT, currency)


def by_currency(name: str, limits: Limits | None) -> Mapping[str, Money]:
    """Read limits; `name` is what the configuration calls them.

    Raises:
        ConfigurationError: one cannot be read, is above ten million, or two are in the same currency.
    """
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
