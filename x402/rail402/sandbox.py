"""Where the sandboxes keep their play money: one directory that publisher and agent share on a machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from rail402.errors import ConfigurationError

__all__ = ["PLAY_MONEY", "find_sandbox", "sandbox_directory"]

PLAY_MONEY: Final = (
    "play money is in .rail402 of the folder that a program runs in: run server and agent in one folder, or set "
    "RAIL402_SANDBOX for both"
)
"""What to say where two programs may not share one sandbox."""


def find_sandbox(directory: str | Path | None = None) -> Path:
    """Return where the sandbox is, or would be; see `sandbox_directory`."""
    return Path(directory or os.environ.get("RAIL402_SANDBOX") or ".rail402")


def sandbox_directory(directory: str | Path | None = None) -> Path:
    """Return the sandbox directory, made with mode 700 if it is not there.

    Args:
        directory: where; by default `$RAIL402_SANDBOX`, else `.rail402` in the working directory.

    Raises:
        ConfigurationError: it cannot be made.
    """
    path = find_sandbox(directory)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the sandbox directory {path} cannot be made: {error.strerror}") from error
    return path
