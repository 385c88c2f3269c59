"""Writes `docs/interop.md` from what the interop tests found.

    python -m tests.interop.report            write it
    python -m tests.interop.report --check    change nothing; exit code 1 where it is not current

A case that has not run since the results were deleted is said to be missing, and then nothing is written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Final

from tests.interop.deviations import DEVIATIONS
from tests.interop.peers import CASES, RESULTS, ROOT, Case

__all__ = ["PAGE", "main", "render", "results", "row_of", "rows"]

PAGE: Final = ROOT / "docs" / "interop.md"

_ROLES: Final = {
    "client": "client of our server",
    "server": "server for our client",
    "validator": "validator of our server",
    "library": "library",
    "kit": "kit with our payer",
}
_HEAD: Final = """# Interoperability

Released programs of others, run against ours in the tests below `tests/interop`: each pays once, or is paid once, and
the money is counted on both sides: in the sandboxes' ledgers, on an EVM, or in the channels of two lnd nodes.
`bash .ci/run` installs the versions named here and runs them; `python -m tests.interop.report` writes this page from
what they did.

| peer | version | as | on | result |
|---|---|---|---|---|
"""
_DEVIATIONS: Final = """
## What peers do otherwise

| peer | version | does | ours |
|---|---|---|---|
"""


def results() -> dict[str, str]:
    """Return what became of each case when it last ran: `pass`, `reason`, or `failed`."""
    found = {}
    for case in CASES:
        path = RESULTS / f"{case}.json"
        row = json.loads(path.read_text()) if path.is_file() else {}
        if row.get("version") == case.package.version:
            found[str(case)] = row["outcome"]
    return found


def _row(case: Case, result: str) -> str:
    peer = f"{case.package.registry} `{case.package.name}`"
    return f"| {peer} | {case.package.version} | {_ROLES[case.role]} | {case.route} | {result} |"


def render(outcomes: Mapping[str, str]) -> str:
    """Return the page. A case passes, or has a reason; one that failed is said to have failed."""
    said = {"pass": "pass", "failed": "**failed**"}
    table = [_row(case, said.get(outcomes[str(case)], f"no: {case.reason}")) for case in CASES]
    others = [f"| `{each.package.name}` | {each.package.version} | {each.does} | {each.ours} |" for each in DEVIATIONS]
    return _HEAD + "\n".join(table) + "\n" + _DEVIATIONS + "\n".join(others) + "\n"


def rows(page: str) -> dict[str, str]:
    """Return the table of a page: the result by the row's other cells."""
    table = page.partition("## ")[0].splitlines()
    cells = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in table if line.startswith("| ")]
    return {" | ".join(row[:-1]): row[-1] for row in cells[1:]}


def row_of(case: Case) -> str:
    """Return the cells by which `rows` knows a case."""
    return " | ".join(cell.strip() for cell in _row(case, "").strip("| ").split(" | "))


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    outcomes = results()
    missing = [str(case) for case in CASES if str(case) not in outcomes]
    if missing:
        print(f"not run with the present versions: {', '.join(missing)}", file=sys.stderr)
        return 1
    page = render(outcomes)
    if arguments == ["--check"]:
        return int(PAGE.read_text() != page)
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
