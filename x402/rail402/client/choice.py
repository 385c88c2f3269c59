"""Which offer of a 402 to pay, and with which wallet.

The wallets' order is the owner's preference, which may be another one for some hosts and paths (`preference.py`): the
first one that can pay any offer within the budget pays, the next one only where the first definitively did not. Among
the offers that one wallet can pay the cheapest is taken, fees included, compared at today's rate where currencies
differ and one is known; then the dialects' order decides. An offer that the budget has no room for leaves the wallet
its other offers.

Nothing that a server says in words has a part in this: amounts, payees and networks come from what the rail's
`check_offer` has verified.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final

import httpx

from rail402.client.budget import Entry
from rail402.client.commands import Request
from rail402.client.offered import other_offers
from rail402.client.pins import Change, Known, Pin, Place
from rail402.client.preference import preference_for
from rail402.client.rules import Subject, host_of
from rail402.client.services import Services
from rail402.client.unsold import Unsold, unsold
from rail402.errors import (
    AdministrativePaymentRequired,
    BudgetExceeded,
    ClientError,
    MalformedInput,
    NoUsableOffer,
    OfferRefused,
    PaymentActionRequired,
    PaymentFailed,
    PaymentRefused,
    Rail402Error,
    RailUnavailable,
)
from rail402.money import Money
from rail402.protocol.dialect import Fields
from rail402.protocol.offer import Offer
from rail402.protocol.order import Order
from rail402.protocol.rail import Cost, Wallet
from rail402.rates import RateSource, convert

__all__ = ["OF_THE_OWNER", "Candidate", "Terms", "best_offer", "in_limits", "preferred", "read_terms"]

OF_THE_OWNER: Final = frozenset({"limits_loosened", "not_allowed", "not_approved", "terms_changed"})
"""The reason codes of what the owner's own lists, pins and approvals refuse."""

_BODY_TERMS: Final = (b'"accepts"', b'"payment"', b'"x402Version"', b'"offers"', b'"payment_uri"', b'"paymentAddress"')
_FIELD_TERMS: Final = frozenset({"payment-required", "x-payment-required", "x-payment", "x-price", "x-payment-address"})
_PAYMENT_LINK: Final = re.compile(r';\s*rel\s*=\s*(?:payment\b|"[^"]{0,200}\bpayment\b)', re.ASCII | re.IGNORECASE)
_SCHEME_TERMS: Final = frozenset({"payment", "l402", "lsat"})
_MAX_DETAIL: Final = 1500
_COST_SECONDS: Final = 30
_MEASURE: Final = "USD"
# A wallet may have to ask its node about each offer, and a server must not make it do so for hours.
_MAX_OFFERS: Final = 16
# What is larger fits in no header field, so it could not be sent back with a payment.
_MAX_OFFER_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Candidate:
    """An offer that a wallet can pay: what it may cost in total, what that counts in the budget, and what about it the
    owner is to be asked about. `read` is the offer as it was read, without what the wallet has put in of the order."""

    name: str
    wallet: Wallet
    offer: Offer
    read: Offer
    cost: Cost
    total: Money
    entries: Sequence[Entry]
    pin: Pin
    changes: tuple[Change, ...]


@dataclass(slots=True)
class Terms:
    """The offers of a 402, and why those that were looked at so far did not lead to a purchase; where there is none for
    any wallet, `others` has what is offered on other rails, and `unsold` what a gate says that makes no offer."""

    offers: Sequence[Offer]
    refusals: list[tuple[str, Rail402Error]] = field(default_factory=list)
    others: Sequence[Offer] = ()
    unsold: Unsold | None = None

    def refuse(self, offer: Offer, error: Rail402Error) -> None:
        """Note why an offer was not paid."""
        self.refusals.append((f"{offer.rail} {offer.price} ({offer.dialect})", error))

    def nothing_bought(self) -> ClientError:
        """Return the error that sums up why nothing was paid."""
        for _, error in self.refusals:
            if isinstance(error, PaymentActionRequired):
                return error
        detail = ("; ".join(self._said()) or self._no_kind())[:_MAX_DETAIL]
        for kind in (PaymentFailed, BudgetExceeded):
            if any(isinstance(error, kind) for _, error in self.refusals):
                return kind(detail)
        for _, error in self.refusals:
            if isinstance(error, PaymentRefused) and error.code in OF_THE_OWNER:
                return type(error)(detail, code=error.code)
        return NoUsableOffer(detail)

    def _no_kind(self) -> str:
        """Say that nothing of what is offered is for a wallet here."""
        if self.unsold is not None:  # without the words of the server: an agent's model may read this
            return f"the server makes no offer: none of its own rails can charge {self.unsold[0]}"
        offered = ", ".join(dict.fromkeys(f"{offer.rail} {offer.price}" for offer in (*self.offers, *self.others)))
        said = "the server takes no kind of payment that the wallets here can make"
        return f"{said}: it takes {offered}" if offered else said

    def _said(self) -> list[str]:
        """Say why not, once for an offer that several dialects made and that was refused for one reason."""
        dialects: dict[tuple[str, str], list[str]] = {}
        for label, error in self.refusals:
            what, _, dialect = label.removesuffix(")").partition(" (")
            dialects.setdefault((what, error.detail or str(error)), []).append(dialect)
        return [
            f"{what}: {why}" if names == [""] else f"{what} ({', '.join(dict.fromkeys(names))}): {why}"
            for (what, why), names in dialects.items()
        ]


def read_terms(services: Services, request: Request, fields: Fields, body: bytes | None) -> Terms:
    """Read the first offers of a 402 in every dialect. A dialect that cannot be read does not hide the others.

    Args:
        body: None where it was too large to be read.

    Raises:
        AdministrativePaymentRequired: it carries no payment terms at all.
    """
    context = services.context(request.origin.partition("://")[2].partition(":")[0])
    offers: list[Offer] = []
    terms = Terms(offers)
    for dialect in services.dialects:
        try:
            offers += dialect.offers(fields, body or b"", context)[:_MAX_OFFERS]
        except MalformedInput as error:
            terms.refusals.append((dialect.name, error))
    if not offers and not terms.refusals:
        if not _has_terms(services, fields, body or b""):
            size = "; its body is too large to be read" if body is None else ""
            raise AdministrativePaymentRequired(f"{request.origin} answered 402 without payment terms{size}")
        terms.others = other_offers(services.dialects, fields, body or b"", context)
        terms.unsold = unsold(body)
    return terms


async def preferred(services: Services, terms: Terms, order: Order, request: Request) -> list[tuple[str, Wallet]]:
    """Return the wallets that may pay for a request, by name, in the order in which they are asked."""
    wallets = dict(services.wallets)
    path = "/" + request.url.partition("://")[2].partition("?")[0].partition("/")[2]
    preference = preference_for(services.preferences, host_of(request.origin), path)
    if preference is None:
        return list(wallets.items())
    names = preference.order([(name, wallet.spec.name) for name, wallet in wallets.items()])
    if preference.cheapest:
        ranks = {}
        for name in names:
            # What is refused now is refused again, and noted, when it is the wallet's turn.
            best = await best_offer(services, name, wallets[name], Terms(terms.offers), order, request)
            cost = None if best is None else await _try_convert(best.total, _MEASURE, services.rates)
            ranks[name] = (cost is None, Decimal(0) if cost is None else cost.amount)
        names.sort(key=lambda name: ranks[name])
    return [(name, wallets[name]) for name in names]


async def best_offer(
    services: Services,
    name: str,
    wallet: Wallet,
    terms: Terms,
    order: Order,
    request: Request,
    skipped: Sequence[Offer] = (),
) -> Candidate | None:
    """Return what this wallet would pay; None where it cannot pay any offer, with the reasons noted in `terms`.

    Args:
        skipped: offers that it is not to be asked about again, in whatever dialect.
    """
    found: list[Candidate] = []
    seen: dict[Place, Known] = {}
    for offer in terms.offers:
        if offer.rail == wallet.spec.name and _terms_of(offer) not in map(_terms_of, skipped):
            try:
                candidate = await _candidate(services, name, wallet, offer, order, request)
                found.append(await _compared(services, candidate, request, seen))
            except (PaymentRefused, MalformedInput, RailUnavailable) as error:
                terms.refuse(offer, error)
    # What nobody has to be asked about comes first: a cheap offer to a new payee must not win over a known one.
    return await _cheapest([each for each in found if not each.changes] or found, services.rates)


def _terms_of(offer: Offer) -> tuple[object, ...]:
    """Return what is the same in every dialect that an offer is made in."""
    return offer.mechanism, offer.network, offer.asset, offer.amount, offer.payee


async def _candidate(
    services: Services, name: str, wallet: Wallet, offer: Offer, order: Order, request: Request
) -> Candidate:
    dialect = services.dialect(offer.dialect)
    if dialect is None:
        raise OfferRefused("its dialect is not spoken here")
    occupied = dialect.credential_field(offer)
    if request.fields.all(occupied):
        raise OfferRefused(f"the request has a field {occupied} of its own, which the payment would replace")
    if len(offer.model_dump_json()) > _MAX_OFFER_BYTES:
        raise OfferRefused("it is too large to be sent back with a payment")
    wallet.spec.check_offer(offer, order, now=services.now())
    read, offer = offer, wallet.for_order(offer, order)
    services.budget.lists.check_payee(offer.payee)
    cost = await _cost(name, wallet, offer)
    if cost is None:
        raise OfferRefused(f"the wallet {name} cannot pay it (another network or asset, or no balance)")
    total = await _total(cost, services.rates)
    converted = await in_limits(services, total)
    budget = services.budget
    for most in request.at_most:
        budget = budget.tightened(most)
    subject = Subject(request.origin, offer.payee, offer.rail, request.tool)
    question = budget.question(total, converted)
    pin = Pin.of(
        offer,
        method=request.method,
        url=request.url,
        checks_payee=budget.pin_payees,
        tolerance=budget.price_tolerance,
    )
    return Candidate(
        name=name,
        wallet=wallet,
        offer=offer,
        read=read,
        cost=cost,
        total=total,
        entries=budget.entries(total, converted, subject),
        pin=pin,
        changes=() if question is None else (Change("amount", question),),
    )


async def _compared(services: Services, candidate: Candidate, request: Request, seen: dict[Place, Known]) -> Candidate:
    """Compare a candidate with what is pinned. `seen` has what was found for the offers of other dialects.

    Raises:
        OfferRefused: something has changed, and nobody is there to approve it.
        PaymentRefused: it costs so much that it is to be approved, and nobody is there to do so.
    """
    pin = candidate.pin
    known = seen.get(pin.place) or await services.journal.known(pin)
    seen[pin.place] = known
    if request.approve is None and services.approve is None:
        pin.check(known)
        if candidate.changes:
            raise PaymentRefused(f"{candidate.changes[0].detail}; there is nobody to ask", code="not_approved")
    return replace(candidate, changes=(*candidate.changes, *pin.changes(known)))


async def in_limits(services: Services, total: Money) -> dict[str, Money]:
    """Return an amount in the other currencies that any limit is in, where a rate is known."""
    found = {}
    for currency in services.budget.currencies:
        amount = await _try_convert(total, currency, services.rates)
        if amount is not None:
            found[currency] = amount
    return found


async def _cost(name: str, wallet: Wallet, offer: Offer) -> Cost | None:
    """Ask a wallet what it would pay. Nothing moves by that, so one that fails leaves the offer to the next one.

    Raises:
        PaymentRefused, MalformedInput: the offer is not to be paid.
        RailUnavailable: the wallet does not say.
    """
    try:
        async with asyncio.timeout(_COST_SECONDS):
            return await wallet.can_pay(offer)
    except (PaymentRefused, MalformedInput, RailUnavailable):
        raise
    except (Rail402Error, TimeoutError, httpx.TransportError) as error:
        said = error.detail if isinstance(error, Rail402Error) else type(error).__name__
        raise RailUnavailable(f"the wallet {name} does not say whether it can pay ({said})") from error


async def _total(cost: Cost, rates: RateSource | None) -> Money:
    if cost.fee_ceiling is None:
        return cost.price
    fee = await _try_convert(cost.fee_ceiling, cost.price.currency, rates)
    if fee is None:
        raise OfferRefused(f"its fee of up to {cost.fee_ceiling} cannot be added to {cost.price} without a rate")
    return cost.price + fee


async def _cheapest(candidates: Sequence[Candidate], rates: RateSource | None) -> Candidate | None:
    best: tuple[Money, Candidate] | None = None
    for candidate in candidates:
        if best is None:
            best = candidate.total, candidate
            continue
        comparable = await _try_convert(candidate.total, best[0].currency, rates)
        if comparable is not None and comparable < best[0]:
            best = comparable, candidate
    return best[1] if best else None


async def _try_convert(amount: Money, currency: str, rates: RateSource | None) -> Money | None:
    try:
        return await convert(amount, currency, rates)
    except RailUnavailable:
        return None  # a rate that is too old is no rate


def _has_terms(services: Services, fields: Fields, body: bytes) -> bool:
    """Whether this looks like a price for other rails than ours; it decides nothing but the error's class."""
    names = {name.lower() for dialect in services.dialects for name in dialect.response_fields} | _FIELD_TERMS
    names.discard("link")  # which has many other uses
    schemes = {challenge.partition(" ")[0].lower() for challenge in fields.all("www-authenticate")}
    return (
        any(fields.all(name) for name in names)
        or not schemes.isdisjoint(_SCHEME_TERMS)
        or any(mark in body for mark in _BODY_TERMS)
        or any(_PAYMENT_LINK.search(line) for line in fields.all("link"))
    )
