"""`make bench`: every benchmark, as ratios measured in one run. Nothing here fails for being slow."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rail402.stores.sqlite import SqliteStore
from tests.bench import bench_challenge, bench_eip3009, bench_gate, bench_journal, bench_store


async def _store() -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        store = SqliteStore(Path(directory) / "charges.db")
        await store.start()
        alone = await bench_store.rate(store, payments=200, tasks=1)
        together = await bench_store.rate(store, payments=4000, tasks=64)
        await store.close()
    return {
        "claim + settle a second, 64 at once": together["per_second"],
        "64 at once / one at a time": round(together["per_second"] / alone["per_second"], 1),
    }


def main() -> None:
    table = Table("benchmark", "figure")
    parts = (
        asyncio.run(bench_gate.measure()),
        asyncio.run(bench_challenge.measure()),
        bench_eip3009.measure(),
        asyncio.run(_store()),
        asyncio.run(bench_journal.measure()),
    )
    for part in parts:
        for name, figure in part.items():
            table.add_row(name, f"{figure:,}")
        table.add_section()
    Console().print(table)


if __name__ == "__main__":
    main()
