"""In which order wallets are asked: for a host, a path, a rail, or the cheapest first."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from rail402.client.budget import Budget
from rail402.client.preference import Preference, preference_for
from rail402.client.rules import Rule
from rail402.errors import BudgetExceeded, ConfigurationError, NoUsableOffer, OutcomeUnknown, StoreError
from rail402.money import Money
from rail402.protocol.offer import Offer
from rail402.protocol.rail import Cost
from rail402.rates import FixedRates
from rail402.testing.fakes import Ending, FakeSpec, FakeWallet
from tests.unit.client.shop import URL, Make, Market

WALLETS = [("base:0x1", "base"), ("node", "lightning"), ("stripe:live", "stripe")]


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ({"wallets": "lightning"}, ["node", "base:0x1", "stripe:live"]),
        ({"wallets": ["stripe", "node"]}, ["stripe:live", "node", "base:0x1"]),
        ({"wallets": ["stripe:live"], "only": True}, ["stripe:live"]),
        ({"wallets": ["nobody"], "only": True}, []),
        ({"cheapest": True}, ["base:0x1", "node", "stripe:live"]),
    ],
)
def test_who_is_named_comes_first(options: dict[str, Any], order: list[str]) -> None:
    assert Preference(**options).order(WALLETS) == order


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        ({}, True),
        ({"host": "API.example.com"}, True),
        ({"host": "*.example.com"}, True),
        ({"host": "example.com"}, False),
        ({"path": "/reports/2026"}, True),
        ({"path": "/reports/*"}, True),
        ({"path": "/reports"}, False),
        ({"path": "/rep*"}, True),
        ({"host": "api.example.com", "path": "/other"}, False),
    ],
)
def test_for_whom_it_is(options: dict[str, Any], fits: bool) -> None:
    preference = Preference(cheapest=True, **options)
    assert preference.fits("api.example.com", "/reports/2026") is fits
    last = Preference(wallets="base")
    found = preference_for([preference, last], "api.example.com", "/reports/2026")
    assert found is (preference if fits else last)


@pytest.mark.parametrize(
    "options", [{}, {"only": True, "cheapest": True}, {"wallets": "a", "path": "x"}, {"host": "a b"}]
)
def test_what_cannot_be_meant(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Preference(**options)


# --- in purchases


class Dear(FakeWallet):
    """Says what it would charge on top, and fails as it is told when it is asked that."""

    fee = "0 USD"
    fails: BaseException | None = None
    asked = 0

    async def can_pay(self, offer: Offer) -> Cost | None:
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        cost = await super().can_pay(offer)
        return None if cost is None else Cost(price=cost.price, fee_ceiling=Money.parse(self.fee))


def two_rails(open_market: Make) -> tuple[Market, Dear, Dear]:
    market = open_market(specs=[FakeSpec("one"), FakeSpec("two")])
    first, second = (Dear(market.ledger, spec) for spec in market.specs)
    first.name, second.name = "first", "second"
    return market, first, second


async def paid_by(market: Market, payer: Any, url: str = URL) -> str:
    """Buy, and return the name of the wallet that paid."""
    await market.request(payer, url=url)
    return str((await payer.journal.newest(limit=1))[0].wallet)


async def test_a_host_a_path_and_a_rail_may_be_preferred(open_market: Make) -> None:
    market, first, second = two_rails(open_market)
    payer = market.payer([first, second])
    payer.preferences = [Preference(host="shop.test", path="/article", wallets="two"), Preference(wallets=["first"])]
    assert await paid_by(market, payer) == "second"
    assert await paid_by(market, payer, URL.replace("article", "other")) == "first"
    with pytest.raises(ConfigurationError, match="no wallet 'three'; there are: first, one, second, two"):
        payer.preferences = [Preference(wallets="three")]


async def test_the_others_pay_where_the_preferred_one_has_not_and_none_of_them_if_it_is_the_only_one(
    open_market: Make,
) -> None:
    market, first, second = two_rails(open_market)
    payer = market.payer([first, second])
    market.ledger.script("pay", Ending.FAILED)
    payer.preferences = [Preference(wallets="two")]
    assert await paid_by(market, payer) == "first"
    second.fails = OutcomeUnknown("the node sleeps")
    payer.preferences = [Preference(wallets="two", only=True)]
    with pytest.raises(NoUsableOffer, match="the wallet second does not say whether it can pay"):
        await market.request(payer, url=f"{URL}&n=2")


async def test_the_cheapest_pays_fees_included(open_market: Make) -> None:
    market, first, second = two_rails(open_market)
    first.fee = "0.01 USD"
    payer = market.payer([first, second])
    assert await paid_by(market, payer) == "first"
    payer.preferences = [Preference(cheapest=True)]
    assert await paid_by(market, payer, f"{URL}&n=2") == "second"
    second.fee = "1 sat"
    assert await paid_by(market, payer, f"{URL}&n=3") == "first", "without a rate a fee in sats is no sum"
    rated = market.payer([first, second], rates=FixedRates({"BTC/USD": "100000"}))
    rated.preferences = [Preference(cheapest=True)]
    assert await paid_by(market, rated, f"{URL}&n=4") == "second"


@pytest.mark.parametrize(
    "failure", [OutcomeUnknown("?"), httpx.ReadTimeout("?"), TimeoutError(), ConfigurationError("?")]
)
async def test_a_wallet_that_fails_when_it_is_asked_leaves_it_to_the_next(open_market: Make, failure: Any) -> None:
    market, first, second = two_rails(open_market)
    first.fails = failure
    payer = market.payer([first, second])
    assert await paid_by(market, payer) == "second"


async def test_a_wallet_that_hangs_leaves_it_to_the_next(open_market: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rail402.client.choice._COST_SECONDS", 0)
    market, first, _ = two_rails(open_market)

    async def hangs(offer: Offer) -> Cost | None:
        await asyncio.Event().wait()
        return None

    monkeypatch.setattr(first, "can_pay", hangs)
    with pytest.raises(NoUsableOffer, match=r"the wallet first does not say whether it can pay \(TimeoutError\)"):
        await market.request(market.payer([first]))


async def test_a_journal_that_fails_is_no_reason_to_try_another_wallet(
    open_market: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    market, first, second = two_rails(open_market)
    payer = market.payer([first, second])

    async def fails(pin: Any) -> Any:
        raise StoreError("no disk")

    monkeypatch.setattr(payer.journal, "known", fails)
    with pytest.raises(StoreError):
        await market.request(payer)
    assert second.asked == 0


async def test_an_offer_without_room_in_a_window_leaves_the_wallet_its_others(open_market: Make) -> None:
    """Two offers of one rail; the cheap one's payee has had its share."""
    market = open_market()
    payer = market.payer(budget=Budget(rules=[Rule(payee="shop", total="0.003 USD")], pin_payees=False))
    await market.request(payer)
    with pytest.raises(BudgetExceeded, match="for the payee shop") as caught:
        await market.request(payer, url=f"{URL}2")
    assert "0.003 USD (x402-v2):" in str(caught.value), "the same in another dialect is the same"
    market.shop.rails = market.shop.rails | {"other": _Other(market.shop.rails["fake"])}
    if market.kind == "async":
        quote = await payer.quote(httpx.Request("GET", f"{URL}2"), httpx.MockTransport(market.shop.handle))
        assert quote is not None
        assert quote.offer.payee == "somebody"
    await market.request(payer, url=f"{URL}2")
    (record, *_) = await payer.journal.newest()
    assert record.offer.payee == "somebody"


class _Other:
    """The same rail once more, dearer and for another payee."""

    def __init__(self, rail: Any) -> None:
        self.fake = rail.fake
        self._rail = rail

    async def offer(self, order: Any, mechanism: Any, terms: Any) -> Any:
        made = await self._rail.offer(order, mechanism, terms)
        return made.model_copy(update={"payee": "somebody", "amount": made.amount + 1000})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rail, name)


async def test_once_money_may_have_moved_no_other_wallet_pays(open_market: Make) -> None:
    market, first, second = two_rails(open_market)
    market.ledger.script("pay", Ending.UNKNOWN_DONE)
    payer = market.payer([first, second])
    payer.preferences = [Preference(cheapest=True)]
    with pytest.raises(Exception, match="stay reserved"):
        await market.request(payer)
    assert (market.ledger.count("pay"), await market.states()) == (1, ["unknown"])
