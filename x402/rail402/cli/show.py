"""Showing what strangers wrote: as text that cannot command a terminal, or as JSON."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

import typer
from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

__all__ = ["AsJson", "clean", "in_sat", "new_console", "print_json", "relative", "show_facts", "show_rows", "visible"]

AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of text.")]
"""The option of every command that says something; what is said with it goes through `print_json`."""

MAX_VALUE: Final = 600
"""Characters of one value that are shown."""

_MAX_ROWS: Final = 200
_WIDTH: Final = 140  # where it is not a terminal that is written to
_WIDE: Final = 130  # from here on a list has a column for each value
_MAX_SECONDS: Final = 10**12

# Escape sequences: CSI; those that run up to an end mark, such as OSC; any other one. Nothing backtracks.
_ESCAPES = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]*+[ -/]*+[@-~]?"
    "|(?:\x1b[\\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*+(?:\x07|\x9c|\x1b\\\\)?"
    "|\x1b."
)
_MSAT = re.compile(r"(?<![\w.])([0-9]{1,30}) msat\b", re.ASCII)


def in_sat(text: object) -> str:
    """Return what we say, with its amounts in msat as people say them: `4994.995 sat`. JSON has them as they are."""

    def said(found: re.Match[str]) -> str:
        whole, rest = divmod(int(found[1]), 1000)
        return f"{whole}.{rest:03d}".rstrip("0").rstrip(".") + " sat"

    return _MSAT.sub(said, str(text))


def clean(text: str, limit: int = MAX_VALUE) -> str:
    """Return a stranger's text with nothing in it that a terminal acts on or hides, cut to `limit` characters."""
    head = _ESCAPES.sub("", text[: 4 * limit])
    head = "".join(char if char.isprintable() else " " if char.isspace() else "" for char in head)
    if len(head) > limit:
        return f"{head[: limit - 12]}…{head[-8:]}"
    return head if len(text) <= 4 * limit else f"{head}…"


def visible(text: str) -> str:
    """Return a stranger's text whole, with whatever a terminal would act on or hide as an escape such as `\\x1b`; line
    ends and tabs stay."""
    return "".join(char if _is_shown(char) else ascii(char)[1:-1] for char in text.replace("\r\n", "\n"))


def _is_shown(char: str) -> bool:
    return char.isprintable() or char in "\n\t" or unicodedata.category(char) == "Zs"


def relative(seconds: int) -> str:
    """Return a distance in time for people: `in 4 min 10 s`, `2 h 5 min ago`."""
    if abs(seconds) >= _MAX_SECONDS:
        return "never" if seconds > 0 else "never was"
    rest, parts = abs(seconds), []
    for name, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {name}")
    text = " ".join(parts[:2])
    return "now" if not text else f"in {text}" if seconds > 0 else f"{text} ago"


def new_console(*, stderr: bool = False) -> Console:
    """Return a console that interprets nothing, on standard output or on standard error."""
    console = Console(highlight=False, markup=False, emoji=False, stderr=stderr)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    return console


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on a line of its own. Everything outside printable ASCII is escaped in it."""
    typer.echo(json.dumps(value, separators=(",", ":")))


def show_facts(console: Console, title: str, facts: Mapping[str, Any], *, now: int, style: str = "cyan") -> None:
    """Print facts under a title, a line each. Values without meaning (None, empty) are left out.

    Args:
        now: Unix seconds, for the names that end in `_at`.
        style: the frame's color; not from a stranger.
    """
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True, overflow="ellipsis", max_width=64)
    grid.add_column(overflow="fold")
    for count, (name, value) in enumerate(_rows(facts, now)):
        if count == _MAX_ROWS:
            grid.add_row("…", "there is more; --json has all of it")
            break
        grid.add_row(Text(clean(name, 80)), Text(clean(value)))
    console.print(Panel(grid, title=Text(clean(title, 100)), title_align="left", box=box.ROUNDED, border_style=style))


def show_rows(console: Console, names: Sequence[str], rows: Sequence[Sequence[Text]], *, below: int) -> None:
    """Print a list, a row each: its first column are ids, which are never cut, and its last one is the longest.

    Args:
        names: of the columns.
        below: how many of the last columns stand on a line of their own where the console is narrow.
    """
    if console.width >= _WIDE:
        table = Table(box=box.SIMPLE_HEAD)
        for index, name in enumerate(names):
            longest = max(cell_len(row[0].plain) for row in rows) if index == 0 else None
            table.add_column(name, min_width=longest, no_wrap=name != names[-1], overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        return
    head = len(names) - below
    sizes = [max(cell_len(row[index].plain) for row in rows) for index in range(head)]
    for row in rows:
        cells = [Text(set_cell_size(cell.plain, size), cell.style) for cell, size in zip(row, sizes, strict=False)]
        line = Text("  ").join(cells)
        line.rstrip()
        rest = [f"{name}: {cell}" for name, cell in zip(names[head:-1], row[head:], strict=False)]
        console.print(line, soft_wrap=True)
        console.print(Text("  " + " · ".join([*rest, row[-1].plain])), soft_wrap=True)


def _rows(value: Mapping[str, Any], now: int, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, item in value.items():
        yield from _row(f"{prefix}{name}", item, now)


def _row(name: str, item: Any, now: int) -> Iterator[tuple[str, str]]:
    label = name.replace("_", " ")
    if item is None or item in ("", [], {}) or name.endswith("_in_seconds"):  # that one is there with its `_at`
        return
    if isinstance(item, Mapping):
        yield from _rows(item, now, f"{name} · ")
    elif isinstance(item, Sequence) and not isinstance(item, str):
        if all(isinstance(each, (str, int)) for each in item):
            yield label, ", ".join(str(each) for each in item[:64])
        else:
            for index, each in enumerate(item):
                yield from _row(f"{name.removesuffix('s')} {index + 1}", each, now)
    elif name.endswith("_at") and type(item) is int:
        yield label, f"{relative(item - now)} ({item})"
    else:
        yield label, item if isinstance(item, str) else json.dumps(item)
