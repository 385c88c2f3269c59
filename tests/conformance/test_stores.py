"""Both stores keep every promise of the interface."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rail402.stores import MemoryStore, SqliteStore, Store
from rail402.testing.store_work import Opener
from rail402.testing.stores import StoreConformance


class TestMemoryStore(StoreConformance):
    async def open_store(self, directory: Path) -> Store:
        return MemoryStore()


class TestSqliteStore(StoreConformance):
    def opener(self, directory: Path) -> Opener:
        return partial(SqliteStore, directory / "charges.db")
