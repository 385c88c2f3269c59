"""Handing authorizations in: each once, written down before it is sent, and never lost."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from rail402.errors import ConfigurationError, OutcomeUnknown, PaymentRejected, RailUnavailable, StoreError
from rail402.protocol.charge import Charge
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Settled, Terms
from rail402.testing.fakes import FakeClock
from rail402_base.chain import Submitted, Transfer, Unused
from rail402_base.eip3009 import Authorization
from rail402_base.rail import BaseRail
from rail402_base.rpc.backend import RelaySettings, RpcBackend
from rail402_base.rpc.relayer_store import Account, SqliteRelayerStore, Stored
from rail402_base.tokens import BASE_USDC
from rail402_base.wire import payload_of
from tests.unit.rail402_base.rpc.chain import (
    BASE_FEE,
    GAS,
    NOW,
    PAYEE,
    PAYER,
    RELAYER,
    RELAYER_KEY,
    TIP,
    TOKEN,
    USDC,
    Chain,
    Network,
    Node,
    Refused,
    error,
    until,
)

ACCOUNT = Account(84532, RELAYER)


class Shop:
    """A publisher: a chain, its nodes, and the relayer's file."""

    def __init__(self, path: Path, *hosts: str) -> None:
        self.network = Network(None, *hosts)
        self.chain = self.network.chain
        self.clock = FakeClock(NOW)
        self.url = f"sqlite:///{path}/relayer.db"
        self.backends: list[RpcBackend] = []

    async def open(self, **settings: int) -> RpcBackend:
        """A new process."""
        usual = {"poll_ms": 1, "tend_seconds": 3600, "settle_seconds": 5}
        backend = RpcBackend(
            self.network.reader(),
            RELAYER_KEY.hex(),
            store=self.url,
            settings=RelaySettings(**(usual | settings)),
            clock=self.clock,
        )
        self.backends.append(backend)
        await backend.start()
        return backend

    async def settle(self, backend: RpcBackend, authorization: Authorization) -> Transfer | Submitted:
        return await backend.settle(TOKEN, authorization, self.chain.sign(authorization))

    async def trace(self, backend: RpcBackend, authorization: Authorization) -> object:
        return await backend.trace(TOKEN, PAYER, authorization.nonce, valid_before=authorization.valid_before)

    async def live(self) -> list[Stored]:
        """What the file holds, as another process sees it."""
        store = SqliteRelayerStore(self.url)
        await store.start()
        try:
            return list(await store.live(ACCOUNT))
        finally:
            await store.close()

    def relayed(self) -> list[dict[str, Any]]:
        """The receipts of the relayer's transactions."""
        return list(self.chain.receipts())

    def assert_paid(self, *values: int) -> None:
        """The payee has just this, and every unit came from the payer."""
        assert self.chain.usdc_of(PAYEE) == sum(values)
        assert self.chain.usdc_of(PAYER) == 100 * USDC - sum(values)


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    for backend in shop.backends:
        await backend.close()


@pytest.fixture
async def backend(shop: Shop) -> RpcBackend:
    return await shop.open()


# --- one payment


async def test_a_payment(shop: Shop, backend: RpcBackend) -> None:
    authorization = shop.chain.authorize()
    found = await shop.settle(backend, authorization)
    assert isinstance(found, Transfer)
    assert (found.to, found.value, found.at) == (PAYEE, 3000, shop.chain.head.time)
    assert found.transaction == shop.relayed()[0]["transactionHash"]
    assert await shop.trace(backend, authorization) == found
    shop.assert_paid(3000)
    await until(lambda: backend.relayer._outbox._watcher.is_idle)
    await asyncio.gather(*backend.relayer._outbox._writes)
    assert await shop.live() == []


async def test_what_a_payment_costs_in_requests(shop: Shop, backend: RpcBackend) -> None:
    await shop.settle(backend, shop.chain.authorize(number=1))
    requests = shop.network.node.requests
    requests.clear()
    authorization = shop.chain.authorize(number=2)
    await backend.check(TOKEN, authorization, shop.chain.sign(authorization))
    assert len(requests) == 1
    await shop.settle(backend, authorization)
    assert [len(each) if isinstance(each, list) else each["method"] for each in requests[1:]] == [
        3,
        "eth_sendRawTransaction",
        2,
    ]
    assert "eth_estimateGas" not in shop.network.node.methods()[-10:], "gas is estimated once"


async def test_gas_is_estimated_once_and_has_a_margin(shop: Shop, backend: RpcBackend) -> None:
    for number in range(3):
        await shop.settle(backend, shop.chain.authorize(number=number))
    assert shop.network.node.methods().count("eth_estimateGas") == 1
    shop.chain.mines_at_once = False
    task = asyncio.create_task(shop.settle(backend, shop.chain.authorize(number=9)))
    await until(lambda: bool(shop.chain.pool))
    (transaction,) = shop.chain.pool.values()
    assert transaction.fields["gas"] == GAS + GAS // 5 + 20_000
    assert transaction.fields["maxFeePerGas"] == 2 * BASE_FEE + TIP
    shop.chain.mine()
    await task


async def test_200_at_once_have_nonces_without_a_gap(shop: Shop) -> None:
    backend = await shop.open(max_in_flight=16, settle_seconds=60)
    most = 0
    send = shop.network.node.eth_send_raw_transaction

    def count(raw: str) -> str:
        nonlocal most
        most = max(most, len(backend.relayer._tasks))
        return send(raw)

    shop.network.node.answers["eth_sendRawTransaction"] = count
    payments = [shop.chain.authorize(1000 + number, nonce=number.to_bytes(32, "big")) for number in range(200)]
    found = await asyncio.gather(*(shop.settle(backend, each) for each in payments))
    assert 1 < most <= 16
    assert [each.value for each in found if isinstance(each, Transfer)] == [each.value for each in payments]
    assert len({each.transaction for each in found}) == 200
    assert shop.chain.counts[RELAYER.lower()] == 200
    shop.assert_paid(*(each.value for each in payments))


async def test_many_payments_in_one_block_are_no_storm(shop: Shop) -> None:
    backend = await shop.open(poll_ms=20)
    shop.chain.mines_at_once = False
    node = shop.network.node
    tasks = [asyncio.create_task(shop.settle(backend, shop.chain.authorize(number=n))) for n in range(1, 17)]
    await until(lambda: len(shop.chain.pool) == 16)
    node.requests.clear()
    await asyncio.sleep(0.2)
    assert len(node.requests) <= 12, "one small request per look, for all of them"
    shop.chain.mine()
    await asyncio.gather(*tasks)
    shop.assert_paid(*[3000] * 16)


# --- what was not sent


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda it: it.used.add((PAYER.lower(), "01" * 32)), "proof_already_used"),
        (lambda it: it.balances.clear(), "insufficient_funds"),
        (lambda it: it.blacklist.add(PAYER.lower()), "payment_declined"),
        (lambda it: it.mine(time=NOW + 600), "authorization_expired"),
    ],
)
async def test_what_the_token_would_refuse_is_not_sent(
    shop: Shop, backend: RpcBackend, spoil: Callable[[Chain], object], code: str
) -> None:
    spoil(shop.chain)
    with pytest.raises(PaymentRejected) as caught:
        await shop.settle(backend, shop.chain.authorize())
    assert caught.value.code == code
    assert shop.network.node.sent == []
    assert await shop.live() == []


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda it: setattr(it.chain, "paused", True), "paused"),
        (lambda it: setattr(it.chain, "base_fee", 10**9) or it.chain.mine(), "the ceiling is 1000000000"),
        (lambda it: setattr(it.node, "always", httpx.ConnectError("refused")), "cannot be reached"),
        (lambda it: setattr(it.node, "always", httpx.ReadTimeout("slow")), "gave no answer"),
        (lambda it: it.chain.ether.clear(), "has no ether to pay for gas: send it some"),
        (
            lambda it: it.node.answers.update(eth_sendRawTransaction=refusing("transaction underpriced")),
            "refuse the transactions",
        ),
    ],
)
async def test_nothing_is_sent_and_the_nonce_stays_free(
    shop: Shop, backend: RpcBackend, spoil: Callable[[Network], object], says: str
) -> None:
    spoil(shop.network)
    with pytest.raises(RailUnavailable, match=says):
        await shop.settle(backend, shop.chain.authorize())
    assert await shop.live() == []
    shop.assert_paid()
    shop.network.node.always = None
    shop.network.node.answers.clear()
    shop.chain.paused, shop.chain.base_fee = False, BASE_FEE
    shop.chain.ether[RELAYER.lower()] = 10**18
    shop.chain.mine()
    await shop.settle(backend, shop.chain.authorize(number=2))
    assert shop.chain.counts[RELAYER.lower()] == 1


def refusing(message: str, number: int = -32000) -> Callable[..., object]:
    def refuse(*_: object) -> object:
        raise Refused(number, message)

    return refuse


async def test_another_token_is_refused(shop: Shop, backend: RpcBackend) -> None:
    authorization = shop.chain.authorize()
    with pytest.raises(ConfigurationError):
        await backend.settle(BASE_USDC, authorization, shop.chain.sign(authorization))


async def test_one_whose_time_has_just_come_is_sent(shop: Shop, backend: RpcBackend) -> None:
    """The newest block is older than it; the next one will not be."""
    found = await shop.settle(backend, shop.chain.authorize(valid_after=shop.chain.head.time))
    assert isinstance(found, Transfer)


async def test_a_busy_relayer_says_so(shop: Shop) -> None:
    backend = await shop.open(settle_seconds=1)
    async with AsyncExitStack() as others:
        for _ in range(backend.settings.max_in_flight):
            await others.enter_async_context(backend._slots)
        with pytest.raises(RailUnavailable, match="busy"):
            await shop.settle(backend, shop.chain.authorize())
    assert shop.network.node.sent == []


# --- written down before it is sent


async def test_the_transaction_is_stored_before_it_is_broadcast(shop: Shop, backend: RpcBackend) -> None:
    stored: list[list[Stored]] = []

    class Looking(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if b"eth_sendRawTransaction" in await request.aread():
                stored.append(await shop.live())
            return await shop.network.handle_async_request(request)

    backend.reader.rpc._transport._inner = Looking()
    await shop.settle(backend, shop.chain.authorize())
    ((transaction,),) = stored
    assert [transaction.raw] == shop.network.node.sent
    assert transaction.hash == shop.relayed()[0]["transactionHash"]
    assert transaction.purpose is not None
    assert transaction.purpose.nonce == b"\x01" * 32


class Failing(SqliteRelayerStore):
    """A store that fails when told."""

    fails: str = ""

    async def allocate(self, *args: Any, **kwargs: Any) -> Any:
        if self.fails == "before writing":
            raise StoreError("disk full")
        result = await super().allocate(*args, **kwargs)
        if self.fails == "after writing":
            raise StoreError("disk full")
        return result

    async def finish(self, *args: Any, **kwargs: Any) -> None:
        if self.fails == "when finishing":
            raise StoreError("disk full")
        await super().finish(*args, **kwargs)

    async def refuse(self, *args: Any, **kwargs: Any) -> bool:
        if self.fails == "when refusing":
            raise StoreError("disk full")
        return await super().refuse(*args, **kwargs)


async def failing(shop: Shop, fails: str) -> RpcBackend:
    store = Failing(shop.url)
    settings = RelaySettings(poll_ms=1, settle_seconds=5)
    backend = RpcBackend(shop.network.reader(), RELAYER_KEY.hex(), store=store, settings=settings, clock=shop.clock)
    shop.backends.append(backend)
    await backend.start()
    store.fails = fails
    return backend


@pytest.mark.parametrize(
    ("fails", "expected"), [("before writing", RailUnavailable), ("after writing", OutcomeUnknown)]
)
async def test_without_a_record_nothing_is_sent(shop: Shop, fails: str, expected: type[Exception]) -> None:
    backend = await failing(shop, fails)
    with pytest.raises(expected):
        await shop.settle(backend, shop.chain.authorize())
    assert shop.network.node.sent == []


async def test_a_refused_one_that_stays_in_the_file_is_not_said_to_be_over(shop: Shop) -> None:
    """It would be broadcast at the next start."""
    backend = await failing(shop, "when refusing")
    shop.chain.ether.clear()
    with pytest.raises(OutcomeUnknown):
        await shop.settle(backend, shop.chain.authorize())
    assert len(await shop.live()) == 1


async def test_a_mined_one_that_could_not_be_noted_is_no_trouble(shop: Shop) -> None:
    backend = await failing(shop, "when finishing")
    assert isinstance(await shop.settle(backend, shop.chain.authorize()), Transfer)
    await backend.close()
    again = await shop.open()
    await until(lambda: again.relayer._outbox._watcher.is_idle)
    await asyncio.gather(*again.relayer._outbox._writes)
    assert await shop.live() == []


# --- time-outs and lost answers


async def test_an_answer_that_is_lost_is_no_loss(shop: Shop, backend: RpcBackend) -> None:
    """The node has the transaction; its answer does not arrive."""

    def lose(request: object) -> httpx.Response | None:
        if isinstance(request, dict) and request["method"] == "eth_sendRawTransaction":
            shop.network.node.eth_send_raw_transaction(request["params"][0])
            shop.network.node.always = None
            raise httpx.ReadTimeout("slow")
        return None

    shop.network.node.always = lose
    assert isinstance(await shop.settle(backend, shop.chain.authorize()), Transfer)
    shop.assert_paid(3000)


async def test_a_node_that_says_the_nonce_is_used_by_this_very_transaction(tmp_path: Path) -> None:
    """The first node mines it and answers nothing; the second has it in a block already."""
    shop = Shop(tmp_path, "one.test", "two.test")
    backend = await shop.open()
    first, second = shop.network.nodes.values()

    def lose(request: object) -> httpx.Response | None:
        if isinstance(request, dict) and request["method"] == "eth_sendRawTransaction":
            first.eth_send_raw_transaction(request["params"][0])
            raise httpx.ReadTimeout("slow")
        return None

    first.always = lose
    second.answers["eth_sendRawTransaction"] = refusing("nonce too low")
    assert isinstance(await shop.settle(backend, shop.chain.authorize()), Transfer)
    assert shop.chain.counts[RELAYER.lower()] == 1
    shop.assert_paid(3000)
    await backend.close()


async def test_a_used_nonce_is_doubted_after_a_node_that_may_have_taken_it(tmp_path: Path) -> None:
    """By the same transaction, whose receipt neither node has yet: with a second nonce only gas would be lost."""
    shop = Shop(tmp_path, "one.test", "two.test")
    backend = await shop.open(settle_seconds=1)
    first, second = shop.network.nodes.values()
    first.faults.extend([lambda _: None, lose_the_answer(first)])
    second.answers["eth_sendRawTransaction"] = refusing("nonce too low")
    for node in (first, second):
        node.answers["eth_getTransactionReceipt"] = lambda _: None
    assert isinstance(await shop.settle(backend, shop.chain.authorize()), Submitted)
    assert shop.chain.counts[RELAYER.lower()] == len(await shop.live()) == 1
    await backend.close()


def lose_the_answer(node: Node) -> Callable[[Any], httpx.Response | None]:
    def lose(request: Any) -> httpx.Response | None:
        node.eth_send_raw_transaction(request["params"][0])
        raise httpx.ReadTimeout("slow")

    return lose


async def test_a_used_nonce_that_cannot_be_looked_into_is_not_said_to_be_unsent(shop: Shop) -> None:
    backend = await shop.open(settle_seconds=1)
    shop.chain.mines_at_once = False

    def used_and_then_silent(raw: str) -> str:
        shop.network.node.eth_send_raw_transaction(raw)
        shop.network.node.always = httpx.ReadTimeout("slow")
        raise Refused(-32000, "nonce too low")

    shop.network.node.answers["eth_sendRawTransaction"] = used_and_then_silent
    assert isinstance(await shop.settle(backend, shop.chain.authorize()), Submitted)
    shop.network.node.always = None


async def test_one_that_is_not_mined_in_time_is_followed(shop: Shop) -> None:
    backend = await shop.open(settle_seconds=1)
    shop.chain.mines_at_once = False
    authorization = shop.chain.authorize()
    submitted = await shop.settle(backend, authorization)
    assert isinstance(submitted, Submitted)
    assert await shop.trace(backend, authorization) == submitted
    shop.chain.mine()
    await until(lambda: backend.relayer._outbox._watcher.is_idle)
    found = await shop.trace(backend, authorization)
    assert isinstance(found, Transfer)
    assert found.transaction == submitted.transaction


async def test_a_cancelled_caller_leaves_nothing_half_done(shop: Shop, backend: RpcBackend) -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    class Slow(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if b"eth_sendRawTransaction" in await request.aread():
                arrived.set()
                await go.wait()
            return await shop.network.handle_async_request(request)

    backend.reader.rpc._transport._inner = Slow()
    task = asyncio.create_task(shop.settle(backend, shop.chain.authorize()))
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    await until(lambda: len(shop.relayed()) == 1)
    shop.assert_paid(3000)
    await until(lambda: backend.relayer._outbox._watcher.is_idle)


async def test_the_same_authorization_twice_at_once_is_sent_once(shop: Shop) -> None:
    one, other = await shop.open(), await shop.open()  # two workers
    shop.chain.mines_at_once = False
    authorization = shop.chain.authorize()
    tasks = [asyncio.create_task(shop.settle(each, authorization)) for each in (one, other, one)]
    await until(lambda: len(shop.network.node.sent) == 3)
    assert len(set(shop.network.node.sent)) == 1, "the same bytes"
    shop.chain.mine()
    assert len({await task for task in tasks}) == 1
    shop.assert_paid(3000)


async def test_closing_while_one_waits(shop: Shop, backend: RpcBackend) -> None:
    shop.chain.mines_at_once = False
    task = asyncio.create_task(shop.settle(backend, shop.chain.authorize()))
    await until(lambda: bool(shop.chain.pool))
    await asyncio.sleep(0.01)
    await backend.close()
    with pytest.raises(OutcomeUnknown, match="not waited for"):
        await task
    assert len(await shop.live()) == 1


class CutOff(httpx.AsyncBaseTransport):
    """The network of one process: its first broadcasts run into time-outs, the last of them when told."""

    def __init__(self, network: Network, *, sends: int) -> None:
        self.network, self.left = network, sends
        self.is_waiting, self.over = asyncio.Event(), asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if b"eth_sendRawTransaction" in request.content and self.left:
            self.left -= 1
            if not self.left:
                self.is_waiting.set()
                await self.over.wait()
            raise httpx.ConnectTimeout("no route")
        return await self.network.handle_async_request(request)


@pytest.mark.parametrize("who", ["another worker starts", "another worker tends", "the same worker tends"])
async def test_what_another_broadcasts_meanwhile_is_not_said_to_be_unsent(tmp_path: Path, who: str) -> None:
    """The first broadcast reaches nobody; before it gives up, somebody else sends the same row."""
    shop = Shop(tmp_path, "one.test", "two.test")
    backend = await shop.open()
    backend.reader.rpc._transport._inner = cut_off = CutOff(shop.network, sends=2)
    other = await shop.open() if who == "another worker tends" else backend
    paying = asyncio.create_task(shop.settle(backend, shop.chain.authorize()))
    await cut_off.is_waiting.wait()
    if who == "another worker starts":
        await shop.open()
    else:
        shop.clock.advance(3600)
        await other.relayer._outbox.tend()
    cut_off.over.set()
    found = await paying
    assert isinstance(found, Transfer)
    assert found.transaction == shop.relayed()[0]["transactionHash"]
    shop.assert_paid(3000)
    for each in shop.backends:
        await each.close()


async def test_what_nobody_could_send_is_sent_by_nobody_later(shop: Shop, backend: RpcBackend) -> None:
    """Another worker has read the row while it was live; then the first says that nothing was sent."""
    backend.reader.rpc._transport._inner = cut_off = CutOff(shop.network, sends=1)
    paying = asyncio.create_task(shop.settle(backend, shop.chain.authorize()))
    await cut_off.is_waiting.wait()
    (stored,) = await shop.live()
    cut_off.over.set()
    with pytest.raises(RailUnavailable):
        await paying
    assert not await backend.relayer._outbox._broadcast_again(stored)
    assert shop.network.node.sent == []


# --- transactions that move nothing


async def test_somebody_was_first(shop: Shop, backend: RpcBackend) -> None:
    authorization = shop.chain.authorize()
    shop.chain.mines_at_once = False
    task = asyncio.create_task(shop.settle(backend, authorization))
    await until(lambda: bool(shop.chain.pool))
    mine = shop.chain.pool.copy()
    shop.chain.pool.clear()
    shop.chain.hand_in(authorization)
    shop.chain.mine()
    shop.chain.pool.update(mine)
    shop.chain.mine()
    with pytest.raises(PaymentRejected) as caught:
        await task
    assert caught.value.code == "proof_already_used"
    assert isinstance(await shop.trace(backend, authorization), Transfer)
    shop.assert_paid(3000)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda it: it.balances.update({PAYER.lower(): -100 * USDC}),
        lambda it: setattr(it, "paused", True),
    ],
    ids=["the payer moved the money away", "the token was paused"],
)
async def test_one_that_reverts_can_be_handed_in_again(
    shop: Shop, backend: RpcBackend, spoil: Callable[[Chain], object]
) -> None:
    """By anybody: it stands in the block. So it is not over, and the charge stays open until the chain says more."""
    authorization = shop.chain.authorize()
    shop.chain.mines_at_once = False
    task = asyncio.create_task(shop.settle(backend, authorization))
    await until(lambda: bool(shop.chain.pool))
    balances = shop.chain.balances.copy()
    spoil(shop.chain)
    shop.chain.mine()
    with pytest.raises(OutcomeUnknown, match="reverted"):
        await task
    assert shop.chain.usdc_of(PAYEE) == 0
    assert await shop.trace(backend, authorization) == Unused(expired=False)
    shop.chain.paused, shop.chain.mines_at_once = False, True
    shop.chain.balances.update(balances)
    shop.chain.hand_in(authorization)
    assert isinstance(await shop.trace(backend, authorization), Transfer)


async def test_one_that_reverts_because_it_has_expired_is_over(shop: Shop, backend: RpcBackend) -> None:
    authorization = shop.chain.authorize()
    shop.chain.mines_at_once = False
    task = asyncio.create_task(shop.settle(backend, authorization))
    await until(lambda: bool(shop.chain.pool))
    pool = shop.chain.pool.copy()
    shop.chain.pool.clear()
    while shop.chain.head.time < authorization.valid_before:
        shop.chain.mine(100)
    shop.chain.pool.update(pool)
    shop.chain.mine()
    with pytest.raises(PaymentRejected) as caught:
        await task
    assert caught.value.code == "authorization_expired"
    assert await shop.trace(backend, authorization) == Unused(expired=True)


async def test_one_that_reverted_for_a_reason_that_is_gone_is_not_over(shop: Shop, backend: RpcBackend) -> None:
    """It ran out of gas, say: the authorization is public and good, and anybody may hand it in."""
    authorization = shop.chain.authorize()
    shop.chain.mines_at_once = False
    task = asyncio.create_task(shop.settle(backend, authorization))
    await until(lambda: bool(shop.chain.pool))
    shop.chain.paused = True
    shop.chain._new_block().receipts.append(shop.chain._execute(shop.chain.head, shop.chain.pool.popitem()[1]))
    shop.chain.paused = False
    with pytest.raises(OutcomeUnknown, match="would take the authorization now"):
        await task
    assert backend.relayer._gas is None, "gas is estimated anew"


async def test_a_success_without_the_transfer_is_not_believed(shop: Shop, backend: RpcBackend) -> None:
    truth = shop.network.node.eth_get_transaction_receipt

    def forged(hash_: str) -> object:
        receipt = truth(hash_)
        return receipt and receipt | {"logs": []}

    shop.network.node.answers["eth_getTransactionReceipt"] = forged
    with pytest.raises(OutcomeUnknown, match="made no transfer"):
        await shop.settle(backend, shop.chain.authorize())


async def test_nodes_that_disagree_leave_it_unknown(tmp_path: Path) -> None:
    """The second node shows the payment as done, and the first knows nothing of it."""
    shop = Shop(tmp_path, "one.test", "two.test")
    backend = await shop.open(settle_seconds=1)
    shop.chain.mines_at_once = False
    other = Chain()
    second = shop.network.nodes["two.test"]
    second.answers["eth_getTransactionReceipt"] = lambda hash_: forge(other, shop, hash_)
    authorization = shop.chain.authorize()
    assert isinstance(await shop.settle(backend, authorization), Submitted)
    assert shop.chain.usdc_of(PAYEE) == 0
    shop.chain.mine(40)  # by now the first should have it
    shop.chain.pool.clear()
    await backend.close()


def forge(other: Chain, shop: Shop, hash_: str) -> object:
    if not list(other.receipts()):
        other.hand_in(shop.chain.authorize())
    receipt = next(other.receipts())
    logs = [log | {"transactionHash": hash_} for log in receipt["logs"]]
    return receipt | {"transactionHash": hash_, "logs": logs}


# --- after a restart, and what has waited for long


async def crash(backend: RpcBackend) -> None:
    """End a process without anything that an orderly end would do."""
    await backend.relayer._outbox._watcher.close()


async def test_what_an_earlier_process_stored_is_sent(shop: Shop) -> None:
    first = await shop.open(settle_seconds=1)
    shop.chain.mines_at_once = False
    shop.network.node.answers["eth_sendRawTransaction"] = refusing("txpool is full")
    authorization = shop.chain.authorize()
    submitted = await shop.settle(first, authorization)
    assert isinstance(submitted, Submitted)
    await crash(first)
    shop.network.node.answers.clear()
    shop.chain.mines_at_once = True

    second = await shop.open()

    found = await shop.trace(second, authorization)
    assert isinstance(found, Transfer)
    assert found.transaction == submitted.transaction
    shop.assert_paid(3000)


async def test_a_gap_left_by_a_crash_is_healed_by_the_restart(shop: Shop) -> None:
    """Nonce 0 was stored and never sent; 1 and 2 wait behind it in the pool."""
    first = await shop.open(settle_seconds=1)
    shop.chain.mines_at_once = False
    send = shop.network.node.eth_send_raw_transaction
    refused: list[str] = []

    def all_but_the_first(raw: str) -> str:
        if not refused or raw in refused:
            refused.append(raw)
            raise Refused(-32000, "txpool is full")
        return send(raw)

    shop.network.node.answers["eth_sendRawTransaction"] = all_but_the_first
    payments = [shop.chain.authorize(number=number) for number in (1, 2, 3)]
    assert [type(each) for each in await asyncio.gather(*(shop.settle(first, each) for each in payments))] == [
        Submitted
    ] * 3
    shop.chain.mine()
    assert shop.relayed() == [], "they wait for the gap"
    await crash(first)
    shop.network.node.answers.clear()

    second = await shop.open()

    shop.chain.mine()
    for each in payments:
        assert isinstance(await shop.trace(second, each), Transfer)
    assert shop.chain.counts[RELAYER.lower()] == 3
    shop.assert_paid(3000, 3000, 3000)


async def late(shop: Shop, backend: RpcBackend) -> None:
    """Let what waits have waited for long, and be looked after."""
    shop.clock.advance(3600)
    await backend.relayer._outbox.tend()


async def waiting(shop: Shop, backend: RpcBackend, *numbers: int, **members: Any) -> list[asyncio.Task[Any]]:
    """Payments that are in the pool."""
    shop.chain.mines_at_once = False
    tasks = []
    for count, number in enumerate(numbers, start=len(shop.chain.pool) + 1):
        payment = shop.chain.authorize(number=number, **members)
        tasks.append(asyncio.create_task(shop.settle(backend, payment)))
        await until(lambda count=count: len(shop.chain.pool) == count)  # type: ignore[misc]
    return tasks


async def test_a_transaction_that_the_pool_has_dropped_is_sent_again(shop: Shop, backend: RpcBackend) -> None:
    first, second = await waiting(shop, backend, 1, 2)
    dropped = shop.network.node.sent[0]
    shop.chain.pool.pop(next(iter(shop.chain.pool)))
    await late(shop, backend)
    assert shop.network.node.sent.count(dropped) == 2
    shop.chain.mine()
    assert isinstance(await first, Transfer)
    assert isinstance(await second, Transfer)
    shop.assert_paid(3000, 3000)


async def test_one_that_waits_in_the_pool_is_left_alone(shop: Shop, backend: RpcBackend) -> None:
    (task,) = await waiting(shop, backend, 1)
    for _ in range(3):
        await late(shop, backend)
    assert len(shop.network.node.sent) == 1
    shop.chain.mine()
    await task


async def test_a_dropped_one_that_can_do_nothing_any_more_is_replaced(shop: Shop, backend: RpcBackend) -> None:
    task, other = await waiting(shop, backend, 1, 2)
    authorization = shop.chain.authorize(number=1)
    shop.chain.pool.pop(next(iter(shop.chain.pool)))
    shop.chain.hand_in(authorization)  # by somebody else
    shop.chain.mine()
    await late(shop, backend)
    shop.chain.mine()
    assert isinstance(await other, Transfer), "it does not wait for ever behind the gap"
    with pytest.raises(PaymentRejected) as caught:
        await task
    assert caught.value.code == "proof_already_used"
    shop.assert_paid(3000, 3000)


async def test_an_offer_that_is_too_low_by_now_is_raised(shop: Shop, backend: RpcBackend) -> None:
    tasks = await waiting(shop, backend, 1, 2)
    old = {each.nonce: each for each in shop.chain.pool.values()}
    shop.chain.base_fee = 20 * BASE_FEE
    shop.chain.mine()
    assert len(shop.chain.pool) == 2, "they do not get into a block any more"

    await late(shop, backend)

    new = {each.nonce: each for each in shop.chain.pool.values()}
    assert old.keys() == new.keys()
    for nonce, better in new.items():
        assert better.fields["data"] == old[nonce].fields["data"]
        assert better.fields["maxFeePerGas"] >= 20 * BASE_FEE
    shop.chain.mine()
    found = await asyncio.gather(*tasks)
    assert {each.transaction for each in found} == {each.hash for each in new.values()}, "who waited gets the second"
    assert [each.nonce for each in old.values()] == [0, 1]
    shop.assert_paid(3000, 3000)


@pytest.mark.parametrize("dearer", ["gas", "the tip"])
async def test_a_tip_that_is_too_low_by_now_is_raised(shop: Shop, backend: RpcBackend, dearer: str) -> None:
    """The base fee is covered, and what is left is less than makers of blocks take."""
    tasks = await waiting(shop, backend, 1, 2)
    old = {each.nonce: each for each in shop.chain.pool.values()}
    if dearer == "gas":
        shop.chain.base_fee = old[0].fields["maxFeePerGas"] - 1
    else:
        shop.chain.tip += 1
    shop.chain.mine()
    await late(shop, backend)
    assert list(shop.chain.pool.values()) == list(old.values()), "what is usual changes: it has a while"

    await late(shop, backend)

    new = {each.nonce: each for each in shop.chain.pool.values()}
    assert old.keys() == new.keys()
    for nonce, better in new.items():
        assert better.fields["data"] == old[nonce].fields["data"]
        assert better.fields["maxPriorityFeePerGas"] >= shop.chain.tip
        assert better.fields["maxFeePerGas"] <= backend.settings.max_fee_per_gas
    shop.chain.mine()
    found = await asyncio.gather(*tasks)
    assert {each.transaction for each in found} == {each.hash for each in new.values()}
    shop.assert_paid(3000, 3000)


async def test_the_first_may_be_mined_all_the_same(shop: Shop, backend: RpcBackend) -> None:
    (task,) = await waiting(shop, backend, 1)
    ((_, first),) = shop.chain.pool.items()
    shop.chain.base_fee = 20 * BASE_FEE
    shop.chain.mine()
    await late(shop, backend)
    shop.chain.base_fee = BASE_FEE
    shop.chain.pool = {first.hash: first}
    shop.chain.mine()
    found = await task
    assert found.transaction == first.hash
    await late(shop, backend)
    await until(lambda: backend.relayer._outbox._watcher.is_idle)
    await asyncio.gather(*backend.relayer._outbox._writes)
    assert await shop.live() == []
    shop.assert_paid(3000)


@pytest.mark.parametrize("dearer", ["base_fee", "tip"])
async def test_no_offer_goes_above_the_ceiling(
    shop: Shop, backend: RpcBackend, caplog: pytest.LogCaptureFixture, dearer: str
) -> None:
    (task,) = await waiting(shop, backend, 1)
    usual = getattr(shop.chain, dearer)
    setattr(shop.chain, dearer, 10**9)
    shop.chain.mine()
    for _ in range(3):
        await late(shop, backend)
    assert len(shop.network.node.sent) == 1
    assert "has to wait" in caplog.text
    setattr(shop.chain, dearer, usual)
    shop.chain.mine()
    assert isinstance(await task, Transfer)


async def test_a_gap_that_is_nobodys_is_filled(shop: Shop, backend: RpcBackend) -> None:
    """Nonce 0 was refused by all nodes after 1 had been sent."""
    send = shop.network.node.eth_send_raw_transaction

    def refuse_the_first(raw: str) -> str:
        if not shop.network.node.sent:
            shop.network.node.sent.append(b"")
            raise Refused(-32000, "intrinsic gas too low")
        return send(raw)

    shop.network.node.answers["eth_sendRawTransaction"] = refuse_the_first
    shop.chain.mines_at_once = False
    lost = asyncio.create_task(shop.settle(backend, shop.chain.authorize(number=1)))
    task = asyncio.create_task(shop.settle(backend, shop.chain.authorize(number=2)))
    with pytest.raises(RailUnavailable):
        await lost
    await until(lambda: len(shop.chain.pool) == 1)
    if next(iter(shop.chain.pool.values())).nonce == 1:
        await late(shop, backend)
    shop.chain.mine()
    assert isinstance(await task, Transfer)
    shop.assert_paid(3000)


async def test_nonces_that_another_program_took(shop: Shop, backend: RpcBackend) -> None:
    """The key is used elsewhere too, against all advice: the payment gets another nonce."""
    for nonce in range(5):
        shop.chain.transact(RELAYER_KEY, PAYEE, nonce=nonce)
    assert isinstance(await shop.settle(backend, shop.chain.authorize()), Transfer)
    assert shop.chain.counts[RELAYER.lower()] == 6
    await until(lambda: backend.relayer._outbox._watcher.is_idle)
    await asyncio.gather(*backend.relayer._outbox._writes)
    assert await shop.live() == []


async def test_one_that_another_worker_has_replaced_is_not_waited_for(shop: Shop, backend: RpcBackend) -> None:
    (task,) = await waiting(shop, backend, 1)
    other = await shop.open()
    shop.chain.base_fee = 20 * BASE_FEE
    shop.chain.mine()
    await late(shop, other)
    shop.chain.mine()
    await late(shop, backend)
    with pytest.raises(PaymentRejected) as caught:
        await task
    assert caught.value.code == "proof_already_used", "and the rail finds by whom: us"
    assert isinstance(await shop.trace(backend, shop.chain.authorize(number=1)), Transfer)
    await until(lambda: backend.relayer._outbox._watcher.is_idle and other.relayer._outbox._watcher.is_idle)


# --- at the start, and its health


async def test_a_relayer_without_ether_starts_and_says_so(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.chain.ether.clear()
    backend = await shop.open()
    assert f"the relayer {RELAYER} has no ether" in caplog.text
    with pytest.raises(RailUnavailable, match="has no ether"):
        await backend.health()
    shop.chain.ether[RELAYER.lower()] = 10**12 * 10
    await backend.health()
    assert "is enough for" in caplog.text


@pytest.mark.parametrize("key", ["", "0x", "ab" * 31, "0x" + "zz" * 32, "00" * 32])
def test_a_key_that_is_none_is_not_shown(shop: Shop, key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RpcBackend(shop.network.reader(), key, store=shop.url)
    assert not re.search("zz|abab|0000", str(caught.value))


@pytest.mark.parametrize("name", ["max_fee_per_gas", "settle_seconds", "max_in_flight", "poll_ms", "tend_seconds"])
def test_settings_must_be_positive(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        RelaySettings(**{name: 0})


async def test_neither_key_shows_anywhere(shop: Shop, backend: RpcBackend, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown = [repr(backend), repr(backend.relayer), repr(backend.reader), repr(vars(backend.relayer)["_outbox"])]
    node = shop.network.node
    node.faults.append(httpx.Response(401, text="0123456789abcdef-secret"))
    with pytest.raises(RailUnavailable) as caught:
        await shop.settle(backend, shop.chain.authorize())
    shown += [repr(caught.value), str(caught.value)]
    node.faults.append(httpx.Response(200, json=[error(None, -32000, "0123456789abcdef-secret")]))
    await shop.settle(backend, shop.chain.authorize())
    shown.append(caplog.text)
    for secret in ("0123456789abcdef", RELAYER_KEY.hex(), repr(RELAYER_KEY)):
        assert all(secret not in text for text in shown)


def test_the_usual_settings_by_one_call(tmp_path: Path) -> None:
    backend = RpcBackend.connect(
        "https://one.test/", RELAYER_KEY.hex(), token=TOKEN, store=f"sqlite:///{tmp_path}/r.db"
    )
    assert backend.network == TOKEN.network
    assert backend.settings == RelaySettings()
    assert repr(backend) == f"RpcBackend(ChainReader(['one.test'], network='eip155:84532'), relayer='{RELAYER}')"


# --- behind the rail


ORDER = Order(method="GET", url="https://api.example.com/a", route="GET /a")


async def offer_of(rail: BaseRail) -> Offer:
    terms = Terms(amount=3000, flow=Flow.AUTHORIZATION, now=NOW, expires_at=NOW + 600, timeout_seconds=180)
    offer = await rail.offer(ORDER, rail.spec.mechanisms[0], terms)
    assert offer is not None
    return offer


def rail_of(shop: Shop) -> BaseRail:
    """A rail that has not been started."""
    backend = RpcBackend(
        shop.network.reader(), RELAYER_KEY.hex(), store=shop.url, settings=RelaySettings(poll_ms=1), clock=shop.clock
    )
    shop.backends.append(backend)
    return BaseRail(backend, pay_to=PAYEE, token=TOKEN)


async def test_a_rail_that_could_not_start_sells_when_the_trouble_is_over(shop: Shop) -> None:
    rail = rail_of(shop)
    authorization = shop.chain.authorize()
    payload = payload_of(authorization, shop.chain.sign(authorization))
    shop.chain.paused = True
    with pytest.raises(RailUnavailable, match="paused"):
        await rail.start()
    with pytest.raises(RailUnavailable, match="paused"):
        await offer_of(rail)
    shop.chain.paused = False
    offer = await offer_of(rail)
    payment = Payment(dialect="x402-v2", rail="base", payload=payload, offer=offer)
    verified = await rail.verify(offer, payment, rail.spec.authenticate(offer, payment), now=NOW)
    charge = Charge(
        id="ch_1",
        order=ORDER,
        offer=offer,
        price=offer.price,
        dialect="x402-v2",
        keys=tuple(verified.keys),
        created_at=NOW,
        lease_until=NOW,
        rail_state=verified.state,
        window=600,
    )
    assert isinstance(await rail.settle(charge, payment), Settled)
    shop.assert_paid(3000)


async def test_a_rail_that_is_being_opened_keeps_nobody_waiting(shop: Shop) -> None:
    rail = rail_of(shop)
    first = asyncio.create_task(rail.start())
    await asyncio.sleep(0)
    with pytest.raises(RailUnavailable, match="cannot be used yet"):
        await offer_of(rail)
    await first


async def test_settings_that_turn_out_to_be_wrong_later_make_no_offers(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    rail = rail_of(shop)
    shop.network.node.answers["eth_chainId"] = lambda: "0x1"
    with pytest.raises(RailUnavailable):
        await offer_of(rail)
    assert "is on the chain" in caplog.text
