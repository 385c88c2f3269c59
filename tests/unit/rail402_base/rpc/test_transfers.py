"""Sending plain transfers: each once, written down before it is sent, within what gas may cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from rail402.errors import ConfigurationError, OfferRefused, OutcomeUnknown, PaymentRejected, RailUnavailable
from rail402.testing.fakes import FakeClock
from rail402_base.eip3009 import recover
from rail402_base.rpc.blocks import MAX_LAG
from rail402_base.rpc.relayer_store import Stored
from rail402_base.rpc.transfers import RpcSender, SendSettings
from rail402_base.senders import Gone, Landed, Waiting, Wanted
from tests.unit.rail402_base.rpc.chain import (
    ETHER,
    NOW,
    PAYEE,
    PAYER,
    PAYER_KEY,
    USDC,
    Chain,
    Network,
    Refused,
    until,
    word,
)

PRICE = 3000
WANTED = Wanted(payee=PAYEE, value=PRICE, name=b"\x01" * 32)
MAX_GAS = 10**15


class Purse:
    """A payer: a chain, its nodes, and the file of its transfers."""

    def __init__(self, path: Path, *hosts: str) -> None:
        self.network = Network(None, *hosts)
        self.chain = self.network.chain
        self.chain.ether[PAYER.lower()] = ETHER
        self.clock = FakeClock(NOW)
        self.url = f"sqlite:///{path}/transfers.db"
        self.senders: list[RpcSender] = []

    async def open(self, *, confirmations: int = 1, **settings: int) -> RpcSender:
        """A new process."""
        usual = {"poll_ms": 1, "tend_seconds": 3600, "send_seconds": 5, "max_gas": MAX_GAS}
        sender = RpcSender(
            self.network.reader(confirmations=confirmations),
            PAYER_KEY.hex(),
            store=self.url,
            settings=SendSettings(**(usual | settings)),
            clock=self.clock,
        )
        self.senders.append(sender)
        await sender.start()
        return sender

    def assert_paid(self, *values: int) -> None:
        assert self.chain.usdc_of(PAYEE) == sum(values)
        assert self.chain.usdc_of(PAYER) == 100 * USDC - sum(values)


@pytest.fixture
async def purse(tmp_path: Path) -> AsyncIterator[Purse]:
    purse = Purse(tmp_path)
    yield purse
    for sender in purse.senders:
        await sender.close()


def swallow(request: Any) -> httpx.Response | None:
    """Let a node take a transaction and lose its answer."""
    if not isinstance(request, list) and request["method"] == "eth_sendRawTransaction":
        raise httpx.ReadTimeout("lost")
    return None


async def test_a_transfer_is_made_once_and_found_again(purse: Purse) -> None:
    sender = await purse.open()
    assert (sender.address, await sender.balance()) == (PAYER, 100 * USDC)
    assert await sender.find(WANTED) == Gone()
    await sender.check(PAYEE, PRICE)
    transaction = await sender.send(WANTED)
    purse.assert_paid(PRICE)
    assert await sender.find(WANTED) == Landed(transaction)
    other = await purse.open()
    assert await other.find(WANTED) == Landed(transaction)
    with pytest.raises(OutcomeUnknown, match="begun before"):
        await other.send(WANTED)
    purse.assert_paid(PRICE)
    assert recover(bytes(32), sender.sign(bytes(32))) == PAYER
    assert PAYER_KEY.hex() not in repr(sender)


async def test_it_counts_when_it_is_deep_enough(purse: Purse) -> None:
    sender = await purse.open(confirmations=3, send_seconds=60)
    task = asyncio.create_task(sender.send(WANTED))
    await until(lambda: purse.chain.usdc_of(PAYEE) == PRICE)
    found = await sender.find(WANTED)
    assert isinstance(found, Waiting)
    assert not task.done()
    purse.chain.mine(2)
    assert await sender.find(WANTED) == Landed(await task)


async def test_what_waits_stays_what_is_paid(purse: Purse) -> None:
    purse.chain.mines_at_once = False
    sender = await purse.open(send_seconds=1)
    with pytest.raises(OutcomeUnknown, match="on its way"):
        await sender.send(WANTED)
    assert await sender.find(WANTED) == Waiting("no block that is deep enough holds it yet")
    purse.chain.pool.clear()  # every node forgot it
    other = await purse.open()
    assert len(purse.chain.pool) == 1, "the next process broadcasts it again"
    purse.chain.mine()
    assert isinstance(await other.find(WANTED), Landed)
    purse.assert_paid(PRICE)


async def test_a_lost_answer_is_no_reason_to_pay_again(purse: Purse) -> None:
    sender = await purse.open(send_seconds=1)
    purse.network.node.always = swallow
    with pytest.raises(OutcomeUnknown):
        await sender.send(WANTED)
    assert await sender.find(WANTED) == Waiting("no block that is deep enough holds it yet")
    purse.network.node.always = None
    other = await purse.open()
    assert isinstance(await other.find(WANTED), Landed)
    purse.assert_paid(PRICE)


async def test_a_cancelled_caller_does_not_hide_what_is_sent(purse: Purse) -> None:
    sender = await purse.open()
    sent = asyncio.Event()
    inner = sender._relayer._outbox.allocate

    async def slow(*args: Any) -> Any:
        sent.set()
        await asyncio.sleep(0.05)
        return await inner(*args)

    sender._relayer._outbox.allocate = slow  # type: ignore[method-assign]
    task = asyncio.create_task(sender.send(WANTED))
    await sent.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await sender.find(WANTED) != Gone(), "it is being written down and sent all the same"
    purse.assert_paid(PRICE)


@pytest.mark.parametrize(
    ("settings", "spoil", "said"),
    [
        ({"max_gas": 150_000}, lambda chain: None, "gas costs"),
        ({}, lambda chain: chain.ether.clear(), "send it some"),
        ({}, lambda chain: chain.balances.clear(), "exceeds balance"),
        ({"max_gas": 150_000 * 3_000_000}, lambda chain: setattr(chain, "base_fee", 3 * 10**6), "gas costs"),
    ],
)
async def test_what_cannot_be_sent_is_not(
    purse: Purse, settings: dict[str, int], spoil: Callable[[Chain], object], said: str
) -> None:
    sender = await purse.open(**settings)
    spoil(purse.chain)
    purse.chain.mine()
    for attempt in (sender.check(PAYEE, PRICE), sender.send(WANTED)):
        with pytest.raises((OfferRefused, RailUnavailable), match=said):
            await attempt
    assert purse.network.node.sent == []
    assert await sender.find(WANTED) == Gone()


async def test_what_the_chain_below_takes_counts_in_the_limit(purse: Purse) -> None:
    sender = await purse.open()
    token_call = purse.network.node.eth_call
    fee = MAX_GAS

    def eth_call(transaction: dict[str, str], block: str) -> str:
        oracle = transaction["to"].endswith("000F")
        return "0x" + word(fee) if oracle else token_call(transaction, block)

    purse.network.node.answers["eth_call"] = eth_call
    with pytest.raises(OfferRefused, match="max_gas"):
        await sender.send(WANTED)
    fee = 1
    await sender.send(WANTED)
    purse.assert_paid(PRICE)


async def test_a_transfer_that_takes_too_much_gas_is_not_sent(purse: Purse) -> None:
    sender = await purse.open()
    purse.network.node.answers["eth_estimateGas"] = lambda _: hex(140_000)
    with pytest.raises(OfferRefused, match="max_gas"):
        await sender.send(WANTED)


async def test_one_that_reverts_has_paid_nothing(purse: Purse) -> None:
    purse.chain.mines_at_once = False
    sender = await purse.open()
    task = asyncio.create_task(sender.send(WANTED))
    await until(lambda: bool(purse.chain.pool))
    purse.chain.balances.clear()
    purse.chain.mine()
    with pytest.raises(PaymentRejected, match="reverted"):
        await task
    assert await sender.find(WANTED) == Gone()


async def test_one_that_every_node_refused_was_not_paid(purse: Purse) -> None:
    sender = await purse.open()

    def refuse(_: str) -> str:
        raise Refused(-32000, "insufficient funds for gas * price + value")

    purse.network.node.answers["eth_sendRawTransaction"] = refuse
    with pytest.raises(RailUnavailable):
        await sender.send(WANTED)
    assert await sender.find(WANTED) == Gone()


async def test_one_that_was_refused_and_is_seen_all_the_same_was_not_unpaid(purse: Purse) -> None:
    """Its node has said what is not true."""
    sender = await purse.open(confirmations=2)
    node = purse.network.node

    def lie(raw: str) -> str:
        node.eth_send_raw_transaction(raw)
        raise Refused(-32000, "insufficient funds for gas * price + value")

    node.answers["eth_sendRawTransaction"] = lie
    with pytest.raises(RailUnavailable):
        await sender.send(WANTED)
    assert isinstance(await sender.find(WANTED), Waiting)
    purse.chain.mine()
    assert isinstance(await sender.find(WANTED), Landed)
    purse.assert_paid(PRICE)


async def overtake(purse: Purse, sender: RpcSender) -> Stored:
    """Have a transfer that waits lose its nonce to something else that its owner sent."""
    purse.chain.mines_at_once = False
    with pytest.raises(OutcomeUnknown):
        await sender.send(WANTED)
    purse.chain.pool.clear()
    purse.chain.transact(PAYER_KEY, PAYEE, nonce=0)
    purse.chain.mine()
    (stored,) = await sender._known(sender._purpose(WANTED))
    return stored


async def test_one_that_lost_its_nonce_was_not_paid(purse: Purse) -> None:
    sender = await purse.open(send_seconds=1)
    stored = await overtake(purse, sender)
    assert isinstance(await sender.find(WANTED), Waiting), "it may be in a block that the node does not have"
    assert await sender._relayer._outbox.is_lost(stored)
    purse.chain.mine(MAX_LAG - 1)
    assert isinstance(await sender.find(WANTED), Waiting), "a node may be so far behind"
    purse.chain.mine()
    assert await sender.find(WANTED) == Gone()
    for block in purse.chain.blocks:
        block.counts.clear()  # the block with the other one was taken back
    assert isinstance(await sender.find(WANTED), Waiting), "its nonce is free again, and somebody may have it"
    purse.assert_paid()


@pytest.mark.parametrize("other", ["agrees", "is behind", "has it", "is down"])
async def test_every_node_must_say_that_it_is_gone(tmp_path: Path, other: str) -> None:
    purse = Purse(tmp_path, "one.test", "two.test")
    sender = await purse.open(send_seconds=1)
    stored = await overtake(purse, sender)
    purse.chain.mine(MAX_LAG)
    node = purse.network.nodes["two.test"]

    def differ() -> None:
        if other == "is behind":
            node.answers["eth_getTransactionCount"] = lambda *_: "0x0"
        if other == "has it":
            node.answers["eth_getTransactionReceipt"] = lambda hash_: receipt_of(purse.chain, hash_)
        if other == "is down":
            node.always = httpx.ConnectError("down")

    differ()
    assert await sender._relayer._outbox.is_lost(stored) == (other == "agrees")
    node.always = None
    node.answers.clear()
    await sender._store.finish(stored, "replaced")
    differ()
    assert isinstance(await sender.find(WANTED), Gone if other == "agrees" else Waiting)
    await sender.close()


def receipt_of(chain: Chain, hash_: str) -> dict[str, Any]:
    """What a node answers that has a transaction in its newest block."""
    head = chain.head
    block = {"blockNumber": hex(head.number), "blockHash": head.hash}
    return {"transactionHash": hash_, "status": "0x1", "logs": []} | block


# --- answers that are lost or wrong


async def found_later(purse: Purse, sender: RpcSender) -> None:
    """It was paid once, and is found again by another process when the nodes show it."""
    assert isinstance(await sender.find(WANTED), Waiting)
    for node in purse.network.nodes.values():
        node.always = None
        node.answers.clear()
    other = await purse.open()
    found = await other.find(WANTED)
    assert isinstance(found, Landed)
    assert [each["transactionHash"] for each in purse.chain.receipts()] == [found.transaction]
    purse.assert_paid(PRICE)
    await other.close()
    await sender.close()


async def test_a_used_nonce_is_no_reason_to_pay_again(tmp_path: Path) -> None:
    """The first node takes it and falls silent. The second one has it in a block, and not yet its receipt."""
    purse = Purse(tmp_path, "one.test", "two.test")
    sender = await purse.open(send_seconds=1)
    one, two = purse.network.nodes.values()

    def take(request: Any) -> httpx.Response | None:
        if not isinstance(request, list) and request["method"] == "eth_sendRawTransaction":
            one.eth_send_raw_transaction(request["params"][0])
            one.always = httpx.ConnectError("down")
            raise httpx.ReadTimeout("lost")
        return None

    one.always = take
    two.answers["eth_sendRawTransaction"] = nonce_too_low
    two.answers["eth_getTransactionReceipt"] = lambda _: None
    with pytest.raises(OutcomeUnknown):
        await sender.send(WANTED)
    await found_later(purse, sender)


async def test_a_node_that_hands_it_on_twice_is_no_reason_to_pay_again(tmp_path: Path) -> None:
    """There are several nodes behind its address: one has taken it, one says so, and one is a block behind."""
    purse = Purse(tmp_path)
    sender = await purse.open(send_seconds=1)
    node = purse.network.node

    def twice(raw: str) -> str:
        node.eth_send_raw_transaction(raw)
        return nonce_too_low(raw)

    node.answers["eth_sendRawTransaction"] = twice
    node.answers["eth_getTransactionReceipt"] = node.answers["eth_getTransactionByHash"] = lambda _: None
    with pytest.raises(OutcomeUnknown):
        await sender.send(WANTED)
    purse.clock.advance(3600)
    await sender._relayer._outbox.tend()  # which believes that it is lost
    await found_later(purse, sender)


def nonce_too_low(raw: str) -> str:
    raise Refused(-32000, "nonce too low: next nonce 1, tx nonce 0")


async def test_what_another_program_has_sent_is_seen_before(purse: Purse) -> None:
    sender = await purse.open()
    purse.chain.transact(PAYER_KEY, PAYEE, nonce=0)
    purse.chain.mines_at_once = False
    purse.chain.transact(PAYER_KEY, PAYEE, nonce=1)
    task = asyncio.create_task(sender.send(WANTED))
    await until(lambda: len(purse.chain.pool) == 2)
    purse.chain.mine()
    assert await sender.find(WANTED) == Landed(await task)
    purse.assert_paid(PRICE)


async def test_what_another_program_sends_in_that_moment_is_not_paid(purse: Purse) -> None:
    sender = await purse.open()
    node = purse.network.node

    def too_late(raw: str) -> str:
        if not purse.chain.counts[PAYER.lower()]:
            purse.chain.transact(PAYER_KEY, PAYEE, nonce=0)
        return node.eth_send_raw_transaction(raw)

    node.answers["eth_sendRawTransaction"] = too_late
    task = asyncio.create_task(sender.send(WANTED))
    await until(lambda: bool(node.sent))
    purse.clock.advance(3600)
    await sender._relayer._outbox.tend()
    with pytest.raises(OutcomeUnknown, match="another transaction has the nonce"):
        await task
    purse.chain.mine(MAX_LAG)
    assert await sender.find(WANTED) == Gone()
    await sender.send(Wanted(payee=PAYEE, value=PRICE, name=b"\x02" * 32))
    assert purse.chain.counts[PAYER.lower()] == 2
    purse.assert_paid(PRICE)


async def test_a_mined_one_whose_receipt_is_gone_is_not_unpaid(purse: Purse) -> None:
    """Nodes forget receipts after some weeks."""
    sender = await purse.open()
    await sender.send(WANTED)
    await asyncio.gather(*sender._relayer._outbox._writes)
    purse.chain.mine(MAX_LAG)
    purse.network.node.answers["eth_getTransactionReceipt"] = lambda _: None
    assert await sender.find(WANTED) == Waiting("a block held it, and no node shows that any more")


# --- the rest


async def test_a_file_that_was_lost_does_not_make_a_payment_undone(purse: Purse, tmp_path: Path) -> None:
    transaction = await (await purse.open()).send(WANTED)
    purse.url = f"sqlite:///{tmp_path}/new.db"
    sender = await purse.open()
    assert await sender.find(WANTED, hint=transaction) == Landed(transaction)
    assert isinstance(await sender.find(WANTED, hint="0x" + 64 * "a"), Waiting)
    other = Wanted(payee=PAYEE, value=PRICE + 1, name=WANTED.name)
    with pytest.raises(OutcomeUnknown, match="did not make the transfer"):
        await sender.find(other, hint=transaction)


@pytest.mark.parametrize("settings", [{"max_gas": 149_999}, {"send_seconds": 0}, {"poll_ms": 0}, {"tend_seconds": 0}])
def test_settings_that_make_no_sense(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        SendSettings(**settings)


def test_no_offer_for_gas_passes_the_limit() -> None:
    assert SendSettings(max_gas=150_000 * 7).ceiling == 7
