"""`rail402 doctor`: each thing that goes wrong in practice is found, and nothing is said where nothing is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from rail402 import Gate
from rail402.cli.doctor.agent import agent_findings
from rail402.cli.doctor.findings import Finding, clock_finding
from rail402.cli.doctor.server import server_findings
from rail402.cli.doctor.url import _discovery, url_findings
from rail402.protocol.receipt import ReceiptKeys
from rail402_base import BaseRail
from tests.interop.bank import listening, served
from tests.services.processes import free_ports

RECEIPT_KEY = ReceiptKeys.generate()[1]


@pytest.fixture(autouse=True)
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAIL402_SANDBOX", str(tmp_path / "play"))
    monkeypatch.chdir(tmp_path)


Change = Callable[[list[tuple[bytes, bytes]]], list[tuple[bytes, bytes]]]


@asynccontextmanager
async def shop(tmp_path: Path, change: Change = lambda fields: fields) -> AsyncIterator[str]:
    """A shop behind something that changes what it says."""
    with listening() as (found, url):
        rails = [BaseRail.sandbox(tmp_path / "play")]
        gate = Gate(rails=rails, public_url=url, store="memory://", receipt_key=RECEIPT_KEY)
        app = FastAPI()
        gate.install(app)

        @app.get("/article")
        @gate.paid("0.60 USD")
        async def article() -> None: ...

        @app.get("/cheap")
        @gate.paid(lambda request: "21 sat")  # and there are no rates
        async def cheap() -> None: ...

        async def between(scope: Any, receive: Any, send: Any) -> None:
            async def sending(message: Any) -> None:
                if message["type"] == "http.response.start":
                    message = {**message, "headers": change(list(message["headers"]))}
                await send(message)

            await app(scope, receive, sending if scope["type"] == "http" else send)

        async with served(between, found):
            yield url


def without(*names: str) -> Change:
    lost = {name.encode() for name in names}
    return lambda fields: [line for line in fields if line[0].lower() not in lost]


def with_fields(**fields: str) -> Change:
    added = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    return lambda own: [*without(*(name.replace("_", "-") for name in fields))(own), *added]


async def found(findings: AsyncIterator[Finding]) -> dict[str, tuple[str, str]]:
    """What was found, by what it is about."""
    return {finding.about: (finding.state, finding.says) async for finding in findings}


async def test_a_url_as_it_should_be(tmp_path: Path) -> None:
    async with shop(tmp_path, with_fields(access_control_allow_origin="*")) as url:
        said = await found(url_findings(f"{url}/article"))
    assert {state for state, _ in said.values()} == {"ok"}
    assert set(said) == {"answer", "offers", "header size", "cache", "browsers", "receipts", "clock"}


@pytest.mark.parametrize(
    ("change", "about", "state", "because"),
    [
        (without("cache-control"), "cache", "wrong", "Cache-Control is missing"),
        (with_fields(cache_control="public, max-age=60"), "cache", "wrong", "is public, max-age=60"),
        (with_fields(age="12"), "cache", "wrong", "out of a cache"),
        (without("access-control-expose-headers"), "browsers", "warning", "does not name the challenge"),
        (with_fields(payment_required="A" * 8000), "header size", "warning", "many proxies buffer no more than 7168"),
    ],
)
async def test_what_goes_wrong_between_a_gate_and_its_payers(
    tmp_path: Path, change: Change, about: str, state: str, because: str
) -> None:
    async with shop(tmp_path, change) as url:
        said = await found(url_findings(f"{url}/article"))
    assert said[about][0] == state
    assert because in said[about][1]


async def test_a_gate_whose_rails_cannot_charge_the_price_has_lost_nothing_on_the_way(tmp_path: Path) -> None:
    async with shop(tmp_path) as url:
        said = await found(url_findings(f"{url}/cheap"))
    assert said["offers"] == ("wrong", "none, and the server says: no rail of this route can charge 21 sat")


@pytest.mark.parametrize(
    ("date", "state"),
    [
        ("Thu, 01 Jan 2026 00:00:20 GMT", "ok"),
        ("Wed, 31 Dec 2025 23:59:00 GMT", "warning"),
        ("soon", None),
        ("", None),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999", None),
    ],
)
def test_the_clock_is_compared_with_the_server_s(date: str, state: str | None) -> None:
    response = httpx.Response(402, headers={"Date": date}, request=httpx.Request("GET", "https://shop.example"))
    finding = clock_finding(response, 1_767_225_600)
    assert (None if finding is None else finding.state) == state


@pytest.mark.parametrize(
    "body", [b"[" * 200_000, b'{"keys":' + b"[" * 200_000, b'{"keys": 7}', b'"keys"', b" " * (2 << 20)]
)
async def test_a_key_set_that_means_harm(body: bytes) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=body))
    asked = httpx.Response(402, request=httpx.Request("GET", "https://shop.example/article"))
    async with httpx.AsyncClient(transport=transport) as client:
        assert (await _discovery(client, asked)).state == "warning"


async def test_other_answers_and_none(tmp_path: Path) -> None:
    async with shop(tmp_path) as url:
        assert (await found(url_findings(f"{url}/none")))["answer"] == ("wrong", "404, not 402")
    (port,) = free_ports(1)
    assert (await found(url_findings(f"http://127.0.0.1:{port}/")))["answer"][0] == "wrong"


def toml(tmp_path: Path, url: str, **changes: str) -> Path:
    key = tmp_path / "receipt.pem"
    key.write_text(RECEIPT_KEY)
    key.chmod(0o600)
    path = tmp_path / "rail402.toml"
    text = f"""\
[server]
public_url = "{url}"
store = "sqlite:///charges.db"
receipt_key = "file:{key}"

[[rails]]
name = "base"
backend = "sandbox"

[[routes]]
match = "GET /article"
price = "0.60 USD"
"""
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


async def test_a_server_as_it_should_be_and_with_another_key(tmp_path: Path) -> None:
    async with shop(tmp_path) as url:
        path = toml(tmp_path, url)
        said = await found(server_findings(path))
        assert said.pop("rail base") == ("warning", "reachable, and takes play money (eip155:402402)")
        assert {state for state, _ in said.values()} == {"ok"}
        assert "publishes this file's keys" in said["discovery"][1]

        (tmp_path / "receipt.pem").write_text(ReceiptKeys.generate()[1])
        (tmp_path / "receipt.pem").chmod(0o644)
        said = await found(server_findings(path))
        assert said["discovery"] == (
            "wrong",
            f"{url}/.well-known/rail402/jwks.json publishes other keys than this file's",
        )
        assert "others on this machine can read it" in said["server.receipt_key"][1]


@pytest.mark.parametrize(
    ("changes", "about", "because"),
    [
        ({"price": "prize"}, "configuration", "rail402.toml:10: routes.0.price: is missing"),
        ({"sqlite:///charges.db": "sqlite:////nowhere/at/all.db"}, "store", "No such file or directory"),
    ],
)
async def test_a_server_that_cannot_start(tmp_path: Path, changes: dict[str, str], about: str, because: str) -> None:
    said = await found(server_findings(toml(tmp_path, "https://api.example.com", **changes)))
    assert said[about][0] == "wrong"
    assert because in said[about][1]


async def test_a_proxy(tmp_path: Path) -> None:
    """The file of one is tried as a whole: the service behind it, and whether each pattern can be reached."""

    async def service(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    def file(to: str, more: str = "") -> Path:
        price = 'price = "0.60 USD"\n'
        return toml(tmp_path, "https://shop.invalid", **{price: f'{price}{more}[proxy]\nto = "{to}"\n'})

    with listening() as (behind, url):
        async with served(service, behind):
            said = await found(server_findings(file(url)))
            twice = '[[routes]]\nmatch = "GET /article"\nprice = "1 USD"\n'
            assert (await found(server_findings(file(url, twice))))["start"][0] == "wrong"
        assert (said["proxy"], said["store"][0]) == (("ok", f"{url} answers"), "ok")
    assert (await found(server_findings(file(url))))["proxy"] == ("wrong", f"{url} does not answer: ConnectError")
    said = await found(server_findings(file("nowhere")))
    assert said["configuration"][0] == "wrong"
    assert "must be an origin" in said["configuration"][1]


async def test_a_server_that_is_not_encrypted_or_not_there(tmp_path: Path) -> None:
    said = await found(server_findings(toml(tmp_path, "http://shop.invalid")))
    assert said["public_url"][0] == "wrong"
    assert said["discovery"][0] == "warning"


async def test_an_agent(tmp_path: Path) -> None:
    path = tmp_path / "wallets.toml"
    path.write_text('[[wallets]]\nname = "base"\nbackend = "sandbox"\n')
    said = await found(agent_findings(str(path)))
    assert {state for state, _ in said.values()} == {"ok"}
    assert any(about.startswith("wallet base:0x") for about in said)

    (port,) = free_ports(1)
    path.write_text(
        f'[[wallets]]\nname = "lightning"\nbackend = "lnbits"\nurl = "http://127.0.0.1:{port}"\nnetwork = "regtest"\n'
        'admin_key = "env:LNBITS_ADMIN_KEY"\n\n[[wallets]]\nname = "base"\nbackend = "sandbox"\n'
    )
    os.environ["LNBITS_ADMIN_KEY"] = "k" * 32
    try:
        said = await found(agent_findings(str(path)))
    finally:
        del os.environ["LNBITS_ADMIN_KEY"]
    assert [state for about, (state, _) in said.items() if about.startswith("wallet ")] == ["wrong", "ok"]
    assert "k" * 32 not in str(said)
    path.write_text('[[wallets]]\nname = "gold"\n')
    assert (await found(agent_findings(str(path))))["configuration"][0] == "wrong"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from rail402.cli import main; main()", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_says_it_for_people_and_programs(tmp_path: Path) -> None:
    path = toml(tmp_path, "http://shop.invalid")
    done = run("--config", str(path))
    assert done.returncode == 1
    assert "wrong    public_url" in done.stdout
    assert "→ serve https" in done.stdout
    assert "1 wrong" in done.stdout.splitlines()[-1]
    said = json.loads(run("--wallets", "sandbox", "--json").stdout)
    assert said["counts"].keys() == {"ok"}
    assert run().returncode == 2
