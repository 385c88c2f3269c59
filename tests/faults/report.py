"""Writes `docs/faults.md` from what the matrix found.

    python -m tests.faults.report            write it, from the results of the last run of `tests/faults`
    python -m tests.faults.report --check    change nothing; exit code 1 where it is not current

The matrix of each world leaves its results below `RESULTS` when it has run, and its test compares them with the page.
Of the worlds that have much in common with others it plays a sample, always the same; `RAIL402_FAULTS=all pytest
tests/faults` plays all of it, and compares only the calls.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.faults.agents import AGENTS
from tests.faults.matrix import COLUMNS, Matrix
from tests.faults.more_worlds import MORE_AGENTS, MORE_SHOPS
from tests.faults.playing import OUTCOMES
from tests.faults.world import ONE_IN, World
from tests.faults.worlds import SHOPS

__all__ = ["GROUPS", "PAGE", "RESULTS", "WORLDS", "column", "main", "result_of", "title_of", "write"]

_ROOT: Final = Path(__file__).parents[2]
PAGE: Final = _ROOT / "docs" / "faults.md"
RESULTS: Final = _ROOT / ".rail402" / "faults"

WORLDS: Final[tuple[type[World], ...]] = (*SHOPS, *MORE_SHOPS, *AGENTS, *MORE_AGENTS)
GROUPS: Final[Mapping[str, tuple[type[World], ...]]] = {
    "Base": tuple(world for world in (*SHOPS, *MORE_SHOPS) if world.row.startswith("Base")),
    "Lightning, and rates": tuple(world for world in SHOPS if world.row.startswith(("Lightning", "rate"))),
    "Lightning: other nodes, and refunds": tuple(world for world in MORE_SHOPS if world.row.startswith("Lightning")),
    "Stripe": tuple(world for world in (*SHOPS, *MORE_SHOPS) if world.row.startswith("Stripe")),
    "The agent's wallets": (*AGENTS, *MORE_AGENTS),
}

_HEAD: Final = f"""# Faults

What becomes of a payment when a call to a node, a facilitator, Stripe or a rate source goes wrong. `tests/faults` makes
a clean purchase through a gate and records every call; then it plays the purchase once for every call and every fault
of [`rail402.testing.faults`](writing-a-rail.md#9-let-it-fail), waits until the reconciler has closed everything, shows
the payment again, and counts. In every cell:

- the answer was never a fresh challenge while an outcome was unknown, and never a 500;
- it was served only when the money was there, and what left the payer is what the publisher has: the price where the
  payment was served, nothing where it was not;
- the same payment, shown again, got the same response, and was charged once;
- no secret was in an answer or a log, though the faults' error pages repeat every one they are sent.

Played are a sale, and one whose handler fails at first; one call that goes wrong, and all calls from it on; and each
call that is made only because an outage has left the outcome unknown. Whether a call that only reads is carried out
before its answer is lost makes no difference, and is not told apart. Refunds on Lightning are played from where the
seller has granted one: however often the payer asks, the money goes back once. What Stripe prepares on demand is asked
for twice by who pays it, and once by a visitor who never does, until it is cancelled. Of the columns with a star, which
have much in common with others, one purchase in {ONE_IN} is played, and each in which a payment was made and the answer
was another or none; `make faults` plays all.

Not played are people at Stripe's pages (Checkout, 3-D Secure), what goes wrong between Stripe and its wallets other
than the test helper (Link, a customer of one's own, Checkout), refunds by hand on Base and Stripe, payments from
contracts, remote signers, several facilitators or nodes at once, and the stores behind all of them.
"""
_LEGEND: Final = """
A cell says how many purchases ended how: **s** settled at once, **n** not paid (nothing moved, or all of it went back,
and the same payment could be shown again; where the payer has paid before, as on Lightning, it was served then), **us**
unknown at first and then settled, **un** unknown at first and then not paid.
"""
_CALLS: Final = """
## The calls

| where | call | times |
|---|---|---|
"""
_LETTERS: Final = dict(zip(OUTCOMES, ("s", "n", "us", "un"), strict=True))


def result_of(matrix: Matrix) -> dict[str, Any]:
    """Return what a matrix found, as it is stored."""
    outcomes = {name: [matrix.outcomes.get(name, Counter())[each] for each in OUTCOMES] for name in COLUMNS}
    return {"outcomes": outcomes, "calls": dict(sorted(matrix.recorded.items()))}


def write(world: type[World], result: Mapping[str, Any]) -> None:
    """Store what a world's matrix found."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{world.__name__}.json").write_text(json.dumps(result, indent=1))


def _cell(counts: Sequence[int]) -> str:
    return " ".join(f"{count}{letter}" for count, letter in zip(counts, _LETTERS.values(), strict=True) if count) or "–"


def column(world: type[World], result: Mapping[str, Any]) -> list[str]:
    """Return a world's column of its table, in the order of `COLUMNS`, and its calls."""
    cells = [_cell(result["outcomes"][name]) for name in COLUMNS]
    return [*cells, *(f"| {world.row} | `{call}` | {times} |" for call, times in result["calls"].items())]


def title_of(world: type[World]) -> str:
    """Return what stands above a world's column."""
    return world.row if world.sampled == 1 else f"{world.row} *"


def render(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page."""
    total = sum(sum(counts) for result in results.values() for counts in result["outcomes"].values())
    ended = [sum(counts[n] for each in results.values() for counts in each["outcomes"].values()) for n in range(4)]
    said = ", ".join(f"{count} {name}" for count, name in zip(ended, OUTCOMES, strict=True))
    page = [_HEAD, f"\n**{total} purchases**: {said}.\n", _LEGEND]
    for title, worlds in GROUPS.items():
        columns = [column(world, results[world.__name__]) for world in worlds]
        page.append(f"\n## {title}\n\n| fault | {' | '.join(map(title_of, worlds))} |\n")
        page.append(f"|---|{'---|' * len(worlds)}\n")
        rows = zip(COLUMNS, *columns, strict=False)
        page += [f"| {' | '.join(row)} |\n" for row in rows]
    page.append(_CALLS)
    for world in WORLDS:
        page += [f"{line}\n" for line in column(world, results[world.__name__])[len(COLUMNS) :]]
    return "".join(page)


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    paths = {world.__name__: RESULTS / f"{world.__name__}.json" for world in WORLDS}
    missing = [name for name, path in paths.items() if not path.is_file()]
    if missing:
        print(f"run pytest tests/faults first; nothing is known of {', '.join(missing)}", file=sys.stderr)
        return 1
    page = render({name: json.loads(path.read_text()) for name, path in paths.items()})
    if arguments == ["--check"]:
        return int(PAGE.read_text() != page)
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
