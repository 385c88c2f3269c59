"""29: a `User-Agent` that pretends to be a crawler, a browser or the publisher."""

from __future__ import annotations

import pytest

from tests.attacks.cases import Observe
from tests.conformance.test_base_end_to_end import World

AGENTS = [
    "",
    "Googlebot/2.1 (+http://www.google.com/bot.html)",
    "Mozilla/5.0",
    "curl/8.5.0",
    "rail402",
    "GPTBot",
    "a" * 4000,
]
ORIGINS = [{"x-forwarded-for": "66.249.66.1"}, {"via": "1.1 google"}, {"from": "googlebot(at)googlebot.com"}, {}]


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent[:12] or "none")
async def test_it_decides_nothing(world: World, agent: str, observed: Observe) -> None:
    for origin in ORIGINS:
        unpaid = await world.http.get("/article", headers={"user-agent": agent, **origin})
        assert unpaid.status_code == 402
        assert unpaid.json()["price"] == "0.003 USD"
    assert world.runs == []
    fields = await world.payment("/article")
    paid = await world.http.get("/article", headers={"user-agent": agent} | fields)
    again = await world.http.get("/article", headers={"user-agent": "another"} | fields)
    assert (paid.status_code, again.headers["idempotent-replayed"]) == (200, "true")
    await world.assert_books(paid=3000)
    observed(
        "402 at the same price whatever the `User-Agent` and its kin say; a price function may look at them, and should"
        " give nothing away for it"
    )
