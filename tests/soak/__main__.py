"""The soak: `python -m tests.soak --seconds 600`. It ends with a table, and with status 1 where something is wrong."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.soak.run import Report, soak


def main() -> int:
    """Run it, and say what was seen."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--agents", type=int, default=6)
    parser.add_argument("--vandals", type=int, default=4)
    parser.add_argument("--kill-every", type=float, default=45, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", help="the URL of the store; by default an SQLite file of its own")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        report: Report = asyncio.run(
            soak(
                folder,
                asked.store or f"sqlite:///{folder}/charges.db",
                seconds=asked.seconds,
                workers=asked.workers,
                clients=(asked.agents, asked.vandals),
                seed=asked.seed,
                kill_every=asked.kill_every,
                say=print,
            )
        )
    print(report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
