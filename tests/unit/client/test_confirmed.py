"""Which limits are looser than others; and that nothing is bought under looser ones until somebody confirms them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from rail402.client.budget import Budget
from rail402.client.confirmed import loosened, written
from rail402.client.rules import Rule
from rail402.errors import ConfigurationError, PaymentRefused, RailUnavailable, StoreError
from rail402.testing.fakes import FakeWallet
from tests.unit.client.shop import LOST, URL, Market

NOW = 1_800_000_000
BASE: dict[str, Any] = {"per_request": ["1 USD", "1000 sat"], "per_hour": "5 USD", "per_day": None, "total": "90 USD"}


def budget(**changes: Any) -> Budget:
    return Budget(**(BASE | changes))


def looser(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, ...]:
    return loosened(written(budget(**before)), budget(**after))


HOST, EACH = Rule(host="a.test", per_day="2 USD", total="9 USD"), Rule(host="*", per_day="3 USD")
TIGHTER: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({}, {"per_hour": "4.99 USD"}),
    ({}, {"per_day": "1000 USD"}),
    ({}, {"rules": [HOST]}),
    ({"rules": [HOST]}, {"rules": [Rule(host="A.test", per_hour="1 USD", per_day="2 USD", total="9 USD")]}),
    ({"rules": [EACH]}, {"rules": [EACH, Rule(host="a.test", per_day="2 USD")]}),
    ({"rules": [EACH, Rule(host="a.test", per_day="5 USD")]}, {"rules": [EACH]}),
    ({}, {"allow_hosts": ["a.test"]}),
    ({"allow_hosts": ["a.test", "b.test"]}, {"allow_hosts": "a.test"}),
    ({"deny_hosts": "a.test"}, {"deny_hosts": ["b.test", "a.test"]}),
    ({}, {"deny_payees": "0xAB"}),
    ({"pin_payees": False}, {}),
    ({}, {"price_tolerance": 50}),
    ({"price_tolerance": 50}, {"price_tolerance": 25}),
    ({}, {"ask_above": "1 USD"}),
    ({"ask_above": "1 USD"}, {"ask_above": "0.5 USD"}),
    ({"per_hour": None}, {"per_hour": None, "per_request": ["0.5 USD", "500 sat"]}),
    (
        {"per_hour": ["5 USD", "5000 sat"], "total": None},
        {"per_hour": ["5 USD", "4 sat"], "total": None, "per_request": ["0.1 USD", "1000 sat"]},
    ),
]
LOOSER: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"per_hour": "5.01 USD"}, "per hour it was 5 USD, and is 5.01 USD"),
    ({}, {"per_hour": None}, "per hour it was 5 USD, and is not limited"),
    ({}, {"total": None}, "in total it was 90 USD, and is not limited"),
    ({}, {"per_hour": ["5 USD", "1 sat"]}, "per hour it was 5 USD, and is 5 USD or 1 sat"),
    ({}, {"per_hour": "5 EUR"}, "per hour it was 5 USD, and is 5 EUR"),
    ({}, {"per_request": ["1 USD", "1001 sat"]}, "per request it was"),
    ({}, {"per_request": ["0.5 USD", "1000 sat"]}, "which other limits count by"),
    ({"rules": [HOST]}, {}, "for the host a.test per day it was 2 USD, and is not limited"),
    ({"rules": [HOST]}, {"rules": [Rule(host="a.test", per_day="2 USD")]}, "for the host a.test in total"),
    ({"rules": [HOST]}, {"rules": [Rule(host="b.test", per_day="2 USD", total="9 USD")]}, "for the host a.test"),
    ({"rules": [EACH]}, {"rules": [EACH, Rule(host="a.test", per_day="4 USD")]}, "for the host a.test per day"),
    ({"rules": [EACH, HOST]}, {"rules": [EACH]}, "for the host a.test per day it was 2 USD, and is 3 USD"),
    ({"rules": [EACH]}, {}, "for each host per day it was 3 USD, and is not limited"),
    ({"rules": [Rule(tool="a", per_day="1 USD")]}, {"rules": [Rule(rail="a", per_day="1 USD")]}, "for the tool a"),
    ({"allow_hosts": "a.test"}, {}, "allow_hosts is gone"),
    ({"allow_hosts": "a.test"}, {"allow_hosts": ["a.test", "b.test"]}, "allow_hosts has b.test as well"),
    ({"allow_payees": ["x"]}, {"allow_payees": ["y"]}, "allow_payees has y as well"),
    ({"deny_hosts": ["a.test", "b.test"]}, {"deny_hosts": "b.test"}, "deny_hosts has a.test no more"),
    ({"deny_payees": "0xAB"}, {}, "deny_payees has 0xab no more"),
    ({}, {"pin_payees": False}, "pin_payees is off"),
    ({"price_tolerance": 25}, {"price_tolerance": 26}, "price_tolerance was 25, and is 26"),
    ({"price_tolerance": 0}, {}, "price_tolerance was 0, and is any"),
    ({"ask_above": "1 USD"}, {}, "ask_above was 1 USD, and is gone"),
    ({"ask_above": "1 USD"}, {"ask_above": "2 USD"}, "ask_above was 1 USD, and is 2 USD"),
    (
        {"per_hour": None, "total": None, "ask_above": "0.5 USD"},
        {"per_hour": None, "total": None, "ask_above": "0.5 USD", "per_request": ["0.5 USD", "1000 sat"]},
        "which other limits count by",
    ),
]


@pytest.mark.parametrize(("before", "after"), TIGHTER)
def test_what_is_tighter_is_not_looser(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert looser(before, after) == ()


@pytest.mark.parametrize(("before", "after", "said"), LOOSER)
def test_what_is_looser_is_said(before: dict[str, Any], after: dict[str, Any], said: str) -> None:
    assert any(said in why for why in looser(before, after))


def test_the_same_limits_are_the_same_text_however_they_are_written() -> None:
    one = budget(per_hour=["5 USD", "10 sat"], rules=[HOST, EACH], deny_hosts=["b.test", "a.test"])
    two = budget(per_hour=["10000 msat", "$5.00"], rules=[EACH, HOST], deny_hosts=["A.test", "b.test", "a.test"])
    assert written(one) == written(two)
    assert loosened(written(one), two) == ()


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"rules": [], "per_week": 1})])
def test_what_cannot_be_read_is_an_error(text: str) -> None:
    with pytest.raises(ConfigurationError, match="confirmed last cannot be read"):
        loosened(text, Budget())


# --- in a purchase


class Down(FakeWallet):
    async def start(self) -> None:
        raise RailUnavailable("it is off")


async def test_nothing_is_bought_under_looser_limits(market: Market) -> None:
    # A wallet that never starts, so that each purchase tries to start it.
    wallets = [FakeWallet(market.ledger, market.specs[0]), Down(market.ledger, market.specs[0], payer="down")]
    first = market.payer(wallets, budget=budget())
    first.file_limits = budget()
    assert (await market.request(first)).status_code == 200
    loose = market.payer(budget=budget(per_hour="50 USD"))
    loose.file_limits = budget(per_hour="50 USD")
    with pytest.raises(PaymentRefused, match=r"per hour it was 5 USD, and is 50 USD\): .*budget confirm") as caught:
        await market.request(loose, url=f"{URL}&of=other")
    assert (caught.value.code, caught.value.outcome) == ("limits_loosened", "not_paid")
    assert market.ledger.count("pay") == 1
    await _now(market, loose, lambda: loose.journal.accept(budget(per_hour="50 USD"), now=NOW, is_confirmed=True))
    assert (await market.request(loose, url=f"{URL}&of=other")).status_code == 200
    assert (await market.request(first, url=f"{URL}&of=third")).status_code == 200, (
        "who has tighter limits goes on with them"
    )
    assert (await market.request(loose, url=f"{URL}&of=fourth")).status_code == 200, "and takes nothing back by that"


async def test_tightening_holds_at_once_for_who_runs_with_looser_limits(market: Market) -> None:
    running = market.payer(budget=budget())
    running.file_limits = budget()
    await market.request(running)
    tight = market.payer(budget=budget(per_hour="2 USD"))
    tight.file_limits = budget(per_hour="2 USD")
    assert (await market.request(tight, url=f"{URL}&of=other")).status_code == 200
    with pytest.raises(PaymentRefused, match="per hour it was 2 USD, and is 5 USD"):
        await market.request(running, url=f"{URL}&of=third")


async def test_limits_that_could_not_be_written_are_written_later(market: Market) -> None:
    payer = market.payer(budget=budget())
    payer.file_limits = budget()
    accept = payer.journal.accept

    async def full(*_: Any, **__: Any) -> Any:
        raise StoreError("the disk is full")

    payer.journal.accept = full  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="full"):
        await market.request(payer)
    payer.journal.accept = accept  # type: ignore[method-assign]
    assert (await market.request(payer)).status_code == 200
    loose = market.payer(budget=budget(per_hour="50 USD"))
    loose.file_limits = budget(per_hour="50 USD")
    with pytest.raises(PaymentRefused, match="per hour it was 5 USD"):
        await market.request(loose, url=f"{URL}&of=other")


async def test_what_is_open_is_served_all_the_same(market: Market) -> None:
    first = market.payer(budget=budget())
    first.file_limits = budget()
    market.shop.script.extend([LOST] * 40)
    with pytest.raises(Exception, match="stay reserved"):
        await market.request(first)
    market.shop.script.clear()
    loose = market.payer(budget=budget(total=None))
    loose.file_limits = budget(total=None)
    assert (await market.request(loose)).status_code == 200


async def test_a_budget_of_a_program_is_its_own_word(market: Market) -> None:
    await market.request(market.payer(budget=budget()))
    await market.request(market.payer(budget=budget(per_hour="50 USD")), "other")
    assert market.ledger.count("pay") == 2


async def _now(market: Market, payer: Any, work: Any) -> None:
    if market.kind == "async":
        await work()
    else:
        await asyncio.to_thread(payer.run, work)
