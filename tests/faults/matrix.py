"""Every call of a rail's backend by every fault: the cells are made from clean runs, so that no call is forgotten.

What is recorded, and spoilt one call after the other:
- a sale, and one whose handler fails at first, from the start of the gate to its health check;
- what is done after an outage that left the outcome unknown, which is how lookups come about;
- every member of every answer of a sale: of another type, and left out.
"""

from __future__ import annotations

import itertools
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from rail402.testing.faults import ANSWER_LOST, FAULTS, Call, Fault, members_of, with_other_type, without
from tests.faults.playing import SETTLED, Cell, Played, play
from tests.faults.world import JUMPS, World

__all__ = ["COLUMNS", "EVERY", "Matrix", "column_of", "label_of"]

EVERY: Final[tuple[Fault, ...]] = (*FAULTS.values(), *JUMPS)
_LASTING: Final = tuple(
    FAULTS[name]
    for name in ("connection refused", "timeout, never arrived", "answer lost", "502 page, carried out", "200 page")
)
_DEPTH: Final = 2
_IDS: Final = re.compile(r"[0-9a-f]{64}|[A-Za-z0-9_-]{43}=|(?<=/)[a-z]+_[A-Za-z0-9_]*[0-9]\w*")
_SECOND: Final = (FAULTS["answer of earlier"], FAULTS["answer to another call"])
_CHANGING: Final = re.compile(r".*, carried out|delivered twice|arrives .* late").fullmatch
_READS: Final = re.compile(r"/(v1/)?(get|list|lookup|wait)\w*").fullmatch  # of APIs where every call is a POST
# One that makes a PaymentIntent pays by it only in worlds that are not sampled.
_PAYS: Final = re.compile(r"POST .*(pay(?!ment_intents)|send)\w*", re.IGNORECASE).fullmatch
_MEMBER: Final = "a member left out or of another type"

COLUMNS: Final = (*(fault.name for fault in EVERY), _MEMBER)
"""The faults, as the table calls them."""


def column_of(cell: Cell) -> str:
    """Return the table's name for a cell's fault."""
    assert cell.fault is not None
    return cell.fault.name if cell.fault.name in COLUMNS else _MEMBER


def label_of(call: Call) -> str:
    """Name a call without what is different in every purchase."""
    return f"{call.method} {_IDS.sub('*', call.path)}"


class Matrix:
    """The cells of one rail's world.

    Attributes:
        recorded: the calls that are spoilt, by name.
        outcomes: how many cells ended how, by fault.
        problems: what does not hold, by cell.
    """

    def __init__(self, world: type[World], directory: Path) -> None:
        self.world, self._directory = world, directory
        self.recorded: Counter[str] = Counter()
        self.outcomes: dict[str, Counter[str]] = {}
        self.problems: dict[str, list[str]] = {}
        self._looked_up: set[str] = set()

    def play(self, cell: Cell) -> Played:
        """Play a cell in a directory of its own."""
        with tempfile.TemporaryDirectory(dir=self._directory) as directory:
            return play(self.world, Path(directory), cell)

    def play_at_random(self, seed: int, *, rate: float, faults: Sequence[Fault]) -> Played:
        """Play a purchase whose calls go wrong at random until it has been shown twice."""
        return self.play(Cell(seed=seed, rate=rate, among=tuple(faults)))

    def run(self, faults: Sequence[Fault] = EVERY, *, one_in: int = 1) -> None:
        """Play every cell, or one in so many and all in which a payment was made unheard, and note what comes of it."""
        for number, (cell, call) in enumerate(self.cells(faults)):
            if number % one_in and not _is_paid_unheard(cell, call):
                continue
            played = self.play(cell)
            outcomes = self.outcomes.setdefault(column_of(cell), Counter())
            outcomes[played.outcome] += 1
            number = played.before + cell.nth
            spoilt = played.calls[number - 1] if number <= len(played.calls) else None
            problems = list(played.problems)
            if spoilt is None or label_of(spoilt) != call or spoilt.fault != cell.fault:
                problems.append(f"the fault hit another call than {call}: {spoilt}")
            if problems:
                self.problems[f"{cell} ({call})"] = problems

    def cells(self, faults: Sequence[Fault] = EVERY) -> Iterator[tuple[Cell, str]]:
        """Yield the cells, each with the name of the call that it spoils."""
        sale, fails = self._clean(Cell()), Cell(handler_fails=True)
        first = [fault for fault in faults if self.world.buy is not None or fault not in _SECOND]
        if self.world.is_variant:  # as the other flow up to the offer
            yield from self._of(Cell(), sale, first, skip=sale.asked)
        else:
            yield from self._of(Cell(), sale, first)
            yield from self._members(sale)
            yield from self._lasting(sale)
        if self.world.buy is not None:
            return
        again = Cell(is_second=True)
        yield from self._of(again, self._clean(again), [fault for fault in faults if fault in _SECOND])
        undone = self._clean(fails)
        yield from self._of(fails, undone, faults, skip=_common(sale, undone))
        if self.world.has_lookups:
            yield from self._after_outages(Cell(), sale, faults)
            yield from self._after_outages(fails, undone, faults)

    def _is_known(self, call: Call) -> bool:
        return any(fnmatchcase(label_of(call), pattern) for pattern in self.world.known)

    def _clean(self, story: Cell) -> Played:
        played = self.play(story)
        assert not played.problems, f"without any fault, {story}: {played.problems}"
        if story == Cell():
            assert played.outcome == SETTLED
        return played

    def _of(self, story: Cell, clean: Played, faults: Sequence[Fault], skip: int = 0) -> Iterator[tuple[Cell, str]]:
        skip += clean.before
        for number, call in enumerate(clean.calls[skip : clean.until], skip + 1 - clean.before):
            if self._is_known(call):
                continue
            self.recorded[label_of(call)] += 1
            for fault in _meant_for(call, faults):
                yield replace(story, fault=fault, nth=number), label_of(call)

    def _lasting(self, clean: Played) -> Iterator[tuple[Cell, str]]:
        for number, call in enumerate(clean.calls[: clean.shown], 1):
            for fault in () if self._is_known(call) else _LASTING:
                yield Cell(fault=fault, nth=number, is_lasting=True), label_of(call)

    def _after_outages(self, story: Cell, clean: Played, faults: Sequence[Fault]) -> Iterator[tuple[Cell, str]]:
        """Yield the cells of the calls that are made only because an outcome is unknown, once for each name."""
        for number in range(1, clean.shown + 1):
            after = replace(story, outage=number)
            left = self._clean(after)
            if not left.outcome.startswith("unknown"):
                continue
            for nth, call in enumerate(left.calls[left.before : left.until], 1):
                name = label_of(call)
                if name not in self._looked_up:
                    self._looked_up.add(name)
                    self.recorded[name] += 1
                    for fault in _meant_for(call, faults):
                        yield replace(after, fault=fault, nth=nth), name

    def _members(self, clean: Played) -> Iterator[tuple[Cell, str]]:
        """Yield a cell for every member of every answer, and two where it is at the top."""
        for number, call in enumerate(clean.calls[: clean.until], 1):
            members = [] if self._is_known(call) else _members(bytes(call.body))
            for member in members:
                yield Cell(fault=with_other_type(member), nth=number), label_of(call)
                if "." not in member.lstrip("0123456789."):  # at the top, of a batch's answers too
                    yield Cell(fault=without(member), nth=number), label_of(call)


def _is_paid_unheard(cell: Cell, call: str) -> bool:
    assert cell.fault is not None
    return _PAYS(call) is not None and (cell.fault == ANSWER_LOST or _CHANGING(cell.fault.name) is not None)


def _meant_for(call: Call, faults: Sequence[Fault]) -> list[Fault]:
    """Return the faults without those that a call can only have if it changes something: no caller could tell."""
    reads = call.method != "POST" or _READS(call.path) is not None
    changes = "eth_send" in call.path if "eth_" in call.path else not reads
    return [fault for fault in faults if changes or not _CHANGING(fault.name)]


def _common(one: Played, other: Played) -> int:
    """Return how many calls two stories begin with alike."""
    pairs = zip(map(label_of, one.calls), map(label_of, other.calls), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _members(body: bytes) -> list[str]:
    line = body.partition(b"\n")[0]
    try:
        document = json.loads(line)
    except ValueError:
        return []
    return members_of(document, _DEPTH + isinstance(document, list))
