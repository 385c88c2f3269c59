"""The conformance kit for stores: one class with a case for every promise of `rail402.stores.base.Store`.

A store proves itself in its own test suite, which needs pytest and pytest-asyncio::

    from rail402.testing.stores import StoreConformance

    class TestMyStore(StoreConformance):
        def opener(self, directory):
            return functools.partial(MyStore, directory / "charges.db")

`opener` returns what opens one store again and again, empty at first, in this process and in others, to which it is
pickled; the kit starts and closes what it opens. Where only one process can have the store (it is in memory, say),
override `open_store` instead, which returns a new, empty store: the cases about a new store on what another has
written, a process that is killed, and eight processes at once are then skipped. A store that needs fixtures of its own
overrides the fixture `store`.

What no case can bring about, a store has to prove by tests of its own: a power failure, a damaged or full disk, a
server that is out of reach (`StoreError`, and nothing half done), an older schema, and its speed.
"""

from __future__ import annotations

from typing import ClassVar

import pytest

from rail402.testing.store_charges import ClaimCases, LookupCases, SaveCases, WaitCases
from rail402.testing.store_passes import IssuedCases, PassCases, PruneCases, SettingCases
from rail402.testing.store_processes import DurabilityCases, ProcessCases
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
    DurabilityCases,
    ProcessCases,
):
    """Every case. Derive from it and define `opener`, or `open_store`."""

    pytestmark: ClassVar = [pytest.mark.asyncio]
