"""What both versions of x402 share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rail402.errors import REASONS
from rail402.protocol.charge import Charge, PaymentState

__all__ = ["MAX_SECONDS", "outcome_of"]

MAX_SECONDS: Final = 2**31 - 1

_FAILED: Final[Mapping[PaymentState, str]] = {
    PaymentState.REJECTED: "payment_declined",
    PaymentState.UNKNOWN: "outcome_unknown",
}
"""Settlements that did not succeed, with the reason where the charge names none."""


def outcome_of(charge: Charge, network: str) -> dict[str, Any] | None:
    """Return the SettleResponse (core specification, section 5.3); None where no settlement was tried.

    Args:
        network: its name as the client wrote it.
    """
    settled = charge.payment is PaymentState.SETTLED
    if not settled and charge.payment not in _FAILED:
        return None
    outcome: dict[str, Any] = {"success": settled}
    if not settled:
        outcome["errorReason"] = REASONS[charge.code or _FAILED[charge.payment]].x402
    if charge.payer is not None:
        outcome["payer"] = charge.payer
    return outcome | {"transaction": charge.transaction or "", "network": network}
