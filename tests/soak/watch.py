"""What the processes of a server hold and use, read off the kernel: memory, open files, sockets, processor time."""

from __future__ import annotations

import asyncio
import os
import time
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
    """What one process of a server has: bytes of memory, open files, sockets among them, and the seconds of processor
    time that it has used."""

    memory: int
    files: int
    sockets: int
    processor: float


class Watch:
    """Looks at a server every `every` seconds.

    Attributes:
        samples: when it was looked at, in seconds since the start, and what each process had then.
    """

    def __init__(self, process: Process, *, every: float) -> None:
        self._process, self._every = process, every
        self.samples: list[tuple[float, dict[int, Sample]]] = []
        self._paces: list[tuple[float, float]] = []

    async def run(self) -> None:
        """Look until cancelled."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        while True:
            await asyncio.sleep(self._every)
            found = {member: sample for member in self._process.members() if (sample := _look(member))}
            self.samples.append((loop.time() - started, found))
            self._paces.append((loop.time() - started, _pace()))

    def growth(self) -> dict[str, tuple[float, float]]:
        """Return the medians of each quantity soon after warming up, and at the end.

        They are those of the processes that lived all the time, together.
        """
        end, last = self.samples[-1]
        lasting = [found for seconds, found in self.samples if seconds >= end * _WARM_UP]
        alive = [member for member in last if all(member in found for found in lasting)]
        third = max(1, len(lasting) // 3)

        def middle(name: str, some: list[dict[int, Sample]]) -> float:
            return median(sum(getattr(found[member], name) for member in alive) for found in some)

        names = ("memory", "files", "sockets")
        return {name: (middle(name, lasting[:third]), middle(name, lasting[-third:])) for name in names}

    def processor(self, since: float, until: float) -> float:
        """Return the seconds of processor time that were used between two moments of the run."""
        used, before = 0.0, dict[int, Sample]()
        for seconds, found in self.samples:
            if since < seconds <= until:
                spent = (sample.processor - getattr(before.get(each), "processor", 0) for each, sample in found.items())
                used += sum(spent)
            before = found
        return used

    def pace(self, since: float, until: float) -> float:
        """Return the milliseconds of processor time that the same work took between two moments of the run."""
        return median([pace for seconds, pace in self._paces if since < seconds <= until] or [1.0])


def _pace() -> float:
    begun = time.process_time()
    sum(number * number for number in range(50_000))
    return (time.process_time() - begun) * 1000


def _look(member: int) -> Sample | None:
    """Return what a process has; None where it has ended."""
    process = Path(f"/proc/{member}")
    try:
        memory = int((process / "statm").read_text().split()[1]) * _PAGE
        # After the name, which may hold spaces: the times in user and in kernel mode are the fields 14 and 15.
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        files = list((process / "fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return None
    sockets = 0
    for entry in files:
        with suppress(FileNotFoundError):
            sockets += os.readlink(entry).startswith("socket:")
    return Sample(memory, len(files), sockets, (int(fields[11]) + int(fields[12])) / _TICKS)
