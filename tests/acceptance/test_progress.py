"""`rail402 get` at a terminal: what a person sees of it while it pays, and what is left on the screen."""

from __future__ import annotations

import asyncio
import os
import pty
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import Response

from rail402 import Gate
from rail402_base import BaseRail
from rail402_lightning import LightningRail
from tests.acceptance.test_cli_output import read
from tests.acceptance.test_pay_cli import RAIL402
from tests.interop.bank import listening, served

LONG = 3_000_000
WALLETS = """[budget]
per_hour = ["2 USD", "1000 sat"]
{budget}

[[budget.rules]]
host = "127.0.0.1"
per_day = "0.05 USD"

[[wallets]]
name = "base"
backend = "sandbox"

[[wallets]]
name = "lightning"
backend = "sandbox"
"""

# What says how to write to terminals.
_CHANGING = ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


class BusyOnce:
    """An app that is too busy for the first payment."""

    def __init__(self, app: Any) -> None:
        self.app, self.is_busy = app, True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        names = {name for name, _ in scope.get("headers", ())}
        if self.is_busy and b"payment-signature" in names:
            self.is_busy = False
            busy = Response("\x1b[2Jbusy", 503, headers={"Retry-After": "2"})
            await busy(scope, receive, send)
        else:
            await self.app(scope, receive, send)


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    play = tmp_path / "play"
    with listening() as (found, origin):
        rails = [BaseRail.sandbox(play), LightningRail.sandbox(play)]
        gate = Gate(rails=rails, public_url=origin, store="memory://")
        app = FastAPI()
        gate.install(app)

        @app.get("/long")
        @gate.paid("0.003 USD", rails=["base"])
        async def long() -> Response:
            return Response(b"x" * LONG)

        @app.get("/sats")
        @gate.paid("21 sat", rails=["lightning"])
        async def sats() -> None: ...

        @app.get("/free")
        async def free() -> Response:
            return Response("free")

        async with served(BusyOnce(app), found):
            yield origin


async def get(folder: Path, *arguments: str, budget: str = "", answer: str = "") -> tuple[int, bytes, str]:
    """Run `rail402 get` with its standard error at a terminal; return its exit code, and both outputs.

    Args:
        budget: lines of the budget; answer: what is typed once it asks, where standard input is the terminal too.
    """
    file = folder / "wallets.toml"
    file.write_text(WALLETS.format(budget=budget))
    file.chmod(0o600)
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *RAIL402,
        *("get", *arguments, "--wallets", str(file)),
        stdin=theirs if answer else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=theirs,
        env={name: value for name, value in os.environ.items() if name not in _CHANGING}
        | {"HOME": str(folder), "RAIL402_SANDBOX": str(folder / "play"), "TERM": "xterm", "COLUMNS": "200"},
        cwd=folder,
    )
    os.close(theirs)
    shown = b""
    if answer:
        while b"[y/N]" not in shown:
            shown += await asyncio.to_thread(os.read, ours, 4096)
        os.write(ours, f"{answer}\n".encode())
    seeing = asyncio.create_task(asyncio.to_thread(read, ours))
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    shown += await seeing
    os.close(ours)
    return process.returncode or 0, out, shown.decode()


def screen(shown: str) -> list[str]:
    """Return the lines that a terminal ends with, of what was written to it."""
    lines, row, column = [""], 0, 0
    for code, how, text in re.findall(r"\x1b\[([0-9;?]*)([A-Za-z])|([\r\n]|[^\x1b\r\n]+)", shown):
        if text == "\r":
            column = 0
        elif text == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif text:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
        elif how == "A":
            row -= int(code or 1)
        elif (code, how) == ("2", "K"):
            lines[row] = ""
        else:
            assert how in "hlm", f"{code}{how} is not played"
    return [line.rstrip() for line in lines if line.strip()]


async def test_a_person_sees_what_is_paid_what_it_waits_for_and_what_is_left(tmp_path: Path, url: str) -> None:
    code, out, shown = await get(tmp_path, f"{url}/long")
    assert (code, len(out)) == (0, LONG)
    for line in (
        f"asking GET {url}/long",
        "waiting for the wallet base:0x",
        "waiting for what is bought",
        "the server answered 503; again in 2 s",
        "the server answered 503; again in 1 s",
        " of 3.0 MB ",
    ):
        assert line in shown, line
    assert "\x1b[2J" not in shown, "no server commands the terminal"
    choice, answer, left = screen(shown)
    assert re.fullmatch(r"0\.003 USDC on base from the wallet base:0x[0-9a-fA-F]{40}", choice)
    assert re.fullmatch(
        r"200 OK · paid 0\.003 USDC · on base \(x402-v2\) · receipt verified · rec_[a-z2-7]{26}", answer
    )
    assert left == "paid 0.003 USDC in all · 0.047 USD of 0.05 USD per day for the host 127.0.0.1 is left"
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1, "the cursor is there again"


async def test_fees_are_in_what_was_paid(tmp_path: Path, url: str) -> None:
    code, _, shown = await get(tmp_path, f"{url}/sats")
    choice, answer, left = screen(shown)
    assert (code, choice) == (0, "21 sat, 23 sat at most with fees, on lightning from the wallet lightning")
    assert " paid 21 sat and 0.021 sat in fees · " in answer
    assert left.startswith("paid 21.021 sat in all · ")


async def test_a_refusal_and_what_costs_nothing_leave_one_line(tmp_path: Path, url: str) -> None:
    code, _, shown = await get(tmp_path, f"{url}/free")
    assert (code, screen(shown)) == (0, ["200 OK · nothing was paid"])
    code, _, shown = await get(tmp_path, f"{url}/long", "--max", "0.001 USD")
    (line,) = screen(shown)
    assert (code, line.startswith("rail402: "), "0.001 USD per request" in line) == (7, True, True)


async def test_programs_are_shown_nothing_of_it(tmp_path: Path, url: str) -> None:
    code, out, shown = await get(tmp_path, f"{url}/sats", "--json")
    assert (code, shown, out.count(b"\n")) == (0, "", 1)


async def test_a_question_has_the_terminal_and_the_body_its_pipe(tmp_path: Path, url: str) -> None:
    asking = 'ask_above = "0.001 USD"'
    code, out, shown = await get(tmp_path, f"{url}/long", budget=asking, answer="y")
    assert (code, out == b"x" * LONG) == (0, True)
    question, choice, *_ = screen(shown)
    assert question.startswith(f"Pay 0.003 USDC for GET {url}/long? To 0x")
    assert question.endswith("is to be approved above 0.001 USD. [y/N]: y")
    assert choice.startswith("0.003 USDC on base")
    code, out, shown = await get(tmp_path, f"{url}/long?n=2", budget=asking, answer="n")
    (_, refusal) = screen(shown)
    assert (code, out, "the answer was no to 0.003 USDC" in refusal) == (7, b"", True)
