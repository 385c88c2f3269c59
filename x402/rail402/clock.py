"""The two sources that pure code must not reach for: the clock and randomness.

They are arguments everywhere. This module is the only one that reads the machine's own.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

__all__ = ["Clock", "RandomBytes", "system_clock", "system_random"]

Clock = Callable[[], int]
"""Returns the time in whole Unix seconds."""

RandomBytes = Callable[[int], bytes]
"""Returns that many unpredictable bytes."""


def system_clock() -> int:
    """Return the machine's time in Unix seconds."""
    return int(time.time())


def system_random(size: int) -> bytes:
    """Return `size` bytes from the operating system's generator."""
    return secrets.token_bytes(size)
