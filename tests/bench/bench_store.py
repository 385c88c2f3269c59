"""How many payments a second a store takes: claim, then settle with a stored response, all of it durable.

`python -m tests.bench.bench_store [few charges] [many charges]` prints one JSON object: what a payment costs one task
alone, and 64 at once, in a store with few charges and in one with many. The ratios compare figures of the same run. On
a machine with other work, look at those of processor time and of what is written (SQLite alone: PostgreSQL has
processes of its own), which it hardly moves. PostgreSQL is measured where it is installed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final

from rail402.protocol.charge import Delivery, PaymentState
from rail402.server.services import charge_id
from rail402.stores import SqliteStore, Store, StoredResponse, TokenBucket
from rail402.stores.postgres import PostgresStore
from rail402.testing.stores import make_charge
from tests.services import postgres

RESPONSE: Final = StoredResponse(200, ((b"content-type", b"application/json"),), b"x" * 1024)
SETTLED: Final = {"payment": PaymentState.SETTLED, "delivery": Delivery.STORED, "transaction": "0x" + "ab" * 32}

ROUNDS: Final = 10
ROUND: Final = 500
"""Payments of one round."""
TASKS: Final = 64

_numbers = count()


async def pay(store: Store) -> None:
    """Claim a charge and settle it: of its two keys, the payment's is random, and the offer's begins with the time."""
    number = next(_numbers)
    digest, now = hashlib.sha256(str(number).encode()), 1_800_000_000 + number // 1000
    keys = f"eip3009:{digest.hexdigest()}", f"offer:{now + 300:08x}:{digest.hexdigest()[:32]}"
    charge = make_charge(*keys, id=charge_id(now, digest.digest()[:11]), created_at=now)
    claim = await store.claim(charge)
    assert claim.won
    await store.save(charge.model_copy(update=SETTLED), response=RESPONSE)


async def rate(store: Store, *, payments: int, tasks: int) -> dict[str, float]:
    """Make `payments` with `tasks` in flight; return payments a second, latencies, and what each cost."""
    left, latencies = iter(range(payments)), []

    async def work() -> None:
        for _ in left:
            begun = time.perf_counter()
            await pay(store)
            latencies.append(time.perf_counter() - begun)

    begun, used, written = time.perf_counter(), time.process_time(), _written()
    await asyncio.gather(*(work() for _ in range(tasks)))
    elapsed, used, written = time.perf_counter() - begun, time.process_time() - used, _written() - written
    latencies.sort()
    return {
        "per_second": round(payments / elapsed),
        "p50_ms": round(latencies[len(latencies) // 2] * 1000, 2),
        "p99_ms": round(latencies[len(latencies) * 99 // 100] * 1000, 2),
        "processor_us": round(used / payments * 1e6),
        "written_kb": round(written / payments / 1e3, 1),
    }


def _written() -> int:
    """Return the bytes that this process has written, where the kernel says so (Linux)."""
    with suppress(OSError):
        fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(fields["wchar"])
    return 0


async def measure(open_store: Callable[[str], Store], few: int = 1_000, many: int = 100_000) -> dict[str, object]:
    """Return the figures with so many charges in the store, and their ratios.

    The rounds take turns, so that whatever else the machine does meets all of them; each figure is a median.

    Args:
        open_store: makes a new, empty store; it is told a name for it.
    """
    stores = []
    for name, rows in (("few", few), ("many", many)):
        store = open_store(name)
        await store.start()
        await rate(store, payments=rows, tasks=512)
        stores.append(store)
    short, long = stores
    alone, at_few, at_many = [], [], []
    for _ in range(ROUNDS):
        alone.append(await rate(short, payments=50, tasks=1))
        at_few.append(await rate(short, payments=ROUND, tasks=TASKS))
        at_many.append(await rate(long, payments=ROUND, tasks=TASKS))
    for store in stores:
        await store.close()
    one, less, more = _median(alone), _median(at_few), _median(at_many)
    return {
        "one_task": one,
        f"{TASKS}_tasks_{few}_charges": less,
        f"{TASKS}_tasks_{many}_charges": more,
        "many_tasks_to_one": round(less["per_second"] / one["per_second"], 2),
        "many_charges_to_few": {name: round(more[name] / less[name], 2) for name in less if less[name]},
    }


async def measure_sqlite(few: int, many: int) -> dict[str, object]:
    """Return the figures of SQLite, with files in the working directory: /tmp may be memory."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        figures = await measure(lambda name: SqliteStore(Path(directory) / f"{name}.db"), few, many)
        return figures | {"megabytes": round((Path(directory) / "many.db").stat().st_size / 1e6)}


async def measure_postgres(few: int, many: int) -> dict[str, object]:
    """Return the figures of PostgreSQL for one worker, and how many tokens a second one bucket gives."""
    with tempfile.TemporaryDirectory() as logs, postgres.postgres_server(Path(logs)) as server:
        figures = await measure(lambda name: PostgresStore(server.schema(), connections=20), few, many)
        store = PostgresStore(server.schema(), connections=20)
        await store.start()
        limit = TokenBucket(rate=1, burst=10**6)
        begun = time.perf_counter()
        await asyncio.gather(*(store.spend("one", 1, limit, now=0) for _ in range(2_000)))
        elapsed = time.perf_counter() - begun
        await store.close()
        return figures | {"tokens_of_one_bucket_per_second": round(2_000 / elapsed)}


def _median(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(found[name] for found in rounds), 2) for name in rounds[0]}


def main() -> None:
    """Measure both stores, the second one if it is there."""
    few, many = (int(size) for size in sys.argv[1:] or ("1000", "100000"))
    figures = {"sqlite": asyncio.run(measure_sqlite(few, many))}
    if not postgres.missing():
        figures["postgres"] = asyncio.run(measure_postgres(few, many))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
