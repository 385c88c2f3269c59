"""HTTP addresses of a rail's own, below `/.well-known/rail402/`: webhooks, and payments that are prepared on demand.

A rail that has some is an `Endpoints`. It sees a request and returns an answer, and asks the gate through a `Desk`:
the core knows nothing of what goes on there, and the rail nothing of stores and routes.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, runtime_checkable

from rail402.protocol.charge import Charge, Operation
from rail402.protocol.dialect import Fields
from rail402.protocol.offer import Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import ConsumptionKey

__all__ = [
    "DISCOVERY",
    "MAX_BODY",
    "MAX_SIGNED_BODY",
    "Desk",
    "Endpoint",
    "EndpointReply",
    "EndpointRequest",
    "Endpoints",
    "Signed",
]

DISCOVERY: Final = "/.well-known/rail402/"
"""Below which a gate answers by itself (RFC 8615)."""

MAX_BODY: Final = 1 << 16
"""Bytes that a request to a rail's address may have: some times what an offer, a payment or an invoice has."""

MAX_SIGNED_BODY: Final = 1 << 18
"""The same at an address that is `Signed`: a service's news may be longer, and are not ours to shorten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRequest:
    """A request to a rail's address.

    Attributes:
        method: `GET` or `POST`.
        query: the parameters of the URL; where one is there several times, the last.
        body: the whole body, at most `MAX_BODY` bytes; at an address that is `Signed`, `MAX_SIGNED_BODY`.
    """

    method: str
    query: Mapping[str, str]
    fields: Fields
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointReply:
    """The answer. It is never cached."""

    status: int = 200
    body: bytes = b""
    media_type: str = "application/json"
    fields: Sequence[tuple[str, str]] = ()

    @classmethod
    def of(cls, value: Mapping[str, Any], *, status: int = 200) -> EndpointReply:
        """Return `value` as JSON."""
        return cls(status=status, body=json.dumps(value, separators=(",", ":")).encode())


class Desk(Protocol):
    """What a gate does for a rail's addresses.

    Attributes:
        public_url: the origin that payers see.
    """

    @property
    def public_url(self) -> str: ...

    def offer(
        self, dialect: str, envelope: Mapping[str, Any], *, order: Order | None = None, may_be_expired: bool = False
    ) -> Offer:
        """Return the offer that a payer sends back in order to have its payment prepared.

        It is ours and unaltered, and carries its token.

        Args:
            dialect: the dialect that it came in; envelope: what it came as (`Offer.envelope` at the client).
            order: what it must have been made for; that is checked when the payment is presented, unless it is given.
            may_be_expired: whether one that has expired is returned too.

        Raises:
            MalformedInput: it cannot be read, or the dialect does not send offers back.
            PaymentRejected: `offer_unknown`, `offer_expired`, `resource_mismatch`.
        """
        ...

    async def look_up(self, operation: Operation, *, keys: Iterable[ConsumptionKey] = (), charge: str = "") -> bool:
        """Ask the rail's `lookup` now what became of `operation` on the charge of that id, or with one of `keys`.

        A hint from outside (a webhook) is no evidence: it only makes the lookup come earlier. An operation that the
        charge is not in is passed over, except a refund of settled money, which may have been made elsewhere.

        Returns:
            Whether there is such a charge. Where not, the hint may have come before the write: it should come again.

        Raises:
            OutcomeUnknown: its answer is on its way out: the hint must come again.
        """
        ...

    async def refund_due(self, keys: Iterable[ConsumptionKey], fields: Fields) -> Charge:
        """Return the charge with one of `keys`, whose seller has granted its payer a refund (`RefundsOnDemand`).

        It may be refunded by now. That whoever asks is the payer, is for the rail to check by the proof of payment.
        What a replay would need beside that, the offer's token, is checked here.

        Args:
            fields: the request's, which hold the payment once more in its dialect's own field, where it was accepted
                with a token.

        Raises:
            PaymentRejected: `refund_not_due`: there is no such refund. `replay_not_proven`: the payment is not shown.
            MalformedInput: a payment is shown that cannot be read.
            OutcomeUnknown: it is being paid, or looked up.
        """
        ...

    async def pay_back(
        self, charge: Charge, state: Mapping[str, Any], *, keys: Iterable[ConsumptionKey] = ()
    ) -> Charge:
        """Pay a refund that is due, by `RefundsOnDemand.pay_back`, and return the charge as it stands then.

        Args:
            state: where to; it is written to `rail_state` before anything is paid, so that a lookup finds it.
            keys: what the charge claims with it.

        Raises:
            KeyTaken: another charge has one of `keys`.
            StaleCharge: it has been asked for twice at the same time, and the other one pays.
            OutcomeUnknown: see there.
        """
        ...


Endpoint = Callable[[EndpointRequest, Desk], Awaitable[EndpointReply]]


@dataclass(frozen=True, slots=True)
class Signed:
    """An endpoint that a service sends signed news to (a webhook): the gate does not limit how often.

    It checks the signature before anything else, and does nothing where that is not good. Requests to all others are
    counted, per client and altogether (`Limits`).
    """

    endpoint: Endpoint

    async def __call__(self, request: EndpointRequest, desk: Desk) -> EndpointReply:
        """Answer as the endpoint does."""
        return await self.endpoint(request, desk)


@runtime_checkable
class Endpoints(Protocol):
    """A rail with addresses of its own."""

    def endpoints(self) -> Mapping[tuple[str, str], Endpoint]:
        """Return what answers, by method and path below `/.well-known/rail402/`, such as `("POST", "stripe")`.

        An endpoint may raise any `Rail402Error`, which becomes its answer with the status of its code.
        """
        ...

    def pay_path(self, offer: Offer) -> str | None:
        """Return the path, one that is answered on GET, where a person can pay `offer`; None where there is none."""
        ...
