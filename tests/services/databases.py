"""The fixtures of the databases, for the `conftest.py` of any folder whose tests use one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services import postgres as postgres_service
from tests.services import redis as redis_service
from tests.services import require
from tests.services.processes import ServiceFailed

__all__ = ["own_postgres", "postgres", "redis_url"]


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres_service.PostgresServer]:
    """A PostgreSQL; each test makes a schema of its own."""
    if reason := postgres_service.missing():
        require("postgres", reason)
    try:
        with postgres_service.postgres_server(tmp_path_factory.mktemp("postgres")) as server:
            yield server
    except ServiceFailed as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[postgres_service.OwnServer]:
    """A PostgreSQL that the test may stop and kill."""
    if reason := postgres_service.missing(own=True):
        require("postgres", reason)
    try:
        with postgres_service.own_server(tmp_path) as server:
            yield server
    except ServiceFailed as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis; tests tell their keys apart by prefixes of their own."""
    if reason := redis_service.missing():
        require("redis", reason)
    try:
        with redis_service.redis_server(tmp_path_factory.mktemp("redis")) as server:
            yield server.url
    except ServiceFailed as error:
        pytest.fail(str(error), pytrace=False)
