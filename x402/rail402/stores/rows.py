"""What the databases store of a charge and of a response: the same columns, whatever the database."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from pydantic import ValidationError

from rail402.errors import StoreError
from rail402.protocol.charge import Charge
from rail402.stores.base import Issued, StoredResponse

__all__ = [
    "ISSUED_KEPT",
    "PRUNE_BATCH",
    "charge_row",
    "decode_charge",
    "decode_issued",
    "decode_response",
    "readable_charges",
    "response_row",
]

logger = logging.getLogger("rail402.stores")

ISSUED_KEPT: Final = 3600
"""Seconds for which an issued row is kept after it expired."""

PRUNE_BATCH: Final = 500
"""How many rows one transaction deletes, so that other writers need not wait long."""


def charge_row(charge: Charge) -> dict[str, Any]:
    """Return the columns of a charge by name."""
    return {
        "id": charge.id,
        "version": charge.version,
        "payment": charge.payment.value,
        "delivery": charge.delivery.value,
        "lease_until": charge.lease_until,
        "created_at": charge.created_at,
        "valid_until": charge.valid_until,
        "uses": charge.uses,
        "uses_taken": charge.uses_taken,
        "charge": charge.model_dump_json(),
    }


def decode_charge(text: str) -> Charge:
    """Return the charge of a stored record.

    Raises:
        StoreError: this version cannot read it.
    """
    try:
        return Charge.model_validate_json(text)
    except ValidationError as error:
        raise StoreError("a stored charge cannot be read; was it written by another version of rail402?") from error


def readable_charges(rows: Iterable[Sequence[Any]], decode: Callable[..., Charge], told: set[str]) -> Iterator[Charge]:
    """Yield the charges of rows; one that this version cannot read is logged, and keeps nobody from the others.

    Args:
        rows: of an id, and what `decode` takes.
        told: the ids that were logged before.
    """
    for charge_id, *columns in rows:
        try:
            charge = decode(*columns)
        except StoreError as error:
            if charge_id not in told:
                told.add(charge_id)
                logger.error("charge %s is passed over: %s", charge_id, error.detail)
        else:
            yield charge


def response_row(charge_id: str, slot: str, response: StoredResponse) -> dict[str, Any]:
    """Return the columns of a response by name."""
    fields = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in response.fields]
    return {
        "id": charge_id,
        "slot": slot,
        "status": response.status,
        "fields": json.dumps(fields),
        "body": response.body,
    }


def decode_response(row: Sequence[Any]) -> StoredResponse:
    """Return the response of a row's status, fields and body."""
    status, fields, body = row
    lines = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in json.loads(fields))
    return StoredResponse(status, lines, body)


def decode_issued(row: Sequence[Any]) -> Issued:
    """Return the issued row of its key, order digest, offer and expiry."""
    key, order_digest, offer, expires_at = row
    return Issued(key=key, order_digest=order_digest, offer=offer, expires_at=expires_at)
