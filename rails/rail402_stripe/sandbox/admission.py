"""What happens to a request before it may touch the ledger: size, parameters, key, endpoint, idempotency key. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from rail402_stripe.sandbox.auth import authenticate, secret_key_required
from rail402_stripe.sandbox.errors import ApiError
from rail402_stripe.sandbox.exchange import MAX_BODY, Request
from rail402_stripe.sandbox.forms import Params, parse_form, reject_body_type
from rail402_stripe.sandbox.idempotency import checked_key
from rail402_stripe.sandbox.routes import Route, find_route

__all__ = ["Admitted", "admit", "read_params"]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that is readable and authenticated.

    Attributes:
        route: its endpoint.
        object_id: the id in the path, or empty.
        params: the query's or the body's parameters.
        publishable: it came with a publishable key.
        key: its idempotency key; None for reads and for publishable keys, which have none.
    """

    route: Route
    object_id: str
    params: Params
    publishable: bool
    key: str | None


def admit(request: Request) -> Admitted:
    """Read a request of the API.

    Raises:
        ApiError: 400, 401, 404 or 413; nothing was done.
    """
    params = read_params(request)
    publishable = authenticate(request.headers, params.text("key")) == "publishable"
    route, object_id = find_route(request.method, request.path)
    if publishable and not route.publishable:
        raise secret_key_required()
    keyed = request.method == "POST" and not publishable
    key = checked_key(request.headers.get("idempotency-key")) if keyed else None
    return Admitted(route, object_id, params, publishable, key)


def read_params(request: Request) -> Params:
    """Return the parameters: the query's of a GET, the body's of anything else.

    Raises:
        ApiError: 400; they cannot be decoded. 413; the body is too large.
    """
    if len(request.body) > MAX_BODY:
        raise ApiError(413, f"The request body is larger than {MAX_BODY} bytes.")
    if request.method == "GET":
        return parse_form(request.query)
    reject_body_type(request.headers.get("content-type", ""))
    return parse_form(request.body)
