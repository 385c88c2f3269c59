"""Faults that tests order for the next matching requests. They lie in the ledger, so they act across processes."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

from rail402.errors import ConfigurationError
from rail402_stripe.sandbox.ledger import Books

__all__ = ["Fault", "FaultAnswer"]

FaultAnswer = Literal["timeout", "server_error", "rate_limited", "conflict", "truncated", "html"]
"""What the client gets instead of the answer.

`timeout`: nothing, until it gives up. `server_error`: a 500, which Stripe saves under the idempotency key like any
other answer. `rate_limited`: a 429. `conflict`: a 409 `lock_timeout`. `truncated`: the true answer's status and
headers with half its body. `html`: a proxy's 502 page.
"""

_NEVER_APPLIED = frozenset({"rate_limited", "conflict"})
_ALWAYS_APPLIED = frozenset({"truncated"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One order.

    Args:
        method: `GET` or `POST`.
        path: the request's path, or a pattern of it: `/v1/payment_intents/*/capture`.
        answer: what the client gets.
        applied: whether the request is carried out before its answer is spoilt. A 429 and a 409 never are, a truncated
            answer always is.
        times: how many requests it spoils.

    Raises:
        ConfigurationError: the combination makes no sense.
    """

    method: str
    path: str
    answer: FaultAnswer
    applied: bool = False
    times: int = 1

    def __post_init__(self) -> None:
        if self.answer not in get_args(FaultAnswer):
            raise ConfigurationError(f"fault answer {self.answer!r} must be one of {', '.join(get_args(FaultAnswer))}")
        if self.times < 1 or self.method not in ("GET", "POST"):
            raise ConfigurationError("a fault names GET or POST and spoils at least one request")
        if self.applied and self.answer in _NEVER_APPLIED:
            raise ConfigurationError(f"a request that gets {self.answer} was never carried out: applied must be False")
        if not self.applied and self.answer in _ALWAYS_APPLIED:
            raise ConfigurationError(f"only a request that was carried out gets {self.answer}: applied must be True")


def order(books: Books, fault: Fault) -> None:
    """Put a fault at the end of the queue."""
    row = (fault.method, fault.path, fault.answer, fault.applied, fault.times)
    books.connection.execute(
        "INSERT INTO faults (method, path, answer, applied, remaining) VALUES (?, ?, ?, ?, ?)", row
    )


def take(books: Books, method: str, path: str) -> Fault | None:
    """Return the oldest fault that matches the request, and count it down."""
    query = "SELECT seq, path, answer, applied, remaining FROM faults WHERE method = ? ORDER BY seq"
    for seq, pattern, answer, applied, remaining in books.connection.execute(query, (method,)).fetchall():
        if fnmatchcase(path, pattern):
            if remaining > 1:
                books.connection.execute("UPDATE faults SET remaining = remaining - 1 WHERE seq = ?", (seq,))
            else:
                books.connection.execute("DELETE FROM faults WHERE seq = ?", (seq,))
            return Fault(method, pattern, answer, bool(applied))
    return None
