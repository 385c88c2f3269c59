"""How Stripe payments look on the wire, and all of them that can be checked without asking Stripe. Pure.

In MPP this is the method `stripe` with the intent `charge` (draft-stripe-charge-00): the payer has Stripe issue a
shared payment token (SPT) to the seller's profile, within limits, and shows it; the seller charges it, once. The token
is a bearer secret. It is in the payment's payload and nowhere else: consumption keys hold its SHA-256.

A seller may take other proofs as well (see `proofs`), and says so in members of `methodDetails` that the draft does not
know: `paymentIntent` with the `url` at which one is made and the `publishableKey` to confirm it with, `checkout` with
the `url` at which a link for a person is made, `customers: true` where its customers pay with what they saved. A seller
who takes no SPT at all has no profile: `recipient` is its account then, and there is no `networkId`.

Networks are ours to name, and there are three: `stripe:live`, `stripe:test` (Stripe's test mode) and `stripe:sandbox`
(the one of this package). A challenge does not say which of them it is about. On the server the secret key decides, on
the client the wallet's configuration; a token of another mode is unknown to whoever gets it, so nothing is ever charged
across. Where a profile shows its mode, a wallet of another one refuses the offer before it issues anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, get_args

from rail402.errors import ConfigurationError, MalformedInput, OfferRefused, PaymentRejected
from rail402.protocol.base import Json
from rail402.protocol.offer import Flow, Mechanism, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import ConsumptionKey, Payment
from rail402.protocol.rail import Binding, Verified
from rail402_stripe.currencies import Currency, currency
from rail402_stripe.proofs import (
    OtherProofs,
    Preparation,
    ProofKind,
    checkout_url_of,
    is_account,
    keys_of,
    payload_of,
    preparation_of,
    proof_kinds_of,
    proof_of,
    spt_of,
    token_key,
)
from rail402_stripe.x_receipt import XReceiptBinding

__all__ = [
    "MECHANISM",
    "SANDBOX_ACCOUNT",
    "SANDBOX_PROFILE",
    "MppBinding",
    "Network",
    "StripeSpec",
    "check_profile",
    "check_publishable_key",
    "payload_of",
    "payment_method_types_of",
    "spt_of",
    "token_key",
]

Network = Literal["stripe:live", "stripe:test", "stripe:sandbox"]

MECHANISM: Final = "spt"
"""How a charge is made, named after its first proof; all of them are charges of one PaymentIntent."""

SANDBOX_PROFILE: Final = "profile_sandbox"
"""The profile of every publisher in the sandbox; it can be told from those of Stripe, which offers may name."""

SANDBOX_ACCOUNT: Final = "acct_sandbox"
"""Likewise the account of every publisher in the sandbox."""

_METHOD: Final = "stripe"
_INTENT: Final = "charge"
_FLOWS: Final = (Flow.ESCROW, Flow.UPFRONT)

NO_OTHERS: Final = OtherProofs()

# A token is charged (or reserved) the moment it is shown: it has no handler and no settlement to outlast.
_TIMEOUT_SECONDS: Final = 60

_MAX_EXTERNAL_ID: Final = 512
_MAX_METHOD_TYPES: Final = 32

_is_amount = re.compile(r"[1-9][0-9]{0,14}", re.ASCII).fullmatch
_is_profile = re.compile(r"[A-Za-z0-9_-]{1,255}", re.ASCII).fullmatch
_is_publishable_key = re.compile(r"pk_(test|live)_[A-Za-z0-9_]{1,240}", re.ASCII).fullmatch
_is_url = re.compile(r"https?://[\x21-\x7e]{1,2000}", re.ASCII).fullmatch
_is_method_type = re.compile(r"[a-z0-9_]{1,40}", re.ASCII).fullmatch


def payment_method_types_of(offer: Offer) -> tuple[str, ...]:
    """Return the kinds of payment method that the seller takes: `card`, `link`, …"""
    return tuple(offer.extra["payment_method_types"])


def check_profile(profile_id: str, network: Network) -> None:
    """Check that a seller's profile, or the account of one without, is one and not known to be of another network.

    Raises:
        ConfigurationError: it is.
    """
    if not _is_profile(profile_id):
        raise ConfigurationError(f"{profile_id!r} is no Stripe profile id; it looks like profile_…")
    if (profile_id in (SANDBOX_PROFILE, SANDBOX_ACCOUNT)) is not (network == "stripe:sandbox"):
        raise ConfigurationError(f"the profile {profile_id} is not one of {network}")
    if network == "stripe:live" and (profile_id == "internal" or profile_id.startswith("profile_test_")):
        raise ConfigurationError(f"{profile_id} is a test profile, and this is {network}")


def check_publishable_key(key: str, network: Network) -> None:
    """Check that a publishable key is one, of the network's mode.

    Raises:
        ConfigurationError: it is not. The key is not repeated: somebody may have put a secret one there.
    """
    match = _is_publishable_key(key)
    if match is None:
        raise ConfigurationError("the publishable key must look like pk_test_… or pk_live_…, without spaces")
    if (match[1] == "live") is not (network == "stripe:live"):
        raise ConfigurationError(f"the publishable key pk_{match[1]}_… is not one of {network}")


class StripeSpec:
    """The part of the rail that server and client share.

    Args:
        network: which Stripe this is about, see above. Every offer read from the wire counts as one of it.
        currencies: the currencies that a server offers; any that Stripe charges in is read.

    Raises:
        ConfigurationError: there is no such network or no currency, or one is there twice or none of Stripe's.
    """

    name = "stripe"
    # Ids of PaymentIntents are no secrets: the offer's token must come along.
    bare_replay = False

    def __init__(self, network: Network, currencies: Iterable[str] = ("usd",)) -> None:
        if network not in get_args(Network):
            raise ConfigurationError(f"network={network!r} must be one of {', '.join(get_args(Network))}")
        self.network = network
        self.mechanisms = tuple(_mechanism(network, currency(code)) for code in currencies)
        if not self.mechanisms or len({each.asset for each in self.mechanisms}) < len(self.mechanisms):
            raise ConfigurationError("currencies: give at least one, and each of them once")
        mpp = MppBinding(self)
        self.bindings: Mapping[str, Binding] = {"mpp": mpp, "x-receipt": XReceiptBinding(mpp)}

    def offer(
        self,
        unit: Currency,
        *,
        payee: str,
        amount: int,
        flow: Flow,
        expires_at: int,
        payment_method_types: Sequence[str],
        external_id: str | None = None,
        other_proofs: OtherProofs = NO_OTHERS,
    ) -> Offer:
        """Return an offer in its canonical form: what the server signs and what it reads back are the same."""
        extra: dict[str, Any] = {"payment_method_types": list(payment_method_types), **other_proofs.extra}
        if external_id is not None:
            extra["external_id"] = external_id
        return Offer(
            rail=self.name,
            mechanism=MECHANISM,
            network=self.network,
            asset=unit.code,
            amount=amount,
            currency=unit.code.upper(),
            exponent=unit.exponent,
            payee=payee,
            expires_at=expires_at,
            timeout_seconds=_TIMEOUT_SECONDS,
            flow=flow,
            extra=extra,
        )

    # --- what a server asks

    def identify(self, payment: Payment) -> frozenset[ConsumptionKey]:
        """Return the key of the proof; see `keys_of`."""
        return keys_of(payment, self.network)

    def authenticate(self, offer: Offer, payment: Payment) -> Verified:
        """Check that the offer takes such a proof, and that its external id is named; see `RailSpec.authenticate`.

        Whose token it is, for what and for how long, only Stripe can tell: `StripeRail.verify` asks.
        """
        kind = proof_of(payment.payload).kind
        if offer.network != self.network:
            raise PaymentRejected(
                f"the offer is of {offer.network}, and this is {self.network}", code="network_mismatch"
            )
        if kind not in proof_kinds_of(offer):
            raise PaymentRejected(f"this offer is not paid with {kind}", code="method_not_offered")
        if kind is not ProofKind.SPT and payment.offer_token is None:
            detail = "an id alone proves no payer: send the offer's token along, in X-Payment-Token"
            raise PaymentRejected(detail, code="replay_not_proven")
        wanted = offer.extra.get("external_id")
        if wanted is not None and payment.payload.get("externalId") != wanted:
            raise PaymentRejected("externalId must be the one of the offer", code="resource_mismatch")
        return Verified(keys=self.identify(payment))

    # --- what a client asks

    def check_offer(self, offer: Offer, order: Order, *, now: int) -> None:
        """Refuse an offer of another network or of a profile in another mode, one that Stripe could not charge, and an
        expired one; see `RailSpec`."""
        if (offer.mechanism, offer.network) != (MECHANISM, self.network):
            raise OfferRefused(f"{offer.mechanism} on {offer.network} is not {MECHANISM} on {self.network}")
        try:
            unit = currency(offer.asset)
            check_profile(offer.payee, self.network)
        except ConfigurationError as error:
            raise OfferRefused(error.detail) from error
        if (offer.currency, offer.exponent) != (unit.code.upper(), unit.exponent):
            raise OfferRefused(f"it counts {offer.currency} in 10^-{offer.exponent}, and Stripe does not")
        if offer.amount % unit.step or offer.amount > unit.maximum:
            raise OfferRefused(f"Stripe does not charge {offer.price}: too much, or not a whole unit")
        if offer.flow not in _FLOWS:
            raise OfferRefused(f"a shared payment token cannot be paid with in the flow {offer.flow}")
        if offer.expires_at <= now:
            raise OfferRefused("it has expired")
        self._check_preparation(offer, order)

    def _check_preparation(self, offer: Offer, order: Order) -> None:
        """Refuse to have a payment prepared anywhere but at the seller's own origin, or for another mode."""
        prepared, checkout_url = preparation_of(offer), checkout_url_of(offer)
        for url in (checkout_url, None if prepared is None else prepared.url):
            if url is not None and not url.startswith(f"{order.origin}/"):
                raise OfferRefused("its payment is prepared elsewhere than at the seller's own address")
        if prepared is None:
            return
        try:
            check_publishable_key(prepared.publishable_key, self.network)
        except ConfigurationError as error:
            raise OfferRefused(error.detail) from error


def _mechanism(network: Network, unit: Currency) -> Mechanism:
    return Mechanism(
        name=MECHANISM,
        network=network,
        asset=unit.code,
        currency=unit.code.upper(),
        exponent=unit.exponent,
        step=unit.step,
        flows=_FLOWS,
    )


class MppBinding:
    """The method `stripe` inside MPP: a challenge's `request`, and a credential's payload.

    The draft knows one flow, in which the money is taken before the handler runs. Ours reserves it first where the
    route does not say otherwise, and tells the client so: `methodDetails.captureMethod` is `manual` then. Clients that
    do not know the member send it back with the rest of the request.
    """

    fixed_terms = True

    def __init__(self, spec: StripeSpec) -> None:
        self._spec = spec

    def encode_offer(self, offer: Offer) -> Json:
        """Return the challenge's method, intent and request."""
        details: dict[str, Any] = {"paymentMethodTypes": list(payment_method_types_of(offer))}
        if offer.flow is Flow.ESCROW:
            details["captureMethod"] = "manual"
        if "customers" in offer.extra:
            details["customers"] = True
        prepared, checkout_url = preparation_of(offer), checkout_url_of(offer)
        if prepared is not None:
            details["paymentIntent"] = {"url": prepared.url, "publishableKey": prepared.publishable_key}
        if checkout_url is not None:
            details["checkout"] = {"url": checkout_url}
        request: dict[str, Any] = {"amount": str(offer.amount), "currency": offer.asset, "methodDetails": details}
        if is_account(offer.payee):
            request["recipient"] = offer.payee
        else:
            details["networkId"] = offer.payee
        if "external_id" in offer.extra:
            request["externalId"] = offer.extra["external_id"]
        return {"method": _METHOD, "intent": _INTENT, "request": request}

    def decode_offer(self, wire: Json, *, expires_at: int) -> Offer | None:
        """Read a request; None for another method or intent. Members that we do not know are dropped."""
        if (wire.get("method"), wire.get("intent")) != (_METHOD, _INTENT):
            return None
        request = _object(wire, "request", "request")
        details = _object(request, "methodDetails", "request.methodDetails")
        return self._spec.offer(
            _currency(request),
            payee=_payee(request, details),
            amount=_amount(request),
            flow=Flow.ESCROW if details.get("captureMethod") == "manual" else Flow.UPFRONT,
            expires_at=expires_at,
            payment_method_types=_method_types(details),
            external_id=_external_id(request, "request.externalId"),
            other_proofs=_other_proofs(details),
        )

    def listing(self, mechanism: Mechanism, amount: int | None) -> Json | None:
        """Return how discovery documents list a price; None where Stripe does not charge so little or so much."""
        unit = currency(mechanism.asset)
        if amount is not None and not (unit.minimum or 1) <= amount <= unit.maximum:
            return None
        said = None if amount is None else str(amount)
        return {"method": _METHOD, "intent": _INTENT, "amount": said, "currency": mechanism.asset}

    def encode_proof(self, payload: Json) -> Json:
        """Return the proof alone: a payload may hold what its payer keeps for itself, a client secret say."""
        return {name: payload[name] for name in (*ProofKind, "externalId") if name in payload}

    def decode_proof(self, wire: Json) -> Json | None:
        """Read a payload; None where it holds none of our proofs."""
        if wire.keys().isdisjoint(ProofKind):
            return None
        proof = proof_of(wire)
        return payload_of(proof.value, _external_id(wire, "payload.externalId"), proof.kind)


def _object(wire: Json, name: str, field: str) -> Json:
    value = wire.get(name)
    if not isinstance(value, Mapping):
        raise MalformedInput(field, "must be an object")
    return value


def _amount(request: Json) -> int:
    text = request.get("amount")
    if not isinstance(text, str) or not _is_amount(text):
        raise MalformedInput("request.amount", "must be a string of decimal digits: minor units, more than zero")
    return int(text)


def _currency(request: Json) -> Currency:
    code = request.get("currency")
    try:
        return currency(code if isinstance(code, str) else "")
    except ConfigurationError as error:
        raise MalformedInput("request.currency", "must be a currency that Stripe charges in, such as usd") from error


def _payee(request: Json, details: Json) -> str:
    profile, account = details.get("networkId"), request.get("recipient")
    if profile is None and isinstance(account, str) and is_account(account):
        return account
    if not isinstance(profile, str) or not _is_profile(profile):
        raise MalformedInput("request.methodDetails.networkId", "must be the seller's profile id")
    return profile


def _other_proofs(details: Json) -> OtherProofs:
    prepared, checkout_url = None, None
    if details.get("paymentIntent") is not None:
        url, key = (_member(details["paymentIntent"], name) for name in ("url", "publishableKey"))
        if not _is_url(url) or not _is_publishable_key(key):
            raise MalformedInput("request.methodDetails.paymentIntent", "must have a url and a publishableKey, pk_…")
        prepared = Preparation(url, key)
    if details.get("checkout") is not None:
        checkout_url = _member(details["checkout"], "url")
        if not _is_url(checkout_url):
            raise MalformedInput("request.methodDetails.checkout", "must have a url")
    return OtherProofs(payment_intent=prepared, checkout_url=checkout_url, customers=details.get("customers") is True)


def _member(said: object, name: str) -> str:
    """Return a text member of an object, empty where there is none."""
    value = said.get(name) if isinstance(said, Mapping) else None
    return value if isinstance(value, str) else ""


def _method_types(details: Json) -> list[str]:
    types = details.get("paymentMethodTypes")
    if not isinstance(types, list) or not 1 <= len(types) <= _MAX_METHOD_TYPES:
        raise MalformedInput("request.methodDetails.paymentMethodTypes", "must be a list of at least one text")
    if not all(isinstance(name, str) and _is_method_type(name) for name in types):
        raise MalformedInput("request.methodDetails.paymentMethodTypes", "must hold names such as card")
    return types


def _external_id(wire: Json, field: str) -> str | None:
    value = wire.get("externalId")
    if value is not None and (not isinstance(value, str) or len(value) > _MAX_EXTERNAL_ID):
        raise MalformedInput(field, f"must be a text of at most {_MAX_EXTERNAL_ID} characters")
    return value
