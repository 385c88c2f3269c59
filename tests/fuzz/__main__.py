"""`make fuzz`: hostile bytes for every parser, for so many seconds each.

    python -m tests.fuzz [--seconds 60] [--seed N] [TARGET ...]

What breaks one is written to `.rail402/fuzz`, and the command ends with 1.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from pathlib import Path
from random import Random

from tests.fuzz.running import Broken, run_once
from tests.fuzz.targets import TARGETS

FOUND = Path(".rail402/fuzz")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="hostile bytes for every parser")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=60, help="for each (default 60)")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    asked = parser.parse_args()
    if unknown := sorted(set(asked.targets) - TARGETS.keys()):
        parser.error(f"there is no target {', '.join(unknown)}")
    print(f"seed {asked.seed}")
    broken = 0
    for name in asked.targets or TARGETS:
        random, count, slowest = Random(f"{asked.seed}/{name}"), 0, 0.0
        until = time.monotonic() + asked.seconds
        while time.monotonic() < until:
            try:
                slowest = max(slowest, run_once(TARGETS[name], random))
            except Broken as error:
                broken += 1
                FOUND.mkdir(parents=True, exist_ok=True)
                path = FOUND / f"{name}-{hashlib.sha256(error.data).hexdigest()[:12]}"
                path.write_bytes(error.data)
                print(f"{name}: {error}; the bytes are in {path}")
                break
            count += 1
        print(f"{name}: {count} inputs, the slowest {slowest * 1000:.0f} ms")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
