"""Blocks, and nodes that hang."""

from __future__ import annotations

from typing import Any

import pytest

from rail402.errors import RailUnavailable
from rail402_base.rpc.blocks import Block, block_at, not_stuck, parse_block
from rail402_base.rpc.endpoint import Call, RpcError

NOW = 1_740_672_100


def head(number: int, age: int = 0) -> Block:
    return Block(number=number, time=NOW - age, base_fee=1)


def test_reading_one() -> None:
    answer = {"number": "0x10", "timestamp": "0x20", "baseFeePerGas": "0x30"}
    assert parse_block(answer) == Block(number=16, time=32, base_fee=48)
    assert parse_block({"number": "0x10", "timestamp": "0x20"}).base_fee is None
    assert block_at("0x10") == Call("eth_getBlockByNumber", ("0x10", False))


@pytest.mark.parametrize(
    "answer",
    [None, [], "0x10", {}, {"number": "0x1"}, {"number": 1, "timestamp": "0x1"}, RpcError(-32000, "header not found")],
)
def test_what_is_no_block(answer: Any) -> None:
    with pytest.raises(RailUnavailable):
        parse_block(answer)


@pytest.mark.parametrize(
    ("heads", "listened"),
    [
        ([head(100)], [True]),
        ([head(100, age=9999)], [True]),
        ([head(100), head(70, age=9999)], [True, True]),
        ([head(100), head(69, age=61)], [True, False]),
        ([head(69, age=61), head(100)], [False, True]),
    ],
)
def test_a_node_that_hangs_is_left_out(heads: list[Block], listened: list[bool]) -> None:
    assert not_stuck(heads, now=NOW) == listened


def test_a_node_that_lies_about_its_height_does_not_silence_the_others() -> None:
    assert not_stuck([head(10**9), head(100), head(99, age=60)], now=NOW) == [True, True, True]
