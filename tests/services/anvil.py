"""An EVM chain that calls itself Base Sepolia, with a token like USDC where USDC is there."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import httpx

from rail402_base.eip3009 import Authorization, address_of, digest, keccak256, sign
from rail402_base.tokens import BASE_SEPOLIA_USDC, Token
from tests.services import install_root, installed
from tests.services.processes import ServiceFailed, free_ports, running, wait_for

__all__ = ["ETHER", "MANNERS", "USDC", "Account", "EvmChain", "evm_chain", "missing"]

ETHER: Final = 10**18
USDC: Final = 10**6
MANNERS: Final = (
    "honest",
    "refuses",
    "reverts",
    "answers too little",
    "answers too much",
    "answers with more",
    "burns gas",
    "breaks",
    "lies to calls",
    "burns gas when mined",
    "takes anything",
)
"""How a wallet that is a contract can behave: `Manner` of SmartWallet.sol."""


@dataclass(frozen=True, slots=True)
class Account:
    """A key of our own and its address; of a wallet that is a contract, its owner's key and its own address."""

    private_key: str = field(repr=False)
    address: str

    @property
    def key_bytes(self) -> bytes:
        """The key as it signs."""
        return bytes.fromhex(self.private_key[2:])


@dataclass(frozen=True, slots=True)
class EvmChain:
    """An anvil: where it answers, and what tests do to it. It mines each transaction at once unless told otherwise.

    What changes money, code or rules writes the storage directly: it needs no block and no key, and transactions that
    wait are not mined by it.

    Attributes:
        url: of its JSON-RPC; client: what asks there.
        slots: in which storage slot the token keeps each of its variables; wallet_slots: the same of a smart wallet.
        wallet_code: what runs at a smart wallet's address.
        token: the token, at the address of USDC on Base Sepolia.
    """

    url: str
    slots: dict[str, int] = field(repr=False)
    client: httpx.Client = field(repr=False)
    token: Token = BASE_SEPOLIA_USDC
    wallet_slots: dict[str, int] = field(default_factory=dict, repr=False)
    wallet_code: str = field(default="0x", repr=False)

    def call(self, method: str, *params: Any) -> Any:
        """The result of one JSON-RPC call; raises ServiceFailed with anvil's error."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = self.client.post(self.url, json=request).raise_for_status().json()
        if "error" in answer:
            raise ServiceFailed(f"anvil refused {method}: {answer['error']}")
        return answer["result"]

    # --- money

    def account(self, *, ether: int = 0, usdc: int = 0) -> Account:
        """A new account that holds `ether` wei and `usdc` atomic units."""
        key = secrets.token_bytes(32)
        account = Account("0x" + key.hex(), address_of(key))
        if ether:
            self.set_ether(account.address, ether)
        if usdc:
            self.set_usdc(account.address, usdc)
        return account

    def ether_of(self, address: str) -> int:
        """What an address holds in wei."""
        return int(self.call("eth_getBalance", address, "latest"), 16)

    def set_ether(self, address: str, amount: int) -> None:
        """Have an address hold `amount` wei."""
        self.call("anvil_setBalance", address, hex(amount))

    def usdc_of(self, address: str) -> int:
        """What an address holds in atomic units of the token."""
        return int(self.read("balanceOf(address)", _word(address)), 16)

    def set_usdc(self, address: str, amount: int) -> None:
        """Have an address hold `amount` atomic units of the token."""
        self._store(_entry(address, self.slots["_balances"]), amount)

    # --- wallets that are contracts

    def smart_wallet(self, *, usdc: int = 0) -> Account:
        """A new contract that pays (ERC-1271): its address, and the key of its owner, whose word it takes."""
        owner, wallet = self.account(), self.account(usdc=usdc).address
        self.call("anvil_setCode", wallet, self.wallet_code)
        self._store(self.wallet_slots["owner"].to_bytes(32, "big"), int(owner.address, 16), at=wallet)
        return Account(owner.private_key, wallet)

    def behave(self, wallet: Account, manner: str) -> None:
        """Have a smart wallet behave as one of `MANNERS` from now on."""
        self._store(self.wallet_slots["manner"].to_bytes(32, "big"), MANNERS.index(manner), at=wallet.address)

    def destroy(self, wallet: Account) -> None:
        """Have a smart wallet be no contract any more."""
        self.call("anvil_setCode", wallet.address, "0x")

    # --- the token

    def read(self, function: str, *words: bytes) -> str:
        """What a function of the token answers, in hex; its arguments are 32 bytes each."""
        data = "0x" + (_selector(function) + b"".join(words)).hex()
        return str(self.call("eth_call", {"to": self.token.address, "data": data}, "latest"))

    def is_used(self, authorizer: str, nonce: bytes) -> bool:
        """Whether the token has taken, or its payer cancelled, an authorization."""
        return bool(int(self.read("authorizationState(address,bytes32)", _word(authorizer), nonce), 16))

    def pause(self, on: bool = True) -> None:
        """Have the token refuse everything, or go on."""
        self._store(self.slots["paused"].to_bytes(32, "big"), int(on))

    def blacklist(self, address: str, on: bool = True) -> None:
        """Have the token refuse what an address pays and is paid, or go on."""
        self._store(_entry(address, self.slots["isBlacklisted"]), int(on))

    def _store(self, slot: bytes, value: int, *, at: str | None = None) -> None:
        self.call("anvil_setStorageAt", at or self.token.address, "0x" + slot.hex(), f"0x{value:064x}")

    # --- transactions

    def send(self, sender: str, to: str, data: bytes) -> str:
        """Have an address send a transaction, whether its key is known or not; returns its hash.

        It gets the ether that this takes. The transaction is mined, unless the chain is told not to.
        """
        self.set_ether(sender, ETHER)
        self.call("anvil_impersonateAccount", sender)
        # A gas limit, because to estimate one would refuse what is meant to fail.
        transaction = {"from": sender, "to": to, "data": "0x" + data.hex(), "gas": hex(300_000)}
        sent = str(self.call("eth_sendTransaction", transaction))
        if self.call("anvil_getAutomine"):  # which is done a moment later
            wait_for(f"the block with {sent}", lambda: self.receipt(sent), 10)
        return sent

    def send_usdc(self, sender: str, to: str, amount: int) -> str:
        """Have an address send `amount` atomic units of the token; returns the transaction's hash."""
        data = _selector("transfer(address,uint256)") + _word(to) + amount.to_bytes(32, "big")
        return self.send(sender, self.token.address, data)

    def submit(self, sender: str, authorization: Authorization, signature: bytes) -> str:
        """Have an address hand an authorization in; returns the transaction's hash."""
        arguments = "address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32"
        data = _selector(f"transferWithAuthorization({arguments})")
        data += _word(authorization.from_) + _word(authorization.to)
        for number in (authorization.value, authorization.valid_after, authorization.valid_before):
            data += number.to_bytes(32, "big")
        data += authorization.nonce + _in_three_words(signature)
        return self.send(sender, self.token.address, data)

    def submit_bytes(self, sender: str, authorization: Authorization, signature: bytes) -> str:
        """Have an address hand an authorization in with a signature of any size; returns the transaction's hash."""
        data = _selector("transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)")
        data += _word(authorization.from_) + _word(authorization.to)
        for number in (authorization.value, authorization.valid_after, authorization.valid_before):
            data += number.to_bytes(32, "big")
        data += authorization.nonce + (7 * 32).to_bytes(32, "big") + len(signature).to_bytes(32, "big")
        return self.send(sender, self.token.address, data + signature + bytes(-len(signature) % 32))

    def cancel(self, sender: str, authorizer: str, nonce: bytes, signature: bytes) -> str:
        """Have an address hand a signed cancellation in; returns the transaction's hash."""
        data = _selector("cancelAuthorization(address,bytes32,uint8,bytes32,bytes32)") + _word(authorizer) + nonce
        return self.send(sender, self.token.address, data + _in_three_words(signature))

    def authorize(self, payer: Account, to: str, value: int, *, valid_before: int | None = None) -> Authorization:
        """A new authorization; valid for ten minutes unless told."""
        return Authorization(
            from_=payer.address,
            to=to,
            value=value,
            valid_after=0,
            valid_before=self.now() + 600 if valid_before is None else valid_before,
            nonce=secrets.token_bytes(32),
        )

    def sign(self, payer: Account, authorization: Authorization) -> bytes:
        """The payer's signature under an authorization of the token."""
        return sign(digest(self.token.domain, authorization), payer.key_bytes)

    def receipt(self, transaction: str) -> dict[str, Any] | None:
        """The receipt of a transaction, None while no block holds it."""
        receipt: dict[str, Any] | None = self.call("eth_getTransactionReceipt", transaction)
        return receipt

    def waiting(self, sender: str | None = None) -> list[str]:
        """The hashes of the transactions that wait for a block, of one sender or of all."""
        pool = self.call("txpool_content")
        queues = [queue for kind in ("pending", "queued") for queue in pool[kind].items()]
        return [
            transaction["hash"]
            for address, queue in queues
            if sender is None or address.lower() == sender.lower()
            for transaction in queue.values()
        ]

    def drop(self, transaction: str) -> None:
        """Forget a transaction that waits, as a node under load does."""
        self.call("anvil_dropTransaction", transaction)

    # --- blocks and time

    def height(self) -> int:
        """The number of the newest block."""
        return int(self.call("eth_blockNumber"), 16)

    def now(self) -> int:
        """The newest block's time, Unix seconds."""
        return int(self.call("eth_getBlockByNumber", "latest", False)["timestamp"], 16)

    def mine(self, blocks: int = 1) -> None:
        """Add `blocks` blocks, with what waits in the first of them."""
        self.call("anvil_mine", hex(blocks))

    @contextmanager
    def mining(self, every: int | None) -> Iterator[None]:
        """Mine a block each `every` seconds, or none unless asked (None); after the block of code, at once again."""
        self.call("evm_setAutomine", False)
        if every is not None:
            self.call("evm_setIntervalMining", every)
        try:
            yield
        finally:
            self.call("evm_setIntervalMining", 0)
            self.call("evm_setAutomine", True)
            self.mine()

    @contextmanager
    def at(self, timestamp: int) -> Iterator[None]:
        """Let it be `timestamp` (Unix seconds, in the chain's future), mined into a block; then as if it never was."""
        before = self.call("evm_snapshot")
        self.call("evm_setNextBlockTimestamp", timestamp)
        self.mine()
        try:
            yield
        finally:
            self.call("evm_revert", before)


def missing() -> str | None:
    """Why there is no chain and what to do about it; None if there is one."""
    if installed("anvil"):
        return None
    return "anvil and the token are not installed: run .ci/run install"


@contextmanager
def evm_chain(directory: Path) -> Iterator[EvmChain]:
    """The chain at `RAIL402_TEST_EVM_URL`, an anvil too, or one of our own with its files in `directory`."""
    with ExitStack() as services:
        client = services.enter_context(httpx.Client(trust_env=False, timeout=30))
        url = os.environ.get("RAIL402_TEST_EVM_URL") or services.enter_context(_anvil(directory, client))
        token, wallet = _compiled("token"), _compiled("wallet")
        chain = EvmChain(url, token["slots"], client)
        _put_token(chain, token["creationCode"])
        yield replace(chain, wallet_slots=wallet["slots"], wallet_code=_deployed(chain, wallet["creationCode"]))


@contextmanager
def _anvil(directory: Path, client: httpx.Client) -> Iterator[str]:
    """Start an anvil of our own on a free loopback port; gives its address."""
    (port,) = free_ports(1)
    command = [
        str(install_root() / "anvil" / "anvil"),
        "--host=127.0.0.1",
        f"--port={port}",
        f"--chain-id={BASE_SEPOLIA_USDC.network.chain_id}",
        "--slots-in-an-epoch=1",  # a block is final when two are on top of it, not 64
    ]
    url = f"http://127.0.0.1:{port}"
    with running("anvil", command, directory) as process:
        process.wait_until("RPC", lambda: EvmChain(url, {}, client).call("eth_chainId"))
        yield url


def _compiled(name: str) -> dict[str, Any]:
    compiled: dict[str, Any] = json.loads((install_root() / "anvil" / f"{name}.json").read_text())
    return compiled


def _put_token(chain: EvmChain, creation_code: str) -> None:
    if int(chain.call("eth_chainId"), 16) != chain.token.network.chain_id:
        raise ServiceFailed(f"the chain at {chain.url} does not call itself {chain.token.network.chain_id}")
    chain.call("anvil_setCode", chain.token.address, _deployed(chain, creation_code))


def _deployed(chain: EvmChain, creation_code: str) -> str:
    """What creates a contract returns its code."""
    return str(chain.call("eth_call", {"data": creation_code}, "latest"))


def _selector(function: str) -> bytes:
    return keccak256(function.encode())[:4]


def _word(address: str) -> bytes:
    return bytes.fromhex(address[2:]).rjust(32, b"\0")


def _in_three_words(signature: bytes) -> bytes:
    """v, r and s as arguments."""
    return signature[64:].rjust(32, b"\0") + signature[:64]


def _entry(address: str, slot: int) -> bytes:
    """The storage slot of an address in the mapping at `slot`."""
    return keccak256(_word(address) + slot.to_bytes(32, "big"))
