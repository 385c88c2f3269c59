"""A circuit breaker: a facilitator that fails again and again is left alone for a while, then tried with one call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rail402.clock import Clock
from rail402.errors import ConfigurationError, OutcomeUnknown, RailUnavailable

__all__ = ["CircuitBreaker"]


class CircuitBreaker:
    """Counts how a facilitator's calls end.

    Questions and settlements are counted apart, because many a broken facilitator answers every question and settles
    nothing: what it answers well must not make up for that.

    Args:
        name: the facilitator's, for errors.
        max_failures: how many failures in a row it may have.
        rest_seconds: for how long it is left alone then.
        clock: Unix seconds.
    """

    def __init__(self, name: str, *, max_failures: int, rest_seconds: int, clock: Clock) -> None:
        self._name, self._clock = name, clock
        self._max_failures, self._rest_seconds = max_failures, rest_seconds
        self._questions, self._settlements, self._rests_until = 0, 0, 0

    @property
    def is_tripped(self) -> bool:
        """Whether there were too many failures, and no good call since."""
        return max(self._questions, self._settlements) >= self._max_failures

    @contextmanager
    def call(self, *, settling: bool = False) -> Iterator[None]:
        """Make a call in this block; an error of ours that leaves it is counted as a failure.

        That it went well is for the caller to say, by `worked`: an answer that came may still be a lie. Once the rest
        is over, one call at a time is let through until then.

        Raises:
            RailUnavailable: the facilitator is left alone.
        """
        now = self._clock()
        if now < self._rests_until:
            raise RailUnavailable(f"{self._name} failed too often of late", retry_after=self._rests_until - now)
        if self.is_tripped:
            self._rests_until = now + self._rest_seconds
        try:
            yield
        except (ConfigurationError, OutcomeUnknown, RailUnavailable):
            self.failed(settling=settling)
            raise

    def worked(self, *, settling: bool = False) -> None:
        """Count a call that did what it should. A tripped breaker closes when both kinds of calls work again."""
        self._questions = 0
        if settling:
            self._settlements = 0
        self._rests_until = 0

    def failed(self, *, settling: bool = False) -> None:
        """Count a call that did not, or gave an answer that turned out to be wrong."""
        if settling:
            self._settlements += 1
        else:
            self._questions += 1
        if self.is_tripped:
            self._rests_until = self._clock() + self._rest_seconds
