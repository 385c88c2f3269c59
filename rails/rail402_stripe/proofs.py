"""The four proofs that a Stripe offer can be paid with, and the keys that they use up. Pure.

* `spt`: a shared payment token, which the rail charges. A bearer secret.
* `paymentIntent`: one that was made for this very offer, on demand, and that the payer has confirmed at Stripe.
* `checkoutSession`: likewise a Checkout Session, which a person has paid.
* `customer`: a secret by which the publisher knows a customer, whose saved payment method the rail charges.

What a proof is believed for is decided elsewhere, by what Stripe says. Ids of PaymentIntents and sessions are no
secrets: what proves a payer is the offer's own token, which must come along with every one of these.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from rail402.errors import MalformedInput
from rail402.protocol.base import Json, sha256_hex
from rail402.protocol.binding import nonce_in, parse_token
from rail402.protocol.offer import Offer
from rail402.protocol.payment import ConsumptionKey, Payment

__all__ = [
    "OtherProofs",
    "Preparation",
    "Proof",
    "ProofKind",
    "checkout_url_of",
    "is_account",
    "keys_of",
    "offer_key",
    "payload_of",
    "preparation_of",
    "proof_in",
    "proof_kinds_of",
    "proof_of",
    "receipt_of",
    "spt_of",
    "token_key",
]


class ProofKind(StrEnum):
    """A kind of proof, by the name of its member in the payload."""

    SPT = "spt"
    PAYMENT_INTENT = "paymentIntent"
    CHECKOUT_SESSION = "checkoutSession"
    CUSTOMER = "customer"


_FORMS: Final[dict[ProofKind, tuple[Callable[[str], object], str]]] = {
    ProofKind.SPT: (
        re.compile(r"spt_[A-Za-z0-9_]{1,250}", re.ASCII).fullmatch,
        "must be a shared payment token: spt_ and letters or digits",
    ),
    ProofKind.PAYMENT_INTENT: (
        re.compile(r"pi_[A-Za-z0-9]{1,250}", re.ASCII).fullmatch,
        "must be the id of a PaymentIntent, pi_…, without its client secret",
    ),
    ProofKind.CHECKOUT_SESSION: (
        re.compile(r"cs_[A-Za-z0-9_]{1,250}", re.ASCII).fullmatch,
        "must be the id of a Checkout Session, cs_…",
    ),
    ProofKind.CUSTOMER: (
        re.compile(r"[\x21-\x7e]{16,512}", re.ASCII).fullmatch,
        "must be a secret of 16 to 512 printable ASCII characters",
    ),
}

_CUSTOMER: Final = "customer:"
_STARTS: Final = {
    "spt_": ProofKind.SPT,
    "pi_": ProofKind.PAYMENT_INTENT,
    "cs_": ProofKind.CHECKOUT_SESSION,
    _CUSTOMER: ProofKind.CUSTOMER,
}

_is_account = re.compile(r"acct_[A-Za-z0-9_]{1,64}", re.ASCII).fullmatch


@dataclass(frozen=True, slots=True)
class Proof:
    """What a payer shows."""

    kind: ProofKind
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Preparation:
    """Where a PaymentIntent is made for who sends the offer, and the account's `pk_…` that it is confirmed with."""

    url: str
    publishable_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherProofs:
    """What an offer takes beside shared payment tokens.

    Args:
        payment_intent: how a PaymentIntent is come by; None where there are none.
        checkout_url: where a Checkout Session is made for who sends the offer; None where there are none.
        customers: the publisher's own customers can pay with what they saved.
    """

    payment_intent: Preparation | None = None
    checkout_url: str | None = None
    customers: bool = False

    @property
    def extra(self) -> dict[str, Any]:
        """The members of `Offer.extra` that say so; none where there is nothing to say."""
        said: dict[str, Any] = {}
        if self.payment_intent is not None:
            wanted = self.payment_intent
            said["payment_intent"] = {"url": wanted.url, "publishable_key": wanted.publishable_key}
        if self.checkout_url is not None:
            said["checkout"] = {"url": self.checkout_url}
        if self.customers:
            said["customers"] = True
        return said


def is_account(payee: str) -> bool:
    """Whether a payee is an account, which takes no shared payment tokens, and not a profile, which does."""
    return _is_account(payee) is not None


def preparation_of(offer: Offer) -> Preparation | None:
    """Return how a PaymentIntent for the offer is come by; None where the seller makes none."""
    said = offer.extra.get("payment_intent")
    return None if said is None else Preparation(said["url"], said["publishable_key"])


def checkout_url_of(offer: Offer) -> str | None:
    """Return where a Checkout Session for the offer is made; None where the seller makes none."""
    said = offer.extra.get("checkout")
    return None if said is None else str(said["url"])


def proof_kinds_of(offer: Offer) -> frozenset[ProofKind]:
    """Return the kinds of proof that an offer takes."""
    taken = {
        ProofKind.SPT: not is_account(offer.payee),
        ProofKind.PAYMENT_INTENT: "payment_intent" in offer.extra,
        ProofKind.CHECKOUT_SESSION: "checkout" in offer.extra,
        ProofKind.CUSTOMER: offer.extra.get("customers") is True,
    }
    return frozenset(kind for kind, is_taken in taken.items() if is_taken)


def payload_of(value: str, external_id: str | None, kind: ProofKind = ProofKind.SPT) -> dict[str, str]:
    """Return the payload that shows a proof: the credential's in MPP."""
    return {kind.value: value} if external_id is None else {kind.value: value, "externalId": external_id}


def proof_of(payload: Json) -> Proof:
    """Return the proof in a payload.

    Raises:
        MalformedInput: there is none, or more than one, or it has not the form of one. A secret is not repeated.
    """
    found = [kind for kind in ProofKind if kind.value in payload]
    if len(found) != 1:
        raise MalformedInput("payload", f"must have exactly one of {', '.join(ProofKind)}")
    (kind,) = found
    value, (has_form, wanted) = payload[kind.value], _FORMS[kind]
    if not isinstance(value, str) or not has_form(value):
        raise MalformedInput(f"payload.{kind.value}", wanted)
    return Proof(kind, value)


def receipt_of(proof: Proof) -> str:
    """Return a proof as one text, as X-Receipt has it: ids and tokens as they are, `customer:` before a secret."""
    return f"{_CUSTOMER}{proof.value}" if proof.kind is ProofKind.CUSTOMER else proof.value


def proof_in(receipt: str) -> Proof | None:
    """Return the proof that a text is, by how it begins; None for any other text."""
    for start, kind in _STARTS.items():
        if receipt.startswith(start):
            return proof_of({kind.value: receipt.removeprefix(_CUSTOMER)})
    return None


def spt_of(payload: Json) -> str:
    """Return the shared payment token of a payload.

    Raises:
        MalformedInput: it shows no token, or something that has not the form of one.
    """
    proof = proof_of(payload)
    if proof.kind is not ProofKind.SPT:
        raise MalformedInput("payload.spt", "is missing")
    return proof.value


def token_key(spt: str) -> ConsumptionKey:
    """Return the consumption key of a shared payment token."""
    return f"stripe:spt:{sha256_hex(spt.encode())}"


def offer_key(payment: Payment) -> ConsumptionKey:
    """Return the consumption key of the offer that came with a payment: what marks a PaymentIntent as made for it.

    Raises:
        PaymentRejected: `offer_unknown`: it came with none of ours.
    """
    return parse_token(_token(payment)).key


def keys_of(payment: Payment, network: str) -> frozenset[ConsumptionKey]:
    """Return the keys that a payment's proof uses up.

    A customer pays many offers with the same secret. Its key is a digest of the secret and the offer's nonce: one
    that nobody who lacks either can make, and another one for each offer.

    Raises:
        MalformedInput: the payload is not of one of the four forms.
        PaymentRejected: `offer_unknown`: a customer's secret came without an offer of ours.
    """
    proof = proof_of(payment.payload)
    match proof.kind:
        case ProofKind.SPT:
            return frozenset({token_key(proof.value)})
        case ProofKind.CUSTOMER:
            said = f"rail402/stripe/customer\n{nonce_in(_token(payment))}\n{proof.value}"
            return frozenset({f"stripe:customer:{sha256_hex(said.encode())}"})
        case _:
            return frozenset({f"{network}:{proof.value}"})


def _token(payment: Payment) -> str:
    return payment.offer_token or ""
