"""Every rail here keeps every promise of the interface, in each way in which it can be paid."""

from __future__ import annotations

from pathlib import Path

import pytest
import stripe

from rail402.testing.rails import RailBench, RailConformance
from tests.conformance.benches import BaseBench, FakeBench, LightningBench, StripeBench

AUTHORIZATIONS = (("eip3009", "authorization"), ("eip3009", "upfront"))


class TestFakeSigned(RailConformance):
    ways = (("signed", "authorization"), ("signed", "upfront"), ("signed", "escrow"))

    async def open_bench(self, directory: Path) -> RailBench:
        return FakeBench()


class TestFakeInvoice(RailConformance):
    ways = (("invoice", "upfront"),)

    async def open_bench(self, directory: Path) -> RailBench:
        return FakeBench("invoice")


class TestBaseAuthorizations(RailConformance):
    ways = AUTHORIZATIONS

    async def open_bench(self, directory: Path) -> RailBench:
        return BaseBench(directory)


class TestBaseTransfers(RailConformance):
    ways = (("transfer", "upfront"),)
    elsewhere = AUTHORIZATIONS

    async def open_bench(self, directory: Path) -> RailBench:
        return BaseBench(directory, transfers=True)


class TestLightning(RailConformance):
    ways = (("bolt11", "upfront"),)

    async def open_bench(self, directory: Path) -> RailBench:
        return LightningBench(directory)


@pytest.fixture(autouse=True)
def no_telemetry_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the library from writing its telemetry identifier into the configuration of whoever runs the tests."""
    monkeypatch.setattr(stripe, "enable_telemetry", False)


class TestStripe(RailConformance):
    ways = (("spt", "escrow"), ("spt", "upfront"))

    async def open_bench(self, directory: Path) -> RailBench:
        return StripeBench(directory)
