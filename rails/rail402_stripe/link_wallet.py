"""A wallet that is a person's Link: each payment is a spend request, which the person approves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Final

from rail402.errors import (
    ConfigurationError,
    MalformedInput,
    OutcomeUnknown,
    PaymentActionRequired,
    PaymentFailed,
    RailUnavailable,
)
from rail402.money import Money
from rail402.protocol.base import Json
from rail402.protocol.offer import Offer
from rail402.protocol.order import Order
from rail402.protocol.rail import Cost, NotPaid, Observation, Paid, Unknown, Wallet
from rail402_stripe.currencies import currency
from rail402_stripe.link import LinkApi, SpendRequest
from rail402_stripe.proofs import ProofKind, payload_of, proof_kinds_of, spt_of
from rail402_stripe.wallet import HOLD_SECONDS
from rail402_stripe.wire import MECHANISM, Network, StripeSpec, payment_method_types_of

__all__ = ["MAX_AMOUNT", "LinkWallet"]

MAX_AMOUNT: Final = 50_000
"""Minor units that one spend request may ask for at most: 500 USD."""

_TOKEN_SECONDS: Final = 12 * 3600
"""Seconds for which an approved token is good, from when its spend request was made."""

_POLL_SECONDS: Final = 5
_TOKEN_LOOKS: Final = 3
_WAITING: Final = frozenset({"created", "pending_approval"})
_USABLE: Final = frozenset({"approved", "submitted"})
_ENDED: Final = frozenset({"denied", "expired", "canceled", "failed"})

_ORIGIN: Final = "origin"
_REQUEST: Final = "spend_request"


class LinkWallet(Wallet):
    """Pays with shared payment tokens that a person's Link hands out, each approved by that person.

    A payment raises `PaymentActionRequired` with the link for approving it, unless Link approves it by itself; when the
    person has approved, the same request goes on with it, in this process or a later one. What is not approved within
    ten minutes was not paid. Link is told the amount, the seller's profile and the origin that asked, and no more.

    Args:
        link: the way to Link.
        network: which Stripe the sellers use; at `stripe:test` the person's money stays where it is.
        payment_method: the person's `csmrpd_…` that pays; the default one unless given.
        currencies: the currencies to pay in.
        max_amount: minor units above which an offer is not for this wallet; Link has a limit of its own.
        hold_seconds: for how long a token that has ended unused may still turn out to be taken; see `StripeWallet`.
        sleep: waits that many seconds.

    Raises:
        ConfigurationError: a currency is none of Stripe's, the payment method is none of Link's, or a number cannot be.
    """

    origins_for_people = frozenset({"https://app.link.com", "https://link.com"})

    def __init__(
        self,
        link: LinkApi,
        *,
        network: Network = "stripe:live",
        payment_method: str | None = None,
        currencies: Sequence[str] = ("usd",),
        max_amount: int = MAX_AMOUNT,
        hold_seconds: int = HOLD_SECONDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if payment_method is not None and not payment_method.startswith("csmrpd_"):
            raise ConfigurationError("payment_method must be the id of a payment method at Link: csmrpd_…")
        if not currencies or max_amount <= 0 or hold_seconds < 0:
            raise ConfigurationError("a wallet needs currencies, a max_amount above 0 and hold_seconds of 0 or more")
        self._currencies = frozenset(currency(code).code for code in currencies)
        self.spec, self.name = StripeSpec(network, currencies), f"{network} link"
        self._link, self._network, self._payment_method = link, network, payment_method
        self._max_amount, self._hold_seconds, self._sleep = max_amount, hold_seconds, sleep

    def __repr__(self) -> str:
        return f"LinkWallet(network={self._network!r})"

    async def examine(self) -> list[Observation]:
        """Ask Link whether its login is good; see `Wallet.examine`."""
        await self._link.check_login()
        return [Observation("Link accepts its login" + ("" if self._network == "stripe:live" else ", for test money"))]

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()

    def for_order(self, offer: Offer, order: Order) -> Offer:
        """Return the offer with the origin that asks for it, which is what a person can judge."""
        return offer.model_copy(update={"extra": {**offer.extra, _ORIGIN: order.origin}})

    async def can_pay(self, offer: Offer) -> Cost | None:
        """Return the price: there is nothing on top. None where the network, the currency or the amount is not for this
        wallet, or the seller takes no such tokens."""
        if (offer.mechanism, offer.network) != (MECHANISM, self._network) or ProofKind.SPT not in proof_kinds_of(offer):
            return None
        if offer.asset not in self._currencies or offer.amount > self._max_amount:
            return None
        if {"card", "link"}.isdisjoint(payment_method_types_of(offer)):
            return None
        return Cost(price=offer.price)

    async def pay(self, offer: Offer, *, record_id: str, now: int) -> Paid:
        """Make a spend request for exactly this offer; see `Wallet.pay`.

        Raises:
            PaymentActionRequired: the person has to approve it, or to do something else first, or has said no.
            PaymentFailed: Link refuses it, or the offer is none of the wallet's; nothing was paid.
            RailUnavailable: Link cannot be reached; nothing was paid.
            OutcomeUnknown: perhaps a request was made, which `resume` finds; no money has moved.
        """
        if await self.can_pay(offer) is None or offer.expires_at <= now:
            raise PaymentFailed(f"the wallet does not pay {offer.price} on {offer.network}", record_id=record_id)
        request = await self._link.create(self._params(offer, record_id), record_id=record_id)
        found = await self._outcome(offer, request, record_id=record_id)
        if isinstance(found, Unknown):
            raise OutcomeUnknown(found.detail)
        if isinstance(found, NotPaid):
            raise PaymentFailed(f"Link has not approved it ({_word(request)})", record_id=record_id)
        return found

    async def resume(self, offer: Offer, payload: Json | None, *, record_id: str, now: int) -> Paid | NotPaid | Unknown:
        """Find out what became of a spend request; see `Wallet.resume`.

        1. Without a payload no seller has seen a token: as long as the request can be approved it waits for its person
           or is the payment; without one, or with one that has ended, nothing was paid.
        2. With a token in hand it is paid when Link says so, and is shown again while the offer is good.
        3. When it has ended unused, a seller may have reserved the amount before: it stays unknown for as long as such
           a reservation can last.
        """
        if payload is None:
            request = await self._link.find(record_id)
            return NotPaid() if request is None else await self._outcome(offer, request, record_id=record_id)
        known = payload.get(_REQUEST)
        request = await self._link.retrieve(known) if isinstance(known, str) else await self._link.find(record_id)
        if request is None:
            return Unknown(detail="Link does not know the spend request any more")
        if request.status == "succeeded":
            return Paid(payload=payload, moved=True)
        if request.status == "requires_action" and request.resumes:
            raise PaymentActionRequired(url=request.action_url, record_id=record_id)
        if request.status in _USABLE and now <= offer.expires_at:
            return Paid(payload=payload)
        if request.status in _ENDED and now >= offer.expires_at + _TOKEN_SECONDS + self._hold_seconds:
            return NotPaid()
        return Unknown(detail=f"the token was not charged yet ({_word(request)}), and a seller may still take it")

    async def withdraw(self, offer: Offer, payload: Json, *, record_id: str, now: int) -> bool:
        """Cancel the spend request of a token that its seller has refused; see `Wallet.withdraw`."""
        known = payload.get(_REQUEST)
        if not isinstance(known, str):
            return False
        await self._link.cancel(known)
        request = await self._link.retrieve(known)
        return request is not None and request.status in _ENDED

    def _params(self, offer: Offer, record_id: str) -> dict[str, object]:
        whose = offer.extra.get(_ORIGIN, "a server")
        params: dict[str, object] = {
            "credential_type": "shared_payment_token",
            "network_id": offer.payee,
            "amount": offer.amount,
            "currency": offer.asset,
            # At least 100 characters; the person reads it. Nothing in it is the seller's text.
            "context": (
                f"{whose} asks {offer.price} of a program of yours for one request that it made there (HTTP 402). "
                f"Approve it if you expect that. It is {record_id} in the program's journal."
            ),
        }
        if self._payment_method is not None:
            params["payment_details"] = self._payment_method
        if self._network != "stripe:live":
            params["test"] = True
        return params

    async def _outcome(self, offer: Offer, request: SpendRequest, *, record_id: str) -> Paid | NotPaid | Unknown:
        """Return what a spend request is whose token no seller has seen.

        Raises:
            PaymentActionRequired: it waits for its person; or nothing was paid, and the person has said no or has
                something to do before the next one.
        """
        self._check(offer, request, record_id)
        if request.status in _WAITING:
            raise PaymentActionRequired(url=request.approval_url, retry_after=_POLL_SECONDS, record_id=record_id)
        if request.status == "requires_action":
            if request.resumes:
                raise PaymentActionRequired(url=request.action_url, retry_after=_POLL_SECONDS, record_id=record_id)
            detail = f"Link asks for something first ({_word(request)}); make the request again when it is done"
            raise PaymentActionRequired(detail, url=request.action_url, outcome="not_paid", record_id=record_id)
        if request.status == "denied":
            detail = "the person whose Link it is has said no"
            raise PaymentActionRequired(detail, code="not_approved", outcome="not_paid", record_id=record_id)
        if request.status == "approved":
            return await self._with_token(offer, request, record_id)
        return NotPaid() if request.status in _ENDED else Unknown(detail=f"its spend request is {_word(request)}")

    async def _with_token(self, offer: Offer, request: SpendRequest, record_id: str) -> Paid:
        """Return the payment; the token may be there a moment later than the approval."""
        for look in range(_TOKEN_LOOKS):
            if request.token is not None:
                break
            if look:
                await self._sleep(1)
            try:
                request = await self._link.retrieve(request.id) or request
            except (RailUnavailable, PaymentFailed) as error:  # that is no news about the spend request, which is made
                raise OutcomeUnknown(f"the token of the spend request cannot be had yet: {error.detail}") from error
        if request.token is None:
            raise PaymentActionRequired(retry_after=_POLL_SECONDS, record_id=record_id)
        self._check(offer, request, record_id)
        payload = payload_of(request.token, offer.extra.get("external_id"))
        try:
            spt_of(payload)
        except MalformedInput as error:
            raise PaymentFailed("what Link handed out is no shared payment token", record_id=record_id) from error
        return Paid(payload={**payload, _REQUEST: request.id}, fee=Money(Decimal(0), offer.currency))

    @staticmethod
    def _check(offer: Offer, request: SpendRequest, record_id: str) -> None:
        """Refuse a token that is good for something else than was asked for."""
        wanted = {
            "amount": offer.amount,
            "currency": offer.asset,
            "network_id": offer.payee,
            "credential_type": "shared_payment_token",
        }
        other = sorted(name for name, value in request.terms.items() if value != wanted[name])
        if other:
            raise PaymentFailed(f"Link's spend request has another {', '.join(other)}", record_id=record_id)


def _word(request: SpendRequest) -> str:
    """Return what a spend request is, without a text of Link's."""
    known = {*_WAITING, *_USABLE, *_ENDED, "succeeded", "requires_action"}
    status = request.status if request.status in known else "in a state that is not known here"
    return f"{status}: {request.action}" if request.action else status
