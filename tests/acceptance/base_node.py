"""A node of Base, for the refusals of docs/production-base.md: what it says of a chain can be set."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from rail402_base import BASE_USDC, ChainReader, RelaySettings, RpcBackend, Token
from rail402_base.eip3009 import Authorization, address_of, digest, sign
from rail402_base.rpc.abi import call_data

__all__ = ["AUTHORIZATION", "GWEI", "PAYEE", "SIGNATURE", "URL", "Node", "selector"]

URL: Final = "https://base.example.com/v1/a-key-of-mine"
PAYEE: Final = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
PAYER_KEY: Final = bytes.fromhex("22" * 32)
GWEI: Final = 10**9
AUTHORIZATION: Final = Authorization(
    from_=address_of(PAYER_KEY), to=PAYEE, value=3000, valid_after=0, valid_before=1_900_000_000, nonce=bytes(32)
)
SIGNATURE: Final = sign(digest(BASE_USDC.domain, AUTHORIZATION), PAYER_KEY)


def selector(function: str) -> str:
    """The first bytes of a call of that function."""
    return call_data(function)[:10]


def word(value: int) -> str:
    return f"0x{value:064x}"


@dataclass
class Node:
    """Answers JSON-RPC; `answers` by method, or by the function that a contract is called with."""

    token: Token = BASE_USDC
    status: int = 200
    error: Exception | None = None
    answers: dict[str, Any] = field(default_factory=dict)

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._handle)

    @property
    def reader(self) -> ChainReader:
        """What a rail and a wallet look at the chain with."""
        return ChainReader([URL], self.token, transport=self.transport)

    def recover(self) -> None:
        """From now on it answers as a node does that is well."""
        self.status, self.error, self.answers = 200, None, {}

    def backend(self, store: str, *, max_fee_per_gas: int = GWEI) -> RpcBackend:
        """What a rail settles with."""
        return RpcBackend(
            self.reader, "11" * 32, store=store, settings=RelaySettings(max_fee_per_gas=max_fee_per_gas, poll_ms=1)
        )

    def _handle(self, request: httpx.Request) -> httpx.Response:
        if self.error is not None:
            raise self.error
        if self.status != 200:
            return httpx.Response(self.status)
        asked = json.loads(request.content)
        calls = asked if isinstance(asked, list) else [asked]
        said = [{"jsonrpc": "2.0", "id": call["id"], "result": self._answer(call)} for call in calls]
        return httpx.Response(200, json=said if isinstance(asked, list) else said[0])

    def _answer(self, call: dict[str, Any]) -> Any:
        if call["method"] != "eth_call":
            return ({**_CHAIN, "eth_chainId": hex(self.token.network.chain_id)} | self.answers)[call["method"]]
        called, data = {**self._contract()} | self.answers, call["params"][0]["data"]
        if data.startswith(selector("isBlacklisted(address)")):
            return word(int(f"0x{data[-40:]}" == str(self.answers.get("blacklisted", "")).lower()))
        return next((said for function, said in called.items() if data.startswith(selector(function))), "0x")

    def _contract(self) -> dict[str, str]:
        return {
            "DOMAIN_SEPARATOR()": f"0x{BASE_USDC.domain.separator.hex()}",
            "decimals()": word(6),
            "paused()": word(0),
            "balanceOf(address)": word(10**9),
            "authorizationState(address,bytes32)": word(0),
        }


_CHAIN: Final = {
    "eth_syncing": False,
    "eth_getCode": "0x6080",
    "eth_getTransactionCount": "0x0",
    "eth_estimateGas": hex(90_000),
    "eth_call": "0x",
    "eth_getBalance": hex(10**18),
    "eth_maxPriorityFeePerGas": hex(10**6),
    "eth_getBlockByNumber": {"number": "0x64", "timestamp": hex(1_800_000_000), "baseFeePerGas": hex(10**7)},
}
