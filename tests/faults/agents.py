"""The other end: agents whose wires to their own wallet are spoilt, who buy from a shop whose wires are sound.

The agent does what an honest program does: it makes the same request again until it has been served, and lets its
payer recover in between. However often, the thing is paid for once.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final

import httpx

from rail402 import Budget, Payer
from rail402.client.records import PurchaseState
from rail402.errors import ClientError, Rail402Error
from rail402.protocol.offer import Offer
from rail402.protocol.rail import PaymentRail, Wallet
from rail402.testing.faults import Faults
from rail402_lightning import LightningRail, LightningWallet
from rail402_lightning.backends.lnbits import LnbitsSender
from rail402_lightning.backends.lnd import LndSender
from rail402_lightning.backends.sandbox import SandboxReceiver
from rail402_stripe import StripeApi, StripeRail, StripeWallet
from rail402_stripe.sandbox import SANDBOX_URL, SandboxTransport
from tests.faults.lightning_services import ADMIN_KEY, LnbitsService, LndService
from tests.faults.playing import NOT_PAID, SETTLED, UNKNOWN_NOT_PAID, UNKNOWN_SETTLED, Cell, Played
from tests.faults.world import PATH, URL, Books, World
from tests.faults.worlds import Lightning, Stripe
from tests.unit.rail402_lightning.backends.fake_lnd import PAYING

__all__ = ["AGENTS", "Agent", "LightningAgent"]

_TRIES: Final = 40


class Agent(World):
    """An agent's world: `wallet` is on the wires, the rail is not."""

    price_units: ClassVar[int]

    def __init__(self, directory: Path, faults: Faults) -> None:
        super().__init__(directory, faults)
        self.payer = Payer(
            [self.wallet()],
            budget=Budget(per_request=["1 USD", "1000 sat"]),
            journal=f"sqlite:///{directory}/journal.db",
            clock=self.clock,
        )

    @abstractmethod
    def wallet(self) -> Wallet:
        """Make the wallet, on wires of `wire`."""

    async def pay(self, offer: Offer) -> Mapping[str, Any]:
        raise AssertionError("the payer pays")

    async def buy(self, cell: Cell, played: Played) -> None:
        """Buy, whatever goes wrong."""
        if cell.fault is not None:
            self.faults.on(cell.fault, nth=cell.nth, times=None if cell.is_lasting else 1)
        await self.gate.start()
        shop = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=self.payer.transport(shop), base_url=URL) as client:
            first: Rail402Error | None = None
            for number in range(_TRIES):
                if number:
                    await asyncio.sleep(61)
                    with suppress(Rail402Error):
                        await self.payer.recover()
                if number == 2:
                    played.shown = len(self.calls) if first else played.shown
                    self.heal()
                try:
                    response = await client.get(PATH)
                except Rail402Error as error:
                    first = first or error
                    continue
                played.shown = played.shown or len(self.calls)
                if response.status_code != 200:
                    played.problems.append(f"answered {response.status_code}: {response.text[:200]}")
                break
            else:
                played.problems.append(f"never served: {first}")
        played.until = played.shown
        played.outcome = await self._outcome(first)
        books = await self.books()
        price = self.price_units
        if books != Books(price, price) or self.runs != 1:
            played.problems.append(f"{books}, and served {self.runs} times at {price}")

    async def _outcome(self, first: Rail402Error | None) -> str:
        if first is None:
            return SETTLED
        if not isinstance(first, ClientError) or first.outcome == "not_paid":
            return NOT_PAID
        record = None if first.record_id is None else await self.payer.journal.get(first.record_id)
        is_paid = record is not None and record.state is PurchaseState.COMMITTED
        return UNKNOWN_SETTLED if is_paid else UNKNOWN_NOT_PAID

    async def close(self) -> None:
        await self.payer.close()
        await super().close()


class LightningAgent(Agent, Lightning):
    price_units = 21_000

    def make_rail(self) -> PaymentRail:
        self.open_node()
        return LightningRail(SandboxReceiver(self.node), network="regtest")


class LndAgent(LightningAgent):
    row = "wallet: lnd"

    def wallet(self) -> Wallet:
        self.secrets.append(PAYING.hex())
        wire = self.wire(LndService(self.node))
        return LightningWallet(
            LndSender("https://lnd.example:8080", PAYING, network="regtest", transport=wire), network="regtest"
        )


class LnbitsAgent(LightningAgent):
    row = "wallet: LNbits"

    def wallet(self) -> Wallet:
        self.secrets.append(ADMIN_KEY)
        wire = self.wire(LnbitsService(self.node))
        return LightningWallet(
            LnbitsSender("https://lnbits.example", ADMIN_KEY, network="regtest", transport=wire), network="regtest"
        )


class StripeAgent(Agent, Stripe):
    """Its tokens come from the test helper of the seller's account."""

    row = "wallet: Stripe"
    price_units = 50

    def make_rail(self) -> PaymentRail:
        self.open_sandbox()
        self._rails_own = StripeApi(self.key, transport=SandboxTransport(self.sandbox), api_base=SANDBOX_URL)
        return StripeRail(self._rails_own, profile_id="internal", payment_method_types=["card"], clock=self.right)

    def wallet(self) -> Wallet:
        return StripeWallet.test_helper(self.spoilt_api())


AGENTS: Final[tuple[type[Agent], ...]] = (LndAgent, LnbitsAgent, StripeAgent)
