"""Exact money: a decimal amount and a currency, never a float.

Bitcoin is held in BTC and written in `sat` or `msat`, as people do: 1 sat = 10⁻⁸ BTC, 1 msat = 10⁻¹¹ BTC.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, Inexact, InvalidOperation

from rail402.errors import ConfigurationError

__all__ = ["MSAT_EXPONENT", "Money", "as_money"]

MSAT_EXPONENT = 11
"""Decimal places of BTC that make one millisatoshi."""

_UNITS = {"sat": ("BTC", 8), "sats": ("BTC", 8), "msat": ("BTC", MSAT_EXPONENT)}
_SYMBOLS = {"$": "USD", "€": "EUR", "£": "GBP"}
_PATTERN = re.compile(r"(?:(?P<symbol>[$€£])(?P<plain>[0-9][0-9.]*)|(?P<amount>[0-9][0-9.]*) ?(?P<unit>[A-Za-z]{3,5}))")
_DIGITS = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)
_EXACT = Context(prec=120, traps=[Inexact, InvalidOperation])
_MAX_TEXT = 64


@dataclass(frozen=True, slots=True, order=False)
class Money:
    """An amount of one currency.

    Args:
        amount: the amount in whole units of the currency (dollars, bitcoins), not negative.
        currency: an upper-case code: `USD`, `EUR`, `BTC`, `USDC`.

    Raises:
        ConfigurationError: the amount is negative, not finite or a float, or the code is not upper-case letters.
    """

    amount: Decimal
    currency: str

    def __post_init__(self) -> None:
        if not isinstance(self.amount, Decimal) or not self.amount.is_finite() or self.amount < 0:
            raise ConfigurationError(f"amount {self.amount!r} must be a finite Decimal that is not negative")
        if not re.fullmatch(r"[A-Z]{3,5}", self.currency):
            raise ConfigurationError(f"currency {self.currency!r} must be 3 to 5 upper-case letters, such as USD")

    @classmethod
    def parse(cls, text: str) -> Money:
        """Read `"0.003 USD"`, `"$0.003"`, `"21 sat"` or `"2500 msat"`.

        Raises:
            ConfigurationError: the text is not an amount with a currency.
        """
        match = _PATTERN.fullmatch(text.strip()) if isinstance(text, str) and len(text) <= _MAX_TEXT else None
        digits = match and (match["plain"] or match["amount"])
        if match is None or digits is None or not _DIGITS.fullmatch(digits):
            raise ConfigurationError(f'{text!r} is not an amount of money; write "0.003 USD", "$0.003" or "21 sat"')
        unit = _SYMBOLS[match["symbol"]] if match["symbol"] else match["unit"]
        currency, places = _UNITS.get(unit.lower(), (unit.upper(), 0))
        return cls(_EXACT.scaleb(Decimal(digits), -places), currency)

    @classmethod
    def from_atomic(cls, atomic: int, exponent: int, currency: str) -> Money:
        """Make money of `atomic` smallest units, 10^`exponent` of which are one `currency`."""
        return cls(_EXACT.scaleb(Decimal(atomic), -exponent), currency)

    def to_atomic(self, exponent: int, *, step: int = 1) -> int:
        """Return the amount in smallest units (10^`exponent` to one), rounded up to a multiple of `step`.

        Rounding goes up: a price is never undercut by its conversion.
        """
        units = int(_EXACT.scaleb(self.amount, exponent).to_integral_value(rounding=ROUND_CEILING))
        return -(-units // step) * step

    def __add__(self, other: Money) -> Money:
        return Money(_EXACT.add(self.amount, self._same(other)), self.currency)

    def __le__(self, other: Money) -> bool:
        return self.amount <= self._same(other)

    def __lt__(self, other: Money) -> bool:
        return self.amount < self._same(other)

    def _same(self, other: Money) -> Decimal:
        if self.currency != other.currency:
            raise ConfigurationError(f"{self.currency} and {other.currency} cannot be compared without a rate")
        return other.amount

    def __str__(self) -> str:
        if self.currency == "BTC":
            msat = _EXACT.scaleb(self.amount, MSAT_EXPONENT)
            whole = msat.to_integral_value(rounding=ROUND_FLOOR)
            if msat == whole:
                return f"{int(whole) // 1000} sat" if int(whole) % 1000 == 0 else f"{int(whole)} msat"
        return f"{_plain(self.amount)} {self.currency}"


def as_money(value: Money | str) -> Money:
    """Return `value` itself, or the money that the text says."""
    return value if isinstance(value, Money) else Money.parse(value)


def _plain(amount: Decimal) -> str:
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
