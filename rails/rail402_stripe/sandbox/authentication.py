"""The bank's page (3-D Secure), on which a cardholder approves a payment or refuses it.

`{public_url}/c/authenticate/{id}` is where a PaymentIntent's `next_action` leads, and where Checkout does with a card
that wants its holder.
"""

from __future__ import annotations

import html

from rail402_stripe import currencies
from rail402_stripe.sandbox import checkout
from rail402_stripe.sandbox.attempts import finish
from rail402_stripe.sandbox.call import Call
from rail402_stripe.sandbox.checkout import HostedPage
from rail402_stripe.sandbox.errors import ApiError, JsonObject

__all__ = ["bank_page"]


def bank_page(call: Call, *, acting: bool) -> HostedPage:
    """Return the page; with `acting`, the cardholder has pressed one of its buttons: `outcome` is `approve` or `fail`.

    Raises:
        ApiError: 404; there is no such PaymentIntent. 400; there is no such button.
    """
    intent = call.own("payment_intent")
    waits = intent["status"] == "requires_action"
    if not acting or not waits:
        return _page(intent, waits=waits)
    back = (intent["next_action"].get("redirect_to_url") or {}).get("return_url")
    approved = call.params.choice("outcome", ("approve", "fail")) == "approve"
    try:
        finish(call, intent, approved=approved)
    except ApiError:  # declined: the PaymentIntent says so
        approved = False
    call.books.replace(intent)
    back = checkout.after_authentication(call, intent) or back
    return _page(intent, waits=False) if back is None else HostedPage(303, "", back)


def _page(intent: JsonObject, *, waits: bool) -> HostedPage:
    shown = f"{currencies.major_units(intent['amount'], intent['currency'])} {intent['currency'].upper()}"
    body = f"<p>There is nothing to approve: the payment is {html.escape(intent['status'])}.</p>"
    if waits:
        buttons = ("approve", "Approve"), ("fail", "Refuse")
        body = "".join(f'<button name="outcome" value="{value}">{label}</button> ' for value, label in buttons)
        body = f'<form method="post">{body}</form>'
    return HostedPage(
        200,
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Sandbox bank</title>'
        f"<h1>Sandbox bank: approve {shown}?</h1><p>No money moves here.</p>{body}</html>",
    )
