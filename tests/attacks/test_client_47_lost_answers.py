"""47: the network, the caller or the process fails after the proof was sent. Nothing is paid twice, nothing that was
paid for is lost, and the caller is told the truth about the money."""

from __future__ import annotations

import asyncio
import gzip
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from rail402.client.journal_sqlite import SqliteJournal
from rail402.client.services import RESERVE_LEASE
from rail402.errors import PaymentOutcomeUnknown, StoreError
from rail402.testing.fakes import FakeLedger, FakeSpec, FakeWallet, Transfer
from tests.attacks.agents import Agent, OpenAgent
from tests.attacks.cases import Observe
from tests.attacks.raw import Connection, RawRequest, RawServer, answer, challenge, fake_terms

ROOT = Path(__file__).parents[2]
# A proof that outlives every lease here: what becomes of one that does not is for `test_client_43_timeouts.py`.
TERMS = fake_terms(maxTimeoutSeconds=600)
CHUNKED = b"HTTP/1.1 200 -\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"


class Shop:
    """Sells; `script` says what becomes of the first payments that are presented."""

    def __init__(self, *script: str) -> None:
        self.script, self.stalled = list(script), asyncio.Event()

    async def __call__(self, request: RawRequest, connection: Connection) -> bytes | None:
        if request.proof is None:
            return challenge(TERMS)
        match self.script.pop(0) if self.script else "serve":
            case "close":
                return None
            case "half a head":
                await connection.write(b"HTTP/1.1 200 -\r\nContent-Le")
            case "half a body":
                await connection.write(answer(200, body=b"bou", length=6))
            case "half a chunk":
                await connection.write(CHUNKED)
            case "stall":
                self.stalled.set()
                await asyncio.Event().wait()
            case "stall in the body":
                await connection.write(CHUNKED)
                self.stalled.set()
                await asyncio.Event().wait()
            case "serve":
                return answer(200, body=b"bought")
            case other:
                return answer(int(other))
        return None


# --- the network


@pytest.mark.parametrize("how", ["close", "half a head", "502", "504", "500", "425", "429"])
async def test_an_answer_that_is_lost(agent: Agent, how: str, observed: Observe) -> None:
    async with RawServer(Shop(*[how] * 6)) as server:
        if how.isdigit() and how != "429":
            response = await agent.get(server.url)
            assert (response.status_code, response.extensions["rail402"].outcome) == (int(how), "unknown")
        else:
            with pytest.raises(PaymentOutcomeUnknown) as caught:
                await agent.get(server.url)
            assert (caught.value.outcome, len(server.proofs)) == ("unknown", 6)
            record = await agent.payer.journal.get(str(caught.value.record_id))
            assert record is not None
            assert record.state == "unknown"
        server.handler = Shop()
        response = await agent.get(server.url)
        assert (response.text, response.extensions["rail402"].outcome) == ("bought", "paid")
        assert len(set(server.proofs)) == 1
        assert (agent.signed, await agent.states()) == (1, ["committed"])
    observed("an answer that is lost: the same proof again, then `PaymentOutcomeUnknown`")


@pytest.mark.parametrize("how", ["half a body", "half a chunk"])
async def test_a_body_that_breaks_off(agent: Agent, how: str) -> None:
    async with RawServer(Shop(how, how)) as server:
        for _ in range(2):
            with pytest.raises(httpx.TransportError):
                await agent.get(server.url)
            assert await agent.states() == ["unknown"]
            # It was served, so it was paid: it counts by its time and holds nothing reserved for ever.
            assert str((await agent.payer.journal.spent(now=agent.clock()))["hour"]["USD"].unresolved) == "0 USD"
        assert (await agent.get(server.url)).text == "bought"
        assert len(set(server.proofs)) == 1
        assert (agent.signed, await agent.states()) == (1, ["committed"])
    assert await agent.spent() == {"USD": "0.003 USD"}


# --- the caller


@pytest.mark.parametrize("kind", ["async"])
async def test_a_caller_that_gives_up_while_it_waits(open_agent: OpenAgent) -> None:
    agent, shop = open_agent(), Shop("stall")
    async with RawServer(shop) as server:
        call = asyncio.create_task(agent.get(server.url))
        await shop.stalled.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await agent.states() == ["presented"]
        assert (await agent.get(server.url)).text == "bought"
        assert len(set(server.proofs)) == 1
    assert (agent.signed, await agent.states()) == (1, ["committed"])


@pytest.mark.parametrize("kind", ["async"])
async def test_a_caller_that_gives_up_in_the_body(open_agent: OpenAgent) -> None:
    agent, reading = open_agent(), asyncio.Event()

    class Stalling(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            yield b"first"
            reading.set()
            await asyncio.Event().wait()

    def handle(request: httpx.Request) -> httpx.Response:
        if "payment-signature" not in request.headers:
            line = challenge(TERMS).split(b"\r\n")[1].decode()
            return httpx.Response(402, headers=[tuple(line.split(": "))])
        proofs.add(request.headers["payment-signature"])
        return httpx.Response(200, text="bought") if reading.is_set() else httpx.Response(200, stream=Stalling())

    proofs: set[str] = set()
    inner = httpx.MockTransport(handle)
    call = asyncio.create_task(agent.get("https://shop.test/", inner=inner))
    await reading.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await agent.states() == ["unknown"]
    assert (await agent.get("https://shop.test/", inner=inner)).text == "bought"
    assert (agent.signed, len(proofs), await agent.states()) == (1, 1, ["committed"])


@pytest.mark.parametrize("kind", ["async"])
async def test_a_time_out_around_a_stream(open_agent: OpenAgent) -> None:
    agent = open_agent()

    async def read(url: str) -> None:
        transport = agent.payer.transport()
        async with (
            asyncio.timeout(None) as scope,
            httpx.AsyncClient(transport=transport) as client,
            client.stream("GET", url) as response,
        ):
            assert await anext(response.aiter_raw()) == b"first"
            scope.reschedule(0)
            await asyncio.Event().wait()  # the caller is elsewhere when its time is over

    async with RawServer(Shop("stall in the body")) as server:
        with pytest.raises(TimeoutError):
            await read(server.url)
        assert await agent.states() == ["unknown"]
        assert (await agent.get(server.url)).text == "bought"
        assert (agent.signed, len(set(server.proofs))) == (1, 1)


@pytest.mark.parametrize("kind", ["async"])
async def test_a_caller_that_has_enough_is_served(open_agent: OpenAgent) -> None:
    agent = open_agent()
    async with RawServer(Shop("stall in the body")) as server:
        async with (
            httpx.AsyncClient(transport=agent.payer.transport()) as client,
            client.stream("GET", server.url) as response,
        ):
            assert await anext(response.aiter_raw()) == b"first"
            assert await agent.states() == ["presented"]
        assert await agent.states() == ["committed"]
        assert (await agent.get(server.url)).text == "bought"
        assert agent.signed == 2


async def test_a_caller_that_has_enough_is_served_synchronously(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "sync")

    def work(url: str) -> bytes:
        with (
            httpx.Client(transport=agent.payer.sync_transport()) as client,
            client.stream("GET", url) as response,
        ):
            return next(response.iter_raw())

    async with RawServer(Shop("stall in the body")) as server:
        assert await asyncio.to_thread(work, server.url) == b"first"
    assert await agent.states() == ["committed"]
    await agent.close()


async def test_an_interrupted_read_is_no_delivery(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "sync")

    class Interrupted(httpx.SyncByteStream):
        def __iter__(self) -> Any:
            yield b"first"
            raise KeyboardInterrupt

    def handle(request: httpx.Request) -> httpx.Response:
        if "payment-signature" in request.headers:
            return httpx.Response(200, stream=Interrupted())
        line = challenge(fake_terms()).split(b"\r\n")[1].decode()
        return httpx.Response(402, headers=[tuple(line.split(": "))])

    def work() -> None:
        transport = agent.payer.sync_transport(httpx.MockTransport(handle))
        with httpx.Client(transport=transport) as client, pytest.raises(KeyboardInterrupt):
            client.get("https://shop.test/")

    await asyncio.to_thread(work)
    assert await agent.states() == ["unknown"]
    await agent.close()


@pytest.mark.parametrize("kind", ["async"])
async def test_calls_beside_a_body_under_way_buy_for_themselves(open_agent: OpenAgent) -> None:
    agent = open_agent()
    async with RawServer(Shop("stall in the body")) as server:
        async with (
            httpx.AsyncClient(transport=agent.payer.transport()) as client,
            client.stream("GET", server.url) as response,
        ):
            assert await anext(response.aiter_raw()) == b"first"
            assert (await agent.get(server.url)).text == "bought"
        assert await agent.states() == ["committed", "committed"]


@pytest.mark.parametrize("step", range(1, 8))
@pytest.mark.parametrize("kind", ["async"])
async def test_a_caller_that_is_cancelled_at_any_write(
    open_agent: OpenAgent, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The journal is written, and whoever waited for it is cancelled in the same moment."""
    agent, steps, run = open_agent(), 0, SqliteJournal._run

    async def cancelling(journal: SqliteJournal, work: Any, *, checked: bool) -> Any:
        nonlocal steps
        steps += 1
        result = await run(journal, work, checked=checked)
        if steps == step:
            call.cancel()
            await asyncio.sleep(0)
        return result

    monkeypatch.setattr(SqliteJournal, "_run", cancelling)
    async with RawServer(Shop()) as server:
        call = asyncio.create_task(agent.get(server.url))
        results = await asyncio.gather(call, return_exceptions=True)
        monkeypatch.undo()
        handed_over = isinstance(results[0], httpx.Response)
        assert handed_over is (step > 5), "it was looked up, compared, reserved, presented and closed"
        assert (await agent.get(server.url)).text == "bought"
        assert len(set(server.proofs)) == (2 if handed_over else 1)
    assert await agent.payer.journal.unresolved() == []


# --- the process

KILLED = """
import asyncio, os, sys
import httpx
from rail402.client.payer import Payer
from rail402.testing.fakes import FakeClock, FakeLedger, FakeWallet

async def main(url, folder, point):
    payer = Payer([FakeWallet(FakeLedger())], journal=f"sqlite:///{folder}/wallet.db", clock=FakeClock())
    save = payer.journal.save

    async def killed(record, *, now):
        written = await save(record, now=now)
        if record.state == point:
            os._exit(9)
        return written

    payer.journal.save = killed
    if point == "reserved":
        async def pay(*arguments, **more):
            os._exit(9)
        payer._wallets["fake:alice"].pay = pay
    async with httpx.AsyncClient(transport=payer.transport()) as client:
        async with client.stream("GET", url) as response:
            async for piece in response.aiter_raw():
                if point == "a part":
                    os._exit(9)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("point", ["reserved", "presented", "a part", "committed"])
async def test_a_process_that_is_killed(tmp_path: Path, point: str, observed: Observe) -> None:
    agent = Agent(tmp_path)

    async def serve(request: RawRequest, connection: Connection) -> bytes | None:
        if request.proof is None:
            return challenge(TERMS)
        await connection.write(CHUNKED + b"4\r\nlast\r\n0\r\n\r\n")
        return None

    async with RawServer(serve) as server:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", KILLED, server.url, str(tmp_path), point), cwd=ROOT, stderr=subprocess.PIPE
        )
        _, errors = await child.communicate()
        assert child.returncode == 9, errors
        if point != "committed":
            with pytest.raises(PaymentOutcomeUnknown):
                await agent.get(server.url)  # its lease still runs: it might be alive
        agent.clock.advance(RESERVE_LEASE)
        assert (await agent.get(server.url)).text == "firstlast"
    # Only what was handed over whole is bought again; nothing else was paid for twice.
    assert len(set(server.proofs)) == (2 if point == "committed" else 1)
    assert await agent.payer.journal.unresolved() == []
    await agent.close()
    observed("a process that is killed goes on with the same payment")


async def test_a_process_that_was_asleep_wakes_up_late(tmp_path: Path) -> None:
    """One agent stalls while it shows its proof; another takes over, and the first one comes back."""
    first, shop = Agent(tmp_path), Shop("stall")
    second = Agent(tmp_path, ledger=first.ledger, clock=first.clock)
    async with RawServer(shop) as server:
        call = asyncio.create_task(first.get(server.url))
        await shop.stalled.wait()
        first.clock.advance(RESERVE_LEASE)
        assert (await second.get(server.url)).text == "bought"
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert len(set(server.proofs)) == 1
    assert (first.signed, await second.states()) == (1, ["committed"])
    await first.close()
    await second.close()


async def test_a_purchase_that_another_took_over_is_not_signed_for(tmp_path: Path) -> None:
    """Asleep between the reservation and the signature: what is signed after that is shown to nobody."""
    first = Agent(tmp_path)
    second = Agent(tmp_path, clock=first.clock)
    asleep, awake = asyncio.Event(), asyncio.Event()

    async def sleep(name: str, key: str) -> None:
        if name == "pay":
            asleep.set()
            await awake.wait()

    first.ledger.before = sleep
    async with RawServer(Shop()) as server:
        call = asyncio.create_task(first.get(server.url))
        await asleep.wait()
        first.clock.advance(RESERVE_LEASE)
        assert (await second.get(server.url)).text == "bought"
        awake.set()
        with pytest.raises(PaymentOutcomeUnknown, match="another process went on"):
            await call
        assert len(server.proofs) == 1
    await first.close()
    await second.close()


# --- the journal


def freeze(agent: Agent, verb: str = "UPDATE") -> None:
    """Have SQLite refuse to write, as it does on a full disk or a broken one; see `thaw`."""
    _execute(agent, f"CREATE TRIGGER frozen BEFORE {verb} ON purchases BEGIN SELECT RAISE(FAIL, 'disk I/O error'); END")


def thaw(agent: Agent) -> None:
    """Let it write again."""
    _execute(agent, "DROP TRIGGER frozen")


def _execute(agent: Agent, statement: str) -> None:
    with closing(sqlite3.connect(agent.payer.journal.address, isolation_level=None)) as connection:
        connection.execute(statement)


async def test_a_full_disk_before_paying(agent: Agent, observed: Observe) -> None:
    async with RawServer(Shop()) as server:
        await agent.get(server.url)
        freeze(agent, "INSERT")
        with pytest.raises(StoreError, match="disk I/O error"):
            await agent.get(server.url)
        assert (agent.signed, len(server.proofs)) == (1, 1)
        thaw(agent)
        assert (await agent.get(server.url)).text == "bought"
    observed("a full disk before paying: nothing is paid")


@pytest.mark.parametrize("style", ["signed", "invoice"])
@pytest.mark.parametrize("kind", ["async"])
async def test_a_journal_that_fails_when_the_money_has_moved(open_agent: OpenAgent, style: Any) -> None:
    ledger, spec = FakeLedger(), FakeSpec(style=style)
    agent = open_agent(ledger=ledger, wallets=[FakeWallet(ledger, spec)])
    await agent.payer.start()

    async def fill(name: str, key: str) -> None:
        if name == "pay":
            freeze(agent)

    ledger.after = fill
    terms = TERMS | {"extra": {"paymentFlow": "upfront", "hash": "h", "invoice_amount": "3000"}}
    if style == "invoice":
        key = spec.key("h")
        ledger.invoices[key] = Transfer(key, "", "shop", 3000, "h")
        ledger.proofs[key] = {"preimage": "the preimage"}

    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        return challenge(terms) if request.proof is None else answer(200, body=b"bought")

    async with RawServer(handle) as server:
        with pytest.raises(PaymentOutcomeUnknown, match="the wallet was asked to pay") as caught:
            await agent.get(server.url)
        assert caught.value.record_id is not None
        assert isinstance(caught.value.__cause__, StoreError)
        assert server.proofs == [], "nothing is shown that is not written down"
        thaw(agent)
        ledger.after = None
        agent.clock.advance(RESERVE_LEASE)
        assert (await agent.get(server.url)).text == "bought"
        assert len(set(server.proofs)) == 1
    assert agent.signed == 1


async def test_a_journal_that_fails_at_the_end_loses_no_response(
    agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    frozen = False

    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        nonlocal frozen
        if request.proof is None:
            return challenge(TERMS)
        if not frozen:
            frozen = True
            freeze(agent)
        return answer(200, body=b"bought")

    async with RawServer(handle) as server:
        assert (await agent.get(server.url)).text == "bought"
        assert "could not be closed" in caplog.text
        thaw(agent)
        agent.clock.advance(RESERVE_LEASE)
        assert (await agent.get(server.url)).text == "bought"
        assert (agent.signed, len(set(server.proofs))) == (1, 1)


async def test_a_journal_that_was_replaced_under_a_running_agent(agent: Agent) -> None:
    async with RawServer(Shop()) as server:
        await agent.get(server.url)
        os.rename(agent.payer.journal.address, f"{agent.payer.journal.address}.backup")
        await asyncio.to_thread(Path(agent.payer.journal.address).write_bytes, b"")
        with pytest.raises(StoreError, match="another file"):
            await agent.get(server.url)
    assert agent.signed == 1


@pytest.mark.parametrize("damage", [b"", b"SQLite format 3\x00" + b"\xff" * 4096, b"not a database" * 500])
async def test_a_journal_that_is_damaged_pays_nothing(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "wallet.db").write_bytes(damage)
    agent = Agent(tmp_path)
    async with RawServer(Shop()) as server:
        if damage:
            with pytest.raises(StoreError):
                await agent.get(server.url)
            assert (agent.signed, server.proofs) == (0, [])
        else:
            assert (await agent.get(server.url)).text == "bought"
    await agent.close()


# --- a wallet


@pytest.mark.parametrize("error", [httpx.ReadTimeout("no answer"), TimeoutError(), OSError("reset")], ids=repr)
@pytest.mark.parametrize("kind", ["async"])
async def test_an_error_of_a_wallets_own_is_no_news_about_the_money(open_agent: OpenAgent, error: Exception) -> None:
    ledger = FakeLedger()

    class Foreign(FakeWallet):
        async def pay(self, *arguments: Any, **more: Any) -> Any:
            await super().pay(*arguments, **more)
            raise error

    agent = open_agent(ledger=ledger, wallets=[Foreign(ledger), FakeWallet(ledger, payer="bob")])
    async with RawServer(Shop()) as server:
        kind = OSError if type(error) is OSError else PaymentOutcomeUnknown
        with pytest.raises(kind):
            await agent.get(server.url)
        assert server.proofs == []
        assert (await agent.get(server.url)).text == "bought"
        assert (agent.signed, len(server.proofs)) == (1, 1)


async def test_what_was_compressed_wrongly_is_served_all_the_same(agent: Agent) -> None:
    """The bytes are all there: that they cannot be read is between the caller and the server (and case 50)."""

    async def handle(request: RawRequest, connection: Connection) -> bytes | None:
        if request.proof is None:
            return challenge(TERMS)
        return answer(200, [("Content-Encoding", "gzip")], gzip.compress(b"x")[:-4] + b"junk")

    async with RawServer(handle) as server:
        with pytest.raises(httpx.DecodingError):
            await agent.get(server.url)
    assert await agent.states() == ["committed"]
