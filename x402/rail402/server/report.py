"""What the reconciler says of its work: how much it closed, and what it could not close and why."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import asdict, dataclass
from typing import Any

from rail402.protocol.charge import IN_FLIGHT, Charge, Delivery, Operation, PaymentState

__all__ = ["OpenCharge", "Report", "is_open", "is_waiting", "open_charge", "open_since"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCharge:
    """A charge that stays open.

    Attributes:
        charge: its id; rail, network: where its money is.
        operation: what is not known to have been done: `hold`, `settle`, `release`, `refund`; `held`: the amount is
            reserved, and neither taken nor given free.
        since: Unix seconds.
        looks: how often the rail was asked in vain; last_word: what it said last.
        next_look_at: when it is looked at again, Unix seconds.
        advice: what to do.
    """

    charge: str
    rail: str
    network: str
    operation: str
    since: int
    looks: int
    last_word: str
    next_look_at: int
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run of the reconciler did.

    Attributes:
        looked_at: how many charges were looked at; closed: how many of them are closed.
        open: those of them that stay open, and those of other gates that no gate looks at.
    """

    looked_at: int
    closed: int
    open: tuple[OpenCharge, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"looked_at": self.looked_at, "closed": self.closed, "open": [asdict(each) for each in self.open]}


def is_open(charge: Charge) -> bool:
    """Whether it is not decided what became of its money."""
    return charge.payment in (PaymentState.UNKNOWN, PaymentState.HELD) or charge.payment in IN_FLIGHT


def is_waiting(charge: Charge) -> bool:
    """Whether an open charge waits for its next look only, and no worker is at it."""
    if charge.delivery is Delivery.RUNNING:
        return False
    return charge.payment is PaymentState.UNKNOWN or (charge.payment is PaymentState.HELD and charge.looks > 0)


def open_since(charge: Charge) -> int:
    """Return since when it is open, Unix seconds: a refund since it was first asked for, all else since its claim."""
    asked_at = charge.refund_asked_at or charge.asked_at
    return (charge.operation is Operation.REFUND and asked_at) or charge.created_at


def open_charge(charge: Charge, rails: Container[str], public_url: str) -> OpenCharge:
    """Describe a charge that is open, to a gate with these rails and this URL."""
    return OpenCharge(
        charge=charge.id,
        rail=charge.offer.rail,
        network=charge.offer.network,
        operation=charge.payment.value if charge.operation is None else charge.operation.value,
        since=open_since(charge),
        looks=charge.looks,
        last_word=charge.last_word,
        next_look_at=charge.lease_until,
        advice=_advice(charge, rails, public_url),
    )


def _advice(charge: Charge, rails: Container[str], public_url: str) -> str:
    rail, sold_at = charge.offer.rail, charge.order.origin
    if sold_at != public_url:
        return f"run a gate with the public_url {sold_at} and the rail {rail} on this store until this charge is closed"
    if rail not in rails:
        return f"put the rail {rail} back into the gate until this charge is closed"
    match charge.operation:
        case None:
            return f"see in the log why {rail} neither takes nor releases what is held; nothing is lost meanwhile"
        case Operation.REFUND:
            return f"look at {rail} whether it has gone back; give nothing back by hand before this charge is closed"
        case Operation.RELEASE:
            return f"see that {rail} can be reached; a reservation that is not released ends by itself there"
        case _:
            return f"see that {rail} can be reached, and look there for the payment; the payer is asked to wait"
