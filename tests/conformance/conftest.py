"""The PostgreSQL of the cases that processes share it in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.services.databases import postgres
from tests.services.postgres import PostgresServer

__all__ = ["postgres", "url"]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new, empty database that processes can share."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shared.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.schema()


# First, for pytest-xdist reads the marks in this same hook.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the cases that need it."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is not None and callspec.params.get("url") == "postgres":
            item.add_marker(pytest.mark.service("postgres"))
            item.add_marker(pytest.mark.xdist_group("postgres"))
