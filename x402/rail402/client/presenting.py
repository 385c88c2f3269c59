"""One purchase under way: its record, and showing its proof until the server has decided."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress
from functools import partial
from typing import Any, Final, NoReturn

import httpx

from rail402.client.commands import Reply, Send, Steps, call, read, send
from rail402.client.links import link_in, shown_link
from rail402.client.progress import Presenting, Waiting
from rail402.client.receipts import CheckedReceipt, check_receipt
from rail402.client.records import Purchase, PurchaseRecord, PurchaseState
from rail402.client.services import PAY_SECONDS, Services
from rail402.errors import (
    REASONS,
    ClientError,
    MalformedInput,
    OfferRefused,
    PaymentActionRequired,
    PaymentFailed,
    PaymentOutcomeUnknown,
    Rail402Error,
    StoreError,
)
from rail402.money import Money
from rail402.protocol.base import parse_json
from rail402.protocol.dialect import Fields
from rail402.protocol.rail import NotPaid, Paid, Unknown, Wallet

__all__ = ["MAX_BODY", "PRESENT_MARGIN", "Attempt", "Served"]

logger = logging.getLogger("rail402.client")

Served = tuple[Reply, Purchase]

MAX_BODY: Final = 131_072
"""Bytes of a 402's body above which it is not looked at: as much JSON as can be read without holding up others."""

PRESENT_MARGIN: Final = 30
"""Seconds for which a purchase is not taken over after the deadline of whoever works on it."""

_RESENT: Final = frozenset({402, 409, 429, 503})
_BACKOFF: Final = (1, 2, 4, 8)
_ACTION: Final = "action_required"
# The final answers that mean that the money has moved: there is nothing to take back.
_TAKEN: Final = frozenset({"proof_already_used", "receipt_expired", "uses_exhausted", "refunded"})
# A server that keeps to this design recognises a payment for an hour after its offer expired.
_GIVE_UP_AFTER: Final = 3600
_DAY: Final = 86_400


class Attempt:
    """One purchase under way.

    Args:
        wallet: the one that pays it.
        record: as it was last written to the journal.

    Attributes:
        unread: a response that was paid for and not yet handed over.
        action: what a person has to do first, as the wallet said last.
        challenge: the fields and the body of the last 402 that answered the payment.
    """

    def __init__(self, services: Services, wallet: Wallet, record: PurchaseRecord) -> None:
        self._services, self._wallet, self.record = services, wallet, record
        self._result: dict[str, Any] | None = None
        self.unread: httpx.Response | None = None
        self.action: PaymentActionRequired | None = None
        self.challenge: tuple[Fields, bytes | None] | None = None

    # --- its record

    # Secrets pass through here in nothing but records: tools that report errors quote the local variables of every
    # frame, and a record does not show its proof.

    def save(self, changed: PurchaseRecord) -> Steps[None]:
        """Write the record's next version to the journal."""
        before, self.record = self.record, changed  # if the caller is cancelled meanwhile, it is written all the same
        try:
            self.record = yield from call(partial(self._services.journal.save, changed, now=self._services.now()))
        except StoreError:
            self.record = before
            raise

    def release(self, detail: str, *, withdrawn: bool = False) -> Steps[None]:
        """Write that nothing was paid and never will be; see `PurchaseRecord.withdrawn`."""
        changes = {"state": PurchaseState.RELEASED, "withdrawn": withdrawn, "lease_until": 0}
        yield from self.save(self.record.changed(detail=detail, **changes))

    def suspend(
        self, detail: str, found: Paid | NotPaid | Unknown | None = None, *, held: ClientError | None = None
    ) -> Steps[None]:
        """Write that nobody works on it now, and what the wallet found or has in hand; the amount stays reserved."""
        ended = self.informed(found, state=PurchaseState.UNKNOWN, detail=detail, lease_until=0)
        if held is not None and held.proof is not None:
            ended = ended.model_copy(update={"proof": dict(held.proof)})
            held.proof = None  # errors get about
        yield from self.save(ended)

    def waits(self, action: PaymentActionRequired) -> Steps[PaymentActionRequired]:
        """Write that a person has to act first, and return the error that says so."""
        link = shown_link(action.url, self.record.order.origin, self._wallet.origins_for_people)
        if action.outcome == "not_paid":
            yield from self.release(action.detail)
            return PaymentActionRequired(
                action.detail, code=action.code, url=link, outcome="not_paid", record_id=self.record.id
            )
        yield from self.suspend("a person has to act", held=action)
        return PaymentActionRequired(
            f"until then {self.record.reserved} stay reserved. Make the same request again when that is done",
            url=link,
            retry_after=action.retry_after,
            record_id=self.record.id,
        )

    @property
    def is_delivering(self) -> bool:
        """Whether it is served, and its body not yet in hand."""
        return self._result is not None

    async def close(self) -> None:
        """Write that what was bought is in hand."""
        await self._end(state=PurchaseState.COMMITTED)

    async def keep_open(self) -> None:
        """Write that it is paid and that its body broke off."""
        await self._end(state=PurchaseState.UNKNOWN, moved=True, detail="the response broke off")

    async def reopen(self, closing: Awaitable[None]) -> None:
        """Take back that what was bought is in hand, once `closing` has written it."""
        await closing
        if self.record.state is PurchaseState.COMMITTED:
            with suppress(StoreError):
                self.record = await self._services.journal.reopen(self.record)

    async def _end(self, **changes: Any) -> None:
        result, self._result = self._result or {}, None
        ended = self.record.changed(lease_until=0, **result, **changes)
        try:
            self.record = await self._services.journal.save(ended, now=self._services.now())
        except StoreError as error:
            # What was paid for is not lost by that: the open record makes the next call ask for it again, at no cost.
            logger.warning("purchase %s was served but could not be closed: %s", self.record.id, error)

    # --- its wallet

    async def ask_wallet(self) -> Paid | NotPaid | Unknown:
        """Return what the wallet finds out about the payment. A wallet that fails has found out nothing; where it waits
        for a person, that is `action`."""
        self.action = None
        try:
            async with asyncio.timeout(PAY_SECONDS):
                return await self._wallet.resume(
                    self.record.offer, self.record.proof, record_id=self.record.id, now=self._services.now()
                )
        except PaymentActionRequired as error:
            self.action = error
            return Unknown(detail="a person has to act")
        except Rail402Error as error:
            logger.warning("the wallet %s cannot say what became of %s: %s", self.record.wallet, self.record.id, error)
            return Unknown(detail=error.detail)
        except (TimeoutError, httpx.TransportError) as error:
            return Unknown(detail=f"the wallet did not answer ({type(error).__name__})")

    async def _withdraw(self) -> bool:
        """Have the wallet take back what the server refused for good; return whether it did."""
        try:
            async with asyncio.timeout(PAY_SECONDS):
                return await self._wallet.withdraw(
                    self.record.offer, self.record.proof or {}, record_id=self.record.id, now=self._services.now()
                )
        except (Rail402Error, TimeoutError, httpx.TransportError) as error:
            logger.warning("the wallet %s did not take %s back: %s", self.record.wallet, self.record.id, error)
            return False

    def informed(self, found: Paid | NotPaid | Unknown | None, **changes: Any) -> PurchaseRecord:
        """Return the record's next version, with `changes` and what the wallet's answer changes."""
        record = self.record.changed(**changes)
        if isinstance(found, Paid):
            record = record.model_copy(update={"proof": dict(found.payload)})
            # What nobody can take for the first time any more, and the wallet calls paid, is gone as well.
            if not record.moved and (found.moved or self._services.now() > record.valid_until()):
                record = record.model_copy(update={"moved": True, "cost": _true_cost(self.record, found.fee)})
        return record

    def found_again(self) -> Steps[Paid]:
        """Return the payment that was begun before, where it is one or may be.

        Raises:
            PaymentFailed: nothing was paid; it is released.
            PaymentActionRequired, PaymentOutcomeUnknown: there is nothing yet that could be shown.
        """
        found = yield from call(self.ask_wallet)
        if isinstance(found, NotPaid):
            yield from self.release("the wallet found that it was not paid")
            raise PaymentFailed("it was not paid", record_id=self.record.id)
        if isinstance(found, Paid):
            return found
        # What a wallet is not sure of is shown all the same: that cannot cost more than it did.
        if self.action is not None and self.action.proof is not None:
            return Paid(payload=self.action.proof)
        if self.record.proof is not None:
            return Paid(payload=self.record.proof)
        if self.action is not None:
            raise (yield from self.waits(self.action))
        yield from self.suspend(found.detail)
        raise PaymentOutcomeUnknown(
            "the wallet does not know yet whether an earlier payment for this went through", record_id=self.record.id
        )

    # --- showing the proof

    def present(self, paid: Paid, *, until: int | None = None) -> Steps[Served]:
        """Show the proof until the server answers with anything but 402, 409, 429 or 503.

        Args:
            until: where a person has just acted, the Unix seconds until which the server may still be learning of it.

        Raises:
            PaymentFailed: the server did not take it, and nothing was paid.
            PaymentActionRequired: a person has to act first, or could pay in another way.
            PaymentOutcomeUnknown: it was not served until the deadline.
        """
        services, is_patient = self._services, until is not None
        until, waited = services.now() + services.deadline if until is None else until, 0
        dialect = services.dialect(self.record.offer.dialect)
        if dialect is None:
            yield from self.suspend("its dialect is not spoken here")
            raise PaymentOutcomeUnknown(
                f"the purchase was begun in {self.record.offer.dialect}, which is not spoken here; enable it to go on",
                record_id=self.record.id,
            )
        changes = {"state": PurchaseState.PRESENTED, "lease_until": until + PRESENT_MARGIN}
        yield from self.save(self.record.changed(proof=dict(paid.payload), **changes))
        payment = Send(tuple(dialect.credential(self.record.offer, dict(paid.payload), services.context())))
        backoff = iter(_BACKOFF)
        order = self.record.order
        while True:
            services.tell(Presenting(method=order.method, url=order.url))
            reply, refusal, asked = yield from self._exchange(payment)
            if reply is not None and reply.status not in _RESENT:
                return (yield from self._served(reply, paid))
            pause = next(backoff, _BACKOFF[-1]) if asked is None else max(asked, 1)
            is_final = yield from self._is_final(reply, refusal, is_patient=is_patient)
            # The pauses are counted too, because a clock may be set back.
            if is_final or services.now() + pause > until or waited + pause > services.deadline:
                yield from self._not_served(reply, refusal, asked)
            waited += pause
            services.tell(Waiting(method=order.method, url=order.url, seconds=pause, why=_said(reply, refusal)))
            yield from call(partial(services.sleep, pause))

    def _is_final(self, reply: Reply | None, refusal: str | None, *, is_patient: bool) -> Steps[bool]:
        """Say whether sending the same again cannot help, or is for a later call."""
        if reply is None or reply.status != 402 or (refusal is not None and refusal != _ACTION):
            return refusal is not None
        if is_patient:  # until the server has learnt of it, or the person has refused
            return isinstance((yield from call(self.ask_wallet)), NotPaid)
        return refusal is not None or self.action is not None

    def _exchange(self, payment: Send) -> Steps[tuple[Reply | None, str | None, int | None]]:
        """Send the payment once. Return the reply, the reason code where it is a final no, and `Retry-After`."""
        try:
            reply = yield from send(payment)
            if reply.status not in _RESENT:
                return reply, None, None
            body = yield from read(reply, MAX_BODY)
        except (httpx.TransportError, TimeoutError, OfferRefused):  # the last one is a transport's, `PublicOnly` say
            return None, None, None
        if reply.status == 402:
            self.challenge = reply.fields, body
        return reply, _final_refusal(body), _retry_after(reply)

    def _served(self, reply: Reply, paid: Paid) -> Steps[Served]:
        self.unread = reply.response
        checked = yield from check_receipt(self._services, reply, self.record)
        is_paid = reply.status < 400 or checked.receipt is not None
        if is_paid:
            self._result = {"cost": _true_cost(self.record, paid.fee), "receipt": checked.token}
            if reply.response.is_closed:  # its body is in memory; else whoever reads it says how it ended
                yield from call(self.close)
        else:
            yield from call(partial(self._end, state=PurchaseState.UNKNOWN, detail=f"answered {reply.status}"))
        self.unread = None
        return reply, self._purchase(paid, checked, is_paid)

    def _purchase(self, paid: Paid, checked: CheckedReceipt, is_paid: bool) -> Purchase:
        offer = self.record.offer
        return Purchase(
            record_id=self.record.id,
            outcome="paid" if is_paid else "unknown",
            price=offer.price,
            fee=paid.fee,
            rail=offer.rail,
            dialect=offer.dialect or "",
            receipt=checked.receipt,
            receipt_error=checked.error,
        )

    def _not_served(self, reply: Reply | None, refusal: str | None, asked: int | None) -> Steps[NoReturn]:
        """Ask the wallet what became of a payment that the server does not serve, write it down, and raise."""
        said = _said(reply, refusal)
        if advice := self._wallet.advice.get(refusal or ""):
            said += f" ({advice})"
        refused = reply is not None and reply.status == 402
        found = yield from call(self.ask_wallet)
        if self.action is not None:
            raise (yield from self.waits(self.action))
        is_withdrawn = False
        if refused and refusal is not None and refusal not in _TAKEN and not isinstance(found, NotPaid):
            is_withdrawn = yield from call(self._withdraw)
        if is_withdrawn or isinstance(found, NotPaid):
            yield from self.release(said, withdrawn=is_withdrawn)
            self._raise_unpaid(f"{said}, and nothing was paid", refusal)
        yield from self.suspend(said, found)
        too_late = self.record.valid_until() + _GIVE_UP_AFTER
        if self.record.moved and refused and self._services.now() > too_late:
            yield from self.save(self.record.changed(state=PurchaseState.COMMITTED))
            raise PaymentOutcomeUnknown(
                f"{said}: it was paid and is not served any more; the purchase is closed, the same request buys anew",
                outcome="paid",
                record_id=self.record.id,
            )
        held = f"{self.record.cost} are paid" if self.record.moved else f"{self.record.reserved} stay reserved"
        raise PaymentOutcomeUnknown(
            f"{said}; {held}. Make the same request again to go on with this payment",
            retry_after=asked,
            outcome="paid" if self.record.moved else "unknown",
            record_id=self.record.id,
        )

    def _raise_unpaid(self, detail: str, refusal: str | None) -> NoReturn:
        if refusal != _ACTION:
            raise PaymentFailed(detail, record_id=self.record.id)
        body = self.challenge[1] if self.challenge else None
        link = link_in(body, self.record.offer.rail, self.record.order.origin, self._wallet.origins_for_people)
        raise PaymentActionRequired(detail, url=link, outcome="not_paid", record_id=self.record.id)


def _said(reply: Reply | None, refusal: str | None) -> str:
    return "the connection failed" if reply is None else f"the server answered {refusal or reply.status}"


def _final_refusal(body: bytes | None) -> str | None:
    """Return the reason code that the server gives, if it means that sending the same again cannot help.

    It only ends the wait: what became of the money is asked of the wallet.
    """
    with suppress(MalformedInput):
        code = parse_json(body or b"", field="body", max_bytes=MAX_BODY).get("code")
        reason = REASONS.get(code) if isinstance(code, str) else None
        if reason is not None and not reason.retryable and reason.code != "payment_required":
            return reason.code
    return None


def _retry_after(reply: Reply) -> int | None:
    """Return the seconds that the server asks for, a day at most: an agent may do what an error tells it. A date is not
    worth reading for a wait this short."""
    text = next(iter(reply.fields.all("retry-after")), "")
    return min(int(text), _DAY) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _true_cost(record: PurchaseRecord, fee: Money | None) -> Money:
    """Return what was spent; where the fee is not known or in another currency, the most that it can be."""
    price = record.offer.price
    return price + fee if fee is not None and fee.currency == price.currency else record.reserved
