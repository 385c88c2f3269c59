"""`docs/interop.md` says what the tests found, of every case, and nothing else."""

from __future__ import annotations

import json
import time
from collections import Counter

import pytest

from tests.interop import report
from tests.interop.deviations import DEVIATIONS
from tests.interop.peers import CASES, RESULTS, Case

STARTED = time.time()


def test_every_case_has_its_row_and_every_row_its_case() -> None:
    assert list(report.rows(report.PAGE.read_text())) == [report.row_of(case) for case in CASES]
    assert max(Counter(map(str, CASES)).values()) == 1


@pytest.mark.parametrize("which", CASES, ids=str)
def test_no_row_claims_what_did_not_happen(which: Case) -> None:
    said = report.rows(report.PAGE.read_text())[report.row_of(which)]
    assert said == (f"no: {which.reason}" if which.reason else "pass")
    path = RESULTS / f"{which}.json"
    is_of_this_run = path.is_file() and path.stat().st_mtime >= STARTED
    found = json.loads(path.read_text())["outcome"] if is_of_this_run else None
    assert found in (None, "reason" if which.reason else "pass")


def test_the_page_is_what_the_results_make_of_it() -> None:
    outcomes = {str(case): "reason" if case.reason else "pass" for case in CASES}
    assert report.PAGE.read_text() == report.render(outcomes)
    worse = report.render(outcomes | {str(CASES[0]): "failed"})
    assert report.rows(worse)[report.row_of(CASES[0])] == "**failed**"


def test_every_case_is_tried(request: pytest.FixtureRequest) -> None:
    items = [item for item in request.session.items if item.path.parent == request.path.parent]
    if len({item.path for item in items}) == 1:
        pytest.skip("only this module was collected")
    tried = [item.callspec.params.get("case") for item in items if hasattr(item, "callspec")]
    assert Counter(str(case) for case in tried if case is not None) == Counter(map(str, CASES))


def test_the_deviations_are_of_peers_that_are_tried() -> None:
    assert {each.package for each in DEVIATIONS} <= {case.package for case in CASES}
