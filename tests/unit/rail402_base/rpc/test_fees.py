"""What is offered for gas, and the ceiling above it."""

from __future__ import annotations

import pytest

from rail402.errors import RailUnavailable
from rail402_base.rpc.blocks import Block
from rail402_base.rpc.endpoint import RpcError
from rail402_base.rpc.fees import GWEI, MIN_TIP, Fees, fees_for, fees_now, is_too_cheap, outbidding, with_margin


@pytest.mark.parametrize(
    ("base_fee", "tip", "max_fee"),
    [(100, 7, 207), (496, 7, 999), (497, 7, 1000), (900, 7, 1000), (993, 7, 1000), (0, 0, 0)],
)
def test_twice_the_base_fee_up_to_the_ceiling(base_fee: int, tip: int, max_fee: int) -> None:
    assert fees_for(base_fee, tip, ceiling=1000) == Fees(max_fee, tip)


@pytest.mark.parametrize(("base_fee", "tip"), [(994, 7), (0, 1001), (GWEI, 1)])
def test_nothing_is_sent_above_the_ceiling(base_fee: int, tip: int) -> None:
    with pytest.raises(RailUnavailable, match="the ceiling is 1000; wait, or raise max_fee_gwei") as caught:
        fees_for(base_fee, tip, ceiling=1000)
    assert caught.value.retry_after


def test_what_nodes_say() -> None:
    block = Block(number=1, time=1, base_fee=100)
    assert fees_now(block, "0x7", ceiling=GWEI) == Fees(207, 7)
    assert fees_now(block, RpcError(-32601, "no such method"), ceiling=GWEI) == Fees(200 + MIN_TIP, MIN_TIP)
    with pytest.raises(RailUnavailable):
        fees_now(block, "a lot", ceiling=GWEI)
    with pytest.raises(RailUnavailable, match="EIP-1559"):
        fees_now(Block(number=1, time=1, base_fee=None), "0x7", ceiling=GWEI)


def test_to_outbid_is_to_offer_an_eighth_more_of_both() -> None:
    assert outbidding(Fees(800, 8), Fees(100, 1), ceiling=1000) == Fees(901, 10)
    assert outbidding(Fees(8, 8), Fees(500, 400), ceiling=1000) == Fees(500, 400)
    for price in (0, 1, 7, 10, 999_999):
        better = outbidding(Fees(price, price), Fees(0, 0), ceiling=GWEI)
        assert min(better.max_fee, better.max_priority_fee) * 10 >= price * 11, "what every node takes"
    with pytest.raises(RailUnavailable, match="the ceiling is 900"):
        outbidding(Fees(800, 8), Fees(100, 1), ceiling=900)


@pytest.mark.parametrize(
    ("max_fee", "tip", "at_once", "when_late"),
    [
        (99, 99, True, True),  # the base fee of 100 is not covered
        (100, 7, False, True),
        (106, 7, False, True),  # 6 are left
        (107, 7, False, False),
        (300, 6, False, True),
        (300, 7, False, False),
    ],
)
def test_what_is_offered_too_little(max_fee: int, tip: int, at_once: bool, when_late: bool) -> None:
    block, offered = Block(number=1, time=1, base_fee=100), Fees(max_fee, tip)
    assert is_too_cheap(offered, block, "0x7", is_late=False) is at_once
    assert is_too_cheap(offered, block, "0x7", is_late=True) is when_late
    assert not is_too_cheap(offered, Block(number=1, time=1, base_fee=None), "0x7", is_late=True)


def test_a_node_that_does_not_say_what_is_usual() -> None:
    block, unknown = Block(number=1, time=1, base_fee=100), RpcError(-32601, "no such method")
    assert not is_too_cheap(Fees(GWEI, MIN_TIP), block, unknown, is_late=True)
    assert is_too_cheap(Fees(GWEI, MIN_TIP - 1), block, unknown, is_late=True)
    with pytest.raises(RailUnavailable):
        is_too_cheap(Fees(GWEI, 1), block, "a lot", is_late=True)


def test_the_margin_covers_the_first_payment_to_an_address() -> None:
    assert with_margin(60_000) >= 60_000 + 17_100 + 12_000
