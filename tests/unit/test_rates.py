"""Rates: the exact conversion, the maximum age, and feeds that answer nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import pytest

from rail402.errors import ConfigurationError, RailUnavailable
from rail402.money import Money
from rail402.rates import CallableRates, FixedRates, HttpRates, Rate, RateSource, convert
from rail402.testing.fakes import FakeClock
from rail402.testing.fault_transport import Pieces
from rail402.testing.faults import FAULTS, Faults, FaultyTransport
from rail402.testing.virtual_time import VirtualTimeLoop

USD_003 = Money.parse("0.003 USD")


class TestConvert:
    @pytest.mark.parametrize(("have", "want"), [("USD", "USD"), ("USD", "USDC"), ("USDC", "USD"), ("BTC", "BTC")])
    async def test_a_stablecoin_is_its_currency(self, have: str, want: str) -> None:
        amount = Decimal("1.000000000000000000000000000000000000000000000001")
        assert await convert(Money(amount, have), want, None) == Money(amount, want)

    async def test_by_the_rate_of_the_pair(self) -> None:
        rates = FixedRates({"USD/BTC": "0.00002"})
        assert await convert(USD_003, "BTC", rates) == Money.parse("6 sat")
        assert await convert(Money.parse("0.003 USDC"), "BTC", rates) == Money.parse("6 sat")

    async def test_by_the_rate_of_the_turned_pair(self) -> None:
        rates = FixedRates({"BTC/USD": "60000"})
        assert await convert(USD_003, "BTC", rates) == Money.parse("5 sat")
        assert await convert(Money.parse("5 sat"), "USDC", rates) == Money.parse("0.003 USDC")

    async def test_the_pair_itself_comes_first(self) -> None:
        rates = FixedRates({"BTC/USD": "60000", "USD/BTC": "1"})
        assert await convert(USD_003, "BTC", rates) == Money.parse("0.003 BTC")

    async def test_no_source_or_no_rate(self) -> None:
        assert await convert(USD_003, "BTC", None) is None
        assert await convert(USD_003, "EUR", FixedRates({"BTC/USD": "60000"})) is None

    async def test_a_price_that_does_not_divide_is_never_undercut(self) -> None:
        converted = await convert(USD_003, "BTC", FixedRates({"BTC/USD": "70000"}))
        assert converted is not None
        atomic = converted.to_atomic(11)
        assert Decimal(atomic) * 70000 >= Decimal("0.003") * 10**11 > Decimal(atomic - 1) * 70000


class TestFixedRates:
    async def test_a_fixed_rate_is_always_fresh(self) -> None:
        clock = FakeClock(7)
        rates = FixedRates({"BTC/USD": Decimal("60000.5")}, clock=clock)
        clock.advance(10**9)
        assert await rates.rate("BTC", "USD") == Rate(Decimal("60000.5"), 10**9 + 7)
        assert await rates.rate("USD", "BTC") is None

    @pytest.mark.parametrize(
        "value", ["0", "-1", "NaN", "Infinity", "-0", "", "60,000", "x", 1.5, True, None, [], Decimal(0)]
    )
    def test_a_rate_is_a_number_above_zero_and_no_float(self, value: Any) -> None:
        with pytest.raises(ConfigurationError, match="rate BTC/USD"):
            FixedRates({"BTC/USD": value})


class TestCallableRates:
    @staticmethod
    def source(rate: Rate | None, clock: FakeClock) -> CallableRates:
        async def function(base: str, quote: str) -> Rate | None:
            return rate if (base, quote) == ("BTC", "USD") else None

        return CallableRates(function, max_age=300, clock=clock)

    async def test_a_rate_may_be_as_old_as_the_maximum(self) -> None:
        rates = self.source(Rate(Decimal(60000), 1000), FakeClock(1300))
        assert await rates.rate("BTC", "USD") == Rate(Decimal(60000), 1000)

    async def test_one_second_more_is_refused(self) -> None:
        rates = self.source(Rate(Decimal(60000), 1000), FakeClock(1301))
        with pytest.raises(RailUnavailable, match="BTC/USD rate is older than 300 s"):
            await convert(USD_003, "BTC", rates)

    async def test_a_pair_that_the_function_does_not_know(self) -> None:
        assert await self.source(None, FakeClock()).rate("BTC", "USD") is None


class Feed:
    """A price feed that says what it is told, and counts how often it is asked."""

    def __init__(self, answer: Callable[[], httpx.Response]) -> None:
        self.answer, self.asked = answer, 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        return self.answer()

    def says(self, text: str | bytes, status: int = 200) -> None:
        self.answer = lambda: httpx.Response(status, content=text)

    def fails(self) -> None:
        def fail() -> httpx.Response:
            raise httpx.ConnectTimeout("slow")

        self.answer = fail


@pytest.fixture
def feed() -> Feed:
    return Feed(lambda: httpx.Response(200, content=b'{"price": 60000.10}'))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def rates(feed: Feed, clock: FakeClock) -> HttpRates:
    client = httpx.AsyncClient(transport=httpx.MockTransport(feed))

    def pick(answer: Any) -> Any:
        return answer["price"]

    return HttpRates({"BTC/USD": "https://feed.example/btc"}, pick, client=client, clock=clock)


class TestHttpRates:
    async def test_numbers_arrive_exactly(self, rates: HttpRates, clock: FakeClock) -> None:
        assert await rates.rate("BTC", "USD") == Rate(Decimal("60000.10"), clock())

    @pytest.mark.parametrize("text", ['{"price": "60000.1"}', '{"price": 60000.1}', '{"price": 600001e-1}'])
    async def test_texts_and_numbers_are_read(self, rates: HttpRates, feed: Feed, text: str) -> None:
        feed.says(text)
        rate = await rates.rate("BTC", "USD")
        assert rate is not None
        assert rate.value == Decimal("60000.1")

    async def test_a_pair_without_a_feed_is_not_asked_for(self, rates: HttpRates, feed: Feed) -> None:
        assert await rates.rate("USD", "BTC") is None
        assert feed.asked == 0

    async def test_an_answer_is_used_again_while_it_is_fresh(
        self, rates: HttpRates, feed: Feed, clock: FakeClock
    ) -> None:
        first = await rates.rate("BTC", "USD")
        feed.says('{"price": 1}')
        clock.advance(59)
        assert await rates.rate("BTC", "USD") is first
        clock.advance(1)
        assert await rates.rate("BTC", "USD") == Rate(Decimal(1), clock())
        assert feed.asked == 2

    async def test_a_feed_that_is_down_is_outlived_until_the_maximum_age(
        self, rates: HttpRates, feed: Feed, clock: FakeClock
    ) -> None:
        first = await rates.rate("BTC", "USD")
        feed.fails()
        clock.advance(300)
        assert await rates.rate("BTC", "USD") is first
        clock.advance(1)
        with pytest.raises(RailUnavailable, match="no usable answer"):
            await rates.rate("BTC", "USD")
        feed.says('{"price": 2}')
        assert await rates.rate("BTC", "USD") == Rate(Decimal(2), clock())

    async def test_a_clock_that_was_set_back_keeps_no_rate_for_hours(
        self, rates: HttpRates, feed: Feed, clock: FakeClock
    ) -> None:
        await rates.rate("BTC", "USD")
        clock.advance(-7200)
        feed.fails()
        with pytest.raises(RailUnavailable, match="no usable answer"):
            await rates.rate("BTC", "USD")
        feed.says('{"price": 2}')
        assert await rates.rate("BTC", "USD") == Rate(Decimal(2), clock())

    async def test_a_huge_answer_is_not_read_on(self, rates: HttpRates, feed: Feed) -> None:
        body = Pieces(*[b" " * 65_536] * 32)
        feed.answer = lambda: httpx.Response(200, stream=body)
        with pytest.raises(RailUnavailable, match="sends more than 1048576 bytes"):
            await rates.rate("BTC", "USD")

    def test_an_answer_that_trickles_is_not_waited_for(self) -> None:
        async def main() -> float:
            feed = httpx.MockTransport(lambda _: httpx.Response(200, json={"price": "60000", "pad": "x" * 1000}))
            wire = FaultyTransport(feed, Faults().on(FAULTS["endless body"]))
            pick: Any = lambda answer: answer["price"]  # noqa: E731
            async with httpx.AsyncClient(transport=wire) as client:
                rates = HttpRates({"BTC/USD": "https://feed.example/"}, pick, client=client, clock=FakeClock())
                with pytest.raises(RailUnavailable, match="no usable answer"):
                    await rates.rate("BTC", "USD")
            return asyncio.get_running_loop().time()

        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            assert runner.run(main()) == 10

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "<html>",
            "[]",
            "{}",
            "null",
            '{"price": null}',
            '{"price": 0}',
            '{"price": -1}',
            '{"price": "x"}',
            '{"price": NaN}',
            '{"price": Infinity}',
            '{"price": {}}',
            '{"price": []}',
            "[" * 100_000,
            b"\xff",
        ],
        ids=lambda text: repr(text)[:20],
    )
    async def test_nonsense_is_no_rate_but_does_not_spoil_the_last_one(
        self, rates: HttpRates, feed: Feed, clock: FakeClock, text: str | bytes
    ) -> None:
        feed.says(text)
        with pytest.raises(RailUnavailable, match="rate feed for BTC/USD"):
            await rates.rate("BTC", "USD")
        feed.says('{"price": 60000}')
        good = await rates.rate("BTC", "USD")
        feed.says(text)
        clock.advance(60)
        assert await rates.rate("BTC", "USD") is good

    @pytest.mark.parametrize("status", [301, 404, 429, 500])
    async def test_only_a_success_is_believed(self, rates: HttpRates, feed: Feed, status: int) -> None:
        feed.says('{"price": 60000}', status)
        with pytest.raises(RailUnavailable):
            await rates.rate("BTC", "USD")

    @pytest.mark.parametrize(
        "pick",
        [
            lambda answer: float(answer["price"]),
            lambda answer: answer.price,
            lambda answer: Decimal("x"),
            lambda answer: answer["data"][0],
        ],
        ids=["float", "attribute", "decimal", "missing"],
    )
    async def test_a_pick_that_does_not_fit_the_answer(self, feed: Feed, pick: Callable[[Any], Any]) -> None:
        client = httpx.AsyncClient(transport=httpx.MockTransport(feed))
        source: RateSource = HttpRates({"BTC/USD": "https://feed.example/"}, pick, client=client)
        with pytest.raises(RailUnavailable):
            await source.rate("BTC", "USD")
