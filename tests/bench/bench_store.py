"""How many payments a second a store takes: claim, then settle with a stored response, all of it durable.

`python -m tests.bench.bench_store [few rows] [many rows]` prints one JSON object. The ratios compare numbers of the
same run: many tasks against one (what group commit brings), and a long table against a short one. PostgreSQL
is measured where it is installed, or where `RAIL402_TEST_POSTGRES_URL` says that one is.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import statistics
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

from rail402.protocol.charge import Delivery, PaymentState
from rail402.server.services import charge_id
from rail402.stores import SqliteStore, Store, StoredResponse, TokenBucket
from rail402.stores.postgres import PostgresStore
from rail402.testing.stores import make_charge
from tests.services import postgres

RESPONSE = StoredResponse(200, ((b"content-type", b"application/json"),), b"x" * 1024)
SETTLED = {"payment": PaymentState.SETTLED, "delivery": Delivery.STORED, "transaction": "0x" + "ab" * 32}
_numbers = count()


async def pay(store: Store) -> None:
    """Claim a charge and settle it."""
    number = next(_numbers)
    digest, now = hashlib.sha256(str(number).encode()), 1_800_000_000 + number // 1000
    keys = f"eip3009:{digest.hexdigest()}", f"offer:{digest.hexdigest()[:22]}"
    charge = make_charge(*keys, id=charge_id(now, digest.digest()[:11]), created_at=now)
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


async def filled(path: Path, rows: int) -> SqliteStore:
    """Return a started store with that many charges."""
    store = SqliteStore(path)
    await store.start()
    await rate(store, payments=rows, tasks=512)
    return store


async def measure(few: int = 1_000, many: int = 100_000, *, rounds: int = 10, tasks: int = 64) -> dict[str, object]:
    """Return the rates with so many rows in the table, and their ratios.

    The rounds take turns, so that whatever else the machine does meets all of them; each figure is a median.
    """
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        short = await filled(Path(directory) / "short.db", few)
        long = await filled(Path(directory) / "long.db", many)
        alone, at_few, at_many = [], [], []
        for _ in range(rounds):
            alone.append(await rate(short, payments=50, tasks=1))
            at_few.append(await rate(short, payments=500, tasks=tasks))
            at_many.append(await rate(long, payments=500, tasks=tasks))
        await short.close()
        await long.close()
        megabytes = round((Path(directory) / "long.db").stat().st_size / 1e6)
    figures = {name: _median(found) for name, found in [("alone", alone), ("few", at_few), ("many", at_many)]}
    return {
        "one_task": figures["alone"],
        f"{tasks}_tasks_{few}_rows": figures["few"],
        f"{tasks}_tasks_{many}_rows": figures["many"],
        "megabytes": megabytes,
        "ratio_many_tasks_to_one": round(figures["few"]["per_second"] / figures["alone"]["per_second"], 2),
        "ratio_many_rows_to_few": round(figures["many"]["per_second"] / figures["few"]["per_second"], 2),
    }


async def measure_postgres(url: str, *, rows: int = 1_000, rounds: int = 5, tasks: int = 64) -> dict[str, object]:
    """Return the rates of a PostgreSQL store with `rows` rows in its table: one worker, and token buckets beside."""
    store = PostgresStore(url, connections=20)
    await store.start()
    await rate(store, payments=rows, tasks=tasks)
    alone, together = [], []
    for _ in range(rounds):
        alone.append(await rate(store, payments=50, tasks=1))
        together.append(await rate(store, payments=500, tasks=tasks))
    limit = TokenBucket(rate=1, burst=10**6)
    begun = time.perf_counter()
    await asyncio.gather(*(store.spend("one", 1, limit, now=0) for _ in range(2_000)))
    elapsed = time.perf_counter() - begun
    await store.close()
    return {
        "one_task": _median(alone),
        f"{tasks}_tasks_{rows}_rows": _median(together),
        "tokens_of_one_bucket_per_second": round(2_000 / elapsed),
    }


def measure_postgres_if_it_is_there() -> dict[str, object] | None:
    """Return what `measure_postgres` does, None where there is no PostgreSQL."""
    if postgres.missing():
        return None
    with tempfile.TemporaryDirectory() as logs, postgres.postgres_server(Path(logs)) as server:
        return asyncio.run(measure_postgres(server.schema()))


def _median(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(found[name] for found in rounds), 2) for name in rounds[0]}


if __name__ == "__main__":
    figures = {"sqlite": asyncio.run(measure(*(int(size) for size in sys.argv[1:])))}
    print(json.dumps(figures | {"postgres": measure_postgres_if_it_is_there()}, indent=2))
