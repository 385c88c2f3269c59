"""Whether the money of a payment may be on its way: then its payer is never asked to pay again.

A payment can be refused for what came with it: a garbled token, an altered offer, another request. That says nothing
about its proof, which may belong to a charge whose end is not known. So before an offer is made for a refused payment,
it is looked up by all that its proof can be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from rail402.errors import MalformedInput, OutcomeUnknown, PaymentRejected, Rail402Error
from rail402.protocol.charge import Charge, PaymentState
from rail402.protocol.offer import Mechanism, Offer
from rail402.protocol.payment import ConsumptionKey, Payment
from rail402.protocol.rail import PublicHalves, RailSpec
from rail402.server.services import Services

__all__ = ["mistaken_keys", "pending", "pending_among"]


def pending(charge: Charge) -> Rail402Error | None:
    """Return what is told of a charge whose money may move yet, or may have moved; None where it has an end.

    It goes to whoever shows the proof, and names nothing of the charge.
    """
    match charge.payment:
        case PaymentState.UNKNOWN:
            return OutcomeUnknown("do not pay again: what became of this payment is being looked up", retry_after=5)
        case PaymentState.RELEASING | PaymentState.REFUNDING:
            return OutcomeUnknown("this payment is being undone", retry_after=2)
        case PaymentState.SETTLED | PaymentState.RELEASED | PaymentState.REJECTED | PaymentState.REFUNDED:
            return None
        case _:
            return PaymentRejected("do not pay again", code="payment_in_progress", retry_after=2)


async def pending_among(services: Services, payments: Iterable[Payment]) -> Rail402Error | None:
    """Return what is told of the first of these payments whose charge is `pending`; None where none of them is.

    Raises:
        StoreError: the store cannot be reached.
    """
    for payment in payments:
        keys = frozenset(_keys(services.registry[payment.rail], payment))
        charge = await services.store.find(keys) if keys else None
        error = None if charge is None else pending(charge.lapsed(services.clock()))
        if error is not None:
            return error
    return None


def mistaken_keys(spec: RailSpec, payment: Payment) -> frozenset[ConsumptionKey]:
    """Return the keys that would fit if a proof's public half was sent for it; see `PublicHalves`.

    Raises:
        MalformedInput: a member is missing or has the wrong form.
    """
    return spec.mistaken_keys(payment) if isinstance(spec, PublicHalves) else frozenset()


def _keys(spec: RailSpec, payment: Payment) -> Iterator[ConsumptionKey]:
    """Yield every key that the proof may have: as it came, as if it paid an offer of each of the rail's mechanisms, and
    where its public half was sent for it."""
    offers = [_offer_by(spec.name, mechanism, payment) for mechanism in spec.mechanisms]
    for each in (payment, *(payment.model_copy(update={"offer": offer}) for offer in offers)):
        for read in (spec.identify, partial(mistaken_keys, spec)):
            try:
                yield from read(each)
            except (MalformedInput, PaymentRejected):
                continue


def _offer_by(rail: str, mechanism: Mechanism, payment: Payment) -> Offer:
    """Return an offer that says by which mechanism, and nothing else; it has the token of the payment's own."""
    offer = mechanism.offer(rail, payee="", amount=1, expires_at=0, timeout_seconds=1)
    return offer.model_copy(update={"token": payment.offer_token})
