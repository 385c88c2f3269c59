"""Three small rails for the dialects' tests: base signs, lightning has invoices, stripe speaks MPP only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rail402.errors import MalformedInput
from rail402.money import Money
from rail402.protocol.binding import OfferKeys
from rail402.protocol.challenge import Challenge
from rail402.protocol.charge import Charge, PaymentState
from rail402.protocol.dialect import Context
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import EMPTY_BODY_DIGEST, Order
from rail402.protocol.rail import Registry

NOW = 1_800_000_000
SECRETS = {"k1": b"1" * 32}
KEYS = OfferKeys(SECRETS)


def vectors(name: str) -> Any:
    return json.loads((Path(__file__).parents[2] / "vectors" / name).read_text())


def name_of(vector: Any) -> str:
    return str(vector["name"])


class Rail:
    """A rail whose proofs are `{"proof": text}`, and in X-Receipt the text behind its name."""

    def __init__(
        self, name: str, network: str, method: str, *, flow: Flow, speaks: str = "x402-v2 mpp x-receipt"
    ) -> None:
        self.name, self.network, self.method, self.flow = name, network, method, flow
        self.bare_replay = name == "lightning"
        every = {
            "x402-v1": X402V1Binding(self),
            "x402-v2": X402Binding(self),
            "mpp": MppBinding(self),
            "x-receipt": XReceiptBinding(self),
            "x-payment": XPaymentBinding(self),
            "x-price": XPriceBinding(self),
            "payment-uri": PaymentUriBinding(self),
        }
        self.bindings = {dialect: every[dialect] for dialect in speaks.split()}

    def offer(self, amount: str, payee: object, seconds: object, invoice: object, expires_at: int) -> Offer:
        if not (isinstance(amount, str) and amount.isascii() and amount.isdigit() and 0 < len(amount) < 80):
            raise MalformedInput("amount", "must be a number")
        if not isinstance(payee, str) or type(seconds) is not int or int(amount) == 0:
            raise MalformedInput("offer", "is wrong")
        return Offer(
            rail=self.name,
            mechanism="fake",
            network=self.network,
            asset="coin",
            amount=int(amount),
            currency="USD",
            exponent=6,
            payee=payee,
            expires_at=expires_at,
            timeout_seconds=seconds,
            flow=self.flow,
            extra={} if invoice is None else {"invoice": invoice},
        )


class Binding:
    def __init__(self, rail: Rail) -> None:
        self.rail = rail

    def encode_proof(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        return {"proof": payload["proof"]}

    def decode_proof(self, wire: Mapping[str, Any]) -> dict[str, Any] | None:
        if "proof" not in wire:
            return None
        if not isinstance(wire["proof"], str):
            raise MalformedInput("payload.proof", "must be a text")
        return {"proof": wire["proof"]}


class X402Binding(Binding):
    def encode_offer(self, offer: Offer) -> dict[str, Any]:
        wire: dict[str, Any] = {
            "scheme": "exact",
            "network": offer.network,
            "asset": offer.asset,
            "amount": str(offer.amount),
            "payTo": offer.payee,
            "maxTimeoutSeconds": offer.timeout_seconds,
        }
        if offer.flow is not Flow.AUTHORIZATION:
            wire["extra"] = {"paymentFlow": offer.flow.value, **offer.extra}
        return wire

    def decode_offer(self, wire: Mapping[str, Any], *, expires_at: int) -> Offer | None:
        assert "token" not in wire["extra"]
        if (wire.get("scheme"), wire.get("network")) != ("exact", self.rail.network):
            return None
        seconds, invoice = wire.get("maxTimeoutSeconds"), wire["extra"].get("invoice")
        return self.rail.offer(wire.get("amount", ""), wire.get("payTo"), seconds, invoice, expires_at)


class X402V1Binding(X402Binding):
    def encode_offer(self, offer: Offer) -> dict[str, Any]:
        wire = super().encode_offer(offer)
        return {"maxAmountRequired": wire.pop("amount"), **wire}

    def decode_offer(self, wire: Mapping[str, Any], *, expires_at: int) -> Offer | None:
        amount = {"amount": wire.get("maxAmountRequired", ""), "extra": wire.get("extra", {})}
        return super().decode_offer({**wire, **amount}, expires_at=expires_at)

    def encode_proof(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        return {"payload": super().encode_proof(payload)}

    def decode_proof(self, wire: Mapping[str, Any]) -> dict[str, Any] | None:
        if (wire["scheme"], wire["network"]) != ("exact", self.rail.network):
            return None
        return super().decode_proof(wire["payload"])


class MppBinding(Binding):
    def encode_offer(self, offer: Offer) -> dict[str, Any]:
        request = {"amount": str(offer.amount), "currency": offer.asset, "recipient": offer.payee}
        details = {"seconds": offer.timeout_seconds, **offer.extra}
        return {"method": self.rail.method, "intent": "charge", "request": request | {"methodDetails": details}}

    def decode_offer(self, wire: Mapping[str, Any], *, expires_at: int) -> Offer | None:
        if (wire["method"], wire["intent"]) != (self.rail.method, "charge"):
            return None
        request = wire["request"]
        details = request.get("methodDetails")
        if not isinstance(details, dict):
            raise MalformedInput("request.methodDetails", "must be an object")
        seconds, invoice = details.get("seconds", 60), details.get("invoice")
        return self.rail.offer(request.get("amount", ""), request.get("recipient"), seconds, invoice, expires_at)


class XReceiptBinding(Binding):
    def encode_offer(self, offer: Offer) -> dict[str, Any]:
        wire = {"network": self.rail.name, "amount_sats": offer.amount, "expiry_seconds": offer.timeout_seconds}
        return wire | {"payee": offer.payee, **offer.extra}

    def decode_offer(self, wire: Mapping[str, Any], *, expires_at: int) -> Offer | None:
        if wire.get("network", "lightning") != self.rail.name:
            return None
        amount = wire.get("amount_sats")
        if type(amount) is not int:
            raise MalformedInput("payment.amount_sats", "must be a number")
        return self.rail.offer(str(amount), wire.get("payee", ""), 60, wire.get("invoice"), expires_at)

    def encode_proof(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        return {"receipt": f"{self.rail.name}-{payload['proof']}"}

    def decode_proof(self, wire: Mapping[str, Any]) -> dict[str, Any] | None:
        rail, found, proof = wire["receipt"].partition("-")
        if not found or rail != self.rail.name:
            return None
        if not proof:
            raise MalformedInput("x-receipt", "is cut short")
        return {"proof": proof}


class ProofBinding(Binding):
    """Proofs are transaction hashes on the chain, preimages on Lightning."""

    def encode_proof(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        return {"proof": {self.member: payload["proof"]}}

    def decode_proof(self, wire: Mapping[str, Any]) -> dict[str, Any] | None:
        proof = wire["proof"].get(self.member)
        return None if proof is None else super().decode_proof({"proof": proof})

    @property
    def member(self) -> str:
        return "preimage" if self.rail.bare_replay else "transaction"


class XPaymentBinding(ProofBinding):
    def encode_offer(self, offer: Offer) -> dict[str, Any]:
        return {"price": str(offer.amount), "receiver": offer.payee, "network": offer.network, "asset": offer.asset}

    def decode_offer(self, wire: Mapping[str, Any], *, expires_at: int) -> Offer | None:
        if wire.get("network") != self.rail.network:
            return None
        return self.rail.offer(wire.get("price", ""), wire.get("receiver"), 60, None, expires_at)


class XPriceBinding(ProofBinding):
    def encode_offer(self, offer: Offer) -> dict[str, Any]:
        said = {"price": str(offer.amount), "currency": "USDC", "paymentAddress": offer.payee}
        return said | {"network": offer.network}

    def decode_offer(self, wire: Mapping[str, Any], *, expires_at: int) -> Offer | None:
        if wire.get("network", self.rail.network) != self.rail.network or wire.get("currency", "USDC") != "USDC":
            return None
        return self.rail.offer(wire["price"], wire["paymentAddress"], 60, None, expires_at)


class PaymentUriBinding(ProofBinding):
    def encode_offer(self, offer: Offer) -> dict[str, Any]:
        return {"uri": f"{self.rail.name}:{offer.payee}/{offer.amount}"}

    def decode_offer(self, wire: Mapping[str, Any], *, expires_at: int) -> Offer | None:
        scheme, _, rest = wire["uri"].partition(":")
        if scheme != self.rail.name:
            return None
        payee, _, amount = rest.partition("/")
        invoice = "lnbcrt1" if self.rail.bare_replay else None
        return self.rail.offer(amount, payee, 60, invoice, expires_at)


BASE = Rail(
    "base",
    "eip155:84532",
    "evm",
    flow=Flow.AUTHORIZATION,
    speaks="x402-v1 x402-v2 mpp x-receipt x-payment x-price payment-uri",
)
LIGHTNING = Rail(
    "lightning",
    "lnbtc:0f9188f13cb7b2c71f2a335e3a4fc328",
    "lightning",
    flow=Flow.UPFRONT,
    speaks="x402-v2 mpp x-receipt payment-uri",
)
STRIPE = Rail("stripe", "stripe:test", "stripe", flow=Flow.ESCROW, speaks="mpp")
RAILS = (BASE, LIGHTNING, STRIPE)
SERVER = Context(specs=Registry(RAILS), now=NOW, realm="api.example.com", keys=KEYS)  # type: ignore[arg-type]
CLIENT = Context(specs=Registry(RAILS), now=NOW)  # type: ignore[arg-type]

ORDER = Order(method="GET", url="https://api.example.com/a?b=c", route="GET /a")


def order(body_digest: str = EMPTY_BODY_DIGEST) -> Order:
    return ORDER.model_copy(update={"body_digest": body_digest})


def offer_of(rail: Rail, of: Order = ORDER, *, amount: int = 3000, payee: str = "payee", seconds: int = 60) -> Offer:
    invoice = "lnbcrt1" if rail.name == LIGHTNING.name else None
    return KEYS.issue(rail.offer(str(amount), payee, seconds, invoice, NOW + 300), of, b"n" * 16)


def challenge_of(*offers: Offer, of: Order = ORDER, **more: Any) -> Challenge:
    return Challenge(order=of, price=Money.parse("0.003 USD"), offers=offers, now=NOW, **more)


def charge_of(offer: Offer, payment: PaymentState = PaymentState.SETTLED, **facts: Any) -> Charge:
    return Charge(
        id="ch_1",
        order=ORDER,
        offer=offer.model_copy(update={"token": None}),
        price=Money.parse("0.003 USD"),
        dialect="any",
        keys=(),
        created_at=NOW,
        lease_until=NOW,
        window=600,
        payment=payment,
        **facts,
    )


def terms(offer: Offer) -> dict[str, Any]:
    """What an offer says and the token it carries, whatever dialect brought it."""
    return offer.model_dump(exclude={"dialect", "envelope"})
