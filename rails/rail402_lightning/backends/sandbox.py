"""The sandbox node as a receiver and as a sender: real invoices and preimages, play money."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Final

from rail402.clock import Clock, RandomBytes, system_clock, system_random
from rail402.errors import OutcomeUnknown, RailUnavailable
from rail402.sandbox import PLAY_MONEY, sandbox_directory
from rail402_lightning import bolt11
from rail402_lightning.backends import InvoiceStatus, SentPayment
from rail402_lightning.networks import find_network
from rail402_lightning.sandbox import PaymentStatus, SandboxLightning

__all__ = ["LEDGER", "SandboxReceiver", "SandboxSender", "open_sandbox"]

LEDGER: Final = "lightning.db"


def open_sandbox(
    directory: str | Path | None = None,
    *,
    clock: Clock = system_clock,
    random_bytes: RandomBytes = system_random,
    network: str = "regtest",
) -> SandboxLightning:
    """Return the node whose ledger is in the sandbox directory, which publisher and agents on a machine share.

    Raises:
        ConfigurationError: the directory cannot be made, or the network is not the sandbox's.
    """
    path = sandbox_directory(directory) / LEDGER
    return SandboxLightning(path, clock=clock, random_bytes=random_bytes, network=find_network(network).id)


class SandboxReceiver:
    """Receives at the sandbox node; see `Receiver`."""

    sandbox = True

    def __init__(self, node: SandboxLightning) -> None:
        self.node = node

    async def start(self) -> None:
        """Open the ledger."""
        await self.node.node_id()

    async def close(self) -> None:
        """Close the ledger."""
        await self.node.close()

    async def health(self) -> None:
        """Read the ledger."""
        await self.node.books()

    async def create_invoice(self, amount_msat: int, *, expiry_seconds: int, hashed_description: bytes) -> str:
        """Return the text of a new invoice."""
        digest = hashlib.sha256(hashed_description).digest()
        return await self.node.create_invoice(amount_msat, expiry_seconds=expiry_seconds, description_hash=digest)

    async def status(self, payment_hash: bytes) -> InvoiceStatus | None:
        """Return what became of an invoice."""
        found = await self.node.lookup_invoice(payment_hash)
        if found is None:
            return None
        return InvoiceStatus(state=found.state, received_msat=found.amount_paid_msat, settled_at=found.settled_at)

    async def wait(self, payment_hash: bytes, *, seconds: float) -> None:
        """Return when the invoice is paid or canceled. The ledger tells nobody, so it is read again and again."""
        with suppress(RailUnavailable):
            await self.node.wait_settled(payment_hash, seconds)

    async def received(self) -> int:
        """Return all that the node was ever paid, in millisatoshis."""
        return (await self.node.books()).received_msat


class SandboxSender:
    """Pays from a wallet of the sandbox node, which is endowed when first named; see `Sender`."""

    sandbox = True

    def __init__(self, node: SandboxLightning, wallet: str) -> None:
        self.node, self.wallet = node, wallet

    async def start(self) -> None:
        """Open the ledger."""
        await self.node.node_id()

    async def close(self) -> None:
        """Close the ledger."""
        await self.node.close()

    async def fee_ceiling(self, invoice: str, *, max_fee_msat: int) -> int:
        """Return `max_fee_msat`: the node keeps to it."""
        return max_fee_msat

    async def pay(self, invoice: str, *, max_fee_msat: int) -> SentPayment:
        """Pay an invoice."""
        try:
            status = await self.node.pay_invoice(invoice, wallet=self.wallet, max_fee_msat=max_fee_msat)
        except OutcomeUnknown as error:
            return SentPayment(state="unknown", detail=error.detail)
        if status.reason == "no_route" and bolt11.decode(invoice).payee != await self.node.node_id():
            return SentPayment(state="failed", detail=f"no_route: the invoice is another node's; {PLAY_MONEY}")
        return _sent(status)

    async def lookup(self, payment_hash: bytes) -> SentPayment | None:
        """Return what became of a payment."""
        status = await self.node.lookup_payment(payment_hash, self.wallet)
        return None if status is None else _sent(status)

    async def balance(self) -> int:
        """Return what the wallet can spend."""
        return await self.node.balance(self.wallet)


def _sent(status: PaymentStatus) -> SentPayment:
    if status.state == "succeeded" and status.preimage is not None:
        return SentPayment(state="paid", preimage=status.preimage.hex(), fee_msat=status.fee_msat)
    if status.state == "failed":
        return SentPayment(state="failed", detail=status.reason or "")
    return SentPayment(state="unknown", detail="the payment is in flight")
