"""Lightning: BOLT 11 invoices, paid by the agent's node and proven by their preimages.

    gate = Gate(rails=[LightningRail.sandbox()], public_url="https://api.example.com")
    payer = Payer(wallets=[LightningWallet.sandbox()])

`LightningRail` is the server side and `LightningWallet` the client side; `.lnd(…)` of both puts them on an lnd, and
`.lnbits(…)` on a wallet of an LNbits server. Any other node takes its `Receiver` or `Sender`, such as `ClnReceiver`,
`PhoenixdSender` and `NwcSender` here, or one of your own (`rail402_lightning.backends`).
The names below load on first use, because they need the extra `lightning`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rail402_lightning.backends import InvoiceStatus, Receiver, Sender, SentPayment
    from rail402_lightning.backends.cln import ClnReceiver, ClnSender
    from rail402_lightning.backends.lnbits import LnbitsReceiver, LnbitsSender
    from rail402_lightning.backends.lnd import LndReceiver, LndSender
    from rail402_lightning.backends.nwc import NwcReceiver, NwcSender
    from rail402_lightning.backends.phoenixd import PhoenixdReceiver, PhoenixdSender
    from rail402_lightning.config import PLUGIN
    from rail402_lightning.rail import LightningRail
    from rail402_lightning.refund_fetching import RefundFetcher
    from rail402_lightning.wallet import LightningWallet
    from rail402_lightning.wire import LightningSpec

_HOMES = {
    "rail402_lightning.backends": ("InvoiceStatus", "Receiver", "Sender", "SentPayment"),
    "rail402_lightning.backends.cln": ("ClnReceiver", "ClnSender"),
    "rail402_lightning.backends.lnbits": ("LnbitsReceiver", "LnbitsSender"),
    "rail402_lightning.backends.lnd": ("LndReceiver", "LndSender"),
    "rail402_lightning.backends.nwc": ("NwcReceiver", "NwcSender"),
    "rail402_lightning.backends.phoenixd": ("PhoenixdReceiver", "PhoenixdSender"),
    "rail402_lightning.config": ("PLUGIN",),
    "rail402_lightning.rail": ("LightningRail",),
    "rail402_lightning.refund_fetching": ("RefundFetcher",),
    "rail402_lightning.wallet": ("LightningWallet",),
    "rail402_lightning.wire": ("LightningSpec",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "PLUGIN",
    "ClnReceiver",
    "ClnSender",
    "InvoiceStatus",
    "LightningRail",
    "LightningSpec",
    "LightningWallet",
    "LnbitsReceiver",
    "LnbitsSender",
    "LndReceiver",
    "LndSender",
    "NwcReceiver",
    "NwcSender",
    "PhoenixdReceiver",
    "PhoenixdSender",
    "Receiver",
    "RefundFetcher",
    "Sender",
    "SentPayment",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rail402_lightning' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
