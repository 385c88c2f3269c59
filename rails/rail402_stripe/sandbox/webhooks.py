"""Signed webhook deliveries: `t=<seconds>,v1=<HMAC-SHA256 over "seconds.payload">`. Pure.

See docs.stripe.com/webhooks, "Verify webhook signatures manually".
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass

from rail402_stripe.sandbox.errors import JsonObject

__all__ = ["SignedEvent", "signed_event"]

_API_VERSION = "2026-10-28.endive"


@dataclass(frozen=True, slots=True)
class SignedEvent:
    """One delivery: the body's exact bytes, and the value of the `Stripe-Signature` header over them."""

    payload: bytes
    signature: str


def signed_event(
    event_type: str,
    document: JsonObject,
    *,
    webhook_secret: str,
    event_id: str,
    created: int,
    livemode: bool = False,
    signed_at: int | None = None,
) -> SignedEvent:
    """Build the delivery of an event.

    Args:
        event_type: such as `payment_intent.succeeded`.
        document: the object the event is about, as the API shows it.
        webhook_secret: the endpoint's `whsec_…`.
        event_id: `evt_…`; what a receiver tells repeated deliveries by.
        created: the time of the event, in Unix seconds.
        livemode: which of Stripe's modes it says it is of.
        signed_at: the time of the signature; that of the event unless told.
    """
    event = {
        "id": event_id,
        "object": "event",
        "api_version": _API_VERSION,
        "created": created,
        "data": {"object": document},
        "livemode": livemode,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": event_type,
    }
    payload = json.dumps(event).encode()
    at = created if signed_at is None else signed_at
    digest = hmac.new(webhook_secret.encode(), f"{at}.".encode() + payload, hashlib.sha256).hexdigest()
    return SignedEvent(payload, f"t={at},v1={digest}")
