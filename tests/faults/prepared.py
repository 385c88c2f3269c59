"""Stripe on demand: the shop prepares a PaymentIntent for an offer, and the payer confirms it by wires that are sound.

Beside each payer there is a visitor who has a payment prepared, and leaves. And each payer has lost what it was told,
as after a crash, and asks for it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx

from rail402.errors import PaymentFailed, RailUnavailable
from rail402.protocol.offer import Offer
from rail402.protocol.rail import Paid, PaymentRail
from rail402.testing.faults import Faults
from rail402_stripe import OnDemand, OwnCustomerWallet, StripeRail
from rail402_stripe.own_customer import PublishableApi
from rail402_stripe.preparing import Seller
from rail402_stripe.sandbox import SANDBOX_URL, SandboxTransport
from rail402_stripe.verification import PAID_WITHIN
from tests.faults.world import ONE_IN
from tests.faults.worlds import Stripe

__all__ = ["PREPARED"]

A = TypeVar("A")

_PUBLISHABLE: Final = "pk_test_publisher"
_TRIES: Final = 2
_TURN_SECONDS: Final = 61
_TURNS: Final = 3


class StripePrepared(Stripe):
    """The amount is reserved when the payer confirms, and what nobody has confirmed in time is cancelled."""

    row = "Stripe, prepared"
    paid_before = True
    sampled = ONE_IN

    def __init__(self, directory: Path, faults: Faults) -> None:
        super().__init__(directory, faults)
        self._left: dict[str, int] = {}  # what visitors have left unpaid, and by when it can be paid, Unix seconds
        self._wrong: list[str] = []
        to_shop = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        self._seller = Seller(to_shop)
        to_stripe = SandboxTransport(self.sandbox)
        self._payers_api = PublishableApi(_PUBLISHABLE, transport=to_stripe, api_base=SANDBOX_URL)
        self._wallet = OwnCustomerWallet(self._payers_api, "pm_card_visa", transport=to_shop)

    def make_rail(self) -> PaymentRail:
        self.open_sandbox()
        return StripeRail(
            self.spoilt_api(),
            profile_id="acct_publisher",
            payment_method_types=["card"],
            on_demand=OnDemand(publishable_key=_PUBLISHABLE),
            clock=self.clock,
        )

    async def pay(self, offer: Offer) -> Mapping[str, Any]:
        await self._visit()
        record_id = self.record_id()
        paid = await _patiently(lambda: self._wallet.pay(offer, record_id=record_id, now=self.right()))
        self.secrets.append(str(paid.payload["clientSecret"]))
        with suppress(PaymentFailed):
            again = await _patiently(lambda: self._wallet.resume(offer, None, record_id=record_id, now=self.right()))
            if not isinstance(again, Paid) or again.payload != paid.payload:
                self._wrong.append("asked again, the shop has not prepared what was paid")
        return paid.payload

    async def _visit(self) -> None:
        """Have a payment prepared, and never pay it."""
        with suppress(PaymentFailed, RailUnavailable):
            for offer in self.offers(await self.ask())[:1]:
                prepared = await self._seller.prepare(
                    str(offer.extra["payment_intent"]["url"]), offer, "payment_intent"
                )
                self.secrets.append(str(prepared["client_secret"]))
                self._left[str(prepared["payment_intent"])] = offer.expires_at + PAID_WITHIN

    async def tick(self) -> None:
        """Wait until what nobody has paid should have been cancelled, and for a few turns more where it was not."""
        await asyncio.sleep(max(self._left.values(), default=0) - self.right())
        for _ in range(_TURNS):
            if not await self._unpaid():
                return
            await asyncio.sleep(_TURN_SECONDS)

    async def _unpaid(self) -> list[str]:
        """Return what is left and could still be paid."""
        return [pi for pi in self._left if (await self._clean.intent(pi))["status"] != "canceled"]

    async def leftovers(self) -> list[str]:
        return [*self._wrong, *(f"nobody paid {pi}, and it is not cancelled" for pi in await self._unpaid())]

    async def close(self) -> None:
        await self._seller.close()
        await self._wallet.close()
        await super().close()


class StripePreparedUpfront(StripePrepared):
    """The amount is taken when the payer confirms."""

    row = "Stripe, prepared, upfront"
    flow = "upfront"

    async def nudge(self) -> None:
        """Wait for what is given back, which goes on behind the answer."""
        await asyncio.sleep(_TURN_SECONDS)


async def _patiently(asking: Callable[[], Awaitable[A]]) -> A:
    """Ask again where the shop cannot prepare it now; nothing is paid by asking.

    Raises:
        PaymentFailed: it never can.
    """
    for _ in range(_TRIES):
        with suppress(RailUnavailable):
            return await asking()
        await asyncio.sleep(_TURN_SECONDS)
    raise PaymentFailed("the shop does not prepare it")


PREPARED: Final = (StripePrepared, StripePreparedUpfront)
