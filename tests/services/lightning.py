"""The regtest network: a chain, and three lnd nodes in a row: Alice — Bob — Carol."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from tests.services import installed
from tests.services.bitcoind import Bitcoind
from tests.services.btcd import Btcd, btcd
from tests.services.lnd import BASE_FEE_MSAT, FEE_PPM, LndNode, connect, lnd
from tests.services.processes import wait_for

__all__ = [
    "CAPACITY_SAT",
    "PUSHED_SAT",
    "Chain",
    "RegtestNetwork",
    "missing",
    "regtest_network",
    "routing_fee",
    "runs_elsewhere",
]

CAPACITY_SAT = 10_000_000
PUSHED_SAT = 2_000_000


class Chain(Protocol):
    """What the tests need of the chain below the nodes, whoever keeps it."""

    def height(self) -> int:
        """The number of blocks."""

    def mine(self, blocks: int) -> int:
        """Add `blocks` blocks; returns the new height."""

    def activate(self) -> None:
        """Make the chain fit for Lightning and for `fund`."""

    def fund(self, *addresses: str) -> None:
        """Send each of `addresses` enough for a channel; they have it once a block is mined."""

    def lnd_flags(self) -> list[str]:
        """What an lnd on this machine needs to follow the chain."""


@dataclass(frozen=True, slots=True)
class RegtestNetwork:
    """Alice has a channel with Bob and Bob one with Carol, with money on both sides of each.

    Alice and Carol pay each other over Bob, who takes `routing_fee`.
    """

    alice: LndNode
    bob: LndNode
    carol: LndNode
    chain: Chain

    @property
    def nodes(self) -> tuple[LndNode, LndNode, LndNode]:
        """The nodes, each with a channel to the next."""
        return self.alice, self.bob, self.carol

    def mine(self, blocks: int = 1) -> None:
        """Add `blocks` blocks and wait until all nodes know them."""
        height = self.chain.mine(blocks)
        for node in self.nodes:
            wait_for(f"block {height} at {node.rest_url}", lambda node=node: node.is_synced(height), 60)  # type: ignore[misc]

    def wait_until_idle(self) -> None:
        """Wait until no payment is under way: a payer has its preimage before the balances of all have followed."""
        wait_for("the end of all payments", self._is_idle, 30)

    def _is_idle(self) -> bool:
        """Whether no channel holds a payment, and both its sides count the same."""
        counted: dict[str, set[frozenset[str]]] = {}
        for node in self.nodes:
            for channel in node.get("/v1/channels")["channels"]:
                if channel["pending_htlcs"]:
                    return False
                balances = frozenset({f"{node.pubkey} {channel['local_balance']}"})
                balances |= {f"{channel['remote_pubkey']} {channel['remote_balance']}"}
                counted.setdefault(channel["chan_id"], set()).add(balances)
        return all(len(balances) == 1 for balances in counted.values())


def routing_fee(amount: int) -> int:
    """What Bob takes for forwarding `amount`, both in msat."""
    return BASE_FEE_MSAT + amount * FEE_PPM // 1_000_000


def missing() -> str | None:
    """Why there is no regtest network and what to do about it; None if there is one."""
    if runs_elsewhere() or installed("lightning"):
        return None
    return "lnd and btcd are not installed: run .ci/run, or see docs/regtest.md for a network in containers"


def runs_elsewhere() -> bool:
    """Whether the environment says where a network is."""
    return any(os.environ.get(f"RAIL402_TEST_{chain}_URL") for chain in ("BTCD", "BITCOIND"))


@contextmanager
def regtest_network(directory: Path) -> Iterator[RegtestNetwork]:
    """The network of the environment variables, or one of our own with its files in `directory`, with the channels."""
    with ExitStack() as services:
        if runs_elsewhere():
            network = _from_environment()
        else:
            chain = services.enter_context(btcd(directory / "btcd"))
            names = "alice", "bob", "carol"
            starting = [services.enter_context(lnd(name, directory / name, chain)) for name in names]
            alice, bob, carol = (ready() for ready in starting)
            network = RegtestNetwork(alice, bob, carol, chain)
        _ensure_channels(network)
        yield network


def _from_environment() -> RegtestNetwork:
    def variable(name: str) -> str:
        return os.environ[f"RAIL402_TEST_{name}"]

    def node(name: str) -> LndNode:
        paths = Path(variable(f"LND_{name}_TLS_CERT")), Path(variable(f"LND_{name}_MACAROON"))
        return connect(variable(f"LND_{name}_URL"), *paths)

    chain: Chain
    if os.environ.get("RAIL402_TEST_BITCOIND_URL"):
        chain = Bitcoind(variable("BITCOIND_URL"), variable("BITCOIND_USER"), variable("BITCOIND_PASSWORD"))
    else:
        certificate = Path(variable("BTCD_TLS_CERT"))
        chain = Btcd(variable("BTCD_URL"), certificate, variable("BTCD_USER"), variable("BTCD_PASSWORD"))
    chain.activate()
    return RegtestNetwork(node("ALICE"), node("BOB"), node("CAROL"), chain)


def _ensure_channels(network: RegtestNetwork) -> None:
    """Open the channels, unless those of an earlier run against the same network have money on the opener's side."""
    network.mine(1)  # lnd calls a chain with an old tip unsynced
    pairs = list(pairwise(network.nodes))
    opening = [(opener, peer) for opener, peer in pairs if not _usable(opener, peer)]
    if opening:
        # btcd builds transactions to addresses of the old kinds only.
        addresses = [opener.get("/v1/newaddress?type=NESTED_PUBKEY_HASH")["address"] for opener, _ in opening]
        network.chain.fund(*addresses)
        network.mine(1)
        for opener, peer in opening:
            _open(opener, peer)
        network.mine(6)
    # All need to know all channels, for their routes.
    wait_for("the channels", lambda: all(_is_known(*pair, network) for pair in pairs), 60)


def _usable(opener: LndNode, peer: LndNode) -> list[str]:
    """The ids of the channels to `peer` in which both have money."""
    channels = opener.channels_to(peer)
    return [channel["chan_id"] for channel in channels if int(channel["local_balance"]) >= PUSHED_SAT]


def _is_known(opener: LndNode, peer: LndNode, network: RegtestNetwork) -> bool:
    channels = _usable(opener, peer)
    all_know = bool(channels) and all(node.can_route(channels[0]) for node in network.nodes)
    return all_know and bool(peer.channels_to(opener))


def _open(opener: LndNode, peer: LndNode) -> None:
    """Open a channel to `peer` with coins that are confirmed; it can be used after six blocks."""

    def funds() -> bool:
        return int(opener.get("/v1/balance/blockchain")["confirmed_balance"]) > CAPACITY_SAT

    wait_for(f"the coins of {opener.rest_url}", funds, 30)
    if peer.pubkey not in {known["pub_key"] for known in opener.get("/v1/peers")["peers"]}:
        address = peer.get("/v1/getinfo")["uris"][0].partition("@")[2]
        opener.post("/v1/peers", {"addr": {"pubkey": peer.pubkey, "host": address}, "timeout": "10"})
    channel = {
        "node_pubkey": base64.b64encode(bytes.fromhex(peer.pubkey)).decode(),
        "local_funding_amount": str(CAPACITY_SAT),
        "push_sat": str(PUSHED_SAT),
    }
    opener.post("/v1/channels", channel)
