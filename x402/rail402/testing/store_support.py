"""What the store cases share: charges to store, and the fixtures that open a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio

from rail402.errors import StoreError
from rail402.money import Money
from rail402.protocol.charge import Charge, Delivery, PaymentState
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import Order
from rail402.stores.base import Store, StoredResponse
from rail402.testing.store_work import Opener

__all__ = [
    "LOOKALIKES",
    "NOW",
    "RESPONSE",
    "StoreCases",
    "every_state",
    "is_open",
    "make_charge",
    "must_raise",
    "settled",
    "together",
]

T = TypeVar("T")

NOW = 1_800_000_000
"""The time in the cases, Unix seconds."""

RESPONSE = StoredResponse(
    200,
    ((b"content-type", b"text/plain"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"x-latin", b"\xe9\xff")),
    b"\x00\xff paid \r\n",
)
"""A response with all that a careless store loses: repeated fields, bytes that are no text."""

LOOKALIKES = ("tx:aé", "tx:Aé", "tx:aÉ", "tx:ae", "tx:ae\u0301", "tx:aé ")
"""Six names of which no two are the same, whatever a database's collation thinks of case, accents and spaces."""

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


@contextmanager
def must_raise(error: type[StoreError], promise: str) -> Iterator[None]:
    """Assert that the block raises `error`, as `promise` says."""
    try:
        yield
    except error:
        return
    pytest.fail(f"{promise}, by {error.__name__}")


class StoreCases:
    """How a store is opened. A kit's class says it by one of `opener` and `open_store`."""

    def opener(self, directory: Path) -> Opener | None:
        """Return what opens the same store each time it is called, here and in other processes.

        Its stores are not started, and empty until one of them was written to. It must be picklable: a class with its
        arguments, say `functools.partial(MyStore, directory / "charges.db")`.

        Args:
            directory: an empty one that the store may use.

        Returns:
            None where only one process can have the store: the cases about closing it and about others are skipped.
        """
        return None

    async def open_store(self, directory: Path) -> Store:
        """Return a new, empty store that is not started: what `opener` opens, unless it is overridden."""
        opener = self.opener(directory)
        if opener is None:
            raise NotImplementedError(f"{type(self).__name__} must say how to open its store")
        return opener()

    @pytest_asyncio.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        """A started store, closed after the case."""
        store = await self.open_store(tmp_path)
        await store.start()
        yield store
        await store.close()

    @pytest.fixture
    def anew(self, tmp_path: Path) -> Opener:
        """What opens one store again and again, in any process."""
        opener = self.opener(tmp_path)
        if opener is None:
            pytest.skip("its `opener` returns None: only one process can have this store")
        return opener
