"""What a third party reads where a case fails: in a suite that knows nothing of the kits, with warnings as errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
from dataclasses import replace

from rail402.money import Money
from rail402.stores import MemoryStore
from rail402.testing.fakes import FakeClock, FakeLedger, FakeRail, FakeSpec, FakeWallet
from rail402.testing.rails import RailBench, RailConformance
from rail402.testing.stores import StoreConformance
from rail402.testing.wallets import WalletConformance


class OneMore(FakeRail):
    def _transfer(self, charge):
        key, transfer = super()._transfer(charge)
        return key, replace(transfer, amount=transfer.amount + 1)


class Dearer(FakeWallet):
    async def can_pay(self, offer):
        cost = await super().can_pay(offer)
        return cost and replace(cost, price=Money.parse("0.004 USD"))


class Forgetful(MemoryStore):
    async def remember(self, name, value):
        return value


class Bench(RailBench):
    def __init__(self):
        self.clock, self.ledger = FakeClock(), FakeLedger({"alice": 1_000_000})
        self.rail = OneMore(self.ledger, FakeSpec())
        self.wallet = Dearer(self.ledger, FakeSpec())

    async def payer_has(self):
        return self.ledger.balances["alice"]

    async def payee_has(self):
        return self.ledger.charged_total


class TestMyRail(RailConformance):
    ways = [("signed", "upfront")]

    async def open_bench(self, directory):
        return Bench()


class TestMyWallet(WalletConformance):
    ways = [("signed", "upfront")]

    async def open_bench(self, directory):
        return Bench()


class TestMyStore(StoreConformance):
    async def open_store(self, directory):
        return Forgetful()
"""
CASES = "settling_moves_the_amount_once or says_what_an_offer_would_cost or first_value_is_everybodys"
READS = [
    "the payer must have spent 3000 and the payee received 3000; they have 3001 and 3001",
    "assert (3001, 3001) == (3000, 3000)",
    "can_pay: the offer's price",
    "Decimal('0.004') != Decimal('0.003000')",
    "assert 50 == 1",
]


def test_a_case_that_fails_says_what_it_has_compared(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(SUITE)
    options = ["-q", "-W", "error", "-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-k", CASES, "test_mine.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert [text for text in READS if text not in done.stdout] == []
