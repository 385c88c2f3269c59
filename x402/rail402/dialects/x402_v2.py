"""x402, version 2 (core specification, sections 5 and 6; HTTP transport).

A 402 carries `PAYMENT-REQUIRED`, the client answers with `PAYMENT-SIGNATURE` and is told the outcome in
`PAYMENT-RESPONSE`; each is a JSON object in standard base64. The client sends the requirements that it accepts back
whole, and may add to their `extra`: that is where our offer token travels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Literal

from rail402.dialects._base64_json import compact_json, from_base64, to_base64
from rail402.dialects._rails import proof_on_the_wire, read_offer, read_offers, read_payment
from rail402.dialects._x402 import MAX_SECONDS, outcome_of
from rail402.errors import REASONS, MalformedInput
from rail402.protocol.base import Json, sha256_hex
from rail402.protocol.challenge import Challenge
from rail402.protocol.charge import Charge
from rail402.protocol.dialect import Context, Dialect, Envelope, Fields
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.payment import Payment

__all__ = ["X402V2"]

VERSION: Final = 2
_IDENTIFIER: Final = "payment-identifier"


class X402V2(Dialect):
    """x402, version 2."""

    name: ClassVar[str] = "x402-v2"
    echo: ClassVar[Literal["full", "none"]] = "full"
    request_fields: ClassVar[tuple[str, ...]] = ("payment-signature",)
    response_fields: ClassVar[tuple[str, ...]] = ("PAYMENT-REQUIRED", "PAYMENT-RESPONSE")

    # --- server

    def challenge(self, challenge: Challenge, context: Context) -> Envelope:
        """Return `PAYMENT-REQUIRED` with one entry of `accepts` per offer that x402 can say."""
        accepts = [
            _with_token(binding.encode_offer(offer), offer)
            for offer in challenge.offers
            if (binding := context.specs.binding(offer.rail, self.name)) is not None
        ]
        if not accepts:
            return Envelope()
        resource = {"url": challenge.order.url}
        if challenge.description:
            resource["description"] = challenge.description
        if challenge.mime_type:
            resource["mimeType"] = challenge.mime_type
        required = {
            "x402Version": VERSION,
            "error": REASONS[challenge.code].x402,
            "resource": resource,
            "accepts": accepts,
        }
        return Envelope(fields=[("PAYMENT-REQUIRED", to_base64(compact_json(required)))])

    def payments(self, fields: Fields, body_digest: str, context: Context) -> list[Payment]:
        """Return the payment in `PAYMENT-SIGNATURE`; nulls and members that we did not send are passed over.

        Raises:
            MalformedInput: the field cannot be read, or is of another version.
            PaymentRejected: what it accepts was not offered here; see `_rails.read_payment`.
        """
        value = fields.one("payment-signature")
        if value is None:
            return []
        message = from_base64(value.strip(), field="payment-signature")
        _check_version(message, "payment-signature", "version 1 payments go in X-PAYMENT")
        accepted = _object(message, "accepted", "payment-signature")
        requirements, token = _without_token(accepted)
        return [
            read_payment(
                self.name,
                requirements,
                _object(message, "payload", "payment-signature"),
                token=token,
                envelope={"accepted": accepted},
                context=context,
            )
        ]

    def receipt(self, charge: Charge, payment: Payment, context: Context) -> Sequence[tuple[str, str]]:
        """Return `PAYMENT-RESPONSE`: settled, or why the settlement did not succeed; nothing where none was tried."""
        network = payment.envelope["accepted"].get("network", charge.offer.network)
        outcome = outcome_of(charge, network)
        if outcome is None:
            return []
        if outcome["success"]:
            outcome["amount"] = str(charge.amount)
        return [("PAYMENT-RESPONSE", to_base64(compact_json(outcome)))]

    # --- client

    def offers(self, fields: Fields, body: bytes, context: Context) -> list[Offer]:
        """Return the offers of `PAYMENT-REQUIRED`; a version 2 challenge is never in the body.

        An entry that no rail here knows, or whose `paymentFlow` is none that we know, is passed over. So is one that
        cannot be read, unless nothing else is left.

        Raises:
            MalformedInput: the field cannot be read, is of another version, or none of its entries can be used and
                one of them cannot be read.
        """
        value = fields.one("payment-required")
        if value is None:
            return []
        message = from_base64(value.strip(), field="payment-required")
        _check_version(message, "payment-required", "version 1 challenges go in the body")
        accepts = message.get("accepts")
        if not isinstance(accepts, list):
            raise MalformedInput("payment-required", "its accepts must be a list")
        echoed = {name: message[name] for name in ("resource", "extensions") if message.get(name) is not None}
        return read_offers(accepts, lambda accepted: self._offer(accepted, echoed, context))

    def _offer(self, accepted: object, echoed: Json, context: Context) -> Offer | None:
        if not isinstance(accepted, dict):
            raise MalformedInput("payment-required", "each of its accepts must be an object")
        requirements, _ = _without_token(accepted)
        if requirements["extra"].get("paymentFlow", Flow.AUTHORIZATION.value) not in list(Flow):
            return None
        return read_offer(
            self.name,
            requirements,
            expires_at=context.now + _seconds(requirements),
            envelope={"accepted": accepted, **echoed},
            context=context,
        )

    def credential(self, offer: Offer, payload: dict[str, Any], context: Context) -> Sequence[tuple[str, str]]:
        """Return `PAYMENT-SIGNATURE` with the requirements, resource and extensions exactly as they came."""
        assert offer.envelope is not None
        proof = proof_on_the_wire(self.name, offer, payload, context)
        message = {"x402Version": VERSION, "payload": proof, **offer.envelope}
        if isinstance(message.get("extensions"), Mapping):
            message["extensions"] = _identified(message["extensions"], proof)
        return [("PAYMENT-SIGNATURE", to_base64(compact_json(message)))]


def _check_version(message: Json, field: str, hint: str) -> None:
    if message.get("x402Version", VERSION) != VERSION:
        raise MalformedInput(field, f"x402Version must be {VERSION}; {hint}")


def _object(message: Json, name: str, field: str) -> dict[str, Any]:
    value = message.get(name)
    if not isinstance(value, dict):
        raise MalformedInput(field, f"its {name} must be an object")
    return value


def _with_token(requirements: Json, offer: Offer) -> dict[str, Any]:
    assert offer.token is not None
    return {**requirements, "extra": {**requirements.get("extra", {}), "token": offer.token}}


def _without_token(accepted: Json) -> tuple[dict[str, Any], object]:
    """Return the requirements as rails know them, without nulls, and what stands where our token belongs."""
    requirements = {name: value for name, value in accepted.items() if value is not None}
    extra = requirements.get("extra", {})
    if not isinstance(extra, dict):
        raise MalformedInput("extra", "must be an object")
    requirements["extra"] = {name: value for name, value in extra.items() if value is not None and name != "token"}
    return requirements, extra.get("token")


def _seconds(requirements: Json) -> int:
    seconds = requirements.get("maxTimeoutSeconds")
    if type(seconds) is not int or not 0 < seconds <= MAX_SECONDS:
        raise MalformedInput("maxTimeoutSeconds", "must be a whole number of seconds, more than zero")
    return seconds


def _identified(extensions: Json, proof: Json) -> Json:
    """Add the id that the `payment-identifier` extension asks for; the same proof always has the same one."""
    extension = extensions.get(_IDENTIFIER)
    info = extension.get("info") if isinstance(extension, Mapping) else None
    if extension is None or not isinstance(info, Mapping):
        return extensions
    identifier = "pay_" + sha256_hex(json.dumps(dict(proof), sort_keys=True).encode())[:32]
    return {**extensions, _IDENTIFIER: {**extension, "info": {"id": identifier, **info}}}
