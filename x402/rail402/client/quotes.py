"""What a request would cost, found out without paying."""

from __future__ import annotations

from rail402.client.approval import check_confirmed, check_windows, quote_for
from rail402.client.choice import best_offer, preferred, read_terms
from rail402.client.commands import Reply, Request
from rail402.client.journal import PAUSED
from rail402.client.records import Quote
from rail402.client.services import Services
from rail402.errors import BudgetExceeded
from rail402.protocol.base import sha256_hex
from rail402.protocol.offer import Offer
from rail402.protocol.order import Order

__all__ = ["Quote", "quote_of"]


async def quote_of(services: Services, request: Request, reply: Reply, body: bytes | None) -> Quote:
    """Return what would be paid now for a request that was answered with a 402. Nothing is reserved.

    Args:
        body: that of the answer; None where it was too large to be read.

    Raises:
        PaymentRefused: nothing would be; it says why.
        StoreError: the journal cannot be used.
    """
    terms = read_terms(services, request, reply.fields, body)
    order = Order(method=request.method, url=request.url, route="", body_digest=sha256_hex(request.body or b""))
    services.budget.lists.check_host(request.origin)
    await services.start()
    if await services.journal.paused_since() is not None:
        raise BudgetExceeded(PAUSED)
    await check_confirmed(services)
    for name, wallet in await preferred(services, terms, order, request):
        skipped: list[Offer] = []
        while (candidate := await best_offer(services, name, wallet, terms, order, request, skipped)) is not None:
            try:
                await check_windows(services, candidate)
            except BudgetExceeded as error:
                terms.refuse(candidate.offer, error)
                skipped.append(candidate.read)
            else:
                return quote_for(candidate, request)
    raise terms.nothing_bought()
