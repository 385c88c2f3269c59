"""What is known of an origin since its first purchase: whom it has paid there, and what a resource did cost.

A payee is known by origin, rail and network. A price is known by origin, method, path (without the query) and currency;
it is that of the first purchase and not of the last one, so that a price cannot creep up in small steps. What was
approved once is known from then on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from rail402.client.limits import SPENDING_EXPONENT, family
from rail402.client.rules import host_of, payee_key
from rail402.errors import OfferRefused
from rail402.money import Money
from rail402.protocol.offer import Offer
from rail402.stores.sql import queries

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

_SQL: Final = queries("journal")

Place = tuple[str, str, str, str, str, str]
"""Origin, rail, network, method, path and currency."""


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
        origin: scheme and authority.
        payee, price: as the offer has them, in the forms that are compared.
        method, path: the resource, without its query.
        checks_payee: whether another payee than the known ones is refused.
        tolerance: by how many percent a price may be above the known one; None: any.
        approved: the kinds of changes that the owner has agreed to.
    """

    origin: str
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
        return self.origin, self.rail, self.network, self.method, self.path, self.price.currency

    @classmethod
    def of(cls, offer: Offer, *, method: str, url: str, checks_payee: bool, tolerance: int | None) -> Pin:
        """Return what an offer for a request asks for."""
        scheme, _, rest = url.partition("://")
        resource = rest.partition("?")[0]
        authority, _, path = resource.partition("/")
        price = Money.from_atomic(offer.price.to_atomic(SPENDING_EXPONENT), SPENDING_EXPONENT, family(offer.currency))
        return cls(
            origin=f"{scheme}://{authority}",
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
            detail = f"{self.origin} was paid at {was} on {self.network}, and now wants to be paid at {self.payee}"
            found.append(Change("payee", detail))
        if self.tolerance is not None and known.price is not None:
            most = known.price.to_atomic(SPENDING_EXPONENT) * (100 + self.tolerance)
            if self.price.to_atomic(SPENDING_EXPONENT) * 100 > most:
                what = f"{self.method} {self.origin}{self.path}"
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
            host = host_of(self.origin)
            fix = f"approve it, or forget what is known with `rail402 budget unpin {host}`"
            raise OfferRefused(f"{'; '.join(refused)}: {fix}", code="terms_changed")


@dataclass(frozen=True, slots=True)
class PinnedPayee:
    """A payee that is known at an origin; `pinned_at` is in Unix seconds."""

    origin: str
    rail: str
    network: str
    payee: str
    pinned_at: int


@dataclass(frozen=True, slots=True)
class PinnedPrice:
    """What a resource did cost at its first purchase; `pinned_at` is in Unix seconds."""

    origin: str
    method: str
    path: str
    price: Money
    pinned_at: int


# --- in the journal's database


def known_of(connection: sqlite3.Connection, pin: Pin) -> Known:
    """Return what is known for what a purchase asks for."""
    place = _place(pin)
    payees = [payee for (payee,) in connection.execute(_SQL["payees_of"], place).fetchall()]
    row = connection.execute(_SQL["price_of"], place).fetchone()
    return Known(payees, None if row is None else Money.from_atomic(row[0], SPENDING_EXPONENT, pin.price.currency))


def check_and_pin(connection: sqlite3.Connection, pin: Pin, now: int) -> None:
    """Check a purchase against what is known, and pin what it asks for.

    Raises:
        OfferRefused: something has changed that nobody has approved; it names both values.
    """
    known, place = known_of(connection, pin), _place(pin) | {"now": now}
    pin.check(known)
    connection.execute(_SQL["pin_payee"], place)
    if "price" in pin.approved:
        connection.execute(_SQL["forget_price"], place)
    connection.execute(_SQL["pin_price"], place)


def listed(connection: sqlite3.Connection) -> tuple[Sequence[PinnedPayee], Sequence[PinnedPrice]]:
    """Return all that is pinned."""
    payees = [PinnedPayee(*row) for row in connection.execute(_SQL["pinned_payees"]).fetchall()]
    prices = [
        PinnedPrice(origin, method, path, Money.from_atomic(amount, SPENDING_EXPONENT, currency), pinned_at)
        for origin, method, path, currency, amount, pinned_at in connection.execute(_SQL["pinned_prices"]).fetchall()
    ]
    return payees, prices


def unpin(connection: sqlite3.Connection, host: str) -> int:
    """Forget what is known of the origins of a host, on all of its ports; return how much that was."""
    payees, prices = listed(connection)
    known = [*(pinned.origin for pinned in payees), *(pinned.origin for pinned in prices)]
    return sum(
        connection.execute(_SQL[query], {"origin": origin}).rowcount
        for origin in {origin for origin in known if host_of(origin) == host}
        for query in ("unpin_payees", "unpin_prices")
    )


def _place(pin: Pin) -> dict[str, Any]:
    return {
        "origin": pin.origin,
        "rail": pin.rail,
        "network": pin.network,
        "payee": pin.payee,
        "method": pin.method,
        "path": pin.path,
        "currency": pin.price.currency,
        "amount": pin.price.to_atomic(SPENDING_EXPONENT),
    }
