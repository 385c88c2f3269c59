"""Where the body of an answer goes: to a file or a pipe as it is, to a terminal as text that cannot command it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rail402.cli.show import visible

__all__ = ["Output", "Raw", "check_output", "write_body"]

Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write the body to this file.")]
Raw = Annotated[bool, typer.Option("--raw", help="Do not escape control characters in the body at a terminal.")]


def check_output(path: Path | None) -> None:
    """Make sure that a file can be written, before anything is paid for; what is in it stays.

    Raises:
        typer.BadParameter: it cannot be.
    """
    if path is None:
        return
    try:
        try:
            path.open("xb").close()
        except FileExistsError:
            path.open("ab").close()
        else:
            path.unlink()
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be written: {error.strerror}", param_hint="--output") from error


def write_body(content: bytes, path: Path | None, *, raw: bool) -> None:
    """Write the body of an answer.

    Args:
        path: where it goes as it is; standard output if None.
        raw: write it as it is to a terminal too.

    Raises:
        OSError: it cannot be written.
    """
    if path is not None:
        path.write_bytes(content)
    elif raw or not sys.stdout.isatty():
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
    else:
        _show(content)


def _show(content: bytes) -> None:
    try:
        text = visible(content.decode())
    except UnicodeDecodeError:
        typer.echo(f"{len(content)} bytes that are no UTF-8 are not shown: use --output FILE or --raw", err=True)
        return
    typer.echo(text, nl=bool(text) and not text.endswith("\n"))
