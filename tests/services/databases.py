"""The fixtures of the databases, for the `conftest.py` of any folder whose tests use one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.services import lossy, require
from tests.services import postgres as postgres_service
from tests.services import redis as redis_service
from tests.services.processes import serve

__all__ = ["lossy_url", "own_postgres", "postgres", "redis_url", "relay", "schema"]


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres_service.PostgresServer]:
    """A PostgreSQL; each test makes a schema of its own."""
    if reason := postgres_service.missing():
        require("postgres", reason)
    yield from serve(postgres_service.postgres_server(tmp_path_factory.mktemp("postgres")))


@pytest.fixture
def schema(postgres: postgres_service.PostgresServer) -> str:
    """The URL of a new, empty schema."""
    return postgres.schema()


@pytest.fixture
async def relay(schema: str) -> AsyncIterator[lossy.LossyRelay]:
    """What stands between `lossy_url` and its server; it loses what a test tells it to."""
    found = conninfo_to_dict(schema)
    async with lossy.lossy_relay(str(found["host"]), int(found["port"] or 5432)) as relay:
        yield relay


@pytest.fixture
def lossy_url(schema: str, relay: lossy.LossyRelay) -> str:
    """The URL of the same schema through `relay`."""
    return schema.replace(f":{conninfo_to_dict(schema)['port']}/", f":{relay.port}/")


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[postgres_service.OwnServer]:
    """A PostgreSQL that the test may stop and kill."""
    if reason := postgres_service.missing(own=True):
        require("postgres", reason)
    yield from serve(postgres_service.own_server(tmp_path))


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis; tests tell their keys apart by prefixes of their own."""
    if reason := redis_service.missing():
        require("redis", reason)
    for server in serve(redis_service.redis_server(tmp_path_factory.mktemp("redis"))):
        yield server.url
