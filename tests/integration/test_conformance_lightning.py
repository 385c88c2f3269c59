"""Lightning with an lnd on both sides keeps every promise of a rail and of a wallet, over a real channel."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from rail402.clock import system_clock
from rail402.protocol.base import Json
from rail402.protocol.offer import Offer
from rail402.protocol.rail import Wallet
from rail402.testing.rails import RailBench, RailConformance
from rail402.testing.wallets import WalletConformance
from rail402_lightning import LightningRail, LightningWallet
from rail402_lightning.backends.lnd_macaroon import PAY, RECEIVE
from rail402_lightning.wire import invoice_of
from tests.conformance.benches import Switch
from tests.services.lightning import RegtestNetwork
from tests.services.lnbits import LnbitsPair


class LndBench(RailBench):
    """Alice sells, Bob pays."""

    amount = 21_000
    sandbox = False
    clock = staticmethod(system_clock)

    def __init__(self, network: RegtestNetwork) -> None:
        self._network = network
        alice = network.alice
        self.rail = rail = LightningRail.lnd(
            alice.rest_url,
            alice.bake(*RECEIVE.methods),
            "regtest",
            tls_cert=alice.tls_cert_path,
            wait_seconds=1,
        )
        self._switch = Switch(rail.receiver)
        rail.receiver = self._switch
        self._others: list[Wallet] = []
        self.wallet = self.next_wallet()

    async def close(self) -> None:
        for wallet in self._others:
            await wallet.close()

    async def pass_time(self, seconds: int) -> None:
        await super().pass_time(0)

    async def payer_has(self) -> int:
        self._network.wait_until_idle()
        return self._network.bob.channel_balance()

    async def payee_has(self) -> int:
        self._network.wait_until_idle()
        return self._network.alice.channel_balance()

    def unreachable(self) -> AbstractContextManager[None]:
        return self._switch.off()

    async def unpaid(self, offer: Offer) -> Json | None:
        found = self._network.alice.get(f"/v1/invoice/{invoice_of(offer).payment_hash.hex()}")
        return {"preimage": base64.b64decode(found["r_preimage"]).hex()}

    def next_wallet(self) -> Wallet:
        bob = self._network.bob
        macaroon = bob.bake(*PAY.methods)
        name = f"bob {secrets.token_hex(4)}"
        self._others.append(
            LightningWallet.lnd(bob.rest_url, macaroon, "regtest", tls_cert=bob.tls_cert_path, name=name)
        )
        return self._others[-1]

    def lies(self, offer: Offer) -> Iterable[tuple[str, Offer]]:
        yield "another amount than its invoice", offer.model_copy(update={"amount": 2 * offer.amount})
        yield "another payee than its invoice", offer.model_copy(update={"payee": "02" + "ab" * 32})


class LnbitsBench(LndBench):
    """The publisher has a wallet at an LNbits on Alice's node, the payer one at an LNbits on Bob's."""

    def __init__(self, network: RegtestNetwork, pair: LnbitsPair) -> None:
        self._pair = pair
        super().__init__(network)
        self.rail = rail = LightningRail.lnbits(
            pair.publisher.url, pair.publisher.invoice_key, "regtest", wait_seconds=1
        )
        self._switch = Switch(rail.receiver)
        rail.receiver = self._switch

    async def payer_has(self) -> int:
        self._network.wait_until_idle()
        return self._pair.payer.balance()

    async def payee_has(self) -> int:
        self._network.wait_until_idle()
        return self._pair.publisher.balance()

    def next_wallet(self) -> Wallet:
        payer = self._pair.payer
        self._others.append(LightningWallet.lnbits(payer.url, payer.admin_key, "regtest"))
        return self._others[-1]

    def secrets(self, payload: Json) -> Iterable[str]:
        return [*super().secrets(payload), self._pair.payer.admin_key, self._pair.publisher.invoice_key]


class _OnRegtest:
    """Where the cases find the nodes."""

    network: RegtestNetwork

    @pytest.fixture(autouse=True)
    def nodes(self, regtest: RegtestNetwork) -> None:
        """Have the session's network at hand."""
        self.network = regtest


class TestLnd(_OnRegtest, RailConformance):
    ways = (("bolt11", "upfront"),)

    async def open_bench(self, directory: Path) -> RailBench:
        return LndBench(self.network)


class TestLndWallet(_OnRegtest, WalletConformance):
    ways = (("bolt11", "upfront"),)

    async def open_bench(self, directory: Path) -> RailBench:
        return LndBench(self.network)


class _OnLnbits(_OnRegtest):
    """Where the cases find both LNbits."""

    pair: LnbitsPair

    @pytest.fixture(autouse=True)
    def wallets(self, lnbits_pair: LnbitsPair) -> None:
        """Have the session's wallets at hand."""
        self.pair = lnbits_pair


class TestLnbits(_OnLnbits, RailConformance):
    ways = (("bolt11", "upfront"),)

    async def open_bench(self, directory: Path) -> RailBench:
        return LnbitsBench(self.network, self.pair)


class TestLnbitsWallet(_OnLnbits, WalletConformance):
    ways = (("bolt11", "upfront"),)

    async def open_bench(self, directory: Path) -> RailBench:
        return LnbitsBench(self.network, self.pair)
