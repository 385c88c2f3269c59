"""A chain in memory with a token on it, and nodes of it that answer JSON-RPC, each in its own way."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes

from rail402.errors import PaymentRejected
from rail402_base.eip3009 import Authorization, address_of, digest, keccak256, parse_address, recover, sign
from rail402_base.rpc.reader import ChainReader
from rail402_base.tokens import BASE_SEPOLIA_USDC, Token

NOW: Final = 1_740_672_100
BLOCK_SECONDS: Final = 2
BASE_FEE: Final = 1_000_000
TIP: Final = 1_000_000
ETHER: Final = 10**18
USDC: Final = 10**6
GAS: Final = 80_000
PAYER_KEY, PAYEE_KEY, RELAYER_KEY = (bytes([number]) * 32 for number in (1, 2, 7))
PAYER, PAYEE, RELAYER = (address_of(key) for key in (PAYER_KEY, PAYEE_KEY, RELAYER_KEY))
TOKEN: Final = BASE_SEPOLIA_USDC


def selector(function: str) -> str:
    return keccak256(function.encode())[:4].hex()


def topic(event: str) -> str:
    return "0x" + keccak256(event.encode()).hex()


USED: Final = topic("AuthorizationUsed(address,bytes32)")
CANCELED: Final = topic("AuthorizationCanceled(address,bytes32)")
TRANSFER: Final = topic("Transfer(address,address,uint256)")
HANDED_IN: Final = selector(
    "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)"
)
HANDED_IN_BYTES: Final = selector("transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)")
IS_VALID: Final = selector("isValidSignature(bytes32,bytes)")
ACCEPTED: Final = "0x" + "1626ba7e".ljust(64, "0")
PLAIN: Final = selector("transfer(address,uint256)")


def word(value: int | bool | str | bytes) -> str:
    """A value as 64 hex digits."""
    if isinstance(value, str):
        return value.removeprefix("0x").lower().rjust(64, "0")
    return value.hex() if isinstance(value, bytes) else f"{int(value):064x}"


def text(value: str) -> str:
    """A text as a function returns it, in hex without 0x."""
    raw = value.encode()
    return word(32) + word(len(raw)) + raw.hex().ljust(-(-len(raw) // 32) * 64, "0")


class Refused(Exception):
    """What a node answers instead of a result."""

    def __init__(self, number: int, message: str, data: object = None) -> None:
        super().__init__(number, message)
        self.error = {"code": number, "message": message} | ({} if data is None else {"data": data})


def reverted(reason: str) -> Refused:
    return Refused(3, f"execution reverted: {reason}", "0x" + selector("Error(string)") + text(reason))


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction as it was broadcast."""

    hash: str
    sender: str
    fields: Mapping[str, Any]

    @property
    def nonce(self) -> int:
        return int(self.fields["nonce"])


@dataclass
class Block:
    number: int
    time: int
    base_fee: int
    receipts: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def hash(self) -> str:
        return f"0x{self.number:064x}"


class Chain:
    """What is true, whichever node is asked.

    Attributes:
        mines_at_once: whether each transaction gets a block when it is broadcast.
        tip: what makers of blocks want, and what nodes say is usual.
        used: by (payer, nonce) in lower case.
        wallets: by address in lower case, what a contract answers when it is asked about a signature (ERC-1271), given
            the digest, the signature, and whether the answer is for a block; or raises.
    """

    def __init__(self, token: Token = TOKEN) -> None:
        self.token = token
        self.blocks = [Block(number, NOW - (100 - number) * BLOCK_SECONDS, BASE_FEE) for number in range(101)]
        self.base_fee, self.tip = BASE_FEE, TIP
        self.balances: Counter[str] = Counter({PAYER.lower(): 100 * USDC})
        self.ether: Counter[str] = Counter({RELAYER.lower(): ETHER})
        self.codes: dict[str, str] = {token.address.lower(): "0x6001"}
        self.used: set[tuple[str, str]] = set()
        self.blacklist: set[str] = set()
        self.wallets: dict[str, Callable[[bytes, bytes, bool], str]] = {}
        self.paused = False
        self.mines_at_once = True
        self.pool: dict[str, Transaction] = {}
        self.counts: Counter[str] = Counter()
        self.logs = 0

    # --- money

    def usdc_of(self, address: str) -> int:
        return self.balances[address.lower()]

    def authorize(self, value: int = 3000, *, number: int = 1, **members: Any) -> Authorization:
        honest: dict[str, Any] = {
            "from_": PAYER,
            "to": PAYEE,
            "value": value,
            "valid_after": 0,
            "valid_before": NOW + 600,
            "nonce": bytes([number]) * 32,
        }
        return Authorization(**(honest | members))

    def sign(self, authorization: Authorization, key: bytes = PAYER_KEY) -> bytes:
        return sign(digest(self.token.domain, authorization), key)

    def hand_in(self, authorization: Authorization, nonce: int = 0, key: bytes = b"\x09" * 32) -> str:
        """Have somebody else hand an authorization in; returns the transaction's hash."""
        signature = self.sign(authorization)
        data = HANDED_IN + word(authorization.from_) + word(authorization.to) + word(authorization.value)
        data += word(authorization.valid_after) + word(authorization.valid_before) + authorization.nonce.hex()
        data += word(signature[64]) + signature[:64].hex()
        return self.transact(key, self.token.address, "0x" + data, nonce=nonce)

    def transact(self, key: bytes, to: str, data: str = "0x", *, nonce: int, fee: int = 10**9) -> str:
        """Have an account of any key send something."""
        self.ether[address_of(key).lower()] += ETHER
        unsigned = {"type": 2, "chainId": self.token.network.chain_id, "nonce": nonce, "to": to, "value": 0}
        unsigned |= {"data": data, "gas": 300_000, "maxFeePerGas": fee, "maxPriorityFeePerGas": self.tip}
        return self.broadcast(bytes(Account.sign_transaction(unsigned, key).raw_transaction))

    def cancel(self, authorization: Authorization) -> None:
        """Have the payer cancel an authorization in a block of its own."""
        self.used.add(_use(authorization))
        block = self._new_block()
        log = self._log(block, "0x" + "cc" * 32, [CANCELED, "0x" + word(PAYER), "0x" + authorization.nonce.hex()], "0x")
        block.receipts.append(_receipt(block, "0x" + "cc" * 32, True, [log]))

    # --- blocks

    @property
    def head(self) -> Block:
        return self.blocks[-1]

    def mine(self, count: int = 1, *, time: int | None = None) -> None:
        """Add blocks, with what can be mined in the first of them."""
        for _ in range(count):
            block = self._new_block(time)
            for transaction in sorted(self.pool.values(), key=lambda each: each.nonce):
                if transaction.nonce != self.counts[transaction.sender]:
                    continue
                most, tip = (transaction.fields[name] for name in ("maxFeePerGas", "maxPriorityFeePerGas"))
                if min(tip, most - block.base_fee) < self.tip:
                    continue
                del self.pool[transaction.hash]
                self.counts[transaction.sender] += 1
                block.receipts.append(self._execute(block, transaction))
            block.counts = self.counts.copy()

    def _new_block(self, time: int | None = None) -> Block:
        head = self.head
        time = time or head.time + BLOCK_SECONDS
        self.blocks.append(Block(head.number + 1, time, self.base_fee, counts=self.counts.copy()))
        return self.head

    def broadcast(self, raw: bytes) -> str:
        fields = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
        hash_ = "0x" + keccak256(raw).hex()
        sender = str(Account.recover_transaction(raw)).lower()
        transaction = Transaction(hash_, sender, fields)
        nonce, fee = transaction.nonce, fields["maxFeePerGas"]
        if hash_ in self.pool or any(each["transactionHash"] == hash_ for each in self.receipts()):
            raise Refused(-32000, "already known")
        if nonce < self.counts[sender]:
            raise Refused(-32000, f"nonce too low: next nonce {self.counts[sender]}, tx nonce {nonce}")
        if self.ether[sender] < fee * fields["gas"]:
            raise Refused(-32000, "insufficient funds for gas * price + value")
        rival = next((each for each in self.pool.values() if (each.sender, each.nonce) == (sender, nonce)), None)
        if rival is not None:
            if any(fields[name] * 10 < rival.fields[name] * 11 for name in ("maxFeePerGas", "maxPriorityFeePerGas")):
                raise Refused(-32000, "replacement transaction underpriced")
            del self.pool[rival.hash]
        self.pool[hash_] = transaction
        if self.mines_at_once:
            self.mine()
        return hash_

    def receipts(self) -> Iterator[dict[str, Any]]:
        for block in self.blocks:
            yield from block.receipts

    def pending_count(self, sender: str) -> int:
        count = self.counts[sender]
        nonces = {each.nonce for each in self.pool.values() if each.sender == sender}
        while count in nonces:
            count += 1
        return count

    # --- the token

    def _execute(self, block: Block, transaction: Transaction) -> dict[str, Any]:
        data = bytes(transaction.fields["data"]).hex()
        logs = []
        if data.startswith((HANDED_IN, HANDED_IN_BYTES)):
            try:
                authorization = self.transfer(data, block.time, is_mined=True)
            except Refused:
                return _receipt(block, transaction.hash, False, [])
            self.used.add(_use(authorization))
            self.balances[authorization.from_.lower()] -= authorization.value
            self.balances[authorization.to.lower()] += authorization.value
            payer, nonce = "0x" + word(authorization.from_), "0x" + authorization.nonce.hex()
            logs.append(self._log(block, transaction.hash, [USED, payer, nonce], "0x"))
            topics = [TRANSFER, payer, "0x" + word(authorization.to)]
            logs.append(self._log(block, transaction.hash, topics, "0x" + word(authorization.value)))
        if data.startswith(PLAIN):
            try:
                payee, value = self.plain(transaction.sender, data)
            except Refused:
                return _receipt(block, transaction.hash, False, [])
            self.balances[transaction.sender] -= value
            self.balances[payee] += value
            topics = [TRANSFER, "0x" + word(transaction.sender), "0x" + word(payee)]
            logs.append(self._log(block, transaction.hash, topics, "0x" + word(value)))
        return _receipt(block, transaction.hash, True, logs)

    def plain(self, sender: str, data: str) -> tuple[str, int]:
        """Whom a plain transfer pays how much; raises what it reverts with."""
        payee, value = "0x" + data[32:72], int(data[72:136], 16)
        if self.balances[sender.lower()] < value:
            raise reverted("ERC20: transfer amount exceeds balance")
        return payee, value

    def _log(self, block: Block, transaction: str, topics: list[str], data: str) -> dict[str, Any]:
        self.logs += 1
        return {
            "address": self.token.address.lower(),
            "topics": topics,
            "data": data,
            "blockNumber": hex(block.number),
            "blockTimestamp": hex(block.time),
            "transactionHash": transaction,
            "logIndex": hex(self.logs),
        }

    def transfer(self, data: str, time: int, *, is_mined: bool = False) -> Authorization:
        """The authorization that a call hands in, if the token would take it; raises what it reverts with."""
        words = [data[8 + start : 72 + start] for start in range(0, 9 * 64, 64)]
        payer, payee = ("0x" + each[24:] for each in words[:2])
        value, after, before = (int(each, 16) for each in words[2:5])
        nonce = bytes.fromhex(words[5])
        authorization = Authorization(
            from_=parse_address(payer),
            to=parse_address(payee),
            value=value,
            valid_after=after,
            valid_before=before,
            nonce=nonce,
        )
        if data.startswith(HANDED_IN):
            signature = bytes.fromhex(words[7] + words[8]) + bytes([int(words[6], 16)])
        else:
            signature = _bytes_at(data, 6)
        checks = [
            (self.paused, "Pausable: paused"),
            (bool({payer, payee} & self.blacklist), "Blacklistable: account is blacklisted"),
            (time <= after, "FiatTokenV2: authorization is not yet valid"),
            (time >= before, "FiatTokenV2: authorization is expired"),
            ((payer, nonce.hex()) in self.used, "FiatTokenV2: authorization is used or canceled"),
            (not self._is_signed(authorization, signature, is_mined), "FiatTokenV2: invalid signature"),
            (self.balances[payer] < value, "ERC20: transfer amount exceeds balance"),
        ]
        for fails, reason in checks:
            if fails:
                raise reverted(reason)
        return authorization

    def _is_signed(self, authorization: Authorization, signature: bytes, is_mined: bool) -> bool:
        payer, message = authorization.from_.lower(), digest(self.token.domain, authorization)
        if payer in self.wallets:
            try:
                return self.wallets[payer](message, signature, is_mined)[:66] == ACCEPTED
            except Refused:
                return False
        try:
            return payer not in self.codes and recover(message, signature) == authorization.from_
        except PaymentRejected:
            return False

    def call(self, to: str, data: str) -> str:
        """What a contract answers."""
        if to.lower() in self.wallets and data.startswith("0x" + IS_VALID):
            return self.wallets[to.lower()](bytes.fromhex(data[10:74]), _bytes_at(data[2:], 1), False)
        if to.lower() != self.token.address.lower():
            return "0x"
        data = data.removeprefix("0x")
        function, first, second = data[:8], data[32:72], data[72:136]
        address = "0x" + first
        answers: dict[str, Callable[[], str]] = {
            "balanceOf(address)": lambda: word(self.balances[address]),
            "authorizationState(address,bytes32)": lambda: word((address, second) in self.used),
            "paused()": lambda: word(self.paused),
            "isBlacklisted(address)": lambda: word(address in self.blacklist),
            "name()": lambda: text(self.token.name),
            "version()": lambda: text(self.token.version),
            "decimals()": lambda: word(self.token.decimals),
            "DOMAIN_SEPARATOR()": lambda: self.token.domain.separator.hex(),
        }
        if function in (HANDED_IN, HANDED_IN_BYTES):
            self.transfer(data, self.head.time)
            return "0x"
        for signature, answer in answers.items():
            if function == selector(signature):
                return "0x" + answer()
        raise Refused(3, "execution reverted", "0x")


def _bytes_at(data: str, argument: int) -> bytes:
    """The bytes that an argument of a call is."""
    words = bytes.fromhex(data[8:])
    start = int.from_bytes(words[32 * argument : 32 * argument + 32], "big")
    size = int.from_bytes(words[start : start + 32], "big")
    content = words[start + 32 : start + 32 + size]
    assert len(content) == size
    return content


def _use(authorization: Authorization) -> tuple[str, str]:
    return authorization.from_.lower(), authorization.nonce.hex()


def _receipt(block: Block, transaction: str, succeeded: bool, logs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "transactionHash": transaction,
        "blockNumber": hex(block.number),
        "blockHash": block.hash,
        "status": hex(succeeded),
        "logs": logs,
    }


Answering = Callable[..., Any]
Meddling = Callable[[Any], httpx.Response | None]


class Node:
    """One node.

    Attributes:
        chain: what it shows.
        behind: how many blocks it lags.
        answers: by method, what it answers instead of the truth.
        faults: what it does to its next requests, first in, first out: an exception to raise, a response to give, or
            what is called with the request's JSON and may give one (None: the truth).
        always: what it does to every request, once there are no faults left.
        takes: how many calls in one batch.
        requests: the JSON of every request that reached it.
    """

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.behind = 0
        self.answers: dict[str, Answering] = {}
        self.faults: deque[Exception | httpx.Response | Meddling] = deque()
        self.always: Exception | httpx.Response | Meddling | None = None
        self.takes = 100
        self.requests: list[Any] = []
        self.sent: list[bytes] = []

    def methods(self) -> list[str]:
        """The methods of all calls so far."""
        return [call["method"] for request in self.requests for call in _calls(request)]

    async def handle(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(await request.aread())
        self.requests.append(body)
        fault = self.faults.popleft() if self.faults else self.always
        if isinstance(fault, Exception):
            raise fault
        if isinstance(fault, httpx.Response):
            return replace_stream(fault)
        if fault is not None and (response := fault(body)) is not None:
            return response
        if isinstance(body, list) and len(body) > self.takes:
            return httpx.Response(200, json=error(None, -32600, "batch too large"))
        answers = [self._answer(call) for call in _calls(body)]
        # In another order, as is allowed.
        return httpx.Response(200, json=answers[::-1] if isinstance(body, list) else answers[0])

    def _answer(self, call: dict[str, Any]) -> dict[str, Any]:
        try:
            name = re.sub("[A-Z]", lambda match: f"_{match[0].lower()}", call["method"])
            answering = self.answers.get(call["method"], getattr(self, name, None))
            if answering is None:
                raise Refused(-32601, f"the method {call['method']} does not exist")
            return {"jsonrpc": "2.0", "id": call["id"], "result": answering(*call["params"])}
        except Refused as refused:
            return {"jsonrpc": "2.0", "id": call["id"], "error": refused.error}

    # --- the methods

    @property
    def head(self) -> Block:
        return self.chain.blocks[-1 - self.behind]

    def eth_chain_id(self) -> str:
        return hex(self.chain.token.network.chain_id)

    def eth_syncing(self) -> bool:
        return False

    def eth_block_number(self) -> str:
        return hex(self.head.number)

    def eth_get_block_by_number(self, name: str, _full: bool) -> dict[str, str] | None:
        number = self.head.number if name == "latest" else int(name, 16)
        if number > self.head.number:
            return None
        block = self.chain.blocks[number]
        return {"number": hex(number), "timestamp": hex(block.time), "baseFeePerGas": hex(block.base_fee)}

    def eth_get_code(self, address: str, _block: str) -> str:
        return self.chain.codes.get(address.lower(), "0x")

    def eth_get_balance(self, address: str, _block: str) -> str:
        return hex(self.chain.ether[address.lower()])

    def eth_get_transaction_count(self, address: str, block: str) -> str:
        sender = address.lower()
        if block.startswith("0x"):
            return hex(self.chain.blocks[int(block, 16)].counts[sender])
        return hex(self.chain.pending_count(sender) if block == "pending" else self.head.counts[sender])

    def eth_max_priority_fee_per_gas(self) -> str:
        return hex(self.chain.tip)

    def eth_estimate_gas(self, transaction: dict[str, str]) -> str:
        if transaction["data"].startswith("0x" + PLAIN):
            self.chain.plain(transaction["from"], transaction["data"][2:])
        else:
            self.chain.call(transaction["to"], transaction["data"])
        return hex(GAS)

    def eth_call(self, transaction: dict[str, str], _block: str) -> str:
        return self.chain.call(transaction["to"], transaction["data"])

    def eth_send_raw_transaction(self, raw: str) -> str:
        self.sent.append(bytes.fromhex(raw[2:]))
        return self.chain.broadcast(bytes.fromhex(raw[2:]))

    def eth_get_transaction_receipt(self, hash_: str) -> dict[str, Any] | None:
        for receipt in self.chain.receipts():
            if receipt["transactionHash"] == hash_ and int(receipt["blockNumber"], 16) <= self.head.number:
                return receipt
        return None

    def eth_get_transaction_by_hash(self, hash_: str) -> dict[str, Any] | None:
        if hash_ in self.chain.pool:
            return {"hash": hash_, "blockNumber": None}
        receipt = self.eth_get_transaction_receipt(hash_)
        return None if receipt is None else {"hash": hash_, "blockNumber": receipt["blockNumber"]}

    def eth_get_logs(self, criteria: dict[str, Any]) -> list[dict[str, Any]]:
        first, last = int(criteria["fromBlock"], 16), int(criteria["toBlock"], 16)
        kinds, payer, nonce = criteria["topics"]
        return [
            log
            for receipt in self.chain.receipts()
            for log in receipt["logs"]
            if first <= int(log["blockNumber"], 16) <= min(last, self.head.number)
            and log["topics"][0] in kinds
            and log["topics"][1:] == [payer, nonce]
        ]


class Network(httpx.AsyncBaseTransport):
    """Nodes by their host; a transport for `ChainReader`. Unless told otherwise there is one, `one.test`."""

    def __init__(self, chain: Chain | None = None, *hosts: str) -> None:
        self.chain = chain or Chain()
        self.nodes = {host: Node(self.chain) for host in hosts or ("one.test",)}
        self.closed = False

    @property
    def urls(self) -> list[str]:
        return [f"https://{host}/v2/0123456789abcdef-secret" for host in self.nodes]

    @property
    def node(self) -> Node:
        return next(iter(self.nodes.values()))

    def reader(self, **options: Any) -> ChainReader:
        """A reader of all nodes, whose clock is the chain's."""
        options = {"clock": lambda: self.chain.head.time, **options}
        return ChainReader(self.urls, self.chain.token, transport=self, **options)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self.nodes[request.url.host].handle(request)

    async def aclose(self) -> None:
        self.closed = True


def error(id_: int | None, number: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id_, "error": {"code": number, "message": message}}


def replace_stream(response: httpx.Response) -> httpx.Response:
    """The same response once more."""
    return httpx.Response(response.status_code, headers=response.headers, content=response.content)


def _calls(request: Any) -> list[dict[str, Any]]:
    return request if isinstance(request, list) else [request]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what other tasks do."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)
