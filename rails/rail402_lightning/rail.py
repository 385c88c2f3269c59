"""The publisher's side: an invoice for every order, and asking the node whether it was paid.

The payer moves the money, at its own node; this side never does. So nothing here is of unknown outcome: every
operation asks the receiving node what happened, and where it does not answer it can be asked again.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from rail402.clock import Clock, system_clock
from rail402.errors import ConfigurationError, MalformedInput, PaymentRejected, RailUnavailable
from rail402.money import MSAT_EXPONENT, Money
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.offer import Mechanism, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import ConsumptionKey, Payment
from rail402.protocol.rail import Failed, NotPaid, PaymentRail, Settled, Terms, Verified
from rail402_lightning import bolt11
from rail402_lightning.backends import InvoiceStatus, Receiver
from rail402_lightning.backends.lnbits import LnbitsReceiver
from rail402_lightning.backends.sandbox import SandboxReceiver, open_sandbox
from rail402_lightning.networks import network_of
from rail402_lightning.request_binding import bound_request
from rail402_lightning.wire import LightningSpec, invoice_of

__all__ = ["PRESENT_GRACE", "SETTLE_GRACE", "LightningRail"]

SETTLE_GRACE: Final = 60
"""Seconds after its expiry for which an invoice counts as paid in time: what was under way arrives."""

PRESENT_GRACE: Final = 3600
"""Seconds after an offer's expiry until which its payment may be presented for the first time. Charges must be kept
for longer, or a payment could be used again when its charge is gone."""

_CLOCK_SKEW: Final = 60
_RETRY_AFTER: Final = 2
_PROBE: Final = b"rail402: which node signs our invoices?"
_PROBE_MSAT: Final = 1000
_PROBE_SECONDS: Final = 60


class LightningRail(PaymentRail):
    """Takes payments of BOLT 11 invoices that are made for each order.

    Args:
        receiver: the node that makes the invoices.
        network: what it is on: `mainnet`, `testnet`, `signet` or `regtest`.
        node_id: the public key of the node that must sign the invoices, 66 hexadecimal digits. Unless given, it is
            learnt from an invoice at the start, and kept to.

    Raises:
        ConfigurationError: there is no such network.
    """

    def __init__(self, receiver: Receiver, *, network: str = "mainnet", node_id: str | None = None) -> None:
        self.spec = self._spec = LightningSpec(network)
        self.receiver = receiver
        self._node_id = node_id.lower() if node_id else None
        # On an instance this is the flag of `PaymentRail`; on the class it is the constructor below.
        self.is_sandbox = receiver.sandbox

    @classmethod
    def sandbox(
        cls, directory: str | Path | None = None, *, network: str = "regtest", clock: Clock = system_clock
    ) -> LightningRail:
        """Make a rail on play money, in the ledger that every sandbox of this directory shares.

        Args:
            directory: see `sandbox_directory`.
            network: must be `regtest`.
            clock: Unix seconds.

        Raises:
            ConfigurationError: the directory cannot be used, or a network with real money is named.
        """
        return cls(SandboxReceiver(open_sandbox(directory, network=network, clock=clock)), network=network)

    @classmethod
    def lnbits(
        cls, url: str, invoice_key: str, network: str = "mainnet", *, node_id: str | None = None
    ) -> LightningRail:
        """Make a rail on a wallet of an LNbits server.

        Args:
            url: the server's address.
            invoice_key: the wallet's invoice key; its admin key is not needed.
            network, node_id: as for `LightningRail`.

        Raises:
            ConfigurationError: the address cannot be used, or there is no such network.
        """
        return cls(LnbitsReceiver(url, invoice_key), network=network, node_id=node_id)

    async def start(self) -> None:
        """Open the node, and have it make an invoice: that shows its network, and its public key.

        Raises:
            ConfigurationError: it refuses our credentials, or is another node or on another network than configured.
            RailUnavailable: it cannot be reached, or makes no invoice.
        """
        await self.receiver.start()
        probe = await self._invoice(_PROBE_MSAT, _PROBE_SECONDS, _PROBE)
        network = self._spec.network
        if probe.prefix != network.prefix:
            found = network_of(probe.prefix)
            raise ConfigurationError(f"the Lightning node is on {found.name}, and network={network.name!r} is set")
        payee = probe.payee.hex()
        if self._node_id not in (None, payee):
            raise ConfigurationError(f"the Lightning node is {payee}, and node_id={self._node_id!r} is set")
        self._node_id = payee

    async def close(self) -> None:
        """Close the node."""
        await self.receiver.close()

    async def health(self) -> None:
        """Raise `RailUnavailable` where the node cannot be used now."""
        await self.receiver.health()

    async def received(self) -> Money:
        """Return all that the sandbox node was ever paid.

        Raises:
            ConfigurationError: this is no sandbox.
        """
        if not isinstance(self.receiver, SandboxReceiver):
            raise ConfigurationError("only a sandbox counts what it received; ask the node's own accounts")
        return Money.from_atomic(await self.receiver.received(), MSAT_EXPONENT, "BTC")

    # --- offers

    async def offer(self, order: Order, mechanism: Mechanism, terms: Terms) -> Offer | None:
        """Make an offer around a fresh invoice, bound to the order by its description hash."""
        if self._node_id is None:
            await self.start()
        invoice = await self._invoice(terms.amount, terms.expires_at - terms.now, bound_request(order))
        if (invoice.prefix, invoice.payee.hex()) != (self._spec.network.prefix, self._node_id):
            raise RailUnavailable("the invoice is another node's than at the start; restart to accept that")
        if invoice.created_at > terms.now + _CLOCK_SKEW:
            raise RailUnavailable(f"the node's clock is {invoice.created_at - terms.now} s ahead: payers would refuse")
        return Offer(
            rail=self._spec.name,
            mechanism=mechanism.name,
            network=mechanism.network,
            asset=mechanism.asset,
            amount=terms.amount,
            currency=mechanism.currency,
            exponent=mechanism.exponent,
            payee=invoice.payee.hex(),
            expires_at=min(terms.expires_at, invoice.expires_at),
            timeout_seconds=invoice.expiry,
            flow=terms.flow,
            extra={"invoice": invoice.text},
        )

    async def _invoice(self, amount_msat: int, expiry_seconds: int, hashed_description: bytes) -> bolt11.Invoice:
        """Have an invoice made, and believe nothing about it but what it says itself."""
        text = await self.receiver.create_invoice(
            amount_msat, expiry_seconds=expiry_seconds, hashed_description=hashed_description
        )
        try:
            invoice = bolt11.decode(text)
        except MalformedInput as error:
            raise RailUnavailable("the node made an invoice that cannot be read") from error
        said = {
            "amount": (invoice.amount_msat, amount_msat),
            "expiry": (invoice.expiry, expiry_seconds),
            "description hash": (invoice.description_hash, hashlib.sha256(hashed_description).digest()),
        }
        for term, (found, wanted) in said.items():
            if found != wanted:
                raise RailUnavailable(f"the node made an invoice with another {term} than it was asked for")
        return invoice

    def issued_key(self, offer: Offer) -> ConsumptionKey | None:
        """Return the key of the invoice's payment hash."""
        return self._spec.key(invoice_of(offer).payment_hash.hex())

    # --- payments

    async def verify(self, offer: Offer, payment: Payment, verified: Verified, *, now: int) -> Verified:
        """Ask the node whether the invoice is paid, so that no unpaid one is ever claimed.

        Raises:
            PaymentRejected: `not_settled` while it is not: the same payment may be shown again; `offer_expired` where
                it was paid, or is shown, too late.
        """
        if now > offer.expires_at + PRESENT_GRACE:
            raise PaymentRejected("ask for a new offer", code="offer_expired")
        status = await self.receiver.status(invoice_of(offer).payment_hash)
        refusal = _refusal(offer, status)
        if refusal is None:
            return verified
        if refusal.code == "not_settled" and "preimage" not in payment.payload and now > offer.expires_at:
            # An invoice without a preimage says nothing about a payment; who has the preimage has paid, most likely,
            # and is never invited to pay again.
            raise PaymentRejected("the invoice was not paid; ask for a new offer", code="offer_expired")
        raise refusal

    async def settle(self, charge: Charge, payment: Payment | None) -> Settled | NotPaid | Failed:
        """Ask the node whether the money is there."""
        return await self.lookup(charge, Operation.SETTLE)

    async def lookup(self, charge: Charge, operation: Operation) -> Settled | NotPaid | Failed:
        """Ask the node whether the money is there."""
        payment_hash = str(charge.rail_state["payment_hash"])
        status = await self.receiver.status(bytes.fromhex(payment_hash))
        if status is None:  # it knew it when the payment was verified: it is not the same node, or not well
            raise RailUnavailable("the node does not know an invoice any more that it called paid")
        refusal = _refusal(charge.offer, status)
        if refusal is not None:
            # What may still arrive is not refused for good: the payer can show the same payment again.
            return NotPaid() if refusal.retryable else Failed(code=refusal.code, detail=refusal.detail)
        return Settled(transaction=payment_hash, at=status.settled_at)


def _refusal(offer: Offer, status: InvoiceStatus | None) -> PaymentRejected | None:
    """Return why an invoice does not count as paid, or None if it does."""
    if status is None:
        return PaymentRejected("the node does not know the invoice", code="offer_unknown")
    if status.state != "settled":
        return PaymentRejected(f"the invoice is {status.state}", code="not_settled", retry_after=_RETRY_AFTER)
    if status.received_msat < offer.amount:
        return PaymentRejected(f"{status.received_msat} of {offer.amount} msat arrived", code="amount_mismatch")
    if status.settled_at is not None and status.settled_at > offer.expires_at + SETTLE_GRACE:
        return PaymentRejected("the invoice was paid too late", code="offer_expired")
    return None
