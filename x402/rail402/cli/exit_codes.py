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
    STILL_OPEN = 6
    OVER_BUDGET = 7


_MEANINGS = {
    ExitCode.DONE: "done (inspect: at least one offer can be paid; decode: it was read)",
    ExitCode.FAILED: "it did not go as it should (no answer, or an error; decode: cannot be read or does not verify)",
    ExitCode.WRONG_USAGE: "wrong usage",
    ExitCode.NOT_402: "inspect: the answer is not a 402",
    ExitCode.ADMINISTRATIVE: "a 402 without payment terms, a billing matter that no payment settles",
    ExitCode.NOT_PAYABLE: "a 402 with terms, none of which can be paid with the rails (get: the wallets) here",
    ExitCode.STILL_OPEN: "it is not known yet what became of some money (charges: reconcile; get: run it again)",
    ExitCode.OVER_BUDGET: "get: the limits, lists or pins of the budget do not allow it; nothing was paid",
}


def table(*codes: ExitCode) -> str:
    """Return the rows of these codes, as a command's help shows them; all of them where none is named."""
    rows = [f"{code.value}  {_MEANINGS[code]}" for code in codes or ExitCode]
    return "\b\nExit codes:\n" + "\n".join(rows)
