"""One purchase of the client, as its journal keeps it.

- `reserved`: the amount is reserved in the budget, and the wallet may have been asked to pay. Written **before** that.
- `presented`: the proof is in hand and in the record, and may have been sent. Written **before** it is sent.
- `unknown`: nobody works on it, and what became of the money is not known, or it is spent and was not served.
- `committed`: spent, at its true cost. `released`: definitively not spent; it counts for nothing.

The first three are open: they count in the budget, and the next request for the same order goes on with them.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from pydantic import Field

from rail402.clock import RandomBytes
from rail402.errors import Outcome
from rail402.money import Money
from rail402.protocol.base import Record
from rail402.protocol.offer import Offer
from rail402.protocol.order import Order
from rail402.protocol.receipt import Receipt

__all__ = ["OPEN", "Approve", "Purchase", "PurchaseRecord", "PurchaseState", "Quote", "new_record_id"]

_LONGEST: Final = 86_400


class PurchaseState(StrEnum):
    """Where a purchase stands."""

    RESERVED = "reserved"
    PRESENTED = "presented"
    UNKNOWN = "unknown"
    COMMITTED = "committed"
    RELEASED = "released"


OPEN = frozenset({PurchaseState.RESERVED, PurchaseState.PRESENTED, PurchaseState.UNKNOWN})
"""The states in which money may still move."""


class PurchaseRecord(Record):
    """One purchase.

    Args:
        id: `rec_` and 26 characters; errors and wallets name it.
        version: counts the writes; a write names the version it read, which fences out late processes.
        order: what is bought. A client does not know the server's route, so that is empty.
        offer: the terms that were accepted, with all that the dialect needs to present a proof again.
        wallet: the name of the wallet that pays.
        state: see above.
        reserved: the most that it can cost: price and fee ceiling.
        cost: what it did cost, once it is committed.
        proof: what the wallet returned, or has in hand. Secret.
        receipt: the server's signed receipt (compact JWS).
        refunded: what the seller gave back, as its signed `refund_receipt` says. It counts as spent all the same.
        detail: why it was released or is unknown; no secret.
        created_at: Unix seconds; lease_until: until when whoever wrote it last is trusted to be alive.
        asked_by: the wallet was asked to pay before this time, Unix seconds: that of the first write after `reserved`.
        moved: the money is known to have moved, so it counts by its time and no longer as open.
        withdrawn: it was released because the server refused it for good and the wallet took the proof back. A server
            that lies may have reserved the amount before that, so it counts in the hour and the day like money spent.
    """

    id: str
    version: int = 0
    order: Order
    offer: Offer
    wallet: str
    state: PurchaseState = PurchaseState.RESERVED
    reserved: Money
    cost: Money | None = None
    proof: Mapping[str, Any] | None = Field(default=None, repr=False)
    receipt: str | None = Field(default=None, repr=False)
    refunded: Money | None = None
    refund_receipt: str | None = Field(default=None, repr=False)
    detail: str = ""
    created_at: int
    lease_until: int
    asked_by: int | None = None
    moved: bool = False
    withdrawn: bool = False

    @property
    def is_open(self) -> bool:
        """Whether it is not resolved."""
        return self.state in OPEN

    @property
    def without_wallet(self) -> str:
        """What to say of it, and do, where its wallet is not there."""
        return (
            f"begun with the wallet {self.wallet!r}, which is not here or cannot be reached: go on with the "
            "wallets.toml and, for play money, in the folder that it was begun with"
        )

    @property
    def standing(self) -> str:
        """How it stands, for who reads the journal: its state, or `refunded`."""
        return self.state.value if self.refunded is None else "refunded"

    def valid_until(self) -> int:
        """Return from when its proof counts as too old to be taken for the first time, Unix seconds.

        That is what the offer says, counted from when the proof was made at the latest; a day at most, because a server
        must not hold an amount reserved for ever.
        """
        made_by = self.created_at if self.asked_by is None else self.asked_by
        return min(max(self.offer.expires_at, made_by + self.offer.timeout_seconds), made_by + _LONGEST)

    def changed(self, **changes: Any) -> PurchaseRecord:
        """Return the next version, with `changes`."""
        return self.model_copy(update={"version": self.version + 1, **changes})


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """What a call bought; a response has it as `response.extensions["rail402"]`.

    Attributes:
        record_id: the journal's record.
        outcome: `paid`; `unknown` where the answer is an error and no receipt says that it was paid: the amount stays
            reserved, and the same request goes on with this payment.
        price: what was asked; fee: what paying it cost on top, where the wallet knows.
        rail, dialect: how it was paid.
        receipt: the server's receipt, verified and about this purchase; None where there is none, or
            `receipt_error` says what is wrong with it.
    """

    record_id: str
    outcome: Outcome
    price: Money
    fee: Money | None
    rail: str
    dialect: str
    receipt: Receipt | None
    receipt_error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What would be paid for a request, by whom and to whom.

    Attributes:
        wallet: the name of the wallet that would pay.
        price: what is asked; total: the most that it can cost, fees included.
        offer: the offer, checked as it would be before paying: its amount, payee and network are what would be paid.
        method, url: the request.
        why: what about it the owner wants to be asked about; empty where it would be bought without asking.
    """

    wallet: str
    price: Money
    total: Money
    offer: Offer
    method: str = ""
    url: str = ""
    why: tuple[str, ...] = ()


Approve = Callable[[Quote], Awaitable[bool]]
"""Asks the owner whether to buy just what is quoted; anything but True is a no."""


def new_record_id(random_bytes: RandomBytes) -> str:
    """Return a fresh id."""
    return "rec_" + base64.b32encode(random_bytes(16)).rstrip(b"=").decode().lower()
