"""The server side of Stripe: what is offered, whether a token is good, and reserving, taking and giving back the money.

In the escrow flow a PaymentIntent with manual capture reserves the amount before the handler runs; it is captured when
the handler has succeeded and cancelled otherwise, so that a failure costs the payer nothing, fees included. In the
upfront flow it is captured at once, and refunded where the handler fails.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from rail402.clock import Clock, RandomBytes, system_clock, system_random
from rail402.errors import ConfigurationError, OutcomeUnknown, PaymentRejected, RailUnavailable
from rail402.money import Money
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.endpoint import Endpoint, Signed
from rail402.protocol.offer import Flow, Mechanism, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import Payment
from rail402.protocol.rail import (
    Failed,
    Held,
    Holds,
    NotPaid,
    PaymentRail,
    Pending,
    Refunded,
    Refunds,
    Released,
    Settled,
    Terms,
    Unknown,
    Verified,
)
from rail402_stripe.api import SANDBOX_PUBLISHABLE_KEY, StripeApi
from rail402_stripe.cashier import Cashier
from rail402_stripe.currencies import currency as currency_of
from rail402_stripe.customers import Customers
from rail402_stripe.intents import PREPARED_FOR, Outcome
from rail402_stripe.on_demand import MOST_OFFER_SECONDS, PREPARE_PATH, RETURN_PATH, OnDemand, Preparer
from rail402_stripe.people import CHECKOUT_PATH, PAY_PATH, People
from rail402_stripe.proofs import ProofKind, is_account, proof_kinds_of
from rail402_stripe.sandbox_pages import SANDBOX_PATH, SandboxPages
from rail402_stripe.verification import Verifier
from rail402_stripe.webhooks import WEBHOOK, Webhook, check_secrets
from rail402_stripe.wire import SANDBOX_PROFILE, StripeSpec, check_profile

__all__ = ["StripeRail"]

logger = logging.getLogger("rail402.stripe")

A = TypeVar("A")

_NOT_PREPARED: Final = OnDemand()
_SANDBOX_PREPARED: Final = OnDemand(publishable_key=SANDBOX_PUBLISHABLE_KEY, checkout=True)


class StripeRail(PaymentRail, Holds, Refunds):
    """Takes shared payment tokens and charges them to a Stripe account; and further proofs, where they are switched on.

    Args:
        secret_key: the account's secret key, or a `StripeApi` that speaks another version or another spelling.
        profile_id: the account's own profile, `profile_…`, which payers make their tokens out to; or the account's id,
            `acct_…`, of one that takes no such tokens.
        currency: the currency that prices are charged in, or several.
        payment_method_types: the kinds of payment method that are taken. With `link` and cards an amount can be
            reserved first; a kind that cannot is for routes with `flow="upfront"`.
        on_demand: what is prepared for payers who ask for it: PaymentIntents, links to Checkout.
        customers: who a customer of the publisher is, by a secret of its own; its saved payment method is charged
            without it being there.
        webhook_secrets: the signing secrets `whsec_…` of the endpoint that Stripe calls, several while one is rolled.
            Its address is `/.well-known/rail402/stripe/webhook`; without a secret there is none.
        clock: Unix seconds.

    Raises:
        ConfigurationError: the key, the profile or a currency is not one, or the profile is of another mode than the
            key.
    """

    takes_less = True
    has_fixed_terms = True

    def __init__(
        self,
        secret_key: str | StripeApi,
        *,
        profile_id: str,
        currency: str | Sequence[str] = "usd",
        payment_method_types: Sequence[str] = ("card", "link"),
        on_demand: OnDemand = _NOT_PREPARED,
        customers: Customers | None = None,
        webhook_secrets: Sequence[str] = (),
        clock: Clock = system_clock,
    ) -> None:
        self._api = secret_key if isinstance(secret_key, StripeApi) else StripeApi(secret_key)
        check_profile(profile_id, self._api.network)
        if not payment_method_types or isinstance(payment_method_types, str):
            raise ConfigurationError('payment_method_types must be a list such as ["card"]')
        self.spec = self._spec = StripeSpec(
            self._api.network, (currency,) if isinstance(currency, str) else tuple(currency)
        )
        self.payee = self.profile_id = profile_id
        self._method_types, self._clock = tuple(payment_method_types), clock
        self._on_demand, self._preparer = on_demand, Preparer(self._api, on_demand, clock)
        self._cancelling: asyncio.Task[None] | None = None
        self._takes_customers, self._verifier = customers is not None, Verifier(self._api, customers)
        if is_account(profile_id) and on_demand == _NOT_PREPARED and customers is None:
            raise ConfigurationError(
                "with an account's id and nothing else nobody can pay: give a profile_id, profile_…"
            )
        self._cashier = Cashier(self._api, clock)
        self._webhook_secrets = check_secrets(webhook_secrets)
        # On an instance this is the flag of `PaymentRail`; on the class it is the constructor below.
        self.is_sandbox = self._api.network == "stripe:sandbox"
        self.is_test = self._api.network == "stripe:test"
        self.max_offer_seconds = None if on_demand == _NOT_PREPARED else MOST_OFFER_SECONDS

    def __repr__(self) -> str:
        return f"StripeRail({self._api!r}, profile_id={self.profile_id!r})"

    @classmethod
    def sandbox(
        cls,
        directory: str | Path | None = None,
        *,
        currency: str | Sequence[str] = "usd",
        customers: Customers | None = None,
        webhook_secrets: Sequence[str] = (),
        clock: Clock = system_clock,
        random_bytes: RandomBytes = system_random,
    ) -> StripeRail:
        """Make a rail on play money, in the ledger that every sandbox of this directory shares. No key is needed.

        Args:
            directory: see `sandbox_directory`.
            currency, customers, webhook_secrets: see the class. All that is prepared on demand is switched on.
            clock: Unix seconds; random_bytes: makes ids.

        Raises:
            ConfigurationError: the directory cannot be made.
        """
        api = StripeApi.sandbox(directory, clock=clock, random_bytes=random_bytes)
        return cls(
            api,
            profile_id=SANDBOX_PROFILE,
            currency=currency,
            on_demand=_SANDBOX_PREPARED,
            customers=customers,
            webhook_secrets=webhook_secrets,
            clock=clock,
        )

    async def start(self) -> None:
        """See that Stripe knows the key, and begin to cancel what nobody pays in time. Where Stripe cannot be reached
        now, that shows when somebody pays.

        Raises:
            ConfigurationError: it does not.
        """
        try:
            await self._api.check_key()
        except RailUnavailable as error:
            logger.warning("the Stripe key could not be checked: %s", error)
        if self._on_demand.publishable_key is not None and self._cancelling is None:
            self._cancelling = asyncio.create_task(self._preparer.run_forever(), name="rail402-stripe-unpaid")

    async def close(self) -> None:
        """Close the connections."""
        if self._cancelling is not None:
            self._cancelling.cancel()
            await asyncio.gather(self._cancelling, return_exceptions=True)
            self._cancelling = None
        await self._api.close()

    async def health(self) -> None:
        """Raise `RailUnavailable` where Stripe cannot be used now."""
        try:
            await self._api.check_key()
        except ConfigurationError as error:
            raise RailUnavailable(error.detail) from error

    async def received(self) -> Money:
        """Return the account's balance in the rail's first currency; in the sandbox that is all it was ever paid, less
        refunds.

        Raises:
            RailUnavailable: Stripe cannot be reached.
        """
        mechanism = self._spec.mechanisms[0]
        minor = (await self._api.balance()).get(mechanism.asset, 0)
        return Money.from_atomic(minor, mechanism.exponent, mechanism.currency)

    def endpoints(self) -> Mapping[tuple[str, str], Endpoint]:
        """Return where payments are prepared, and where Stripe's webhooks arrive, if there is a secret to verify them
        with; see `Endpoints`."""
        found: dict[tuple[str, str], Endpoint] = {}
        people = People(self._preparer)
        if self._on_demand != _NOT_PREPARED:
            found |= {("POST", PREPARE_PATH): self._preparer.prepare, ("GET", RETURN_PATH): people.come_back}
        if self._on_demand.checkout:
            found |= {("GET", PAY_PATH): people.show, ("POST", CHECKOUT_PATH): people.lead}
            if self._api.sandbox_app is not None:
                pages = SandboxPages(self._api.sandbox_app)
                found |= {(method, SANDBOX_PATH): pages for method in ("GET", "POST")}
        if self._webhook_secrets:
            webhook = Webhook(self._webhook_secrets, self._api.network, self._clock, self._api.intent)
            found[WEBHOOK] = Signed(webhook)
        return found

    async def cancel_unpaid(self) -> int:
        """Cancel the PaymentIntents that were prepared on demand and that nobody has paid in time; return how many.

        While the gate runs this happens by itself, once a minute.

        Raises:
            RailUnavailable, OutcomeUnknown: not all of them; the rest is tried again.
        """
        return await self._preparer.cancel_unpaid()

    def pay_path(self, offer: Offer) -> str | None:
        """Return where a person can pay, if there are links to Checkout; see `Endpoints`."""
        return PAY_PATH if ProofKind.CHECKOUT_SESSION in proof_kinds_of(offer) else None

    # --- before the money moves

    async def offer(self, order: Order, mechanism: Mechanism, terms: Terms) -> Offer | None:
        """Make an offer; None where Stripe charges neither so little nor so much in that currency."""
        unit = currency_of(mechanism.asset)
        if not (unit.minimum or 1) <= terms.amount <= unit.maximum or terms.amount % unit.step:
            return None
        return self._spec.offer(
            unit,
            payee=self.profile_id,
            amount=terms.amount,
            flow=terms.flow,
            expires_at=terms.expires_at,
            payment_method_types=self._method_types,
            other_proofs=self._on_demand.others(order.origin, customers=self._takes_customers),
        )

    async def verify(self, offer: Offer, payment: Payment, verified: Verified, *, now: int) -> Verified:
        """See what Stripe says of the proof; see `Verifier`."""
        if offer.payee != self.profile_id:  # the key charges for our own account, whatever an offer says
            raise PaymentRejected(f"the offer is {offer.payee}'s, and this is {self.profile_id}", code="payee_mismatch")
        return await self._verifier.verify(offer, payment, verified, now=now)

    # --- moving it

    async def hold(self, charge: Charge, payment: Payment) -> Held | NotPaid | Failed | Unknown:
        """Reserve the amount; see `Holds`."""
        if PREPARED_FOR in charge.rail_state:
            holding = self._cashier.prepared(charge, Operation.HOLD)
        else:
            holding = self._cashier.create(charge, payment, Operation.HOLD, capture_method="manual")
        return _one_of(await _known(holding), Held, NotPaid, Failed)

    def least_taken(self, offer: Offer, amount: int) -> int:
        """Return `amount`, or the least above it that Stripe captures; see `PaymentRail.least_taken`."""
        unit = currency_of(offer.asset)
        least = max(amount, unit.minimum or 1)
        return min(least + -least % unit.step, offer.amount)

    async def settle(self, charge: Charge, payment: Payment | None) -> Settled | NotPaid | Failed | Unknown:
        """Capture what is reserved, or charge the token; see `PaymentRail.settle`."""
        if charge.offer.flow is Flow.ESCROW:
            settling = self._cashier.capture(charge)
        elif PREPARED_FOR in charge.rail_state:
            settling = self._cashier.prepared(charge, Operation.SETTLE)
        else:
            assert payment is not None, "what is not held is taken while the payer is there"
            settling = self._cashier.create(charge, payment, Operation.SETTLE, capture_method="automatic")
        return _one_of(await _known(settling), Settled, NotPaid, Failed)

    async def release(self, charge: Charge) -> Released | Settled | Unknown:
        """Cancel the PaymentIntent, which gives the reserved amount and the token free; see `Holds`."""
        return _one_of(await _known(self._cashier.cancel(charge)), Released, Settled)

    async def refund(self, charge: Charge) -> Refunded | Failed | Unknown:
        """Give all of it back; see `Refunds`."""
        return _one_of(await _known(self._cashier.refund(charge)), Refunded, Failed)

    # --- after a lost answer

    async def lookup(
        self, charge: Charge, operation: Operation
    ) -> Held | Settled | Released | Refunded | NotPaid | Failed | Pending | Unknown:
        """Find the charge's PaymentIntent and see what became of it; see `PaymentRail.lookup`."""
        if charge.offer.network != self._spec.network:
            return Unknown(detail=f"it was paid on {charge.offer.network}, and this rail is on {self._spec.network}")
        return await _known(self._cashier.look_up(charge, operation))


async def _known(work: Awaitable[Outcome]) -> Outcome:
    try:
        return await work
    except OutcomeUnknown as error:
        return Unknown(detail=error.detail)


def _one_of(answer: Outcome, *kinds: type[A]) -> A | Unknown:
    """Return the answer where it is of a kind that the operation can end in; anything else is for the lookup."""
    if isinstance(answer, kinds):
        return answer
    if isinstance(answer, Unknown):
        return answer
    return Unknown(detail=f"it ended as {type(answer).__name__.lower()}, which is not how it should")
