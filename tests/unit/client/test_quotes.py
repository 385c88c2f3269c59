"""What a request would cost: everything is checked as before paying, and nothing is paid or reserved."""

from __future__ import annotations

import httpx
import pytest

from rail402 import Payer
from rail402.client.budget import Budget
from rail402.client.quotes import Quote
from rail402.errors import AdministrativePaymentRequired, BudgetExceeded, NoUsableOffer
from rail402.testing.fakes import FakeSpec, FakeWallet
from tests.unit.client.shop import URL, Make, Market

pytestmark = pytest.mark.parametrize("kind", ["async"])


async def quoted(market: Market, payer: Payer, url: str = URL) -> Quote | None:
    return await payer.quote(httpx.Request("GET", url), httpx.MockTransport(market.shop.handle))


async def test_it_names_what_would_be_paid(market: Market) -> None:
    quote = await quoted(market, market.payer())
    assert quote is not None
    assert (str(quote.price), quote.wallet, quote.offer.payee) == ("0.003 USD", "fake:alice", "shop")
    assert quote.total.amount >= quote.price.amount
    assert await market.states() == []
    assert (market.ledger.count("pay"), market.ledger.charged_total) == (0, 0)


async def test_what_is_not_answered_with_402_costs_nothing(market: Market) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, text="free"))
    assert await market.payer().quote(httpx.Request("GET", URL), transport) is None


async def test_the_windows_count(market: Market) -> None:
    payer = market.payer(budget=Budget(per_hour="0.005 USD"))
    (await market.request(payer)).raise_for_status()
    with pytest.raises(BudgetExceeded, match=r"of 0\.005 USD per hour 0\.002 USD is left"):
        await quoted(market, payer, f"{URL}2")
    market.clock.advance(3600)
    assert await quoted(market, payer, f"{URL}2") is not None


async def test_the_next_wallet_is_quoted_where_the_first_one_cannot_pay(open_market: Make) -> None:
    market = open_market()
    market.ledger.balances["poor"] = 0
    poor, rich = (FakeWallet(market.ledger, market.specs[0], payer=name) for name in ("poor", "rich"))
    quote = await quoted(market, market.payer([poor, rich]))
    assert quote is not None
    assert quote.wallet == "fake:rich"


async def test_it_says_why_nothing_would_be_paid(open_market: Make) -> None:
    market = open_market()
    with pytest.raises(NoUsableOffer):
        await quoted(market, market.payer([FakeWallet(market.ledger, FakeSpec("elsewhere"))]))
    bare = httpx.MockTransport(lambda request: httpx.Response(402, text="pay your bill"))
    with pytest.raises(AdministrativePaymentRequired):
        await market.payer().quote(httpx.Request("GET", URL), bare)
