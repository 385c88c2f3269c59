"""Checkout Sessions and the hosted page that pays them (docs.stripe.com/api/checkout/sessions).

A session is what a person gets instead of an API: a link to a page with a pay button. The page is served by the
sandbox itself, at `{public_url}/c/pay/{id}`; whoever has the link may pay, with any of the test cards.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

from rail402.errors import ConfigurationError
from rail402_stripe import currencies
from rail402_stripe.sandbox.attempts import Attempt, Means, attempt
from rail402_stripe.sandbox.call import Call, rendered
from rail402_stripe.sandbox.cards import TEST_CARDS
from rail402_stripe.sandbox.errors import ApiError, JsonObject, invalid, missing_param
from rail402_stripe.sandbox.forms import Params
from rail402_stripe.sandbox.intents import abandon, check_amount, new_intent

__all__ = ["HostedPage", "after_authentication", "create", "expire", "hosted_page", "pay", "retrieve"]

_KIND = "checkout.session"
_PARAMS = (
    "mode line_items success_url cancel_url metadata client_reference_id customer customer_email expires_at "
    "payment_intent_data payment_method_types adaptive_pricing automatic_tax submit_type locale ui_mode expand"
)
_LEAST_SECONDS, _MOST_SECONDS = 30 * 60, 24 * 3600
_MAX_LINES = 100
_URL = re.compile(r"https?://[\x21-\x7e]{1,4000}", re.ASCII)


@dataclass(frozen=True, slots=True)
class HostedPage:
    """What a browser gets: a page, or the way back to the shop."""

    status: int
    html: str
    location: str | None = None


def create(call: Call) -> JsonObject:
    """`POST /v1/checkout/sessions`, mode `payment` with inline prices."""
    params = call.params
    params.only(_PARAMS.split())
    if params.required_text("mode") != "payment":
        raise invalid("mode", "The sandbox's Checkout Sessions have mode=payment only.")
    amount, currency = _total(params)
    expires_at = params.integer("expires_at") or call.now + _MOST_SECONDS
    if not call.now + _LEAST_SECONDS <= expires_at <= call.now + _MOST_SECONDS:
        raise invalid("expires_at", "`expires_at` must be between 30 minutes and 24 hours from now.")
    data = params.child("payment_intent_data")
    data.only(("metadata", "capture_method", "description"))
    session_id = call.new_id("cs_test")
    session: JsonObject = {
        "id": session_id,
        "object": _KIND,
        "amount_subtotal": amount,
        "amount_total": amount,
        "cancel_url": _url(params, "cancel_url"),
        "client_reference_id": params.text("client_reference_id", max_length=200),
        "created": call.now,
        "currency": currency,
        "customer": params.text("customer"),
        "customer_email": params.text("customer_email"),
        "expires_at": expires_at,
        "livemode": False,
        "metadata": params.metadata(),
        "mode": "payment",
        "payment_intent": None,
        "payment_method_types": params.texts("payment_method_types") or ["card", "link"],
        "payment_status": "unpaid",
        "status": "open",
        "success_url": _url(params, "success_url"),
        "ui_mode": "hosted",
        "url": f"{call.public_url}/c/pay/{session_id}",
        "_intent": {
            "metadata": data.metadata(),
            "capture_method": data.choice("capture_method", ("automatic", "automatic_async", "manual"))
            or "automatic_async",
            "description": data.text("description"),
        },
    }
    if session["success_url"] is None:
        raise missing_param("success_url")
    return rendered(call, call.books.insert(session))


def _total(params: Params) -> tuple[int, str]:
    lines = params.children("line_items")
    if not 1 <= len(lines) <= _MAX_LINES:
        raise missing_param("line_items")
    total, codes = 0, set()
    for line in lines:
        line.only(("price_data", "quantity"))
        price = line.child("price_data")
        price.only(("currency", "unit_amount", "product_data"))
        price.child("product_data").required_text("name")
        unit_amount = price.integer("unit_amount")
        quantity = line.integer("quantity", least=1)
        if unit_amount is None or quantity is None:
            raise missing_param(line.label("quantity") if quantity is None else price.label("unit_amount"))
        total += unit_amount * quantity
        codes.add(price.required_text("currency").lower())
    try:
        found = [currencies.currency(code) for code in codes]
    except ConfigurationError as error:
        raise invalid("line_items", "Invalid currency.") from error
    if len(found) > 1:
        raise invalid("line_items", "All line items must have one currency.")
    check_amount(total, found[0])
    return total, found[0].code


def _url(params: Params, name: str) -> str | None:
    value = params.text(name)
    if value is not None and not _URL.fullmatch(value):
        raise invalid(name, "Not a valid URL", "url_invalid")
    return value


def retrieve(call: Call) -> JsonObject:
    """`GET /v1/checkout/sessions/{id}`."""
    call.params.only(("expand",))
    return rendered(call, _own(call))


def expire(call: Call) -> JsonObject:
    """`POST /v1/checkout/sessions/{id}/expire`."""
    call.params.only(("expand",))
    session = _own(call)
    _require_open(call, session)
    _expire(call, session)
    return rendered(call, session)


def pay(call: Call, card: str) -> JsonObject:
    """Pay the session with a test card, as its page does; returns the session. It stays open where the card wants its
    holder to authenticate: the PaymentIntent's `next_action` says where.

    Raises:
        ApiError: 400; the session is not open. 402; the card was declined.
    """
    session = _own(call)
    _require_open(call, session)
    wanted = session["_intent"]
    known = session["payment_intent"] and call.books.find("payment_intent", session["payment_intent"])
    if known is None:
        known = new_intent(call, session["amount_total"], session["currency"], metadata=wanted["metadata"])
        known |= {name: wanted[name] for name in ("capture_method", "description")}
        known |= {"customer": session["customer"], "payment_method_types": session["payment_method_types"]}
        known["_session"] = session["id"]
        session["payment_intent"] = call.books.insert(known)["id"]
        call.books.replace(session)
    attempt(call, known, Attempt(Means(card, None, "payment_method"), return_url=_page_url(call, session)))
    call.books.replace(known)
    if known["status"] != "requires_action":
        _complete(call, session, known)
    return session


def after_authentication(call: Call, intent: JsonObject) -> str | None:
    """Return where a cardholder goes on who has approved or refused at the bank; None where it was no session's."""
    session = call.books.find(_KIND, intent.get("_session") or "")
    if session is None:
        return None
    if intent["status"] not in ("succeeded", "requires_capture"):
        return _page_url(call, session)
    _complete(call, session, intent)
    return _way_back(session)


def _complete(call: Call, session: JsonObject, intent: JsonObject) -> None:
    is_paid = intent["status"] == "succeeded"
    _close(call, session, status="complete", payment_status="paid" if is_paid else "unpaid")


def _page_url(call: Call, session: JsonObject) -> str:
    return f"{call.public_url}/c/pay/{session['id']}"


def _way_back(session: JsonObject) -> str:
    return str(session["success_url"]).replace("{CHECKOUT_SESSION_ID}", session["id"])


def hosted_page(call: Call, *, acting: bool) -> HostedPage:
    """Return the session's page; with `acting`, pay first: a success leads back to the shop."""
    session = _own(call)
    refusal = ""
    if acting:
        call.books.mark()
        try:
            session = pay(call, call.params.text("payment_method") or "pm_card_visa")
        except ApiError as error:
            call.books.undo_to_mark()
            refusal = str(error)
        else:
            return HostedPage(303, "", _bank_page_url(call, session) or _way_back(session))
    shown = f"{currencies.major_units(session['amount_total'], session['currency'])} {session['currency'].upper()}"
    cards = "".join(f"<option>{name}</option>" for name in TEST_CARDS)
    body = f"<p>This session is {session['status']}.</p>"
    if session["status"] == "open":
        body = (
            f'<form method="post"><label>Test card <select name="payment_method">{cards}</select></label>'
            f"<button>Pay {shown}</button></form>"
        )
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Sandbox checkout</title>'
        f"<h1>Sandbox checkout: {shown}</h1><p>No money moves here.</p><p>{html.escape(refusal)}</p>{body}</html>"
    )
    return HostedPage(402 if refusal else 200, page)


def _bank_page_url(call: Call, session: JsonObject) -> str | None:
    """Return where the cardholder has to approve what was just paid; None where the session is complete."""
    if session["status"] == "complete":
        return None
    intent = call.books.find("payment_intent", session["payment_intent"])
    assert intent is not None, "a session names only PaymentIntents that exist"
    return str(intent["next_action"]["redirect_to_url"]["url"])


def _own(call: Call) -> JsonObject:
    session = call.own(_KIND)
    if session["status"] == "open" and session["expires_at"] <= call.now:
        _expire(call, session)
    return session


def _expire(call: Call, session: JsonObject) -> None:
    _close(call, session, status="expired")
    intent = call.books.find("payment_intent", session["payment_intent"] or "")
    if intent is not None:  # nobody can pay it any more, the page of a bank that is still open included
        abandon(call, intent)


def _close(call: Call, session: JsonObject, **fields: str) -> None:
    session |= {**fields, "url": None}
    call.books.replace(session)


def _require_open(call: Call, session: JsonObject) -> None:
    if session["status"] != "open":
        raise ApiError(400, f"This Session is not open: it is {session['status']}.", effect="refused")
