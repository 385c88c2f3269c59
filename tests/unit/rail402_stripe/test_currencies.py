from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.errors import ConfigurationError
from rail402_stripe.currencies import currency, major_units, minimum, minor_units


@pytest.mark.parametrize(
    ("amount", "code", "minor"),
    [
        ("10.99", "USD", 1099),
        ("0.50", "usd", 50),
        ("0.5", "Usd", 50),
        ("500", "jpy", 500),
        ("500.0", "jpy", 500),
        ("5", "isk", 500),
        ("5", "ugx", 500),
        ("1.230", "kwd", 1230),
        ("10.45", "huf", 1045),
        ("0", "usd", 0),
        ("1E+3", "usd", 100_000),
    ],
)
def test_an_amount_becomes_the_integer_the_api_wants(amount: str, code: str, minor: int) -> None:
    assert minor_units(Decimal(amount), code) == minor


@pytest.mark.parametrize(
    ("amount", "code"),
    [
        ("0.005", "usd"),
        ("0.5", "jpy"),
        ("5.50", "isk"),
        ("0.01", "ugx"),
        ("1.234", "kwd"),
        ("-1", "usd"),
        ("NaN", "usd"),
        ("Infinity", "usd"),
        ("1E+400", "usd"),
        ("1E-400", "usd"),
        ("1.00000000000000000000000000000000000000000000000000000000000000001", "usd"),
        ("1", "zzz"),
        ("1", "btc"),
        ("1", ""),
        ("1", "us\N{LATIN SMALL LETTER SHARP S}"),
        ("1", "\N{KELVIN SIGN}rw"),
    ],
)
def test_what_cannot_be_charged_exactly_is_refused_not_rounded(amount: str, code: str) -> None:
    with pytest.raises(ConfigurationError):
        minor_units(Decimal(amount), code)


def test_a_float_is_no_amount() -> None:
    with pytest.raises(ConfigurationError):
        minor_units(0.5, "usd")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "least"),
    [("usd", 50), ("GBP", 30), ("jpy", 50), ("huf", 17500), ("mxn", 1000), ("czk", 1500), ("aed", 200), ("isk", None)],
)
def test_minimums_are_stripes(code: str, least: int | None) -> None:
    assert minimum(code) == least


def test_every_minimum_can_itself_be_charged() -> None:
    published = "aed aud bgn brl cad chf czk dkk eur gbp hkd huf inr jpy mxn myr nok nzd pln ron sek sgd thb usd"
    assert len(published.split()) == 24  # as many as Stripe's table has
    for code in published.split():
        found = currency(code)
        assert found.minimum is not None
        assert 0 < found.minimum <= found.maximum
        assert found.minimum % found.step == 0


def test_maximums_have_eight_digits_but_for_two_currencies() -> None:
    assert currency("usd").maximum == 99_999_999
    assert currency("inr").maximum == 999_999_999
    assert currency("idr").maximum == 999_999_999_999


@given(minor=st.integers(0, 99_999_999), code=st.sampled_from(["usd", "jpy", "kwd", "isk", "huf"]))
def test_back_and_forth_is_exact(minor: int, code: str) -> None:
    minor -= minor % currency(code).step
    assert minor_units(major_units(minor, code), code) == minor
