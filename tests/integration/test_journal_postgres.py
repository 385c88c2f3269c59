"""What a journal in a PostgreSQL promises beside what every journal does: a fleet has one budget and one clock, and no
failure of the server or of a connection spends or forgets a thing."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from rail402.client.budget import Budget
from rail402.client.journal import Journal, JournalConflict
from rail402.client.journal_postgres import PostgresJournal
from rail402.client.payer import Payer
from rail402.client.records import PurchaseState
from rail402.errors import BudgetExceeded, ConfigurationError, PaymentRefused, StoreError
from rail402.money import Money
from rail402.stores.postgres import PostgresStore
from rail402.stores.postgres_database import Connection, PostgresDatabase
from rail402.stores.sql import migrations, queries
from rail402.testing.fakes import FakeWallet
from rail402.testing.store_support import make_charge
from tests.services.lossy import EITHER, LossyRelay, What
from tests.services.postgres import PASSWORD, OwnServer
from tests.services.processes import free_ports, wait_for
from tests.unit.client.purchases import NOW, entries, hour, pin, record, reserve
from tests.unit.client.shop import URL, Market

RAIL402 = (sys.executable, "-c", "from rail402.cli import main; main()")
LOCK = queries("journal_postgres")["lock"]


@pytest.fixture
async def other(schema: str) -> AsyncIterator[Journal]:
    """The journal as another machine has it, whose connections nobody breaks."""
    journal = Journal(schema)
    await journal.start()
    yield journal
    await journal.close()


@pytest.fixture
async def journal(lossy_url: str, relay: LossyRelay, other: Journal) -> AsyncIterator[Journal]:
    # One connection: the pool opens no other one that would be lost in its place.
    journal = Journal(PostgresJournal(lossy_url, connections=1, timeout=5))
    await journal.start()
    assert await journal.unresolved() == []
    yield journal
    await journal.close()


# --- the connection breaks


EACH_RESERVATION = range(12)
"""BEGIN, the lock, the number, the pause, the clock, the purchase, five for the windows, COMMIT."""
EACH_SAVE = range(10)
EACH_PAUSE = range(6)
EACH_UNPIN = range(6)


@pytest.mark.parametrize("after", EACH_RESERVATION)
@EITHER
async def test_purchase_is_reserved_once(
    journal: Journal, other: Journal, relay: LossyRelay, what: What, after: int
) -> None:
    relay.lose(what, after=after)
    await reserve(journal, record(), budget=Budget(per_hour="1 USD"))
    assert relay.losses == 1
    assert await other.unresolved() == [record()]
    assert await hour(other) == ("1 USD", "1 USD")


async def test_what_another_reserved_meanwhile_counts(journal: Journal, other: Journal, relay: LossyRelay) -> None:
    budget = Budget(per_hour="1 USD")
    relay.lose("request", meanwhile=lambda: reserve(other, record(1), budget=budget))
    with pytest.raises(BudgetExceeded):
        await reserve(journal, record(), budget=budget)
    assert await other.unresolved() == [record(1)]


@pytest.mark.parametrize("after", EACH_SAVE)
@EITHER
async def test_purchase_is_saved_once(
    journal: Journal, other: Journal, relay: LossyRelay, what: What, after: int
) -> None:
    first = await reserve(other, record())
    relay.lose(what, after=after)
    saved = await journal.save(first.changed(state=PurchaseState.COMMITTED, cost=Money.parse("0.5 USD")), now=NOW)
    assert relay.losses == 1
    assert await other.get(first.id) == saved
    assert await hour(other) == ("0.5 USD", "0 USD")


async def test_purchase_is_not_adopted_where_another_wrote_the_very_same(
    journal: Journal, other: Journal, relay: LossyRelay
) -> None:
    lapsed = await reserve(other, record(lease_until=0))
    relay.lose("request", meanwhile=lambda: other.adopt(lapsed, now=NOW, lease_until=NOW + 60))
    assert await journal.adopt(lapsed, now=NOW, lease_until=NOW + 60) is None


async def test_save_that_another_wrote_on_top_of_was_one(journal: Journal, other: Journal, relay: LossyRelay) -> None:
    first = await reserve(other, record())
    presented = first.changed(state=PurchaseState.PRESENTED, asked_by=NOW)
    relay.lose("answer", after=5, meanwhile=lambda: other.save(presented.changed(detail="later"), now=NOW))
    await journal.save(presented, now=NOW)
    assert relay.losses == 1
    with pytest.raises(JournalConflict):
        await journal.save(presented.changed(), now=NOW)
    found = await other.get(first.id)
    assert found is not None
    assert (found.version, found.detail) == (2, "later")


@pytest.mark.parametrize("after", EACH_PAUSE)
@EITHER
async def test_it_is_paused_whatever_is_lost(
    journal: Journal, other: Journal, relay: LossyRelay, what: What, after: int
) -> None:
    relay.lose(what, after=after)
    await journal.pause(now=NOW)
    assert relay.losses == 1
    with pytest.raises(BudgetExceeded, match="paused"):
        await reserve(other, record())


@pytest.mark.parametrize("after", EACH_UNPIN)
@EITHER
async def test_forgotten_pins_are_counted_once(
    journal: Journal, other: Journal, relay: LossyRelay, what: What, after: int
) -> None:
    await other.reserve(record(), [], now=NOW, pin=pin())
    relay.lose(what, after=after)
    assert await journal.unpin("shop.test") == 2
    assert relay.losses == 1
    assert await other.pins() == ([], [])


@EITHER
async def test_reading_is_done_again(journal: Journal, other: Journal, relay: LossyRelay, what: What) -> None:
    await reserve(other, record())
    relay.lose(what)
    assert await journal.unresolved() == [record()]
    assert relay.losses == 1


async def test_a_payer_that_is_cancelled_leaves_nothing_half_done(schema: str, other: Journal) -> None:
    holder = Journal(PostgresJournal(schema, connections=1))
    await holder.start()
    async with await psycopg.AsyncConnection.connect(schema) as blocker:
        await blocker.execute(LOCK, {"name": "budget"})
        task = asyncio.create_task(reserve(holder, record()))
        await asyncio.to_thread(wait_for, "the lock to be waited for", lambda: _waiting(schema), 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await holder.close()
    assert await other.unresolved() == [record()]


async def test_who_has_paid_does_not_wait_for_those_who_want_to_buy(schema: str, other: Journal) -> None:
    first = await reserve(other, record())
    journal = Journal(PostgresJournal(schema, connections=2))
    await journal.start()
    async with await psycopg.AsyncConnection.connect(schema) as blocker:
        await blocker.execute(LOCK, {"name": "budget"})
        buying = [asyncio.create_task(reserve(journal, record(number, cost="0.1 USD"))) for number in range(1, 9)]
        await asyncio.to_thread(wait_for, "the lock to be waited for", lambda: _waiting(schema), 20)
        saved = await journal.save(first.changed(state=PurchaseState.PRESENTED), now=NOW)
        assert await other.get(first.id) == saved
        assert not any(task.done() for task in buying)
    await asyncio.gather(*buying)
    await journal.close()
    assert len(await other.unresolved()) == 9


def _waiting(schema: str) -> bool:
    """Whether anybody of this schema waits for a lock; others may share the server."""
    with psycopg.connect(schema) as connection:
        ((count,),) = connection.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            " AND objid::bigint = hashtext(current_schema() || ' budget')::bigint & 4294967295"
        ).fetchall()
    return bool(count)


# --- the server goes away


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_the_server_is_started_again(own_postgres: OwnServer, how: str) -> None:
    journal = Journal(PostgresJournal(own_postgres.url, timeout=2))
    await journal.start()
    first = await reserve(journal, record())
    await asyncio.to_thread(getattr(own_postgres, how))
    with pytest.raises(StoreError) as caught:
        await reserve(journal, record(1))
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    await asyncio.to_thread(own_postgres.start)
    assert await journal.unresolved() == [first]
    await reserve(journal, record(1))
    await journal.close()


async def test_a_machine_that_freezes_in_the_middle_of_a_purchase_holds_up_nobody_for_long(
    schema: str, other: Journal
) -> None:
    frozen = PostgresDatabase(schema, part="journal", steps=migrations("journal_postgres"), timeout=1)
    await frozen.start()
    has_lock, never = asyncio.Event(), asyncio.Event()

    async def freeze(connection: Connection) -> None:
        async with connection.transaction():
            await connection.execute(LOCK, {"name": "budget"})
            has_lock.set()
            await never.wait()

    task = asyncio.create_task(frozen.run(freeze))
    await has_lock.wait()
    await reserve(other, record())
    never.set()
    with pytest.raises(StoreError):
        await task
    await frozen.close()
    assert await other.unresolved() == [record()]


# --- clocks that differ


async def test_a_clock_that_is_ahead_frees_nothing(other: Journal, schema: str) -> None:
    budget = Budget(per_hour="1 USD")
    first = await reserve(other, record(), budget=budget)
    await other.save(first.changed(state=PurchaseState.COMMITTED, cost=first.reserved), now=NOW)
    for told in (NOW + 7200, NOW - 7200, 0):
        with pytest.raises(BudgetExceeded):
            await other.reserve(record(1), entries(budget, "1 USD"), now=told)
        assert (await other.spent(now=told))["hour"]["USD"].total == Money.parse("1 USD")
    async with await psycopg.AsyncConnection.connect(schema) as later:
        await later.execute("UPDATE rail402_spending SET spent_at = spent_at - 3600")
    await reserve(other, record(1), budget=budget)


async def test_a_clock_that_is_wrong_when_it_pays_counts_by_the_server_s(other: Journal) -> None:
    budget = Budget(per_hour="1 USD")
    first = record()
    await other.reserve(first, entries(budget, "1 USD"), now=0)
    await other.save(first.changed(state=PurchaseState.COMMITTED, cost=first.reserved), now=0)
    with pytest.raises(BudgetExceeded):
        await reserve(other, record(1), budget=budget)


@pytest.mark.parametrize("ahead", [-86_400, 0, 86_400])
@pytest.mark.parametrize("behind", [-7200, 7200])
async def test_leases_run_by_the_server_s_clock(other: Journal, ahead: int, behind: int) -> None:
    mine, theirs = NOW + ahead, NOW + behind
    held, free = record(lease_until=mine + 120), record(1, lease_until=mine - 120)
    for each in (held, free):
        await other.reserve(each, [], now=mine)
    assert await other.adopt(held, now=theirs, lease_until=theirs + 120) is None
    adopted = await other.adopt(free, now=theirs, lease_until=theirs + 120)
    assert adopted is not None
    assert await other.adopt(adopted, now=mine, lease_until=mine + 120) is None


# --- the schema


async def test_an_older_schema_is_brought_up_to_date_and_loses_nothing(schema: str) -> None:
    steps = migrations("journal_postgres")
    old = PostgresDatabase(schema, part="journal", steps=steps[:1])
    await old.start()
    await old.close()
    written = record()
    text = json.dumps(written.model_dump(mode="json"))
    with psycopg.connect(schema) as connection:
        connection.execute(
            "INSERT INTO rail402_purchases (id, version, order_digest, state, lease_until, created_at, purchase)"
            " VALUES (%s, 0, %s, 'reserved', 0, 0, %s)",
            [written.id, written.order.digest, text],
        )
    journals = [Journal(schema) for _ in range(4)]
    await asyncio.gather(*(journal.start() for journal in journals))
    assert await journals[0].open_for(written.order.digest) == [written]
    assert await journals[0].pins() == ([], [])
    for journal in journals:
        await journal.close()
    with psycopg.connect(schema) as connection:
        ((version,),) = connection.execute("SELECT version FROM rail402_schema WHERE part = 'journal'").fetchall()
        assert version == steps[-1].number
        connection.execute("UPDATE rail402_schema SET version = version + 1")
    with pytest.raises(ConfigurationError, match="newer rail402"):
        await Journal(schema).start()


async def test_a_damaged_record_is_a_store_error(other: Journal, schema: str) -> None:
    await reserve(other, record())
    with psycopg.connect(schema) as connection:
        connection.execute("UPDATE rail402_purchases SET purchase = '{}'")
    with pytest.raises(StoreError, match="cannot be read"):
        await other.unresolved()


async def test_charges_and_purchases_share_a_schema(schema: str, other: Journal) -> None:
    store = PostgresStore(schema)
    await store.start()
    assert (await store.claim(make_charge("tx:1"))).won
    await store.close()
    assert await other.unresolved() == []


async def test_password_is_not_told() -> None:
    (port,) = free_ports(1)
    url = f"postgresql://u:{PASSWORD}@127.0.0.1:{port}/wallets"
    journal = Journal(url)
    payer = Payer([FakeWallet(Market(Path(), "async").ledger)], journal=url)
    with pytest.raises(StoreError) as caught:
        await journal.start()
    told = "".join(traceback.format_exception(caught.value)) + repr(journal) + repr(payer) + journal.address
    assert PASSWORD not in told
    assert f"127.0.0.1:{port}/wallets" in told


# --- payers and commands of a fleet


async def test_payers_on_two_machines_share_what_one_may_spend(schema: str, tmp_path: Path) -> None:
    market = Market(tmp_path, "async")
    budget = Budget(per_day="0.005 USD")  # the price is 0.003
    first, second = (
        market.payer([FakeWallet(market.ledger)], journal=schema, budget=budget, deadline=5) for _ in range(2)
    )
    assert (await market.request(first)).text == "article 1"
    with pytest.raises(PaymentRefused, match=r"0\.002 USD is left"):
        await market.request(second)
    await market.close()


async def test_a_caller_that_is_not_asynchronous_pays_from_it_too(schema: str, tmp_path: Path) -> None:
    market = Market(tmp_path, "sync")
    payer = market.payer([FakeWallet(market.ledger)], journal=schema)
    assert (await market.request(payer)).text == "article 1"
    spent = await asyncio.to_thread(payer.run, payer.spent)
    assert str(spent["day"]["USD"].total) == "0.003 USD"
    await market.close()


FILE = """\
[client]
journal = "env:DATABASE_URL"

[[wallets]]
name = "base"
backend = "sandbox"
"""


def test_it_is_opened_again_on_another_event_loop(schema: str) -> None:
    journal = Journal(schema)

    async def race() -> int:
        await journal.start()
        found = await journal.unresolved()
        await asyncio.gather(*(reserve(journal, record(len(found) + n, cost="0.1 USD")) for n in range(3)))
        await journal.close()
        return len(found)

    assert [asyncio.run(race()) for _ in range(2)] == [0, 3]


async def test_a_fleet_is_paused_and_its_receipts_are_read_by_command(schema: str, tmp_path: Path) -> None:
    (tmp_path / "wallets.toml").write_text(FILE)
    environment = {**os.environ, "DATABASE_URL": schema, "RAIL402_SANDBOX": str(tmp_path / "play")}

    async def says(*arguments: str) -> str:
        command = [
            sys.executable,
            "-c",
            "from rail402.cli import main; main()",
            *arguments,
            "--wallets",
            "wallets.toml",
        ]
        done = await asyncio.to_thread(
            subprocess.run, command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert PASSWORD not in done.stdout
        return str(done.stdout)

    market = Market(tmp_path, "async")
    payer = market.payer([FakeWallet(market.ledger)], journal=schema)
    assert json.loads(await says("receipts", "list", "--json")) == {"purchases": []}
    await market.request(payer)
    await says("budget", "pause")
    with pytest.raises(PaymentRefused, match="paused"):
        await market.request(payer, url=f"{URL}&again=1")
    shown = json.loads(await says("budget", "show", "--json"))
    assert shown["paused_since"] is not None
    assert shown["per_day"]["used"] == ["0.003 USD"]
    await says("budget", "resume", "--yes")
    assert (await market.request(payer, url=f"{URL}&again=1")).status_code == 200
    (newest, _) = json.loads(await says("receipts", "list", "--json"))["purchases"]
    assert newest["url"] == f"{URL}&again=1"
    assert len((await says("receipts", "export", "--format", "jsonl")).splitlines()) == 2
    assert "0.003" in await says("budget", "pins")
    await market.close()
