"""A clock that stands still, and money that is a Python object."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rail402.errors import RailUnavailable

__all__ = ["Ending", "FakeClock", "FakeLedger", "Transfer"]

Hook = Callable[[str, str], Awaitable[None]]
"""Awaited with the name of the call (`settle`, `pay`, …) and the payment's key."""


class FakeClock:
    """A clock that moves only when told. Call it for the time in Unix seconds."""

    def __init__(self, now: int = 1_800_000_000) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: int) -> int:
        """Move the clock forward, and return the new time."""
        self.now += seconds
        return self.now


class Ending(StrEnum):
    """How a scripted call ends.

    `NOT_PAID`: it did not happen, and may be tried again. `FAILED`: refused for good. `UNKNOWN_DONE`: it happened, and
    the answer is lost. `UNKNOWN_NOT_DONE`: it did not happen, and the answer is lost all the same. `PENDING`: it is
    under way until `FakeLedger.arrive`. `UNAVAILABLE`: `RailUnavailable` is raised and nothing happens.
    """

    OK = "ok"
    NOT_PAID = "not_paid"
    FAILED = "failed"
    UNKNOWN_DONE = "unknown_done"
    UNKNOWN_NOT_DONE = "unknown_not_done"
    PENDING = "pending"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Transfer:
    """Money that is held, was charged, or went back: atomic units, under the key of its proof."""

    key: str
    payer: str
    payee: str
    amount: int
    transaction: str


class FakeLedger:
    """The money of a fake rail, shared by its servers and its wallets.

    Attributes:
        held, charged, refunded: by key; a key is in one of them at most. A refund takes it out of `charged`.
        calls: the name and the key of every call, in order.
        balances: atomic units by payer; a payer who is not in it can pay anything.
        before, after: awaited inside every call: before anything happens, and when it has happened but the answer has
            not left. Pause a call there, or cancel it.
    """

    def __init__(self, balances: Mapping[str, int] | None = None) -> None:
        self.held: dict[str, Transfer] = {}
        self.charged: dict[str, Transfer] = {}
        self.refunded: dict[str, Transfer] = {}
        self.calls: list[tuple[str, str]] = []
        self.balances = dict(balances or {})
        self.before: Hook | None = None
        self.after: Hook | None = None
        self.proofs: dict[str, dict[str, Any]] = {}
        self.invoices: dict[str, Transfer] = {}
        self._pending: dict[str, Callable[[], None]] = {}
        self._scripts: defaultdict[str, deque[Ending]] = defaultdict(deque)

    def script(self, call: str, *endings: Ending) -> None:
        """Say how the next calls of that name end: `offer`, `verify`, `hold`, `settle`, `release`, `refund`, `lookup`
        of the rail, `pay` and `resume` of the wallet."""
        self._scripts[call].extend(endings)

    def count(self, call: str) -> int:
        """Return how often that call was made."""
        return sum(name == call for name, _ in self.calls)

    @property
    def charged_total(self) -> int:
        """The atomic units that were charged and not refunded."""
        return sum(transfer.amount for transfer in self.charged.values())

    def is_pending(self, key: str) -> bool:
        """Say whether something is under way with that key."""
        return key in self._pending

    def arrive(self, key: str) -> None:
        """Let what is pending under that key happen."""
        self._pending.pop(key)()

    async def call(self, name: str, key: str, move: Callable[[], None] | None = None) -> Ending:
        """Make a call that moves money by `move`, and return how it ended.

        Raises:
            RailUnavailable: it was scripted so; nothing happened.
        """
        self.calls.append((name, key))
        script = self._scripts[name]
        ending = script.popleft() if script else Ending.OK
        if self.before is not None:
            await self.before(name, key)
        if ending is Ending.UNAVAILABLE:
            raise RailUnavailable(f"the fake rail is scripted to be down for {name}")
        if move is not None and ending in (Ending.OK, Ending.UNKNOWN_DONE):
            move()
        elif move is not None and ending is Ending.PENDING:
            self._pending[key] = move
        if self.after is not None:
            await self.after(name, key)
        return ending

    def covers(self, payer: str, amount: int) -> bool:
        """Say whether the payer has that much."""
        return payer not in self.balances or self.balances[payer] >= amount

    def hold(self, transfer: Transfer) -> None:
        """Reserve the amount; once per key."""
        if transfer.key not in self.held and transfer.key not in self.charged:
            self._debit(transfer.payer, transfer.amount)
            self.held[transfer.key] = transfer

    def charge(self, transfer: Transfer) -> None:
        """Take the amount, from the hold where there is one, whose rest goes back; once per key."""
        if transfer.key in self.charged or transfer.key in self.refunded:
            return
        held = self.held.pop(transfer.key, None)
        self._debit(transfer.payer, transfer.amount - (held.amount if held else 0))
        self.charged[transfer.key] = transfer

    def release(self, key: str) -> None:
        """Give back what is held."""
        if transfer := self.held.pop(key, None):
            self._debit(transfer.payer, -transfer.amount)

    def refund(self, key: str) -> None:
        """Give back what was charged; once per key."""
        if transfer := self.charged.pop(key, None):
            self._debit(transfer.payer, -transfer.amount)
            self.refunded[key] = transfer

    def _debit(self, payer: str, amount: int) -> None:
        if payer in self.balances:
            self.balances[payer] -= amount
