"""A shop that takes Stripe, for tests that only need an account: a sandbox behind a port, or Stripe's own test mode.

Nothing here knows which of the two it is. Money is counted at Stripe, over what is marked with the shop's own host, so
that whatever else goes on in the account does not count.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from fastapi import FastAPI, HTTPException, Request

from rail402 import Gate, Payer
from rail402.clock import system_clock
from rail402.dialects import Mpp
from rail402.protocol.charge import Charge
from rail402.protocol.dialect import Context, Fields
from rail402.protocol.offer import Offer
from rail402.protocol.rail import Registry
from rail402.protocol.receipt import ReceiptKeys
from rail402_stripe import OnDemand, SavedCustomer, StripeApi, StripeRail, StripeWallet
from rail402_stripe.proofs import ProofKind, payload_of
from rail402_stripe.sandbox import SignedEvent, signed_event

__all__ = ["PRICE", "StripeShop", "Wire"]

PRICE: Final = 80
"""What every route costs, in cents."""

_MPP: Final = Mpp()
_HOOK: Final = "whsec_of_this_test"
_CUSTOMERS_SECRET: Final = "a customer's secret, which only this test and the shop know".replace(" ", "-")


@dataclass
class Wire(httpx.AsyncBaseTransport):
    """Carries requests to the account; takes the time, and can lose an answer after Stripe has given it.

    Attributes:
        seconds: spent waiting for the account.
        calls: the requests that were sent, each a method and a path.
    """

    inner: httpx.AsyncBaseTransport = field(default_factory=httpx.AsyncHTTPTransport)
    seconds: float = 0.0
    calls: list[str] = field(default_factory=list)
    losing: str = ""

    def lose(self, path: str) -> None:
        """Lose the next answer to a POST whose path ends like that."""
        self.losing = path

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        began = time.perf_counter()
        response = await self.inner.handle_async_request(request)
        await response.aread()
        self.seconds += time.perf_counter() - began
        self.calls.append(f"{request.method} {request.url.path}")
        if self.losing and request.method == "POST" and request.url.path.endswith(self.losing):
            self.losing = ""
            raise httpx.ReadTimeout("the answer was lost", request=request)
        return response

    async def aclose(self) -> None:
        await self.inner.aclose()


class StripeShop:
    """Two routes behind a gate whose only rail is Stripe: `/held` reserves first, `/first` takes at once.

    Their query says how they end: `worth` reduces the price, `status` fails.

    Args:
        api: the account.
        directory: where the store and the payer's journal are.
        profile_id: the account's profile.
    """

    def __init__(self, api: StripeApi, wire: Wire, directory: Path, *, profile_id: str = "internal") -> None:
        self.api, self.wire, self.directory = api, wire, directory
        self.host = f"shop-{secrets.token_hex(6)}.test"
        self.url = f"https://{self.host}"
        self.saved: SavedCustomer | None = None
        self.served = 0
        self._began, self._keys = system_clock(), (f"{self.host}:{number}" for number in itertools.count())
        self.rail = StripeRail(
            api,
            profile_id=profile_id,
            payment_method_types=["card"],
            on_demand=OnDemand(publishable_key="pk_test_of_this_test", checkout=True),
            customers=self._customer,
            webhook_secrets=[_HOOK],
        )
        self.gate = Gate(
            rails=[self.rail],
            store=f"sqlite:///{directory}/charges.db",
            secret=secrets.token_hex(32),
            receipt_key=ReceiptKeys.generate()[1],
            public_url=self.url,
            reconcile_seconds=0,
            wait_seconds=0,
        )
        self.app = FastAPI()
        self.gate.install(self.app)
        self._sell("/held", "escrow")
        self._sell("/first", "upfront")

    def _sell(self, path: str, flow: str) -> None:
        @self.app.get(path)
        @self.gate.paid("0.80 USD", flow=flow)
        async def goods(request: Request, worth: str = "", status: int = 200) -> dict[str, int]:
            if worth:
                self.gate.reduce(request, worth)
            if status != 200:
                raise HTTPException(status)
            self.served += 1
            return {"n": self.served}

    async def _customer(self, secret: str) -> SavedCustomer | None:
        return self.saved if secrets.compare_digest(secret, _CUSTOMERS_SECRET) else None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[StripeShop]:
        async with httpx.AsyncClient(transport=self._transport(), base_url=self.url) as self.client, self.gate:
            yield self

    def _transport(self) -> httpx.ASGITransport:
        return httpx.ASGITransport(app=self.app, raise_app_exceptions=False)

    @asynccontextmanager
    async def paying(self, card: str = "pm_card_visa") -> AsyncIterator[httpx.AsyncClient]:
        """A client that pays with tokens that the test helper makes for a card."""
        wallet = StripeWallet.test_helper(self.api, payment_method=card)
        payer = Payer([wallet], journal=f"sqlite:///{self.directory}/wallet.db", deadline=20)
        async with payer, httpx.AsyncClient(transport=payer.transport(self._transport()), base_url=self.url) as client:
            yield client

    # --- a payer by hand

    async def offer(self, path: str) -> Offer:
        """Ask for the price."""
        response = await self.client.get(path)
        assert response.status_code == 402, response.text
        (offer,) = _MPP.offers(Fields(response.headers.multi_items()), response.content, self._context())
        return offer

    def _context(self) -> Context:
        return Context(specs=Registry([self.rail.spec]), now=system_clock(), realm=self.host)

    async def token(self, card: str = "pm_card_visa", max_amount: int = PRICE) -> str:
        """A shared payment token as a payer would have issued it."""
        limits = {"currency": "usd", "max_amount": max_amount, "expires_at": system_clock() + 600}
        token = await self.api.grant_token(next(self._keys), payment_method=card, usage_limits=limits)
        return str(token["id"])

    async def show(self, offer: Offer, proof: str, path: str, kind: ProofKind = ProofKind.SPT) -> httpx.Response:
        """Present a proof for an offer."""
        fields = _MPP.credential(offer, payload_of(proof, None, kind), self._context())
        return await self.client.get(path, headers=dict(fields))

    async def buy(self, path: str, card: str = "pm_card_visa") -> httpx.Response:
        """Buy with a new token; `again` shows the same payment."""
        self.last = await self.offer(path), await self.token(card), path
        return await self.again()

    async def again(self) -> httpx.Response:
        """Show the last payment once more."""
        return await self.show(*self.last)

    async def prepare(self, offer: Offer, what: str) -> dict[str, Any]:
        """Have a payment prepared: `payment_intent` or `checkout`."""
        asked = {"dialect": "mpp", "offer": offer.envelope, "prepare": what}
        response = await self.client.post("/.well-known/rail402/stripe", json=asked)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    async def confirm(self, pi: str, card: str = "pm_card_visa") -> Any:
        """Pay a prepared PaymentIntent."""
        back = f"{self.url}/back"
        found, _ = await self.api._post(
            f"/v1/payment_intents/{pi}/confirm", next(self._keys), payment_method=card, return_url=back
        )
        return found

    async def save_customer(self, card: str = "pm_card_visa") -> str:
        """Make a customer with a saved card; returns the secret that it pays with."""
        customer, _ = await self.api._post("/v1/customers", next(self._keys))
        attach = f"/v1/payment_methods/{card}/attach"
        method, _ = await self.api._post(attach, next(self._keys), customer=customer["id"])
        self.saved = SavedCustomer(customer["id"], method["id"])
        return _CUSTOMERS_SECRET

    async def deliver(self, name: str, document: Any, **changes: Any) -> httpx.Response:
        """Deliver an event about an object, signed as Stripe would."""
        facts = {"webhook_secret": _HOOK, "event_id": "evt_1", "created": system_clock()} | changes
        event: SignedEvent = signed_event(name, document, **facts)
        hook = "/.well-known/rail402/stripe/webhook"
        return await self.client.post(hook, content=event.payload, headers={"stripe-signature": event.signature})

    # --- what happened

    async def charge(self) -> Charge:
        """The only charge."""
        (charge,) = await self.gate.services().store.recent(limit=5)
        return charge

    async def intents(self) -> list[Any]:
        """Every PaymentIntent of this shop, newest first."""
        listed = self.api.intents_between(self._began - 60, system_clock() + 60)
        return [intent async for intent in listed if intent["metadata"].get("rail402_realm") == self.host]

    async def money(self) -> int:
        """What this shop has been paid, less what it gave back; in cents."""
        back: Callable[[Any], bool] = lambda refund: refund["status"] in ("succeeded", "pending")  # noqa: E731
        total = 0
        for intent in await self.intents():
            refunds = await self.api.refunds(intent["id"])
            total += intent["amount_received"] - sum(refund["amount"] for refund in refunds if back(refund))
        return total
