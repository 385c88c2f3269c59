"""What Stripe takes of each currency: minor units, and the smallest and largest charge. Pure.

The API wants integers in the currency's minor unit, and the power of ten is not always two. Facts from
docs.stripe.com/currencies ("Minor units", "Special cases", "Minimum and maximum charge amounts"):

* zero-decimal currencies: 500 JPY is `500`;
* ISK and UGX have no fractions any more but are still written with two decimals that must be `00`: 5 ISK is `500`
  (UGX stands in Stripe's zero-decimal list too; the special case is the newer and more specific statement);
* three-decimal currencies take a last digit of `0` only: 1.230 KWD is `1230`;
* every other currency has two decimals, HUF and TWD included (they lose them in payouts, not in charges).

Minimums are per settlement currency. They are exact where an account settles in the currency it charges in; a charge
that is converted must reach the settlement currency's minimum after conversion, which only Stripe can tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation

from rail402.errors import ConfigurationError

__all__ = ["Currency", "currency", "major_units", "minimum", "minor_units"]

_ZERO_DECIMAL = "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf"
_WHOLE_UNITS_ONLY = "isk ugx"
_THREE_DECIMAL = "bhd jod kwd omr tnd"
_TWO_DECIMAL = (
    "aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bmd bnd bob brl bsd bwp byn bzd cad cdf chf cny cop crc "
    "cve czk dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gtq gyd hkd hnl htg huf idr ils inr jmd kes kgs khr kyd "
    "kzt lak lbp lkr lrd lsl mad mdl mkd mmk mnt mop mur mvr mwk mxn myr mzn nad ngn nio nok npr nzd pab pen pgk php "
    "pkr pln qar ron rsd rub sar sbd scr sek sgd shp sle sos srd std szl thb tjs top try ttd twd tzs uah usd uyu uzs "
    "wst xcd xcg yer zar zmw"
)
_MINIMUMS = {
    **dict.fromkeys(("aud", "brl", "cad", "chf", "eur", "inr", "jpy", "nzd", "sgd", "usd"), 50),
    **dict.fromkeys(("aed", "myr", "pln", "ron"), 200),
    **dict.fromkeys(("nok", "sek"), 300),
    **dict.fromkeys(("mxn", "thb"), 1000),
    "gbp": 30,
    "bgn": 100,
    "dkk": 250,
    "hkd": 400,
    "czk": 1500,
    "huf": 17500,
}
_MAXIMUM = 99_999_999
_MAXIMUMS = {"inr": 999_999_999, "idr": 999_999_999_999}
_EXACT = Context(prec=60, traps=[Inexact, InvalidOperation])
_MAX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Currency:
    """One currency as Stripe sees it.

    Attributes:
        code: three lower-case letters, as the API writes it.
        exponent: decimal places of the API's integer: 2 for USD cents.
        step: a charge in minor units must be a multiple of it.
        minimum: the smallest charge in minor units; None where Stripe publishes none.
        maximum: the largest charge in minor units.
    """

    code: str
    exponent: int
    step: int
    minimum: int | None
    maximum: int


def _table() -> dict[str, Currency]:
    groups = ((_ZERO_DECIMAL, 0, 1), (_WHOLE_UNITS_ONLY, 2, 100), (_THREE_DECIMAL, 3, 10), (_TWO_DECIMAL, 2, 1))
    return {
        code: Currency(code, exponent, step, _MINIMUMS.get(code), _MAXIMUMS.get(code, _MAXIMUM))
        for codes, exponent, step in groups
        for code in codes.split()
    }


_CURRENCIES = _table()


def currency(code: str) -> Currency:
    """Return what Stripe takes of a currency; the code may be written in either case.

    Raises:
        ConfigurationError: Stripe does not charge in that currency.
    """
    found = _CURRENCIES.get(code.lower()) if code.isascii() else None
    if found is None:
        raise ConfigurationError(f"{code!r} is not a currency Stripe charges in; write a three-letter code such as USD")
    return found


def minimum(code: str) -> int | None:
    """Return the smallest charge in minor units, or None where Stripe publishes no minimum for the currency.

    Raises:
        ConfigurationError: Stripe does not charge in that currency.
    """
    return currency(code).minimum


def minor_units(amount: Decimal, code: str) -> int:
    """Return `amount` (whole units of the currency) as the API's integer. Never rounds.

    Raises:
        ConfigurationError: Stripe does not charge in that currency, or the amount is negative, not finite or not a
            whole number of chargeable units.
    """
    unit = currency(code)
    if not isinstance(amount, Decimal) or not amount.is_finite() or amount < 0 or amount.adjusted() > _MAX_DIGITS:
        raise ConfigurationError(f"amount {amount!r} must be a finite Decimal that is not negative, of sane size")
    smallest = major_units(unit.step, code)
    try:
        scaled = _EXACT.scaleb(amount, unit.exponent)
        minor = int(_EXACT.to_integral_exact(scaled))
    except (Inexact, InvalidOperation) as error:
        raise ConfigurationError(f"{amount} {unit.code.upper()} is not a multiple of {smallest}") from error
    if minor % unit.step:
        raise ConfigurationError(f"{amount} {unit.code.upper()} is not a multiple of {smallest}")
    return minor


def major_units(minor: int, code: str) -> Decimal:
    """Return the API's integer as an amount in whole units of the currency: 50 USD cents are `Decimal("0.50")`.

    Raises:
        ConfigurationError: Stripe does not charge in that currency.
    """
    return _EXACT.scaleb(Decimal(minor), -currency(code).exponent)
