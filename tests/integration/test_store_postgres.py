"""What the PostgreSQL store promises beside what every store does: no failure of a server loses or repeats a thing."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from rail402.errors import ConfigurationError, StoreError
from rail402.protocol.charge import Charge, PaymentState
from rail402.stores.base import Claim, Issued, StoredResponse
from rail402.stores.postgres import PostgresStore
from rail402.stores.postgres_database import Connection
from rail402.stores.sql import queries
from rail402.testing.store_support import NOW, make_charge, settled, together
from rail402.testing.store_work import Opener
from rail402.testing.stores import StoreConformance
from tests.services.postgres import PASSWORD, OwnServer, PostgresServer
from tests.services.processes import free_ports, wait_for


class TestPostgresStore(StoreConformance):
    """Every promise of the interface."""

    @pytest.fixture(autouse=True)
    def _server(self, postgres: PostgresServer) -> None:
        self.server = postgres

    def opener(self, directory: Path) -> Opener:
        return partial(PostgresStore, self.server.schema())


# --- who may use it


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    """A new, empty schema."""
    return postgres.schema()


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url, timeout=5)
    await store.start()
    yield store
    await store.close()


@pytest.mark.parametrize(
    "url", ["postgresql://u:hun%zzter2@db/charges", "postgresql://u:hunter2@[db/charges", "mysql://u:hunter2@db"]
)
def test_url_that_is_none_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match="postgresql://") as caught:
        PostgresStore(url)
    assert "hun" not in "".join(traceback.format_exception(caught.value))


async def test_wrong_password_is_named_and_never_repeated(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = PostgresStore(url.replace(PASSWORD, "hunter3"), timeout=1)
    with pytest.raises(StoreError, match="password authentication failed") as caught:
        await store.start()
    told = "".join(traceback.format_exception(caught.value)) + caplog.text + repr(store) + repr(store._database)
    assert "hunter3" not in told


async def test_nothing_tells_the_password(store: PostgresStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await store.claim(make_charge("tx:1"))
    with pytest.raises(StoreError) as caught:
        await store.claim(make_charge("tx:\0"))
    told = "".join(traceback.format_exception(caught.value)) + caplog.text + repr(store) + repr(store._database)
    assert PASSWORD not in told


async def test_server_that_is_not_there_is_named() -> None:
    (port,) = free_ports(1)
    with pytest.raises(StoreError, match=f"127.0.0.1:{port}/charges") as caught:
        await PostgresStore(f"postgresql://u:{PASSWORD}@127.0.0.1:{port}/charges", timeout=1).start()
    assert caught.value.status == 503


async def test_schema_that_is_not_there_is_named(postgres: PostgresServer) -> None:
    joint = "&" if "?" in postgres.url else "?"
    with pytest.raises(ConfigurationError, match="CREATE SCHEMA"):
        await PostgresStore(f"{postgres.url}{joint}options=-csearch_path%3Dmissing").start()


async def test_database_that_cannot_hold_every_text_is_refused(postgres: PostgresServer) -> None:
    with postgres.connect() as connection:
        connection.execute("DROP DATABASE IF EXISTS latin1")
        connection.execute("CREATE DATABASE latin1 ENCODING latin1 LOCALE 'C' TEMPLATE template0")
    name = conninfo_to_dict(postgres.url)["dbname"]
    with pytest.raises(ConfigurationError, match="LATIN1"):
        await PostgresStore(postgres.url.replace(f"/{name}", "/latin1")).start()


async def test_store_that_is_not_open_says_so(url: str, store: PostgresStore) -> None:
    with pytest.raises(StoreError, match="start"):
        await PostgresStore(url).get("ch_1")
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="start"):
        await store.claim(make_charge("tx:1"))


async def test_store_belongs_to_the_loop_that_started_it(store: PostgresStore) -> None:
    with pytest.raises(StoreError, match="event loop"):
        await asyncio.to_thread(lambda: asyncio.run(store.get("ch_1")))


async def test_copy_in_another_process_is_refused(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(StoreError, match="each worker"):
        await store.get("ch_1")


async def test_defaults_of_the_database_make_nothing_less_durable_or_less_atomic(url: str) -> None:
    careless = "%20-csynchronous_commit%3Doff%20-cdefault_transaction_isolation%3Dserializable"
    store = PostgresStore(url + careless)
    await store.start()

    async def settings(connection: Connection) -> list[Any]:
        names = ("synchronous_commit", "transaction_isolation", "statement_timeout")
        found = [await connection.execute("SELECT current_setting(%s)", (name,)) for name in names]
        return [(await cursor.fetchall())[0][0] for cursor in found]

    assert await store._database.run(settings) == ["on", "read committed", "10s"]
    await store.close()


# --- what a query reads


SMALL_TABLES = {"prune_leases", "prune_buckets"}


@pytest.mark.parametrize("name", [name for name in queries("postgres") if name not in SMALL_TABLES])
async def test_no_query_reads_a_whole_table(
    name: str, url: str, postgres: PostgresServer, store: PostgresStore
) -> None:
    assert [line for line in plan(postgres, url, name) if "Seq Scan" in line] == []


@pytest.mark.parametrize("name", ["unresolved_charges", "recent_charges", "recent_charges_before"])
async def test_a_list_is_read_in_the_order_of_an_index(
    name: str, url: str, postgres: PostgresServer, store: PostgresStore
) -> None:
    lines = plan(postgres, url, name, prefix="DECLARE charges CURSOR FOR")
    assert [line for line in lines if "Seq Scan" in line or "Sort" in line] == []


def plan(postgres: PostgresServer, url: str, name: str, prefix: str = "") -> list[str]:
    """Say how PostgreSQL finds the rows of a query."""
    query = queries("postgres")[name]
    values: dict[str, Any] = dict.fromkeys(re.findall(r"%\(([a-z_]+)\)s", query), 1)
    values |= {"keys": ["a"], "rails": ["a"], "origin": "a", "written_by": uuid4(), "body": b""}
    values |= {
        field: "a"
        for field in ("payment", "id", "use", "slot", "charge", "changed", "name", "value", "key", "before")
        if name != "prune_charges"
    }
    with postgres.connect(url) as connection:
        connection.execute("SET enable_seqscan = off")
        return [line for (line,) in connection.execute(f"EXPLAIN {prefix} {query}", values).fetchall()]


async def test_a_payment_reads_as_many_rows_however_many_charges_have_come_since_its_statements_were_planned(
    postgres: PostgresServer,
) -> None:
    few, many = [await rows_read(postgres, charges) for charges in (0, 2000)]
    assert many <= few * 1.1


async def rows_read(postgres: PostgresServer, charges: int) -> int:
    """Make payments over one connection, which keeps its plans, and so many other charges in the middle of it."""
    url = postgres.schema()
    store = PostgresStore(url, connections=1)
    await store.start()
    for number in range(80):
        if number == 40:
            with postgres.connect(url) as connection:
                connection.execute(
                    "INSERT INTO rail402_charges SELECT 'ch_' || n, 0, 'settled', 'stored', 0, 0, NULL, 1, 1, '{}', "
                    "gen_random_uuid() FROM generate_series(1, %s) AS n",
                    (charges,),
                )
        charge = make_charge(f"tx:{number}", f"offer:{number}")
        assert await store.find(charge.keys) is None
        assert (await store.claim(charge)).won
        await store.save(charge.model_copy(update={"payment": PaymentState.SETTLED}), response=StoredResponse(200))
        assert await store.find(charge.keys[1:]) is not None
    await store.close()  # upon which its connections tell the server what they have counted
    with postgres.connect(url) as connection:
        written = "SELECT n_tup_ins FROM pg_stat_user_tables WHERE relid = 'rail402_responses'::regclass"
        wait_for("statistics", lambda: connection.execute(written).fetchall() == [(80,)], 10)
        ((rows,),) = connection.execute(
            "SELECT sum(n)::bigint FROM (SELECT schemaname, seq_tup_read FROM pg_stat_user_tables UNION ALL "
            "SELECT schemaname, idx_tup_read FROM pg_stat_user_indexes) AS read (schema, n) "
            "WHERE schema = current_schema()"
        ).fetchall()
    return int(rows)


# --- what it cannot read


async def test_charges_that_cannot_be_read_keep_nobody_from_the_others(
    url: str, postgres: PostgresServer, store: PostgresStore, caplog: pytest.LogCaptureFixture
) -> None:
    charges = [make_charge(f"tx:{n}", payer="0xpayer", lease_until=n, created_at=n) for n in range(6)]
    for charge in charges:
        await store.claim(charge)
    unreadable = [charges[n].id for n in (0, 1, 3, 5)]
    with postgres.connect(url) as connection:
        later = "UPDATE rail402_charges SET charge = jsonb_set(charge::jsonb, '{later_field}', '1') WHERE id = ANY (%s)"
        connection.execute(later, (unreadable,))
    for _ in range(2):
        assert await store.unresolved(now=9, limit=1) == [charges[2]]
        assert await store.unresolved(now=9, limit=9) == [charges[2], charges[4]]
        assert await store.recent(limit=1) == [charges[4]]
        assert await store.recent(limit=9, before=charges[4].id) == [charges[2]]
    with pytest.raises(StoreError, match="another version"):
        await store.claim(make_charge("tx:0"))
    told = [record.getMessage().split()[1] for record in caplog.records if record.levelname == "ERROR"]
    assert sorted(told) == unreadable
    assert "0xpayer" not in caplog.text


# --- servers that fail


def end_all_connections(postgres: PostgresServer) -> None:
    with postgres.connect() as connection:
        # Wait until they have ended, where the server can.
        call = (
            "pg_terminate_backend(pid, 5000)"
            if connection.info.server_version >= 14_00_00
            else "pg_terminate_backend(pid)"
        )
        connection.execute(f"SELECT {call} FROM pg_stat_activity WHERE application_name = 'rail402'")


async def test_connections_that_the_server_ended_are_replaced_unnoticed(
    postgres: PostgresServer, store: PostgresStore
) -> None:
    charge = settled("tx:1", uses=99)
    await store.claim(charge)
    for _ in range(3):
        await together(10, lambda _: store.get(charge.id))
        end_all_connections(postgres)
        taken = await together(4, lambda n: store.take_use(charge.id, str(n), now=1, lease_until=1))
        assert [one for one in taken if not isinstance(one, Charge)] == []


async def test_server_that_stops_is_an_error_and_one_that_comes_back_goes_on(own_postgres: OwnServer) -> None:
    store = PostgresStore(own_postgres.url, timeout=1)
    await store.start()
    charge = make_charge("tx:1")
    await store.claim(charge)
    for end in ("stop", "kill"):
        await asyncio.to_thread(getattr(own_postgres, end))
        for verb in (store.get(charge.id), store.claim(make_charge("tx:1")), store.save(charge)):
            with pytest.raises(StoreError):
                await verb
        await asyncio.to_thread(own_postgres.start)
        async with asyncio.timeout(20):
            assert await eventually(lambda: store.claim(make_charge("tx:1"))) == Claim(won=False, charge=charge)
        charge = await store.save(charge)
    await store.close()


async def eventually(verb: Callable[[], Awaitable[Claim]]) -> Claim:
    while True:
        with suppress(StoreError):
            return await verb()


WRITES_FOREVER = """
import asyncio, sys
from rail402.errors import StoreError
from rail402.stores import StoredResponse, open_store
from rail402.testing.stores import make_charge

async def write(store, task):
    number = 0
    while True:
        charge = make_charge(f"tx:{task}/{number}", id=f"ch_{task}_{number}")
        await store.claim(charge)
        await store.save(charge, response=StoredResponse(200, body=charge.id.encode()))
        print(charge.id, flush=True)
        number += 1

async def main():
    store = open_store(sys.argv[1])
    await store.start()
    await asyncio.gather(*(write(store, task) for task in range(8)))

asyncio.run(main())
"""


def write_until_the_server_is_killed(server: OwnServer) -> list[str]:
    """Return the charges that a process had been told were stored."""
    command = [sys.executable, "-c", WRITES_FOREVER, server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        try:
            returned = [child.stdout.readline().strip() for _ in range(50)]
            server.kill()
        finally:
            child.kill()
        return returned + [line.strip() for line in child.stdout if line.endswith("\n")]


async def test_what_was_returned_survives_a_server_that_is_killed(own_postgres: OwnServer) -> None:
    returned = await asyncio.to_thread(write_until_the_server_is_killed, own_postgres)
    await asyncio.to_thread(own_postgres.start)
    store = PostgresStore(own_postgres.url)
    await store.start()
    for charge_id in returned:
        charge = await store.get(charge_id)
        assert charge is not None
        assert charge.version == 1
        assert await store.find(charge.keys) == charge
        assert await store.response(charge_id) == StoredResponse(200, body=charge_id.encode())
    await store.close()


async def test_deadlock_is_tried_again(url: str, postgres: PostgresServer, store: PostgresStore) -> None:
    theirs = make_charge("tx:a", "tx:b")
    with psycopg.connect(url) as connection:
        connection.execute("SET deadlock_timeout = '60s'")  # so that it is the store's statement which is undone
        connection.execute(
            "INSERT INTO rail402_charges VALUES (%s, 0, 'claimed', 'none', 0, 0, NULL, 1, 0, %s, gen_random_uuid())",
            (theirs.id, theirs.model_dump_json()),
        )
        connection.execute("INSERT INTO rail402_consumption_keys VALUES ('tx:b', %s)", (theirs.id,))
        claiming = asyncio.create_task(store.claim(make_charge("tx:a", "tx:b")))
        await asyncio.to_thread(wait_for_backend, postgres, "wait_event_type = 'Lock'")
        insert = "INSERT INTO rail402_consumption_keys VALUES ('tx:a', %s)"
        await asyncio.to_thread(connection.execute, insert, (theirs.id,))
        connection.commit()
        assert await claiming == Claim(won=False, charge=theirs)


def wait_for_backend(postgres: PostgresServer, which: str) -> None:
    """Wait until one of the store's connections is in that state."""
    query = f"SELECT FROM pg_stat_activity WHERE application_name = 'rail402' AND {which}"
    with postgres.connect() as connection:
        wait_for(which, lambda: bool(connection.execute(query).fetchall()), 10)


async def test_issued_rows_are_counted_one_at_a_time(url: str, postgres: PostgresServer, store: PostgresStore) -> None:
    row = Issued(key="lnbc:2", order_digest="ab", offer="{}", expires_at=NOW + 300)
    with psycopg.connect(url) as connection:  # another worker, in the middle of it
        connection.execute(queries("postgres")["lock_issued"])
        connection.execute("INSERT INTO rail402_issued VALUES ('lnbc:1', 'ab', '{}', %s)", (NOW + 300,))
        issuing = asyncio.create_task(store.issue(row, now=NOW, capacity=1))
        await asyncio.to_thread(wait_for_backend, postgres, "wait_event_type = 'Lock'")
        connection.commit()
        assert not await issuing
    assert await store.issued("lnbc:2") is None


async def test_patience_ends(url: str, postgres: PostgresServer) -> None:
    store = PostgresStore(url, connections=1, timeout=0.5)
    await store.start()
    charge = make_charge("tx:1")
    await store.claim(charge)
    with psycopg.connect(url) as connection:
        connection.execute("SELECT * FROM rail402_charges FOR UPDATE")
        answers = await together(20, lambda _: store.save(charge))
        assert {type(answer) for answer in answers} == {StoreError}
        texts = " ".join(str(answer) for answer in answers)
        assert "statement timeout" in texts  # it waited for the row
        assert "couldn't get a connection" in texts  # the others for the only connection
    assert (await store.save(charge)).version == 1
    await store.close()


# --- who waits


async def test_wait_ends_at_once_with_what_another_worker_wrote(url: str, postgres: PostgresServer) -> None:
    store, other = PostgresStore(url, poll=60), PostgresStore(url)
    await store.start()
    await other.start()
    charges = [make_charge(f"tx:{number}") for number in range(250)]
    await asyncio.gather(*(store.claim(charge) for charge in charges))
    # The first answers once the connection that listens is there; until then nobody is told.
    first = asyncio.create_task(store.wait(charges[0], timeout=60))
    await asyncio.to_thread(wait_for_backend, postgres, "query LIKE 'LISTEN%' AND state = 'idle'")
    waiting = [asyncio.create_task(store.wait(charge, timeout=60)) for charge in charges[1:]]
    await asyncio.sleep(0)
    saved = await asyncio.gather(*(other.save(charge) for charge in charges))
    async with asyncio.timeout(20):
        assert await asyncio.gather(first, *waiting) == saved
    await store.close()
    await other.close()


async def test_wait_that_nobody_tells_looks_for_itself(
    url: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = PostgresStore(url, poll=0.05), PostgresStore(url)
    monkeypatch.setattr(other._changes, "tell", lambda charge_id: None)
    await store.start()
    await other.start()
    charge = make_charge("tx:1")
    await store.claim(charge)
    waiting = asyncio.create_task(store.wait(charge, timeout=60))
    await asyncio.to_thread(wait_for_backend, postgres, "query LIKE 'LISTEN%' AND state = 'idle'")
    end_all_connections(postgres)
    await other.save(charge)
    async with asyncio.timeout(20):
        changed = await waiting
    assert changed is not None
    assert changed.version == 1
    await store.close()
    await other.close()
