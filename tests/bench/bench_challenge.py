"""The combined 402 of three rails in all default dialects: its size, and what saying and reading it takes."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from fastapi import FastAPI

from rail402 import Gate
from rail402.dialects import DEFAULT_DIALECTS
from rail402.money import Money
from rail402.protocol.binding import OfferKeys
from rail402.protocol.challenge import Challenge
from rail402.protocol.dialect import Context, Fields
from rail402.protocol.order import Order
from rail402.protocol.rail import Registry
from rail402.rates import FixedRates
from rail402_base import BaseRail
from rail402_lightning import LightningRail
from rail402_stripe import StripeRail

ROUNDS, TIMES = 15, 40
ORIGIN, PATH = "https://api.example.com", "/article/402"


async def measure() -> dict[str, float]:
    """Return bytes and microseconds."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        rails = [BaseRail.sandbox(home), LightningRail.sandbox(home), StripeRail.sandbox(home)]
        rates = FixedRates({"BTC/USD": "60000"})
        gate = Gate(rails=rails, public_url=ORIGIN, store="memory://", rates=rates, reconcile_seconds=0)
        app = FastAPI()

        @app.get(PATH)
        @gate.paid("0.60 USD", description="An article")
        async def article() -> None: ...

        gate.install(app)
        async with gate, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN) as client:
            answer = await client.get(PATH)
            now = gate.services().clock()
    context = Context(specs=Registry([rail.spec for rail in rails]), now=now)
    fields = Fields(answer.headers.multi_items())
    offers = [offer for dialect in DEFAULT_DIALECTS for offer in dialect.offers(fields, answer.content, context)]
    assert {offer.rail for offer in offers} == {"base", "lightning", "stripe"}
    keys = OfferKeys({"k1": b"k" * 32})
    order = Order(method="GET", url=ORIGIN + PATH, route="GET /article/{slug}")
    by_rail = {offer.rail: keys.issue(offer, order, bytes(16)) for offer in offers}
    challenge = Challenge(order=order, price=Money.parse("0.60 USD"), offers=tuple(by_rail.values()), now=now)
    server = Context(specs=context.specs, now=now, realm="api.example.com", keys=keys)

    def say() -> None:
        for dialect in DEFAULT_DIALECTS:
            dialect.challenge(challenge, server)

    def read() -> None:
        for dialect in DEFAULT_DIALECTS:
            dialect.offers(fields, answer.content, context)

    return {
        "402 of 3 rails in all dialects, header bytes": sum(len(name) + len(value) + 4 for name, value in fields),
        "402 of 3 rails in all dialects, body bytes": len(answer.content),
        "saying it, us": _microseconds(say),
        "reading it, us": _microseconds(read),
    }


def _microseconds(work: Callable[[], None]) -> float:
    rounds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(TIMES):
            work()
        rounds.append((time.perf_counter() - started) / TIMES * 1e6)
    return round(statistics.median(rounds), 1)
