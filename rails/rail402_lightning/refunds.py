"""Giving back what was paid, to an invoice of the exact amount that the payer presents with its preimage.

Lightning knows no way back: a payment says where it went and not where it came from. So the seller grants a refund, and
who proves to have paid says where to: by the preimage, and since the nodes on the way know that too, by the token that
the payment was accepted with, if there was one. What is paid is written down first, by its payment hash, and a
node pays an invoice once, however often it is told to. Another invoice is taken only where the first one can never be
paid any more.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from rail402.clock import Clock, system_clock
from rail402.errors import ConfigurationError, KeyTaken, MalformedInput, PaymentRejected, RailUnavailable, StaleCharge
from rail402.protocol.base import parse_json
from rail402.protocol.charge import Charge, PaymentState
from rail402.protocol.endpoint import Desk, Endpoint, EndpointReply, EndpointRequest
from rail402.protocol.offer import Offer
from rail402.protocol.payment import ConsumptionKey
from rail402.protocol.rail import Failed, NotPaid, Pending, Refunded, Unknown
from rail402_lightning import bolt11
from rail402_lightning.backends import Sender, SentPayment
from rail402_lightning.wire import LightningSpec

__all__ = ["REFUND_DEADLINE", "REFUND_PATH", "PaysBack", "Refunding"]

logger = logging.getLogger("rail402.lightning")

REFUND_PATH: Final = "lightning/refund"
"""Where a refund is fetched, below `/.well-known/rail402/`."""

REFUND_DEADLINE: Final = 40
"""Seconds after which a refund that is under way counts as unknown; less than the gate's `settle_seconds`."""

MAX_FEE_SAT: Final = 2
MAX_FEE_PPM: Final = 10_000

_HASH, _EXPIRY, _INVOICE, _FEE = "refund_hash", "refund_expires_at", "refund_invoice", "refund_fee_msat"
_LEAST_SECONDS: Final = 60  # that an invoice must be good for
_LANDING_SECONDS: Final = 120  # in which a request to pay may still reach the node
_PAST_EXPIRY: Final = 60  # seconds after which an invoice that the node never heard of will not be paid any more
_MAX_BODY: Final = 16_384

_is_preimage = re.compile("[0-9a-fA-F]{64}", re.ASCII).fullmatch


@dataclass(frozen=True, slots=True)
class Refunding:
    """What refunds are paid by.

    Attributes:
        sender: the node, or the wallet, that pays; it holds a credential that can spend.
        max_fee_sat, max_fee_ppm: what a refund may cost in fees, which the seller pays: the larger of the two, in sats
            and in millionths of the amount.
        clock: Unix seconds.

    Raises:
        ConfigurationError: a limit is negative.
    """

    sender: Sender
    max_fee_sat: int = MAX_FEE_SAT
    max_fee_ppm: int = MAX_FEE_PPM
    clock: Clock = system_clock

    def __post_init__(self) -> None:
        if self.max_fee_sat < 0 or self.max_fee_ppm < 0:
            raise ConfigurationError("max_fee_sat and max_fee_ppm cannot be negative")

    def max_fee_msat(self, amount_msat: int) -> int:
        """Return the most that a refund of that amount may cost in fees."""
        return max(self.max_fee_sat * 1000, -(-amount_msat * self.max_fee_ppm // 1_000_000))


class PaysBack:
    """The part of `LightningRail` that gives money back; see `RefundsOnDemand`."""

    _spec: LightningSpec
    is_sandbox: bool
    _refunding: Refunding | None = None

    def with_refunds(self, refunding: Refunding | Sender) -> Self:
        """Have the rail give money back, and return it.

        Args:
            refunding: what pays refunds: a `Sender`, such as `LndSender` or `LnbitsSender`, with the usual limit of
                fees, or with another one. Unlike what the rail receives by, its credential can spend.

        Raises:
            ConfigurationError: one of the two is a sandbox, and the other is not.
        """
        found = refunding if isinstance(refunding, Refunding) else Refunding(refunding)
        if found.sender.sandbox is not self.is_sandbox:
            raise ConfigurationError(
                "refunds are paid with the same kind of money as the rail takes: both sandbox, or none"
            )
        self._refunding = found
        return self

    def refund_obstacle(self, charge: Charge) -> str | None:
        """Say why this charge's money cannot be given back; see `PaymentRail.refund_obstacle`."""
        if charge.offer.network != self._spec.mechanism.network:
            return f"it was paid on {charge.offer.network}, and this rail is on {self._spec.mechanism.network}"
        if self._refunding is None:
            return "give the rail what refunds are paid by: LightningRail.with_refunds, or refund_macaroon, refund_key"
        return None

    async def _open_refunds(self) -> None:
        if self._refunding is not None:
            try:
                await self._refunding.sender.start()
            except RailUnavailable as error:
                logger.warning("no refund can be paid now: %s", error.detail)

    async def _close_refunds(self) -> None:
        if self._refunding is not None:
            await self._refunding.sender.close()

    # --- paying

    async def pay_back(self, charge: Charge) -> Refunded | NotPaid | Failed | Unknown:
        """Pay the invoice that is written down in the charge; see `RefundsOnDemand`."""
        refunding = self._refunding
        if refunding is None:
            return Failed(code="payment_declined", detail=self.refund_obstacle(charge) or "")
        invoice, limit = str(charge.rail_state[_INVOICE]), refunding.max_fee_msat(charge.amount)
        ceiling = await refunding.sender.fee_ceiling(invoice, max_fee_msat=limit)
        if ceiling > limit:
            return Failed(
                code="payment_declined", detail=f"it may cost {ceiling} msat in fees, and {limit} are allowed"
            )
        sent = await refunding.sender.pay(invoice, max_fee_msat=limit)
        if sent.state == "failed":
            return Failed(code="payment_declined", detail=sent.detail)
        return _paid(charge, sent) or Unknown(detail=sent.detail)

    async def look_up_refund(self, charge: Charge) -> Refunded | NotPaid | Pending | Unknown:
        """Ask the node what became of a refund; see `PaymentRail.lookup`."""
        refunding, payment_hash = self._refunding, charge.rail_state.get(_HASH)
        if refunding is None or not isinstance(payment_hash, str):
            return Unknown(detail=self.refund_obstacle(charge) or "there is no invoice in the charge")
        sent = await refunding.sender.lookup(bytes.fromhex(payment_hash))
        if sent is None:
            left = (charge.asked_at or 0) + _LANDING_SECONDS - refunding.clock()
            return NotPaid() if left <= 0 else Pending(retry_after=left)
        return NotPaid() if sent.state == "failed" else _paid(charge, sent) or Pending(retry_after=10)

    # --- the address where a refund is fetched

    def endpoints(self) -> Mapping[tuple[str, str], Endpoint]:
        """Return where refunds are fetched, if they are paid; see `Endpoints`."""
        return {} if self._refunding is None else {("POST", REFUND_PATH): self._fetch}

    def pay_path(self, offer: Offer) -> str | None:
        """Return None: no person pays here; see `Endpoints`."""
        return None

    async def _fetch(self, request: EndpointRequest, desk: Desk) -> EndpointReply:
        """Pay a refund that is due: `{"preimage": of the payment, "invoice": over its amount}`.

        A payment that came with its offer's token is shown beside that, in its dialect's own header field.
        """
        asked = parse_json(request.body, field="body", max_bytes=_MAX_BODY)
        preimage, text = asked.get("preimage"), asked.get("invoice")
        if not isinstance(preimage, str) or not _is_preimage(preimage):
            raise MalformedInput("preimage", "must be the payment's, 64 hexadecimal digits", code="malformed_request")
        if not isinstance(text, str):
            raise MalformedInput("invoice", "must be the text of one", code="malformed_request")
        key = self._spec.key(hashlib.sha256(bytes.fromhex(preimage)).hexdigest())
        charge = await desk.refund_due([key], request.fields)
        if charge.payment is not PaymentState.REFUNDED:
            state = await self._fitting(charge, text)
            try:
                charge = await desk.pay_back(charge, state, keys=[_key(charge, state)])
            except KeyTaken as error:
                raise PaymentRejected("the invoice is that of another refund", code="refund_not_due") from error
            except StaleCharge as error:
                raise RailUnavailable("it is being paid already", retry_after=5) from error
        if charge.payment is not PaymentState.REFUNDED:
            what = "is on its way" if charge.payment is PaymentState.UNKNOWN else "was not paid"
            raise RailUnavailable(f"the refund {what}: {charge.last_word}", retry_after=10)
        found = {"charge": charge.id, "payment": charge.payment.value, "transaction": charge.refund_transaction}
        return EndpointReply.of(found | {"refund_receipt": charge.refund_receipt})

    async def _fitting(self, charge: Charge, text: str) -> Mapping[str, Any]:
        """Return what is to be written of an invoice that may be paid for this charge.

        Raises:
            MalformedInput: it is none, is for another amount or network, or expires too soon.
            PaymentRejected: it, or another one for this refund, has been seen before.
            RailUnavailable: the node cannot be asked.
        """
        refunding, invoice = self._refunding, bolt11.decode(text)
        assert refunding is not None
        if invoice.prefix != self._spec.network.prefix:
            raise _unfit(f"is not for {self._spec.network.name}")
        if invoice.amount_msat != charge.amount:
            raise _unfit(f"must be over exactly {charge.amount} msat, which were paid")
        if invoice.expires_at < refunding.clock() + _LEAST_SECONDS:
            raise _unfit(f"must be good for {_LEAST_SECONDS} s at least")
        payment_hash, earlier = invoice.payment_hash.hex(), charge.rail_state.get(_HASH)
        if payment_hash == charge.rail_state.get("payment_hash"):
            raise _unfit("is the one that was paid")
        if payment_hash != earlier:
            if isinstance(earlier, str):
                await self._check_over(charge, earlier, refunding)
            if await refunding.sender.lookup(invoice.payment_hash) is not None:
                raise PaymentRejected("the node has paid this invoice before", code="refund_not_due")
        return {_INVOICE: invoice.text, _HASH: payment_hash, _EXPIRY: invoice.expires_at}

    async def _check_over(self, charge: Charge, earlier: str, refunding: Refunding) -> None:
        """Check that the invoice that was presented before can never be paid any more."""
        sent = await refunding.sender.lookup(bytes.fromhex(earlier))
        expired = refunding.clock() > int(charge.rail_state[_EXPIRY]) + _PAST_EXPIRY
        if (sent is None and not expired) or (sent is not None and sent.state != "failed"):
            raise PaymentRejected(
                "present the invoice of before once more, or wait until it has expired", code="refund_not_due"
            )


def _key(charge: Charge, state: Mapping[str, Any]) -> ConsumptionKey:
    """Return what keeps one invoice from being two charges' refund, of which the node would pay one."""
    return f"refund:{charge.offer.network}:{state[_HASH]}"


def _paid(charge: Charge, sent: SentPayment) -> Refunded | None:
    if sent.state != "paid":
        return None
    return Refunded(transaction=str(charge.rail_state[_HASH]), state={_FEE: str(sent.fee_msat)})


def _unfit(detail: str) -> MalformedInput:
    return MalformedInput("invoice", detail, code="malformed_request")
