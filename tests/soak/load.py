"""Clients of a shop, good and bad, each a loop that goes on until it is told to stop."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import signal
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from rail402.errors import PaymentOutcomeUnknown, Rail402Error
from tests.workers.agents import Echo, open_agent
from tests.workers.shop import Shop

__all__ = ["Load", "Tally"]

SOLD: Final = ("/article", "/upfront", "/invoice", "/report", "/pass", "/stream")

_PATIENCE: Final = 240
"""Seconds in which a purchase is served whose worker was killed: its lease lapses, and a request to Stripe that was cut
off may land for two minutes."""

_UPSET: Final = 10
"""Seconds after a kill in which connections may break."""

_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Without it each client would read all of the machine's certificates, which costs more than what it asks for."""


@dataclass
class Tally:
    """What happened, counted.

    Attributes:
        by_minute: purchases served, by the minute in which they were.
        answers: statuses, by what was sent; 0 where there was none.
        seconds: how long each purchase took that was served at the first try.
        kills: when workers were killed, seconds of the event loop.
        wrong: what must not happen, in words.
    """

    started: float
    by_minute: Counter[int] = field(default_factory=Counter)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)
    kills: list[float] = field(default_factory=list)

    def bought(self, began: float, *, tries: int) -> None:
        """Count a purchase that has just been served."""
        now = asyncio.get_running_loop().time()
        self.by_minute[int((now - self.started) / 60)] += 1
        if tries == 1:
            self.seconds.append(now - began)

    def cut_off(self, who: str, error: Exception, began: float) -> None:
        """Count a request without an answer: wrong unless a worker was killed since it began, or just before."""
        self.answers[f"{who} cut off", 0] += 1
        if not self.kills or self.kills[-1] < began - _UPSET:
            self.wrong[f"{who}: {type(error).__name__}: {error}"] += 1

    def answered(self, who: str, response: httpx.Response, expected: Sequence[int]) -> None:
        """Count an answer; one that is none of `expected` is wrong."""
        self.answers[who, response.status_code] += 1
        if response.status_code not in expected:
            self.wrong[f"{who}: {response.status_code} {response.text[:120]}"] += 1


class Load:
    """All clients of a shop at once.

    Args:
        folder: where the agents' journals go.
        seed: what the bad clients' choices are made of.
    """

    def __init__(self, shop: Shop, folder: Path, *, seed: int) -> None:
        self._shop, self._folder, self._seed = shop, folder, seed
        self._proofs: list[tuple[str, dict[str, str]]] = []
        self._stopping = asyncio.Event()
        self.tally = Tally(asyncio.get_running_loop().time())

    async def run(self, seconds: float, *, agents: int, vandals: int, kill_every: float) -> Tally:
        """Keep so many agents and vandals at it for so long, and kill a worker every `kill_every` seconds."""
        clients: list[Callable[[int], Awaitable[None]]] = [self._agent] * agents + [self._vandal] * vandals
        clients.append(self._unlucky)
        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(clients):
                group.create_task(client(number))
            group.create_task(self._killer(kill_every))
            try:
                await asyncio.wait_for(self._stopping.wait(), seconds)
            except TimeoutError:
                self._stopping.set()
        return self.tally

    async def _killer(self, every: float) -> None:
        """Kill the youngest worker: the others live on, so that what they hold can be compared."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                await asyncio.wait_for(self._stopping.wait(), every)
                return
            except TimeoutError:
                self.tally.kills.append(loop.time())
                os.kill(max(self._shop.process.members()), signal.SIGKILL)

    async def _agent(self, number: int) -> None:
        """Buy everything in turn; every third agent shows each payment three times at once."""
        echo = Echo(3 if number % 3 == 0 else 1)
        async with self._open(number, echo) as client:
            turn = number
            while not self._stopping.is_set():
                path = SOLD[turn % len(SOLD)]
                turn += 1
                # The query makes each an order of its own.
                await self._buy(client, path, f"{number}.{turn}")
                self._remember(echo)

    def _open(self, number: int, echo: Echo) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        return open_agent(self._shop.sandbox, self._folder / f"wallet{number}.db", self._shop.url, echo)

    async def _buy(self, client: httpx.AsyncClient, path: str, turn: str) -> None:
        """Ask for it until it is served: whoever was cut off shows what was paid before."""
        loop = asyncio.get_running_loop()
        began, tries = loop.time(), 0
        while tries == 0 or loop.time() - began < _PATIENCE:
            tries += 1
            try:
                response = await client.get(path, params={"turn": turn})
            except (Rail402Error, httpx.HTTPError) as error:
                self.tally.cut_off("agent", error, began)
            else:
                self.tally.answered("agent", response, [200])
                if response.is_success:
                    self.tally.bought(began, tries=tries)
                return
            await asyncio.sleep(1)
        self.tally.wrong[f"an agent's {path} was not served in {_PATIENCE} s"] += 1

    async def _unlucky(self, number: int) -> None:
        """Buy what always fails, and never get it."""
        async with self._open(number, Echo(1)) as client:
            turn = 0
            while not self._stopping.is_set():
                turn += 1
                began = asyncio.get_running_loop().time()
                try:
                    response = await client.get("/fails", params={"turn": turn})
                except PaymentOutcomeUnknown:  # it asked until its deadline
                    self.tally.answers["unlucky", 0] += 1
                except (Rail402Error, httpx.HTTPError) as error:
                    self.tally.cut_off("unlucky", error, began)
                else:
                    self.tally.answered("unlucky", response, [])

    def _remember(self, echo: Echo) -> None:
        """Keep some of the proofs, for the vandals."""
        self._proofs += [(shown.path, shown.fields) for shown in echo.shown]
        del self._proofs[:-50]
        echo.shown.clear()

    async def _vandal(self, number: int) -> None:
        """Ask for what is free, for what is not paid, with stolen proofs and with nonsense, and hang up early."""
        chance = random.Random(f"{self._seed}/{number}")
        tricks = (self._free, self._unpaid, self._stolen, self._nonsense, self._hang_up)
        limits = httpx.Limits(max_connections=2)
        async with httpx.AsyncClient(
            base_url=self._shop.url, limits=limits, timeout=60, trust_env=False, verify=_NO_TLS
        ) as client:
            while not self._stopping.is_set():
                began = asyncio.get_running_loop().time()
                try:
                    await chance.choice(tricks)(client, chance)
                except httpx.HTTPError as error:
                    self.tally.cut_off("vandal", error, began)
                await asyncio.sleep(chance.uniform(0, 0.05))

    async def _free(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        self.tally.answered("free", await client.get("/free"), [200])

    async def _unpaid(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        response = await client.get(chance.choice(SOLD), params={"flood": chance.randrange(10**9)})
        self.tally.answered("unpaid", response, [402, 429])

    async def _stolen(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        """Show what somebody else has paid with, on another route or for another request."""
        if self._proofs:
            path, fields = chance.choice(self._proofs)
            other = chance.choice([sold for sold in SOLD if sold != path])
            self.tally.answered("stolen", await client.get(other, headers=fields), [400, 402, 409, 429])

    async def _nonsense(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        text = base64.b64encode(chance.randbytes(chance.randrange(1, 2000))).decode()
        fields = chance.choice(
            [
                {"payment-signature": text},
                {"authorization": f"Payment {text}"},
                {"authorization": f"L402 {text}:{'0' * 64}"},
                {"x-payment": text},
                {"x-receipt": text[:200]},
                {"payment-signature": base64.b64encode(b'{"x402Version":2,"accepted":{},"payload":{}}').decode()},
            ]
        )
        self.tally.answered("nonsense", await client.get(chance.choice(SOLD), headers=fields), [400, 402, 409, 429])

    async def _hang_up(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        """Show a proof that is used already where it was used, and go before the answer comes."""
        path, fields = chance.choice(self._proofs) if self._proofs else ("/article", {})
        try:
            async with (
                asyncio.timeout(chance.uniform(0.001, 0.03)),
                httpx.AsyncClient(trust_env=False, verify=_NO_TLS) as own,
            ):
                await own.get(self._shop.url + path, headers=fields)
        except TimeoutError:
            self.tally.answers["hung up", 0] += 1
