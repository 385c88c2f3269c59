"""`rail402 get`, `post`, `receipts` and `budget`, as processes that buy at a shop over HTTP."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException, Request

from rail402 import Gate
from rail402_base import BaseRail
from rail402_lightning import LightningRail
from rail402_stripe import StripeRail
from tests.interop.bank import listening, served

RAIL402 = [sys.executable, "-c", "from rail402.cli import main; main()"]


@dataclass
class Agent:
    """Somebody who types commands."""

    home: Path
    url: str

    async def types(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAIL402", "XDG"))}
        environment = {**kept, "HOME": str(self.home), "RAIL402_SANDBOX": str(self.home / "play"), **env}

        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [*RAIL402, *arguments],
                cwd=self.home,
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

        return await asyncio.to_thread(run)

    async def says(self, *arguments: str) -> tuple[int, Any]:
        """Run a command with play money and `--json`; return its exit code and what it said."""
        done = await self.types(*arguments, "--wallets", "sandbox", "--json")
        assert done.stderr == ""
        return done.returncode, json.loads(done.stdout)


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    play = tmp_path / "play"
    with listening() as (found, url):
        rails = [BaseRail.sandbox(play), LightningRail.sandbox(play), StripeRail.sandbox(play)]
        gate = Gate(rails=rails, public_url=url, store="memory://")
        app = FastAPI()
        gate.install(app)

        @app.get("/article")
        @gate.paid("0.60 USD", rails=["base", "stripe"])
        async def article() -> dict[str, str]:
            return {"text": "hello"}

        @app.post("/echo")
        @gate.paid("21 sat")
        async def echo(request: Request) -> dict[str, str]:
            return {"text": (await request.body()).decode()}

        @app.get("/dear")
        @gate.paid("25 USD", rails=["base", "stripe"])
        async def dear() -> None: ...

        @app.get("/fails")
        @gate.paid("0.60 USD", rails=["stripe"])
        async def fails() -> None:
            raise HTTPException(404, "there is no such article")

        @app.get("/vanishes")
        @gate.paid("21 sat")
        async def vanishes() -> None:
            raise HTTPException(404, "there is no such thing")

        @app.get("/free")
        async def free() -> bytes:
            return b"free"

        @app.get("/bill")
        async def bill() -> None:
            raise HTTPException(402, "pay your bill")

        async with served(app, found):
            yield Agent(tmp_path, url)


async def test_the_body_goes_out_and_what_it_cost_beside_it(agent: Agent) -> None:
    done = await agent.types("get", f"{agent.url}/article", "--wallets", "sandbox")
    assert (done.returncode, done.stdout) == (0, '{"text":"hello"}')
    assert done.stderr.startswith("200 OK · paid 0.6 USDC · on base (x402-v2) · receipt verified · rec_")


async def test_a_post_with_its_body(agent: Agent) -> None:
    code, said = await agent.says("post", f"{agent.url}/echo", "--data", "some words")
    assert (code, said["status"], said["body"]) == (0, 200, '{"text":"some words"}')
    assert (said["purchase"]["rail"], said["purchase"]["price"]) == ("lightning", "21 sat")
    assert said["purchase"]["receipt"]["amount"] == "21000"


async def test_the_rail_can_be_chosen(agent: Agent) -> None:
    code, said = await agent.says("get", f"{agent.url}/article", "--rail", "stripe")
    assert (code, said["purchase"]["rail"]) == (0, "stripe")


async def test_a_dry_run_pays_nothing(agent: Agent) -> None:
    code, said = await agent.says("get", f"{agent.url}/article", "--dry-run")
    assert (code, said["quote"]["price"], said["quote"]["rail"]) == (0, "0.6 USDC", "base")
    code, said = await agent.says("get", f"{agent.url}/free", "--dry-run")
    assert (code, said["quote"]) == (0, None)
    _, budget = await agent.says("budget", "show")
    assert budget["per_hour"]["used"] == []


@pytest.mark.parametrize(
    ("path", "options", "code", "because"),
    [
        ("/dear", (), 7, "the limit is 1 USD per request"),
        ("/article", ("--max", "0.10 USD"), 7, "the limit is 0.1 USD per request"),
        ("/article", ("--rail", "lightning"), 5, "can make: it takes base 0.6 USDC, stripe 0.6 USD; wallets on other"),
        ("/bill", (), 4, "without payment terms"),
    ],
)
async def test_what_is_not_paid_is_said_and_has_its_own_exit_code(
    agent: Agent, path: str, options: tuple[str, ...], code: int, because: str
) -> None:
    for dry_run in ((), ("--dry-run",)):
        found, said = await agent.says("get", agent.url + path, *options, *dry_run)
        assert (found, said["outcome"]) == (code, "not_paid")
        assert because in said["error"]


async def test_nothing_is_paid_where_nobody_asks_for_it(agent: Agent) -> None:
    done = await agent.types("get", f"{agent.url}/free", "--wallets", "sandbox")
    assert (done.returncode, done.stdout, done.stderr) == (0, '"free"', "200 OK · nothing was paid\n")
    done = await agent.types("get", "http://127.0.0.1:9/free", "--wallets", "sandbox")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("rail402: no answer from http://127.0.0.1:9/free: ")


async def test_an_error_of_the_server_is_no_success(agent: Agent) -> None:
    code, said = await agent.says("get", f"{agent.url}/fails")
    assert (code, said["status"], said["purchase"]["outcome"]) == (6, 404, "unknown")
    code, recovered = await agent.says("receipts", "recover")
    assert [each["record"] for each in recovered["recovered"]] == [said["purchase"]["record_id"]]


async def test_what_cannot_be_resolved_is_written_off(agent: Agent) -> None:
    _, said = await agent.says("get", f"{agent.url}/fails")
    record = said["purchase"]["record_id"]
    asked = await agent.types("receipts", "write-off", record, "--wallets", "sandbox")
    assert (asked.returncode, asked.stdout.strip()) == (1, "")
    assert f"count 0.6 USD as spent, and never ask for GET {agent.url}/fails with it again?" in asked.stderr
    assert (await agent.says("receipts", "show", record))[1]["state"] == "unknown"
    code, closed = await agent.says("receipts", "write-off", record, "--yes")
    assert (code, closed["state"], closed["detail"]) == (0, "committed", "written off")
    _, budget = await agent.says("budget", "show")
    assert (budget["per_hour"]["used"], budget["per_hour"]["unresolved"]) == (["0.6 USD"], [])
    again = await agent.types("receipts", "write-off", record, "--wallets", "sandbox", "--yes")
    assert (again.returncode, again.stdout) == (1, "")
    assert f"there is no open purchase {record} that nobody works on" in again.stderr


async def test_what_was_paid_is_said_to_be_though_it_was_not_served(agent: Agent) -> None:
    code, said = await agent.says("get", f"{agent.url}/vanishes")
    assert (code, said["purchase"]["rail"]) == (6, "lightning")
    recovered = await agent.types("receipts", "recover", "--wallets", "sandbox")
    assert recovered.returncode == 0
    known = "paid: it did cost 21.021 sat; the same request made again fetches what was bought"
    assert recovered.stdout.startswith(f"{said['purchase']['record_id']}  {known} · {agent.url}/vanishes\n")


async def test_what_was_bought_is_listed_shown_verified_and_exported(agent: Agent) -> None:
    _, bought = await agent.says("get", f"{agent.url}/article")
    record = bought["purchase"]["record_id"]
    _, listed = await agent.says("receipts", "list")
    assert [(each["record"], each["state"]) for each in listed["purchases"]] == [(record, "committed")]
    _, shown = await agent.says("receipts", "show", record)
    assert shown["receipt"].count(".") == 2
    code, verified = await agent.says("receipts", "verify")
    assert (code, verified["receipts"][0]["verified"]) == (0, True)
    exported = await agent.types("receipts", "export", "--wallets", "sandbox")
    (row,) = csv.DictReader(io.StringIO(exported.stdout))
    assert (row["record"], row["price"], row["url"]) == (record, "0.6 USDC", f"{agent.url}/article")
    exported = await agent.types("receipts", "export", "--format", "jsonl", "--wallets", "sandbox")
    assert json.loads(exported.stdout)["receipt"] == shown["receipt"]
    _, budget = await agent.says("budget", "show")
    assert (budget["per_request"]["limits"], budget["per_day"]["used"]) == (["1 USD", "1000 sat"], ["0.6 USD"])


async def test_a_receipt_that_was_tampered_with_does_not_verify(agent: Agent) -> None:
    await agent.says("get", f"{agent.url}/article")

    with sqlite3.connect(agent.home / "play" / "wallet.db") as journal:
        (text,) = journal.execute("SELECT purchase FROM purchases").fetchone()
        record = json.loads(text)
        head, claims, signature = record["receipt"].split(".")
        record["receipt"] = f"{head}.{claims[:-4]}AAAA.{signature}"
        journal.execute("UPDATE purchases SET purchase = ?", [json.dumps(record)])
    code, verified = await agent.says("receipts", "verify")
    assert (code, verified["receipts"][0]["verified"]) == (1, False)


async def test_a_receipt_of_another_name_of_the_server_is_bad_wherever_it_is_looked_at(agent: Agent) -> None:
    elsewhere = agent.url.replace("127.0.0.1", "localhost")
    _, said = await agent.says("get", f"{elsewhere}/article")
    why = f"was issued by {agent.url}, not by {elsewhere}"
    assert why in said["purchase"]["receipt_error"]
    await agent.says("get", f"{agent.url}/article")
    listed = await agent.types("receipts", "list", "--wallets", "sandbox", COLUMNS="200")
    words = {url: word for word, url in re.findall(r" (yes|bad|no) .*GET (http\S+)", listed.stdout)}
    assert words == {f"{elsewhere}/article": "bad", f"{agent.url}/article": "yes"}
    code, verified = await agent.says("receipts", "verify", said["purchase"]["record_id"])
    assert (code, why in verified["receipts"][0]["error"]) == (1, True)


async def test_play_money_of_another_folder_is_said_to_be_that(agent: Agent) -> None:
    file = agent.home / "wallets.toml"
    file.write_text('[[wallets]]\nname = "base"\nbackend = "sandbox"\n')
    other = {"RAIL402_SANDBOX": str(agent.home / "elsewhere"), "RAIL402_WALLETS": str(file)}
    done = await agent.types("get", f"{agent.url}/article", **other)
    assert (done.returncode, "insufficient_funds (play money is in .rail402 of the folder" in done.stderr) == (6, True)
    recovered = await agent.types("receipts", "recover", RAIL402_WALLETS=str(file))
    assert recovered.returncode == 6
    assert "unknown: still open; begun with the wallet 'base:0x" in recovered.stdout
    assert "for play money, in the folder that it was begun with" in recovered.stdout
    recovered = await agent.types("receipts", "recover", **other)
    assert "still open; the same request goes on with it" in recovered.stdout


async def test_a_file_says_who_pays_and_how_much(agent: Agent) -> None:
    folder = agent.home / ".config" / "rail402"
    folder.mkdir(parents=True)
    (folder / "wallets.toml").write_text(
        '[budget]\nper_request = "0.50 USD"\n\n[[wallets]]\nname = "base"\nbackend = "sandbox"\n'
    )
    done = await agent.types("get", f"{agent.url}/article")
    assert (done.returncode, "the limit is 0.5 USD per request" in done.stderr) == (7, True)
    other = agent.home / "more.toml"
    other.write_text('[[wallets]]\nname = "base"\nbackend = "sandbox"\n')
    done = await agent.types("get", f"{agent.url}/article", "--wallets", str(other))
    assert done.returncode == 0, done.stderr
    assert (agent.home / "wallet.db").stat().st_mode & 0o777 == 0o600


async def test_mistakes_are_explained(agent: Agent) -> None:
    for arguments, code, because in (
        (["get", f"{agent.url}/article"], 1, "make it with `rail402 init`, or try --wallets sandbox"),
        (["receipts", "list", "--wallets", "sandbox"], 1, "nothing was bought yet"),
        (["get", "ftp://x", "--wallets", "sandbox"], 2, "must begin with http:// or https://"),
        (["get", agent.url, "--max", "ten", "--wallets", "sandbox"], 2, "is not an amount of money"),
        (["get", agent.url, "-H", "X-Payment: abc", "--wallets", "sandbox"], 2, "is a payment"),
        (["get", agent.url, "--rail", "gold", "--wallets", "sandbox"], 1, "no rail is installed that is called gold"),
    ):
        done = await agent.types(*arguments)
        assert (done.returncode, because in " ".join(done.stderr.replace("│", "").split())) == (code, True), done.stderr


async def test_the_kill_switch_stops_every_purchase_of_the_journal(agent: Agent) -> None:
    paused = await agent.types("budget", "pause", "--wallets", "sandbox")
    assert (paused.returncode, paused.stdout.startswith("paused: nothing is bought")) == (0, True)
    for dry_run in ((), ("--dry-run",)):
        code, said = await agent.says("get", f"{agent.url}/article", *dry_run)
        assert (code, said["outcome"], said["error"].count("purchases are paused")) == (7, "not_paid", 1)
    assert (await agent.says("budget", "show"))[1]["paused_since"] is not None
    asked = await agent.types("budget", "resume", "--wallets", "sandbox")
    assert asked.returncode != 0, "it asks, and nobody answers"
    assert (await agent.says("get", f"{agent.url}/article"))[0] == 7
    assert (await agent.types("budget", "resume", "--yes", "--wallets", "sandbox")).returncode == 0
    assert (await agent.says("get", f"{agent.url}/article"))[0] == 0


LIMITED = """\
[budget]
total = "5 USD"
deny_hosts = ["*.ads.example"]

[[budget.rules]]
host = "*"
per_day = "1 USD"

[[wallets]]
name = "base"
backend = "sandbox"
"""


async def test_every_limit_is_shown_with_what_is_used_of_it(agent: Agent) -> None:
    file = agent.home / "limited.toml"
    file.write_text(LIMITED)
    options = ("--wallets", str(file))
    assert (await agent.types("get", f"{agent.url}/article", *options)).returncode == 0
    done = await agent.types("get", f"{agent.url}/article", *options)
    assert (done.returncode, "of 1 USD per day for the host 127.0.0.1 0.4 USD is left" in done.stderr) == (7, True)
    shown = (await agent.types("budget", "show", *options)).stdout
    for line in (
        "in total     5 USD",
        "each host: 1 USD per day",
        "host 127.0.0.1: 0.6 USD used per day",
        "deny_hosts: *.ads.example",
    ):
        assert line in shown
    told = json.loads((await agent.types("budget", "show", "--json", *options)).stdout)
    assert told["total"] == {"limits": ["5 USD"], "used": ["0.6 USD"], "unresolved": []}
    assert told["rules"][0]["used_by"]["127.0.0.1"]["per_day"]["used"] == ["0.6 USD"]


async def test_what_is_known_of_a_host_is_listed_and_forgotten(agent: Agent) -> None:
    file = agent.home / "limited.toml"
    file.write_text(LIMITED)
    options = ("--wallets", str(file))
    assert (await agent.types("budget", "pins", *options)).stdout == ""
    await agent.types("get", f"{agent.url}/article?n=1", *options)
    listed = (await agent.types("budget", "pins", *options)).stdout
    assert listed.startswith("127.0.0.1  paid at 0x")
    assert "127.0.0.1  GET /article did cost 0.6 USD\n" in listed
    asked = await agent.types("budget", "unpin", "127.0.0.1", *options)
    assert asked.returncode != 0, "it asks, and nobody answers"
    assert json.loads((await agent.types("budget", "pins", "--json", *options)).stdout)["payees"]
    done = await agent.types("budget", "unpin", "127.0.0.1", "--yes", *options)
    assert (done.returncode, done.stdout) == (0, "2 pins of 127.0.0.1 are forgotten\n")
    assert (await agent.types("budget", "unpin", "127.0.0.1", "--yes", *options)).returncode == 1


async def test_looser_limits_wait_until_they_are_confirmed(agent: Agent) -> None:
    file = agent.home / "limited.toml"
    file.write_text(LIMITED)
    options = ("--wallets", str(file))
    assert (await agent.types("get", f"{agent.url}/article?n=1", *options)).returncode == 0
    file.write_text(LIMITED.replace("1 USD", "3 USD").replace('deny_hosts = ["*.ads.example"]\n', ""))
    for dry_run in ((), ("--dry-run",)):
        refused = await agent.types("get", f"{agent.url}/article?n=2", *options, *dry_run)
        assert (refused.returncode, "confirm them with `rail402 budget confirm`" in refused.stderr) == (7, True)
    why = ["for each host per day it was 1 USD, and is 3 USD", "deny_hosts has *.ads.example no more"]
    shown = (await agent.types("budget", "show", *options)).stdout
    assert all(f"not confirmed, so that nothing is bought: {each}\n" in shown for each in why)
    assert json.loads((await agent.types("budget", "show", "--json", *options)).stdout)["unconfirmed"] == why
    asked = await agent.types("budget", "confirm", *options)
    assert (asked.returncode != 0, all(each in asked.stdout for each in why)) == (True, True)
    assert (await agent.types("get", f"{agent.url}/article?n=2", *options)).returncode == 7
    done = await agent.types("budget", "confirm", "--yes", *options)
    assert (done.returncode, done.stdout.splitlines()) == (0, [*why, "confirmed"])
    assert (await agent.types("get", f"{agent.url}/article?n=2", *options)).returncode == 0
    file.write_text(LIMITED.replace("5 USD", "4 USD"))
    tighter = await agent.types("get", f"{agent.url}/article?n=2", *options)
    assert (tighter.returncode, "1 USD per day for the host 127.0.0.1" in tighter.stderr) == (7, True)
    again = await agent.types("budget", "confirm", *options)
    assert (again.returncode, again.stdout) == (0, "nothing is looser than what was confirmed last\n")


async def test_without_a_terminal_nothing_is_approved(agent: Agent) -> None:
    file = agent.home / "asking.toml"
    file.write_text('[budget]\nask_above = "0.10 USD"\n\n[[wallets]]\nname = "base"\nbackend = "sandbox"\n')
    done = await agent.types("get", f"{agent.url}/article", "--wallets", str(file))
    assert (done.returncode, "there is nobody to ask" in done.stderr) == (7, True)


@pytest.mark.parametrize(("key", "code"), [("y", 0), ("n", 7)])
async def test_at_a_terminal_it_asks(agent: Agent, key: str, code: int) -> None:
    file = agent.home / "asking.toml"
    file.write_text('[budget]\nask_above = "0.10 USD"\n\n[[wallets]]\nname = "base"\nbackend = "sandbox"\n')
    ours, theirs = pty.openpty()
    env = {**os.environ, "HOME": str(agent.home), "RAIL402_SANDBOX": str(agent.home / "play")}
    arguments = [*RAIL402, "get", f"{agent.url}/article", "--wallets", str(file)]
    process = await asyncio.create_subprocess_exec(*arguments, stdin=theirs, stderr=theirs, env=env)
    os.close(theirs)
    seen = ""
    while "[y/N]" not in seen:
        seen += (await asyncio.to_thread(os.read, ours, 4096)).decode()
    os.write(ours, f"{key}\n".encode())
    assert await asyncio.wait_for(process.wait(), 60) == code
    os.close(ours)
    assert f"Pay 0.6 USDC for GET {agent.url}/article?" in " ".join(seen.split())


async def test_a_file_to_begin_with(agent: Agent) -> None:
    path = agent.home / ".config" / "rail402" / "wallets.toml"
    made = await agent.types("init")
    assert (made.returncode, f"wrote {path}" in made.stdout) == (0, True)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    done = await agent.types("get", f"{agent.url}/article")
    assert (done.returncode, done.stdout) == (0, '{"text":"hello"}')
    again = await agent.types("init")
    assert (again.returncode, "nothing is written over" in again.stderr) == (1, True)
    text = path.read_text()
    begin = text.index("#[[wallets]]")  # the first example of a wallet: a key of this machine
    example, _, rest = text[begin:].partition("\n\n")
    example = re.sub("^#(urls.*\n)?", "", example, flags=re.MULTILINE)
    path.write_text(f"{text[:begin]}{example}\n\n{rest}")
    shown = await agent.types("get", f"{agent.url}/free")
    assert (shown.returncode, "base.key cannot be read" in shown.stderr) == (1, True)
    (path.parent / "base.key").write_text("11" * 32)
    shown = await agent.types("budget", "show")
    assert shown.returncode == 0, shown.stderr
    tried = await agent.types("get", f"{agent.url}/free")
    assert tried.returncode == 0, tried.stderr


WITHOUT = """
import sys
for extra in ("starlette", "fastapi", "uvicorn", "mcp", "psycopg", "redis", "requests"):
    sys.modules[extra] = None
from rail402.cli import main
main()
"""


@pytest.mark.parametrize(
    ("arguments", "code", "because"),
    [
        (("budget", "show", "--wallets", "sandbox"), 0, ""),
        (("charges", "reconcile", "--config", "rail402.toml"), 1, "rail402: this needs starlette"),
        (("doctor", "--config", "rail402.toml"), 1, "rail402: this needs starlette"),
        (("mcp", "--wallets", "sandbox"), 1, "this needs mcp.server; try: pip install 'rail402[mcp]'"),
    ],
)
def test_an_agent_needs_no_web_framework(tmp_path: Path, arguments: tuple[str, ...], code: int, because: str) -> None:
    env = {**os.environ, "RAIL402_SANDBOX": str(tmp_path)}
    command = [sys.executable, "-c", WITHOUT, *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert because in done.stderr


async def test_the_sandbox_tells_what_was_earned_in_it(agent: Agent) -> None:
    nothing = await agent.types("sandbox", RAIL402_SANDBOX=str(agent.home / "nothing"))
    assert "nothing yet" in nothing.stdout
    assert not (agent.home / "nothing").exists()
    await agent.says("get", f"{agent.url}/article", "--rail", "base")
    await agent.says("post", f"{agent.url}/echo", "--data", "words")
    said = json.loads((await agent.types("sandbox", "--json")).stdout)
    assert said["received"] == {"base": "0.6 USDC", "lightning": "21 sat", "stripe": "0 USD"}
    shown = (await agent.types("sandbox")).stdout
    assert shown.startswith(str(agent.home / "play"))
    assert "0.6 USDC received" in shown
