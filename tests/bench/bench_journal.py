"""How long a journal takes to reserve and close a purchase, when much was bought before and when little was.

`python -m tests.bench.bench_journal [few purchases] [many purchases]` prints one JSON object. The two journals take
turns, so that whatever else the machine does meets both.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path

from rail402.client.budget import Budget
from rail402.client.journal import Journal
from rail402.client.limits import WINDOWS
from rail402.client.records import PurchaseState
from tests.unit.client.purchases import NOW, entries, record

BUDGET = Budget(per_hour="1000000 USD", per_day="1000000 USD", total="9000000 USD")
DAY = 86_400


async def filled(path: Path, purchases: int) -> Journal:
    """Return a started journal with so many purchases of a cent, all of them made within the last day."""
    journal = Journal(f"sqlite:///{path}")
    await journal.start()
    with sqlite3.connect(path) as connection:
        for number in range(purchases):
            bought = (f"old_{number}", NOW - number * DAY // purchases)
            connection.execute(
                "INSERT INTO purchases (id, version, order_digest, state, lease_until, created_at, purchase)"
                " VALUES (?, 0, 'order', 'committed', 0, ?, '{}')",
                bought,
            )
            connection.executemany(
                "INSERT INTO spending (purchase_id, scope, period, currency, amount, spent_at, is_open)"
                " VALUES (?, '', ?, 'USD', 1000000000, ?, TRUE)",
                [(bought[0], window, bought[1]) for window in WINDOWS],
            )
        connection.execute("UPDATE spending SET is_open = FALSE")
    connection.close()
    return journal


async def buy(journal: Journal, number: int) -> float:
    """Reserve and close a purchase, and return how many milliseconds that took."""
    began = time.perf_counter()
    wanted = record(number, cost="0.01 USD")
    await journal.reserve(wanted, entries(BUDGET, "0.01 USD"), now=NOW)
    await journal.save(wanted.changed(state=PurchaseState.COMMITTED, cost=wanted.reserved), now=NOW)
    return (time.perf_counter() - began) * 1000


async def measure(few: int = 1_000, many: int = 100_000, *, rounds: int = 200) -> dict[str, float]:
    """Return milliseconds, medians, and their ratio."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        short = await filled(Path(directory) / "short.db", few)
        long = await filled(Path(directory) / "long.db", many)
        times = [(await buy(short, number), await buy(long, number)) for number in range(rounds)]
        await short.close()
        await long.close()
    at_few, at_many = (statistics.median(each) for each in zip(*times, strict=True))
    return {
        f"reserve + close, {few} bought before, ms": round(at_few, 2),
        f"reserve + close, {many} bought before, ms": round(at_many, 2),
        "many / few": round(at_many / at_few, 2),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(*(int(size) for size in sys.argv[1:]))), indent=2))
