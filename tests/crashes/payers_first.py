"""The banks of payers who move the money by themselves, and then show that they have: before any charge is claimed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rail402.clock import Clock
from rail402.protocol.rail import Wallet
from rail402_base import BaseTransferWallet, SendSettings, Transfers
from rail402_base.tokens import BASE_SEPOLIA_USDC
from rail402_stripe import OwnCustomerWallet
from tests.crashes.banks import Anvil, BaseSandbox, StripeSandbox
from tests.services.anvil import ETHER

__all__ = ["AnvilTransfer", "StripePrepared", "TransferSandbox"]


class TransferSandbox(BaseSandbox):
    """USDC of the sandbox, which the agents transfer."""

    transfers = Transfers()

    def wallet(self, number: int, clock: Clock) -> Wallet:
        return BaseTransferWallet.sandbox(self.path, private_key=f"{number + 2:064x}", clock=clock)


class AnvilTransfer(Anvil):
    """USDC on a real EVM, which the agents transfer. Each keeps what it has signed in a file of its own."""

    transfers, payers_ether = Transfers(), ETHER

    def __init__(self, path: Path, where: Mapping[str, Any]) -> None:
        super().__init__(path, where)
        self._path = path

    def wallet(self, number: int, clock: Clock) -> Wallet:
        return BaseTransferWallet.rpc(
            self.evm.url,
            self.payer(number).private_key,
            token=BASE_SEPOLIA_USDC,
            transfers_db=f"sqlite:///{self._path / f'transfers-{number}.db'}",
            settings=SendSettings(max_gas=10**16, poll_ms=20, tend_seconds=1),
            clock=clock,
        )


class StripePrepared(StripeSandbox):
    """The sandbox of Stripe, where agents confirm a PaymentIntent that the shop has prepared for their offer."""

    def wallet(self, number: int, clock: Clock) -> Wallet:
        return OwnCustomerWallet.sandbox(self.path, clock=clock)
