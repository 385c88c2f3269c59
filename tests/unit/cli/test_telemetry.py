"""The commands leave nothing of Stripe's library in the home directory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rail402.cli.pay import open_payer
from rail402.cli.telemetry import without_telemetry


def test_the_rails_of_a_command_report_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import stripe

    monkeypatch.setattr(stripe, "enable_telemetry", True)
    monkeypatch.setenv("RAIL402_SANDBOX", str(tmp_path))
    open_payer("sandbox", rails=["stripe"])
    assert stripe.enable_telemetry is False


def test_a_library_that_is_not_loaded_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "stripe", raising=False)
    without_telemetry()
    assert "stripe" not in sys.modules
