"""The agent's side: paying an invoice once, and finding out what became of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from rail402.clock import Clock, system_clock, system_random
from rail402.errors import (
    ConfigurationError,
    MalformedInput,
    OfferRefused,
    PaymentFailed,
    PaymentOutcomeUnknown,
    RailUnavailable,
)
from rail402.money import MSAT_EXPONENT, Money
from rail402.protocol.base import Json
from rail402.protocol.offer import Offer
from rail402.protocol.rail import Cost, NotPaid, Observation, Paid, Unknown, Wallet
from rail402_lightning import bolt11
from rail402_lightning.backends import Sender, SentPayment
from rail402_lightning.backends.lnbits import LnbitsSender
from rail402_lightning.backends.lnd import LndSender
from rail402_lightning.backends.sandbox import SandboxSender, open_sandbox
from rail402_lightning.wire import LightningSpec, invoice_of, is_preimage_of

__all__ = ["MAX_FEE_PPM", "MAX_FEE_SAT", "LightningWallet"]

MAX_FEE_SAT: Final = 2
"""Sats that a payment may cost in fees at least, however small it is; LNbits reserves as much."""

MAX_FEE_PPM: Final = 10_000
"""Millionths of the amount that a payment may cost in fees: one percent."""

_PROBE_MSAT: Final = 1000

_PAST_EXPIRY: Final = 60
"""Seconds after its expiry from which on an invoice that the node never heard of will not be paid any more."""


class LightningWallet(Wallet):
    """Pays BOLT 11 invoices.

    Args:
        sender: the node that pays them.
        network: the one network that it pays on: `mainnet`, `testnet`, `signet` or `regtest`.
        max_fee_sat, max_fee_ppm: what a payment may cost in fees: the larger of the two, in sats and in millionths of
            its amount.
        name: tells it from the other wallets of a payer.

    Raises:
        ConfigurationError: there is no such network, or a limit is negative.
    """

    def __init__(
        self,
        sender: Sender,
        *,
        network: str = "mainnet",
        max_fee_sat: int = MAX_FEE_SAT,
        max_fee_ppm: int = MAX_FEE_PPM,
        name: str = "lightning",
    ) -> None:
        if max_fee_sat < 0 or max_fee_ppm < 0:
            raise ConfigurationError("max_fee_sat and max_fee_ppm cannot be negative")
        self.spec = self._spec = LightningSpec(network)
        self.sender, self.name = sender, name
        self._max_fee_sat, self._max_fee_ppm = max_fee_sat, max_fee_ppm
        # The last offer: a 402 says the same invoice in every dialect, and the node need not be asked about each.
        self._priced: tuple[tuple[str, int], Cost] | None = None

    def __repr__(self) -> str:
        return f"LightningWallet({self.name!r}, network={self._spec.network.name!r})"

    @classmethod
    def sandbox(
        cls,
        directory: str | Path | None = None,
        *,
        network: str = "regtest",
        clock: Clock = system_clock,
        name: str = "lightning",
    ) -> LightningWallet:
        """Make a wallet of play money, in the ledger that every sandbox of this directory shares.

        Args:
            directory: see `sandbox_directory`.
            network: must be `regtest`.
            clock: Unix seconds.
            name: whose money it is; a new name is endowed with 0.01 BTC.

        Raises:
            ConfigurationError: the directory cannot be used, or a network with real money is named.
        """
        node = open_sandbox(directory, network=network, clock=clock)
        return cls(SandboxSender(node, name), network=network, name=name)

    @classmethod
    def lnbits(
        cls,
        url: str,
        admin_key: str,
        network: str = "mainnet",
        *,
        max_fee_sat: int = MAX_FEE_SAT,
        max_fee_ppm: int = MAX_FEE_PPM,
        name: str = "lightning",
    ) -> LightningWallet:
        """Make a wallet on one of an LNbits server.

        Args:
            url: the server's address.
            admin_key: the wallet's admin key. Secret: whoever has it can spend all that the wallet holds.
            network, max_fee_sat, max_fee_ppm, name: as for `LightningWallet`.

        Raises:
            ConfigurationError: the address cannot be used, or see `LightningWallet`.
        """
        sender = LnbitsSender(url, admin_key, network=network)
        return cls(sender, network=network, max_fee_sat=max_fee_sat, max_fee_ppm=max_fee_ppm, name=name)

    @classmethod
    def lnd(
        cls,
        url: str,
        macaroon: str | bytes | Path,
        network: str = "mainnet",
        *,
        tls_cert: str | Path | None = None,
        max_fee_sat: int = MAX_FEE_SAT,
        max_fee_ppm: int = MAX_FEE_PPM,
        name: str = "lightning",
    ) -> LightningWallet:
        """Make a wallet on an lnd of one's own.

        The macaroon needs no more than this makes; whoever has it can spend all that is in the node's channels:

            lncli bakemacaroon --save_to rail402-pay.macaroon info:read offchain:read offchain:write

        Args:
            url: the address of its REST API.
            macaroon: hexadecimal digits, bytes, or the path of the file.
            tls_cert: the node's `tls.cert`, as a path or as PEM text; None where its certificate is a public one.
            network, max_fee_sat, max_fee_ppm, name: as for `LightningWallet`.

        Raises:
            ConfigurationError: address, macaroon or certificate cannot be used, or see `LightningWallet`.
        """
        sender = LndSender(url, macaroon, tls_cert=tls_cert, network=network)
        return cls(sender, network=network, max_fee_sat=max_fee_sat, max_fee_ppm=max_fee_ppm, name=name)

    async def start(self) -> None:
        """Open the node.

        Where it is down, the payer leaves this wallet out until its next purchase.

        Raises:
            ConfigurationError: it refuses our credentials, or is on another network.
            RailUnavailable: it cannot be reached.
        """
        await self.sender.start()

    async def examine(self) -> list[Observation]:
        """Look at what the node can spend, and whether it keeps to the limit of fees; see `Wallet.examine`."""
        await self.start()
        found, network = [], self._spec.network
        balance = await self.sender.balance()
        said = f"its node can spend {_msat(balance)} on {network.name}"
        found.append(Observation(said, "" if balance else "fund it, or open a channel with money on its own side"))
        limit = self.max_fee_msat(_PROBE_MSAT)
        ceiling = await self.sender.fee_ceiling(_probe(network.prefix), max_fee_msat=limit)
        if ceiling > limit:
            said = f"small amounts are not paid: their fee may be {_msat(ceiling)}, and the limit is {_msat(limit)}"
            found.append(Observation(said, f"max_fee_sat = {-(-ceiling // 1000)}"))
        return found

    async def close(self) -> None:
        """Close the node."""
        await self.sender.close()

    # --- paying

    async def can_pay(self, offer: Offer) -> Cost | None:
        """Return the price and the most that the route may cost; None on another network.

        Raises:
            OfferRefused: its node may spend more on fees than allowed, or has too little to spend.
            RailUnavailable: the node cannot be asked.
        """
        mechanism = self._spec.mechanism
        if (offer.mechanism, offer.network, offer.asset) != (mechanism.name, mechanism.network, mechanism.asset):
            return None
        invoice = invoice_of(offer)
        if self._priced is not None and self._priced[0] == (invoice.text, offer.amount):
            return self._priced[1]
        limit = self.max_fee_msat(offer.amount)
        ceiling, balance = await asyncio.gather(
            self.sender.fee_ceiling(invoice.text, max_fee_msat=limit), self.sender.balance()
        )
        if ceiling > limit:
            raise OfferRefused(
                f"the wallet's node may spend up to {_msat(ceiling)} on fees, and the limit is {_msat(limit)}: "
                "raise max_fee_sat or max_fee_ppm, or lower the node's reserve"
            )
        if balance < offer.amount + ceiling:
            raise OfferRefused(
                f"the wallet's node can spend {_msat(balance)} now, and this may take "
                f"{_msat(offer.amount + ceiling)}: fund it"
            )
        cost = Cost(price=offer.price, fee_ceiling=_msat(ceiling))
        self._priced = (invoice.text, offer.amount), cost
        return cost

    async def pay(self, offer: Offer, *, record_id: str, now: int) -> Paid:
        """Pay the offer's invoice; the proof is its preimage.

        Raises:
            PaymentFailed: nothing was paid.
            PaymentOutcomeUnknown: it is in flight, or the node does not say.
        """
        try:
            invoice = self._payable(offer, record_id=record_id, now=now)
            sent = await self.sender.pay(invoice.text, max_fee_msat=self.max_fee_msat(offer.amount))
        except (MalformedInput, RailUnavailable) as error:
            raise PaymentFailed(error.detail, record_id=record_id, retry_after=error.retry_after) from error
        if sent.state == "failed":
            raise PaymentFailed(f"the wallet's node could not pay: {sent.detail}", record_id=record_id)
        paid = _paid(sent, invoice)
        if paid is None:
            raise PaymentOutcomeUnknown(_in_doubt(sent), record_id=record_id)
        return paid

    def _payable(self, offer: Offer, *, record_id: str, now: int) -> bolt11.Invoice:
        """Return the invoice, which is what is paid, whatever the offer says beside it.

        Raises:
            PaymentFailed: it must not be paid.
        """
        invoice, network = invoice_of(offer), self._spec.network
        if (invoice.prefix, offer.network) != (network.prefix, network.id):
            raise PaymentFailed(f"the invoice is not for {network.name}", record_id=record_id)
        if invoice.amount_msat is None or invoice.amount_msat != offer.amount:
            raise PaymentFailed("the invoice is not for the amount of the offer", record_id=record_id)
        if now >= invoice.expires_at:
            raise PaymentFailed("the invoice has expired", record_id=record_id)
        return invoice

    def max_fee_msat(self, amount_msat: int) -> int:
        """Return the most that a payment of that amount may cost in fees."""
        return max(self._max_fee_sat * 1000, -(-amount_msat * self._max_fee_ppm // 1_000_000))

    # --- finding out

    async def resume(self, offer: Offer, payload: Json | None, *, record_id: str, now: int) -> Paid | NotPaid | Unknown:
        """Ask the node what became of the payment. A preimage in hand stays good, whatever the node says."""
        invoice = invoice_of(offer)
        in_hand = payload is not None and is_preimage_of(payload.get("preimage"), invoice.payment_hash)
        try:
            sent = await self.sender.lookup(invoice.payment_hash)
        except RailUnavailable as error:
            sent = SentPayment(state="unknown", detail=error.detail)
        if sent is not None and (paid := _paid(sent, invoice)) is not None:
            return paid
        if payload is not None and in_hand:
            return Paid(payload=payload, moved=True)
        if sent is None:
            # The request to pay may still be on its way to the node, which refuses it once the invoice has expired.
            gone = now > invoice.expires_at + _PAST_EXPIRY
            return NotPaid() if gone else Unknown(detail="the wallet's node knows of no such payment yet")
        return NotPaid() if sent.state == "failed" else Unknown(detail=_in_doubt(sent))


def _probe(prefix: bolt11.Prefix) -> str:
    """Return an invoice that nobody pays and nobody could be paid by: a node is asked what its fees may be."""
    nothing = bytes(32)
    invoice = bolt11.UnsignedInvoice(
        prefix=prefix,
        amount_msat=_PROBE_MSAT,
        created_at=0,
        payment_hash=nothing,
        payment_secret=nothing,
        description="rail402 doctor",
    )
    return bolt11.encode(invoice, system_random(32))


def _paid(sent: SentPayment, invoice: bolt11.Invoice) -> Paid | None:
    """Return the proof, if the payment is made and its preimage is the invoice's."""
    if sent.state != "paid" or sent.preimage is None or not is_preimage_of(sent.preimage, invoice.payment_hash):
        return None
    return Paid(payload={"preimage": sent.preimage.lower()}, fee=_msat(sent.fee_msat), moved=True)


def _in_doubt(sent: SentPayment) -> str:
    if sent.state == "paid":
        return "the wallet's node says that it paid and shows no preimage of the invoice"
    return sent.detail


def _msat(amount: int) -> Money:
    return Money.from_atomic(amount, MSAT_EXPONENT, "BTC")
