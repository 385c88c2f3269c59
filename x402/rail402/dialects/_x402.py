"""What both versions of x402 share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rail402.errors import REASONS
from rail402.protocol.charge import Charge, PaymentState
from rail402.protocol.dialect import Context

__all__ = ["MAX_SECONDS", "outcome_of", "word_of"]

MAX_SECONDS: Final = 2**31 - 1

_FAILED: Final[Mapping[PaymentState, str]] = {
    PaymentState.REJECTED: "payment_declined",
    PaymentState.UNKNOWN: "outcome_unknown",
}
"""Settlements that did not succeed, with the reason where the charge names none."""


def word_of(code: str, rail: str, dialect: str, context: Context) -> str:
    """Return x402's word for a reason code: the rail's own where it has one."""
    return context.specs.word(rail, dialect, code) or REASONS[code].x402


def outcome_of(charge: Charge, network: str, dialect: str, context: Context) -> dict[str, Any] | None:
    """Return the SettleResponse (core specification, section 5.3); None where no settlement was tried.

    Where it is not known whether it succeeded, this says `settlement_pending`, and the transaction if one was sent.

    Args:
        network: its name as the client wrote it.
        dialect: the dialect that asks.
    """
    settled = charge.payment is PaymentState.SETTLED
    if not settled and charge.payment not in _FAILED:
        return None
    outcome: dict[str, Any] = {"success": settled}
    if not settled:
        code = charge.code or _FAILED[charge.payment]
        outcome["errorReason"] = word_of(code, charge.offer.rail, dialect, context)
    if charge.payer is not None:
        outcome["payer"] = charge.payer
    transaction = charge.transaction or charge.rail_state.get("transaction") or ""
    return outcome | {"transaction": str(transaction), "network": network}
