"""Stripe's webhooks: hints that something happened to a payment, answered below `/.well-known/rail402/`.

An event closes nothing. It says which charge and which operation to look up now instead of at the reconciler's next
turn, and the lookup believes only the PaymentIntent that it retrieves with the publisher's key. That makes events that
come twice, late or out of order harmless; what an event says about money is not even read.

A delivery is genuine where its `Stripe-Signature` verifies over the raw body with one of the endpoint's secrets, and
was made within five minutes of now, before or after (docs.stripe.com/webhooks, "Verify webhook signatures"; the library
itself refuses only old ones). While a secret is rolled, Stripe signs with the old and the new one, and either will do.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import stripe

from rail402.clock import Clock
from rail402.errors import ConfigurationError, MalformedInput, Rail402Error
from rail402.protocol.base import Json, parse_json
from rail402.protocol.charge import Operation
from rail402.protocol.endpoint import MAX_SIGNED_BODY, Desk, EndpointReply, EndpointRequest
from rail402_stripe.intents import CHARGE_MARK, REALM_MARK

__all__ = ["EVENTS", "TOLERANCE_SECONDS", "WEBHOOK", "Webhook", "check_secrets"]

logger = logging.getLogger("rail402.stripe")

WEBHOOK: Final = ("POST", "stripe/webhook")
"""The method and the path below `/.well-known/rail402/` at which deliveries are taken."""

TOLERANCE_SECONDS: Final = 300
"""How far a delivery's signature may be from now."""

_HOLD, _SETTLE, _RELEASE, _REFUND = Operation.HOLD, Operation.SETTLE, Operation.RELEASE, Operation.REFUND

EVENTS: Final[Mapping[str, tuple[Operation, ...]]] = {
    "payment_intent.amount_capturable_updated": (_HOLD,),
    "payment_intent.processing": (_HOLD, _SETTLE),
    "payment_intent.succeeded": (_SETTLE, _HOLD, _RELEASE),
    "payment_intent.payment_failed": (_HOLD, _SETTLE),
    "payment_intent.canceled": (_RELEASE, _SETTLE, _HOLD),
    "checkout.session.completed": (_HOLD, _SETTLE),
    "checkout.session.async_payment_succeeded": (_SETTLE, _HOLD),
    "checkout.session.async_payment_failed": (_SETTLE, _HOLD),
    "checkout.session.expired": (_HOLD, _SETTLE),
    "charge.refunded": (_REFUND,),
    "charge.refund.updated": (_REFUND,),
    "refund.created": (_REFUND,),
    "refund.updated": (_REFUND,),
    "refund.failed": (_REFUND,),
    "charge.dispute.created": (),
}
"""Which operations an event may be the end of. A charge is in one of them at most; the others are passed over."""

_HEADER: Final = "stripe-signature"
_DISPUTE: Final = "charge.dispute.created"
_REFUND_FAILED: Final = "refund.failed"

# For how long an event about a charge that is not there is asked for again: it may have come before the write.
_EARLY_SECONDS: Final = 3600

_is_secret = re.compile(r"whsec_[A-Za-z0-9+/=_-]{1,250}", re.ASCII).fullmatch
_is_intent_id = re.compile(r"pi_[A-Za-z0-9_]{1,250}", re.ASCII).fullmatch
_is_charge_mark = re.compile(r"ch_[A-Za-z0-9_]{1,80}", re.ASCII).fullmatch
_is_host = re.compile(r"[A-Za-z0-9.:_-]{1,253}", re.ASCII).fullmatch
_is_time = re.compile(r"[0-9]{1,12}", re.ASCII).fullmatch


def check_secrets(secrets: Sequence[str]) -> tuple[str, ...]:
    """Return the signing secrets of a webhook endpoint, the current one and those being rolled.

    Raises:
        ConfigurationError: one has not the form of a secret; it is not repeated.
    """
    if isinstance(secrets, str) or not all(isinstance(each, str) and _is_secret(each) for each in secrets):
        raise ConfigurationError('webhook_secrets must be a list of signing secrets, each like "whsec_…"')
    return tuple(secrets)


@dataclass(frozen=True, slots=True)
class Webhook:
    """The endpoint of one account.

    Args:
        secrets: see `check_secrets`; at least one.
        network: of the account's key. Events of the other mode are refused.
        clock: Unix seconds.
        retrieve: returns the PaymentIntent of an id, for naming the charge behind a dispute; raises Rail402Error.
    """

    secrets: tuple[str, ...] = field(repr=False)
    network: str
    clock: Clock
    retrieve: Callable[[str], Awaitable[Json]]

    async def __call__(self, request: EndpointRequest, desk: Desk) -> EndpointReply:
        """Take a delivery: 200 where there is nothing (more) to do, 503 where it should come again.

        Raises:
            MalformedInput: 400, it is not genuine, too old, of another mode, or unreadable; 413, too large.
            StoreError: 503.
        """
        event = self._genuine(request)
        name = event.get("type")
        if not isinstance(name, str) or name not in EVENTS:
            return _DONE  # the account may send more than was asked for
        subject = _Subject.of(event)
        for operation in EVENTS[name]:
            if not await self._look_up(desk, operation, subject):
                return _COMES_TOO_EARLY if self._may_be_early(event, subject, desk) else _DONE
        if name == _DISPUTE:
            await self._warn_of_dispute(subject)
        elif name == _REFUND_FAILED:
            logger.warning("a refund of %s failed: its payer has not got the money back", subject.intent)
        return _DONE

    def _genuine(self, request: EndpointRequest) -> Json:
        """Return the event of a delivery that Stripe made for this endpoint, just now."""
        if len(request.body) > MAX_SIGNED_BODY:
            raise MalformedInput("body", f"is larger than {MAX_SIGNED_BODY} bytes", code="body_too_large")
        signature = request.fields.one(_HEADER) or ""
        signed_at = _signed_at(signature)
        try:
            body = request.body.decode()
        except UnicodeDecodeError as error:
            raise _not_genuine("the body is not UTF-8") from error
        if not any(_verifies(body, signature, secret) for secret in self.secrets):
            raise _not_genuine("no signature in it verifies with a secret of this endpoint")
        if abs(self.clock() - signed_at) > TOLERANCE_SECONDS:
            raise _not_genuine(f"it was made more than {TOLERANCE_SECONDS} s before or after now")
        event = parse_json(body, field="body", max_bytes=MAX_SIGNED_BODY)
        if event.get("livemode") is not (self.network == "stripe:live"):
            logger.warning("a webhook of Stripe's other mode arrived: this endpoint is for %s", self.network)
            raise MalformedInput("livemode", f"is not that of {self.network}", code="malformed_request")
        return event

    async def _look_up(self, desk: Desk, operation: Operation, subject: _Subject) -> bool:
        if subject.charge is not None and await desk.look_up(operation, charge=subject.charge):
            return True
        return subject.intent is not None and await desk.look_up(operation, keys=[f"{self.network}:{subject.intent}"])

    def _may_be_early(self, event: Json, subject: _Subject, desk: Desk) -> bool:
        """Whether the event is about a charge of this very gate that may be about to be written."""
        created = event.get("created")
        is_ours = subject.charge is not None and subject.realm == urlsplit(desk.public_url).hostname
        return is_ours and type(created) is int and self.clock() - created < _EARLY_SECONDS

    async def _warn_of_dispute(self, subject: _Subject) -> None:
        """Tell the publisher: a dispute has a deadline, and is not ours to answer."""
        if subject.intent is None:
            return
        try:
            marks = _Marks.of(await self.retrieve(subject.intent))
        except Rail402Error as error:
            logger.warning("%s is disputed, and cannot be looked at: %s", subject.intent, error)
            return
        if marks.charge is not None:
            logger.warning("charge %s (%s) is disputed: answer it in Stripe's dashboard", marks.charge, subject.intent)


_DONE: Final = EndpointReply.of({"received": True})
_COMES_TOO_EARLY: Final = EndpointReply(
    status=503, body=b'{"error":"no such charge yet"}', fields=(("retry-after", "5"),)
)


@dataclass(frozen=True, slots=True)
class _Marks:
    """What an object's metadata say: our charge, and the host that was paid."""

    charge: str | None
    realm: str | None

    @classmethod
    def of(cls, document: Json) -> _Marks:
        metadata = document.get("metadata")
        marks = metadata if isinstance(metadata, Mapping) else {}
        return cls(_text(marks, CHARGE_MARK, _is_charge_mark), _text(marks, REALM_MARK, _is_host))


@dataclass(frozen=True, slots=True)
class _Subject:
    """What an event is about: a PaymentIntent, and our charge where the metadata name it."""

    intent: str | None
    charge: str | None
    realm: str | None

    @classmethod
    def of(cls, event: Json) -> _Subject:
        data = event.get("data")
        found = data.get("object") if isinstance(data, Mapping) else None
        document = found if isinstance(found, Mapping) else {}
        is_intent = document.get("object") == "payment_intent"
        intent = _text(document, "id" if is_intent else "payment_intent", _is_intent_id)
        marks = _Marks.of(document)
        return cls(intent, marks.charge, marks.realm)


def _signed_at(signature: str) -> int:
    """Return when a delivery was signed, Unix seconds. There is just one such member, so that what is checked here is
    what the signature covers."""
    if not signature.isascii():  # the library compares texts in a way that takes ASCII only
        raise _not_genuine("it is not ASCII")
    times = [member.removeprefix("t=") for member in signature.split(",") if member.startswith("t=")]
    if len(times) != 1 or not _is_time(times[0]):
        raise _not_genuine("it must be t=…,v1=…, with one time")
    return int(times[0])


def _verifies(body: str, signature: str, secret: str) -> bool:
    try:
        # Without a tolerance: the library would read the system's clock.
        return bool(stripe.WebhookSignature.verify_header(body, signature, secret))
    except stripe.SignatureVerificationError:
        return False


def _not_genuine(detail: str) -> MalformedInput:
    return MalformedInput(_HEADER, detail, code="malformed_request")


def _text(members: Mapping[str, Any], name: str, has_its_form: Callable[[str], object]) -> str | None:
    value = members.get(name)
    return value if isinstance(value, str) and has_its_form(value) else None
