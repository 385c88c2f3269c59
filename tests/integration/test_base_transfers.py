"""Plain USDC transfers on a real EVM: paid on the chain, proven by the hash, and counted on both sides."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from rail402.client.payer import Payer
from rail402.dialects import DEFAULT_DIALECTS, dialect_by_name
from rail402.errors import NoUsableOffer, PaymentOutcomeUnknown
from rail402.protocol.order import Order
from rail402.protocol.receipt import ReceiptKeys
from rail402.server.gate import Gate
from rail402_base.chain import Deposit
from rail402_base.eip3009 import keccak256, sign
from rail402_base.rail import BaseRail
from rail402_base.rpc.abi import TRANSFER
from rail402_base.rpc.backend import RelaySettings
from rail402_base.rpc.blocks import MAX_LAG
from rail402_base.rpc.reader import ChainReader
from rail402_base.rpc.transfers import RpcSender, SendSettings
from rail402_base.senders import Gone, Landed, Waiting, Wanted
from rail402_base.transfer_wallet import BaseTransferWallet
from rail402_base.transfers import Transfers, message_digest, order_terms, proof_text
from rail402_base.wallet import BaseWallet
from rail402_base.wire import BaseSpec
from tests.services.anvil import ETHER, USDC, Account, EvmChain

URL = "http://testserver"
PRICE = 3000
GWEI = 10**9
FAST = {"poll_ms": 20, "tend_seconds": 1, "send_seconds": 20, "max_gas": 20 * GWEI * 150_000}


class Shop:
    """A publisher that takes transfers, and a payer with money and ether."""

    def __init__(self, evm: EvmChain, path: Path, **transfers: Any) -> None:
        self.evm, self.path = evm, path
        self.payee, self.relayer = evm.account(), evm.account(ether=ETHER)
        self.payer = evm.account(ether=ETHER, usdc=10 * USDC)
        self.begin = evm.height()
        self.runs = 0
        relay = RelaySettings(poll_ms=20, tend_seconds=1, max_fee_per_gas=20 * GWEI)
        rail = BaseRail.rpc(
            evm.url,
            self.relayer.private_key,
            pay_to=self.payee.address,
            token=evm.token,
            transfers=Transfers(**transfers),
            relayer_db=f"sqlite:///{path}/relayer.db",
            settings=relay,
        )
        optional = [dialect_by_name(name) for name in ("x-payment", "x-price", "payment-uri")]
        self.gate = Gate(
            rails=[rail],
            public_url=URL,
            store="memory://",
            dialects=[*DEFAULT_DIALECTS, *optional],
            secret=secrets.token_bytes(32),
            receipt_key=ReceiptKeys.generate()[1],
        )
        self.app = FastAPI()
        self.gate.install(self.app)

        @self.app.get("/article")
        @self.gate.paid("0.003 USD")
        async def article() -> dict[str, int]:
            self.runs += 1
            return {"run": self.runs}

        self.transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[httpx.AsyncClient]:
        async with self.gate, httpx.AsyncClient(transport=self.transport, base_url=URL) as client:
            yield client

    def wallet(self, account: Account | None = None, **settings: int) -> BaseTransferWallet:
        return BaseTransferWallet.rpc(
            self.evm.url,
            (account or self.payer).private_key,
            token=self.evm.token,
            transfers_db=f"sqlite:///{self.path}/transfers.db",
            settings=SendSettings(**{**FAST, **settings}),
        )

    @asynccontextmanager
    async def agent(self, wallet: Any, dialect: str = "x-price") -> AsyncIterator[httpx.AsyncClient]:
        journal = f"sqlite:///{self.path}/journal.db"
        payer = Payer([wallet], journal=journal, dialects=[dialect_by_name(dialect)], deadline=10)
        transport = payer.transport(self.transport)
        async with payer, httpx.AsyncClient(transport=transport, base_url=URL) as client:
            yield client

    def signed(self, transaction: str, account: Account) -> str:
        offer = BaseSpec(self.evm.token).transfer_offer(
            self.evm.token,
            payee=self.payee.address,
            amount=PRICE,
            expires_at=1,
            timeout_seconds=1,
            extra=order_terms(Order(method="GET", url=f"{URL}/article", route="")),
        )
        text = proof_text(offer, transaction)
        assert text is not None
        signature = sign(message_digest(text), account.key_bytes)
        return json.dumps({"transaction": transaction, "signature": "0x" + signature.hex()})

    def assert_paid(self, *values: int) -> None:
        """By balances and by events: the payer paid the payee just this, each once."""
        assert self.evm.usdc_of(self.payee.address) == sum(values)
        assert self.evm.usdc_of(self.payer.address) == 10 * USDC - sum(values)
        criteria = {
            "address": self.evm.token.address,
            "fromBlock": hex(self.begin),
            "topics": [TRANSFER, None, "0x" + self.payee.address[2:].lower().rjust(64, "0")],
        }
        logs = self.evm.call("eth_getLogs", criteria)
        assert sorted(int(log["data"], 16) for log in logs) == sorted(values)

    def sent(self) -> int:
        """How many transactions of the payer's were mined."""
        return int(self.evm.call("eth_getTransactionCount", self.payer.address, "latest"), 16)


@pytest.fixture
def shop(evm: EvmChain, tmp_path: Path) -> Shop:
    return Shop(evm, tmp_path)


def refused(response: httpx.Response, code: str, status: int = 402) -> None:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text


# --- our wallet


@pytest.mark.parametrize("dialect", ["x-price", "payment-uri", "x-receipt"])
async def test_our_wallet_pays_by_transfer(shop: Shop, dialect: str) -> None:
    async with shop.open(), shop.agent(shop.wallet(), dialect) as client:
        response = await client.get("/article")
    assert response.json() == {"run": 1}
    shop.assert_paid(PRICE)
    assert shop.sent() == 1
    assert 0 < ETHER - shop.evm.ether_of(shop.payer.address) < FAST["max_gas"]


async def test_gas_above_the_limit_pays_nothing(shop: Shop) -> None:
    async with shop.open(), shop.agent(shop.wallet(max_gas=150_000)) as client:
        with pytest.raises(NoUsableOffer, match="gas"):
            await client.get("/article")
    shop.assert_paid()
    assert shop.evm.ether_of(shop.payer.address) == ETHER


async def test_without_ether_nothing_is_paid(shop: Shop) -> None:
    shop.evm.set_ether(shop.payer.address, 1)
    async with shop.open(), shop.agent(shop.wallet()) as client:
        with pytest.raises(NoUsableOffer, match="send it some"):
            await client.get("/article")
    shop.assert_paid()


async def test_a_transfer_that_waits_is_found_again_by_the_next_process(shop: Shop) -> None:
    async with shop.open():
        with shop.evm.mining(None):
            async with shop.agent(shop.wallet(send_seconds=1)) as client:
                with pytest.raises(PaymentOutcomeUnknown):
                    await client.get("/article")
            (waiting,) = shop.evm.waiting(shop.payer.address)
            shop.evm.drop(waiting)  # nobody remembers it but we
            async with shop.agent(shop.wallet()) as client:
                assert shop.evm.waiting(shop.payer.address) == [waiting], "the very same bytes"
                with pytest.raises(PaymentOutcomeUnknown):
                    await client.get("/article")
                shop.evm.mine()
                response = await client.get("/article")
    assert response.json() == {"run": 1}
    shop.assert_paid(PRICE)
    assert shop.sent() == 1


async def test_a_cancelled_payment_goes_on_and_is_not_made_twice(shop: Shop) -> None:
    async with shop.open(), shop.agent(shop.wallet()) as client:
        with shop.evm.mining(None):
            task = asyncio.create_task(client.get("/article"))
            async with asyncio.timeout(20):
                while not shop.evm.waiting(shop.payer.address):  # noqa: ASYNC110 - a chain in another process
                    await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        response = await client.get("/article")
    assert response.json() == {"run": 1}
    shop.assert_paid(PRICE)


async def test_a_nonce_that_another_program_took_is_not_the_end(shop: Shop) -> None:
    async with shop.open(), shop.agent(shop.wallet()) as client:
        await client.get("/article?1")
        shop.evm.send_usdc(shop.payer.address, shop.payee.address, 7)
        await client.get("/article?2")
    shop.assert_paid(PRICE, 7, PRICE)


async def test_what_lost_its_nonce_was_not_paid(shop: Shop) -> None:
    """The owner sent something else in its place: that purchase is free to be paid anew."""
    reader = ChainReader(shop.evm.url, shop.evm.token)
    settings = SendSettings(**{**FAST, "send_seconds": 1})
    sender = RpcSender(reader, shop.payer.private_key, store=f"sqlite:///{shop.path}/t.db", settings=settings)
    wanted = Wanted(payee=shop.payee.address, value=PRICE, name=keccak256(b"one"))
    await sender.start()
    try:
        assert isinstance(await sender.find(wanted), Gone)
        with shop.evm.mining(None):
            with pytest.raises(Exception, match="it is on its way"):
                await sender.send(wanted)
            assert isinstance(await sender.find(wanted), Waiting)
            (waiting,) = shop.evm.waiting(shop.payer.address)
            shop.evm.drop(waiting)
            shop.evm.send(shop.payer.address, shop.payer.address, b"")
            shop.evm.mine(1 + MAX_LAG)
        async with asyncio.timeout(20):
            while isinstance(await sender.find(wanted), Waiting):  # noqa: ASYNC110 - a chain in another process
                await asyncio.sleep(0.1)
        assert isinstance(await sender.find(wanted), Gone)
        with pytest.raises(Exception, match="was begun before"):
            await sender.send(wanted)
        other = Wanted(payee=shop.payee.address, value=PRICE, name=keccak256(b"two"))
        assert isinstance(await sender.find(other), Gone)
        transaction = await sender.send(other)
        assert await sender.find(other) == Landed(transaction)
    finally:
        await sender.close()
    shop.assert_paid(PRICE)


# --- proofs


async def test_a_transfer_of_anybodys_wallet(shop: Shop) -> None:
    async with shop.open() as client:
        transaction = shop.evm.send_usdc(shop.payer.address, shop.payee.address, PRICE)
        proof = shop.signed(transaction, shop.payer)
        assert (await client.get("/article", headers={"X-Payment-Proof": proof})).json() == {"run": 1}
        assert (await client.get("/article", headers={"X-Payment-Proof": proof})).json() == {"run": 1}
        refused(await client.get("/article", headers={"X-Payment-Proof": transaction}), "replay_not_proven", 409)
    shop.assert_paid(PRICE)


async def test_what_is_no_payment(shop: Shop) -> None:
    evm, payer, payee = shop.evm, shop.payer.address, shop.payee.address

    async def show(transaction: str) -> httpx.Response:
        return await client.get("/article", headers={"X-Payment-Proof": transaction})

    async with shop.open() as client:
        refused(await show(evm.send_usdc(payer, payee, PRICE - 1)), "amount_mismatch")
        refused(await show(evm.send_usdc(payer, evm.account().address, PRICE)), "payee_mismatch")
        refused(await show(evm.send_usdc(payer, payee, 99 * USDC)), "payment_declined")  # it reverts
        refused(await show("0x" + 64 * "b"), "not_settled")
        # The same event from another contract: this code emits Transfer(payer, payee, PRICE).
        fake = evm.account().address
        words = [int(TRANSFER, 16), int(payer, 16), int(payee, 16)]
        code = f"7f{PRICE:064x}600052" + "".join(f"7f{word:064x}" for word in reversed(words)) + "60206000a300"
        evm.call("anvil_setCode", fake, "0x" + code)
        transaction = evm.send(payer, fake, b"")
        receipt = evm.receipt(transaction)
        assert receipt is not None
        assert receipt["logs"][0]["topics"][0] == TRANSFER
        refused(await show(transaction), "payee_mismatch")
    assert shop.runs == 0


async def test_an_old_transfer(evm: EvmChain, tmp_path: Path) -> None:
    shop = Shop(evm, tmp_path, max_age=1)
    transaction = evm.send_usdc(shop.payer.address, shop.payee.address, PRICE)
    await asyncio.sleep(3)
    async with shop.open() as client:
        response = await client.get("/article", headers={"X-Payment-Proof": transaction})
    refused(response, "authorization_expired")


async def test_a_transfer_counts_when_it_is_deep_enough(evm: EvmChain, tmp_path: Path) -> None:
    shop = Shop(evm, tmp_path, confirmations=3)
    transaction = evm.send_usdc(shop.payer.address, shop.payee.address, PRICE)
    async with shop.open() as client:
        for _ in range(2):
            refused(await client.get("/article", headers={"X-Payment-Proof": transaction}), "not_settled")
            evm.mine()
        assert (await client.get("/article", headers={"X-Payment-Proof": transaction})).status_code == 200
    shop.assert_paid(PRICE)


async def test_a_transfer_that_a_reorganisation_undid_pays_for_nothing(evm: EvmChain, tmp_path: Path) -> None:
    shop = Shop(evm, tmp_path, confirmations=2)
    async with shop.open() as client:
        before = evm.call("evm_snapshot")
        transaction = evm.send_usdc(shop.payer.address, shop.payee.address, PRICE)
        refused(await client.get("/article", headers={"X-Payment-Proof": transaction}), "not_settled")
        evm.call("evm_revert", before)
        evm.mine(3)
        refused(await client.get("/article", headers={"X-Payment-Proof": transaction}), "not_settled")
    shop.assert_paid()


async def test_our_relayers_own_settlement_does_not_pay_again(shop: Shop) -> None:
    async with shop.open() as http:
        wallet = BaseWallet.from_private_key(shop.payer.private_key, tokens=[shop.evm.token])
        async with shop.agent(wallet, "x402-v2") as client:
            response = await client.get("/article")
            assert response.json() == {"run": 1}
        transaction = response.extensions["rail402"].receipt.transaction
        refused(await http.get("/article", headers={"X-Payment-Proof": transaction}), "proof_already_used")
        proof = shop.signed(transaction, shop.payer)
        refused(await http.get("/article", headers={"X-Payment-Proof": proof}), "proof_already_used")
    shop.assert_paid(PRICE)
    reader = ChainReader(shop.evm.url, shop.evm.token)
    found = await reader.deposits_in(shop.evm.token, transaction, shop.payee.address)
    await reader.close()
    assert found is not None
    (deposit,) = found.all
    assert isinstance(deposit, Deposit)
    assert (deposit.payer, deposit.value, len(deposit.nonces)) == (shop.payer.address, PRICE, 1)
