"""Receipts: reading them, whether nodes agree, and which transfer an authorization made."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from rail402.errors import OutcomeUnknown, RailUnavailable
from rail402_base.chain import Deposit, Transfer
from rail402_base.rpc.blocks import parse_block
from rail402_base.rpc.endpoint import RpcError
from rail402_base.rpc.receipts import Receipt, Seen, agreed, deposits, parse_log, parse_receipt, used_in
from tests.unit.rail402_base.rpc.chain import NOW, PAYEE, PAYER, TOKEN, TRANSFER, USED, Chain, word

NONCE = b"\x01" * 32
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def answer() -> dict[str, Any]:
    """A receipt of one authorization, as a node sends it."""
    chain = Chain()
    chain.hand_in(chain.authorize())
    return next(chain.receipts())


def read(answer: dict[str, Any]) -> Receipt:
    receipt = parse_receipt(answer)
    assert receipt is not None
    return receipt


def used(answer: dict[str, Any]) -> Transfer | None:
    return used_in(read(answer), TOKEN, PAYER, NONCE)


# --- reading


def test_reading_one(answer: dict[str, Any]) -> None:
    receipt = read(answer)
    assert receipt.succeeded
    assert (receipt.transaction, receipt.block_number) == (answer["transactionHash"], 101)
    assert [log.index for log in receipt.logs] == [1, 2]
    assert receipt.logs[0].block_time == NOW + 2
    assert parse_receipt(None) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.pop("logs"),
        lambda it: it.pop("status"),
        lambda it: it.update(transactionHash="0x12"),
        lambda it: it.update(blockHash=None),
        lambda it: it.update(blockNumber="latest"),
        lambda it: it.update(logs=[5]),
        lambda it: it["logs"][0].update(removed=True),
        lambda it: it["logs"][0].update(topics="0x"),
        lambda it: it["logs"][0].update(topics=["0x12"]),
        lambda it: it["logs"][0].update(data="12"),
        lambda it: it["logs"][0].update(address=None),
        lambda it: it["logs"][0].update(logIndex=1),
    ],
)
def test_what_is_no_receipt(answer: dict[str, Any], change: Change) -> None:
    change(answer)
    with pytest.raises(RailUnavailable):
        parse_receipt(answer)


@pytest.mark.parametrize("wrong", [5, [], "0x", RpcError(-32000, "no")])
def test_what_is_nothing_like_one(wrong: Any) -> None:
    with pytest.raises(RailUnavailable):
        parse_receipt(wrong)


def test_an_event_of_a_node_that_says_no_time(answer: dict[str, Any]) -> None:
    del answer["logs"][0]["blockTimestamp"]
    assert parse_log(answer["logs"][0]).block_time is None


# --- the transfer of an authorization


def test_the_transfer_that_it_made(answer: dict[str, Any]) -> None:
    expected = Transfer(transaction=answer["transactionHash"], log_index=2, to=PAYEE, value=3000, at=NOW + 2)
    assert used(answer) == expected


def test_the_address_may_be_in_any_case(answer: dict[str, Any]) -> None:
    for log in answer["logs"]:
        log["address"] = TOKEN.address
    assert used(answer) is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.update(status="0x0"),
        lambda it: it.update(logs=[]),
        lambda it: it["logs"].pop(0),
        lambda it: it["logs"][0].update(address=PAYEE),
        lambda it: it["logs"][0].update(topics=[USED, "0x" + word(PAYER), "0x" + word(2)]),
        lambda it: it["logs"][0].update(topics=[USED, "0x" + word(PAYEE), "0x" + NONCE.hex()]),
    ],
    ids=["reverted", "no events", "a plain transfer", "another contract", "another nonce", "another payer"],
)
def test_a_transaction_that_did_not_use_it(answer: dict[str, Any], change: Change) -> None:
    change(answer)
    assert used(answer) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it["logs"].pop(1),
        lambda it: it["logs"].append(it["logs"][1] | {"logIndex": "0x9"}),
        lambda it: it["logs"][1].update(address=PAYEE),
        lambda it: it["logs"][1].update(topics=[TRANSFER, "0x" + word(PAYEE), "0x" + word(PAYEE)]),
        lambda it: it["logs"][1].update(data="0x"),
    ],
    ids=["no transfer", "two transfers", "of another contract", "of another payer", "of no amount"],
)
def test_a_transfer_that_cannot_be_told_is_unknown(answer: dict[str, Any], change: Change) -> None:
    change(answer)
    with pytest.raises(OutcomeUnknown):
        used(answer)


def test_one_transaction_may_use_several_authorizations(answer: dict[str, Any]) -> None:
    use, transfer = answer["logs"]
    other = [
        use | {"topics": [USED, "0x" + word(PAYER), "0x" + word(9)], "logIndex": "0x3"},
        transfer | {"data": "0x" + word(5), "logIndex": "0x4"},
    ]
    answer["logs"] = [*other, use, transfer]  # in any order
    first, second = used(answer), used_in(read(answer), TOKEN, PAYER, (9).to_bytes(32, "big"))
    assert [(each.log_index, each.value) for each in (first, second) if each] == [(2, 3000), (4, 5)]


# --- agreement


def seen(answer: dict[str, Any] | None, height: int = 101, time: int = NOW) -> Seen:
    head = parse_block({"number": hex(height), "timestamp": hex(time), "baseFeePerGas": "0x1"})
    return Seen(head, parse_receipt(answer))


def agree(*each: Seen, confirmations: int = 1) -> Receipt | None:
    return agreed(each, confirmations=confirmations, now=NOW)


def test_all_have_it(answer: dict[str, Any]) -> None:
    assert agree(seen(answer)) == read(answer)
    assert agree(seen(answer), seen(answer)) == read(answer)


def test_not_every_node_says_the_time_of_a_block(answer: dict[str, Any]) -> None:
    other = deepcopy(answer)
    for log in other["logs"]:
        del log["blockTimestamp"]
    assert agree(seen(answer), seen(other)) is not None


def test_none_has_it() -> None:
    assert agree(seen(None), seen(None)) is None


def test_one_that_does_not_have_it_yet_is_waited_for(answer: dict[str, Any]) -> None:
    assert agree(seen(answer), seen(None, 100)) is None
    assert agree(seen(answer), seen(None, 101)) is None


def test_one_that_should_have_it_by_now_contradicts(answer: dict[str, Any]) -> None:
    with pytest.raises(OutcomeUnknown, match="another does not"):
        agree(seen(answer, 131), seen(None, 131))


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.update(status="0x0"),
        lambda it: it.update(blockHash="0x" + word(1)),
        lambda it: it.update(blockNumber="0x64"),
        lambda it: it["logs"].pop(),
        lambda it: it["logs"][1].update(data="0x" + word(1)),
    ],
)
def test_different_receipts_contradict(answer: dict[str, Any], change: Change) -> None:
    other = deepcopy(answer)
    change(other)
    with pytest.raises(OutcomeUnknown, match="different receipts"):
        agree(seen(answer), seen(other))


def test_it_must_be_deep_enough_for_all(answer: dict[str, Any]) -> None:
    assert agree(seen(answer, 102), confirmations=3) is None
    assert agree(seen(answer, 103), confirmations=3) is not None
    assert agree(seen(answer, 103), seen(answer, 102), confirmations=3) is None


def test_one_that_hangs_is_not_waited_for(answer: dict[str, Any]) -> None:
    assert agree(seen(answer), seen(None, 70, NOW - 61)) is not None
    assert agree(seen(answer), seen(None, 70, NOW - 60)) is None


def test_one_that_lies_about_its_height_is_not_believed_alone(answer: dict[str, Any]) -> None:
    answer["blockNumber"] = hex(5000)
    assert agree(seen(answer, 5000), seen(None, 101)) is None


# --- what it brought


def test_what_a_transaction_brought(answer: dict[str, Any]) -> None:
    found = Deposit(payer=PAYER, value=3000, log_index=2, nonces=(NONCE,))
    assert deposits(read(answer), TOKEN, PAYEE) == (found,)
    assert deposits(read(answer), TOKEN, PAYER) == ()
    answer["logs"] = answer["logs"][1:]
    assert deposits(read(answer), TOKEN, PAYEE.lower()) == (replace(found, nonces=()),)


def test_several_are_in_the_order_of_their_events(answer: dict[str, Any]) -> None:
    first, second = deepcopy(answer["logs"][1]), deepcopy(answer["logs"][1])
    first["logIndex"], first["data"], first["topics"][1] = "0x0", "0x" + word(1), "0x" + word("99" * 20)
    second["logIndex"], second["data"] = "0x9", "0x" + word(2)
    answer["logs"] = [second, *answer["logs"], first]
    found = deposits(read(answer), TOKEN, PAYEE)
    assert [(each.value, each.log_index, len(each.nonces)) for each in found] == [(1, 0, 0), (3000, 2, 1), (2, 9, 1)]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda answer: answer.update(status="0x0"),
        lambda answer: answer["logs"][1].update(address="0x" + 40 * "9"),
        lambda answer: answer["logs"][1].update(data="0x"),
        lambda answer: answer["logs"][1].update(data="0x" + word(1) + word(2)),
        lambda answer: answer["logs"][1]["topics"].append("0x" + word(1)),
        lambda answer: answer["logs"][1]["topics"].pop(),
        lambda answer: answer["logs"][1]["topics"].__setitem__(0, USED),
        lambda answer: answer["logs"][1]["topics"].__setitem__(2, "0x" + word("99" * 20)),
        lambda answer: answer["logs"].clear(),
    ],
)
def test_what_brought_nothing(answer: dict[str, Any], spoil: Change) -> None:
    spoil(answer)
    assert deposits(read(answer), TOKEN, PAYEE) == ()
