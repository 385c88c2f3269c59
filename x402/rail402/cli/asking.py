"""Asking whoever sits at the terminal. Standard output is left to what the command prints."""

from __future__ import annotations

import sys

import typer

__all__ = ["confirm", "is_confirmed"]


def is_confirmed(question: str) -> bool:
    """Ask; anything but a yes is a no, and so is the end of the input.

    Not `typer.confirm`: even where that asks on standard error, it writes a blank to standard output, ahead of a body.
    """
    typer.echo(f"{question} [y/N]: ", nl=False, err=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def confirm(question: str) -> None:
    """Ask, and end the command unless the answer is a yes."""
    if not is_confirmed(question):
        raise typer.Abort
