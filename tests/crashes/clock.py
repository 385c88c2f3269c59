"""One time for all processes of a run, which only waiting moves on: nothing here waits for real hours."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

__all__ = ["SharedClock"]


class SharedClock:
    """Unix seconds in a file; called, it returns them.

    Args:
        path: the file; made at `start` where that is given.
    """

    def __init__(self, path: Path, start: int | None = None) -> None:
        if start is not None:
            path.write_bytes(struct.pack("<q", start))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8)

    def __call__(self) -> int:
        return int(struct.unpack("<q", self._map[:8])[0])

    def advance(self, seconds: int) -> None:
        """Let time pass."""
        self._map[:8] = struct.pack("<q", self() + seconds)
