"""What the processes of a server hold and use, read off the kernel: memory, open files, sockets, processor time."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from tests.services.processes import Process

__all__ = ["Sample", "Watch"]

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_WARM_UP: Final = 0.3
"""The part of a run after which a worker has imported, compiled and cached what it ever will."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What all processes of a server have together: bytes of memory, open files, sockets among them, and the seconds
    of processor time that they have used."""

    seconds: float
    memory: int
    files: int
    sockets: int
    processor: float


class Watch:
    """Looks at a server every `every` seconds."""

    def __init__(self, process: Process, *, every: float) -> None:
        self._process, self._every = process, every
        self.samples: list[Sample] = []

    async def run(self) -> None:
        """Look until cancelled."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        while True:
            await asyncio.sleep(self._every)
            self.samples.append(_look(self._process.members(), loop.time() - started))

    def growth(self) -> dict[str, tuple[float, float]]:
        """Return the medians of each quantity soon after warming up, and at the end."""
        lasting = [sample for sample in self.samples if sample.seconds >= self.samples[-1].seconds * _WARM_UP]
        third = max(1, len(lasting) // 3)
        first, last = lasting[:third], lasting[-third:]
        return {
            name: (median(getattr(each, name) for each in first), median(getattr(each, name) for each in last))
            for name in ("memory", "files", "sockets")
        }

    def processor(self, since: float, until: float) -> float:
        """Return the seconds of processor time that were used between two moments of the run."""
        used = [max((s.processor for s in self.samples if s.seconds <= at), default=0.0) for at in (since, until)]
        return used[1] - used[0]


def _look(members: list[int], seconds: float) -> Sample:
    memory = files = sockets = ticks = 0
    for member in members:
        with suppress(FileNotFoundError, ProcessLookupError):
            memory += int(Path(f"/proc/{member}/statm").read_text().split()[1]) * _PAGE
            # After the name, which may hold spaces: the times in user and in kernel mode are the fields 14 and 15.
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
            for entry in Path(f"/proc/{member}/fd").iterdir():
                files += 1
                with suppress(FileNotFoundError):
                    sockets += os.readlink(entry).startswith("socket:")
    return Sample(seconds, memory, files, sockets, ticks / _TICKS)
