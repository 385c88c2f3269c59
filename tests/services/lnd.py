"""lnd nodes: how one is started, and the few REST calls that tests make."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from tests.services import install_root
from tests.services.btcd import Btcd
from tests.services.processes import ServiceFailed, free_ports, running

__all__ = ["BASE_FEE_MSAT", "FEE_PPM", "LndNode", "connect", "lnd"]

# What each node takes for forwarding a payment.
BASE_FEE_MSAT = 1000
FEE_PPM = 100


@dataclass(frozen=True, slots=True)
class LndNode:
    """One lnd: where its REST API answers, whom to trust there, and the macaroon that may do everything."""

    rest_url: str
    tls_cert_path: Path
    macaroon_path: Path
    macaroon_hex: str = field(repr=False)
    pubkey: str
    rpc_address: str | None = None
    """Where lncli reaches it, if it is one of our own."""

    def client(self, timeout: float = 30) -> httpx.Client:
        """A client with the node's certificate and macaroon; `timeout` in seconds."""
        return _client(self.rest_url, self.tls_cert_path, self.macaroon_hex, timeout)

    def get(self, path: str) -> Any:
        """The JSON answer to GET `path`; raises httpx.HTTPStatusError."""
        with self.client() as client:
            return client.get(path).raise_for_status().json()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON answer to POST `path`; raises httpx.HTTPStatusError."""
        with self.client() as client:
            return client.post(path, json=body).raise_for_status().json()

    def is_synced(self, height: int) -> bool:
        """Whether the node has followed the chain to `height`."""
        info = self.get("/v1/getinfo")
        return bool(info["synced_to_chain"]) and int(info["block_height"]) >= height

    def channels_to(self, peer: LndNode) -> list[dict[str, Any]]:
        """The open channels to `peer` that can carry payments now."""
        peer_key = base64.urlsafe_b64encode(bytes.fromhex(peer.pubkey)).decode()
        channels: list[dict[str, Any]] = self.get(f"/v1/channels?active_only=true&peer={peer_key}")["channels"]
        return [channel for channel in channels if self.can_route(channel["chan_id"])]

    def can_route(self, channel_id: str) -> bool:
        """Whether the pathfinder knows the channel and both sides' fees; until then it is no use."""
        with self.client() as client:
            answer = client.get(f"/v1/graph/edge/{channel_id}")
        edge = answer.json()
        return answer.is_success and bool(edge["node1_policy"] and edge["node2_policy"])

    def channel_balance(self) -> int:
        """Our side of all channels in msat."""
        return int(self.get("/v1/balance/channels")["local_balance"]["msat"])

    def bake(self, *permissions: str) -> bytes:
        """A macaroon for `permissions`, each like `invoices:read`."""
        asked = [dict(zip(("entity", "action"), each.split(":", 1), strict=True)) for each in permissions]
        return bytes.fromhex(self.post("/v1/macaroon", {"permissions": asked})["macaroon"])

    def create_invoice(self, amount: int) -> str:
        """A new invoice over `amount` msat."""
        return str(self.post("/v1/invoices", {"value_msat": str(amount)})["payment_request"])

    def pay(self, bolt11: str, fee_limit: int = 0) -> str:
        """Pay an invoice with at most `fee_limit` msat of routing fees.

        Returns the preimage in hex; raises ServiceFailed with lnd's reason.
        """
        body = {
            "payment_request": bolt11,
            "timeout_seconds": 30,
            "fee_limit_msat": str(fee_limit),
            "no_inflight_updates": True,
        }
        with self.client(timeout=60) as client:
            answer = client.post("/v2/router/send", json=body)
        # One JSON document per line; without updates in flight the last one is final.
        payment = json.loads(answer.text.splitlines()[-1]).get("result", {})
        if payment.get("status") != "SUCCEEDED":
            raise ServiceFailed(f"lnd did not pay: {answer.text}")
        return str(payment["payment_preimage"])


def connect(rest_url: str, tls_cert_path: Path, macaroon_path: Path) -> LndNode:
    """Describe a node that is up already; asks it for its public key."""
    macaroon = macaroon_path.read_bytes().hex()
    with _client(rest_url, tls_cert_path, macaroon, timeout=30) as client:
        info = client.get("/v1/getinfo").raise_for_status().json()
    return LndNode(rest_url, tls_cert_path, macaroon_path, macaroon, info["identity_pubkey"])


def _client(rest_url: str, tls_cert_path: Path, macaroon_hex: str, timeout: float) -> httpx.Client:
    return httpx.Client(
        base_url=rest_url,
        verify=ssl.create_default_context(cafile=tls_cert_path),
        headers={"Grpc-Metadata-macaroon": macaroon_hex},
        trust_env=False,
        timeout=timeout,
    )


@contextmanager
def lnd(name: str, directory: Path, chain: Btcd) -> Iterator[Callable[[], LndNode]]:
    """Start an lnd of our own on free loopback ports, its files in `directory`, its wallet empty; it follows `chain`.

    Yields a function that waits until the node is in use, so that several nodes can start at once.
    """
    peer_port, rpc_port, rest_port = free_ports(3)
    rest_url = f"https://127.0.0.1:{rest_port}"
    certificate = directory / "tls.cert"
    macaroon = directory / "data/chain/bitcoin/regtest/admin.macaroon"
    command = [
        str(install_root() / "lightning" / "lnd"),
        f"--lnddir={directory}",
        f"--alias={name}",
        "--noseedbackup",
        f"--listen=127.0.0.1:{peer_port}",
        f"--externalip=127.0.0.1:{peer_port}",
        f"--rpclisten=127.0.0.1:{rpc_port}",
        f"--restlisten=127.0.0.1:{rest_port}",
        "--tlsdisableautofill",  # else the certificate lists every address of this machine
        "--logging.file.disable",
        "--nobootstrap",
        "--trickledelay=50",
        "--db.batch-commit-interval=5ms",  # half a second by default, several times before a channel is known to all
        # A busy machine or a full disk must not make lnd shut itself down in the middle of a test.
        "--healthcheck.chainbackend.attempts=0",
        "--healthcheck.diskspace.attempts=0",
        "--bitcoin.regtest",
        "--bitcoin.defaultchanconfs=1",
        f"--bitcoin.basefee={BASE_FEE_MSAT}",
        f"--bitcoin.feerate={FEE_PPM}",
        *chain.lnd_flags(),
    ]
    with running(name, command, directory) as process:

        def ready() -> LndNode:
            process.wait_until("macaroon", lambda: macaroon.exists() and macaroon.stat().st_size)
            process.wait_until("RPC", lambda: _state(rest_url, certificate) == "SERVER_ACTIVE")
            node = replace(connect(rest_url, certificate, macaroon), rpc_address=f"127.0.0.1:{rpc_port}")
            process.wait_until("chain", lambda: node.is_synced(chain.height()))
            return node

        yield ready


def _state(rest_url: str, tls_cert_path: Path) -> str:
    with _client(rest_url, tls_cert_path, "", timeout=5) as client:
        return str(client.get("/v1/state").json().get("state"))
