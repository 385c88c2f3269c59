"""Whatever is reserved, spent, released and left unknown in whatever order: no limit is ever passed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rail402.client.budget import Budget
from rail402.client.journal import Journal
from rail402.client.limits import WINDOWS, Caps, either, phrase
from rail402.client.records import PurchaseRecord, PurchaseState
from rail402.client.rules import Rule, Subject, matching_rules
from rail402.errors import BudgetExceeded
from rail402.money import Money
from tests.unit.client.purchases import NOW, record

BUDGET = Budget(
    per_request="5 USD",
    per_hour="10 USD",
    per_day="20 USD",
    total="40 USD",
    rules=[
        Rule(host="*", per_hour="6 USD", total="15 USD"),
        Rule(host="b.test", per_day="9 USD"),
        Rule(payee="*", per_day="12 USD"),
        Rule(rail="base", per_request="4 USD", per_hour="7 USD"),
    ],
)
Action = Literal["reserve", "commit", "release", "withdraw", "lose", "move", "wait"]


@dataclass(frozen=True)
class Step:
    """What happens next: to a new purchase, or to one of the open ones."""

    action: Action
    pick: int
    cents: int
    subject: Subject
    seconds: int


steps = st.lists(
    st.builds(
        Step,
        action=st.sampled_from(
            ["reserve", "reserve", "reserve", "commit", "release", "withdraw", "lose", "move", "wait"]
        ),
        pick=st.integers(0, 99),
        cents=st.integers(0, 600),
        subject=st.builds(
            Subject,
            host=st.sampled_from(["a.test", "b.test"]),
            payee=st.sampled_from(["0xaa", "0xAA", "0xbb"]),
            rail=st.sampled_from(["base", "stripe"]),
        ),
        seconds=st.integers(1, 50_000),
    ),
    max_size=40,
)


class Book:
    """The same purchases, counted in another way: every limit is added up anew from what became of each."""

    def __init__(self) -> None:
        self.cents: dict[str, int] = {}
        self.subjects: dict[str, Subject] = {}
        self.closed_at: dict[str, int] = {}

    def check(self, now: int) -> None:
        self._check_caps(BUDGET._caps, list(self.cents), now)
        for purchase, subject in self.subjects.items():
            for rule, scope in matching_rules(BUDGET.rules, subject):
                alike = [each for each, other in self.subjects.items() if _is_in(scope, other)]
                assert purchase in alike
                self._check_caps(rule.caps, alike, now)

    def _check_caps(self, caps: Caps, purchases: Sequence[str], now: int) -> None:
        for window, seconds in WINDOWS.items():
            for limit in caps.limits(window):
                counted = [
                    self.cents[each]
                    for each in purchases
                    if seconds is None or self.closed_at.get(each, now) > now - seconds
                ]
                assert sum(counted) <= limit.to_atomic(2), f"{window}: {counted} pass {limit}"


def _is_in(scope: str, subject: Subject) -> bool:
    return scope in (f"host {subject.host}", f"payee {subject.payee.lower()}", f"rail {subject.rail}")


async def run(folder: Path, script: Sequence[Step]) -> None:
    journal, book, now = Journal(f"sqlite:///{folder}/wallet.db"), Book(), NOW
    await journal.start()
    open_ones: list[PurchaseRecord] = []
    try:
        for number, step in enumerate(script):
            if step.action == "wait":
                now += step.seconds
            elif step.action == "reserve":
                wanted = record(number, cost=str(Money.from_atomic(step.cents, 2, "USD")))
                try:
                    entries = BUDGET.entries(wanted.reserved, {}, step.subject)
                    await journal.reserve(wanted, entries, now=now)
                except BudgetExceeded:
                    continue
                open_ones.append(wanted)
                book.cents[wanted.id], book.subjects[wanted.id] = step.cents, step.subject
            elif open_ones:
                await end(journal, book, open_ones, step, now)
            book.check(now)
    finally:
        await journal.close()


async def end(journal: Journal, book: Book, open_ones: list[PurchaseRecord], step: Step, now: int) -> None:
    """Have something become of an open purchase."""
    old = open_ones.pop(step.pick % len(open_ones))
    if step.action == "lose":
        open_ones.append(await journal.save(old.changed(state=PurchaseState.UNKNOWN), now=now))
        return
    cents = min(step.cents, book.cents[old.id]) if step.action in ("commit", "move") else book.cents[old.id]
    cost = Money.from_atomic(cents, 2, "USD")
    states = {"commit": PurchaseState.COMMITTED, "move": PurchaseState.UNKNOWN}
    changes = {"state": states.get(step.action, PurchaseState.RELEASED), "withdrawn": step.action == "withdraw"}
    await journal.save(old.changed(cost=cost, moved=step.action == "move", **changes), now=now)
    if step.action == "release":
        del book.cents[old.id], book.subjects[old.id]
    else:
        book.cents[old.id] = cents
        book.closed_at[old.id] = now


@settings(max_examples=60, deadline=None)
@given(steps)
def test_no_interleaving_passes_any_limit(script: Sequence[Step]) -> None:
    with TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder), script))


def test_levels_are_said_as_people_say_them() -> None:
    assert [phrase(level) for level in ("request", "hour", "total")] == ["per request", "per hour", "in total"]
    assert either([Money.parse("1 USD"), Money.parse("5 sat")]) == "1 USD or 5 sat"


def test_a_level_without_limits_is_not_among_the_levels() -> None:
    caps = Caps.read({"request": "1 USD", "hour": None, "day": [], "total": "5 USD"})
    assert caps.levels == ("request", "total")
    with pytest.raises(BudgetExceeded, match="the limit in total is 5 USD and no BTC/USD rate"):
        caps.entry("total", Money.parse("1 sat"), {}, {})
