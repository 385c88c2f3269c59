"""Every command that has `--json` prints one line of JSON with it, and nothing else, on standard output."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from fastapi import FastAPI, HTTPException
from typer.testing import CliRunner

from rail402.cli.app import app as program
from rail402.server.toml import gate_from_toml
from tests.acceptance.test_pay_cli import RAIL402
from tests.interop.bank import listening, served

SERVER = """[server]
public_url = "{url}"
store = "sqlite:///charges.db"

[[rails]]
name = "stripe"
backend = "sandbox"

[[routes]]
match = "GET /{{name}}"
price = "0.60 USD"

[proxy]
to = "{url}"
"""
PAYMENT_URI = f"ethereum:0x{'83' * 20}@8453/transfer?address=0x{'5e' * 20}&uint256=1"
WALLETS = ("--wallets", "sandbox")


@pytest.fixture
async def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """A shop whose file and store are where commands are typed."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAIL402_WALLETS", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAIL402_SANDBOX", str(tmp_path / "play"))
    monkeypatch.chdir(tmp_path)
    with listening() as (found, url):
        tmp_path.joinpath("rail402.toml").write_text(SERVER.format(url=url))
        gate = gate_from_toml("rail402.toml")
        app = FastAPI()
        gate.install(app)

        @app.get("/{name}")
        async def goods(name: str) -> str:
            if name == "none":
                raise HTTPException(404)
            return f"one line\nand {name}"

        async with served(app, found):
            yield url


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Return the words of every command that has `--json`."""
    if any("--json" in each.opts for each in command.params):
        yield words
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, (*words, name))


def a_day(url: str, record: str, charge: str, unsolved: str) -> Sequence[tuple[int, tuple[str, ...]]]:
    """Return what is typed after two purchases, with the exit codes: every command that ends by itself but for `get`.

    Args:
        record: one that was paid; charge: the seller's side of it. unsolved: one that is open.
    """
    return (
        (0, ("init",)),
        (0, ("keygen",)),
        (0, ("sandbox",)),
        (0, ("demo",)),
        (0, ("decode", PAYMENT_URI)),
        (1, ("decode", "no such thing\nat all")),
        (0, ("inspect", f"{url}/book")),
        (1, ("inspect", "http://127.0.0.1:9/")),
        (0, ("doctor", *WALLETS)),
        (1, ("post", f"{url}/book", "--data", "", *WALLETS)),
        (0, ("receipts", "list", *WALLETS)),
        (0, ("receipts", "show", record, *WALLETS)),
        (0, ("receipts", "verify", *WALLETS)),
        (0, ("receipts", "refunds", record, *WALLETS)),
        (6, ("receipts", "recover", *WALLETS)),
        (0, ("receipts", "write-off", unsolved, "--yes", *WALLETS)),
        (0, ("budget", "show", *WALLETS)),
        (0, ("budget", "pins", *WALLETS)),
        (0, ("budget", "unpin", "127.0.0.1", "--yes", *WALLETS)),
        (1, ("budget", "unpin", "127.0.0.1", "--yes", *WALLETS)),
        (0, ("budget", "pause", *WALLETS)),
        (0, ("budget", "resume", "--yes", *WALLETS)),
        (0, ("budget", "confirm", *WALLETS)),
        (0, ("charges", "list")),
        (0, ("charges", "show", charge)),
        (0, ("charges", "refund", charge, "--yes")),
        (0, ("charges", "reconcile")),
    )


SERVING = (("proxy", "--port=0"), ("facilitator", "--sandbox", "--port=0"))


async def says(*words: str, answer: str = "") -> tuple[int, Any]:
    """Run a command with `--json`, in a thread; return its exit code and what it said, which is one line.

    Args:
        answer: what is typed where it asks.
    """
    done = await asyncio.to_thread(CliRunner().invoke, program, [*words, "--json"], input=answer)
    assert done.exception is None or isinstance(done.exception, SystemExit), (words, done.exception)
    assert (done.stdout.count("\n"), done.stdout[-1:]) == (1, "\n"), (words, done.stdout, done.stderr)
    assert done.stdout.isascii()
    return done.exit_code, json.loads(done.stdout)


async def test_every_command_says_one_line(url: str) -> None:
    code, bought = await says("get", f"{url}/book", *WALLETS)
    assert (code, bought["body"]) == (0, json.dumps("one line\nand book"))
    code, failed = await says("get", f"{url}/none", *WALLETS)
    assert (code, failed["purchase"]["outcome"]) == (6, "unknown")
    _, listed = await says("charges", "list")
    (charge,) = [each["charge"] for each in listed["charges"] if each["url"].endswith("book")]
    day = a_day(url, bought["purchase"]["record_id"], charge, failed["purchase"]["record_id"])
    for code, words in day:
        assert (await says(*words))[0] == code, words
    typed = [("get",), *(words for _, words in day), *SERVING]
    found = commands(typer.main.get_command(program))
    assert [each for each in found if not any(words[: len(each)] == each for words in typed)] == []


async def test_questions_are_asked_beside_it(url: str, tmp_path: Path) -> None:
    await says("get", f"{url}/book", *WALLETS)
    _, failed = await says("get", f"{url}/none", *WALLETS)
    record = failed["purchase"]["record_id"]
    assert await says("budget", "resume", *WALLETS, answer="y\n") == (0, {"paused_since": None})
    forgotten = {"host": "127.0.0.1", "forgotten": 3}
    assert await says("budget", "unpin", "127.0.0.1", *WALLETS, answer="y\n") == (0, forgotten)
    assert (await says("receipts", "write-off", record, *WALLETS, answer="y\n"))[0] == 0
    file = tmp_path / "wallets.toml"
    for limit, looser in (("1 USD", []), ("3 USD", ["per request it was 1 USD, and is 3 USD"])):
        file.write_text(f'[budget]\nper_request = "{limit}"\n\n[[wallets]]\nname = "base"\nbackend = "sandbox"\n')
        said = await says("budget", "confirm", "--wallets", str(file), answer="y\n")
        assert said == (0, {"confirmed": looser})


@pytest.mark.parametrize("words", SERVING, ids=lambda words: words[0])
async def test_what_serves_says_one_line_and_logs_lines(url: str, words: tuple[str, ...]) -> None:
    process = await asyncio.create_subprocess_exec(
        *RAIL402, *words, "--json", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        first = await process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        rest, logged = await process.communicate()
    assert json.loads(first)["url"].startswith("http://127.0.0.1:")
    assert (process.returncode, rest) == (0, b"")
    assert all(json.loads(each)["message"] for each in logged.splitlines())
