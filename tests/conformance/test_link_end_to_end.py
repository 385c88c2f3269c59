"""A person's Link at a real gate: asked, approved or denied, crashed in between, and charged once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from rail402.client.httpx import EXTENSION
from rail402.errors import PaymentActionRequired, PaymentOutcomeUnknown
from rail402.protocol.offer import Offer
from rail402_stripe import LinkApi, LinkWallet
from tests.conformance.test_stripe_end_to_end import FLOWS, Shop, account, no_telemetry_file, paying
from tests.unit.rail402_stripe.account import PRICE, Account
from tests.unit.rail402_stripe.fake_link import TOKEN, FakeLink

__all__ = ["account", "no_telemetry_file"]

APPROVE = "https://app.link.com/activity/approve/lsrq_1"


class Agent:
    """A shop, a person with Link, and as many processes of an agent as there are calls."""

    def __init__(self, shop: Shop, stack: AsyncExitStack) -> None:
        self.shop, self.link, self._stack = shop, FakeLink(shop.account.api, shop.account.clock), stack

    async def process(self) -> httpx.AsyncClient:
        wallet = LinkWallet(LinkApi(TOKEN, transport=self.link), network="stripe:sandbox")
        return await self._stack.enter_async_context(paying(self.shop, wallet))  # type: ignore[arg-type]

    async def states(self) -> list[str]:
        payer: Any = (await self.process()).payer  # type: ignore[attr-defined]
        return [record.state.value for record in await payer.journal.newest()]


@pytest.fixture(params=FLOWS)
async def agent(account: Account, request: pytest.FixtureRequest) -> AsyncIterator[Agent]:
    async with Shop(account, request.param, "memory://").open() as shop, AsyncExitStack() as stack:
        yield Agent(shop, stack)


async def test_a_later_process_goes_on_when_it_is_approved(agent: Agent) -> None:
    for _ in range(2):
        with pytest.raises(PaymentActionRequired) as asked:
            await (await agent.process()).get("/report")
        assert (asked.value.url, asked.value.outcome) == (APPROVE, "unknown")
    agent.link.approve()
    response = await (await agent.process()).get("/report")
    assert response.extensions[EXTENSION].outcome == "paid"
    assert (list(agent.link.requests), await agent.shop.account.balance()) == (["lsrq_1"], PRICE)
    assert agent.link.requests["lsrq_1"]["context"].startswith("http://testserver asks 0.5 USD")


async def test_a_person_who_is_there_approves_in_the_middle_of_the_call(agent: Agent) -> None:
    async def ask(url: str, offer: Offer) -> None:
        assert url == APPROVE
        agent.link.approve()

    client = await agent.process()
    client.payer.on_action = ask  # type: ignore[attr-defined]
    assert (await client.get("/report")).json() == {"n": 1}
    assert await agent.states() == ["committed"]


async def test_a_no_frees_the_amount(agent: Agent) -> None:
    with pytest.raises(PaymentActionRequired):
        await (await agent.process()).get("/report")
    agent.link.deny()
    with pytest.raises(PaymentActionRequired) as denied:
        await (await agent.process()).get("/report")
    assert (denied.value.code, denied.value.outcome) == ("not_approved", "not_paid")
    assert (await agent.states(), await agent.shop.account.balance()) == (["released"], 0)


async def test_what_nobody_approved_in_time_is_asked_for_anew(agent: Agent) -> None:
    with pytest.raises(PaymentActionRequired):
        await (await agent.process()).get("/report")
    agent.shop.account.clock.advance(601)
    with pytest.raises(PaymentActionRequired) as asked:
        await (await agent.process()).get("/report")
    assert asked.value.url == APPROVE.replace("lsrq_1", "lsrq_2")
    assert await agent.states() == ["unknown", "released"]


async def test_a_crash_before_the_spend_request_s_id_was_known(agent: Agent) -> None:
    def loses(method: str, path: str) -> httpx.Response | None:
        return httpx.Response(504) if method == "POST" else None

    agent.link.after = loses
    with pytest.raises(PaymentOutcomeUnknown):
        await (await agent.process()).get("/report")
    agent.link.after = None
    agent.link.approve()
    assert (await (await agent.process()).get("/report")).json() == {"n": 1}
    assert (list(agent.link.requests), await agent.shop.account.balance()) == (["lsrq_1"], PRICE)
