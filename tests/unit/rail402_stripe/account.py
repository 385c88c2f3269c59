"""A Stripe account in the sandbox: its rail, a wallet that pays it, its money, and how its answers can be spoilt."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from rail402.protocol.charge import Charge, PaymentEvent
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Held, Settled, Terms
from rail402.testing.fakes import FakeClock
from rail402_stripe import StripeApi, StripeRail, StripeWallet
from rail402_stripe.api import SANDBOX_LEDGER
from rail402_stripe.sandbox import Fault, FaultAnswer, Sandbox
from rail402_stripe.wire import SANDBOX_PROFILE

ORDER = Order(method="GET", url="https://shop.example/report?n=1", route="GET /report")
PRICE = 50

CREATE = "/v1/payment_intents"
CAPTURE = "/v1/payment_intents/*/capture"
CANCEL = "/v1/payment_intents/*/cancel"
REFUND = "/v1/refunds"
INTENT = "/v1/payment_intents/pi_*"
TOKEN = "/v1/shared_payment/granted_tokens/*"


class Account:
    """Everything that a test needs; `await close()` at the end."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory, self.clock = directory, FakeClock()
        self.api = StripeApi.sandbox(directory, clock=self.clock)
        self.rail = StripeRail.sandbox(directory, clock=self.clock, **options)
        self.wallet = StripeWallet.sandbox(directory, clock=self.clock)
        self.sandbox = Sandbox(directory / SANDBOX_LEDGER, clock=self.clock, profile_id=SANDBOX_PROFILE)
        self._ids = itertools.count(1)
        self._wallets: list[StripeWallet] = []

    async def close(self) -> None:
        """Close all of it."""
        self.sandbox.close()
        await self.api.close()
        await self.rail.close()
        for wallet in (self.wallet, *self._wallets):
            await wallet.close()

    # --- what happened

    async def balance(self) -> int:
        """Return the account's money in cents."""
        return (await self.api.balance()).get("usd", 0)

    async def intents(self) -> list[Any]:
        """Return every PaymentIntent, newest first."""
        return [intent async for intent in self.api.intents_between(0, self.clock() + 1)]

    async def statuses(self) -> list[str]:
        """Return the status of every PaymentIntent, newest first."""
        return [intent["status"] for intent in await self.intents()]

    def spoil(self, path: str, answer: FaultAnswer, *, applied: bool = False, times: int = 1) -> None:
        """Spoil the next answers to requests for that path."""
        method = "GET" if path in (INTENT, TOKEN) else "POST"
        self.sandbox.inject_fault(Fault(method, path, answer, applied, times))

    # --- payments

    def wallet_with(self, payment_method: str) -> StripeWallet:
        """Return a wallet with another test card."""
        self._wallets.append(StripeWallet.sandbox(self.directory, payment_method=payment_method, clock=self.clock))
        return self._wallets[-1]

    async def offer(self, flow: Flow = Flow.ESCROW, amount: int = PRICE) -> Offer:
        """Return an offer of the rail."""
        terms = Terms(amount=amount, flow=flow, now=self.clock(), expires_at=self.clock() + 600, timeout_seconds=180)
        offer = await self.rail.offer(ORDER, self.rail.spec.mechanisms[0], terms)
        assert offer is not None
        return offer

    async def token(self, **changes: Any) -> str:
        """Return a token that the test helper made: `max_amount`, `currency`, `expires_at`, `payment_method`."""
        limits = {"currency": "usd", "max_amount": PRICE, "expires_at": self.clock() + 600}
        method = changes.pop("payment_method", "pm_card_visa")
        token = await self.api.grant_token(
            f"test:{next(self._ids)}", payment_method=method, usage_limits=limits | changes
        )
        return str(token["id"])

    async def pay(self, offer: Offer, wallet: StripeWallet | None = None) -> Payment:
        """Return what a wallet presents for an offer."""
        record = f"rec_{next(self._ids)}"
        paid = await (wallet or self.wallet).pay(offer, record_id=record, now=self.clock())
        return present(paid.payload)

    async def claimed(self, flow: Flow = Flow.ESCROW, wallet: StripeWallet | None = None) -> tuple[Charge, Payment]:
        """Return a verified payment and its charge, as it stands when the rail is asked for the money."""
        offer = await self.offer(flow)
        payment = await self.pay(offer, wallet)
        verified = await self.rail.verify(offer, payment, self.rail.spec.authenticate(offer, payment), now=self.clock())
        charge = Charge(
            id=f"ch_{next(self._ids)}",
            order=ORDER,
            offer=offer,
            price=offer.price,
            window=600,
            dialect="mpp",
            keys=tuple(verified.keys),
            created_at=self.clock(),
            lease_until=self.clock() + 120,
            payer=verified.payer,
            rail_state=verified.state,
        )
        event = PaymentEvent.HOLD if flow is Flow.ESCROW else PaymentEvent.SETTLE
        return charge.on(event, lease_until=charge.lease_until), payment

    async def held(self) -> tuple[Charge, Payment]:
        """Return a charge whose amount is reserved."""
        charge, payment = await self.claimed()
        answer = await self.rail.hold(charge, payment)
        assert isinstance(answer, Held)
        return step(charge, PaymentEvent.HELD, answer.state), payment

    async def settled(self, flow: Flow = Flow.UPFRONT) -> Charge:
        """Return a charge whose amount was taken."""
        if flow is Flow.ESCROW:
            charge, _ = await self.held()
            charge = step(charge, PaymentEvent.SETTLE)
            answer = await self.rail.settle(charge, None)
        else:
            charge, payment = await self.claimed(flow)
            answer = await self.rail.settle(charge, payment)
        assert isinstance(answer, Settled)
        return step(charge, PaymentEvent.SETTLED, answer.state)


def present(payload: Any) -> Payment:
    """Return a payment with that payload."""
    return Payment(dialect="mpp", rail="stripe", payload=payload)


def step(charge: Charge, event: PaymentEvent, state: Any = None) -> Charge:
    """Return the charge one step on, with what the rail said."""
    changes = {} if state is None else {"rail_state": {**charge.rail_state, **state}}
    return charge.on(event, lease_until=charge.lease_until, **changes)
