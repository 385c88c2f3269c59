"""x402, version 1: the challenge is the 402's JSON body, the payment travels in `X-PAYMENT`.

The client sends neither the requirements nor anything of ours back, so a payment is checked against an offer made anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal

from rail402.dialects._base64_json import compact_json, from_base64, to_base64
from rail402.dialects._rails import as_it_is, payments_in, proof_on_the_wire, read_offer, read_offers, written
from rail402.dialects._x402 import MAX_SECONDS, outcome_of
from rail402.errors import MalformedInput, PaymentRejected
from rail402.protocol.base import Json, parse_json
from rail402.protocol.challenge import Challenge
from rail402.protocol.charge import Charge
from rail402.protocol.dialect import Context, Dialect, Envelope, Fields
from rail402.protocol.offer import Offer
from rail402.protocol.payment import Payment

__all__ = ["MAX_BODY", "X402V1"]

VERSION: Final = 1

MAX_BODY: Final = 131_072
"""Bytes of a 402's body above which it is not read."""

_SAME_PAYLOADS: Final = "x402-v2"
"""The dialect whose rails read a payload without the names of its scheme and network."""

_REQUIRED: Final = "X-PAYMENT header is required"


class X402V1(Dialect):
    """x402, version 1."""

    name: ClassVar[str] = "x402-v1"
    echo: ClassVar[Literal["full", "none"]] = "none"
    request_fields: ClassVar[tuple[str, ...]] = ("x-payment",)
    response_fields: ClassVar[tuple[str, ...]] = ("X-PAYMENT-RESPONSE",)

    # --- server

    def challenge(self, challenge: Challenge, context: Context) -> Envelope:
        """Return the body's `x402Version`, `accepts` and, where no payment came, the `error` that clients know."""
        resource = {
            "resource": challenge.order.url,
            "description": challenge.description,
            "mimeType": challenge.mime_type or "",
        }
        accepts = [
            {**wire, **resource}
            for offer in challenge.offers
            if (wire := written(self.name, offer, context, as_it_is)) is not None
        ]
        if not accepts:
            return Envelope()
        body: dict[str, Any] = {"x402Version": VERSION, "accepts": accepts}
        if challenge.code == "payment_required":
            body["error"] = _REQUIRED
        return Envelope(body=body)

    def payments(self, fields: Fields, body_digest: str, context: Context) -> list[Payment]:
        """Return the payment in `X-PAYMENT`.

        Raises:
            MalformedInput: the field cannot be read, or is of another version.
            PaymentRejected: `method_not_offered`, `payload_invalid`: no rail here knows its scheme or its payload.
        """
        value = fields.one("x-payment")
        if value is None:
            return []
        message = from_base64(value.strip(), field="x-payment")
        _check_version(message, "x-payment", "version 2 payments go in PAYMENT-SIGNATURE")
        proof = message.get("payload")
        if not isinstance(proof, dict):
            raise MalformedInput("x-payment", "its payload must be an object")
        named = {name: message.get(name) for name in ("scheme", "network")}
        if not all(isinstance(text, str) for text in named.values()):
            raise MalformedInput("x-payment", "its scheme and network must be texts")
        for spec, binding in context.specs.speaking(self.name):
            payload = binding.decode_proof({**named, "payload": proof})
            if payload is not None:
                return [Payment(dialect=self.name, rail=spec.name, payload=payload, envelope=named)]
        refusal = PaymentRejected("no rail here takes that scheme on that network", code="method_not_offered")
        refusal.shown = payments_in(_SAME_PAYLOADS, proof, context)
        raise refusal

    def receipt(self, charge: Charge, payment: Payment, context: Context) -> Sequence[tuple[str, str]]:
        """Return `X-PAYMENT-RESPONSE`: settled, or why the settlement did not succeed."""
        outcome = outcome_of(charge, str(payment.envelope["network"]), self.name, context)
        return [] if outcome is None else [("X-PAYMENT-RESPONSE", to_base64(compact_json(outcome)))]

    # --- client

    def offers(self, fields: Fields, body: bytes, context: Context) -> list[Offer]:
        """Return the offers of the body, where it is a version 1 challenge.

        An entry that no rail here knows is passed over. So is one that cannot be read, unless nothing else is left.

        Raises:
            MalformedInput: it is one, and none of its entries can be used while one of them cannot be read.
        """
        if not body[:64].lstrip().startswith(b"{") or len(body) > MAX_BODY:
            return []
        message = parse_json(body, field="body", max_bytes=MAX_BODY)
        if not _is_ours(message.get("x402Version")):
            return []
        accepts = message.get("accepts")
        if not isinstance(accepts, list):
            raise MalformedInput("body", "its accepts must be a list")
        return read_offers(accepts, lambda requirements: self._offer(requirements, context))

    def _offer(self, entry: object, context: Context) -> Offer | None:
        if not isinstance(entry, dict):
            raise MalformedInput("body", "each of its accepts must be an object")
        requirements = {name: value for name, value in entry.items() if value is not None}
        seconds = requirements.get("maxTimeoutSeconds")
        if type(seconds) is not int or not 0 < seconds <= MAX_SECONDS:
            raise MalformedInput("maxTimeoutSeconds", "must be a whole number of seconds, more than zero")
        named = {"scheme": requirements.get("scheme"), "network": requirements.get("network")}
        return read_offer(self.name, requirements, expires_at=context.now + seconds, envelope=named, context=context)

    def credential(self, offer: Offer, payload: dict[str, Any], context: Context) -> Sequence[tuple[str, str]]:
        """Return `X-PAYMENT`."""
        assert offer.envelope is not None
        proof = proof_on_the_wire(self.name, offer, payload, context)
        message = {"x402Version": VERSION, **offer.envelope, "payload": proof["payload"]}
        return [("X-PAYMENT", to_base64(compact_json(message)))]


def _check_version(message: Json, field: str, hint: str) -> None:
    if not _is_ours(message.get("x402Version", VERSION)):
        raise MalformedInput(field, f"x402Version must be {VERSION}; {hint}")


def _is_ours(version: object) -> bool:
    return type(version) is int and version == VERSION  # to Python, true is 1
