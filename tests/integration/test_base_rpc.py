"""Base USDC over JSON-RPC on a real EVM: every payment is mined once, and the money is counted on both sides."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from fastapi import FastAPI, Request
from hexbytes import HexBytes

from rail402.client.payer import Payer
from rail402.errors import ClientError, ConfigurationError, OutcomeUnknown, PaymentRejected, RailUnavailable
from rail402.protocol.receipt import ReceiptKeys
from rail402.server.gate import Gate
from rail402_base.chain import Submitted, Transfer, Unused, Void
from rail402_base.eip3009 import Authorization, cancel_digest, parse_authorization, sign
from rail402_base.rail import BaseRail
from rail402_base.rpc.abi import AUTHORIZATION_USED, TRANSFER
from rail402_base.rpc.backend import RelaySettings, RpcBackend
from rail402_base.rpc.reader import ChainReader
from rail402_base.tokens import BASE_USDC, Token
from rail402_base.wallet import BaseWallet
from rail402_base.wire import payload_of
from tests.services.anvil import ETHER, USDC, Account, EvmChain

URL = "http://testserver"
PRICE = 3000
GWEI = 10**9
FAST = {"poll_ms": 20, "tend_seconds": 1, "settle_seconds": 60, "max_fee_per_gas": 20 * GWEI}
NEVER = 3600
"""Seconds after which nothing is looked after in a test."""


class Shop:
    """A publisher's account and its relayer's, payers, and a count of what they had."""

    def __init__(self, evm: EvmChain, path: Path, payers: int = 1) -> None:
        self.evm = evm
        self.payee, self.relayer = evm.account(), evm.account(ether=ETHER)
        self.payers = [evm.account(usdc=10 * USDC) for _ in range(payers)]
        self.store = f"sqlite:///{path}/relayer.db"
        self.begin = evm.height()

    @property
    def payer(self) -> Account:
        return self.payers[0]

    def authorize(self, value: int = PRICE, payer: Account | None = None, **members: Any) -> Authorization:
        return self.evm.authorize(payer or self.payer, self.payee.address, value, **members)

    def sign(self, authorization: Authorization) -> bytes:
        (payer,) = (each for each in self.payers if each.address == authorization.from_)
        return self.evm.sign(payer, authorization)

    @asynccontextmanager
    async def open(
        self, urls: str | Iterable[str] = (), *, token: Token | None = None, **settings: int
    ) -> AsyncIterator[RpcBackend]:
        """A relayer's process."""
        reader = ChainReader(urls or self.evm.url, token or self.evm.token)
        relay = RelaySettings(**{**FAST, **settings})
        backend = RpcBackend(reader, self.relayer.private_key, store=self.store, settings=relay)
        try:
            await backend.start()
            yield backend
        finally:
            await backend.close()

    async def settle(self, backend: RpcBackend, authorization: Authorization) -> Transfer | Submitted:
        return await backend.settle(self.evm.token, authorization, self.sign(authorization))

    async def trace(self, backend: RpcBackend, authorization: Authorization) -> object:
        return await backend.trace(
            self.evm.token, authorization.from_, authorization.nonce, valid_before=authorization.valid_before
        )

    # --- the books

    def logs(self, *topics: str | None) -> list[dict[str, Any]]:
        """The token's events since the shop was opened."""
        criteria = {"address": self.evm.token.address, "fromBlock": hex(self.begin), "topics": list(topics)}
        found: list[dict[str, Any]] = self.evm.call("eth_getLogs", criteria)
        return found

    def assert_paid(self, payments: Sequence[Authorization]) -> None:
        """By balances and by events: these were paid, each once, by their payers to the payee, and nothing else was."""
        paid = Counter({each.address: 0 for each in self.payers})
        paid.update(Counter([each.from_ for each in payments for _ in range(each.value)]))
        for payer in self.payers:
            assert self.evm.usdc_of(payer.address) == 10 * USDC - paid[payer.address]
        assert self.evm.usdc_of(self.payee.address) == sum(each.value for each in payments)
        assert self.evm.usdc_of(self.relayer.address) == 0
        received = self.logs(TRANSFER, None, _topic(self.payee.address))
        assert sorted((log["topics"][1], int(log["data"], 16)) for log in received) == sorted(
            (_topic(each.from_), each.value) for each in payments
        )
        used = [
            log["topics"][2] for payer in self.payers for log in self.logs(AUTHORIZATION_USED, _topic(payer.address))
        ]
        assert sorted(used) == sorted("0x" + each.nonce.hex() for each in payments)

    def waiting(self) -> list[str]:
        """The relayer's transactions that wait for a block."""
        return self.evm.waiting(self.relayer.address)

    def nonce(self) -> int:
        """How many transactions of the relayer's were mined."""
        return int(self.evm.call("eth_getTransactionCount", self.relayer.address, "latest"), 16)


def _topic(address: str) -> str:
    return "0x" + address[2:].lower().rjust(64, "0")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - a chain in another process sets no event
            await asyncio.sleep(0.02)


@pytest.fixture
def shop(evm: EvmChain, tmp_path: Path) -> Shop:
    return Shop(evm, tmp_path)


# --- many at once


async def test_200_payments_with_16_in_flight_are_each_mined_once(evm: EvmChain, tmp_path: Path) -> None:
    shop = Shop(evm, tmp_path, payers=8)
    payments = [shop.authorize(1000 + number, shop.payers[number % 8]) for number in range(200)]
    gas = evm.ether_of(shop.relayer.address)
    in_flight = most = 0

    async with shop.open(max_in_flight=16) as backend:

        async def pay(authorization: Authorization) -> Transfer | Submitted:
            nonlocal in_flight, most
            async with backend._slots:  # taken twice: it says how many may begin
                in_flight += 1
                most = max(most, in_flight)
            try:
                return await shop.settle(backend, authorization)
            finally:
                in_flight -= 1

        found = await asyncio.gather(*map(pay, payments))

    assert most >= 16
    assert all(isinstance(each, Transfer) for each in found)
    assert len({each.transaction for each in found}) == 200
    shop.assert_paid(payments)
    assert shop.nonce() == 200, "no transaction too many"
    assert evm.ether_of(shop.relayer.address) < gas


async def test_16_in_one_block(evm: EvmChain, tmp_path: Path) -> None:
    shop = Shop(evm, tmp_path, payers=4)
    payments = [shop.authorize(number + 1, shop.payers[number % 4]) for number in range(16)]
    async with shop.open(tend_seconds=NEVER) as backend:
        with evm.mining(None):
            tasks = [asyncio.create_task(shop.settle(backend, each)) for each in payments]
            await until(lambda: len(shop.waiting()) == 16)
            height = evm.height()
            evm.mine()
            found = await asyncio.gather(*tasks)
    blocks = {int(log["blockNumber"], 16) for log in shop.logs(TRANSFER, None, _topic(shop.payee.address))}
    assert blocks == {height + 1}
    assert len({(each.transaction) for each in found}) == 16
    shop.assert_paid(payments)


async def test_two_workers_share_a_key(evm: EvmChain, tmp_path: Path) -> None:
    shop = Shop(evm, tmp_path, payers=2)
    payments = [shop.authorize(number + 1, shop.payers[number % 2]) for number in range(40)]
    async with shop.open() as one, shop.open() as other:
        found = await asyncio.gather(*(shop.settle((one, other)[n % 2], each) for n, each in enumerate(payments)))
    assert all(isinstance(each, Transfer) for each in found)
    shop.assert_paid(payments)
    assert shop.nonce() == 40


# --- a relayer that is killed


class Passage:
    """Between a relayer and its node: it can hold requests back for ever.

    Attributes:
        url: where it answers.
        holds: by the request's JSON, whether it goes no further.
    """

    def __init__(self, evm: EvmChain) -> None:
        self.holds: Callable[[Any], bool] = lambda request: False
        self.held: list[Any] = []
        self._end = threading.Event()
        passage = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = json.loads(body)
                if passage.holds(request):
                    passage.held.append(request)
                    passage._end.wait()
                    return
                answer = httpx.post(evm.url, content=body, headers={"Content-Type": "application/json"}).content
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Write nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._end.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def passage(evm: EvmChain) -> Iterator[Passage]:
    passage = Passage(evm)
    yield passage
    passage.close()


@contextmanager
def process(shop: Shop, url: str, payments: Sequence[Authorization]) -> Iterator[subprocess.Popen[str]]:
    """A relayer in a process of its own, at work; it is killed at the end of the block at the latest."""
    command = [sys.executable, str(Path(__file__).with_name("relayer_process.py"))]
    work = {
        "url": url,
        "key": shop.relayer.private_key,
        "store": shop.store,
        "settings": FAST,
        "payloads": [payload_of(each, shop.sign(each)) for each in payments],
    }
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdin is not None
            child.stdin.write(json.dumps(work))
            child.stdin.close()
            yield child
        finally:
            child.kill()


async def test_a_relayer_killed_in_the_middle_goes_on_where_it_was(evm: EvmChain, tmp_path: Path) -> None:
    shop = Shop(evm, tmp_path, payers=4)
    payments = [shop.authorize(number + 1, shop.payers[number % 4]) for number in range(40)]

    with process(shop, evm.url, payments) as child:
        assert child.stdout is not None
        mined = [await asyncio.to_thread(child.stdout.readline) for _ in range(5)]
        child.kill()  # SIGKILL, with the others on their way

    assert all(mined)
    async with shop.open() as backend:
        found = await asyncio.gather(*(shop.settle(backend, each) for each in payments), return_exceptions=True)
        done = await asyncio.gather(*(shop.trace(backend, each) for each in payments))
    assert all(isinstance(each, Transfer) for each in done)
    again = [each for each in found if isinstance(each, Transfer)]
    refused = [each for each in found if isinstance(each, PaymentRejected)]
    assert len(again) + len(refused) == 40
    assert {each.code for each in refused} == {"proof_already_used"}, "those of the first process"
    shop.assert_paid(payments)
    assert shop.nonce() >= 40


async def test_what_was_in_the_pool_when_it_was_killed_is_found(evm: EvmChain, shop: Shop) -> None:
    payments = [shop.authorize(number + 1) for number in range(8)]
    with evm.mining(None):
        with process(shop, evm.url, payments):
            await until(lambda: len(shop.waiting()) == 8)
        async with shop.open() as backend:
            assert {type(await shop.trace(backend, each)) for each in payments} == {Submitted}
            evm.mine()
            assert {type(await shop.trace(backend, each)) for each in payments} == {Transfer}
    shop.assert_paid(payments)
    assert shop.nonce() == 8


async def test_a_gap_that_the_killed_one_left_is_closed(evm: EvmChain, shop: Shop, passage: Passage) -> None:
    """The first of eight was written down and never sent: the seven after it cannot be mined."""

    def hold_the_first(request: Any) -> bool:
        if isinstance(request, list) or request["method"] != "eth_sendRawTransaction":
            return False
        return bool(TypedTransaction.from_bytes(HexBytes(request["params"][0])).as_dict()["nonce"] == 0)

    passage.holds = hold_the_first
    payments = [shop.authorize(number + 1) for number in range(8)]
    with process(shop, passage.url, payments):
        await until(lambda: passage.held and len(shop.waiting()) == 7)
    assert int(evm.call("eth_getTransactionCount", shop.relayer.address, "pending"), 16) == 0

    async with shop.open() as backend:
        await until(lambda: shop.nonce() == 8)
        assert {type(await shop.trace(backend, each)) for each in payments} == {Transfer}

    shop.assert_paid(payments)


# --- transactions that get lost


async def test_a_transaction_dropped_from_the_pool_is_sent_again(evm: EvmChain, shop: Shop) -> None:
    payments = [shop.authorize(1), shop.authorize(2)]
    async with shop.open() as backend:
        with evm.mining(None):
            tasks = [asyncio.create_task(shop.settle(backend, payments[0]))]
            await until(lambda: len(shop.waiting()) == 1)
            (dropped,) = shop.waiting()
            tasks.append(asyncio.create_task(shop.settle(backend, payments[1])))
            await until(lambda: len(shop.waiting()) == 2)
            evm.drop(dropped)
            assert dropped not in shop.waiting()
            await until(lambda: dropped in shop.waiting() and len(shop.waiting()) == 2)
            evm.mine()
            found = await asyncio.gather(*tasks)
    assert [type(each) for each in found] == [Transfer, Transfer]
    assert found[0].transaction == dropped
    shop.assert_paid(payments)
    assert shop.nonce() == 2


async def test_an_offer_is_raised_where_gas_has_become_dearer(evm: EvmChain, shop: Shop) -> None:
    payment = shop.authorize()
    base_fee = int(evm.call("eth_getBlockByNumber", "latest", False)["baseFeePerGas"], 16)
    async with shop.open() as backend:
        with evm.mining(None):
            task = asyncio.create_task(shop.settle(backend, payment))
            await until(lambda: len(shop.waiting()) == 1)
            (first,) = shop.waiting()
            evm.call("anvil_setNextBlockBaseFeePerGas", hex(4 * base_fee + 8 * GWEI))
            evm.mine()
            assert evm.receipt(first) is None
            await until(lambda: shop.waiting() and first not in shop.waiting())
            evm.mine()
            found = await task
        evm.call("anvil_setNextBlockBaseFeePerGas", hex(base_fee))
        evm.mine()
        assert await shop.trace(backend, payment) == found
    assert found.transaction != first
    shop.assert_paid([payment])
    assert shop.nonce() == 1


async def test_a_tip_is_raised_where_gas_has_become_dearer(evm: EvmChain, shop: Shop) -> None:
    """The base fee is just covered. An anvil would mine that, and many a chain's makers of blocks would not."""
    payment = shop.authorize()
    base_fee = evm.call("eth_getBlockByNumber", "latest", False)["baseFeePerGas"]
    async with shop.open(tend_seconds=2) as backend:
        with evm.mining(None):
            task = asyncio.create_task(shop.settle(backend, payment))
            await until(lambda: len(shop.waiting()) == 1)
            (first,) = shop.waiting()
            offered = int(evm.call("eth_getTransactionByHash", first)["maxFeePerGas"], 16)
            evm.drop(first)
            evm.call("anvil_setNextBlockBaseFeePerGas", hex(offered - 1))
            evm.mine()
            await until(lambda: first in shop.waiting())
            await until(lambda: shop.waiting() and first not in shop.waiting())
            (second,) = shop.waiting()
            evm.call("anvil_setNextBlockBaseFeePerGas", hex(offered - 1))
            evm.mine()
            found = await task
            evm.call("anvil_setNextBlockBaseFeePerGas", base_fee)
    assert isinstance(found, Transfer)
    assert found.transaction == second
    mined = evm.receipt(second)
    assert mined is not None
    assert int(mined["effectiveGasPrice"], 16) - (offered - 1) >= int(evm.call("eth_maxPriorityFeePerGas"), 16)
    shop.assert_paid([payment])
    assert shop.nonce() == 1


async def test_nothing_is_sent_while_gas_is_above_the_ceiling(evm: EvmChain, shop: Shop) -> None:
    async with shop.open(max_fee_per_gas=1) as backend:
        with pytest.raises(RailUnavailable, match="the ceiling is 1; wait, or raise max_fee_gwei"):
            await shop.settle(backend, shop.authorize())
    shop.assert_paid([])
    assert shop.nonce() == 0


async def test_a_relayer_without_ether(evm: EvmChain, shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    evm.set_ether(shop.relayer.address, 0)
    payment = shop.authorize()
    async with shop.open() as backend:
        assert f"the relayer {shop.relayer.address} has no ether to pay for gas: send it some" in caplog.text
        with pytest.raises(RailUnavailable, match="has no ether"):
            await shop.settle(backend, payment)
        evm.set_ether(shop.relayer.address, ETHER)
        assert isinstance(await shop.settle(backend, payment), Transfer)
    shop.assert_paid([payment])


# --- what changes between verification and settlement


async def test_the_payer_moves_the_money_away_before_the_block(evm: EvmChain, shop: Shop) -> None:
    payment = shop.authorize()
    async with shop.open(tend_seconds=NEVER) as backend:
        await backend.check(evm.token, payment, shop.sign(payment))
        with evm.mining(None):
            task = asyncio.create_task(shop.settle(backend, payment))
            await until(lambda: len(shop.waiting()) == 1)
            evm.set_usdc(shop.payer.address, 0)
            evm.mine()
            with pytest.raises(OutcomeUnknown, match="exceeds balance"):  # anybody can hand it in once more
                await task
        assert await shop.trace(backend, payment) == Unused(expired=False)
        with evm.at(payment.valid_before):
            assert await shop.trace(backend, payment) == Unused(expired=True)
    assert evm.usdc_of(shop.payee.address) == 0
    assert shop.nonce() == 1


async def test_an_authorization_that_somebody_else_handed_in(evm: EvmChain, shop: Shop) -> None:
    payment = shop.authorize()
    async with shop.open() as backend:
        transaction = evm.submit(evm.account().address, payment, shop.sign(payment))
        with pytest.raises(PaymentRejected) as caught:
            await shop.settle(backend, payment)
        found = await shop.trace(backend, payment)
    assert caught.value.code == "proof_already_used"
    assert isinstance(found, Transfer)
    assert (found.transaction, found.to, found.value) == (transaction, shop.payee.address, PRICE)
    shop.assert_paid([payment])
    assert shop.nonce() == 0


async def test_an_authorization_that_its_payer_cancelled(evm: EvmChain, shop: Shop) -> None:
    payment = shop.authorize()
    signature = sign(cancel_digest(evm.token.domain, shop.payer.address, payment.nonce), shop.payer.key_bytes)
    evm.cancel(evm.account().address, shop.payer.address, payment.nonce, signature)
    async with shop.open() as backend:
        with pytest.raises(PaymentRejected) as caught:
            await backend.check(evm.token, payment, shop.sign(payment))
        assert caught.value.code == "proof_already_used"
        assert await shop.trace(backend, payment) == Void()
    assert evm.usdc_of(shop.payee.address) == 0


# --- what can be known at the start


async def test_a_paused_token(evm: EvmChain, shop: Shop) -> None:
    payment = shop.authorize()
    async with shop.open() as backend:
        evm.pause()
        try:
            for refused in (
                backend.health(),
                backend.check(evm.token, payment, shop.sign(payment)),
                shop.settle(backend, payment),
                shop.open().__aenter__(),
            ):
                with pytest.raises(RailUnavailable, match="paused by its issuer"):
                    await refused
        finally:
            evm.pause(False)
        assert isinstance(await shop.settle(backend, payment), Transfer)
    shop.assert_paid([payment])


async def test_who_is_blacklisted(evm: EvmChain, shop: Shop) -> None:
    payment = shop.authorize()
    async with shop.open() as backend:
        evm.blacklist(shop.payer.address)
        for refused in (backend.check(evm.token, payment, shop.sign(payment)), shop.settle(backend, payment)):
            with pytest.raises(PaymentRejected) as caught:
                await refused
            assert caught.value.code == "payment_declined"
        evm.blacklist(shop.payer.address, on=False)
        evm.blacklist(shop.payee.address)
        with pytest.raises(RailUnavailable, match="blacklisted the address that is to be paid"):
            await backend.check(evm.token, payment, shop.sign(payment))
    shop.assert_paid([])
    assert shop.nonce() == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (BASE_USDC, r"is on the chain 84532 and the token is on 8453 \(Base\); use an address of that network"),
        ({"version": "1"}, "correct the token's name and version: the contract says the name 'USDC' and the version"),
        ({"name": "USD Coin"}, "correct the token's name and version"),
        ({"decimals": 18}, "has 6 decimals and not 18; correct the token"),
        ({"address": "0x" + "12" * 20}, "there is no contract at .* check the address"),
    ],
)
async def test_what_is_configured_wrongly_shows_at_the_start(
    evm: EvmChain, shop: Shop, wrong: Token | dict[str, Any], says: str
) -> None:
    token = wrong if isinstance(wrong, Token) else replace(evm.token, **wrong)
    with pytest.raises(ConfigurationError, match=says):
        await shop.open(token=token).__aenter__()


async def test_a_node_that_is_down_is_done_without(evm: EvmChain, shop: Shop) -> None:
    payment = shop.authorize()
    async with shop.open(["http://127.0.0.1:9/", evm.url]) as backend:
        await backend.health()
        await backend.check(evm.token, payment, shop.sign(payment))
        assert isinstance(await shop.settle(backend, payment), Transfer)
    shop.assert_paid([payment])


async def test_the_key_in_an_address_is_in_no_log(
    shop: Shop, passage: Passage, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in those of the libraries that carry the requests either."""
    caplog.set_level(logging.DEBUG)
    async with shop.open(f"{passage.url}/0123456789abcdef?apikey=fedcba9876543210") as backend:
        await shop.settle(backend, shop.authorize())
    assert "127.0.0.1" in caplog.text
    for secret in ("0123456789abcdef", "fedcba9876543210", shop.relayer.private_key[2:]):
        assert secret not in caplog.text


# --- payers with code


ALWAYS_VALID = "0x631626ba7e60e01b60005260206000f3"
"""A contract that accepts every signature: it returns EIP-1271's magic value."""


@pytest.mark.parametrize("code", ["0x", ALWAYS_VALID], ids=["to nothing", "to one that accepts"])
async def test_a_payer_that_has_delegated_is_decided_by_the_token(evm: EvmChain, shop: Shop, code: str) -> None:
    delegate = evm.account().address
    evm.call("anvil_setCode", delegate, code)
    evm.call("anvil_setCode", shop.payer.address, "0xef0100" + delegate[2:])
    payment = shop.authorize()
    async with shop.open() as backend:
        if code == "0x":
            with pytest.raises(PaymentRejected, match="invalid signature"):
                await backend.check(evm.token, payment, shop.sign(payment))
            return
        await backend.check(evm.token, payment, shop.sign(payment))
        assert isinstance(await shop.settle(backend, payment), Transfer)
    shop.assert_paid([payment])


# --- from end to end


class Market:
    """A gate in front of an app, and an agent with a payer."""

    def __init__(self, shop: Shop, path: Path, **options: Any) -> None:
        self.shop, self.evm = shop, shop.evm
        rail = BaseRail.rpc(
            self.evm.url,
            shop.relayer.private_key,
            pay_to=shop.payee.address,
            token=self.evm.token,
            relayer_db=shop.store,
            settings=RelaySettings(**{**FAST, **options}),
        )
        self.gate = Gate(
            rails=[rail],
            public_url=URL,
            store=f"sqlite:///{path}/charges.db",
            secret="secret of the tests " * 2,
            receipt_key=ReceiptKeys.generate()[1],
            reconcile_seconds=0,
            wait_seconds=1,
        )
        wallet = BaseWallet.from_private_key(
            shop.payer.private_key, tokens=(self.evm.token,), chain=ChainReader(self.evm.url, self.evm.token)
        )
        self.payer = Payer([wallet], journal=f"sqlite:///{path}/wallet.db")
        self.payer.sleep = self._sleep
        self.runs = 0
        self.in_handler: Callable[[Request], object] = lambda request: None
        self.while_waiting: Callable[[], object] = lambda: None
        self.app = FastAPI()
        self.gate.install(self.app)

        @self.app.get("/article")
        @self.gate.paid("0.003 USD")
        async def article(request: Request) -> dict[str, int]:
            self.runs += 1
            self.in_handler(request)  # after the payment was verified, before it is settled
            return {"run": self.runs}

    async def _sleep(self, seconds: float) -> None:
        self.while_waiting()
        await self.gate.reconcile()
        await asyncio.sleep(0.05)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(app=self.app)
        async with (
            self.gate,
            self.payer,
            httpx.AsyncClient(transport=self.payer.transport(transport), base_url=URL, timeout=60) as agent,
        ):
            yield agent

    def assert_paid(self, times: int, elsewhere: int = 0) -> None:
        """What the payer has lost the payee has."""
        assert self.evm.usdc_of(self.shop.payer.address) == 10 * USDC - times * PRICE - elsewhere
        assert self.evm.usdc_of(self.shop.payee.address) == times * PRICE
        received = self.shop.logs(TRANSFER, None, _topic(self.shop.payee.address))
        assert [int(log["data"], 16) for log in received] == [PRICE] * times


def payment_in(request: Request) -> tuple[Authorization, bytes]:
    message = json.loads(base64.b64decode(request.headers["payment-signature"]))
    return parse_authorization(message["payload"])


@pytest.fixture
def market(shop: Shop, tmp_path: Path) -> Market:
    return Market(shop, tmp_path)


async def test_an_agent_pays_and_has_a_receipt(market: Market) -> None:
    async with market.open() as agent:
        market.assert_paid(0)
        for number in (1, 2, 3):
            response = await agent.get("/article")
            assert (response.status_code, response.json()) == (200, {"run": number})
            market.assert_paid(number)
        receipt = response.extensions["rail402"].receipt
    assert (receipt.payer, receipt.payee) == (market.shop.payer.address, market.shop.payee.address)
    assert (receipt.network, receipt.amount, receipt.sandbox) == ("eip155:84532", "3000", False)
    mined = market.evm.receipt(receipt.transaction)
    assert mined is not None
    assert mined["status"] == "0x1"
    assert mined["from"] == market.shop.relayer.address.lower()


async def test_16_agents_at_once(market: Market) -> None:
    async with market.open() as agent:
        found = await asyncio.gather(*(agent.get("/article") for _ in range(16)))
    assert [each.status_code for each in found] == [200] * 16
    assert len({each.extensions["rail402"].receipt.transaction for each in found}) == 16
    market.assert_paid(16)


async def test_a_payment_shown_twice_is_taken_once(market: Market) -> None:
    seen: list[str] = []
    market.in_handler = lambda request: seen.append(request.headers["payment-signature"])
    async with market.open() as agent:
        first = await agent.get("/article")
        transport = httpx.ASGITransport(app=market.app)
        async with httpx.AsyncClient(transport=transport, base_url=URL) as http:
            second = await http.get("/article", headers={"PAYMENT-SIGNATURE": seen[0]})
    assert (second.status_code, second.json()) == (200, first.json())
    assert second.headers["idempotent-replayed"] == "true"
    assert market.runs == 1
    market.assert_paid(1)


async def test_a_payer_who_moves_the_money_away_gets_nothing(market: Market) -> None:
    evm, shop = market.evm, market.shop
    third = evm.account().address
    market.in_handler = lambda request: evm.send_usdc(shop.payer.address, third, 10 * USDC)
    async with market.open() as agent:
        with pytest.raises(ClientError) as caught:
            await agent.get("/article")
    assert "insufficient_funds" in repr(vars(caught.value)) + str(caught.value)
    assert market.runs == 1
    market.assert_paid(0, elsewhere=10 * USDC)


async def test_who_hands_it_in_first_takes_nothing_away(market: Market) -> None:
    evm, others = market.evm, []
    market.in_handler = lambda request: others.append(evm.submit(evm.account().address, *payment_in(request)))
    async with market.open() as agent:
        response = await agent.get("/article")
    assert (response.status_code, response.json()) == (200, {"run": 1})
    assert [response.extensions["rail402"].receipt.transaction] == others
    market.assert_paid(1)
    assert market.shop.nonce() == 0


async def test_a_payment_that_is_mined_late_is_served_late(shop: Shop, tmp_path: Path) -> None:
    market = Market(shop, tmp_path, settle_seconds=1, tend_seconds=NEVER)
    market.while_waiting = market.evm.mine
    with market.evm.mining(None):
        async with market.open() as agent:
            response = await agent.get("/article")
    assert (response.status_code, response.json()) == (200, {"run": 1})
    market.assert_paid(1)
    assert shop.nonce() == 1
