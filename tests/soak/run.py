"""One soak: a shop of several workers, its clients, and what must hold afterwards."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from rail402.clock import system_clock
from rail402.protocol.charge import Charge, PaymentState
from rail402.stores import Store, open_store
from tests.soak.load import Load, Tally
from tests.soak.watch import Watch
from tests.workers.shop import Shop, open_shop

__all__ = ["Report", "soak"]

_SETTLING: Final = 240
"""Seconds in which the reconciler has closed what the last requests left open."""

_CLOSED: Final = {"settled", "released", "rejected", "refunded"}
_FLAT: Final = 0.8
_MEMORY_GROWTH: Final = 1.1
_MEMORY_SLACK: Final = 16 << 20
_FILES_SLACK: Final = 24


@dataclass(frozen=True)
class Report:
    """What a soak found.

    Attributes:
        charges: the shop's charges by the state of their payment.
        money: by rail: what its books say the shop has, and what the settled charges add up to.
        held: what the server held soon after warming up, and at the end.
        processor: seconds of processor time that the server used, by minute.
        pace: milliseconds of it that a piece of work took which is always the same, by minute: on a machine with other
            work beside it the processors are not always as fast.
        problems: what is not right, in words; empty if all is.
    """

    seconds: int
    tally: Tally
    charges: Counter[str]
    money: dict[str, tuple[int, int]]
    held: dict[str, tuple[float, float]]
    processor: list[float]
    pace: list[float]
    problems: list[str]

    @property
    def ok(self) -> bool:
        """Whether all is right."""
        return not self.problems

    def __str__(self) -> str:
        minutes = [self.tally.by_minute[minute] for minute in range(len(self.processor))]
        each = [1000 * used / max(1, bought) for used, bought in zip(self.processor, minutes, strict=True)]
        times = sorted(self.tally.seconds) or [0.0]
        answers = [f"{who} {status}: {count}" for (who, status), count in sorted(self.tally.answers.items())]
        lines = [
            f"purchases served   {len(times)} in {self.seconds} s; by minute: {' '.join(map(str, minutes))}",
            f"processor time     {' '.join(f'{spent:.0f}' for spent in each)} ms a purchase, with all else it answers",
            f"the same work      {' '.join(f'{spent:.1f}' for spent in self.pace)} ms of processor time",
            f"one purchase       median {median(times):.3f} s, 99 of 100 below {times[int(len(times) * 0.99)]:.3f} s",
            f"answers            {', '.join(answers)}",
            f"workers killed     {len(self.tally.kills)}",
            f"charges            {', '.join(f'{state}: {count}' for state, count in sorted(self.charges.items()))}",
        ]
        lines += [f"{rail:<18} {held} on its books, {sold} charged" for rail, (held, sold) in self.money.items()]
        lines += [f"{name:<18} {first:,.0f}, at the end {last:,.0f}" for name, (first, last) in self.held.items()]
        return "\n".join([*lines, *(f"PROBLEM            {each}" for each in self.problems)])


async def soak(
    folder: Path,
    store_url: str,
    *,
    seconds: int,
    workers: int,
    clients: tuple[int, int],
    seed: int,
    kill_every: float,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Run a shop under load for so long, wait until nothing is open, and check what must hold.

    Args:
        store_url: of a store of its own.
        clients: how many agents, and how many vandals.
        kill_every: seconds after which the youngest worker is killed, again and again.
        say: is told how far it is, once a minute.
    """
    with open_shop(folder / "shop", store_url, workers=workers) as shop:
        watch = Watch(shop.process, every=min(5.0, seconds / 20))
        watching = asyncio.create_task(watch.run())
        load = Load(shop, folder, seed=seed)
        telling = asyncio.create_task(_tell(load.tally, watch, say))
        agents, vandals = clients
        try:
            tally = await load.run(seconds, agents=agents, vandals=vandals, kill_every=kill_every)
        finally:
            for task in (watching, telling):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        store = open_store(store_url)
        await store.start()
        try:
            charges = await _when_closed(store)
        finally:
            await store.close()
        return await _report(shop, tally, charges, watch, seconds)


async def _tell(tally: Tally, watch: Watch, say: Callable[[str], None]) -> None:
    minute = 0
    while True:
        await asyncio.sleep(60)
        last = watch.samples[-1][1].values()
        memory, files = sum(each.memory for each in last) >> 20, sum(each.files for each in last)
        wrong = sum(tally.wrong.values())
        say(f"minute {minute}: {tally.by_minute[minute]} purchases, {memory} MiB, {files} files, {wrong} wrong")
        minute += 1


async def _when_closed(store: Store) -> list[Charge]:
    """Return all charges once the reconciler has closed every one, or what there is when its time is up."""
    for _ in range(_SETTLING):
        if not await store.unresolved(now=system_clock() + 86_400, limit=1):
            break
        await asyncio.sleep(1)
    found: list[Charge] = []
    while page := await store.recent(limit=1000, before=found[-1].id if found else None):
        found += page
    return found


async def _report(shop: Shop, tally: Tally, charges: list[Charge], watch: Watch, seconds: int) -> Report:
    settled = Counter[str]()
    for charge in charges:
        if charge.payment is PaymentState.SETTLED:
            settled[charge.offer.rail] += charge.amount
    books = await shop.received()
    money = {rail: (held, settled[rail]) for rail, held in books.items()}
    held = watch.growth()
    problems = [f"{times} times {what}" for what, times in tally.wrong.most_common(10)]
    problems += [f"{rail}: {has} on its books, {sold} charged" for rail, (has, sold) in money.items() if has != sold]
    by_state = Counter(charge.payment.value for charge in charges)
    problems += [f"{by_state[state]} charges are {state}" for state in by_state if state not in _CLOSED]
    # A handler runs once for each use, and once more where its answer was lost, or its worker before the money was
    # taken; one that fails, whenever it is asked. A use comes back from each worker that was killed.
    allowed = {
        charge.id: charge.uses + charge.reruns + charge.attempt - 1 + (len(tally.kills) if charge.is_pass else 0)
        for charge in charges
        if charge.payment is PaymentState.SETTLED
    }
    failed = {charge.id for charge in charges if charge.payment is PaymentState.RELEASED}
    runs = shop.runs()
    twice = [charge_id for charge_id in runs.keys() - failed if runs[charge_id] > allowed.get(charge_id, 0)]
    problems += [f"the handler ran too often for {len(twice)} charges"] if twice else []
    minutes = [(60 * minute, 60 * minute + 60) for minute in range(max(1, seconds // 60))]
    processor, pace = [watch.processor(*each) for each in minutes], [watch.pace(*each) for each in minutes]
    problems += _leaks(held) + _slower(tally, processor, pace)
    return Report(seconds, tally, by_state, money, held, processor, pace, problems)


def _leaks(held: dict[str, tuple[float, float]]) -> list[str]:
    found = []
    for name, (first, last) in held.items():
        most = first * _MEMORY_GROWTH + _MEMORY_SLACK if name == "memory" else first + _FILES_SLACK
        if last > most:
            found.append(f"{name} grew from {first:,.0f} to {last:,.0f}")
    return found


def _slower(tally: Tally, processor: list[float], pace: list[float]) -> list[str]:
    """Say so where the last third of a long run served much less than the first one, or worked much more for it.

    Both are measured by what the same work took in that minute. The first minute does not count: all is new in it.
    """
    bought = [tally.by_minute[minute] * pace[minute] for minute in range(1, len(processor))]
    worked = [
        processor[minute] / max(1.0, tally.by_minute[minute] * pace[minute]) for minute in range(1, len(processor))
    ]
    third = len(bought) // 3
    if not third:
        return []
    found = []
    served = median(bought[-third:]) / median(bought[:third])
    if served < _FLAT:
        found.append(f"at the end it served {served:.2f} times what it did at first")
    work = median(worked[-third:]) / median(worked[:third])
    if work > 1 / _FLAT:
        found.append(f"at the end a purchase took {work:.2f} times the work that it did at first")
    return found
