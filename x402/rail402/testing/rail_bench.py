"""What a rail brings to the conformance kits: itself, its wallet, both sides' books, and how its backend fails."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

from rail402.clock import Clock
from rail402.money import Money
from rail402.protocol.base import Json
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.offer import Flow, Mechanism, Offer
from rail402.protocol.rail import PaymentRail, Wallet
from rail402.testing.fake_ledger import FakeClock

__all__ = ["Books", "RailBench", "Way", "texts_in"]


class Way(NamedTuple):
    """One way in which a rail is paid: a mechanism's name and a flow."""

    mechanism: str
    flow: Flow

    def __str__(self) -> str:
        return f"{self.mechanism}-{self.flow}"

    def of(self, rail: PaymentRail) -> Mechanism:
        """Return the rail's first mechanism of that name."""
        return next(each for each in rail.spec.mechanisms if each.name == self.mechanism)


class RailBench(ABC):
    """A rail and a wallet that pays it, on a sandbox of their own. The kit starts and closes both.

    `payer_has` and `payee_has` are the two books, as the sandbox itself keeps them: a rail's own word about its money
    proves nothing. All else that can be overridden says how to bring about what a case is about; a case that needs
    what the bench cannot do is skipped.

    Attributes:
        rail: the server side.
        wallet: pays the rail's offers, and has enough money for a few hundred of them.
        clock: what both go by.
        amount: atomic units that the cases ask for. Three times that must be payable, and a half of it too.
        too_little: an amount for which the rail makes no offer; None where every amount is served.
        sandbox: whether only play money moves.
    """

    rail: PaymentRail
    wallet: Wallet
    clock: Clock
    amount: int = 3000
    too_little: int | None = None
    sandbox: bool = True

    @abstractmethod
    async def payer_has(self) -> int:
        """Return what the wallet's account has, in atomic units of the rail's asset."""

    @abstractmethod
    async def payee_has(self) -> int:
        """Return what the rail's account has, likewise."""

    async def close(self) -> None:
        """Close what the bench opened beside its rail and its wallet."""

    # --- time

    @property
    def is_real_time(self) -> bool:
        """Whether nobody can move the clock: what takes long is not waited for."""
        return not isinstance(self.clock, FakeClock)

    async def pass_time(self, seconds: int) -> None:
        """Let so many seconds pass; a moment where the time is real."""
        if isinstance(self.clock, FakeClock):
            self.clock.advance(seconds)
        else:
            await asyncio.sleep(min(seconds, 1))

    # --- what goes wrong at the rail

    def unreachable(self) -> AbstractContextManager[None] | None:
        """Return a context in which the rail's backend answers nothing; None where that cannot be done."""
        return None

    async def lose_answer(self, charge: Charge, operation: Operation, *, done: bool) -> bool:
        """Have the backend's answer get lost to the call that `operation` on `charge` makes next.

        Args:
            done: whether what is asked for happens all the same.

        Returns:
            Whether that can be done.
        """
        return False

    async def unpaid(self, offer: Offer) -> Json | None:
        """Return a proof for `offer`, in the right form, with which nothing was paid; None where there is no such."""
        return None

    # --- what goes wrong at the wallet

    def next_wallet(self) -> Wallet | None:
        """Return the wallet as the next process would make it, on the same money; None where that cannot be done."""
        return None

    async def poor_wallet(self) -> Wallet | None:
        """Return a wallet that has no money, ready for use; None where there is no such."""
        return None

    async def lose_payment(self, *, done: bool) -> bool:
        """Have the answer to the wallet's next payment get lost; see `lose_answer`."""
        return False

    def lies(self, offer: Offer) -> Iterable[tuple[str, Offer]]:
        """Yield what else a server could lie about in `offer` that its payer can see, each with what it is."""
        return ()

    # --- secrets

    def secrets(self, payload: Json) -> Iterable[str]:
        """Return what must show up nowhere once a payment was made with `payload`.

        That is every key of the rail's and of the wallet's, and what in a proof nobody else may know. Unless this is
        overridden, it is the texts of proofs that replay by themselves (`bare_replay`), and no keys. The cases about
        secrets are skipped where it is nothing.
        """
        return texts_in(payload) if self.rail.spec.bare_replay else ()


def texts_in(value: Any) -> Iterator[str]:
    """Yield the texts of a JSON value that are long enough to be a secret."""
    if isinstance(value, str) and len(value) >= 8:
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from texts_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from texts_in(each)


@dataclass(frozen=True, slots=True)
class Books:
    """Both books at one moment; what has moved since is counted against them."""

    bench: RailBench
    payer: int
    payee: int

    @classmethod
    async def open(cls, bench: RailBench) -> Books:
        """Read both books."""
        return cls(bench, await bench.payer_has(), await bench.payee_has())

    async def moved(self) -> tuple[int, int]:
        """Return what the payer has spent since, and what the payee has got."""
        return self.payer - await self.bench.payer_has(), await self.bench.payee_has() - self.payee

    async def assert_moved(self, amount: int, fee: Money | None = None) -> None:
        """Assert that the payee has got `amount` since, and that the payer has spent that and the fee.

        Args:
            fee: what the wallet says that it paid on top.
        """
        spent, received = await self.moved()
        owed = amount + self.in_units(fee)
        assert (spent, received) == (owed, amount), (
            f"the payer must have spent {owed} and the payee received {amount}; they have {spent} and {received}"
        )

    def in_units(self, fee: Money | None) -> int:
        """Return a wallet's fee in atomic units of the rail."""
        return 0 if fee is None else fee.to_atomic(self.bench.rail.spec.mechanisms[0].exponent)
