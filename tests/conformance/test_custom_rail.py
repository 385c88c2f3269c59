"""The example of a third party's rail keeps every promise, proven as a third party would prove it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from examples import custom_rail
from examples.custom_rail import Book, CreditRail, CreditSpec, CreditWallet
from rail402.errors import OutcomeUnknown, RailUnavailable
from rail402.plugins import RailPlugin
from rail402.protocol.base import Json
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.offer import Offer
from rail402.protocol.rail import Wallet
from rail402.testing.fakes import FakeClock
from rail402.testing.rails import RailBench, RailConformance
from rail402.testing.wallets import WalletConformance

ROOT = Path(__file__).parents[2]
EXAMPLE, GUIDE = ROOT / "examples" / "custom_rail.py", ROOT / "docs" / "writing-a-rail.md"
SHOP_KEY = "the shop's own key"
CREDIT = 1_000_000


class FailingBook(Book):
    """A book that can be out of reach, and lose its answer."""

    is_open = True
    loses: bool | None = None

    async def take(self, key: str, charge: str, customer: str, cents: int) -> None:
        self._look()
        loses, self.loses = self.loses, None
        if loses is not False:
            await super().take(key, charge, customer, cents)
        if loses is not None:
            raise OutcomeUnknown("the answer was lost")

    async def taker(self, key: str) -> str | None:
        self._look()
        return await super().taker(key)

    async def left(self, customer: str) -> int:
        self._look()
        return await super().left(customer)

    def _look(self) -> None:
        if not self.is_open:
            raise RailUnavailable("the book is out of reach")


class CreditBench(RailBench):
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.book = FailingBook({"ann": CREDIT})
        self.rail = CreditRail(self.book, shop="acme", shop_key=SHOP_KEY, is_sandbox=True)
        self.wallet = self.next_wallet()

    async def payer_has(self) -> int:
        return self.book.credit["ann"]

    async def payee_has(self) -> int:
        return sum(cents for _, cents in self.book.taken.values())

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        self.book.is_open = False
        yield
        self.book.is_open = True

    async def lose_answer(self, charge: Charge, operation: Operation, *, done: bool) -> bool:
        self.book.loses = done
        return True

    async def unpaid(self, offer: Offer) -> Json | None:
        return (await (await self.poor_wallet()).pay(offer, record_id="unpaid", now=self.clock())).payload

    def next_wallet(self) -> Wallet:
        return self._wallet_of("ann")

    async def poor_wallet(self) -> Wallet:
        return self._wallet_of("bob")

    @staticmethod
    def _wallet_of(customer: str) -> Wallet:
        return CreditWallet(shop="acme", customer=customer, key=CreditSpec("acme", SHOP_KEY).key_of(customer))


class TestCreditRail(RailConformance):
    ways = (("signed", "authorization"), ("signed", "upfront"))

    async def open_bench(self, directory: Path) -> RailBench:
        return CreditBench()


class TestCreditWallet(WalletConformance):
    ways = (("signed", "authorization"), ("signed", "upfront"))

    async def open_bench(self, directory: Path) -> RailBench:
        return CreditBench()


def blocks(name: str) -> list[str]:
    """Return what the guide adds to a file."""
    found: list[str] = re.findall(rf"^<!-- file: {name} -->\n```python\n(.*?)^```$", GUIDE.read_text(), re.M | re.S)
    return found


def test_its_plugin_makes_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "custom_rail", custom_rail)
    module = ModuleType("rail402_credit")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (text,) = blocks("rail402_credit.py")
    exec(compile(text, "rail402_credit.py", "exec"), module.__dict__)
    plugin: RailPlugin = module.PLUGIN
    monkeypatch.setenv("CREDIT_KEY", SHOP_KEY)
    table = {"shop": "acme", "shop_key": "env:CREDIT_KEY", "credit": {"ann": 5}}
    rail = plugin.rail(plugin.rail_config.model_validate(table))
    table = {"shop": "acme", "customer": "ann", "key": "env:CREDIT_KEY"}
    wallet = plugin.wallet(plugin.wallet_config.model_validate(table))
    assert (rail.spec.name, wallet.spec.name) == ("credit", "credit")


def lines(text: str) -> list[str]:
    """Return what is not blank."""
    return [line for line in text.splitlines() if line.strip()]


def test_it_is_short() -> None:
    assert len(lines(EXAMPLE.read_text())) < 150


def test_the_guide_shows_it_whole() -> None:
    assert len(blocks("custom_rail.py")) == 5
    assert lines("".join(blocks("custom_rail.py"))) == lines(EXAMPLE.read_text())
