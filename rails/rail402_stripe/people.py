"""How a person pays by Checkout and gets what was bought, with nothing but a browser.

    GET  stripe             the page of the 402's `pay_url`; its button sends the form below
    POST stripe/checkout    leads to Checkout
    GET  stripe/return      where Checkout sends the person back, to be shown what was bought

What the way back needs is left with the browser in a cookie: Stripe has no use for it, and the offer in it is what
proves the payer. Nothing is decided here. The payment is presented like any other, and judged by what Stripe says.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from rail402.errors import ConfigurationError, Rail402Error
from rail402.protocol.base import parse_json
from rail402.protocol.endpoint import DISCOVERY, Desk, EndpointReply, EndpointRequest
from rail402.protocol.offer import Offer
from rail402.protocol.order import Order
from rail402_stripe.currencies import major_units
from rail402_stripe.on_demand import (
    PREPARE_PATH,
    Preparer,
    host_of,
    is_web_address,
    mark_of,
    unreadable,
    way_on,
)
from rail402_stripe.pages import fetching_page, message_page, pay_page
from rail402_stripe.proofs import ProofKind, payload_of
from rail402_stripe.verification import PRESENT_GRACE

__all__ = ["CHECKOUT_PATH", "PAY_PATH", "People"]

PAY_PATH: Final = PREPARE_PATH
CHECKOUT_PATH: Final = "stripe/checkout"
"""Paths below `/.well-known/rail402/`."""

_NOTE: Final = "You pay at Stripe and come back here."
_SANDBOX_NOTE: Final = "This is a sandbox: no money moves."
_LINK: Final = ("dialect", "offer", "url", "route")
_MAX_BODY: Final = 65_536
# What browsers keep of one cookie, its name and attributes included.
_MAX_COOKIE: Final = 3800

_is_session = re.compile(r"cs_[A-Za-z0-9_]{1,250}", re.ASCII).fullmatch
_is_mark = re.compile(r"[0-9a-f]{32}", re.ASCII).fullmatch


class People:
    """The pages of one account."""

    def __init__(self, preparer: Preparer) -> None:
        self._preparer = preparer

    async def show(self, request: EndpointRequest, desk: Desk) -> EndpointReply:
        """Return the page of a `pay_url`. Nothing is made at Stripe."""
        try:
            link = _link(request.query, desk)
            offer = self._offer(link, desk)
        except Rail402Error as error:
            return _refusal(error)
        price = f"{major_units(offer.amount, offer.asset)} {offer.currency}"
        note = _SANDBOX_NOTE if offer.network == "stripe:sandbox" else _NOTE
        action = f"{DISCOVERY}{CHECKOUT_PATH}"
        return pay_page(price, host_of(desk), link["url"], action=action, hidden=link, note=note)

    async def lead(self, request: EndpointRequest, desk: Desk) -> EndpointReply:
        """Lead to Checkout, and leave what the way back needs with the browser."""
        try:
            _check_origin(request, desk)
            link = _link(_form(request.body), desk)
            offer, kept = self._offer(link, desk), _carried(link)
            if len(kept) > _MAX_COOKIE:  # better said now than when it is paid
                raise unreadable("url", "is too long for a browser to come back to")
            target = way_on(await self._preparer.session(offer, desk), offer, desk)
        except Rail402Error as error:
            return _refusal(error)
        secure = "; Secure" if desk.public_url.startswith("https:") else ""
        limits = f"Path={DISCOVERY}{PAY_PATH}; Max-Age={PRESENT_GRACE}; HttpOnly; SameSite=Lax{secure}"
        cookie = f"{_cookie_name(mark_of(offer))}={kept}; {limits}"
        fields = [("location", target), ("referrer-policy", "no-referrer"), ("set-cookie", cookie)]
        return EndpointReply(status=303, media_type="text/plain", fields=fields)

    async def come_back(self, request: EndpointRequest, desk: Desk) -> EndpointReply:
        """Show what was bought to who bought it here, and to anybody else that the payment has arrived."""
        session = request.query.get("session")
        if "payment_intent" in request.query:  # from the cardholder's bank; whether it was approved Stripe knows
            return message_page("Thank you", "Go back to the program that asked you: it goes on from here.")
        try:
            kept = _kept(request, request.query.get("offer", ""), desk)
            if session is None:
                way_back = f"{DISCOVERY}{PAY_PATH}?{urlencode(kept)}" if kept else ""
                return message_page("Nothing was paid", "You can close this page.", link=way_back)
            if kept is None or not _is_session(session):
                return message_page("Thank you", "Go back to the program that asked you to pay: it goes on from here.")
            self._offer(kept, desk, may_be_expired=True)
            challenge = _opened(kept["offer"]).get("challenge")
        except Rail402Error as error:
            return _refusal(error)
        payload = payload_of(session, None, ProofKind.CHECKOUT_SESSION)
        return fetching_page(kept["url"], f"Payment {_carried({'challenge': challenge, 'payload': payload})}")

    def _offer(self, link: Mapping[str, str], desk: Desk, *, may_be_expired: bool = False) -> Offer:
        """Return the offer of a link, once it is known to be for what the link leads to: nobody pays for another page,
        and nobody is led to an address that no offer was made for."""
        order = Order(method="GET", url=link["url"], route=link["route"])
        said = link["dialect"], _opened(link["offer"])
        return self._preparer.offer(*said, ProofKind.CHECKOUT_SESSION, desk, order=order, may_be_expired=may_be_expired)


def _link(said: Mapping[str, Any], desk: Desk) -> dict[str, str]:
    """Return what is in a link to pay: the dialect, the offer, and an address of our own origin. One that names another
    is nobody's but a swindler's.

    Raises:
        MalformedInput: something is missing, or it is another's address.
    """
    link = {name: said[name] for name in _LINK if isinstance(said.get(name), str)}
    if len(link) < len(_LINK):
        raise unreadable("link", "is not complete")
    if not link["url"].startswith(f"{desk.public_url}/") or not is_web_address(link["url"]):
        raise unreadable("url", f"must be one of {desk.public_url}")
    return link


def _check_origin(request: EndpointRequest, desk: Desk) -> None:
    """Refuse a form that another site sent: its link would be left with this browser as if it had been opened here."""
    origin = request.fields.one("origin")
    if origin is not None and origin != desk.public_url:
        raise unreadable("origin", f"must be {desk.public_url}")


def _refusal(error: Rail402Error) -> EndpointReply:
    if isinstance(error, ConfigurationError):
        raise error
    if error.code == "offer_expired":
        text = "Open what you wanted to buy once more to get a new one."
        return message_page("This link has expired", text, status=error.status)
    return message_page("That did not work", str(error), status=error.status)


def _form(body: bytes) -> dict[str, str]:
    if len(body) > _MAX_BODY:
        raise unreadable("body", f"is larger than {_MAX_BODY} bytes")
    try:
        return dict(parse_qsl(body.decode("ascii"), max_num_fields=16))
    except ValueError as error:
        raise unreadable("body", "is no form") from error


def _carried(value: Mapping[str, object]) -> str:
    """Return an object as base64url of its JSON, which fits into links, forms, cookies and fields."""
    return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).rstrip(b"=").decode()


def _opened(text: str) -> dict[str, Any]:
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise unreadable("offer", "is not base64url") from error
    return parse_json(decoded, field="offer", max_bytes=_MAX_BODY)


def _cookie_name(mark: str) -> str:
    return f"rail402-{mark[:16]}"


def _kept(request: EndpointRequest, mark: str, desk: Desk) -> dict[str, str] | None:
    """Return what was left with this browser for the offer; None in any other browser."""
    if not _is_mark(mark):
        return None
    pairs = [pair.strip().partition("=") for line in request.fields.all("cookie") for pair in line.split(";")]
    found = [value for name, _, value in pairs if name == _cookie_name(mark)]
    return _link(_opened(found[0]), desk) if found else None
