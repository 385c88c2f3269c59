"""The money of two LNbits, in front of the nodes whose channel has to agree with them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rail402.clock import Clock
from rail402.protocol.rail import PaymentRail, Wallet
from rail402_lightning import LightningRail, LightningWallet
from tests.crashes.banks import Books, Lnd
from tests.services.lnbits import LnbitsInstance

__all__ = ["Lnbits"]


class Lnbits(Lnd):
    """The shop has a wallet of an LNbits on Alice's node, the agents one of an LNbits on Bob's."""

    def __init__(self, where: Mapping[str, Any]) -> None:
        super().__init__(where["lnd"])
        self._publisher, self._payer = (LnbitsInstance(**where["lnbits"][name]) for name in ("publisher", "payer"))
        self._apart = self._difference()

    def rail(self, clock: Clock, *, refunds: bool) -> PaymentRail:
        return LightningRail.lnbits(self._publisher.url, self._publisher.invoice_key, "regtest")

    def wallet(self, number: int, clock: Clock) -> Wallet:
        return LightningWallet.lnbits(self._payer.url, self._payer.admin_key, "regtest")

    def books(self) -> Books:
        """What the wallets hold; where the nodes do not agree with them in the end, that counts as held."""
        deadline = time.monotonic() + 20
        while (self._under_way() or self._difference() != self._apart) and time.monotonic() < deadline:
            time.sleep(0.05)
        lost = sum(abs(now - then) for now, then in zip(self._difference(), self._apart, strict=True))
        held = self._under_way() + lost
        return Books(paid=-self._payer.balance(), got=self._publisher.balance(), held=held)

    def _difference(self) -> tuple[int, int]:
        """What the nodes have beside the wallets."""
        nodes = self._alice.channel_balance(), self._bob.channel_balance()
        return nodes[0] - self._publisher.balance(), nodes[1] - self._payer.balance()
