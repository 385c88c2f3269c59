"""Signed offers and receipts of x402 in the format `eip712` (extension `offer-receipt`, sections 3.2 to 5.5). Pure.

The typed data's domain is the same for every network, and none of its types travels with it:

    keccak256(0x1901 || domain separator || keccak256(type hash || one 32-byte word per member))
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from rail402.errors import MalformedInput, PaymentRejected
from rail402.protocol.base import Json
from rail402.protocol.offer_receipt import OfferTerms, ReceiptTerms, read_terms
from rail402_base.eip3009 import keccak256, recover

__all__ = ["SignedOffer", "SignedReceipt", "offer_digest", "receipt_digest", "signed_offer", "signed_receipt"]

_DOMAIN_TYPE: Final = keccak256(b"EIP712Domain(string name,string version,uint256 chainId)")
_OFFER_TYPE: Final = keccak256(
    b"Offer(uint256 version,string resourceUrl,string scheme,string network,string asset,string payTo,string amount,"
    b"uint256 validUntil)"
)
_RECEIPT_TYPE: Final = keccak256(
    b"Receipt(uint256 version,string network,string resourceUrl,string payer,uint256 issuedAt,string transaction)"
)

_is_signature = re.compile(r"0x[0-9a-fA-F]{130}", re.ASCII).fullmatch


class SignedOffer(NamedTuple):
    """The terms that were signed, and the address that signed them: `terms.pay_to`, if the payee itself did."""

    terms: OfferTerms
    signer: str


class SignedReceipt(NamedTuple):
    """What was signed, and the address that signed it: compare it with one that is known to be the server's."""

    terms: ReceiptTerms
    signer: str


def signed_offer(artifact: object) -> SignedOffer:
    """Return the terms of a signed offer, and who signed them.

    Raises:
        MalformedInput: `receipt_invalid`: it is no offer of the format `eip712`, or its signature is none.
    """
    payload, signature = _parts(artifact)
    terms = read_terms(OfferTerms, payload)
    return SignedOffer(terms, _signer(offer_digest(terms), signature))


def signed_receipt(artifact: object) -> SignedReceipt:
    """Return what a signed receipt says, and who signed it. Raises: see `signed_offer`."""
    payload, signature = _parts(artifact)
    terms = read_terms(ReceiptTerms, payload)
    return SignedReceipt(terms, _signer(receipt_digest(terms), signature))


def offer_digest(terms: OfferTerms) -> bytes:
    """Return the 32 bytes that an offer's signature is over."""
    texts = (terms.resource_url, terms.scheme, terms.network, terms.asset, terms.pay_to, terms.amount)
    words = [_number(terms.version), *map(_text, texts), _number(terms.valid_until)]
    return _digest("x402 offer", _OFFER_TYPE, words)


def receipt_digest(terms: ReceiptTerms) -> bytes:
    """Return the 32 bytes that a receipt's signature is over."""
    words = [
        _number(terms.version),
        *map(_text, (terms.network, terms.resource_url, terms.payer)),
        _number(terms.issued_at),
        _text(terms.transaction),
    ]
    return _digest("x402 receipt", _RECEIPT_TYPE, words)


def _parts(artifact: object) -> tuple[Json, bytes]:
    members = artifact if isinstance(artifact, Mapping) else {}
    payload, signature = members.get("payload"), members.get("signature")
    if members.get("format") != "eip712" or not isinstance(payload, Mapping):
        raise _invalid("format", "must be eip712, with a payload")
    if not isinstance(signature, str) or not _is_signature(signature):
        raise _invalid("signature", "must be 0x and 130 hex digits")
    return payload, bytes.fromhex(signature[2:])


def _signer(digest: bytes, signature: bytes) -> str:
    try:
        return recover(digest, signature)
    except (MalformedInput, PaymentRejected) as error:
        raise _invalid("signature", "does not verify") from error


def _digest(name: str, type_hash: bytes, words: list[bytes]) -> bytes:
    domain = keccak256(_DOMAIN_TYPE + _text(name) + _text("1") + _number(1))
    return keccak256(b"\x19\x01" + domain + keccak256(type_hash + b"".join(words)))


def _text(value: str) -> bytes:
    try:
        return keccak256(value.encode())
    except UnicodeEncodeError as error:  # half a surrogate pair is no text
        raise _invalid("payload", "holds what is no text") from error


def _number(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _invalid(field: str, detail: str) -> MalformedInput:
    return MalformedInput(field, detail, code="receipt_invalid")
