"""What only the store in memory has to prove."""

from __future__ import annotations

import os

import pytest

from rail402.errors import ConfigurationError
from rail402.stores import MemoryStore
from rail402.testing.stores import make_charge


async def test_copy_in_another_process_claims_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    await store.claim(make_charge("tx:1"))
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(ConfigurationError, match="sqlite"):
        await store.claim(make_charge("tx:2"))
