"""One input for one target, and what counts as broken."""

from __future__ import annotations

import time
from random import Random
from typing import Final

from rail402.errors import Rail402Error
from tests.fuzz.mutation import mutated
from tests.fuzz.targets import Target

__all__ = ["MAX_SECONDS", "Broken", "check", "run_once"]

MAX_SECONDS: Final = 1.0
"""Seconds of processor time that no input may take. The slowest takes milliseconds."""


class Broken(Exception):
    """A target raised what it may not, or took too long."""

    def __init__(self, data: bytes, what: str) -> None:
        super().__init__(what)
        self.data = data


def run_once(target: Target, random: Random) -> float:
    """Try one changed seed; return the seconds it took. Raises: Broken."""
    return check(target, mutated(random, target.seeds))


def check(target: Target, data: bytes) -> float:
    """Try these bytes; return the seconds they took. Raises: Broken."""
    started = time.process_time()
    try:
        target.run(data)
    except Rail402Error:
        pass
    except Exception as error:
        raise Broken(data, f"{type(error).__name__}: {error}") from error
    seconds = time.process_time() - started
    if seconds > MAX_SECONDS:
        raise Broken(data, f"it took {seconds:.1f} s")
    return seconds
