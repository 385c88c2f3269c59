"""The server side of Stripe: what is offered, whether a token is good, and reserving, taking and giving back the money.

In the escrow flow a PaymentIntent with manual capture reserves the amount before the handler runs; it is captured when
the handler has succeeded and cancelled otherwise, so that a failure costs the payer nothing, fees included. In the
upfront flow it is captured at once, and refunded where the handler fails.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from rail402.clock import Clock, RandomBytes, system_clock, system_random
from rail402.errors import ConfigurationError, OutcomeUnknown, PaymentRejected, RailUnavailable
from rail402.money import Money
from rail402.protocol.base import Json
from rail402.protocol.charge import Charge, Operation
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
from rail402_stripe.api import Declined, Refused, StripeApi
from rail402_stripe.currencies import currency as currency_of
from rail402_stripe.intents import Outcome, idempotency_key, is_of, metadata_of, outcome
from rail402_stripe.wire import SANDBOX_PROFILE, StripeSpec, check_profile, spt_of

__all__ = ["StripeRail"]

logger = logging.getLogger("rail402.stripe")

A = TypeVar("A")

# A request whose answer was lost may still be under way, at a proxy say. For so long it is not called undone.
_LANDING_SECONDS: Final = 120
# How far Stripe's clock and ours may be apart; and how long after our check a request may reach Stripe at the most.
_SKEW_SECONDS: Final = 300
_LATEST_SECONDS: Final = 600

# Codes that say that the request itself is not one, whatever the token: the API's version or its spelling is wrong.
_OUR_FAULT: Final = ("parameter_unknown", "parameter_missing", "url_invalid")

_VERIFIED_AT: Final = "verified_at"
_INTENT: Final = "payment_intent"


class StripeRail(PaymentRail, Holds, Refunds):
    """Takes shared payment tokens and charges them to a Stripe account.

    Args:
        secret_key: the account's secret key, or a `StripeApi` that speaks another version or another spelling.
        profile_id: the account's own profile, `profile_…`, which payers make their tokens out to.
        currency: the currency that prices are charged in, or several.
        payment_method_types: the kinds of payment method that are taken. With `link` and cards an amount can be
            reserved first; a kind that cannot is for routes with `flow="upfront"`.
        clock: Unix seconds.

    Raises:
        ConfigurationError: the key, the profile or a currency is not one, or the profile is of another mode than the
            key.
    """

    def __init__(
        self,
        secret_key: str | StripeApi,
        *,
        profile_id: str,
        currency: str | Sequence[str] = "usd",
        payment_method_types: Sequence[str] = ("card", "link"),
        clock: Clock = system_clock,
    ) -> None:
        self._api = secret_key if isinstance(secret_key, StripeApi) else StripeApi(secret_key)
        check_profile(profile_id, self._api.network)
        if not payment_method_types or isinstance(payment_method_types, str):
            raise ConfigurationError('payment_method_types must be a list such as ["card"]')
        self.spec = self._spec = StripeSpec(
            self._api.network, (currency,) if isinstance(currency, str) else tuple(currency)
        )
        self.profile_id, self._method_types, self._clock = profile_id, tuple(payment_method_types), clock
        # On an instance this is the flag of `PaymentRail`; on the class it is the constructor below.
        self.is_sandbox = self._api.network == "stripe:sandbox"

    def __repr__(self) -> str:
        return f"StripeRail({self._api!r}, profile_id={self.profile_id!r})"

    @classmethod
    def sandbox(
        cls,
        directory: str | Path | None = None,
        *,
        currency: str | Sequence[str] = "usd",
        clock: Clock = system_clock,
        random_bytes: RandomBytes = system_random,
    ) -> StripeRail:
        """Make a rail on play money, in the ledger that every sandbox of this directory shares. No key is needed.

        Args:
            directory: see `sandbox_directory`.
            currency: see the class.
            clock: Unix seconds; random_bytes: makes ids.

        Raises:
            ConfigurationError: the directory cannot be made.
        """
        api = StripeApi.sandbox(directory, clock=clock, random_bytes=random_bytes)
        return cls(api, profile_id=SANDBOX_PROFILE, currency=currency, clock=clock)

    async def start(self) -> None:
        """See that Stripe knows the key. Where it cannot be reached now, that shows when somebody pays.

        Raises:
            ConfigurationError: it does not.
        """
        try:
            await self._api.check_key()
        except RailUnavailable as error:
            logger.warning("the Stripe key could not be checked: %s", error)

    async def close(self) -> None:
        """Close the connections."""
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
        )

    async def verify(self, offer: Offer, payment: Payment, verified: Verified, *, now: int) -> Verified:
        """Look at the token: whose it is, for what and for how long; see `PaymentRail.verify`.

        It is a courtesy that keeps most bad tokens from becoming failed payments: Stripe checks all of it again.
        """
        if now > offer.expires_at:
            raise PaymentRejected("ask for a new offer", code="offer_expired")
        try:
            token = await self._api.granted_token(spt_of(payment.payload))
        except Refused as error:
            detail = "Stripe knows no such shared payment token for this seller"
            raise PaymentRejected(detail, code="payment_declined") from error
        _check_token(token, offer, now=now)
        agent = _members(token, "agent_details").get("network_business_profile")
        payer = agent if isinstance(agent, str) else None
        return replace(verified, payer=payer, state={**verified.state, _VERIFIED_AT: now})

    # --- moving it

    async def hold(self, charge: Charge, payment: Payment) -> Held | NotPaid | Failed | Unknown:
        """Reserve the amount; see `Holds`."""
        creating = self._create(charge, payment, Operation.HOLD, capture_method="manual")
        return _one_of(await _known(creating), Held, NotPaid, Failed)

    async def settle(self, charge: Charge, payment: Payment | None) -> Settled | NotPaid | Failed | Unknown:
        """Capture what is reserved, or charge the token; see `PaymentRail.settle`."""
        if charge.offer.flow is Flow.ESCROW:
            settling = self._capture(charge)
        else:
            assert payment is not None, "what is not held is taken while the payer is there"
            settling = self._create(charge, payment, Operation.SETTLE, capture_method="automatic")
        return _one_of(await _known(settling), Settled, NotPaid, Failed)

    async def release(self, charge: Charge) -> Released | Settled | Unknown:
        """Cancel the PaymentIntent, which gives the reserved amount and the token free; see `Holds`."""
        return _one_of(await _known(self._cancel(charge)), Released, Settled)

    async def refund(self, charge: Charge) -> Refunded | Failed | Unknown:
        """Give all of it back; see `Refunds`."""
        return _one_of(await _known(self._refund(charge)), Refunded, Failed)

    async def _create(self, charge: Charge, payment: Payment, operation: Operation, *, capture_method: str) -> Outcome:
        """Create the charge's PaymentIntent, which charges the token (or reserves the amount) at once."""
        try:
            intent = await self._api.create_intent(
                spt_of(payment.payload),
                idempotency_key(charge, operation),
                amount=charge.offer.amount,
                currency=charge.offer.asset,
                confirm=True,
                capture_method=capture_method,
                automatic_payment_methods={"enabled": True, "allow_redirects": "never"},
                # Nobody is there to authenticate: a card that wants it is declined instead of left in the middle.
                error_on_requires_action=True,
                metadata=metadata_of(charge),
            )
        except Declined as error:
            return Failed(code=error.code, detail=error.detail)
        except Refused as error:
            if error.stripe_code in _OUR_FAULT:
                logger.error("%s: do api_version and spt_parameter of StripeApi fit together?", error)
                raise RailUnavailable("Stripe does not take the request in this form") from error
            return Failed(code=error.code, detail=error.detail)
        return outcome(intent, charge, operation)

    async def _capture(self, charge: Charge) -> Outcome:
        pi, key = charge.rail_state[_INTENT], idempotency_key(charge, Operation.SETTLE)
        try:
            return outcome(await self._api.capture(pi, key), charge, Operation.SETTLE)
        except (Declined, Refused):  # it did not capture; what the PaymentIntent is now says what to make of it
            return await self._look(charge, pi, Operation.SETTLE)

    async def _cancel(self, charge: Charge) -> Outcome:
        pi, key = charge.rail_state[_INTENT], idempotency_key(charge, Operation.RELEASE)
        try:
            return outcome(await self._api.cancel(pi, key), charge, Operation.RELEASE)
        except (Declined, Refused):  # it is not reserved (any more)
            return await self._look(charge, pi, Operation.RELEASE)

    async def _refund(self, charge: Charge) -> Outcome:
        pi, key = charge.rail_state[_INTENT], idempotency_key(charge, Operation.REFUND)
        try:
            refund = await self._api.refund(pi, key, metadata_of(charge))
        except (Declined, Refused) as error:
            answer = await self._look(charge, pi, Operation.REFUND)
            return Failed(code=error.code, detail=error.detail) if isinstance(answer, Settled) else answer
        match refund.get("status"):
            case "succeeded":
                return Refunded(state={"refund": str(refund.get("id"))})
            case "failed" | "canceled":
                return Failed(code="payment_declined", detail="the refund did not go through")
            case _:
                return Unknown(detail="the refund is under way")

    async def _look(self, charge: Charge, pi: str, operation: Operation) -> Outcome:
        """Judge a PaymentIntent as it is now, after an operation on it was refused."""
        try:
            return outcome(await self._api.intent(pi), charge, operation)
        except (Refused, RailUnavailable) as error:
            return Unknown(detail=error.detail)

    # --- after a lost answer

    async def lookup(
        self, charge: Charge, operation: Operation
    ) -> Held | Settled | Released | Refunded | NotPaid | Failed | Pending | Unknown:
        """Find the charge's PaymentIntent and see what became of it; see `PaymentRail.lookup`."""
        if charge.offer.network != self._spec.network:
            return Unknown(detail=f"it was paid on {charge.offer.network}, and this rail is on {self._spec.network}")
        return await _known(self._look_up(charge, operation))

    async def _look_up(self, charge: Charge, operation: Operation) -> Outcome:
        try:
            pi = charge.rail_state.get(_INTENT)
            if pi is None:
                return await self._find(charge, operation)
            answer = outcome(await self._api.intent(pi), charge, operation)
            if operation is Operation.REFUND and isinstance(answer, Settled):
                refunds = await self._api.refunds(pi)
                if any(refund.get("status") in ("pending", "requires_action") for refund in refunds):
                    return Pending(retry_after=60)
            return answer
        except Refused as error:
            return Unknown(detail=error.detail)

    async def _find(self, charge: Charge, operation: Operation) -> Outcome:
        """Find a PaymentIntent of which not even the id is known, by its marks."""
        began = int(charge.rail_state.get(_VERIFIED_AT, charge.created_at))
        async for intent in self._api.intents_between(began - _SKEW_SECONDS, began + _LATEST_SECONDS):
            if is_of(intent, charge):
                return outcome(intent, charge, operation)
        left = began + _LANDING_SECONDS - self._clock()
        return NotPaid() if left <= 0 else Pending(retry_after=left)


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


def _check_token(token: Json, offer: Offer, *, now: int) -> None:
    """Check a token against the offer, as far as Stripe shows it.

    Raises:
        PaymentRejected: it cannot pay for the offer.
    """
    if token.get("livemode") is not (offer.network == "stripe:live"):
        raise PaymentRejected("the token is of Stripe's other mode", code="network_mismatch")
    if token.get("deactivated_at") is not None:
        codes = {"consumed": "proof_already_used", "expired": "authorization_expired"}
        code = codes.get(str(token.get("deactivated_reason")), "payment_declined")
        raise PaymentRejected("the token has been deactivated", code=code)
    limits = _members(token, "usage_limits")
    if limits.get("currency", offer.asset) != offer.asset:
        raise PaymentRejected(f"the token is not for {offer.asset}", code="asset_mismatch")
    used = _members(_members(token, "usage_details"), "amount_captured").get("value")
    most = limits.get("max_amount")
    if isinstance(most, int) and most - (used if isinstance(used, int) else 0) < offer.amount:
        raise PaymentRejected(f"the token is for less than {offer.price}", code="amount_mismatch")
    expires_at = limits.get("expires_at")
    if isinstance(expires_at, int) and expires_at <= now:
        raise PaymentRejected("the token has expired", code="authorization_expired")


def _members(value: Json, name: str) -> Mapping[str, Any]:
    found = value.get(name)
    return found if isinstance(found, Mapping) else {}
