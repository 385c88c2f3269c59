"""Purchases for the tests of what keeps them."""

from __future__ import annotations

from typing import Any

from rail402.client.budget import Budget
from rail402.client.journal import Journal
from rail402.client.pins import Pin
from rail402.client.records import PurchaseRecord
from rail402.money import Money
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import Order

NOW = 1_800_000_000
URL = "https://shop.test:8443/a/b?n=1"
ORDER = Order(method="GET", url="https://shop.test/a", route="")
OFFER = Offer(
    rail="fake",
    mechanism="signed",
    network="fake:fake",
    asset="usd",
    amount=1_000_000,
    currency="USD",
    exponent=6,
    payee="shop",
    expires_at=NOW + 300,
    timeout_seconds=60,
    flow=Flow.UPFRONT,
    token="the-token",
    dialect="x402-v2",
    envelope={"accepted": {"extra": {"token": "the-token"}}},
)


def record(number: int = 0, *, cost: str = "1 USD", order: Order = ORDER, **fields: Any) -> PurchaseRecord:
    defaults = {"created_at": NOW + number, "lease_until": NOW + 120, "wallet": "w", "order": order, "offer": OFFER}
    return PurchaseRecord(id=f"rec_{number:026d}", reserved=Money.parse(cost), **(defaults | fields))


def pin(
    cost: str = "1 USD", *, payee: str = "shop", url: str = "https://shop.test:8443/a/b?n=1", **options: Any
) -> Pin:
    offer = OFFER.model_copy(update={"amount": Money.parse(cost).to_atomic(6), "payee": payee})
    return Pin.of(offer, url=url, **({"method": "GET", "checks_payee": True, "tolerance": 25} | options))


def entries(budget: Budget, cost: str) -> Any:
    return budget.entries(Money.parse(cost), {})


async def reserve(journal: Journal, wanted: PurchaseRecord, *, budget: Budget | None = None, now: int = NOW) -> Any:
    await journal.reserve(wanted, entries(budget or Budget(), str(wanted.reserved)), now=now)
    return wanted


async def hour(journal: Journal, currency: str = "USD", *, now: int = NOW) -> tuple[str, str]:
    spent = (await journal.spent(now=now))["hour"].get(currency)
    return ("0", "0") if spent is None else (str(spent.total), str(spent.unresolved))
