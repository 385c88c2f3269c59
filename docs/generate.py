"""Writes the parts of the documentation that are drawn from the code: two diagrams and the table of reason codes.

    python docs/generate.py            write them
    python docs/generate.py --check    change nothing; exit code 1 where one is not current

A part stands between `<!-- generated: NAME -->` and `<!-- end of NAME -->`. A test runs the check.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path

from rail402.errors import REASONS
from rail402.protocol.charge import DELIVERY, PAYMENT

__all__ = ["PARTS", "generated", "main"]

DOCS = Path(__file__).parent


def payment_diagram() -> str:
    """Return the diagram of what may become of the money."""
    return _diagram(PAYMENT, start="claimed")


def delivery_diagram() -> str:
    """Return the diagram of what may become of the answer."""
    return _diagram(DELIVERY, start="none")


def reason_table() -> str:
    """Return the table of reason codes, in the order of `errors.REASONS`."""
    rows = ["| code | HTTP | again | whose fault | meaning | in x402 | in MPP |", "|---|---|---|---|---|---|---|"]
    for reason in REASONS.values():
        words = [f"`{word}`" if word else "–" for word in (reason.x402, reason.mpp)]
        again = "yes" if reason.retryable else "no"
        cells = [f"`{reason.code}`", str(reason.status), again, reason.fault, reason.title, *words]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _diagram(table: Mapping[tuple[StrEnum, StrEnum], StrEnum], *, start: str) -> str:
    """Return a table of transitions as a Mermaid state diagram; events with the same ends share an arrow."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (state, event), following in table.items():
        arrows.setdefault((state.value, following.value), []).append(event.value)
    lines = [f"[*] --> {start}", *(f"{one} --> {other}: {', '.join(names)}" for (one, other), names in arrows.items())]
    lines += [f"{state} --> [*]" for state in _ends(arrows)]
    return "\n".join(["```mermaid", "stateDiagram-v2", *(f"    {line}" for line in lines), "```"])


def _ends(arrows: Iterable[tuple[str, str]]) -> list[str]:
    """Return the states that nothing leads out of, in the order in which they appear."""
    begun, reached = {one for one, _ in arrows}, dict.fromkeys(other for _, other in arrows)
    return [state for state in reached if state not in begun]


PARTS: Mapping[str, tuple[str, Callable[[], str]]] = {
    "payment-states": ("payments.md", payment_diagram),
    "delivery-states": ("payments.md", delivery_diagram),
    "reason-codes": ("errors.md", reason_table),
}
"""By name: the file that a part is in, and the function that makes it."""


def generated(text: str, name: str, part: str) -> str:
    """Return `text` with that part between its marks.

    Raises:
        LookupError: the marks are not there.
    """
    first, last = f"<!-- generated: {name} -->", f"<!-- end of {name} -->"
    pattern = re.compile(f"{re.escape(first)}.*?{re.escape(last)}", re.DOTALL)
    if not pattern.search(text):
        raise LookupError(f"there is no {first} … {last}")
    return pattern.sub(lambda _: f"{first}\n{part}\n{last}", text)


def main(arguments: list[str]) -> int:
    """Write or check every part; return the exit code."""
    stale = []
    for name, (file, make) in PARTS.items():
        path = DOCS / file
        text = path.read_text(encoding="utf-8")
        fresh = generated(text, name, make())
        if fresh != text:
            stale.append(f"{file}: {name}")
            if "--check" not in arguments:
                path.write_text(fresh, encoding="utf-8")
    for each in stale:
        sys.stdout.write(f"{'not current' if '--check' in arguments else 'written'}: {each}\n")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
