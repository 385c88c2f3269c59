"""How calls are spoilt: the transport, and which calls go wrong; see `rail402.testing.faults`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

import httpx

from rail402.errors import ConfigurationError

__all__ = ["Call", "Exchange", "Fault", "Faults", "FaultyTransport", "Pieces", "named_by_path"]

Sleep = Callable[[float], Awaitable[object]]

_PAUSE: Final = 1
"""Seconds without a byte after which an endless answer is cut where a fault needs the whole of it."""

_PATIENCE: Final = 60
"""Seconds for which a caller waits who sets itself no limit."""

_MOST_KEPT: Final = 1 << 20


@dataclass(slots=True)
class Call:
    """One call that was made.

    Attributes:
        method, path: what it is named by; see `FaultyTransport`.
        host: where it was to go.
        fault: what happened to it; None if nothing did.
        status, headers, body: what was answered, the body as far as it was read and kept; status 0: nothing was.
    """

    method: str
    path: str
    host: str
    fault: Fault | None = None
    status: int = 0
    headers: httpx.Headers = field(default_factory=httpx.Headers, repr=False)
    body: bytearray = field(default_factory=bytearray, repr=False)

    def answer(self) -> httpx.Response:
        """Return what was answered, once more."""
        return httpx.Response(self.status, headers=self.headers, content=bytes(self.body))


@dataclass(frozen=True, slots=True)
class Exchange:
    """A call that is being spoilt.

    Attributes:
        request: what is sent.
        deliver: carries it out, and returns the whole answer; it may be called more than once, or never.
        sleep: waits that many seconds.
        jump: sets the clock of whoever calls by that many seconds.
        earlier: the answered calls before this one, the latest first.
    """

    request: httpx.Request
    deliver: Callable[[], Awaitable[httpx.Response]]
    sleep: Sleep
    jump: Callable[[int], object]
    call: Call
    earlier: Sequence[Call]

    def seconds(self, phase: str) -> float:
        """Return for how long the caller waits in a phase (`connect`, `read`), as httpx does."""
        found: float | None = self.request.extensions.get("timeout", {}).get(phase)
        return _PATIENCE if found is None else found


@dataclass(frozen=True, slots=True)
class Fault:
    """A way for a call to go wrong.

    Attributes:
        name: a few words.
        behave: gives the answer, or raises what httpx raises.
    """

    name: str
    behave: Callable[[Exchange], Awaitable[httpx.Response]] = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.name


@dataclass(slots=True)
class _Rule:
    fault: Fault
    method: str
    path: str
    before: int
    times: int | None

    def takes(self, call: Call) -> bool:
        if self.times == 0 or not (fnmatchcase(call.method, self.method) and fnmatchcase(call.path, self.path)):
            return False
        if self.before:
            self.before -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Faults:
    """Which calls go wrong, and how. Several transports may share one.

    Args:
        seed: makes the random mode the same in every run.
        rate: how many of the calls are spoilt at random, from 0 to 1.
        among: by what; required for a rate.

    Raises:
        ConfigurationError: there is a rate, and nothing to choose from.
    """

    def __init__(self, *, seed: int = 0, rate: float = 0, among: Sequence[Fault] = ()) -> None:
        if rate and not among:
            raise ConfigurationError("among: say what random faults are to be chosen from")
        self._random = random.Random(seed)  # noqa: S311 - to be the same again is what it is for
        self._rate, self._among = rate, tuple(among)
        self._rules: list[_Rule] = []

    def on(self, fault: Fault, method: str = "*", path: str = "*", *, nth: int = 1, times: int | None = 1) -> Faults:
        """Spoil the n-th call from now on that matches, and return these faults.

        Args:
            method, path: patterns of `fnmatch`; a path is without its query.
            times: how many matching calls are spoilt from that one on; None for all of them until `clear`.

        Raises:
            ConfigurationError: `nth` or `times` is not positive.
        """
        if nth < 1 or (times is not None and times < 1):
            raise ConfigurationError("nth and times count from 1")
        self._rules.append(_Rule(fault, method, path, nth - 1, times))
        return self

    def clear(self) -> None:
        """Spoil nothing any more, at random neither."""
        self._rules.clear()
        self._rate = 0

    def of(self, call: Call) -> Fault | None:
        """Return what happens to a call; every rule that waits for its n-th one counts it."""
        taken = [rule.fault for rule in self._rules if rule.takes(call)]
        if taken:
            return taken[0]
        if self._rate and self._random.random() < self._rate:
            return self._random.choice(self._among)
        return None


def named_by_path(request: httpx.Request) -> tuple[str, str]:
    """Name a call by its method and path."""
    return request.method, request.url.path


class FaultyTransport(httpx.AsyncBaseTransport):
    """Carries requests to `inner`, except where a fault is ordered.

    Args:
        inner: what requests are sent through.
        faults: which calls go wrong.
        named: names a call by a method and a path, for patterns; `json_rpc_methods` where all have the same
            path.
        sleep: waits that many seconds; under `VirtualTimeLoop` that takes no time.
        jump: sets the clock that the backend under test is given; see `clock_jump`.

    Attributes:
        calls: every call so far.
    """

    def __init__(
        self,
        inner: httpx.AsyncBaseTransport,
        faults: Faults | None = None,
        *,
        named: Callable[[httpx.Request], tuple[str, str]] = named_by_path,
        sleep: Sleep = asyncio.sleep,
        jump: Callable[[int], object] | None = None,
    ) -> None:
        self.faults = faults or Faults()
        self.calls: list[Call] = []
        self._inner, self._named, self._sleep, self._jump = inner, named, sleep, jump or _no_clock

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Carry one request, or spoil it."""
        await request.aread()
        call = Call(*self._named(request), request.url.host)
        call.fault = self.faults.of(call)
        earlier = [each for each in reversed(self.calls) if each.status]
        self.calls.append(call)
        if call.fault is None:
            response = await self._carry(request)
        else:
            exchange = Exchange(request, lambda: self._whole(request), self._sleep, self._jump, call, earlier)
            response = await call.fault.behave(exchange)
        call.status, call.headers = response.status_code, response.headers
        # Made anew: a response that was made from its content is not read from its stream.
        return httpx.Response(
            call.status,
            headers=call.headers,
            stream=_Kept(_stream(response), call.body),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()

    async def _carry(self, request: httpx.Request) -> httpx.Response:
        again = httpx.Request(
            request.method, request.url, headers=request.headers, content=request.content, extensions=request.extensions
        )
        return await self._inner.handle_async_request(again)

    async def _whole(self, request: httpx.Request) -> httpx.Response:
        response = await self._carry(request)
        content, pieces = bytearray(), aiter(_stream(response))
        try:
            while True:
                async with asyncio.timeout(_PAUSE):
                    content += await anext(pieces)
        except (StopAsyncIteration, TimeoutError):
            pass
        finally:
            await response.aclose()
        return httpx.Response(response.status_code, headers=response.headers, stream=Pieces(bytes(content)))


def _stream(response: httpx.Response) -> httpx.AsyncByteStream:
    assert isinstance(response.stream, httpx.AsyncByteStream)
    return response.stream


def _no_clock(seconds: int) -> None:
    raise ConfigurationError("a fault sets the clock: give FaultyTransport(jump=...) the function that does it")


class _Kept(httpx.AsyncByteStream):
    """A body that passes, and is remembered."""

    def __init__(self, inner: httpx.AsyncByteStream, kept: bytearray) -> None:
        self._inner, self._kept = inner, kept

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._inner:
            if len(self._kept) < _MOST_KEPT:
                self._kept += piece
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()


class Pieces(httpx.AsyncByteStream):
    """A body as it comes over the wire, piece by piece."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece
