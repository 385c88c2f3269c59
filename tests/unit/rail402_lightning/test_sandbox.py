from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rail402.errors import ConfigurationError, MalformedInput, OutcomeUnknown, RailUnavailable
from rail402_lightning import bolt11, sandbox_ledger
from rail402_lightning.sandbox import ENDOWMENT_MSAT, NETWORK, PaymentStatus, SandboxLightning
from rail402_lightning.sandbox_ledger import LedgerTransaction, SandboxLedger

NOW = 1_700_000_000
MAINNET_INVOICE = json.loads((Path(__file__).parents[2] / "vectors" / "bolt11.json").read_text(encoding="utf-8"))[
    "valid"
][0]["invoice"]


@dataclass
class Clock:
    now: int = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
async def node(path: Path, clock: Clock) -> AsyncIterator[SandboxLightning]:
    node = SandboxLightning(path, clock=clock)
    yield node
    assert (await node.books()).balanced
    await node.close()


@pytest.fixture
async def twin(path: Path, clock: Clock, node: SandboxLightning) -> AsyncIterator[SandboxLightning]:
    """The same node, as another process has it."""
    twin = SandboxLightning(path, clock=clock)
    yield twin
    await twin.close()


async def invoice_of(node: SandboxLightning, amount_msat: int = 25_000) -> tuple[str, bytes]:
    text = await node.create_invoice(amount_msat, expiry_seconds=300)
    return text, bolt11.decode(text).payment_hash


async def pay(node: SandboxLightning, text: str, wallet: str = "agent", max_fee_msat: int = 1000) -> PaymentStatus:
    return await node.pay_invoice(text, wallet=wallet, max_fee_msat=max_fee_msat)


# Invoices.


async def test_an_invoice_is_a_real_one_of_this_node(node: SandboxLightning) -> None:
    text = await node.create_invoice(25_000, expiry_seconds=300, description_hash=b"\x07" * 32)
    invoice = bolt11.decode(text)
    assert text.startswith("lnbcrt250n1")
    assert invoice.payee == await node.node_id()
    assert (invoice.amount_msat, invoice.created_at, invoice.expiry) == (25_000, NOW, 300)
    assert (invoice.description, invoice.description_hash) == (None, b"\x07" * 32)


async def test_an_invoice_has_its_description_or_an_empty_one(node: SandboxLightning) -> None:
    assert bolt11.decode(await node.create_invoice(1, expiry_seconds=1, description="tea")).description == "tea"
    assert bolt11.decode(await node.create_invoice(1, expiry_seconds=1)).description == ""


async def test_no_two_invoices_share_a_secret(node: SandboxLightning) -> None:
    invoices = [bolt11.decode((await invoice_of(node))[0]) for _ in range(3)]
    assert len({invoice.payment_hash for invoice in invoices} | {invoice.payment_secret for invoice in invoices}) == 6


@pytest.mark.parametrize(
    "arguments",
    [
        {"amount_msat": 0, "expiry_seconds": 1},
        {"amount_msat": -5, "expiry_seconds": 1},
        {"amount_msat": 1, "expiry_seconds": 0},
        {"amount_msat": 1, "expiry_seconds": 1, "description": "x" * 640},
        {"amount_msat": 1, "expiry_seconds": 1, "description": "x", "description_hash": bytes(32)},
        {"amount_msat": 1, "expiry_seconds": 1, "description_hash": bytes(31)},
    ],
    ids=str,
)
async def test_refuses_to_make_an_invoice_that_cannot_be(node: SandboxLightning, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the texts are bolt11's
        await node.create_invoice(**arguments)


async def test_an_open_invoice_expires_by_the_clock(node: SandboxLightning, clock: Clock) -> None:
    _, payment_hash = await invoice_of(node)
    for now, state in ((NOW + 299, "open"), (NOW + 300, "expired")):
        clock.now = now
        status = await node.lookup_invoice(payment_hash)
        assert status is not None
        assert (status.state, status.amount_msat, status.amount_paid_msat) == (state, 25_000, 0)
        assert (status.expires_at, status.settled_at) == (NOW + 300, None)


async def test_an_invoice_the_node_never_made_is_unknown(node: SandboxLightning) -> None:
    assert await node.lookup_invoice(bytes(32)) is None
    assert await node.wait_settled(bytes(32), timeout=5) is None
    assert await node.cancel_invoice(bytes(32)) is None


# Paying.


async def test_paying_moves_the_money_and_reveals_the_preimage(node: SandboxLightning, clock: Clock) -> None:
    text, payment_hash = await invoice_of(node)
    clock.now += 10
    status = await pay(node, text)

    assert (status.state, status.amount_msat, status.fee_msat, status.reason) == ("succeeded", 25_000, 25, None)
    assert status.preimage is not None
    assert hashlib.sha256(status.preimage).digest() == payment_hash
    assert status.preimage.hex() not in repr(status)
    assert repr(status.preimage)[2:-1] not in repr(status)
    assert await node.lookup_payment(payment_hash, "agent") == status
    invoice = await node.lookup_invoice(payment_hash)
    assert invoice is not None
    assert (invoice.state, invoice.amount_paid_msat, invoice.settled_at) == ("settled", 25_000, NOW + 10)
    assert await node.balance("agent") == ENDOWMENT_MSAT - 25_025
    assert await node.balance("someone else") == ENDOWMENT_MSAT
    books = await node.books()
    assert (books.endowments_msat, books.received_msat, books.fees_msat) == (2 * ENDOWMENT_MSAT, 25_000, 25)
    assert (books.balances_msat, books.in_flight_msat) == (2 * ENDOWMENT_MSAT - 25_025, 0)


async def test_paying_twice_debits_once_and_gives_the_same_preimage(node: SandboxLightning) -> None:
    text, _ = await invoice_of(node)
    first = await pay(node, text)
    assert await pay(node, "lightning:" + text.upper()) == first
    assert await node.balance("agent") == ENDOWMENT_MSAT - 25_025


async def test_a_paid_invoice_answers_the_same_after_its_expiry(node: SandboxLightning, clock: Clock) -> None:
    text, payment_hash = await invoice_of(node)
    first = await pay(node, text)
    clock.now += 301
    assert await pay(node, text) == first
    invoice = await node.lookup_invoice(payment_hash)
    assert invoice is not None
    assert (invoice.state, invoice.settled_at) == ("settled", NOW)


async def test_an_invoice_is_paid_by_one_wallet_only(node: SandboxLightning) -> None:
    text, payment_hash = await invoice_of(node)
    await pay(node, text, "first")
    second = await pay(node, text, "second")
    assert (second.state, second.reason, second.preimage) == ("failed", "incorrect_payment_details", None)
    assert await node.balance("second") == ENDOWMENT_MSAT
    first = await node.lookup_payment(payment_hash, "first")
    assert first is not None
    assert first.state == "succeeded"


@pytest.mark.parametrize(("after", "state", "reason"), [(299, "succeeded", None), (300, "failed", "invoice_expired")])
async def test_an_expired_invoice_is_not_payable(
    node: SandboxLightning, clock: Clock, after: int, state: str, reason: str | None
) -> None:
    text, _ = await invoice_of(node)
    clock.now += after
    status = await pay(node, text)
    assert (status.state, status.reason) == (state, reason)


@pytest.mark.parametrize(("amount_msat", "fee_msat"), [(1, 1), (1000, 1), (1001, 2), (25_000, 25), (25_001, 26)])
async def test_the_fee_is_a_thousandth_rounded_up(node: SandboxLightning, amount_msat: int, fee_msat: int) -> None:
    text, _ = await invoice_of(node, amount_msat)
    refused = await pay(node, text, max_fee_msat=fee_msat - 1)
    assert (refused.state, refused.reason, await node.balance("agent")) == ("failed", "fee_limit", ENDOWMENT_MSAT)
    paid = await pay(node, text, max_fee_msat=fee_msat)
    assert (paid.state, paid.fee_msat) == ("succeeded", fee_msat)
    assert await node.balance("agent") == ENDOWMENT_MSAT - amount_msat - fee_msat


async def test_routes_can_be_free(path: Path, clock: Clock) -> None:
    node = SandboxLightning(path, clock=clock, fee_ppm=0)
    status = await pay(node, (await invoice_of(node))[0], max_fee_msat=0)
    await node.close()
    assert (status.state, status.fee_msat) == ("succeeded", 0)


async def test_a_wallet_spends_its_last_millisatoshi_and_no_more(node: SandboxLightning) -> None:
    text, _ = await invoice_of(node, ENDOWMENT_MSAT * 1000 // 1001)
    fee = await pay(node, text, max_fee_msat=ENDOWMENT_MSAT)
    assert fee.state == "succeeded"
    rest = await node.balance("agent")
    text, _ = await invoice_of(node, rest + 1)
    assert (await pay(node, text, max_fee_msat=10**9)).reason == "insufficient_balance"
    assert await node.balance("agent") == rest


async def test_the_fee_counts_towards_the_balance(node: SandboxLightning) -> None:
    text, payment_hash = await invoice_of(node, ENDOWMENT_MSAT)
    assert (await pay(node, text, max_fee_msat=10**9)).reason == "insufficient_balance"
    invoice = await node.lookup_invoice(payment_hash)
    assert invoice is not None
    assert invoice.state == "open"


async def test_other_nodes_cannot_be_reached(node: SandboxLightning, tmp_path: Path, clock: Clock) -> None:
    stranger = SandboxLightning(tmp_path / "stranger.db", clock=clock)
    foreign, _ = await invoice_of(stranger)
    await stranger.close()
    for text in (foreign, MAINNET_INVOICE):
        status = await pay(node, text)
        assert (status.state, status.reason, status.preimage) == ("failed", "no_route", None)
        assert await node.lookup_payment(status.payment_hash, "agent") == status
    assert await node.balance("agent") == ENDOWMENT_MSAT


async def test_another_network_with_our_key_cannot_be_reached(path: Path, clock: Clock) -> None:
    key = b"\x05" * 32
    node = SandboxLightning(path, clock=clock, random_bytes=lambda size: key[:size])
    text, _ = await invoice_of(node)
    elsewhere = {**{name: getattr(bolt11.decode(text), name) for name in bolt11.UnsignedInvoice.__dataclass_fields__}}
    mainnet = bolt11.encode(bolt11.UnsignedInvoice(**{**elsewhere, "prefix": "bc"}), key)
    assert bolt11.decode(mainnet).payee == await node.node_id()
    status = await pay(node, mainnet)
    await node.close()
    assert (status.state, status.reason) == ("failed", "no_route")


async def test_an_invoice_with_our_key_that_we_never_made_is_not_taken(path: Path, clock: Clock) -> None:
    key = b"\x05" * 32
    node = SandboxLightning(path, clock=clock, random_bytes=lambda size: key[:size])
    forged = bolt11.encode(
        bolt11.UnsignedInvoice(
            prefix="bcrt",
            amount_msat=5,
            created_at=NOW,
            payment_hash=bytes(32),
            payment_secret=bytes(32),
            description="",
        ),
        key,
    )
    status = await pay(node, forged)
    await node.close()
    assert (status.state, status.reason) == ("failed", "incorrect_payment_details")


async def test_what_is_not_an_invoice_pays_nothing(node: SandboxLightning) -> None:
    text, payment_hash = await invoice_of(node)
    with pytest.raises(MalformedInput):
        await pay(node, text[:-1] + ("q" if text[-1] != "q" else "p"))
    assert await node.lookup_payment(payment_hash, "agent") is None
    assert (await node.books()).endowments_msat == 0


async def test_a_payment_nobody_made_is_unknown(node: SandboxLightning) -> None:
    text, payment_hash = await invoice_of(node)
    await pay(node, text, "agent")
    assert await node.lookup_payment(payment_hash, "someone else") is None


# Scripted behaviour.


async def test_a_pending_payment_is_in_flight_until_released(node: SandboxLightning, clock: Clock) -> None:
    text, payment_hash = await invoice_of(node)
    await node.script(payment_hash, "pending-then-settle")
    pending = await pay(node, text)
    assert (pending.state, pending.preimage, pending.reason) == ("pending", None, None)
    assert await pay(node, text) == pending
    assert await node.balance("agent") == ENDOWMENT_MSAT - 25_025
    assert (await node.books()).in_flight_msat == 25_025
    other = await pay(node, text, "another wallet")
    assert (other.state, other.reason) == ("failed", "incorrect_payment_details")
    invoice = await node.lookup_invoice(payment_hash)
    assert invoice is not None
    assert (invoice.state, invoice.amount_paid_msat) == ("open", 0)

    clock.now += 5
    assert await node.release(payment_hash)
    assert not await node.release(payment_hash)
    paid = await node.lookup_payment(payment_hash, "agent")
    assert paid is not None
    assert paid.preimage is not None
    assert hashlib.sha256(paid.preimage).digest() == payment_hash
    invoice = await node.lookup_invoice(payment_hash)
    assert invoice is not None
    assert (invoice.state, invoice.settled_at) == ("settled", NOW + 5)
    assert await node.balance("agent") == ENDOWMENT_MSAT - 25_025


async def test_a_pending_payment_can_be_released_into_failure(node: SandboxLightning) -> None:
    text, payment_hash = await invoice_of(node)
    await node.script("next", "pending-then-settle")
    await pay(node, text)
    assert await node.release(payment_hash, failure="timeout")
    failed = await node.lookup_payment(payment_hash, "agent")
    assert failed is not None
    assert (failed.state, failed.reason, failed.preimage) == ("failed", "timeout", None)
    assert await node.balance("agent") == ENDOWMENT_MSAT
    assert (await pay(node, text)).state == "succeeded"


async def test_pending_forever_stays_so(node: SandboxLightning, clock: Clock) -> None:
    text, payment_hash = await invoice_of(node)
    await node.script(payment_hash, "pending-forever")
    await pay(node, text)
    assert not await node.release(payment_hash)
    clock.now += 10**6
    pending = await node.lookup_payment(payment_hash, "agent")
    assert pending is not None
    assert pending.state == "pending"
    invoice = await node.lookup_invoice(payment_hash)
    assert invoice is not None
    assert invoice.state == "expired"
    assert (await node.books()).in_flight_msat == 25_025


@pytest.mark.parametrize("looked_up_after", [301, 5000])
async def test_settle_late_arrives_after_the_expiry_whenever_one_looks(
    node: SandboxLightning, clock: Clock, looked_up_after: int
) -> None:
    text, payment_hash = await invoice_of(node)
    await node.script(payment_hash, "settle-late")
    assert (await pay(node, text)).state == "pending"
    clock.now = NOW + 300
    invoice = await node.lookup_invoice(payment_hash)
    assert invoice is not None
    assert invoice.state == "expired"
    clock.now = NOW + looked_up_after
    invoice = await node.lookup_invoice(payment_hash)
    assert invoice is not None
    assert (invoice.state, invoice.amount_paid_msat, invoice.settled_at) == ("settled", 25_000, NOW + 301)
    paid = await pay(node, text)
    assert paid.state == "succeeded"
    assert paid.preimage is not None


async def test_fail_gives_its_reason_once(node: SandboxLightning) -> None:
    text, payment_hash = await invoice_of(node)
    await node.script(payment_hash, "fail", reason="timeout")
    failed = await pay(node, text)
    assert (failed.state, failed.reason) == ("failed", "timeout")
    assert await node.lookup_payment(payment_hash, "agent") == failed
    assert await node.balance("agent") == ENDOWMENT_MSAT
    assert (await pay(node, text)).state == "succeeded"


async def test_a_lost_answer_hides_that_the_money_went(node: SandboxLightning) -> None:
    text, payment_hash = await invoice_of(node)
    await node.script(payment_hash, "lost-answer")
    with pytest.raises(OutcomeUnknown) as caught:
        await pay(node, text)
    paid = await node.lookup_payment(payment_hash, "agent")
    assert paid is not None
    assert paid.preimage is not None
    assert paid.preimage.hex() not in str(caught.value)
    assert await node.balance("agent") == ENDOWMENT_MSAT - 25_025
    assert await pay(node, text) == paid
    assert await node.balance("agent") == ENDOWMENT_MSAT - 25_025


async def test_scripts_queue_up_and_an_invoices_own_come_first(node: SandboxLightning) -> None:
    text, payment_hash = await invoice_of(node)
    await node.script("next", "fail", reason="third")
    await node.script(bytes(32), "fail", reason="for another invoice")
    await node.script(payment_hash, "fail", reason="first")
    await node.script(payment_hash, "fail", reason="second")
    reasons = [(await pay(node, text)).reason for _ in range(4)]
    assert reasons == ["first", "second", "third", None]


async def test_an_attempt_that_is_refused_anyway_uses_up_no_script(node: SandboxLightning) -> None:
    text, _ = await invoice_of(node)
    await node.script("next", "fail", reason="scripted")
    assert (await pay(node, text, max_fee_msat=0)).reason == "fee_limit"
    assert (await pay(node, text)).reason == "scripted"


async def test_refuses_an_unknown_behaviour(node: SandboxLightning) -> None:
    with pytest.raises(ConfigurationError, match="pending-forever"):
        await node.script("next", "explode")  # type: ignore[arg-type]


# Cancelling and waiting.


async def test_a_canceled_invoice_is_not_payable(node: SandboxLightning) -> None:
    text, payment_hash = await invoice_of(node)
    status = await node.cancel_invoice(payment_hash)
    assert status is not None
    assert status.state == "canceled"
    assert (await pay(node, text)).reason == "incorrect_payment_details"


async def test_cancelling_sends_a_payment_under_way_back(node: SandboxLightning, clock: Clock) -> None:
    text, payment_hash = await invoice_of(node)
    await node.script(payment_hash, "settle-late")
    await pay(node, text)
    await node.cancel_invoice(payment_hash)
    failed = await node.lookup_payment(payment_hash, "agent")
    assert failed is not None
    assert (failed.state, failed.reason) == ("failed", "incorrect_payment_details")
    assert await node.balance("agent") == ENDOWMENT_MSAT
    clock.now += 400
    status = await node.lookup_invoice(payment_hash)
    assert status is not None
    assert status.state == "canceled"


async def test_a_settled_invoice_cannot_be_canceled(node: SandboxLightning) -> None:
    text, payment_hash = await invoice_of(node)
    await pay(node, text)
    status = await node.cancel_invoice(payment_hash)
    assert status is not None
    assert status.state == "settled"


async def test_waiting_ends_when_another_process_pays(node: SandboxLightning, twin: SandboxLightning) -> None:
    text, payment_hash = await invoice_of(node)
    waiting = asyncio.create_task(node.wait_settled(payment_hash, timeout=30))
    await pay(twin, text)
    status = await waiting
    assert status is not None
    assert status.state == "settled"


async def test_waiting_ends_when_the_invoice_is_canceled(node: SandboxLightning) -> None:
    _, payment_hash = await invoice_of(node)
    await node.cancel_invoice(payment_hash)
    status = await node.wait_settled(payment_hash, timeout=30)
    assert status is not None
    assert status.state == "canceled"


async def test_waiting_ends_with_the_timeout(node: SandboxLightning) -> None:
    _, payment_hash = await invoice_of(node)
    for timeout in (0, 0.03):
        status = await node.wait_settled(payment_hash, timeout=timeout)
        assert status is not None
        assert status.state == "open"


# The ledger file.


async def test_everything_survives_a_restart(node: SandboxLightning, path: Path, clock: Clock) -> None:
    text, payment_hash = await invoice_of(node)
    paid = await pay(node, text)
    await node.script("next", "fail", reason="remembered")
    node_id, balance, books = await node.node_id(), await node.balance("agent"), await node.books()
    await node.close()

    again = SandboxLightning(path, clock=clock)
    assert await again.node_id() == node_id
    assert await again.lookup_payment(payment_hash, "agent") == paid
    assert await again.balance("agent") == balance
    assert await again.books() == books
    assert (await pay(again, (await invoice_of(again))[0])).reason == "remembered"
    await again.close()


async def test_a_closed_node_opens_again_at_the_next_call(node: SandboxLightning) -> None:
    await node.close()
    text, _ = await invoice_of(node)
    await node.close()
    await node.close()
    assert (await pay(node, text)).state == "succeeded"


async def test_what_one_instance_scripts_another_obeys(node: SandboxLightning, twin: SandboxLightning) -> None:
    text, payment_hash = await invoice_of(node)
    await node.script(payment_hash, "pending-then-settle")
    assert (await pay(twin, text)).state == "pending"
    assert await node.release(payment_hash)
    assert (await pay(twin, text)).state == "succeeded"


async def test_two_instances_that_pay_at_once_debit_once(node: SandboxLightning, twin: SandboxLightning) -> None:
    text, _ = await invoice_of(node)
    statuses = await asyncio.gather(*(pay(one, text) for _ in range(10) for one in (node, twin)))
    assert {status.state for status in statuses} == {"succeeded"}
    assert len({status.preimage for status in statuses}) == 1
    assert await node.balance("agent") == ENDOWMENT_MSAT - 25_025


async def test_two_wallets_that_pay_at_once_are_not_both_debited(
    node: SandboxLightning, twin: SandboxLightning
) -> None:
    text, _ = await invoice_of(node)
    statuses = await asyncio.gather(pay(node, text, "a"), pay(twin, text, "b"))
    assert sorted(status.state for status in statuses) == ["failed", "succeeded"]
    assert await node.balance("a") + await node.balance("b") == 2 * ENDOWMENT_MSAT - 25_025


PAYER = """
import asyncio, json, sys
from rail402_lightning.sandbox import SandboxLightning

async def main():
    node = SandboxLightning(sys.argv[1], clock=lambda: 1_700_000_000)
    print("ready", flush=True)
    sys.stdin.readline()
    print((await node.node_id()).hex(), flush=True)
    text = sys.stdin.readline().strip()
    statuses = await asyncio.gather(*(node.pay_invoice(text, wallet="agent", max_fee_msat=1000) for _ in range(5)))
    print(json.dumps([[status.state, status.preimage.hex()] for status in statuses]), flush=True)
    await node.close()

asyncio.run(main())
"""


async def test_two_processes_share_one_node_and_debit_one_invoice_once(path: Path, clock: Clock) -> None:
    async def tell(process: asyncio.subprocess.Process, line: str) -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line.encode() + b"\n")
        return (await process.stdout.readline()).decode().strip()

    command = (sys.executable, "-W", "error", "-c", PAYER, str(path))
    pipe = asyncio.subprocess.PIPE
    payers = [await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe) for _ in range(2)]
    node = SandboxLightning(path, clock=clock)
    try:
        async with asyncio.timeout(60):
            for payer in payers:
                assert payer.stdout is not None
                assert await payer.stdout.readline() == b"ready\n"
            node_ids = await asyncio.gather(*(tell(payer, "open") for payer in payers))
            assert set(node_ids) == {(await node.node_id()).hex()}
            text, payment_hash = await invoice_of(node)
            answers = await asyncio.gather(*(tell(payer, text) for payer in payers))
            assert [await payer.wait() for payer in payers] == [0, 0]
    finally:
        for payer in payers:
            if payer.returncode is None:
                payer.kill()
                await payer.wait()

    statuses = [status for answer in answers for status in json.loads(answer)]
    assert len(statuses) == 10
    assert {state for state, _ in statuses} == {"succeeded"}
    (preimage,) = {preimage for _, preimage in statuses}
    assert hashlib.sha256(bytes.fromhex(preimage)).digest() == payment_hash
    books = await node.books()
    await node.close()
    assert (books.received_msat, books.fees_msat, books.balanced) == (25_000, 25, True)
    assert books.balances_msat == ENDOWMENT_MSAT - 25_025


async def test_of_two_that_make_the_ledger_at_once_the_first_one_counts(path: Path, clock: Clock) -> None:
    first = SandboxLedger(path, clock, lambda: b"\x01" * 32)

    def overtaken() -> bytes:
        asyncio.run(first.transact(LedgerTransaction.books))
        return b"\x02" * 32

    second = SandboxLedger(path, clock, overtaken)
    assert await second.transact(LedgerTransaction.node_key) == b"\x01" * 32
    await first.close()
    await second.close()
    assert os.listdir(path.parent) == [path.name]


async def test_the_file_and_its_companions_are_for_the_owner_only(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "new" / "folder"
    node = SandboxLightning(folder / "ledger.db", clock=clock)
    await invoice_of(node)
    modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
    await node.close()
    assert modes == {"ledger.db": 0o600, "ledger.db-wal": 0o600, "ledger.db-shm": 0o600}
    assert folder.stat().st_mode & 0o777 == 0o700


async def test_a_ledger_that_others_may_read_is_refused(node: SandboxLightning, path: Path) -> None:
    await invoice_of(node)
    await node.close()
    os.chmod(path, 0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        await node.books()
    os.chmod(path, 0o600)


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough to be looked at" * 30])
def test_a_file_that_is_no_ledger_is_refused_and_left_alone(path: Path, clock: Clock, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)
    node = SandboxLightning(path, clock=clock)
    with pytest.raises(ConfigurationError, match="no sandbox ledger"):
        asyncio.run(node.node_id())
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == [path.name]


async def test_a_ledger_of_another_version_is_refused(node: SandboxLightning, path: Path) -> None:
    await invoice_of(node)
    await node.close()
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA user_version = 2")
    raw.close()
    with pytest.raises(ConfigurationError, match="no sandbox ledger"):
        await node.books()
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA user_version = 1")
    raw.close()


async def test_a_ledger_that_cannot_be_made_is_a_configuration_error(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be made"):
        await SandboxLightning(tmp_path / "file" / "ledger.db", clock=clock).node_id()


async def test_a_ledger_that_someone_keeps_locked_is_unavailable(
    node: SandboxLightning, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_ledger, "_LOCK_TIMEOUT_SECONDS", 0.01)
    text, payment_hash = await invoice_of(node)
    hog = sqlite3.connect(path, isolation_level=None)
    hog.execute("BEGIN IMMEDIATE")
    with pytest.raises(RailUnavailable, match="locked"):
        await pay(node, text)
    hog.execute("ROLLBACK")
    hog.close()
    assert await node.lookup_payment(payment_hash, "agent") is None
    assert (await pay(node, text)).state == "succeeded"


async def test_work_has_the_ledger_for_itself_before_it_reads(path: Path, clock: Clock) -> None:
    ledger = SandboxLedger(path, clock, lambda: b"\x01" * 32)
    await ledger.transact(LedgerTransaction.books)
    other = sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=False)

    def cut_in(transaction: LedgerTransaction) -> None:
        transaction.books()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")

    await ledger.transact(cut_in)
    other.execute("BEGIN IMMEDIATE")
    other.close()
    await ledger.close()


async def test_work_that_breaks_off_leaves_no_trace(path: Path, clock: Clock) -> None:
    ledger = SandboxLedger(path, clock, lambda: b"\x01" * 32)

    def break_off(transaction: LedgerTransaction) -> None:
        transaction.add_invoice(b"\x01" * 32, b"\x02" * 32, 1, NOW + 1)
        transaction.balance("agent")
        raise LookupError("broken off")

    with pytest.raises(LookupError):
        await ledger.transact(break_off)
    assert await ledger.transact(lambda transaction: transaction.invoice(b"\x01" * 32)) is None
    assert (await ledger.transact(LedgerTransaction.books)).endowments_msat == 0
    await ledger.close()


@pytest.mark.parametrize(
    "network", ["lnbtc:000000000019d6689c085ae165831e93", "lnbtc:000000000933ea01ad0ee984209779ba", "bc", ""]
)
def test_refuses_every_real_network(path: Path, clock: Clock, network: str) -> None:
    with pytest.raises(ConfigurationError, match="no real money"):
        SandboxLightning(path, clock=clock, network=network)
    assert not path.exists()
    assert SandboxLightning(path, clock=clock, network=NETWORK)


# Whatever happens, no millisatoshi is lost or made up.

wallets = st.sampled_from(["a", "b"])
choices = st.integers(0, 4)
operations = st.one_of(
    st.tuples(st.just("create"), st.integers(1, ENDOWMENT_MSAT // 2), choices),
    st.tuples(st.just("pay"), wallets, choices),
    st.tuples(st.just("script"), st.sampled_from(["fail", "settle-late", "pending-then-settle"]), choices),
    st.tuples(st.just("script"), st.sampled_from(["lost-answer", "pending-forever"]), choices),
    st.tuples(st.just("release"), st.sampled_from([None, "timeout"]), choices),
    st.tuples(st.just("cancel"), st.none(), choices),
    st.tuples(st.just("wait"), st.sampled_from([1, 200, 400]), choices),
)


async def run_operations(folder: str, steps: list[tuple[str, Any, int]]) -> None:
    clock = Clock()
    node = SandboxLightning(Path(folder) / "ledger.db", clock=clock)
    made = [await invoice_of(node)]
    preimages: dict[bytes, bytes] = {}
    for step, argument, choice in steps:
        text, payment_hash = made[choice % len(made)]
        if step == "create":
            made.append(await invoice_of(node, argument))
        elif step == "pay":
            try:
                await pay(node, text, argument, max_fee_msat=10**9)
            except OutcomeUnknown:
                assert payment_hash not in preimages
        elif step == "script":
            await node.script(payment_hash if choice else "next", argument)
        elif step == "release":
            await node.release(payment_hash, failure=argument)
        elif step == "cancel":
            await node.cancel_invoice(payment_hash)
        elif step == "wait":
            clock.now += argument
        books = await node.books()
        assert books.balanced
        for _, known in made:
            invoice = await node.lookup_invoice(known)
            payments = [await node.lookup_payment(known, wallet) for wallet in ("a", "b")]
            paid = [payment for payment in payments if payment is not None and payment.state == "succeeded"]
            assert invoice is not None
            assert len(paid) == (invoice.state == "settled")
            for payment in paid:
                assert payment.preimage is not None
                assert preimages.setdefault(known, payment.preimage) == payment.preimage
            assert (known in preimages) == (invoice.state == "settled")  # settled once, settled for good
    await node.close()


@settings(max_examples=25, deadline=None)
@given(st.lists(operations, max_size=14))
def test_the_books_always_balance(steps: list[tuple[str, Any, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run_operations(folder, steps))
