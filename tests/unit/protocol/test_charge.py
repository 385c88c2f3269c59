"""The tables, the rules that join them, and the lease: one test per sentence of the module's docstring."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from rail402.protocol.charge import (
    CUT_OFFS,
    DELIVERY,
    IN_FLIGHT,
    PAYMENT,
    RERUNS,
    Charge,
    Delivery,
    DeliveryEvent,
    IllegalTransition,
    Operation,
    PaymentEvent,
    PaymentState,
)
from rail402.protocol.offer import Flow

Make = Callable[..., Charge]
NOW = 1_800_000_000
LATER = NOW + 500

ASKS = {
    PaymentEvent.HOLD: PaymentState.HOLDING,
    PaymentEvent.SETTLE: PaymentState.SETTLING,
    PaymentEvent.RELEASE: PaymentState.RELEASING,
    PaymentEvent.REFUND: PaymentState.REFUNDING,
}


def in_state(make_charge: Make, payment: PaymentState, delivery: Delivery = Delivery.NONE, **facts: object) -> Charge:
    if payment is PaymentState.UNKNOWN:
        facts.setdefault("operation", Operation.SETTLE)
    return make_charge(payment=payment, delivery=delivery, **facts)


LIVES = {
    "authorization": "settle settling, settled settled",
    "escrow": "hold holding, held held, settle settling, settled settled",
    "refused": "settle settling, rejected rejected",
    "hold refused": "hold holding, rejected rejected",
    "claimed by a worker that died": "released released, reclaim claimed",
    "not reserved, and tried again": "hold holding, released released, reclaim claimed",
    "not taken, and tried again": "settle settling, released released, reclaim claimed",
    "the handler failed in escrow": "hold holding, held held, release releasing, released released",
    "released too late": "hold holding, held held, release releasing, settled settled",
    "the handler failed upfront": "settle settling, settled settled, refund refunding, refunded refunded",
    "the refund was refused": "settle settling, settled settled, refund refunding, settled settled",
    "lost, and found reserved": "hold holding, lost unknown, held held",
    "lost, and found refused": "hold holding, lost unknown, rejected rejected",
    "lost, and found taken": "settle settling, lost unknown, settled settled",
    "lost, and found undone": "settle settling, lost unknown, released released",
    "a release lost": "hold holding, held held, release releasing, lost unknown, released released",
    "a refund lost": "settle settling, settled settled, refund refunding, lost unknown, refunded refunded",
}


class TestTheTables:
    @pytest.mark.parametrize("life", LIVES)
    def test_a_payment_lives_like_this(self, make_charge: Make, life: str) -> None:
        charge = make_charge()
        for step in LIVES[life].split(", "):
            event, state = step.split()
            charge = charge.on(PaymentEvent(event), lease_until=LATER)
            assert charge.payment == state

    def test_there_is_no_other_life(self) -> None:
        rows = set()
        for life in LIVES.values():
            state = PaymentState.CLAIMED
            for step in life.split(", "):
                event, after = step.split()
                rows.add((state, PaymentEvent(event), PaymentState(after)))
                state = PaymentState(after)
        assert rows == {(state, event, after) for (state, event), after in PAYMENT.items()}

    @pytest.mark.parametrize(("state", "event"), list(product(PaymentState, PaymentEvent)))
    def test_a_payment_takes_what_is_in_the_table_and_nothing_else(
        self, make_charge: Make, state: PaymentState, event: PaymentEvent
    ) -> None:
        charge = in_state(make_charge, state)
        expected = PAYMENT.get((state, event))
        if expected is None:
            with pytest.raises(IllegalTransition, match=f"{state} .*does not take {event}"):
                charge.on(event, lease_until=LATER)
        else:
            assert charge.on(event, lease_until=LATER).payment is expected

    @pytest.mark.parametrize(("state", "event"), list(product(Delivery, DeliveryEvent)))
    def test_an_answer_takes_what_is_in_the_table_and_nothing_else(
        self, make_charge: Make, state: Delivery, event: DeliveryEvent
    ) -> None:
        charge = in_state(make_charge, PaymentState.SETTLED, state)
        expected = DELIVERY.get((state, event))
        if expected is None:
            with pytest.raises(IllegalTransition, match=f"{state} .*does not take {event}"):
                charge.deliver(event, lease_until=LATER)
        else:
            assert charge.deliver(event, lease_until=LATER).delivery is expected

    def test_asking_is_written_down_first(self) -> None:
        for event, state in ASKS.items():
            assert {after for (_, e), after in PAYMENT.items() if e is event} == {state}
            assert IN_FLIGHT[state].value == event.value
        assert set(IN_FLIGHT) == set(ASKS.values())

    def test_only_a_call_without_an_answer_is_unknown(self) -> None:
        into_unknown = {(state, event) for (state, event), after in PAYMENT.items() if after is PaymentState.UNKNOWN}
        assert into_unknown == {(state, PaymentEvent.LOST) for state in IN_FLIGHT}

    def test_only_an_answer_of_the_rail_settles(self) -> None:
        settling = {(state, event) for (state, event), after in PAYMENT.items() if after is PaymentState.SETTLED}
        assert {event for _, event in settling} == {PaymentEvent.SETTLED}
        assert {state for state, _ in settling} <= {*IN_FLIGHT, PaymentState.UNKNOWN}
        assert PaymentState.HOLDING not in {state for state, _ in settling}

    def test_what_is_over_stays_over(self) -> None:
        exits = {state: {e for s, e in PAYMENT if s is state} for state in PaymentState}
        assert exits[PaymentState.REFUNDED] == exits[PaymentState.REJECTED] == set()
        assert exits[PaymentState.SETTLED] == {PaymentEvent.REFUND}
        assert exits[PaymentState.RELEASED] == {PaymentEvent.RECLAIM}
        assert {state for state, event in PAYMENT if event is PaymentEvent.RECLAIM} == {PaymentState.RELEASED}

    def test_every_state_is_reached_and_none_is_a_trap(self) -> None:
        def closure(start: PaymentState) -> set[PaymentState]:
            reached, todo = {start}, [start]
            while todo:
                here = todo.pop()
                new = {after for (state, _), after in PAYMENT.items() if state is here} - reached
                reached |= new
                todo += new
            return reached

        assert closure(PaymentState.CLAIMED) == set(PaymentState)
        ends = {PaymentState.SETTLED, PaymentState.RELEASED, PaymentState.REJECTED, PaymentState.REFUNDED}
        assert all(closure(state) & ends for state in PaymentState)


class TestPayment:
    def test_a_step_renews_the_lease_and_keeps_what_was_learnt(self, make_charge: Make) -> None:
        charge = make_charge(payment=PaymentState.SETTLING, payer="0x1")
        settled = charge.on(PaymentEvent.SETTLED, lease_until=LATER, transaction="0xabc", settled_at=NOW)
        assert (settled.lease_until, settled.transaction, settled.settled_at, settled.payer) == (
            LATER,
            "0xabc",
            NOW,
            "0x1",
        )
        assert (charge.payment, charge.transaction, settled.version) == (PaymentState.SETTLING, None, charge.version)

    @pytest.mark.parametrize(("state", "operation"), IN_FLIGHT.items())
    def test_unknown_says_which_operation_and_forgets_it_with_the_answer(
        self, make_charge: Make, state: PaymentState, operation: Operation
    ) -> None:
        lost = make_charge(payment=state).on(PaymentEvent.LOST, lease_until=LATER)
        assert (lost.payment, lost.operation) == (PaymentState.UNKNOWN, operation)
        assert lost.on(PaymentEvent.SETTLED, lease_until=LATER).operation is None

    def test_every_asking_is_another_try_and_a_reclaim_begins_anew(self, make_charge: Make) -> None:
        charge = make_charge(flow=Flow.ESCROW)
        charge = charge.on(PaymentEvent.HOLD, lease_until=LATER).on(PaymentEvent.HELD, lease_until=LATER)
        assert (charge.attempt, charge.tries) == (1, 1)
        charge = charge.on(PaymentEvent.SETTLE, lease_until=LATER).on(PaymentEvent.LOST, lease_until=LATER)
        charge = charge.on(PaymentEvent.HELD, lease_until=LATER).on(PaymentEvent.SETTLE, lease_until=LATER)
        assert (charge.attempt, charge.tries) == (1, 3)
        charge = charge.on(PaymentEvent.RELEASED, lease_until=LATER).on(PaymentEvent.RECLAIM, lease_until=LATER)
        assert (charge.payment, charge.attempt, charge.tries) == (PaymentState.CLAIMED, 2, 0)

    @pytest.mark.parametrize("delivery", [Delivery.NONE, Delivery.FAILED, Delivery.STORED])
    def test_a_reclaim_drops_the_answer_of_the_attempt_before(self, make_charge: Make, delivery: Delivery) -> None:
        again = make_charge(payment=PaymentState.RELEASED, delivery=delivery).on(
            PaymentEvent.RECLAIM, lease_until=LATER
        )
        assert again.delivery is Delivery.NONE

    @pytest.mark.parametrize(
        ("payment", "event"),
        [(PaymentState.SETTLED, PaymentEvent.REFUND), (PaymentState.RELEASED, PaymentEvent.RECLAIM)],
    )
    def test_nobody_refunds_or_reclaims_while_the_handler_runs(
        self, make_charge: Make, payment: PaymentState, event: PaymentEvent
    ) -> None:
        with pytest.raises(IllegalTransition, match="running"):
            make_charge(payment=payment, delivery=Delivery.RUNNING).on(event, lease_until=LATER)

    def test_a_lost_refund_is_refunded_or_still_ours(self, make_charge: Make) -> None:
        charge = make_charge(payment=PaymentState.UNKNOWN, operation=Operation.REFUND, delivery=Delivery.FAILED)
        for event in (PaymentEvent.HELD, PaymentEvent.RELEASED, PaymentEvent.REJECTED):
            with pytest.raises(IllegalTransition, match="refund"):
                charge.on(event, lease_until=LATER)
        assert charge.on(PaymentEvent.SETTLED, lease_until=LATER).payment is PaymentState.SETTLED
        assert charge.on(PaymentEvent.REFUNDED, lease_until=LATER).payment is PaymentState.REFUNDED

    @pytest.mark.parametrize("operation", [Operation.HOLD, Operation.SETTLE, Operation.RELEASE])
    def test_any_other_lost_call_may_turn_out_not_to_have_happened(
        self, make_charge: Make, operation: Operation
    ) -> None:
        charge = make_charge(payment=PaymentState.UNKNOWN, operation=operation)
        assert charge.on(PaymentEvent.RELEASED, lease_until=LATER).payment is PaymentState.RELEASED

    def test_a_fact_that_is_none_is_refused(self, make_charge: Make) -> None:
        with pytest.raises(TypeError, match="transactoin"):
            make_charge(payment=PaymentState.SETTLING).on(PaymentEvent.SETTLED, lease_until=LATER, transactoin="0xabc")


RUN_IN = {
    Flow.AUTHORIZATION: PaymentState.CLAIMED,
    Flow.ESCROW: PaymentState.HELD,
    Flow.UPFRONT: PaymentState.SETTLED,
}


class TestDelivery:
    @pytest.mark.parametrize(
        ("before", "event", "after"),
        [
            ("none", "start", "running"),
            ("failed", "start", "running"),
            ("streamed", "start", "running"),
            ("running", "store", "stored"),
            ("running", "stream", "streamed"),
            ("running", "fail", "failed"),
            ("none", "fail", "failed"),
            ("failed", "fail", "failed"),
        ],
    )
    def test_an_answer_lives_like_this(self, make_charge: Make, before: str, event: str, after: str) -> None:
        charge = make_charge(payment=PaymentState.SETTLED, delivery=Delivery(before))
        assert charge.deliver(DeliveryEvent(event), lease_until=LATER).delivery == after

    @pytest.mark.parametrize(("flow", "payment"), list(product(Flow, PaymentState)))
    def test_the_handler_starts_where_the_flow_wants_the_money(
        self, make_charge: Make, flow: Flow, payment: PaymentState
    ) -> None:
        charge = in_state(make_charge, payment, flow=flow)
        # Settled always may: the answer of the lookup came before the handler had run.
        if payment in (RUN_IN[flow], PaymentState.SETTLED):
            started = charge.deliver(DeliveryEvent.START, lease_until=LATER)
            assert (started.delivery, started.reruns, started.lease_until) == (Delivery.RUNNING, 0, LATER)
        else:
            with pytest.raises(IllegalTransition):
                charge.deliver(DeliveryEvent.START, lease_until=LATER)

    @pytest.mark.parametrize("payment", PaymentState)
    def test_an_answer_is_streamed_only_when_settled(self, make_charge: Make, payment: PaymentState) -> None:
        charge = in_state(make_charge, payment, Delivery.RUNNING)
        if payment is PaymentState.SETTLED:
            assert charge.deliver(DeliveryEvent.STREAM, lease_until=LATER).delivery is Delivery.STREAMED
        else:
            with pytest.raises(IllegalTransition):
                charge.deliver(DeliveryEvent.STREAM, lease_until=LATER)

    @pytest.mark.parametrize("payment", [state for state in PaymentState if state is not PaymentState.UNKNOWN])
    def test_an_answer_is_stored_when_settled(self, make_charge: Make, payment: PaymentState) -> None:
        charge = make_charge(payment=payment, delivery=Delivery.RUNNING)
        if payment is PaymentState.SETTLED:
            assert charge.deliver(DeliveryEvent.STORE, lease_until=LATER).delivery is Delivery.STORED
        else:
            with pytest.raises(IllegalTransition):
                charge.deliver(DeliveryEvent.STORE, lease_until=LATER)

    @pytest.mark.parametrize("operation", Operation)
    def test_an_answer_may_be_stored_while_settling_is_unknown(self, make_charge: Make, operation: Operation) -> None:
        charge = make_charge(payment=PaymentState.UNKNOWN, operation=operation, delivery=Delivery.RUNNING)
        if operation is Operation.SETTLE:
            assert charge.deliver(DeliveryEvent.STORE, lease_until=LATER).delivery is Delivery.STORED
        else:
            with pytest.raises(IllegalTransition):
                charge.deliver(DeliveryEvent.STORE, lease_until=LATER)

    @pytest.mark.parametrize("payment", PaymentState)
    def test_a_handler_may_fail_whatever_the_money_does(self, make_charge: Make, payment: PaymentState) -> None:
        charge = in_state(make_charge, payment, Delivery.RUNNING)
        assert charge.deliver(DeliveryEvent.FAIL, lease_until=LATER).delivery is Delivery.FAILED

    @pytest.mark.parametrize("unstored", [DeliveryEvent.FAIL, DeliveryEvent.STREAM])
    def test_what_was_not_stored_runs_once_more(self, make_charge: Make, unstored: DeliveryEvent) -> None:
        charge = make_charge(payment=PaymentState.SETTLED, delivery=Delivery.RUNNING)
        for rerun in range(1, RERUNS + 1):
            charge = charge.deliver(unstored, lease_until=LATER)
            assert charge.may_rerun
            charge = charge.deliver(DeliveryEvent.START, lease_until=LATER)
            assert (charge.reruns, charge.may_rerun) == (rerun, False)
        charge = charge.deliver(unstored, lease_until=LATER)
        assert not charge.may_rerun
        with pytest.raises(IllegalTransition):
            charge.deliver(DeliveryEvent.START, lease_until=LATER)

    @pytest.mark.parametrize(("payment", "delivery"), list(product(PaymentState, Delivery)))
    def test_only_a_settled_charge_without_a_stored_answer_may_rerun(
        self, make_charge: Make, payment: PaymentState, delivery: Delivery
    ) -> None:
        expected = payment is PaymentState.SETTLED and delivery in (Delivery.FAILED, Delivery.STREAMED)
        assert in_state(make_charge, payment, delivery).may_rerun is expected

    def test_facts_are_added(self, make_charge: Make) -> None:
        charge = make_charge(payment=PaymentState.SETTLED, delivery=Delivery.RUNNING)
        assert charge.deliver(DeliveryEvent.STORE, lease_until=LATER, receipt="e30.e30.c2ln").receipt == "e30.e30.c2ln"


class TestLease:
    @pytest.mark.parametrize(("payment", "delivery"), list(product(PaymentState, Delivery)))
    def test_nothing_lapses_before_its_time(self, make_charge: Make, payment: PaymentState, delivery: Delivery) -> None:
        charge = in_state(make_charge, payment, delivery, lease_until=NOW + 1)
        assert charge.lapsed(NOW) is charge

    @pytest.mark.parametrize(("payment", "delivery"), list(product(PaymentState, Delivery)))
    def test_a_dead_worker_leaves_nothing_running(
        self, make_charge: Make, payment: PaymentState, delivery: Delivery
    ) -> None:
        charge = in_state(make_charge, payment, delivery, lease_until=NOW)
        lapsed = charge.lapsed(NOW)
        if payment is PaymentState.CLAIMED:
            assert lapsed.payment is PaymentState.RELEASED
        elif payment in IN_FLIGHT:
            assert (lapsed.payment, lapsed.operation) == (PaymentState.UNKNOWN, IN_FLIGHT[payment])
        else:
            assert (lapsed.payment, lapsed.operation) == (payment, charge.operation)
        assert lapsed.delivery is (Delivery.FAILED if delivery is Delivery.RUNNING else delivery)
        assert lapsed.version == charge.version
        assert lapsed.lapsed(NOW) is lapsed

    def test_a_dead_worker_does_not_use_up_the_rerun(self, make_charge: Make) -> None:
        charge = make_charge(payment=PaymentState.SETTLED, delivery=Delivery.RUNNING, lease_until=NOW)
        assert charge.lapsed(NOW).may_rerun


def test_a_pass_buys_more_than_one_request(make_charge: Make) -> None:
    assert not make_charge().is_pass
    assert make_charge(uses=2).is_pass


def test_a_charge_survives_its_json(make_charge: Make) -> None:
    charge = make_charge(
        payment=PaymentState.UNKNOWN,
        operation=Operation.SETTLE,
        rail_state={"nonce": "0x2", "raw": {"gas": 1}},
        context=("a" * 64,),
        secret_digest="b" * 64,
        receipt="e30.e30.c2ln",
    )
    assert Charge.model_validate_json(charge.model_dump_json()) == charge


def test_what_a_replay_must_show_is_not_in_the_repr(make_charge: Make) -> None:
    text = repr(make_charge(secret_digest="d1d1", context=("c2c2",), receipt="e3e3"))
    assert not any(secret in text for secret in ("d1d1", "c2c2", "e3e3"))


def test_a_run_that_ended_with_its_worker_gives_its_rerun_back_a_few_times(make_charge: Make) -> None:
    charge = in_state(make_charge, PaymentState.SETTLED, Delivery.RUNNING)
    for cut_off in range(1, RERUNS + CUT_OFFS + 2):
        charge = charge.lapsed(charge.lease_until)
        assert (charge.cut_off, charge.is_first_run) == (cut_off, True)
        assert charge.may_rerun is charge.is_owed is (cut_off <= RERUNS + CUT_OFFS), cut_off
        if charge.may_rerun:
            charge = charge.deliver(DeliveryEvent.START, lease_until=NOW)
    assert charge.reruns == RERUNS + CUT_OFFS
