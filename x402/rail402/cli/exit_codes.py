"""The exit codes of every command, in one table."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ExitCode", "table"]


class ExitCode(IntEnum):
    """What a command says when it ends."""

    DONE = 0
    FAILED = 1
    WRONG_USAGE = 2
    NOT_402 = 3
    ADMINISTRATIVE = 4
    NOT_PAYABLE = 5


_MEANINGS = {
    ExitCode.DONE: "done (inspect: at least one offer can be paid; decode: it was read)",
    ExitCode.FAILED: "it did not go as it should (inspect: no answer; decode: cannot be read or does not verify)",
    ExitCode.WRONG_USAGE: "wrong usage",
    ExitCode.NOT_402: "inspect: the answer is not a 402",
    ExitCode.ADMINISTRATIVE: "inspect: a 402 without payment terms, a billing matter that no payment settles",
    ExitCode.NOT_PAYABLE: "inspect: a 402 with terms, none of which can be paid with the rails installed here",
}


def table(*codes: ExitCode) -> str:
    """Return the rows of these codes, as a command's help shows them; all of them where none is named."""
    rows = [f"{code.value}  {_MEANINGS[code]}" for code in codes or ExitCode]
    return "\b\nExit codes:\n" + "\n".join(rows)
