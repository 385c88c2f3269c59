"""25: bytes in and around the payment fields, over a real socket: injection, size, depth, junk, several at once."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI

from rail402 import FixedRates, Gate
from rail402.dialects import DEFAULT_DIALECTS, dialect_by_name
from rail402.testing.fakes import FakeClock
from rail402_base import BaseRail
from rail402_lightning import LightningRail
from rail402_stripe import StripeRail
from tests.attacks.cases import Observe
from tests.attacks.sockets import exchange, head
from tests.conformance.test_base_end_to_end import PUBLISHER, World, header, opened, signed
from tests.interop.bank import listening, served

FIELDS = ["PAYMENT-SIGNATURE", "X-PAYMENT", "Authorization", "Payment-Authorization", "X-Receipt", "X-Payment-Proof"]
SCHEMES = {"Authorization": ["Payment ", "L402 ", "LSAT ", "payment", "L402 a:", "Bearer "]}


class Shop:
    """One route that takes all three rails in every dialect, at a port."""

    def __init__(self, folder: Path) -> None:
        clock = FakeClock()
        rails = [
            BaseRail.sandbox(folder, pay_to=PUBLISHER, clock=clock),
            LightningRail.sandbox(folder, clock=clock),
            StripeRail.sandbox(folder, clock=clock),
        ]
        optional = [dialect_by_name(name) for name in ("x-payment", "x-price", "payment-uri")]
        self.gate = Gate(
            rails=rails,
            public_url="http://testserver",
            store="memory://",
            dialects=[*DEFAULT_DIALECTS, *optional],
            rates=FixedRates({"BTC/USD": "60000"}),
            clock=clock,
            reconcile_seconds=0,
            wait_seconds=0,
        )
        self.app, self.runs, self.port = FastAPI(), 0, 0
        self.gate.install(self.app)

        @self.app.post("/article")
        @self.app.get("/article")
        @self.gate.paid("0.50 USD")
        async def article() -> str:
            self.runs += 1
            return "sold"

    async def send(self, data: bytes) -> int:
        """The status of what comes back for those bytes; nothing was run or claimed for them."""
        status, fields, _ = await exchange(self.port, data)
        assert status < 500, data[:200]
        assert not any("injected" in name for name in fields)
        assert self.runs == 0
        assert await self.gate.services().store.recent(limit=1) == []
        return status


@asynccontextmanager
async def opened_shop(folder: Path) -> AsyncIterator[Shop]:
    shop = Shop(folder)
    with listening() as (found, _):
        async with shop.gate, served(shop.app, found):
            shop.port = found.getsockname()[1]
            yield shop


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with opened_shop(tmp_path) as shop:
        yield shop


def request(field: str, value: bytes, target: str = "/article") -> bytes:
    """A request with one field of any bytes."""
    start = head("GET", target).removesuffix(b"\r\n")
    return start + field.encode() + b": " + value + b"\r\nConnection: close\r\n\r\n"


BREAKERS = [b"\r\nInjected: 1", b"\n", b"\r", b"\0", b"\x0b", b"\x7f", b"\xff\xfe", b"\x1b[2J"]


@pytest.mark.parametrize("field", FIELDS)
async def test_bytes_that_end_a_line_or_a_text(shop: Shop, field: str, observed: Observe) -> None:
    for scheme, breaker in itertools.product(SCHEMES.get(field, [""]), BREAKERS):
        for value in (scheme.encode() + b"a" + breaker + b"b", scheme.encode() + breaker, breaker + b"a"):
            assert await shop.send(request(field, value)) in (0, 400, 402)
    observed("CR, LF, NUL and other control bytes in any payment field: 400 or 402, nothing injected, nothing claimed")


@pytest.mark.parametrize("where", ["path", "query", "cookie", "idempotency-key", "accept-payment", "host"])
async def test_nothing_of_a_request_comes_back_as_a_line(shop: Shop, where: str, observed: Observe) -> None:
    breaker = "%0d%0aInjected:%201"
    match where:
        case "path":
            data = head("GET", f"/article{breaker}")
        case "query":
            data = head("GET", f"/article?x={breaker}&y=\u00e9")
        case "host":
            data = head("GET", "/article", host="testserver%0d%0aInjected: 1")
        case _:
            data = head("GET", "/article", {where: f"x{breaker}"})
    assert await shop.send(data) in (0, 400, 402, 404)
    observed("nothing of the path, query or fields comes back as a line of its own")


@pytest.mark.parametrize("field", FIELDS)
async def test_a_megabyte(shop: Shop, field: str, observed: Observe) -> None:
    for scheme in SCHEMES.get(field, [""]):
        for unit in (b"A", b"=", b",", b'"', b" "):
            assert await shop.send(request(field, scheme.encode() + unit * 1_000_000)) in (0, 400, 431)
            # What the server lets through is more than the gate reads.
            assert await shop.send(request(field, scheme.encode() + unit * 60_000)) in (400, 402, 431)
    observed("a megabyte in a field ends at the server, 60 kB of it at the gate: 400, 402 or 431")


async def test_many_fields(shop: Shop, observed: Observe) -> None:
    for field in FIELDS:
        lines = [(field, f"Payment {number}") for number in range(500)]
        assert await shop.send(head("GET", "/article", lines)) in (400, 402, 431)
    junk = [(f"X-Junk-{number}", "1") for number in range(2000)]
    assert await shop.send(head("GET", "/article", junk)) in (0, 400, 402, 431)
    observed("hundreds of fields of one name: 400, 402 or 431")


def encoded(text: str | bytes) -> list[bytes]:
    """A text in both alphabets, padded and not."""
    raw = text.encode() if isinstance(text, str) else text
    plain, safe = base64.b64encode(raw), base64.urlsafe_b64encode(raw)
    return [plain, safe.rstrip(b"=")]


JSON = {
    "deep lists": "[" * 30_000,
    "deep objects": '{"a":' * 8_000,
    "deep and closed": "[" * 10_000 + "]" * 10_000,
    "duplicate members": '{"x402Version": 2, "x402Version": 1, "payload": {}, "payload": {}}',
    "a long number": "1" * 40_000,
    "a long exponent": "1e" + "9" * 1000,
    "lone surrogates": '{"x402Version": 2, "payload": "\\ud800"}',
    "NUL": '{"x402Version": 2, "\\u0000": 1}',
    "no object": '"x402"',
    "nothing": "",
    "null": "null",
    "two documents": "{}{}",
    "NaN": '{"x402Version": NaN}',
}
RAW = [b"\xff\xfe{", b"\xef\xbb\xbf{}", bytes(range(256)), "\u202e{}".encode(), b"\x1f\x8b\x08\x00" + bytes(50)]


@pytest.mark.parametrize("field", FIELDS)
async def test_json_that_is_none_or_too_much(shop: Shop, field: str, observed: Observe) -> None:
    for text in JSON.values():
        for value in encoded(text):
            for scheme in ("", "Payment ") if "Authorization" in field else ("",):
                assert await shop.send(request(field, scheme.encode() + value)) in (0, 400, 402, 431)
    observed("JSON that is deep, endless, double, or none: 400 or 402 in every field")


async def test_base64_that_is_junk(shop: Shop, observed: Observe) -> None:
    values = [value for raw in RAW for value in encoded(raw)]
    values += [b"A", b"AA=", b"AAA==", b"====", b"A" * 4097, b"%%%%", b"e30", b"e30=", b"e30==", b"e3 0=", b"-_-_"]
    for field, value in itertools.product(FIELDS, values):
        prefix = b"Payment " if "Authorization" in field else b""
        assert await shop.send(request(field, prefix + value)) in (400, 402)
    observed("base64 that is none, cut, or of binary junk: 400 or 402")


async def test_a_hostile_body_is_priced_like_any_other(shop: Shop, observed: Observe) -> None:
    for body in (b"[" * 500_000, b"\0" * 500_000, b'{"payment": "' + b"A" * 500_000 + b'"}'):
        lines = [("Content-Length", str(len(body))), ("Content-Type", "application/json"), ("Connection", "close")]
        assert await shop.send(head("POST", "/article", lines) + body) == 402
    observed("a hostile request body is hashed, not parsed")


LENGTHS = [
    [("Content-Length", "5"), ("Content-Length", "6")],
    [("Content-Length", "-1")],
    [("Content-Length", "1e3")],
    [("Content-Length", "+5")],
    [("Content-Length", "5"), ("Transfer-Encoding", "chunked")],
    [("Transfer-Encoding", "chunked, identity")],
    [("Content-Length", "9" * 40)],
]


async def test_lengths_that_contradict(shop: Shop, observed: Observe) -> None:
    """What one server reads as a body another may read as the next request."""
    smuggled = b"0\r\n\r\nGET /article HTTP/1.1\r\nHost: testserver\r\nX-Receipt: " + b"0" * 64 + b"\r\n\r\n"
    for lines in LENGTHS:
        assert await shop.send(head("POST", "/article", lines) + smuggled) in (0, 400, 402, 413, 501)
    observed("lengths that contradict each other smuggle nothing in")


# --- several at once


async def test_two_payments_are_none(world: World, observed: Observe) -> None:
    """Whatever their order, and whether they are good or not: the answer is the same."""
    accepted = await world.accepted("/article")
    one, other = (header(accepted, signed(world.authorization(accepted))) for _ in range(2))
    old = {"x402Version": 1, "scheme": "exact", "network": "base-sepolia", "payload": opened(other)[1]}
    network = (await world.http.get("/article")).json()["accepts"][0]["network"]
    first = ("X-PAYMENT", base64.b64encode(json.dumps(old | {"network": network}).encode()).decode())
    second = ("PAYMENT-SIGNATURE", one["PAYMENT-SIGNATURE"])
    third = ("PAYMENT-SIGNATURE", other["PAYMENT-SIGNATURE"])
    macaroon = ("Authorization", "L402 AgEEbHNhdAJC:" + "00" * 32)
    statuses = {}
    for lines in itertools.permutations([first, second, third, macaroon], 2):
        answer = await world.http.get("/article", headers=list(lines))
        statuses[lines] = (answer.status_code, answer.json()["code"])
        assert answer.status_code in (400, 402), answer.text
    for lines, found in statuses.items():
        assert statuses[lines[::-1]] == found, "the order of the lines does not matter"
    assert world.runs == []
    await world.assert_books(paid=0)
    same = await world.http.get("/article", headers=[second, second])
    assert same.status_code in (200, 400)
    observed("two payments at once, of one dialect or two: refused alike in either order, neither is taken")


async def test_at_once_they_do_not_stop_the_others(shop: Shop, observed: Observe) -> None:
    """A hundred hostile requests, and an honest one among them."""
    hostile = [request("PAYMENT-SIGNATURE", encoded("[" * 30_000)[0]) for _ in range(100)]
    answers = await asyncio.gather(*(exchange(shop.port, data) for data in [*hostile, head("GET", "/article")]))
    assert {status for status, _, _ in answers[:-1]} <= {400, 402, 431}
    assert answers[-1][0] == 402
    observed("a hundred of them at once do not keep an honest request from its 402")
