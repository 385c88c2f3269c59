"""btcd on regtest: the chain below the Lightning nodes."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.services import install_root
from tests.services.processes import ServiceFailed, free_ports, running

__all__ = ["MINING_ADDRESS", "Btcd", "btcd"]

# Pays to the script OP_TRUE by its hash (P2SH): btcd has no wallet, and coins that need no signature need none.
MINING_ADDRESS = "2ND8PB9RrfCaAcjfjP1Y6nAgFd9zWHYX4DN"
_PUSH_OF_OP_TRUE = "0151"
# Version, input count and outpoint come before the one input's script, which `createrawtransaction` leaves empty.
_SCRIPT_OFFSET = 2 * (4 + 1 + 36)
# Segwit and taproot lock in by version bits: three windows of 144 blocks.
_ACTIVATION_HEIGHT = 440
_COINBASE_MATURITY = 100
_FEE_BTC = 0.0001


@dataclass(frozen=True, slots=True)
class Btcd:
    """Where a btcd answers, and its RPC."""

    url: str
    tls_cert_path: Path
    user: str
    password: str = field(repr=False)

    def call(self, method: str, *params: Any) -> Any:
        """The result of one JSON-RPC call; raises ServiceFailed with btcd's error."""
        trust = ssl.create_default_context(cafile=self.tls_cert_path)
        with httpx.Client(verify=trust, auth=(self.user, self.password), trust_env=False, timeout=120) as client:
            response = client.post(self.url, json={"jsonrpc": "1.0", "id": 1, "method": method, "params": params})
        response.raise_for_status()
        answer = response.json()
        if answer.get("error"):
            raise ServiceFailed(f"btcd refused {method}: {answer['error']}")
        return answer["result"]

    def height(self) -> int:
        """The number of blocks."""
        return int(self.call("getblockcount"))

    def mine(self, blocks: int) -> int:
        """Add `blocks` blocks; returns the new height."""
        self.call("generate", blocks)
        return self.height()

    def activate(self) -> None:
        """Mine until the soft forks that Lightning needs are in force and the first coinbases can be spent."""
        missing = _ACTIVATION_HEIGHT - self.height()
        if missing > 0:
            self.mine(missing)

    def fund(self, *addresses: str) -> None:
        """Share one matured coinbase among `addresses`; they have it once a block is mined."""
        txid, amount = self._spendable_coinbase()
        share = round((amount - _FEE_BTC) / len(addresses), 8)
        outputs = dict.fromkeys(addresses, share)
        transaction = self.call("createrawtransaction", [{"txid": txid, "vout": 0}], outputs)
        head, tail = transaction[:_SCRIPT_OFFSET], transaction[_SCRIPT_OFFSET:].removeprefix("00")
        self.call("sendrawtransaction", f"{head}{len(_PUSH_OF_OP_TRUE) // 2:02x}{_PUSH_OF_OP_TRUE}{tail}")

    def lnd_flags(self) -> list[str]:
        """What an lnd on this machine needs to follow the chain."""
        return [
            "--bitcoin.node=btcd",
            f"--btcd.rpchost={self.url.removeprefix('https://')}",
            f"--btcd.rpccert={self.tls_cert_path}",
            f"--btcd.rpcuser={self.user}",
            f"--btcd.rpcpass={self.password}",
        ]

    def _spendable_coinbase(self) -> tuple[str, float]:
        for height in range(1, self.height() - _COINBASE_MATURITY):
            txid = self.call("getblock", self.call("getblockhash", height))["tx"][0]
            output = self.call("gettxout", txid, 0)
            if output is not None and MINING_ADDRESS in output["scriptPubKey"].get("addresses", []):
                return txid, output["value"]
        raise ServiceFailed(f"no matured coinbase pays to {MINING_ADDRESS}")


@contextmanager
def btcd(directory: Path) -> Iterator[Btcd]:
    """A btcd of our own on free loopback ports, its files in `directory`, with the soft forks active."""
    (rpc_port,) = free_ports(1)
    node = Btcd(f"https://127.0.0.1:{rpc_port}", directory / "rpc.cert", "rail402", "regtest")
    command = [
        str(install_root() / "lightning" / "btcd"),
        "--regtest",
        "--txindex",
        "--nodnsseed",
        "--nolisten",
        f"--datadir={directory / 'data'}",
        f"--logdir={directory / 'logs'}",
        f"--rpclisten=127.0.0.1:{rpc_port}",
        f"--rpccert={node.tls_cert_path}",
        f"--rpckey={directory / 'rpc.key'}",
        f"--rpcuser={node.user}",
        f"--rpcpass={node.password}",
        f"--miningaddr={MINING_ADDRESS}",
    ]
    with running("btcd", command, directory) as process:
        process.wait_until("certificate", lambda: (directory / "rpc.key").exists())
        process.wait_until("RPC", lambda: node.height() >= 0)
        node.activate()
        yield node
