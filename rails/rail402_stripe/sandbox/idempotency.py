"""Idempotency keys, as docs.stripe.com/api/idempotent_requests has them.

The first request's status and body are saved once its execution has begun, declines and server errors too; the same
key with the same parameters gets them again, marked as a replay. Another endpoint or other parameters under the key
are an error, and so is a second request while the first is in flight. Requests that were not valid leave their key
free.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

from rail402_stripe.sandbox.errors import ApiError
from rail402_stripe.sandbox.forms import Params
from rail402_stripe.sandbox.ledger import Books

__all__ = ["KEPT_SECONDS", "Saved", "checked_key", "claim", "release", "save"]

KEPT_SECONDS = 24 * 3600
"""Stripe keeps keys for at least this long; the sandbox, for exactly this long."""

_IN_FLIGHT_SECONDS = 60  # a claim this old belongs to a process that died
_KEY = re.compile(r"[\x20-\x7e]{1,255}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Saved:
    """The first request's answer."""

    status: int
    body: str
    request_id: str


def checked_key(header: str | None) -> str | None:
    """Return the header's key, or None if there is none.

    Raises:
        ApiError: 400; the key is empty, longer than 255 characters or not printable ASCII.
    """
    if header is not None and not _KEY.fullmatch(header):
        raise ApiError(400, "Idempotency keys are 1 to 255 printable ASCII characters.", kind="idempotency_error")
    return header


def claim(books: Books, key: str, path: str, params: Params, *, now: int, request_id: str) -> Saved | None:
    """Take the key for this request, or return what the key already answered.

    Raises:
        ApiError: 400; the key belongs to another request. 409; its first request is in flight.
    """
    books.connection.execute(
        "DELETE FROM idempotency WHERE claimed_at <= ? OR (status IS NULL AND claimed_at <= ?)",
        (now - KEPT_SECONDS, now - _IN_FLIGHT_SECONDS),
    )
    digest = hashlib.sha256(json.dumps(params.canonical(), sort_keys=True).encode()).digest()
    row = books.connection.execute(
        "SELECT path, digest, request_id, status, body FROM idempotency WHERE key = ?", (key,)
    ).fetchone()
    if row is None:
        values = (key, path, digest, request_id, now)
        books.connection.execute(
            "INSERT INTO idempotency (key, path, digest, request_id, claimed_at) VALUES (?, ?, ?, ?, ?)", values
        )
        return None
    first_path, first_digest, first_request_id, status, body = row
    if first_path != path:
        raise _misused("Keys for idempotent requests can only be used for the same endpoint they were first used for.")
    if first_digest != digest:
        raise _misused(
            "Keys for idempotent requests can only be used with the same parameters they were first used with."
        )
    if status is None:
        message = "There is currently another in-progress request using this Idempotent Key. Please try again later."
        raise ApiError(409, message, kind="idempotency_error", code="idempotency_key_in_use")
    return Saved(status, body, first_request_id)


def save(books: Books, key: str, status: int, body: str) -> None:
    """Save the answer of the request that holds the key."""
    books.connection.execute("UPDATE idempotency SET status = ?, body = ? WHERE key = ?", (status, body, key))


def release(books: Books, key: str) -> None:
    """Free the key of a request that left no answer to save."""
    books.connection.execute("DELETE FROM idempotency WHERE key = ? AND status IS NULL", (key,))


def _misused(message: str) -> ApiError:
    return ApiError(400, message, kind="idempotency_error")
