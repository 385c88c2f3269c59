"""More rails and wallets: Core Lightning, phoenixd and plain transfers on both ends, refunds, Stripe on demand.

They share what they build on with the worlds of `worlds.py` and `agents.py`, so of their cells the daily run plays a
sample; see `World.sampled`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rail402.dialects import XReceipt
from rail402.protocol.offer import Offer
from rail402.protocol.order import Order
from rail402.protocol.rail import PaymentRail, Wallet
from rail402.testing.faults import Faults, FaultyWebsockets
from rail402_base import BaseRail, BaseTransferWallet, Transfers
from rail402_base.rpc.backend import RpcBackend
from rail402_base.rpc.reader import ChainReader
from rail402_base.rpc.transfers import RpcSender, SendSettings
from rail402_lightning import (
    ClnReceiver,
    ClnSender,
    LightningRail,
    LightningWallet,
    PhoenixdReceiver,
    PhoenixdSender,
)
from tests.faults.agents import Agent, LightningAgent
from tests.faults.lightning_services import LateNode, silent
from tests.faults.nwc_worlds import Nwc, NwcAgent
from tests.faults.prepared import PREPARED
from tests.faults.refunding import REFUNDS
from tests.faults.world import ONE_IN, PATH, URL, World
from tests.faults.worlds import Base, BaseRpcUpfront, Lightning
from tests.unit.rail402_base.rpc import chain as memory
from tests.unit.rail402_lightning.backends import fake_cln, fake_phoenixd
from tests.unit.rail402_lightning.backends.fake_cln import FakeCln
from tests.unit.rail402_lightning.backends.fake_phoenixd import FakePhoenixd

__all__ = ["MORE_AGENTS", "MORE_SHOPS"]

_GAS_LIMIT: Final = 10**17


# --- Lightning


class Cln(Lightning):
    """Payments arrive at a Core Lightning."""

    row = "Lightning, CLN"
    sampled = ONE_IN

    def make_rail(self) -> PaymentRail:
        fake = FakeCln(self.directory, clock=self.right)
        self.node = fake.ledger
        fake.ledger = LateNode(self.node)  # type: ignore[assignment]
        self.secrets.append(fake_cln.RECEIVE)
        wire = self.wire(fake.transport)
        receiver = ClnReceiver(fake_cln.URL, fake_cln.RECEIVE, network="regtest", transport=wire)
        return LightningRail(receiver, network="regtest")


class Phoenixd(Lightning):
    """Payments arrive at a phoenixd."""

    row = "Lightning, phoenixd"
    sampled = ONE_IN

    def make_rail(self) -> PaymentRail:
        fake = FakePhoenixd(self.directory, clock=self.right)
        self.node = fake.ledger
        fake.ledger = LateNode(self.node)  # type: ignore[assignment]
        self.secrets.append(fake_phoenixd.LIMITED)
        sockets = FaultyWebsockets(silent, self.faults)
        sockets.calls = self.calls
        wire = self.wire(fake.transport)
        receiver = PhoenixdReceiver(fake_phoenixd.URL, fake_phoenixd.LIMITED, transport=wire, connect=sockets)
        return LightningRail(receiver, network="regtest")


class ClnAgent(LightningAgent):
    row = "wallet: CLN"
    sampled = ONE_IN

    def wallet(self) -> Wallet:
        self.secrets.append(fake_cln.PAY)
        fake = FakeCln(self.directory, clock=self.right)
        fake.ledger = self.node
        wire = self.wire(fake.transport)
        sender = ClnSender(fake_cln.URL, fake_cln.PAY, network="regtest", clock=self.clock, transport=wire)
        return LightningWallet(sender, network="regtest")


class PhoenixdAgent(LightningAgent):
    row = "wallet: phoenixd"
    sampled = ONE_IN

    def wallet(self) -> Wallet:
        self.secrets.append(fake_phoenixd.FULL)
        fake = FakePhoenixd(self.directory, clock=self.right)
        fake.ledger = self.node
        wire = self.wire(fake.transport)
        sender = PhoenixdSender(fake_phoenixd.URL, fake_phoenixd.FULL, network="regtest", transport=wire)
        return LightningWallet(sender, network="regtest", max_fee_sat=7)


# --- Base


class BaseRefunds(BaseRpcUpfront):
    """What was paid for a handler that fails goes back at once."""

    row = "Base, JSON-RPC, refunds"
    sampled = ONE_IN

    def make_rail(self) -> PaymentRail:
        self.secrets.append(memory.PAYEE_KEY.hex())
        return super().make_rail().with_refunds(memory.PAYEE_KEY.hex())  # type: ignore[attr-defined]


def transfer_wallet(world: Base, reader: ChainReader) -> BaseTransferWallet:
    """The payer's own account, with ether for gas."""
    world.secrets.append(memory.PAYER_KEY.hex())
    settings, store = SendSettings(max_gas=_GAS_LIMIT), f"sqlite:///{world.directory}/transfers.db"
    clock = world.right if world.buy is None else world.clock
    return BaseTransferWallet(RpcSender(reader, memory.PAYER_KEY.hex(), store=store, settings=settings, clock=clock))


class BaseTransfer(Base):
    """The payer makes a plain transfer itself, and shows its hash."""

    row = "Base, transfers"
    dialect = XReceipt()
    paid_before = True
    sampled = ONE_IN

    def __init__(self, directory: Path, faults: Faults) -> None:
        super().__init__(directory, faults)
        self.chain.ether[memory.PAYER.lower()] = memory.ETHER
        network = memory.Network(self.chain)
        self.sound = ChainReader(network.urls, memory.TOKEN, transport=network, clock=self.right)
        self._payer: BaseTransferWallet | None = None

    def make_rail(self) -> PaymentRail:
        backend = RpcBackend(self.reader(), memory.RELAYER_KEY.hex(), store=self.relayer_db, clock=self.clock)
        return BaseRail(backend, pay_to=memory.PAYEE, transfers=Transfers())

    async def pay(self, offer: Offer) -> Mapping[str, Any]:
        wallet = self._payer = self._payer or transfer_wallet(self, self.sound)
        await wallet.start()
        asked = wallet.for_order(offer, Order(method="GET", url=URL + PATH, route=f"GET {PATH}"))
        return (await wallet.pay(asked, record_id=self.record_id(), now=self.right())).payload

    async def close(self) -> None:
        if self._payer is not None:
            await self._payer.close()


class TransferAgent(Agent, Base):
    row = "wallet: Base transfer"
    price_units = 500_000
    sampled = ONE_IN

    def make_rail(self) -> PaymentRail:
        self.chain.ether[memory.PAYER.lower()] = memory.ETHER
        sound = memory.Network(self.chain)
        reader = ChainReader(sound.urls, memory.TOKEN, transport=sound, clock=self.right)
        backend = RpcBackend(reader, memory.RELAYER_KEY.hex(), store=self.relayer_db, clock=self.right)
        return BaseRail(backend, pay_to=memory.PAYEE, transfers=Transfers())

    def wallet(self) -> Wallet:
        return transfer_wallet(self, self.reader())


MORE_SHOPS: Final[tuple[type[World], ...]] = (BaseRefunds, BaseTransfer, Cln, Phoenixd, Nwc, *REFUNDS, *PREPARED)
MORE_AGENTS: Final[tuple[type[Agent], ...]] = (ClnAgent, PhoenixdAgent, NwcAgent, TransferAgent)
