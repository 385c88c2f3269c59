"""The part of the Lightning rail that publisher and agent share: what identifies a payment, proves it, and what an
offer must hold before it is paid. Pure.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

from rail402.errors import ConfigurationError, MalformedInput, OfferRefused, PaymentRejected
from rail402.money import MSAT_EXPONENT
from rail402.protocol.base import text_member
from rail402.protocol.offer import Flow, Mechanism, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import ConsumptionKey, Payment
from rail402.protocol.rail import Binding, Verified
from rail402_lightning import bolt11
from rail402_lightning.bindings import (
    L402Binding,
    MppBinding,
    PaymentUriBinding,
    X402Binding,
    XReceiptBinding,
    invoice_of,
)
from rail402_lightning.exact import SKEW as X402_SKEW
from rail402_lightning.exact import SchemeRefusal, check_challenge
from rail402_lightning.networks import Network, find_network, network_of
from rail402_lightning.request_binding import PROFILE, request_hash

__all__ = ["LightningSpec", "check_node", "invoice_of", "is_preimage_of"]

MAX_FINAL_CLTV: Final = 2016
"""Blocks that a payee may hold a payment at most: two weeks."""

_X402: Final = "x402-v2"
_MIN_SECONDS: Final = 30
_SKEW: Final = 300
_HEX_32: Final = re.compile("[0-9a-fA-F]{64}")

_PAYMENT_SECRET: Final = frozenset({14, 15})  # BOLT 9: without it nobody on Lightning can pay
_FAKE_WALLET: Final = "02b3cfa77350f0b6c53a207c98d229983a2d9906bf75bd3ce5ec2c52d8dbc7a991"


class LightningSpec:
    """The shared part of the Lightning rail on one network.

    Args:
        network: `mainnet`, `testnet`, `signet`, `regtest`, or the network's id.

    Raises:
        ConfigurationError: there is no such network.
    """

    name = "lightning"
    bare_replay = True  # a preimage is known to its payer and to the payee, and to nobody else

    def __init__(self, network: str = "mainnet") -> None:
        self.network: Network = find_network(network)
        self.mechanism = Mechanism(
            name="bolt11",
            network=self.network.id,
            asset="BTC",
            currency="BTC",
            exponent=MSAT_EXPONENT,
            step=1000,  # whole sats: not every node can ask for less
            flows=(Flow.UPFRONT,),
        )
        self.mechanisms = (self.mechanism,)
        self._x402 = X402Binding(self.name, self.mechanism)
        self.bindings: Mapping[str, Binding] = {
            _X402: self._x402,
            "l402": L402Binding(self.name, self.mechanism),
            "mpp": MppBinding(self.name, self.mechanism),
            "x-receipt": XReceiptBinding(self.name, self.mechanism),
            "payment-uri": PaymentUriBinding(self.name, self.mechanism),
        }

    def key(self, payment_hash: str) -> ConsumptionKey:
        """Return the consumption key of a payment hash, 64 hexadecimal digits."""
        return f"{self.network.id}:{payment_hash}"

    def identify(self, payment: Payment) -> frozenset[ConsumptionKey]:
        """Return the key of the payment: the hash of its preimage, or the one in its invoice.

        Raises:
            MalformedInput: the payload holds neither.
        """
        return frozenset({self.key(_payment_hash(payment).hex())})

    def mistaken_keys(self, payment: Payment) -> frozenset[ConsumptionKey]:
        """Return the key that fits where the payment hash was sent for the preimage."""
        preimage = payment.payload.get("preimage")
        return frozenset({self.key(preimage)} if isinstance(preimage, str) else ())

    def authenticate(self, offer: Offer, payment: Payment) -> Verified:
        """Check that the payment is the one that the offer's invoice asks for.

        A preimage proves it by itself. An invoice does not: it counts together with the token of the offer, which the
        402 told to this payer alone. An offer has it where it was verified, or is the charge's own shown again.

        Raises:
            PaymentRejected: `preimage_invalid`, what differs between offer and invoice, or `replay_not_proven` where
                an invoice is shown without the token.
        """
        invoice = invoice_of(offer)
        payment_hash = _payment_hash(payment)
        if payment_hash != invoice.payment_hash:
            raise PaymentRejected("the payment is not that of the offer's invoice", code="preimage_invalid")
        if "preimage" not in payment.payload and offer.token is None:
            raise PaymentRejected("show the preimage", code="replay_not_proven")
        differing = self._differing(offer, invoice)
        if differing is not None:
            raise PaymentRejected(f"the invoice is for another {differing}", code=f"{differing}_mismatch")
        text = payment_hash.hex()
        return Verified(keys=frozenset({self.key(text)}), state={"payment_hash": text})

    def check_offer(self, offer: Offer, order: Order, *, now: int) -> None:
        """Check what a payer must know before paying: that the invoice is what the offer says, and payable now.

        In x402 the invoice must also be made for this very request; what is wrong has the scheme's word beside it.

        Raises:
            OfferRefused: naming what is wrong.
        """
        try:
            invoice = invoice_of(offer)
        except MalformedInput as error:
            raise OfferRefused(error.detail) from error
        if invoice.amount_msat is None:
            raise OfferRefused("the invoice names no amount")
        differing = self._differing(offer, invoice)
        if differing == "network":
            raise OfferRefused(
                f"the invoice is for {network_of(invoice.prefix).name}, and this wallet pays on {self.network.name}"
            )
        is_x402 = offer.dialect == _X402
        if is_x402:
            self._check_x402(offer, order, now=now)
        if differing is not None:
            raise OfferRefused(f"the invoice is for another {differing} than the offer says")
        if invoice.min_final_cltv_expiry > MAX_FINAL_CLTV:
            raise OfferRefused(f"the payee could hold the payment for {invoice.min_final_cltv_expiry} blocks")
        _check_times(offer, invoice, now=now, skew=X402_SKEW if is_x402 else _SKEW)

    def _check_x402(self, offer: Offer, order: Order, *, now: int) -> None:
        """Check an offer by the scheme's own rules, as it is on the wire."""
        wire = self._x402.encode_offer(offer)
        if wire is None:
            raise OfferRefused("its invoice is bound to no request")
        extra = {**wire["extra"], **offer.extra}
        params = extra["requestBindingParams"]
        if isinstance(params, Mapping) and params.get("headers"):
            raise OfferRefused("the payment is bound to header fields of the request, which is not supported here")
        try:
            if offer.envelope is not None and _resource_url(offer.envelope) != order.url:
                word = "invalid_exact_lnbtc_request_mismatch"
                raise SchemeRefusal(word, "its resource.url is not that of this request", step=3)
            check_challenge({**wire, "extra": extra}, profile=PROFILE, request_hash=request_hash(order), now=now)
        except SchemeRefusal as error:
            raise OfferRefused(f"{error.detail} ({error.word})") from error
        except MalformedInput as error:
            raise OfferRefused(f"no payment can be bound to this request: {error.detail}") from error

    def _differing(self, offer: Offer, invoice: bolt11.Invoice) -> str | None:
        """Return which term of the invoice is another than the offer's, or None."""
        if (invoice.prefix, offer.network) != (self.network.prefix, self.network.id):
            return "network"
        if offer.asset != self.mechanism.asset:
            return "asset"
        if invoice.amount_msat != offer.amount:
            return "amount"
        return None if invoice.payee.hex() == offer.payee else "payee"


def is_preimage_of(preimage: object, payment_hash: bytes) -> bool:
    """Say whether `preimage`, 64 hexadecimal digits, hashes to the payment hash."""
    if not isinstance(preimage, str) or not _HEX_32.fullmatch(preimage):
        return False
    return hashlib.sha256(bytes.fromhex(preimage)).digest() == payment_hash


def check_node(invoice: bolt11.Invoice, network: Network) -> None:
    """Check by an invoice of a node that it is a real one, on the network that is configured.

    LNbits has a `FakeWallet` for development, whose invoices are for mainnet and whose money is made up. Its key
    follows from a secret with a default, and its invoices lack the features that a payment needs.

    Raises:
        ConfigurationError: it is not; says what to change.
    """
    if invoice.payee.hex() == _FAKE_WALLET or not invoice.features & _PAYMENT_SECRET:
        raise ConfigurationError(
            "the invoices come from no Lightning node: LNbits runs on its FakeWallet, whose money is made up; give it "
            'a node (LNBITS_BACKEND_WALLET_CLASS), or use backend="sandbox" to try things out'
        )
    if invoice.prefix != network.prefix:
        found = network_of(invoice.prefix).name
        raise ConfigurationError(f"the Lightning node is on {found}, and network={network.name!r} is set")


def _payment_hash(payment: Payment) -> bytes:
    if payment.offer is not None and "preimage" not in payment.payload:
        return bolt11.decode(text_member(payment.payload, "invoice")).payment_hash
    preimage = text_member(payment.payload, "preimage")
    if not _HEX_32.fullmatch(preimage):
        raise MalformedInput("preimage", "must be 64 hexadecimal digits")
    return hashlib.sha256(bytes.fromhex(preimage)).digest()


def _check_times(offer: Offer, invoice: bolt11.Invoice, *, now: int, skew: int) -> None:
    if invoice.created_at > now + skew:
        raise OfferRefused(f"the invoice was made {invoice.created_at - now} s in the future; is the clock right?")
    left = min(offer.expires_at, invoice.expires_at) - now
    if left <= min(_MIN_SECONDS, invoice.expiry // 4):
        raise OfferRefused("the invoice has expired" if left <= 0 else f"the invoice expires in {left} s")


def _resource_url(envelope: Mapping[str, Any]) -> object:
    resource = envelope.get("resource")
    return resource.get("url") if isinstance(resource, Mapping) else None
