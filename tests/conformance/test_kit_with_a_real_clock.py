"""The kits pass on a clock that ticks between any two readings, as on a real service the clock may."""

from __future__ import annotations

from pathlib import Path

from rail402.testing.fakes import FakeClock
from rail402.testing.rails import RailBench, RailConformance
from rail402.testing.wallets import WalletConformance
from tests.conformance.benches import FakeBench

WAYS = (("signed", "authorization"),)


class TickingClock(FakeClock):
    """Is a second later each time that it is asked."""

    def __call__(self) -> int:
        return self.advance(1)


class TickingBench(FakeBench):
    clock_type = TickingClock


class TestRail(RailConformance):
    ways = WAYS
    elsewhere = (("signed", "upfront"), ("signed", "escrow"))

    async def open_bench(self, directory: Path) -> RailBench:
        return TickingBench()


class TestWallet(WalletConformance):
    ways = WAYS

    async def open_bench(self, directory: Path) -> RailBench:
        return TickingBench()
