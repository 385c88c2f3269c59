"""What a store does: a few verbs, each with its atomicity stated. Everything that workers share sits behind them.

A store holds charges (found by any consumption key), their stored responses, issued rows, and a handful of settings
that workers must agree on, who leads them, and the token buckets that limit what all of them let through. Every verb is
one transaction; a verb that returns has made its change durable (a bucket's may be lost with the power).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from rail402.errors import ConfigurationError
from rail402.protocol.base import Record
from rail402.protocol.charge import Charge
from rail402.protocol.payment import ConsumptionKey
from rail402.stores.wakeups import Wakeups

__all__ = ["Claim", "Issued", "Store", "StoredResponse", "TokenBucket", "nanoseconds"]

_SECOND: Final = 10**9
_YEARS_30: Final = 10**9


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to a claim: `charge` is ours where `won`, else the one that holds a key already."""

    won: bool
    charge: Charge


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response exactly as it was sent.

    Attributes:
        status: the HTTP status code.
        fields: the raw header lines, duplicates kept, without connection-level ones.
        body: the whole body.
    """

    status: int
    fields: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = field(default=b"", repr=False)


class Issued(Record):
    """An unpaid invoice that must be recognised when it comes back paid.

    Args:
        key: the consumption key of the payment: `<network>:<payment hash>`.
        order_digest: the order it was issued for.
        offer: canonical JSON of the offer, as the rail wants it back.
        expires_at: Unix seconds; the row is kept for an hour more.
    """

    key: ConsumptionKey
    order_digest: str
    offer: str
    expires_at: int


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """How many tokens there are: `burst` at first and at most, and `rate` new ones a second.

    All that is stored of a bucket is when it will be full again, in whole nanoseconds of Unix time; each token that is
    taken moves that time by `token_ns`. So nothing is ever rounded twice, and no clock that goes back makes tokens.

    Args:
        rate: tokens a second, more than 0.
        burst: tokens, at least 1.

    Raises:
        ConfigurationError: one is out of range, or the bucket would take more than 30 years (10^9 s) to fill.
    """

    rate: float
    burst: int

    def __post_init__(self) -> None:
        if not 1 / _YEARS_30 <= self.rate < math.inf or not 0 < self.burst * self.token_ns <= _YEARS_30 * _SECOND:
            raise ConfigurationError(f"{self} has no rate above 0, no burst of 1 or more, or takes 30 years to fill")

    @property
    def token_ns(self) -> int:
        """How long one token takes to come, in nanoseconds, rounded up."""
        return math.ceil(_SECOND / self.rate)

    def take(self, full_at: int, tokens: int, *, now: float) -> tuple[int, int]:
        """Take up to `tokens` tokens from a bucket that is full at `full_at` (nanoseconds); 0 is a full one.

        Returns:
            How many were taken, and when it is full now.
        """
        now_ns = nanoseconds(now)
        full_at = max(full_at, now_ns)
        there = self.burst - -(-(full_at - now_ns) // self.token_ns)
        taken = max(0, min(tokens, there))
        return taken, full_at + taken * self.token_ns


def nanoseconds(now: float) -> int:
    """Return a time in Unix seconds as a whole number of nanoseconds."""
    return int(now * _SECOND)


class Store(ABC):
    """A durable store. All methods raise `StoreError` where it cannot be reached.

    Attributes:
        wakeups: who waits in this process for which charge, so that others can wake them; None where none write to it.
    """

    wakeups: Wakeups | None = None

    async def start(self) -> None:
        """Open it, and bring its schema up to date."""

    async def close(self) -> None:
        """Close it; what was returned before stays durable."""

    # --- charges

    @abstractmethod
    async def claim(self, charge: Charge) -> Claim:
        """Insert `charge` with all of its keys, or return the charge that holds any of them.

        Atomic: of many claims that share a key, in any number of processes, exactly one is won.
        """

    @abstractmethod
    async def save(self, charge: Charge, *, response: StoredResponse | None = None, slot: str = "") -> Charge:
        """Write `charge` if its `version` is still the stored one; return it with the next version.

        Keys that it gained are claimed and `response`, where given, is stored under `slot`, in the same transaction.
        `uses_taken` is left as it is stored: it belongs to `take_use` and `return_use`.

        Raises:
            StaleCharge: somebody else wrote it since; nothing was changed.
            KeyTaken: a new key belongs to another charge; nothing was changed.
        """

    @abstractmethod
    async def find(self, keys: Iterable[ConsumptionKey]) -> Charge | None:
        """Return the charge that holds any of `keys`."""

    @abstractmethod
    async def get(self, charge_id: str) -> Charge | None:
        """Return the charge of that id."""

    @abstractmethod
    async def response(self, charge_id: str, slot: str = "") -> StoredResponse | None:
        """Return the response stored under `slot` (an `Idempotency-Key` of a pass, or `""`)."""

    @abstractmethod
    async def wait(self, charge: Charge, *, timeout: float) -> Charge | None:
        """Wait, `timeout` seconds at most, until the stored version is not `charge.version`; return it."""

    @abstractmethod
    async def unresolved(
        self, *, now: int, limit: int, rails: Collection[str] | None = None, origin: str | None = None
    ) -> Sequence[Charge]:
        """Return charges whose lease lapsed at `now` and whose payment is under way, held, claimed or unknown,
        or whose delivery is running; oldest lease first. What this version cannot read is logged and passed over.

        Args:
            limit: how many at most.
            rails: only charges on these rails; None for any.
            origin: only charges of orders whose URL is below it, such as `https://api.example.com`; None for any.
        """

    @abstractmethod
    async def recent(self, *, limit: int, before: str | None = None) -> Sequence[Charge]:
        """Return charges, newest first; `before` is the id to go on from. What this version cannot read is logged and
        passed over."""

    # --- passes

    @abstractmethod
    async def take_use(self, charge_id: str, use: str, *, now: int, lease_until: int, slot: str = "") -> Charge | None:
        """Take one use of a settled pass; None where none is left. Atomic: uses taken never exceed `uses`.

        Uses that are under way and whose lease has lapsed at `now` come back first: their workers are gone. The version
        stays, so that uses side by side do not disturb each other's deliveries.

        Args:
            use: a name of its own, by which it is under way until it is returned, ended or lapsed.
            slot: where its response is to be kept, if anywhere.

        Raises:
            KeyTaken: a use with that slot is under way, or its response is stored.
        """

    @abstractmethod
    async def renew_use(self, charge_id: str, use: str, *, lease_until: int) -> bool:
        """Extend the lease of a use that is under way; say whether it is."""

    @abstractmethod
    async def return_use(self, charge_id: str, use: str) -> None:
        """Give back a use that is under way (its handler failed); any other stays as it is."""

    @abstractmethod
    async def end_use(self, charge_id: str, use: str, *, response: StoredResponse | None = None) -> bool:
        """Count a use that is under way as served, and store its response in its slot, if it has one; say whether it
        was under way. One that has come back meanwhile is somebody else's by now."""

    # --- issued rows

    @abstractmethod
    async def issue(self, issued: Issued, *, now: int, capacity: int) -> bool:
        """Insert the row unless `capacity` rows are there that have not expired; nothing is evicted for it."""

    @abstractmethod
    async def issued(self, key: ConsumptionKey) -> Issued | None:
        """Return the row of that key."""

    # --- between workers

    @abstractmethod
    async def lead(self, name: str, holder: str, *, now: int, seconds: int) -> bool:
        """Become or stay the leader called `name` until `now + seconds`; say whether `holder` is it.

        Atomic: at any time one holder leads. False while another's time has not lapsed. The leader resigns with
        `seconds=0`.
        """

    @abstractmethod
    async def spend(self, bucket: str, tokens: int, limit: TokenBucket, *, now: float) -> int:
        """Take up to `tokens` tokens from the bucket of that name; return how many were taken (0: none was there).

        Atomic: all workers share the bucket. `now` in Unix seconds. A bucket nobody used is full.
        """

    # --- housekeeping

    @abstractmethod
    async def remember(self, name: str, value: str) -> str:
        """Return the setting `name`, setting it to `value` if it is not there. Atomic: all workers get one value."""

    @abstractmethod
    async def prune(self, *, before: int, now: int) -> int:
        """Delete finished charges created, valid and leased before `before`, issued rows expired an hour before `now`,
        leaderships that have lapsed and buckets that are full again; return how many rows went. Charges that are under
        way, unknown or held stay whatever their age."""
