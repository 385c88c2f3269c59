"""X-Payment: the offer is a JSON object in a response field, the signed transfer comes back in `X-Payment-Proof`.

The name is shared with version 1 of x402, where `X-PAYMENT` is the payment. Direction decides: what a server sends is
a challenge, what a client sends is a payment, and a request's `X-Payment` is none of this dialect's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from rail402.dialects._base64_json import compact_json, from_base64
from rail402.dialects._payment_proof import (
    ProofDialect,
    checked_token,
    decimal_text,
    expiry_of,
    first_offer,
    token_for,
)
from rail402.dialects._rails import read_offer, read_offers
from rail402.errors import MalformedInput
from rail402.protocol.base import parse_json, sha256_hex
from rail402.protocol.challenge import Challenge
from rail402.protocol.charge import Charge
from rail402.protocol.dialect import MAX_HEADER_BYTES, Context, Envelope, Fields
from rail402.protocol.offer import Offer
from rail402.protocol.payment import Payment

__all__ = ["XPayment"]

_FIELD: Final = "x-payment"


class XPayment(ProofDialect):
    """X-Payment."""

    name: ClassVar[str] = "x-payment"
    response_fields: ClassVar[tuple[str, ...]] = ("X-Payment", "X-Payment-Receipt")

    # --- server

    def challenge(self, challenge: Challenge, context: Context) -> Envelope:
        """Return `X-Payment` with one offer: its clients read one object."""
        found = first_offer(self.name, challenge, context)
        if found is None:
            return Envelope()
        offer, wire = found
        assert offer.token is not None
        said = {
            # Fresh for each offer, and of the size that a signed transfer wants.
            "nonce": f"0x{sha256_hex(offer.token.encode())}",
            **wire,
            "expires_at": offer.expires_at,
        }
        token = token_for(offer, context)
        if token is not None:
            said["offer_token"] = token
        return Envelope(fields=[("X-Payment", compact_json(said).decode())])

    def receipt(self, charge: Charge, payment: Payment, context: Context) -> Sequence[tuple[str, str]]:
        """Return `X-Payment-Receipt` with the signed receipt, where there is one."""
        return [] if charge.receipt is None else [("X-Payment-Receipt", charge.receipt)]

    # --- client

    def offers(self, fields: Fields, body: bytes, context: Context) -> list[Offer]:
        """Return the offers in `X-Payment`: one object, or several on as many lines or behind commas.

        Raises:
            MalformedInput: none of them can be used, and one cannot be read.
        """
        entries = [entry for line in fields.all(_FIELD) for entry in _objects(line.strip())]
        return read_offers(entries, lambda entry: self._offer(entry, context))

    def _offer(self, entry: object, context: Context) -> Offer | None:
        if not isinstance(entry, dict):
            raise MalformedInput(_FIELD, "must be a JSON object")
        wire = {name: value for name, value in entry.items() if value is not None}
        if "price" in wire:
            wire["price"] = decimal_text(wire["price"], "price")
        token = checked_token(wire.get("offer_token"), "offer_token")
        expires_at = expiry_of(wire.get("expires_at"), "expires_at", context)
        envelope = {"challenge": entry} if token is None else {"challenge": entry, "token": token}
        return read_offer(self.name, wire, expires_at=expires_at, envelope=envelope, context=context)


def _objects(line: str) -> list[Any]:
    """Return the objects of a line. Lines of one name may have been joined with commas on the way."""
    if len(line) > MAX_HEADER_BYTES:
        raise MalformedInput(_FIELD, f"is longer than {MAX_HEADER_BYTES} bytes")
    if not line.startswith("{"):
        return [from_base64(line, field=_FIELD)]
    listed = parse_json(f'{{"":[{line}]}}', field=_FIELD, max_bytes=2 * MAX_HEADER_BYTES)
    if len(listed) > 1:  # the line has closed the list
        raise MalformedInput(_FIELD, "must be a JSON object")
    return list(listed[""])
