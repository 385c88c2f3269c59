"""From the price's currency to the asset's: rates with an age, and one exact conversion.

A stablecoin counts as its currency (USDC is a dollar); everything else needs a `RateSource`. The converted amount is
part of the offer, so a rate that moves never breaks a payment that is under way.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Protocol

import httpx

from rail402.clock import Clock, system_clock
from rail402.errors import ConfigurationError, RailUnavailable
from rail402.money import Money
from rail402.protocol.base import nests_too_deep
from rail402.upstream import read_at_most

__all__ = ["CallableRates", "FixedRates", "HttpRates", "Rate", "RateSource", "convert"]

PAR = {"USDC": "USD"}
_TIMEOUT = 10
_MAX_ANSWER = 1 << 20
_DIVIDE = Context(prec=40)
_NONSENSE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What `pick` raises where a feed answers in another form than usual."""


@dataclass(frozen=True, slots=True)
class Rate:
    """One unit of the base costs `value` units of the quote, as of `as_of` (Unix seconds)."""

    value: Decimal
    as_of: int


class RateSource(Protocol):
    """Where rates come from."""

    async def rate(self, base: str, quote: str) -> Rate | None:
        """Return how many `quote` one `base` costs, or None where this source does not know the pair."""
        ...


async def convert(money: Money, currency: str, source: RateSource | None) -> Money | None:
    """Return `money` in another currency, or None where no rate is known.

    Raises:
        RailUnavailable: the source cannot be reached or its rate is too old.
    """
    have, want = PAR.get(money.currency, money.currency), PAR.get(currency, currency)
    if have == want:
        return Money(money.amount, currency)
    rate = await source.rate(have, want) if source is not None else None
    if rate is not None:
        return Money(_DIVIDE.multiply(money.amount, rate.value), currency)
    rate = await source.rate(want, have) if source is not None else None
    return None if rate is None else Money(_DIVIDE.divide(money.amount, rate.value), currency)


class FixedRates:
    """Rates that you set yourself.

    Args:
        rates: pairs such as `{"BTC/USD": "60000"}`.
        clock: returns Unix seconds; a fixed rate is always as fresh as the question.
    """

    def __init__(self, rates: Mapping[str, str | Decimal], *, clock: Clock = system_clock) -> None:
        self._rates = {pair: _positive(pair, value) for pair, value in rates.items()}
        self._clock = clock

    async def rate(self, base: str, quote: str) -> Rate | None:
        """Return the fixed rate of the pair."""
        value = self._rates.get(f"{base}/{quote}")
        return None if value is None else Rate(value, self._clock())


class CallableRates:
    """Rates from a function of yours; one older than `max_age` seconds is refused."""

    def __init__(
        self,
        function: Callable[[str, str], Awaitable[Rate | None]],
        *,
        max_age: int = 300,
        clock: Clock = system_clock,
    ) -> None:
        self._function, self._max_age, self._clock = function, max_age, clock

    async def rate(self, base: str, quote: str) -> Rate | None:
        """Return the function's rate of the pair.

        Raises:
            RailUnavailable: the rate is older than the maximum age.
        """
        rate = await self._function(base, quote)
        if rate is not None and self._clock() - rate.as_of > self._max_age:
            raise RailUnavailable(f"the {base}/{quote} rate is older than {self._max_age} s")
        return rate


class HttpRates:
    """Rates from a JSON feed over HTTP, cached for `refresh` seconds.

    Args:
        urls: a URL per pair: `{"BTC/USD": "https://…"}`.
        pick: returns the decimal text of the rate from the decoded JSON (numbers arrive as Decimal).
        refresh: seconds for which an answer is used again; after `max_age` seconds it is refused.
    """

    def __init__(
        self,
        urls: Mapping[str, str],
        pick: Callable[[object], str | Decimal],
        *,
        client: httpx.AsyncClient,
        refresh: int = 60,
        max_age: int = 300,
        clock: Clock = system_clock,
    ) -> None:
        self._urls, self._pick, self._client = dict(urls), pick, client
        self._refresh, self._max_age, self._clock = refresh, max_age, clock
        self._cache: dict[str, Rate] = {}

    async def rate(self, base: str, quote: str) -> Rate | None:
        """Return the feed's rate of the pair.

        Raises:
            RailUnavailable: the feed does not answer and the cached rate is older than the maximum age.
        """
        pair, now = f"{base}/{quote}", self._clock()
        if pair not in self._urls:
            return None
        cached = self._cache.get(pair)
        if cached is not None and 0 <= now - cached.as_of < self._refresh:  # the clock may have been set back
            return cached
        try:
            self._cache[pair] = cached = Rate(await self._fetch(pair), now)
        except RailUnavailable:
            if cached is None or not 0 <= now - cached.as_of <= self._max_age:
                raise
        return cached

    async def _fetch(self, pair: str) -> Decimal:
        try:
            async with asyncio.timeout(_TIMEOUT), self._client.stream("GET", self._urls[pair]) as response:
                body = await read_at_most(response.raise_for_status(), _MAX_ANSWER)
            if body is None:
                raise RailUnavailable(f"the rate feed for {pair} sends more than {_MAX_ANSWER} bytes")
            text = body.decode()
            if nests_too_deep(text):
                raise RailUnavailable(f"the rate feed for {pair} nests too deep")
            return _positive(pair, self._pick(json.loads(text, parse_float=Decimal)))
        except (httpx.HTTPError, TimeoutError, ConfigurationError, *_NONSENSE) as error:
            raise RailUnavailable(f"the rate feed for {pair} gave no usable answer") from error


def _positive(pair: str, value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise ConfigurationError(f"rate {pair}: give a Decimal or a text, not {type(value).__name__}")
    try:
        rate = Decimal(value)
    except ArithmeticError as error:
        raise ConfigurationError(f"rate {pair}: {value!r} is not a number") from error
    if not rate.is_finite() or rate <= 0:
        raise ConfigurationError(f"rate {pair}: {value!r} must be more than zero")
    return rate
