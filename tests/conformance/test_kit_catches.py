"""The kits can fail: rails and wallets that are broken in one place each, and the case that finds it."""

from __future__ import annotations

import inspect
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rail402.errors import (
    MalformedInput,
    OfferRefused,
    PaymentFailed,
    PaymentOutcomeUnknown,
    PaymentRejected,
    Rail402Error,
    RailUnavailable,
)
from rail402.money import Money
from rail402.protocol.base import Json
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.offer import Flow, Mechanism, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import Payment
from rail402.protocol.rail import (
    Cost,
    Failed,
    Held,
    NotPaid,
    Observation,
    Paid,
    Refunded,
    Released,
    Settled,
    Terms,
    Unknown,
    Verified,
)
from rail402.testing.fakes import FakeLedger, FakeRail, FakeSpec, FakeWallet, Transfer
from rail402.testing.rail_bench import Way
from rail402.testing.rail_till import RailCases, Till
from rail402.testing.rails import RailConformance
from rail402.testing.wallets import WalletConformance
from tests.conformance.benches import FAKE_KEY, FakeBench

SIGNED = (("signed", "authorization"), ("signed", "upfront"), ("signed", "escrow"))
INVOICE = (("invoice", "upfront"),)

CAUGHT = (AssertionError, pytest.fail.Exception, Rail402Error, KeyError, AttributeError)
"""How a case fails. That it is for the defect is shown by the same case on a bench without it."""


# --- broken money


class Greedy(FakeLedger):
    """Takes and gives whenever it is asked."""

    def charge(self, transfer: Transfer) -> None:
        self._debit(transfer.payer, transfer.amount)
        known = self.charged.get(transfer.key)
        self.held.pop(transfer.key, None)
        self.charged[transfer.key] = replace(transfer, amount=transfer.amount + (known.amount if known else 0))

    def refund(self, key: str) -> None:
        transfer = self.charged.pop(key, None) or self.refunded[key]
        self._debit(transfer.payer, -transfer.amount)
        self.refunded[key] = transfer


class RefundsSomebodyElse(FakeLedger):
    def refund(self, key: str) -> None:
        if transfer := self.charged.pop(key, None):
            self._debit("bob", -transfer.amount)
            self.refunded[key] = transfer


class RefundsLess(FakeLedger):
    def refund(self, key: str) -> None:
        if transfer := self.charged.get(key):
            self._debit(transfer.payer, 1)
        super().refund(key)


class HoldsForEachCharge(FakeLedger):
    """Reserves the same payment as often as it is asked, and takes all of that."""

    def hold(self, transfer: Transfer) -> None:
        self._debit(transfer.payer, transfer.amount)
        known = self.held.get(transfer.key)
        self.held[transfer.key] = replace(transfer, amount=transfer.amount + (known.amount if known else 0))

    def charge(self, transfer: Transfer) -> None:
        held = self.held.pop(transfer.key, None)
        super().charge(held or transfer)
        if held:
            self._debit(transfer.payer, -held.amount)


class Keeper(FakeLedger):
    """Gives nothing back of what it holds."""

    def release(self, key: str) -> None:
        self.held.pop(key, None)


# --- broken rails


class OneMore(FakeRail):
    def _transfer(self, charge: Charge) -> tuple[str, Transfer]:
        key, transfer = super()._transfer(charge)
        return key, replace(transfer, amount=transfer.amount + 1)


class OffersOneMore(FakeRail):
    async def offer(self, order: Order, mechanism: Mechanism, terms: Terms) -> Offer | None:
        return await super().offer(order, mechanism, replace(terms, amount=terms.amount + 1))


class OffersAnything(FakeRail):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **{**named, "minimum": 1})


class OffersForEver(FakeRail):
    async def offer(self, order: Order, mechanism: Mechanism, terms: Terms) -> Offer | None:
        return await super().offer(order, mechanism, replace(terms, expires_at=terms.expires_at + 1))


class NamesNobody(FakeRail):
    async def offer(self, order: Order, mechanism: Mechanism, terms: Terms) -> Offer | None:
        offer, self.payee = await super().offer(order, mechanism, terms), None  # type: ignore[assignment]
        return offer


class BreaksOverWords(FakeRail):
    async def offer(self, order: Order, mechanism: Mechanism, terms: Terms) -> Offer | None:
        return None if len(terms.description) > 1000 else await super().offer(order, mechanism, terms)


class OneKeyForAllOffers(FakeRail):
    def issued_key(self, offer: Offer) -> str | None:
        return "fake:fake:the one"


class SaysItIsFixed(FakeRail):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.has_fixed_terms = True


class AlwaysSettled(FakeRail):
    async def lookup(self, charge: Charge, operation: Operation) -> Any:
        return Settled(transaction="probably")


class NeverSettled(FakeRail):
    async def lookup(self, charge: Charge, operation: Operation) -> Any:
        return NotPaid()


class GuessesInTheDark(FakeRail):
    async def lookup(self, charge: Charge, operation: Operation) -> Any:
        try:
            return await super().lookup(charge, operation)
        except RailUnavailable:
            return NotPaid()


class SettlesWhenLookingUp(FakeRail):
    async def lookup(self, charge: Charge, operation: Operation) -> Any:
        return await self.settle(charge, None) if operation is Operation.SETTLE else NotPaid()


class CallsLossesUnpaid(FakeRail):
    async def settle(self, charge: Charge, payment: Payment | None) -> Any:
        answer = await super().settle(charge, payment)
        return NotPaid() if isinstance(answer, Unknown) else answer


class CallsLossesFailed(FakeRail):
    async def hold(self, charge: Charge, payment: Payment) -> Any:
        answer = await super().hold(charge, payment)
        return Failed(code="payment_declined") if isinstance(answer, Unknown) else answer


class NamesNoTransaction(FakeRail):
    async def settle(self, charge: Charge, payment: Payment | None) -> Any:
        answer = await super().settle(charge, payment)
        return replace(answer, transaction="") if isinstance(answer, Settled) else answer


class NamesAnother(FakeRail):
    numbers: ClassVar = itertools.count()

    async def settle(self, charge: Charge, payment: Payment | None) -> Any:
        answer = await super().settle(charge, payment)
        return replace(answer, transaction=f"tx-{next(self.numbers)}") if isinstance(answer, Settled) else answer


class NamesTheSame(FakeRail):
    def _settled(self, key: str) -> Settled:
        return replace(super()._settled(key), transaction="fake-tx")


class KnowsItByItsLease(FakeRail):
    """Tells its backend what it asks for by parts of the charge that change with each write of it."""

    parts: ClassVar[tuple[str, ...]] = ("lease_until",)

    def _transfer(self, charge: Charge) -> tuple[str, Transfer]:
        key, transfer = super()._transfer(charge)
        key = ":".join([key, *(str(getattr(charge, part)) for part in self.parts)])
        return key, replace(transfer, key=key)


class KnowsItByItsVersion(KnowsItByItsLease):
    parts = ("version",)


class VerifiesAnotherPayer(FakeRail):
    async def verify(self, offer: Offer, payment: Payment, verified: Verified, *, now: int) -> Verified:
        return replace(await super().verify(offer, payment, verified, now=now), payer="bob")


class HasCodesOfItsOwn(FakeRail):
    async def verify(self, offer: Offer, payment: Payment, verified: Verified, *, now: int) -> Verified:
        try:
            return await super().verify(offer, payment, verified, now=now)
        except PaymentRejected as error:
            raise PaymentRejected(error.detail, code="fake_coin") from error


class FailsInTheDark(FakeRail):
    async def settle(self, charge: Charge, payment: Payment | None) -> Any:
        try:
            return await super().settle(charge, payment)
        except RailUnavailable:
            return Failed(code="payment_declined")


class RefusesInTheDark(FakeRail):
    async def verify(self, offer: Offer, payment: Payment, verified: Verified, *, now: int) -> Verified:
        try:
            return await super().verify(offer, payment, verified, now=now)
        except RailUnavailable as error:
            raise PaymentRejected("not now", code="payment_declined") from error


class OffersNothingInTheDark(FakeRail):
    async def offer(self, order: Order, mechanism: Mechanism, terms: Terms) -> Offer | None:
        with suppress(RailUnavailable):
            return await super().offer(order, mechanism, terms)
        return None


class AlwaysWell(FakeRail):
    async def health(self) -> None:
        pass


class StartsOnce(FakeRail):
    async def start(self) -> None:
        if self.started:
            raise RailUnavailable("it is open already")
        await super().start()


class VerifiesNothing(FakeRail):
    async def verify(self, offer: Offer, payment: Payment, verified: Verified, *, now: int) -> Verified:
        return verified


class TakesWhenVerifying(FakeRail):
    async def verify(self, offer: Offer, payment: Payment, verified: Verified, *, now: int) -> Verified:
        verified = await super().verify(offer, payment, verified, now=now)
        (key,) = verified.keys
        if key not in self.ledger.charged:
            self.ledger.charge(Transfer(key, str(verified.payer), offer.payee, offer.amount, "early"))
        return verified


class RemembersTheProof(FakeRail):
    async def verify(self, offer: Offer, payment: Payment, verified: Verified, *, now: int) -> Verified:
        verified = await super().verify(offer, payment, verified, now=now)
        return replace(verified, state={**verified.state, "proof": dict(payment.payload)})


class RemembersItsKey(FakeRail):
    async def verify(self, offer: Offer, payment: Payment, verified: Verified, *, now: int) -> Verified:
        verified = await super().verify(offer, payment, verified, now=now)
        return replace(verified, state={**verified.state, "made_with": FAKE_KEY.decode()})


class LogsItsProofs(FakeRail):
    async def settle(self, charge: Charge, payment: Payment | None) -> Any:
        logging.getLogger("fake").debug("taking %s", payment and payment.payload)
        return await super().settle(charge, payment)


class LogsItsKey(FakeRail):
    async def start(self) -> None:
        logging.getLogger("fake").debug("signing with %s", FAKE_KEY.decode())
        await super().start()


class ShowsItsSecrets(FakeRail):
    def __repr__(self) -> str:
        return f"{[*self.ledger.proofs.values()]}"


class HoldsNothing(FakeRail):
    async def hold(self, charge: Charge, payment: Payment) -> Any:
        return Held()


class TakesWhenHolding(FakeRail):
    async def hold(self, charge: Charge, payment: Payment) -> Any:
        answer = await super().hold(charge, payment)
        await self.settle(charge, payment)
        return answer


class CapturesWhatItReleased(FakeRail):
    async def settle(self, charge: Charge, payment: Payment | None) -> Any:
        key, transfer = self._transfer(charge)
        self.ledger.charge(transfer)
        return self._settled(key)


class ReleasesWhatItTook(FakeRail):
    async def release(self, charge: Charge) -> Any:
        await super().release(charge)
        return Released()


class TakesAllOfIt(FakeRail):
    def _transfer(self, charge: Charge) -> tuple[str, Transfer]:
        key, transfer = super()._transfer(charge)
        return key, replace(transfer, amount=charge.offer.amount)


class RefundsTheOffer(FakeRail):
    async def refund(self, charge: Charge) -> Any:
        key, _ = self._transfer(charge)
        known = key in self.ledger.charged
        answer = await super().refund(charge)
        if known:
            self.ledger._debit(str(charge.payer), charge.amount - charge.offer.amount)
        return answer


class FindsNoRefund(FakeRail):
    async def lookup(self, charge: Charge, operation: Operation) -> Any:
        found = await super().lookup(charge, operation)
        return Settled(transaction="still here") if isinstance(found, Refunded) else found


class FindsEveryRefund(FakeRail):
    async def lookup(self, charge: Charge, operation: Operation) -> Any:
        return Refunded() if operation is Operation.REFUND else await super().lookup(charge, operation)


class RealMoney(FakeRail):
    is_sandbox = False


# --- broken specs


class OneKey(FakeSpec):
    def key(self, nonce: str) -> str:
        return "fake:the one"


class NewKeys(FakeSpec):
    numbers: ClassVar = itertools.count()

    def key(self, nonce: str) -> str:
        return f"fake:{next(self.numbers)}"


class NoKeys(FakeSpec):
    def identify(self, payment: Payment) -> frozenset[str]:
        return frozenset()


class KeysByDialect(FakeSpec):
    def identify(self, payment: Payment) -> frozenset[str]:
        return frozenset(f"{payment.dialect}:{key}" for key in super().identify(payment))

    def authenticate(self, offer: Offer, payment: Payment) -> Verified:
        (key,) = super().identify(payment)
        known = super().authenticate(offer, payment.model_copy(update={"dialect": ""}))
        return replace(known, keys=self.identify(payment), state={"key": key})


class KeysByThePayersText(FakeSpec):
    """What the payer wrote is the key: it writes it otherwise, and has another payment."""

    def identify(self, payment: Payment) -> frozenset[str]:
        return super().identify(payment) | {f"text:{payment.payload['preimage']}"}

    def authenticate(self, offer: Offer, payment: Payment) -> Verified:
        (key,) = super().identify(payment)
        if key != self.key(offer.extra["hash"]):
            raise PaymentRejected("another invoice's", code="preimage_invalid")
        return Verified(keys=frozenset({key}), state={"key": key})


class Trusting(FakeSpec):
    """Checks the signature, and not what was signed."""

    ignored: ClassVar[tuple[str, ...]] = ("amount", "payee", "network", "asset")

    def authenticate(self, offer: Offer, payment: Payment) -> Verified:
        said = {name: payment.payload[name] for name in self.ignored}
        if "amount" in said:
            said["amount"] = int(said["amount"])
        return super().authenticate(offer.model_copy(update=said), payment)


class TrustsAmounts(Trusting):
    ignored = ("amount",)


class TrustsPayees(Trusting):
    ignored = ("payee",)


class TrustsNetworks(Trusting):
    ignored = ("network",)


class TrustsAssets(Trusting):
    ignored = ("asset",)


class Chatty(FakeSpec):
    def authenticate(self, offer: Offer, payment: Payment) -> Verified:
        try:
            return super().authenticate(offer, payment)
        except PaymentRejected as error:
            raise PaymentRejected(f"{error.detail}: {payment.payload}", code=error.code) from error


class ShowsItsKey(FakeSpec):
    def __repr__(self) -> str:
        return f"FakeSpec({self._secret!r})"


class BelievesTheServer(FakeSpec):
    def check_offer(self, offer: Offer, order: Order, *, now: int) -> None:
        pass


class ForgetsWhoPaid(FakeSpec):
    """Accepts each proof once: a replay is refused."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[str] = []

    def authenticate(self, offer: Offer, payment: Payment) -> Verified:
        verified = super().authenticate(offer, payment)
        (key,) = verified.keys
        self.seen.append(key)
        if self.seen.count(key) > 1:
            raise PaymentRejected("it was shown before", code="proof_already_used")
        return verified


class Rebound:
    """A binding with something else in one place."""

    def __init__(self, inner: Any, **changes: Callable[..., Any]) -> None:
        self._inner, self._changes = inner, changes

    def __getattr__(self, name: str) -> Any:
        change, plain = self._changes.get(name), getattr(self._inner, name)
        return plain if change is None else lambda *given, **named: change(plain, *given, **named)


class Bent(FakeSpec):
    changes: ClassVar[Mapping[str, Callable[..., Any]]] = {}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        changes = {name: getattr(type(self), name) for name in self._changed()}
        self.bindings = {name: Rebound(binding, **changes) for name, binding in self.bindings.items()}

    def _changed(self) -> list[str]:
        return [
            name for name in ("encode_offer", "decode_offer", "encode_proof", "decode_proof") if hasattr(self, name)
        ]


class LosesTheFlow(Bent):
    @staticmethod
    def decode_offer(plain: Any, wire: Any, *, expires_at: int) -> Offer | None:
        read = plain(wire, expires_at=expires_at)
        return None if read is None else read.model_copy(update={"flow": Flow.UPFRONT})


class ReadsTooMuch(Bent):
    @staticmethod
    def decode_offer(plain: Any, wire: Any, *, expires_at: int) -> Offer | None:
        read: Offer | None = plain(wire, expires_at=expires_at)
        if read is None:
            raise MalformedInput("network", "is not ours")
        return read


class BreaksOverBytes(Bent):
    @staticmethod
    def decode_offer(plain: Any, wire: Any, *, expires_at: int) -> Offer | None:
        try:
            return plain(wire, expires_at=expires_at)  # type: ignore[no-any-return]
        except MalformedInput as error:
            raise KeyError(error.field) from error


class BreaksOverProofs(Bent):
    @staticmethod
    def decode_proof(plain: Any, wire: Any) -> Any:
        read = plain(wire)
        return None if read is None else {**read, "nonce": read["nonce"].strip()}


class TakesEveryProof(Bent):
    @staticmethod
    def decode_proof(plain: Any, wire: Any) -> Any:
        return plain(wire) or {"nonce": "anything"}


class ChangesTheProof(Bent):
    @staticmethod
    def encode_proof(plain: Any, payload: Any) -> Any:
        return plain({name: value for name, value in payload.items() if name != "nonce"})


class OneMoreWay(FakeSpec):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.mechanisms: Any = (self.mechanism, self.mechanism.model_copy(update={"name": "other"}))


class RefusesAll(FakeSpec):
    def check_offer(self, offer: Offer, order: Order, *, now: int) -> None:
        raise OfferRefused("it does not look good")


class Unnamed(FakeSpec):
    def __init__(self, **options: Any) -> None:
        super().__init__("Fake Money", **options)


# --- broken wallets


class PaysOneMore(FakeWallet):
    async def pay(self, offer: Offer, *, record_id: str, now: int) -> Paid:
        paid = await super().pay(offer, record_id=record_id, now=now)
        self.ledger._debit(self.payer, 1)
        return paid


class PaysToLook(FakeWallet):
    async def examine(self) -> Sequence[Observation]:
        self.ledger._debit(self.payer, 1)
        return await super().examine()


class PaysEachTime(FakeWallet):
    async def pay(self, offer: Offer, *, record_id: str, now: int) -> Paid:
        (key,) = [key for key, invoice in self.ledger.invoices.items() if invoice.transaction == offer.extra["hash"]]
        if key in self.ledger.charged:
            self.ledger._debit(self.payer, offer.amount)
        return await super().pay(offer, record_id=record_id, now=now)


class HidesItsFee(FakeWallet):
    async def pay(self, offer: Offer, *, record_id: str, now: int) -> Paid:
        return replace(await super().pay(offer, record_id=record_id, now=now), fee=Money.parse("0.01 USD"))


class SaysAnotherPrice(FakeWallet):
    async def can_pay(self, offer: Offer) -> Cost | None:
        cost = await super().can_pay(offer)
        return None if cost is None else replace(cost, price=Money.parse("0.001 USD"))


class PaysAnywhere(FakeWallet):
    def _is_ours(self, offer: Offer) -> bool:
        return True


class PaysLate(FakeWallet):
    async def pay(self, offer: Offer, *, record_id: str, now: int) -> Paid:
        return await super().pay(offer, record_id=record_id, now=min(now, offer.expires_at - 1))


class OneProofForAll(FakeWallet):
    async def pay(self, offer: Offer, *, record_id: str, now: int) -> Paid:
        return await super().pay(offer, record_id="always", now=now)


class ForgetsAfterACrash(FakeWallet):
    async def resume(self, offer: Offer, payload: Any, *, record_id: str, now: int) -> Any:
        return NotPaid() if payload is None else await super().resume(offer, payload, record_id=record_id, now=now)


class BelievesItPaid(FakeWallet):
    async def resume(self, offer: Offer, payload: Any, *, record_id: str, now: int) -> Any:
        return Paid(payload=payload or self.ledger.proofs.get(record_id) or {})


class PaysToFindOut(FakeWallet):
    async def resume(self, offer: Offer, payload: Any, *, record_id: str, now: int) -> Any:
        return await self.pay(offer, record_id=record_id, now=now)


class SignsAnew(FakeWallet):
    async def resume(self, offer: Offer, payload: Any, *, record_id: str, now: int) -> Any:
        return await self.pay(offer, record_id=f"{record_id}-2", now=now)


class CallsItFailed(FakeWallet):
    async def pay(self, offer: Offer, *, record_id: str, now: int) -> Paid:
        try:
            return await super().pay(offer, record_id=record_id, now=now)
        except PaymentOutcomeUnknown as error:
            raise PaymentFailed("no answer") from error


class TakesEverythingBack(FakeWallet):
    async def withdraw(self, offer: Offer, payload: Any, *, record_id: str, now: int) -> bool:
        return True


class TellsItsProofs(FakeWallet):
    def __repr__(self) -> str:
        return repr([*self.ledger.proofs.values()])


class LogsWhatItPaid(FakeWallet):
    async def pay(self, offer: Offer, *, record_id: str, now: int) -> Paid:
        paid = await super().pay(offer, record_id=record_id, now=now)
        logging.getLogger("fake").debug("paid with %s", paid.payload)
        return paid


class ChangesTheOffer(FakeWallet):
    def for_order(self, offer: Offer, order: Order) -> Offer:
        return offer.model_copy(update={"amount": offer.amount + 1})


class CallsItGone(FakeWallet):
    async def resume(self, offer: Offer, payload: Json | None, **asked: Any) -> Paid | NotPaid | Unknown:
        found = await super().resume(offer, payload, **asked)
        return replace(found, moved=True) if isinstance(found, Paid) else found


class OpensOnce(FakeWallet):
    started = False

    async def start(self) -> None:
        if self.started:
            raise RailUnavailable("it is open already")
        self.started = True


# --- each of them is caught


@dataclass(frozen=True)
class Defect:
    """What is broken, and the case that finds it, as pytest names it."""

    broken: type
    case: str
    style: str = "signed"
    part: str | None = None
    done: bool | None = None
    flow: str | None = None

    def __str__(self) -> str:
        return f"{self.broken.__name__}-{self.case.removeprefix('test_')}"

    def bench(self) -> FakeBench:
        """Return a bench with it."""
        return self._bench(self.broken)

    def sound_bench(self) -> FakeBench:
        """Return a bench without it."""
        return self._bench(object)

    def _bench(self, broken: type) -> FakeBench:
        bench = FakeBench(self.style)

        def made(kind: Any) -> Any:
            return broken if issubclass(broken, kind) else kind

        bench.spec = made(FakeSpec)(style=self.style, secret=FAKE_KEY)
        bench.ledger = made(FakeLedger)({"alice": 1_000_000, "bob": 0})
        bench.rail = made(FakeRail)(bench.ledger, bench.spec, clock=bench.clock, minimum=10)
        bench.wallet = made(FakeWallet)(bench.ledger, bench.spec)
        wallet = made(FakeWallet)
        bench.next_wallet = lambda: wallet(bench.ledger, bench.spec)  # type: ignore[method-assign]
        return bench


RAILS = [
    Defect(Greedy, "test_settling_the_same_charge_again_moves_nothing"),
    Defect(Greedy, "test_settling_at_the_same_time_moves_it_once"),
    Defect(Greedy, "test_one_payment_in_two_charges_moves_once"),
    Defect(OneMore, "test_settling_moves_the_amount_once_on_both_books"),
    Defect(OneMore, "test_a_payment_buys_once"),
    Defect(NamesNoTransaction, "test_settling_moves_the_amount_once_on_both_books"),
    Defect(NamesAnother, "test_settling_the_same_charge_again_moves_nothing"),
    Defect(NamesAnother, "test_settling_at_the_same_time_moves_it_once"),
    Defect(NamesAnother, "test_a_settlement_is_found"),
    Defect(VerifiesAnotherPayer, "test_settling_moves_the_amount_once_on_both_books"),
    Defect(NamesTheSame, "test_two_settlements_are_told_apart"),
    Defect(HoldsForEachCharge, "test_one_payment_in_two_charges_moves_once", flow="escrow"),
    Defect(KnowsItByItsLease, "test_a_settlement_is_found"),
    Defect(KnowsItByItsLease, "test_a_lost_answer_is_found_out", done=True),
    Defect(KnowsItByItsLease, "test_a_lost_hold_is_found_out", done=True, flow="escrow"),
    Defect(KnowsItByItsVersion, "test_a_settlement_is_found"),
    Defect(KnowsItByItsVersion, "test_a_lost_answer_is_found_out", done=True),
    Defect(OffersOneMore, "test_an_offer_is_what_was_asked_for"),
    Defect(OffersForEver, "test_an_offer_is_what_was_asked_for"),
    Defect(OffersAnything, "test_too_small_a_price_is_not_offered"),
    Defect(NamesNobody, "test_it_says_who_is_paid"),
    Defect(BreaksOverWords, "test_whatever_is_sold_can_be_offered"),
    Defect(OneKeyForAllOffers, "test_an_offer_is_recognised_when_it_comes_back"),
    Defect(OneKeyForAllOffers, "test_a_payment_has_the_same_keys_each_time"),
    Defect(SaysItIsFixed, "test_an_offer_is_recognised_when_it_comes_back", style="invoice"),
    Defect(AlwaysSettled, "test_a_settlement_that_was_never_begun_is_not_found"),
    Defect(AlwaysSettled, "test_a_lookup_never_guesses"),
    Defect(AlwaysSettled, "test_a_lost_answer_is_found_out", done=False),
    Defect(AlwaysSettled, "test_a_hold_that_was_never_begun_is_not_found", flow="escrow"),
    Defect(NeverSettled, "test_a_settlement_is_found"),
    Defect(NeverSettled, "test_a_lost_answer_is_found_out", done=True),
    Defect(NeverSettled, "test_a_hold_reserves_and_is_found", flow="escrow"),
    Defect(GuessesInTheDark, "test_a_lookup_never_guesses"),
    Defect(SettlesWhenLookingUp, "test_a_settlement_that_was_never_begun_is_not_found"),
    Defect(SettlesWhenLookingUp, "test_a_lost_answer_is_found_out", done=False),
    Defect(CallsLossesUnpaid, "test_a_lost_answer_is_found_out", done=True),
    Defect(CallsLossesFailed, "test_a_lost_hold_is_found_out", done=True, flow="escrow"),
    Defect(FailsInTheDark, "test_nothing_is_taken_and_nothing_is_lost"),
    Defect(RefusesInTheDark, "test_nobody_is_refused_for_it"),
    Defect(OffersNothingInTheDark, "test_a_rail_that_is_down_says_so"),
    Defect(AlwaysWell, "test_a_rail_that_is_down_says_so"),
    Defect(StartsOnce, "test_it_starts_and_closes_twice_and_again"),
    Defect(VerifiesNothing, "test_what_was_not_paid_is_refused"),
    Defect(VerifiesNothing, "test_what_was_not_paid_is_refused", style="invoice"),
    Defect(HasCodesOfItsOwn, "test_what_was_not_paid_is_refused"),
    Defect(VerifiesNothing, "test_it_pays_for_no_offer_that_has_expired"),
    Defect(TakesWhenVerifying, "test_a_handler_that_fails_costs_as_the_flow_says"),
    Defect(RemembersTheProof, "test_secrets_are_not_stored_with_the_charge", style="invoice"),
    Defect(RemembersItsKey, "test_secrets_are_not_stored_with_the_charge"),
    Defect(ShowsItsSecrets, "test_secrets_are_in_no_repr", style="invoice"),
    Defect(ShowsItsKey, "test_secrets_are_in_no_repr"),
    Defect(LogsItsKey, "test_secrets_are_in_no_log"),
    Defect(LogsItsProofs, "test_secrets_are_in_no_log", style="invoice"),
    Defect(LogsItsProofs, "test_secrets_are_in_no_log_of_the_gate", style="invoice"),
    Defect(Chatty, "test_secrets_are_in_no_refusal", style="invoice"),
    Defect(HoldsNothing, "test_a_hold_reserves_and_is_found", flow="escrow"),
    Defect(TakesWhenHolding, "test_a_hold_reserves_and_is_found", flow="escrow"),
    Defect(TakesWhenHolding, "test_settling_moves_the_amount_once_on_both_books", flow="escrow"),
    Defect(Keeper, "test_a_release_gives_all_of_it_back", flow="escrow"),
    Defect(Keeper, "test_a_lost_release_is_found_out", done=True, flow="escrow"),
    Defect(CapturesWhatItReleased, "test_what_was_released_cannot_be_captured", flow="escrow"),
    Defect(ReleasesWhatItTook, "test_what_was_captured_is_not_released", flow="escrow"),
    Defect(TakesAllOfIt, "test_less_is_captured_where_less_is_asked", flow="escrow"),
    Defect(Greedy, "test_a_refund_gives_it_back_once"),
    Defect(Greedy, "test_refunds_at_the_same_time_give_it_back_once"),
    Defect(RefundsTheOffer, "test_no_more_goes_back_than_was_taken", flow="escrow"),
    Defect(RefundsSomebodyElse, "test_a_refund_gives_it_back_once"),
    Defect(RefundsSomebodyElse, "test_a_lost_refund_is_found_out", done=False),
    Defect(RefundsLess, "test_refunds_at_the_same_time_give_it_back_once"),
    Defect(RefundsLess, "test_no_more_goes_back_than_was_taken", flow="escrow"),
    Defect(FindsNoRefund, "test_a_refund_gives_it_back_once"),
    Defect(FindsNoRefund, "test_a_lost_refund_is_found_out", done=True),
    Defect(FindsEveryRefund, "test_a_refund_that_was_never_begun_is_not_found"),
    Defect(FindsEveryRefund, "test_a_lost_refund_is_found_out", done=False),
    Defect(RealMoney, "test_the_spec_says_what_the_rail_is"),
    Defect(Unnamed, "test_the_spec_says_what_the_rail_is"),
    Defect(OneKey, "test_two_payments_have_no_key_in_common"),
    Defect(NewKeys, "test_a_payment_has_the_same_keys_each_time"),
    Defect(NoKeys, "test_a_payment_has_the_same_keys_each_time"),
    Defect(KeysByDialect, "test_a_payment_has_the_same_keys_in_every_dialect"),
    Defect(KeysByThePayersText, "test_another_spelling_is_the_same_payment_or_none", style="invoice"),
    Defect(TrustsAmounts, "test_it_pays_for_no_larger_offer"),
    Defect(TrustsAmounts, "test_it_pays_for_no_offer_that_differs", part="amount"),
    Defect(TrustsPayees, "test_it_pays_for_no_offer_that_differs", part="payee"),
    Defect(Trusting, "test_it_pays_for_no_offer_that_differs", part="network"),
    Defect(Trusting, "test_it_pays_for_no_offer_that_differs", part="asset"),
    Defect(ForgetsWhoPaid, "test_a_payment_shown_again_moves_nothing"),
    Defect(NewKeys, "test_a_payment_opens_nothing_else"),
    Defect(TakesWhenVerifying, "test_looking_at_a_payment_moves_nothing"),
    Defect(ForgetsWhoPaid, "test_a_payment_is_taken_for_what_it_is"),
    Defect(OneMoreWay, "test_every_way_to_pay_is_proven"),
    Defect(LosesTheFlow, "test_offers_come_back_as_they_were"),
    Defect(ReadsTooMuch, "test_other_rails_offers_are_none_of_ours"),
    Defect(BreaksOverBytes, "test_hostile_offers_are_refused_by_name"),
    Defect(BreaksOverProofs, "test_hostile_proofs_are_refused_by_name"),
    Defect(TakesEveryProof, "test_other_rails_proofs_are_none_of_ours"),
    Defect(ChangesTheProof, "test_proofs_come_back_as_they_were"),
]

WALLETS = [
    Defect(PaysOneMore, "test_a_payment_moves_the_price_once"),
    Defect(PaysOneMore, "test_it_says_what_an_offer_would_cost"),
    Defect(PaysToLook, "test_to_examine_it_pays_nothing"),
    Defect(PaysEachTime, "test_the_same_record_is_one_payment", style="invoice"),
    Defect(HidesItsFee, "test_it_says_what_an_offer_would_cost"),
    Defect(SaysAnotherPrice, "test_it_says_what_an_offer_would_cost"),
    Defect(PaysAnywhere, "test_it_leaves_alone_what_is_not_its_own", part="network"),
    Defect(PaysAnywhere, "test_it_leaves_alone_what_is_not_its_own", part="mechanism"),
    Defect(PaysAnywhere, "test_what_is_not_its_own_is_not_paid"),
    Defect(PaysLate, "test_an_expired_offer_is_not_paid", style="invoice"),
    Defect(BelievesTheServer, "test_an_offer_that_lies_is_refused", part="network"),
    Defect(BelievesTheServer, "test_an_offer_that_lies_is_refused", part="expires_at"),
    Defect(BelievesTheServer, "test_an_expired_offer_is_not_paid"),
    Defect(BelievesTheServer, "test_every_other_lie_is_refused", style="invoice"),
    Defect(RefusesAll, "test_a_true_offer_is_accepted"),
    Defect(OneProofForAll, "test_two_records_are_two_payments"),
    Defect(ForgetsAfterACrash, "test_a_crash_before_the_proof_was_written_down", style="invoice"),
    Defect(ForgetsAfterACrash, "test_a_lost_answer_is_found_out", style="invoice", done=True),
    Defect(BelievesItPaid, "test_nothing_was_paid_before_it_was_asked"),
    Defect(BelievesItPaid, "test_a_lost_answer_is_found_out", done=False),
    Defect(PaysToFindOut, "test_nothing_was_paid_before_it_was_asked", style="invoice"),
    Defect(PaysToFindOut, "test_a_lost_answer_is_found_out", style="invoice", done=False),
    Defect(SignsAnew, "test_resuming_shows_the_same_payment_again"),
    Defect(CallsItGone, "test_resuming_shows_the_same_payment_again"),
    Defect(SignsAnew, "test_a_crash_before_the_proof_was_written_down"),
    Defect(CallsItFailed, "test_a_lost_answer_is_found_out", style="invoice", done=True),
    Defect(TakesEverythingBack, "test_what_was_taken_cannot_be_taken_back"),
    Defect(TakesEverythingBack, "test_what_was_taken_back_cannot_be_taken"),
    Defect(TellsItsProofs, "test_secrets_are_in_no_repr_error_or_log", style="invoice"),
    Defect(LogsWhatItPaid, "test_secrets_are_in_no_repr_error_or_log", style="invoice"),
    Defect(ShowsItsKey, "test_secrets_are_in_no_repr_error_or_log"),
    Defect(ChangesTheOffer, "test_an_order_s_offer_is_still_the_offer"),
    Defect(OpensOnce, "test_it_starts_and_closes_twice_and_again"),
    Defect(VerifiesNothing, "test_without_money_it_pays_nothing"),
]


async def run(kit: type[RailCases], defect: Defect, bench: FakeBench, directory: Path) -> None:
    """Run one case of the kit on a bench, as pytest would."""
    ways = INVOICE if defect.style == "invoice" else SIGNED
    case = getattr(type("Kit", (kit,), {"ways": ways})(), defect.case)
    wanted = inspect.signature(case).parameters
    flow = defect.flow or ("escrow" if "held_way" in wanted else ways[0][1])
    way = Way(ways[0][0], Flow(flow))
    given: dict[str, Any] = {"shut_bench": bench, "bench": bench, "tmp_path": directory, "way": way, "held_way": way}
    given |= {"part": defect.part, "done": defect.done}
    if "bench" in wanted or "till" in wanted:
        await bench.rail.start()
        await bench.wallet.start()
        given["till"] = Till(bench)
    await case(**{name: given[name] for name in wanted})


@pytest.mark.parametrize("defect", RAILS, ids=str)
async def test_a_broken_rail_is_caught(defect: Defect, tmp_path: Path) -> None:
    with pytest.raises(CAUGHT):
        await run(RailConformance, defect, defect.bench(), tmp_path)
    (tmp_path / "sound").mkdir()
    await run(RailConformance, defect, defect.sound_bench(), tmp_path / "sound")


@pytest.mark.parametrize("defect", WALLETS, ids=str)
async def test_a_broken_wallet_is_caught(defect: Defect, tmp_path: Path) -> None:
    with pytest.raises(CAUGHT):
        await run(WalletConformance, defect, defect.bench(), tmp_path)
    (tmp_path / "sound").mkdir()
    await run(WalletConformance, defect, defect.sound_bench(), tmp_path / "sound")


@pytest.mark.parametrize(("kit", "defects"), [(RailConformance, RAILS), (WalletConformance, WALLETS)])
def test_every_case_catches_something(kit: type[RailCases], defects: list[Defect]) -> None:
    cases = {name for name in dir(kit) if name.startswith("test_")}
    assert cases - {defect.case for defect in defects} == set()
