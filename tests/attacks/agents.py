"""Agents to attack: a payer, its journal, a clock that moves only when told, and both of its transports."""

from __future__ import annotations

import asyncio
import base64
import itertools
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import httpx

from rail402.client.budget import Budget
from rail402.client.payer import Payer
from rail402.protocol.rail import Wallet
from rail402.testing.fakes import FakeClock, FakeLedger, FakeSpec, FakeWallet

__all__ = ["Agent", "Kind", "OpenAgent"]

Kind = Literal["async", "sync"]

# Making one takes longer than all the rest of a test.
_TLS = ssl.create_default_context()


class Agent:
    """One process that buys. Agents that are given the same folder share its journal."""

    def __init__(
        self,
        folder: Path,
        kind: Kind = "async",
        *,
        ledger: FakeLedger | None = None,
        clock: FakeClock | None = None,
        wallets: Sequence[Wallet] = (),
        **options: Any,
    ) -> None:
        self.kind, self.clock, self.ledger = kind, clock or FakeClock(), ledger or FakeLedger()
        self.slept: list[float] = []
        options = {"budget": Budget(), "clock": self.clock, "random_bytes": _counting} | options
        journal = f"sqlite:///{folder}/wallet.db"
        self.payer = Payer(list(wallets) or [FakeWallet(self.ledger, FakeSpec())], journal=journal, **options)
        self.payer.sleep = self._sleep

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.advance(int(seconds))

    async def request(
        self, method: str, url: str, *, inner: Any = None, client: dict[str, Any] | None = None, **options: Any
    ) -> httpx.Response:
        """Make a request through the transport of its kind, as a new client, and read the answer."""
        settings: dict[str, Any] = {"follow_redirects": True, "timeout": 5, **(client or {})}
        if self.kind == "async":
            transport = self.payer.transport(inner or httpx.AsyncHTTPTransport(verify=_TLS))
            async with httpx.AsyncClient(transport=transport, **settings) as http:
                return await http.request(method, url, **options)

        def work() -> httpx.Response:
            transport = self.payer.sync_transport(inner or httpx.HTTPTransport(verify=_TLS))
            with httpx.Client(transport=transport, **settings) as http:
                return http.request(method, url, **options)

        return await asyncio.to_thread(work)

    async def get(self, url: str, **options: Any) -> httpx.Response:
        """GET; see `request`."""
        return await self.request("GET", url, **options)

    @property
    def signed(self) -> int:
        """How often the fake wallet was asked to pay."""
        return self.ledger.count("pay")

    async def states(self) -> list[str]:
        """The states of all purchases, the newest first."""
        return [record.state.value for record in await self.payer.journal.newest()]

    async def spent(self, window: str = "hour") -> dict[str, str]:
        """What that window of the budget holds, by currency."""
        held = await self.payer.journal.spent(now=self.clock())
        return {currency: str(amount.total) for currency, amount in held[window].items()}

    async def close(self) -> None:
        """Close the payer, the way its kind of caller does."""
        if self.kind == "async":
            await self.payer.close()
        else:
            await asyncio.to_thread(self.payer.__exit__, None, None, None)


_numbers = itertools.count(1)


def _counting(size: int) -> bytes:
    """Records are listed in the order in which they were made, even those of one second: only letters in their ids."""
    number, letters = next(_numbers), ""
    for _ in range(25):
        number, digit = divmod(number, 26)
        letters = chr(ord("A") + digit) + letters
    return base64.b32decode(letters + "A======")[:size]


OpenAgent = Callable[..., Agent]
"""Opens an agent on the test's journal; see the fixture `open_agent`."""
