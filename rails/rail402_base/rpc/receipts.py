"""Receipts: reading them, whether nodes agree about one, and what it did with an authorization. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

from rail402.errors import OutcomeUnknown, RailUnavailable
from rail402_base.chain import Deposit, Transfer
from rail402_base.eip3009 import same_address
from rail402_base.rpc.abi import AUTHORIZATION_USED, TRANSFER, address_word, quantity, word_address
from rail402_base.rpc.blocks import MAX_LAG, Block, not_stuck
from rail402_base.rpc.endpoint import Answer, RpcError
from rail402_base.tokens import Token

__all__ = ["Log", "Receipt", "Seen", "agreed", "deposits", "parse_log", "parse_receipt", "used_in"]

_is_word = re.compile(r"0x[0-9a-f]{64}").fullmatch
_is_data = re.compile(r"0x(?:[0-9a-f]{2})*").fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """An event.

    Attributes:
        index: its place among all events of the block.
        address: the contract, in any case.
        block_time: Unix seconds, where the node says so.
    """

    transaction: str
    block_number: int
    index: int
    address: str
    topics: tuple[str, ...]
    data: str
    block_time: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A mined transaction; `succeeded` says that it did not revert."""

    transaction: str
    block_number: int
    block_hash: str
    succeeded: bool
    logs: tuple[Log, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """What one node sees: its newest block, and a receipt or None."""

    head: Block
    receipt: Receipt | None


def parse_receipt(answer: Answer) -> Receipt | None:
    """Read what `eth_getTransactionReceipt` answers; None where no block holds the transaction.

    Raises:
        RailUnavailable: it cannot be read.
    """
    if isinstance(answer, RpcError):
        raise answer
    if answer is None:
        return None
    if not isinstance(answer, Mapping) or not isinstance(answer.get("logs"), list):
        raise RailUnavailable("the node sent a receipt that cannot be read")
    return Receipt(
        transaction=_word(answer, "transactionHash"),
        block_number=quantity(answer.get("blockNumber")),
        block_hash=_word(answer, "blockHash"),
        succeeded=quantity(answer.get("status")) == 1,
        logs=tuple(parse_log(each) for each in answer["logs"]),
    )


def parse_log(answer: object) -> Log:
    """Read one event.

    Raises:
        RailUnavailable: it cannot be read, or is not part of the chain any more.
    """
    if not isinstance(answer, Mapping) or answer.get("removed"):
        raise RailUnavailable("the node sent an event that cannot be read, or was taken back")
    topics, data, address, time = (answer.get(name) for name in ("topics", "data", "address", "blockTimestamp"))
    if not isinstance(topics, list) or not all(isinstance(topic, str) and _is_word(topic) for topic in topics):
        raise RailUnavailable("the node sent an event whose topics cannot be read")
    if not isinstance(data, str) or not _is_data(data) or not isinstance(address, str):
        raise RailUnavailable("the node sent an event whose data cannot be read")
    return Log(
        transaction=_word(answer, "transactionHash"),
        block_number=quantity(answer.get("blockNumber")),
        index=quantity(answer.get("logIndex")),
        address=address,
        topics=tuple(topics),
        data=data,
        block_time=None if time is None else quantity(time),
    )


def agreed(seen: Sequence[Seen], *, confirmations: int, now: int) -> Receipt | None:
    """Return the receipt that all nodes have, in a block with that many blocks on it, itself counted; None before.

    A node that has not come to the receipt's block yet is waited for, unless it hangs; see `not_stuck`.

    Args:
        now: Unix seconds.

    Raises:
        OutcomeUnknown: the nodes contradict each other.
    """
    heard = list(compress(seen, not_stuck([each.head for each in seen], now=now)))
    found = {_essence(each.receipt): each.receipt for each in heard if each.receipt is not None}
    if not found:
        return None
    if len(found) > 1:
        raise OutcomeUnknown("the nodes have different receipts for the same transaction")
    (receipt,) = found.values()
    lacking = [each for each in heard if each.receipt is None]
    if any(each.head.number >= receipt.block_number + MAX_LAG for each in lacking):
        raise OutcomeUnknown(f"one node has a receipt for {receipt.transaction}, and another does not")
    if lacking or min(each.head.number for each in heard) < receipt.block_number + confirmations - 1:
        return None
    return receipt


def used_in(receipt: Receipt, token: Token, authorizer: str, nonce: bytes) -> Transfer | None:
    """Return the transfer that an authorization made in this transaction; None where it was not used in it.

    A transaction may use several: the token says `AuthorizationUsed`, then `Transfer`.

    Raises:
        OutcomeUnknown: it was used, and which transfer is its own cannot be told.
    """
    if not receipt.succeeded:
        return None
    said = [log for log in receipt.logs if same_address(log.address, token.address) and log.topics]
    said.sort(key=lambda log: log.index)
    uses = [number for number, log in enumerate(said) if log.topics[0] == AUTHORIZATION_USED]
    payer = "0x" + address_word(authorizer).hex()
    wanted = (payer, "0x" + nonce.hex())
    mine = next((number for number in uses if said[number].topics[1:] == wanted), None)
    if mine is None:
        return None
    end = next((number for number in uses if number > mine), len(said))
    transfers = [log for log in said[mine + 1 : end] if _is_transfer(log, payer)]
    if len(transfers) != 1:
        raise OutcomeUnknown(f"{receipt.transaction} used the authorization, and its transfer cannot be told apart")
    (log,) = transfers
    return Transfer(
        transaction=receipt.transaction,
        log_index=log.index,
        to=word_address(log.topics[2]),
        value=quantity(log.data),
        at=log.block_time,
    )


def deposits(receipt: Receipt, token: Token, payee: str) -> tuple[Deposit, ...]:
    """Return the token's transfers to an address, in the order of their events; none where the transaction reverted.

    Only what the token's own contract says counts: anybody's contract can emit an event that looks the same.
    """
    if not receipt.succeeded:
        return ()
    said = sorted((log for log in receipt.logs if same_address(log.address, token.address)), key=lambda log: log.index)
    wanted = "0x" + address_word(payee).hex()
    return tuple(
        Deposit(
            payer=word_address(log.topics[1]),
            value=quantity(log.data),
            log_index=log.index,
            nonces=tuple(_nonces(said, log.topics[1])),
        )
        for log in said
        if len(log.topics) == 3 and log.topics[2] == wanted and _is_transfer(log, log.topics[1])
    )


def _nonces(said: Sequence[Log], payer: str) -> Iterator[bytes]:
    """Yield the nonces of a payer's authorizations among the token's events, wherever in the transaction they are."""
    for log in said:
        if len(log.topics) == 3 and log.topics[:2] == (AUTHORIZATION_USED, payer):
            yield bytes.fromhex(log.topics[2][2:])


def _is_transfer(log: Log, payer: str) -> bool:
    return len(log.topics) == 3 and log.topics[0] == TRANSFER and log.topics[1] == payer and len(log.data) == 66


def _essence(receipt: Receipt) -> object:
    """What nodes must agree about; not every node says the block's time."""
    logs = [(log.index, log.address.lower(), log.topics, log.data) for log in receipt.logs]
    return receipt.block_number, receipt.block_hash, receipt.succeeded, tuple(logs)


def _word(answer: Mapping[str, object], name: str) -> str:
    word = answer.get(name)
    if not isinstance(word, str) or not _is_word(word):
        raise RailUnavailable(f"the node sent something that is no hash as {name}")
    return word
