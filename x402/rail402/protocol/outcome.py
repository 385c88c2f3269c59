"""What rails and wallets answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rail402.money import Money
from rail402.protocol.base import Json
from rail402.protocol.payment import ConsumptionKey

__all__ = [
    "Cost",
    "Failed",
    "Held",
    "NotPaid",
    "Observation",
    "Paid",
    "Pending",
    "Refunded",
    "Released",
    "Settled",
    "Unknown",
    "Verified",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A proof that stands by itself: who pays, which keys it uses up, and what a later lookup needs (no secrets).

    `is_payer` says that whoever presents it has proven to be `payer`, by something that others cannot copy from where
    payments are public. It replays what was stored, also for a payment that came without a token.

    `came_before` says that the money is there already, because somebody else handed the payment in. Who keeps a record
    of all payments to a payee knows that none of them was this one; a facilitator does not.

    Where only `PaymentRail.verify` can say whether a proof is good (a contract's signature), `state` has its SHA-256 as
    `proof_digest`. It is nothing to go by before; afterwards the charge keeps it (`Charge.takes_proof`).
    """

    keys: frozenset[ConsumptionKey]
    payer: str | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    is_payer: bool = False
    came_before: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The amount is reserved at the rail; `state` and `keys` are added to the charge."""

    state: Mapping[str, Any] = field(default_factory=dict)
    keys: frozenset[ConsumptionKey] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The money is ours.

    Attributes:
        transaction: the rail's reference.
        at: when the rail says it settled, Unix seconds, where it says so.
    """

    transaction: str
    at: int | None = None
    payer: str | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    keys: frozenset[ConsumptionKey] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """Nothing is reserved (any more)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refunded:
    """The money went back.

    Attributes:
        transaction: the rail's reference of the way back, where it has one.
    """

    transaction: str | None = None
    state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """Under way: neither done nor failed. Look again after `retry_after` seconds."""

    retry_after: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class NotPaid:
    """It did not happen and never will by what was sent: the payment counts as released and may be tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Refused, definitively. `code` is a reason code, `detail` a sentence without secrets."""

    code: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """No answer that can be believed. Only a lookup may decide; `state` is added to the charge for it."""

    detail: str = ""
    state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paid:
    """What a wallet found: this payment went through (or is a valid proof that may be presented again).

    Attributes:
        fee: what it did cost on top, where that is known.
        moved: the money has left the wallet for certain. Where it is False, the proof may not have been used yet.
    """

    payload: Json = field(repr=False)
    fee: Money | None = None
    moved: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What paying an offer would cost: the price and the most that the rail may charge on top."""

    price: Money
    fee_ceiling: Money | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """What a wallet finds about itself before it pays: text for its owner, without secrets.

    Attributes:
        says: what was found.
        fix: what to do about it; empty where it is as it should be.
        time: what time its service says it is, Unix seconds, where it says so.
    """

    says: str
    fix: str = ""
    time: int | None = None
