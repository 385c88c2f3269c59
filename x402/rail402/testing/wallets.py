"""The conformance kit for wallets: one class with a case for every promise of `rail402.protocol.rail.Wallet`.

It takes the same bench as the kit for rails, whose wallet it is about::

    from rail402.testing.wallets import WalletConformance

    class TestMyWallet(WalletConformance):
        ways = [("card", "escrow"), ("card", "upfront")]

        async def open_bench(self, directory):
            return MyBench(directory)

The money is counted on both books, and a payment counts as made when its rail has taken it. What a wallet does after a
crash is asked of `RailBench.next_wallet`, which knows nothing of what the first one had in memory.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, ClassVar, Final

import pytest

from rail402.errors import (
    OfferRefused,
    OutcomeUnknown,
    PaymentFailed,
    PaymentOutcomeUnknown,
    PaymentRefused,
    PaymentRejected,
    Rail402Error,
    RailUnavailable,
)
from rail402.protocol.base import Json
from rail402.protocol.charge import Charge
from rail402.protocol.offer import Offer
from rail402.protocol.rail import Cost, NotPaid, Paid, Unknown, Wallet
from rail402.testing.rail_bench import Books, RailBench, Way
from rail402.testing.rail_till import Deal, RailCases, Till, logged, nothing_secret_in, order_of

__all__ = ["WalletConformance"]

_DAY: Final = 86_400
_LOOKS: Final = 10

_NOTHING_PAID: Final = (PaymentFailed, PaymentRefused, RailUnavailable)
"""What `pay` may raise where nothing was paid, and nothing will be."""

_IN_DOUBT: Final = (PaymentOutcomeUnknown, OutcomeUnknown)


class _Purchase:
    """An offer as the wallet sees it, and the record under which it is bought."""

    def __init__(self, till: Till, way: Way, made: Offer, number: int = 0) -> None:
        self.till, self.made, self.record_id = till, made, f"rec_wallet_{number}"
        self.order, self.dialect = order_of(), till.dialects_of(made)[0]
        self.seen = till.read(made, self.order, self.dialect)

    async def pay(self, wallet: Wallet) -> Paid:
        return await wallet.pay(self.seen, record_id=self.record_id, now=self.till.bench.clock())

    async def resume(self, wallet: Wallet, payload: Json | None) -> Paid | NotPaid | Unknown:
        """Ask what became of it, as the client does: an exception tells nothing."""
        now = self.till.bench.clock()
        try:
            return await wallet.resume(self.seen, payload, record_id=self.record_id, now=now)
        except (RailUnavailable, *_IN_DOUBT) as error:
            return Unknown(detail=error.detail)

    async def resume_until_known(self, wallet: Wallet, payload: Json | None) -> Paid | NotPaid | Unknown:
        """Ask until it is known; time passes."""
        answer: Paid | NotPaid | Unknown = Unknown()
        for _ in range(_LOOKS):
            answer = await self.resume(wallet, payload)
            if not isinstance(answer, Unknown):
                break
            await self.till.bench.pass_time(120)
        return answer

    def deal(self, paid: Paid) -> Deal:
        """Return the deal that it is with this proof."""
        payment = self.till.presented(self.seen, self.order, self.dialect, paid.payload)
        return Deal(
            order=self.order,
            made=self.made,
            seen=self.seen,
            dialect=self.dialect,
            paid=paid,
            payment=payment,
            record_id=self.record_id,
        )

    async def settled(self, paid: Paid) -> Charge:
        """Have the rail take the money of a proof."""
        return await self.till.settled(self.deal(paid))


class WalletConformance(RailCases):
    """Every case. Derive from it, name the `ways`, and define `open_bench`."""

    pytestmark: ClassVar = [pytest.mark.asyncio]

    @staticmethod
    async def buy(till: Till, way: Way, number: int = 0) -> _Purchase:
        """Return a purchase that nothing was paid for yet."""
        return _Purchase(till, way, await till.make(way, order=order_of()), number)

    @staticmethod
    async def restarted(bench: RailBench) -> Wallet:
        """Return the wallet as the next process makes it."""
        wallet = bench.next_wallet()
        if wallet is None:
            pytest.skip("the bench cannot make the wallet once more")
        await wallet.start()
        return wallet

    # --- what it can pay

    async def test_it_says_what_an_offer_would_cost(self, bench: RailBench, till: Till, way: Way) -> None:
        books, bought = await Books.open(bench), await self.buy(till, way)
        cost = await bench.wallet.can_pay(bought.seen)
        assert isinstance(cost, Cost), f"can_pay: its own rail's offer, and it says {cost}"
        assert cost.price == bought.made.price, "can_pay: the offer's price"
        await books.assert_moved(0)
        paid = await bought.pay(bench.wallet)
        if paid.fee is not None and paid.fee.amount:
            assert cost.fee_ceiling is not None, "it paid a fee and had not said that it may"
            assert paid.fee <= cost.fee_ceiling, "it paid more than the fee_ceiling that can_pay named"
        await bought.settled(paid)
        await books.assert_moved(bench.amount, paid.fee)

    @pytest.mark.parametrize("part", ["network", "asset", "mechanism"])
    async def test_it_leaves_alone_what_is_not_its_own(self, bench: RailBench, till: Till, way: Way, part: str) -> None:
        books, bought = await Books.open(bench), await self.buy(till, way)
        foreign = bought.seen.model_copy(update={part: "elsewhere:1"})
        with suppress(OfferRefused):
            if part == "asset":  # a wallet may pay in whatever its rail knows
                bench.wallet.spec.check_offer(foreign, bought.order, now=bench.clock())
            assert await bench.wallet.can_pay(foreign) is None, f"can_pay: None for another {part}"
        await books.assert_moved(0)

    async def test_without_money_it_pays_nothing(self, bench: RailBench, till: Till, way: Way) -> None:
        poor = await bench.poor_wallet()
        if poor is None:
            pytest.skip("the bench has no wallet without money")
        books, bought = await Books.open(bench), await self.buy(till, way)
        with suppress(OfferRefused):
            await poor.can_pay(bought.seen)
        with suppress(*_NOTHING_PAID):
            paid = await bought.pay(poor)
            with pytest.raises((PaymentRejected, AssertionError)):  # a promise, which its rail sees through
                await bought.settled(paid)
        assert (await books.moved())[1] == 0, "it has no money, and money arrived"

    async def test_to_examine_it_pays_nothing(self, bench: RailBench, till: Till, way: Way) -> None:
        books, bought = await Books.open(bench), await self.buy(till, way)
        for found in await bench.wallet.examine():
            assert found.says, "what was found is to be said"
        await books.assert_moved(0)
        assert await bench.wallet.can_pay(bought.seen) is not None, "it can be used as before"

    # --- paying

    async def test_a_payment_moves_the_price_once(self, bench: RailBench, till: Till, way: Way) -> None:
        books, bought = await Books.open(bench), await self.buy(till, way)
        paid = await bought.pay(bench.wallet)
        charge = await bought.settled(paid)
        assert charge.transaction, "Settled: the rail's reference"
        await books.assert_moved(bench.amount, paid.fee)

    async def test_the_same_record_is_one_payment(self, bench: RailBench, till: Till, way: Way) -> None:
        books, bought = await Books.open(bench), await self.buy(till, way)
        first = await bought.pay(bench.wallet)
        moved = await books.moved()
        with suppress(PaymentFailed, *_IN_DOUBT):
            await bought.pay(bench.wallet)
        assert await books.moved() == moved, "the same record was paid twice"
        await bought.settled(first)
        await books.assert_moved(bench.amount, first.fee)

    async def test_two_records_are_two_payments(self, bench: RailBench, till: Till, way: Way) -> None:
        books = await Books.open(bench)
        for number in range(2):
            bought = await self.buy(till, way, number)
            await bought.settled(await bought.pay(bench.wallet))
        received = (await books.moved())[1]
        assert received == 2 * bench.amount, f"two records are two payments, and {received} arrived"

    async def test_resuming_shows_the_same_payment_again(self, bench: RailBench, till: Till, way: Way) -> None:
        books, bought = await Books.open(bench), await self.buy(till, way)
        paid = await bought.pay(bench.wallet)
        keys = till.spec.identify(bought.deal(paid).payment)
        moved = await books.moved()
        for wallet in (bench.wallet, await self.restarted(bench)):
            resumed = await bought.resume(wallet, paid.payload)
            assert isinstance(resumed, Paid), f"{resumed}, and the proof was in hand"
            assert moved[0] or not resumed.moved, "it says that money has moved"
            assert till.spec.identify(bought.deal(resumed).payment) == keys, "resume: another payment than before"
        assert await books.moved() == moved, "to resume pays nothing"
        await bought.settled(paid)
        await books.assert_moved(bench.amount, paid.fee)
        assert isinstance(await bought.resume(bench.wallet, paid.payload), Paid), "it was paid"
        await books.assert_moved(bench.amount, paid.fee)

    # --- crashes and lost answers

    async def test_nothing_was_paid_before_it_was_asked(self, bench: RailBench, till: Till, way: Way) -> None:
        books, bought = await Books.open(bench), await self.buy(till, way)
        wallet = await self.restarted(bench)
        answer = await bought.resume(wallet, None)
        assert not isinstance(answer, Paid), "nothing was paid"
        if not bench.is_real_time:
            answer = await bought.resume_until_known(wallet, None)
            assert isinstance(answer, NotPaid), f"nothing was paid, and resume says {answer}"
        await books.assert_moved(0)

    async def test_a_crash_before_the_proof_was_written_down(self, bench: RailBench, till: Till, way: Way) -> None:
        books, bought = await Books.open(bench), await self.buy(till, way)
        paid = await bought.pay(bench.wallet)
        moved = await books.moved()
        answer = await bought.resume(await self.restarted(bench), None)
        assert await books.moved() == moved, "to resume pays nothing"
        if moved[1]:
            assert not isinstance(answer, NotPaid), "the money has moved"
        if isinstance(answer, Paid):
            keys = till.spec.identify(bought.deal(paid).payment)
            assert till.spec.identify(bought.deal(answer).payment) == keys, "resume: another payment than before"
            await bought.settled(answer)
            await books.assert_moved(bench.amount, paid.fee)

    @pytest.mark.parametrize("done", [True, False], ids=["it happened", "it did not happen"])
    async def test_a_lost_answer_is_found_out(self, bench: RailBench, till: Till, way: Way, done: bool) -> None:
        books, bought = await Books.open(bench), await self.buy(till, way)
        if not await bench.lose_payment(done=done):
            pytest.skip("the bench cannot lose this answer")
        held: Any = None
        try:
            paid: Paid | None = await bought.pay(bench.wallet)
        except _IN_DOUBT as error:
            paid, held = None, getattr(error, "proof", None)
        except _NOTHING_PAID:
            paid = None
            assert not done, "it says that nothing was paid"
        moved = await books.moved()
        answer = paid or await bought.resume_until_known(await self.restarted(bench), held)
        if done:
            assert isinstance(answer, Paid), f"resume says {answer}, and it was paid"
            await bought.settled(answer)
            received = (await books.moved())[1]
            assert received == bench.amount, f"{received} arrived of {bench.amount}"
        else:
            assert isinstance(answer, NotPaid), f"resume says {answer}, and nothing was paid"
            assert await books.moved() == moved == (0, 0), "nothing was paid, and money moved"

    # --- offers that are not what they should be

    async def test_a_true_offer_is_accepted(self, bench: RailBench, till: Till, way: Way) -> None:
        made = await till.make(way)
        for dialect in till.dialects_of(made):
            seen = till.read(made, order_of(), dialect)
            bench.wallet.spec.check_offer(seen, order_of(), now=bench.clock())

    @pytest.mark.parametrize("part", ["network", "asset", "expires_at"])
    async def test_an_offer_that_lies_is_refused(self, bench: RailBench, till: Till, way: Way, part: str) -> None:
        bought = await self.buy(till, way)
        lie = {"network": "elsewhere:1", "asset": "nothing", "expires_at": bench.clock() - 1}
        false = bought.seen.model_copy(update={part: lie[part]})
        with pytest.raises(OfferRefused):
            bench.wallet.spec.check_offer(false, bought.order, now=bench.clock())

    async def test_every_other_lie_is_refused(self, bench: RailBench, till: Till, way: Way) -> None:
        bought = await self.buy(till, way)
        for what, false in bench.lies(bought.seen):
            with pytest.raises(OfferRefused) as refused:
                bench.wallet.spec.check_offer(false, bought.order, now=bench.clock())
            assert refused.value.detail, f"OfferRefused must say what is wrong: {what}"

    async def test_an_expired_offer_is_not_paid(self, bench: RailBench, till: Till, way: Way) -> None:
        books, bought = await Books.open(bench), await self.buy(till, way)
        later = bought.seen.expires_at + _DAY
        with pytest.raises(OfferRefused):
            bench.wallet.spec.check_offer(bought.seen, bought.order, now=later)
        with suppress(*_NOTHING_PAID):
            await bench.wallet.pay(bought.seen, record_id=bought.record_id, now=later)
        await books.assert_moved(0)

    async def test_what_is_not_its_own_is_not_paid(self, bench: RailBench, till: Till, way: Way) -> None:
        books, bought = await Books.open(bench), await self.buy(till, way)
        foreign = bought.seen.model_copy(update={"network": "elsewhere:1"})
        with pytest.raises(_NOTHING_PAID):
            await bench.wallet.pay(foreign, record_id=bought.record_id, now=bench.clock())
        await books.assert_moved(0)

    # --- taking a payment back

    async def test_what_was_taken_cannot_be_taken_back(self, bench: RailBench, till: Till, way: Way) -> None:
        books, bought = await Books.open(bench), await self.buy(till, way)
        paid = await bought.pay(bench.wallet)
        await bought.settled(paid)
        taken_back = await _withdrawn(bench, bought, paid)
        assert not taken_back, "its amount would be free to be spent again"
        await books.assert_moved(bench.amount, paid.fee)

    async def test_what_was_taken_back_cannot_be_taken(self, bench: RailBench, till: Till, way: Way) -> None:
        books, bought = await Books.open(bench), await self.buy(till, way)
        paid = await bought.pay(bench.wallet)
        moved = await books.moved()
        if not await _withdrawn(bench, bought, paid):
            assert await books.moved() == moved, "it was not taken back, and money moved"
            return
        assert moved == (0, 0), "money that has moved does not come back by being withdrawn"
        with suppress(Rail402Error, AssertionError):
            await bought.settled(paid)
        await books.assert_moved(0)
        answer = await bought.resume(bench.wallet, paid.payload)
        assert not isinstance(answer, Paid), "it was taken back, and resume shows it again"

    # --- secrets, and starting

    async def test_secrets_are_in_no_repr_error_or_log(self, shut_bench: RailBench, way: Way) -> None:
        with logged() as log:
            shown, paid = await self._shown(shut_bench, way)
            await shut_bench.wallet.close()
        secrets = self.secrets_of(shut_bench, paid.payload)
        for each in shown:
            nothing_secret_in(f"repr of {type(each).__name__}", repr(each), secrets)
        nothing_secret_in("the log", log.getvalue(), secrets)

    async def _shown(self, bench: RailBench, way: Way) -> tuple[list[object], Paid]:
        """Start the wallet, pay, and have it refuse; return what can be seen of that, and the payment."""
        await bench.rail.start()
        await bench.wallet.start()
        bought = await self.buy(Till(bench), way)
        paid = await bought.pay(bench.wallet)
        foreign = bought.seen.model_copy(update={"network": "elsewhere:1"})
        shown: list[object] = [bench.wallet, paid, bench.wallet.spec]
        for calling in (
            bench.wallet.pay(foreign, record_id="rec_other", now=bench.clock()),
            bench.wallet.pay(bought.seen, record_id="rec_late", now=bought.seen.expires_at + _DAY),
            bench.wallet.resume(bought.seen, paid.payload, record_id=bought.record_id, now=bench.clock()),
        ):
            try:
                shown.append(await calling)
            except Rail402Error as error:
                shown += [error, str(error)]
        return shown, paid

    async def test_it_starts_and_closes_twice_and_again(self, shut_bench: RailBench) -> None:
        for _ in range(2):
            for call in (shut_bench.wallet.start, shut_bench.wallet.close):
                await call()
                await call()
        assert shut_bench.wallet.name, "name: tells it from the other wallets of a payer"

    async def test_an_order_s_offer_is_still_the_offer(self, bench: RailBench, till: Till, way: Way) -> None:
        bought = await self.buy(till, way)
        for_order = bench.wallet.for_order(bought.seen, bought.order)
        for part in ("amount", "payee", "network", "asset", "expires_at", "flow"):
            assert getattr(for_order, part) == getattr(bought.seen, part), f"for_order: {part} must stay as it is"
        assert bench.wallet.for_order(for_order, bought.order) == for_order, "for_order: again, and it changes again"


async def _withdrawn(bench: RailBench, bought: _Purchase, paid: Paid) -> bool:
    """Ask the wallet to take a proof back."""
    return await bench.wallet.withdraw(bought.seen, paid.payload, record_id=bought.record_id, now=bench.clock())
