from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.client.shop import Market


@pytest.fixture(params=["async", "sync"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the two transports a test uses."""
    return str(request.param)


@pytest.fixture
async def open_market(tmp_path: Path, kind: Any) -> AsyncIterator[Callable[..., Market]]:
    """Open markets; everything in them is closed afterwards."""
    markets: list[Market] = []

    def make(**options: Any) -> Market:
        markets.append(Market(tmp_path, kind, **options))
        return markets[-1]

    yield make
    for market in markets:
        await market.close()


@pytest.fixture
def market(open_market: Callable[..., Market]) -> Market:
    """A market with one rail."""
    return open_market()
