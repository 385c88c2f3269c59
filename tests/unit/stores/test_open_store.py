"""Which URLs name a store, and what an error says about the others."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rail402.errors import ConfigurationError
from rail402.stores import MemoryStore, SqliteStore, open_store


def test_memory() -> None:
    assert isinstance(open_store("memory://"), MemoryStore)


def test_relative_path_is_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///data/charges 1.db")
    monkeypatch.chdir("/")
    assert isinstance(store, SqliteStore)
    assert store.path == tmp_path / "data" / "charges 1.db"


def test_absolute_path() -> None:
    store = open_store("sqlite:////var/lib/charges.db")
    assert isinstance(store, SqliteStore)
    assert store.path == Path("/var/lib/charges.db")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memory:",
        "memory://x",
        "charges.db",
        "sqlite:charges.db",
        "sqlite://charges.db",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///charges.db?mode=ro",
        "SQLITE:///charges.db",
        "postgresql:/db/charges",
        "POSTGRESQL://db/charges",
        "mysql://db/charges",
    ],
)
def test_other_forms_are_refused_with_the_allowed_ones(url: str) -> None:
    with pytest.raises(ConfigurationError, match="memory://"):
        open_store(url)


def test_password_is_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_store("mysql://user:hunter2@db/charges")
    assert "mysql://" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_postgres_is_named_without_its_password(scheme: str) -> None:
    pytest.importorskip("psycopg")
    store = open_store(f"{scheme}://user:hunter2@db:6432/charges?sslmode=require")
    assert repr(store) == "PostgresStore('db:6432/charges')"


@pytest.mark.parametrize("password", ["hun@ter2", "hun/ter2", "1/ter2", "@ter2", "ter2@", "/ter2"])
def test_a_password_that_would_end_too_early_is_refused_and_not_repeated(password: str) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(ConfigurationError, match="%40 for @ and %2F for /") as caught:
        open_store(f"postgresql://user:{password}@db/charges")
    assert "ter2" not in str(caught.value)
    quoted = password.replace("@", "%40").replace("/", "%2F")
    assert repr(open_store(f"postgresql://user:{quoted}@db/charges")) == "PostgresStore('db:5432/charges')"


def test_missing_driver_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for name in [name for name in sys.modules if name.startswith("rail402.stores.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigurationError, match=r"psycopg.*pip install 'rail402\[postgres\]'"):
        open_store("postgresql://user:hunter2@db/charges")
