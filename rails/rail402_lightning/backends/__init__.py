"""What the rail and the wallet ask of a Lightning node or of a service in front of one.

A backend reports; it decides nothing. The rail decodes and checks every invoice that it gets from a receiver, and the
wallet checks every preimage, whatever the backend says beside them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

__all__ = ["InvoiceStatus", "Receiver", "Sender", "SentPayment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceStatus:
    """What became of an invoice.

    Attributes:
        state: only `settled` means that the money is there. `expired` and `canceled` can still turn `settled`, when a
            payment that was under way arrives late.
        received_msat: what arrived, millisatoshis; 0 until settled.
        settled_at: when it arrived, Unix seconds; None where the backend does not say.
    """

    state: Literal["open", "settled", "expired", "canceled"]
    received_msat: int = 0
    settled_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SentPayment:
    """What became of a payment.

    Attributes:
        state: `paid` and `failed` are final; `unknown` is everything else, such as a payment that is in flight.
        preimage: 64 hexadecimal digits, if paid and the backend tells it.
        fee_msat: what the route did cost, if paid.
        detail: if not paid, why; no secret.
    """

    state: Literal["paid", "failed", "unknown"]
    preimage: str | None = field(default=None, repr=False)
    fee_msat: int = 0
    detail: str = ""


class Receiver(Protocol):
    """A node that makes invoices. All of its methods raise `RailUnavailable` where it cannot be asked.

    Attributes:
        sandbox: only play money moves.
    """

    @property
    def sandbox(self) -> bool: ...

    async def start(self) -> None:
        """Check that the node can be used and paid.

        Raises:
            ConfigurationError: it refuses our credentials.
            RailUnavailable: it cannot be reached or be paid now.
        """
        ...

    async def close(self) -> None: ...

    async def health(self) -> None:
        """Raise `RailUnavailable` where the node cannot be used now."""
        ...

    async def create_invoice(self, amount_msat: int, *, expiry_seconds: int, hashed_description: bytes) -> str:
        """Return the text of a new invoice over `amount_msat`, a multiple of 1000, whose description hash is the
        SHA-256 of `hashed_description`."""
        ...

    async def status(self, payment_hash: bytes) -> InvoiceStatus | None:
        """Return what became of an invoice; None if it is none of this node's, or of this account's."""
        ...

    async def wait(self, payment_hash: bytes, *, seconds: float) -> None:
        """Return when the node reports something about the invoice, or the time is over.

        A hint only: `status` decides. A stream that cannot be had or is lost never raises; it makes for a slow poll.
        """
        ...


class Sender(Protocol):
    """A node that pays invoices."""

    @property
    def sandbox(self) -> bool: ...

    async def start(self) -> None:
        """Check that the node can be used.

        Raises:
            ConfigurationError: it refuses our credentials.
            RailUnavailable: it cannot be reached.
        """
        ...

    async def close(self) -> None: ...

    async def fee_ceiling(self, invoice: str, *, max_fee_msat: int) -> int:
        """Return the most that the node would spend on the route, in millisatoshis, if told `max_fee_msat`.

        More than `max_fee_msat` where the node sets its own limit; such an invoice is not paid.
        """
        ...

    async def pay(self, invoice: str, *, max_fee_msat: int) -> SentPayment:
        """Pay an invoice, whose amount, network and expiry the caller has checked.

        An invoice is paid once, however often this is called for it.

        Raises:
            RailUnavailable: nothing was sent.
        """
        ...

    async def lookup(self, payment_hash: bytes) -> SentPayment | None:
        """Return what became of a payment; None if the node knows of none.

        Raises:
            RailUnavailable: it cannot be asked.
        """
        ...

    async def balance(self) -> int:
        """Return what can be spent, in millisatoshis.

        Raises:
            RailUnavailable: it cannot be asked.
        """
        ...
