"""The money of two LNbits, in front of the nodes whose channel has to agree with them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rail402.clock import Clock
from rail402.protocol.rail import PaymentRail, Wallet
from rail402_lightning import LightningRail, LightningWallet
from rail402_lightning.backends.lnbits import LnbitsSender
from rail402_lightning.refunds import Refunding
from tests.crashes.banks import Books, Lnd
from tests.services.lnbits import LnbitsInstance

__all__ = ["Lnbits"]

_RESERVE_SAT = 2000
"""LNbits pays nothing out of a wallet that has no more than that: it keeps some back for fees."""


class Lnbits(Lnd):
    """The shop has a wallet of an LNbits on Alice's node, the agents one of an LNbits on Bob's."""

    def __init__(self, where: Mapping[str, Any]) -> None:
        super().__init__(where["lnd"])
        self._publisher, self._payer = (LnbitsInstance(**where["lnbits"][name]) for name in ("publisher", "payer"))
        if self._publisher.balance() < _RESERVE_SAT * 1000:
            self._bob.pay(self._publisher.create_invoice(_RESERVE_SAT, "to give back from")["bolt11"])
        self._apart = self._difference()

    def rail(self, clock: Clock, *, refunds: bool) -> PaymentRail:
        shop = self._publisher
        rail = LightningRail.lnbits(shop.url, shop.invoice_key, "regtest")
        sender = LnbitsSender(shop.url, shop.admin_key, network="regtest")
        return rail.with_refunds(Refunding(sender, clock=clock)) if refunds else rail

    def invoice(self, msat: int) -> str:
        """An invoice of the agents' wallet."""
        return str(self._payer.create_invoice(msat // 1000, "what was paid for nothing")["bolt11"])

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
