"""Bitcoin Core on regtest, which somebody else runs: the chain of `docker-compose.lightning.yml`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.services.processes import ServiceFailed

__all__ = ["WALLET", "Bitcoind"]

# The wallet that blocks are mined to and coins are sent from.
WALLET = "rail402"
_COINBASE_MATURITY = 100
# Far more than tests need at once; a subsidy halves every 150 blocks here.
_ENOUGH_BTC = 10
_SHARE_BTC = 1
# Named, for a young chain has no fees to estimate from.
_FEE_SAT_PER_VBYTE = 10


@dataclass(frozen=True, slots=True)
class Bitcoind:
    """Where a bitcoind answers, and its RPC."""

    url: str
    user: str
    password: str = field(repr=False)

    def call(self, method: str, **params: Any) -> Any:
        """The result of one JSON-RPC call; raises ServiceFailed with bitcoind's error."""
        with httpx.Client(auth=(self.user, self.password), trust_env=False, timeout=120) as client:
            body = {"jsonrpc": "1.0", "id": 1, "method": method, "params": params}
            response = client.post(f"{self.url}/wallet/{WALLET}", json=body)
        # Errors of a call come with status 500 and are JSON all the same.
        if "json" not in response.headers.get("content-type", ""):
            raise ServiceFailed(f"bitcoind at {self.url} answered {response.status_code} to {method}")
        answer = response.json()
        if answer.get("error"):
            raise ServiceFailed(f"bitcoind refused {method}: {answer['error']}")
        return answer["result"]

    def height(self) -> int:
        """The number of blocks."""
        return int(self.call("getblockcount"))

    def mine(self, blocks: int) -> int:
        """Add `blocks` blocks; returns the new height."""
        self.call("generatetoaddress", nblocks=blocks, address=self.call("getnewaddress"))
        return self.height()

    def activate(self) -> None:
        """Open the wallet, make it if there is none, and mine until it has coins to spend."""
        if WALLET not in self.call("listwallets"):
            wallets = [wallet["name"] for wallet in self.call("listwalletdir")["wallets"]]
            if WALLET in wallets:
                self.call("loadwallet", filename=WALLET)
            else:
                self.call("createwallet", wallet_name=WALLET)
        if self.call("getbalance") < _ENOUGH_BTC:
            self.mine(_COINBASE_MATURITY + 1)

    def fund(self, *addresses: str) -> None:
        """Send a bitcoin to each of `addresses`; they have it once a block is mined."""
        self.call("sendmany", amounts=dict.fromkeys(addresses, _SHARE_BTC), fee_rate=_FEE_SAT_PER_VBYTE)

    def lnd_flags(self) -> list[str]:
        """What an lnd on this machine needs to follow the chain."""
        return [
            "--bitcoin.node=bitcoind",
            f"--bitcoind.rpchost={self.url.removeprefix('http://')}",
            f"--bitcoind.rpcuser={self.user}",
            f"--bitcoind.rpcpass={self.password}",
            "--bitcoind.rpcpolling",  # its ZeroMQ may not reach that far
        ]
