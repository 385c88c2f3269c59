"""What a rail must do with offers: say what it is, make them to measure, and write and read them in every dialect."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import pytest

from rail402.errors import MalformedInput
from rail402.money import Money
from rail402.protocol.base import Json
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.rail import Binding, Holds, PaymentRail
from rail402.testing.fake_spec import FakeSpec
from rail402.testing.rail_bench import RailBench, Way
from rail402.testing.rail_till import DIALECTS, RailCases, Till, order_of

__all__ = ["OfferCases", "SpecCases", "WireCases"]

_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
_LONG: Final = "x" * 20_000
_HOSTILE: Final[Sequence[Any]] = (
    *(None, True, -1, 0, 1, 2**300, [], {}, [[]], ["x"], {"a": {"b": []}}, [None]),
    *("", "0", "-5", "1e3", " 1", "1_000", "0x", "²", "１２", "\x00", "a\nb", "9" * 5000, _LONG),
)
_MANY_LINES: Final = "a\r\nX-Injected: 1\r\n\r\n\x00\x1b[2J<script>alert(1)</script> \u202e ️\U0001f4b8 " * 40


def _text(value: object) -> bool:
    return isinstance(value, str)


def _object(value: object) -> bool:
    return isinstance(value, dict)


def _decimal(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9]{1,30}", value, re.ASCII) is not None


_PROMISED: Final[Mapping[tuple[str, str], Mapping[tuple[str, ...], Callable[[object], bool]]]] = {
    ("mpp", "offer"): {("method",): _text, ("intent",): _text, ("request",): _object},
    ("l402", "offer"): {("invoice",): _text, ("paymentHash",): _text},
    ("payment-uri", "offer"): {("uri",): _text},
    ("x-payment", "offer"): {("price",): _decimal},
    ("x-price", "offer"): {("price",): _decimal, ("currency",): _text, ("paymentAddress",): _text},
    ("x402-v1", "proof"): {("scheme",): _text, ("network",): _text, ("payload",): _object},
    ("l402", "proof"): {("preimage",): _text, ("paymentHash",): _text},
    ("x-receipt", "proof"): {("receipt",): _text},
    ("x-payment", "proof"): {("proof",): _object},
    ("x-price", "proof"): {("proof",): _object},
    ("payment-uri", "proof"): {("proof",): _object},
}
"""The members that a dialect has checked before a binding sees them, and what they are."""


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every member in a JSON value."""
    children = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from _paths(child, (*path, key))


def _without(wire: Any, path: tuple[Any, ...]) -> Any:
    changed = copy.deepcopy(wire)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    return changed


def _changed(wire: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(wire)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = copy.deepcopy(value)
    return changed


def hostile(wire: Json, dialect: str, kind: str) -> Iterator[Json]:
    """Yield what a peer could send in a JSON's place: a member gone, or anything else where it was."""
    promised = _PROMISED.get((dialect, kind), {})
    for path in _paths(wire):
        fits = promised.get(path)
        if fits is None:
            yield _without(wire, path)
        for value in _HOSTILE:
            if fits is None or fits(value):
                yield _changed(wire, path, value)
    if not promised:
        yield {}
        yield {"unknown": _LONG}


def on_the_wire(wire: Json) -> Any:
    """Return a binding's JSON as the other side gets it."""
    return json.loads(json.dumps(wire, allow_nan=False))


def bindings_of(rail: PaymentRail) -> Iterator[tuple[str, Binding]]:
    """Yield the rail's bindings with the names of their dialects."""
    yield from rail.spec.bindings.items()


class SpecCases(RailCases):
    """What the rail says that it is."""

    async def test_the_spec_says_what_the_rail_is(self, shut_bench: RailBench) -> None:
        rail, spec = shut_bench.rail, shut_bench.rail.spec
        assert _NAME.fullmatch(spec.name), "name: lower-case letters, digits and hyphens"
        assert isinstance(spec.bare_replay, bool), "bare_replay: True or False"
        assert spec.mechanisms, "mechanisms: a rail without one takes nothing"
        places = [(each.name, each.network, each.asset) for each in spec.mechanisms]
        assert len(set(places)) == len(places), "mechanisms: each of them once"
        for mechanism in spec.mechanisms:
            assert mechanism.flows, f"{mechanism.name}: flows"
            assert len(set(mechanism.flows)) == len(mechanism.flows), f"{mechanism.name}: each flow once"
            assert mechanism.step >= 1, f"{mechanism.name}: step: at least one atomic unit"
            one = Money.from_atomic(1, mechanism.exponent, mechanism.currency)
            assert one.to_atomic(mechanism.exponent) == 1, f"{mechanism.name}: exponent"
        assert spec.bindings.keys() <= {dialect.name for dialect in DIALECTS}, "bindings: by the name of a dialect"
        assert spec.bindings, "bindings: a rail that speaks no dialect sells nothing"
        assert rail.is_sandbox is shut_bench.sandbox, (
            "is_sandbox: only of play money (and RailBench.sandbox says which it is)"
        )
        if any(Flow.ESCROW in each.flows for each in spec.mechanisms):
            assert isinstance(rail, Holds), "escrow: hold and release"
        assert not (rail.is_sandbox and rail.is_test), "play money is no test money"
        assert shut_bench.wallet.spec.name == spec.name, "the wallet is of another rail"

    async def test_every_way_to_pay_is_proven(self, shut_bench: RailBench) -> None:
        proven = {(name, Flow(flow)) for name, flow in (*self.ways, *self.elsewhere)}
        has = {(each.name, flow) for each in shut_bench.rail.spec.mechanisms for flow in each.flows}
        assert proven == has, "ways (with `elsewhere`): each mechanism with each of its flows"
        assert self.ways, "ways: there is none"

    async def test_it_starts_and_closes_twice_and_again(self, shut_bench: RailBench) -> None:
        for each in (shut_bench.rail, shut_bench.wallet):
            for _ in range(2):
                await each.start()
                await each.start()
                await each.close()
                await each.close()
        await shut_bench.rail.start()
        await shut_bench.rail.health()


class OfferCases(RailCases):
    """Offers are made to measure."""

    async def test_an_offer_is_what_was_asked_for(self, bench: RailBench, till: Till, way: Way) -> None:
        mechanism, asked_at, order = way.of(bench.rail), bench.clock(), order_of()
        for amount in (bench.amount, bench.amount + mechanism.step, 3 * bench.amount):
            offer = await till.ask_for(way, amount=amount, order=order)
            assert offer is not None, f"offer: None for {amount}"
            assert offer.amount == amount, f"offer: it asks for {offer.amount} instead of {amount}"
            made = (offer.rail, offer.mechanism)
            assert made == (bench.rail.spec.name, way.mechanism), f"offer: its rail and mechanism are {made}"
            for name in ("network", "asset", "currency", "exponent"):
                assert getattr(offer, name) == getattr(mechanism, name), f"offer: {name} must be its mechanism's"
            assert offer.flow is way.flow, f"offer: {way.flow} was asked for, and not {offer.flow}"
            latest = bench.clock() + 600  # a clock may tick meanwhile
            assert asked_at < offer.expires_at <= latest, "offer: expires_at: not after Terms.expires_at"
            assert offer.timeout_seconds > 0, "offer: timeout_seconds"
            assert offer.payee, "offer: payee"
            later = (offer.token, offer.dialect, offer.envelope)
            assert later == (None, None, None), "offer: token, dialect and envelope are put in later"

    async def test_too_small_a_price_is_not_offered(self, bench: RailBench, till: Till, way: Way) -> None:
        if bench.too_little is None:
            pytest.skip("the bench knows no price that is too small")
        offer = await till.ask_for(way, amount=bench.too_little, order=order_of())
        assert offer is None, f"offer: None where {bench.too_little} is too little"

    async def test_an_offer_is_recognised_when_it_comes_back(self, bench: RailBench, till: Till, way: Way) -> None:
        made = [await till.ask_for(way, amount=None, order=order_of()) for _ in range(2)]
        first, second = (offer for offer in made if offer is not None)
        keys = [bench.rail.issued_key(offer) for offer in (first, second)]
        if bench.rail.has_fixed_terms:
            assert first.canonical == second.canonical, "has_fixed_terms: the same order has the same terms"
        if any(dialect.echo == "none" for dialect in till.dialects_of(first)):
            assert None not in keys or bench.rail.has_fixed_terms, "a dialect sends nothing of the offer back"
        if keys[0] is not None:
            assert keys[0] != keys[1], "issued_key: each offer has its own"
            assert keys[0] == bench.rail.issued_key(first), "issued_key: the same offer has the same key"

    async def test_whatever_is_sold_can_be_offered(self, bench: RailBench, till: Till, way: Way) -> None:
        order = order_of("a%20b?q=%C3%A4%00&x=" + "y" * 300)
        for description in ("", _MANY_LINES, "ä" * 5000):
            offer = await till.make(way, order=order, description=description)
            for dialect in till.dialects_of(offer):
                seen = till.read(offer, order, dialect)
                same = (seen.amount, seen.payee) == (offer.amount, offer.payee)
                assert same, f"{dialect.name}: its payer reads {seen.amount} to {seen.payee}"


class WireCases(RailCases):
    """What is written in a dialect is read as it was meant, and what is not ours is left alone."""

    async def test_offers_come_back_as_they_were(self, bench: RailBench, till: Till, way: Way) -> None:
        offer = await till.make(way)
        for dialect in till.dialects_of(offer):
            binding = bench.rail.spec.bindings[dialect.name]
            wire = binding.encode_offer(offer)
            assert wire is not None, f"{dialect.name}: encode_offer said it a moment ago"
            if getattr(binding, "fixed_terms", False):
                later = offer.model_copy(update={"token": None, "expires_at": offer.expires_at + 1})
                assert binding.encode_offer(later) == wire, f"fixed_terms: {dialect.name} says what is no term"
            read = binding.decode_offer(on_the_wire(wire), expires_at=offer.expires_at)
            assert read is not None, f"{dialect.name}: it does not know its own offer"
            if dialect.echo == "full":  # the token is over these very terms
                assert read.canonical == offer.canonical, f"{dialect.name}: decode_offer must return the very offer"
            assert read.price == offer.price, f"{dialect.name}: decode_offer reads {read.price} for {offer.price}"
            seen = till.read(offer, order_of(), dialect)
            same = (seen.amount, seen.payee, seen.network) == (offer.amount, offer.payee, offer.network)
            assert same, f"{dialect.name}: its payer reads {seen.amount} to {seen.payee} on {seen.network}"

    async def test_proofs_come_back_as_they_were(self, bench: RailBench, till: Till, way: Way) -> None:
        deal = await till.deal(way)
        for dialect in till.dialects_of(deal.made):
            binding = bench.rail.spec.bindings[dialect.name]
            named = {"scheme": "exact", "network": _network(till, deal.made, dialect.name)}
            wire = binding.encode_proof(deal.paid.payload)
            read = binding.decode_proof(on_the_wire({**named, **wire} if dialect.name == "x402-v1" else wire))
            assert read is not None, f"{dialect.name}: it does not know its own proof"
            if dialect is deal.dialect:
                assert read == deal.payment.payload, (
                    f"{dialect.name}: decode_proof must return what encode_proof was given"
                )

    async def test_other_rails_offers_are_none_of_ours(self, bench: RailBench, till: Till, way: Way) -> None:
        for name, binding in bindings_of(bench.rail):
            for other in (FakeSpec("elsewhere"), FakeSpec("elsewhere", style="invoice")):
                theirs = other.bindings.get(name)
                if theirs is None:
                    continue
                wire = theirs.encode_offer(_offer_of(other, await till.make(way)))
                assert wire is not None, name
                if name == "l402":  # whose invoices have nothing that says whose they are
                    _read_or_malformed(lambda: binding.decode_offer(on_the_wire(wire), expires_at=1))  # noqa: B023
                    continue
                read = binding.decode_offer(on_the_wire(wire), expires_at=1)
                assert read is None, f"{name}: decode_offer: None where the JSON is another rail's"

    async def test_other_rails_proofs_are_none_of_ours(self, bench: RailBench) -> None:
        for name, binding in bindings_of(bench.rail):
            for wire in _FOREIGN_PROOFS.get(name, ()):
                assert binding.decode_proof(wire) is None, f"{name}: decode_proof: None for another rail's: {wire}"

    async def test_hostile_offers_are_refused_by_name(self, bench: RailBench, till: Till, way: Way) -> None:
        offer = await till.make(way)
        for dialect in till.dialects_of(offer):
            binding = bench.rail.spec.bindings[dialect.name]
            wire = on_the_wire(binding.encode_offer(offer) or {})
            for sent in hostile(wire, dialect.name, "offer"):
                read = _read_or_malformed(lambda: binding.decode_offer(sent, expires_at=offer.expires_at))  # noqa: B023
                whole = read is None or (isinstance(read, Offer) and read.amount > 0)
                assert whole, f"{dialect.name}: decode_offer read {read!r} in what a peer made up"

    async def test_hostile_proofs_are_refused_by_name(self, bench: RailBench, till: Till, way: Way) -> None:
        deal = await till.deal(way)
        for dialect in till.dialects_of(deal.made):
            binding = bench.rail.spec.bindings[dialect.name]
            wire = on_the_wire(binding.encode_proof(deal.paid.payload))
            if dialect.name == "x402-v1":
                wire |= {"scheme": "exact", "network": _network(till, deal.made, dialect.name)}
            for sent in hostile(wire, dialect.name, "proof"):
                read = _read_or_malformed(lambda: binding.decode_proof(sent))  # noqa: B023
                if read is None:
                    continue
                shown = deal.payment.model_copy(update={"payload": read})
                keys = _read_or_malformed(lambda: bench.rail.spec.identify(shown))  # noqa: B023
                assert keys is None or keys, f"{dialect.name}: identify: no keys, and it is taken for a payment"


_FOREIGN_PROOFS: Final[Mapping[str, Sequence[Json]]] = {
    "x402-v1": [{"scheme": "exact", "network": "fake:elsewhere", "payload": {"nonce": "1"}}],
    "x-receipt": [{"receipt": "elsewhere:e30"}, {"receipt": "unknown"}],
    "x-payment": [{"proof": {"elsewhere": "1"}}],
    "x-price": [{"proof": {"elsewhere": "1"}}],
    "payment-uri": [{"proof": {"elsewhere": "1"}}],
}
"""Proofs that only their own form tells apart; in the other dialects the offer beside them does."""


def _read_or_malformed(read: Any) -> Any:
    """Return what is read, None where it is refused as what it is; anything else is a defect."""
    try:
        return read()
    except MalformedInput:
        return None


def _offer_of(spec: FakeSpec, like: Offer) -> Offer:
    """Return an offer of another rail."""
    mechanism = spec.mechanism
    extra = {} if spec.style == "signed" else {"hash": "ab" * 32, "invoice_amount": str(like.amount)}
    changes = {name: getattr(mechanism, name) for name in ("network", "asset", "currency", "exponent")}
    changes |= {"rail": spec.name, "mechanism": mechanism.name, "flow": mechanism.flows[0]}
    return like.model_copy(update={**changes, "payee": "elsewhere", "extra": extra})


def _network(till: Till, offer: Offer, dialect: str) -> Any:
    """Return what a dialect calls the offer's network."""
    wire = till.spec.bindings[dialect].encode_offer(offer)
    return None if wire is None else wire.get("network")
