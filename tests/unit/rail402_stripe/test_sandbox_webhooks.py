from __future__ import annotations

from typing import Any

import pytest
import stripe

from rail402.errors import ConfigurationError
from rail402_stripe.client import RailStripeClient
from rail402_stripe.sandbox import Sandbox, signed_event

SECRET = "whsec_for_tests"


async def test_the_real_library_verifies_and_reads_a_delivery(
    client: RailStripeClient, sandbox: Sandbox, clock: Any
) -> None:
    intent = await client.v1.payment_intents.create_async(
        {
            "amount": 500,
            "currency": "usd",
            "payment_method": "pm_card_visa",
            "confirm": True,
            "metadata": {"n": "\N{EURO SIGN}"},
        }
    )
    delivery = sandbox.webhook("payment_intent.succeeded", intent.id, webhook_secret=SECRET)
    event = client.construct_event(delivery.payload, delivery.signature, SECRET, tolerance=0)
    assert (event.type, event.created, event.livemode) == ("payment_intent.succeeded", clock.now, False)
    assert event.data.object["id"] == intent.id
    assert event.data.object["metadata"]["n"] == "\N{EURO SIGN}"
    assert b'"_' not in delivery.payload
    again = sandbox.webhook("payment_intent.succeeded", intent.id, webhook_secret=SECRET)
    assert client.construct_event(again.payload, again.signature, SECRET, tolerance=0).id != event.id


async def test_a_changed_delivery_or_another_secret_does_not_verify(client: RailStripeClient) -> None:
    document: dict[str, Any] = {"id": "pi_1", "object": "payment_intent", "amount": 500}
    delivery = signed_event("payment_intent.succeeded", document, webhook_secret=SECRET, event_id="evt_1", created=7)
    for payload, signature, secret in (
        (delivery.payload.replace(b"500", b"900"), delivery.signature, SECRET),
        (delivery.payload, delivery.signature.replace("t=7", "t=8"), SECRET),
        (delivery.payload, delivery.signature, "whsec_other"),
    ):
        with pytest.raises(stripe.SignatureVerificationError):
            client.construct_event(payload, signature, secret, tolerance=0)
    with pytest.raises(stripe.SignatureVerificationError, match="tolerance"):
        client.construct_event(delivery.payload, delivery.signature, SECRET, tolerance=300)


def test_the_signature_is_the_librarys_own() -> None:
    document: dict[str, Any] = {"id": "pi_1", "object": "payment_intent"}
    delivery = signed_event("payment_intent.created", document, webhook_secret=SECRET, event_id="evt_1", created=7)
    header = stripe.WebhookSignature.generate_signature_header(delivery.payload.decode(), SECRET, timestamp=7)
    assert delivery.signature == header
    assert SECRET not in repr(delivery)


async def test_deliveries_about_charges_refunds_and_sessions(client: RailStripeClient, sandbox: Sandbox) -> None:
    intent = await client.v1.payment_intents.create_async(
        {"amount": 500, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
    )
    refund = await client.v1.refunds.create_async({"payment_intent": intent.id})
    for event_type, object_id in (("charge.refunded", str(intent.latest_charge)), ("refund.created", refund.id)):
        delivery = sandbox.webhook(event_type, object_id, webhook_secret=SECRET)
        event = client.construct_event(delivery.payload, delivery.signature, SECRET, tolerance=0)
        assert event.data.object["id"] == object_id
    with pytest.raises(ConfigurationError):
        sandbox.webhook("charge.refunded", "ch_unknown", webhook_secret=SECRET)
