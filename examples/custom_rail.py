"""Store credit, a rail in one file (docs/writing-a-rail.md): customers of a shop sign for what they spend there."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

from rail402.errors import MalformedInput, OfferRefused, PaymentFailed, PaymentRejected
from rail402.protocol.base import Json, hmac_sha256, text_member
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.offer import Flow, Mechanism, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import ConsumptionKey, Payment
from rail402.protocol.rail import Binding, Cost, Failed, NotPaid, Paid, PaymentRail, Settled, Terms, Verified, Wallet

WORD = "[0-9A-Za-z]{1,64}"


class Book:
    """Who has how many cents, and which charge has taken which payment. Where money is real: tables, transactions."""

    def __init__(self, credit: Mapping[str, int]) -> None:
        self.credit, self.taken = dict(credit), dict[str, tuple[str, int]]()

    async def take(self, key: str, charge: str, customer: str, cents: int) -> None:
        if key not in self.taken and cents <= self.credit.get(customer, 0):
            self.credit[customer] -= cents
            self.taken[key] = (charge, cents)

    async def taker(self, key: str) -> str | None:
        return self.taken[key][0] if key in self.taken else None

    async def left(self, customer: str) -> int:
        return self.credit.get(customer, 0)


def sign(key: str, *terms: str) -> str:
    return hmac_sha256(key.encode(), "\n".join(terms).encode()).hex()


class CreditSpec:
    name, bare_replay, flows = "credit", False, (Flow.AUTHORIZATION, Flow.UPFRONT)

    def __init__(self, shop: str, shop_key: str = "") -> None:
        self.shop, self._shop_key = shop, shop_key  # the key is the server's; a customer's own follows from it
        unit = {"asset": "cent", "currency": "USD", "exponent": 2}
        self.mechanism = Mechanism(name="signed", network=f"credit:{shop}", flows=self.flows, **unit)
        self.mechanisms = (self.mechanism,)
        self.bindings: Mapping[str, Binding] = {"x402-v2": X402Binding(self.mechanism)}

    def key_of(self, customer: str) -> str:
        return sign(self._shop_key, customer)

    def identify(self, payment: Payment) -> frozenset[ConsumptionKey]:
        customer, nonce = (text_member(payment.payload, name, WORD) for name in ("customer", "nonce"))
        return frozenset({f"{self.mechanism.network}:{customer}:{nonce}"})

    def authenticate(self, offer: Offer, payment: Payment) -> Verified:
        (key,), proof = self.identify(payment), payment.payload
        expected = sign(self.key_of(proof["customer"]), proof["nonce"], offer.canonical.decode())
        if not hmac.compare_digest(expected, text_member(proof, "signature", WORD)):
            raise PaymentRejected("the customer has not signed these terms", code="signature_invalid")
        return Verified(keys=frozenset({key}), payer=proof["customer"], state={"key": key})

    def fits(self, offer: Offer) -> bool:
        terms = offer.mechanism, offer.network, offer.asset, offer.payee
        return terms == ("signed", self.mechanism.network, "cent", self.shop)

    def check_offer(self, offer: Offer, order: Order, *, now: int) -> None:
        if not self.fits(offer) or offer.expires_at <= now:
            raise OfferRefused(f"it is not for credit at {self.shop}, or has expired")


class X402Binding:
    def __init__(self, mechanism: Mechanism) -> None:
        self._mechanism = mechanism

    def encode_offer(self, offer: Offer) -> Json:
        terms = {"amount": str(offer.amount), "asset": offer.asset, "payTo": offer.payee, "network": offer.network}
        when = {"maxTimeoutSeconds": offer.timeout_seconds, "extra": {"flow": offer.flow.value}}
        return {"scheme": "credit", **terms, **when}

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        if (wire.get("scheme"), wire.get("network")) != ("credit", self._mechanism.network):
            return None
        seconds, extra = wire.get("maxTimeoutSeconds"), wire.get("extra")
        flow = extra.get("flow") if isinstance(extra, Mapping) else None
        if type(seconds) is not int or seconds <= 0 or flow not in self._mechanism.flows:
            raise MalformedInput("maxTimeoutSeconds", "and extra.flow must be there")
        when: Any = {"expires_at": expires_at, "timeout_seconds": seconds, "flow": Flow(flow)}
        amount, payee = text_member(wire, "amount", "[1-9][0-9]{0,11}"), text_member(wire, "payTo")
        return self._mechanism.offer("credit", payee=payee, amount=int(amount), **when)

    def encode_proof(self, payload: Json) -> Json:
        return dict(payload)

    def decode_proof(self, wire: Json) -> Json | None:
        return {name: text_member(wire, name, WORD) for name in ("customer", "nonce", "signature")}


class CreditRail(PaymentRail):
    def __init__(self, book: Book, *, shop: str, shop_key: str, is_sandbox: bool = False) -> None:
        self.spec, self._book, self.payee, self.is_sandbox = CreditSpec(shop, shop_key), book, shop, is_sandbox

    async def offer(self, order: Order, mechanism: Mechanism, terms: Terms) -> Offer | None:
        when: Any = {"expires_at": terms.expires_at, "timeout_seconds": terms.timeout_seconds, "flow": terms.flow}
        return mechanism.offer("credit", payee=str(self.payee), amount=terms.amount, **when)

    async def verify(self, offer: Offer, payment: Payment, verified: Verified, *, now: int) -> Verified:
        if now > offer.expires_at:
            raise PaymentRejected("ask for a new offer", code="offer_expired")
        if await self._book.left(str(verified.payer)) < offer.amount:
            raise PaymentRejected("there is not so much credit left", code="insufficient_funds")
        return verified

    async def settle(self, charge: Charge, payment: Payment | None) -> Settled | NotPaid | Failed:
        await self._book.take(charge.rail_state["key"], charge.id, str(charge.payer), charge.amount)
        found = await self.lookup(charge, Operation.SETTLE)
        return Failed(code="insufficient_funds") if isinstance(found, NotPaid) else found

    async def lookup(self, charge: Charge, operation: Operation) -> Settled | NotPaid | Failed:
        taker = await self._book.taker(charge.rail_state["key"])
        if taker is None:
            return NotPaid()
        return Settled(transaction=f"credit-{charge.id}") if taker == charge.id else Failed(code="proof_already_used")

    async def health(self) -> None:
        await self._book.left("")


class CreditWallet(Wallet):
    def __init__(self, *, shop: str, customer: str, key: str) -> None:
        self.spec = self._spec = CreditSpec(shop)
        self.name, self._customer, self._key = f"credit:{shop}:{customer}", customer, key

    async def can_pay(self, offer: Offer) -> Cost | None:
        return Cost(price=offer.price) if self._spec.fits(offer) else None

    async def pay(self, offer: Offer, *, record_id: str, now: int) -> Paid:
        if not self._spec.fits(offer) or offer.expires_at <= now:
            raise PaymentFailed("the offer is not this shop's, or has expired", record_id=record_id)
        nonce = sign(self._key, record_id)  # the same record is the same payment
        signature = sign(self._key, nonce, offer.canonical.decode())
        return Paid(payload={"customer": self._customer, "nonce": nonce, "signature": signature})

    async def resume(self, offer: Offer, payload: Json | None, *, record_id: str, now: int) -> Paid | NotPaid:
        return NotPaid() if payload is None else Paid(payload=payload)  # a signature that nobody has seen pays nothing
