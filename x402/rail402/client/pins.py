"""What is known of a host since the first purchase there: whom it had paid, and what a resource did cost.

A payee is known by host, rail and network. A price is known by host, method, path (without the query) and currency; it
is that of the first purchase and not of the last one, so that a price cannot creep up in small steps. What was
approved once is known from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rail402.client.journal_database import Session
from rail402.client.limits import SPENDING_EXPONENT, family
from rail402.client.rules import host_of, payee_key
from rail402.errors import OfferRefused
from rail402.money import Money
from rail402.protocol.offer import Offer

__all__ = [
    "Change",
    "Known",
    "Pin",
    "PinnedPayee",
    "PinnedPrice",
    "Place",
    "check_and_pin",
    "known_of",
    "listed",
    "unpin",
]

Place = tuple[str, str, str, str, str, str]
"""Host, rail, network, method, path and currency."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing about a purchase that its owner wants to be asked about: the `amount`, or a changed `payee` or `price`.

    `detail` says it, with both values.
    """

    kind: Literal["amount", "payee", "price"]
    detail: str


@dataclass(frozen=True, slots=True)
class Known:
    """What is pinned for what a purchase asks for."""

    payees: Sequence[str]
    price: Money | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """What a purchase asks for, to be compared with what is known.

    Attributes:
        host: who is asked, whatever the scheme and the port: on another port a hijacker must not begin anew.
        payee, price: as the offer has them, in the forms that are compared.
        method, path: the resource, without its query.
        checks_payee: whether another payee than the known ones is refused.
        tolerance: by how many percent a price may be above the known one; None: any.
        approved: the kinds of changes that the owner has agreed to.
    """

    host: str
    rail: str
    network: str
    payee: str
    price: Money
    method: str
    path: str
    checks_payee: bool
    tolerance: int | None
    approved: frozenset[str] = field(default=frozenset())

    @property
    def place(self) -> Place:
        """What is known is known for this."""
        return self.host, self.rail, self.network, self.method, self.path, self.price.currency

    @classmethod
    def of(cls, offer: Offer, *, method: str, url: str, checks_payee: bool, tolerance: int | None) -> Pin:
        """Return what an offer for a request asks for."""
        authority, _, path = url.partition("://")[2].partition("?")[0].partition("/")
        price = Money.from_atomic(offer.price.to_atomic(SPENDING_EXPONENT), SPENDING_EXPONENT, family(offer.currency))
        return cls(
            host=host_of(authority),
            rail=offer.rail,
            network=offer.network,
            payee=payee_key(offer.payee),
            price=price,
            method=method,
            path=f"/{path}",
            checks_payee=checks_payee,
            tolerance=tolerance,
        )

    def changes(self, known: Known) -> tuple[Change, ...]:
        """Return in what the offer differs from what is known, as far as that matters to the owner."""
        found = []
        if self.checks_payee and known.payees and self.payee not in known.payees:
            was = " or ".join(known.payees)
            detail = f"{self.host} was paid at {was} on {self.network}, and now wants to be paid at {self.payee}"
            found.append(Change("payee", detail))
        if self.tolerance is not None and known.price is not None:
            most = known.price.to_atomic(SPENDING_EXPONENT) * (100 + self.tolerance)
            if self.price.to_atomic(SPENDING_EXPONENT) * 100 > most:
                what = f"{self.method} {self.host}{self.path}"
                detail = f"{what} did cost {known.price}, and now {self.price}, over {self.tolerance} % more"
                found.append(Change("price", detail))
        return tuple(found)

    def check(self, known: Known) -> None:
        """Check that all that has changed was approved.

        Raises:
            OfferRefused: something was not; it names both values.
        """
        refused = [change.detail for change in self.changes(known) if change.kind not in self.approved]
        if refused:
            fix = f"approve it, or forget what is known with `rail402 budget unpin {self.host}`"
            raise OfferRefused(f"{'; '.join(refused)}: {fix}", code="terms_changed")


@dataclass(frozen=True, slots=True)
class PinnedPayee:
    """A payee that is known at a host; `pinned_at` is in Unix seconds."""

    host: str
    rail: str
    network: str
    payee: str
    pinned_at: int


@dataclass(frozen=True, slots=True)
class PinnedPrice:
    """What a resource did cost at its first purchase; `pinned_at` is in Unix seconds."""

    host: str
    method: str
    path: str
    price: Money
    pinned_at: int


# --- in the journal's database


async def known_of(session: Session, pin: Pin) -> Known:
    """Return what is known for what a purchase asks for."""
    place = _place(pin)
    payees = [payee for (payee,) in await session.fetch("payees_of", place)]
    prices = [
        Money.from_atomic(amount, SPENDING_EXPONENT, pin.price.currency)
        for (amount,) in await session.fetch("price_of", place)
    ]
    return Known(payees, prices[0] if prices else None)


async def check_and_pin(session: Session, pin: Pin, now: int) -> None:
    """Check a purchase against what is known, and pin what it asks for.

    Raises:
        OfferRefused: something has changed that nobody has approved; it names both values.
    """
    known, place = await known_of(session, pin), _place(pin) | {"now": now}
    pin.check(known)
    await session.count("pin_payee", place)
    if "price" in pin.approved:
        await session.count("forget_price", place)
    await session.count("pin_price", place)


async def listed(session: Session) -> tuple[Sequence[PinnedPayee], Sequence[PinnedPrice]]:
    """Return all that is pinned."""
    payees = [PinnedPayee(*row) for row in await session.fetch("pinned_payees", {})]
    prices = [
        PinnedPrice(host, method, path, Money.from_atomic(amount, SPENDING_EXPONENT, currency), pinned_at)
        for host, method, path, currency, amount, pinned_at in await session.fetch("pinned_prices", {})
    ]
    return payees, prices


async def unpin(session: Session, host: str) -> int:
    """Forget what is known of a host; return how much that was."""
    return await session.count("unpin_payees", {"host": host}) + await session.count("unpin_prices", {"host": host})


def _place(pin: Pin) -> dict[str, Any]:
    return {
        "host": pin.host,
        "rail": pin.rail,
        "network": pin.network,
        "payee": pin.payee,
        "method": pin.method,
        "path": pin.path,
        "currency": pin.price.currency,
        "amount": pin.price.to_atomic(SPENDING_EXPONENT),
    }
