"""How much may be spent: limits per request, hour and day and in total, in one currency or in several. Pure.

Every limit is an amount of one currency, and a level (request, hour, day, total) may have limits in several. At each
level a purchase is measured against **one** limit, found in this order:

1. the limit in the purchase's own currency (a stablecoin counts as its currency: USDC is a dollar);
2. else the first limit that a rate leads to: the purchase counts there at today's rate;
3. else, for an hour, a day or the total, at the rate that your own limits per request imply: where a request may cost
   `"1 USD"` or `"1000 sat"`, a purchase of 1000 sat takes 1 USD of an hour's `"5 USD"`;
4. else nothing is paid, and the error says which rate is missing.

So a Lightning agent with the default limits needs no rate source, every configured level always holds, and a limit in
sats never gets in the way of a purchase in dollars. What it adds up to: limits in several currencies stand side by
side, `per_hour=["5 USD", "5000 sat"]` allows both in one hour.

A level without limits (`per_hour=None`) is not limited; the level *request* always is. The windows slide: an hour is
the last 3600 seconds. What is reserved counts like what is spent, and what is not resolved counts until it is,
however old.

Beside these limits of all purchases there may be rules, each with limits for one host, payee, rail or tool
(`rules.py`). All that hold for a purchase must have room for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rail402.client.limits import (
    SPENDING_EXPONENT,
    WINDOWS,
    Caps,
    Entry,
    Level,
    Limits,
    Spent,
    by_currency,
    either,
    family,
)
from rail402.client.rules import Lists, Names, Rule, Subject, matching_rules
from rail402.errors import BudgetExceeded, ConfigurationError
from rail402.money import Money

__all__ = ["SPENDING_EXPONENT", "WINDOWS", "Budget", "Entry", "Level", "Limits", "Spent", "family"]


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of one journal.

    Args:
        per_request: the most that one purchase may cost, fees included.
        per_hour, per_day: the most that all purchases of the last 3600 and 86400 seconds may cost; None: no limit.
            Where they are left out, the defaults hold.
        total: the most that all purchases of the journal may ever cost.
        rules: further limits, each for one host, payee, rail or tool.
        allow_hosts, deny_hosts, allow_payees, deny_payees: who may be paid at all; see `Lists`.
        pin_payees: whether a host that asks for another payee than before is refused, unless that is approved.
        price_tolerance: by how many percent something may cost more than at its first purchase, unless that is
            approved; None: by any.
        ask_above: what costs more than this is bought only where `Payer.approve` says so.

    Raises:
        ConfigurationError: a limit or a name cannot be read, a limit is above ten million, two are in the same
            currency, two rules are for the same, or there is no limit per request.
    """

    per_request: Limits = ("1 USD", "1000 sat")
    per_hour: Limits | None = ("5 USD", "5000 sat")
    per_day: Limits | None = ("20 USD", "20000 sat")
    total: Limits | None = None
    rules: Sequence[Rule] = ()
    allow_hosts: Names | None = None
    deny_hosts: Names = ()
    allow_payees: Names | None = None
    deny_payees: Names = ()
    pin_payees: bool = True
    price_tolerance: int | None = None
    ask_above: Limits | None = None
    _lists: Lists = field(init=False, repr=False, compare=False)
    _caps: Caps = field(init=False, repr=False, compare=False)
    _asking: Caps = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        caps = Caps.read({"request": self.per_request, "hour": self.per_hour, "day": self.per_day, "total": self.total})
        if not caps.limits("request"):
            raise ConfigurationError("per_request: give at least one limit; without one nothing would be paid")
        named = [str(rule) for rule in self.rules]
        if twice := next((name for name in named if named.count(name) > 1), None):
            raise ConfigurationError(f"rules: there are two for {twice}; give one")
        if self.price_tolerance is not None and self.price_tolerance < 0:
            raise ConfigurationError("price_tolerance: write percent as a whole number, such as 25")
        object.__setattr__(self, "_asking", Caps({"request": by_currency("ask_above", self.ask_above)}))
        lists = Lists.read(self.allow_hosts, self.deny_hosts, self.allow_payees, self.deny_payees)
        object.__setattr__(self, "_caps", caps)
        object.__setattr__(self, "_lists", lists)

    @property
    def lists(self) -> Lists:
        """Who may be paid."""
        return self._lists

    @property
    def currencies(self) -> tuple[str, ...]:
        """The currencies that any limit is in: what a purchase should be converted to, where a rate is known."""
        every = [self._caps, *(rule.caps for rule in self.rules)]
        return tuple(dict.fromkeys(currency for caps in every for currency in caps.currencies))

    def limits(self, level: Level) -> tuple[Money, ...]:
        """Return the limits of a level, those of all purchases."""
        return self._caps.limits(level)

    @property
    def asks_above(self) -> tuple[Money, ...]:
        """The amounts above which the owner wants to be asked."""
        return self._asking.limits("request")

    def question(self, cost: Money, converted: Mapping[str, Money]) -> str | None:
        """Say why the owner wants to be asked about a cost; None where it is not above `ask_above`."""
        try:
            self._asking.check_request(cost, converted, self._worth)
        except BudgetExceeded:
            return f"it may cost {cost}, and is to be approved above {either(self.asks_above)}"
        return None

    def tightened(self, most: Money) -> Budget:
        """Return a budget in which one purchase may cost `most`, if that is less than it may now.

        Limits in other currencies shrink in the same proportion: what the limits per request say two currencies are
        worth stays true.

        Raises:
            ConfigurationError: there is no limit per request in that currency to compare it with, or it is not more
                than nothing.
        """
        limits, asked = self._worth, Money(most.amount, family(most.currency))
        if asked.currency not in limits:
            raise ConfigurationError(f"{most}: the limits per request are {either(limits.values())}; name one of these")
        if asked.amount <= 0:
            raise ConfigurationError(f"{most}: must be more than nothing")
        whole = limits[asked.currency]
        if asked.amount >= whole.amount:
            return self
        share = {
            currency: limit.to_atomic(SPENDING_EXPONENT)
            * asked.to_atomic(SPENDING_EXPONENT)
            // whole.to_atomic(SPENDING_EXPONENT)
            for currency, limit in limits.items()
        }
        scaled = [Money.from_atomic(units, SPENDING_EXPONENT, currency) for currency, units in share.items()]
        return replace(self, per_request=scaled)

    def entries(self, cost: Money, converted: Mapping[str, Money], subject: Subject | None = None) -> tuple[Entry, ...]:
        """Check a purchase against the limits per request, and return what it counts in the windows.

        Args:
            cost: the most that the purchase can cost, in its own currency.
            converted: the same in other currencies, for which a rate is known.
            subject: whom it is made from; no rule holds without.

        Raises:
            BudgetExceeded: it costs more than one request may, or a level has no limit that can be checked.
        """
        self._caps.check_request(cost, converted, self._worth)
        found = [self._caps.entry(window, cost, converted, self._worth) for window in WINDOWS]
        if found[-1].limit is None:
            # A total that is set later finds what was bought before in the currency that the owner counts in.
            found[-1] = replace(found[-1], amount=found[-2].amount)
        for rule, scope in matching_rules(self.rules, subject) if subject is not None else ():
            rule.caps.check_request(cost, converted, self._worth, scope)
            for window in WINDOWS:
                if rule.caps.limits(window):
                    found.append(rule.caps.entry(window, cost, converted, self._worth, scope))
        return tuple(found)

    @property
    def _worth(self) -> Mapping[str, Money]:
        """The limits per request, which say what currencies are worth to the owner."""
        return self._caps.by_level["request"]
