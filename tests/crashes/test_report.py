"""`docs/crashes.md` has every scenario, and says of none that the books were wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crashes import matrix, report
from tests.crashes.matrix import Sweep
from tests.crashes.scenarios import SCENARIOS, Plan, Scenario
from tests.crashes.worker import Found


def test_every_scenario_has_its_row() -> None:
    assert list(report.rows(report.PAGE.read_text())) == [report.title(scenario) for scenario in SCENARIOS]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_every_row_was_run_and_is_right(scenario: Scenario) -> None:
    steps, kills, wrong, ended = report.rows(report.PAGE.read_text())[report.title(scenario)]
    assert all(int(number) > 10 for number in (steps + "," + kills).split(","))
    assert (wrong, "harness failed" in ended) == ("0", False)


def test_a_sweep_is_written_down_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    sweep = Sweep(steps={"server": 3, "client": 2})
    sweep.add(SCENARIOS[0], Plan.of("client", 1, 0), Found("served", (), 1, {}, ""))
    matrix.write(SCENARIOS[0], sweep)
    written = {"steps": {"server": 3, "client": 2}, "kills": {"client": 1}, "outcomes": {"served": 1}, "wrong": []}
    assert report.results() == {SCENARIOS[0]: written}


def test_what_is_wrong_is_said() -> None:
    scenario, sweep = SCENARIOS[0], Sweep(steps={"server": 1, "client": 1})
    sweep.add(scenario, Plan.of("server", 1, 0), Found("served", ("charged twice",), 1, {}, "/nowhere"))
    page = report.render({each: vars(sweep) for each in SCENARIOS})
    assert list(report.rows(page).values()) == [["1, 1", "1, 0", "**1**", "1 served"]] * len(SCENARIOS)
    assert "charged twice" in sweep.wrong[0]
    assert f"replay {scenario}" in sweep.wrong[0]
