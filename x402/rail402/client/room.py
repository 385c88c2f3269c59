"""What of the budget is left after a purchase."""

from __future__ import annotations

from decimal import Decimal

from rail402.client.choice import in_limits
from rail402.client.limits import Room
from rail402.client.records import PurchaseRecord
from rail402.client.rules import Subject
from rail402.client.services import Services
from rail402.errors import BudgetExceeded

__all__ = ["least_room"]


async def least_room(services: Services, record: PurchaseRecord, *, tool: str | None = None) -> Room | None:
    """Return the limit under which the fewest more of a purchase fit, and what is left of it; None without a limit.

    Args:
        tool: what it was bought for, where rules limit that.

    Raises:
        StoreError: the journal cannot be used.
    """
    cost = record.reserved  # what another one would be measured by
    subject = Subject(record.order.origin, record.offer.payee, record.offer.rail, tool)
    try:
        entries = services.budget.entries(cost, await in_limits(services, cost), subject)
    except BudgetExceeded:  # it was bought within other limits
        return None
    spent = await services.journal.spent_by_scope(now=services.now())
    found: list[tuple[Decimal, Room]] = []
    for entry in entries:
        room = entry.room(entry.held(spent))
        if room is not None and entry.amount.amount:
            found.append((room.left.amount / entry.amount.amount, room))
    return min(found, key=lambda each: each[0])[1] if found else None
