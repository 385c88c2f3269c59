"""30: a flood of requests for a 402, which wants the node, the memory and the store."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sqlite3
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from rail402 import Gate
from rail402.errors import RateLimited
from rail402.rates import FixedRates
from rail402.server import limits
from rail402.server.limits import Limiter, Limits
from rail402.stores.sqlite import SqliteStore
from rail402.testing.fakes import FakeClock
from rail402_base import BaseRail
from rail402_lightning import LightningRail
from rail402_lightning.backends.sandbox import SandboxReceiver
from rail402_lightning.minting import Minter
from tests.attacks.cases import Observe

URL = "https://shop.example"
MEGABYTE = 1 << 20
SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "https",
    "root_path": "",
    "server": ("shop.example", 443),
}
LIMITS = Limits(
    challenges="600/m",
    invoices="60/m",
    route_challenges="1200/m",
    route_invoices="120/m",
)


class CountedNode(SandboxReceiver):
    """A node that counts what it is asked, and by whom: while a request waits, or in the background."""

    asked = 0
    waited_for = 0

    async def create_invoice(self, amount_msat: int, *, expiry_seconds: int, hashed_description: bytes) -> str:
        self.asked += 1
        task = asyncio.current_task()
        self.waited_for += task is not None and "_mint" not in str(task.get_coro())
        return await super().create_invoice(
            amount_msat, expiry_seconds=expiry_seconds, hashed_description=hashed_description
        )


async def goods(_: Request) -> Response:
    return PlainTextResponse("the goods")


async def no_time(_: float) -> None:
    """Wait as long as a minter does between two invoices, on the clock of this test."""


class Shop:
    """A publisher on Lightning and Base, whose node is counted, and attackers with any address they like."""

    def __init__(self, directory: Path, allowed: Limits | None = LIMITS) -> None:
        self.clock, self.path = FakeClock(), directory / "charges.db"
        lightning = LightningRail.sandbox(directory, clock=self.clock)
        assert isinstance(lightning.receiver, SandboxReceiver)
        self.node = CountedNode(lightning.receiver.node)
        self.lightning = LightningRail(self.node, network="regtest")
        self.lightning._minter = Minter(self.node, sleep=no_time)
        self.gate = Gate(
            rails=[self.lightning, BaseRail.sandbox(directory, clock=self.clock)],
            public_url=URL,
            store=f"sqlite:///{self.path}",
            clock=self.clock,
            reconcile_seconds=0,
            rates=FixedRates({"BTC/USD": "60000"}),
            limits=allowed,
        )
        self.app = Starlette()
        self.app.add_route("/both", self.gate.paid("0.01 USD")(goods))
        self.app.add_route("/lightning", self.gate.paid("0.01 USD", rails=["lightning"])(goods))
        self.gate.install(self.app)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Shop]:
        async with self.gate:
            self.node.asked = self.node.waited_for = 0
            yield self

    async def ask(
        self, path: str, address: str = "192.0.2.1", fields: dict[str, str] | None = None
    ) -> tuple[int, dict[bytes, bytes], Any]:
        """One request by bare ASGI; returns the status, the fields and the body."""
        target, _, query = path.partition("?")
        scope = SCOPE | {
            "path": target,
            "raw_path": target.encode(),
            "query_string": query.encode(),
            "client": (address, 1),
            "headers": [(name.lower().encode(), value.encode()) for name, value in (fields or {}).items()],
        }
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        return sent[0]["status"], {name.lower(): value for name, value in sent[0]["headers"]}, sent[1]["body"]

    def rows(self, table: str) -> int:
        with closing(sqlite3.connect(self.path)) as connection:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def address(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


async def test_100_000_unpaid_requests_take_bounded_memory_rows_and_node_calls(
    tmp_path: Path, observed: Observe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is traced for the last tenth, since that slows all of it down. What is remembered of clients is new by the
    middle of that; from then on nothing may grow any more."""
    monkeypatch.setattr(limits, "_REMEMBERED", 2000)
    async with Shop(tmp_path).open() as shop:
        statuses: Counter[int] = Counter()
        begun, before = shop.clock(), 0
        for number in range(100_000):
            if number == 90_000:
                tracemalloc.start(1)
            elif number == 95_000:
                before = tracemalloc.get_traced_memory()[0]
            match number % 4:
                case 0:  # one client, one address
                    answer = await shop.ask("/both")
                case 1:  # one client, and another address every time
                    answer = await shop.ask(f"/lightning?{number}")
                case 2:  # another client every time
                    answer = await shop.ask("/both", address(number))
                case _:
                    answer = await shop.ask(f"/both?{number}", address(number))
            statuses[answer[0]] += 1
            if number % 2000 == 0:
                shop.clock.advance(1)
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        seconds = shop.clock() - begun

        assert set(statuses) == {402, 429}
        assert statuses[402] <= 2 * (1200 + 20 * seconds)
        invoices = 2 * (120 + 2 * seconds)
        assert 0 < shop.rows("issued") <= invoices
        assert shop.node.asked <= 2 * invoices
        assert shop.rows("charges") == shop.rows("responses") == 0
        assert shop.rows("buckets") <= shop.rows("issued") + 10
        assert shop.gate.services().limiter.remembered == 2000
        assert grown < MEGABYTE
    observed(
        "of 100,000 unpaid requests from 50,000 addresses most got 429; memory did not grow any more, the store by"
        " little more than the invoices that were let through, and the node was asked at most twice for each of these"
    )


async def test_who_floods_is_told_when_to_come_back_and_gets_no_offer(tmp_path: Path, observed: Observe) -> None:
    async with Shop(tmp_path).open() as shop:
        answers = [await shop.ask("/both") for _ in range(700)]
        assert answers[0][0] == 402
        status, fields, body = answers[-1]
        assert status == 429
        assert int(fields[b"retry-after"]) >= 1
        assert fields[b"cache-control"] == b"no-store"
        assert json.loads(body)["code"] == "rate_limited"
        assert "accepts" not in json.loads(body)
        assert not fields.keys() & {b"www-authenticate", b"payment-required"}
        assert (await shop.ask("/both", "192.0.2.2"))[0] == 402
        shop.clock.advance(int(fields[b"retry-after"]))
        assert (await shop.ask("/both"))[0] == 402
    observed("429 with `Retry-After`, no offer in it, and no other client's business")


async def test_lightning_is_left_out_and_the_other_rails_go_on(tmp_path: Path, observed: Observe) -> None:
    async with Shop(tmp_path).open() as shop:
        answers = [await shop.ask("/both") for _ in range(100)]
        assert {status for status, _, _ in answers} == {402}
        rails = [[offer["rail"] for offer in json.loads(body)["offers"]] for _, _, body in answers]
        assert rails[:50] == [["lightning", "base"]] * 50
        assert rails[-1] == ["base"]
        assert sum("lightning" in each for each in rails) == shop.rows("issued") <= 60
        only = await shop.ask("/lightning")
        assert (only[0], json.loads(only[2])["code"]) == (429, "rate_limited")
        assert (await shop.ask("/lightning", "192.0.2.2"))[0] == 402
    observed("past the limit on invoices the 402 goes on without Lightning, and is 429 where there is nothing else")


async def test_a_full_table_of_invoices_is_no_402_without_an_offer(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    object.__setattr__(shop.gate._settings, "issued_capacity", 3)
    async with shop.open():
        answers = [await shop.ask("/lightning") for _ in range(4)]
        assert [status for status, _, _ in answers] == [402, 402, 402, 429]
        assert shop.rows("issued") == 3


async def test_what_is_asked_for_again_and_again_does_not_wait_for_the_node(tmp_path: Path, observed: Observe) -> None:
    async with Shop(tmp_path, Limits()).open() as shop:
        shown = []
        for _ in range(100):
            status, _, body = await shop.ask("/lightning")
            assert status == 402
            shown.append(json.loads(body)["payment"]["invoice"])
            filling = shop.lightning._minter._filling
            if filling is not None:
                await asyncio.wait({filling}, timeout=5)
        assert len(set(shown)) == 100
        assert shop.node.waited_for == 3
        assert shop.node.asked <= 3 + 100
        assert shop.rows("issued") == 100
    observed("of 100 offers of an order in demand, three waited for the node; each invoice was shown to one payer")


async def test_an_invoice_is_not_shown_again_to_whoever_has_the_same_address(tmp_path: Path) -> None:
    """An address is not a payer: what one of two people behind it pays must not be the other's."""
    async with Shop(tmp_path, Limits()).open() as shop:
        invoices = {json.loads((await shop.ask("/lightning"))[2])["payment"]["invoice"] for _ in range(30)}
        assert len(invoices) == 30


# --- four worker processes on one store

SECONDS = 3
BURST = 300


def worker(path: str, results: Any) -> None:
    """Ask for as much as can be asked for, for some seconds."""

    async def flood() -> list[int]:
        store = SqliteStore(path)
        await store.start()
        limiter = Limiter(Limits(challenges="300/m", route_challenges="99999999/s"), store, lambda: int(time.time()))
        scope = {"client": ("192.0.2.1", 1), "headers": []}
        granted, ends = [], time.time() + SECONDS
        while time.time() < ends:
            try:
                await limiter.challenge(scope, "GET /a")
                granted.append(int(time.time()))
            except RateLimited:
                await asyncio.sleep(0.01)
        await store.close()
        return granted

    results.put(asyncio.run(flood()))


async def test_four_workers_grant_no_more_than_one_bucket_holds(tmp_path: Path, observed: Observe) -> None:
    path = str(tmp_path / "charges.db")
    store = SqliteStore(path)
    await store.start()
    await store.close()
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    workers = [context.Process(target=worker, args=(path, results)) for _ in range(4)]
    for each in workers:
        each.start()
    found = [await asyncio.to_thread(results.get, timeout=60) for _ in workers]
    for each in workers:
        each.join()
    times = sorted(at for granted in found for at in granted)
    assert all(found), "a worker got nothing"
    for first, began in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= BURST + 5 * (times[last] - began)
    assert len(times) >= BURST * 0.8
    observed("four worker processes on one SQLite file let through no more than the burst and what comes back in time")
