"""PaymentIntents: create, confirm, capture, cancel, retrieve, list (docs.stripe.com/api/payment_intents).

    requires_payment_method → requires_confirmation → [requires_action] → requires_capture → succeeded
    and canceled from every state but succeeded

A declined attempt leads back to requires_payment_method and is answered with HTTP 402; the PaymentIntent exists all
the same.
"""

from __future__ import annotations

import hmac
import re

from rail402.errors import ConfigurationError
from rail402_stripe import currencies
from rail402_stripe.sandbox import charges, tokens
from rail402_stripe.sandbox.attempts import Attempt, attempt, means
from rail402_stripe.sandbox.call import Call, listing, rendered, shown_in_error
from rail402_stripe.sandbox.customers import existing
from rail402_stripe.sandbox.errors import ApiError, JsonObject, invalid, missing_param, no_such, unexpected_state
from rail402_stripe.sandbox.ledger import Page

__all__ = ["abandon", "cancel", "capture", "check_amount", "confirm", "create", "list_all", "new_intent", "retrieve"]

_MEANS = "payment_method payment_method_data shared_payment_granted_token"
# The last two lines are taken without effect: they change nothing about the money of a sandbox with one account.
_CREATE = (
    "amount currency confirm capture_method confirmation_method metadata customer automatic_payment_methods "
    "payment_method_types off_session error_on_requires_action return_url description receipt_email expand "
    "on_behalf_of transfer_group transfer_data application_fee_amount "
    "setup_future_usage statement_descriptor statement_descriptor_suffix payment_method_options hooks "
) + _MEANS
_CONFIRM = "client_secret off_session error_on_requires_action return_url receipt_email expand key " + _MEANS
_CONFIRMABLE = ("requires_payment_method", "requires_confirmation", "requires_action")
_CANCELLATION_REASONS = ("duplicate", "fraudulent", "requested_by_customer", "abandoned")
_METHOD_TYPE = re.compile(r"[a-z_]{2,40}", re.ASCII)


def create(call: Call) -> JsonObject:
    """`POST /v1/payment_intents`; with `confirm=true` the first attempt is made at once."""
    params = call.params
    params.only(_CREATE.split())
    confirm_now = params.boolean("confirm")
    wanted = means(call)
    for name in ("off_session", "error_on_requires_action"):
        if params.boolean(name) and not confirm_now:
            raise invalid(name, f"You can only use `{name}` if you also set `confirm=true`.")
    amount, currency = _amount(call)
    intent = new_intent(call, amount, currency, metadata=params.metadata())
    intent["capture_method"] = (
        params.choice("capture_method", ("automatic", "automatic_async", "manual")) or "automatic_async"
    )
    intent["confirmation_method"] = params.choice("confirmation_method", ("automatic", "manual")) or "automatic"
    if "customer" in params:
        intent["customer"] = existing(call, params.required_text("customer"))
    for name in ("description", "receipt_email", "transfer_group", "on_behalf_of"):
        intent[name] = params.text(name)
    _method_types(call, intent)
    call.books.insert(intent)
    if confirm_now:
        attempt(call, intent, Attempt.of(call, wanted))
    elif wanted.token is not None:
        raise invalid(wanted.param, "A shared payment token can only be used with `confirm=true`.")
    elif wanted.method is not None:
        intent["payment_method"] = wanted.resolved(call, intent["customer"])["id"]
        intent["status"] = "requires_confirmation"
    call.books.replace(intent)
    return rendered(call, intent)


def new_intent(call: Call, amount: int, currency: str, *, metadata: dict[str, str]) -> JsonObject:
    """Return a PaymentIntent that nothing has been tried on; it is not in the ledger yet."""
    intent_id = call.new_id("pi")
    return {
        "id": intent_id,
        "object": "payment_intent",
        "amount": amount,
        "amount_capturable": 0,
        "amount_received": 0,
        "automatic_payment_methods": {"allow_redirects": "always", "enabled": True},
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": "automatic_async",
        "client_secret": f"{intent_id}_secret_{call.random_bytes(12).hex()}",
        "confirmation_method": "automatic",
        "created": call.now,
        "currency": currency,
        "customer": None,
        "description": None,
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "metadata": metadata,
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": None,
        "payment_method_types": ["card", "link"],
        "processing": None,
        "receipt_email": None,
        "setup_future_usage": None,
        "shipping": None,
        "source": None,
        "status": "requires_payment_method",
        "transfer_group": None,
        "_granted_token": None,
    }


def _amount(call: Call) -> tuple[int, str]:
    amount = call.params.integer("amount", least=1)
    if amount is None:
        raise missing_param("amount")
    code = call.params.required_text("currency")
    try:
        currency = currencies.currency(code)
    except ConfigurationError as error:
        raise invalid("currency", f"Invalid currency: {code[:20]}.") from error
    check_amount(amount, currency)
    return amount, currency.code


def check_amount(amount: int, currency: currencies.Currency) -> None:
    """Refuse what Stripe would not charge: too little, too much, or a fraction of what the currency has.

    Raises:
        ApiError: 400.
    """
    if currency.minimum is not None and amount < currency.minimum:
        least = currencies.major_units(currency.minimum, currency.code)
        raise invalid("amount", f"Amount must be at least {least} {currency.code}", "amount_too_small")
    if amount > currency.maximum:
        most = currencies.major_units(currency.maximum, currency.code)
        raise invalid("amount", f"Amount must be no more than {most} {currency.code}", "amount_too_large")
    if amount % currency.step:
        raise invalid("amount", f"Amounts in {currency.code} must be multiples of {currency.step}.")


def _method_types(call: Call, intent: JsonObject) -> None:
    automatic = call.params.child("automatic_payment_methods")
    automatic.only(("enabled", "allow_redirects"))
    redirects = automatic.choice("allow_redirects", ("always", "never"))
    types = call.params.texts("payment_method_types")
    if not all(_METHOD_TYPE.fullmatch(name) for name in types):
        raise invalid("payment_method_types", "The payment method types are not valid.")
    if types and automatic.boolean("enabled"):
        message = "You may only specify one of these parameters: automatic_payment_methods, payment_method_types."
        raise invalid("payment_method_types", message)
    if types:
        intent["payment_method_types"], intent["automatic_payment_methods"] = types, None
    else:
        intent["automatic_payment_methods"]["allow_redirects"] = redirects or "always"


def retrieve(call: Call) -> JsonObject:
    """`GET /v1/payment_intents/{id}`; with a publishable key only together with the client secret, and redacted."""
    call.params.only(("client_secret", "expand", "key"))
    intent = _own(call)
    _check_client_secret(call, intent)
    return rendered(call, intent)


def confirm(call: Call) -> JsonObject:
    """`POST /v1/payment_intents/{id}/confirm`."""
    call.params.only(_CONFIRM.split())
    intent = _own(call)
    _check_client_secret(call, intent)
    wanted = means(call)
    if call.publishable and intent["confirmation_method"] == "manual":
        raise invalid(None, "This PaymentIntent's confirmation_method is manual: confirm it with your secret key.")
    if intent["status"] not in _CONFIRMABLE:
        message = f"You cannot confirm this PaymentIntent because it has a status of {intent['status']}."
        raise unexpected_state(message, shown_in_error(call, intent))
    attempt(call, intent, Attempt.of(call, wanted))
    call.books.replace(intent)
    return rendered(call, intent)


def capture(call: Call) -> JsonObject:
    """`POST /v1/payment_intents/{id}/capture`: once, all of the authorized amount or a part; the rest is released."""
    call.params.only(("amount_to_capture", "metadata", "expand"))
    asked = call.params.integer("amount_to_capture", least=1)
    intent = _own(call)
    if intent["status"] != "requires_capture":
        message = f"This PaymentIntent could not be captured because it has a status of {intent['status']}."
        raise unexpected_state(message, shown_in_error(call, intent))
    amount = intent["amount_capturable"] if asked is None else asked
    if amount > intent["amount_capturable"]:
        message = "The amount to capture is greater than the amount that is capturable."
        raise ApiError(400, message, code="amount_too_large", param="amount_to_capture", effect="refused")
    charges.capture(call, intent["latest_charge"], amount)
    if intent["_granted_token"] is not None:
        tokens.consume(call, intent["_granted_token"], amount)
    intent["metadata"] |= call.params.metadata()
    intent |= {"status": "succeeded", "amount_received": amount, "amount_capturable": 0}
    call.books.replace(intent)
    return rendered(call, intent)


def cancel(call: Call) -> JsonObject:
    """`POST /v1/payment_intents/{id}/cancel`: an authorization is released, the token of an uncaptured one is free."""
    call.params.only(("cancellation_reason", "expand"))
    reason = call.params.choice("cancellation_reason", _CANCELLATION_REASONS)
    intent = _own(call)
    if intent["status"] in ("succeeded", "canceled"):
        message = f"You cannot cancel this PaymentIntent because it has a status of {intent['status']}."
        raise unexpected_state(message, shown_in_error(call, intent))
    _cancel(call, intent, reason)
    return rendered(call, intent)


def abandon(call: Call, intent: JsonObject) -> None:
    """Cancel a PaymentIntent by Stripe's own doing."""
    _cancel(call, intent, "automatic")


def _cancel(call: Call, intent: JsonObject, reason: str | None) -> None:
    if intent["status"] == "requires_capture":
        charges.release(call, intent["latest_charge"])
        if intent["_granted_token"] is not None:
            tokens.free(call, intent["_granted_token"])
    intent |= {"status": "canceled", "canceled_at": call.now, "cancellation_reason": reason}
    intent |= {"amount_capturable": 0, "next_action": None}
    call.books.replace(intent)


def list_all(call: Call) -> JsonObject:
    """`GET /v1/payment_intents`: newest first, by creation time (`created[gte]`, …), in pages."""
    call.params.only(("created", "customer", "limit", "starting_after", "expand"))
    created = call.params.child("created")
    created.only(("gt", "gte", "lt", "lte"))
    bounds = [(name, created.integer(name)) for name in ("gt", "gte", "lt", "lte")]
    starting_after = call.params.text("starting_after")
    if starting_after is not None and call.books.find("payment_intent", starting_after) is None:
        raise no_such("payment_intent", starting_after, param="starting_after")
    page = Page(
        kind="payment_intent",
        created=tuple((name, moment) for name, moment in bounds if moment is not None),
        starting_after=starting_after,
        limit=charges.page_limit(call),
    )
    found, has_more = call.books.page(page)
    for intent in found:
        _expire(call, intent)
    return listing(call, "/v1/payment_intents", found, has_more)


def _own(call: Call) -> JsonObject:
    intent = call.own("payment_intent")
    _expire(call, intent)
    return intent


def _expire(call: Call, intent: JsonObject) -> None:
    # Stripe cancels what nobody captured in time; nothing runs by itself here, so it happens when somebody looks.
    if intent["status"] == "requires_capture":
        charge = call.books.find("charge", intent["latest_charge"])
        if charge is not None and charge["created"] + charges.AUTHORIZATION_SECONDS <= call.now:
            abandon(call, intent)


def _check_client_secret(call: Call, intent: JsonObject) -> None:
    shown = call.params.text("client_secret")
    if shown is None and not call.publishable:
        return
    if shown is None:
        raise missing_param("client_secret")
    if not hmac.compare_digest(shown.encode(), intent["client_secret"].encode()):
        message = "The client_secret provided does not match the client_secret associated with the PaymentIntent."
        raise invalid("client_secret", message, "payment_intent_invalid_parameter")
