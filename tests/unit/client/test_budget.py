from __future__ import annotations

import pytest

from rail402.client.budget import Budget, Entry, Spent, family
from rail402.errors import BudgetExceeded, ConfigurationError
from rail402.money import Money


def money(text: str) -> Money:
    return Money.parse(text)


def counted(budget: Budget, cost: str, **converted: str) -> dict[str, tuple[str, str | None]]:
    entries = budget.entries(money(cost), {currency: money(text) for currency, text in converted.items()})
    return {entry.window: (str(entry.amount), None if entry.limit is None else str(entry.limit)) for entry in entries}


def test_the_defaults_hold_for_dollars_and_for_sats_without_a_rate() -> None:
    budget = Budget()
    assert counted(budget, "1 USD") == {"hour": ("1 USD", "5 USD"), "day": ("1 USD", "20 USD")}
    assert counted(budget, "1000 sat") == {"hour": ("1000 sat", "5000 sat"), "day": ("1000 sat", "20000 sat")}


@pytest.mark.parametrize("cost", ["1.000001 USD", "1000001 msat", "1.000001 USDC"])
def test_one_smallest_unit_above_the_limit_per_request_is_refused(cost: str) -> None:
    with pytest.raises(BudgetExceeded, match="per request"):
        Budget().entries(money(cost), {})


def test_a_stablecoin_counts_as_its_currency() -> None:
    assert family("USDC") == "USD"
    assert counted(Budget(per_request="1 USDC"), "0.5 USDC")["hour"] == ("0.5 USD", "5 USD")


def test_its_own_limit_decides_even_where_a_rate_is_known() -> None:
    # 0.80 dollars are 1333 sat here: above the limit in sats, which is not for dollars.
    assert counted(Budget(), "0.80 USD", BTC="1333 sat", USD="0.80 USD")["hour"] == ("0.8 USD", "5 USD")


def test_without_a_limit_of_its_own_a_purchase_counts_by_the_rate() -> None:
    budget = Budget(per_request="1 USD", per_hour="5 USD", per_day="20 USD")
    assert counted(budget, "1000 sat", USD="0.60 USD")["day"] == ("0.6 USD", "20 USD")
    with pytest.raises(BudgetExceeded, match=r"may cost 1\.2 USD"):
        budget.entries(money("2000 sat"), {"USD": money("1.20 USD")})


def test_the_first_limit_that_a_rate_leads_to_is_the_one() -> None:
    budget = Budget(per_request=["1 EUR", "1 USD"])
    assert counted(budget, "100 sat", USD="0.06 USD")["hour"] == ("100 sat", "5000 sat")
    with pytest.raises(BudgetExceeded, match="2 EUR"):
        budget.entries(money("100 sat"), {"EUR": money("2 EUR"), "USD": money("0.06 USD")})


def test_without_limit_and_rate_nothing_is_paid_and_the_missing_rate_is_named() -> None:
    with pytest.raises(BudgetExceeded, match="no BTC/USD or BTC/EUR rate is known"):
        Budget(per_request=["1 USD", "1 EUR"]).entries(money("1 sat"), {})


def test_a_window_counts_by_the_limits_per_request_where_no_rate_is_known() -> None:
    budget = Budget(per_request=["1 USD", "1000 sat"], per_hour="5 USD", per_day="20 USD")
    assert counted(budget, "700 sat") == {"hour": ("0.7 USD", "5 USD"), "day": ("0.7 USD", "20 USD")}
    assert counted(budget, "700 sat", USD="0.42 USD")["hour"] == ("0.42 USD", "5 USD"), "a rate comes first"


def test_what_counts_that_way_is_rounded_up() -> None:
    budget = Budget(per_request=["1 USD", "3 sat"], per_hour="1 USD", per_day=None)
    assert counted(budget, "1 msat")["hour"] == ("0.00033333334 USD", "1 USD")


def test_limits_of_nothing_imply_no_rate() -> None:
    for limits in (["0 USD", "1000 sat"], ["1 USD"]):
        with pytest.raises(BudgetExceeded, match="no BTC/USD rate is known"):
            Budget(per_request=[*limits, "1 EUR"], per_hour="5 USD").entries(money("1 sat"), {"EUR": money("0.1 EUR")})


def test_a_window_that_cannot_be_checked_refuses() -> None:
    budget = Budget(per_request=["1 USD", "1000 sat"], per_hour="5 EUR")
    with pytest.raises(BudgetExceeded, match="per hour is 5 EUR and no USD/EUR rate"):
        budget.entries(money("0.01 USD"), {})


def test_a_level_of_none_is_not_limited_and_still_counted() -> None:
    assert counted(Budget(per_hour=None), "1 USD")["hour"] == ("1 USD", None)
    Entry("hour", money("1 USD"), None).check(Spent(money("1000000 USD"), money("0 USD")))


def test_what_is_counted_is_rounded_up() -> None:
    entries = Budget(per_request="1 USD").entries(money("1 sat"), {"USD": money("0.0006000000001 USD")})
    assert str(entries[0].amount) == "1 sat"
    budget = Budget(per_request="1 USD", per_hour="5 USD")
    assert counted(budget, "1 sat", USD="0.0006000000001 USD")["hour"] == ("0.00060000001 USD", "5 USD")


def test_a_window_is_full_at_its_limit_and_says_what_is_left() -> None:
    entry = Entry("hour", money("0.003 USD"), money("5 USD"))
    entry.check(Spent(money("4.997 USD"), money("0 USD")))
    with pytest.raises(BudgetExceeded) as caught:
        entry.check(Spent(money("4.998 USD"), money("0.5 USD")))
    assert "of 5 USD per hour 0.002 USD is left" in caught.value.detail
    assert "0.5 USD is held by purchases under way or not resolved" in caught.value.detail


def test_a_limit_that_was_lowered_leaves_nothing() -> None:
    with pytest.raises(BudgetExceeded, match="0 USD is left"):
        Entry("day", money("1 USD"), money("2 USD")).check(Spent(money("3 USD"), money("0 USD")))


@pytest.mark.parametrize(
    "options",
    [
        {"per_request": []},
        {"per_request": "1 dollar or so"},
        {"per_request": ["1 USD", "1 USDC"]},
        {"per_hour": ["1 sat", "1 msat"]},
        {"per_day": "10000001 USD"},
    ],
)
def test_limits_that_cannot_be_meant_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        Budget(**options)  # type: ignore[arg-type]


def test_limits_can_be_listed() -> None:
    budget = Budget(per_request=Money.parse("$0.10"), per_hour=["5 USD", "3 EUR"])
    assert [str(limit) for limit in budget.limits("hour")] == ["5 USD", "3 EUR"]
    assert budget.currencies == ("USD", "EUR", "BTC")
    assert "_levels" not in repr(budget)
