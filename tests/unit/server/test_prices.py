"""Rails that cannot charge a fixed price are found when the gate starts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from rail402.errors import ConfigurationError, RailUnavailable
from rail402.protocol.rail import PaymentRail
from rail402.rates import FixedRates, Rate, RateSource
from rail402.server.gate import Gate
from rail402.testing.fakes import FakeLedger, FakeRail, FakeSpec
from rail402_base import BaseRail
from rail402_lightning import LightningRail
from rail402_stripe import StripeRail

LEAST = "it takes 0.5 USD at least; ask that much, or name other rails in rails="


@pytest.fixture
def rails(tmp_path: Path) -> list[PaymentRail]:
    return [BaseRail.sandbox(tmp_path), LightningRail.sandbox(tmp_path), StripeRail.sandbox(tmp_path)]


def gate_of(rails: list[PaymentRail], rates: RateSource | None = None) -> Gate:
    return Gate(rails=rails, store="memory://", public_url="http://shop.test", rates=rates, reconcile_seconds=0)


def sell(gate: Gate, price: Any, path: str = "/goods", **options: Any) -> None:
    """Put an app with one route under the gate."""

    async def goods(request: Any) -> PlainTextResponse:
        return PlainTextResponse("the goods")

    gate.install(Starlette(routes=[Route(path, gate.paid(price, **options)(goods), methods=["GET", "PUT"])]))


async def warnings_of(gate: Gate, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Start a gate, and return what it warns of."""
    with caplog.at_level(logging.WARNING, "rail402.server"):
        async with gate:
            return [record.getMessage() for record in caplog.records if "play money" not in record.getMessage()]


async def error_of(gate: Gate) -> str:
    with pytest.raises(ConfigurationError) as caught:
        await gate.start()
    assert not gate.started
    return caught.value.detail


# --- no rail


async def test_a_route_that_could_never_sell_stops_the_start_and_is_named(rails: list[PaymentRail]) -> None:
    gate = gate_of(rails)
    sell(gate, "0.01 USD", "/a/{slug}", rails=["lightning", "stripe"])
    assert await error_of(gate) == (
        "GET|PUT /a/{slug} for 0.01 USD: no rail can charge that. lightning: no rate leads from 0.01 USD to BTC; give "
        f"the gate rates=; stripe: {LEAST}"
    )


@pytest.mark.parametrize(("price", "sells"), [("0.49 USD", False), ("0.491 USD", True), ("0.50 USD", True)])
async def test_the_minimum_is_that_of_what_is_charged_which_is_rounded_up(
    rails: list[PaymentRail], price: str, sells: bool
) -> None:
    gate = gate_of(rails[2:])
    sell(gate, price)
    if sells:
        async with gate:
            assert gate.started
    else:
        assert LEAST in await error_of(gate)


async def test_each_protected_route_has_the_price_of_its_own_rule(rails: list[PaymentRail]) -> None:
    gate = gate_of(rails)
    gate.protect("GET /cheap", price="0.01 USD", rails=["stripe"])
    gate.protect("* /*", price="1 USD", rails=["stripe"])
    routes = [Route(path, lambda request: PlainTextResponse("")) for path in ("/cheap", "/dear")]
    gate.install(Starlette(routes=routes))
    assert (await error_of(gate)).startswith("GET /cheap for 0.01 USD: no rail can charge that.")


async def test_what_is_no_route_is_named_by_its_description(rails: list[PaymentRail]) -> None:
    for description, name in (("A forecast", "A forecast"), ("", "a price")):
        gate = gate_of(rails[2:])
        gate.rule("0.01 USD", description=description)
        assert (await error_of(gate)).startswith(f"{name} for 0.01 USD: no rail can charge that.")


# --- some rails


async def test_each_rail_that_drops_out_is_logged_once(
    rails: list[PaymentRail], caplog: pytest.LogCaptureFixture
) -> None:
    gate = gate_of(rails)
    sell(gate, "0.25 USD")
    what, dropped = "GET|PUT /goods for 0.25 USD: the rail", "cannot charge that, and is not offered:"
    assert await warnings_of(gate, caplog) == [
        f"{what} lightning {dropped} no rate leads from 0.25 USD to BTC; give the gate rates=",
        f"{what} stripe {dropped} {LEAST}",
    ]


async def test_nothing_is_logged_where_every_rail_can(
    rails: list[PaymentRail], caplog: pytest.LogCaptureFixture
) -> None:
    gate = gate_of(rails, FixedRates({"BTC/USD": "60000"}))
    sell(gate, "0.50 USD")
    assert await warnings_of(gate, caplog) == []


async def test_a_rail_that_the_route_does_not_take_is_not_spoken_of(
    rails: list[PaymentRail], caplog: pytest.LogCaptureFixture
) -> None:
    gate = gate_of(rails)
    sell(gate, "0.25 USD", rails=["base"])
    assert await warnings_of(gate, caplog) == []


async def test_a_price_that_the_request_says_is_not_looked_at(
    rails: list[PaymentRail], caplog: pytest.LogCaptureFixture
) -> None:
    gate = gate_of(rails[1:])
    sell(gate, lambda request: pytest.fail("it was asked"))
    assert await warnings_of(gate, caplog) == []


# --- rates


async def test_what_is_too_little_at_today_s_rate_stops_nothing(
    rails: list[PaymentRail], caplog: pytest.LogCaptureFixture
) -> None:
    gate = gate_of(rails[2:], FixedRates({"BTC/USD": "60000"}))
    sell(gate, "90 sat")
    (said,) = await warnings_of(gate, caplog)
    assert said.endswith(f"the rail stripe cannot charge that, and is not offered: {LEAST}")


async def test_a_feed_that_is_down_stops_nothing_and_hides_no_rail_without_it(
    rails: list[PaymentRail], caplog: pytest.LogCaptureFixture
) -> None:
    class Down:
        async def rate(self, base: str, quote: str) -> Rate | None:
            raise RailUnavailable("the feed is down")

    gate = gate_of(rails[1:], Down())
    sell(gate, "0.01 USD")
    (said,) = await warnings_of(gate, caplog)  # nothing of lightning, which may be able to, later
    assert "the rail stripe cannot charge that" in said


# --- other rails


async def test_a_rail_s_own_minimum_is_asked_without_a_call_of_its_service() -> None:
    ledger = FakeLedger()
    for style in ("signed", "invoice"):
        gate = gate_of([FakeRail(ledger, FakeSpec(style=style), minimum=3_000_001)])
        sell(gate, "3 USD")
        assert "it takes 3.000001 USD at least" in await error_of(gate)
    assert ledger.calls == []
