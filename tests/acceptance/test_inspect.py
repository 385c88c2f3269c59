"""`rail402 inspect` and `rail402 decode`, as processes, with a gate that sells over three rails on a loopback port."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rail402.cli.demo.publisher import Publisher
from rail402.client.payer import Payer
from rail402_base import BaseWallet
from rail402_lightning import LightningWallet
from rail402_stripe import StripeWallet

RECEIPTS = {"payment-response", "payment-receipt", "receipt-record"}
RAIL402 = str(Path(sys.executable).with_name("rail402"))


def run(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([RAIL402, *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False)


def read(*arguments: str, stdin: str | None = None) -> dict[str, Any]:
    done = run(*arguments, "--json", stdin=stdin)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate")


@pytest.fixture(scope="module")
def url(directory: Path) -> Iterator[str]:
    publisher = Publisher(directory)
    with publisher.serving():
        yield publisher.url


@pytest.mark.parametrize(
    ("path", "rail", "price", "dialects"),
    [
        ("/article/402", "base", "0.003 USDC", {"x402-v2", "mpp", "x402-v1"}),
        ("/weather", "lightning", "21 sat", {"x402-v2", "mpp", "l402", "x-receipt"}),
        ("/report", "stripe", "0.5 USD", {"mpp"}),
    ],
)
def test_every_offer_of_a_gate_is_found_and_can_be_paid(
    url: str, path: str, rail: str, price: str, dialects: set[str]
) -> None:
    report = read("inspect", url + path)
    assert report["kind"] == "payable"
    assert dialects <= {offer["dialect"] for offer in report["offers"]}
    assert {(offer["rail"], offer["price"], offer["verdict"]) for offer in report["offers"]} == {
        (rail, price, "payable")
    }
    assert all("sandbox" in name.lower() for offer in report["offers"] for name in offer["network_names"])
    assert 0 < report["challenge_bytes"] <= 7168
    assert (report["cache_control"], report["notes"]) == ("no-store", [])


def test_people_see_a_table(url: str) -> None:
    done = run("inspect", f"{url}/report")
    assert (done.returncode, done.stderr) == (0, "")
    title = "stripe · 0.5 USD · can be read and paid by the rails here"
    for part in ("402 Payment Required", title, "profile_sandbox", "a person can pay 0.5 USD"):
        assert part in done.stdout


def test_a_payment_has_one_box_and_all_has_one_for_each_offer(url: str) -> None:
    offers = read("inspect", f"{url}/weather")["offers"]
    short, every = run("inspect", f"{url}/weather").stdout, run("inspect", f"{url}/weather", "--all").stdout
    assert (short.count("╭"), every.count("╭")) == (1, len(offers))
    for shown in (short, every):
        assert "x402-v2, mpp, l402, x-receipt" in shown


def test_nothing_is_paid_and_the_same_route_still_asks(url: str) -> None:
    for _ in range(2):
        assert run("inspect", f"{url}/weather").returncode == 0
    assert httpx.get(f"{url}/weather").status_code == 402


def test_what_is_not_sold(url: str) -> None:
    assert run("inspect", f"{url}/openapi.json").returncode == 3
    assert run("inspect", f"{url}/nothing").returncode == 3
    assert run("inspect", "http://127.0.0.1:1/").returncode == 1
    assert run("inspect", "not a URL").returncode == 2


def test_every_string_of_a_challenge_is_explained(url: str) -> None:
    answer = httpx.get(f"{url}/weather")
    ours = [line for line in answer.headers.multi_items() if line[0] in ("payment-required", "www-authenticate")]
    assert len(ours) == 3
    for name, value in ours:
        explained = read("decode", f"{name}: {value}")
        assert [offer["verdict"] for offer in explained["facts"]["offers"]] == ["known"]
    assert read("decode", "-", stdin=answer.text)["kind"].startswith("payment terms (x-receipt")


class Watching(httpx.HTTPTransport):
    """Keeps the header lines that go out."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str, str]] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.sent += request.headers.multi_items()
        return super().handle_request(request)


@pytest.fixture(scope="module")
def lines(url: str, directory: Path) -> list[tuple[str, str]]:
    """Buy on each rail; return every header line of it, in both directions."""
    wallets = [BaseWallet.sandbox(directory), LightningWallet.sandbox(directory), StripeWallet.sandbox(directory)]
    payer, watching = Payer(wallets=wallets, journal=f"sqlite:///{directory}/journal.db"), Watching()
    found = []
    with payer, httpx.Client(transport=payer.sync_transport(watching)) as client:
        for path in ("/article/402", "/weather", "/report"):
            answer = client.get(url + path)
            assert answer.status_code == 200, answer.text
            found += answer.headers.multi_items()
    return [*watching.sent, *found]


def test_credentials_are_explained_and_their_secrets_hidden(lines: list[tuple[str, str]]) -> None:
    credentials = [line for line in lines if line[0] in ("payment-signature", "authorization")]
    assert len(credentials) == 3
    for name, value in credentials:
        explained = read("decode", f"{name}: {value}")
        assert len(explained["facts"]["known_to_rails"]) == 1
        assert "hidden" in json.dumps(explained["facts"]["payload"])
        assert "hidden" not in json.dumps(read("decode", "--secrets", f"{name}: {value}"))


def test_receipts_are_explained_and_verified(url: str, lines: list[tuple[str, str]]) -> None:
    receipts = {name: value for name, value in lines if name in RECEIPTS}
    assert receipts.keys() == RECEIPTS
    for name, value in receipts.items():
        assert read("decode", f"{name}: {value}")["kind"]
    jwks = f"{url}/.well-known/rail402/jwks.json"
    verified = read("decode", receipts["receipt-record"], "--jwks", jwks)
    assert verified["facts"]["signature_verifies"] is True
    assert verified["facts"]["claims"]["sandbox"] is True
    assert read("decode", "-", stdin=httpx.get(jwks).text)["kind"] == "JWK Set"
    claims = base64.urlsafe_b64encode(b'{"v":1}').rstrip(b"=").decode()
    head, _, signature = receipts["receipt-record"].split(".")
    assert run("decode", f"{head}.{claims}.{signature}", "--jwks", jwks).returncode == 1


def test_what_cannot_be_explained() -> None:
    done = run("decode", "hello")
    assert (done.returncode, done.stdout) == (1, "")
    assert "It can read:" in done.stderr
