"""MPP, the `Payment` HTTP authentication scheme (draft-ietf-httpauth-payment).

A 402 carries one `WWW-Authenticate: Payment` line per offer. The client sends the challenge back with its proof in
`Authorization: Payment` (or `Payment-Authorization`), and a paid answer carries `Payment-Receipt`. A challenge's id is
an HMAC over the challenge, so that it is recognised without having been kept; our offer token travels in its `opaque`,
or in its `request` where the method's clients drop what their draft does not name.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, ClassVar, Final, Literal, TypeVar

from rail402.dialects import auth_params as auth_params
from rail402.dialects._base64_json import compact_json, from_base64, to_base64url
from rail402.dialects._mpp_challenge import (
    ECHO_THE_REQUEST_ONLY,
    OFFER,
    Made,
    body_digest_field,
    challenge_id,
    make,
    said,
)
from rail402.dialects._rails import (
    payments_in,
    proof_on_the_wire,
    read_echo,
    read_offer,
    read_offers,
    read_payment,
    written,
)
from rail402.dialects.accept_payment import preferred
from rail402.errors import ConfigurationError, MalformedInput, PaymentRejected
from rail402.protocol.base import Json, canonical_json
from rail402.protocol.binding import OfferKeys, parse_token
from rail402.protocol.challenge import Challenge
from rail402.protocol.charge import Charge, PaymentState
from rail402.protocol.dialect import MAX_HEADER_BYTES, Context, Dialect, Envelope, Fields
from rail402.protocol.offer import Offer
from rail402.protocol.order import EMPTY_BODY_DIGEST
from rail402.protocol.payment import Payment

T = TypeVar("T")

__all__ = ["Mpp", "body_digest_field", "challenge_id", "check_challenge"]

MAX_REQUEST: Final = 16_384
"""Characters of `request` above which a challenge is refused, as the released SDKs do."""

DEFAULT_LIFETIME: Final = 300
"""Seconds for which a challenge without `expires` counts as good."""

_REQUIRED: Final[tuple[str, ...]] = ("id", "realm", "method", "intent", "request")
_OPTIONAL: Final[tuple[str, ...]] = ("description", "digest", "expires", "header", "opaque")

_METHOD: Final = re.compile(r"[a-z][a-z0-9:_-]*", re.ASCII)
_INTENT: Final = re.compile(r"[A-Za-z0-9-]+", re.ASCII)


class Mpp(Dialect):
    """MPP over HTTP."""

    name: ClassVar[str] = "mpp"
    echo: ClassVar[Literal["full", "none"]] = "full"
    request_fields: ClassVar[tuple[str, ...]] = ("authorization", "payment-authorization")
    response_fields: ClassVar[tuple[str, ...]] = ("WWW-Authenticate", "Payment-Receipt")

    # --- server

    def challenge(self, challenge: Challenge, context: Context) -> Envelope:
        """Return one `WWW-Authenticate: Payment` line per offer that MPP can say."""
        return Envelope(fields=[("WWW-Authenticate", made.line()) for made in self._made(challenge, context)])

    def challenges(self, challenge: Challenge, context: Context) -> list[dict[str, str]]:
        """Return the parameters of the challenge for each offer that MPP can say, as the client prefers them."""
        return [made.params() for made in self._made(challenge, context)]

    def _made(self, challenge: Challenge, context: Context) -> list[Made]:
        made = self._made_of(challenge.offers, challenge, context)
        return preferred(challenge.preference, made, Made.method_and_intent) if challenge.preference else made

    def envelope(self, offer: Offer, challenge: Challenge, context: Context) -> Mapping[str, Any] | None:
        """Return the parameters of the challenge that says `offer`; see `Dialect.envelope`."""
        made = self._made_of([offer], challenge, context)
        return {"challenge": made[0].params()} if made else None

    def _made_of(self, offers: Iterable[Offer], challenge: Challenge, context: Context) -> list[Made]:
        body_digest = challenge.order.body_digest
        digest = "" if body_digest == EMPTY_BODY_DIGEST else body_digest_field(body_digest)
        secret = _keys(context).derive("mpp")
        made = []
        for offer in offers:
            terms = written(self.name, offer, context, said)
            if terms is None:
                continue
            assert offer.token is not None
            params = make(
                terms,
                token=offer.token,
                realm=context.realm,
                description=challenge.description,
                digest=digest,
                expires=_timestamp(offer.expires_at),
                secret=secret,
            )
            made.append(params)
        return made

    def offer_of(self, envelope: Mapping[str, Any], context: Context) -> Offer:
        """Return the offer of a challenge that came back; its id proves it ours. See `Dialect.offer_of`."""
        challenge = envelope.get("challenge")
        if not isinstance(challenge, dict):
            raise MalformedInput("challenge", "must be the challenge's object")
        echoed, request, token = _ours(_echoed(challenge), context)
        return read_echo(self.name, _terms(echoed, request), token=token, context=context)[0]

    def payments(self, fields: Fields, body_digest: str, context: Context) -> list[Payment]:
        """Return the payment of the `Payment` credential; other schemes in `Authorization` are left alone.

        Raises:
            MalformedInput: the credential cannot be read, or there are two different ones (`several_payments`).
            PaymentRejected: `offer_unknown` where the challenge is none of ours, `resource_mismatch` where it was
                made for another body; else see `_rails.read_payment`.
        """
        credentials = {text for name in self.request_fields for text in _credentials(fields, name)}
        if not credentials:
            return []
        if len(credentials) > 1:
            raise MalformedInput("authorization", "holds two different payments; send one", code="several_payments")
        message = _read(lambda: from_base64(credentials.pop(), field="authorization"))
        digest = None if body_digest == EMPTY_BODY_DIGEST else body_digest_field(body_digest)
        payment = self.payment(message, "authorization", context, digest)
        if payment.envelope["challenge"].get("digest") not in (None, digest):
            refusal = PaymentRejected("the challenge was made for another request body", code="resource_mismatch")
            refusal.shown = [payment]
            raise refusal
        return [payment]

    def payment(self, message: Json, field: str, context: Context, digest: str | None = None) -> Payment:
        """Return the payment of a credential; `field` is where it was found, `digest` that of the request's body.

        Raises: see `payments`.
        """
        challenge, proof = message.get("challenge"), message.get("payload")
        try:
            if not isinstance(challenge, dict) or not isinstance(proof, dict):
                raise MalformedInput(field, "its challenge and payload must be objects", code="malformed_credential")
            echoed, request, token = _ours(_read(lambda: _echoed(challenge)), context, digest)
            envelope = {"challenge": echoed, "request": request}
            terms = _terms(echoed, request)
            return read_payment(self.name, terms, proof, token=token, envelope=envelope, context=context)
        except (MalformedInput, PaymentRejected) as error:
            if isinstance(proof, dict):
                error.shown = payments_in(self.name, proof, context, token=_token_in(challenge))
            raise

    def receipt(self, charge: Charge, payment: Payment, context: Context) -> Sequence[tuple[str, str]]:
        """Return `Payment-Receipt`; nothing where the charge is not settled: an error never carries a receipt."""
        receipt = self.receipt_of(charge, payment, context)
        return [] if receipt is None else [("Payment-Receipt", to_base64url(compact_json(receipt)))]

    def receipt_of(self, charge: Charge, payment: Payment, context: Context) -> dict[str, Any] | None:
        """Return the receipt of a settled charge, None for any other."""
        if charge.payment is not PaymentState.SETTLED:
            return None
        challenge, request = payment.envelope["challenge"], payment.envelope["request"]
        receipt = {
            "method": challenge["method"],
            "challengeId": challenge["id"],
            "reference": charge.transaction or "",
            "status": "success",
            "timestamp": _timestamp(context.now if charge.settled_at is None else charge.settled_at),
        }
        if isinstance(request.get("externalId"), str):
            receipt["externalId"] = request["externalId"]
        return receipt

    # --- client

    def offers(self, fields: Fields, body: bytes, context: Context) -> list[Offer]:
        """Return the offers of every `Payment` challenge, on however many lines and among other schemes.

        A challenge that no rail here knows is passed over. So is one that cannot be read, unless nothing else is left.

        Raises:
            MalformedInput: no challenge can be used and one of them cannot be read, or a line is too long.
        """
        schemes = [scheme for scheme in auth_params.challenges(fields) if scheme.name == "payment"]
        return read_offers(schemes, lambda scheme: self.offer(_challenge(scheme), context))

    def offer(self, challenge: Mapping[str, str], context: Context) -> Offer | None:
        """Return the offer of a challenge, None where no rail here knows it. Raises: see `offers`."""
        request = from_base64(challenge["request"], field="request", max_bytes=MAX_REQUEST)
        expires = challenge.get("expires")
        return read_offer(
            self.name,
            _terms(challenge, request),
            expires_at=context.now + DEFAULT_LIFETIME if expires is None else _unix_seconds(expires),
            envelope={"challenge": challenge},
            context=context,
        )

    def credential(self, offer: Offer, payload: dict[str, Any], context: Context) -> Sequence[tuple[str, str]]:
        """Return the credential, in the field that the challenge asks for, with the challenge exactly as it came."""
        message = {"challenge": _carried(offer), "payload": proof_on_the_wire(self.name, offer, payload, context)}
        return [(self.credential_field(offer).title(), f"Payment {to_base64url(compact_json(message))}")]

    def credential_field(self, offer: Offer) -> str:
        """Return `payment-authorization` where the challenge asks for it, else `authorization`."""
        return "payment-authorization" if "header" in _carried(offer) else "authorization"


# --- the server's challenges


def _keys(context: Context) -> OfferKeys:
    if context.keys is None:
        raise ConfigurationError("MPP needs the server's offer keys")
    return context.keys


def _ours(
    echoed: dict[str, str], context: Context, digest: str | None = None
) -> tuple[dict[str, str], dict[str, Any], str]:
    """Return an echoed challenge of ours, its request, and the offer's token."""
    if digest is not None and echoed["method"] in ECHO_THE_REQUEST_ONLY:
        echoed.setdefault("digest", digest)
    _check_ours(echoed, _keys(context))
    request = from_base64(echoed["request"], field="request")
    said = request[OFFER] if OFFER in request else from_base64(echoed.get("opaque", ""), field="opaque").get("token")
    token = said if isinstance(said, str) else ""
    parse_token(token)
    return echoed, request, token


def _token_in(challenge: object) -> str | None:
    """Return the token in the `opaque` of a challenge that came altered, None where it has none that can be read."""
    opaque = challenge.get("opaque") if isinstance(challenge, dict) else None
    try:
        said = from_base64(opaque, field="opaque") if isinstance(opaque, str) else opaque
    except MalformedInput:
        return None
    token = said.get("token") if isinstance(said, dict) else None
    return token if isinstance(token, str) else None


def _terms(challenge: Mapping[str, str], request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a rail reads: see `Binding`."""
    return {"method": challenge["method"], "intent": challenge["intent"], "request": request}


def _check_ours(challenge: Mapping[str, str], keys: OfferKeys) -> None:
    claimed = challenge["id"].encode()
    ids = [challenge_id(secret, challenge).encode() for secret in keys.derive_all("mpp")]
    if not any(hmac.compare_digest(known, claimed) for known in ids):
        raise PaymentRejected("the challenge was not made by this server, or was altered", code="offer_unknown")


# --- reading


def _credentials(fields: Fields, name: str) -> list[str]:
    found = []
    for line in fields.all(name):
        if len(line) > MAX_HEADER_BYTES:
            raise MalformedInput(name, f"is longer than {MAX_HEADER_BYTES} bytes")
        found += [scheme.token for scheme in auth_params.parse(line) if scheme.name == "payment"]
    return found


def _read(read: Callable[[], T]) -> T:
    """Return what `read` does; a credential that it cannot read gets 402 and a fresh challenge, as the draft wants."""
    try:
        return read()
    except MalformedInput as error:
        error.code = "malformed_credential"
        raise


def _echoed(value: Mapping[str, Any]) -> dict[str, str]:
    """Return the members of a challenge that a client sent back; empty and unknown ones are passed over."""
    members = {name: value[name] for name in (*_REQUIRED, *_OPTIONAL) if value.get(name) not in (None, "")}
    opaque = members.get("opaque")
    if isinstance(opaque, dict):  # older clients send it decoded
        if not all(isinstance(text, str) for text in opaque.values()):
            raise MalformedInput("challenge.opaque", "its members must be texts")
        members["opaque"] = to_base64url(canonical_json(opaque))
    for name, text in members.items():
        if not isinstance(text, str):
            raise MalformedInput(f"challenge.{name}", "must be a text")
    if "digest" in members:  # RFC 9530 puts colons round the value, the SDKs do not
        members["digest"] = re.sub(r"^sha-256=:(.*):$", r"sha-256=\1", members["digest"])
    return _complete(members)


def _challenge(scheme: auth_params.Scheme) -> dict[str, str]:
    """Return the challenge that a server sent, ready to be echoed."""
    found: dict[str, str] = {}
    seen = set()
    for name, text in scheme.params:
        if name in seen:
            raise MalformedInput("www-authenticate", f"a Payment challenge has the parameter {name[:32]} twice")
        seen.add(name)
        if name in _REQUIRED or name in _OPTIONAL:
            if text is None:
                raise MalformedInput("www-authenticate", f"the text of {name} never ends")
            found[name] = text
    return check_challenge(found)


def check_challenge(members: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters of a challenge that a server sent, ready to be echoed; unknown ones are passed over.

    Raises:
        MalformedInput: one of them is missing or wrong.
    """
    known = {name: members[name] for name in (*_REQUIRED, *_OPTIONAL) if members.get(name) is not None}
    for name, text in known.items():
        if not isinstance(text, str):
            raise MalformedInput(f"challenge.{name}", "must be a text")
    challenge = _complete(known)
    if not _METHOD.fullmatch(challenge["method"]) or not _INTENT.fullmatch(challenge["intent"]):
        raise MalformedInput("www-authenticate", "method and intent must be plain names")
    header = challenge.get("header", "authorization").lower()
    if header == "authorization":
        challenge.pop("header", None)  # the default is never echoed
    elif header != "payment-authorization":  # a peer must not choose which of our fields it writes
        raise MalformedInput("www-authenticate", "header may only name Payment-Authorization")
    return challenge


def _carried(offer: Offer) -> Mapping[str, Any]:
    """Return the challenge that an offer of ours came in."""
    assert offer.envelope is not None
    challenge: Mapping[str, Any] = offer.envelope["challenge"]
    return challenge


def _complete(challenge: dict[str, str]) -> dict[str, str]:
    for name in _REQUIRED:
        if not challenge.get(name):
            raise MalformedInput(f"challenge.{name}", "is missing or empty")
    return challenge


@lru_cache(maxsize=64)
def _timestamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _unix_seconds(text: str) -> int:
    """Read an RFC 3339 time, rounded down to whole seconds."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise MalformedInput("challenge.expires", "is not an RFC 3339 time") from error
    if moment.tzinfo is None:
        raise MalformedInput("challenge.expires", "has no time zone")
    return int(moment.timestamp() // 1)
