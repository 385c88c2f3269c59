"""Every command's help is a page of a manual: what it does, its options, examples that it takes, and its exit codes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from rail402.cli.app import app
from rail402.cli.exit_codes import ExitCode
from rail402.cli.manual import MANUALS

PROGRAM: Any = typer.main.get_command(app)


def commands(command: Any, words: str = "") -> Iterator[tuple[str, Any]]:
    yield words, command
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, f"{words} {name}".strip())


ALL = dict(commands(PROGRAM))


def help_of(words: str) -> str:
    shown = CliRunner().invoke(
        app, [*words.split(), "--help"], env={"COLUMNS": "80", "TERM": "dumb"}, prog_name="rail402"
    )
    assert shown.exit_code == 0
    return shown.output


def section(page: str, title: str) -> list[str]:
    """The lines of a section, without their indent."""
    _, found, after = page.partition(f"\n  {title}:\n")
    assert found, f"no {title}"
    return [line.strip() for line in after.partition("\n\n")[0].splitlines()]


def test_there_are_commands() -> None:
    assert {"", "get", "post", "budget", "budget show", "charges refund", "receipts verify"} <= ALL.keys()


def test_the_manual_is_of_the_commands_there_are() -> None:
    assert MANUALS.keys() == ALL.keys()


@pytest.mark.parametrize("words", ALL)
def test_a_page_has_all_its_parts_and_fits_80_columns(words: str) -> None:
    page = help_of(words)
    assert [line for line in page.splitlines() if len(line) > 80] == []
    assert page.startswith(f"Usage: {' '.join(['rail402', *words.split()])} ")
    description = page.split("\n\n")[1].strip()
    assert description.endswith((".", ":"))
    assert section(page, "Examples")
    codes = [row.split("  ")[0] for row in section(page, "Exit codes")]
    assert codes[:3] == ["0", "1", "2"]
    assert codes == sorted(codes)
    assert set(codes) <= {str(int(code)) for code in ExitCode}
    assert "..." not in page.partition("Commands:")[2].partition("\n\n")[0], "a summary is cut"


def examples() -> Iterator[tuple[str, list[str]]]:
    """Every example of a command of ours, and the words behind `rail402`."""
    for words, manual in MANUALS.items():
        for line in "\n".join(manual.examples).replace("\\\n", " ").splitlines():
            command = re.sub(r" > \S+$|  +[a-z].*$", "", line.rpartition("| ")[2].rpartition("-- ")[2])
            program, *arguments = shlex.split(command)
            assert program == "rail402", line
            yield words, arguments


@pytest.mark.parametrize(
    ("words", "arguments"), list(examples()), ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_an_example_is_one(words: str, arguments: list[str]) -> None:
    command, context, rest = PROGRAM, None, arguments
    while hasattr(command, "commands"):
        context, (name, *rest) = command.make_context("rail402", [rest[0]], parent=context), rest
        command = command.commands[name]
    if rest != ["--help"]:
        command.make_context(name, rest, parent=context)
    assert words in ("", " ".join(arguments)[: len(words)]) or words == "receipts recover"
