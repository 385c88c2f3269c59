"""Base USDC on a real EVM keeps every promise of a rail: authorizations by a relayer, and plain transfers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from rail402.clock import system_clock
from rail402.protocol.base import Json
from rail402.protocol.offer import Offer
from rail402.protocol.rail import Wallet
from rail402.testing.rails import RailBench, RailConformance
from rail402.testing.wallets import WalletConformance
from rail402_base import BaseRail, BaseTransferWallet, BaseWallet, ChainReader, RelaySettings, SendSettings, Transfers
from rail402_base.facilitator import FacilitatorBackend
from rail402_base.transfers import MECHANISM as TRANSFER
from tests.conformance.benches import Switch
from tests.services import facilitator as services
from tests.services import require
from tests.services.anvil import ETHER, USDC, EvmChain
from tests.services.facilitator import OfficialFacilitator

FAST = RelaySettings(poll_ms=20, tend_seconds=1, settle_seconds=60, max_fee_per_gas=20 * 10**9)
AUTHORIZATIONS = (("eip3009", "authorization"), ("eip3009", "upfront"))


@pytest.fixture(scope="module")
def official(evm: EvmChain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OfficialFacilitator]:
    """x402's own facilitator."""
    if reason := services.missing():
        require("x402", reason)
    with services.facilitator(tmp_path_factory.mktemp("facilitator"), evm) as started:
        yield started


class AnvilBench(RailBench):
    """A relayer's rail on anvil; every bench has accounts of its own."""

    sandbox = False
    clock = staticmethod(system_clock)

    def __init__(self, evm: EvmChain, directory: Path, *, transfers: bool = False) -> None:
        self._evm, self._directory, self._transfers = evm, directory, transfers
        self._payee, self._relayer = evm.account(), evm.account(ether=ETHER)
        self._payer, self._poor = evm.account(ether=ETHER, usdc=10 * USDC), evm.account(ether=ETHER)
        self.rail = rail = BaseRail.rpc(
            evm.url,
            self._relayer.private_key,
            pay_to=self._payee.address,
            token=evm.token,
            transfers=Transfers() if transfers else None,
            relayer_db=f"sqlite:///{directory}/relayer.db",
            settings=FAST,
        ).with_refunds(self._payee.private_key)
        self._switch = Switch(rail.chain)
        rail.chain = self._switch
        self._others: list[Wallet] = []
        self.wallet = self.next_wallet()

    async def close(self) -> None:
        for wallet in self._others:
            await wallet.close()

    async def pass_time(self, seconds: int) -> None:
        await super().pass_time(0)  # the chain mines at once: what it does not say now it will not say soon

    async def payer_has(self) -> int:
        return self._evm.usdc_of(self._payer.address)

    async def payee_has(self) -> int:
        return self._evm.usdc_of(self._payee.address)

    def unreachable(self) -> AbstractContextManager[None]:
        return self._switch.off()

    async def unpaid(self, offer: Offer) -> Json | None:
        if offer.mechanism == TRANSFER:
            return {"transaction": "0x" + "ab" * 32}
        return (await (await self.poor_wallet()).pay(offer, record_id="unpaid", now=system_clock())).payload

    def next_wallet(self) -> Wallet:
        return self._wallet(self._payer.private_key)

    async def poor_wallet(self) -> Wallet:
        wallet = self._wallet(self._poor.private_key)
        await wallet.start()
        return wallet

    def _wallet(self, key: str) -> Wallet:
        wallet: Wallet
        if self._transfers:
            wallet = BaseTransferWallet.rpc(
                self._evm.url,
                key,
                token=self._evm.token,
                transfers_db=f"sqlite:///{self._directory}/transfers-{key[2:10]}.db",
                settings=SendSettings(poll_ms=20, max_gas=ETHER // 100),
            )
        else:
            reader = ChainReader(self._evm.url, self._evm.token)
            wallet = BaseWallet.from_private_key(key, tokens=(self._evm.token,), chain=reader)
        self._others.append(wallet)
        return wallet

    def secrets(self, payload: Json) -> Iterable[str]:
        signed = [] if payload.get("signature") is None else [str(payload["signature"])[2:]]
        keys = [account.private_key[2:] for account in (self._payer, self._relayer, self._payee)]
        return [*keys, *signed]


class FacilitatorBench(AnvilBench):
    """The same, and x402's own facilitator hands payments in."""

    def __init__(self, evm: EvmChain, directory: Path, facilitator: OfficialFacilitator) -> None:
        super().__init__(evm, directory)
        reader = ChainReader(evm.url, evm.token)
        backend = FacilitatorBackend([facilitator.url], reader=reader)
        self.rail = rail = BaseRail(backend, pay_to=self._payee.address, token=evm.token)
        self._switch = Switch(rail.chain)
        rail.chain = self._switch


class _OnAnvil:
    """Where the cases find the chain."""

    evm: EvmChain

    @pytest.fixture(autouse=True)
    def chain(self, evm: EvmChain) -> None:
        """Have the session's chain at hand."""
        self.evm = evm


class TestAuthorizations(_OnAnvil, RailConformance):
    ways = AUTHORIZATIONS[:1]
    elsewhere = AUTHORIZATIONS[1:]  # a chain knows nothing of flows: the sandbox proves that they differ where they do

    async def open_bench(self, directory: Path) -> RailBench:
        return AnvilBench(self.evm, directory)


class TestFacilitator(_OnAnvil, RailConformance):
    ways = AUTHORIZATIONS[:1]
    elsewhere = AUTHORIZATIONS[1:]

    @pytest.fixture(autouse=True)
    def facilitator(self, official: OfficialFacilitator) -> None:
        """Have x402's own facilitator at hand."""
        self.official = official

    async def open_bench(self, directory: Path) -> RailBench:
        return FacilitatorBench(self.evm, directory, self.official)


class TestTransfers(_OnAnvil, RailConformance):
    ways = (("transfer", "upfront"),)
    elsewhere = AUTHORIZATIONS

    async def open_bench(self, directory: Path) -> RailBench:
        return AnvilBench(self.evm, directory, transfers=True)


class TestWallet(_OnAnvil, WalletConformance):
    ways = AUTHORIZATIONS[:1]

    async def open_bench(self, directory: Path) -> RailBench:
        return AnvilBench(self.evm, directory)


class TestTransferWallet(_OnAnvil, WalletConformance):
    ways = (("transfer", "upfront"),)

    async def open_bench(self, directory: Path) -> RailBench:
        return AnvilBench(self.evm, directory, transfers=True)
