"""Giving settled money back: because its seller says so, or because the handler failed.

On most rails the money goes back to who paid. A rail that knows no such way (`RefundsOnDemand`) has to be told where
to: there a refund is granted first, and its payer fetches it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from rail402.errors import ConfigurationError, OutcomeUnknown, PaymentRejected
from rail402.protocol.binding import parse_token
from rail402.protocol.charge import Charge, Delivery, PaymentEvent, PaymentState
from rail402.protocol.dialect import Fields
from rail402.protocol.payment import ConsumptionKey
from rail402.protocol.rail import PaymentRail, Refunds, RefundsOnDemand
from rail402.server.operations import Finished, perform, refund
from rail402.server.services import Services

__all__ = ["due", "give_back", "obstacle", "pay_back"]

logger = logging.getLogger("rail402.server")


def obstacle(rail: PaymentRail | None, charge: Charge) -> str | None:
    """Say why a charge's money cannot be given back; None where it can be, now or when its payer asks for it."""
    if rail is None:
        return f"this gate has no rail {charge.offer.rail}: put it back"
    if isinstance(rail, Refunds | RefundsOnDemand):
        return rail.refund_obstacle(charge)
    return f"the rail {charge.offer.rail} gives nothing back"


async def give_back(services: Services, charge_id: str) -> Charge:
    """Refund the charge of that id because its seller says so; see `Gate.refund`."""
    charge = await services.store.get(charge_id)
    if charge is None:
        raise ConfigurationError(f"there is no charge {charge_id}")
    charge = charge.lapsed(services.clock())
    if charge.payment is PaymentState.REFUNDED or charge.refund_due_at is not None:
        return charge
    rail = services.rails.get(charge.offer.rail)
    hindered = obstacle(rail, charge)
    if hindered is not None:
        raise ConfigurationError(f"charge {charge_id}: {hindered}")
    if charge.payment is not PaymentState.SETTLED or charge.delivery is Delivery.RUNNING:
        raise ConfigurationError(f"charge {charge_id}: its payment is {charge.payment}, its delivery {charge.delivery}")
    if isinstance(rail, Refunds):
        return await refund(services, rail, charge)
    now = services.clock()  # also as its lease, by which it is kept for a whole retention from here on
    return await services.store.save(charge.model_copy(update={"refund_due_at": now, "lease_until": now}))


async def due(services: Services, keys: Iterable[ConsumptionKey], fields: Fields) -> Charge:
    """Return the charge with one of `keys`, whose refund was granted; refunded by now perhaps. See `Desk.refund_due`.

    Raises:
        PaymentRejected: `refund_not_due`: there is none; `replay_not_proven`: who asks is not known to be the payer.
        OutcomeUnknown: it is being paid, or looked up.
    """
    charge = await services.store.find(list(keys))
    if charge is not None:
        _check_payer(services, charge, fields)
    if charge is None or charge.refund_due_at is None:
        raise PaymentRejected("its seller has granted no refund of this payment", code="refund_not_due")
    charge = charge.lapsed(services.clock())
    if charge.payment in (PaymentState.REFUNDING, PaymentState.UNKNOWN):
        raise OutcomeUnknown(f"charge {charge.id} is being refunded", retry_after=5)
    return charge


def _check_payer(services: Services, charge: Charge, fields: Fields) -> None:
    """Check that who asks has what was secret at the claim: others may know the proof, as the nodes on a payment's way
    know its preimage. A payment that came bare has no more than its proof."""
    if charge.secret_digest is None:
        return
    for dialect in services.dialects:
        for payment in dialect.payments(fields, charge.order.body_digest, services.context()):
            token = payment.offer_token
            if token is not None and parse_token(token).secret_digest == charge.secret_digest:
                return
    raise PaymentRejected("show the payment as it was accepted, in its own header field", code="replay_not_proven")


async def pay_back(
    services: Services, charge: Charge, state: Mapping[str, Any], keys: Iterable[ConsumptionKey]
) -> Charge:
    """Pay a refund that is due to where `state` says, which is written first; see `Desk.pay_back`."""
    rail = services.rails[charge.offer.rail]
    assert isinstance(rail, RefundsOnDemand)
    if charge.payment is not PaymentState.SETTLED or charge.refund_due_at is None:
        raise PaymentRejected("there is nothing to be given back", code="refund_not_due")
    facts = {"rail_state": {**charge.rail_state, **state}, "keys": tuple(sorted({*charge.keys, *keys}))}
    return await perform(services, charge, PaymentEvent.REFUND, rail.pay_back, Finished, **facts)
