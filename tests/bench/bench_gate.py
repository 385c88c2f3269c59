"""What the gate costs: each kind of request against the same FastAPI app without a gate.

The apps are called directly as ASGI apps, in turn, round by round in one run, so that the machine's noise falls on
both; a ratio above 1 means that the gate's app served more requests a second.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from rail402 import Budget, Gate, Payer
from rail402.server.limits import Limits
from rail402_base import BaseRail, BaseWallet
from rail402_lightning import LightningRail
from rail402_stripe import StripeRail

ROUNDS, REQUESTS = 15, 60
ORIGIN = "http://bench.example"


def plain_app() -> FastAPI:
    """Return an app with a route to measure against."""
    app = FastAPI()

    @app.get("/free")
    @app.get("/paid")
    async def route() -> dict[str, str]:
        return {"text": "x" * 200}

    return app


NEVER_MET = Limits(**dict.fromkeys(("challenges", "payments", "invoices"), "9999999/m"), route_invoices="9999999/m")
"""Limits that count, and let one client do all that a benchmark does."""


def gated_app(
    directory: Path, *, dialects: list[str] | None = None, limits: Limits | None = NEVER_MET
) -> tuple[FastAPI, Gate]:
    """Return the same app with a gate; `/paid` costs something on all three rails."""
    app = FastAPI()
    rails = [BaseRail.sandbox(directory), LightningRail.sandbox(directory), StripeRail.sandbox(directory)]
    gate = Gate(rails=rails, public_url=ORIGIN, store=f"sqlite:///{directory}/charges.db", limits=limits)
    gate.install(app)

    @app.get("/free")
    async def free() -> dict[str, str]:
        return {"text": "x" * 200}

    @app.get("/paid")
    @gate.paid("0.003 USD", rails=["base"], dialects=dialects)
    async def paid() -> dict[str, str]:
        return {"text": "x" * 200}

    @app.get("/all")
    @gate.paid("1000 sat", rails=["lightning"])
    async def all_rails() -> dict[str, str]:
        return {"text": "x" * 200}

    return app, gate


class Caller:
    """Calls one path of an app over and over."""

    def __init__(self, app: Any, path: str, headers: list[tuple[bytes, bytes]] | None = None, *, status: int) -> None:
        self._app, self._status = app, status
        self._scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
            "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
            "headers": [(b"host", b"bench.example"), *(headers or [])],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip

    async def __call__(self) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] != self._status:
                raise AssertionError(f"{self._scope['path']} answered {message['status']}, not {self._status}")

        await self._app(dict(self._scope), receive, send)


async def _seconds(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    for _ in range(REQUESTS):
        await call()
    return time.perf_counter() - begun


async def ratio(ours: Caller, theirs: Caller) -> float:
    """Return the median of theirs / ours over rounds in which both are measured in turn."""
    for call in (ours, theirs):
        await _seconds(call)
    found = [await _seconds(theirs) / await _seconds(ours) for _ in range(ROUNDS)]
    return round(statistics.median(found), 3)


async def paid_headers(app: FastAPI, directory: Path) -> list[tuple[bytes, bytes]]:
    """Buy `/paid` once and return the fields that carried the payment."""
    sent: list[httpx.Request] = []

    class Recorder(httpx.ASGITransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            sent.append(request)
            return await super().handle_async_request(request)

    wallet = BaseWallet.sandbox(directory)
    payer = Payer([wallet], budget=Budget(), journal=f"sqlite:///{directory}/wallet.db")
    async with payer, httpx.AsyncClient(transport=payer.transport(Recorder(app=app)), base_url=ORIGIN) as client:
        (await client.get("/paid")).raise_for_status()
    paid = next(request for request in reversed(sent) if request.url.path == "/paid")
    return [(b"payment-signature", paid.headers["payment-signature"].encode())]


async def measure() -> dict[str, float]:
    """Return the ratios."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        bare, (app, gate) = plain_app(), gated_app(directory)
        async with gate:
            headers = await paid_headers(app, directory)
            plain = Caller(bare, "/paid", status=200)
            return {
                "free route / plain app": await ratio(Caller(app, "/free", status=200), plain),
                "402 (base) / plain route": await ratio(Caller(app, "/paid", status=402), plain),
                "402 (lightning invoice) / plain route": await ratio(Caller(app, "/all", status=402), plain),
                "paid replay / plain route": await ratio(Caller(app, "/paid", headers, status=200), plain),
            }


if __name__ == "__main__":
    print(asyncio.run(measure()))
