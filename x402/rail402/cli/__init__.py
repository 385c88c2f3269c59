"""The command line: `rail402`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; without the extra `cli`, say how to get it."""
    try:
        from rail402.cli.app import run
    except ImportError as error:
        if (error.name or "rail402").startswith("rail402"):
            raise
        sys.stderr.write(f"rail402 needs {error.name}; install the command line: pip install 'rail402[all]'\n")
        raise SystemExit(2) from error
    run()
