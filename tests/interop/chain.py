"""Our server and our client where the money is USDC on a real EVM, and who hands the payments in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from fastapi import FastAPI
from pydantic import BaseModel

from rail402 import Gate, Payer
from rail402.facilitator.app import facilitator_app
from rail402.facilitator.policy import FacilitatorSettings
from rail402.facilitator.service import Facilitator
from rail402.protocol.receipt import ReceiptKeys
from rail402.rates import FixedRates
from rail402_base import BaseRail, BaseWallet
from rail402_base.rpc.backend import RelaySettings
from rail402_base.rpc.reader import ChainReader
from rail402_lightning import LightningRail
from rail402_lightning.backends.sandbox import SandboxReceiver, open_sandbox
from rail402_stripe import StripeApi, StripeRail
from tests.interop.bank import Bank, listening, served
from tests.services.anvil import ETHER, Account, EvmChain

__all__ = ["PRICE", "ChainShop", "facilitating", "paying", "selling"]

PRICE: Final = 500_000
"""What everything costs, in atomic units of USDC: 0.50 USD, the least that can be paid on all three rails."""

_GWEI: Final = 10**9
_RELAY: Final = RelaySettings(poll_ms=20, tend_seconds=1, max_fee_per_gas=20 * _GWEI)
_SECRET: Final = "a secret that only this test knows, of 32 bytes and more"


class Message(BaseModel):
    """What `/echo` gives back."""

    said: str


class TestNode(SandboxReceiver):
    """The sandbox's node, as one on regtest: a gate does not mix sandboxes with chains."""

    __test__ = False
    sandbox = False


@dataclass
class ChainShop:
    """Our server: all that it offers is on all three rails in all dialects.

    Attributes:
        url: its origin.
        facilitator: the address of who hands payments in, by x402; None where its own relayer does.
        payee, relayer: its accounts.
        served: how often its handlers ran.
    """

    evm: EvmChain
    bank: Bank
    url: str
    facilitator: str | None = None
    served: int = 0

    def __post_init__(self) -> None:
        self.payee, self.relayer = self.evm.account(), self.evm.account(ether=ETHER)
        directory = self.bank.directory
        node = open_sandbox(directory)
        card = StripeApi("sk_test_of_this_test", api_base=self.bank.url)
        self.gate = Gate(
            rails=[
                self._base(),
                LightningRail(TestNode(node), network="regtest"),
                StripeRail(card, profile_id="profile_test_of_this_test"),
            ],
            rates=FixedRates({"BTC/USD": "50000"}),
            store=f"sqlite:///{directory}/charges.db",
            public_url=self.url,
            secret=_SECRET,
            receipt_key=ReceiptKeys.generate()[1],
        )
        self.app = FastAPI()
        self.gate.install(self.app)
        self._sell()

    def _base(self) -> BaseRail:
        if self.facilitator is not None:
            payee, token = self.payee.address, self.evm.token
            return BaseRail.facilitator(self.facilitator, self.evm.url, pay_to=payee, token=token)
        return _relaying(self.evm, self.relayer, self.bank.directory, self.payee.address)

    def _sell(self) -> None:
        async def report() -> dict[str, int]:
            self.served += 1
            return {"n": self.served}

        self.app.get("/report")(self.gate.paid("0.50 USD", description="The report")(report))
        self.app.get("/upfront")(self.gate.paid("0.50 USD", flow="upfront")(report))
        self.app.get("/v1")(self.gate.paid("0.50 USD", dialects=["x402-v1"])(report))

        @self.app.post("/echo")
        @self.gate.paid("0.50 USD")
        async def echo(message: Message) -> dict[str, Any]:
            self.served += 1
            return {"n": self.served, "echo": message.model_dump()}

    async def charges(self) -> list[Any]:
        """All charges of the gate."""
        return list(await self.gate.services().store.recent(limit=10))


def _relaying(evm: EvmChain, relayer: Account, directory: Path, payee: str) -> BaseRail:
    """A rail that hands payments in by itself."""
    store = f"sqlite:///{directory}/{relayer.address}.db"
    options: dict[str, Any] = {"pay_to": payee, "token": evm.token, "relayer_db": store, "settings": _RELAY}
    return BaseRail.rpc(evm.url, relayer.private_key, **options)


@asynccontextmanager
async def facilitating(evm: EvmChain, directory: Path) -> AsyncIterator[tuple[str, Account]]:
    """Our facilitator on a port: its address, and the account that pays the gas."""
    relayer = evm.account(ether=ETHER)
    facilitator = Facilitator(
        [_relaying(evm, relayer, directory, relayer.address)],
        store=f"sqlite:///{directory}/facilitator.db",
        settings=FacilitatorSettings(any_payee=True),
    )
    with listening() as (found, url):
        async with served(facilitator_app(facilitator), found):
            yield url, relayer


@asynccontextmanager
async def selling(evm: EvmChain, bank: Bank, facilitator: str | None) -> AsyncIterator[ChainShop]:
    """Our server on a port."""
    with listening() as (found, url):
        shop = ChainShop(evm, bank, url, facilitator)
        async with served(shop.app, found):
            yield shop


@asynccontextmanager
async def paying(
    evm: EvmChain, payer: Account, directory: Path, inner: httpx.AsyncBaseTransport
) -> AsyncIterator[httpx.AsyncClient]:
    """Our client, which pays from an account and waits as often as it would, but never for long."""
    chain = ChainReader(evm.url, evm.token)
    wallet = BaseWallet.from_private_key(payer.private_key, tokens=(evm.token,), chain=chain)
    async with (
        Payer([wallet], journal=f"sqlite:///{directory}/wallet.db", deadline=20) as purse,
        httpx.AsyncClient(transport=purse.transport(inner), timeout=30) as client,
    ):
        purse.sleep = lambda seconds: asyncio.sleep(min(seconds, 0.05))
        yield client
