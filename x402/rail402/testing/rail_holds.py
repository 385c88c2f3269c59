"""What a rail must do that reserves money first, and one that gives it back."""

from __future__ import annotations

import pytest

from rail402.protocol.charge import Charge, Operation, PaymentEvent
from rail402.protocol.offer import Flow
from rail402.protocol.rail import Failed, Held, NotPaid, Pending, Refunded, Released, Settled, Unknown
from rail402.testing.rail_bench import Books, RailBench, Way
from rail402.testing.rail_money import happened, losing
from rail402.testing.rail_till import Answer, Deal, RailCases, Till

__all__ = ["HoldCases", "RefundCases"]


class HoldCases(RailCases):
    """What is reserved is the payer's until it is captured, and never both."""

    async def test_a_hold_reserves_and_is_found(self, bench: RailBench, till: Till, held_way: Way) -> None:
        books = await Books.open(bench)
        deal = await till.deal(held_way)
        begun = till.begun(await till.claimed(deal), Operation.HOLD)
        answers = [await till.ask(begun, Operation.HOLD, deal.payment) for _ in range(2)]
        assert isinstance(answers[0], Held), f"hold must reserve it, and answered {answers[0]}"
        assert isinstance(answers[1], Held | Unknown), f"{answers[1]}: it is held"
        assert (await books.moved())[1] == 0, "what is held has not arrived"
        for charge in (begun, till.learnt(begun, answers[0])):
            found = await till.found(charge, Operation.HOLD)
            assert isinstance(found, Held), f"lookup must find the hold, and found {found}"
        await till.done(till.learnt(begun, answers[0]), Operation.RELEASE, None)
        await books.assert_moved(0)

    async def test_a_hold_that_was_never_begun_is_not_found(self, bench: RailBench, till: Till, held_way: Way) -> None:
        deal = await till.deal(held_way)
        found = await till.found(till.begun(await till.claimed(deal), Operation.HOLD), Operation.HOLD)
        unheld = isinstance(found, NotPaid) or (bench.is_real_time and not isinstance(found, Held))
        assert unheld, f"lookup found {found}, and nothing was reserved"

    @pytest.mark.parametrize("done", [True, False], ids=["it happened", "it did not happen"])
    async def test_a_lost_hold_is_found_out(self, bench: RailBench, till: Till, held_way: Way, done: bool) -> None:
        books = await Books.open(bench)
        deal = await till.deal(held_way)
        begun = till.begun(await till.claimed(deal), Operation.HOLD)
        lost = await losing(bench, till, begun, deal.payment, Operation.HOLD, done=done)
        found = await till.found(lost, Operation.HOLD)
        assert isinstance(found, Held if done else NotPaid), f"lookup found {found}, and {happened(done)}"
        if done:
            await till.done(till.learnt(lost, found), Operation.RELEASE, None)
        await books.assert_moved(0)

    async def test_a_release_gives_all_of_it_back(self, bench: RailBench, till: Till, held_way: Way) -> None:
        books = await Books.open(bench)
        deal = await till.deal(held_way)
        begun = till.begun(await till.before_settling(deal), Operation.RELEASE)
        for _ in range(2):
            answer = await till.ask(begun, Operation.RELEASE, None)
            assert isinstance(answer, Released), f"release must let go of it, however often, and answered {answer}"
        found = await till.found(begun, Operation.RELEASE)
        assert isinstance(found, Released), f"lookup must find the release, and found {found}"
        await books.assert_moved(0)

    @pytest.mark.parametrize("done", [True, False], ids=["it happened", "it did not happen"])
    async def test_a_lost_release_is_found_out(self, bench: RailBench, till: Till, held_way: Way, done: bool) -> None:
        books = await Books.open(bench)
        deal = await till.deal(held_way)
        begun = till.begun(await till.before_settling(deal), Operation.RELEASE)
        lost = await losing(bench, till, begun, None, Operation.RELEASE, done=done)
        found = await till.found(lost, Operation.RELEASE)
        assert isinstance(found, Released if done else Held), f"lookup found {found}, and {happened(done)}"
        if not done:
            await till.done(till.learnt(lost, found), Operation.RELEASE, None)
        await books.assert_moved(0)

    async def test_what_was_released_cannot_be_captured(self, bench: RailBench, till: Till, held_way: Way) -> None:
        books = await Books.open(bench)
        deal = await till.deal(held_way)
        held = await till.before_settling(deal)
        await till.done(held, Operation.RELEASE, None)
        answer = await till.ask(till.begun(held, Operation.SETTLE), Operation.SETTLE, None)
        assert not isinstance(answer, Settled), "it captured what it had given back"
        await books.assert_moved(0)

    async def test_what_was_captured_is_not_released(self, bench: RailBench, till: Till, held_way: Way) -> None:
        books = await Books.open(bench)
        deal = await till.deal(held_way)
        held = await till.before_settling(deal)
        await till.done(held, Operation.SETTLE, None)
        answer = await till.ask(till.begun(held, Operation.RELEASE), Operation.RELEASE, None)
        assert isinstance(answer, Settled | Unknown), f"{answer}, and the money was taken"
        await books.assert_moved(bench.amount, deal.paid.fee)

    async def test_less_is_captured_where_less_is_asked(self, bench: RailBench, till: Till, held_way: Way) -> None:
        if not bench.rail.takes_less:
            pytest.skip("the rail takes all that it holds")
        books = await Books.open(bench)
        deal = await till.deal(held_way, amount=2 * bench.amount)
        least = bench.rail.least_taken(deal.made, bench.amount)
        assert bench.amount <= least <= deal.made.amount, "least_taken: as much as is asked for, or the least above it"
        whole = bench.rail.least_taken(deal.made, deal.made.amount)
        assert whole == deal.made.amount, "least_taken: all of it can be taken"
        charge = (await till.before_settling(deal)).model_copy(update={"reduced_to": least})
        begun = till.begun(charge, Operation.SETTLE)
        answer = await till.ask(begun, Operation.SETTLE, None)
        assert isinstance(answer, Settled), f"settle must capture charge.amount, and answered {answer}"
        await books.assert_moved(least, deal.paid.fee)
        found = await till.found(begun, Operation.SETTLE)
        assert isinstance(found, Settled), f"lookup must find the capture, and found {found}"


class RefundCases(RailCases):
    """What is given back was taken before, and goes back once."""

    async def test_a_refund_gives_it_back_once(self, bench: RailBench, till: Till, way: Way) -> None:
        self.needs_refunds(bench.rail)
        books = await Books.open(bench)
        deal = await till.deal(way)
        begun = await self.to_refund(till, deal)
        answers = [await till.ask(begun, Operation.REFUND, None) for _ in range(3)]
        assert isinstance(answers[0], Refunded), f"refund must give it back, and answered {answers[0]}"
        for answer in answers[1:]:
            assert isinstance(answer, Refunded | Failed | NotPaid | Unknown), f"refund answered {answer}"
        await self.assert_back(books, deal, await till.found(begun, Operation.REFUND))

    async def test_refunds_at_the_same_time_give_it_back_once(self, bench: RailBench, till: Till, way: Way) -> None:
        self.needs_refunds(bench.rail)
        books = await Books.open(bench)
        deal = await till.deal(way)
        begun = await self.to_refund(till, deal)
        await till.together(5, lambda: till.ask(begun, Operation.REFUND, None))
        await self.assert_back(books, deal, await till.found(begun, Operation.REFUND))

    async def test_a_refund_that_was_never_begun_is_not_found(self, bench: RailBench, till: Till, way: Way) -> None:
        self.needs_refunds(bench.rail)
        books = await Books.open(bench)
        deal = await till.deal(way)
        begun = await self.to_refund(till, deal)
        found = await till.found(begun, Operation.REFUND)
        later = bench.is_real_time and isinstance(found, Pending | Unknown)
        assert later or isinstance(found, Settled | NotPaid | Failed), f"lookup found {found}, and nothing went back"
        await books.assert_moved(bench.amount, deal.paid.fee)

    @pytest.mark.parametrize("done", [True, False], ids=["it happened", "it did not happen"])
    async def test_a_lost_refund_is_found_out(self, bench: RailBench, till: Till, way: Way, done: bool) -> None:
        self.needs_refunds(bench.rail)
        books = await Books.open(bench)
        deal = await till.deal(way)
        begun = await self.to_refund(till, deal)
        lost = await losing(bench, till, begun, None, Operation.REFUND, done=done)
        found = await till.found(lost, Operation.REFUND)
        allowed = Refunded if done else Settled | NotPaid | Failed
        assert isinstance(found, allowed), f"lookup found {found}, and {happened(done)}"
        if not done:
            lost = lost.on(PaymentEvent.SETTLED, lease_until=lost.lease_until)
            found = await till.ask(till.begun(lost, Operation.REFUND), Operation.REFUND, None)
        await self.assert_back(books, deal, found)

    async def test_no_more_goes_back_than_was_taken(self, bench: RailBench, till: Till, way: Way) -> None:
        self.needs_refunds(bench.rail)
        if way.flow is not Flow.ESCROW or not bench.rail.takes_less:
            pytest.skip("the rail takes all of an offer")
        books = await Books.open(bench)
        deal = await till.deal(way, amount=2 * bench.amount)
        charge = (await till.before_settling(deal)).model_copy(
            update={"reduced_to": bench.rail.least_taken(deal.made, bench.amount)}
        )
        charge = await till.done(charge, Operation.SETTLE, None)
        begun = till.begun(charge, Operation.REFUND)
        await till.ask(begun, Operation.REFUND, None)
        await self.assert_back(books, deal, await till.found(begun, Operation.REFUND))

    @staticmethod
    async def to_refund(till: Till, deal: Deal) -> Charge:
        """Return the charge of a payment that was taken and is to be given back."""
        charge = await till.settled(deal)
        if obstacle := till.rail.refund_obstacle(charge):
            pytest.skip(obstacle)
        return till.begun(charge, Operation.REFUND)

    @staticmethod
    async def assert_back(books: Books, deal: Deal, found: Answer) -> None:
        """Assert that a refund is known, and that its payer has all of it again but the fee of paying, and no more."""
        assert isinstance(found, Refunded), f"it went back, and the rail says {found}"
        spent, received = await books.moved()
        assert received == 0, f"the payee must have nothing of it any more, and has {received}"
        assert spent >= 0, f"the payer got {-spent} more back than was paid"
        fee = books.in_units(deal.paid.fee)
        assert spent <= fee, f"the payer got {spent} less back than was paid, of which {fee} was the fee of paying"
