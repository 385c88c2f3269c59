"""The circuit breaker: when a facilitator is left alone, and when it is tried again."""

from __future__ import annotations

import pytest

from rail402.errors import ConfigurationError, OutcomeUnknown, PaymentRejected, RailUnavailable
from rail402.testing.fakes import FakeClock
from rail402_base.facilitator_breaker import CircuitBreaker


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1000)


@pytest.fixture
def breaker(clock: FakeClock) -> CircuitBreaker:
    return CircuitBreaker("one", max_failures=3, rest_seconds=30, clock=clock)


def fail(breaker: CircuitBreaker, times: int = 1, *, settling: bool = False) -> None:
    for _ in range(times):
        with pytest.raises(OutcomeUnknown), breaker.call(settling=settling):
            raise OutcomeUnknown("no answer")


def is_open(breaker: CircuitBreaker) -> bool:
    try:
        with breaker.call():
            return False
    except RailUnavailable:
        return True


@pytest.mark.parametrize("error", [OutcomeUnknown, RailUnavailable, ConfigurationError])
def test_it_opens_after_so_many_failures_in_a_row(breaker: CircuitBreaker, error: type[Exception]) -> None:
    for _ in range(3):
        assert not breaker.is_tripped
        with pytest.raises(error), breaker.call():
            raise error("no")
    assert breaker.is_tripped
    ran = False
    with pytest.raises(RailUnavailable, match="one failed too often") as caught, breaker.call():
        ran = True
    assert (ran, caught.value.retry_after) == (False, 30)


def test_a_good_call_in_between_begins_the_count_anew(breaker: CircuitBreaker) -> None:
    for _ in range(3):
        fail(breaker, 2)
        breaker.worked()
    assert not is_open(breaker)


def test_a_payer_whose_payment_is_refused_is_no_failure(breaker: CircuitBreaker) -> None:
    for _ in range(5):
        with pytest.raises(PaymentRejected), breaker.call():
            raise PaymentRejected("no money")
    assert not is_open(breaker)


def test_good_answers_to_questions_do_not_make_up_for_settlements(breaker: CircuitBreaker) -> None:
    for _ in range(3):
        assert not is_open(breaker)
        breaker.worked()
        fail(breaker, settling=True)
    assert is_open(breaker)


def test_a_settlement_that_works_clears_everything(breaker: CircuitBreaker) -> None:
    fail(breaker, 2)
    fail(breaker, 2, settling=True)
    breaker.worked(settling=True)
    fail(breaker, 2)
    fail(breaker, 2, settling=True)
    assert not breaker.is_tripped


def test_after_the_rest_one_call_at_a_time_tries_it(breaker: CircuitBreaker, clock: FakeClock) -> None:
    fail(breaker, 3)
    clock.advance(29)
    assert is_open(breaker)
    clock.advance(1)
    with breaker.call():
        assert is_open(breaker)
    assert is_open(breaker)  # until somebody says that it worked
    breaker.worked()
    assert not breaker.is_tripped
    with breaker.call():
        assert not is_open(breaker)


def test_a_trial_that_fails_begins_the_rest_anew(breaker: CircuitBreaker, clock: FakeClock) -> None:
    fail(breaker, 3)
    clock.advance(30)
    fail(breaker)
    clock.advance(29)
    assert is_open(breaker)
    clock.advance(1)
    assert not is_open(breaker)


def test_a_trial_that_never_ends_keeps_it_open_for_one_rest(breaker: CircuitBreaker, clock: FakeClock) -> None:
    fail(breaker, 3)
    clock.advance(30)
    with breaker.call():
        clock.advance(29)
        assert is_open(breaker)
        clock.advance(1)
        assert not is_open(breaker)


def test_where_settling_failed_only_settling_closes_it(breaker: CircuitBreaker, clock: FakeClock) -> None:
    fail(breaker, 3, settling=True)
    clock.advance(30)
    with breaker.call():
        pass
    breaker.worked()  # it answers questions: the settlement after them may try
    assert breaker.is_tripped
    with breaker.call(settling=True):
        assert is_open(breaker)
    breaker.worked(settling=True)
    assert not breaker.is_tripped
    assert not is_open(breaker)


def test_a_lie_found_out_later_counts(breaker: CircuitBreaker) -> None:
    for _ in range(3):
        with breaker.call(settling=True):
            pass
        breaker.failed(settling=True)
    assert is_open(breaker)
