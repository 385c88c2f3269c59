"""`docs/security.md` says what the attacks found, of every case, and nothing else."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.attacks import report
from tests.attacks.cases import CASES, FOLDER, Case, case_of, observations


def test_every_case_has_its_row_and_every_row_its_case() -> None:
    assert list(report.rows(report.PAGE.read_text())) == [str(case) for case in CASES]
    assert [case.number for case in CASES if case.side == "server"] == list(range(1, 37))
    assert {case.number for case in CASES} == set(range(1, 51))


def test_every_file_has_a_case() -> None:
    ours = {"test_report.py", "test_threat_model.py"}
    assert [path.name for path in FOLDER.glob("test_*.py") if path.name not in ours and case_of(path) is None] == []


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_case_is_tried_or_open(case: Case) -> None:
    found = [each for each in observations() if each.case == case]
    assert found or case.open
    assert all(each.function.startswith("test_") for each in found)
    assert max(Counter(each.text for each in found).values(), default=1) == 1


def test_the_page_is_what_the_results_make_of_it() -> None:
    held = dict.fromkeys(observations(), True)
    assert report.PAGE.read_text() == report.render(held), "run the attacks, then: python -m tests.attacks.report"
    first = observations()[0]
    assert f"**failed**: {first.text}" in report.rows(report.render(held | {first: False}))[str(first.case)]


def test_a_failure_is_not_said_to_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The page cannot be written while a test of an observation failed, or did not run."""
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert report.results() == {}
    assert report.main(["--check"]) == 1
    first = observations()[0]
    row = {"file": first.file, "function": first.function}
    (tmp_path / "1.json").write_text(json.dumps(row | {"passed": True, "observed": [first.text]}))
    assert report.results()[first] is True
    (tmp_path / "2.json").write_text(json.dumps(row | {"passed": False, "observed": []}))
    assert report.results()[first] is False
