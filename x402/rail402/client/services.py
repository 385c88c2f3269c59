"""What every purchase of a payer shares: the wallets, the journal, the budget, the clock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rail402.client.budget import Budget
from rail402.client.journal import Journal
from rail402.client.preference import Preference
from rail402.client.progress import OnProgress, Step
from rail402.client.records import Approve
from rail402.clock import Clock, RandomBytes
from rail402.protocol.dialect import Context, Dialect
from rail402.protocol.offer import Offer
from rail402.protocol.rail import Registry, Wallet
from rail402.rates import RateSource

__all__ = ["PAY_SECONDS", "RESERVE_LEASE", "Ask", "Services"]

Ask = Callable[[str, Offer], Awaitable[None]]
"""Has a person act at a URL, so that the offer is paid; returns when that is done, or given up."""

PAY_SECONDS: Final = 90
"""Seconds after which a wallet that has not answered counts as unknown."""

RESERVE_LEASE: Final = 120
"""Seconds for which nobody else touches a purchase that its wallet was asked to pay; more than `PAY_SECONDS`."""


@dataclass(slots=True, kw_only=True)
class Services:
    """The payer's parts.

    Attributes:
        wallets: those that have started, by name, in the owner's order.
        sleep: waits that many seconds.
        start: opens what is not open yet.
        on_action, approve, on_progress: see `Payer`.
        file_limits: the limits as a configuration file has them: where they are looser than those confirmed last,
            nothing is bought. None: the budget is not a file's.
        preferences: in which order wallets are asked, where it is not that of `wallets`.
        live: the ids of the purchases that are being worked on here.
    """

    wallets: Mapping[str, Wallet]
    registry: Registry
    dialects: Sequence[Dialect]
    budget: Budget
    journal: Journal
    rates: RateSource | None
    clock: Clock
    random_bytes: RandomBytes
    sleep: Callable[[float], Awaitable[None]]
    deadline: int
    start: Callable[[], Awaitable[None]]
    on_action: Ask | None = None
    approve: Approve | None = None
    on_progress: OnProgress | None = None
    file_limits: Budget | None = None
    preferences: Sequence[Preference] = ()
    live: set[str] = field(default_factory=set)

    def now(self) -> int:
        """Return the time in Unix seconds."""
        return self.clock()

    def tell(self, step: Step) -> None:
        """Tell who watches of a step."""
        if self.on_progress is not None:
            self.on_progress(step)

    def context(self, realm: str = "") -> Context:
        """Return what a dialect may use now."""
        return Context(specs=self.registry, now=self.now(), realm=realm)

    def dialect(self, name: str | None) -> Dialect | None:
        """Return the dialect of that name, None where it is not spoken here."""
        return next((dialect for dialect in self.dialects if dialect.name == name), None)
