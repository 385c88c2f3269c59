"""The wallet of a publisher's own customer, who pays with a PaymentIntent that the publisher has prepared.

The wallet has no account at Stripe and needs no secret key. What lets it pay is the publisher's publishable key, a
payment method that the publisher's account knows, and the client secret of one PaymentIntent, which the publisher gives
to who asks with an offer in hand. What became of a payment it reads at Stripe itself, never at the publisher.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import httpx

from rail402.clock import Clock, RandomBytes, system_clock, system_random
from rail402.errors import (
    ConfigurationError,
    OutcomeUnknown,
    PaymentActionRequired,
    PaymentFailed,
    PaymentOutcomeUnknown,
    RailUnavailable,
)
from rail402.money import Money
from rail402.protocol.base import Json
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.rail import Cost, NotPaid, Paid, Unknown, Wallet
from rail402_stripe.api import SANDBOX_PUBLISHABLE_KEY, Declined, Refused, StripeApi
from rail402_stripe.client import RailStripeClient, stripe_client
from rail402_stripe.issuers import client_code
from rail402_stripe.preparing import Seller
from rail402_stripe.proofs import ProofKind, payload_of, preparation_of
from rail402_stripe.sandbox import SANDBOX_URL
from rail402_stripe.wire import MECHANISM, StripeSpec, payment_method_types_of

__all__ = ["OwnCustomerWallet", "PublishableApi"]

PaymentMethod = str | Callable[[Offer], Awaitable[str]]
"""A payment method of the publisher's account, `pm_…`, or an async function that returns one for each payment."""

_SECRET: Final = "clientSecret"  # noqa: S105 - the name of a member
# A confirmation that was sent before the offer ended has arrived by then, or never will.
_LANDING_SECONDS: Final = 120
_ORIGINS: Final = frozenset({"https://hooks.stripe.com", "https://pm-redirects.stripe.com"})
_UNPAID: Final = ("requires_payment_method", "requires_confirmation")

_is_intent = re.compile(r"pi_[A-Za-z0-9]{1,250}", re.ASCII).fullmatch
_is_rest_of_secret = re.compile(r"_secret_[A-Za-z0-9_]{1,250}", re.ASCII).fullmatch


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A PaymentIntent, and the secret that opens it."""

    intent: str
    client_secret: str = field(repr=False)

    @classmethod
    def of(cls, intent: object, client_secret: object) -> Self | None:
        """Return it; None where the two are none that belong together."""
        if not isinstance(intent, str) or not isinstance(client_secret, str) or not _is_intent(intent):
            return None
        fits = client_secret.startswith(intent) and _is_rest_of_secret(client_secret.removeprefix(intent))
        return cls(intent, client_secret) if fits else None

    def payload(self, offer: Offer) -> dict[str, str]:
        """Return the proof, with the secret beside it: the journal keeps that, and nothing sends it."""
        proof = payload_of(self.intent, offer.extra.get("external_id"), ProofKind.PAYMENT_INTENT)
        return {**proof, _SECRET: self.client_secret}


class PublishableApi(StripeApi):
    """A Stripe account, seen through its publishable key: PaymentIntents whose client secret is known, and no others.

    Args:
        secret_key: the publishable key, `pk_test_…` or `pk_live_…`. For the rest see `StripeApi`.
    """

    sandbox_key: ClassVar[str] = SANDBOX_PUBLISHABLE_KEY

    def _connect(self) -> RailStripeClient:
        return stripe_client(
            self._secret_key,
            publishable=True,
            transport=self._transport,
            timeout_seconds=self._timeout_seconds,
            api_base=self._api_base,
        )

    @property
    def publishable_key(self) -> str:
        """The key; it is public."""
        return self._secret_key

    async def look(self, prepared: _Prepared) -> Json:
        """Return a PaymentIntent as it is now. Raises: Refused, RailUnavailable."""
        return await self._get(f"/v1/payment_intents/{prepared.intent}", client_secret=prepared.client_secret)

    async def confirm(self, prepared: _Prepared, payment_method: str, return_url: str) -> Json:
        """Pay a PaymentIntent. It can be paid once, so that no idempotency key is needed, and Stripe takes none here.

        Raises: Refused, Declined, RailUnavailable, OutcomeUnknown.
        """
        params = {
            "client_secret": prepared.client_secret,
            "payment_method": payment_method,
            "return_url": return_url,
        }
        found, _ = await self._call("post", f"/v1/payment_intents/{prepared.intent}/confirm", params)
        return found


class OwnCustomerWallet(Wallet):
    """Pays one publisher by confirming PaymentIntents of its account.

    Where a person has to approve a payment (3-D Secure), it raises `PaymentActionRequired` with the bank's page.

    Args:
        publishable_key: the publisher's `pk_…`, which is no secret; its mode is the wallet's. Offers with another key
            are none of the wallet's.
        payment_method: the payment method to pay with, `pm_…`, or an async function that returns one for each payment:
            one that belongs to no customer pays only once.
        payment_method_type: its kind.
        transport: carries the requests to the publisher instead of the network.

    Raises:
        ConfigurationError: the key is not one.
    """

    origins_for_people = _ORIGINS

    def __init__(
        self,
        publishable_key: str | PublishableApi,
        payment_method: PaymentMethod,
        *,
        payment_method_type: str = "card",
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        key = publishable_key
        self._api = key if isinstance(key, PublishableApi) else PublishableApi(key)
        if isinstance(payment_method, str) and not payment_method.startswith("pm_"):
            raise ConfigurationError("payment_method must be the id of a Stripe payment method: pm_…")
        self._payment_method, self._method_type = payment_method, payment_method_type
        self._seller = Seller(transport)
        self.spec = StripeSpec(self._api.network)
        self.name = f"{self._api.network} customer {self._api.publishable_key[-8:]}"

    def __repr__(self) -> str:
        return f"OwnCustomerWallet({self._api.publishable_key!r})"

    @classmethod
    def sandbox(
        cls,
        directory: str | Path | None = None,
        *,
        payment_method: PaymentMethod = "pm_card_visa",
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock = system_clock,
        random_bytes: RandomBytes = system_random,
    ) -> OwnCustomerWallet:
        """Make a wallet of play money, in the ledger that every sandbox of this directory shares.

        Args:
            directory: see `sandbox_directory`.
            payment_method: a test card: `pm_card_visa`, `pm_card_authenticationRequired`, …
            transport: see the class. clock: Unix seconds; random_bytes: makes ids.

        Raises:
            ConfigurationError: the directory cannot be made.
        """
        api = PublishableApi.sandbox(directory, clock=clock, random_bytes=random_bytes)
        wallet = cls(api, payment_method, transport=transport)
        wallet.origins_for_people = frozenset({SANDBOX_URL})
        return wallet

    async def close(self) -> None:
        """Close the connections."""
        await self._seller.close()
        await self._api.close()

    async def can_pay(self, offer: Offer) -> Cost | None:
        """Return the price: there is nothing on top. None where it is not this publisher's, or where the publisher
        prepares no PaymentIntents for the wallet's kind of payment method."""
        prepared = preparation_of(offer)
        if (offer.mechanism, offer.network) != (MECHANISM, self._api.network) or prepared is None:
            return None
        if prepared.publishable_key != self._api.publishable_key:
            return None
        return Cost(price=offer.price) if self._method_type in payment_method_types_of(offer) else None

    # --- paying

    async def pay(self, offer: Offer, *, record_id: str, now: int) -> Paid:
        """Have a PaymentIntent prepared, see that it is the offer's, and confirm it; see `Wallet.pay`.

        Raises:
            PaymentFailed: it was declined, or is none for this offer; nothing was paid.
            PaymentActionRequired: a person has to approve it.
            PaymentOutcomeUnknown: Stripe's answer is lost.
            RailUnavailable: the publisher or Stripe cannot be reached; nothing was paid.
        """
        if await self.can_pay(offer) is None or offer.expires_at <= now:
            raise PaymentFailed(f"the wallet does not pay {offer.price} on {offer.network}", record_id=record_id)
        prepared = await self._prepare(offer)
        try:
            intent = await self._api.look(prepared)
        except Refused as error:
            raise PaymentFailed("Stripe knows no such PaymentIntent of this publisher", record_id=record_id) from error
        differing = _differing(intent, prepared, offer)
        if differing:
            raise PaymentFailed(f"the PaymentIntent is not what was offered: its {differing} differ")
        if intent.get("status") in _UNPAID:
            intent = await self._confirm(prepared, offer)
        found = _judged(intent, prepared, offer, now=now)
        if isinstance(found, NotPaid):
            raise PaymentFailed("the PaymentIntent was canceled, or the payment declined", record_id=record_id)
        if isinstance(found, Unknown):
            raise PaymentOutcomeUnknown(found.detail, record_id=record_id, proof=prepared.payload(offer))
        return replace(found, fee=Money(Decimal(0), offer.currency))

    async def _prepare(self, offer: Offer) -> _Prepared:
        wanted = preparation_of(offer)
        assert wanted is not None
        answer = await self._seller.prepare(wanted.url, offer, "payment_intent")
        prepared = _Prepared.of(answer.get("payment_intent"), answer.get("client_secret"))
        if prepared is None:
            raise PaymentFailed("what the publisher has prepared is no PaymentIntent")
        return prepared

    async def _confirm(self, prepared: _Prepared, offer: Offer) -> Json:
        wanted = preparation_of(offer)
        assert wanted is not None
        method = self._payment_method if isinstance(self._payment_method, str) else await self._payment_method(offer)
        try:
            return await self._api.confirm(prepared, method, f"{wanted.url}/return")
        except Declined as error:
            raise PaymentFailed(error.detail, code=client_code(error)) from error
        except Refused as error:
            if error.stripe_code == "payment_intent_unexpected_state":
                return await self._looked_again(prepared, offer)
            raise PaymentFailed(error.detail) from error
        except OutcomeUnknown:
            return await self._looked_again(prepared, offer)

    async def _looked_again(self, prepared: _Prepared, offer: Offer) -> Json:
        """Return a PaymentIntent as it is after a confirmation whose answer is lost."""
        try:
            return await self._api.look(prepared)
        except (Refused, RailUnavailable) as error:
            raise PaymentOutcomeUnknown(error.detail, proof=prepared.payload(offer)) from error

    # --- what became of it

    async def resume(self, offer: Offer, payload: Json | None, *, record_id: str, now: int) -> Paid | NotPaid | Unknown:
        """Find out what became of a payment, by what Stripe says of its PaymentIntent; see `Wallet.resume`.

        Without a payload the publisher is asked for the offer's PaymentIntent again, which it shows for as long as it
        can be presented: it is the same one. It is not confirmed again, by this or by anything.
        """
        if payload is None:
            try:
                prepared = await self._prepare(offer)
            except PaymentFailed as error:  # the offer has ended, and the time for presenting it
                return Unknown(detail=error.detail)
        else:
            known = _Prepared.of(payload.get(ProofKind.PAYMENT_INTENT.value), payload.get(_SECRET))
            if known is None:
                return Unknown(detail="the proof is none of this wallet's")
            prepared = known
        try:
            intent = await self._api.look(prepared)
        except Refused as error:
            return Unknown(detail=error.detail)
        found = _judged(intent, prepared, offer, now=now)
        if payload is None and isinstance(found, Unknown) and now <= offer.expires_at:
            return Paid(payload=prepared.payload(offer))  # so that it is written down
        return found


def _differing(intent: Json, prepared: _Prepared, offer: Offer) -> str:
    """Return which facts of a PaymentIntent are not those that were offered."""
    facts = {
        "id": (intent.get("id"), prepared.intent),
        "amount": (intent.get("amount"), offer.amount),
        "currency": (intent.get("currency"), offer.asset),
        "livemode": (intent.get("livemode"), offer.network == "stripe:live"),
        "capture_method": (intent.get("capture_method") == "manual", offer.flow is Flow.ESCROW),
    }
    return ", ".join(name for name, (found, wanted) in facts.items() if found != wanted)


def _judged(intent: Json, prepared: _Prepared, offer: Offer, *, now: int) -> Paid | NotPaid | Unknown:
    """Return what a PaymentIntent is worth as a proof (docs.stripe.com/payments/paymentintents/lifecycle).

    Raises:
        PaymentActionRequired: it waits for a person.
    """
    if _differing(intent, prepared, offer):  # its publisher has changed it since
        return Unknown(detail="the PaymentIntent is not what was offered")
    match intent.get("status"):
        case "requires_capture" | "succeeded" as status:
            return Paid(payload=prepared.payload(offer), moved=status == "succeeded")
        case "requires_action":
            raise PaymentActionRequired(url=_page(intent), proof=prepared.payload(offer))
        case "canceled":
            return NotPaid()
        case "requires_payment_method" | "requires_confirmation":
            # Nobody but this wallet has the payment method, and it confirms once.
            was_declined = isinstance(intent.get("last_payment_error"), Mapping)
            if was_declined or now > offer.expires_at + _LANDING_SECONDS:
                return NotPaid()
            return Unknown(detail="the payment may still be on its way to Stripe")
        case _:
            return Unknown(detail="Stripe is still waiting for the money")


def _page(intent: Json) -> str | None:
    """Return where a person approves it. Text; the payer decides whether it may be shown."""
    action = _members(intent.get("next_action"))
    url = _members(action.get("redirect_to_url")).get("url")
    return url if isinstance(url, str) else None


def _members(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
