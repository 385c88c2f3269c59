"""Writes `docs/session.md`: what an agent's owner sees, typed and recorded against a shop of all rails.

    python -m tests.acceptance.session     play it, and write the page

Every line of the page was printed by a process of its own. What differs from run to run (ports, ids, times, keys) is
written the same each time, so that a test can play it again and compare.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from rail402 import FixedRates, Gate
from rail402_base import BaseRail
from rail402_lightning import LightningRail
from rail402_stripe import StripeRail
from tests.interop.bank import listening, served

__all__ = ["PAGE", "play"]

PAGE: Final = Path(__file__).parents[2] / "docs" / "session.md"

_RAIL402: Final = [sys.executable, "-c", "from rail402.cli import main; main()"]
_COLUMNS: Final = "120"
_STRANGER: Final = "0x" + "5e" * 20

# What no two runs have in common, and what stands for it: as long, so that tables stay tables.
_CHANGING: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"(?<=\brec_)[a-z2-7]{26}"), "abcdefghijklmnopqrstuvwxyz"),
    (re.compile(r"(?<=\b0x)[0-9a-fA-F]{64}\b"), "ab"),
    (re.compile(r"(?<=\b0x)[0-9a-fA-F]{40}\b"), "5e11"),
    (re.compile(r"\b1[7-9]\d{8}\b"), "1800000000"),
)

_HEAD: Final = """# A session

What is typed here was typed, and what is printed was printed: `python -m tests.acceptance.session` writes this page,
and a test plays it again and compares. The shop is a gate with Base, Lightning and Stripe on one route, and the money
is the sandbox's. Ports, ids, times and keys are written the same in every run.
"""

_WALLETS: Final = """[client.rates]
"BTC/USD" = "120000"

[budget]
{budget}
{rules}
[[wallets]]
name = "base"
backend = "sandbox"

[[wallets]]
name = "lightning"
backend = "sandbox"

[[wallets]]
name = "stripe"
backend = "sandbox"
"""

# Each kind of limit, the lines of the file that set it, and what is asked for: twice where the first one still fits.
_LIMITS: Final[tuple[tuple[str, str, str, int], ...]] = (
    ("one purchase", 'per_request = "0.50 USD"', "", 1),
    ("an hour", 'per_hour = "1 USD"', "", 2),
    ("a day", 'per_day = "1 USD"', "", 2),
    ("all time", 'total = "1 USD"', "", 2),
    ("one host", "", 'host = "127.0.0.1"\nper_day = "1 USD"', 2),
    ("one payee", "", 'payee = "*"\nper_day = "1 USD"', 2),
    ("one rail", "", 'rail = "base"\ntotal = "1 USD"', 2),
    ("hosts that may not be paid", 'deny_hosts = ["127.0.0.1"]', "", 1),
    ("hosts that may", 'allow_hosts = ["*.example.com"]', "", 1),
    ("payees that may", f'allow_payees = ["{_STRANGER}"]', "", 1),
    ("what is asked first, and nobody is there to ask", 'ask_above = "0.10 USD"', "", 1),
)


@dataclass
class _Session:
    """Somebody at a terminal, and what is written down of it."""

    home: Path
    url: str
    text: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAIL402", "XDG"))}
        return kept | {"HOME": str(self.home), "RAIL402_SANDBOX": str(self.home / "play"), "COLUMNS": _COLUMNS}

    def say(self, text: str) -> None:
        self.text.append(text)

    async def type(self, *arguments: str, shown: bool = True) -> str:
        """Run a command to its end, write it down with all that it printed, and return that."""
        process = await self._begin(*arguments)
        said = await _said(process)
        if shown:
            self._write(arguments, said, process.returncode)
        return said

    async def type_and_kill(self, *arguments: str, when: asyncio.Event) -> None:
        """Begin a command, and kill it when something has happened."""
        process = await self._begin(*arguments)
        waiting, ending = asyncio.create_task(when.wait()), asyncio.create_task(process.wait())
        await asyncio.wait({waiting, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise AssertionError(f"it ended by itself: {await _said(process)}")
        ending.cancel()
        process.send_signal(signal.SIGKILL)
        self._write(arguments, await _said(process) + "Killed", process.returncode)

    async def _begin(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *_RAIL402,
            *arguments,
            cwd=self.home,
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    def _write(self, arguments: tuple[str, ...], said: str, code: int | None) -> None:
        typed = " ".join(f"'{word}'" if " " in word or "?" in word else word for word in arguments)
        ends = "" if code == 0 else f"[exit code {128 - code if code is not None and code < 0 else code}]\n"
        said = "\n".join(line.rstrip() for line in said.strip("\n").split("\n"))
        self.say(f"```console\n$ rail402 {typed}\n{said}\n{ends}```")

    def let_time_pass(self) -> None:
        """End the leases of the journal, as waiting would."""
        with closing(sqlite3.connect(self.home / ".config" / "rail402" / "wallet.db")) as journal, journal:
            journal.execute("UPDATE purchases SET lease_until = 0")

    def wallets(self, budget: str = "", rules: str = "") -> None:
        """Write a `wallets.toml` of these limits, with a journal of its own."""
        folder = self.home / ".config" / "rail402"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for old in folder.glob("wallet.db*"):
            old.unlink()
        table = f"\n[[budget.rules]]\n{rules}\n" if rules else ""
        file = folder / "wallets.toml"
        file.write_text(_WALLETS.format(budget=budget, rules=table))
        file.chmod(0o600)

    def page(self) -> str:
        """Return what was written down, the same for every run."""
        text = "\n\n".join(self.text).replace(self.url, "http://127.0.0.1:8402").replace(str(self.home), "~")
        for changing, standing in _CHANGING:
            text = changing.sub(lambda found, fill=standing: (fill * 99)[: len(found[0])], text)
        return f"{_HEAD}\n{text}\n"


async def _said(process: asyncio.subprocess.Process) -> str:
    """Return what a process printed until its end, as a terminal shows it: the body, and what is said of it below."""
    printed, said = await process.communicate()
    body = printed.decode()
    return body + ("\n" if body and not body.endswith("\n") else "") + said.decode()


@dataclass
class _Shop:
    """What the shop does that a session waits for, or brings about."""

    running: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    price: str = "0.60 USD"

    @asynccontextmanager
    async def open(self, play: Path) -> AsyncIterator[str]:
        """Serve it; yields its URL."""
        with listening() as (found, url):
            rails = [BaseRail.sandbox(play), LightningRail.sandbox(play), StripeRail.sandbox(play)]
            gate = Gate(rails=rails, public_url=url, store="memory://", rates=FixedRates({"BTC/USD": "120000"}))
            app = FastAPI()
            gate.install(app)

            @app.get("/article/{slug}")
            @gate.paid("0.60 USD", description="One article")
            async def article(slug: str) -> dict[str, str]:
                return {"text": f"All about {slug}."}

            @app.get("/slow")
            @gate.paid("21 sat", rails=["lightning"])
            async def slow() -> dict[str, str]:
                self.running.set()
                await self.go_on.wait()
                return {"text": "It took a while."}

            @app.get("/rising")
            @gate.paid(self._price)
            async def rising() -> dict[str, str]:
                return {"text": "Dearer every time."}

            async with served(app, found):
                yield url

    async def _price(self, request: Any) -> str:
        return self.price


async def play(home: Path) -> str:
    """Play the session in an empty folder, and return the page."""
    shop = _Shop()
    async with shop.open(home / "play") as url:
        session = _Session(home, url)
        await _buying(session)
        await _limits(session)
        await _changes(session, shop)
        await _crash(session, shop)
        await _model(session)
        return session.page()


async def _buying(session: _Session) -> None:
    session.say("## Three wallets, one route, all rails")
    article = f"{session.url}/article/402"
    session.wallets()
    await session.type("get", article, "--dry-run")
    await session.type("get", article)
    session.say("Each of the others, by name; the query makes each an order of its own.")
    await _next_second()
    await session.type("get", f"{article}?again=1", "--rail", "lightning")
    await _next_second()
    await session.type("get", f"{article}?again=2", "--rail", "stripe")
    session.say("What it came to:")
    await session.type("receipts", "list")
    await session.type("receipts", "verify")
    await session.type("budget", "show")


async def _next_second() -> None:
    """Wait until a purchase is newer than the last one: what was bought in one second is listed in any order."""
    await asyncio.sleep(1 - time.time() % 1)


async def _limits(session: _Session) -> None:
    session.say("## A refusal by each kind of limit")
    for number, (kind, budget, rules, times) in enumerate(_LIMITS):
        session.wallets(budget, rules)
        table = "[budget]" if budget else "[[budget.rules]]"
        first = "The first purchase fits; the second one:" if times == 2 else "Nothing is bought:"
        session.say(f"### {kind.capitalize()}\n\n```text\n{table}\n{budget or rules}\n```\n\n{first}")
        for turn in range(times):
            url = f"{session.url}/article/{number}?turn={turn}"
            await session.type("get", url, "--rail", "base", shown=turn == times - 1)
    session.say("### One tool")
    session.wallets("", 'tool = "fetch"\nper_day = "1 USD"')
    session.say(
        '```text\n[[budget.rules]]\ntool = "fetch"\nper_day = "1 USD"\n```\n\nThe first purchase fits; the second one:'
    )
    async with _host(session) as call:
        await call("fetch", shown=False, url=f"{session.url}/article/tool?turn=0")
        await call("fetch", url=f"{session.url}/article/tool?turn=1")


async def _changes(session: _Session, shop: _Shop) -> None:
    session.say("### A price that rises, with `price_tolerance = 25`\n\nIt was 0.60 USD at first; now:")
    session.wallets("price_tolerance = 25")
    await session.type("get", f"{session.url}/rising?turn=0", "--rail", "base", shown=False)
    shop.price = "0.80 USD"
    await session.type("get", f"{session.url}/rising?turn=1", "--rail", "base")
    session.say("### The kill switch")
    await session.type("budget", "pause")
    await session.type("get", f"{session.url}/article/paused", "--rail", "base")
    await session.type("budget", "resume", "--yes")


async def _crash(session: _Session, shop: _Shop) -> None:
    session.say(
        "## A crash, and what becomes of the money\n\nThe invoice is paid and the handler is at work when the agent is "
        "killed. The journal knows of the payment; recovering pays nothing, and the same command goes on with it."
    )
    session.wallets()
    await session.type_and_kill("get", f"{session.url}/slow", when=shop.running)
    shop.go_on.set()
    await session.type("receipts", "list", "--open")
    await session.type("receipts", "recover")
    session.say("For all that it knows the process that was killed may still be at it. A minute later:")
    session.let_time_pass()
    await session.type("receipts", "recover")
    await session.type("get", f"{session.url}/slow")
    session.say("One purchase, paid once:")
    await session.type("budget", "show")


async def _model(session: _Session) -> None:
    session.say(
        "## A model's session\n\n`rail402 mcp`, driven over standard input and output by the client of the protocol's "
        "SDK: a line with `→` is a call, and what is below it is what the model sees."
    )
    session.wallets()
    async with _host(session, "--max", "0.70 USD") as call:
        await call("quote", url=f"{session.url}/article/mcp")
        await call("fetch", url=f"{session.url}/article/mcp")
        await call("fetch", url=f"{session.url}/article/dear", max_cost="0.10 USD")
        await call("receipts")


@asynccontextmanager
async def _host(session: _Session, *options: str) -> AsyncIterator[Any]:
    """A host of MCP tools that has started ours; yields what calls one and writes it down."""
    command = ["mcp", "--rail", "base", "--allow-private", *options]
    arguments = [*_RAIL402[1:], *command]
    server = StdioServerParameters(command=_RAIL402[0], args=arguments, env=session.environment, cwd=session.home)

    async def call(tool: str, *, shown: bool = True, **asked: Any) -> None:
        result = await client.call_tool(tool, asked)
        if shown:
            said = json.dumps(_short(result.structured_content), indent=2, ensure_ascii=False)
            session.say(f"```text\n→ {tool} {json.dumps(asked)}\n{said}\n```")

    async with Client(stdio_client(server)) as client:
        yield call


def _short(said: Any) -> Any:
    """Return what a tool said with long texts cut: receipts are signed, and long."""
    if isinstance(said, Mapping):
        return {name: _short(value) for name, value in said.items()}
    if isinstance(said, list):
        return [_short(value) for value in said]
    return said if not isinstance(said, str) or len(said) <= 300 else f"{said[:60]}…"


def main() -> None:
    """Play it, and write the page."""
    with tempfile.TemporaryDirectory() as home:
        PAGE.write_text(asyncio.run(play(Path(home))))
    print(f"wrote {PAGE.name}")


if __name__ == "__main__":
    main()
