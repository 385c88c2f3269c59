"""Four workers of one shop: whatever is shown at once, one handler runs and one settlement is made per payment."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from rail402.clock import system_clock
from rail402.errors import PaymentOutcomeUnknown
from rail402.money import Money
from rail402.protocol.charge import Charge, Delivery, PaymentState
from rail402.stores import open_store
from rail402_base.sandbox import ENDOWMENT, SandboxChain
from rail402_lightning.sandbox import SandboxLightning
from tests.workers.agents import Echo, Shown, open_agent
from tests.workers.shop import PRICES, Shop, open_shop

WORKERS, AGENTS, TIMES, AT_ONCE = 4, 4, 2, 8

SOLD = ("/article", "/upfront", "/invoice", "/report", "/stream")
EXPONENTS = {"base": 6, "lightning": 11, "stripe": 2}


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.xdist_group("postgres")),
        pytest.param("postgres-redis", marks=pytest.mark.xdist_group("postgres")),
    ]
)
def kind(request: pytest.FixtureRequest) -> str:
    """What the workers share."""
    return str(request.param)


@pytest.fixture
def store_url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if kind == "sqlite":
        return f"sqlite:///{tmp_path}/charges.db"
    return str(request.getfixturevalue("postgres").schema())


@pytest.fixture
def shop(kind: str, tmp_path: Path, store_url: str, request: pytest.FixtureRequest) -> Iterator[Shop]:
    shared = {"SHOP_REDIS": request.getfixturevalue("redis_url")} if kind == "postgres-redis" else {}
    with open_shop(tmp_path / "shop", store_url, workers=WORKERS, **shared) as opened:
        yield opened


@pytest.fixture
async def wires(shop: Shop, tmp_path: Path) -> AsyncIterator[list[tuple[httpx.AsyncClient, Echo]]]:
    """Agents with a journal of their own each, and what carries their requests."""
    async with AsyncExitStack() as opened:
        found = []
        for number in range(AGENTS):
            echo = Echo(AT_ONCE)
            journal = tmp_path / f"wallet{number}.db"
            found.append((await opened.enter_async_context(open_agent(shop.sandbox, journal, shop.url, echo)), echo))
        yield found


async def charges(store_url: str) -> list[Charge]:
    store = open_store(store_url)
    await store.start()
    try:
        return list(await store.recent(limit=100_000))
    finally:
        await store.close()


async def paid_by_agents(shop: Shop) -> dict[str, int]:
    """What the agents paid, by rail, off their side of the books."""
    chain = SandboxChain(shop.sandbox / "base.db", clock=system_clock)
    balances = (await chain.books()).balances
    address = next(holder for holder, held in balances.items() if held > ENDOWMENT // 2)
    node = SandboxLightning(shop.sandbox / "lightning.db", clock=system_clock)
    books = await node.books()
    await node.close()
    assert books.in_flight_msat == 0
    spent = books.endowments_msat - books.balances_msat - books.fees_msat
    return {"base": ENDOWMENT - balances[address], "lightning": spent}


def atomic(path: str) -> int:
    rail, price = PRICES[path]
    return Money.parse(price).to_atomic(EXPONENTS[rail])


def assert_one_answer(shown: Shown) -> None:
    """Of all answers to one payment those with the goods are the same, and one of them is the first."""
    assert shown.served, [answer.text for answer in shown.answers]
    assert {answer.content for answer in shown.served} == {shown.served[0].content}
    assert sum("idempotent-replayed" not in answer.headers for answer in shown.served) == 1
    for answer in shown.refused:
        assert (answer.status_code, "retry-after" in answer.headers) == (409, True), answer.text


async def test_each_payment_is_served_and_settled_once(
    shop: Shop, wires: list[tuple[httpx.AsyncClient, Echo]], store_url: str
) -> None:
    async def buy(client: httpx.AsyncClient) -> None:
        for _ in range(TIMES):
            for path in SOLD:
                response = await client.get(path)
                assert response.is_success, (path, response.text)

    await asyncio.gather(*(buy(client) for client, _ in wires))

    shown = [each for _, echo in wires for each in echo.shown]
    assert Counter(each.path for each in shown) == dict.fromkeys(SOLD, AGENTS * TIMES)
    for each in shown:
        assert_one_answer(each)
    workers = {answer.json()["by"] for each in shown if each.path != "/stream" for answer in each.served}
    assert len(workers) > 1, "the kernel gave everything to one worker: nothing was shown"

    stored = await charges(store_url)
    assert shop.runs() == dict.fromkeys((charge.id for charge in stored), 1)
    assert {(charge.payment, charge.delivery) for charge in stored} == {(PaymentState.SETTLED, Delivery.STORED)}
    expected = Counter[str]()
    for path in SOLD:
        expected[PRICES[path][0]] += AGENTS * TIMES * atomic(path)
    assert await shop.received() == expected
    paid = await paid_by_agents(shop)
    assert paid == {rail: expected[rail] for rail in paid}


async def test_a_pass_is_used_as_often_as_it_says(
    shop: Shop, wires: list[tuple[httpx.AsyncClient, Echo]], store_url: str
) -> None:
    client, echo = wires[0]
    (await client.get("/pass")).raise_for_status()
    (first,) = echo.shown
    async with httpx.AsyncClient(base_url=shop.url, trust_env=False) as thief:
        more = await asyncio.gather(*(thief.get("/pass", headers=first.fields) for _ in range(8)))
    served = [answer for answer in [*first.answers, *more] if answer.is_success]
    assert len(served) == 5
    (charge,) = await charges(store_url)
    assert (charge.uses, charge.uses_taken) == (5, 5)
    assert shop.runs() == {charge.id: 5}
    assert (await shop.received())["base"] == atomic("/pass")


async def test_what_fails_costs_nothing(
    shop: Shop, wires: list[tuple[httpx.AsyncClient, Echo]], store_url: str
) -> None:
    ends = await asyncio.gather(*(client.get("/fails") for client, _ in wires), return_exceptions=True)
    assert {type(end) for end in ends} == {PaymentOutcomeUnknown}, "the client tries until its deadline"
    assert {answer.status_code for _, echo in wires for each in echo.shown for answer in each.answers} <= {409, 503}
    stored = await charges(store_url)
    assert {charge.payment for charge in stored} == {PaymentState.RELEASED}
    assert (await shop.received())["stripe"] == 0
