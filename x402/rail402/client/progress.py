"""The steps of a call, for who watches a payer at work (`Payer.on_progress`). Pure.

No step has a secret in it. URLs are as they were asked for, and everything else is ours or the owner's but the price,
which is what would really be paid: no server words a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rail402.money import Money

__all__ = ["Asking", "OnProgress", "Paying", "Presenting", "Receiving", "Step", "Waiting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Where a call has got to.

    Attributes:
        method, url: the call's request, by which calls that run side by side are told apart.
    """

    method: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking(Step):
    """The request is sent, without a payment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paying(Step):
    """An offer is chosen and its amount reserved; now the wallet is asked to pay it.

    Attributes:
        record_id: the purchase in the journal.
        wallet: its name; rail: the one that it pays on.
        price: what is asked; total: the most that it can cost, fees included.
        is_resumed: whether this is an earlier purchase of the same, about which the wallet is asked, and no new one.
    """

    record_id: str
    wallet: str
    rail: str
    price: Money
    total: Money
    is_resumed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Presenting(Step):
    """The payment is sent to the server, which has to answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Step):
    """Nothing is sent for that many `seconds`; then the same is tried again. `why` is for people."""

    seconds: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiving(Step):
    """A piece of the answer's body has come.

    Attributes:
        received: bytes so far; expected: bytes in all, where the server says so. Both as they are sent, compressed say.
    """

    received: int
    expected: int | None


OnProgress = Callable[[Step], None]
"""Is told of every step, one after the other, while the call waits for it to return."""
