"""`docs/faults.md` has a column for every world and a row for every fault, and says what was counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.faults import report
from tests.faults.matrix import COLUMNS, Matrix
from tests.faults.playing import NOT_PAID, SETTLED, UNKNOWN_SETTLED
from tests.faults.worlds import Lnd


def found() -> dict[str, Any]:
    matrix = Matrix(Lnd, Path())
    matrix.recorded["GET /v1/getinfo"] += 2
    matrix.outcomes["answer lost"] = Counter({SETTLED: 3, UNKNOWN_SETTLED: 1})
    matrix.outcomes["500 JSON"] = Counter({NOT_PAID: 2})
    return report.result_of(matrix)


def test_every_world_has_its_column_and_every_fault_its_row() -> None:
    page = report.PAGE.read_text()
    assert all(page.count(f" {report.title_of(world)} |") >= 1 for world in report.WORLDS)
    assert sorted(world.row for group in report.GROUPS.values() for world in group) == sorted(
        world.row for world in report.WORLDS
    )
    for name in COLUMNS:
        assert page.count(f"\n| {name} |") == len(report.GROUPS), name


def test_a_cell_says_how_many_ended_how() -> None:
    said = dict(zip(COLUMNS, report.column(Lnd, found()), strict=False))
    assert (said["answer lost"], said["500 JSON"], said["null"]) == ("3s 1us", "2n", "–")
    assert report.column(Lnd, found())[-1] == "| Lightning, lnd | `GET /v1/getinfo` | 2 |"


def test_the_page_is_written_from_all_results_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "PAGE", tmp_path / "faults.md")
    report.write(Lnd, found())
    assert report.main([]) == 1
    assert "BaseRpc" in capsys.readouterr().err
    assert not report.PAGE.exists()
    for world in report.WORLDS:
        report.write(world, found())
    assert report.main([]) == 0
    assert f"**{6 * len(report.WORLDS)} purchases**" in report.PAGE.read_text()
    assert report.main(["--check"]) == 0
    report.PAGE.write_text(report.PAGE.read_text() + "\n")
    assert report.main(["--check"]) == 1
