"""Every wallet here keeps every promise of the interface, in each way in which it can be paid."""

from __future__ import annotations

from pathlib import Path

import pytest
import stripe

from rail402.testing.rails import RailBench
from rail402.testing.wallets import WalletConformance
from tests.conformance.benches import BaseBench, FakeBench, LightningBench, LinkBench, RemoteSignerBench, StripeBench

AUTHORIZATIONS = (("eip3009", "authorization"), ("eip3009", "upfront"))


class TestFakeSigned(WalletConformance):
    ways = (("signed", "authorization"), ("signed", "upfront"), ("signed", "escrow"))

    async def open_bench(self, directory: Path) -> RailBench:
        return FakeBench()


class TestFakeInvoice(WalletConformance):
    ways = (("invoice", "upfront"),)

    async def open_bench(self, directory: Path) -> RailBench:
        return FakeBench("invoice")


class TestBaseAuthorizations(WalletConformance):
    ways = AUTHORIZATIONS

    async def open_bench(self, directory: Path) -> RailBench:
        return BaseBench(directory)


class TestBaseRemoteSigner(TestBaseAuthorizations):
    async def open_bench(self, directory: Path) -> RailBench:
        return RemoteSignerBench(directory)


class TestBaseTransfers(WalletConformance):
    ways = (("transfer", "upfront"),)
    elsewhere = AUTHORIZATIONS

    async def open_bench(self, directory: Path) -> RailBench:
        return BaseBench(directory, transfers=True)


class TestLightning(WalletConformance):
    ways = (("bolt11", "upfront"),)

    async def open_bench(self, directory: Path) -> RailBench:
        return LightningBench(directory)


class TestStripe(WalletConformance):
    ways = (("spt", "escrow"), ("spt", "upfront"))

    @pytest.fixture(autouse=True)
    def no_telemetry_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Keep the library from writing its telemetry identifier into the configuration of whoever runs the tests."""
        monkeypatch.setattr(stripe, "enable_telemetry", False)

    async def open_bench(self, directory: Path) -> RailBench:
        return StripeBench(directory)


class TestLink(TestStripe):
    async def open_bench(self, directory: Path) -> RailBench:
        return LinkBench(directory)
