"""Every exit code has its meaning."""

from __future__ import annotations

from rail402.cli.exit_codes import MEANINGS, ExitCode


def test_every_code_has_its_meaning() -> None:
    assert [int(code) for code in MEANINGS] == [0, 1, 2, 3, 4, 5, 6, 7] == list(ExitCode)
