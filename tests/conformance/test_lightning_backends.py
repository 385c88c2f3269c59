"""Lightning on Core Lightning, on phoenixd and by Nostr Wallet Connect keeps every promise of a rail and of a wallet.

The nodes are fakes that answer as the real ones are documented to, with the sandbox's ledger behind them: the invoices
and the preimages are real, and the money is counted there.
"""

from __future__ import annotations

import asyncio
import sqlite3
from abc import abstractmethod
from collections.abc import Iterable
from contextlib import AsyncExitStack, closing
from pathlib import Path

import httpx

from rail402.protocol.base import Json
from rail402.protocol.rail import Wallet
from rail402.testing.rails import RailBench, RailConformance
from rail402.testing.wallets import WalletConformance
from rail402_lightning import (
    ClnReceiver,
    ClnSender,
    LightningRail,
    LightningWallet,
    NwcReceiver,
    NwcSender,
    PhoenixdReceiver,
    PhoenixdSender,
)
from rail402_lightning.backends import Receiver, Sender
from tests.conformance.benches import LightningBench, Switch
from tests.unit.rail402_lightning.backends import fake_cln, fake_phoenixd
from tests.unit.rail402_lightning.backends.fake_cln import FakeCln
from tests.unit.rail402_lightning.backends.fake_nwc import CLIENT, FakeNwc
from tests.unit.rail402_lightning.backends.fake_phoenixd import FakePhoenixd
from tests.unit.rail402_lightning.backends.play import PlayNode

DEADLINE = 2


async def no_pause(_: float) -> None:
    await asyncio.sleep(0.01)


class _BackendBench(LightningBench):
    """A fake of a node on both sides; the sandbox's own rail and wallet are not used."""

    sandbox = False
    max_fee_sat = 10

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._fakes: list[PlayNode] = []
        self._open(directory)

    def built(self) -> RailBench:
        """Return this bench, with its rail and its wallet."""
        self.rail = rail = LightningRail(self._receiver(), network="regtest", wait_seconds=0)
        self._switch = Switch(rail.receiver)
        rail.receiver = self._switch
        self.wallet = self._wallet("agent")
        return self

    @abstractmethod
    def _open(self, directory: Path) -> None: ...

    @abstractmethod
    def _receiver(self) -> Receiver: ...

    @abstractmethod
    def _sender(self, name: str) -> Sender: ...

    def _wallet(self, name: str) -> Wallet:
        made = LightningWallet(self._sender(name), network="regtest", max_fee_sat=self.max_fee_sat, name=name)
        self._others.append(made)
        return made

    async def poor_wallet(self) -> Wallet:
        await self.node.balance("agent")  # so that there is a ledger
        with closing(sqlite3.connect(self._directory / "lightning.db")) as ledger, ledger:  # no money to begin with
            ledger.execute("INSERT INTO wallets (name, endowment_msat, balance_msat) VALUES ('poor', 0, 0)")
        return self._wallet("poor")

    async def close(self) -> None:
        await super().close()
        for fake in self._fakes:
            await fake.ledger.close()


class ClnBench(_BackendBench):
    def _open(self, directory: Path) -> None:
        self._fake = FakeCln(directory, clock=self.clock)
        self._poor = FakeCln(directory, clock=self.clock, wallet="poor")
        self._fakes += [self._fake, self._poor]

    def _receiver(self) -> Receiver:
        return ClnReceiver(fake_cln.URL, fake_cln.RECEIVE, network="regtest", transport=self._fake.transport)

    def _sender(self, name: str) -> Sender:
        transport = (self._poor if name == "poor" else self._fake).transport
        return ClnSender(
            fake_cln.URL, fake_cln.PAY, deadline=DEADLINE, clock=self.clock, sleep=no_pause, transport=transport
        )

    async def lose_payment(self, *, done: bool) -> bool:
        self._fake.fail("xpay", httpx.ReadTimeout("x"), done=done)
        return True

    def secrets(self, payload: Json) -> Iterable[str]:
        return [*super().secrets(payload), fake_cln.PAY, fake_cln.RECEIVE]


class PhoenixdBench(_BackendBench):
    def _open(self, directory: Path) -> None:
        self._fake = FakePhoenixd(directory, clock=self.clock)
        self._poor = FakePhoenixd(directory, clock=self.clock, wallet="poor")
        self._fakes += [self._fake, self._poor]

    def _receiver(self) -> Receiver:
        return PhoenixdReceiver(fake_phoenixd.URL, fake_phoenixd.LIMITED, transport=self._fake.transport)

    def _sender(self, name: str) -> Sender:
        transport = (self._poor if name == "poor" else self._fake).transport
        url, password = fake_phoenixd.URL, fake_phoenixd.FULL
        return PhoenixdSender(url, password, deadline=DEADLINE, sleep=no_pause, transport=transport)

    async def lose_payment(self, *, done: bool) -> bool:
        self._fake.fail("/payinvoice", httpx.ReadTimeout("x"), done=done)
        return True

    def secrets(self, payload: Json) -> Iterable[str]:
        return [*super().secrets(payload), fake_phoenixd.FULL, fake_phoenixd.LIMITED]


class _All(set[str]):
    """Every invoice is one of this wallet's."""

    def __contains__(self, item: object) -> bool:
        return True


class NwcBench(_BackendBench):
    """Three wallet services, each behind two relays: the shop's, the agent's, and one without money."""

    def _open(self, directory: Path) -> None:
        names = ("shop", "agent", "poor")
        self._services = {name: FakeNwc(directory, clock=self.clock, wallet=name) for name in names}
        self._services["shop"].own = _All()
        self._fakes += self._services.values()
        self._stack, self._connections = AsyncExitStack(), dict[str, str]()

    async def run(self) -> NwcBench:
        """Return this bench, whose relays run now."""
        for name, fake in self._services.items():
            self._connections[name] = await self._stack.enter_async_context(fake.running(2))
        return self

    def _receiver(self) -> Receiver:
        return NwcReceiver(self._connections["shop"], network="regtest", clock=self.clock, sleep=no_pause)

    def _sender(self, name: str) -> Sender:
        return NwcSender(self._connections[name], deadline=DEADLINE, clock=self.clock, sleep=no_pause)

    async def lose_payment(self, *, done: bool) -> bool:
        self._services["agent"].replies.append("lost" if done else "ignored")
        return True

    async def close(self) -> None:
        await super().close()
        await self._stack.aclose()

    def secrets(self, payload: Json) -> Iterable[str]:
        return [*super().secrets(payload), CLIENT.hex()]


class TestCln(RailConformance):
    ways = (("bolt11", "upfront"),)

    async def open_bench(self, directory: Path) -> RailBench:
        return ClnBench(directory).built()


class TestClnWallet(WalletConformance):
    ways = (("bolt11", "upfront"),)

    async def open_bench(self, directory: Path) -> RailBench:
        return ClnBench(directory).built()


class TestPhoenixd(RailConformance):
    ways = (("bolt11", "upfront"),)

    async def open_bench(self, directory: Path) -> RailBench:
        return PhoenixdBench(directory).built()


class TestPhoenixdWallet(WalletConformance):
    ways = (("bolt11", "upfront"),)

    async def open_bench(self, directory: Path) -> RailBench:
        return PhoenixdBench(directory).built()


class TestNwc(RailConformance):
    ways = (("bolt11", "upfront"),)

    async def open_bench(self, directory: Path) -> RailBench:
        return (await NwcBench(directory).run()).built()


class TestNwcWallet(WalletConformance):
    ways = (("bolt11", "upfront"),)

    async def open_bench(self, directory: Path) -> RailBench:
        return (await NwcBench(directory).run()).built()
