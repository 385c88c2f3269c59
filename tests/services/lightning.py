"""The regtest network: btcd, and two lnd nodes with one channel between them."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.services import installed
from tests.services.btcd import Btcd, btcd
from tests.services.lnd import LndNode, connect, lnd
from tests.services.processes import wait_for

__all__ = ["CAPACITY_SAT", "PUSHED_SAT", "RegtestNetwork", "missing", "regtest_network"]

CAPACITY_SAT = 10_000_000
PUSHED_SAT = 2_000_000


@dataclass(frozen=True, slots=True)
class RegtestNetwork:
    """Two nodes with a channel: Alice opened it, and both can pay the other."""

    alice: LndNode
    bob: LndNode
    chain: Btcd

    def mine(self, blocks: int = 1) -> None:
        """Add `blocks` blocks and wait until both nodes know them."""
        height = self.chain.mine(blocks)
        for node in (self.alice, self.bob):
            wait_for(f"block {height} at {node.rest_url}", lambda node=node: node.is_synced(height), 60)  # type: ignore[misc]


def missing() -> str | None:
    """Why there is no regtest network and what to do about it; None if there is one."""
    if os.environ.get("RAIL402_TEST_BTCD_URL") or installed("lightning"):
        return None
    return "lnd and btcd are not installed: run .ci/run, or set RAIL402_TEST_BTCD_URL and the variables beside it"


@contextmanager
def regtest_network(directory: Path) -> Iterator[RegtestNetwork]:
    """The network of the environment variables, or one of our own with its files in `directory`, with the channel."""
    with ExitStack() as services:
        if os.environ.get("RAIL402_TEST_BTCD_URL"):
            network = _from_environment()
        else:
            chain = services.enter_context(btcd(directory / "btcd"))
            starting = [services.enter_context(lnd(name, directory / name, chain)) for name in ("alice", "bob")]
            alice, bob = (ready() for ready in starting)
            network = RegtestNetwork(alice, bob, chain)
        _ensure_channel(network)
        yield network


def _from_environment() -> RegtestNetwork:
    def variable(name: str) -> str:
        return os.environ[f"RAIL402_TEST_{name}"]

    def node(name: str) -> LndNode:
        paths = Path(variable(f"LND_{name}_TLS_CERT")), Path(variable(f"LND_{name}_MACAROON"))
        return connect(variable(f"LND_{name}_URL"), *paths)

    certificate = Path(variable("BTCD_TLS_CERT"))
    chain = Btcd(variable("BTCD_URL"), certificate, variable("BTCD_USER"), variable("BTCD_PASSWORD"))
    chain.activate()
    return RegtestNetwork(node("ALICE"), node("BOB"), chain)


def _ensure_channel(network: RegtestNetwork) -> None:
    """Open a channel, unless one of an earlier run against the same network still has money on Alice's side."""
    alice, bob = network.alice, network.bob

    def is_open() -> bool:
        return any(int(channel["local_balance"]) >= PUSHED_SAT for channel in alice.channels_to(bob))

    network.mine(1)  # lnd calls a chain with an old tip unsynced
    if is_open():
        return
    # btcd builds transactions to addresses of the old kinds only.
    network.chain.send_coinbase(alice.get("/v1/newaddress?type=NESTED_PUBKEY_HASH")["address"])
    network.mine(1)
    wait_for("Alice's coins", lambda: int(alice.get("/v1/balance/blockchain")["confirmed_balance"]) > CAPACITY_SAT, 30)

    if bob.pubkey not in {peer["pub_key"] for peer in alice.get("/v1/peers")["peers"]}:
        address = bob.get("/v1/getinfo")["uris"][0].partition("@")[2]
        alice.post("/v1/peers", {"addr": {"pubkey": bob.pubkey, "host": address}, "timeout": "10"})
    channel = {
        "node_pubkey": base64.b64encode(bytes.fromhex(bob.pubkey)).decode(),
        "local_funding_amount": str(CAPACITY_SAT),
        "push_sat": str(PUSHED_SAT),
    }
    alice.post("/v1/channels", channel)
    network.mine(6)
    wait_for("the channel", lambda: is_open() and bob.channels_to(alice), 60)
