"""Asking the owner: about what, how often, and that just what was shown is what is paid."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from rail402.client import approval
from rail402.client.approval import question
from rail402.client.budget import Budget
from rail402.client.httpx import APPROVE
from rail402.client.records import Quote
from rail402.client.rules import Rule
from rail402.errors import BudgetExceeded, OfferRefused, PaymentRefused
from rail402.testing.fakes import FakeWallet
from tests.unit.client.shop import ORIGIN, URL, Market

ASKING = Budget(ask_above="0.001 USD")


class Owner:
    """Answers as told, and remembers what was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.asked = list(answers), list[Quote]()

    async def __call__(self, quote: Quote) -> bool:
        self.asked.append(quote)
        answer = self.answers.pop(0)
        if callable(answer):
            answer = await answer()
        return answer  # type: ignore[no-any-return]


async def test_what_is_approved_is_what_is_paid(market: Market) -> None:
    payer, owner = market.payer(budget=ASKING), Owner(True)
    payer.approve = owner
    assert (await market.request(payer)).text == "article 1"
    (quote,) = owner.asked
    (record,) = await payer.journal.newest()
    assert record.offer == quote.offer
    assert (quote.method, quote.url, str(quote.total)) == ("GET", URL, "0.003 USD")
    assert quote.why == ("it may cost 0.003 USD, and is to be approved above 0.001 USD",)
    assert question(quote).splitlines()[:2] == [
        f"Pay 0.003 USD for GET {URL}?",
        "To shop on fake:fake, from the wallet fake:alice.",
    ]


@pytest.mark.parametrize("answer", [False, None, "yes", 1])
async def test_anything_but_true_is_a_no(market: Market, answer: Any) -> None:
    payer, owner = market.payer(budget=ASKING), Owner(answer)
    payer.approve = owner
    with pytest.raises(PaymentRefused, match="the answer was no") as caught:
        await market.request(payer)
    assert (caught.value.code, caught.value.outcome, await market.states()) == ("not_approved", "not_paid", [])
    assert market.ledger.count("pay") == 0


async def test_who_said_no_is_not_asked_about_the_next_wallet(market: Market) -> None:
    wallets = [FakeWallet(market.ledger, market.specs[0], payer=name) for name in ("a", "b")]
    payer, owner = market.payer(wallets, budget=ASKING), Owner(False)
    payer.approve = owner
    with pytest.raises(PaymentRefused):
        await market.request(payer)
    assert len(owner.asked) == 1


async def test_who_does_not_answer_pays_nothing(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approval, "_PATIENCE", 1)
    payer = market.payer(budget=ASKING)
    payer.approve = Owner(lambda: asyncio.sleep(60))
    with pytest.raises(PaymentRefused, match="nobody has answered in time"):
        await market.request(payer)
    assert await market.states() == []


async def test_an_offer_that_has_expired_meanwhile_is_not_paid(market: Market) -> None:
    async def slowly() -> bool:
        market.clock.advance(300)
        return True

    payer = market.payer(budget=ASKING)
    payer.approve = Owner(slowly)
    with pytest.raises(PaymentRefused, match="expired before it was approved"):
        await market.request(payer)
    assert market.ledger.count("pay") == 0


async def test_the_windows_are_checked_again_after_the_answer(market: Market) -> None:
    budget = Budget(ask_above="0.001 USD", per_hour="0.005 USD")
    other = market.payer(budget=Budget(per_hour="0.005 USD"))

    async def meanwhile() -> bool:
        await market.request(other, url=f"{URL}2")
        return True

    payer = market.payer(budget=budget)
    payer.approve = Owner(meanwhile)
    with pytest.raises(BudgetExceeded, match=r"of 0\.005 USD per hour 0\.002 USD is left"):
        await market.request(payer)
    assert market.ledger.count("pay") == 1


async def test_nobody_is_asked_about_what_would_not_fit(market: Market) -> None:
    payer, owner = (
        market.payer(budget=Budget(ask_above="0.001 USD", rules=[Rule(host="*", total="0.002 USD")])),
        Owner(),
    )
    payer.approve = owner
    with pytest.raises(BudgetExceeded, match=r"of 0\.002 USD in total for the host shop\.test"):
        await market.request(payer)
    await payer.journal.pause(now=market.clock())
    with pytest.raises(BudgetExceeded, match="paused"):
        await market.request(payer)
    assert owner.asked == []


async def test_without_anybody_to_ask_it_is_not_paid(market: Market) -> None:
    payer = market.payer(budget=ASKING)
    with pytest.raises(PaymentRefused, match="there is nobody to ask") as caught:
        await market.request(payer)
    assert (caught.value.code, market.ledger.count("pay")) == ("not_approved", 0)
    assert (await market.request(market.payer(budget=Budget(ask_above="0.003 USD")))).text == "article 1"


async def test_a_request_may_bring_its_own_owner(market: Market) -> None:
    payer, owner, other = market.payer(budget=ASKING), Owner(), Owner(True)
    payer.approve = owner
    assert (await market.request(payer, extensions={APPROVE: other})).text == "article 1"
    assert (len(owner.asked), len(other.asked)) == (0, 1)


async def test_a_new_payee_is_refused_unless_approved(market: Market) -> None:
    payer = market.payer()
    await market.request(payer)
    rail = next(iter(market.shop.rails.values()))
    rail.payee = "thief"
    with pytest.raises(OfferRefused, match=r"was paid at shop on fake:fake, and now wants to be paid at thief"):
        await market.request(payer, url=f"{ORIGIN}/other")
    owner = Owner(False, True)
    payer.approve = owner
    with pytest.raises(PaymentRefused, match="the answer was no"):
        await market.request(payer, url=f"{ORIGIN}/other")
    assert (await market.request(payer, url=f"{ORIGIN}/other")).status_code == 200
    payer.approve = None
    assert (await market.request(payer, url=f"{ORIGIN}/third")).status_code == 200, "it is known now"
    assert all("thief" in quote.why[0] for quote in owner.asked)


async def test_a_changed_payee_is_paid_where_the_owner_wants_that(market: Market) -> None:
    payer = market.payer(budget=Budget(pin_payees=False))
    await market.request(payer)
    next(iter(market.shop.rails.values())).payee = "other"
    assert (await market.request(payer)).status_code == 200


async def test_hosts_and_payees_that_may_not_be_paid(market: Market) -> None:
    for budget, because in (
        (Budget(deny_hosts="shop.test"), "take it off deny_hosts"),
        (Budget(allow_hosts="*.shop.test"), "add it to allow_hosts"),
        (Budget(deny_payees="shop"), "take it off deny_payees"),
        (Budget(allow_payees=["0xab"]), "add it to allow_payees"),
    ):
        payer = market.payer(budget=budget)
        with pytest.raises(PaymentRefused, match=because) as caught:
            await market.request(payer)
        assert (caught.value.code, market.ledger.count("pay")) == ("not_allowed", 0)
        with pytest.raises(PaymentRefused, match=because):
            await payer.quote(httpx.Request("GET", URL), httpx.MockTransport(market.shop.handle))
    allowed = Budget(allow_hosts="shop.test", allow_payees="shop")
    assert (await market.request(market.payer(budget=allowed))).text == "article 1"


async def test_a_quote_says_what_would_be_asked(market: Market) -> None:
    payer = market.payer(budget=ASKING)
    payer.approve = Owner()
    quote = await payer.quote(httpx.Request("GET", URL), httpx.MockTransport(market.shop.handle))
    assert quote is not None
    assert len(quote.why) == 1
