"""How a Lightning offer and its proof look in each dialect.

An offer is its invoice: amount, payee, expiry and what it was made for are signed in there, so `Offer.extra` holds the
invoice's text and nothing else, and one invoice serves every dialect of a 402. What a dialect says beside the invoice
is written from it, and compared with it when read: a difference stays in the offer, where the client's `check_offer`
refuses it and the server's offer token does not fit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from rail402.errors import MalformedInput
from rail402.protocol.base import Json, text_member
from rail402.protocol.offer import Flow, Mechanism, Offer
from rail402_lightning import bolt11
from rail402_lightning.exact import REASONS
from rail402_lightning.networks import network_of
from rail402_lightning.request_binding import PROFILE, UNBOUND

__all__ = [
    "L402Binding",
    "MppBinding",
    "PaymentUriBinding",
    "X402Binding",
    "XReceiptBinding",
    "invoice_of",
]

_UNBOUND_HASH: Final = hashlib.sha256(UNBOUND).digest()
_METHOD: Final = "lightning"
_SCHEME: Final = "lightning:"
_ATOMIC: Final = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_PUBLIC_KEY: Final = re.compile(r"0[23][0-9a-f]{64}", re.ASCII)
_HEX_32: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_MAX_SECONDS: Final = 2**31 - 1

_decode = lru_cache(maxsize=256)(bolt11.decode)


def invoice_of(offer: Offer) -> bolt11.Invoice:
    """Return the invoice that an offer is about.

    Raises:
        MalformedInput: it has none that can be read.
    """
    return _decode(text_member(offer.extra, "invoice"))


class _LightningBinding:
    """What the dialects share: the offer around an invoice, and a preimage as the proof."""

    def __init__(self, rail: str, mechanism: Mechanism) -> None:
        self._rail, self._mechanism = rail, mechanism

    def encode_proof(self, payload: Json) -> Json:
        return {"preimage": payload["preimage"]}

    def decode_proof(self, wire: Json) -> Json | None:
        return {"preimage": _preimage(wire["preimage"])} if "preimage" in wire else None

    def _offer(
        self,
        invoice: bolt11.Invoice,
        *,
        amount: int,
        expires_at: int,
        payee: str | None = None,
        timeout_seconds: int | None = None,
        claims: Json | None = None,
    ) -> Offer:
        """Return the offer of an invoice. What is left out is what the invoice says; `claims` are put beside it."""
        mechanism = self._mechanism
        timeout = invoice.expiry if timeout_seconds is None else timeout_seconds
        if not 0 < timeout <= _MAX_SECONDS:
            raise MalformedInput("expiry", "must be a number of seconds that a payment can be waited for")
        return Offer(
            rail=self._rail,
            mechanism=mechanism.name,
            network=network_of(invoice.prefix).id,
            asset=mechanism.asset,
            amount=amount,
            currency=mechanism.currency,
            exponent=mechanism.exponent,
            payee=invoice.payee.hex() if payee is None else payee,
            expires_at=expires_at,
            timeout_seconds=timeout,
            flow=Flow.UPFRONT,
            extra={"invoice": invoice.text, **(claims or {})},
        )


class X402Binding(_LightningBinding):
    """The `exact` scheme on `lnbtc:…` (specs/schemes/exact/scheme_exact_lnbtc.md), profile `http:1`.

    `paymentMethod` makes it payable for clients of an older draft too. Those show the invoice for a proof, and what
    became of it is the node's to say (see `LightningSpec.authenticate`).
    """

    reasons = REASONS

    def encode_offer(self, offer: Offer) -> Json | None:
        """Return the PaymentRequirements; None where the invoice is bound to no request."""
        invoice = invoice_of(offer)
        if invoice.description_hash == _UNBOUND_HASH:
            return None
        return {
            "scheme": "exact",
            "network": offer.network,
            "asset": offer.asset,
            "amount": str(offer.amount),
            "payTo": offer.payee,
            "maxTimeoutSeconds": offer.timeout_seconds,
            "extra": {
                "assetTransferMethod": offer.mechanism,
                "paymentFlow": str(offer.flow),
                "paymentMethod": _METHOD,
                "invoice": invoice.text,
                **_binding_claims(invoice),
            },
        }

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        """Read PaymentRequirements."""
        mechanism = self._mechanism
        if wire.get("scheme") != "exact" or wire.get("network") != mechanism.network:
            return None
        extra = wire.get("extra")
        if not isinstance(extra, Mapping):
            raise MalformedInput("extra", "must be an object")
        if extra.get("assetTransferMethod", mechanism.name) != mechanism.name:
            return None
        if extra.get("paymentFlow") != Flow.UPFRONT.value:
            raise MalformedInput("extra.paymentFlow", "must be upfront: a Lightning payment cannot be taken back")
        if wire.get("asset") != mechanism.asset:
            raise MalformedInput("asset", f"must be {mechanism.asset}")
        payee, timeout = text_member(wire, "payTo"), wire.get("maxTimeoutSeconds")
        if not _PUBLIC_KEY.fullmatch(payee):
            raise MalformedInput("payTo", "must be the public key of a node, 66 lower-case hexadecimal digits")
        if type(timeout) is not int:
            raise MalformedInput("maxTimeoutSeconds", "must be a number of seconds")
        invoice = _decode(text_member(extra, "invoice"))
        own = _binding_claims(invoice)
        claims = {name: extra.get(name) for name in own}
        return self._offer(
            invoice,
            amount=_atomic(wire, "amount"),
            expires_at=expires_at,
            payee=payee,
            timeout_seconds=timeout,
            claims={} if claims == own else claims,
        )

    def decode_proof(self, wire: Json) -> Json | None:
        """Read the payload: a preimage, in lower case as the scheme wants it, or the invoice itself."""
        if "preimage" not in wire and "invoice" in wire:
            return {"invoice": text_member(wire, "invoice")}
        payload = super().decode_proof(wire)
        if payload is not None and payload["preimage"] != wire["preimage"]:
            raise MalformedInput("preimage", "must be in lower case")
        return payload


class MppBinding(_LightningBinding):
    """MPP's method `lightning` with the intent `charge` (draft-lightning-charge-00); amounts are in sats."""

    def encode_offer(self, offer: Offer) -> Json:
        """Return method, intent and request."""
        invoice = invoice_of(offer)
        details = {
            "invoice": invoice.text,
            "paymentHash": invoice.payment_hash.hex(),
            "network": network_of(invoice.prefix).name,
        }
        request = {"amount": str(offer.amount // 1000), "currency": "sat", "methodDetails": details}
        return {"method": _METHOD, "intent": "charge", "request": request}

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        """Read method, intent and request; the invoice is authoritative, what is said beside it must fit it."""
        if (wire.get("method"), wire.get("intent")) != (_METHOD, "charge"):
            return None
        request = wire.get("request")
        details = request.get("methodDetails") if isinstance(request, Mapping) else None
        if not isinstance(request, Mapping) or not isinstance(details, Mapping):
            raise MalformedInput("request.methodDetails", "must be an object")
        if request.get("currency") != "sat":
            raise MalformedInput("request.currency", "must be sat")
        invoice = _decode(text_member(details, "invoice"))
        said = {"paymentHash": invoice.payment_hash.hex(), "network": network_of(invoice.prefix).name}
        for name, value in said.items():
            if details.get(name, value) != value:
                raise MalformedInput(f"request.methodDetails.{name}", "is not what the invoice says")
        return self._offer(invoice, amount=_atomic(request, "amount") * 1000, expires_at=expires_at)

    def listing(self, mechanism: Mechanism, amount: int | None) -> Json:
        """Return how discovery documents list a price: in sats."""
        said = None if amount is None else str(amount // 1000)
        return {"method": _METHOD, "intent": "charge", "amount": said, "currency": "sat"}


class L402Binding(_LightningBinding):
    """L402: the invoice says all of the offer; the payment hash is there for the macaroon, and compared with it."""

    def encode_offer(self, offer: Offer) -> Json:
        """Return the invoice and its payment hash."""
        invoice = invoice_of(offer)
        return {"invoice": invoice.text, "paymentHash": invoice.payment_hash.hex()}

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        """Read the invoice, which says itself until when it can be paid."""
        invoice = _decode(text_member(wire, "invoice"))
        if wire.get("paymentHash") not in (None, invoice.payment_hash.hex()):
            raise MalformedInput("invoice", "is not the one that the macaroon is made for")
        if invoice.amount_msat is None:
            raise MalformedInput("invoice", "names no amount, and an open invoice is never paid")
        return self._offer(invoice, amount=invoice.amount_msat, expires_at=invoice.expires_at)


class XReceiptBinding(_LightningBinding):
    """X-Receipt's `payment` object for the network `lightning`; the receipt is the preimage."""

    def encode_offer(self, offer: Offer) -> Json:
        """Return the `payment` object."""
        return {
            "network": _METHOD,
            "invoice": invoice_of(offer).text,
            "amount_sats": offer.amount // 1000,
            "expiry_seconds": offer.timeout_seconds,
        }

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        """Read the `payment` object. Where it names no amount, the invoice's counts."""
        if wire.get("network", _METHOD) != _METHOD:
            return None
        invoice = _decode(text_member(wire, "invoice"))
        sats = wire.get("amount_sats")
        if sats is not None and (type(sats) is not int or not 0 < sats * 1000 <= bolt11.MAX_AMOUNT_MSAT):
            raise MalformedInput("payment.amount_sats", "must be a whole number of sats, more than zero")
        amount = invoice.amount_msat if sats is None else sats * 1000
        if amount is None:
            raise MalformedInput("payment.invoice", "names no amount, and an open invoice is never paid")
        return self._offer(invoice, amount=amount, expires_at=expires_at)

    def encode_proof(self, payload: Json) -> Json:
        """Return the receipt."""
        return {"receipt": payload["preimage"]}

    def decode_proof(self, wire: Json) -> Json | None:
        """Read the receipt: 64 hexadecimal digits are a preimage, anything else is some other rail's."""
        receipt = text_member(wire, "receipt")
        return {"preimage": receipt.lower()} if _HEX_32.fullmatch(receipt) else None


class PaymentUriBinding(_LightningBinding):
    """Payment URIs: `lightning:` and the invoice, which says all of the offer."""

    def encode_offer(self, offer: Offer) -> Json:
        """Return the URI."""
        return {"uri": _SCHEME + invoice_of(offer).text}

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        """Read the URI. In codes to scan it is often in capitals; some wallets write `lightning://`."""
        uri = text_member(wire, "uri")
        if uri[: len(_SCHEME)].lower() != _SCHEME:
            return None
        text = uri[len(_SCHEME) :].removeprefix("//").partition("?")[0]
        invoice = _decode(text)
        if invoice.amount_msat is None:
            raise MalformedInput("payment_uri", "its invoice names no amount, and an open invoice is never paid")
        return self._offer(invoice, amount=invoice.amount_msat, expires_at=invoice.expires_at)

    def encode_proof(self, payload: Json) -> Json:
        """Return the preimage."""
        return {"proof": super().encode_proof(payload)}

    def decode_proof(self, wire: Json) -> Json | None:
        """Read the preimage."""
        return super().decode_proof(wire["proof"])


def _binding_claims(invoice: bolt11.Invoice) -> dict[str, Any]:
    """Return how x402 says what an invoice of ours is bound to: method, URL and body, and no header."""
    bound = "" if invoice.description_hash is None else invoice.description_hash.hex()
    return {"requestHash": bound, "requestBindingProfile": PROFILE, "requestBindingParams": {"headers": []}}


def _preimage(value: object) -> str:
    if not isinstance(value, str) or not _HEX_32.fullmatch(value):
        raise MalformedInput("preimage", "must be 64 hexadecimal digits")
    return value.lower()


def _atomic(members: Json, name: str) -> int:
    text = text_member(members, name)
    if not _ATOMIC.fullmatch(text):
        raise MalformedInput(name, "must be a decimal number, more than zero")
    return int(text)
