"""X-Price: a price and an address, in four header fields and in the body; the transaction's hash is the proof.

The lowest common denominator: reading is tolerant of what servers leave out, so that a bare price and address in the
body are an offer too. What is left open (the network, the token) is for the rail to say, or to refuse.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final

from rail402.dialects._payment_proof import (
    ProofDialect,
    checked_token,
    decimal_text,
    expiry_of,
    first_offer,
    json_body,
    token_for,
)
from rail402.dialects._rails import read_offer
from rail402.errors import MalformedInput
from rail402.protocol.challenge import Challenge
from rail402.protocol.dialect import Context, Envelope, Fields
from rail402.protocol.offer import Offer

__all__ = ["XPrice"]

_ADDRESSES: Final = ("paymentAddress", "payment_address", "address")
_WITH_CURRENCY: Final = re.compile(r"(\$?)\s{0,4}([0-9.]{1,61})\s{0,4}([A-Za-z]{0,10})", re.ASCII)


class XPrice(ProofDialect):
    """X-Price."""

    name: ClassVar[str] = "x-price"
    response_fields: ClassVar[tuple[str, ...]] = ("X-Payment-Required", "X-Price", "X-Currency", "X-Payment-Address")

    # --- server

    def challenge(self, challenge: Challenge, context: Context) -> Envelope:
        """Return the header fields and the body's members for one offer: there is room for one."""
        found = first_offer(self.name, challenge, context)
        if found is None:
            return Envelope()
        offer, wire = found
        body = {**wire, "expiresAt": offer.expires_at}
        token = token_for(offer, context)
        if token is not None:
            body["offerToken"] = token
        fields = [
            ("X-Payment-Required", "true"),
            ("X-Price", wire["price"]),
            ("X-Currency", wire["currency"]),
            ("X-Payment-Address", wire["paymentAddress"]),
        ]
        return Envelope(fields=fields, body=body)

    # --- client

    def offers(self, fields: Fields, body: bytes, context: Context) -> list[Offer]:
        """Return the offer of the header fields and the body, where there is a price and an address.

        The header fields count where the two differ.

        Raises:
            MalformedInput: one of the two is missing in the header fields, or something cannot be read.
        """
        price, address = fields.one("x-price"), fields.one("x-payment-address")
        members = json_body(body, required=price is None or address is None)
        wire = {name: value for name, value in members.items() if type(value) in (str, int)}
        known = next((members[name] for name in _ADDRESSES if members.get(name) is not None), None)
        said = members.get("price") if price is None else price
        address = known if address is None else address
        if said is None or address is None:
            if price is None and fields.one("x-payment-address") is None:
                return []
            raise MalformedInput("x-price", "a price and an address must both be there")
        if not isinstance(address, str):
            raise MalformedInput("paymentAddress", "must be a text")
        currency = fields.one("x-currency") or members.get("currency")
        wire |= _price(said, currency)
        wire["paymentAddress"] = address.strip()
        envelope = {} if (token := checked_token(members.get("offerToken"), "offerToken")) is None else {"token": token}
        expires_at = expiry_of(members.get("expiresAt"), "expiresAt", context)
        offer = read_offer(self.name, wire, expires_at=expires_at, envelope=envelope, context=context)
        return [] if offer is None else [offer]


def _price(said: object, currency: object) -> dict[str, Any]:
    """Return the price and its currency, which some servers write as one text: `0.10 USDC`, `$0.10`."""
    if currency is not None and not isinstance(currency, str):
        raise MalformedInput("currency", "must be a text")
    currency = (currency or "").strip()
    match = _WITH_CURRENCY.fullmatch(said.strip()) if isinstance(said, str) else None
    if match is not None:
        said, named = match[2], match[3] or ("USD" if match[1] else "")
        if named and currency and named.lower() != currency.lower():
            raise MalformedInput("price", f"names another currency than {currency[:10]}")
        currency = currency or named
    price = {"price": decimal_text(said, "price")}
    return price | {"currency": currency} if currency else price
