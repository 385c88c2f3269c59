"""Both databases of a journal: which limits are remembered, by whomever they come and however many come at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rail402.client.budget import Budget
from rail402.client.journal import Journal
from rail402.errors import StoreError

NOW = 1_800_000_000


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Journal]:
    journal = Journal(url)
    await journal.start()
    try:
        yield journal
    finally:
        await journal.close()


def budget(**changes: Any) -> Budget:
    return Budget(**({"per_hour": "5 USD"} | changes))


async def test_the_first_limits_are_taken_and_looser_ones_wait(url: str) -> None:
    loose, tight = budget(per_hour="9 USD"), budget(per_hour="1 USD")
    async with opened(url) as journal:
        assert await journal.looser(loose) == ()
        assert await journal.accept(budget(), now=NOW) == ()
        for _ in range(2):
            assert await journal.accept(loose, now=NOW) == ("per hour it was 5 USD, and is 9 USD",)
            assert await journal.looser(budget()) == ()
    async with opened(url) as journal:
        assert await journal.accept(tight, now=NOW) == ()
        assert await journal.accept(budget(), now=NOW) == ("per hour it was 1 USD, and is 5 USD",), "it was remembered"
        assert await journal.accept(loose, now=NOW, is_confirmed=True) != ()
        assert await journal.looser(loose) == await journal.looser(budget()) == ()


async def test_of_many_that_come_at_once_the_tightest_holds(url: str) -> None:
    """Ten payers with other limits each, none of which the journal knows."""

    async def come(number: int) -> int | None:
        async with opened(url) as journal:
            return None if await journal.accept(budget(per_hour=f"{number} USD"), now=NOW) else number

    taken = [number for number in await asyncio.gather(*(come(number) for number in range(1, 11))) if number]
    async with opened(url) as journal:
        held = [number for number in range(1, 11) if not await journal.looser(budget(per_hour=f"{number} USD"))]
    assert held == list(range(1, min(taken) + 1))
    assert min(taken) == 1, "nothing is looser than the tightest"


async def test_it_is_of_an_open_journal(url: str) -> None:
    with pytest.raises(StoreError):
        await Journal(url).looser(budget())
