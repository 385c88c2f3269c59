"""The sandbox's errors, in the shape Stripe gives them: `{"error": {"type", "code", "message", "param", ...}}`.

Codes and messages follow docs.stripe.com/error-codes and docs.stripe.com/api/errors. Where Stripe publishes no code
for a case (the limits of a shared payment token) the nearest general one is used: nothing should branch on those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

__all__ = [
    "ApiError",
    "Effect",
    "JsonObject",
    "invalid",
    "missing_param",
    "no_such",
    "unexpected_state",
    "unknown_param",
]

JsonObject = dict[str, Any]

Effect = Literal["not_begun", "refused", "kept"]
"""What a request that ends in an error leaves behind.

`not_begun`: nothing; it was not valid, and its idempotency key stays free. `refused`: nothing but the answer, which
is saved under the key. `kept`: its changes (a declined PaymentIntent exists) and the saved answer.
"""


class ApiError(Exception):
    """A request that ends in an error answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        effect: Effect = "not_begun",
        extra: Mapping[str, object] | None = None,
    ) -> None:
        self.status = status
        self.effect = effect
        details = {"code": code, "message": message, "param": param, "type": kind, **(extra or {})}
        self.body: JsonObject = {"error": {name: value for name, value in details.items() if value is not None}}
        super().__init__(message)


def invalid(param: str | None, message: str, code: str | None = None) -> ApiError:
    """Return the 400 for a parameter that cannot be used."""
    return ApiError(400, message, code=code, param=param)


def missing_param(param: str) -> ApiError:
    """Return the 400 for a required parameter that was not sent."""
    return invalid(param, f"Missing required param: {param}.", "parameter_missing")


def unknown_param(param: str) -> ApiError:
    """Return the 400 for a parameter the endpoint does not know."""
    return invalid(param, f"Received unknown parameter: {param}", "parameter_unknown")


def no_such(kind: str, object_id: str, *, param: str = "id", status: int = 400) -> ApiError:
    """Return the error for an object that does not exist: 404 if the path names it, 400 if a parameter does."""
    return ApiError(status, f"No such {kind}: '{object_id}'", code="resource_missing", param=param, effect="refused")


def unexpected_state(message: str, payment_intent: JsonObject) -> ApiError:
    """Return the 400 for an operation that the PaymentIntent's status forbids."""
    return ApiError(
        400,
        message,
        code="payment_intent_unexpected_state",
        effect="refused",
        extra={"payment_intent": payment_intent},
    )
