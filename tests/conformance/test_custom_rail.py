"""The example of a third party's rail keeps every promise, proven as a third party would prove it."""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from examples import custom_rail
from examples.custom_rail import Book, CreditRail, CreditSpec, CreditWallet
from rail402.errors import OutcomeUnknown, RailUnavailable
from rail402.plugins import RailPlugin
from rail402.protocol.base import Json
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Verified, Wallet
from rail402.testing.fakes import FakeClock
from rail402.testing.rail_till import Till
from rail402.testing.rails import RailBench, RailConformance, Way
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
        await self.ask(super().take, key, charge, customer, cents)

    async def taker(self, key: str) -> str | None:
        self._look()
        return await super().taker(key)

    async def left(self, customer: str) -> int:
        self._look()
        return await super().left(customer)

    async def ask(self, call: Callable[..., Awaitable[None]], *asked: Any) -> None:
        self._look()
        loses, self.loses = self.loses, None
        if loses is not False:
            await call(*asked)
        if loses is not None:
            raise OutcomeUnknown("the answer was lost")

    def _look(self) -> None:
        if not self.is_open:
            raise RailUnavailable("the book is out of reach")


class CreditBench(RailBench):
    book: Any

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.book = FailingBook({"ann": CREDIT})
        self.rail = CreditRail(self.book, shop="acme", shop_key=SHOP_KEY, is_sandbox=True)
        self.wallet = self.next_wallet()

    async def payer_has(self) -> int:
        return int(self.book.credit["ann"])

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

    def secrets(self, payload: Json) -> Iterable[str]:
        return [SHOP_KEY, CreditSpec("acme", SHOP_KEY).key_of("ann"), str(payload["signature"])]

    @staticmethod
    def _wallet_of(customer: str) -> CreditWallet:
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


def module_of(name: str) -> Any:
    """Return the guide's file as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "custom_rail", custom_rail)
        module = ModuleType(name)
        patch.setitem(sys.modules, name, module)  # where pydantic looks for its types
        (text,) = blocks(f"{name}.py")
        exec(compile(text, f"{name}.py", "exec"), module.__dict__)
    return module


reserving = module_of("reserving_rail")
_Reserving: Any = reserving.ReservingBook


class ReservingBook(_Reserving, FailingBook):  # type: ignore[misc]
    async def move(self, *asked: Any) -> None:
        await self.ask(super().move, *asked)

    async def state(self, key: str) -> Any:
        self._look()
        return await super().state(key)


class ReservingBench(CreditBench):
    """The guide's sample, in which money is held and given back."""

    def __init__(self) -> None:
        super().__init__()
        self.book = ReservingBook({"ann": CREDIT})
        self.rail = reserving.ReservingRail(self.book, shop="acme", shop_key=SHOP_KEY, is_sandbox=True)

    async def payee_has(self) -> int:
        taken = self.book.taken.items()
        return sum([cents for key, (_, cents) in taken if await self.book.state(key) == "settled"])

    @staticmethod
    def _wallet_of(customer: str) -> CreditWallet:
        wallet = CreditBench._wallet_of(customer)
        wallet.spec = reserving.ReservingSpec("acme")
        return wallet


class TestReservingRail(RailConformance):
    ways = (("signed", "escrow"),)

    async def open_bench(self, directory: Path) -> RailBench:
        return ReservingBench()


class TestReservingWallet(WalletConformance):
    ways = (("signed", "escrow"),)

    async def open_bench(self, directory: Path) -> RailBench:
        return ReservingBench()


class TellsItsKey(CreditSpec):
    def __repr__(self) -> str:
        return f"CreditSpec({self._shop_key!r})"


class KeepsItsKey(CreditSpec):
    def authenticate(self, offer: Offer, payment: Payment) -> Verified:
        verified = super().authenticate(offer, payment)
        return replace(verified, state={**verified.state, "shop_key": self._shop_key})


@pytest.mark.parametrize(
    ("kind", "case"),
    [(TellsItsKey, "test_secrets_are_in_no_repr"), (KeepsItsKey, "test_secrets_are_not_stored_with_the_charge")],
)
async def test_the_shop_s_key_is_found_where_it_must_not_be(kind: type[CreditSpec], case: str) -> None:
    for spec, found in ((CreditSpec, nullcontext()), (kind, pytest.raises(AssertionError, match="there is a secret"))):
        bench = CreditBench()
        bench.rail.spec = spec("acme", SHOP_KEY)
        with found:
            await getattr(TestCreditRail(), case)(bench, Till(bench), Way("signed", Flow.UPFRONT))


def test_its_plugin_makes_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin: RailPlugin = module_of("rail402_credit").PLUGIN
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
    assert len(EXAMPLE.read_text().splitlines()) < 150


def test_the_guide_shows_it_whole() -> None:
    assert len(blocks("custom_rail.py")) == 5
    assert lines("".join(blocks("custom_rail.py"))) == lines(EXAMPLE.read_text())
