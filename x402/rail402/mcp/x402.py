"""x402 version 2 over MCP (transports-v2/mcp.md).

A tool that wants to be paid returns a result that is an error and holds the PaymentRequired; the client calls it again
with the PaymentPayload in `_meta`, and finds the settlement in the result's `_meta`. Nothing is base64 here.
"""

from __future__ import annotations

from typing import Any, Final

from rail402.dialects._base64_json import compact_json, from_base64, to_base64
from rail402.dialects.x402_v2 import X402V2
from rail402.errors import MalformedInput
from rail402.protocol.base import Json, parse_json
from rail402.protocol.challenge import Challenge
from rail402.protocol.charge import Charge
from rail402.protocol.dialect import MAX_HEADER_BYTES, Context, Fields
from rail402.protocol.offer import Offer
from rail402.protocol.payment import Payment

__all__ = ["PAYMENT", "RESPONSE", "X402Mcp"]

PAYMENT: Final = "x402/payment"
"""The member of a request's `_meta` that holds the PaymentPayload."""

RESPONSE: Final = "x402/payment-response"
"""The member of a result's `_meta` that holds the SettleResponse."""


class X402Mcp:
    """x402 in tool calls.

    Args:
        dialect: what it says and reads, envelopes aside.
    """

    def __init__(self, dialect: X402V2 | None = None) -> None:
        self._dialect = dialect or X402V2()

    # --- server

    def result(self, challenge: Challenge, context: Context) -> dict[str, Any] | None:
        """Return the tool result that asks for payment; None where x402 can say none of the offers."""
        required = self._dialect.required(challenge, context)
        if required is None:
            return None
        text = {"type": "text", "text": compact_json(required).decode()}
        return {"isError": True, "structuredContent": required, "content": [text]}

    def payment(self, meta: Json, context: Context) -> Payment | None:
        """Return the payment in a request's `_meta`, None where there is none; some clients send it as a text.

        Raises:
            MalformedInput, PaymentRejected: see `X402V2.payments`.
        """
        message = meta.get(PAYMENT)
        if message is None:
            return None
        if isinstance(message, str):
            message = parse_json(message, field=PAYMENT, max_bytes=MAX_HEADER_BYTES)
        if not isinstance(message, dict):
            raise MalformedInput(PAYMENT, "must be the PaymentPayload's object")
        if message.get("x402Version", 2) != 2:
            raise MalformedInput(PAYMENT, "x402Version must be 2")
        return self._dialect.payment(message, PAYMENT, context)

    def receipt(self, charge: Charge, payment: Payment, context: Context) -> dict[str, Any]:
        """Return what a result's `_meta` says of a settlement; nothing where none was tried."""
        outcome = self._dialect.settlement(charge, payment, context)
        return {} if outcome is None else {RESPONSE: outcome}

    # --- client

    def offers(self, result: Json, context: Context) -> list[Offer]:
        """Return the offers of a tool result that asks for payment, in `structuredContent` or in its first text.

        Raises:
            MalformedInput: see `X402V2.offers`.
        """
        required = _required(result)
        return [] if required is None else self._dialect.offers_in(required, "structuredContent", context)

    def credential(self, offer: Offer, payload: dict[str, Any], context: Context) -> dict[str, Any]:
        """Return what `_meta` of the second call holds to present the proof `payload` for `offer`."""
        return {PAYMENT: self._dialect.message(offer, payload, context)}

    # --- a client that buys over HTTP

    def fields_of(self, result: Json) -> list[tuple[str, str]]:
        """Return the header fields that say in HTTP what a tool result asks; none where it asks for nothing."""
        required = _required(result)
        return [] if required is None else [("PAYMENT-REQUIRED", to_base64(compact_json(required)))]

    def meta_of(self, fields: Fields) -> dict[str, Any]:
        """Return what `_meta` holds for the header fields that present a payment."""
        value = fields.one("payment-signature")
        return {} if value is None else {PAYMENT: from_base64(value, field="payment-signature")}


def _required(result: Json) -> Json | None:
    """Return the PaymentRequired that a result holds, None where it is no such result."""
    if result.get("isError") is not True:
        return None
    found = result.get("structuredContent")
    if found is None:
        content = result.get("content")
        first = content[0] if isinstance(content, list) and content else None
        text = first.get("text") if isinstance(first, dict) else None
        if not isinstance(text, str) or '"x402Version"' not in text:
            return None
        found = parse_json(text, field="content", max_bytes=MAX_HEADER_BYTES)
    return found if isinstance(found, dict) and "x402Version" in found else None
