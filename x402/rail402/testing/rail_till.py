"""What the rail cases share: a till that does with a rail what a gate does, one step at a time, and their fixtures."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest
import pytest_asyncio

from rail402.dialects import DEFAULT_DIALECTS, OPTIONAL_DIALECTS
from rail402.errors import OutcomeUnknown, RailUnavailable
from rail402.protocol.base import Json
from rail402.protocol.binding import OfferKeys
from rail402.protocol.challenge import Challenge
from rail402.protocol.charge import Charge, Operation, PaymentEvent, PaymentState
from rail402.protocol.dialect import Context, Dialect, Envelope, Fields
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import ConsumptionKey, Payment
from rail402.protocol.rail import (
    Failed,
    Held,
    NotPaid,
    Paid,
    Pending,
    Refunded,
    Refunds,
    Registry,
    Released,
    Settled,
    Terms,
    Unknown,
    Verified,
    Wallet,
)
from rail402.testing.rail_bench import Books, RailBench, Way

__all__ = [
    "DIALECTS",
    "HAPPENED",
    "ORIGIN",
    "Answer",
    "Deal",
    "RailCases",
    "Till",
    "logged",
    "nothing_secret_in",
    "order_of",
]

Answer = Held | Settled | Released | Refunded | NotPaid | Failed | Pending | Unknown

DIALECTS: Final[tuple[Dialect, ...]] = (*DEFAULT_DIALECTS, *OPTIONAL_DIALECTS)
ORIGIN: Final = "https://shop.example"

HAPPENED: Final = {
    Operation.HOLD: Held,
    Operation.SETTLE: Settled,
    Operation.RELEASE: Released,
    Operation.REFUND: Refunded,
}
"""What a rail answers where the operation has happened."""

_EVENTS: Final = {
    Operation.HOLD: PaymentEvent.HOLD,
    Operation.SETTLE: PaymentEvent.SETTLE,
    Operation.RELEASE: PaymentEvent.RELEASE,
    Operation.REFUND: PaymentEvent.REFUND,
}
_KEYS: Final = OfferKeys({"k1": b"the conformance kit's own secret"})
_OFFER_SECONDS: Final = 600
_TIMEOUT_SECONDS: Final = 180
_LOOKS: Final = 8
_numbers = count(1)


def order_of(name: str = "1") -> Order:
    """Return the order of an article."""
    return Order(method="GET", url=f"{ORIGIN}/article/{name}", route="GET /article/{name}")


def nothing_secret_in(where: str, text: str, secrets: Iterable[str]) -> None:
    """Assert that none of the secrets is in a text; neither is repeated, for what fails is shown."""
    __tracebackhide__ = True
    found = [number for number, secret in enumerate(secrets, 1) if secret.lower() in text.lower()]
    assert not found, f"{where}: there is a secret in it (number {found[0]} of those that the bench names)"


@contextmanager
def logged() -> Iterator[StringIO]:
    """Write down all that is logged meanwhile, on every level."""
    log, root = StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(log), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield log
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal:
    """One order, its offer and the payment of it.

    Attributes:
        made: the offer as the rail made it, with its token; `seen` is what its payer read of it.
        paid: what the wallet answered.
        payment: what the payer presents, as the server reads it.
    """

    order: Order
    made: Offer
    seen: Offer
    dialect: Dialect
    paid: Paid
    payment: Payment
    record_id: str

    @property
    def offer(self) -> Offer:
        """The offer that the payment is checked against."""
        if self.payment.offer is not None:
            return self.payment.offer
        return self.made.model_copy(update={"token": self.payment.token})


class Till:
    """Does with a rail what a gate does, one step at a time."""

    def __init__(self, bench: RailBench) -> None:
        self.bench, self.rail, self.spec = bench, bench.rail, bench.rail.spec

    # --- offers

    async def make(self, way: Way, *, amount: int | None = None, order: Order | None = None, **terms: Any) -> Offer:
        """Return an offer of the rail, with its token."""
        order = order or order_of()
        offer = await self.ask_for(way, amount=amount, order=order, **terms)
        assert offer is not None, "the rail makes no offer for the bench's amount"
        return _KEYS.issue(offer, order, next(_numbers).to_bytes(16, "big"))

    async def ask_for(self, way: Way, *, amount: int | None, order: Order, **changes: Any) -> Offer | None:
        """Ask the rail for an offer."""
        now = self.bench.clock()
        terms = Terms(
            amount=self.bench.amount if amount is None else amount,
            flow=way.flow,
            now=now,
            expires_at=now + _OFFER_SECONDS,
            timeout_seconds=_TIMEOUT_SECONDS,
        )
        return await self.rail.offer(order, way.of(self.rail), replace(terms, **changes))

    def context(self, *, server: bool = False) -> Context:
        """Return what dialects are given."""
        spec = self.spec if server else self.bench.wallet.spec
        keys = _KEYS if server else None
        return Context(specs=Registry([spec]), now=self.bench.clock(), realm="shop.example", keys=keys)

    def dialects_of(self, offer: Offer) -> list[Dialect]:
        """Return the dialects that can say an offer."""
        found = []
        for dialect in DIALECTS:
            binding = self.spec.bindings.get(dialect.name)
            if binding is not None and binding.encode_offer(offer) is not None:
                found.append(dialect)
        assert found, f"no dialect can say an offer of {offer.mechanism}"
        return found

    def said(self, offer: Offer, order: Order, dialect: Dialect) -> Envelope:
        """Return what a 402 says of the offer in that dialect."""
        challenge = Challenge(order=order, price=offer.price, offers=(offer,), now=self.bench.clock())
        return dialect.challenge(challenge, self.context(server=True))

    def read(self, offer: Offer, order: Order, dialect: Dialect) -> Offer:
        """Return the offer as its payer reads it in a 402 of that dialect."""
        said = self.said(offer, order, dialect)
        seen = dialect.offers(Fields(said.fields), json.dumps(said.body).encode(), self.context())
        assert len(seen) == 1, f"{dialect.name}: the payer reads {len(seen)} offers where one was made"
        return self.bench.wallet.for_order(seen[0], order)

    # --- payments

    async def deal(
        self,
        way: Way,
        *,
        amount: int | None = None,
        order: Order | None = None,
        dialect: Dialect | None = None,
        wallet: Wallet | None = None,
    ) -> Deal:
        """Have an offer made and paid by the wallet, and present the payment."""
        order = order or order_of(str(next(_numbers)))
        made = await self.make(way, amount=amount, order=order)
        dialect = dialect or self.dialects_of(made)[0]
        seen, record_id = self.read(made, order, dialect), f"rec_kit_{next(_numbers)}"
        paid = await (wallet or self.bench.wallet).pay(seen, record_id=record_id, now=self.bench.clock())
        payment = self.presented(seen, order, dialect, paid.payload)
        return Deal(order=order, made=made, seen=seen, dialect=dialect, paid=paid, payment=payment, record_id=record_id)

    def presented(self, seen: Offer, order: Order, dialect: Dialect, payload: Any) -> Payment:
        """Return the payment that the server reads where `payload` is presented for an offer."""
        fields = dialect.credential(seen, payload, self.context())
        payments = dialect.payments(Fields(fields), order.body_digest, self.context(server=True))
        assert len(payments) == 1, f"{dialect.name}: the server reads {len(payments)} payments where one was sent"
        return payments[0]

    async def verified(self, offer: Offer, payment: Payment, *, now: int | None = None) -> Verified:
        """Check a payment as the server does that sees it for the first time."""
        verified = self.spec.authenticate(offer, payment)
        return await self.rail.verify(offer, payment, verified, now=self.bench.clock() if now is None else now)

    async def claimed(self, deal: Deal) -> Charge:
        """Return the charge of a payment that was verified."""
        verified = await self.verified(deal.offer, deal.payment)
        return Charge(
            id=f"ch_kit_{next(_numbers)}",
            order=deal.order,
            offer=deal.made.model_copy(update={"token": None}),
            price=deal.made.price,
            dialect=deal.dialect.name,
            keys=tuple(sorted(self.spec.identify(deal.payment) | verified.keys)),
            created_at=self.bench.clock(),
            lease_until=self.bench.clock() + _TIMEOUT_SECONDS,
            payer=verified.payer,
            rail_state=stored(verified.state),
            window=600,
        )

    # --- operations

    def begun(self, charge: Charge, operation: Operation) -> Charge:
        """Return the charge as it is written before the rail is asked."""
        now = self.bench.clock()
        return charge.on(_EVENTS[operation], lease_until=now + _TIMEOUT_SECONDS, asked_at=now)

    async def ask(self, charge: Charge, operation: Operation, payment: Payment | None) -> Answer:
        """Ask the rail for an operation that has begun, and take its answer as the gate does."""
        rail: Any = self.rail
        calls: dict[Operation, Callable[[], Awaitable[Answer]]] = {
            Operation.HOLD: lambda: rail.hold(charge, payment),
            Operation.SETTLE: lambda: rail.settle(charge, payment),
            Operation.RELEASE: lambda: rail.release(charge),
            Operation.REFUND: lambda: rail.refund(charge),
        }
        try:
            return await calls[operation]()
        except RailUnavailable:
            return NotPaid()
        except OutcomeUnknown as error:
            return Unknown(detail=error.detail)

    def learnt(self, charge: Charge, answer: Answer) -> Charge:
        """Return the charge with what the rail's answer adds to it, in the state that the answer leads to."""
        keys: frozenset[ConsumptionKey] = getattr(answer, "keys", frozenset())
        facts = {
            "rail_state": {**charge.rail_state, **stored(getattr(answer, "state", {}))},
            "keys": tuple(sorted({*charge.keys, *keys})),
        }
        events = {
            Held: PaymentEvent.HELD,
            Settled: PaymentEvent.SETTLED,
            Released: PaymentEvent.RELEASED,
            Refunded: PaymentEvent.REFUNDED,
            NotPaid: PaymentEvent.RELEASED,
            Failed: PaymentEvent.REJECTED,
        }
        if isinstance(answer, Settled):
            facts["transaction"] = answer.transaction
        event = events.get(type(answer), PaymentEvent.LOST)
        return charge.on(event, lease_until=charge.lease_until, **facts)

    async def done(self, charge: Charge, operation: Operation, payment: Payment | None) -> Charge:
        """Have an operation done, and return the charge after it."""
        begun = self.begun(charge, operation)
        answer = await self.ask(begun, operation, payment)
        assert isinstance(answer, HAPPENED[operation]), f"{operation} must happen here, and ended as {answer}"
        return self.learnt(begun, answer)

    async def before_settling(self, deal: Deal) -> Charge:
        """Return the charge of a payment as it is when it is to be settled: held, in the escrow flow."""
        charge = await self.claimed(deal)
        return await self.done(charge, Operation.HOLD, deal.payment) if self._holds(charge) else charge

    async def settled(self, deal: Deal) -> Charge:
        """Return the charge of a payment that was taken."""
        charge = await self.before_settling(deal)
        return await self.done(charge, Operation.SETTLE, self.at_settling(deal))

    def at_settling(self, deal: Deal) -> Payment | None:
        """Return the payment as `settle` gets it: the reconciler, which may capture what is held, has none."""
        return None if deal.made.flow is Flow.ESCROW else deal.payment

    @staticmethod
    def _holds(charge: Charge) -> bool:
        return charge.offer.flow is Flow.ESCROW and charge.payment is PaymentState.CLAIMED

    async def found(self, charge: Charge, operation: Operation) -> Answer:
        """Look an operation up until the rail knows what became of it; assert that looking moves nothing.

        Who looks it up is another worker as a rule, and later: the row was written since.
        """
        lease_until = charge.lease_until + 2 * _TIMEOUT_SECONDS
        charge = charge.model_copy(update={"lease_until": lease_until, "version": charge.version + 3})
        answer: Answer = Unknown()
        for _ in range(_LOOKS):
            books = await Books.open(self.bench)
            try:
                answer = await self.rail.lookup(charge, operation)
            except (RailUnavailable, OutcomeUnknown) as error:
                answer = Unknown(detail=error.detail)
            await books.assert_moved(0)
            if not isinstance(answer, Pending | Unknown):
                break
            await self.bench.pass_time(answer.retry_after if isinstance(answer, Pending) else 60)
        return answer

    async def together(self, times: int, call: Callable[[], Awaitable[Answer]]) -> list[Answer | BaseException]:
        """Make a call several times at once."""
        return list(await asyncio.gather(*(call() for _ in range(times)), return_exceptions=True))


def stored(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a rail wants remembered, as a store gives it back."""
    kept: dict[str, Any] = json.loads(json.dumps(dict(state), allow_nan=False))
    return kept


class RailCases:
    """The fixtures that all cases use; see `RailConformance`."""

    ways: ClassVar[Sequence[tuple[str, str]]] = ()
    elsewhere: ClassVar[Sequence[tuple[str, str]]] = ()

    async def open_bench(self, directory: Path) -> RailBench:
        """Return a bench with a new rail and wallet, neither of them started. `directory` is an empty one to use."""
        raise NotImplementedError(f"{type(self).__name__} must say how to open its bench")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run the cases of `way` in every way, those of `held_way` in those that reserve the money first."""
        ways = [Way(name, Flow(flow)) for name, flow in self.ways]
        if "way" in metafunc.fixturenames:
            metafunc.parametrize("way", ways, ids=str)
        if "held_way" in metafunc.fixturenames:
            held = [way for way in ways if way.flow is Flow.ESCROW]
            none = pytest.param(None, marks=pytest.mark.skip(reason="the rail has no escrow flow"), id="no escrow")
            metafunc.parametrize("held_way", held or [none], ids=str)

    @pytest_asyncio.fixture
    async def shut_bench(self, tmp_path: Path) -> AsyncIterator[RailBench]:
        """A bench whose rail and wallet are not started; both are closed after the case."""
        bench = await self.open_bench(tmp_path)
        yield bench
        await bench.wallet.close()
        await bench.rail.close()
        await bench.close()

    @pytest_asyncio.fixture
    async def bench(self, shut_bench: RailBench) -> RailBench:
        """A bench whose rail and wallet are started."""
        await shut_bench.rail.start()
        await shut_bench.wallet.start()
        return shut_bench

    @pytest.fixture
    def till(self, bench: RailBench) -> Till:
        """A till for the bench's rail."""
        return Till(bench)

    @staticmethod
    def secrets_of(bench: RailBench, payload: Json) -> list[str]:
        """Return what must show up nowhere, or skip a case that could find nothing."""
        secrets = list(bench.secrets(payload))
        if not secrets:
            pytest.skip("the bench names no secrets")
        return secrets

    @staticmethod
    def needs_refunds(rail: object) -> None:
        """Skip a case about what a rail cannot do."""
        if not isinstance(rail, Refunds):
            pytest.skip("the rail gives nothing back")
