"""What is sold, on which rail, in which flow, and how the handler ends."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, cast, get_args

__all__ = [
    "ALONE",
    "AWAY",
    "EACH_STEP",
    "PASS_VALID",
    "PRICES",
    "REAL",
    "SANDBOXES",
    "SCENARIOS",
    "WINDOW",
    "Bank",
    "Ending",
    "Plan",
    "Scenario",
    "Via",
]

Bank = Literal[
    "base", "transfer", "lightning", "stripe", "prepared", "anvil", "anvil_transfer", "facilitator", "lnd", "lnbits"
]
Ending = Literal["whole", "stream", "fails", "raises"]
"""How a run of the handler ends: an answer of known length, one that streams, a 500, an exception. A tool does not
stream, and where it `fails` it says so itself."""

Via = Literal["http", "mcp"]
"""How the goods are asked for: by a request for them, or by a call of a tool."""

PRICES: Final[dict[Bank, str]] = {
    "base": "0.003 USD",
    "transfer": "0.003 USD",
    "anvil_transfer": "0.003 USD",
    "anvil": "0.003 USD",
    "facilitator": "0.003 USD",
    "lightning": "21 sat",
    "lnd": "21 sat",
    "lnbits": "21 sat",
    "stripe": "0.80 USD",
    "prepared": "0.80 USD",
}

WINDOW: Final = 600
"""Seconds for which a shop keeps an answer for who paid, unless it says otherwise."""

PASS_VALID: Final = "1d"
"""For how long a pass is good."""

_SERVICES: Final[dict[str, set[str]]] = {
    "anvil": {"anvil"},
    "anvil_transfer": {"anvil"},
    "facilitator": {"anvil"},
    "lnd": {"lnd"},
    "lnbits": {"lnd", "lnbits"},
    "postgres": {"postgres"},
}
ALONE: Final = {"anvil", "anvil_transfer", "facilitator", "lnd", "lnbits"}
"""The banks on which one run at a time can be: their time and their balances are one."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way to sell.

    Attributes:
        bank: the rail, and whose money moves on it.
        handler: how each run of the handler ends, the last one for all that follow.
        uses: for how many requests one payment is good; more than one make a pass.
        store: where the shop keeps its charges, and its relayer what it has signed.
        via: how the goods are asked for; a tool is sold here without passes.
    """

    bank: Bank
    flow: str
    handler: tuple[Ending, ...] = ("whole",)
    uses: int = 1
    store: str = "sqlite"
    via: Via = "http"

    def __str__(self) -> str:
        more = [f"x{self.uses}"] if self.uses > 1 else []
        more += [self.store] if self.store != "sqlite" else []
        more += [self.via] if self.via != "http" else []
        return "-".join([self.bank, self.flow, *self.handler, *more])

    @classmethod
    def parse(cls, name: str) -> Scenario:
        """The scenario of that name."""
        bank, flow, *rest = name.split("-")
        handler = cast("tuple[Ending, ...]", tuple(word for word in rest if word in get_args(Ending)))
        uses = next((int(word[1:]) for word in rest if word[1:].isdigit()), 1)
        store, via = "postgres" if "postgres" in rest else "sqlite", cast(Via, "mcp" if "mcp" in rest else "http")
        return cls(cast(Bank, bank), flow, handler, uses, store, via)

    @property
    def services(self) -> set[str]:
        """The real services that it needs."""
        return _SERVICES.get(self.bank, set()) | _SERVICES.get(self.store, set())

    @property
    def who(self) -> dict[str, str]:
        """Who may die, each with the name of its process."""
        others = {"facilitator": "facilitator"} if self.bank == "facilitator" else {}
        return {"server": "server", "client": "client-0"} | others

    def is_stuck(self, away: int) -> bool:
        """Whether nothing can be bought anew after so many seconds: the time of an lnd cannot be moved, and its
        invoices are too old then."""
        return self.bank in ("lnd", "lnbits") and away > WINDOW

    @property
    def is_fetched(self) -> bool:
        """Whether a refund goes nowhere until its payer says where to."""
        return self.never_serves and self.bank in ("lnd", "lnbits")

    @property
    def never_serves(self) -> bool:
        """Whether nothing is ever sold."""
        return self.handler[-1] in ("fails", "raises")


@dataclass(frozen=True, slots=True)
class Plan:
    """Who dies when.

    Attributes:
        server, client, facilitator: at which step each life of the process ends; lives after those last.
        after: seconds after which a process that died is there again; 0: at once, while the other one waits.
        clients: how many agents buy at the same time, each for itself; the first is the one that dies.
    """

    server: tuple[int, ...] = ()
    client: tuple[int, ...] = ()
    facilitator: tuple[int, ...] = ()
    after: int = 0
    clients: int = 1

    @classmethod
    def read(cls, members: dict[str, Any]) -> Plan:
        """The plan that JSON holds."""
        lives = {name: tuple(members[name]) for name in ("server", "client", "facilitator")}
        return cls(**lives, after=members["after"], clients=members["clients"])

    @classmethod
    def of(cls, who: str, step: int, after: int) -> Plan:
        """One of them dies once."""
        return cls.read(asdict(cls(after=after)) | {who: (step,)})


AWAY: Final = (0, 130, 700)
"""Seconds after which who died is there again: at once; when leases have ended; when the replay window has."""

EACH_STEP: Final = (
    Scenario("base", "authorization"),
    Scenario("base", "upfront", ("fails", "whole")),
    Scenario("lightning", "upfront"),
    Scenario("stripe", "escrow"),
)
"""A rail for each flow; `make test` kills at each of their steps, and at a few of all others."""

SANDBOXES: Final = (
    *EACH_STEP,
    Scenario("base", "authorization", ("stream",)),
    Scenario("base", "authorization", ("fails", "whole")),
    Scenario("base", "upfront"),
    Scenario("lightning", "upfront", ("raises", "stream")),
    Scenario("stripe", "escrow", ("fails",)),
    Scenario("stripe", "upfront"),
    Scenario("stripe", "upfront", ("fails",)),
    Scenario("base", "upfront", ("fails",)),
    Scenario("base", "authorization", ("whole", "fails", "whole"), uses=3),
    Scenario("lightning", "upfront", ("whole", "raises", "whole"), uses=3),
    Scenario("stripe", "escrow", ("stream",), uses=3),
    Scenario("transfer", "upfront"),
    Scenario("transfer", "upfront", ("fails",)),
    Scenario("prepared", "escrow"),
    Scenario("prepared", "upfront"),
    Scenario("prepared", "upfront", ("fails",)),
    Scenario("base", "authorization", via="mcp"),
    Scenario("lightning", "upfront", via="mcp"),
    Scenario("stripe", "escrow", ("fails",), via="mcp"),
    Scenario("base", "upfront", ("fails", "whole"), via="mcp"),
)

REAL: Final = (
    Scenario("anvil", "authorization"),
    Scenario("anvil", "upfront"),
    Scenario("anvil", "upfront", ("fails",)),
    Scenario("anvil_transfer", "upfront"),
    Scenario("facilitator", "authorization"),
    Scenario("facilitator", "upfront"),
    Scenario("facilitator", "upfront", ("fails", "whole")),
    Scenario("lnd", "upfront"),
    Scenario("lnd", "upfront", ("fails",)),
    Scenario("lnbits", "upfront"),
    Scenario("lnbits", "upfront", ("fails",)),
    Scenario("anvil", "authorization", store="postgres"),
    Scenario("base", "authorization", store="postgres"),
    Scenario("lightning", "upfront", store="postgres"),
    Scenario("stripe", "escrow", store="postgres"),
    Scenario("base", "authorization", ("whole", "fails", "whole"), uses=3, store="postgres"),
)
SCENARIOS: Final = SANDBOXES + REAL
