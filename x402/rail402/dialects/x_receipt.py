"""X-Receipt: an invoice in the JSON body of the 402, and its bare receipt in one request field.

The smallest dialect: the offer is not echoed, so the receipt alone (a preimage, a transaction hash, the id of a card
payment) says what was paid. Where others than its payer can know a receipt, the payment object has the offer's token in
`offer_token`, which goes back in `X-Payment-Token`. Implementations differ in details; reading is tolerant of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Literal

from rail402.dialects._payment_proof import TOKEN_FIELD, checked_token, first_offer, read_bare, token_for, token_lines
from rail402.dialects._rails import proof_on_the_wire, read_offer
from rail402.errors import ConfigurationError, MalformedInput, PaymentRejected
from rail402.protocol.base import Json, parse_json
from rail402.protocol.binding import parse_token
from rail402.protocol.challenge import Challenge
from rail402.protocol.charge import Charge
from rail402.protocol.dialect import Context, Dialect, Envelope, Fields
from rail402.protocol.offer import Offer
from rail402.protocol.payment import Payment

__all__ = ["XReceipt"]

MAX_BODY: Final = 1_048_576
"""Bytes of a 402's body above which it is not looked at."""

DEFAULT_EXPIRY: Final = 3600
"""Seconds for which a payment object without `expiry_seconds` counts as good."""

_MAX_SECONDS: Final = 2**31 - 1
_NUMBERS: Final = ("amount_sats", "expiry_seconds")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_DIGITS: Final = re.compile(r"[0-9]{1,16}", re.ASCII)


class XReceipt(Dialect):
    """X-Receipt."""

    name: ClassVar[str] = "x-receipt"
    echo: ClassVar[Literal["full", "none"]] = "none"
    request_fields: ClassVar[tuple[str, ...]] = ("x-receipt", TOKEN_FIELD)
    response_fields: ClassVar[tuple[str, ...]] = ("X-Receipt-Record",)

    # --- server

    def challenge(self, challenge: Challenge, context: Context) -> Envelope:
        """Return the body's members for one offer: there is room for one. See `first_offer`."""
        found = first_offer(self.name, challenge, context)
        if found is None:
            return Envelope()
        offer, payment = found
        token = token_for(offer, context)
        if token is not None:
            left = max(offer.expires_at - context.now, 1)
            payment = {"expiry_seconds": left, **payment, "offer_token": token, "order": challenge.order.digest}
        return Envelope(body={"type": "x402", "payment": payment, "retry_after": "payment"})

    def offer_of(self, envelope: Mapping[str, Any], context: Context) -> Offer:
        """Return the offer of a payment object that came back; its token proves it ours. See `Dialect.offer_of`.

        For which order it was made is what it says: at the presentation that is checked once more.
        """
        if context.keys is None:
            raise ConfigurationError("X-Receipt needs the server's offer keys")
        payment = envelope.get("payment")
        if not isinstance(payment, Mapping):
            raise MalformedInput("payment", "must be the payment object")
        token, order = (payment.get(name) for name in ("offer_token", "order"))
        if not isinstance(token, str) or not isinstance(order, str) or not _DIGEST.fullmatch(order):
            raise PaymentRejected("send the payment object back as it came", code="offer_unknown")
        parts = parse_token(token)
        offer = read_offer(self.name, payment, expires_at=parts.expires_at, envelope={}, context=context)
        if offer is None:
            raise PaymentRejected("no rail here made such an offer", code="offer_unknown")
        offer = offer.model_copy(update={"token": token, "envelope": None})
        context.keys.verify_digest(offer, order)
        return offer

    def payments(self, fields: Fields, body_digest: str, context: Context) -> list[Payment]:
        """Return the payment whose receipt is in `X-Receipt`, for the first rail that knows it for its own.

        Raises:
            MalformedInput: no rail here does.
        """
        value = fields.one("x-receipt")
        if value is None:
            return []
        found = read_bare(self.name, {"receipt": value.strip()}, context)
        if found is not None:
            rail, payload = found
            return [Payment(dialect=self.name, rail=rail, payload=payload, token=fields.one(TOKEN_FIELD))]
        rails = ", ".join(spec.name for spec, _ in context.specs.speaking(self.name)) or "none"
        raise MalformedInput(
            "x-receipt",
            "is no receipt that can be checked here; send the preimage, the transaction hash or the PaymentIntent id "
            f"of a payment on one of these rails: {rails}",
        )

    def receipt(self, charge: Charge, payment: Payment, context: Context) -> Sequence[tuple[str, str]]:
        """Return `X-Receipt-Record` with the signed receipt, where there is one."""
        return [] if charge.receipt is None else [("X-Receipt-Record", charge.receipt)]

    # --- client

    def offers(self, fields: Fields, body: bytes, context: Context) -> list[Offer]:
        """Return the offer in the body: `payment`, where `type` says x402 or the object holds an invoice.

        Raises:
            MalformedInput: the body is JSON that cannot be read, or larger than 1 MiB; or the payment object is wrong.
        """
        if not body[:64].lstrip().startswith(b"{"):
            return []
        document = parse_json(body, field="body", max_bytes=MAX_BODY)
        payment = document.get("payment")
        if not isinstance(payment, dict) or not (document.get("type") == "x402" or "invoice" in payment):
            return []
        wire = {name: _plain(name, value) for name, value in payment.items() if value is not None}
        token = checked_token(wire.get("offer_token"), "payment.offer_token")
        offer = read_offer(
            self.name,
            wire,
            expires_at=context.now + _expiry(wire),
            envelope={"payment": payment} if token is None else {"payment": payment, "token": token},
            context=context,
        )
        return [] if offer is None else [offer]

    def credential(self, offer: Offer, payload: dict[str, Any], context: Context) -> Sequence[tuple[str, str]]:
        """Return `X-Receipt`, and `X-Payment-Token` where the payment object had a token."""
        receipt = proof_on_the_wire(self.name, offer, payload, context)["receipt"]
        return [("X-Receipt", receipt), *token_lines(offer.envelope or {})]


def _plain(name: str, value: Any) -> Any:
    """Return the value, as a number where it is one that some implementations write as a text."""
    if name in _NUMBERS and isinstance(value, str) and _DIGITS.fullmatch(value):
        return int(value)
    return value


def _expiry(wire: Json) -> int:
    seconds = wire.get("expiry_seconds", DEFAULT_EXPIRY)
    if type(seconds) is not int or not 0 < seconds <= _MAX_SECONDS:
        raise MalformedInput("payment.expiry_seconds", "must be a whole number of seconds, more than zero")
    return seconds
