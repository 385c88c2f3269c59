"""Checking the receipt that came with a paid response, by the issuer's pinned keys.

The keys are fetched at the first purchase from an origin and pinned in the journal. From then on a receipt counts only
if a pinned key signed it, or a key that the origin introduced: a JWK Set in which one of the pinned keys is still
listed. Whatever is wrong with a receipt, the response that was paid for is still handed over, with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from rail402.client.commands import Reply, Send, Steps, call, read, send
from rail402.client.records import PurchaseRecord
from rail402.client.services import Services
from rail402.errors import MalformedInput, Rail402Error
from rail402.protocol.base import parse_json
from rail402.protocol.offer import Flow
from rail402.protocol.receipt import Receipt, verify_receipt

__all__ = [
    "JWKS_PATH",
    "MAX_JWKS",
    "RECEIPT_FIELD",
    "UNVOUCHED",
    "CheckedReceipt",
    "check_receipt",
    "check_subject",
    "check_time",
    "read_keys",
]

RECEIPT_FIELD: Final = "receipt-record"
JWKS_PATH: Final = "/.well-known/rail402/jwks.json"
MAX_JWKS: Final = 65_536
UNVOUCHED: Final = (
    "is signed by a key that no pinned key of this origin vouches for; if its operator confirms the new key, "
    "forget the old ones in the journal"
)
_MAX_KEYS: Final = 32
_MAX_ERROR: Final = 400
_SKEW: Final = 300
"""Seconds by which the issuer's clock may differ from ours."""


@dataclass(frozen=True, slots=True)
class CheckedReceipt:
    """What came of a receipt: the token as it came, the receipt where it verified, the reason where it did not."""

    token: str | None = None
    receipt: Receipt | None = None
    error: str | None = None


def check_receipt(services: Services, reply: Reply, record: PurchaseRecord) -> Steps[CheckedReceipt]:
    """Verify the `Receipt-Record` of a reply, and that it is about this purchase."""
    token = None
    try:
        token = reply.fields.one(RECEIPT_FIELD)
        if token is None:
            return CheckedReceipt()
        receipt = yield from _verify(services, token, record.order.origin)
        check_subject(receipt, record)
        check_time(receipt, record, services.now())
    except (Rail402Error, httpx.TransportError, TimeoutError) as error:
        return CheckedReceipt(token, None, (str(error) or type(error).__name__)[:_MAX_ERROR])
    return CheckedReceipt(token, receipt)


def _verify(services: Services, token: str, origin: str) -> Steps[Receipt]:
    pinned = yield from call(lambda: services.journal.pinned(origin))
    if pinned:
        try:
            return verify_receipt(token, {"keys": list(pinned)}, issuer=origin)
        except MalformedInput:
            # Perhaps signed by a newer key; if the origin introduces it, the second check will say.
            pass
    keys = yield from _fetch_keys(origin)
    receipt = verify_receipt(token, {"keys": keys}, issuer=origin)
    if not (yield from call(lambda: services.journal.pin(origin, keys, now=services.now()))):
        raise MalformedInput(RECEIPT_FIELD, UNVOUCHED, code="receipt_invalid")
    return receipt


def _fetch_keys(origin: str) -> Steps[Sequence[Mapping[str, str]]]:
    reply = yield from send(Send(url=origin + JWKS_PATH))
    body = yield from read(reply, MAX_JWKS)
    if reply.status != 200 or body is None:
        raise MalformedInput("jwks", f"{origin} does not publish its receipt keys (status {reply.status})")
    return read_keys(body)


def read_keys(body: bytes) -> Sequence[Mapping[str, str]]:
    """Return the keys of a JWK Set that receipts may be signed with.

    Raises:
        MalformedInput: it is none.
    """
    keys = parse_json(body, field="jwks", max_bytes=MAX_JWKS).get("keys")
    if not isinstance(keys, list):
        raise MalformedInput("jwks.keys", "must be an array")
    ours = [{"kty": "OKP", "crv": "Ed25519", "x": key["x"], "kid": key["kid"]} for key in keys if _is_ours(key)]
    return ours[:_MAX_KEYS]


def _is_ours(key: Any) -> bool:
    return (
        isinstance(key, dict)
        and (key.get("kty"), key.get("crv")) == ("OKP", "Ed25519")
        and all(isinstance(key.get(name), str) and key[name].isprintable() for name in ("x", "kid"))
    )


def check_subject(receipt: Receipt, record: PurchaseRecord) -> None:
    """Check that the receipt is about this purchase and no other. Of what was reserved first, less may have been taken.

    Raises:
        MalformedInput: it is about another one; the message says in what.
    """
    order, offer = record.order, record.offer
    is_less = offer.flow is Flow.ESCROW and int(receipt.amount) < offer.amount
    expected = {
        "method": order.method,
        "resource": order.url,
        "request_digest": order.request_digest,
        "network": offer.network,
        "asset": offer.asset,
        "amount": receipt.amount if is_less else str(offer.amount),
        "payee": offer.payee,
    }
    for member, value in expected.items():
        said = str(getattr(receipt, member))
        # Addresses are the same in either case (EIP-55 writes a checksum into it).
        same = said.lower() == value.lower() if member in ("asset", "payee") else said == value
        if not same:
            detail = f"is {json.dumps(said[:200])}, not {value}"
            raise MalformedInput(f"{RECEIPT_FIELD}.{member}", detail, code="receipt_invalid")


def check_time(receipt: Receipt, record: PurchaseRecord, now: int) -> None:
    """Check that the receipt is not an earlier purchase's: what else it says is the same each time.

    Raises:
        MalformedInput: it is another one's.
    """
    if not record.created_at - _SKEW <= receipt.issued_at <= now + _SKEW:
        detail = f"is {receipt.issued_at}, which is not when this was bought; is a clock wrong?"
        raise MalformedInput(f"{RECEIPT_FIELD}.iat", detail, code="receipt_invalid")
