"""The PostgreSQL of the cases that processes share it in."""

from __future__ import annotations

import pytest

from tests.services.databases import postgres

__all__ = ["postgres"]


# First, for pytest-xdist reads the marks in this same hook.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the cases that need it."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is not None and callspec.params.get("url") == "postgres":
            item.add_marker(pytest.mark.service("postgres"))
            item.add_marker(pytest.mark.xdist_group("postgres"))
