"""The examples, run as a reader would run them: a server process, an agent process, play money between them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from mcp import Client

from rail402 import Payer
from rail402.tools.mcp_client import PayingSession
from rail402_base import BaseWallet

EXAMPLES = Path(__file__).parents[2] / "examples"


@contextmanager
def serving(name: str, home: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Run an example's server; yield its URL and the environment that an agent needs."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "PUBLIC_URL": url,
        "STORE": f"sqlite:///{home}/charges.db",
        "JOURNAL": f"sqlite:///{home}/wallet.db",
        "RAIL402_SANDBOX": str(home / "sandbox"),
    }
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), f"{name}:app", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and process.poll() is None:
            try:
                httpx.get(url, timeout=1)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        else:
            pytest.fail(f"{name} did not start: {process.stderr and process.stderr.read()}")
        yield url, environment
    finally:
        process.terminate()
        process.communicate(timeout=20)


def agent(environment: dict[str, str], *arguments: str, program: str = "agent") -> str:
    """Run the example agent, or another program, and return what it prints."""
    command = [sys.executable, str(EXAMPLES / f"{program}.py"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_article_site_takes_each_route_s_rail(tmp_path: Path) -> None:
    with serving("article_site", tmp_path) as (url, environment):
        assert httpx.get(f"{url}/").json() == ["invoices", "status-codes"]
        assert "paid 0.003 USDC on base" in agent(environment, f"{url}/article/status-codes")
        assert "paid 21 sat on lightning" in agent(environment, f"{url}/summary/invoices")
        assert "paid 0.5 USD on stripe" in agent(environment, f"{url}/archive")


def test_an_error_of_the_article_site_costs_nothing(tmp_path: Path) -> None:
    with serving("article_site", tmp_path) as (url, environment):
        printed = agent(environment, f"{url}/article/none")
        assert printed.startswith("404")


def test_the_json_api_charges_by_the_word(tmp_path: Path) -> None:
    with serving("json_api", tmp_path) as (url, environment):
        printed = agent(environment, f"{url}/translate", json.dumps({"text": "good morning"}))
        assert '200 {"text":"guten Morgen"}' in printed
        assert "paid 0.002 USDC on base" in printed
        assert "free" in agent(environment, f"{url}/translate", json.dumps({"text": ""}))
        assert httpx.post(f"{url}/translate", content=b"{").status_code == 400
        assert httpx.post(f"{url}/translate", json={"words": 1}).status_code == 422


def test_the_stream_is_paid_for(tmp_path: Path) -> None:
    with serving("streaming", tmp_path) as (url, environment):
        printed = agent(environment, f"{url}/chat?question=why")
        assert "data: paid" in printed
        assert "paid 5 sat on lightning" in printed


async def test_the_mcp_server_sells_forecasts_and_gives_the_time_away(tmp_path: Path) -> None:
    with serving("mcp_server", tmp_path) as (url, environment):
        payer = Payer([BaseWallet.sandbox(environment["RAIL402_SANDBOX"])], journal=environment["JOURNAL"])
        async with Client(f"{url}/mcp") as client, payer:
            told = {tool.name: (tool.meta or {}).get("rail402/price") for tool in (await client.list_tools()).tools}
            assert (told["forecast"]["price"], told["now"]) == ("0.01 USD", None)
            paying = PayingSession(payer, client, url)
            called = await paying.call_tool("forecast", {"city": "Rome"})
            assert called.result.structured_content == {"result": "sunny in Rome"}
            assert called.purchase is not None
            assert called.purchase.receipt is not None
            assert (str(called.purchase.price), called.purchase.receipt.issuer) == ("0.01 USDC", url)
            nowhere = await paying.call_tool("forecast", {"city": "Atlantis"})
            assert nowhere.result.is_error
            assert nowhere.result.meta is not None
            assert nowhere.result.meta["rail402/charge"]["payment"] == "released"
            assert (await paying.call_tool("now")).purchase is None


def test_one_line_pays_with_the_wallets_of_the_file(tmp_path: Path) -> None:
    wallets = tmp_path / "wallets.toml"
    with serving("article_site", tmp_path) as (url, environment):
        environment["RAIL402_WALLETS"] = str(wallets)
        made = subprocess.run(
            [sys.executable, "-c", "from rail402.cli import main; main()", "init"], env=environment, check=False
        )
        assert made.returncode == 0
        printed = agent(environment, f"{url}/article/status-codes", program="fetch")
        assert printed.startswith("200 ")
        assert (tmp_path / "wallet.db").exists()
