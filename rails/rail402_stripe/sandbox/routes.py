"""Which request leads to which endpoint."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from rail402_stripe.sandbox import charges, checkout, customers, intents, tokens
from rail402_stripe.sandbox.call import Call
from rail402_stripe.sandbox.errors import ApiError, JsonObject

__all__ = ["Route", "find_route"]

_ID = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint. `publishable`: a publishable key with the object's client secret may call it too."""

    method: str
    steps: tuple[str, ...]
    endpoint: Callable[[Call], JsonObject]
    publishable: bool


def _route(method: str, path: str, endpoint: Callable[[Call], JsonObject], *, publishable: bool = False) -> Route:
    return Route(method, tuple(path.split("/")), endpoint, publishable)


_ROUTES = (
    _route("POST", "/v1/payment_intents", intents.create),
    _route("GET", "/v1/payment_intents", intents.list_all),
    _route("GET", "/v1/payment_intents/{id}", intents.retrieve, publishable=True),
    _route("POST", "/v1/payment_intents/{id}/confirm", intents.confirm, publishable=True),
    _route("POST", "/v1/payment_intents/{id}/capture", intents.capture),
    _route("POST", "/v1/payment_intents/{id}/cancel", intents.cancel),
    _route("POST", "/v1/customers", customers.create),
    _route("GET", "/v1/customers/{id}", customers.retrieve),
    _route("POST", "/v1/payment_methods/{id}/attach", customers.attach),
    _route("GET", "/v1/charges/{id}", charges.retrieve_charge),
    _route("POST", "/v1/refunds", charges.create_refund),
    _route("GET", "/v1/refunds", charges.list_refunds),
    _route("GET", "/v1/refunds/{id}", charges.retrieve_refund),
    _route("GET", "/v1/balance", charges.retrieve_balance),
    _route("GET", "/v1/shared_payment/granted_tokens/{id}", tokens.retrieve),
    _route("POST", "/v1/shared_payment/issued_tokens", tokens.issue),
    _route("GET", "/v1/shared_payment/issued_tokens/{id}", tokens.retrieve_issued),
    _route("POST", "/v1/shared_payment/issued_tokens/{id}/revoke", tokens.revoke_issued),
    _route("POST", "/v1/test_helpers/shared_payment/granted_tokens", tokens.grant),
    _route("POST", "/v1/test_helpers/shared_payment/granted_tokens/{id}/revoke", tokens.revoke),
    _route("POST", "/v1/checkout/sessions", checkout.create),
    _route("GET", "/v1/checkout/sessions/{id}", checkout.retrieve),
    _route("POST", "/v1/checkout/sessions/{id}/expire", checkout.expire),
)


def find_route(method: str, path: str) -> tuple[Route, str]:
    """Return the endpoint and the id in the path, which is empty where the path has none.

    Raises:
        ApiError: 404; there is no such endpoint.
    """
    steps = path.split("/")
    for route in _ROUTES:
        if route.method == method and len(route.steps) == len(steps):
            ids = [step for step, wanted in zip(steps, route.steps, strict=True) if wanted == "{id}"]
            fixed = all(wanted in ("{id}", step) for step, wanted in zip(steps, route.steps, strict=True))
            if fixed and all(_ID.fullmatch(step) for step in ids):
                return route, "".join(ids)
    raise ApiError(404, f"Unrecognized request URL ({method[:10]}: {path[:200]}).", effect="refused")
