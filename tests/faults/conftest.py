"""What holds for every cell."""

from __future__ import annotations

import pytest
import stripe


@pytest.fixture(autouse=True)
def no_telemetry_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the library from writing its telemetry identifier into the configuration of whoever runs the tests."""
    monkeypatch.setattr(stripe, "enable_telemetry", False)
