"""`python -m tests.crashes`: random ways to die, for a while; `all`: every step of every flow; `replay`: one run."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

from tests.crashes.matrix import Sweep, clean_steps, perform_all, plans_of, write
from tests.crashes.scenarios import ALONE, AWAY, SCENARIOS, Bank, Ending, Plan, Scenario
from tests.crashes.services import available, running
from tests.crashes.worker import Found, Worker

__all__ = ["main", "random_run"]

_FLOWS: Final[dict[Bank, tuple[str, ...]]] = {
    "base": ("authorization", "upfront"),
    "transfer": ("upfront",),
    "lightning": ("upfront",),
    "stripe": ("escrow", "upfront"),
    "prepared": ("escrow", "upfront"),
    "anvil": ("authorization", "upfront"),
    "anvil_transfer": ("upfront",),
    "facilitator": ("authorization", "upfront"),
    "lnd": ("upfront",),
    "lnbits": ("upfront",),
}
_SANDBOXES: Final[list[Bank]] = ["base", "transfer", "lightning", "stripe", "prepared"]
_STRIPE: Final = ("stripe", "prepared")
_TOO_LATE: Final = ("lnd", "lnbits")
"""Where a pass may not be had at all once its buyer was away for long, see `Scenario.is_stuck`."""
_TOOLS: Final = ("base", "lightning", "stripe", "prepared", "anvil", "facilitator")
"""What a tool can be paid with: plain transfers travel in no dialect of MCP."""
_GOOD: Final[tuple[Ending, ...]] = ("whole", "stream")
_BAD: Final[tuple[Ending, ...]] = ("fails", "raises")
_LAST_STEP: Final = 60


def random_run(seed: int, banks: Sequence[Bank]) -> tuple[Scenario, Plan]:
    """A scenario and who dies when: the same for the same seed and banks. A life after the first ends in the middle of
    reconciling or recovering."""
    rng = random.Random(seed)
    bank = rng.choice(banks)
    flow, clients, uses = rng.choice(_FLOWS[bank]), rng.choice((1, 1, 1, 2, 3)), 1
    # A second failure uses the rerun up where nothing is given back: not more than one there, and never as the end.
    gives_back = bank in _STRIPE or flow == "authorization"
    bad = rng.choice((0, 1, 2)) if gives_back else rng.choice((0, 1)) if clients == 1 else 0
    handler = [rng.choice(_BAD) for _ in range(bad)]
    if not (bank in _STRIPE and handler and rng.random() < 0.3):
        handler.append(rng.choice(_GOOD))
    if bank not in _TOO_LATE and len(handler) == 1 and clients == 1 and rng.random() < 0.4:
        handler, uses = [rng.choice(_GOOD), rng.choice(_GOOD + _BAD), rng.choice(_GOOD)], rng.choice((2, 3))
    first, second = rng.choice(((1, 0), (0, 1), (1, 1), (2, 0), (0, 2), (2, 1), (3, 0)))
    ends = [tuple(rng.randint(1, _LAST_STEP // (life + 1)) for life in range(lives)) for lives in (first, second)]
    plan = Plan(server=ends[0], client=ends[1], after=rng.choice((*AWAY, 5, 300)), clients=clients)
    if bank == "facilitator":
        plan = replace(plan, facilitator=tuple(rng.randint(1, _LAST_STEP) for _ in range(rng.choice((0, 1, 1, 2)))))
    is_tool = bank in _TOOLS and uses == 1 and "stream" not in handler and rng.random() < 0.3
    return Scenario(bank, flow, tuple(handler), uses, via="mcp" if is_tool else "http"), plan


class _Table:
    """Counts what was tried, says so as it goes on."""

    def __init__(self) -> None:
        self.sweeps: dict[Scenario, Sweep] = {}
        self.total = 0
        self._done, self._said = 0, time.monotonic()

    def add(self, scenario: Scenario, plan: Plan, found: Found) -> None:
        sweep = self.sweeps.setdefault(scenario, Sweep())
        sweep.add(scenario, plan, found)
        self._done += 1
        if found.violations:
            print("\n".join(["", "WRONG:", *sweep.wrong[-len(found.violations) :]]), flush=True)
        if time.monotonic() - self._said > 5:
            self._said = time.monotonic()
            print(f"{self._done}{f' of {self.total}' if self.total else ''} runs", flush=True)

    def print(self) -> None:
        """The summary, by rail and flow."""
        rows: dict[str, Counter[str]] = {}
        for scenario, sweep in self.sweeps.items():
            row = rows.setdefault(str(replace(scenario, handler=())), Counter())
            row.update({"runs": sum(sweep.outcomes.values()), "kills": sum(sweep.kills.values())})
            row.update({"wrong": len(sweep.wrong)} | dict(sweep.outcomes))
        for name, row in sorted(rows.items()):
            counts = ", ".join(f"{count} {what}" for what, count in row.items() if count or what == "wrong")
            print(f"{name:30} {counts}")

    @property
    def code(self) -> int:
        return int(any(sweep.wrong for sweep in self.sweeps.values()))


def _chaos(seconds: int, seed: int, banks: Sequence[Bank], where: dict[str, Any], workers: int) -> int:
    print(f"seed {seed}: python -m tests.crashes --seconds {seconds} --seed {seed}", flush=True)
    deadline, table = time.monotonic() + seconds, _Table()

    def runs() -> Iterator[tuple[Scenario, Plan]]:
        number = seed
        while time.monotonic() < deadline:
            yield random_run(number, banks)
            number += 1

    perform_all(runs(), where, workers, table.add)
    table.print()
    return table.code


def _all(scenarios: Sequence[Scenario], where: dict[str, Any], workers: int, **which: Any) -> int:
    began, runs, table = time.monotonic(), list[tuple[Scenario, Plan]](), _Table()
    with Worker.open(where) as worker:
        for scenario in scenarios:
            sweep = table.sweeps[scenario] = Sweep()
            for who, names in clean_steps(worker, scenario).items():
                sweep.steps[who] = len(names)
                runs += [(scenario, plan) for plan in plans_of(who, names, **which)]
    table.total = len(runs)
    left = Counter(scenario for scenario, _ in runs)

    def add(scenario: Scenario, plan: Plan, found: Found) -> None:
        table.add(scenario, plan, found)
        left[scenario] -= 1
        if not left[scenario]:
            write(scenario, table.sweeps[scenario])

    perform_all(runs, where, workers, add)
    table.print()
    print(f"{time.monotonic() - began:.0f} s; python -m tests.crashes.report writes docs/crashes.md")
    return table.code


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 1 where the books were wrong once."""
    parser = argparse.ArgumentParser(prog="python -m tests.crashes", description=__doc__)
    parser.add_argument("mode", nargs="?", choices=("chaos", "all", "replay"), default="chaos")
    parser.add_argument("what", nargs="*", help="all: scenarios; replay: a scenario and a plan")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--workers", type=int, default=max(os.cpu_count() or 1, 2))
    parser.add_argument("--sandboxes", action="store_true", help="leave the real services out")
    parser.add_argument("--thorough", action="store_true", help="all: each step with each time to be away")
    parser.add_argument("--at-most", type=int, default=10**6, help="all: so many steps of each process, not all")
    asked = parser.parse_intermixed_args(arguments)
    with ExitStack() as stack:
        real = set() if asked.sandboxes else available()
        if asked.mode == "replay":
            scenario, plan = Scenario.parse(asked.what[0]), Plan.read(json.loads(asked.what[1]))
            where = stack.enter_context(running(real & scenario.services))
            found = stack.enter_context(Worker.open(where)).perform(scenario, plan)
            print(f"{scenario} {plan}: {found.outcome}", *found.violations, found.path, sep="\n")
            return int(bool(found.violations))
        if asked.mode == "all":
            chosen = [each for each in SCENARIOS if not asked.what or str(each) in asked.what]
            chosen = [each for each in chosen if each.services <= real]
            where = stack.enter_context(running({service for each in chosen for service in each.services}))
            return _all(chosen, where, asked.workers, thorough=asked.thorough, at_most=asked.at_most)
        # Each rail's sandbox twice: the real services take one run at a time.
        banks = 2 * _SANDBOXES + [bank for bank in _FLOWS if bank in ALONE and Scenario(bank, "").services <= real]
        where = stack.enter_context(running(real))
        seed = random.SystemRandom().randrange(10**6) if asked.seed is None else asked.seed
        return _chaos(asked.seconds, seed, banks, where, asked.workers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
