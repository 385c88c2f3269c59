"""Charges and refunds: the only places where money moves.

A charge is authorized, then captured in full or in part, or released. Money is posted at capture and at a refund,
once each, so that captures less refunds are the balance. Stripe's fees are left out. What a capture or a cancellation
leaves over counts as refunded on the charge (`amount_refunded`), as it does at Stripe, but moves no money.

Most refunds succeed at once. Those of two test cards do not (docs.stripe.com/testing, "Refunds"): one is `pending` for
a while, the other fails after it had succeeded, and its money comes back.
"""

from __future__ import annotations

from rail402_stripe.currencies import currency, major_units
from rail402_stripe.sandbox.call import Call, listing, rendered
from rail402_stripe.sandbox.cards import card_of, payment_method
from rail402_stripe.sandbox.errors import ApiError, JsonObject, invalid, missing_param, no_such
from rail402_stripe.sandbox.ledger import Page

__all__ = [
    "AUTHORIZATION_SECONDS",
    "REFUND_SECONDS",
    "authorize",
    "capture",
    "create_refund",
    "fail",
    "list_refunds",
    "page_limit",
    "release",
    "retrieve_balance",
    "retrieve_charge",
    "retrieve_refund",
]

AUTHORIZATION_SECONDS = 7 * 24 * 3600
"""How long an authorization can be captured; afterwards Stripe cancels the PaymentIntent."""

REFUND_SECONDS = 60
"""After which a refund becomes what it ends as, where that is not what it begins as."""

_SETTLEMENT_SECONDS = 2 * 24 * 3600  # card money is pending for two days, then available
_REASONS = ("duplicate", "fraudulent", "requested_by_customer")


def authorize(call: Call, intent: JsonObject, method: JsonObject) -> JsonObject:
    """Add an approved, uncaptured charge for the whole amount."""
    return call.books.insert(_charge(call, intent, method))


def fail(call: Call, intent: JsonObject, method: JsonObject) -> JsonObject:
    """Add a declined charge."""
    card = card_of(method)
    declined = {
        "status": "failed",
        "paid": False,
        "failure_code": "card_declined",
        "failure_message": card.decline_message,
        "outcome": {"network_status": "declined_by_network", "reason": card.decline_code, "type": "issuer_declined"},
    }
    return call.books.insert(_charge(call, intent, method) | declined)


def _charge(call: Call, intent: JsonObject, method: JsonObject) -> JsonObject:
    return {
        "id": call.new_id("ch"),
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": 0,
        "amount_refunded": 0,
        "balance_transaction": None,
        "captured": False,
        "created": call.now,
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": False,
        "failure_code": None,
        "failure_message": None,
        "livemode": False,
        "metadata": intent["metadata"],
        "outcome": {"network_status": "approved_by_network", "reason": None, "type": "authorized"},
        "paid": True,
        "payment_intent": intent["id"],
        "payment_method": method["id"],
        "payment_method_details": {
            "type": "card",
            "card": method["card"] | {"capture_before": call.now + AUTHORIZATION_SECONDS},
        },
        "refunded": False,
        "status": "succeeded",
        "_refunded_after_capture": 0,
    }


def capture(call: Call, charge_id: str, amount: int) -> None:
    """Take `amount` of an authorized charge and release the rest.

    Raises:
        ApiError: 400; Stripe captures as little as it charges, and not less.
    """
    charge = _existing(call, charge_id)
    unit = currency(charge["currency"])
    if amount < (unit.minimum or 1):
        message = f"Amount must be at least {major_units(unit.minimum or 1, unit.code)} {unit.code}"
        raise ApiError(400, message, code="amount_too_small", param="amount_to_capture", effect="refused")
    if amount % unit.step:
        message = f"Amounts in {unit.code} must be multiples of {unit.step}."
        raise ApiError(400, message, param="amount_to_capture", effect="refused")
    charge["captured"] = True
    charge["amount_captured"] = amount
    charge["amount_refunded"] = charge["amount"] - amount
    charge["balance_transaction"] = _post(call, charge, amount, call.now + _SETTLEMENT_SECONDS)
    call.books.replace(charge)


def release(call: Call, charge_id: str) -> None:
    """Give an authorized, uncaptured charge back."""
    charge = _existing(call, charge_id)
    charge["amount_refunded"] = charge["amount"]
    charge["refunded"] = True
    call.books.replace(charge)


def _existing(call: Call, charge_id: str) -> JsonObject:
    charge = call.books.find("charge", charge_id)
    assert charge is not None, "a PaymentIntent names only charges that exist"
    return charge


def _post(call: Call, source: JsonObject, amount: int, available_on: int) -> str:
    entry_id = call.new_id("txn")
    call.books.post(
        entry_id, source=source["id"], currency=source["currency"], amount=amount, available_on=available_on
    )
    return entry_id


def retrieve_charge(call: Call) -> JsonObject:
    """`GET /v1/charges/{id}`."""
    call.params.only(("expand",))
    return rendered(call, call.own("charge"))


def create_refund(call: Call) -> JsonObject:
    """`POST /v1/refunds`: all of what is left of a captured charge, or a part of it; never more."""
    call.params.only(("payment_intent", "charge", "amount", "reason", "metadata", "expand"))
    reason = call.params.choice("reason", _REASONS)
    asked = call.params.integer("amount", least=1)
    metadata = call.params.metadata()
    charge = _refundable(call)
    left = charge["amount_captured"] - charge["_refunded_after_capture"]
    if left == 0:
        message = f"Charge {charge['id']} has already been refunded."
        raise ApiError(400, message, code="charge_already_refunded", effect="refused")
    amount = left if asked is None else asked
    if amount > left:
        shown = [f"{major_units(value, charge['currency'])} {charge['currency']}" for value in (amount, left)]
        message = f"Refund amount ({shown[0]}) is greater than unrefunded amount on charge ({shown[1]})"
        raise ApiError(400, message, param="amount", effect="refused")
    charge["_refunded_after_capture"] += amount
    charge["amount_refunded"] += amount
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]
    call.books.replace(charge)
    refund: JsonObject = {
        "id": call.new_id("re"),
        "object": "refund",
        "amount": amount,
        "balance_transaction": None,
        "charge": charge["id"],
        "created": call.now,
        "currency": charge["currency"],
        "metadata": metadata,
        "payment_intent": charge["payment_intent"],
        "reason": reason,
        "status": "succeeded",
        "_ends_as": "succeeded",
    }
    card = card_of(payment_method(call, charge["payment_method"], param="payment_method"))
    refund["status"], refund["_ends_as"] = card.refund
    refund["balance_transaction"] = _post(call, refund, -amount, call.now)
    return rendered(call, call.books.insert(refund, parent=charge["payment_intent"]))


def _refundable(call: Call) -> JsonObject:
    intent_id, charge_id = call.params.text("payment_intent"), call.params.text("charge")
    if (intent_id is None) == (charge_id is None):
        raise missing_param("payment_intent") if charge_id is None else invalid("charge", "Give one of them only.")
    if intent_id is not None:
        intent = call.books.find("payment_intent", intent_id)
        if intent is None:
            raise no_such("payment_intent", intent_id, param="payment_intent")
        charge_id = intent["latest_charge"]
    charge = None if charge_id is None else call.books.find("charge", charge_id)
    if charge is None and intent_id is None:
        raise no_such("charge", str(charge_id), param="charge")
    if charge is None or not charge["captured"]:
        message = "This payment has no captured charge to refund; an authorization is cancelled instead."
        raise ApiError(400, message, code="charge_not_refundable", effect="refused")
    return charge


def _grown_up(call: Call, refund: JsonObject) -> JsonObject:
    """Return a refund as it is by now. Nothing runs by itself here, so it happens when somebody looks."""
    if refund["status"] != refund["_ends_as"] and refund["created"] + REFUND_SECONDS <= call.now:
        refund["status"] = refund["_ends_as"]
        call.books.replace(refund)
        if refund["status"] == "failed":
            charge = _existing(call, refund["charge"])
            charge["_refunded_after_capture"] -= refund["amount"]
            charge["amount_refunded"] -= refund["amount"]
            charge["refunded"] = False
            call.books.replace(charge)
            _post(call, refund | {"id": f"{refund['id']}_failure"}, refund["amount"], call.now)
    return refund


def retrieve_refund(call: Call) -> JsonObject:
    """`GET /v1/refunds/{id}`."""
    call.params.only(("expand",))
    return rendered(call, _grown_up(call, call.own("refund")))


def list_refunds(call: Call) -> JsonObject:
    """`GET /v1/refunds`: newest first, of one PaymentIntent or of all."""
    call.params.only(("payment_intent", "limit", "starting_after", "expand"))
    page = Page(
        kind="refund",
        parent=call.params.text("payment_intent"),
        starting_after=call.params.text("starting_after"),
        limit=page_limit(call),
    )
    found, has_more = call.books.page(page)
    return listing(call, "/v1/refunds", [_grown_up(call, refund) for refund in found], has_more)


def page_limit(call: Call) -> int:
    """Return the list's `limit`: 1 to 100, 10 unless told.

    Raises:
        ApiError: 400.
    """
    limit = call.params.integer("limit", least=1)
    if limit is not None and limit > 100:
        raise invalid("limit", "Limit must be at most 100.")
    return 10 if limit is None else limit


def retrieve_balance(call: Call) -> JsonObject:
    """`GET /v1/balance`: captures less refunds, by currency; card money is pending for its first two days."""
    call.params.only(("expand",))
    balances = call.books.balances(call.now) or {"usd": (0, 0)}
    amounts = {"available": 0, "pending": 1}
    shown = {
        name: [
            {"amount": both[index], "currency": currency, "source_types": {"card": both[index]}}
            for currency, both in balances.items()
        ]
        for name, index in amounts.items()
    }
    return {"object": "balance", "livemode": False, **shown}
