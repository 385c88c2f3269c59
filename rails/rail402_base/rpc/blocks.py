"""Blocks as nodes tell of them, and which nodes hang so far behind that they are not listened to. Pure."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rail402.errors import RailUnavailable
from rail402_base.rpc.abi import quantity
from rail402_base.rpc.endpoint import Answer, Call, RpcError

__all__ = ["MAX_LAG", "NEWEST", "Block", "block_at", "not_stuck", "parse_block"]

logger = logging.getLogger("rail402.base")

MAX_LAG: Final = 30
"""Blocks that a node may be behind another one and still be waited for."""

_MAX_AGE: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block: its time in Unix seconds, its base fee in wei per gas where it has one (EIP-1559)."""

    number: int
    time: int
    base_fee: int | None


def block_at(name: str) -> Call:
    """Return the call for a block, by a name or a number in hex."""
    return Call("eth_getBlockByNumber", (name, False))


NEWEST: Final = block_at("latest")


def parse_block(answer: Answer) -> Block:
    """Read a block.

    Raises:
        RailUnavailable: it cannot be read, or the node does not have it.
    """
    if isinstance(answer, RpcError):
        raise answer
    if not isinstance(answer, Mapping):
        raise RailUnavailable("the node does not have a block that it should have")
    base_fee = answer.get("baseFeePerGas")
    return Block(
        number=quantity(answer.get("number")),
        time=quantity(answer.get("timestamp")),
        base_fee=None if base_fee is None else quantity(base_fee),
    )


def not_stuck(heads: Sequence[Block], *, now: int) -> list[bool]:
    """Say of each node, by its newest block, whether it is to be listened to.

    To be far behind another one is not enough for being left out, or a node that lies about its height would silence
    all honest ones: its newest block must be old by our own clock as well.

    Args:
        now: Unix seconds.
    """
    highest = max(head.number for head in heads)
    listened = [head.number >= highest - MAX_LAG or head.time >= now - _MAX_AGE for head in heads]
    if not all(listened):
        lowest = min(head.number for head in heads)
        logger.warning("a node hangs %d blocks behind another one; it is not listened to", highest - lowest)
    return listened
