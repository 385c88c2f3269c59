"""Waiting leaves nothing behind, and crosses event loops."""

from __future__ import annotations

import asyncio

from rail402.protocol.charge import Charge
from rail402.stores.wakeups import Wakeups
from rail402.testing.stores import make_charge


class Row:
    """One stored charge; `looked` is set with every look at it."""

    def __init__(self, charge: Charge) -> None:
        self.charge: Charge | None = charge
        self.looks = 0
        self.looked = asyncio.Event()

    async def read(self, charge_id: str) -> Charge | None:
        self.looks += 1
        self.looked.set()
        return self.charge


async def test_nobody_is_remembered_after_waiting() -> None:
    wakeups, row = Wakeups(), Row(make_charge("tx:1"))
    assert row.charge is not None
    await wakeups.wait(row.read, row.charge, timeout=0.01)
    cancelled = asyncio.ensure_future(wakeups.wait(row.read, row.charge, timeout=60))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    assert wakeups._waiting == {}


async def test_without_a_poll_it_looks_only_when_woken() -> None:
    charge = make_charge("tx:1")
    wakeups, row = Wakeups(), Row(charge)
    waiting = asyncio.ensure_future(wakeups.wait(row.read, charge, timeout=60))
    await row.looked.wait()
    row.looked.clear()
    wakeups.wake(charge.id)  # for nothing: it looks and goes on waiting
    await row.looked.wait()
    assert row.looks == 2
    row.charge = None
    wakeups.wake(charge.id)
    assert await waiting is None
    assert row.looks == 3


async def test_all_look_again_where_something_may_have_changed_unheard() -> None:
    charges = [make_charge(f"tx:{number}") for number in range(3)]
    wakeups, rows = Wakeups(), [Row(charge) for charge in charges]
    pairs = list(zip(rows, charges, strict=True))
    waiting = [asyncio.ensure_future(wakeups.wait(row.read, charge, timeout=60)) for row, charge in pairs]
    for row in rows:
        await row.looked.wait()
        row.charge = None
    wakeups.wake_all()
    async with asyncio.timeout(10):
        assert await asyncio.gather(*waiting) == [None] * 3


async def test_wake_from_another_thread_and_loop() -> None:
    charge = make_charge("tx:1")
    wakeups, row = Wakeups(), Row(charge)
    waiting = asyncio.ensure_future(wakeups.wait(row.read, charge, timeout=60))
    await row.looked.wait()
    row.charge = None
    await asyncio.to_thread(wakeups.wake, charge.id)
    async with asyncio.timeout(10):
        assert await waiting is None


async def test_poll_sees_a_change_that_wakes_nobody() -> None:
    charge = make_charge("tx:1")
    wakeups, row = Wakeups(), Row(charge)
    waiting = asyncio.ensure_future(wakeups.wait(row.read, charge, timeout=60, poll=0.001))
    await row.looked.wait()
    row.charge = charge.model_copy(update={"version": 1})
    async with asyncio.timeout(10):
        assert await waiting == row.charge
