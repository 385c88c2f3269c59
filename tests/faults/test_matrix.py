"""Every call of every backend by every fault, and a seeded random mix of them; see `playing` for what must hold."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.matrix import EVERY, Matrix
from tests.faults.playing import OUTCOMES
from tests.faults.report import PAGE, WORLDS, column, result_of, title_of, write
from tests.faults.world import World

_EVERYTHING = os.environ.get("RAIL402_FAULTS") == "all"
_WRITE = "write it: python -m tests.faults.report"


def told(problems: dict[str, list[str]]) -> str:
    return "\n".join(f"{cell}: {'; '.join(said)}" for cell, said in list(problems.items())[:20])


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.__name__)
def test_whatever_goes_wrong(world: type[World], tmp_path: Path) -> None:
    matrix, one_in = Matrix(world, tmp_path), 1 if _EVERYTHING else world.sampled
    matrix.run(one_in=one_in)
    assert matrix.recorded, "no call was recorded"
    assert not matrix.problems, f"{len(matrix.problems)} cells:\n{told(matrix.problems)}"
    result = result_of(matrix)
    said, page = column(world, result), PAGE.read_text()
    if one_in == world.sampled:
        write(world, result)
        assert_current(world, said, page)
    assert_calls_are_current(world, said, page)


def assert_current(world: type[World], said: list[str], page: str) -> None:
    """The page has this column."""
    lines = page.splitlines()
    head = next((number for number, line in enumerate(lines) if f"| {title_of(world)} |" in line), None)
    assert head is not None, _WRITE
    place = lines[head].strip("| ").split(" | ").index(title_of(world))
    rows = [line.strip("| ").split(" | ") for line in lines[head + 2 :] if line.startswith("|")]
    cells = [line for line in said if not line.startswith("|")]
    assert [row[place] for row in rows[: len(cells)]] == cells, f"docs/faults.md is not current; {_WRITE}"


def assert_calls_are_current(world: type[World], said: list[str], page: str) -> None:
    """The page has these calls and no others of this world."""
    calls = [line for line in page.splitlines() if line.startswith(f"| {world.row} | `")]
    assert calls == [line for line in said if line.startswith("|")], f"docs/faults.md is not current; {_WRITE}"


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.__name__)
def test_many_things_go_wrong_at_once(world: type[World], tmp_path: Path) -> None:
    matrix = Matrix(world, tmp_path)
    problems: dict[str, list[str]] = {}
    outcomes: Counter[str] = Counter()
    for seed in range(12 if _EVERYTHING else -(-12 // world.sampled)):
        played = matrix.play_at_random(seed, rate=0.3, faults=EVERY)
        outcomes[played.outcome] += 1
        if played.problems:
            problems[f"seed {seed}"] = played.problems
    assert not problems, told(problems)
    assert set(outcomes) <= set(OUTCOMES)
