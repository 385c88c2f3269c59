"""One table of exit codes, and every command's help shows its own."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from rail402.cli.app import app
from rail402.cli.exit_codes import ExitCode, table


def test_every_code_has_its_row() -> None:
    rows = table().splitlines()[2:]
    assert [int(row.split()[0]) for row in rows] == [0, 1, 2, 3, 4, 5, 6, 7] == list(ExitCode)


@pytest.mark.parametrize(("command", "codes"), [("inspect", "012345"), ("decode", "012")])
def test_help_shows_them_a_line_each(command: str, codes: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    after = shown.partition("Exit codes:")[2].splitlines()[1:]
    assert "".join(line.strip()[0] for line in after[: len(codes)]) == codes
    assert "--json" in shown
