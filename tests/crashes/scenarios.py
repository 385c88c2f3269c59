"""What is sold, on which rail, in which flow, and how the handler ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, cast

__all__ = ["AWAY", "PRICES", "REAL", "SANDBOXES", "SCENARIOS", "Bank", "Ending", "Plan", "Scenario"]

Bank = Literal["base", "lightning", "stripe", "anvil", "lnd"]
Ending = Literal["whole", "stream", "fails", "raises"]
"""How a run of the handler ends: an answer of known length, one that streams, a 500, an exception."""

PRICES: Final[dict[Bank, str]] = {
    "base": "0.003 USD",
    "anvil": "0.003 USD",
    "lightning": "21 sat",
    "lnd": "21 sat",
    "stripe": "0.80 USD",
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way to sell.

    Attributes:
        bank: the rail, and whose money moves on it.
        handler: how each run of the handler ends, the last one for all that follow.
    """

    bank: Bank
    flow: str
    handler: tuple[Ending, ...] = ("whole",)

    def __str__(self) -> str:
        return f"{self.bank}-{self.flow}-{'-'.join(self.handler)}"

    @classmethod
    def parse(cls, name: str) -> Scenario:
        """The scenario of that name."""
        bank, flow, *handler = name.split("-")
        return cls(cast(Bank, bank), flow, cast("tuple[Ending, ...]", tuple(handler)))

    @property
    def never_serves(self) -> bool:
        """Whether nothing is ever sold."""
        return self.handler[-1] in ("fails", "raises")


@dataclass(frozen=True, slots=True)
class Plan:
    """Who dies when.

    Attributes:
        server, client: at which step each life of the process ends; lives after those last.
        after: seconds after which a process that died is there again; 0: at once, while the other one waits.
        clients: how many agents buy at the same time, each for itself; the first is the one that dies.
    """

    server: tuple[int, ...] = ()
    client: tuple[int, ...] = ()
    after: int = 0
    clients: int = 1

    @classmethod
    def read(cls, members: dict[str, Any]) -> Plan:
        """The plan that JSON holds."""
        lives = {name: tuple(members[name]) for name in ("server", "client")}
        return cls(**lives, after=members["after"], clients=members["clients"])

    @classmethod
    def of(cls, who: str, step: int, after: int) -> Plan:
        """The server or the client dies once."""
        return cls(server=(step,), after=after) if who == "server" else cls(client=(step,), after=after)


AWAY: Final = (0, 130, 700)
"""Seconds after which who died is there again: at once; when leases have ended; when the replay window has."""

SANDBOXES: Final = (
    Scenario("base", "authorization"),
    Scenario("base", "authorization", ("stream",)),
    Scenario("base", "authorization", ("fails", "whole")),
    Scenario("base", "upfront"),
    Scenario("base", "upfront", ("fails", "whole")),
    Scenario("lightning", "upfront"),
    Scenario("lightning", "upfront", ("raises", "stream")),
    Scenario("stripe", "escrow"),
    Scenario("stripe", "escrow", ("fails",)),
    Scenario("stripe", "upfront"),
    Scenario("stripe", "upfront", ("fails",)),
)
REAL: Final = (
    Scenario("anvil", "authorization"),
    Scenario("anvil", "upfront"),
    Scenario("lnd", "upfront"),
)
SCENARIOS: Final = SANDBOXES + REAL
