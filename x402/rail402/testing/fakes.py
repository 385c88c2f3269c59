"""A clock that stands still, and a whole rail whose money is a Python object.

`FakeSpec`, `FakeRail` and `FakeWallet` are complete and small, the way a third party would write a rail; they share a
`FakeLedger`, which is the money. It moves an amount at most once per proof, notes every call, and can be told how the
next ones end::

    ledger = FakeLedger()
    rail, wallet = FakeRail(ledger), FakeWallet(ledger)
    ledger.script("settle", Ending.UNKNOWN_DONE)      # the money moves, and the answer is lost
    ...
    assert ledger.charged_total == 3000

Two styles of money: `signed` (the payer signs, the server takes: authorization, upfront and escrow, as Base and Stripe
do) and `invoice` (the wallet moves the money and shows a preimage: upfront only, as Lightning does).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from rail402.clock import Clock
from rail402.errors import PaymentFailed, PaymentOutcomeUnknown, PaymentRejected
from rail402.money import Money
from rail402.protocol.base import Json, sha256_hex, text_member
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.offer import Flow, Mechanism, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import ConsumptionKey, Payment
from rail402.protocol.rail import (
    Cost,
    Failed,
    Held,
    Holds,
    NotPaid,
    Paid,
    PaymentRail,
    Pending,
    Refunded,
    Refunds,
    Released,
    Settled,
    Terms,
    Unknown,
    Verified,
    Wallet,
)
from rail402.testing.fake_ledger import Ending, FakeClock, FakeLedger, Transfer
from rail402.testing.fake_spec import FakeSpec, hash_of

__all__ = ["Ending", "FakeClock", "FakeLedger", "FakeRail", "FakeSpec", "FakeWallet", "Transfer"]

_GRACE: Final = 3600
"""Seconds after an invoice's expiry until which its payment may be shown for the first time."""


class FakeRail(PaymentRail, Holds, Refunds):
    """The server side of the fake rail; see `PaymentRail`.

    Args:
        ledger: the money.
        spec: shared with the wallets.
        payee: who is paid.
        clock: stamps settlements; without one they have no time.
        minimum: atomic units below which it makes no offer.
    """

    payee: str
    is_sandbox = True
    takes_less = True

    def __init__(
        self,
        ledger: FakeLedger,
        spec: FakeSpec | None = None,
        *,
        payee: str = "shop",
        clock: Clock | None = None,
        minimum: int = 1,
    ) -> None:
        self.ledger, self.spec, self.payee = ledger, spec or FakeSpec(), payee
        self.fake: FakeSpec = self.spec
        self.has_fixed_terms = self.fake.style == "signed"
        self.mints_offers = self.fake.style == "invoice"
        self._clock, self._minimum = clock, minimum
        self.started = False

    async def start(self) -> None:
        """Note that it was started."""
        self.started = True

    async def close(self) -> None:
        """Note that it was closed."""
        self.started = False

    async def health(self) -> None:
        """Raise what the ledger's hook `before` does."""
        if self.ledger.before is not None:
            await self.ledger.before("health", "")

    async def offer(self, order: Order, mechanism: Mechanism, terms: Terms) -> Offer | None:
        """Make an offer; a fresh invoice for each in the `invoice` style."""
        if terms.amount < self._minimum:
            return None
        await self.ledger.call("offer", order.digest)
        offer = mechanism.offer(
            self.fake.name,
            payee=self.payee,
            amount=terms.amount,
            expires_at=terms.expires_at,
            timeout_seconds=terms.timeout_seconds,
            flow=terms.flow,
        )
        return offer if self.fake.style == "signed" else self._with_invoice(offer)

    def _with_invoice(self, offer: Offer) -> Offer:
        preimage = self.fake.sign(f"invoice {len(self.ledger.invoices)}")
        hash_ = hash_of(preimage)
        key = self.fake.key(hash_)
        self.ledger.invoices[key] = Transfer(key, "", self.payee, offer.amount, hash_)
        self.ledger.proofs[key] = {"preimage": preimage}
        return offer.model_copy(update={"extra": {"hash": hash_, "invoice_amount": str(offer.amount)}})

    def least_taken(self, offer: Offer, amount: int) -> int:
        """Return `amount`, or the minimum; see `PaymentRail.least_taken`."""
        return min(max(amount, self._minimum), offer.amount)

    def issued_key(self, offer: Offer) -> ConsumptionKey | None:
        """Return the invoice's key in the `invoice` style."""
        return None if self.fake.style == "signed" else self.fake.key(text_member(offer.extra, "hash"))

    async def verify(self, offer: Offer, payment: Payment, verified: Verified, *, now: int) -> Verified:
        """Check the validity and the balance, or that the invoice was paid."""
        (key,) = verified.keys
        ending = await self.ledger.call("verify", key)
        if ending is not Ending.OK:
            raise PaymentRejected("scripted to be declined", code="payment_declined")
        if self.fake.style == "invoice":
            if key not in self.ledger.charged:
                raise PaymentRejected("the invoice is not paid", code="not_settled")
            if self.ledger.charged[key].payee != offer.payee:
                raise PaymentRejected("the invoice was another payee's", code="payee_mismatch")
            if now > offer.expires_at + _GRACE:
                raise PaymentRejected("it is shown too late", code="offer_expired")
            return replace(verified, payer=self.ledger.charged[key].payer)
        if key in self.ledger.charged or key in self.ledger.refunded:
            raise PaymentRejected("the proof has been used", code="proof_already_used")
        if payment.payload["valid_before"] <= now:
            raise PaymentRejected("the proof has expired", code="authorization_expired")
        if not self.ledger.covers(str(verified.payer), offer.amount):
            raise PaymentRejected("the balance is too small", code="insufficient_funds")
        return verified

    async def hold(self, charge: Charge, payment: Payment) -> Held | NotPaid | Failed | Unknown:
        """Reserve the amount."""
        key, transfer = self._transfer(charge)
        ending = await self.ledger.call("hold", key, lambda: self.ledger.hold(transfer))
        return Held(state={"hold": transfer.transaction}) if ending is Ending.OK else _refusal(ending)

    async def settle(self, charge: Charge, payment: Payment | None) -> Settled | NotPaid | Failed | Unknown:
        """Take the amount, or capture what is held; an invoice was paid before."""
        key, transfer = self._transfer(charge)
        if charge.offer.flow is Flow.ESCROW and key not in self.ledger.held | self.ledger.charged:
            return Failed(code="payment_declined", detail="nothing is held (any more)")
        invoice = self.fake.style == "invoice"
        ending = await self.ledger.call("settle", key, None if invoice else lambda: self.ledger.charge(transfer))
        if ending is not Ending.OK:
            return _refusal(ending)
        return self._settled(key) if key in self.ledger.charged else NotPaid()

    async def release(self, charge: Charge) -> Released | Settled | Unknown:
        """Let go of what is held."""
        key, _ = self._transfer(charge)
        ending = await self.ledger.call("release", key, lambda: self.ledger.release(key))
        if ending is not Ending.OK:
            return Unknown(detail="scripted")
        return self._settled(key) if key in self.ledger.charged else Released()

    async def refund(self, charge: Charge) -> Refunded | Failed | Unknown:
        """Give the money back."""
        key, _ = self._transfer(charge)
        ending = await self.ledger.call("refund", key, lambda: self.ledger.refund(key))
        if ending in (Ending.FAILED, Ending.NOT_PAID):
            return Failed(code="payment_declined", detail="scripted")
        return self._refunded(key) if ending is Ending.OK else Unknown(detail="scripted")

    async def lookup(
        self, charge: Charge, operation: Operation
    ) -> Held | Settled | Released | Refunded | NotPaid | Failed | Pending | Unknown:
        """Say what the ledger knows."""
        key, _ = self._transfer(charge)
        ending = await self.ledger.call("lookup", key)
        if ending is Ending.PENDING or self.ledger.is_pending(key):
            return Pending()
        if ending is not Ending.OK:
            return _refusal(ending)
        if key in self.ledger.refunded:
            return self._refunded(key)
        if key in self.ledger.charged:
            return self._settled(key)
        if key in self.ledger.held:
            return Held()
        return Released() if operation is Operation.RELEASE else NotPaid()

    def _transfer(self, charge: Charge) -> tuple[str, Transfer]:
        key = str(charge.rail_state["key"])
        transaction = f"fake-tx-{sha256_hex(key.encode())[:16]}"
        return key, Transfer(key, charge.payer or "", charge.offer.payee, charge.amount, transaction)

    def _refunded(self, key: str) -> Refunded:
        return Refunded(transaction=f"{self.ledger.refunded[key].transaction}-back")

    def _settled(self, key: str) -> Settled:
        return Settled(transaction=self.ledger.charged[key].transaction, at=self._clock() if self._clock else None)


def _refusal(ending: Ending) -> NotPaid | Failed | Unknown:
    if ending is Ending.NOT_PAID:
        return NotPaid()
    return Failed(code="payment_declined", detail="scripted") if ending is Ending.FAILED else Unknown(detail="scripted")


class FakeWallet(Wallet):
    """The client side of the fake rail; see `Wallet`.

    Args:
        payer: the account that pays.
        fee_ceiling: the most that paying may cost on top; `fee` is what it does cost.
    """

    def __init__(
        self,
        ledger: FakeLedger,
        spec: FakeSpec | None = None,
        *,
        payer: str = "alice",
        fee_ceiling: Money | None = None,
        fee: Money | None = None,
    ) -> None:
        self.ledger, self.payer = ledger, payer
        self.spec = self.fake = spec or FakeSpec()
        self.name = f"{self.fake.name}:{payer}"
        self._fee_ceiling, self._fee = fee_ceiling, fee

    async def can_pay(self, offer: Offer) -> Cost | None:
        """Say the price and the fee ceiling, where the network is ours and the balance covers it."""
        if not self._is_ours(offer) or not self.ledger.covers(self.payer, offer.amount):
            return None
        return Cost(price=offer.price, fee_ceiling=self._fee_ceiling)

    def _is_ours(self, offer: Offer) -> bool:
        ours = self.fake.mechanism
        return (offer.mechanism, offer.network, offer.asset) == (ours.name, ours.network, ours.asset)

    async def pay(self, offer: Offer, *, record_id: str, now: int) -> Paid:
        """Sign, or pay the invoice. The same record gives the same proof."""
        if not self._is_ours(offer) or offer.expires_at <= now:
            raise PaymentFailed("the offer is not this rail's, or has expired", record_id=record_id)
        nonce = sha256_hex(record_id.encode())
        move: Callable[[], None]
        if self.fake.style == "signed":
            key, proof = (
                record_id,
                self.fake.proof(offer, payer=self.payer, nonce=nonce, valid_before=now + offer.timeout_seconds),
            )
            move = partial(self.ledger.proofs.__setitem__, record_id, proof)
        else:
            key = self.fake.key(text_member(offer.extra, "hash"))
            if key not in self.ledger.charged and not self.ledger.covers(self.payer, offer.amount):
                raise PaymentFailed("the balance is too small", record_id=record_id)
            move = partial(self.ledger.charge, replace(self.ledger.invoices[key], payer=self.payer))
        ending = await self.ledger.call("pay", key, move)
        if ending in (Ending.NOT_PAID, Ending.FAILED):
            raise PaymentFailed("scripted to fail", record_id=record_id)
        if ending is not Ending.OK:
            raise PaymentOutcomeUnknown("scripted to be unknown", record_id=record_id)
        return Paid(payload=self.ledger.proofs[key], fee=self._fee, moved=self.fake.style == "invoice")

    async def resume(self, offer: Offer, payload: Json | None, *, record_id: str, now: int) -> Paid | NotPaid | Unknown:
        """Say what became of it: a signature that was made can be shown again until it expires."""
        key = record_id if self.fake.style == "signed" else self.fake.key(text_member(offer.extra, "hash"))
        ending = await self.ledger.call("resume", key)
        if ending is not Ending.OK or self.ledger.is_pending(key):
            return NotPaid() if ending in (Ending.NOT_PAID, Ending.FAILED) else Unknown(detail="scripted")
        if self.fake.style == "invoice":
            if key not in self.ledger.charged:
                return NotPaid()
            return Paid(payload=self.ledger.proofs[key], fee=self._fee, moved=True)
        proof = payload or self.ledger.proofs.get(record_id)
        if proof is None:
            return NotPaid()
        used = self.fake.key(str(proof["nonce"])) in self.ledger.charged
        return Paid(payload=proof, fee=self._fee) if used or proof["valid_before"] > now else NotPaid()
