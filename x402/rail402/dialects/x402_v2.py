"""x402, version 2 (core specification, sections 5 and 6; HTTP transport).

A 402 carries `PAYMENT-REQUIRED`, the client answers with `PAYMENT-SIGNATURE` and is told the outcome in
`PAYMENT-RESPONSE`; each is a JSON object in standard base64. The client sends the requirements that it accepts back
whole, and may add to their `extra`: that is where our offer token travels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Final, Literal

from rail402.dialects._base64_json import compact_json, from_base64, to_base64
from rail402.dialects._offer_receipt import offers_in, receipt_in, signed_offers, signed_receipt
from rail402.dialects._payment_identifier import declaration, identifier_in, with_identifier
from rail402.dialects._rails import (
    payments_in,
    proof_on_the_wire,
    read_offer,
    read_offers,
    read_payment,
    written,
)
from rail402.dialects._x402 import MAX_SECONDS, outcome_of, word_of
from rail402.errors import MalformedInput, PaymentRejected
from rail402.protocol.base import Json
from rail402.protocol.challenge import Challenge
from rail402.protocol.charge import Charge
from rail402.protocol.dialect import Context, Dialect, Envelope, Fields
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.payment import Payment

__all__ = ["X402V2"]

VERSION: Final = 2


class X402V2(Dialect):
    """x402, version 2.

    Args:
        identifier_required: a payment must name itself (extension `payment-identifier`); it always may.
        offer_receipts: sign every offer of a 402, and a receipt for every payment whose payer is known (extension
            `offer-receipt`). A signature per offer makes each 402 slower and longer.
    """

    name: ClassVar[str] = "x402-v2"
    echo: ClassVar[Literal["full", "none"]] = "full"
    request_fields: ClassVar[tuple[str, ...]] = ("payment-signature",)
    response_fields: ClassVar[tuple[str, ...]] = ("PAYMENT-REQUIRED", "PAYMENT-RESPONSE")

    def __init__(self, *, identifier_required: bool = False, offer_receipts: bool = False) -> None:
        self._identifier_required, self.signs = identifier_required, offer_receipts
        self._extensions = declaration(required=identifier_required)
        self._extensions_json = compact_json(self._extensions).decode()

    # --- server

    def challenge(self, challenge: Challenge, context: Context) -> Envelope:
        """Return `PAYMENT-REQUIRED`."""
        required = self._required(challenge, context)
        return Envelope() if required is None else Envelope([("PAYMENT-REQUIRED", to_base64(required.encode()))])

    def required(self, challenge: Challenge, context: Context) -> dict[str, Any] | None:
        """Return the PaymentRequired, with an entry of `accepts` per offer that x402 can say; None without any."""
        required = self._required(challenge, context)
        return None if required is None else json.loads(required)

    def _required(self, challenge: Challenge, context: Context) -> str | None:
        """Return it as JSON, which is put together from parts: most of them are the same in every 402 of a route."""
        offers, entries = [], []
        for offer in challenge.offers:
            up_to_token = written(self.name, offer, context, _up_to_token)
            if up_to_token is not None:
                assert offer.token is not None
                offers.append(offer)
                entries.append(f'{up_to_token}{offer.token}"}}}}')
        if not entries:
            return None
        accepts, extensions = ",".join(entries), self._extensions_json
        if self.signs and context.sign is not None:
            signed = signed_offers(challenge.order.url, json.loads(f"[{accepts}]"), offers, context.sign)
            extensions = compact_json({**self._extensions, **signed}).decode()
        error = word_of(challenge.code, challenge.rail, self.name, context)
        head = _up_to_accepts(error, challenge.order.url, challenge.description, challenge.mime_type)
        return f'{head}[{accepts}],"extensions":{extensions}}}'

    def payments(self, fields: Fields, body_digest: str, context: Context) -> list[Payment]:
        """Return the payment in `PAYMENT-SIGNATURE`; nulls and members that we did not send are passed over.

        Raises:
            MalformedInput: the field cannot be read, is of another version, or has no id where one is required.
            PaymentRejected: what it accepts was not offered here, or an extension came back altered; see
                `_rails.read_payment`.
        """
        value = fields.one("payment-signature")
        if value is None:
            return []
        message = from_base64(value.strip(), field="payment-signature")
        _check_version(message, "payment-signature", "version 1 payments go in X-PAYMENT")
        return [self.payment(message, "payment-signature", context)]

    def payment(self, message: Json, field: str, context: Context) -> Payment:
        """Return the payment of a PaymentPayload; `field` is where it was found. Raises: see `payments`."""
        accepted, proof = (_object(message, name, field) for name in ("accepted", "payload"))
        requirements, token = _without_token(accepted)
        try:
            return read_payment(
                self.name,
                requirements,
                proof,
                token=token,
                envelope={"accepted": accepted},
                context=context,
                identifier=identifier_in(message, required=self._identifier_required),
            )
        except (MalformedInput, PaymentRejected) as error:
            error.shown = payments_in(self.name, proof, context)
            raise

    def receipt(self, charge: Charge, payment: Payment, context: Context) -> Sequence[tuple[str, str]]:
        """Return `PAYMENT-RESPONSE`."""
        outcome = self.settlement(charge, payment, context)
        return [] if outcome is None else [("PAYMENT-RESPONSE", to_base64(compact_json(outcome)))]

    def settlement(self, charge: Charge, payment: Payment, context: Context) -> dict[str, Any] | None:
        """Return the SettleResponse: settled, or why that did not succeed; None where no settlement was tried."""
        network = payment.envelope["accepted"].get("network", charge.offer.network)
        outcome = outcome_of(charge, network, self.name, context)
        if outcome is not None and outcome["success"]:
            outcome["amount"] = str(charge.amount)
            signed = signed_receipt(charge, context.sign) if self.signs and context.sign is not None else None
            if signed is not None:
                outcome["extensions"] = signed
        return outcome

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
        return self.offers_in(from_base64(value.strip(), field="payment-required"), "payment-required", context)

    def offers_in(self, message: Json, field: str, context: Context) -> list[Offer]:
        """Return the offers of a PaymentRequired; `field` is where it was found. Raises: see `offers`."""
        _check_version(message, field, "version 1 challenges go in the body")
        accepts = message.get("accepts")
        if not isinstance(accepts, list):
            raise MalformedInput(field, "its accepts must be a list")
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
        """Return `PAYMENT-SIGNATURE`."""
        return [("PAYMENT-SIGNATURE", to_base64(compact_json(self.message(offer, payload, context))))]

    def message(self, offer: Offer, payload: dict[str, Any], context: Context) -> dict[str, Any]:
        """Return the PaymentPayload, with the requirements, resource and extensions exactly as they came."""
        assert offer.envelope is not None
        proof = proof_on_the_wire(self.name, offer, payload, context)
        message = {"x402Version": VERSION, "payload": proof, **offer.envelope}
        if isinstance(message.get("extensions"), Mapping):
            message["extensions"] = with_identifier(message["extensions"], proof)
        return message

    def signed_offers(self, offer: Offer) -> list[Json]:
        """Return the signed offers of the challenge that `offer` came in; `verify_jws` and its like verify them."""
        return offers_in((offer.envelope or {}).get("extensions"))

    def signed_receipt(self, fields: Fields) -> Json | None:
        """Return the signed receipt of a response, unverified; None where it has none.

        Raises:
            MalformedInput: `PAYMENT-RESPONSE` cannot be read.
        """
        value = fields.one("payment-response")
        return (
            None
            if value is None
            else receipt_in(from_base64(value.strip(), field="payment-response").get("extensions"))
        )


def _check_version(message: Json, field: str, hint: str) -> None:
    if message.get("x402Version", VERSION) != VERSION:
        raise MalformedInput(field, f"x402Version must be {VERSION}; {hint}")


def _object(message: Json, name: str, field: str) -> dict[str, Any]:
    value = message.get(name)
    if not isinstance(value, dict):
        raise MalformedInput(field, f"its {name} must be an object")
    return value


@lru_cache(maxsize=256)
def _up_to_accepts(error: str, url: str, description: str, mime_type: str) -> str:
    """Return a PaymentRequired as JSON, up to the list of what is accepted."""
    resource = {"url": url}
    if description:
        resource["description"] = description
    if mime_type:
        resource["mimeType"] = mime_type
    said = {"x402Version": VERSION, "error": error, "resource": resource, "accepts": []}
    return compact_json(said).decode().removesuffix("[]}")


def _up_to_token(requirements: Json) -> str:
    """Return an entry of `accepts` as JSON, up to the token: the last member of `extra`, which is the entry's last."""
    entry = dict(requirements)
    entry["extra"] = {**entry.pop("extra", {}), "token": ""}
    return compact_json(entry).decode().removesuffix('"}}')


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
