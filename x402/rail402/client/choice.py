"""Which offer of a 402 to pay, and with which wallet.

The wallets' order is the owner's preference: the first one that can pay any offer within the budget pays, the next one
only where the first definitively did not. Among the offers that one wallet can pay the cheapest is taken, fees
included, compared at today's rate where currencies differ and one is known; then the dialects' order decides.

Nothing that a server says in words has a part in this: amounts, payees and networks come from what the rail's
`check_offer` has verified.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from rail402.client.budget import Entry
from rail402.client.commands import Request
from rail402.client.services import Services
from rail402.errors import (
    AdministrativePaymentRequired,
    BudgetExceeded,
    ClientError,
    MalformedInput,
    NoUsableOffer,
    OfferRefused,
    PaymentActionRequired,
    PaymentFailed,
    Rail402Error,
    RailUnavailable,
)
from rail402.money import Money
from rail402.protocol.dialect import Fields
from rail402.protocol.offer import Offer
from rail402.protocol.order import Order
from rail402.protocol.rail import Cost, Wallet
from rail402.rates import RateSource, convert

__all__ = ["Candidate", "Terms", "best_offer", "read_terms"]

_BODY_TERMS: Final = (b'"accepts"', b'"payment"', b'"x402Version"', b'"offers"', b'"payment_uri"', b'"paymentAddress"')
_FIELD_TERMS: Final = frozenset({"payment-required", "x-payment-required", "x-payment", "x-price", "x-payment-address"})
_PAYMENT_LINK: Final = re.compile(r';\s*rel\s*=\s*(?:payment\b|"[^"]{0,200}\bpayment\b)', re.ASCII | re.IGNORECASE)
_SCHEME_TERMS: Final = frozenset({"payment", "l402", "lsat"})
_MAX_DETAIL: Final = 1500
# A wallet may have to ask its node about each offer, and a server must not make it do so for hours.
_MAX_OFFERS: Final = 16
# What is larger fits in no header field, so it could not be sent back with a payment.
_MAX_OFFER_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Candidate:
    """An offer that a wallet can pay: what it may cost in total, and what that counts in the budget."""

    name: str
    wallet: Wallet
    offer: Offer
    cost: Cost
    total: Money
    entries: Sequence[Entry]


@dataclass(slots=True)
class Terms:
    """The offers of a 402, and why those that were looked at so far did not lead to a purchase."""

    offers: Sequence[Offer]
    refusals: list[tuple[str, Rail402Error]] = field(default_factory=list)

    def refuse(self, offer: Offer, error: Rail402Error) -> None:
        """Note why an offer was not paid."""
        self.refusals.append((f"{offer.rail} {offer.price} ({offer.dialect})", error))

    def nothing_bought(self) -> ClientError:
        """Return the error that sums up why nothing was paid."""
        for _, error in self.refusals:
            if isinstance(error, PaymentActionRequired):
                return error
        detail = "; ".join(f"{label}: {error.detail or error}" for label, error in self.refusals)[:_MAX_DETAIL]
        for kind in (PaymentFailed, BudgetExceeded):
            if any(isinstance(error, kind) for _, error in self.refusals):
                return kind(detail)
        return NoUsableOffer(detail or "the server takes no kind of payment that the wallets here can make")


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
    if not offers and not terms.refusals and not _has_terms(services, fields, body or b""):
        size = "; its body is too large to be read" if body is None else ""
        raise AdministrativePaymentRequired(f"{request.origin} answered 402 without payment terms{size}")
    return terms


async def best_offer(
    services: Services, name: str, wallet: Wallet, terms: Terms, order: Order, request: Request
) -> Candidate | None:
    """Return what this wallet would pay; None where it cannot pay any offer, with the reasons noted in `terms`."""
    found: list[Candidate] = []
    for offer in terms.offers:
        if offer.rail == wallet.spec.name:
            try:
                found.append(await _candidate(services, name, wallet, offer, order, request))
            except (BudgetExceeded, MalformedInput, OfferRefused, RailUnavailable) as error:
                terms.refuse(offer, error)
    return await _cheapest(found, services.rates)


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
    offer = wallet.for_order(offer, order)
    cost = await wallet.can_pay(offer)
    if cost is None:
        raise OfferRefused(f"the wallet {name} cannot pay it (another network or asset, or no balance)")
    total = await _total(cost, services.rates)
    converted = {}
    for currency in services.budget.currencies:
        amount = await _try_convert(total, currency, services.rates)
        if amount is not None:
            converted[currency] = amount
    return Candidate(name, wallet, offer, cost, total, services.budget.entries(total, converted))


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
