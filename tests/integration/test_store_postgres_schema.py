"""How the schema comes about in PostgreSQL: from any earlier version, by one of many, and however long it takes."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import psycopg
import pytest

from rail402.errors import ConfigurationError, StoreError
from rail402.protocol.charge import Charge
from rail402.stores.postgres import PostgresStore
from rail402.stores.postgres_database import PostgresDatabase
from rail402.stores.sql import Migration, migrations
from rail402.testing.store_support import NOW
from tests.conformance.upgraded_stores import CHARGE, OPEN, assert_all_there, columns_of
from tests.services.postgres import PostgresServer
from tests.services.processes import run_together

STEPS = migrations("postgres")


def charge_row(charge: Charge) -> tuple[str, list[Any]]:
    row = columns_of(charge)
    marks = ", ".join(["%s"] * len(row))
    text = f"INSERT INTO rail402_charges ({', '.join(row)}, written_by) VALUES ({marks}, gen_random_uuid())"
    return text, list(row.values())


ROWS: dict[int, list[tuple[str, Any]]] = {
    1: [
        charge_row(CHARGE),
        charge_row(OPEN),
        *(
            ("INSERT INTO rail402_consumption_keys VALUES (%s, %s)", (key, each.id))
            for each in (CHARGE, OPEN)
            for key in each.keys
        ),
        ("INSERT INTO rail402_responses VALUES (%s, '', 200, '[]', 'paid')", (CHARGE.id,)),
        ("INSERT INTO rail402_settings VALUES ('salt', 'old')", ()),
        ("INSERT INTO rail402_issued VALUES ('lnbc:1', 'ab', '{}', %s)", (NOW,)),
    ],
    2: [
        ("INSERT INTO rail402_leases VALUES ('reconciler', 'old', %s)", (NOW + 60,)),
        ("INSERT INTO rail402_buckets VALUES ('ip:1', %s, 1)", ((NOW + 2) * 10**9,)),
    ],
    3: [("INSERT INTO rail402_uses VALUES (%s, 'old', 'slot', %s)", (CHARGE.id, NOW + 60))],
}
"""What stands in the tables that each version brought."""


async def make_old_schema(postgres: PostgresServer, version: int) -> str:
    """Make a schema as that version did, with a row in each of its tables; return its URL."""
    url = postgres.schema()
    database = PostgresDatabase(url, part="store", steps=STEPS[:version])
    await database.start()
    await database.close()
    with postgres.connect(url) as connection:
        for each in range(1, version + 1):
            for statement, values in ROWS.get(each, ()):
                connection.execute(statement, values)
        tables = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
        for (table,) in connection.execute(tables).fetchall():
            assert connection.execute(f"SELECT FROM {table} LIMIT 1").fetchall(), table
    return url


@pytest.mark.parametrize("version", [step.number for step in STEPS[:-1]])
async def test_tables_of_an_earlier_version_are_brought_up_to_date(
    version: int, schema: str, postgres: PostgresServer
) -> None:
    old = await make_old_schema(postgres, version)
    await assert_all_there(PostgresStore(old), version)
    new = PostgresStore(schema)
    await new.start()
    await new.close()
    assert described(postgres, old) == described(postgres, schema)


def described(postgres: PostgresServer, url: str) -> list[Any]:
    with postgres.connect(url) as connection:
        indexes = connection.execute(
            "SELECT replace(indexdef, current_schema(), '') FROM pg_indexes "
            "WHERE schemaname = current_schema() ORDER BY indexname"
        ).fetchall()
        columns = connection.execute(
            "SELECT table_name, column_name, data_type, is_nullable, generation_expression "
            "FROM information_schema.columns WHERE table_schema = current_schema() ORDER BY 1, 2"
        ).fetchall()
        return indexes + columns + connection.execute("TABLE rail402_schema").fetchall()


async def test_a_step_may_take_longer_than_a_statement(schema: str) -> None:
    slow = [Migration(1, "CREATE TABLE shelf (book text); SELECT pg_sleep(2)")]
    databases = [PostgresDatabase(schema, part="library", steps=slow, timeout=1) for _ in range(2)]
    await asyncio.gather(*(database.start() for database in databases))  # the second waits for the first
    with pytest.raises(StoreError, match="statement timeout"):
        await databases[0].fetch("SELECT pg_sleep(2)", {})
    for database in databases:
        await database.close()


async def test_a_step_waits_briefly_for_a_table_in_use(schema: str, postgres: PostgresServer) -> None:
    steps = [Migration(1, "CREATE TABLE shelf (book text)"), Migration(2, "ALTER TABLE shelf ADD room text")]
    first, second = (PostgresDatabase(schema, part="library", steps=steps[:n], timeout=1) for n in (1, 2))
    await first.start()
    with psycopg.connect(schema) as reader:
        reader.execute("SELECT FROM shelf")
        with pytest.raises(StoreError, match="lock timeout"):
            await second.start()
        assert await first.fetch("SELECT book FROM shelf", {}) == []
    await second.start()
    assert await second.fetch("SELECT room FROM shelf", {}) == []
    await first.close()
    await second.close()


async def test_newer_schema_is_refused_and_left_alone(schema: str, postgres: PostgresServer) -> None:
    store = PostgresStore(schema)
    await store.start()
    await store.close()
    with postgres.connect(schema) as connection:
        connection.execute("UPDATE rail402_schema SET version = 99 WHERE part = 'store'")
        with pytest.raises(ConfigurationError, match=r"newer rail402 \(schema 99"):
            await store.start()
        assert connection.execute("SELECT version FROM rail402_schema").fetchall() == [(99,)]


MIGRATES = """
import asyncio, sys
from rail402.stores import open_store
from rail402.testing.stores import make_charge

async def main():
    store = open_store(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    await store.start()
    print((await store.claim(make_charge("tx:1", id=sys.argv[2]))).won)
    await store.close()

asyncio.run(main())
"""


def test_of_many_processes_that_start_together_one_makes_the_schema(schema: str) -> None:
    answers = run_together([[sys.executable, "-c", MIGRATES, schema, f"ch_{number}"] for number in range(4)])
    assert sorted(answers) == ["False\n"] * 3 + ["True\n"]
