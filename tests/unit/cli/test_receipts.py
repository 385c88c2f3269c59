"""`rail402 receipts`: ids are never cut, and a purchase may be named by how its id begins."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from rail402.cli import receipts as receipts_module
from rail402.cli.app import app
from rail402.client.journal import Journal
from tests.unit.client.purchases import OFFER, ORDER, record, reserve

SATS = OFFER.model_copy(update={"amount": 4_994_995, "currency": "BTC", "exponent": 11})
NUMBERS = (1, 10, 19)  # rec_00…01, rec_00…10, rec_00…19


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    wallets = tmp_path / "wallets.toml"
    wallets.write_text('[[wallets]]\nname = "base"\nbackend = "sandbox"\n')

    async def fill() -> None:
        journal = Journal(f"sqlite:///{tmp_path}/wallet.db")
        await journal.start()
        for number in NUMBERS:
            await reserve(journal, record(number, offer=SATS, cost="0.01 USD", lease_until=0))
        await journal.close()

    asyncio.run(fill())
    return lambda *arguments: CliRunner().invoke(app, ["receipts", *arguments, "--wallets", str(wallets)])


@pytest.mark.parametrize("width", [40, 80, 100, 129, 130, 140])
def test_an_id_and_a_url_are_never_cut_at_a_narrow_terminal(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    file = io.StringIO()
    monkeypatch.setattr(receipts_module, "new_console", lambda: Console(width=width, file=file))
    assert run("list").exit_code == 0
    lines = file.getvalue().splitlines()
    for number in NUMBERS:
        (row,) = (line for line in lines if f"rec_{number:026d}" in line.split())
        assert "4994.995 sat" in row
        below = lines[lines.index(row) + 1]
        if width < 130:
            assert re.fullmatch(rf"  rail: fake · receipt: .* · GET {ORDER.url}", below)
        else:
            assert f"GET {ORDER.url}" in row
    assert width < 80 or max(map(len, lines)) <= width


def test_a_purchase_is_named_by_how_its_id_begins(run: Callable[..., Result]) -> None:
    shown = run("show", f"rec_{'0' * 25}", "--json")
    assert (shown.exit_code, json.loads(shown.stdout)["record"]) == (0, f"rec_{1:026d}")
    several = run("show", f"rec_{'0' * 24}1")
    assert (several.exit_code, several.stdout) == (1, "")
    both = f"rec_{19:026d}, rec_{10:026d}"
    assert several.stderr == f"rail402: several purchases begin with rec_{'0' * 24}1: {both}\n"


def test_a_purchase_is_written_off_by_how_its_id_begins(run: Callable[..., Result]) -> None:
    assert run("write-off", f"rec_{'0' * 24}1", "--yes").exit_code == 1, "several begin so"
    done = run("write-off", f"rec_{'0' * 25}", "--yes")
    assert (done.exit_code, done.stdout) == (0, f"rec_{1:026d}  written off: 0.01 USD count as spent\n")
    again = run("write-off", f"rec_{1:026d}", "--yes")
    assert again.stderr == f"rail402: there is no open purchase rec_{1:026d} that nobody works on\n"
    assert again.exit_code == 1


@pytest.mark.parametrize("named", ["rec_nope", "rec_", "", "r", "0", "rec_%", "rec_0_"])
def test_what_is_no_purchase_is_said_plainly(run: Callable[..., Result], named: str) -> None:
    shown = run("show", named)
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert shown.stderr == f"rail402: there is no purchase {named}; see `rail402 receipts list`\n"


def test_where_nothing_was_bought_the_configuration_is_not_blamed(tmp_path: Path) -> None:
    (tmp_path / "wallets.toml").write_text('[[wallets]]\nname = "base"\nbackend = "sandbox"\n')
    shown = CliRunner().invoke(app, ["receipts", "list", "--wallets", str(tmp_path / "wallets.toml")])
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert shown.stderr == f"rail402: there is no journal {tmp_path}/wallet.db: nothing was bought yet\n"


def test_people_read_sat_and_programs_what_they_did(run: Callable[..., Result]) -> None:
    assert "4994.995 sat" in run("show", f"rec_{1:026d}").stdout
    assert json.loads(run("show", f"rec_{1:026d}", "--json").stdout)["price"] == "4994995 msat"
    assert "4994995 msat" not in run("list").stdout
    assert json.loads(run("list", "--json").stdout)["purchases"][0]["price"] == "4994995 msat"
