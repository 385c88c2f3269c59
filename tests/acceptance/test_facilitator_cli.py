"""`rail402 facilitator`, as a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

RAIL402 = [sys.executable, "-c", "from rail402.cli import main; main()", "facilitator"]
ADDRESS = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
TOKEN = "a-token-of-the-tests"


def run(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RAIL402, *arguments],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def serving(*arguments: str, cwd: Path, last: str = "Facilitator listening on ", **env: str) -> Iterator[Any]:
    """Serve until the block ends; gives the process and what it said until it listened."""
    command = [*RAIL402, "--port=0", *arguments]
    process = subprocess.Popen(
        command, cwd=cwd, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line.rstrip())
            if line.startswith(last):
                break
        yield process, said
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_the_sandbox_needs_nothing_and_says_what_it_serves(tmp_path: Path) -> None:
    with serving("--sandbox", cwd=tmp_path) as (process, said):
        *facts, last = said
        assert facts == [
            "settles exact on eip155:402402 (x402 version 2)",
            "settles exact on rail402-sandbox (x402 version 1)",
            "for everybody",
            "callers need no token",
        ]
        url = last.removeprefix("Facilitator listening on ")
        with httpx.Client(base_url=url, trust_env=False) as client:
            assert client.get("/health").json() == {"status": "ok"}
            kinds = client.get("/supported").json()["kinds"]
            assert client.post("/settle", content=b"{").status_code == 400
        assert [kind["network"] for kind in kinds] == ["eip155:402402", "rail402-sandbox"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert (tmp_path / ".rail402" / "facilitator.db").is_file()


def test_ctrl_c_is_an_end_like_any_other(tmp_path: Path) -> None:
    with serving("--sandbox", cwd=tmp_path) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()


def test_programs_are_told_the_same_in_json(tmp_path: Path) -> None:
    with serving("--sandbox", "--json", f"--pay-to={ADDRESS}", cwd=tmp_path, last="{") as (process, said):
        facts = json.loads(said[-1])
        assert facts["pay_to"] == [ADDRESS]
        assert (facts["any_payee"], facts["needs_token"], facts["signers"]) == (False, False, {})
        assert [kind["x402Version"] for kind in facts["kinds"]] == [2, 1]
        with httpx.Client(base_url=facts["url"], trust_env=False) as client:
            assert client.get("/supported").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_the_token_comes_from_the_environment_and_shows_nowhere(tmp_path: Path) -> None:
    with serving("--sandbox", "--token=env:DESK_TOKEN", cwd=tmp_path, DESK_TOKEN=TOKEN) as (process, said):
        assert "callers need the token" in said
        with httpx.Client(base_url=said[-1].rpartition(" ")[2], trust_env=False) as client:
            assert client.get("/supported").status_code == 401
            assert client.get("/supported", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert TOKEN not in "\n".join(said) + process.stdout.read() + process.stderr.read()


CONFIG = f"""
[facilitator]
reconcile_seconds = 0

[[rails]]
name = "base"
backend = "rpc"
network = "base-sepolia"
urls = ["http://127.0.0.1:1"]
relayer_key = "env:RELAYER"
pay_to = "{ADDRESS}"
"""


def test_a_file_says_what_is_settled_for_whom(tmp_path: Path) -> None:
    (tmp_path / "facilitator.toml").write_text(CONFIG)
    with serving("--config=facilitator.toml", "--json", cwd=tmp_path, last="{", RELAYER="11" * 32) as (process, said):
        facts = json.loads(said[-1])
        assert facts["pay_to"] == [ADDRESS]
        assert facts["signers"] == {"eip155:84532": ["0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"]}
        with httpx.Client(base_url=facts["url"], trust_env=False) as client:
            health = client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "failing")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        logged = [json.loads(line) for line in process.stderr.read().splitlines()]
    assert {"time", "level", "logger", "message"} == set(logged[0])
    assert any("cannot be reached yet" in each["message"] for each in logged)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "give either --config FILE or --sandbox"),
        (("--sandbox", "--config=x.toml"), 2, "give either --config FILE or --sandbox"),
        (("--sandbox", "--port=70000"), 2, "--port"),
        (("--sandbox", "--token=plain"), 2, "write a secret as env:NAME or file:PATH"),
        (("--sandbox", "--token=env:NOT_SET"), 2, "NOT_SET is not set"),
        (("--sandbox", "--token=env:SHORT"), 1, "token: must be 16 characters or more"),
        (("--config=missing.toml",), 1, "missing.toml: cannot be read"),
        (("--config=facilitator.toml",), 1, "facilitator.toml:2: facilitator.typo: is not known here"),
    ],
)
def test_what_is_wrong_ends_it_with_one_line(arguments: tuple[str, ...], code: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "facilitator.toml").write_text('[facilitator]\ntypo = 1\n[[rails]]\nname = "base"\n')
    done = run(*arguments, cwd=tmp_path, SHORT="short", COLUMNS="200")
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--sandbox", f"--port={port}", cwd=tmp_path)
    assert done.returncode == 1
    assert f"cannot listen at 127.0.0.1:{port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_the_exit_codes(tmp_path: Path) -> None:
    done = run("--help", cwd=tmp_path, COLUMNS="120")
    assert done.returncode == 0
    for word in ("/verify", "/settle", "--open", "--pay-to", "--token", "Exit codes"):
        assert word in done.stdout


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_an_extra_that_is_missing_is_named(package: str, tmp_path: Path) -> None:
    without = f"import sys; sys.modules[{package!r}] = None; {RAIL402[2]}"
    done = subprocess.run(
        [sys.executable, "-c", without, "facilitator", "--sandbox"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"the facilitator needs {package}" in done.stderr
    assert "pip install 'rail402[base,server,cli]'" in done.stderr
    assert "Traceback" not in done.stderr
