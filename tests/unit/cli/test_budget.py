"""What strangers named themselves reaches the terminal as text, in `rail402 budget` too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rail402.cli.app import app
from rail402.client.journal import Journal
from rail402.client.limits import Spent
from rail402.client.pins import PinnedPayee, PinnedPrice
from rail402.money import Money

HOSTILE = "\x1b]0;owned\x07payee\x1b[2J"
ONE = Spent(Money.parse("1 USD"), Money.parse("0 USD"))

WALLETS = '[[budget.rules]]\npayee = "*"\nper_hour = "2 USD"\n\n[[wallets]]\nname = "base"\nbackend = "sandbox"\n'


async def spent(*_: Any, **__: Any) -> Any:
    return {f"payee {HOSTILE}": {"hour": {"USD": ONE}}}


async def pinned(*_: Any, **__: Any) -> Any:
    payee = PinnedPayee("a.test", "base", HOSTILE, HOSTILE, 0)
    return [payee], [PinnedPrice("a.test", "GET", HOSTILE, Money.parse("1 USD"), 0)]


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("show", "payee payee: 1 USD used per hour"),
        ("pins", "a.test  paid at payee on payee\na.test  GET payee did cost 1 USD"),
    ],
)
def test_no_payee_commands_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, shown: str
) -> None:
    (tmp_path / "wallets.toml").write_text(WALLETS)
    options = ["--wallets", str(tmp_path / "wallets.toml")]
    runner = CliRunner()
    assert runner.invoke(app, ["budget", "pause", *options]).exit_code == 0  # which makes the journal
    monkeypatch.setattr(Journal, "spent_by_scope", spent)
    monkeypatch.setattr(Journal, "pins", pinned)
    said = runner.invoke(app, ["budget", command, *options])
    assert said.exit_code == 0, said.exception
    assert shown in said.output
    assert "\x1b" not in said.output
