"""What a PaymentIntent says about a charge. Pure.

A PaymentIntent is believed only as Stripe itself returns it, and only where it is the charge's own: its metadata can be
written with the publisher's secret key alone. Of the states that it can be in (docs.stripe.com/payments/paymentintents/
lifecycle) two mean money: `requires_capture`, it is reserved, and `succeeded`, it was taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from rail402.errors import OutcomeUnknown
from rail402.protocol.base import Json
from rail402.protocol.charge import Charge, Operation
from rail402.protocol.offer import Flow
from rail402.protocol.rail import Failed, Held, NotPaid, Pending, Refunded, Released, Settled, Unknown
from rail402_stripe.declines import decline

__all__ = [
    "CHARGE_MARK",
    "EXPIRY_MARK",
    "OFFER_MARK",
    "PREPARED_FOR",
    "REALM_MARK",
    "SHUT_OUT",
    "Outcome",
    "after_decline",
    "check_intent",
    "idempotency_key",
    "intent_id",
    "is_of",
    "metadata_of",
    "offer_metadata",
    "outcome",
]

Outcome = Held | Settled | Released | Refunded | NotPaid | Failed | Pending | Unknown

CHARGE_MARK: Final = "rail402_charge"
"""The metadata that names our charge on everything of its at Stripe."""

OFFER_MARK: Final = "rail402_offer"
"""The metadata that names the offer for which a payment was prepared, by the offer's consumption key: there is no
charge yet then."""

EXPIRY_MARK: Final = "rail402_expires"
"""The metadata that says when that offer expires, Unix seconds."""

PREPARED_FOR: Final = "prepared_for"
"""The member of a charge's `rail_state` that says that its PaymentIntent has that mark instead of the charge's."""

REALM_MARK: Final = "rail402_realm"
"""The metadata that names the host that was paid: one account may serve several."""

SHUT_OUT: Final[Mapping[str, str]] = {"rail402_unused": "a request that got lost"}
"""What a PaymentIntent is marked with that only uses up an idempotency key; nobody can pay it."""

_ATTEMPT: Final = "rail402_attempt"
_ORDER: Final = "rail402_order"

# How often one payment is charged anew after declines that may pass. Card networks count them.
_MOST_ATTEMPTS: Final = 3

_NOTHING_TAKEN: Final = ("canceled", "requires_payment_method", "requires_action", "requires_confirmation")

_is_intent_id = re.compile(r"pi_[A-Za-z0-9_]{1,250}", re.ASCII).fullmatch
_is_charge_id = re.compile(r"(ch|py)_[A-Za-z0-9_]{1,250}", re.ASCII).fullmatch


def idempotency_key(charge: Charge, operation: Operation) -> str:
    """Return the key of one try of an operation: what the payer sent has no part in it."""
    return f"rail402:{charge.id}:{operation.value}:{charge.attempt}:{charge.tries}"


def metadata_of(charge: Charge) -> dict[str, str]:
    """Return what a PaymentIntent of this charge is marked with. Nothing in it is personal data: the order's digest
    stands for its URL, of which only the host is named."""
    return {
        CHARGE_MARK: charge.id,
        _ATTEMPT: str(charge.attempt),
        _ORDER: charge.order.digest,
        REALM_MARK: urlsplit(charge.order.url).hostname or "",
        # The mark by which Stripe's own samples and SDKs tell such payments apart.
        "machine_payment": "true",
    }


def offer_metadata(key: str, host: str, expires_at: int) -> dict[str, str]:
    """Return what a payment is marked with that is prepared for an offer: the offer's consumption key and expiry, and
    who is paid."""
    return {OFFER_MARK: key, EXPIRY_MARK: str(expires_at), REALM_MARK: host, "machine_payment": "true"}


def _marks_of(charge: Charge) -> dict[str, str]:
    metadata, key = metadata_of(charge), charge.rail_state.get(PREPARED_FOR)
    if key is not None:
        metadata = offer_metadata(key, metadata[REALM_MARK], charge.offer.expires_at)
    return {name: value for name, value in metadata.items() if name.startswith("rail402")}


def is_of(intent: Json, charge: Charge) -> bool:
    """Whether a PaymentIntent was made for this attempt of the charge."""
    metadata = intent.get("metadata")
    wanted = metadata_of(charge)
    return isinstance(metadata, Mapping) and all(metadata.get(name) == wanted[name] for name in (CHARGE_MARK, _ATTEMPT))


def intent_id(intent: Json) -> str:
    """Return a PaymentIntent's id.

    Raises:
        OutcomeUnknown: it has none.
    """
    found = intent.get("id")
    if not isinstance(found, str) or not _is_intent_id(found):
        raise OutcomeUnknown("Stripe's answer is no PaymentIntent")
    return found


def check_intent(intent: Json, charge: Charge) -> None:
    """Check that a PaymentIntent is this charge's, for its amount, and of its network.

    Raises:
        OutcomeUnknown: it is not; what became of the charge's own is not known.
    """
    found_id, metadata = intent_id(intent), intent.get("metadata")
    marks = metadata if isinstance(metadata, Mapping) else {}
    facts = {
        "amount": (intent.get("amount"), charge.offer.amount),
        "currency": (intent.get("currency"), charge.offer.asset),
        "livemode": (intent.get("livemode"), charge.offer.network == "stripe:live"),
        **{name: (marks.get(name), value) for name, value in _marks_of(charge).items()},
    }
    wrong = [name for name, (found, wanted) in facts.items() if found != wanted]
    if wrong:
        raise OutcomeUnknown(f"{found_id} is not what was asked for: its {', '.join(wrong)} differ")


def outcome(intent: Json, charge: Charge, operation: Operation) -> Outcome:
    """Return what a PaymentIntent (with its `latest_charge` expanded) means for an operation on the charge.

    Raises:
        OutcomeUnknown: it is not the charge's own.
    """
    check_intent(intent, charge)
    status = intent.get("status")
    if status == "requires_capture" and intent.get("amount_capturable") == charge.offer.amount:
        found = intent_id(intent)
        return Held(state={"payment_intent": found}, keys=frozenset({f"{charge.offer.network}:{found}"}))
    if status == "succeeded":
        return _taken(intent, charge, operation)
    if status == "processing":
        return Pending()
    if status in _NOTHING_TAKEN and operation is not Operation.REFUND:
        return _not_taken(intent, charge, operation)
    return Unknown(detail=f"{intent_id(intent)} is in a state that does not fit: {_word(status)}")


def _not_taken(intent: Json, charge: Charge, operation: Operation) -> Released | NotPaid | Failed:
    was_held = operation is Operation.SETTLE and charge.offer.flow is Flow.ESCROW
    status = intent["status"]
    if operation is Operation.RELEASE or (was_held and status == "canceled"):
        return Released()
    if status == "canceled":
        return NotPaid()
    if status == "requires_payment_method":
        error = intent.get("last_payment_error")
        found = error if isinstance(error, Mapping) else {}
        declined = decline(_text(found, "code"), _text(found, "decline_code"))
        return after_decline(charge, declined.code, f"{intent_id(intent)} was declined", may_pass=declined.may_pass)
    # The payer would have to authenticate, which takes the client secret; nobody was given it.
    return Failed(code="action_required", detail=f"{intent_id(intent)} waits for the cardholder")


def after_decline(charge: Charge, code: str, detail: str, *, may_pass: bool) -> NotPaid | Failed:
    """Return what a decline makes of a charge: where it `may_pass` the payer may show the same payment again, but not
    for ever."""
    return NotPaid() if may_pass and charge.attempt < _MOST_ATTEMPTS else Failed(code=code, detail=detail)


def _taken(intent: Json, charge: Charge, operation: Operation) -> Settled | Refunded | Failed | Unknown:
    found, payment = intent_id(intent), intent.get("latest_charge")
    payment_id = _text(payment, "id") if isinstance(payment, Mapping) else None
    if not isinstance(payment, Mapping) or payment_id is None or not _is_charge_id(payment_id):
        return Unknown(detail=f"{found} has succeeded and does not show its charge")
    taken = (intent.get("amount_received"), payment.get("amount_captured"), payment.get("captured"))
    refunded = payment.get("amount_refunded")
    if taken != (charge.amount, charge.amount, True) or type(refunded) is not int:
        return Unknown(detail=f"{found} has succeeded and was not captured as it should have been")
    # What a partial capture leaves over counts as refunded at Stripe, and never was the seller's.
    released = charge.offer.amount - charge.amount
    refunded = refunded - released if refunded >= released else refunded
    is_back = payment.get("refunded") is True or refunded >= charge.amount
    if operation is Operation.REFUND and is_back:
        return Refunded()
    if operation is not Operation.REFUND and (is_back or refunded > 0):
        return Failed(code="refunded", detail=f"{found} was refunded")
    return Settled(
        transaction=found,
        state={"payment_intent": found},
        keys=frozenset(f"{charge.offer.network}:{each}" for each in (found, payment_id)),
    )


def _text(members: Mapping[str, Any], name: str) -> str | None:
    value = members.get(name)
    return value if isinstance(value, str) else None


def _word(value: object) -> str:
    """Return a status as it may stand in a message."""
    return value if isinstance(value, str) and re.fullmatch(r"[a-z_]{1,40}", value) else "no status"
