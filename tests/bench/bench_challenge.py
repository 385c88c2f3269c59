"""The combined 402 of three rails in all default dialects: its size, and what saying and reading it takes."""

from __future__ import annotations

import asyncio
import gc
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
from fastapi import FastAPI

from rail402 import Gate
from rail402.dialects import DEFAULT_DIALECTS
from rail402.money import Money
from rail402.protocol.binding import OfferKeys
from rail402.protocol.challenge import Challenge
from rail402.protocol.dialect import Context, Envelope, Fields
from rail402.protocol.offer import Offer
from rail402.protocol.order import Order
from rail402.protocol.rail import Registry
from rail402.rates import FixedRates
from rail402_base import BaseRail
from rail402_lightning import LightningRail
from rail402_stripe import StripeRail
from tests.bench.bench_gate import NEVER_MET

T = TypeVar("T")

ROUNDS, TIMES = 15, 40
ORIGIN, PATH = "https://api.example.com", "/article/402"


async def measure() -> dict[str, float]:
    """Return bytes and microseconds of processor time. Every 402 has an invoice and tokens of its own."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        rails = [BaseRail.sandbox(home), LightningRail.sandbox(home), StripeRail.sandbox(home)]
        rates = FixedRates({"BTC/USD": "60000"})
        gate = Gate(
            rails=rails, public_url=ORIGIN, store="memory://", rates=rates, reconcile_seconds=0, limits=NEVER_MET
        )
        app = FastAPI()

        @app.get(PATH)
        @gate.paid("0.60 USD", description="An article")
        async def article() -> None: ...

        gate.install(app)
        async with gate, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN) as client:
            answers = [await client.get(PATH) for _ in range(ROUNDS * TIMES)]
            now = gate.services().clock()
    context = Context(specs=Registry([rail.spec for rail in rails]), now=now)
    keys = OfferKeys({"k1": b"k" * 32})
    server = Context(specs=Registry(context.specs), now=now, realm="api.example.com", keys=keys)
    saying, reading = [], []
    for start in range(0, len(answers), TIMES):
        heard = [(Fields(answer.headers.multi_items()), answer.content) for answer in answers[start : start + TIMES]]
        offers, seconds = _timed(lambda heard: _read(*heard, context), heard)
        reading.append(seconds)
        challenges = [_challenge(read, keys, now) for read in offers]
        said, seconds = _timed(lambda challenge: _say(challenge, server), challenges)
        saying.append(seconds)
        assert all(said)
    size = sum(len(name) + len(value) + 4 for name, value in heard[-1][0])
    return {
        "402 of 3 rails in all dialects, header bytes": size,
        "402 of 3 rails in all dialects, body bytes": len(heard[-1][1]),
        "saying it, us": _microseconds(saying),
        "reading it, us": _microseconds(reading),
    }


def _read(fields: Fields, content: bytes, context: Context) -> list[Offer]:
    return [offer for dialect in DEFAULT_DIALECTS for offer in dialect.offers(fields, content, context)]


def _say(challenge: Challenge, context: Context) -> list[Envelope]:
    return [dialect.challenge(challenge, context) for dialect in DEFAULT_DIALECTS]


def _challenge(read: list[Offer], keys: OfferKeys, now: int) -> Challenge:
    by_rail = {offer.rail: offer.model_copy(update={"dialect": None, "envelope": None}) for offer in read}
    assert by_rail.keys() == {"base", "lightning", "stripe"}
    order = Order(method="GET", url=ORIGIN + PATH, route="GET /article/{slug}")
    offers = tuple(keys.issue(offer, order, secrets.token_bytes(16)) for offer in by_rail.values())
    return Challenge(order=order, price=Money.parse("0.60 USD"), offers=offers, now=now)


def _timed(work: Callable[[Any], T], inputs: Sequence[Any]) -> tuple[list[T], float]:
    gc.disable()  # as timeit does: what is kept here would be gone in a server
    started = time.process_time()
    done = [work(each) for each in inputs]
    seconds = (time.process_time() - started) / len(inputs)
    gc.enable()
    return done, seconds


def _microseconds(seconds: list[float]) -> float:
    return round(statistics.median(seconds) * 1e6, 1)


if __name__ == "__main__":
    print(asyncio.run(measure()))
