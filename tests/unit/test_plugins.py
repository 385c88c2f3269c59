"""Rails by name: only what a file lists is imported."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

from rail402 import plugins
from rail402.errors import ConfigurationError
from rail402.plugins import RailPlugin, installed_rails, load_plugin
from rail402.protocol.base import Record
from rail402.testing.fakes import FakeRail, FakeWallet

PLUGIN = RailPlugin(Record, Record, FakeRail, FakeWallet)


@pytest.fixture(autouse=True)
def points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register a few rails, good and bad, in place of the installed ones."""
    group = "rail402.rails"
    registered = EntryPoints(
        [
            EntryPoint("good", f"{__name__}:PLUGIN", group),
            EntryPoint("wrong", f"{__name__}:points", group),
            EntryPoint("extra", "rail402_needs_an_extra:PLUGIN", group),
            EntryPoint("other", f"{__name__}:PLUGIN", "another.group"),
        ]
    )
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])

    def entry_points(**wanted: Any) -> EntryPoints:
        return registered.select(**wanted)

    monkeypatch.setattr(plugins, "entry_points", entry_points)


def test_a_rail_is_loaded_by_name() -> None:
    assert load_plugin("good") is PLUGIN
    assert installed_rails() == ["extra", "good", "wrong"]


def test_an_unknown_rail_is_told_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gold", "other", ""):
        with pytest.raises(ConfigurationError, match=f"there is no rail '{name}'; installed are: extra, good, wrong"):
            load_plugin(name)
    monkeypatch.setattr(plugins, "entry_points", lambda **_: EntryPoints())
    with pytest.raises(ConfigurationError, match="installed are: none"):
        load_plugin("good")


def test_a_missing_extra_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"rail402_needs_an_extra.*pip install 'rail402\[extra\]'"):
        load_plugin("extra")


def test_what_is_registered_must_be_a_plugin() -> None:
    with pytest.raises(ConfigurationError, match="is no RailPlugin"):
        load_plugin("wrong")


def test_to_list_the_rails_imports_none_of_them() -> None:
    script = (
        "import sys; from rail402.plugins import installed_rails; found = installed_rails();"
        "assert {'base', 'lightning', 'stripe'} <= set(found), found;"
        "assert not [name for name in sys.modules if name.startswith('rail402_')]"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
