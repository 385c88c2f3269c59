"""A question is asked on standard error, and only a yes is one."""

from __future__ import annotations

import io

import pytest
import typer

from rail402.cli.asking import confirm, is_confirmed


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        *((text, True) for text in ("y\n", "Y\n", "yes\n", " YES \n", "y")),
        *((text, False) for text in ("", "\n", "n\n", "no\n", "yep\n", "ye\ns\n")),
    ],
)
def test_only_a_yes_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, answer: bool
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert is_confirmed("buy it?") is answer
    assert capsys.readouterr() == ("", "buy it? [y/N]: ")


def test_without_a_yes_the_command_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\nn\n"))
    confirm("buy it?")
    with pytest.raises(typer.Abort):
        confirm("and that?")
