"""Store credit, a payment rail in one file: customers have credit at a shop, and sign for what they spend of it.

docs/writing-a-rail.md explains it. A package registers it by an entry point, so that rail402.toml can name it:

    [project.entry-points."rail402.rails"]
    credit = "rail402_credit:PLUGIN"  # a rail402.plugins.RailPlugin
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any

from rail402.errors import MalformedInput, OfferRefused, PaymentFailed, PaymentRejected
from rail402.protocol.base import Json
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.offer import Flow, Mechanism, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import ConsumptionKey, Payment
from rail402.protocol.rail import Binding, Cost, Failed, NotPaid, Paid, PaymentRail, Settled, Terms, Verified, Wallet


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


def sign(key: str, *terms: object) -> str:
    return hmac.digest(key.encode(), "\n".join(map(str, terms)).encode(), hashlib.sha256).hex()


class CreditSpec:
    name, bare_replay, flows = "credit", False, (Flow.AUTHORIZATION, Flow.UPFRONT)

    def __init__(self, shop: str, shop_key: str = "") -> None:
        self.shop, self._shop_key = shop, shop_key  # the key is the server's; a customer's own follows from it
        unit = {"asset": "cent", "currency": "USD", "exponent": 2}
        self.mechanism = Mechanism(name="signed", network=f"credit:{shop}", flows=self.flows, **unit)
        self.mechanisms = (self.mechanism,)
        self.bindings: Mapping[str, Binding] = {"mpp": MppBinding(self), "x402-v2": X402Binding(self)}

    def key_of(self, customer: str) -> str:
        return sign(self._shop_key, customer)

    def offer(self, amount: int, **terms: Any) -> Offer:
        unit = self.mechanism.model_dump(include={"network", "asset", "currency", "exponent"})
        return Offer(rail=self.name, mechanism="signed", payee=self.shop, amount=amount, **unit, **terms)

    def identify(self, payment: Payment) -> frozenset[ConsumptionKey]:
        customer, nonce = word(payment.payload, "customer"), word(payment.payload, "nonce")
        return frozenset({f"{self.mechanism.network}:{customer}:{nonce}"})

    def authenticate(self, offer: Offer, payment: Payment) -> Verified:
        (key,), proof = self.identify(payment), payment.payload
        expected = sign(self.key_of(proof["customer"]), proof["nonce"], *signed_terms(offer))
        if not hmac.compare_digest(expected, word(proof, "signature")):
            raise PaymentRejected("the customer has not signed these terms", code="signature_invalid")
        return Verified(keys=frozenset({key}), payer=proof["customer"], state={"key": key})

    def mistaken_keys(self, payment: Payment) -> frozenset[ConsumptionKey]:
        return frozenset()  # there is no public half of a proof that could be sent by mistake

    def check_offer(self, offer: Offer, order: Order, *, now: int) -> None:
        if signed_terms(offer)[1:] != ("signed", self.mechanism.network, "cent", self.shop) or offer.expires_at <= now:
            raise OfferRefused(f"it is not for credit at {self.shop}, or has expired")


def signed_terms(offer: Offer) -> tuple[object, ...]:
    return offer.amount, offer.mechanism, offer.network, offer.asset, offer.payee


def word(members: Mapping[str, Any], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not value.isascii() or not value.isalnum() or len(value) > 64:
        raise MalformedInput(name, "must be 1 to 64 letters and digits")
    return value


class X402Binding:
    def __init__(self, spec: CreditSpec) -> None:
        self._spec, self._network = spec, spec.mechanism.network

    def encode_offer(self, offer: Offer) -> Json:
        terms = {"amount": str(offer.amount), "asset": "cent", "payTo": offer.payee}
        when = {"maxTimeoutSeconds": offer.timeout_seconds, "extra": {"flow": offer.flow.value}}
        return {"scheme": "credit", "network": self._network, **terms, **when}

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        if (wire.get("scheme"), wire.get("network")) != ("credit", self._network):
            return None
        amount, seconds, extra = wire.get("amount"), wire.get("maxTimeoutSeconds"), wire.get("extra")
        flow = extra.get("flow") if isinstance(extra, Mapping) else None
        if not isinstance(amount, str) or not re.fullmatch("[1-9][0-9]{0,11}", amount, re.ASCII):
            raise MalformedInput("amount", "must be cents, more than zero, as a text")
        if type(seconds) is not int or seconds <= 0 or flow not in self._spec.flows:
            raise MalformedInput("maxTimeoutSeconds", "and extra.flow must be there")
        return self._spec.offer(int(amount), flow=Flow(flow), expires_at=expires_at, timeout_seconds=seconds)

    def encode_proof(self, payload: Json) -> Json:
        return dict(payload)

    def decode_proof(self, wire: Json) -> Json | None:
        return {name: word(wire, name) for name in ("customer", "nonce", "signature")}


class MppBinding(X402Binding):
    def encode_offer(self, offer: Offer) -> Json:
        return {"method": "credit", "intent": "charge", "request": {"currency": "cent", **super().encode_offer(offer)}}

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        return super().decode_offer(wire["request"], expires_at=expires_at) if wire["method"] == "credit" else None


class CreditRail(PaymentRail):
    has_fixed_terms = True

    def __init__(self, book: Book, *, shop: str, shop_key: str, is_sandbox: bool = False) -> None:
        self.spec = self._spec = CreditSpec(shop, shop_key)
        self._book, self.payee, self.is_sandbox = book, shop, is_sandbox

    async def offer(self, order: Order, mechanism: Mechanism, terms: Terms) -> Offer | None:
        when = {"expires_at": terms.expires_at, "timeout_seconds": terms.timeout_seconds}
        return self._spec.offer(terms.amount, flow=terms.flow, **when)

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
        self.spec, self.name = CreditSpec(shop), f"credit:{shop}:{customer}"
        self._customer, self._key = customer, key

    def _is_ours(self, offer: Offer) -> bool:
        return signed_terms(offer)[1:4] == ("signed", self.spec.mechanisms[0].network, "cent")

    async def can_pay(self, offer: Offer) -> Cost | None:
        return Cost(price=offer.price) if self._is_ours(offer) else None

    async def pay(self, offer: Offer, *, record_id: str, now: int) -> Paid:
        if not self._is_ours(offer) or offer.expires_at <= now:
            raise PaymentFailed("the offer is not this shop's, or has expired", record_id=record_id)
        nonce = sign(self._key, record_id)  # the same record is the same payment
        signature = sign(self._key, nonce, *signed_terms(offer))
        return Paid(payload={"customer": self._customer, "nonce": nonce, "signature": signature})

    async def resume(self, offer: Offer, payload: Json | None, *, record_id: str, now: int) -> Paid | NotPaid:
        return NotPaid() if payload is None else Paid(payload=payload)  # a signature that nobody has seen pays nothing
