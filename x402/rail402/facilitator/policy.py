"""For whom a facilitator works, and how much at once: it pays for every settlement. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from rail402.errors import ConfigurationError, PaymentRejected
from rail402.money import Money
from rail402.protocol.offer import Mechanism, Offer

__all__ = ["FacilitatorSettings", "Limits", "Policy"]

_DAY: Final = 86_400
_MARGIN: Final = 60  # what `Terms.timeout_seconds` has for a payment's way to its seller, which is behind it here

_is_hex = re.compile(r"0[xX][0-9a-fA-F]+").fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class FacilitatorSettings:
    """What the operator of a facilitator sets.

    Args:
        pay_to: the payees that payments are settled for.
        any_payee: settle for whoever is paid; then everybody can have you pay their gas.
        minimum: payments of less are not settled.
        max_per_payer: calls of `/settle` for one payer at once, in this process.
        validity_seconds: for how long a payment must still be valid, so that it gets into a block in time.
        repeat: say "settled" however often a settled payment is settled again; see `service`.
        settle_seconds: how long settling may take; then its outcome is looked up.
        wait_seconds: how long a call of `/settle` waits for the outcome; then it answers `settlement_pending`.
        max_body: bytes of a request body.
        retention_seconds: for how long finished charges are kept, a day at least.
        reconcile_seconds: between two runs of the reconciler; 0 leaves it to calls of `Facilitator.reconcile`.

    Raises:
        ConfigurationError: a number is out of range.
    """

    pay_to: tuple[str, ...] = ()
    any_payee: bool = False
    minimum: Money | None = None
    max_per_payer: int = 16
    validity_seconds: int = 6
    repeat: bool = False
    settle_seconds: int = 60
    wait_seconds: int = 25
    max_body: int = 1 << 16
    retention_seconds: int = 30 * _DAY
    reconcile_seconds: int = 5

    def __post_init__(self) -> None:
        least = {"wait_seconds": 0, "reconcile_seconds": 0, "retention_seconds": _DAY}
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, int) and not isinstance(value, bool) and value < least.get(name, 1):
                raise ConfigurationError(f"{name}={value} must be a whole number from {least.get(name, 1)} up")

    @property
    def timeout_seconds(self) -> int:
        """What a rail is told of how long a payment must stay valid; see `Terms`."""
        return self.validity_seconds + _MARGIN


class Policy:
    """Decides for whom payments are settled.

    Args:
        settings: see there.
        mechanisms: all that is taken.
        is_sandbox: only play money moves, so that any payee will do.

    Raises:
        ConfigurationError: no payee is named, or the minimum is in a currency that nothing is paid in.
    """

    def __init__(self, settings: FacilitatorSettings, mechanisms: Iterable[Mechanism], *, is_sandbox: bool) -> None:
        if not (settings.pay_to or settings.any_payee or is_sandbox):
            raise ConfigurationError(
                "pay_to: name the payees that you settle for, or say any_payee: then anybody can spend your gas"
            )
        currencies = {mechanism.currency for mechanism in mechanisms}
        if settings.minimum is not None and currencies != {settings.minimum.currency}:
            raise ConfigurationError(f"minimum: {settings.minimum} must be in {', '.join(sorted(currencies))}")
        any_payee = settings.any_payee or (is_sandbox and not settings.pay_to)
        self._payees = None if any_payee else frozenset(map(_spelt, settings.pay_to))
        self._minimum = settings.minimum

    @property
    def any_payee(self) -> bool:
        """Whether payments to anybody are settled."""
        return self._payees is None

    def check(self, offer: Offer) -> None:
        """Check the terms of a payment.

        Raises:
            PaymentRejected: it is not settled here; x402's `invalid_payment_requirements`, for it is the seller's.
        """
        if self._payees is not None and _spelt(offer.payee) not in self._payees:
            raise PaymentRejected(f"payments to {offer.payee} are not settled here", code="offer_unknown")
        if self._minimum is not None and offer.price < self._minimum:
            raise PaymentRejected(f"less than {self._minimum} is not settled here", code="offer_unknown")


class Limits:
    """Counts what is under way per payer."""

    def __init__(self, per_payer: int) -> None:
        self._per_payer = per_payer
        self._running: Counter[str] = Counter()

    @contextmanager
    def place(self, payer: str | None) -> Iterator[bool]:
        """Give a place for the length of a block, and say whether there was one."""
        name = payer or ""
        is_free = self._running[name] < self._per_payer
        self._running[name] += is_free
        try:
            yield is_free
        finally:
            self._running[name] -= is_free
            if not self._running[name]:
                del self._running[name]


def _spelt(payee: str) -> str:
    """Return a payee in the one spelling that is compared: letters of hex digits may be of either case."""
    return payee.lower() if _is_hex(payee) else payee
