"""Orders, invoices and offers to test the Lightning rail with, and a receiver that answers as it is told."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import Any

from coincurve import PublicKey

from rail402.errors import RailUnavailable
from rail402.protocol.charge import Charge
from rail402.protocol.offer import Flow, Mechanism, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Terms
from rail402_lightning import bolt11
from rail402_lightning.backends import InvoiceStatus, SentPayment
from rail402_lightning.request_binding import request_hash
from rail402_lightning.wire import LightningSpec

NOW = 1_800_000_000
KEY = bytes([7] * 32)
PAYEE = PublicKey.from_secret(KEY).format().hex()
OTHER_KEY = bytes([8] * 32)
PREIMAGE = "ab" * 32
HASH = hashlib.sha256(bytes.fromhex(PREIMAGE)).digest()
AMOUNT = 21_000
EXPIRY = 600
ORDER = Order(method="GET", url="https://shop.example/article/1?page=2", route="GET /article/{id}")
SPEC = LightningSpec("regtest")
REGTEST = SPEC.network.id


def invoice(key: bytes = KEY, **changes: Any) -> str:
    """The text of an invoice for `ORDER`, made now."""
    terms: dict[str, Any] = {
        "prefix": "bcrt",
        "amount_msat": AMOUNT,
        "created_at": NOW,
        "payment_hash": HASH,
        "payment_secret": bytes(32),
        "description_hash": request_hash(ORDER),
        "expiry": EXPIRY,
        "features": frozenset({8, 14}),
    }
    return bolt11.encode(bolt11.UnsignedInvoice(**(terms | changes)), key)


def offer(text: str | None = None, **changes: Any) -> Offer:
    """The offer of an invoice, as our own server makes it."""
    terms: dict[str, Any] = {
        "rail": "lightning",
        "mechanism": "bolt11",
        "network": REGTEST,
        "asset": "BTC",
        "amount": AMOUNT,
        "currency": "BTC",
        "exponent": 11,
        "payee": PAYEE,
        "expires_at": NOW + EXPIRY,
        "timeout_seconds": EXPIRY,
        "flow": Flow.UPFRONT,
        "extra": {"invoice": text or invoice()},
    }
    return Offer(**(terms | changes))


def payment(preimage: str = PREIMAGE, **changes: Any) -> Payment:
    """The payment that shows a preimage."""
    terms: dict[str, Any] = {"dialect": "x-receipt", "rail": "lightning", "payload": {"preimage": preimage}}
    return Payment(**(terms | changes))


def terms(**changes: Any) -> Terms:
    """What a publisher asks."""
    asked: dict[str, Any] = {
        "amount": AMOUNT,
        "flow": Flow.UPFRONT,
        "now": NOW,
        "expires_at": NOW + EXPIRY,
        "timeout_seconds": 180,
    }
    return Terms(**(asked | changes))


def charge(made: Offer, state: dict[str, Any]) -> Charge:
    """The charge of an offer, as the gate claims it."""
    return Charge(
        id="ch_1",
        order=ORDER,
        offer=made,
        price=made.price,
        dialect="x-receipt",
        keys=("key",),
        created_at=NOW,
        lease_until=NOW + 60,
        rail_state=state,
        window=600,
    )


MECHANISM: Mechanism = SPEC.mechanism


@dataclass
class ToldReceiver:
    """A receiver that makes what invoices it is told to, and says about them what it is told to say."""

    key: bytes = KEY
    changes: dict[str, Any] = field(default_factory=dict)
    text: str | None = None
    said: InvoiceStatus | Exception | None = None
    sandbox: bool = False
    down: Exception | None = None
    hints: list[InvoiceStatus | Exception | None] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    async def start(self) -> None:
        self.asked.append("start")
        if self.down is not None:
            raise self.down

    async def close(self) -> None:
        self.asked.append("close")

    async def health(self) -> None:
        if isinstance(self.said, Exception):
            raise self.said

    async def create_invoice(self, amount_msat: int, *, expiry_seconds: int, hashed_description: bytes) -> str:
        self.asked.append("create_invoice")
        asked: dict[str, Any] = {
            "amount_msat": amount_msat,
            "expiry": expiry_seconds,
            "description_hash": hashlib.sha256(hashed_description).digest(),
            "payment_hash": hashlib.sha256(f"invoice {len(self.asked)}".encode()).digest(),
        }
        return self.text or invoice(self.key, **(asked | self.changes))

    async def status(self, payment_hash: bytes) -> InvoiceStatus | None:
        self.asked.append("status")
        if isinstance(self.said, Exception):
            raise self.said
        if self.said is None and "create_invoice" in self.asked:
            return InvoiceStatus(state="open")
        return self.said

    async def wait(self, payment_hash: bytes, *, seconds: float) -> None:
        """Report at once, and say what comes with that hint from then on; with no hints left the time passes."""
        self.waited.append(seconds)
        if not self.hints:
            await asyncio.sleep(seconds)
            return
        self.said = self.hints.pop(0)


@dataclass
class ToldSender:
    """A sender that says about a payment what it is told to say."""

    said: SentPayment | RailUnavailable | None = None
    ceiling: int = 2000
    msat: int = 1_000_000
    sandbox: bool = False
    paid: list[tuple[str, int]] = field(default_factory=list)

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def fee_ceiling(self, invoice: str, *, max_fee_msat: int) -> int:
        return self.ceiling

    async def pay(self, invoice: str, *, max_fee_msat: int) -> SentPayment:
        self.paid.append((invoice, max_fee_msat))
        if isinstance(self.said, RailUnavailable):
            raise self.said
        assert self.said is not None
        return self.said

    async def lookup(self, payment_hash: bytes) -> SentPayment | None:
        if isinstance(self.said, RailUnavailable):
            raise self.said
        return self.said

    async def balance(self) -> int:
        return self.msat
