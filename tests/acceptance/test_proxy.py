"""`rail402 proxy`, as a process before a service in another process, paid by agents over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from rail402 import Payer
from rail402_base import BaseWallet
from tests.acceptance.test_docs import DOCS, blocks, says
from tests.acceptance.upstreams import LANGUAGES, Service
from tests.services import require

RAIL402 = [sys.executable, "-c", "from rail402.cli import main; main()"]

CONFIG = """\
[server]
public_url = "http://127.0.0.1:{port}"
retention_seconds = 86400

[[rails]]
name = "base"
backend = "sandbox"

[[routes]]
match = "GET /article/{{slug}}"
price = "0.003 USD"

[[routes]]
match = "POST /echo"
price = "0.003 USD"

[[routes]]
match = "GET /stream"
price = "0.003 USD"

[[routes]]
match = "GET /broken"
price = "0.003 USD"

[[routes]]
match = "GET /fails"
price = "0.003 USD"

[proxy]
to = "{to}"
free = ["GET /free"]
"""


@dataclass
class Shop:
    """A proxy as a process, and the folder that its file, its store and everybody's play money are in."""

    home: Path
    url: str
    process: subprocess.Popen[str]
    environment: Mapping[str, str] = field(repr=False)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        command = [*RAIL402, *arguments]
        return subprocess.run(
            command, cwd=self.home, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def buy(self, method: str, path: str, *arguments: str) -> dict[str, Any]:
        done = self.run(method, self.url + path, "--wallets", "sandbox", "--json", *arguments)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def charges(self) -> list[tuple[str, str, str]]:
        """Return path, payment and delivery of every charge, the newest first."""
        listed = json.loads(self.run("charges", "list", "--json").stdout)["charges"]
        return [(each["url"].removeprefix(self.url), each["payment"], each["delivery"]) for each in listed]

    def stop(self) -> list[str]:
        """Stop the proxy as a person would; return what it logged."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stderr is not None
        logged = self.process.stderr.read().splitlines()
        assert self.process.wait(30) == 0, logged
        return logged


@contextmanager
def running(home: Path, port: int, *arguments: str) -> Iterator[Shop]:
    """Run the proxy of the file that is in `home`, until the block ends."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAIL402", "XDG"))}
    environment = {**kept, "HOME": str(home), "RAIL402_SANDBOX": str(home / "play")}
    command = [*RAIL402, "proxy", f"--port={port}", *arguments]
    process = subprocess.Popen(
        command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{port}"
        assert url in process.stdout.readline()
        yield Shop(home, url, process, environment)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


@contextmanager
def proxying(home: Path, to: str, *arguments: str) -> Iterator[Shop]:
    port = free_port()
    (home / "rail402.toml").write_text(CONFIG.format(port=port, to=to))
    with running(home, port, *arguments) as shop:
        yield shop


@pytest.fixture
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    language = getattr(request, "param", "python")
    if not Service.is_there(language):
        require(language, f"{language} is not installed")
    made = Service(tmp_path, language)
    yield made
    if not made.ended:
        made.kill()


in_any_language = pytest.mark.parametrize("service", LANGUAGES, indirect=True)


@pytest.fixture
def shop(service: Service, tmp_path: Path) -> Iterator[Shop]:
    with proxying(tmp_path, service.url) as found:
        yield found


class Recording(httpx.AsyncHTTPTransport):
    """What an agent sends, so that it can be sent again."""

    def __init__(self) -> None:
        super().__init__()
        self.paid: dict[str, str] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if "payment-signature" in request.headers:
            self.paid = {"payment-signature": request.headers["payment-signature"]}
        return await super().handle_async_request(request)


@asynccontextmanager
async def agent(shop: Shop) -> AsyncIterator[tuple[httpx.AsyncClient, Recording]]:
    play, recording = shop.home / "play", Recording()
    payer = Payer([BaseWallet.sandbox(play)], journal=f"sqlite:///{shop.home}/wallet.db")
    client = httpx.AsyncClient(transport=payer.transport(recording), base_url=shop.url, timeout=20)
    async with payer, client:
        yield client, recording


@in_any_language
def test_a_service_in_any_language_is_paid(shop: Shop, service: Service) -> None:
    given = httpx.get(f"{shop.url}/free", trust_env=False, headers={"X-Forwarded-For": "203.0.113.9"})
    assert (given.text, len(given.headers.get_list("date"))) == ("/free", 1)
    assert "uvicorn" not in given.headers.get("server", "")
    assert httpx.get(f"{shop.url}/article/402", trust_env=False).status_code == 402
    assert httpx.get(f"{shop.url}/other", trust_env=False).status_code == 404
    bought = shop.buy("get", "/article/402?x=%2F")
    assert (bought["status"], bought["body"], bought["purchase"]["outcome"]) == (200, "/article/402?x=%2F", "paid")
    posted = shop.buy("post", "/echo", "--data", "some words", "--header", "Authorization: Bearer a-login")
    assert (posted["status"], posted["body"]) == (200, "/echo some words")
    assert shop.charges() == [("/echo", "settled", "stored"), ("/article/402?x=%2F", "settled", "stored")]
    shop.stop()
    free, article, echo = service.kill()
    assert not [name for name in free["headers"] if name.startswith("rail402")]
    assert (
        free["headers"]["x-forwarded-for"] == "127.0.0.1"
    )  # although uvicorn by itself believes who is on this machine
    receipt = bought["purchase"]["receipt"]
    said = {name: value for name, value in article["headers"].items() if name.startswith("rail402-")}
    assert said == {
        "rail402-charge": receipt["jti"],
        "rail402-rail": "base",
        "rail402-price": "0.003 USD",
        "rail402-payer": receipt["payer"],
    }
    assert echo["headers"]["authorization"] == "Bearer a-login"
    assert not {"payment-signature", "x-payment"} & article["headers"].keys()


def test_what_fails_is_not_charged(shop: Shop, service: Service) -> None:
    failed = shop.buy("get", "/fails")
    assert (failed["status"], failed["body"]) == (500, "/fails")
    service.kill()
    assert shop.buy("get", "/article/1")["status"] == 502
    assert shop.charges() == [("/article/1", "released", "failed"), ("/fails", "released", "failed")]
    assert any("upstream: ConnectError" in line for line in shop.stop())


async def test_the_same_payment_is_served_from_the_store(shop: Shop, service: Service) -> None:
    async with agent(shop) as (client, recording):
        bought = await client.get("/article/402")
    requests = service.kill()
    async with httpx.AsyncClient(trust_env=False) as bare:
        again = await bare.get(f"{shop.url}/article/402", headers=recording.paid)
    assert (again.status_code, again.content) == (200, bought.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert len(requests) == 1


@in_any_language
async def test_a_response_is_passed_on_as_it_comes(shop: Shop, service: Service) -> None:
    async with agent(shop) as (client, _), client.stream("GET", "/stream") as response:
        assert response.status_code == 200
        parts = response.aiter_raw()
        assert await anext(parts) == b"one"  # while the service waits for what comes next
        async with httpx.AsyncClient(trust_env=False) as bare:
            await bare.get(f"{service.url}/go")
        assert b"".join([part async for part in parts]) == b"two"
    assert await asyncio.to_thread(shop.charges) == [("/stream", "settled", "stored")]


async def test_a_service_that_dies_in_the_middle_is_noticed_and_owes_the_goods(shop: Shop, service: Service) -> None:
    async with agent(shop) as (client, recording):
        async with client.stream("GET", "/broken") as response:
            parts = response.aiter_raw()
            assert await anext(parts) == b"one"
            service.kill()
            with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
                await anext(parts)
        assert await asyncio.to_thread(shop.charges) == [("/broken", "settled", "failed")]
        reborn = Service(shop.home, "python", service.port)
        try:
            async with httpx.AsyncClient(trust_env=False) as bare:
                await bare.get(f"{reborn.url}/go")
                again = await bare.get(f"{shop.url}/broken", headers=recording.paid)
        finally:
            reborn.kill()
        assert (again.status_code, again.content) == (200, b"onetwo")
        assert await asyncio.to_thread(shop.charges) == [("/broken", "settled", "stored")]


async def test_what_is_under_way_is_finished_before_the_end(shop: Shop, service: Service) -> None:
    async with agent(shop) as (client, _), client.stream("GET", "/stream") as response:
        parts = response.aiter_raw()
        assert await anext(parts) == b"one"
        shop.process.send_signal(signal.SIGTERM)
        async with httpx.AsyncClient(trust_env=False) as bare:
            with contextlib.suppress(httpx.TransportError):
                while True:  # until it listens no more
                    await bare.get(f"{shop.url}/free")
            await bare.get(f"{service.url}/go")
        assert b"".join([part async for part in parts]) == b"two"
    assert await asyncio.to_thread(shop.process.wait, 30) == 0
    assert await asyncio.to_thread(shop.charges) == [("/stream", "settled", "stored")]


def test_the_example_of_the_page(tmp_path: Path) -> None:
    """Its two files and its three commands, as they stand there but for the ports."""
    page, behind, before = blocks(DOCS / "proxy.md"), free_port(), free_port()
    for block in page:
        if block.file:
            (tmp_path / block.file).write_text(block.text.replace("3000", str(behind)).replace("4021", str(before)))
    (wanted,) = [block.text for block in page if block.mark == "prints"]
    command = [sys.executable, "service.py"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as service:
        try:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", behind)):
                    break
                time.sleep(0.05)
            with running(tmp_path, before) as shop:
                done = shop.run("get", f"{shop.url}/article/402", "--wallets", "sandbox")
        finally:
            service.terminate()
    assert says(done.stdout, wanted.rstrip()), done.stderr


def test_programs_are_told_in_json(tmp_path: Path) -> None:
    with proxying(tmp_path, "http://127.0.0.1:1", "--json", "--to=http://127.0.0.1:2") as shop:
        assert httpx.get(f"{shop.url}/free", trust_env=False).status_code == 502
        logged = [json.loads(line) for line in shop.stop()]
    assert [each["message"] for each in logged if each["logger"] == "rail402.proxy"] == [
        "upstream: ConnectError: All connection attempts failed",
        "GET /free 502",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 1, "rail402.toml: cannot be read"),
        (("--config=server.toml",), 1, "server.toml:1: proxy.to: is missing"),
        (("--config=server.toml", "--to=here"), 1, "must be an origin"),
        (("--port=70000",), 2, "--port"),
    ],
)
def test_what_is_wrong_ends_it_with_one_line(arguments: tuple[str, ...], code: int, said: str, tmp_path: Path) -> None:
    text = '[server]\npublic_url = "http://127.0.0.1:1"\n[[rails]]\nname = "base"\nbackend = "sandbox"\n'
    (tmp_path / "server.toml").write_text(text)
    done = subprocess.run(
        [*RAIL402, "proxy", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert said in done.stderr


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_an_extra_that_is_missing_is_named(package: str, tmp_path: Path) -> None:
    without = f"import sys; sys.modules[{package!r}] = None; {RAIL402[2]}"
    command = [sys.executable, "-c", without, "proxy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert f"the proxy needs {package}" in done.stderr
    assert "pip install 'rail402[server,cli]'" in done.stderr
