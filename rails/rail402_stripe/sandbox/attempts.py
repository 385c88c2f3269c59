"""One attempt to pay a PaymentIntent: what is charged, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass

from rail402_stripe.sandbox import charges, tokens
from rail402_stripe.sandbox.call import Call, public, shown_in_error
from rail402_stripe.sandbox.cards import card_of, payment_method
from rail402_stripe.sandbox.errors import ApiError, JsonObject, invalid

__all__ = ["Attempt", "Means", "attempt", "finish", "means"]

_DOC_URL = "https://docs.stripe.com/error-codes#"


@dataclass(frozen=True, slots=True)
class Means:
    """What the request wants charged: a payment method, a shared payment token, or nothing new.

    Attributes:
        method: a payment method's id or a test card's name.
        token: a shared payment token.
        param: the parameter it came in.
    """

    method: str | None
    token: str | None
    param: str

    def resolved(self, call: Call, customer: str | None) -> JsonObject:
        """Return the payment method named directly; what a customer saved may be used again and again.

        Raises:
            ApiError: 400; there is none of that name, another customer owns it, or it has been used and nobody owns it:
                then it pays once. Above all, what a shared payment token was turned into never pays past the token's
                limits.
        """
        assert self.method is not None
        known = call.books.find("payment_method", self.method)
        if known is not None and known["customer"] is not None:
            if known["customer"] == customer:
                return known
            raise invalid(self.param, f"The customer does not have a payment method with the ID {self.method}.")
        if known is not None:
            message = "This PaymentMethod was used before without a Customer attachment. It may not be used again."
            raise invalid(self.param, message)
        return payment_method(call, self.method, param=self.param)


@dataclass(frozen=True, slots=True)
class Attempt:
    """How the attempt is made.

    Attributes:
        means: what is charged.
        off_session: nobody is there to authenticate: a card that wants it declines.
        fail_on_action: the caller cannot handle an authentication step: a card that wants it declines.
        return_url: where the bank's page would send the cardholder back.
    """

    means: Means
    off_session: bool = False
    fail_on_action: bool = False
    return_url: str | None = None

    @classmethod
    def of(cls, call: Call, wanted: Means) -> Attempt:
        """Read the request's own settings."""
        return cls(
            wanted,
            off_session=call.params.boolean("off_session"),
            fail_on_action=call.params.boolean("error_on_requires_action"),
            return_url=call.params.text("return_url"),
        )


def means(call: Call) -> Means:
    """Read what the request wants charged. A shared payment token is taken in both of its spellings.

    Previews before 2026-04-22 have `shared_payment_granted_token`, later ones
    `payment_method_data[shared_payment_granted_token]`.

    Raises:
        ApiError: 400; more than one was given, or data that the sandbox does not take.
    """
    data = call.params.child("payment_method_data")
    data.only(("shared_payment_granted_token", "type"))
    found = [
        Means(call.params.text("payment_method"), None, "payment_method"),
        Means(None, call.params.text("shared_payment_granted_token"), "shared_payment_granted_token"),
        Means(None, data.text("shared_payment_granted_token"), data.label("shared_payment_granted_token")),
    ]
    given = [one for one in found if one.method is not None or one.token is not None]
    if len(given) > 1:
        raise invalid(
            given[1].param, f"You may only specify one of these parameters: {given[0].param}, {given[1].param}."
        )
    if not given and "payment_method_data" in call.params:
        raise invalid("payment_method_data", "The sandbox takes no card data; name a test card such as pm_card_visa.")
    return given[0] if given else Means(None, None, "payment_method")


def attempt(call: Call, intent: JsonObject, how: Attempt) -> None:
    """Try to pay the PaymentIntent; its new state is in `intent`, which the caller writes back.

    Raises:
        ApiError: 402; the card was declined, and the PaymentIntent is written back in that state. 400; nothing to
            charge.
    """
    method = _method(call, intent, how.means)
    if "card" not in intent["payment_method_types"]:
        message = "The payment method's type, card, is not among this PaymentIntent's payment_method_types."
        raise invalid(how.means.param, message, "payment_intent_incompatible_payment_method")
    intent |= {"payment_method": method["id"], "next_action": None, "last_payment_error": None}
    card = card_of(method)
    if card.authentication and how.off_session:
        message = "Your card was declined. This transaction requires authentication."
        _decline(call, intent, method, ("authentication_required", "authentication_required", message))
    elif card.authentication and how.fail_on_action:
        message = "Your card was declined. This transaction requires authentication, which was not handled."
        _decline(call, intent, method, ("card_declined", "authentication_not_handled", message))
    elif card.authentication:
        # What is charged once the cardholder has authenticated.
        intent |= {"status": "requires_action", "_granted_token": how.means.token}
        intent["next_action"] = _next_action(call, intent, how.return_url)
    elif card.decline_code is not None:
        _decline(call, intent, method, (card.error_code, card.decline_code, card.decline_message))
    else:
        _approve(call, intent, method, how.means.token)


def finish(call: Call, intent: JsonObject, *, approved: bool) -> None:
    """Go on with an attempt after the cardholder has authenticated, or has failed to; see `attempt`.

    Raises:
        ApiError: 402; the card was declined.
    """
    method = call.books.find("payment_method", intent["payment_method"])
    assert method is not None, "a PaymentIntent names only payment methods that exist"
    intent["next_action"] = None
    card = card_of(method)
    if not approved:
        code = "payment_intent_authentication_failure"
        _decline(call, intent, method, (code, code, "The cardholder could not be authenticated."))
    elif card.decline_code is not None:
        _decline(call, intent, method, ("card_declined", card.decline_code, card.decline_message))
    else:
        _approve(call, intent, method, intent["_granted_token"])


def _method(call: Call, intent: JsonObject, wanted: Means) -> JsonObject:
    if wanted.token is not None:
        token = tokens.chargeable(
            call, wanted.token, param=wanted.param, amount=intent["amount"], currency=intent["currency"]
        )
        # The seller gets a payment method of its own, cloned from the payer's.
        payers = call.books.find("payment_method", token["_payment_method"])
        assert payers is not None, "a token names only payment methods that exist"
        return call.books.insert(payers | {"id": call.new_id("pm"), "created": call.now})
    if wanted.method is not None and wanted.method != intent["payment_method"]:
        return wanted.resolved(call, intent["customer"])
    if intent["payment_method"] is None or intent["status"] == "requires_payment_method":
        message = "You cannot confirm this PaymentIntent because it's missing a payment method."
        raise ApiError(400, message, code="payment_intent_unexpected_state", effect="refused")
    return payment_method(call, intent["payment_method"], param="payment_method")


def _approve(call: Call, intent: JsonObject, method: JsonObject, token_id: str | None) -> None:
    charge = charges.authorize(call, intent, method)
    intent |= {"latest_charge": charge["id"], "_granted_token": token_id}
    if intent["capture_method"] == "manual":
        intent |= {"status": "requires_capture", "amount_capturable": intent["amount"]}
        if token_id is not None:
            tokens.reserve(call, token_id, intent["id"])
        return
    charges.capture(call, charge["id"], intent["amount"])
    intent |= {"status": "succeeded", "amount_received": intent["amount"]}
    if token_id is not None:
        tokens.consume(call, token_id, intent["amount"])


def _decline(call: Call, intent: JsonObject, method: JsonObject, why: tuple[str, str, str]) -> None:
    code, decline_code, message = why
    charge = charges.fail(call, intent, method)
    error = {
        "charge": charge["id"],
        "code": code,
        "decline_code": decline_code,
        "doc_url": _DOC_URL + code.replace("_", "-"),
        "message": message,
        "payment_method": public(method),
        "type": "card_error",
    }
    intent |= {
        "status": "requires_payment_method",
        "payment_method": None,
        "latest_charge": charge["id"],
        "last_payment_error": error,
    }
    call.books.replace(intent)
    extra = {name: error[name] for name in ("charge", "decline_code", "doc_url", "payment_method")}
    shown = shown_in_error(call, intent)
    raise ApiError(402, message, kind="card_error", code=code, effect="kept", extra=extra | {"payment_intent": shown})


def _next_action(call: Call, intent: JsonObject, return_url: str | None) -> JsonObject:
    if return_url is not None:
        url = f"{call.public_url}/c/authenticate/{intent['id']}"
        return {"type": "redirect_to_url", "redirect_to_url": {"return_url": return_url, "url": url}}
    return {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}}
