"""One call of the client, from the first request to the response: a generator that a driver runs.

The rules, in the order in which they bind:

1. One payment per call at most. Only a 402 with terms is ever paid, only with what the budget allows, and only after
   the journal has it.
2. A purchase of the same order that is not resolved comes first: its payment is shown again, and nothing new is signed
   while it may still be taken. (Calls that run side by side in one payer are purchases of their own.)
3. Once a proof may have left, only that proof is sent: again and again on a transport error, 402, 409, 429 or 503, as
   `Retry-After` and the back-off say, until the deadline. Then the wallet is asked what became of it. Only "not paid"
   frees the amount and lets another wallet try; everything else is `PaymentOutcomeUnknown`.
4. A payment is added to the caller's own request and to nothing else: whatever follows a redirect is another request.
   Nothing is bought where a redirect has led to another origin, and nothing more after a redirect that was paid for.
5. A purchase is closed when what it bought is in hand, its body included. If that breaks off (the connection, the
   caller, the process), the next call for the same order asks for it again with the same payment.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import Final

import httpx

from rail402.client.approval import approved, check_confirmed
from rail402.client.choice import Candidate, Terms, best_offer, preferred, read_terms
from rail402.client.commands import Reply, Request, Send, Steps, call, read, send
from rail402.client.journal import PAUSED
from rail402.client.people import with_person
from rail402.client.presenting import MAX_BODY, Attempt, Served
from rail402.client.progress import Asking, Paying, Receiving, Waiting
from rail402.client.records import Purchase, PurchaseRecord, new_record_id
from rail402.client.services import PAY_SECONDS, RESERVE_LEASE, Services
from rail402.errors import (
    AdministrativePaymentRequired,
    OfferRefused,
    OutcomeUnknown,
    PaymentActionRequired,
    PaymentFailed,
    PaymentOutcomeUnknown,
    PaymentRefused,
    RailUnavailable,
    StoreError,
    StreamingBodyRefused,
)
from rail402.protocol.base import sha256_hex
from rail402.protocol.offer import Offer
from rail402.protocol.order import Order
from rail402.protocol.rail import Paid, Wallet

__all__ = ["PurchaseFlow"]

_POLL: Final = 1


class PurchaseFlow:
    """One call of the client.

    A driver runs the steps of `run` and, however they end, awaits `let_go`. Where what was bought is on its way
    (`is_delivering`), it awaits `delivered` or `broke_off` instead, when the body has ended.

    Attributes:
        is_lost: whether who watches has failed over the body, which then nobody has.
    """

    def __init__(self, services: Services, request: Request) -> None:
        self._services, self._request = services, request
        self._attempt: Attempt | None = None
        self.is_lost = False

    def run(self) -> Steps[tuple[Reply, Purchase | None]]:
        """Send the request; if the answer is a 402, buy.

        Returns:
            The response to hand to the caller, and what was bought.

        Raises:
            ClientError: nothing was paid (`PaymentRefused`, `PaymentFailed`), or it is not known what was
                (`PaymentOutcomeUnknown`).
            StoreError: the journal cannot be used; nothing was paid.
        """
        self._services.tell(Asking(method=self._request.method, url=self._request.url))
        reply = yield from send(Send())
        if reply.status != 402:
            return reply, None
        # The body may hold the secret by which a payment is recognised: it is kept in no variable.
        terms = read_terms(self._services, self._request, reply.fields, (yield from read(reply, MAX_BODY)))
        if self._request.body is None:
            raise StreamingBodyRefused(
                "the request's body is a stream and cannot be sent again with a payment; give it as bytes, or call "
                "request.read() before sending"
            )
        order = Order(
            method=self._request.method,
            url=self._request.url,
            route="",
            body_digest=sha256_hex(self._request.body),
        )
        yield from call(self._services.start)
        served = yield from self._resume_open(order)
        if served is None:
            if self._request.objection is not None:
                raise OfferRefused(self._request.objection)
            self._services.budget.lists.check_host(self._request.origin)
            yield from call(partial(check_confirmed, self._services))
        return served or (yield from self._buy(order, terms))

    # --- how it ends

    @property
    def has_begun(self) -> bool:
        """Whether there is a purchase to let go of."""
        return self._attempt is not None

    @property
    def unread(self) -> httpx.Response | None:
        """The paid response, while it was not handed over: where that never comes, its connection must be freed."""
        return None if self._attempt is None else self._attempt.unread

    @property
    def is_delivering(self) -> bool:
        """Whether what was bought is served and its body not yet in hand."""
        return self._attempt is not None and self._attempt.is_delivering

    async def let_go(self) -> None:
        """End the work on a purchase, wherever it was interrupted, so that the next call can go on with it at once."""
        if self._attempt is None:
            return
        record = self._attempt.record
        self._services.live.discard(record.id)
        if record.is_open and record.lease_until:
            with suppress(StoreError):  # the lease lapses by itself
                await self._services.journal.save(record.changed(lease_until=0), now=self._services.now())

    async def delivered(self) -> None:
        """Close the purchase: the body is in hand, or the caller wants no more of it."""
        if self._attempt is not None and self._attempt.is_delivering:
            closing = asyncio.ensure_future(self._attempt.close())
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError:  # and with that the caller loses what is in hand
                await asyncio.shield(self._attempt.reopen(closing))
                raise
            finally:
                await self.let_go()

    def received(self, count: int, expected: int | None) -> None:
        """Tell who watches how many bytes of the body have come."""
        request, self.is_lost = self._request, True
        self._services.tell(Receiving(method=request.method, url=request.url, received=count, expected=expected))
        self.is_lost = False

    async def broke_off(self) -> None:
        """Leave the purchase open: the body broke off, and the next call for the same order asks for it again."""
        if self._attempt is not None and self._attempt.is_delivering:
            await self._attempt.keep_open()
            await self.let_go()

    def _begin(self, wallet: Wallet, record: PurchaseRecord) -> Attempt:
        if self._attempt is not None:
            self._services.live.discard(self._attempt.record.id)
        self._services.live.add(record.id)
        self._attempt = Attempt(self._services, wallet, record)
        return self._attempt

    # --- an earlier purchase of the same order

    def _resume_open(self, order: Order) -> Steps[Served | None]:
        """Go on with purchases of this order until one is served; None where none is left."""
        services = self._services
        until, polls = services.now() + services.deadline, 0
        while True:
            records = yield from call(partial(services.journal.open_for, order.digest))
            records = [record for record in records if record.id not in services.live]
            if not records:
                return None
            adopted = None
            for record in records:
                lease = services.now() + RESERVE_LEASE
                adopt = partial(services.journal.adopt, record, now=services.now(), lease_until=lease)
                if (adopted := (yield from call(adopt))) is not None:
                    break
            if adopted is not None:
                if (served := (yield from self._resume(adopted))) is not None:
                    return served
            elif services.now() >= until or polls * _POLL >= services.deadline:  # no clock holds us here
                left = max(records[0].lease_until - services.now(), 1)
                raise PaymentOutcomeUnknown(
                    f"another process is buying the same, or ended in the middle of it; try again in {left} s",
                    retry_after=left,
                    record_id=records[0].id,
                )
            else:
                polls += 1
                why = "another process is buying the same"
                services.tell(Waiting(method=order.method, url=order.url, seconds=_POLL, why=why))
                yield from call(partial(services.sleep, _POLL))

    def _resume(self, record: PurchaseRecord) -> Steps[Served | None]:
        """Go on with one purchase; None where it turns out that nothing was paid."""
        wallet = self._services.wallets.get(record.wallet)
        if wallet is None:
            free = record.changed(lease_until=0)
            yield from call(partial(self._services.journal.save, free, now=self._services.now()))
            raise PaymentOutcomeUnknown(
                f"this was {record.without_wallet}, or give it up with `rail402 receipts write-off {record.id}`",
                record_id=record.id,
            )
        attempt = self._begin(wallet, record)
        self._services.tell(_paying(record, is_resumed=True))
        try:
            return (yield from with_person(self._services, attempt, attempt.found_again))
        except (PaymentFailed, PaymentActionRequired) as error:
            if error.outcome != "not_paid" or error.code == "not_approved":  # who said no is not asked again at once
                raise
            return None
        except StoreError as error:
            raise _not_written(attempt, error) from error

    # --- a new purchase

    def _buy(self, order: Order, terms: Terms) -> Steps[Served]:
        wallets = yield from call(partial(preferred, self._services, terms, order, self._request))
        for name, wallet in wallets:
            served = yield from self._buy_with(name, wallet, order, terms)
            if served is not None:
                return served
        raise terms.nothing_bought()

    def _buy_with(self, name: str, wallet: Wallet, order: Order, terms: Terms) -> Steps[Served | None]:
        """Buy with one wallet; None where it definitively has not paid, with the reasons noted in `terms`."""
        skipped: list[Offer] = []
        while True:
            choose = partial(best_offer, self._services, name, wallet, terms, order, self._request, skipped)
            candidate = yield from call(choose)
            if candidate is None:
                return None
            try:
                agreed = yield from call(partial(approved, self._services, candidate, self._request))
                return (yield from self._purchase(agreed, order))
            except (PaymentFailed, PaymentRefused, PaymentActionRequired) as error:
                if error.outcome != "not_paid" or error.code == "not_approved":  # who said no is not asked again
                    raise
                if error.detail == PAUSED:  # which no other offer changes
                    raise
                terms.refuse(candidate.offer, error)
                if not isinstance(error, PaymentRefused):
                    self._read_again(terms)
                    return None
                skipped.append(candidate.read)  # the wallet was not asked to pay yet: another offer may fit

    def _read_again(self, terms: Terms) -> None:
        """Go on with the offers of the last 402: those of the first one are used up where a payment was refused."""
        challenge = None if self._attempt is None else self._attempt.challenge
        if challenge is not None:
            with suppress(AdministrativePaymentRequired):
                terms.offers = read_terms(self._services, self._request, *challenge).offers or terms.offers

    def _purchase(self, candidate: Candidate, order: Order) -> Steps[Served]:
        services = self._services
        now = services.now()
        record = PurchaseRecord(
            id=new_record_id(services.random_bytes),
            order=order,
            offer=candidate.offer,
            wallet=candidate.name,
            reserved=candidate.total,
            created_at=now,
            lease_until=now + RESERVE_LEASE,
        )
        attempt = self._begin(candidate.wallet, record)
        try:
            yield from call(partial(services.journal.reserve, record, candidate.entries, now=now, pin=candidate.pin))
        except PaymentRefused:
            services.live.discard(record.id)
            self._attempt = None  # it was not written
            raise
        services.tell(_paying(record))
        try:
            return (yield from with_person(services, attempt, partial(self._pay, candidate, attempt)))
        except StoreError as error:
            raise _not_written(attempt, error) from error

    def _pay(self, candidate: Candidate, attempt: Attempt) -> Steps[Paid]:
        record_id = attempt.record.id

        async def pay() -> Paid:
            async with asyncio.timeout(PAY_SECONDS):
                return await candidate.wallet.pay(candidate.offer, record_id=record_id, now=self._services.now())

        try:
            return (yield from call(pay))
        except (PaymentFailed, PaymentRefused, RailUnavailable) as error:
            yield from attempt.release(error.detail)
            raise PaymentFailed(error.detail, record_id=record_id) from error
        except PaymentActionRequired as action:
            raise (yield from attempt.waits(action)) from action
        except (PaymentOutcomeUnknown, OutcomeUnknown, TimeoutError, httpx.TransportError) as error:
            detail = "the wallet gave no answer that can be believed"
            yield from attempt.suspend(detail, held=error if isinstance(error, PaymentOutcomeUnknown) else None)
            raise PaymentOutcomeUnknown(
                f"{detail}; {attempt.record.reserved} stay reserved. Make the same request again to find out",
                record_id=record_id,
            ) from error


def _paying(record: PurchaseRecord, *, is_resumed: bool = False) -> Paying:
    return Paying(
        method=record.order.method,
        url=record.order.url,
        record_id=record.id,
        wallet=record.wallet,
        rail=record.offer.rail,
        price=record.offer.price,
        total=record.reserved,
        is_resumed=is_resumed,
    )


def _not_written(attempt: Attempt, error: StoreError) -> PaymentOutcomeUnknown:
    """Return the error for a journal that failed once the wallet had been asked: that is no news about the money."""
    return PaymentOutcomeUnknown(
        f"the journal cannot be written ({error.detail}), and the wallet was asked to pay; {attempt.record.reserved} "
        "stay reserved. Make the same request again to find out",
        record_id=attempt.record.id,
    )
