"""A process that forks: runs are asked of it by a line of JSON each, so that whoever asks may have threads."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.crashes.scenarios import Plan, Scenario

__all__ = ["ROOT", "Found", "Worker", "main"]

ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Found:
    """What a run showed.

    Attributes:
        outcome: how it ended for the agent, in a word; `violations`: what does not hold.
        kills: how many processes died.
        steps: those of each process's first life.
        path: where its files are; they are gone where nothing is wrong.
    """

    outcome: str
    violations: tuple[str, ...]
    kills: int
    steps: Mapping[str, list[str]] = field(repr=False)
    path: str


class Worker:
    """A subprocess that performs one run after the other.

    Args:
        where: how to reach the real services, for their banks.
        first: Python to run before, such as what breaks the product.
    """

    def __init__(self, where: Mapping[str, Any], first: str = "") -> None:
        program = f"{first}\nfrom tests.crashes.worker import main\nmain()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, json.dumps(where)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def perform(self, scenario: Scenario, plan: Plan) -> Found:
        """Run a plan."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"scenario": str(scenario), "plan": asdict(plan)}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the worker is gone, {scenario} {plan}"
        found = json.loads(answer)
        return Found(**{**found, "violations": tuple(found["violations"])})

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    @classmethod
    @contextlib.contextmanager
    def open(cls, where: Mapping[str, Any], first: str = "") -> Iterator[Worker]:
        """One that ends with the block."""
        worker = cls(where, first)
        try:
            yield worker
        finally:
            worker.close()


def _perform(scenario: Scenario, plan: Plan, where: Mapping[str, Any]) -> Found:
    from tests.crashes.run import HarnessFailed, perform
    from tests.crashes.verdict import outcome, violations

    path = Path(tempfile.mkdtemp(prefix="rail402-crash-"))
    try:
        facts = perform(path, scenario, plan, where)
    except HarnessFailed as error:
        return Found("harness failed", (str(error),), 0, {}, str(path))
    found = tuple(violations(facts))
    if not found:
        shutil.rmtree(path)
    steps = {who: list(names) for who, names in facts.steps.items()}
    return Found(outcome(facts), found, facts.kills, steps, str(path))


def main() -> None:
    """Perform what is asked on standard input; the argument says where the services are."""
    from tests.crashes.processes import warm_up

    warm_up()
    where = json.loads(sys.argv[1])
    for line in sys.stdin:
        asked = json.loads(line)
        found = _perform(Scenario.parse(asked["scenario"]), Plan.read(asked["plan"]), where)
        print(json.dumps(asdict(found)), flush=True)
