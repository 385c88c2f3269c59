"""Waiting for blocks: how often the nodes are asked, counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from rail402_base.rpc.watcher import Watcher
from tests.unit.rail402_base.rpc.chain import Chain, Network, until


async def nothing() -> None:
    """There is nothing to look after."""


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def chain(network: Network) -> Chain:
    return network.chain


@pytest.fixture
async def watcher(network: Network) -> AsyncIterator[Watcher]:
    watcher = Watcher(network.reader(), poll_ms=2, tend_seconds=3600, tend=nothing)
    yield watcher
    await watcher.close()


async def test_nobody_is_asked_while_nobody_waits(network: Network, watcher: Watcher) -> None:
    assert watcher.is_idle
    await asyncio.sleep(0.02)
    assert network.node.requests == []


async def test_what_is_mined_already_is_found_at_once(network: Network, chain: Chain, watcher: Watcher) -> None:
    transaction = chain.hand_in(chain.authorize())
    receipt = await watcher.watch(transaction)
    assert receipt is not None
    assert receipt.transaction == transaction
    assert len(network.node.requests) == 1
    await until(lambda: watcher.is_idle)


async def test_all_receipts_are_looked_for_in_one_request_per_block(
    network: Network, chain: Chain, watcher: Watcher
) -> None:
    chain.mines_at_once = False
    transactions = [chain.hand_in(chain.authorize(number=number), nonce=number) for number in range(16)]
    futures = [watcher.watch(each) for each in transactions]
    await until(lambda: network.node.methods().count("eth_blockNumber") >= 5)
    looks = [request for request in network.node.requests if isinstance(request, list)]
    assert len(looks) == 1, "while no block comes, only the head is asked for"
    assert len(looks[0]) == 17

    chain.mine()
    receipts = await asyncio.gather(*futures)

    assert [receipt and receipt.transaction for receipt in receipts] == transactions
    assert sum(isinstance(request, list) for request in network.node.requests) == 2
    await until(lambda: watcher.is_idle)
    asked = len(network.node.requests)
    await asyncio.sleep(0.02)
    assert len(network.node.requests) == asked


async def test_it_looks_less_often_while_no_block_comes(network: Network) -> None:
    pauses: list[int] = []

    class Patient(Watcher):
        async def _pause(self, slowness: int) -> None:
            pauses.append(slowness)
            await asyncio.sleep(0)

    watcher = Patient(network.reader(), poll_ms=500, tend_seconds=3600, tend=nothing)
    watcher.watch("0x" + "99" * 32)
    await until(lambda: len(pauses) >= 100)
    await watcher.close()
    assert pauses[:8] == [1] * 8
    assert pauses == sorted(pauses)
    assert pauses[-1] == 8


async def test_two_who_wait_for_one_get_the_same(chain: Chain, watcher: Watcher) -> None:
    assert watcher.watch("0x" + "99" * 32) is watcher.watch("0x" + "99" * 32)


async def test_trouble_ends_nothing(network: Network, chain: Chain, watcher: Watcher) -> None:
    chain.mines_at_once = False
    transaction = chain.hand_in(chain.authorize())
    network.node.faults.extend([httpx.ReadTimeout("slow"), httpx.Response(500), httpx.Response(200, text="<html>")])
    future = watcher.watch(transaction)
    await until(lambda: not network.node.faults)
    assert not future.done()
    chain.mine()
    assert await future is not None


async def test_a_disagreement_is_no_receipt(network: Network) -> None:
    two = Network(network.chain, "one.test", "two.test")
    transaction = network.chain.hand_in(network.chain.authorize())
    truth = two.node.eth_get_transaction_receipt(transaction)
    assert truth is not None
    two.nodes["two.test"].answers["eth_getTransactionReceipt"] = lambda _: truth | {"status": "0x0"}
    watcher = Watcher(two.reader(), poll_ms=1, tend_seconds=3600, tend=nothing)
    future = watcher.watch(transaction)
    await until(lambda: two.node.methods().count("eth_blockNumber") >= 3)
    assert not future.done()
    two.nodes["two.test"].answers.clear()
    network.chain.mine()
    assert await future is not None
    await watcher.close()


async def test_who_waits_can_be_told(watcher: Watcher) -> None:
    future = watcher.watch("0x" + "99" * 32)
    watcher.resolve("0x" + "99" * 32, None)
    watcher.resolve("0x" + "99" * 32, None)
    assert await future is None


async def test_what_waits_is_looked_after(network: Network) -> None:
    tended = asyncio.Event()

    async def tend() -> None:
        tended.set()

    watcher = Watcher(network.reader(), poll_ms=1, tend_seconds=0, tend=tend)
    watcher.watch("0x" + "99" * 32)
    async with asyncio.timeout(10):
        await tended.wait()
    await watcher.close()


async def test_closing_ends_the_waiting(watcher: Watcher) -> None:
    future = watcher.watch("0x" + "99" * 32)
    await watcher.close()
    assert future.cancelled()
    assert watcher.is_idle
