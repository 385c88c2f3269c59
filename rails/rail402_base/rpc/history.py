"""What one node says became of an authorization: the contract's record of its nonce, and the event beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from rail402.errors import OutcomeUnknown, RailUnavailable
from rail402_base.chain import Submitted, Trace, Unused, Void
from rail402_base.rpc.abi import (
    AUTHORIZATION_CANCELED,
    AUTHORIZATION_USED,
    address_word,
    boolean,
    call_data,
    eth_call,
)
from rail402_base.rpc.blocks import Block, block_at, parse_block
from rail402_base.rpc.endpoint import Answer, Call, Endpoint, RpcError
from rail402_base.rpc.receipts import Log, Receipt, parse_log, parse_receipt, used_in
from rail402_base.tokens import Token

__all__ = ["LOOKBACK", "Sought", "Used", "look_up"]

LOOKBACK: Final = 50_000
"""Blocks that are searched unless told otherwise: a day and more on Base."""

# Blocks per request to begin with, halved each time a node refuses; and the requests that one search may take.
_WINDOW: Final = 5000
_MAX_REQUESTS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """An authorization, and how to look for it; see `ChainReader.trace`."""

    token: Token
    authorizer: str
    nonce: bytes
    valid_before: int
    hints: tuple[str, ...]
    confirmations: int
    lookback: int


@dataclass(frozen=True, slots=True)
class Used:
    """The nonce was used or cancelled, and the node does not show by what; `detail` says why not."""

    detail: str


async def look_up(endpoint: Endpoint, sought: Sought) -> tuple[Block, Trace | Used]:
    """Return a node's newest block, and what became of the authorization up to there.

    Raises:
        RailUnavailable, OutcomeUnknown: the node gives no answer.
    """
    head = await _block(endpoint, "latest")
    state = call_data("authorizationState(address,bytes32)", address_word(sought.authorizer), sought.nonce)
    # Everything at named blocks: behind one address there may be several nodes, not all equally far.
    confirmed_number = max(head.number - sought.confirmations + 1, 0)
    used, confirmed_block, *receipts = await endpoint.ask(
        [
            eth_call(sought.token.address, state, block=hex(head.number)),
            block_at(hex(confirmed_number)),
            *(Call("eth_getTransactionReceipt", (each,)) for each in sought.hints),
        ]
    )
    confirmed = parse_block(confirmed_block)
    if not boolean(used):
        return head, Unused(expired=confirmed.time >= sought.valid_before)
    try:
        for receipt in map(parse_receipt, receipts):
            if receipt is not None and (trace := await _in_receipt(endpoint, receipt, sought, confirmed)) is not None:
                return head, trace
        return head, await _searched(endpoint, sought, head, confirmed)
    except (RailUnavailable, OutcomeUnknown) as error:
        # Not to be lost: this node contradicts any other that says the nonce was not used.
        return head, Used(error.detail)


async def _in_receipt(endpoint: Endpoint, receipt: Receipt, sought: Sought, confirmed: Block) -> Trace | None:
    transfer = used_in(receipt, sought.token, sought.authorizer, sought.nonce)
    if transfer is None:
        return None
    if receipt.block_number > confirmed.number:
        return Submitted(transaction=receipt.transaction)
    if transfer.at is None:  # not every node says it beside the event
        return replace(transfer, at=(await _block(endpoint, hex(receipt.block_number))).time)
    return transfer


async def _searched(endpoint: Endpoint, sought: Sought, head: Block, confirmed: Block) -> Trace:
    log = await _find(endpoint, sought, head)
    if log.topics[0] == AUTHORIZATION_CANCELED:
        return Void() if log.block_number <= confirmed.number else Unused(expired=False)
    (answer,) = await endpoint.ask([Call("eth_getTransactionReceipt", (log.transaction,))])
    receipt = parse_receipt(answer)
    trace = None if receipt is None else await _in_receipt(endpoint, receipt, sought, confirmed)
    if trace is None:
        raise OutcomeUnknown(f"{endpoint.host} has an event of {log.transaction}, and no receipt that fits")
    return trace


async def _find(endpoint: Endpoint, sought: Sought, head: Block) -> Log:
    """Find the event of a nonce that was used or cancelled."""
    last = head.number
    if head.time >= sought.valid_before:
        # It can only have been used before its expiry, however long ago that was; cancelled it can have been since.
        last = await _last_before(endpoint, sought.valid_before, head)
    search = _Search(endpoint, sought)
    log = await search.down(last, max(last - sought.lookback, 0))
    if log is None and last < head.number:
        log = await search.down(head.number, max(head.number - sought.lookback, last + 1))
    if log is None:
        raise OutcomeUnknown(
            f"the authorization was used, and {endpoint.host} finds no event of it in {sought.lookback} blocks"
        )
    return log


class _Search:
    """A search in the events of a chain, the newest first, in steps that the node allows."""

    def __init__(self, endpoint: Endpoint, sought: Sought) -> None:
        self._endpoint, self._token = endpoint, sought.token
        authorizer, nonce = "0x" + address_word(sought.authorizer).hex(), "0x" + sought.nonce.hex()
        self._topics = [[AUTHORIZATION_USED, AUTHORIZATION_CANCELED], authorizer, nonce]
        self._window, self._requests = _WINDOW, 0

    async def down(self, last: int, first: int) -> Log | None:
        """Return the event, searching from block `last` down to block `first`."""
        while last >= first:
            start = max(first, last - self._window + 1)
            answer = await self._ask(start, last)
            if isinstance(answer, RpcError):
                if self._window == 1:
                    raise answer
                self._window = max(self._window // 2, 1)
                continue
            if not isinstance(answer, list):
                raise RailUnavailable(f"{self._endpoint.host} sent events that cannot be read")
            for log in map(parse_log, answer):
                if list(log.topics[1:]) == self._topics[1:]:
                    return log
            last = start - 1
        return None

    async def _ask(self, first: int, last: int) -> Answer:
        self._requests += 1
        if self._requests > _MAX_REQUESTS:
            raise OutcomeUnknown(
                f"{self._endpoint.host} allows {self._window} blocks per search: too few to find an event; use another"
            )
        criteria = {
            "address": self._token.address,
            "fromBlock": hex(first),
            "toBlock": hex(last),
            "topics": self._topics,
        }
        (answer,) = await self._endpoint.ask([Call("eth_getLogs", (criteria,))])
        return answer


async def _last_before(endpoint: Endpoint, time: int, head: Block) -> int:
    """Return the last block before that time: in doubling steps back, then by halves."""
    low, high, step = head.number, head.number, 1
    while low > 0 and (await _block(endpoint, hex(low))).time >= time:
        high, low, step = low, max(low - step, 0), step * 2
    while high - low > 1:
        middle = (low + high) // 2
        if (await _block(endpoint, hex(middle))).time >= time:
            high = middle
        else:
            low = middle
    return low


async def _block(endpoint: Endpoint, name: str) -> Block:
    (answer,) = await endpoint.ask([block_at(name)])
    return parse_block(answer)
