"""Every step of a scenario, and what became of a kill there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Final

from tests.crashes.scenarios import AWAY, Plan, Scenario
from tests.crashes.worker import ROOT, Found, Worker

__all__ = ["RESULTS", "WHO", "Sweep", "clean_steps", "command", "once_each", "perform_all", "plans_of", "write"]

RESULTS: Final[Path] = ROOT / "build" / "crashes"
"""Where sweeps are written down, a file for each scenario."""

WHO: Final = {"server": "server", "client": "client-0"}


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
        self.kills["server" if plan.server else "client"] += found.kills
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
    return {who: list(found.steps[name]) for who, name in WHO.items()}


def plans_of(who: str, steps: list[str], *, thorough: bool) -> Iterator[Plan]:
    """A plan for each step: for each time to be away where that is asked for, else these take turns."""
    for step in range(1, len(steps) + 1):
        for after in AWAY if thorough else (AWAY[step % len(AWAY)],):
            yield Plan.of(who, step, after)


def once_each(who: str, steps: list[str]) -> Iterator[Plan]:
    """A plan for each state in which the world can be left: to die after a write is to die before what comes next, and
    the world is the same. The times to be away take turns."""
    last = len(steps)
    chosen = [number for number, name in enumerate(steps, 1) if not name.startswith("after ") or number == last]
    for turn, number in enumerate(chosen):
        yield Plan.of(who, number, AWAY[turn % len(AWAY)])


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
                with alone if run[0].bank in ("anvil", "lnd") else nullcontext():
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
