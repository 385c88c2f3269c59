"""Exact money: what is read, what is refused, and that no conversion ever loses or undercuts anything."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rail402.errors import ConfigurationError
from rail402.money import MSAT_EXPONENT, Money, as_money

FUZZ = settings(derandomize=True, database=None, deadline=None, max_examples=200)


def money(amount: str, currency: str = "USD") -> Money:
    return Money(Decimal(amount), currency)


class TestParse:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("0.003 USD", money("0.003")),
            ("0.003USD", money("0.003")),
            ("0.003 usd", money("0.003")),
            ("$0.003", money("0.003")),
            ("€1", money("1", "EUR")),
            ("£1.50", money("1.5", "GBP")),
            ("1 USDC", money("1", "USDC")),
            ("21 sat", money("0.00000021", "BTC")),
            ("21 sats", money("0.00000021", "BTC")),
            ("21 SAT", money("0.00000021", "BTC")),
            ("2500 msat", money("0.000000025", "BTC")),
            ("1 BTC", money("1", "BTC")),
            ("  1 USD\n", money("1")),
            ("007 USD", money("7")),
            ("0 USD", money("0")),
            ("0.1 msat", money("0.000000000001", "BTC")),
        ],
    )
    def test_an_amount_with_its_currency(self, text: str, expected: Money) -> None:
        assert Money.parse(text) == expected

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "1",
            "USD",
            "$",
            "$ 1",
            "1$",
            "$1 USD",
            "1  USD",
            "1\tUSD",
            "1 US",
            "1 DOLLAR",
            "1 U5D",
            "-1 USD",
            "+1 USD",
            "$-1",
            "1e3 USD",
            "1E3USD",
            "1,5 USD",
            "1_000 USD",
            ".5 USD",
            "5. USD",
            "1.2.3 USD",
            "0x10 USD",
            "NaN USD",
            "Infinity USD",
            "1 USD 2 USD",
            "1 USD;",
            "१ USD",
            "１ USD",
            "1 ＵＳＤ",
            "1 \u00a0USD",
            "1\x00 USD",
            "¥1",
            "1 USDUSD",
            "9" * 61 + " USD",
        ],
    )
    def test_anything_else_is_refused_with_an_example(self, text: str) -> None:
        with pytest.raises(ConfigurationError, match=r'write "0.003 USD", "\$0.003" or "21 sat"'):
            Money.parse(text)

    @pytest.mark.parametrize("value", [None, 1, 1.5, Decimal(1), b"1 USD", ["1 USD"]])
    def test_only_text_is_parsed(self, value: object) -> None:
        with pytest.raises(ConfigurationError, match="is not an amount of money"):
            Money.parse(value)  # type: ignore[arg-type]

    def test_the_longest_text_is_exact(self) -> None:
        digits = "9" * 63
        assert Money.parse(f"${digits}").amount == Decimal(digits)
        assert Money.parse("0." + "1" * 57 + " msat").amount == Decimal("0." + "0" * 11 + "1" * 57)

    @FUZZ
    @given(st.text(max_size=70) | st.from_regex(r"\A[$€£]?[0-9.]{0,8} ?[A-Za-z]{0,6}\Z"))
    def test_any_text_is_money_or_refused(self, text: str) -> None:
        try:
            parsed = Money.parse(text)
        except ConfigurationError:
            return
        assert parsed.amount >= 0
        assert Money.parse(str(parsed)) == parsed

    def test_money_passes_through(self) -> None:
        one = money("1")
        assert as_money(one) is one
        assert as_money("1 USD") == one


class TestMoney:
    @pytest.mark.parametrize("amount", [0.1, 1, "1", None, Decimal("-0.01"), Decimal("NaN"), Decimal("Infinity")])
    def test_an_amount_is_a_decimal_that_is_finite_and_not_negative(self, amount: object) -> None:
        with pytest.raises(ConfigurationError, match="must be a finite Decimal"):
            Money(amount, "USD")  # type: ignore[arg-type]

    @pytest.mark.parametrize("currency", ["", "usd", "US", "DOLLAR", "U5D", "USD ", "USD\n", "ÜSD"])
    def test_a_currency_is_a_code(self, currency: str) -> None:
        with pytest.raises(ConfigurationError, match="3 to 5 upper-case letters"):
            Money(Decimal(1), currency)

    def test_equal_amounts_are_equal(self) -> None:
        assert money("1.0") == money("1.00")
        assert hash(money("1.0")) == hash(money("1.00"))
        assert money("1") != money("1", "USDC")

    def test_it_does_not_change(self) -> None:
        with pytest.raises(AttributeError):
            money("1").amount = Decimal(2)  # type: ignore[misc]

    def test_order_and_sum(self) -> None:
        assert money("1") < money("1.01") <= money("1.01")
        assert money("2") > money("1")
        assert not money("1") < money("1.0")
        assert money("0.1") + money("0.2") == money("0.3")

    def test_currencies_do_not_mix(self) -> None:
        for operation in (Money.__add__, Money.__lt__, Money.__le__):
            with pytest.raises(ConfigurationError, match="USD and EUR cannot be compared"):
                operation(money("1"), money("1", "EUR"))

    def test_the_caller_s_decimal_context_does_not_matter(self) -> None:
        with localcontext() as context:
            context.prec = 2
            assert money("0.123456") + money("1") == money("1.123456")
            assert Money.parse("1.23456789 USD").to_atomic(8) == 123456789
            assert Money.from_atomic(123456789, 8, "USD") == money("1.23456789")
            assert str(money("1.23456789")) == "1.23456789 USD"


class TestAtomic:
    @pytest.mark.parametrize(
        ("text", "exponent", "step", "atomic"),
        [
            ("0.003 USDC", 6, 1, 3000),
            ("0.0000001 USDC", 6, 1, 1),  # never undercut, never free
            ("0.0030001 USDC", 6, 1, 3001),
            ("0.50 USD", 2, 1, 50),
            ("0.501 USD", 2, 1, 51),
            ("0 USD", 2, 1, 0),
            ("1 sat", MSAT_EXPONENT, 1, 1000),
            ("1 msat", MSAT_EXPONENT, 1000, 1000),
            ("1000 msat", MSAT_EXPONENT, 1000, 1000),
            ("1001 msat", MSAT_EXPONENT, 1000, 2000),
            ("0.1 msat", MSAT_EXPONENT, 1, 1),
            ("7 USD", 0, 5, 10),
        ],
    )
    def test_rounding_goes_up(self, text: str, exponent: int, step: int, atomic: int) -> None:
        assert Money.parse(text).to_atomic(exponent, step=step) == atomic

    @pytest.mark.parametrize("exponent", [0, 2, 6, 11, 18])
    def test_256_bits_are_exact(self, exponent: int) -> None:
        for atomic in (1, 2**53 + 1, 2**256 - 1):
            assert Money.from_atomic(atomic, exponent, "USDC").to_atomic(exponent) == atomic

    def test_a_negative_amount_is_none(self) -> None:
        with pytest.raises(ConfigurationError):
            Money.from_atomic(-1, 6, "USDC")

    @FUZZ
    @given(
        st.decimals(min_value=0, max_value=10**12, places=15, allow_nan=False),
        st.integers(0, 18),
        st.sampled_from([1, 5, 10, 1000]),
    )
    def test_never_less_and_never_a_step_more(self, amount: Decimal, exponent: int, step: int) -> None:
        price = Money(amount, "USD")
        atomic = price.to_atomic(exponent, step=step)
        assert atomic % step == 0
        assert price <= Money.from_atomic(atomic, exponent, "USD")
        if atomic:
            assert Money.from_atomic(max(atomic - step, 0), exponent, "USD") < price


class TestText:
    @pytest.mark.parametrize(
        ("amount", "currency", "text"),
        [
            ("0.003", "USD", "0.003 USD"),
            ("1.50", "USD", "1.5 USD"),
            ("10", "USD", "10 USD"),
            ("100.00", "USDC", "100 USDC"),
            ("1E+3", "USD", "1000 USD"),
            ("1E-7", "USD", "0.0000001 USD"),
            ("0", "USD", "0 USD"),
            ("1", "BTC", "100000000 sat"),
            ("0.00000021", "BTC", "21 sat"),
            ("0.000000025", "BTC", "2500 msat"),
            ("0.000000000001", "BTC", "0.000000000001 BTC"),
            ("0", "BTC", "0 sat"),
        ],
    )
    def test_as_people_write_it(self, amount: str, currency: str, text: str) -> None:
        assert str(money(amount, currency)) == text

    @FUZZ
    @given(st.integers(0, 10**20), st.sampled_from([("USD", 2), ("USDC", 6), ("BTC", 11), ("BTC", 13)]))
    def test_it_is_read_back(self, atomic: int, unit: tuple[str, int]) -> None:
        currency, exponent = unit
        value = Money.from_atomic(atomic, exponent, currency)
        assert Money.parse(str(value)) == value
