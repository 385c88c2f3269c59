"""What a store does: a few verbs, each with its atomicity stated. Everything that workers share sits behind them.

A store holds charges (found by any consumption key), their stored responses, issued rows, and a handful of settings
that workers must agree on. Every verb is one transaction; a verb that returns has made its change durable.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rail402.protocol.base import Record
from rail402.protocol.charge import Charge
from rail402.protocol.payment import ConsumptionKey

__all__ = ["Claim", "Issued", "Store", "StoredResponse"]


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


class Store(ABC):
    """A durable store. All methods raise `StoreError` where it cannot be reached."""

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
    async def unresolved(self, *, now: int, limit: int) -> Sequence[Charge]:
        """Return charges whose lease lapsed at `now` and whose payment is under way, held, claimed or unknown,
        or whose delivery is running; oldest lease first."""

    @abstractmethod
    async def recent(self, *, limit: int, before: str | None = None) -> Sequence[Charge]:
        """Return charges, newest first; `before` is the id to go on from."""

    # --- passes

    @abstractmethod
    async def take_use(self, charge_id: str) -> Charge | None:
        """Take one use of a settled pass; None where none is left. Atomic: uses taken never exceed `uses`.

        The version stays, so that uses side by side do not disturb each other's deliveries.
        """

    @abstractmethod
    async def return_use(self, charge_id: str) -> None:
        """Give a use back (its handler failed)."""

    @abstractmethod
    async def keep_use(self, charge_id: str, slot: str, response: StoredResponse) -> bool:
        """Store the response of one use under `slot`, if nothing is there; say whether it was stored."""

    # --- issued rows

    @abstractmethod
    async def issue(self, issued: Issued, *, now: int, capacity: int) -> bool:
        """Insert the row unless `capacity` rows are there that have not expired; nothing is evicted for it."""

    @abstractmethod
    async def issued(self, key: ConsumptionKey) -> Issued | None:
        """Return the row of that key."""

    # --- housekeeping

    @abstractmethod
    async def remember(self, name: str, value: str) -> str:
        """Return the setting `name`, setting it to `value` if it is not there. Atomic: all workers get one value."""

    @abstractmethod
    async def prune(self, *, before: int, now: int) -> int:
        """Delete finished charges created, valid and leased before `before`, and issued rows expired an hour before
        `now`; return how many rows went. Charges that are under way, unknown or held stay whatever their age."""
