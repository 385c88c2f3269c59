from __future__ import annotations

import pytest

from rail402.client.budget import Budget, Entry, Spent, family
from rail402.client.rules import Rule, Subject
from rail402.errors import BudgetExceeded, ConfigurationError
from rail402.money import Money


def money(text: str) -> Money:
    return Money.parse(text)


def counted(budget: Budget, cost: str, **converted: str) -> dict[str, tuple[str, str | None]]:
    entries = budget.entries(money(cost), {currency: money(text) for currency, text in converted.items()})
    shown = [entry for entry in entries if entry.window != "total" or entry.limit is not None]
    return {entry.window: (str(entry.amount), None if entry.limit is None else str(entry.limit)) for entry in shown}


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
        {"total": "10000001 USD"},
        {"rules": [Rule(host="a.test", per_day="1 USD"), Rule(host="A.test", total="1 USD")]},
        {"allow_hosts": "two words"},
        {"deny_hosts": ["*"]},
    ],
)
def test_limits_that_cannot_be_meant_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        Budget(**options)  # type: ignore[arg-type]


def test_limits_can_be_listed() -> None:
    budget = Budget(per_request=Money.parse("$0.10"), per_hour=["5 USD", "3 EUR"])
    assert [str(limit) for limit in budget.limits("hour")] == ["5 USD", "3 EUR"]
    assert budget.currencies == ("USD", "EUR", "BTC")
    assert "_caps" not in repr(budget)


def test_a_total_is_a_window_without_end() -> None:
    assert counted(Budget(total="100 USD"), "1 USD")["total"] == ("1 USD", "100 USD")
    assert counted(Budget(total="100 USD"), "1000 sat")["total"] == ("1 USD", "100 USD"), "by the limits per request"
    entry = Entry("total", money("1 USD"), money("100 USD"))
    with pytest.raises(BudgetExceeded, match=r"of 100 USD in total 0\.5 USD is left"):
        entry.check(Spent(money("99.5 USD"), money("0 USD")))


SUBJECT = Subject("api.example.com", "0xAb", "base")


def scoped(budget: Budget, cost: str, **converted: str) -> dict[tuple[str, str], tuple[str, str | None]]:
    rates = {currency: money(text) for currency, text in converted.items()}
    entries = budget.entries(money(cost), rates, SUBJECT)
    return {(entry.scope, entry.window): (str(entry.amount), str(entry.limit)) for entry in entries if entry.scope}


def test_rules_count_beside_the_limits_of_all_purchases() -> None:
    rules = [
        Rule(host="api.example.com", per_day="10 USD", total="50 USD"),
        Rule(payee="0xAB", per_hour="2 USD"),
        Rule(rail="base", per_day="3 USD"),
        Rule(rail="stripe", per_day="1 USD"),
    ]
    assert scoped(Budget(rules=rules), "1 USD") == {
        ("host api.example.com", "day"): ("1 USD", "10 USD"),
        ("host api.example.com", "total"): ("1 USD", "50 USD"),
        ("payee 0xab", "hour"): ("1 USD", "2 USD"),
        ("rail base", "day"): ("1 USD", "3 USD"),
    }
    assert {entry.scope for entry in Budget(rules=rules).entries(money("1 USD"), {})} == {""}


def test_a_rule_per_request_is_checked_and_named() -> None:
    budget = Budget(rules=[Rule(host="*", per_request="0.50 USD")])
    assert scoped(budget, "0.50 USD") == {}
    with pytest.raises(BudgetExceeded, match=r"the limit is 0\.5 USD per request for the host api\.example\.com"):
        budget.entries(money("0.51 USD"), {}, SUBJECT)


def test_a_rule_measures_other_currencies_as_the_budget_does() -> None:
    budget = Budget(rules=[Rule(rail="*", per_day="2 USD")])
    assert scoped(budget, "100 sat") == {("rail base", "day"): ("0.1 USD", "2 USD")}
    assert scoped(budget, "100 sat", USD="0.06 USD") == {("rail base", "day"): ("0.06 USD", "2 USD")}
    assert budget.currencies == ("USD", "BTC")
    assert "EUR" in Budget(rules=[Rule(rail="*", per_day="2 EUR")]).currencies
    with pytest.raises(BudgetExceeded, match="limit per day for the rail base is 2 EUR and no USD/EUR rate"):
        Budget(rules=[Rule(rail="*", per_day="2 EUR")]).entries(money("1 USD"), {}, SUBJECT)


def test_a_full_window_of_a_rule_names_it() -> None:
    entry = Entry("day", money("1 USD"), money("10 USD"), "host api.example.com")
    with pytest.raises(BudgetExceeded, match=r"of 10 USD per day for the host api\.example\.com 0 USD is left"):
        entry.check(Spent(money("10 USD"), money("0 USD")))


class TestTightened:
    def test_one_purchase_may_cost_less(self) -> None:
        budget = Budget().tightened(money("0.10 USD"))
        counted(budget, "0.10 USD")
        with pytest.raises(BudgetExceeded, match=r"the limit is 0\.1 USD per request"):
            budget.entries(money("0.100001 USD"), {})

    def test_limits_in_other_currencies_shrink_with_it(self) -> None:
        budget = Budget().tightened(money("0.10 USDC"))
        assert [str(limit) for limit in budget.limits("request")] == ["0.1 USD", "100 sat"]
        assert [str(limit) for limit in budget.limits("hour")] == ["5 USD", "5000 sat"]
        with pytest.raises(BudgetExceeded, match="100 sat per request"):
            budget.entries(money("101 sat"), {})

    def test_what_shrinks_is_rounded_down(self) -> None:
        budget = Budget(per_request=["3 USD", "100 msat"]).tightened(money("1 USD"))
        assert [str(limit) for limit in budget.limits("request")] == ["1 USD", "33 msat"]

    def test_everything_else_stays(self) -> None:
        budget = Budget(total="9 USD", rules=[Rule(host="*", per_day="2 USD")], deny_hosts="a.test")
        tightened = budget.tightened(money("0.10 USD"))
        assert (tightened.total, tightened.rules, tightened.lists) == (budget.total, budget.rules, budget.lists)

    @pytest.mark.parametrize("most", ["1 USD", "2 USD", "1000000 sat"])
    def test_it_never_allows_more(self, most: str) -> None:
        assert Budget().tightened(money(most)) == Budget()

    @pytest.mark.parametrize(
        ("most", "because"), [("1 EUR", "are 1 USD or 1000 sat; name one"), ("0 USD", "more than nothing")]
    )
    def test_an_amount_that_cannot_be_compared_is_refused(self, most: str, because: str) -> None:
        with pytest.raises(ConfigurationError, match=because):
            Budget().tightened(money(most))
