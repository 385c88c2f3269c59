"""What is left after a purchase, of the limit that leaves the fewest more like it."""

from __future__ import annotations

from typing import Any

import pytest

from rail402.client.budget import Budget
from rail402.client.rules import Rule
from rail402.money import Money
from rail402.rates import FixedRates
from rail402.testing.fakes import FakeWallet
from tests.unit.client.shop import Market


async def left(market: Market, budget: Budget, **options: Any) -> tuple[str, str, str] | None:
    """Buy once, for 0.003 USD; return what is left then, of what, and what that is for."""
    payer = market.payer(budget=budget, **options)
    bought = (await market.request(payer)).extensions["rail402"]
    room = await payer.room_after(bought.record_id, tool="scout")
    return None if room is None else (str(room.left), str(room.limit), room.per)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"per_hour": "1 USD", "per_day": "2 USD"}, ("0.997 USD", "1 USD", "per hour")),
        ({"per_hour": "3 USD", "per_day": "2 USD"}, ("1.997 USD", "2 USD", "per day")),
        ({"per_hour": None, "per_day": None, "total": "2 USD"}, ("1.997 USD", "2 USD", "in total")),
        ({"per_hour": None, "per_day": None}, None),
        ({"per_hour": "0.003 USD"}, ("0 USD", "0.003 USD", "per hour")),
        (
            {"rules": [Rule(host="*", per_day="0.5 USD"), Rule(host="other.test", per_day="0.1 USD")]},
            ("0.497 USD", "0.5 USD", "per day for the host shop.test"),
        ),
        ({"rules": [Rule(tool="scout", total="0.5 USD")]}, ("0.5 USD", "0.5 USD", "in total for the tool scout")),
        ({"rules": [Rule(tool="other", total="0.5 USD")]}, ("4.997 USD", "5 USD", "per hour")),
    ],
)
async def test_the_limit_with_the_least_room_is_named(market: Market, limits: dict[str, Any], expected: Any) -> None:
    assert await left(market, Budget(**limits)) == expected


async def test_limits_in_other_currencies_are_compared_by_how_often_it_fits(market: Market) -> None:
    rates = FixedRates({"BTC/USD": "100000"})  # 0.003 USD are 3 sat: it fits 99 times and 333 times
    assert await left(
        market, Budget(per_hour="300 sat", per_day="1 USD"), rates=rates, journal=f"sqlite:///{market.folder}/a.db"
    ) == ("297 sat", "300 sat", "per hour")
    assert await left(
        market, Budget(per_hour="2000 sat", per_day="1 USD"), rates=rates, journal=f"sqlite:///{market.folder}/b.db"
    ) == ("0.997 USD", "1 USD", "per day")


async def test_what_it_did_cost_counts_and_not_what_was_reserved(market: Market) -> None:
    most, fee = Money.parse("0.01 USD"), Money.parse("0.001 USD")
    wallet = FakeWallet(market.ledger, market.specs[0], fee_ceiling=most, fee=fee)
    assert await left(market, Budget(per_hour="1 USD"), wallets=[wallet]) == ("0.996 USD", "1 USD", "per hour")


async def test_a_purchase_within_limits_that_are_gone_has_no_room(market: Market) -> None:
    bought = (await market.request(market.payer())).extensions["rail402"]
    payer = market.payer(budget=Budget(per_request="0.001 USD"))
    assert await payer.room_after(bought.record_id) is None
    assert await payer.room_after("rec_none") is None
