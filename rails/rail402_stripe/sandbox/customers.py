"""Customers and what they have saved (docs.stripe.com/api/customers, …/payment_methods/attach).

A payment method that is attached to a customer may be charged again and again, without the customer being there; any
other pays once.
"""

from __future__ import annotations

from rail402_stripe.sandbox.call import Call, rendered
from rail402_stripe.sandbox.cards import payment_method
from rail402_stripe.sandbox.errors import JsonObject, invalid, no_such

__all__ = ["attach", "create", "existing", "retrieve"]

_KIND = "customer"


def create(call: Call) -> JsonObject:
    """`POST /v1/customers`; `payment_method` is attached to the new customer."""
    params = call.params
    params.only(("name", "email", "description", "metadata", "payment_method", "expand"))
    customer: JsonObject = {
        "id": call.new_id("cus"),
        "object": _KIND,
        "created": call.now,
        "description": params.text("description"),
        "email": params.text("email"),
        "livemode": False,
        "metadata": params.metadata(),
        "name": params.text("name"),
    }
    call.books.insert(customer)
    method = params.text("payment_method")
    if method is not None:
        _attach(call, method, customer["id"], param="payment_method")
    return rendered(call, customer)


def retrieve(call: Call) -> JsonObject:
    """`GET /v1/customers/{id}`."""
    call.params.only(("expand",))
    return rendered(call, call.own(_KIND))


def attach(call: Call) -> JsonObject:
    """`POST /v1/payment_methods/{id}/attach`; a test card's name makes a new payment method."""
    call.params.only(("customer", "expand"))
    customer = existing(call, call.params.required_text("customer"))
    return rendered(call, _attach(call, call.object_id, customer, param="id"))


def existing(call: Call, customer: str) -> str:
    """Return the id of a customer that a parameter names.

    Raises:
        ApiError: 400; there is no such customer.
    """
    if call.books.find(_KIND, customer) is None:
        raise no_such(_KIND, customer, param="customer")
    return customer


def _attach(call: Call, name: str, customer: str, *, param: str) -> JsonObject:
    method = payment_method(call, name, param=param)
    if method["customer"] not in (None, customer):
        raise invalid(param, "The payment method you provided has already been attached to a customer.")
    method["customer"] = customer
    call.books.replace(method)
    return method
