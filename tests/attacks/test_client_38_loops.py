"""38: a second 402 after paying, and every other way to make an agent pay again, or wait for ever."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from rail402.errors import OfferRefused, PaymentFailed, PaymentOutcomeUnknown
from rail402.testing.fakes import Ending, FakeClock, FakeLedger, FakeSpec, FakeWallet
from tests.attacks.agents import Agent, OpenAgent
from tests.attacks.cases import Observe
from tests.attacks.raw import Connection, RawRequest, RawServer, answer, challenge, fake_terms

PRICE = 3000


def shop(after: Callable[[int], bytes | None]) -> Any:
    """Asks for 0.003 dollars; `after` answers the presented payments, the first of which is 1."""
    presented = 0

    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        nonlocal presented
        if request.proof is None:
            return challenge(fake_terms())
        presented += 1
        return after(presented)

    return handle


async def refused(agent: Agent, server: RawServer, **options: Any) -> PaymentOutcomeUnknown:
    """Make a call that ends without an outcome, and check that one payment was made and shown, however often."""
    with pytest.raises(PaymentOutcomeUnknown) as caught:
        await agent.get(server.url, **options)
    assert agent.signed == 1
    assert len(set(server.proofs)) == 1
    assert await agent.states() == ["unknown"]
    assert await agent.spent() == {"USD": "0.003 USD"}
    return caught.value


@pytest.mark.parametrize("status", [402, 409, 429, 503])
async def test_the_same_refusal_for_ever(agent: Agent, status: int, observed: Observe) -> None:
    def after(time: int) -> bytes:
        return challenge(fake_terms()) if status == 402 else answer(status)

    async with RawServer(shop(after)) as server:
        await refused(agent, server)
        assert 1 < len(server.proofs) <= 31
        assert sum(agent.slept) <= 30
    observed("refused for ever after paying: one payment, shown until the deadline, then an error")


async def test_dearer_and_cheaper_offers_after_paying(agent: Agent, observed: Observe) -> None:
    def after(time: int) -> bytes:
        return challenge(*(fake_terms(str(amount), payTo=f"other-{time}") for amount in (1, 2999, 3001, 10**6)))

    async with RawServer(shop(after)) as server:
        await refused(agent, server)
        paid = json.loads(base64.b64decode(server.proofs[0]))["payload"]
        assert (paid["amount"], paid["payee"]) == ("3000", "shop")
    observed("a second 402 after paying is not paid")


@pytest.mark.parametrize("wait", ["1000000000", "999999999", "99999999999999999999", "-5", "1e9", "nan", "٣", ""])
async def test_any_retry_after(agent: Agent, wait: str) -> None:
    latin = wait.encode().decode("latin-1")
    async with RawServer(shop(lambda time: answer(503, [("Retry-After", latin)]))) as server:
        error = await refused(agent, server)
        assert sum(agent.slept) <= 30
        assert len(server.proofs) <= 31
        assert error.retry_after in (None, 86_400), "whoever waits for what an error says does not wait for years"


async def test_a_clock_that_is_set_back_at_every_look(open_agent: OpenAgent) -> None:
    class Backwards(FakeClock):
        def advance(self, seconds: int) -> int:
            return super().advance(-3600)

    agent = open_agent(clock=Backwards())
    async with RawServer(shop(lambda time: answer(503))) as server:
        await refused(agent, server)
        assert len(server.proofs) <= 31


async def test_a_loop_of_codes_that_mean_pay_again(agent: Agent) -> None:
    codes = ["payment_required", "proof_already_used", "offer_expired", "amount_mismatch", "refunded"]

    def after(time: int) -> bytes:
        return challenge(fake_terms(), body=json.dumps({"code": codes[time % len(codes)]}).encode())

    async with RawServer(shop(after)) as server:
        await refused(agent, server)
        for _ in codes:
            with pytest.raises(PaymentOutcomeUnknown):
                await agent.get(server.url)
        assert agent.signed == 1
        assert len(set(server.proofs)) == 1


async def test_a_chain_of_redirects_to_prices(agent: Agent, observed: Observe) -> None:
    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        if request.proof is None:
            return challenge(fake_terms())
        return answer(302, [("Location", f"/{len(request.target)}{request.target[1:]}")])

    async with RawServer(handle) as server:
        with pytest.raises(OfferRefused, match="one call pays once"):
            await agent.get(server.url + "/a")
        assert (agent.signed, len(server.proofs)) == (1, 1)
        assert await agent.states() == ["committed"]
    observed("of a chain of redirects to prices one is paid: one call pays once")


@pytest.mark.parametrize("kind", ["async"])
async def test_the_same_request_sent_again_is_another_call(open_agent: OpenAgent) -> None:
    agent = open_agent()

    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        if request.target == "/begin":
            return answer(302, [("Location", "/end")])
        return challenge(fake_terms()) if request.proof is None else answer(200, body=b"bought")

    async with (
        RawServer(handle) as server,
        httpx.AsyncClient(transport=agent.payer.transport(), follow_redirects=True) as client,
    ):
        request = client.build_request("GET", server.url + "/begin", extensions={"rail402": "the caller's own"})
        for _ in range(2):
            response = await client.send(request)
            assert response.text == "bought"
        assert (await client.send(response.request)).text == "bought"
    assert agent.signed == 3


@pytest.mark.parametrize("ending", [Ending.FAILED, Ending.NOT_PAID])
async def test_only_a_wallet_that_did_not_pay_lets_the_next_one(open_agent: OpenAgent, ending: Ending) -> None:
    ledger = FakeLedger()
    wallets = [FakeWallet(ledger, FakeSpec(), payer=name) for name in ("alice", "bob", "carol")]
    agent = open_agent(ledger=ledger, wallets=wallets)
    ledger.script("resume", ending, Ending.UNAVAILABLE)
    gone = challenge(fake_terms(), body=b'{"code": "payment_declined"}')
    async with RawServer(shop(lambda time: gone)) as server:
        with pytest.raises(PaymentOutcomeUnknown):
            await agent.get(server.url)
        # Alice's wallet said for certain that nothing was paid; of Bob's payment nothing is known, so Carol pays none.
        assert agent.signed == 2
        assert await agent.states() == ["unknown", "released"]


async def test_a_wallet_that_always_fails_is_asked_once(agent: Agent) -> None:
    agent.ledger.script("pay", *[Ending.FAILED] * 50)
    many = challenge(*(fake_terms(str(amount)) for amount in range(1, 60)))

    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        return many

    async with RawServer(handle) as server:
        with pytest.raises(PaymentFailed):
            await agent.get(server.url)
        assert (agent.signed, server.proofs) == (1, [])
