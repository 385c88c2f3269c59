"""Base USDC through the facilitator of x402's own library, on a real EVM: the money is counted on both sides."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request

from rail402.client.payer import Payer
from rail402.clock import system_clock
from rail402.errors import ConfigurationError, PaymentOutcomeUnknown, RailUnavailable
from rail402.protocol.receipt import ReceiptKeys
from rail402.server.gate import Gate
from rail402_base.eip3009 import parse_authorization
from rail402_base.facilitator import Facilitator, FacilitatorBackend
from rail402_base.rail import BaseRail
from rail402_base.rpc.reader import ChainReader
from rail402_base.tokens import BASE_USDC
from rail402_base.wallet import BaseWallet
from tests.services import facilitator as services
from tests.services import require
from tests.services.anvil import ETHER, USDC, EvmChain
from tests.services.facilitator import OfficialFacilitator
from tests.services.processes import free_ports

URL = "http://testserver"
PRICE = 3000


@pytest.fixture(scope="module")
def official(evm: EvmChain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OfficialFacilitator]:
    if reason := services.missing():
        require("x402", reason)
    with services.facilitator(tmp_path_factory.mktemp("facilitator"), evm) as started:
        yield started


@pytest.fixture
def own(evm: EvmChain, tmp_path: Path) -> Iterator[OfficialFacilitator]:
    """A facilitator of this test's own, which it may kill."""
    if reason := services.missing():
        require("x402", reason)
    with services.facilitator(tmp_path, evm) as started:
        yield started


class Shop:
    """A publisher with a gate and an agent with a payer, both on the same chain, with accounts of their own."""

    def __init__(self, evm: EvmChain, path: Path, *facilitators: Facilitator | str) -> None:
        self.evm = evm
        self.ahead = 0  # seconds that the gate's clock is ahead
        self.payer_account, self.payee = evm.account(usdc=USDC), evm.account()
        self.backend = FacilitatorBackend(facilitators, reader=ChainReader(evm.url, evm.token))
        rail = BaseRail(self.backend, pay_to=self.payee.address, token=evm.token)
        self.gate = Gate(
            rails=[rail],
            public_url=URL,
            store="memory://",
            secret="secret of the tests " * 2,
            receipt_key=ReceiptKeys.generate()[1],
            clock=lambda: system_clock() + self.ahead,
            reconcile_seconds=0,
            wait_seconds=1,
        )
        wallet = BaseWallet.from_private_key(
            self.payer_account.private_key, tokens=(evm.token,), chain=ChainReader(evm.url, evm.token)
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
            httpx.AsyncClient(transport=self.payer.transport(transport), base_url=URL) as agent,
        ):
            yield agent

    def assert_paid(self, times: int) -> None:
        """What the payer has lost the payee has, and nothing else happened to either."""
        paid = times * PRICE
        assert self.evm.usdc_of(self.payer_account.address) == USDC - paid
        assert self.evm.usdc_of(self.payee.address) == paid
        assert (self.evm.ether_of(self.payer_account.address), self.evm.ether_of(self.payee.address)) == (0, 0)


async def test_every_purchase_is_one_transfer_and_the_facilitator_pays_the_gas(
    evm: EvmChain, official: OfficialFacilitator, tmp_path: Path
) -> None:
    shop = Shop(evm, tmp_path, official.url)
    gas, held = evm.ether_of(official.relayer.address), evm.usdc_of(official.relayer.address)
    async with shop.open() as agent:
        shop.assert_paid(0)
        for number in (1, 2, 3):
            response = await agent.get("/article")
            assert (response.status_code, response.json()) == (200, {"run": number})
            shop.assert_paid(number)
    assert evm.ether_of(official.relayer.address) < gas <= 10 * ETHER
    assert evm.usdc_of(official.relayer.address) == held == 0
    settled = json.loads(base64.b64decode(response.headers["payment-response"]))
    assert (settled["success"], settled["payer"]) == (True, shop.payer_account.address)
    receipt = evm.receipt(settled["transaction"])
    assert receipt is not None
    assert (int(receipt["status"], 16), receipt["from"]) == (1, official.relayer.address.lower())


async def test_a_facilitator_of_version_1_settles_as_well(evm: EvmChain, tmp_path: Path) -> None:
    if reason := services.missing():
        require("x402", reason)
    with services.facilitator(tmp_path, evm, version=1) as old:
        shop = Shop(evm, tmp_path, old.url)
        async with shop.open() as agent:
            assert (await agent.get("/article")).json() == {"run": 1}
    shop.assert_paid(1)


async def test_many_at_once_are_each_paid_once(evm: EvmChain, official: OfficialFacilitator, tmp_path: Path) -> None:
    shop = Shop(evm, tmp_path, official.url)
    async with shop.open() as agent:
        responses = await asyncio.gather(*(agent.get("/article") for _ in range(8)))
    assert sorted(response.json()["run"] for response in responses) == list(range(1, 9))
    shop.assert_paid(8)


@pytest.mark.parametrize("fate", ["killed", "too slow"])
async def test_a_settlement_that_is_not_answered_is_looked_up_and_served_once(
    evm: EvmChain, own: OfficialFacilitator, tmp_path: Path, fate: str
) -> None:
    shop = Shop(evm, tmp_path, Facilitator(own.url, settle_timeout=30 if fate == "killed" else 1))
    async with shop.open() as agent:
        with evm.mining(None):
            buying = asyncio.create_task(agent.get("/article"))
            await asyncio.wait_for(_until(evm.waiting), 30)
            if fate == "killed":
                own.kill()
            shop.assert_paid(0)
            looks = []

            def mine_at_the_second_look() -> None:
                shop.ahead += 120  # a charge is looked up once its worker must have given up
                looks.append(evm.usdc_of(shop.payee.address))
                if len(looks) == 2:
                    evm.mine()

            shop.while_waiting = mine_at_the_second_look
            response = await asyncio.wait_for(buying, 60)
    assert (response.status_code, response.json()) == (200, {"run": 1})
    assert looks[:2] == [0, 0]
    shop.assert_paid(1)


async def test_a_facilitator_that_is_down_takes_nothing_and_the_next_one_is_used(
    evm: EvmChain, official: OfficialFacilitator, own: OfficialFacilitator, tmp_path: Path
) -> None:
    shop = Shop(evm, tmp_path, own.url, official.url)
    async with shop.open() as agent:
        assert (await agent.get("/article")).json() == {"run": 1}
        own.kill()
        assert (await agent.get("/article")).json() == {"run": 2}
        own.start()
        gas = evm.ether_of(own.relayer.address)
        assert (await agent.get("/article")).json() == {"run": 3}
        assert evm.ether_of(own.relayer.address) < gas
    shop.assert_paid(3)


async def test_one_that_dies_before_the_settlement_leaves_it_to_the_next(
    evm: EvmChain, official: OfficialFacilitator, own: OfficialFacilitator, tmp_path: Path
) -> None:
    shop = Shop(evm, tmp_path, own.url, official.url)
    shop.in_handler = lambda request: own.kill()
    async with shop.open() as agent:
        assert (await agent.get("/article")).json() == {"run": 1}
    shop.assert_paid(1)


async def test_without_any_facilitator_nothing_is_taken_and_the_same_payment_goes_through_later(
    evm: EvmChain, own: OfficialFacilitator, tmp_path: Path
) -> None:
    shop = Shop(evm, tmp_path, own.url)

    def start() -> None:
        shop.assert_paid(0)
        assert shop.runs == 0
        if own.process is None:
            own.start()

    shop.while_waiting = start
    async with shop.open() as agent:
        own.kill()
        assert (await agent.get("/article")).json() == {"run": 1}
    shop.assert_paid(1)


async def test_a_payer_who_moves_the_money_away_is_not_served(
    evm: EvmChain, official: OfficialFacilitator, tmp_path: Path
) -> None:
    shop = Shop(evm, tmp_path, official.url)
    thief = evm.account().address
    shop.in_handler = lambda request: evm.send_usdc(shop.payer_account.address, thief, USDC)
    async with shop.open() as agent:
        with pytest.raises(PaymentOutcomeUnknown):  # the facilitator has it, and could hand it in until it expires
            await agent.get("/article")
    assert shop.runs == 1
    assert [evm.usdc_of(each) for each in (shop.payer_account.address, shop.payee.address, thief)] == [0, 0, USDC]


async def test_an_authorization_that_somebody_else_handed_in_is_paid_and_served(
    evm: EvmChain, official: OfficialFacilitator, tmp_path: Path
) -> None:
    shop = Shop(evm, tmp_path, official.url)
    stranger = evm.account().address

    def hand_in(request: Request) -> None:
        payload = json.loads(base64.b64decode(request.headers["payment-signature"]))["payload"]
        evm.submit(stranger, *parse_authorization(payload))

    shop.in_handler = hand_in
    async with shop.open() as agent:
        response = await agent.get("/article")
    assert (response.status_code, response.json()) == (200, {"run": 1})
    receipt = evm.receipt(json.loads(base64.b64decode(response.headers["payment-response"]))["transaction"])
    assert receipt is not None
    assert receipt["from"] == stranger.lower()
    shop.assert_paid(1)


async def test_one_for_another_network_or_nobody_at_all_is_found_at_the_start(
    evm: EvmChain, official: OfficialFacilitator
) -> None:
    reader = ChainReader(evm.url, evm.token)
    (port,) = free_ports(1)
    nobody = FacilitatorBackend(f"http://127.0.0.1:{port}", reader=reader)
    with pytest.raises(RailUnavailable, match=f"127.0.0.1:{port} cannot be reached"):
        await nobody.start()
    await nobody.close()
    elsewhere = FacilitatorBackend(official.url, reader=_Mainnet(evm.url, BASE_USDC))
    with pytest.raises(ConfigurationError, match=r"exact on eip155:8453; it does on: eip155:84532"):
        await elsewhere.start()
    await elsewhere.close()


async def _until(probe: Callable[[], object]) -> None:
    while not probe():  # noqa: ASYNC110 - a chain in another process sets no event
        await asyncio.sleep(0.05)


class _Mainnet(ChainReader):
    """Another chain, whose node is not asked."""

    async def start(self) -> None:
        pass
