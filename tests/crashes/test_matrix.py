"""The server, or the client, dies at each step of each flow on each sandbox: the books are right in the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crashes.matrix import clean_steps, command, once_each, sampled
from tests.crashes.scenarios import EACH_STEP, SANDBOXES, Plan, Scenario
from tests.crashes.worker import Worker

OTHERS = [each for each in SANDBOXES if each not in EACH_STEP]
TOOLS = [each for each in SANDBOXES if each.via == "mcp"]
_steps: dict[Scenario, dict[str, list[str]]] = {}


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    with Worker.open({}) as worker:
        yield worker


@pytest.mark.parametrize("scenario", OTHERS, ids=str)
def test_the_books_are_right_wherever_we_look(worker: Worker, scenario: Scenario) -> None:
    for who, steps in clean_steps(worker, scenario).items():
        for plan in sampled(scenario, who, steps, 2):
            found = worker.perform(scenario, plan)
            assert not found.violations, f"{found.violations}\n    {command(scenario, plan)}\n    {found.path}"


@pytest.mark.parametrize("who", ["server", "client"])
@pytest.mark.parametrize("scenario", EACH_STEP, ids=str)
def test_the_books_are_right_wherever_it_dies(worker: Worker, scenario: Scenario, who: str) -> None:
    steps = _steps.setdefault(scenario, clean_steps(worker, scenario))[who]
    wrong, kills = [], 0
    for plan in once_each(who, steps):
        found = worker.perform(scenario, plan)
        kills += found.kills
        if found.violations:
            wrong.append(f"{found.violations}\n    {command(scenario, plan)}\n    {found.path}")
    assert not wrong, "\n".join(wrong)
    assert kills >= len(steps) // 2 - 2  # they did die


@pytest.mark.parametrize("scenario", [*EACH_STEP, *TOOLS], ids=str)
def test_the_steps_are_the_same_each_time(worker: Worker, scenario: Scenario) -> None:
    steps = clean_steps(worker, scenario)
    assert clean_steps(worker, scenario) == steps
    assert {"before journal.reserve reserved", "before wallet.pay"} <= set(steps["client"])
    assert any(name.startswith("before store.save settled") for name in steps["server"]) or scenario.never_serves


def test_the_process_that_dies_has_taken_no_further_step(worker: Worker) -> None:
    scenario = EACH_STEP[0]
    steps = clean_steps(worker, scenario)["server"]
    found = worker.perform(scenario, Plan.of("server", 7, 0))
    assert (found.kills, found.steps["server"]) == (1, steps[:7])
