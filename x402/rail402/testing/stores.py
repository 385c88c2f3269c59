"""The conformance kit for stores: one class with a case for every promise of `rail402.stores.base.Store`.

A store proves itself in its own test suite, which needs pytest and pytest-asyncio::

    from rail402.testing.stores import StoreConformance

    class TestMyStore(StoreConformance):
        async def open_store(self, directory):
            return MyStore(directory / "charges.db")

`open_store` returns a new, empty store; the kit starts and closes it, once per case. A store that needs fixtures of
its own overrides the fixture `store` instead. For readable failures, a `conftest.py` may call
`pytest.register_assert_rewrite` with "rail402.testing.store_charges", "rail402.testing.store_passes" and
"rail402.testing.store_workers".

The cases run in one process and on one event loop. What a store says about other processes, crashes and damaged
files, it has to prove by tests of its own.
"""

from __future__ import annotations

from typing import ClassVar

import pytest

from rail402.testing.store_charges import ClaimCases, LookupCases, SaveCases, WaitCases
from rail402.testing.store_passes import IssuedCases, PassCases, PruneCases, SettingCases
from rail402.testing.store_support import make_charge
from rail402.testing.store_workers import BucketCases, LeaderCases

__all__ = ["StoreConformance", "make_charge"]


class StoreConformance(
    ClaimCases,
    SaveCases,
    LookupCases,
    WaitCases,
    PassCases,
    IssuedCases,
    LeaderCases,
    BucketCases,
    SettingCases,
    PruneCases,
):
    """Every case. Derive from it and define `open_store`."""

    pytestmark: ClassVar = [pytest.mark.asyncio]
