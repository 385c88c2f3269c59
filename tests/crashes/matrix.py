"""Every step of a scenario, and what became of a kill there."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Final

from tests.crashes.scenarios import ALONE, AWAY, Plan, Scenario
from tests.crashes.worker import ROOT, Found, Worker

__all__ = ["RESULTS", "Sweep", "clean_steps", "command", "once_each", "perform_all", "plans_of", "sampled", "write"]

RESULTS: Final[Path] = ROOT / "build" / "crashes"
"""Where sweeps are written down, a file for each scenario."""


@dataclass
class Sweep:
    """What a sweep over a scenario's steps has found.

    Attributes:
        steps: how many there are; kills: how many processes died; outcomes: how often it ended how.
        wrong: what did not hold, with the command that does it again.
    """

    steps: dict[str, int] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, scenario: Scenario, plan: Plan, found: Found) -> None:
        """Count a run."""
        (who,) = [who for who in scenario.who if getattr(plan, who)][:1] or ["client"]
        self.kills[who] += found.kills
        self.outcomes[found.outcome] += 1
        for violation in found.violations:
            self.wrong.append(f"{violation}\n    {command(scenario, plan)}\n    {found.path}")


def command(scenario: Scenario, plan: Plan) -> str:
    """What does a run again."""
    return f"python -m tests.crashes replay {scenario} '{json.dumps(asdict(plan))}'"


def clean_steps(worker: Worker, scenario: Scenario) -> dict[str, list[str]]:
    """The steps of a run in which nobody dies, by who takes them."""
    found = worker.perform(scenario, Plan())
    assert not found.violations, f"{scenario}, where nobody dies: {found}"
    return {who: list(found.steps[name]) for who, name in scenario.who.items()}


def plans_of(who: str, steps: list[str], *, thorough: bool, at_most: int) -> Iterator[Plan]:
    """A plan for each step, or for so many from the first to the last: for each time to be away where that is asked
    for, else these take turns."""
    count = min(at_most, len(steps))
    for turn in range(1, count + 1):
        step = turn * len(steps) // count
        for after in AWAY if thorough else (AWAY[turn % len(AWAY)],):
            yield Plan.of(who, step, after)


def once_each(who: str, steps: list[str]) -> Iterator[Plan]:
    """A plan for each state in which the world can be left: to die after a write is to die before what comes next, and
    the world is the same. The times to be away take turns."""
    last = len(steps)
    chosen = [number for number, name in enumerate(steps, 1) if not name.startswith("after ") or number == last]
    for turn, number in enumerate(chosen):
        yield Plan.of(who, number, AWAY[turn % len(AWAY)])


def sampled(scenario: Scenario, who: str, steps: list[str], count: int) -> list[Plan]:
    """Some of these plans: the same for the same scenario, as long as its steps are."""
    plans = list(once_each(who, steps))
    return random.Random(f"{scenario} {who}").sample(plans, min(count, len(plans)))


def perform_all(
    runs: Iterable[tuple[Scenario, Plan]],
    where: dict[str, Any],
    workers: int,
    tell: Callable[[Scenario, Plan, Found], None],
) -> None:
    """Perform all runs, so many at a time; on a real service one at a time, since its time and its balances are one."""
    left, taking, telling, alone = iter(runs), Lock(), Lock(), Lock()

    def work() -> None:
        with Worker.open(where) as worker:
            while True:
                with taking:
                    run = next(left, None)
                if run is None:
                    return
                with alone if run[0].bank in ALONE else nullcontext():
                    found = worker.perform(*run)
                with telling:
                    tell(*run, found)

    with ThreadPoolExecutor(workers) as pool:
        for working in [pool.submit(work) for _ in range(workers)]:
            working.result()


def write(scenario: Scenario, sweep: Sweep) -> None:
    """Write a sweep down for the report."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{scenario}.json").write_text(json.dumps(vars(sweep), indent=1) + "\n")
