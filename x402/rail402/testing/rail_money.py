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
    names = ", ".join(kind.__name__ for kind in kinds)
    assert isinstance(answer, (*kinds, RailUnavailable, OutcomeUnknown)), (
        f"it must end in one of {names}, not {answer!r}"
    )
    known = not isinstance(answer, Failed) or answer.code in REASONS
    assert known, f"{answer}: no reason code: docs/errors.md has the table of them"


def happened(done: bool) -> str:
    """Return what a lookup is to find out."""
    return "it happened" if done else "it did not happen"


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
        assert isinstance(answer, Settled), f"settle must take it, and answered {answer}"
        await books.assert_moved(bench.amount, deal.paid.fee)
        assert answer.transaction, "Settled: the rail's reference"
        assert answer.at is None or answer.at <= bench.clock() + 60, "Settled.at: Unix seconds, and not in the future"
        assert till.learnt(begun, answer).keys, "a charge has the keys of its payment"

    async def test_two_settlements_are_told_apart(self, bench: RailBench, till: Till, way: Way) -> None:
        first, second = [await till.settled(await till.deal(way)) for _ in range(2)]
        assert first.transaction != second.transaction, "Settled.transaction: each settlement has its own"

    async def test_settling_the_same_charge_again_moves_nothing(self, bench: RailBench, till: Till, way: Way) -> None:
        books = await Books.open(bench)
        deal = await till.deal(way)
        begun = till.begun(await till.before_settling(deal), Operation.SETTLE)
        first = await till.ask(begun, Operation.SETTLE, till.at_settling(deal))
        assert isinstance(first, Settled), f"settle must take it, and answered {first}"
        second = await till.ask(begun, Operation.SETTLE, till.at_settling(deal))
        same = not isinstance(second, Settled) or second.transaction == first.transaction
        assert same, f"settle: the same charge is the same transaction: {first}, {second}"
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
        transactions = {answer.transaction for answer in answers if isinstance(answer, Settled)}
        assert len(transactions) <= 1, f"settle: the same charge is the same transaction: {transactions}"
        found = await till.found(begun, Operation.SETTLE)
        assert isinstance(found, Settled), f"lookup must find the settlement, and found {found}"
        await books.assert_moved(bench.amount, deal.paid.fee)

    async def test_one_payment_in_two_charges_moves_once(self, bench: RailBench, till: Till, way: Way) -> None:
        books = await Books.open(bench)
        deal = await till.deal(way)
        charges = [await till.claimed(deal) for _ in range(2)]
        if way.flow is Flow.ESCROW:
            begun = [till.begun(charge, Operation.HOLD) for charge in charges]
            holds = [(each, await till.ask(each, Operation.HOLD, deal.payment)) for each in begun]
            charges = [till.learnt(each, answer) for each, answer in holds if isinstance(answer, Held)]
            assert charges, f"hold must reserve it for a charge, and answered {holds[0][1]}, {holds[1][1]}"
        charges = [till.begun(charge, Operation.SETTLE) for charge in charges]
        answers = [await till.ask(charge, Operation.SETTLE, till.at_settling(deal)) for charge in charges]
        assert isinstance(answers[0], Settled), f"settle must take it for the first charge, and answered {answers[0]}"
        for answer in answers[1:]:
            assert_is_an_answer(answer, *_ANSWERS)
        await books.assert_moved(bench.amount, deal.paid.fee)


class LookupCases(RailCases):
    """A lookup says what has happened, guesses nothing, and moves nothing."""

    async def test_a_settlement_is_found(self, bench: RailBench, till: Till, way: Way) -> None:
        deal = await till.deal(way)
        begun = till.begun(await till.before_settling(deal), Operation.SETTLE)
        answer = await till.ask(begun, Operation.SETTLE, till.at_settling(deal))
        assert isinstance(answer, Settled), f"settle must take it, and answered {answer}"
        for charge in (begun, till.learnt(begun, answer)):  # its answer was lost, or it was not
            found = await till.found(charge, Operation.SETTLE)
            assert isinstance(found, Settled), f"lookup must find the settlement, and found {found}"
            assert found.transaction == answer.transaction, "lookup names another transaction than settle did"

    async def test_a_settlement_that_was_never_begun_is_not_found(self, bench: RailBench, till: Till, way: Way) -> None:
        books = await Books.open(bench)
        deal = await till.deal(way)
        charge = till.begun(await till.before_settling(deal), Operation.SETTLE)
        has_paid = (await books.moved())[1] == bench.amount
        found = await till.found(charge, Operation.SETTLE)
        if has_paid:  # the wallet has moved it
            assert isinstance(found, Settled), f"lookup found {found}, and its wallet has paid it"
        elif bench.is_real_time and isinstance(found, Pending | Unknown):
            pass
        else:
            allowed = Held if way.flow is Flow.ESCROW else (NotPaid, Failed)
            assert isinstance(found, allowed), f"lookup found {found}, and nothing was taken"
        assert (await books.moved())[1] == (bench.amount if has_paid else 0), "lookup must move nothing"

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
        found = await till.found(done, Operation.SETTLE)
        assert isinstance(found, Settled), f"the backend is back: lookup must find the settlement, and found {found}"

    @pytest.mark.parametrize("done", [True, False], ids=["it happened", "it did not happen"])
    async def test_a_lost_answer_is_found_out(self, bench: RailBench, till: Till, way: Way, done: bool) -> None:
        books = await Books.open(bench)
        deal = await till.deal(way)
        begun = till.begun(await till.before_settling(deal), Operation.SETTLE)
        lost = await losing(bench, till, begun, till.at_settling(deal), Operation.SETTLE, done=done)
        found = await till.found(lost, Operation.SETTLE)
        if done:
            assert isinstance(found, Settled), f"lookup found {found}, and {happened(done)}"
            assert found.transaction, "Settled: the rail's reference"
        else:
            allowed = Held if way.flow is Flow.ESCROW else NotPaid
            assert isinstance(found, allowed), f"lookup found {found}, and {happened(done)}"
            assert (await books.moved())[1] == 0, "lookup must move nothing"
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
    assert isinstance(answer, Settled), f"settle must take it, and answered {answer}"
    return never, done


async def losing(
    bench: RailBench, till: Till, begun: Charge, payment: Payment | None, operation: Operation, *, done: bool
) -> Charge:
    """Ask the rail for an operation whose answer gets lost, and return the charge as it is looked up then."""
    if not await bench.lose_answer(begun, operation, done=done):
        pytest.skip("the bench cannot lose this answer")
    answer = await till.ask(begun, operation, payment)
    allowed = (Unknown, HAPPENED[operation]) if done else (Unknown, NotPaid)
    assert isinstance(answer, allowed), f"{operation} answered {answer}, and the backend's answer was lost: Unknown"
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
        offer = await till.ask_for(way, amount=None, order=order_of())
        assert offer is not None, "the backend is back: it must make offers again"

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
            assert isinstance(found, expected), f"lookup found {found}, and nothing was reached"
        assert await books.moved() == moved, "nothing could be reached, and money moved"
        after = await till.ask(begun, Operation.SETTLE, till.at_settling(deal))
        assert isinstance(after, Settled), f"the backend is back: settle must take it, and answered {after}"
        await books.assert_moved(bench.amount, deal.paid.fee)
