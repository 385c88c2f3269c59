"""What sellers gave back: asked of them by the charge that a receipt names, believed where it is signed, written down.

A refund does not come with an answer: a seller gives money back when it likes. Its signed word for it is at
`/.well-known/rail402/receipts/<charge id>`. It is taken for this purchase's only if a pinned key signed it, or one that
the issuer has introduced since, and if it is about the very charge that the purchase's receipt is about. That the money
has come is for the wallet's own books to say.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from rail402.client.journal import Journal, JournalConflict
from rail402.client.receipts import JWKS_PATH, MAX_JWKS, UNVOUCHED, check_subject, check_time, read_keys
from rail402.client.records import PurchaseRecord, PurchaseState
from rail402.errors import MalformedInput, RailUnavailable
from rail402.money import Money
from rail402.protocol.base import parse_json
from rail402.protocol.receipt import Receipt, RefundReceipt, verify_receipt, verify_refund
from rail402.upstream import read_at_most

__all__ = ["LookedAt", "find_refunds", "may_be_refunded"]

_RECEIPTS: Final = "/.well-known/rail402/receipts/"
_SECONDS: Final = 10
_SAME: Final = ("charge", "rail", "network", "asset", "amount", "payee", "payer", "sandbox")

_is_charge = re.compile(r"[A-Za-z0-9_-]{1,80}", re.ASCII).fullmatch


@dataclass(frozen=True, slots=True)
class LookedAt:
    """A purchase as it stands after its seller was asked, or why the answer does not count."""

    record: PurchaseRecord
    error: str | None = None


def may_be_refunded(record: PurchaseRecord) -> bool:
    """Say whether a seller can be asked about a purchase: it is closed, has a receipt, and no refund is known of it."""
    return record.state is PurchaseState.COMMITTED and record.receipt is not None and record.refunded is None


async def find_refunds(
    journal: Journal, records: Iterable[PurchaseRecord], *, now: int, transport: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[LookedAt]:
    """Ask the sellers of these purchases, write down what they gave back, and yield each purchase that was asked about.

    Args:
        now: Unix seconds.
        transport: what requests are sent through; one of its own if left out.

    Raises:
        StoreError: the journal cannot be used.
    """
    async with httpx.AsyncClient(transport=transport, timeout=_SECONDS) as client:
        for record in filter(may_be_refunded, records):
            try:
                found = await _ask(journal, client, record, now)
                if found is not None:
                    record = await journal.refund(found, now=now)
                yield LookedAt(record)
            except (MalformedInput, RailUnavailable) as error:
                yield LookedAt(record, error.detail)
            except JournalConflict:  # another process has asked as well, and was faster
                yield LookedAt(await journal.get(record.id) or record)


async def _ask(journal: Journal, client: httpx.AsyncClient, record: PurchaseRecord, now: int) -> PurchaseRecord | None:
    """Return a purchase with its refund, None where there is none.

    Raises:
        MalformedInput: a receipt does not verify, or is about something else.
        RailUnavailable: its seller does not answer.
    """
    origin, offer = record.order.origin, record.offer
    keys = await journal.pinned(origin)
    receipt = verify_receipt(record.receipt or "", _set_of(keys), issuer=origin)
    check_subject(receipt, record)  # a receipt is kept as it came
    check_time(receipt, record, now)
    if not _is_charge(receipt.charge):
        raise MalformedInput("receipt.jti", "is no charge that could be asked about")
    body = await _get(client, origin, _RECEIPTS + receipt.charge)
    token = None if body is None else parse_json(body, field="receipts", max_bytes=MAX_JWKS).get("refund_receipt")
    if token is None:
        return None
    if not isinstance(token, str):
        raise MalformedInput("receipts.refund_receipt", "must be a text")
    try:
        refund = verify_refund(token, _set_of(keys), issuer=origin)
    except MalformedInput:  # perhaps signed by a newer key
        refund = await _by_newer_key(journal, client, token, origin, now)
    _check_subject(refund, receipt)
    amount = Money.from_atomic(int(refund.amount), offer.exponent, offer.currency)
    return record.changed(refunded=amount, refund_receipt=token)


async def _by_newer_key(
    journal: Journal, client: httpx.AsyncClient, token: str, origin: str, now: int
) -> RefundReceipt:
    """Verify a refund receipt by the keys that the issuer has now, where a pinned one is still among them."""
    keys = read_keys(await _get(client, origin, JWKS_PATH) or b"")
    refund = verify_refund(token, _set_of(keys), issuer=origin)
    if not await journal.pin(origin, keys, now=now):
        raise MalformedInput("refund_receipt", UNVOUCHED, code="receipt_invalid")
    return refund


def _set_of(keys: Iterable[Mapping[str, str]]) -> dict[str, Any]:
    return {"keys": [dict(key) for key in keys]}


async def _get(client: httpx.AsyncClient, origin: str, path: str) -> bytes | None:
    """Return a document of the issuer's; None where it has none (any more)."""
    try:
        async with (
            asyncio.timeout(_SECONDS),
            client.stream("GET", origin + path, headers={"accept": "application/json"}) as response,
        ):
            body = await read_at_most(response, MAX_JWKS)
    except (httpx.HTTPError, TimeoutError) as error:
        raise RailUnavailable(f"{origin} does not answer ({type(error).__name__})") from error
    if response.status_code == 404:
        return None
    if response.status_code != 200 or body is None:
        raise RailUnavailable(f"{origin} answered {response.status_code}, and no receipts")
    return body


def _check_subject(refund: RefundReceipt, receipt: Receipt) -> None:
    """Check that money of this very charge went back, and all of it: nothing else is ever given back.

    Raises:
        MalformedInput: it is about another one.
    """
    differing = [name for name in _SAME if getattr(refund, name) != getattr(receipt, name)]
    if refund.payment != receipt.transaction:
        differing.append("payment")
    if differing:
        raise MalformedInput("refund_receipt", f"is about another payment: its {', '.join(differing)} differ")
