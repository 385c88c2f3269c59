"""Our own Stripe: the API that the rail and the wallet use, with nothing behind it but a ledger file.

The real `stripe` library talks to it, in the process itself (`sandbox_client`) or over a port (`Sandbox` is an ASGI
app). PaymentIntents with manual and automatic capture, refunds, shared payment tokens, customers, Checkout Sessions and
the bank's page (3-D Secure) for people, the balance, idempotency keys, publishable keys, test cards and minimums behave
as Stripe documents them.
Livemode keys are refused.
"""

from __future__ import annotations

from rail402_stripe.sandbox.app import SANDBOX_URL, Sandbox
from rail402_stripe.sandbox.faults import Fault, FaultAnswer
from rail402_stripe.sandbox.transport import SandboxTransport, sandbox_client
from rail402_stripe.sandbox.webhooks import SignedEvent, signed_event

__all__ = [
    "SANDBOX_URL",
    "Fault",
    "FaultAnswer",
    "Sandbox",
    "SandboxTransport",
    "SignedEvent",
    "sandbox_client",
    "signed_event",
]
