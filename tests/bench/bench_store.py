"""How many payments a second the SQLite store takes: claim, then settle with a stored response, all of it durable.

Run it with `python tests/bench/bench_store.py`; it prints one JSON object. The ratios compare numbers of the same run:
many tasks against one (what group commit brings), and a long table against a short one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

from rail402.protocol.charge import Delivery, PaymentState
from rail402.stores import SqliteStore, Store, StoredResponse
from rail402.testing.stores import make_charge

RESPONSE = StoredResponse(200, ((b"content-type", b"application/json"),), b"x" * 1024)
SETTLED = {"payment": PaymentState.SETTLED, "delivery": Delivery.STORED, "transaction": "0x" + "ab" * 32}
_numbers = count()


async def pay(store: Store) -> None:
    """Claim a charge and settle it."""
    number = next(_numbers)
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    charge = make_charge(f"eip3009:{digest}", f"offer:{digest[:22]}", created_at=1_800_000_000 + number // 1000)
    claim = await store.claim(charge)
    assert claim.won
    await store.save(charge.model_copy(update=SETTLED), response=RESPONSE)


async def rate(store: Store, *, payments: int, tasks: int) -> dict[str, float]:
    """Make `payments` with `tasks` in flight; return payments a second and latencies in milliseconds."""
    left, latencies = iter(range(payments)), []

    async def work() -> None:
        for _ in left:
            begun = time.perf_counter()
            await pay(store)
            latencies.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(tasks)))
    elapsed = time.perf_counter() - begun
    latencies.sort()
    return {
        "per_second": round(payments / elapsed),
        "p50_ms": round(latencies[len(latencies) // 2] * 1000, 2),
        "p99_ms": round(latencies[len(latencies) * 99 // 100] * 1000, 2),
    }


async def measure(sizes: tuple[int, ...] = (1_000, 100_000), *, payments: int = 5_000, tasks: int = 64) -> None:
    """Print the rates with so many rows in the table, and their ratios."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        store = SqliteStore(Path(directory) / "charges.db")
        await store.start()
        rows, rates = 0, {}
        one = await rate(store, payments=200, tasks=1)
        for size in sizes:
            await rate(store, payments=size - rows, tasks=512)
            rates[size] = await rate(store, payments=payments, tasks=tasks)
            rows = size + payments
        await store.close()
        megabytes = round((Path(directory) / "charges.db").stat().st_size / 1e6)
    first, last = rates[sizes[0]]["per_second"], rates[sizes[-1]]["per_second"]
    result = {
        "tasks": tasks,
        "one_task": one,
        "rows": {str(size): found for size, found in rates.items()},
        "megabytes": megabytes,
        "ratio_many_tasks_to_one": round(first / one["per_second"], 2),
        "ratio_long_table_to_short": round(last / first, 2),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    asyncio.run(measure(tuple(int(size) for size in sys.argv[1:]) or (1_000, 100_000)))
