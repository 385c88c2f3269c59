"""X-Receipt: an invoice in the JSON body of the 402, and its bare receipt in one request field.

The smallest dialect: nothing is echoed, so the receipt alone (a preimage, a transaction hash, the id of a card payment)
says what was paid. Implementations differ in details; reading is tolerant of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal

from rail402.dialects._rails import proof_on_the_wire, read_offer
from rail402.errors import MalformedInput
from rail402.protocol.base import Json, parse_json
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
_DIGITS: Final = re.compile(r"[0-9]{1,16}", re.ASCII)


class XReceipt(Dialect):
    """X-Receipt."""

    name: ClassVar[str] = "x-receipt"
    echo: ClassVar[Literal["full", "none"]] = "none"
    request_fields: ClassVar[tuple[str, ...]] = ("x-receipt",)
    response_fields: ClassVar[tuple[str, ...]] = ("X-Receipt-Record",)

    # --- server

    def challenge(self, challenge: Challenge, context: Context) -> Envelope:
        """Return the body's members for the first offer that this dialect can say: there is room for one."""
        for offer in challenge.offers:
            binding = context.specs.binding(offer.rail, self.name)
            if binding is not None:
                payment = dict(binding.encode_offer(offer))
                return Envelope(body={"type": "x402", "payment": payment, "retry_after": "payment"})
        return Envelope()

    def payments(self, fields: Fields, body_digest: str, context: Context) -> list[Payment]:
        """Return the payment whose receipt is in `X-Receipt`, for the first rail that knows it for its own.

        Raises:
            MalformedInput: no rail here does.
        """
        value = fields.one("x-receipt")
        if value is None:
            return []
        wire, errors = {"receipt": value.strip()}, []
        for spec, binding in context.specs.speaking(self.name):
            try:
                payload = binding.decode_proof(wire)
            except MalformedInput as error:
                errors.append(error)
                continue
            if payload is not None:
                return [Payment(dialect=self.name, rail=spec.name, payload=payload)]
        if errors:
            raise errors[0]
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
        offer = read_offer(
            self.name,
            wire,
            expires_at=context.now + _expiry(wire),
            envelope={"payment": payment},
            context=context,
        )
        return [] if offer is None else [offer]

    def credential(self, offer: Offer, payload: dict[str, Any], context: Context) -> Sequence[tuple[str, str]]:
        """Return `X-Receipt`."""
        return [("X-Receipt", proof_on_the_wire(self.name, offer, payload, context)["receipt"])]


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
