"""A rail behind a whole gate, paid by a whole payer, in one process: once in every dialect that can say its offers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest

from rail402.client.budget import Budget
from rail402.client.payer import Payer
from rail402.money import Money
from rail402.protocol.base import Json
from rail402.protocol.dialect import Dialect
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.rail import Paid, Refunds
from rail402.protocol.receipt import ReceiptKeys
from rail402.testing.rail_bench import Books, RailBench, Way
from rail402.testing.rail_till import ORIGIN, RailCases, Till, logged, nothing_secret_in

__all__ = ["GateCases"]

_SECRET: Final = "the conformance kit's own secret"  # noqa: S105


class _Recorder(httpx.AsyncBaseTransport):
    """Passes requests on, and keeps the header fields that the last payment came in."""

    def __init__(self, inner: httpx.AsyncBaseTransport, names: Sequence[str]) -> None:
        self._inner, self._names = inner, (*names, "x-payment-token")
        self.payment: dict[str, str] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        found = {name: request.headers[name] for name in self._names if name in request.headers}
        self.payment = found or self.payment
        return await self._inner.handle_async_request(request)


class Shop:
    """A gate with the bench's rail, a payer with its wallet, and an article that they deal in.

    Attributes:
        runs: the names of the articles that the handler was asked for, in order.
        failing: whether it fails.
        agent: a client that pays; plain: one that does not.
    """

    agent: httpx.AsyncClient
    plain: httpx.AsyncClient

    def __init__(self, bench: RailBench, way: Way, dialect: Dialect, journal: Path) -> None:
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import JSONResponse, Response
        from starlette.routing import Route

        from rail402.server.gate import Gate

        async def article(request: Request) -> Response:
            self.runs.append(request.path_params["name"])
            return JSONResponse({"run": len(self.runs)}, status_code=500 if self.failing else 200)

        self.bench, self.way, self.dialect = bench, way, dialect
        self.runs: list[str] = []
        self.failing = False
        mechanism = way.of(bench.rail)
        self.gate = Gate(
            rails=[bench.rail],
            public_url=ORIGIN,
            store="memory://",
            secret=_SECRET,
            receipt_key=ReceiptKeys.generate()[1],
            dialects=[dialect],
            clock=bench.clock,
            reconcile_seconds=0,
        )
        app = Starlette(routes=[Route("/article/{name}", article)])
        self.gate.install(app)
        price = Money.from_atomic(bench.amount, mechanism.exponent, mechanism.currency)
        limit = Money.from_atomic(1000 * bench.amount, mechanism.exponent, mechanism.currency)
        budget = Budget(per_request=limit, per_hour=None, per_day=None)
        self.gate.protect("GET /article/{name}", price=price, flow=way.flow)
        self.inner = _Recorder(httpx.ASGITransport(app, raise_app_exceptions=False), dialect.request_fields)
        self.payer = Payer(
            [bench.wallet], budget, journal=f"sqlite:///{journal}", dialects=[dialect], clock=bench.clock
        )
        self.payer.sleep = self._sleep

    async def _sleep(self, seconds: float) -> None:
        await self.bench.pass_time(max(int(seconds), 1))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Shop]:
        """Open both sides, and close them."""
        async with (
            self.gate,
            self.payer,
            httpx.AsyncClient(transport=self.payer.transport(self.inner), base_url=ORIGIN) as self.agent,
            httpx.AsyncClient(transport=self.inner, base_url=ORIGIN) as self.plain,
        ):
            yield self

    async def buy(self, name: str = "1") -> tuple[httpx.Response, dict[str, str]]:
        """Have the agent buy an article; return the answer, and the header fields that it was paid with."""
        response = await self.agent.get(f"/article/{name}")
        await response.aread()
        return response, self.inner.payment

    async def show(self, name: str, fields: dict[str, str]) -> httpx.Response:
        """Ask for an article with header fields that another request was paid with."""
        return await self.plain.get(f"/article/{name}", headers=fields)


class GateCases(RailCases):
    """What a publisher and an agent see of the rail."""

    async def shops(self, bench: RailBench, way: Way, directory: Path) -> list[Shop]:
        """Return a shop for every dialect in which the rail can be paid this way."""
        await bench.rail.start()
        till = Till(bench)
        dialects = till.dialects_of(await till.make(way))
        await bench.rail.close()
        return [Shop(bench, way, dialect, directory / f"{dialect.name}.db") for dialect in dialects]

    async def test_a_payment_buys_once(self, shut_bench: RailBench, tmp_path: Path, way: Way) -> None:
        for shop in await self.shops(shut_bench, way, tmp_path):
            async with shop.open():
                books, name = await Books.open(shut_bench), shop.dialect.name
                unpaid = await shop.plain.get("/article/1")
                assert unpaid.status_code == 402, f"{name}: {unpaid.text}"
                response, _ = await shop.buy()
                assert response.status_code == 200, f"{name}: {response.text}"
                assert shop.runs == ["1"], f"{name}: the handler ran for {shop.runs}"
                bought = response.extensions["rail402"]
                await books.assert_moved(shut_bench.amount, bought.fee)
                assert bought.rail == shut_bench.rail.spec.name, f"{name}: the receipt names {bought.rail}"
                played = bought.receipt is None or bought.receipt.sandbox is shut_bench.sandbox
                assert played, f"{name}: the receipt must say whether the money was play money"

    async def test_a_payment_shown_again_moves_nothing(self, shut_bench: RailBench, tmp_path: Path, way: Way) -> None:
        for shop in await self.shops(shut_bench, way, tmp_path):
            async with shop.open():
                books, name = await Books.open(shut_bench), shop.dialect.name
                response, fields = await shop.buy()
                shown = await asyncio.gather(*(shop.show("1", fields) for _ in range(4)))
                for each in shown:
                    replayed = each.status_code == 200 and each.content == response.content
                    refused = each.status_code == 409 and shop.dialect.echo == "none"
                    assert replayed or refused, f"{name}: {each.status_code} {each.text}"
                assert shop.runs == ["1"], f"{name}: the handler ran for {shop.runs}"
                await books.assert_moved(shut_bench.amount, response.extensions["rail402"].fee)

    async def test_a_payment_opens_nothing_else(self, shut_bench: RailBench, tmp_path: Path, way: Way) -> None:
        for shop in await self.shops(shut_bench, way, tmp_path):
            async with shop.open():
                books, name = await Books.open(shut_bench), shop.dialect.name
                response, fields = await shop.buy()
                elsewhere = await shop.show("2", fields)
                assert elsewhere.status_code in (400, 402, 409), f"{name}: {elsewhere.status_code} {elsewhere.text}"
                assert shop.runs == ["1"], f"{name}: the handler ran for {shop.runs}"
                await books.assert_moved(shut_bench.amount, response.extensions["rail402"].fee)

    async def test_a_handler_that_fails_costs_as_the_flow_says(
        self, shut_bench: RailBench, tmp_path: Path, way: Way
    ) -> None:
        if way.flow is Flow.UPFRONT and not isinstance(shut_bench.rail, Refunds):
            pytest.skip("what is taken before cannot be given back")
        for shop in await self.shops(shut_bench, way, tmp_path):
            async with shop.open():
                shop.failing = True
                books = await Books.open(shut_bench)
                response, _ = await shop.buy()
                assert response.status_code == 500, f"{shop.dialect.name}: {response.status_code}"
                if way.flow is not Flow.UPFRONT:
                    await books.assert_moved(0)

    async def test_secrets_are_in_no_log_of_the_gate(self, shut_bench: RailBench, tmp_path: Path, way: Way) -> None:
        pay, proofs = shut_bench.wallet.pay, list[Json]()

        async def noted(offer: Offer, *, record_id: str, now: int) -> Paid:
            paid = await pay(offer, record_id=record_id, now=now)
            proofs.append(paid.payload)
            return paid

        shut_bench.wallet.pay = noted  # type: ignore[method-assign]
        with logged() as log:
            for shop in await self.shops(shut_bench, way, tmp_path):
                async with shop.open():
                    _, fields = await shop.buy()
                    await shop.show("1", fields)
                    await shop.show("2", fields)
                    shop.failing = True
                    await shop.buy("3")
        assert proofs, "pay: nothing was paid"
        for proof in proofs:
            nothing_secret_in("the log", log.getvalue(), self.secrets_of(shut_bench, proof))
