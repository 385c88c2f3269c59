"""How the schema comes about in PostgreSQL: from any earlier version, by one of many, and however long it takes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from rail402.errors import ConfigurationError, StoreError
from rail402.protocol.charge import Charge
from rail402.stores.base import Claim, Issued, StoredResponse, TokenBucket
from rail402.stores.postgres import PostgresStore
from rail402.stores.postgres_database import PostgresDatabase
from rail402.stores.sql import Migration, migrations
from rail402.testing.store_support import NOW, make_charge, settled
from tests.services.postgres import PostgresServer

STEPS = migrations("postgres")

CHARGE = settled("tx:1", "offer:ä", uses=3, uses_taken=1, valid_until=NOW + 60)
OPEN = make_charge("tx:2", lease_until=NOW - 60)


def charge_row(charge: Charge) -> tuple[str, list[Any]]:
    names = ["id", "version", "payment", "delivery", "lease_until", "created_at", "valid_until", "uses", "uses_taken"]
    row = charge.model_dump(mode="json")
    marks = ", ".join(["%s"] * (len(names) + 1))
    text = f"INSERT INTO rail402_charges ({', '.join(names)}, charge, written_by) VALUES ({marks}, gen_random_uuid())"
    return text, [*(row[name] for name in names), charge.model_dump_json()]


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
    upgraded, new = PostgresStore(old), PostgresStore(schema)
    for _ in range(2):  # the second start finds nothing to do
        await upgraded.start()
        assert await upgraded.claim(make_charge("offer:ä")) == Claim(won=False, charge=CHARGE)
        assert await upgraded.unresolved(now=NOW, limit=5) == [OPEN]
        assert await upgraded.response(CHARGE.id) == StoredResponse(200, body=b"paid")
        assert await upgraded.remember("salt", "new") == "old"
        assert await upgraded.issued("lnbc:1") == Issued(key="lnbc:1", order_digest="ab", offer="{}", expires_at=NOW)
        assert await upgraded.lead("reconciler", "a", now=NOW, seconds=30) is (version < 2)
        assert await upgraded.renew_use(CHARGE.id, "old", lease_until=NOW + 60) is (version >= 3)
        await upgraded.close()
    await upgraded.start()
    taken = await upgraded.take_use(CHARGE.id, "one", now=NOW, lease_until=NOW)
    assert taken == CHARGE.model_copy(update={"uses_taken": 2})
    assert await upgraded.spend("ip:1", 9, TokenBucket(rate=1, burst=5), now=NOW) == (5 if version < 2 else 3)
    await upgraded.prune(before=NOW + 60, now=NOW)
    assert await upgraded.recent(limit=5) == [OPEN, taken]
    await upgraded.prune(before=NOW + 61, now=NOW)
    assert await upgraded.recent(limit=5) == [OPEN]
    await upgraded.close()
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
    with ExitStack() as running:
        workers = []
        for number in range(4):
            command = [sys.executable, "-c", MIGRATES, schema, f"ch_{number}"]
            worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            workers.append(running.enter_context(worker))
            running.callback(worker.kill)
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        answers = [worker.communicate(timeout=60)[0] for worker in workers]
    assert sorted(answers) == ["False\n"] * 3 + ["True\n"]
