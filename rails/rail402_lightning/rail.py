"""The publisher's side: an invoice for every order, and asking the node whether it was paid.

The payer moves the money, at its own node; this side never does. So nothing here is of unknown outcome: every
operation asks the receiving node what happened, and where it does not answer it can be asked again.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from rail402.clock import Clock, system_clock
from rail402.errors import ConfigurationError, MalformedInput, PaymentRejected, RailUnavailable
from rail402.money import MSAT_EXPONENT, Money
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.offer import Mechanism, Offer
from rail402.protocol.order import TOOL_CALL, Order
from rail402.protocol.payment import ConsumptionKey, Payment
from rail402.protocol.rail import (
    Failed,
    NotPaid,
    PaymentRail,
    Pending,
    Refunded,
    Settled,
    Terms,
    Unknown,
    Verified,
)
from rail402_lightning.backends import InvoiceStatus, Receiver
from rail402_lightning.backends.lnbits import LnbitsReceiver
from rail402_lightning.backends.lnd import LndReceiver
from rail402_lightning.backends.sandbox import SandboxReceiver, SandboxSender, open_sandbox
from rail402_lightning.minting import AHEAD, Minter, Wanted
from rail402_lightning.networks import find_network
from rail402_lightning.refunds import PaysBack, Refunding
from rail402_lightning.request_binding import UNBOUND, bound_request
from rail402_lightning.wire import LightningSpec, check_node, invoice_of

__all__ = ["PRESENT_GRACE", "SETTLE_GRACE", "WAIT_SECONDS", "LightningRail"]

logger = logging.getLogger("rail402.lightning")

SETTLE_GRACE: Final = 60
"""Seconds after its expiry for which an invoice counts as paid in time: what was under way arrives."""

PRESENT_GRACE: Final = 3600
"""Seconds after an offer's expiry until which its payment may be presented for the first time. Charges must be kept
for longer, or a payment could be used again when its charge is gone."""

WAIT_SECONDS: Final = 4
"""Seconds for which a payment that is presented is waited for: a client of httpx gives an answer up after 5."""

_MAX_WAIT: Final = 10  # below the gate's own `wait_seconds`, in which this is one step
_MAX_WAITING: Final = 100
_CLOCK_SKEW: Final = 60
_RETRY_AFTER: Final = 2
_PROBE: Final = b"rail402: which node signs our invoices?"
_PROBE_MSAT: Final = 1000
_PROBE_SECONDS: Final = 60
_BOUND: Final = "x402-v2"


class LightningRail(PaysBack, PaymentRail):
    """Takes payments of BOLT 11 invoices, one for each offer.

    Args:
        receiver: the node that makes the invoices.
        network: what it is on: `mainnet`, `testnet`, `signet` or `regtest`.
        node_id: the public key of the node that must sign the invoices, 66 hexadecimal digits. Unless given, it is
            learnt from an invoice at the start, and kept to.
        wait_seconds: how long a payment that is presented is waited for, if the node does not call it settled yet; 10
            at most. A payer has the preimage some milliseconds before that.
        mint_ahead: how many invoices are kept ready for each order in demand, so that its 402 need not wait for the
            node; 100 at most, 0 for none. See `minting.py`.

    Raises:
        ConfigurationError: there is no such network, or `wait_seconds` or `mint_ahead` is out of range.
    """

    mints_offers = True

    def __init__(
        self,
        receiver: Receiver,
        *,
        network: str = "mainnet",
        node_id: str | None = None,
        wait_seconds: float = WAIT_SECONDS,
        mint_ahead: int = AHEAD,
    ) -> None:
        if not 0 <= wait_seconds <= _MAX_WAIT:
            raise ConfigurationError(f"wait_seconds={wait_seconds} must be from 0 to {_MAX_WAIT}")
        self.spec = self._spec = LightningSpec(network)
        self.receiver = receiver
        self._minter = Minter(receiver, ahead=mint_ahead)
        self._wait_seconds = wait_seconds
        self._waiting = {True: 0, False: 0}  # with the preimage, and without
        self.payee = node_id.lower() if node_id else None
        self._checked = False
        self._checking = asyncio.Lock()
        # On an instance this is the flag of `PaymentRail`; on the class it is the constructor below.
        self.is_sandbox = receiver.sandbox
        self.is_test = not self.is_sandbox and find_network(network).name != "mainnet"

    @classmethod
    def sandbox(
        cls,
        directory: str | Path | None = None,
        *,
        network: str = "regtest",
        clock: Clock = system_clock,
        wait_seconds: float = WAIT_SECONDS,
        mint_ahead: int = AHEAD,
    ) -> LightningRail:
        """Make a rail on play money, in the ledger that every sandbox of this directory shares.

        Args:
            directory: see `sandbox_directory`.
            network: must be `regtest`.
            clock: Unix seconds.
            wait_seconds, mint_ahead: as for `LightningRail`.

        Raises:
            ConfigurationError: the directory cannot be used, or a network with real money is named.
        """
        receiver = SandboxReceiver(open_sandbox(directory, network=network, clock=clock))
        rail = cls(receiver, network=network, wait_seconds=wait_seconds, mint_ahead=mint_ahead)
        return rail.with_refunds(Refunding(SandboxSender(receiver.node, "publisher"), clock=clock))

    @classmethod
    def lnbits(
        cls,
        url: str,
        invoice_key: str,
        network: str = "mainnet",
        *,
        node_id: str | None = None,
        wait_seconds: float = WAIT_SECONDS,
        mint_ahead: int = AHEAD,
    ) -> LightningRail:
        """Make a rail on a wallet of an LNbits server.

        LNbits tells the preimage of a paid invoice to whoever asks for its payment hash, without a key. So keep its
        address to yourself (a private network), or serve no dialect in which a bare preimage is all that is asked for
        (`x-receipt`, `payment-uri`).

        Args:
            url: the server's address.
            invoice_key: the wallet's invoice key. Its admin key is not needed, and can spend.
            network, node_id, wait_seconds, mint_ahead: as for `LightningRail`.

        Raises:
            ConfigurationError: the address cannot be used, or there is no such network.
        """
        receiver = LnbitsReceiver(url, invoice_key)
        return cls(receiver, network=network, node_id=node_id, wait_seconds=wait_seconds, mint_ahead=mint_ahead)

    @classmethod
    def lnd(
        cls,
        url: str,
        macaroon: str | bytes | Path,
        network: str = "mainnet",
        *,
        tls_cert: str | Path | None = None,
        private: bool = False,
        node_id: str | None = None,
        wait_seconds: float = WAIT_SECONDS,
        mint_ahead: int = AHEAD,
    ) -> LightningRail:
        """Make a rail on an lnd of one's own.

        The macaroon needs no more than this makes, and with it nobody can spend:

            lncli bakemacaroon --save_to rail402-receive.macaroon info:read invoices:read invoices:write

        Args:
            url: the address of its REST API.
            macaroon: hexadecimal digits, bytes, or the path of the file.
            tls_cert: the node's `tls.cert`, as a path or as PEM text; None where its certificate is a public one.
            private: put hints to the node's private channels into the invoices.
            network, node_id, wait_seconds, mint_ahead: as for `LightningRail`.

        Raises:
            ConfigurationError: address, macaroon or certificate cannot be used, or there is no such network.
        """
        receiver = LndReceiver(url, macaroon, tls_cert=tls_cert, network=network, private=private)
        return cls(receiver, network=network, node_id=node_id, wait_seconds=wait_seconds, mint_ahead=mint_ahead)

    async def start(self) -> None:
        """Open the node, and have it make an invoice: that shows its network and its public key.

        Settings that are wrong stop the app. A node that is down, locked, without its chain or without a channel that
        it can be paid through does not: the gate logs it and sells by its other rails. Until the node is back, and has
        been checked as at the start, this rail makes no offers. Who has paid already is served as long as the node
        answers, and is asked to come again (503) where it does not.

        Raises:
            ConfigurationError: the node refuses our credentials, or it is another node, on another network or with
                other money than configured.
            RailUnavailable: it cannot be reached or be paid, or makes no invoice.
        """
        async with self._checking:
            if not self._checked:
                await self.receiver.start()
                await self._check()
                await self._open_refunds()
                self._checked = True

    async def _check(self) -> None:
        probe = await self._minter.mint(Wanted(_PROBE_MSAT, _PROBE_SECONDS, _PROBE))
        if not self.is_sandbox:
            check_node(probe, self._spec.network)
        payee = probe.payee.hex()
        if self.payee not in (None, payee):
            raise ConfigurationError(f"the Lightning node is {payee}, and node_id={self.payee!r} is set")
        status = await self.receiver.status(probe.payment_hash)
        if status is None or status.state != "open":  # no payment would ever be seen
            raise RailUnavailable("the node does not know the invoice that it has just made")
        self.payee = payee

    async def close(self) -> None:
        """Close the node."""
        self._checked = False
        await self._minter.close()
        await self._close_refunds()
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
        """Make an offer around an invoice of its own, bound to the order by its description hash.

        Where the route speaks no x402, the one dialect that has that, one invoice is as good as another. So it is for
        the call of a tool, which is offered in other dialects only.

        Raises:
            RailUnavailable: the node cannot be used now, or is not the one that it was.
        """
        if not self._checked:  # it was down at the start
            try:
                await self.start()
            except ConfigurationError as error:
                logger.error("%s", error)
                raise RailUnavailable(error.detail) from error
        try:
            by_x402 = order.method != TOOL_CALL and (terms.dialects is None or _BOUND in terms.dialects)
            bound = bound_request(order) if by_x402 else UNBOUND
        except MalformedInput:  # its URL is not one that an invoice can be bound to
            return None
        wanted = Wanted(terms.amount, terms.expires_at - terms.now, bound)
        invoice = await self._minter.invoice(wanted, now=terms.now)
        if (invoice.prefix, invoice.payee.hex()) != (self._spec.network.prefix, self.payee):
            raise RailUnavailable("the invoice is another node's than at the start; restart to accept that")
        if invoice.created_at > terms.now + _CLOCK_SKEW:
            raise RailUnavailable(f"the node's clock is {invoice.created_at - terms.now} s ahead: payers would refuse")
        return mechanism.offer(
            self._spec.name,
            payee=invoice.payee.hex(),
            amount=terms.amount,
            expires_at=min(terms.expires_at, invoice.expires_at),
            timeout_seconds=invoice.expiry,
            flow=terms.flow,
            extra={"invoice": invoice.text},
        )

    def issued_key(self, offer: Offer) -> ConsumptionKey | None:
        """Return the key of the invoice's payment hash."""
        return self._spec.key(invoice_of(offer).payment_hash.hex())

    # --- payments

    async def verify(self, offer: Offer, payment: Payment, verified: Verified, *, now: int) -> Verified:
        """Ask the node whether the invoice is paid, so that no unpaid one is ever claimed.

        Raises:
            PaymentRejected: `not_settled` where it is not after `wait_seconds`: the same payment may be shown again;
                `offer_expired` where it was paid, or is shown, too late.
            RailUnavailable: the node cannot be asked, or does not know the invoice of a preimage.
        """
        if now > offer.expires_at + PRESENT_GRACE:
            raise PaymentRejected("ask for a new offer", code="offer_expired")
        has_preimage = "preimage" in payment.payload
        refusal = await self._look(offer, has_preimage)
        if refusal is not None and refusal.retryable and (has_preimage or now <= offer.expires_at):
            refusal = await self._look_again(offer, has_preimage, refusal)
        if refusal is None:
            return verified
        if refusal.retryable and not has_preimage and now > offer.expires_at:
            # An invoice without a preimage says nothing about a payment; who has the preimage has paid, most likely,
            # and is never invited to pay again.
            raise PaymentRejected("the invoice was not paid; ask for a new offer", code="offer_expired")
        raise refusal

    async def _look(self, offer: Offer, has_preimage: bool) -> PaymentRejected | None:
        """Ask the node, and return why the invoice does not count as paid, or None if it does."""
        status = await self.receiver.status(invoice_of(offer).payment_hash)
        if status is None and has_preimage:  # who was paid, then? A new offer would be an invitation to pay twice
            raise RailUnavailable(
                "the node does not know an invoice of ours, and its preimage is shown: another wallet?"
            )
        return _refusal(offer, status)

    async def _look_again(self, offer: Offer, has_preimage: bool, refusal: PaymentRejected) -> PaymentRejected | None:
        """Wait for the money for a while, until the node reports something; return what `_look` says then.

        A report may be anybody's, so the looks that follow one grow apart: six at most, however many reports there are.
        An invoice can be presented by who has not paid it, so no more than a hundred are waited for at once.
        """
        if self._waiting[has_preimage] >= _MAX_WAITING:
            return refusal
        now, payment_hash = asyncio.get_running_loop().time, invoice_of(offer).payment_hash
        ends, pause = now() + self._wait_seconds, self._wait_seconds / 32
        self._waiting[has_preimage] += 1
        try:
            while (left := ends - now()) > 0:
                await self.receiver.wait(payment_hash, seconds=left)
                found = await self._look(offer, has_preimage)
                if found is None or not found.retryable:
                    return found
                refusal = found
                await asyncio.sleep(max(0, min(pause, ends - now())))
                pause *= 2
        finally:
            self._waiting[has_preimage] -= 1
        return refusal

    async def settle(self, charge: Charge, payment: Payment | None) -> Settled | NotPaid | Failed:
        """Ask the node whether the money is there."""
        return await self._arrived(charge)

    async def lookup(
        self, charge: Charge, operation: Operation
    ) -> Settled | Refunded | NotPaid | Failed | Pending | Unknown:
        """Ask the node whether the money is there, or went back."""
        if operation is Operation.REFUND:
            return await self.look_up_refund(charge)
        return await self._arrived(charge)

    async def _arrived(self, charge: Charge) -> Settled | NotPaid | Failed:
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
