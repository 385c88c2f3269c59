"""The random mode draws the same for the same seed, and what it draws can be run again by hand."""

from __future__ import annotations

import json
import shlex

import pytest

from tests.crashes.__main__ import main, random_run
from tests.crashes.matrix import command
from tests.crashes.scenarios import Bank, Plan, Scenario

BANKS: list[Bank] = ["base", "transfer", "lightning", "stripe", "prepared"]


def test_a_seed_says_it_all() -> None:
    runs = [random_run(seed, BANKS) for seed in range(200)]
    assert runs == [random_run(seed, BANKS) for seed in range(200)]
    assert {scenario.bank for scenario, _ in runs} == set(BANKS)
    assert any(len(plan.server) > 1 for _, plan in runs)
    assert any(plan.clients > 1 for _, plan in runs)
    assert any(scenario.uses > 1 for scenario, _ in runs)
    assert any(scenario.via == "mcp" for scenario, _ in runs)


@pytest.mark.parametrize("seed", range(12))
def test_a_run_is_written_down_as_it_was(seed: int) -> None:
    scenario, plan = random_run(seed, BANKS)
    _, _, _, _, name, text = shlex.split(command(scenario, plan))
    assert (Scenario.parse(name), Plan.read(json.loads(text))) == (scenario, plan)


def test_chaos_of_a_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seconds", "3", "--seed", "402", "--workers", "1", "--sandboxes"]) == 0
    said = capsys.readouterr().out
    assert "--seed 402" in said
    assert " 0 wrong" in said
