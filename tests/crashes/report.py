"""Writes `docs/crashes.md` from what `python -m tests.crashes all` found.

    python -m tests.crashes.report            write it
    python -m tests.crashes.report --check    change nothing; exit code 1 where it is not current

A scenario that has not run since the results were deleted is said to be missing, and then nothing is written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tests.crashes.matrix import RESULTS
from tests.crashes.scenarios import SCENARIOS, Scenario
from tests.crashes.worker import ROOT

__all__ = ["PAGE", "main", "render", "results", "rows", "title"]

PAGE: Final = ROOT / "docs" / "crashes.md"

_RAILS: Final = {
    "base": "Base, sandbox",
    "transfer": "Base, sandbox, plain transfers",
    "lightning": "Lightning, sandbox",
    "stripe": "Stripe, sandbox",
    "prepared": "Stripe, sandbox, prepared on demand",
    "anvil": "Base, an EVM (anvil) with our relayer",
    "anvil_transfer": "Base, an EVM (anvil), plain transfers",
    "facilitator": "Base, an EVM (anvil) with our facilitator",
    "lnd": "Lightning, two lnd nodes",
    "lnbits": "Lightning, two LNbits",
}
_HANDLERS: Final = {
    "whole": "answers",
    "stream": "streams",
    "fails": "answers 500",
    "raises": "raises",
}
_TOOL: Final = _HANDLERS | {"fails": "says that it failed"}
_HEAD: Final = """# Crashes

A server and a client, and the facilitator where there is one, are killed (SIGKILL) at every step of every flow: before
and after each write that lasts, each call of a rail and of the service behind it, each message that leaves. Who died is
started again: at once, after 130 seconds (leases have ended) or after 700 (the replay window has ended), in turns. The
reconciler and `payer.recover()` run, the client asks again for what it has not got, and every payment that ever left is
shown once more, by a stranger who overheard it. Then the money is counted on both sides, in the rail's own books: the
sandboxes' ledgers, token balances on an EVM, the channels of two lnd nodes, the wallets of two LNbits that have to
agree with them.

What must hold, each time: the payers have less by what the shop has more, and that is the price times what was served;
nothing is held; no charge and no purchase is left open; store and journal say the same as the books; the handler ran
once, and once more for each run that was lost; a payment that is shown again gets the answer of the first time or
nothing; what was released or refunded cost nothing. A pass gives as many answers as it is good for, to who bought it,
and then no more: a use that failed, or died with its server, is given back.

`make crashes` runs all of this and writes this page. `make test` runs each step of the first four rows once, and a
sample of the others. `make chaos SECONDS=60` draws at random, and prints the seed: rails, flows, failing handlers,
passes, several clients, and several deaths, those during recovery too.

Where a row names PostgreSQL, the shop's charges are there, and what its relayer has signed. With plain transfers, and
with what is prepared on demand, the payer moves the money, before there is a charge.

Where fewer were killed than there are steps, it was at that many, evenly spaced (`all --at-most 12`). With `--thorough`
each step has each of the three times.

Not among them: an agent's journal in PostgreSQL, people at Checkout, and customers who have saved a card.

| rail | flow | the handler | steps (server, client, facilitator) | killed | wrong | how it ended |
|---|---|---|---|---|---|---|
"""
_FOOT: Final = """
How it can end for who pays:

- **served**, with the **stored answer** of the first time, or by a free **rerun** of the handler;
- **released**: nothing was taken. It was **claimed again** with the same payment, or **bought anew** with another; or
  neither, where the handler never works, and on lnd after 700 seconds: its time cannot be moved, its invoices are too
  old;
- **refunded**: taken, and given back because the handler failed; on Lightning the seller grants it, and the payer
  fetches it with an invoice of its own;
- **had it in hand**: the client died after its journal had closed the purchase and before it used the goods; it buys
  anew. What a program does with an answer is not in the journal;
- **came when the window was over**: the answer was stored, and its payer came for it later than the route's `valid`
  after settlement, ten minutes unless the route says otherwise: it has paid, and the shop says `receipt_expired`. Where
  a server may be down for longer, say more: `Receipts(valid="1d")`. An answer that the server never finished does not
  expire with the window.
"""


def results() -> dict[Scenario, dict[str, Any]]:
    """What became of each scenario when all its steps ran last."""
    found = {}
    for scenario in SCENARIOS:
        path = RESULTS / f"{scenario}.json"
        if path.is_file():
            found[scenario] = json.loads(path.read_text())
    return found


def title(scenario: Scenario) -> str:
    """The cells by which a row is known."""
    what, endings = ("", _HANDLERS) if scenario.via == "http" else ("a tool of MCP ", _TOOL)
    handler = what + ", then ".join(endings[ending] for ending in scenario.handler)
    rail = _RAILS[scenario.bank] + (", PostgreSQL" if scenario.store == "postgres" else "")
    flow = scenario.flow + (f", a pass for {scenario.uses}" if scenario.uses > 1 else "")
    return f"{rail} | {flow} | {handler}"


def render(found: Mapping[Scenario, Mapping[str, Any]]) -> str:
    """The page."""
    return _HEAD + "".join(f"{_row(scenario, found[scenario])}\n" for scenario in SCENARIOS) + _FOOT


def _row(scenario: Scenario, row: Mapping[str, Any]) -> str:
    who = [name for name in ("server", "client", "facilitator") if name in row["steps"]]
    steps, kills = (", ".join(str(row[name].get(each, 0)) for each in who) for name in ("steps", "kills"))
    wrong = f"**{len(row['wrong'])}**" if row["wrong"] else "0"
    outcomes = sorted(row["outcomes"].items(), key=lambda pair: (-pair[1], pair[0]))
    ended = "; ".join(f"{count} {what}" for what, count in outcomes)
    return f"| {title(scenario)} | {steps} | {kills} | {wrong} | {ended} |"


def rows(page: str) -> dict[str, Sequence[str]]:
    """The table of a page: the other cells of each row, by its title."""
    table = [line for line in page.splitlines() if line.startswith("| ")][1:]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
    return {" | ".join(row[:3]): row[3:] for row in cells}


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    found = results()
    missing = [str(scenario) for scenario in SCENARIOS if scenario not in found]
    if missing:
        print(f"not run: {', '.join(missing)}", file=sys.stderr)
        return 1
    page = render(found)
    if arguments == ["--check"]:
        return int(PAGE.read_text() != page)
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
