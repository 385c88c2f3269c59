"""L402, and LSAT as it was called before: a macaroon and an invoice in a 402, the macaroon and the preimage in return.

The macaroon's identifier is `version (2 bytes) | payment hash (32) | token id (32)`, and one caveat of ours holds the
offer's token, so that nothing has to be kept per 402 but the row that Lightning has anyway. Anybody who has the
macaroon can restrict it further (`rail402_valid_until=…`). Unlike the reference server, which passes over caveats that
it does not know, this one refuses them: a restriction that nobody checks is none.

To the client the token is opaque. It may be no macaroon at all; where it is one, its payment hash must be the
invoice's.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal

from rail402.dialects import auth_params
from rail402.dialects._rails import as_it_is, payments_in, proof_on_the_wire, read_offer, read_offers, written
from rail402.dialects.macaroon import Macaroon, mint, parse
from rail402.errors import ConfigurationError, MalformedInput, PaymentRejected
from rail402.protocol.base import Json, hmac_sha256_again, sha256_hex
from rail402.protocol.binding import OfferKeys
from rail402.protocol.challenge import Challenge
from rail402.protocol.charge import Charge
from rail402.protocol.dialect import MAX_HEADER_BYTES, Context, Dialect, Envelope, Fields
from rail402.protocol.offer import Offer
from rail402.protocol.payment import Payment

__all__ = ["L402", "OFFER_CAVEAT", "VALID_UNTIL_CAVEAT"]

OFFER_CAVEAT: Final = "rail402_offer"
"""The condition of the one caveat that we mint: `rail402_offer=<the offer's token>`."""

VALID_UNTIL_CAVEAT: Final = "rail402_valid_until"
"""The condition that a holder may add: `rail402_valid_until=<Unix seconds>`."""

_PREIMAGE_CAVEAT: Final = "preimage"
_IDENTIFIER_BYTES: Final = 66
_SCHEMES: Final = ("l402", "lsat")
_CREDENTIAL: Final = re.compile(r"(?:l402|lsat)[ \t]+([A-Za-z0-9+/_=,-]+):([^\s:,]*)[ \t]*", re.IGNORECASE | re.ASCII)
_MENTIONED: Final = re.compile(r"(?:^|,)[ \t]*(?:l402|lsat)(?:[ \t]|$)", re.IGNORECASE)
_TOKEN: Final = re.compile(r"[\x21-\x39\x3b-\x7e]{1,8192}", re.ASCII)  # visible, and without the colon that ends it
_HEX: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_MISREAD: Final = re.compile(r"[0-9a-fA-F]{96}", re.ASCII)
"""What l402-requests 0.9 makes of a preimage from lnd: it takes the 64 hexadecimal digits for base64 of 48 bytes."""

_SECONDS: Final = re.compile(r"[0-9]{1,12}", re.ASCII)


class L402(Dialect):
    """L402 over HTTP."""

    name: ClassVar[str] = "l402"
    echo: ClassVar[Literal["full", "none"]] = "none"
    request_fields: ClassVar[tuple[str, ...]] = ("authorization",)
    response_fields: ClassVar[tuple[str, ...]] = ("WWW-Authenticate",)

    # --- server

    def challenge(self, challenge: Challenge, context: Context) -> Envelope:
        """Return the challenge of the first offer that has an invoice. The parameters serve old parsers and new."""
        for offer in challenge.offers:
            wire = written(self.name, offer, context, as_it_is)
            if wire is not None:
                token = base64.b64encode(_minted(wire, offer, context).serialize()).decode()
                value = f'L402 macaroon="{token}", invoice="{wire["invoice"]}", version="0", token="{token}"'
                return Envelope(fields=[("WWW-Authenticate", value)])
        return Envelope()

    def payments(self, fields: Fields, body_digest: str, context: Context) -> list[Payment]:
        """Return the payment of the `L402` or `LSAT` credential. One credential under both words is one payment.

        Raises:
            MalformedInput: it cannot be read, holds several macaroons, or there are two (`several_payments`).
            PaymentRejected: `offer_unknown` where the macaroon is not ours or was altered; `resource_mismatch` where a
                caveat is not known; `receipt_expired` where one has passed; `preimage_invalid`.
        """
        lines = [line.strip() for line in fields.all("authorization") if _MENTIONED.search(line)]
        found = {_read_credential(line) for line in lines}
        if not found:
            return []
        if len(found) > 1:
            raise MalformedInput("authorization", "holds two different payments; send one", code="several_payments")
        text, shown = found.pop()
        macaroon = parse(_from_base64(text))
        payment_hash = macaroon.identifier[2:34]
        try:
            token, caveat_preimage = _checked(macaroon, context)
            preimage = _preimage(shown or caveat_preimage, payment_hash)
        except (MalformedInput, PaymentRejected) as error:
            proofs = _proofs(_plain(shown), macaroon.identifier)
            error.shown = [payment for proof in proofs for payment in payments_in(self.name, proof, context)]
            raise
        proof = {"preimage": preimage, "paymentHash": payment_hash.hex()}
        payments = payments_in(self.name, proof, context, token=token)
        if not payments:
            raise PaymentRejected("no rail here takes an invoice", code="method_not_offered")
        return payments[:1]

    def receipt(self, charge: Charge, payment: Payment, context: Context) -> Sequence[tuple[str, str]]:
        """Return nothing: L402 has no receipts."""
        return []

    # --- client

    def offers(self, fields: Fields, body: bytes, context: Context) -> list[Offer]:
        """Return the offers of every `L402` and `LSAT` challenge; one that stands there under both words counts once.

        Raises:
            MalformedInput: none of them can be used, and one cannot be read.
        """
        schemes = [scheme for scheme in auth_params.challenges(fields) if scheme.name in _SCHEMES]
        schemes.sort(key=lambda scheme: _SCHEMES.index(scheme.name))
        offers = read_offers(schemes, lambda scheme: self._offer(scheme, context))
        return list({(offer.envelope or {})["token"]: offer for offer in reversed(offers)}.values())[::-1]

    def _offer(self, scheme: auth_params.Scheme, context: Context) -> Offer | None:
        params = dict(scheme.params)
        token, invoice = params.get("token") or params.get("macaroon"), params.get("invoice")
        if not token or not _TOKEN.fullmatch(token) or params.get("macaroon", token) != token:
            raise MalformedInput("www-authenticate", "an L402 challenge must have one token (or macaroon)")
        if not invoice:
            raise MalformedInput("www-authenticate", "an L402 challenge must have an invoice")
        return read_offer(
            self.name,
            {"invoice": invoice, "paymentHash": _hash_in(token)},
            expires_at=context.now,  # an invoice says itself until when it can be paid
            envelope={"scheme": scheme.name.upper(), "token": token},
            context=context,
        )

    def credential(self, offer: Offer, payload: dict[str, Any], context: Context) -> Sequence[tuple[str, str]]:
        """Return `Authorization`, with the scheme's name as the server wrote it."""
        assert offer.envelope is not None
        preimage = proof_on_the_wire(self.name, offer, payload, context)["preimage"]
        return [("Authorization", f"{offer.envelope['scheme']} {offer.envelope['token']}:{preimage}")]


# --- the server's macaroons


def _minted(wire: Json, offer: Offer, context: Context) -> Macaroon:
    assert offer.token is not None
    token_id = hashlib.sha256(b"rail402/l402/id\n" + offer.token.encode()).digest()
    identifier = bytes(2) + bytes.fromhex(wire["paymentHash"]) + token_id
    root_key = _root_key(_keys(context).derive("l402"), identifier)
    return mint(root_key, identifier, context.realm.encode(), [f"{OFFER_CAVEAT}={offer.token}".encode()])


def _keys(context: Context) -> OfferKeys:
    if context.keys is None:
        raise ConfigurationError("L402 needs the server's offer keys")
    return context.keys


def _root_key(secret: bytes, identifier: bytes) -> bytes:
    """Return the root key of a macaroon: one of its own for each, without having to keep it."""
    return hmac_sha256_again(secret, hashlib.sha256(identifier).digest())


def _checked(macaroon: Macaroon, context: Context) -> tuple[str, str]:
    """Return the offer's token, and a preimage where one of the caveats holds it, once the macaroon is known for ours.

    Raises:
        PaymentRejected: it is not, or a caveat does not hold.
    """
    secrets = _keys(context).derive_all("l402")
    identifier = macaroon.identifier
    known = any(macaroon.verifies(_root_key(secret, identifier)) for secret in secrets)
    if not known or len(identifier) != _IDENTIFIER_BYTES or identifier[:2] != bytes(2):
        raise PaymentRejected("the macaroon was not made by this server, or was altered", code="offer_unknown")
    ours, *added = (_condition(caveat) for caveat in macaroon.caveats)  # a macaroon of ours has its first caveat
    preimage = ""
    for condition, value in added:
        if condition == VALID_UNTIL_CAVEAT and _SECONDS.fullmatch(value):
            if context.now >= int(value):
                raise PaymentRejected("a caveat of the macaroon ends it earlier", code="receipt_expired")
        elif condition == _PREIMAGE_CAVEAT and not preimage:
            preimage = value
        else:
            raise PaymentRejected("the macaroon has a caveat that is not known here", code="resource_mismatch")
    return ours[1], preimage


def _condition(caveat: bytes) -> tuple[str, str]:
    try:
        condition, _, value = caveat.decode().partition("=")
    except UnicodeDecodeError:
        return "", ""
    return condition, value


# --- the client's credential


def _read_credential(line: str) -> tuple[str, str]:
    if len(line) > MAX_HEADER_BYTES:
        raise MalformedInput("authorization", f"is longer than {MAX_HEADER_BYTES} bytes")
    match = _CREDENTIAL.fullmatch(line)
    if match is None:
        raise MalformedInput("authorization", "must be L402, the macaroon in base64, a colon, and the preimage in hex")
    if "," in match[1]:
        raise MalformedInput("authorization", "holds several macaroons; send the one of the challenge")
    return match[1], match[2].lower()


def _from_base64(text: str) -> bytes:
    """Read standard or URL-safe base64, padded or not: all of them are about."""
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError as error:
        raise MalformedInput("macaroon", "is not base64") from error


def _plain(shown: str) -> str:
    return base64.b64encode(bytes.fromhex(shown)).decode() if _MISREAD.fullmatch(shown) else shown


def _preimage(shown: str, payment_hash: bytes) -> str:
    shown = _plain(shown)
    if _HEX.fullmatch(shown):
        if sha256_hex(bytes.fromhex(shown)) == payment_hash.hex():
            return shown
        if shown == payment_hash.hex():  # with a fresh challenge for an answer the client would pay twice
            raise MalformedInput("authorization", "has the payment hash; send the preimage, which proves the payment")
    raise PaymentRejected("the preimage is not that of the macaroon's payment hash", code="preimage_invalid")


def _proofs(preimage: str, identifier: bytes) -> list[Json]:
    """Return what a refused credential may prove: what its preimage pays, and what its macaroon names, by the hash."""
    proofs: list[Json] = []
    if _HEX.fullmatch(preimage):
        proofs.append({"preimage": preimage, "paymentHash": sha256_hex(bytes.fromhex(preimage))})
    if len(identifier) == _IDENTIFIER_BYTES:
        named = identifier[2:34].hex()
        proofs.append({"preimage": named, "paymentHash": named})
    return proofs


def _hash_in(token: str) -> str | None:
    """Return the payment hash in a token that is a macaroon of the usual form, None for any other token."""
    try:
        identifier = parse(_from_base64(token)).identifier
    except MalformedInput:
        return None
    is_usual = len(identifier) == _IDENTIFIER_BYTES and identifier[:2] == bytes(2)
    return identifier[2:34].hex() if is_usual else None
