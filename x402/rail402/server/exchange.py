"""What the gate's flow knows of a request, whatever it came by: HTTP, or the tool call of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Protocol

from rail402.errors import MalformedInput, PaymentRejected, Rail402Error
from rail402.protocol.challenge import Challenge
from rail402.protocol.charge import Charge
from rail402.protocol.order import Order
from rail402.protocol.payment import Payment
from rail402.server.request import Message, Scope

__all__ = ["Asked", "Exchange", "read_each"]


def read_each(readers: Iterable[Callable[[], Iterable[Payment]]]) -> list[Payment]:
    """Return the payments that `readers` find, one for each dialect.

    Raises:
        MalformedInput, PaymentRejected: what the first of them refuses; with all that was shown beside it.
    """
    found = list[Payment]()
    refusals = list[MalformedInput | PaymentRejected]()
    for read in readers:
        try:
            found += read()
        except (MalformedInput, PaymentRejected) as error:
            refusals.append(error)
    if refusals:
        refusals[0].shown = [*found, *(payment for each in refusals for payment in each.shown)]
        raise refusals[0]
    return found


class Asked(Protocol):
    """What a request with a price says."""

    @property
    def order(self) -> Order:
        """What it asks to buy."""

    @property
    def scope(self) -> Scope:
        """Where it comes from, as ASGI tells it: the limits tell clients apart by it."""

    @property
    def slot(self) -> str:
        """Where the response of one use of a pass is kept; nothing where it is not."""

    @property
    def context(self) -> tuple[str, ...]:
        """Digests of the logins that a replay must bring again."""

    @property
    def preference(self) -> str:
        """What it prefers to pay with, as `Accept-Payment` says it; nothing where it does not say."""


class Exchange(ABC):
    """One request with a price, and how it is answered.

    An answer is one of these: a challenge, a refusal, or a response, which comes as the messages of ASGI: its head to
    `begin`, the rest to `send`.

    Attributes:
        request: what is asked.
    """

    request: Asked

    @abstractmethod
    def payments(self) -> Iterable[Payment]:
        """Return every payment that the request carries; what two dialects have both read, once for each.

        Raises:
            MalformedInput, PaymentRejected: see `Dialect.payments`.
        """

    @abstractmethod
    async def ask(self, challenge: Challenge, charge: Charge | None, payment: Payment | None) -> None:
        """Ask for payment.

        Args:
            charge, payment: of the payment that was not accepted, as far as they may be told of.
        """

    @abstractmethod
    async def refuse(self, error: Rail402Error, charge: Charge | None, payment: Payment | None) -> None:
        """Answer an error without a challenge: a payer that automatically pays must not pay again for it."""

    @abstractmethod
    async def begin(self, head: Message, charge: Charge, payment: Payment | None, *, replayed: bool = False) -> None:
        """Begin a response: with the receipts of a settled charge, or, without a payment, as a failed handler's."""

    @abstractmethod
    async def send(self, message: Message) -> None:
        """Send what follows the head."""
