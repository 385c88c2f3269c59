"""The envelope of one wire format: how a challenge, a payment and a receipt travel in HTTP. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from rail402.errors import MalformedInput
from rail402.protocol.base import Json
from rail402.protocol.binding import OfferKeys
from rail402.protocol.challenge import Challenge
from rail402.protocol.charge import Charge
from rail402.protocol.offer import Offer
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Registry

__all__ = ["MAX_HEADER_BYTES", "Context", "Dialect", "Envelope", "Fields", "Signer"]

T = TypeVar("T")

MAX_HEADER_BYTES = 65_536
"""Payment fields longer than this are refused unread."""


Signer = Callable[[Json], str]
"""Signs claims for the server, by its own name: returns a compact JWS over their canonical JSON."""


class Fields:
    """The header fields of a message, in order, names in lower case (RFC 9110, section 5)."""

    __slots__ = ("_items", "_read")

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._items = [(name.lower(), value) for name, value in items]
        self._read: dict[tuple[str, Callable[[str], Any]], list[Any]] = {}

    @classmethod
    def from_raw(cls, raw: Iterable[tuple[bytes, bytes]]) -> Fields:
        """Read the fields of an ASGI message (latin-1)."""
        return cls((name.decode("latin-1"), value.decode("latin-1")) for name, value in raw)

    def all(self, name: str) -> list[str]:
        """Return the values of every line called `name` (lower case)."""
        return [value for key, value in self._items if key == name]

    def each(self, name: str, read: Callable[[str], T]) -> list[T]:
        """Return what `read` makes of every line called `name`; however many dialects ask, each is read once."""
        known = self._read.get((name, read))
        if known is None:
            known = self._read[name, read] = [read(line) for line in self.all(name)]
        return known

    def one(self, name: str) -> str | None:
        """Return the only value of `name`, None where there is no such line.

        Raises:
            MalformedInput: two lines differ (`several_payments`) or the value is longer than 64 KiB.
        """
        values = set(self.all(name))
        if len(values) > 1:
            raise MalformedInput(name, "is there twice with different values; send one", code="several_payments")
        value = next(iter(values), None)
        if value is not None and len(value) > MAX_HEADER_BYTES:
            raise MalformedInput(name, f"is longer than {MAX_HEADER_BYTES} bytes")
        return value

    def __iter__(self) -> Any:
        return iter(self._items)


@dataclass(slots=True)
class Envelope:
    """What a dialect adds to a response: field lines, and members of the shared JSON body."""

    fields: Sequence[tuple[str, str]] = ()
    body: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a dialect may use: the rails, the clock's reading, and on the server its realm and secrets.

    Args:
        specs: the rails at hand.
        now: Unix seconds.
        realm: the protection space: the public host name, without a port.
        keys: the secrets that offers are issued with; None on the client.
        sign: signs statements of the server's; None on the client, and where no dialect signs.
    """

    specs: Registry
    now: int
    realm: str = ""
    keys: OfferKeys | None = None
    sign: Signer | None = None


class Dialect(ABC):
    """One wire format.

    Attributes:
        name: the dialect's name: `x402-v2`, `mpp`, `x-receipt`.
        echo: `full` where the client sends the offer back with its token, `none` where it does not.
        request_fields: names of the request fields a payment travels in, lower case.
        response_fields: names of the response fields that challenges and receipts travel in, as they are written.
        signs: whether it signs what it says, with `Context.sign`.
    """

    name: ClassVar[str]
    echo: ClassVar[Literal["full", "none"]]
    request_fields: ClassVar[tuple[str, ...]]
    response_fields: ClassVar[tuple[str, ...]]
    signs: bool = False

    # --- server

    @abstractmethod
    def challenge(self, challenge: Challenge, context: Context) -> Envelope:
        """Return what this dialect adds to a 402; an empty envelope where no offer can be said in it."""

    @abstractmethod
    def payments(self, fields: Fields, body_digest: str, context: Context) -> list[Payment]:
        """Return the payments that a request carries in this dialect: none, or the one.

        Offers in them carry the echoed token; checking it against the order is left to the caller, all else that
        proves the challenge ours (MPP's id) is checked here.

        Raises:
            MalformedInput: the field is there and cannot be read.
            PaymentRejected: it can be read, and does not answer a challenge of ours.

            Either has in `shown` what the proof may be, where that can be read: nobody whose payment's outcome is not
            known yet is asked to pay again.
        """

    @abstractmethod
    def receipt(self, charge: Charge, payment: Payment, context: Context) -> Sequence[tuple[str, str]]:
        """Return the field lines that tell the payer that `charge` is settled (`charge.receipt` is signed).

        Where a settlement did not succeed, x402 has lines that say so; the other dialects have none.
        """

    def envelope(self, offer: Offer, challenge: Challenge, context: Context) -> Mapping[str, Any] | None:
        """Return what a client keeps of `offer` as `Offer.envelope`; None where this dialect cannot say it, or where
        `offer_of` cannot read it."""
        return None

    def offer_of(self, envelope: Mapping[str, Any], context: Context) -> Offer:
        """Return the offer of an envelope that came back, with its token, once it is proven ours and unaltered.

        Raises:
            MalformedInput: it cannot be read, or this dialect has nothing by which to prove it.
            PaymentRejected: `offer_unknown`.
        """
        raise MalformedInput("dialect", f"{self.name} offers cannot be sent back by themselves")

    # --- client

    @abstractmethod
    def offers(self, fields: Fields, body: bytes, context: Context) -> list[Offer]:
        """Return the offers of a 402 that rails at hand can read, with `dialect` and `envelope` set.

        Raises:
            MalformedInput: the challenge is there and cannot be read.
        """

    @abstractmethod
    def credential(self, offer: Offer, payload: dict[str, Any], context: Context) -> Sequence[tuple[str, str]]:
        """Return the request fields that present the proof `payload` for `offer`."""

    def credential_field(self, offer: Offer) -> str:
        """Return the name of the request field, lower case, that `credential` writes for `offer`."""
        return self.request_fields[0]
