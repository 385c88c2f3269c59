"""The ledger file: its mode, its survival, and several processes at once."""

from __future__ import annotations

import json
import sqlite3
import stat
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from rail402.errors import ConfigurationError, StoreError
from rail402_stripe.sandbox import Sandbox, sandbox_client
from rail402_stripe.sandbox.exchange import Request
from rail402_stripe.sandbox.ledger import Ledger
from tests.services.processes import run_together

CARD: Any = {"amount": 500, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}

# Waits until both are ready, then does its operation as often as told and prints one outcome a line.
CHILD = """
import asyncio, json, sys
import stripe
from rail402_stripe.sandbox import sandbox_client

stripe.enable_telemetry = False

async def main(path, operation, params, times):
    async with sandbox_client(path) as client:
        intents = client.v1.payment_intents
        calls = {"charge": lambda: intents.create_async(params), "capture": lambda: intents.capture_async(params["id"])}
        print("ready", flush=True)
        sys.stdin.readline()
        for _ in range(times):
            try:
                print((await calls[operation]()).status, flush=True)
            except stripe.StripeError as error:
                print(f"refused {error.http_status}", flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])))
"""


def race(path: Path, operation: str, params: dict[str, Any], *, times: int = 1, processes: int = 2) -> list[str]:
    """Run the operation in several processes at once; returns every outcome."""
    arguments = [sys.executable, "-W", "error", "-c", CHILD, str(path), operation, json.dumps(params), str(times)]
    outputs = run_together([arguments] * processes)
    return [line for output in outputs for line in output.splitlines()]


async def money(path: Path) -> int:
    async with sandbox_client(path) as client:
        balance = await client.v1.balance.retrieve_async()
        return sum(part.amount for part in (*balance.available, *balance.pending))


async def test_two_processes_charge_one_token_once(ledger_path: Path) -> None:
    async with sandbox_client(ledger_path) as client:
        granted = await client.raw_request_async(
            "post",
            "/v1/test_helpers/shared_payment/granted_tokens",
            payment_method="pm_card_visa",
            usage_limits={"currency": "usd", "max_amount": 500},
        )
    params = {"amount": 500, "currency": "usd", "confirm": True, "shared_payment_granted_token": granted.data["id"]}
    outcomes = race(ledger_path, "charge", params, times=5)
    assert sorted(outcomes) == ["refused 400"] * 9 + ["succeeded"]
    assert await money(ledger_path) == 500


async def test_two_processes_capture_one_hold_once(ledger_path: Path) -> None:
    async with sandbox_client(ledger_path) as client:
        held = await client.v1.payment_intents.create_async({**CARD, "capture_method": "manual"})
    outcomes = race(ledger_path, "capture", {"id": held.id}, times=5)
    assert sorted(outcomes) == ["refused 400"] * 9 + ["succeeded"]
    assert await money(ledger_path) == 500


async def test_processes_that_start_together_share_one_ledger(ledger_path: Path) -> None:
    outcomes = race(ledger_path, "charge", CARD, times=5)
    assert outcomes == ["succeeded"] * 10
    assert await money(ledger_path) == 5000
    assert [path.name for path in ledger_path.parent.iterdir() if path.name.endswith(".new")] == []


async def test_everything_survives_a_restart(ledger_path: Path) -> None:
    key: Any = {"idempotency_key": "k"}
    async with sandbox_client(ledger_path) as client:
        intent = await client.v1.payment_intents.create_async(CARD, key)
    async with sandbox_client(ledger_path) as client:
        assert (await client.v1.payment_intents.create_async(CARD, key)).id == intent.id
        assert (await client.v1.payment_intents.retrieve_async(intent.id)).status == "succeeded"
    assert await money(ledger_path) == 500


def test_only_the_owner_may_read_it(ledger_path: Path) -> None:
    sandbox = Sandbox(ledger_path)
    sandbox.open()
    with sandbox._ledger.transaction() as books:
        books.connection.execute("DELETE FROM faults")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in ledger_path.parent.iterdir()}
    sandbox.close()
    assert ledger_path.name in modes
    assert set(modes.values()) == {0o600}


async def test_a_closed_ledger_opens_again(ledger_path: Path) -> None:
    sandbox = Sandbox(ledger_path)
    for _ in range(2):
        sandbox.open()
        sandbox.close()
    sandbox.close()


@pytest.mark.parametrize("content", ["text", "another database", "a later version"])
def test_a_file_that_is_no_ledger_is_refused_and_left_alone(ledger_path: Path, content: str) -> None:
    if content == "text":
        ledger_path.write_text("not a database, but long enough to look at " * 50)
    else:
        connection = sqlite3.connect(ledger_path)
        if content == "a later version":
            connection.execute(f"PRAGMA application_id = {int.from_bytes(b'r4st')}")
            connection.execute("PRAGMA user_version = 999")
        connection.execute("CREATE TABLE other (x)")
        connection.commit()
        connection.close()
    before = ledger_path.read_bytes()
    with pytest.raises(ConfigurationError, match="ledger"):
        Sandbox(ledger_path).open()
    assert ledger_path.read_bytes() == before


def test_a_path_that_cannot_be_a_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "stripe.sqlite3", tmp_path):
        with pytest.raises(ConfigurationError, match="cannot be opened"):
            Sandbox(path).open()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_block_leaves_nothing(ledger_path: Path) -> None:
    ledger = Ledger(ledger_path)

    def document(object_id: str) -> dict[str, Any]:
        return {"id": object_id, "object": "thing", "created": 1}

    def insert(object_id: str, *, twice: bool) -> None:
        with ledger.transaction() as books:
            books.insert(document(object_id))
            if twice:
                books.insert(document(object_id))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        insert("a", twice=False)
    with pytest.raises(StoreError):
        insert("b", twice=True)
    with ledger.transaction() as books:
        assert books.find("thing", "a") is None
        assert books.find("thing", "b") is None
        books.insert(document("c"))
        books.mark()
        books.insert(document("d"))
        books.undo_to_mark()
    with ledger.transaction() as books:
        assert books.find("thing", "c") == document("c")
        assert books.find("thing", "d") is None
        assert books.find("other", "c") is None
    ledger.close()


def test_the_money_of_one_source_is_posted_once(ledger_path: Path) -> None:
    ledger = Ledger(ledger_path)

    def post(*entries: str) -> None:
        with ledger.transaction() as books:
            for entry in entries:
                books.post(entry, source="ch_1", currency="usd", amount=500, available_on=0)

    with pytest.raises(StoreError):
        post("txn_1", "txn_2")
    with ledger.transaction() as books:
        assert books.balances(1) == {}
    ledger.close()


def test_threads_take_turns(ledger_path: Path) -> None:
    ledger = Ledger(ledger_path)

    def work(number: int) -> None:
        for step in range(20):
            with ledger.transaction() as books:
                entry = f"txn_{number}_{step}"
                books.post(entry, source=entry, currency="usd", amount=1, available_on=0)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with ledger.transaction() as books:
        assert books.balances(1) == {"usd": (80, 0)}
    ledger.close()


async def test_a_ledger_that_breaks_is_a_server_error(ledger_path: Path) -> None:
    sandbox = Sandbox(ledger_path)
    with sandbox._ledger.transaction() as books:
        books.connection.execute("DROP TABLE entries")
    answer = await sandbox.handle(Request("GET", "/v1/balance", b"", {"authorization": "Bearer sk_test_x"}, b""))
    sandbox.close()
    assert answer.status == 500
    assert json.loads(answer.body)["error"]["type"] == "api_error"
