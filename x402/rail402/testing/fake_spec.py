"""The pure half of the fake rail: what it signs and checks, and how that looks in each dialect."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode

from rail402.errors import MalformedInput, OfferRefused, PaymentRejected
from rail402.money import Money
from rail402.protocol.base import Json, canonical_json, parse_json, sha256_hex, text_member
from rail402.protocol.offer import Flow, Mechanism, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import ConsumptionKey, Payment
from rail402.protocol.rail import Binding, Verified

__all__ = ["FakeSpec", "hash_of"]

_AMOUNT = re.compile(r"[1-9][0-9]{0,30}", re.ASCII)


class FakeSpec:
    """The pure half of the fake rail.

    Args:
        name: the rail's name; its network is `fake:<name>`.
        style: `signed` or `invoice`, see above.
        currency, exponent, step: what an atomic unit is: `("USD", 6)`, or `("BTC", 11, 1000)`.
        secret: what proofs are signed with; a proof signed with another one is forged.
    """

    def __init__(
        self,
        name: str = "fake",
        *,
        style: Literal["signed", "invoice"] = "signed",
        currency: str = "USD",
        exponent: int = 6,
        step: int = 1,
        secret: bytes = b"the fake rail's secret",
    ) -> None:
        self.name, self.style, self._secret = name, style, secret
        self.bare_replay = style == "invoice"
        flows = (Flow.AUTHORIZATION, Flow.UPFRONT, Flow.ESCROW) if style == "signed" else (Flow.UPFRONT,)
        self.mechanism = Mechanism(
            name=style,
            network=f"fake:{name}",
            asset=currency.lower(),
            currency=currency,
            exponent=exponent,
            step=step,
            flows=flows,
        )
        self.mechanisms = (self.mechanism,)
        self.bindings: dict[str, Binding] = {
            "x402-v2": _X402(name, self.mechanism),
            "mpp": _Mpp(name, self.mechanism),
            "x402-v1": _X402V1(name, self.mechanism),
            "x-receipt": _XReceipt(name, self.mechanism),
        }
        self.bindings["payment-uri"] = _PaymentUri(name, self.mechanism)
        if style == "invoice":
            self.bindings["l402"] = _L402(name, self.mechanism)
        else:
            self.bindings |= {"x-payment": _XPayment(name, self.mechanism), "x-price": _XPrice(name, self.mechanism)}

    def identify(self, payment: Payment) -> frozenset[ConsumptionKey]:
        """Return the nonce's key, or the hash of the preimage's; see `RailSpec`."""
        if self.style == "signed":
            return frozenset({self.key(text_member(payment.payload, "nonce"))})
        return frozenset({self.key(hash_of(text_member(payment.payload, "preimage")))})

    def mistaken_keys(self, payment: Payment) -> frozenset[ConsumptionKey]:
        """Return the key that fits where the hash was sent for the preimage."""
        if self.style == "signed":
            return frozenset()
        return frozenset({self.key(text_member(payment.payload, "preimage"))})

    def authenticate(self, offer: Offer, payment: Payment) -> Verified:
        """Check the signature, amount, payee and network, or the preimage; see `RailSpec`."""
        (key,) = self.identify(payment)
        for member in ("network", "asset"):
            if getattr(offer, member) != getattr(self.mechanism, member):
                raise PaymentRejected(f"the offer is on another {member}", code=f"{member}_mismatch")
        if self.style == "invoice":
            if key != self.key(text_member(offer.extra, "hash")):
                raise PaymentRejected("the preimage is another invoice's", code="preimage_invalid")
            if text_member(offer.extra, "invoice_amount") != str(offer.amount):
                raise PaymentRejected("the invoice is for another amount", code="amount_mismatch")
            return Verified(keys=frozenset({key}), state={"key": key})
        terms = payment.payload
        if not hmac.compare_digest(self.sign(_signed_text(terms)).encode(), text_member(terms, "signature").encode()):
            raise PaymentRejected("the proof was not signed by the fake rail's secret", code="signature_invalid")
        expected = {"amount": str(offer.amount), "payee": offer.payee, "network": offer.network, "asset": offer.asset}
        for member, value in expected.items():
            if terms.get(member) != value:
                raise PaymentRejected(f"the proof says another {member}", code=f"{member}_mismatch")
        return Verified(keys=frozenset({key}), payer=str(terms["payer"]), state={"key": key})

    def check_offer(self, offer: Offer, order: Order, *, now: int) -> None:
        """Refuse an offer of another network, an expired one, and one whose invoice says another amount."""
        if (offer.network, offer.asset) != (self.mechanism.network, self.mechanism.asset):
            raise OfferRefused(f"{offer.asset} on {offer.network} is not this rail's")
        if offer.expires_at <= now:
            raise OfferRefused("the offer has expired")
        if self.style == "invoice" and text_member(offer.extra, "invoice_amount") != str(offer.amount):
            raise OfferRefused("the invoice is for another amount than the offer says")

    def key(self, nonce: str) -> ConsumptionKey:
        """Return the consumption key of a nonce or a hash."""
        return f"{self.mechanism.network}:{nonce}"

    def sign(self, text: str) -> str:
        """Return the signature over a text, in hexadecimal digits."""
        return hmac.digest(self._secret, text.encode(), hashlib.sha256).hex()

    def proof(self, offer: Offer, *, payer: str, nonce: str, valid_before: int) -> dict[str, Any]:
        """Return a signed proof of that offer."""
        terms: dict[str, Any] = {
            "payer": payer,
            "payee": offer.payee,
            "network": offer.network,
            "asset": offer.asset,
            "amount": str(offer.amount),
            "nonce": nonce,
            "valid_before": valid_before,
        }
        return terms | {"signature": self.sign(_signed_text(terms))}


def _signed_text(terms: Mapping[str, Any]) -> str:
    if type(terms.get("valid_before")) is not int:
        raise MalformedInput("valid_before", "must be Unix seconds")
    texts = [text_member(terms, name) for name in ("payer", "payee", "network", "asset", "amount", "nonce")]
    return "\n".join([*texts, str(terms["valid_before"])])


def hash_of(preimage: str) -> str:
    """Return the hash that an invoice with this preimage has; both are hexadecimal digits.

    Raises:
        MalformedInput: the preimage is not.
    """
    try:
        return sha256_hex(bytes.fromhex(preimage))
    except ValueError as error:
        raise MalformedInput("preimage", "must be hexadecimal digits") from error


def _offer(rail: str, mechanism: Mechanism, expires_at: int, wire: Mapping[str, Any]) -> Offer:
    """Read an offer whose members have the names of ours, `pay_to` and `extra` included."""
    amount, timeout, extra = text_member(wire, "amount"), wire.get("timeout_seconds"), wire.get("extra", {})
    flow = text_member(wire, "flow")
    if not _AMOUNT.fullmatch(amount):
        raise MalformedInput("amount", "must be a decimal number of atomic units")
    if not isinstance(timeout, int) or isinstance(timeout, bool) or timeout <= 0:
        raise MalformedInput("timeout_seconds", "must be a number of seconds")
    if not isinstance(extra, Mapping):
        raise MalformedInput("extra", "must be an object")
    if flow not in mechanism.flows:
        raise MalformedInput("flow", f"must be one of {', '.join(mechanism.flows)}")
    return mechanism.offer(
        rail,
        payee=text_member(wire, "payee"),
        amount=int(amount),
        expires_at=expires_at,
        timeout_seconds=timeout,
        flow=Flow(flow),
        extra=dict(extra),
    )


class _Plain:
    """What the three bindings share; proofs travel as they are."""

    def __init__(self, rail: str, mechanism: Mechanism) -> None:
        self.rail, self.mechanism = rail, mechanism

    def encode_proof(self, payload: Json) -> Json:
        return dict(payload)

    def decode_proof(self, wire: Json) -> Json | None:
        return dict(wire) if ("nonce" if self.mechanism.name == "signed" else "preimage") in wire else None


class _X402(_Plain):
    """The `exact` scheme on `fake:<name>`; `extra` carries the flow."""

    def encode_offer(self, offer: Offer) -> Json:
        return {
            "scheme": "exact",
            "network": offer.network,
            "asset": offer.asset,
            "amount": str(offer.amount),
            "payTo": offer.payee,
            "maxTimeoutSeconds": offer.timeout_seconds,
            "extra": {**offer.extra, "paymentFlow": offer.flow.value},
        }

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        if wire.get("scheme") != "exact" or wire.get("network") != self.mechanism.network:
            return None
        extra = wire.get("extra")
        if not isinstance(extra, Mapping):
            raise MalformedInput("extra", "must be an object")
        members = {
            "amount": wire.get("amount"),
            "payee": wire.get("payTo"),
            "timeout_seconds": wire.get("maxTimeoutSeconds"),
            "flow": extra.get("paymentFlow"),
            "extra": {name: value for name, value in extra.items() if name != "paymentFlow"},
        }
        return _offer(self.rail, self.mechanism, expires_at, members)


class _X402V1(_Plain):
    """The `exact` scheme of version 1, whose clients send nothing of the offer back."""

    def encode_offer(self, offer: Offer) -> Json:
        requirements = _X402(self.rail, self.mechanism).encode_offer(offer)
        return {("maxAmountRequired" if name == "amount" else name): value for name, value in requirements.items()}

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        requirements = {("amount" if name == "maxAmountRequired" else name): value for name, value in wire.items()}
        return _X402(self.rail, self.mechanism).decode_offer(requirements, expires_at=expires_at)

    def encode_proof(self, payload: Json) -> Json:
        return {"payload": dict(payload)}

    def decode_proof(self, wire: Json) -> Json | None:
        if wire.get("scheme") != "exact" or wire.get("network") != self.mechanism.network:
            return None
        proof = wire.get("payload")
        return super().decode_proof(proof) if isinstance(proof, Mapping) else None


class _L402(_Plain):
    """An invoice is its hash, amount and payee; the preimage is the proof."""

    def encode_offer(self, offer: Offer) -> Json:
        members = {name: getattr(offer, name) for name in ("amount", "payee", "timeout_seconds", "expires_at")}
        invoice = canonical_json({**members, "hash": offer.extra["hash"]})
        return {"invoice": base64.urlsafe_b64encode(invoice).decode(), "paymentHash": offer.extra["hash"]}

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        try:
            decoded = base64.b64decode(text_member(wire, "invoice"), altchars=b"-_", validate=True)
        except ValueError as error:
            raise MalformedInput("invoice", "is not base64url") from error
        invoice = parse_json(decoded, field="invoice", max_bytes=4096)
        if wire.get("paymentHash") not in (None, invoice.get("hash")):
            raise MalformedInput("invoice", "is not the one that the macaroon is made for")
        amount = str(invoice.get("amount"))
        extra = {"hash": invoice.get("hash"), "invoice_amount": amount}
        members = {**invoice, "amount": amount, "flow": Flow.UPFRONT, "extra": extra}
        return _offer(self.rail, self.mechanism, invoice["expires_at"], members)


class _Mpp(_Plain):
    """The method `<name>` with the intent `charge`."""

    def encode_offer(self, offer: Offer) -> Json:
        details = {"flow": offer.flow.value, "timeoutSeconds": offer.timeout_seconds, "extra": dict(offer.extra)}
        request = {"amount": str(offer.amount), "currency": offer.asset, "recipient": offer.payee}
        return {"method": self.rail, "intent": "charge", "request": request | {"methodDetails": details}}

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        if (wire.get("method"), wire.get("intent")) != (self.rail, "charge"):
            return None
        request = wire.get("request")
        details = request.get("methodDetails") if isinstance(request, Mapping) else None
        if not isinstance(request, Mapping) or not isinstance(details, Mapping):
            raise MalformedInput("request.methodDetails", "must be an object")
        members = {
            "amount": request.get("amount"),
            "payee": request.get("recipient"),
            "timeout_seconds": details.get("timeoutSeconds"),
            "flow": details.get("flow"),
            "extra": details.get("extra", {}),
        }
        return _offer(self.rail, self.mechanism, expires_at, members)


class _XReceipt(_Plain):
    """The `payment` object says everything; the receipt is `<name>:` and the proof in base64url."""

    def encode_offer(self, offer: Offer) -> Json:
        return {
            "network": offer.network,
            "amount": str(offer.amount),
            "payee": offer.payee,
            "flow": offer.flow.value,
            "timeout_seconds": offer.timeout_seconds,
            "extra": dict(offer.extra),
        }

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        if wire.get("network") != self.mechanism.network:
            return None
        return _offer(self.rail, self.mechanism, expires_at, wire)

    def encode_proof(self, payload: Json) -> Json:
        return {"receipt": f"{self.rail}:{base64.urlsafe_b64encode(canonical_json(dict(payload))).decode()}"}

    def decode_proof(self, wire: Json) -> Json | None:
        rail, _, encoded = text_member(wire, "receipt").partition(":")
        if rail != self.rail:
            return None
        try:
            decoded = base64.b64decode(encoded, altchars=b"-_", validate=True)
        except ValueError as error:
            raise MalformedInput("receipt", "is not base64url") from error
        return parse_json(decoded, field="receipt", max_bytes=4096)


class _Proof(_Plain):
    """What the dialects of `X-Payment-Proof` share."""

    def encode_proof(self, payload: Json) -> Json:
        return {"proof": dict(payload)}

    def decode_proof(self, wire: Json) -> Json | None:
        return super().decode_proof(wire["proof"])

    def _read(self, wire: Mapping[str, Any], payee: object, expires_at: int) -> Offer:
        """Read an offer with a decimal price, and the default flow where it says none."""
        mechanism = self.mechanism
        price = Money.parse(f"{text_member(wire, 'price')} {mechanism.currency}")
        defaults = {"flow": mechanism.flows[0].value, "timeout_seconds": 60}
        amount = str(price.to_atomic(mechanism.exponent))
        return _offer(self.rail, mechanism, expires_at, {**defaults, **wire, "payee": payee, "amount": amount})

    def _said(self, offer: Offer) -> dict[str, Any]:
        more = {"network": offer.network, "asset": offer.asset, "flow": offer.flow.value}
        return {"price": str(offer.price.amount), **more, "timeout_seconds": offer.timeout_seconds}


class _XPayment(_Proof):
    """The signed proof, whole."""

    def encode_offer(self, offer: Offer) -> Json:
        return {**self._said(offer), "receiver": offer.payee}

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        known = wire.get("network") == self.mechanism.network
        return self._read(wire, wire.get("receiver"), expires_at) if known else None


class _XPrice(_Proof):
    """The same proof; where no network is named, the currency decides."""

    def encode_offer(self, offer: Offer) -> Json:
        return {**self._said(offer), "currency": offer.currency, "paymentAddress": offer.payee}

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        named = (wire.get("network", self.mechanism.network), wire.get("currency"))
        known = named == (self.mechanism.network, self.mechanism.currency)
        return self._read(wire, wire.get("paymentAddress"), expires_at) if known else None


class _PaymentUri(_Proof):
    """`fake:<name>?` and the offer's members as parameters."""

    def encode_offer(self, offer: Offer) -> Json:
        members = {"amount": offer.amount, "payee": offer.payee, "flow": offer.flow.value}
        said = urlencode({**members, "timeout_seconds": offer.timeout_seconds, **offer.extra})
        return {"uri": f"{self.mechanism.network}?{said}"}

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        network, _, query = wire["uri"].partition("?")
        if network != self.mechanism.network:
            return None
        said: dict[str, Any] = dict(parse_qsl(query))
        seconds = said.pop("timeout_seconds", "")
        members = {name: said.pop(name, None) for name in ("amount", "payee", "flow")}
        timeout = int(seconds) if re.fullmatch(r"[0-9]{1,9}", seconds, re.ASCII) else None
        return _offer(self.rail, self.mechanism, expires_at, {**members, "timeout_seconds": timeout, "extra": said})
