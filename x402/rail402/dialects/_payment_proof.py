"""`X-Payment-Proof`, the field in which several small dialects show a payment, and all that they share.

What a proof is, its form decides, and nothing else in the request:

    0x and 64 hexadecimal digits      {"transaction": …}     a mined transfer
    64 hexadecimal digits             {"preimage": …}        a paid Lightning invoice
    pi_…                              {"paymentIntent": …}   a card payment
    a JSON object, or base64 of one   that object            a signed authorization, say

None of these dialects sends the offer back. Where a proof can be read by others than its payer (on a chain, say), the
challenge has the offer's token beside it, and a client that has read that sends it back in `X-Payment-Token`: without
it such a payment is taken once, and its response is never sent again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Literal

from rail402.dialects._base64_json import compact_json, from_base64, to_base64
from rail402.dialects._rails import as_it_is, proof_on_the_wire, written
from rail402.errors import MalformedInput, PaymentRejected
from rail402.protocol.base import Json, parse_json
from rail402.protocol.challenge import Challenge
from rail402.protocol.charge import Charge
from rail402.protocol.dialect import MAX_HEADER_BYTES, Context, Dialect, Fields
from rail402.protocol.offer import Offer
from rail402.protocol.payment import Payment

__all__ = [
    "DEFAULT_LIFETIME",
    "TOKEN_FIELD",
    "ProofDialect",
    "checked_token",
    "decimal_text",
    "expiry_of",
    "first_offer",
    "json_body",
    "parse_proof",
    "read_bare",
    "token_for",
    "token_lines",
    "write_proof",
]

PROOF_FIELD: Final = "x-payment-proof"
TOKEN_FIELD: Final = "x-payment-token"  # noqa: S105 - the name of a field

DEFAULT_LIFETIME: Final = 300
"""Seconds for which an offer counts as good that does not say for how long it is."""

MAX_BODY: Final = 131_072
"""Bytes of a 402's body above which it is not read."""

_READERS: Final = ("x-payment", "x-price", "payment-uri")

_SHORT: Final = {
    "transaction": re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII),
    "preimage": re.compile(r"[0-9a-fA-F]{64}", re.ASCII),
    "paymentIntent": re.compile(r"pi_[A-Za-z0-9]{1,250}", re.ASCII),
}
_HEXADECIMAL: Final = ("transaction", "preimage")
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,512}", re.ASCII)
_DECIMAL: Final = re.compile(r"[0-9]{1,30}(?:\.[0-9]{1,30})?", re.ASCII)
_SECONDS: Final = re.compile(r"[0-9]{1,12}", re.ASCII)


# --- proofs


def parse_proof(text: str) -> dict[str, Any]:
    """Read the value of `X-Payment-Proof`: see above.

    Raises:
        MalformedInput: it has none of the four forms, or is longer than 64 KiB.
    """
    text = text.strip()
    for name, form in _SHORT.items():
        if form.fullmatch(text):
            return {name: text.lower() if name in _HEXADECIMAL else text}
    if text.startswith("{"):
        return parse_json(text, field=PROOF_FIELD, max_bytes=MAX_HEADER_BYTES)
    try:
        return from_base64(text, field=PROOF_FIELD)
    except MalformedInput as error:
        raise MalformedInput(
            PROOF_FIELD, "must be a transaction hash, a preimage, a PaymentIntent id, or JSON, plain or in base64"
        ) from error


def write_proof(proof: Json) -> str:
    """Return a proof as `parse_proof` reads it."""
    for name, form in _SHORT.items():
        value = proof.get(name)
        if len(proof) == 1 and isinstance(value, str) and form.fullmatch(value):
            return value
    return to_base64(compact_json(dict(proof)))


def read_bare(dialect: str, wire: Json, context: Context) -> tuple[str, Json] | None:
    """Return the first rail that knows a proof for its own, and the payload it makes of it; None where none does.

    Raises:
        MalformedInput: a rail knows it for its own, a member is wrong, and no other rail takes it.
    """
    errors = []
    for spec, binding in context.specs.speaking(dialect):
        try:
            payload = binding.decode_proof(wire)
        except MalformedInput as error:
            errors.append(error)
            continue
        if payload is not None:
            return spec.name, payload
    if errors:
        raise errors[0]
    return None


# --- offers


def first_offer(dialect: str, challenge: Challenge, context: Context) -> tuple[Offer, Json] | None:
    """Return the one offer of a dialect that has room for one, and how its rail writes it; None where there is none.

    It is the first whose proof is known to its payer alone, or else the first.
    """
    first = None
    for offer in challenge.offers:
        is_secret = context.specs[offer.rail].bare_replay
        if (is_secret or first is None) and (wire := written(dialect, offer, context, as_it_is)):
            if is_secret:
                return offer, wire
            first = offer, wire
    return first


def token_for(offer: Offer, context: Context) -> str | None:
    """Return the token that goes with an offer; None where its proof is a secret, which is proof enough of a payer."""
    return None if context.specs[offer.rail].bare_replay else offer.token


def checked_token(value: object, field: str) -> str | None:
    """Return the token of a challenge, None where it has none. It goes into a header field as it is.

    Raises:
        MalformedInput: it is no text, or has other characters than visible ASCII.
    """
    if value is not None and (not isinstance(value, str) or not _TOKEN.fullmatch(value)):
        raise MalformedInput(field, "must be a text of at most 512 visible ASCII characters")
    return value


def decimal_text(value: object, field: str) -> str:
    """Return a decimal number as its digits; some servers write it as a number, some as a text.

    Raises:
        MalformedInput: it is none, or not a plain one.
    """
    text = value if isinstance(value, str) else repr(value) if type(value) in (int, float) else ""
    if not _DECIMAL.fullmatch(text):
        raise MalformedInput(field, "must be a plain decimal number")
    return text


def expiry_of(value: object, field: str, context: Context) -> int:
    """Return until when an offer is good, Unix seconds; `DEFAULT_LIFETIME` from now where it does not say.

    Raises:
        MalformedInput: it says something else.
    """
    if value is None:
        return context.now + DEFAULT_LIFETIME
    text = value if isinstance(value, str) else repr(value) if type(value) is int else ""
    if not _SECONDS.fullmatch(text):
        raise MalformedInput(field, "must be Unix seconds")
    return int(text)


def json_body(body: bytes, *, required: bool) -> dict[str, Any]:
    """Return the members of a 402's body; none where it is no JSON object.

    Raises:
        MalformedInput: it looks like one and cannot be read, and is `required`.
    """
    if not body[:64].lstrip().startswith(b"{") or len(body) > MAX_BODY:
        return {}
    try:
        return parse_json(body, field="body", max_bytes=MAX_BODY)
    except MalformedInput:
        if required:
            raise
        return {}


# --- the dialects


class ProofDialect(Dialect):
    """A dialect whose payments travel in `X-Payment-Proof`. The `envelope` of its offers has their `token`, if any."""

    echo: ClassVar[Literal["full", "none"]] = "none"
    request_fields: ClassVar[tuple[str, ...]] = (PROOF_FIELD, TOKEN_FIELD)

    def payments(self, fields: Fields, body_digest: str, context: Context) -> list[Payment]:
        """Return the payment in `X-Payment-Proof`, for the first rail that knows it for its own.

        None where that is for another dialect that reads the same field.

        Raises:
            MalformedInput: it cannot be read.
            PaymentRejected: `method_not_offered`: it can, and is for no rail here.
        """
        value = fields.one(PROOF_FIELD)
        if value is None:
            return []
        wire, token = {"proof": parse_proof(value)}, fields.one(TOKEN_FIELD)
        found = read_bare(self.name, wire, context)
        if found is not None:
            rail, payload = found
            return [Payment(dialect=self.name, rail=rail, payload=payload, token=token)]
        if any(_knows(name, wire, context) for name in _READERS if name != self.name):
            return []
        raise PaymentRejected("no rail here takes that kind of proof", code="method_not_offered")

    def receipt(self, charge: Charge, payment: Payment, context: Context) -> Sequence[tuple[str, str]]:
        """Return nothing: the format has no receipt."""
        return []

    def credential(self, offer: Offer, payload: dict[str, Any], context: Context) -> Sequence[tuple[str, str]]:
        """Return `X-Payment-Proof`, and `X-Payment-Token` where the challenge had a token."""
        proof = proof_on_the_wire(self.name, offer, payload, context)["proof"]
        return [("X-Payment-Proof", write_proof(proof)), *token_lines(offer.envelope or {})]


def token_lines(envelope: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the line that sends the token in an offer's envelope back, if there is one."""
    token = envelope.get("token")
    return [] if token is None else [("X-Payment-Token", token)]


def _knows(dialect: str, wire: Json, context: Context) -> bool:
    try:
        return read_bare(dialect, wire, context) is not None
    except MalformedInput:
        return True
