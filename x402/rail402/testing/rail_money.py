"""What a rail must do with money: take it once, say truly what became of it, hold it, and give it back."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress

import pytest

from rail402.errors import REASONS, OutcomeUnknown, RailUnavailable
from rail402.protocol.charge import Charge, Operation, PaymentEvent
from rail402.protocol.offer import Flow
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Failed, Held, NotPaid, Pending, Settled, Unknown
from rail402.testing.rail_bench import Books, RailBench, Way
from rail402.testing.rail_till import HAPPENED, Answer, Deal, RailCases, Till, order_of

__all__ = ["LookupCases", "OutageCases", "SettleCases", "losing"]

_ANSWERS = (Settled, NotPaid, Failed, Unknown)


def assert_is_an_answer(answer: object, *kinds: type) -> None:
    """Assert that a call ended in one of the ways that it may end in."""
    assert isinstance(answer, (*kinds, RailUnavailable, OutcomeUnknown)), repr(answer)
    assert not isinstance(answer, Failed) or answer.code in REASONS, "Failed: a reason code of the table"


def again(charge: Charge) -> Charge:
    """Return the charge as it is claimed once more after it was released."""
    return charge.on(PaymentEvent.RECLAIM, lease_until=charge.lease_until)


def darkness(bench: RailBench) -> AbstractContextManager[None]:
    """Return the context in which the backend is down, or skip the case."""
    context = bench.unreachable()
    if context is None:
        pytest.skip("the bench cannot take the backend away")
    return context


class SettleCases(RailCases):
    """The money of a payment moves once, and all of it."""

    async def test_settling_moves_the_amount_once_on_both_books(self, bench: RailBench, till: Till, way: Way) -> None:
        books = await Books.open(bench)
        deal = await till.deal(way)
        moved = await books.moved()
        assert moved[1] in (0, bench.amount), "pay moves all of it or nothing"
        begun = till.begun(await till.before_settling(deal), Operation.SETTLE)
        if way.flow is Flow.ESCROW:
            assert (await books.moved())[1] == 0, "what is held has not arrived"
        answer = await till.ask(begun, Operation.SETTLE, till.at_settling(deal))
        assert isinstance(answer, Settled), answer
        await books.assert_moved(bench.amount, deal.paid.fee)
        assert answer.transaction, "Settled: the rail's reference"
        assert answer.at is None or answer.at <= bench.clock() + 60
        assert till.learnt(begun, answer).keys

    async def test_settling_the_same_charge_again_moves_nothing(self, bench: RailBench, till: Till, way: Way) -> None:
        books = await Books.open(bench)
        deal = await till.deal(way)
        begun = till.begun(await till.before_settling(deal), Operation.SETTLE)
        first = await till.ask(begun, Operation.SETTLE, till.at_settling(deal))
        assert isinstance(first, Settled), first
        second = await till.ask(begun, Operation.SETTLE, till.at_settling(deal))
        assert not isinstance(second, Settled) or second.transaction == first.transaction
        next_try = begun.model_copy(update={"tries": begun.tries + 1})
        assert_is_an_answer(await till.ask(next_try, Operation.SETTLE, till.at_settling(deal)), *_ANSWERS)
        await books.assert_moved(bench.amount, deal.paid.fee)

    async def test_settling_at_the_same_time_moves_it_once(self, bench: RailBench, till: Till, way: Way) -> None:
        books = await Books.open(bench)
        deal = await till.deal(way)
        begun = till.begun(await till.before_settling(deal), Operation.SETTLE)
        answers = await till.together(5, lambda: till.ask(begun, Operation.SETTLE, till.at_settling(deal)))
        for answer in answers:
            assert_is_an_answer(answer, *_ANSWERS)
        assert len({answer.transaction for answer in answers if isinstance(answer, Settled)}) <= 1
        found = await till.found(begun, Operation.SETTLE)
        assert isinstance(found, Settled), found
        await books.assert_moved(bench.amount, deal.paid.fee)

    async def test_one_payment_in_two_charges_moves_once(self, bench: RailBench, till: Till, way: Way) -> None:
        if way.flow is Flow.ESCROW:
            pytest.skip("a hold is a charge's own")
        books = await Books.open(bench)
        deal = await till.deal(way)
        charges = [till.begun(await till.claimed(deal), Operation.SETTLE) for _ in range(2)]
        answers = [await till.ask(charge, Operation.SETTLE, deal.payment) for charge in charges]
        assert isinstance(answers[0], Settled), answers[0]
        assert_is_an_answer(answers[1], *_ANSWERS)
        await books.assert_moved(bench.amount, deal.paid.fee)


class LookupCases(RailCases):
    """A lookup says what has happened, guesses nothing, and moves nothing."""

    async def test_a_settlement_is_found(self, bench: RailBench, till: Till, way: Way) -> None:
        deal = await till.deal(way)
        begun = till.begun(await till.before_settling(deal), Operation.SETTLE)
        answer = await till.ask(begun, Operation.SETTLE, till.at_settling(deal))
        assert isinstance(answer, Settled), answer
        for charge in (begun, till.learnt(begun, answer)):  # its answer was lost, or it was not
            found = await till.found(charge, Operation.SETTLE)
            assert isinstance(found, Settled), found
            assert found.transaction == answer.transaction

    async def test_a_settlement_that_was_never_begun_is_not_found(self, bench: RailBench, till: Till, way: Way) -> None:
        books = await Books.open(bench)
        deal = await till.deal(way)
        charge = till.begun(await till.before_settling(deal), Operation.SETTLE)
        has_paid = (await books.moved())[1] == bench.amount
        found = await till.found(charge, Operation.SETTLE)
        if has_paid:  # the wallet has moved it
            assert isinstance(found, Settled), found
        elif bench.is_real_time and isinstance(found, Pending | Unknown):
            pass
        else:
            assert isinstance(found, Held if way.flow is Flow.ESCROW else (NotPaid, Failed)), found
        assert (await books.moved())[1] == (bench.amount if has_paid else 0)

    async def test_a_lookup_never_guesses(self, bench: RailBench, till: Till, way: Way) -> None:
        books = await Books.open(bench)
        deals = [await till.deal(way) for _ in range(2)]
        never, done = await _settled_second(till, deals, way)
        has_paid = (await books.moved())[1] == 2 * bench.amount  # the wallets have moved it
        with darkness(bench):
            for charge in (never, done):
                try:
                    found: Answer = await till.rail.lookup(charge, Operation.SETTLE)
                except (RailUnavailable, OutcomeUnknown):
                    continue
                known = isinstance(found, Settled) and (charge is done or has_paid)
                assert known or isinstance(found, Pending | Unknown), f"{found}, and nothing could be asked"
        assert isinstance(await till.found(done, Operation.SETTLE), Settled)

    @pytest.mark.parametrize("done", [True, False], ids=["it happened", "it did not happen"])
    async def test_a_lost_answer_is_found_out(self, bench: RailBench, till: Till, way: Way, done: bool) -> None:
        books = await Books.open(bench)
        deal = await till.deal(way)
        begun = till.begun(await till.before_settling(deal), Operation.SETTLE)
        lost = await losing(bench, till, begun, till.at_settling(deal), Operation.SETTLE, done=done)
        found = await till.found(lost, Operation.SETTLE)
        if done:
            assert isinstance(found, Settled), found
            assert till.learnt(lost, found).transaction
        else:
            assert isinstance(found, Held if way.flow is Flow.ESCROW else NotPaid), found
            assert (await books.moved())[1] == 0
            after = till.learnt(lost, found)
            if isinstance(found, NotPaid):  # its payer may show it again
                verified = await till.verified(deal.offer, deal.payment)
                after = again(after).model_copy(update={"rail_state": dict(verified.state)})
            await till.done(after, Operation.SETTLE, till.at_settling(deal))
        await books.assert_moved(bench.amount, deal.paid.fee)


async def _settled_second(till: Till, deals: list[Deal], way: Way) -> tuple[Charge, Charge]:
    """Return two charges that are to be settled, of which the second was."""
    never, done = [till.begun(await till.before_settling(deal), Operation.SETTLE) for deal in deals]
    answer = await till.ask(done, Operation.SETTLE, till.at_settling(deals[1]))
    assert isinstance(answer, Settled), f"{way}: {answer}"
    return never, done


async def losing(
    bench: RailBench, till: Till, begun: Charge, payment: Payment | None, operation: Operation, *, done: bool
) -> Charge:
    """Ask the rail for an operation whose answer gets lost, and return the charge as it is looked up then."""
    if not await bench.lose_answer(begun, operation, done=done):
        pytest.skip("the bench cannot lose this answer")
    answer = await till.ask(begun, operation, payment)
    allowed = (Unknown, HAPPENED[operation]) if done else (Unknown, NotPaid)
    assert isinstance(answer, allowed), f"{answer}, and the answer was lost"
    state = answer.state if isinstance(answer, Unknown) else {}
    return begun.on(PaymentEvent.LOST, lease_until=begun.lease_until, rail_state={**begun.rail_state, **dict(state)})


class OutageCases(RailCases):
    """While the backend is down nothing happens, and the rail says so."""

    async def test_a_rail_that_is_down_says_so(self, bench: RailBench, till: Till, way: Way) -> None:
        with darkness(bench):
            with pytest.raises(RailUnavailable):
                await bench.rail.health()
            try:
                offer = await till.ask_for(way, amount=None, order=order_of())
            except RailUnavailable:
                pass
            else:
                assert offer is not None, "None says that this price is never served"
        await bench.rail.health()
        assert await till.ask_for(way, amount=None, order=order_of()) is not None

    async def test_nobody_is_refused_for_it(self, bench: RailBench, till: Till, way: Way) -> None:
        deal = await till.deal(way)
        with darkness(bench), suppress(RailUnavailable):
            await till.verified(deal.offer, deal.payment)
        await till.verified(deal.offer, deal.payment)

    async def test_nothing_is_taken_and_nothing_is_lost(self, bench: RailBench, till: Till, way: Way) -> None:
        books = await Books.open(bench)
        deal = await till.deal(way)
        before = await till.before_settling(deal)
        moved = await books.moved()
        begun = till.begun(before, Operation.SETTLE)
        with darkness(bench):
            answer = await till.ask(begun, Operation.SETTLE, till.at_settling(deal))
        known = isinstance(answer, Settled) and moved[1] == bench.amount
        assert known or isinstance(answer, NotPaid | Unknown), f"{answer}, and nothing could be asked"
        if isinstance(answer, Unknown):
            found = await till.found(till.learnt(begun, answer), Operation.SETTLE)
            expected = Settled if moved[1] else Held if way.flow is Flow.ESCROW else NotPaid
            assert isinstance(found, expected), found
        assert await books.moved() == moved
        after = await till.ask(begun, Operation.SETTLE, till.at_settling(deal))
        assert isinstance(after, Settled), after
        await books.assert_moved(bench.amount, deal.paid.fee)
