"""37: prices above every cap, many calls and processes near one, and ways round it through other currencies."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from rail402.client.budget import Budget
from rail402.client.payer import Payer
from rail402.errors import BudgetExceeded, NoUsableOffer, PaymentFailed, RailUnavailable
from rail402.money import Money
from rail402.rates import FixedRates, Rate
from rail402.testing.fakes import Ending, FakeLedger, FakeSpec, FakeWallet
from tests.attacks.agents import Agent, OpenAgent
from tests.attacks.cases import Observe
from tests.attacks.raw import Connection, RawRequest, RawServer, answer, challenge, fake_terms

SATS = FakeSpec("sats", currency="BTC", exponent=11)
EUROS = FakeSpec("euros", currency="EUR", exponent=6)


def seller(*terms: Mapping[str, Any]) -> Any:
    """Sells at those terms to whoever shows a payment."""

    async def handle(request: RawRequest, connection: Connection) -> bytes:
        return challenge(*terms) if request.proof is None else answer(200, body=b"bought")

    return handle


def sats(amount: int) -> dict[str, Any]:
    """Terms in satoshis."""
    return fake_terms(str(amount * 1000), network="fake:sats", asset="btc")


def euros(amount: int) -> dict[str, Any]:
    """Terms in cents."""
    return fake_terms(str(amount * 10_000), network="fake:euros", asset="eur")


async def refused(agent: Agent, server: RawServer) -> str:
    """The reason for which nothing is bought: nothing was signed, shown or written."""
    before = agent.signed, len(server.proofs), await agent.states() if agent.signed else []
    with pytest.raises(BudgetExceeded) as caught:
        await agent.get(server.url)
    assert before == (agent.signed, len(server.proofs), await agent.states() if agent.signed else [])
    assert caught.value.outcome == "not_paid"
    return caught.value.detail


# --- one price


@pytest.mark.parametrize(
    ("budget", "amount", "level"),
    [
        (Budget(), "1000001", "request"),
        (Budget(per_request="0.002 USD"), "2001", "request"),
        (Budget(per_hour="0.002 USD"), "2001", "hour"),
        (Budget(per_day="0.002 USD"), "2001", "day"),
        (Budget(per_request="0 USD"), "1", "request"),
        (Budget(), "9" * 31, "request"),
    ],
)
async def test_one_smallest_unit_above_a_cap(
    open_agent: OpenAgent, budget: Budget, amount: str, level: str, observed: Observe
) -> None:
    agent = open_agent(budget=budget)
    async with RawServer(seller(fake_terms(amount))) as server:
        assert f"per {level}" in await refused(agent, server)
    assert agent.signed == 0
    observed("a smallest unit above any cap: refused before anything is signed")


async def test_a_fee_that_lifts_it_above_the_cap(open_agent: OpenAgent) -> None:
    ledger = FakeLedger()
    wallet = FakeWallet(ledger, FakeSpec(), fee_ceiling=Money.parse("0.000001 USD"))
    agent = open_agent(ledger=ledger, wallets=[wallet], budget=Budget(per_request="0.003 USD"))
    async with RawServer(seller(fake_terms())) as server:
        assert "may cost 0.003001 USD" in await refused(agent, server)


async def test_a_dear_offer_beside_a_cheap_one_is_never_the_one(agent: Agent) -> None:
    async with RawServer(seller(fake_terms("2000000"), fake_terms("999"), fake_terms("1000000"))) as server:
        assert (await agent.get(server.url)).text == "bought"
    assert await agent.spent() == {"USD": "0.000999 USD"}


# --- many calls


async def test_50_calls_at_once_near_the_cap(open_agent: OpenAgent, observed: Observe) -> None:
    agent = open_agent(budget=Budget(per_hour="0.02 USD"))
    async with RawServer(seller(fake_terms())) as server:
        calls = [agent.get(f"{server.url}/{number}") for number in range(50)]
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(result, httpx.Response) for result in results) == 6
    assert sum(isinstance(result, BudgetExceeded) for result in results) == 44
    assert agent.signed == 6
    assert await agent.spent() == {"USD": "0.018 USD"}
    observed("of 50 calls at once six fit and six were paid")


@pytest.mark.parametrize("kind", ["async"])
async def test_slow_drips_over_a_day_fill_the_day(open_agent: OpenAgent) -> None:
    agent = open_agent(budget=Budget(per_hour="0.01 USD", per_day="0.03 USD"))
    bought = 0
    async with RawServer(seller(fake_terms())) as server:
        for _ in range(24):
            for _ in range(4):
                try:
                    await agent.get(server.url)
                    bought += 1
                except BudgetExceeded:
                    break
            agent.clock.advance(3600)
    assert bought == 10


async def test_what_is_never_served_stays_counted(open_agent: OpenAgent) -> None:
    agent = open_agent(budget=Budget(per_hour="0.006 USD"))

    async def take_and_run(request: RawRequest, connection: Connection) -> bytes | None:
        return challenge(fake_terms()) if request.proof is None else answer(500)

    async with RawServer(take_and_run) as server:
        for path in ("a", "b"):
            assert (await agent.get(f"{server.url}/{path}")).extensions["rail402"].outcome == "unknown"
        agent.clock.advance(30)
        assert "0.006 USD is held" in await refused(agent, server)


def _spend(folder: str, url: str, number: int, results: Any) -> None:
    async def run() -> tuple[int, int]:
        ledger = FakeLedger()
        payer = Payer([FakeWallet(ledger)], Budget(per_hour="0.02 USD"), f"sqlite:///{folder}/wallet.db")
        bought = 0
        async with payer, httpx.AsyncClient(transport=payer.transport()) as client:
            for page in range(5):
                try:
                    await client.get(f"{url}/{number}/{page}")
                    bought += 1
                except BudgetExceeded:
                    pass
        return bought, ledger.count("pay")

    results.put(asyncio.run(run()))


async def test_three_processes_on_one_budget(tmp_path: Path, observed: Observe) -> None:
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    async with RawServer(seller(fake_terms())) as server:
        workers = [spawn.Process(target=_spend, args=(str(tmp_path), server.url, number, results)) for number in "abc"]
        for worker in workers:
            worker.start()
        ended = [await asyncio.to_thread(results.get, timeout=60) for _ in workers]
        for worker in workers:
            await asyncio.to_thread(worker.join)
        assert sum(bought for bought, _ in ended) == 6
        assert sum(signed for _, signed in ended) == 6
        assert len(set(server.proofs)) == 6
    observed("three processes on one budget spend it once")


# --- other currencies


async def test_a_currency_that_no_limit_is_in_and_no_rate_leads_to(open_agent: OpenAgent, observed: Observe) -> None:
    ledger = FakeLedger()
    agent = open_agent(ledger=ledger, wallets=[FakeWallet(ledger, EUROS)])
    async with RawServer(seller(euros(1))) as server:
        assert "no EUR/USD or EUR/BTC rate is known" in await refused(agent, server)
    observed("a currency without a limit or a rate is not paid")


async def test_an_hour_of_dollars_is_not_an_hour_of_dollars_and_one_of_sats(open_agent: OpenAgent) -> None:
    ledger = FakeLedger()
    wallets = [FakeWallet(ledger, FakeSpec()), FakeWallet(ledger, SATS)]
    agent = open_agent(ledger=ledger, wallets=wallets, budget=Budget(per_hour="5 USD"))
    async with RawServer(seller(fake_terms("1000000"))) as dollars, RawServer(seller(sats(1000))) as satoshis:
        for _ in range(3):
            await agent.get(dollars.url)
        for _ in range(2):
            await agent.get(satoshis.url)
        for server in (dollars, satoshis):
            assert "of 5 USD per hour 0 USD is left" in await refused(agent, server)
    assert await agent.spent() == {"USD": "5 USD"}


async def test_a_rate_that_goes_away_opens_no_second_window(open_agent: OpenAgent) -> None:
    class Outage:
        down = False

        async def rate(self, base: str, quote: str) -> Rate | None:
            if self.down:
                raise RailUnavailable("the feed is down")
            return await FixedRates({"BTC/USD": "100000"}).rate(base, quote)

    ledger, rates = FakeLedger(), Outage()
    agent = open_agent(
        ledger=ledger, wallets=[FakeWallet(ledger, SATS)], budget=Budget(per_hour="2 USD", per_day=None), rates=rates
    )
    async with RawServer(seller(sats(1000))) as server:
        await agent.get(server.url)
        rates.down = True
        await agent.get(server.url)
        assert "of 2 USD per hour 0 USD is left" in await refused(agent, server)


async def test_limits_side_by_side_are_the_owners_choice(open_agent: OpenAgent) -> None:
    ledger = FakeLedger()
    wallets = [FakeWallet(ledger, FakeSpec()), FakeWallet(ledger, SATS)]
    budget = Budget(per_hour=["1 USD", "1000 sat"])
    agent = open_agent(ledger=ledger, wallets=wallets, budget=budget)
    async with RawServer(seller(fake_terms("1000000"))) as dollars, RawServer(seller(sats(1000))) as satoshis:
        for server in (dollars, satoshis):
            await agent.get(server.url)
        for server in (dollars, satoshis):
            await refused(agent, server)


@pytest.mark.parametrize("value", ["1e-30", "100000000000000000000"])
async def test_extreme_rates_round_against_the_purchase(open_agent: OpenAgent, value: str) -> None:
    ledger = FakeLedger()
    agent = open_agent(
        ledger=ledger,
        wallets=[FakeWallet(ledger, EUROS)],
        budget=Budget(per_request="1 USD", per_hour="1 USD", per_day=None),
        rates=FixedRates({"EUR/USD": value}),
    )
    async with RawServer(seller(euros(1))) as server:
        if value.startswith("1e"):
            await agent.get(server.url)
            assert await agent.spent() == {"USD": "0.00000000001 USD"}
        else:
            await refused(agent, server)


# --- numbers that lie


AMOUNT_TEXTS = ["0", "-1", "+1", "01", "1e3", "1.0", " 1", "1 ", "0x10", "1_000", "", "٣", "１", "²", "1" * 5000, "1\0"]
AMOUNTS = [*AMOUNT_TEXTS, "NaN", "Infinity", 1, -1, 0, 1.5, 10**30, True, None, [], {}]


@pytest.mark.parametrize("amount", AMOUNTS, ids=lambda amount: json.dumps(amount)[:20])
@pytest.mark.parametrize("kind", ["async"])
async def test_an_amount_that_is_none_is_never_paid(open_agent: OpenAgent, amount: object) -> None:
    agent = open_agent()
    async with RawServer(seller(fake_terms(amount))) as server:
        with pytest.raises(NoUsableOffer):
            await agent.get(server.url)
        assert (agent.signed, server.proofs) == (0, [])


async def test_a_wallet_that_is_slow_to_fail_lets_nothing_through(open_agent: OpenAgent) -> None:
    """Reserved, failed, released: the next one finds the whole limit again, and no more than that."""
    agent = open_agent(budget=Budget(per_hour="0.003 USD"))
    agent.ledger.script("pay", Ending.FAILED)
    async with RawServer(seller(fake_terms())) as server:
        with pytest.raises(PaymentFailed):
            await agent.get(server.url)
        await agent.get(server.url)
        await refused(agent, server)
