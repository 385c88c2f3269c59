"""What every purchase of a payer shares: the wallets, the journal, the budget, the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rail402.client.budget import Budget
from rail402.client.journal import Journal
from rail402.clock import Clock, RandomBytes, system_clock, system_random
from rail402.protocol.dialect import Context, Dialect
from rail402.protocol.rail import Registry, Wallet
from rail402.rates import RateSource

__all__ = ["PAY_SECONDS", "RESERVE_LEASE", "Runtime", "Services"]

PAY_SECONDS: Final = 90
"""Seconds after which a wallet that has not answered counts as unknown."""

RESERVE_LEASE: Final = 120
"""Seconds for which nobody else touches a purchase that its wallet was asked to pay; more than `PAY_SECONDS`."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where time and randomness come from.

    Args:
        clock: returns Unix seconds.
        random_bytes: returns that many unpredictable bytes.
        sleep: waits that many seconds.
    """

    clock: Clock = system_clock
    random_bytes: RandomBytes = system_random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass(slots=True, kw_only=True)
class Services:
    """The payer's parts. `live` holds the ids of the purchases that are being worked on here."""

    wallets: Mapping[str, Wallet]
    registry: Registry
    dialects: Sequence[Dialect]
    budget: Budget
    journal: Journal
    rates: RateSource | None
    runtime: Runtime
    deadline: int
    start: Callable[[], Awaitable[None]]
    live: set[str] = field(default_factory=set)

    def now(self) -> int:
        """Return the time in Unix seconds."""
        return self.runtime.clock()

    def context(self, realm: str = "") -> Context:
        """Return what a dialect may use now."""
        return Context(specs=self.registry, now=self.now(), realm=realm)

    def dialect(self, name: str | None) -> Dialect | None:
        """Return the dialect of that name, None where it is not spoken here."""
        return next((dialect for dialect in self.dialects if dialect.name == name), None)
