"""Shared payment tokens: what a payer grants a seller, within limits (docs.stripe.com/agentic-commerce, preview API).

The payer's side issues a token (`/v1/shared_payment/issued_tokens`, or the seller's test helper), the seller looks at
it (`/v1/shared_payment/granted_tokens/{id}`) and confirms one PaymentIntent with it. Stripe says that `max_amount`
bounds what can be *captured* and that a token is `consumed` once the limit is reached, MPP says that a token is for
one payment. The sandbox is as strict as both allow: an authorized PaymentIntent keeps the token to itself, its
cancellation frees it, its capture consumes it, whatever was left of the limit.
"""

from __future__ import annotations

from rail402.errors import ConfigurationError
from rail402_stripe import currencies
from rail402_stripe.sandbox.call import Call, public
from rail402_stripe.sandbox.cards import payment_method
from rail402_stripe.sandbox.errors import ApiError, JsonObject, invalid, missing_param, no_such
from rail402_stripe.sandbox.forms import Params

__all__ = [
    "chargeable",
    "consume",
    "free",
    "grant",
    "issue",
    "reserve",
    "retrieve",
    "retrieve_issued",
    "revoke",
    "revoke_issued",
]

_KIND = "shared_payment.granted_token"
_CREATE = ("payment_method", "usage_limits", "seller_details", "shared_metadata", "customer", "expand")
_LIMITS = ("currency", "max_amount", "expires_at")
_SELLER = ("network_id", "network_business_profile", "external_id")


def grant(call: Call) -> JsonObject:
    """`POST /v1/test_helpers/shared_payment/granted_tokens`: a token as if a payer had issued it.

    Of the API's versions the older ones take `seller_details` and `metadata`, the newer ones refuse them: taken here.
    """
    call.params.only((*_CREATE, "metadata"))
    call.params.metadata()
    return public(_create(call, required_limits=("currency",)))


def issue(call: Call) -> JsonObject:
    """`POST /v1/shared_payment/issued_tokens`: the payer's own way, which names the seller and all limits."""
    call.params.only((*_CREATE, "return_url"))
    seller = call.params.child("seller_details")
    if seller.text("network_business_profile") is None and seller.text("network_id") is None:
        raise missing_param("seller_details[network_business_profile]")
    return _as_issued(_create(call, required_limits=_LIMITS))


def _create(call: Call, *, required_limits: tuple[str, ...]) -> JsonObject:
    method = payment_method(call, call.params.required_text("payment_method"), param="payment_method")
    token_id = call.new_id("spt")
    seller = call.params.child("seller_details")
    seller.only(_SELLER)
    document: JsonObject = {
        "id": token_id,
        "object": _KIND,
        "agent_details": {"network_business_profile": "profile_test_sandbox_agent"},
        "created": call.now,
        "deactivated_at": None,
        "deactivated_reason": None,
        "livemode": False,
        "payment_method_details": {"type": "card", "card": method["card"]},
        "shared_metadata": _texts(call.params.child("shared_metadata")),
        "usage_details": None,
        "usage_limits": _limits(call, required_limits),
        "_payment_method": method["id"],
        "_seller": seller.text("network_business_profile") or seller.text("network_id"),
        "_payment_intent": None,
    }
    document["usage_details"] = {
        "amount_captured": {"currency": document["usage_limits"]["currency"], "value": 0},
    }
    return call.books.insert(document)


def _texts(params: Params) -> dict[str, str]:
    values = params.canonical()
    return {name: params.required_text(name) for name in values} if isinstance(values, dict) else {}


def _limits(call: Call, required: tuple[str, ...]) -> JsonObject:
    limits = call.params.child("usage_limits")
    limits.only(_LIMITS)
    for name in required:
        limits.required_text(name)
    currency = limits.required_text("currency").lower()
    try:
        currencies.currency(currency)
    except ConfigurationError as error:
        raise invalid(limits.label("currency"), "Invalid currency.") from error
    expires_at = limits.integer("expires_at")
    if expires_at is not None and expires_at <= call.now:
        raise invalid(limits.label("expires_at"), "The expiration must be in the future.")
    return {"currency": currency, "expires_at": expires_at, "max_amount": limits.integer("max_amount", least=1)}


def retrieve(call: Call) -> JsonObject:
    """`GET /v1/shared_payment/granted_tokens/{id}`."""
    call.params.only(("expand",))
    return public(_own(call))


def retrieve_issued(call: Call) -> JsonObject:
    """`GET /v1/shared_payment/issued_tokens/{id}`."""
    call.params.only(("expand",))
    return _as_issued(_own(call))


def revoke_issued(call: Call) -> JsonObject:
    """`POST /v1/shared_payment/issued_tokens/{id}/revoke`: no charge may follow."""
    return revoke(call, issued=True)


def revoke(call: Call, *, issued: bool = False) -> JsonObject:
    """`POST /v1/test_helpers/shared_payment/granted_tokens/{id}/revoke`: no charge may follow."""
    call.params.only(("expand",))
    token = _own(call)
    if token["deactivated_at"] is not None:
        raise ApiError(400, f"This token was already deactivated ({token['deactivated_reason']}).", effect="refused")
    _deactivate(call, token, "revoked")
    return _as_issued(token) if issued else public(token)


def chargeable(call: Call, token_id: str, *, param: str, amount: int, currency: str) -> JsonObject:
    """Return a token that may be charged for the amount.

    Raises:
        ApiError: 400; it does not exist, is spent, revoked or expired, in use, made out to another seller, or for
            less money.
    """
    token = call.books.find(_KIND, token_id)
    if token is None:
        # The id is a bearer secret: the answer does not repeat it.
        raise no_such("shared payment granted token", f"{token_id[:4]}…", param=param)
    _expire(call, token)
    limits = token["usage_limits"]
    if token["deactivated_at"] is not None:
        reason = f"it has been deactivated ({token['deactivated_reason']})"
    elif token["_payment_intent"] is not None:
        reason = "another PaymentIntent is using it"
    elif token["_seller"] not in (None, call.profile_id):
        reason = "it was granted to another seller"
    elif limits["currency"] != currency:
        reason = f"it is limited to {limits['currency']}"
    elif limits["max_amount"] is not None and limits["max_amount"] < amount:
        reason = f"it is limited to {limits['max_amount']} {limits['currency']}"
    else:
        return token
    message = f"This shared payment token cannot be used: {reason}."
    raise ApiError(400, message, code="payment_intent_invalid_parameter", param=param, effect="refused")


def reserve(call: Call, token_id: str, intent_id: str) -> None:
    """Keep a token for the PaymentIntent it was authorized for."""
    _change(call, token_id, _payment_intent=intent_id)


def free(call: Call, token_id: str) -> None:
    """Give a token back: its PaymentIntent was cancelled before capture."""
    _change(call, token_id, _payment_intent=None)


def consume(call: Call, token_id: str, amount: int) -> None:
    """Spend a token: `amount` was captured with it."""
    token = _change(call, token_id)
    token["usage_details"]["amount_captured"]["value"] += amount
    if token["deactivated_at"] is None:
        token["deactivated_at"], token["deactivated_reason"] = call.now, "consumed"
    call.books.replace(token)


def _change(call: Call, token_id: str, **fields: str | None) -> JsonObject:
    token = call.books.find(_KIND, token_id)
    assert token is not None, "a PaymentIntent names only tokens that exist"
    token.update(fields)
    call.books.replace(token)
    return token


def _own(call: Call) -> JsonObject:
    token = call.books.find(_KIND, call.object_id)
    if token is None:
        raise no_such("shared payment token", f"{call.object_id[:4]}…", status=404)
    _expire(call, token)
    return token


def _expire(call: Call, token: JsonObject) -> None:
    expires_at = token["usage_limits"]["expires_at"]
    if token["deactivated_at"] is None and expires_at is not None and expires_at <= call.now:
        _deactivate(call, token, "expired", at=expires_at)


def _deactivate(call: Call, token: JsonObject, reason: str, *, at: int | None = None) -> None:
    token["deactivated_at"] = call.now if at is None else at
    token["deactivated_reason"] = reason
    call.books.replace(token)


def _as_issued(token: JsonObject) -> JsonObject:
    shown = public(token) | {
        "object": "shared_payment.issued_token",
        "next_action": None,
        "payment_method": token["_payment_method"],
        "seller_details": {"network_business_profile": token["_seller"]},
        "status": "active" if token["deactivated_at"] is None else "deactivated",
    }
    del shown["agent_details"], shown["payment_method_details"]
    return shown
