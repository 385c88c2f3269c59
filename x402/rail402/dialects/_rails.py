"""Between a dialect's envelope and the rails' payloads: whose JSON is this?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from rail402.errors import ConfigurationError, MalformedInput, PaymentRejected
from rail402.protocol.base import Json
from rail402.protocol.binding import read_token
from rail402.protocol.dialect import Context
from rail402.protocol.offer import Offer
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Binding

__all__ = [
    "as_it_is",
    "payments_in",
    "proof_on_the_wire",
    "read_echo",
    "read_offer",
    "read_offers",
    "read_payment",
    "written",
]

T = TypeVar("T")

_KEPT: Final = 256
_kept: dict[tuple[Binding, Callable[[Json], Any], tuple[bytes, str, int]], tuple[Any]] = {}
"""What `written` has made: public terms, and no token of any offer."""


def read_echo(dialect: str, offer: Json, *, token: object, context: Context) -> tuple[Offer, Binding]:
    """Return an echoed offer as it is on the wire, and how its rail speaks this dialect (server side).

    Args:
        token: what stands where our offer token belongs; its expiry becomes the offer's. It is checked by whoever
            looks up the payment first, so that one that came garbled does not hide it.

    Raises:
        MalformedInput: a rail knows the offer for its own, and a member is wrong.
        PaymentRejected: `offer_unknown` where no offer of ours has such terms; `method_not_offered` where no rail here
            knows the offer.
    """
    token = token if isinstance(token, str) else ""
    parts = read_token(token)
    for _, binding in context.specs.speaking(dialect):
        read = binding.decode_offer(offer, expires_at=context.now if parts is None else parts.expires_at)
        if read is not None:
            echoed = read.model_copy(update={"token": token, "dialect": dialect})
            _check_digestible(echoed)
            return echoed, binding
    raise PaymentRejected("no rail here takes what was accepted", code="method_not_offered")


def read_payment(
    dialect: str,
    offer: Json,
    proof: Json,
    *,
    token: object,
    envelope: Mapping[str, Any],
    context: Context,
    identifier: str | None = None,
) -> Payment:
    """Return the payment of an echoed offer and its proof, both as they are on the wire (server side).

    Args:
        token: see `read_echo`.
        envelope: what the dialect needs again to answer.
        identifier: see `Payment`.

    Raises:
        MalformedInput: a rail knows the offer or the proof for its own, and a member is wrong.
        PaymentRejected: see `read_echo`; `payload_invalid` where its rail does not know the proof.
    """
    echoed, binding = read_echo(dialect, offer, token=token, context=context)
    payload = binding.decode_proof(proof)
    if payload is None:
        refusal = PaymentRejected("the payload is not one of the offered method's", code="payload_invalid")
        refusal.rail = echoed.rail
        raise refusal
    return Payment(
        dialect=dialect, rail=echoed.rail, payload=payload, offer=echoed, envelope=envelope, identifier=identifier
    )


def payments_in(dialect: str, proof: Json, context: Context, *, token: str | None = None) -> list[Payment]:
    """Return what a proof may be, whatever came beside it, for `Rail402Error.shown`: one payment for each rail that
    knows it for its own."""
    found = []
    for spec, binding in context.specs.speaking(dialect):
        try:
            payload = binding.decode_proof(proof)
        except MalformedInput:
            continue
        if payload is not None:
            found.append(Payment(dialect=dialect, rail=spec.name, payload=payload, token=token))
    return found


def _check_digestible(offer: Offer) -> None:
    try:
        _ = offer.canonical
    except ValueError as error:  # a number beyond 2^53, say: no offer of ours has one
        raise PaymentRejected("the offer was altered", code="offer_unknown") from error


def read_offer(
    dialect: str, offer: Json, *, expires_at: int, envelope: Mapping[str, Any], context: Context
) -> Offer | None:
    """Return the offer that a rail here knows for its own, None where none does (client side).

    Raises:
        MalformedInput: a rail knows it for its own, and a member is wrong.
    """
    for _, binding in context.specs.speaking(dialect):
        read = binding.decode_offer(offer, expires_at=expires_at)
        if read is not None:
            return read.model_copy(update={"dialect": dialect, "envelope": envelope})
    return None


def read_offers(entries: Iterable[T], read: Callable[[T], Offer | None]) -> list[Offer]:
    """Return the offers that `read` finds in the entries of one challenge; one bad entry does not hide the others.

    Raises:
        MalformedInput: there is no offer, and this is what was wrong with the first bad entry.
    """
    offers, errors = [], []
    for entry in entries:
        try:
            offer = read(entry)
        except MalformedInput as error:
            errors.append(error)
            continue
        if offer is not None:
            offers.append(offer)
    if errors and not offers:
        raise errors[0]
    return offers


def written(dialect: str, offer: Offer, context: Context, write: Callable[[Json], T]) -> T | None:
    """Return what `write` makes of an offer as its rail writes it in this dialect; None where the rail does not.

    It is made once for all offers of the same terms where the rail says that theirs come again (`fixed_terms` of its
    binding), and must not be changed later. `write` is told apart by its identity: a function of a module's.
    """
    binding = context.specs.binding(offer.rail, dialect)
    if binding is None:
        return None
    if not getattr(binding, "fixed_terms", False):
        wire = binding.encode_offer(offer)
        return None if wire is None else write(wire)
    key = (binding, write, offer.terms_key)
    kept = _kept.get(key)
    if kept is None:
        wire = binding.encode_offer(offer)
        kept = (None if wire is None else write(wire),)
        if len(_kept) >= _KEPT:
            _kept.clear()
        _kept[key] = kept
    return kept[0]


def as_it_is(wire: Json) -> Json:
    """Return the JSON itself, for `written`."""
    return wire


def proof_on_the_wire(dialect: str, offer: Offer, payload: Json, context: Context) -> Json:
    """Return how the offer's rail writes the proof `payload` in this dialect.

    Raises:
        ConfigurationError: the rail is not here or does not speak the dialect.
    """
    binding = context.specs.binding(offer.rail, dialect)
    if binding is None:
        raise ConfigurationError(f"the rail {offer.rail!r} does not speak {dialect}")
    return binding.encode_proof(payload)
