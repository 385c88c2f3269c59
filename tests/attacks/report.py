"""Writes `docs/security.md` from what the attacks found.

    python -m tests.attacks.report            write it
    python -m tests.attacks.report --check    change nothing; exit code 1 where it is not current

What has not run since the results were deleted is said to be missing, and then nothing is written. `bash .ci/run`
installs the services that some attacks need.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Final

from tests.attacks.cases import CASES, RESULTS, ROOT, Case, Observation, observations

__all__ = ["PAGE", "main", "render", "results", "rows"]

PAGE: Final = ROOT / "docs" / "security.md"

_HEAD: Final = """# Attacks

Each row is an attack from the literature on paid HTTP, or one of our own, with the outcome that is safe and what was
observed when it was tried. The attacks are the tests below `tests/attacks`, with the row's number in their names. They
use real signatures, invoices and macaroons and the real `stripe` library. Those about a chain run on an EVM with an
EIP-3009 token, those about Lightning on sandboxes and on real lnd nodes. `python -m tests.attacks.report` writes this
page from what they did. What is open is said in its row.

What follows from a secret that was stolen, and who is trusted with what: [threat-model.md](threat-model.md).
"""
_TABLE: Final = """
## {title}

| case | attack | safe outcome | observed |
|---|---|---|---|
"""


def results() -> dict[Observation, bool]:
    """Return of each observation that was tried whether it was made when its test last ran."""
    found: dict[tuple[str, str], list[tuple[bool, list[str]]]] = {}
    for path in RESULTS.glob("*.json"):
        row = json.loads(path.read_text())
        found.setdefault((row["file"], row["function"]), []).append((row["passed"], row["observed"]))
    held = {}
    for each in observations():
        runs = found.get((each.file, each.function), [])
        if not all(passed for passed, _ in runs):
            held[each] = False
        elif any(each.text in texts for _, texts in runs):
            held[each] = True
    return held


def render(held: Mapping[Observation, bool]) -> str:
    """Return the page; what was not observed, though a test is there for it, is said to have failed."""
    tables = [
        _TABLE.format(title=f"Against the {side}")
        + "".join(f"{_row(case, held)}\n" for case in CASES if case.side == side)
        for side in ("server", "client")
    ]
    return _HEAD + "".join(tables)


def _row(case: Case, held: Mapping[Observation, bool]) -> str:
    found = [each for each in observations() if each.case == case]
    texts = dict.fromkeys(each.text if held[each] else f"**failed**: {each.text}" for each in found)
    said = [*texts, *([f"**open**: {case.open}"] if case.open else [])]
    return f"| {case.number} | {case.attack} | {case.expected} | {'<br>'.join(said)} |"


def rows(page: str) -> dict[str, str]:
    """Return what a page says was observed, by `<number> <side>`."""
    found = {}
    for part in page.split("\n## Against the ")[1:]:
        side, _, table = part.partition("\n")
        for line in table.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            if cells[0].isdigit():
                found[f"{int(cells[0]):02} {side}"] = cells[-1]
    return found


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    held = results()
    missing = [f"{each.file}: {each.text}" for each in observations() if each not in held]
    if missing:
        print("not observed yet:", *missing, sep="\n  ", file=sys.stderr)
        return 1
    page = render(held)
    if arguments == ["--check"]:
        return int(PAGE.read_text() != page)
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
