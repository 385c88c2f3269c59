"""What a rail must see in a payment: which money it is, whether it pays for the offer, and nothing of its secrets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from typing import Any

import pytest

from rail402.errors import MalformedInput, OutcomeUnknown, PaymentRejected, Rail402Error, RailUnavailable
from rail402.protocol.base import Json
from rail402.protocol.charge import Operation
from rail402.protocol.offer import Offer
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Verified
from rail402.testing.rail_bench import Books, RailBench, Way, texts_in
from rail402.testing.rail_till import RailCases, Till, logged, nothing_secret_in, order_of

__all__ = ["IdentityCases", "ProofCases", "SecretCases"]

_DAY = 86_400


async def _refused(till: Till, offer: Offer, payment: Payment, *, now: int | None = None) -> Rail402Error:
    """Assert that a payment is refused by name, and return why."""
    try:
        await till.verified(offer, payment, now=now)
    except (PaymentRejected, MalformedInput) as error:
        return error
    pytest.fail("authenticate or verify must refuse what does not pay for the offer, and they took it")


def _variants(text: str) -> Iterator[str]:
    """Yield other spellings of a text, and other texts of the same form."""
    yield from (text.upper(), text.lower(), text.swapcase(), f" {text}", f"{text}\n", f"{text}=", f"0{text}", text[:-1])
    places = [found.start() for found in re.finditer("[0-9a-z]", text, re.ASCII)]
    for place in {*places[:1], *places[-1:]}:
        for other in ("0", "1", "a", "f"):
            yield text[:place] + other + text[place + 1 :]


def _altered(payload: Json) -> Iterator[Json]:
    """Yield the payload with one text of it altered, a member gone, or one more."""

    def walk(value: Any, put: Callable[[Any], Any]) -> Iterator[Any]:
        if isinstance(value, dict):
            for name, member in value.items():
                yield put({key: each for key, each in value.items() if key != name})
                yield from walk(member, lambda new, name=name: put({**value, name: new}))  # type: ignore[misc]
            yield put({**value, "unknown": "x"})
        elif isinstance(value, str):
            for text in dict.fromkeys(_variants(value)):
                if text != value:
                    yield put(text)
        else:
            yield put(None)

    yield from walk(dict(payload), lambda new: new)


class IdentityCases(RailCases):
    """A payment is known again, whatever form it comes in, and is no other."""

    async def test_a_payment_has_the_same_keys_each_time(self, till: Till, way: Way) -> None:
        deal = await till.deal(way)
        keys = till.spec.identify(deal.payment)
        assert keys, "identify: a payment that uses nothing up could be shown for ever"
        assert keys == till.spec.identify(deal.payment), "identify: the same payment has the same keys each time"
        verified = await till.verified(deal.offer, deal.payment)
        assert keys <= verified.keys, "authenticate: the keys that identify gives are used up too"
        issued = till.rail.issued_key(deal.made)
        assert issued is None or issued in keys, "issued_key: it is the key of the offer's payment"

    async def test_a_payment_has_the_same_keys_in_every_dialect(self, till: Till, way: Way) -> None:
        deal = await till.deal(way)
        keys = till.spec.identify(deal.payment)
        for dialect in till.dialects_of(deal.made):
            binding = till.spec.bindings[dialect.name]
            changes = {"dialect": dialect.name, "token": deal.made.token}
            for offer in (None, deal.made) if dialect.echo == "none" else (deal.made,):
                shown = deal.payment.model_copy(update={**changes, "offer": offer})
                assert till.spec.identify(shown) == keys, f"{dialect.name}: identify: the same keys in every dialect"
            assert binding.encode_proof(deal.payment.payload), f"{dialect.name}: encode_proof says nothing"

    async def test_two_payments_have_no_key_in_common(self, till: Till, way: Way) -> None:
        order = order_of()
        first, second = await till.deal(way, order=order), await till.deal(way, order=order)
        both = till.spec.identify(first.payment) & till.spec.identify(second.payment)
        assert not both, f"identify: two payments have a key in common: {sorted(both)}"

    async def test_another_spelling_is_the_same_payment_or_none(self, till: Till, way: Way) -> None:
        deal = await till.deal(way)
        keys, tried = till.spec.identify(deal.payment), 0
        for payload in _altered(deal.payment.payload):
            shown = deal.payment.model_copy(update={"payload": payload})
            tried += 1
            try:
                verified = await till.verified(deal.offer, shown)
            except (PaymentRejected, MalformedInput):
                continue
            assert till.spec.identify(shown) == keys, "the payer could spell one payment in two ways, and use it twice"
            assert keys <= verified.keys, "authenticate: the keys that identify gives are used up too"
        assert tried > 1


class ProofCases(RailCases):
    """A payment pays for what it was made for."""

    async def test_a_payment_is_taken_for_what_it_is(self, till: Till, way: Way) -> None:
        deal = await till.deal(way)
        verified = await till.verified(deal.offer, deal.payment)
        assert isinstance(verified, Verified), f"verify returned {verified!r}"
        assert await till.verified(deal.offer, deal.payment), "to look at it uses nothing up"
        assert not verified.came_before, "verify: it came just now"

    @pytest.mark.parametrize("part", ["amount", "payee", "network", "asset"])
    async def test_it_pays_for_no_offer_that_differs(self, till: Till, way: Way, part: str) -> None:
        deal = await till.deal(way)
        more, payee = deal.offer.amount + way.of(till.rail).step, _like(deal.offer.payee)
        other = {"amount": more, "payee": payee, "network": "elsewhere:1", "asset": "nothing"}
        changed = deal.offer.model_copy(update={part: other[part]})
        await _refused(till, changed, deal.payment.model_copy(update={"offer": changed}))

    async def test_it_says_who_is_paid(self, till: Till, way: Way) -> None:
        made = await till.make(way, order=order_of())
        assert till.rail.payee == made.payee, "payee: nobody could tell an offer to somebody else from its own"

    async def test_it_pays_for_no_larger_offer(self, till: Till, way: Way) -> None:
        small = await till.deal(way)
        large = await till.deal(way, amount=3 * till.bench.amount)
        await _refused(till, large.offer, small.payment.model_copy(update={"offer": large.payment.offer}))

    async def test_it_pays_for_no_offer_that_has_expired(self, till: Till, way: Way) -> None:
        deal = await till.deal(way)
        await _refused(till, deal.offer, deal.payment, now=deal.offer.expires_at + _DAY)

    async def test_what_was_not_paid_is_refused(self, bench: RailBench, till: Till, way: Way) -> None:
        order = order_of()
        made = await till.make(way, order=order)
        dialect = till.dialects_of(made)[0]
        seen = till.read(made, order, dialect)
        proof = await bench.unpaid(seen)
        if proof is None:
            pytest.skip("the bench has no proof with which nothing was paid")
        books = await Books.open(bench)
        payment = till.presented(seen, order, dialect, proof)
        await _refused(till, payment.offer or made.model_copy(update={"token": payment.token}), payment)
        await books.assert_moved(0)

    async def test_looking_at_a_payment_moves_nothing(self, bench: RailBench, till: Till, way: Way) -> None:
        deal = await till.deal(way)
        books = await Books.open(bench)
        for _ in range(3):
            await till.verified(deal.offer, deal.payment)
        await books.assert_moved(0)


class SecretCases(RailCases):
    """Secrets show up nowhere: not in what is stored, not in what is logged."""

    async def test_secrets_are_not_stored_with_the_charge(self, bench: RailBench, till: Till, way: Way) -> None:
        deal = await till.deal(way)
        secrets = self.secrets_of(bench, deal.payment.payload)
        before = await till.before_settling(deal)
        after = await till.done(before, Operation.SETTLE, till.at_settling(deal))
        for charge in (before, after):
            nothing_secret_in("what is stored of a charge", charge.model_dump_json(), secrets)

    async def test_secrets_are_in_no_repr(self, bench: RailBench, till: Till, way: Way) -> None:
        deal = await till.deal(way)
        secrets = [*self.secrets_of(bench, deal.payment.payload), *texts_in(deal.made.token)]
        charge = await till.settled(deal)
        verified = till.spec.authenticate(deal.offer, deal.payment)
        shown = (bench.rail, bench.wallet, bench.rail.spec, deal.payment, deal.paid, charge, verified, deal.offer)
        for each in shown:
            nothing_secret_in(f"repr of {type(each).__name__}", repr(each), secrets)

    async def test_secrets_are_in_no_refusal(self, bench: RailBench, till: Till, way: Way) -> None:
        deal = await till.deal(way)
        secrets = self.secrets_of(bench, deal.payment.payload)
        changed = deal.offer.model_copy(update={"amount": deal.offer.amount + way.of(till.rail).step})
        error = await _refused(till, changed, deal.payment.model_copy(update={"offer": changed}))
        nothing_secret_in(type(error).__name__, f"{error!r} {error}", secrets)
        for payload in _altered(deal.payment.payload):
            try:
                await till.verified(deal.offer, deal.payment.model_copy(update={"payload": payload}))
            except Rail402Error as refusal:
                nothing_secret_in(type(refusal).__name__, f"{refusal!r} {refusal}", secrets)

    async def test_secrets_are_in_no_log(self, shut_bench: RailBench, way: Way) -> None:
        bench, till = shut_bench, Till(shut_bench)
        with logged() as log:
            await bench.rail.start()
            await bench.wallet.start()
            await bench.rail.health()
            deal = await till.deal(way)
            begun = till.begun(await till.before_settling(deal), Operation.SETTLE)
            await till.ask(begun, Operation.SETTLE, till.at_settling(deal))
            await till.found(begun, Operation.SETTLE)
            with bench.unreachable() or nullcontext(), suppress(RailUnavailable, OutcomeUnknown):
                await till.ask(begun, Operation.SETTLE, till.at_settling(deal))
                await bench.rail.lookup(begun, Operation.SETTLE)
            changed = deal.offer.model_copy(update={"amount": deal.offer.amount + way.of(till.rail).step})
            await _refused(till, changed, deal.payment.model_copy(update={"offer": changed}))
            await bench.wallet.close()
            await bench.rail.close()
        nothing_secret_in("the log", log.getvalue(), self.secrets_of(bench, deal.payment.payload))


def _like(payee: str) -> str:
    """Return another payee of the same form: its last letter or digit is another."""
    last = "1" if payee[-1] != "1" else "2"
    return payee[:-1] + last
