"""44: prices that creep up step by step, and a new payee on a host that is known."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from rail402.client.budget import Budget
from rail402.client.records import Quote
from rail402.errors import OfferRefused, PaymentRefused
from tests.attacks.agents import Agent, OpenAgent
from tests.attacks.cases import Observe
from tests.attacks.raw import Connection, RawRequest, RawServer, answer, challenge, fake_terms


class Seller:
    """Sells at terms that change from one purchase to the next."""

    def __init__(self) -> None:
        self.terms: list[dict[str, Any]] = [fake_terms()]

    async def handle(self, request: RawRequest, connection: Connection) -> bytes:
        return challenge(*self.terms) if request.proof is None else answer(200, body=b"bought")


async def test_small_steps_are_measured_from_the_first_price(open_agent: OpenAgent, observed: Observe) -> None:
    """Each price is a tenth above the last one; the third is more than a quarter above the first."""
    agent, seller = open_agent(budget=Budget(price_tolerance=25)), Seller()
    async with RawServer(seller.handle) as server:
        prices = [3000 * 11**step // 10**step for step in range(8)]
        paid = []
        for price in prices:
            seller.terms = [fake_terms(str(price))]
            with suppress(OfferRefused):
                await agent.get(f"{server.url}/page?n={price}")
                paid.append(price)
        with pytest.raises(OfferRefused, match=r"did cost 0\.003 USD, and now 0\.\d+ USD, over 25 % more"):
            await agent.get(f"{server.url}/page")
        assert paid == [3000, 3300, 3630]
        assert agent.signed == len(server.proofs) == 3
    observed("a price that creeps up is refused at a quarter above the first one, where the owner sets that tolerance")


@pytest.mark.parametrize("change", [{"payTo": "thief"}, {"payTo": "thief", "amount": "1"}])
async def test_a_new_payee_on_a_known_host(agent: Agent, change: dict[str, Any], observed: Observe) -> None:
    seller = Seller()
    async with RawServer(seller.handle) as server:
        await agent.get(server.url)
        seller.terms = [fake_terms(**change)]
        for path in ("", "/elsewhere"):
            with pytest.raises(OfferRefused, match=r"was paid at shop on fake:fake, and now wants to be paid at thief"):
                await agent.get(server.url + path)
        async with RawServer(seller.handle) as elsewhere:  # another port of the same host is no new host
            assert elsewhere.url != server.url
            with pytest.raises(OfferRefused, match=r"127\.0\.0\.1 was paid at shop .* wants to be paid at thief"):
                await agent.get(elsewhere.url)
        assert agent.signed == 1
    observed("a known host that names another payee is refused, both payees named, before anything is signed")


async def test_a_cheap_offer_to_a_new_payee_does_not_win_over_the_known_one(agent: Agent) -> None:
    seller, asked = Seller(), list[Quote]()

    async def approve(quote: Quote) -> bool:
        asked.append(quote)
        return True

    agent.payer.approve = approve
    async with RawServer(seller.handle) as server:
        await agent.get(server.url)
        seller.terms = [fake_terms("1", payTo="thief"), fake_terms()]
        await agent.get(server.url)
    (newest, _) = await agent.payer.journal.newest()
    assert (newest.offer.payee, asked) == ("shop", [])


async def test_what_was_approved_is_not_what_is_offered_next(agent: Agent, observed: Observe) -> None:
    """The seller waits for the yes and then asks for more: the payment is for what the owner was shown."""
    seller, asked = Seller(), list[Quote]()

    async def approve(quote: Quote) -> bool:
        asked.append(quote)
        seller.terms = [fake_terms("900000", payTo="second")]
        return True

    async with RawServer(seller.handle) as server:
        await agent.get(server.url)
        agent.payer.approve = approve
        seller.terms = [fake_terms("4000", payTo="first")]
        await agent.get(f"{server.url}/next")
        (newest, _) = await agent.payer.journal.newest()
        assert newest.offer == asked[0].offer
        assert (newest.offer.payee, newest.offer.amount) == ("first", 4000)

        async def refuse(quote: Quote) -> bool:
            return False

        agent.payer.approve = refuse
        with pytest.raises(PaymentRefused, match="the answer was no"):
            await agent.get(f"{server.url}/last")
    assert agent.signed == 2
    observed("an approval is for the terms that were shown, and only those are paid")
