"""Payments that are prepared when a payer asks for it with an offer in hand: nothing is made at Stripe for a mere 402.

    POST stripe    {"dialect": "mpp", "offer": <challenge>, "prepare": "payment_intent" | "checkout"}

What is made is marked with the offer's consumption key, under an idempotency key that has nothing else in it: whoever
asks twice gets the same one. A client secret is put into the answer to who asked, and nowhere else; Stripe itself adds
it to the address `stripe/return` at which a browser comes back from 3-D Secure. What nobody has paid when its time is
over is cancelled; Checkout Sessions end by themselves.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from rail402.clock import Clock
from rail402.errors import MalformedInput, OutcomeUnknown, PaymentRejected, Rail402Error, RailUnavailable
from rail402.protocol.base import Json, parse_json
from rail402.protocol.binding import parse_token
from rail402.protocol.charge import Operation
from rail402.protocol.endpoint import DISCOVERY, Desk, EndpointReply, EndpointRequest
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import Order
from rail402_stripe.api import Declined, Refused, StripeApi
from rail402_stripe.intents import EXPIRY_MARK, OFFER_MARK, intent_id, offer_metadata
from rail402_stripe.proofs import OtherProofs, Preparation, ProofKind, proof_kinds_of
from rail402_stripe.sandbox_pages import reachable
from rail402_stripe.verification import PAID_WITHIN, PAY_GRACE, PRESENT_GRACE
from rail402_stripe.wire import check_publishable_key, payment_method_types_of

__all__ = [
    "MOST_OFFER_SECONDS",
    "PREPARE_PATH",
    "RETURN_PATH",
    "OnDemand",
    "Preparer",
    "host_of",
    "is_web_address",
    "mark_of",
    "unreadable",
    "way_on",
]

logger = logging.getLogger("rail402.stripe")

A = TypeVar("A")

PREPARE_PATH: Final = "stripe"
RETURN_PATH: Final = "stripe/return"
"""Where Checkout sends a person back. Paths are below `/.well-known/rail402/`."""

_KINDS: Final = {"payment_intent": ProofKind.PAYMENT_INTENT, "checkout": ProofKind.CHECKOUT_SESSION}
_MAX_BODY: Final = 65_536
# Stripe wants a session to be open for half an hour at the least, by its clock.
_CLOCK_SKEW: Final = 60
_UNPAID: Final = ("requires_payment_method", "requires_confirmation", "requires_action")
_TURN_SECONDS: Final = 60
MOST_OFFER_SECONDS: Final = 20 * 3600
"""For how long an offer may be good: Stripe forgets an idempotency key after a day, and until `PRESENT_GRACE` after the
offer's end whoever asks again must get the same PaymentIntent and no second one."""

# How far back a process that starts looks for what others have left: longer than offers are honoured.
_LEFT_SECONDS: Final = 86_400

_is_session = re.compile(r"cs_[A-Za-z0-9_]{1,250}", re.ASCII).fullmatch
is_web_address = re.compile(r"https?://[\x21-\x7e]{1,4000}", re.ASCII).fullmatch
_is_time = re.compile(r"[0-9]{1,12}", re.ASCII).fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDemand:
    """What is prepared for payers who ask for it.

    Args:
        publishable_key: the account's `pk_…`: PaymentIntents are made, which a payer confirms with that key.
        checkout: links to Stripe's hosted Checkout are made, for people.
    """

    publishable_key: str | None = None
    checkout: bool = False

    def others(self, origin: str, *, customers: bool) -> OtherProofs:
        """Return what an offer of the server at `origin` says of it."""
        url = f"{origin}{DISCOVERY}{PREPARE_PATH}"
        return OtherProofs(
            payment_intent=None if self.publishable_key is None else Preparation(url, self.publishable_key),
            checkout_url=url if self.checkout else None,
            customers=customers,
        )


class Preparer:
    """Prepares payments to one account.

    Args:
        clock: Unix seconds.

    Raises:
        ConfigurationError: the publishable key is none, or of another mode than the secret key.
    """

    def __init__(self, api: StripeApi, settings: OnDemand, clock: Clock) -> None:
        if settings.publishable_key is not None:
            check_publishable_key(settings.publishable_key, api.network)
        self._api, self._settings, self._clock = api, settings, clock
        self._until: dict[str, int] = {}  # by when what was prepared must be paid, Unix seconds

    async def prepare(self, request: EndpointRequest, desk: Desk) -> EndpointReply:
        """Make the PaymentIntent or the Checkout Session of an offer, or return the one that was made for it.

        Raises:
            MalformedInput: the request cannot be read, or the offer is not paid that way.
            PaymentRejected: `offer_unknown`, `offer_expired`.
            RailUnavailable, OutcomeUnknown: ask again; nothing was paid.
        """
        asked = parse_json(request.body, field="body", max_bytes=_MAX_BODY)
        kind, envelope = _KINDS.get(str(asked.get("prepare"))), asked.get("offer")
        if kind is None:
            raise unreadable("prepare", f"must be one of {', '.join(_KINDS)}")
        if not isinstance(envelope, dict):
            raise unreadable("offer", "must be the challenge that was sent")
        is_intent = kind is ProofKind.PAYMENT_INTENT
        offer = self.offer(asked.get("dialect"), envelope, kind, desk, may_be_expired=is_intent)
        if is_intent:
            return EndpointReply.of(await self._intent(offer, desk))
        session = await self.session(offer, desk)
        said = {"checkout_session": session["id"], "expires_at": session.get("expires_at")}
        return EndpointReply.of({"url": way_on(session, offer, desk), **said})

    def offer(
        self,
        dialect: object,
        envelope: Json,
        kind: ProofKind,
        desk: Desk,
        *,
        order: Order | None = None,
        may_be_expired: bool = False,
    ) -> Offer:
        """Return an offer that came back, to be paid with a proof of that kind; `order` is what it must be made for.

        Raises:
            MalformedInput, PaymentRejected: see `Desk.offer`; or it is not paid in that way.
        """
        spoken = dialect if isinstance(dialect, str) else ""
        offer = desk.offer(spoken, envelope, order=order, may_be_expired=may_be_expired)
        if (offer.rail, offer.network) != ("stripe", self._api.network) or kind not in proof_kinds_of(offer):
            raise unreadable("offer", f"is not paid with {kind}")
        return offer

    async def _intent(self, offer: Offer, desk: Desk) -> dict[str, Any]:
        """Return the PaymentIntent of an offer. Of one that has expired it is what was made before, as it is now: so
        a payer who lost it with a crash sees whether it was paid, for as long as it may be presented."""
        late = self._clock() - offer.expires_at
        if late > PRESENT_GRACE:
            raise _expired("ask for a new offer")
        intent, is_old = await _made(
            self._api.intent_of_key(
                _idempotency_key(offer, "payment_intent"),
                amount=offer.amount,
                currency=offer.asset,
                capture_method=_capture_method(offer),
                # Only kinds that are paid at once. Stripe's own choice could be one that takes days to arrive.
                payment_method_types=list(payment_method_types_of(offer)),
                metadata=offer_metadata(_key(offer), host_of(desk), offer.expires_at),
            )
        )
        _check_made(intent, offer)
        if late > 0 and not is_old:
            self._until[intent_id(intent)] = 0  # nobody has its secret, and the next turn cancels it
            raise _expired("nothing was prepared for this offer in time; ask for a new one")
        if late <= 0 and intent.get("status") == "canceled":
            raise _expired("what was prepared for this offer was canceled; ask for a new one")
        if late <= 0 and intent.get("status") in _UNPAID:
            self._until[intent_id(intent)] = offer.expires_at + PAID_WITHIN
            await _check_unused(offer, desk)
        secret = intent.get("client_secret")
        if not isinstance(secret, str):
            raise RailUnavailable("Stripe's answer has no client_secret")
        return {
            "payment_intent": intent_id(intent),
            "client_secret": secret,
            "publishable_key": self._settings.publishable_key,
            "expires_at": offer.expires_at,
        }

    async def session(self, offer: Offer, desk: Desk) -> Json:
        """Return the Checkout Session of an offer, which is made unless there is one.

        Raises:
            PaymentRejected: `offer_expired`: another payment was made for the offer.
            RailUnavailable, OutcomeUnknown: nothing was paid.
        """
        marks = offer_metadata(_key(offer), host_of(desk), offer.expires_at)
        back = f"{desk.public_url}{DISCOVERY}{RETURN_PATH}?offer={mark_of(offer)}"
        line = {
            "currency": offer.asset,
            "unit_amount": offer.amount,
            "product_data": {"name": f"{host_of(desk)}: one request"},
        }
        session = await _made(
            self._api.create_session(
                _idempotency_key(offer, "checkout"),
                mode="payment",
                line_items=[{"quantity": 1, "price_data": line}],
                metadata=marks,
                client_reference_id=mark_of(offer),
                payment_intent_data={"metadata": marks, "capture_method": _capture_method(offer)},
                payment_method_types=list(payment_method_types_of(offer)),
                adaptive_pricing={"enabled": False},  # what is paid is the offer's price, in its currency
                success_url=f"{back}&session={{CHECKOUT_SESSION_ID}}",
                cancel_url=back,
                expires_at=offer.expires_at + PAY_GRACE + _CLOCK_SKEW,
            )
        )
        session_id = session.get("id")
        if not isinstance(session_id, str) or not _is_session(session_id):
            raise RailUnavailable("Stripe's answer is no Checkout Session")
        _check_made(session, offer)
        if session.get("status") == "open":
            await _check_unused(offer, desk)
        return session

    # --- what nobody paid

    async def run_forever(self) -> None:
        """Cancel what nobody has paid in time, at first what was left when this process was not there."""
        found = False
        while True:
            await asyncio.sleep(_TURN_SECONDS)
            try:
                if not found:
                    await self.find_left()
                    found = True
            except Rail402Error as error:
                logger.warning("PaymentIntents that other processes have left unpaid are not all found: %s", error)
            try:
                await self.cancel_unpaid()
            except Rail402Error as error:
                logger.warning("PaymentIntents that nobody paid are not cancelled yet: %s", error)

    async def find_left(self) -> None:
        """Find the unpaid PaymentIntents that other processes have prepared. Raises: Refused, RailUnavailable."""
        now = self._clock()
        async for intent in self._api.intents_between(now - _LEFT_SECONDS, now):
            metadata = intent.get("metadata")
            marks = metadata if isinstance(metadata, Mapping) else {}
            expires_at = marks.get(EXPIRY_MARK)
            if OFFER_MARK not in marks or not isinstance(expires_at, str) or not _is_time(expires_at):
                continue
            if intent.get("status") in _UNPAID:
                self._until[intent_id(intent)] = int(expires_at) + PAID_WITHIN

    async def cancel_unpaid(self) -> int:
        """Cancel each whose time is over; return how many were.

        Raises:
            RailUnavailable, OutcomeUnknown: not all could be; what is left is tried again by the next call.
        """
        failed: Rail402Error | None = None
        cancelled, now = 0, self._clock()
        for intent in [intent for intent, until in self._until.items() if until < now]:
            # Between the look and the cancellation it may still be paid, too late: what is reserved is given free
            # then, and Stripe does not cancel what was taken.
            try:
                status = (await self._api.intent(intent)).get("status")
                if not isinstance(status, str):
                    raise RailUnavailable("Stripe does not say whether it was paid")
                if status in _UNPAID:
                    await self._api.cancel(intent, f"rail402:{intent}:unpaid")
                    cancelled += 1
            except (Declined, Refused) as error:
                logger.info("%s is not cancelled: %s", intent, error)
            except (RailUnavailable, OutcomeUnknown) as error:
                failed = error
                continue  # the others need not wait for it
            self._until.pop(intent, None)
        if failed is not None:
            raise failed
        return cancelled


def way_on(session: Json, offer: Offer, desk: Desk) -> str:
    """Return where a person goes: to Checkout, or back where the session is paid already.

    Raises:
        PaymentRejected: `offer_expired`: the session has ended.
        RailUnavailable: Stripe's answer has no link.
    """
    if session.get("status") == "complete":
        return f"{desk.public_url}{DISCOVERY}{RETURN_PATH}?offer={mark_of(offer)}&session={session['id']}"
    if session.get("status") == "expired":
        raise _expired("its Checkout Session has ended; ask for a new offer")
    url = session.get("url")
    if not isinstance(url, str) or not is_web_address(url):
        raise RailUnavailable("Stripe's answer has no link to Checkout")
    return reachable(url, desk)


async def _made(creating: Awaitable[A]) -> A:
    """Return what was made; what Stripe refuses here is the publisher's configuration, whatever the payer does.

    Raises:
        RailUnavailable: it was refused.
    """
    try:
        return await creating
    except (Declined, Refused) as error:
        logger.error("%s: does the account take every one of the rail's payment_method_types?", error)
        raise RailUnavailable("Stripe does not prepare this payment") from error


def _check_made(found: Json, offer: Offer) -> None:
    """Check that what is handed out was made for this offer: nobody pays for another, which buys nothing here.

    Raises:
        RailUnavailable: it was not, or the answer does not say.
    """
    marks = found.get("metadata")
    is_ours = isinstance(marks, Mapping) and marks.get(OFFER_MARK) == _key(offer)
    if not is_ours or not isinstance(found.get("status"), str):
        raise RailUnavailable("Stripe's answer is not what was made for this offer")


async def _check_unused(offer: Offer, desk: Desk) -> None:
    """Let nobody pay for an offer for which a charge exists: another payment was shown for it, declined ones included,
    and an offer is paid once."""
    if await desk.look_up(Operation.HOLD, keys=[_key(offer)]):
        raise _expired("another payment was made for this offer; ask for a new one")


def mark_of(offer: Offer) -> str:
    """Return the offer's consumption key without what stands before: 32 hexadecimal digits."""
    return _key(offer).rpartition(":")[2]


def host_of(desk: Desk) -> str:
    """Return who is paid."""
    return urlsplit(desk.public_url).hostname or ""


def unreadable(field: str, detail: str) -> MalformedInput:
    """Return the error of a request that cannot be read."""
    return MalformedInput(field, detail, code="malformed_request")


def _expired(detail: str) -> PaymentRejected:
    return PaymentRejected(detail, code="offer_expired")


def _key(offer: Offer) -> str:
    return parse_token(offer.token or "").key


def _idempotency_key(offer: Offer, kind: str) -> str:
    return f"rail402:{mark_of(offer)}:{kind}"


def _capture_method(offer: Offer) -> str:
    return "manual" if offer.flow is Flow.ESCROW else "automatic"
