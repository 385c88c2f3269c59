"""HTTP 402 on any payment rail: a 402 that anyone can pay, and a client that can pay any 402.

The names below load on first use, so that `import rail402` needs nothing that is not installed: `Gate` wants the extra
`server`, rails are packages of their own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rail402.client.budget import Budget
    from rail402.client.fetch import fetch, fetch_sync
    from rail402.client.journal import Journal
    from rail402.client.payer import Payer
    from rail402.errors import (
        AdministrativePaymentRequired,
        BudgetExceeded,
        ConfigurationError,
        GateNotInstalled,
        MalformedInput,
        NoUsableOffer,
        OfferRefused,
        PaymentFailed,
        PaymentOutcomeUnknown,
        PaymentRefused,
        PaymentRejected,
        Rail402Error,
        RailUnavailable,
    )
    from rail402.money import Money
    from rail402.protocol.charge import Charge
    from rail402.protocol.offer import Flow, Mechanism, Offer
    from rail402.protocol.order import Order
    from rail402.protocol.payment import Payment
    from rail402.protocol.rail import PaymentRail, RailSpec, Wallet
    from rail402.protocol.receipt import Receipt, ReceiptKeys, verify_receipt
    from rail402.rates import CallableRates, FixedRates, HttpRates
    from rail402.server.gate import Gate
    from rail402.server.settings import Receipts
    from rail402.server.toml import gate_from_toml

_HOMES = {
    "rail402.client.budget": ("Budget",),
    "rail402.client.fetch": ("fetch", "fetch_sync"),
    "rail402.client.journal": ("Journal",),
    "rail402.client.payer": ("Payer",),
    "rail402.errors": (
        "AdministrativePaymentRequired",
        "BudgetExceeded",
        "ConfigurationError",
        "GateNotInstalled",
        "MalformedInput",
        "NoUsableOffer",
        "OfferRefused",
        "PaymentFailed",
        "PaymentOutcomeUnknown",
        "PaymentRefused",
        "PaymentRejected",
        "Rail402Error",
        "RailUnavailable",
    ),
    "rail402.money": ("Money",),
    "rail402.protocol.charge": ("Charge",),
    "rail402.protocol.offer": ("Flow", "Mechanism", "Offer"),
    "rail402.protocol.order": ("Order",),
    "rail402.protocol.payment": ("Payment",),
    "rail402.protocol.rail": ("PaymentRail", "RailSpec", "Wallet"),
    "rail402.protocol.receipt": ("Receipt", "ReceiptKeys", "verify_receipt"),
    "rail402.rates": ("CallableRates", "FixedRates", "HttpRates"),
    "rail402.server.gate": ("Gate",),
    "rail402.server.settings": ("Receipts",),
    "rail402.server.toml": ("gate_from_toml",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AdministrativePaymentRequired",
    "Budget",
    "BudgetExceeded",
    "CallableRates",
    "Charge",
    "ConfigurationError",
    "FixedRates",
    "Flow",
    "Gate",
    "GateNotInstalled",
    "HttpRates",
    "Journal",
    "MalformedInput",
    "Mechanism",
    "Money",
    "NoUsableOffer",
    "Offer",
    "OfferRefused",
    "Order",
    "Payer",
    "Payment",
    "PaymentFailed",
    "PaymentOutcomeUnknown",
    "PaymentRail",
    "PaymentRefused",
    "PaymentRejected",
    "Rail402Error",
    "RailSpec",
    "RailUnavailable",
    "Receipt",
    "ReceiptKeys",
    "Receipts",
    "Wallet",
    "fetch",
    "fetch_sync",
    "gate_from_toml",
    "verify_receipt",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rail402' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
