"""What is offered for gas: the base fee, a tip, and a ceiling above which nothing is sent. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rail402.errors import RailUnavailable
from rail402_base.rpc.abi import quantity
from rail402_base.rpc.blocks import NEWEST, Block
from rail402_base.rpc.endpoint import Answer, Call, RpcError

__all__ = ["FEE_CALLS", "GWEI", "MIN_TIP", "Fees", "fees_for", "fees_now", "is_too_cheap", "outbidding", "with_margin"]

GWEI: Final = 10**9
"""Wei."""

MIN_TIP: Final = 1_000_000
"""Wei per gas, where a node does not say what is usual."""

FEE_CALLS: Final = (NEWEST, Call("eth_maxPriorityFeePerGas"))
"""What `fees_now` needs the answers to."""


@dataclass(frozen=True, slots=True)
class Fees:
    """Wei per gas: the most in all, and what of it the block's maker gets."""

    max_fee: int
    max_priority_fee: int


def fees_for(base_fee: int, tip: int, *, ceiling: int) -> Fees:
    """Return what to offer. Twice the base fee outlasts six full blocks in a row, in each of which it may rise by 1/8.

    Args:
        base_fee: the newest block's, wei per gas.
        tip: what is usual, wei per gas.
        ceiling: the most to pay, wei per gas.

    Raises:
        RailUnavailable: the next block would cost more than that.
    """
    if base_fee + tip > ceiling:
        raise RailUnavailable(
            f"gas costs {base_fee + tip} wei and the ceiling is {ceiling}; wait, or raise max_fee_gwei", retry_after=30
        )
    return Fees(max_fee=min(2 * base_fee + tip, ceiling), max_priority_fee=tip)


def fees_now(newest: Block, tip: Answer, *, ceiling: int) -> Fees:
    """Return what to offer now; see `fees_for`.

    Args:
        tip: what a node answers to the second of `FEE_CALLS`; some do not know that call.

    Raises:
        RailUnavailable: gas is above the ceiling, or the node's answer cannot be used.
    """
    if newest.base_fee is None:
        raise RailUnavailable("the node sent a block without a base fee: the chain must have EIP-1559")
    return fees_for(newest.base_fee, _usual(tip), ceiling=ceiling)


def is_too_cheap(offered: Fees, newest: Block, tip: Answer, *, is_late: bool) -> bool:
    """Say whether what was offered is why no block holds a transaction.

    It may not cover the base fee. Or it leaves the block's maker less than is usual now, which changes from block to
    block: that counts only of one that is late.

    Args:
        tip: what a node answers to the second of `FEE_CALLS`.
        is_late: whether it has waited longer than any should.

    Raises:
        RailUnavailable: the node's answer cannot be used.
    """
    if newest.base_fee is None:
        return False
    left = min(offered.max_priority_fee, offered.max_fee - newest.base_fee)
    return left < (_usual(tip) if is_late else 0)


def _usual(tip: Answer) -> int:
    return MIN_TIP if isinstance(tip, RpcError) else quantity(tip)


def outbidding(offered: Fees, wanted: Fees, *, ceiling: int) -> Fees:
    """Return what to offer in the place of an earlier offer: as much as is wanted, and an eighth more than before.

    Nodes take no less than a tenth more, of both.

    Raises:
        RailUnavailable: that is above the ceiling.
    """
    fees = Fees(
        max_fee=max(wanted.max_fee, _eighth_more(offered.max_fee)),
        max_priority_fee=max(wanted.max_priority_fee, _eighth_more(offered.max_priority_fee)),
    )
    if fees.max_fee > ceiling:
        raise RailUnavailable(
            f"to outbid itself it would have to offer {fees.max_fee} wei for gas, and the ceiling is {ceiling}"
        )
    return fees


def _eighth_more(price: int) -> int:
    return price + price // 8 + 1


def with_margin(gas: int) -> int:
    """Return the gas limit for transfers of which one was estimated to use `gas`.

    The first payment to an address that holds nothing writes a new slot of storage, 17,100 gas more than the next.
    What is not used is not paid.
    """
    return gas + gas // 5 + 20_000
