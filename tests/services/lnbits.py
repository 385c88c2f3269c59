"""LNbits in front of the regtest nodes: one for a publisher, one for a payer."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from tests.services import install_root, installed
from tests.services.lightning import RegtestNetwork
from tests.services.lnd import LndNode
from tests.services.processes import ServiceFailed, free_ports, running, wait_for

__all__ = ["FUNDING_SAT", "SETTINGS", "LnbitsInstance", "LnbitsPair", "lnbits_pair", "missing"]

# What the payer's wallet holds at least when tests begin, and what it is topped up with.
FUNDING_SAT = 200_000

# How any of ours runs, in a container too.
SETTINGS = {
    "LNBITS_ADMIN_UI": "false",
    "LNBITS_RATE_LIMIT_NO": "1000000",
    "LNBITS_BACKEND_WALLET_CLASS": "LndRestWallet",
    # What it would ask the Internet for, several times per invoice.
    "LNBITS_PRICE_AGGREGATOR_ENABLED": "false",
    "LNBITS_EXCHANGE_RATE_PROVIDERS": "[]",
    "LNBITS_EXTENSIONS_MANIFESTS": "[]",
    "LNBITS_WASM_EXTENSIONS_MANIFESTS": "[]",
}


@dataclass(frozen=True, slots=True)
class LnbitsInstance:
    """One LNbits and one wallet in it."""

    url: str
    admin_key: str = field(repr=False)
    invoice_key: str = field(repr=False)
    wallet_id: str

    def client(self, key: str, timeout: float = 30) -> httpx.Client:
        """A client that sends `key`; `timeout` in seconds."""
        return httpx.Client(base_url=self.url, headers={"X-Api-Key": key}, trust_env=False, timeout=timeout)

    def balance(self) -> int:
        """The wallet's balance in msat."""
        with self.client(self.invoice_key) as client:
            return int(client.get("/api/v1/wallet").raise_for_status().json()["balance"])

    def create_invoice(self, amount_sat: int, memo: str) -> dict[str, Any]:
        """LNbits's record of a new invoice over `amount_sat`: `payment_hash`, `bolt11`, ..."""
        body = {"out": False, "amount": amount_sat, "unit": "sat", "memo": memo}
        with self.client(self.invoice_key) as client:
            invoice: dict[str, Any] = client.post("/api/v1/payments", json=body).raise_for_status().json()
        return invoice


@dataclass(frozen=True, slots=True)
class LnbitsPair:
    """The publisher's LNbits uses Alice's node, the payer's uses Bob's."""

    publisher: LnbitsInstance
    payer: LnbitsInstance


def missing() -> str | None:
    """Why there is no LNbits and what to do about it; None if there is one."""
    if os.environ.get("RAIL402_TEST_LNBITS_PUBLISHER_URL") or installed("lnbits"):
        return None
    return "LNbits is not installed: run .ci/run, or set RAIL402_TEST_LNBITS_PUBLISHER_URL and ..._PAYER_URL"


@contextmanager
def lnbits_pair(network: RegtestNetwork, directory: Path) -> Iterator[LnbitsPair]:
    """The two LNbits of the environment variables, or two of our own; the payer's wallet is funded over the channel."""
    with ExitStack() as services:
        if os.environ.get("RAIL402_TEST_LNBITS_PUBLISHER_URL"):
            publisher, payer = _from_environment("PUBLISHER"), _from_environment("PAYER")
        else:
            starting = [
                services.enter_context(_lnbits(name, directory / name, node))
                for name, node in (("publisher", network.alice), ("payer", network.bob))
            ]
            publisher, payer = (ready() for ready in starting)
        _fund(payer, network.alice)
        yield LnbitsPair(publisher, payer)


@contextmanager
def _lnbits(name: str, directory: Path, node: LndNode) -> Iterator[Callable[[], LnbitsInstance]]:
    """Start an LNbits of our own on a free loopback port with `node` as its funding source.

    Yields a function that waits until it answers and makes an account there.
    """
    (port,) = free_ports(1)
    environment = install_root() / "lnbits"
    settings = SETTINGS | {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "AUTH_SECRET_KEY": secrets.token_hex(16),
        "ENABLE_LOG_TO_FILE": "false",
        "LNBITS_DATA_FOLDER": str(directory / "data"),
        "LNBITS_EXTENSIONS_PATH": str(directory / "extensions"),
        "LND_REST_ENDPOINT": node.rest_url,
        "LND_REST_CERT": str(node.tls_cert_path),
        "LND_REST_MACAROON": node.macaroon_hex,
        "LNBITS_CALLBACK_URL_RULES": json.dumps([r"http://127\.0\.0\.1(:\d+)?"]),
        "LNBITS_CALLBACK_ALLOW_PRIVATE_IPS": "true",
        # Should it ask the Internet still: port 9 answers nobody.
        "ALL_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
    }
    # LNbits serves its static files relative to the working directory.
    (site_packages,) = environment.glob("lib/python3.*/site-packages")
    command = [str(environment / "bin" / "lnbits")]
    with running(f"lnbits-{name}", command, directory, env=settings, cwd=site_packages) as process:

        def ready() -> LnbitsInstance:
            url = f"http://127.0.0.1:{port}"
            process.wait_until("HTTP", lambda: _is_up(url))
            if "Fallback to VoidWallet" in process.log_path.read_text():
                raise ServiceFailed(f"LNbits cannot use its node:\n{process.log_tail()}")
            return _new_account(url)

        yield ready


def _is_up(url: str) -> bool:
    return httpx.get(f"{url}/api/v1/health", trust_env=False).is_success


def _new_account(url: str) -> LnbitsInstance:
    with httpx.Client(base_url=url, trust_env=False) as client:
        wallet = client.post("/api/v1/account", json={"name": "tests"}).raise_for_status().json()
    return LnbitsInstance(url, wallet["adminkey"], wallet["inkey"], wallet["id"])


def _from_environment(role: str) -> LnbitsInstance:
    prefix = f"RAIL402_TEST_LNBITS_{role}"
    url, admin_key = os.environ[f"{prefix}_URL"], os.environ.get(f"{prefix}_KEY")
    wait_for(f"LNbits at {url}", lambda: _is_up(url), 60)
    if not admin_key:
        return _new_account(url)
    instance = LnbitsInstance(url, admin_key, os.environ[f"{prefix}_INVOICE_KEY"], "")
    with instance.client(admin_key) as client:
        wallet = client.get("/api/v1/wallet").raise_for_status().json()
    return replace(instance, wallet_id=wallet["id"])


def _fund(payer: LnbitsInstance, other_node: LndNode) -> None:
    """Top the payer's wallet up, as anybody would: `other_node` pays an invoice of it."""
    if payer.balance() >= FUNDING_SAT * 1000:
        return
    other_node.pay(payer.create_invoice(FUNDING_SAT, "funds for tests")["bolt11"])
    wait_for("the payer's funds in LNbits", lambda: payer.balance() >= FUNDING_SAT * 1000, 30)
