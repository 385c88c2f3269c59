"""The databases that the tests start: they answer, and what a killed PostgreSQL had committed is there again."""

from __future__ import annotations

import psycopg
import pytest
import redis

from tests.services.postgres import OwnServer, PostgresServer


def test_redis_answers(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping() is True


def test_postgres_answers_in_a_schema_of_its_own(postgres: PostgresServer) -> None:
    one, other = postgres.schema(), postgres.schema()
    with postgres.connect(one) as connection:
        connection.execute("CREATE TABLE charges (id text)")
    with postgres.connect(other) as connection, pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("SELECT * FROM charges")


def test_postgres_syncs_its_commits(postgres: PostgresServer) -> None:
    with postgres.connect() as connection:
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            assert connection.execute("SELECT current_setting(%s)", (name,)).fetchone() == ("on",)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_postgres_comes_back_with_what_was_committed(own_postgres: OwnServer, end: str) -> None:
    with own_postgres.connect() as connection:
        connection.execute("CREATE TABLE kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")
        getattr(own_postgres, end)()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("INSERT INTO kept VALUES (2)")
    own_postgres.start()
    with own_postgres.connect() as connection:
        assert connection.execute("SELECT n FROM kept").fetchall() == [(1,)]
