"""The exit codes of every command, in one table."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import typer

__all__ = ["MEANINGS", "ExitCode", "failed"]


class ExitCode(IntEnum):
    """What a command says when it ends."""

    DONE = 0
    FAILED = 1
    WRONG_USAGE = 2
    NOT_402 = 3
    ADMINISTRATIVE = 4
    NOT_PAYABLE = 5
    STILL_OPEN = 6
    OVER_BUDGET = 7


MEANINGS: Final = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "it did not go as it should; standard error says why",
    ExitCode.WRONG_USAGE: "wrong usage",
    ExitCode.NOT_402: "the answer is not a 402",
    ExitCode.ADMINISTRATIVE: "a 402 without payment terms: a bill, which no payment settles",
    ExitCode.NOT_PAYABLE: "a 402 with terms, none of which can be paid from here",
    ExitCode.STILL_OPEN: "what became of some money is not known yet; run it again",
    ExitCode.OVER_BUDGET: "the budget does not allow it; nothing was paid",
}
"""What each of them means in general, a line each."""


def failed(why: str) -> typer.Exit:
    """Say why it does not work, and return what ends the command."""
    typer.echo(f"rail402: {why}", err=True)
    return typer.Exit(ExitCode.FAILED)
