"""What the store cases share: charges to store, and the fixture that opens a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest_asyncio

from rail402.money import Money
from rail402.protocol.charge import Charge, Delivery, PaymentState
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import Order
from rail402.stores.base import Store, StoredResponse

__all__ = ["NOW", "RESPONSE", "StoreCases", "every_state", "is_open", "make_charge", "settled", "together"]

T = TypeVar("T")

NOW = 1_800_000_000
"""The time in the cases, Unix seconds."""

RESPONSE = StoredResponse(
    200,
    ((b"content-type", b"text/plain"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"x-latin", b"\xe9\xff")),
    b"\x00\xff paid \r\n",
)
"""A response with all that a careless store loses: repeated fields, bytes that are no text."""

_ORDER = Order(method="GET", url="https://api.example.com/article/402?q=ä", route="GET /article/{slug}")
_OFFER = Offer(
    rail="base",
    mechanism="eip3009",
    network="eip155:8453",
    asset="0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
    amount=3000,
    currency="USDC",
    exponent=6,
    payee="0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
    expires_at=NOW + 300,
    timeout_seconds=60,
    flow=Flow.AUTHORIZATION,
    extra={"name": "USD Coin", "version": "2"},
)
_numbers = count()


def make_charge(*keys: str, **changes: Any) -> Charge:
    """Return a charge with an id of its own that holds `keys`; `changes` are other fields of it."""
    fields: dict[str, Any] = {
        "id": f"ch_{next(_numbers):026d}",
        "order": _ORDER,
        "offer": _OFFER,
        "price": Money.parse("0.003 USD"),
        "window": 600,
        "uses_taken": 0,
        "dialect": "x402-v2",
        "keys": keys,
        "created_at": NOW,
        "lease_until": NOW + 30,
    }
    return Charge(**fields | changes)


def settled(*keys: str, **changes: Any) -> Charge:
    """Return a charge whose money arrived and whose response was stored."""
    return make_charge(*keys, **{"payment": PaymentState.SETTLED, "delivery": Delivery.STORED} | changes)


def every_state(**changes: Any) -> list[Charge]:
    """Return a charge in every pair of states of the two axes."""
    return [
        make_charge(f"tx:{payment}/{delivery}", payment=payment, delivery=delivery, **changes)
        for payment in PaymentState
        for delivery in Delivery
    ]


def is_open(charge: Charge) -> bool:
    """Say whether somebody still has to act on the charge."""
    finished = {PaymentState.SETTLED, PaymentState.RELEASED, PaymentState.REFUNDED, PaymentState.REJECTED}
    return charge.payment not in finished or charge.delivery is Delivery.RUNNING


async def together(times: int, verb: Callable[[int], Awaitable[T]]) -> Sequence[T | BaseException]:
    """Run `verb(0)`, `verb(1)`, … at the same time; return what each returned or raised."""
    return await asyncio.gather(*(verb(number) for number in range(times)), return_exceptions=True)


class StoreCases:
    """The fixture that all cases use."""

    async def open_store(self, directory: Path) -> Store:
        """Return a new, empty store that is not started. `directory` is an empty one that it may use."""
        raise NotImplementedError(f"{type(self).__name__} must say how to open its store")

    @pytest_asyncio.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        """A started store, closed after the case."""
        store = await self.open_store(tmp_path)
        await store.start()
        yield store
        await store.close()
