"""An LNbits made of a dictionary, whose answers have the form that version 1.6 gives, and which can be told to fail."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from rail402_lightning import bolt11
from tests.unit.rail402_lightning.invoices import HASH, NOW, PREIMAGE, invoice

INVOICE_KEY, ADMIN_KEY = "1" * 32, "a" * 32
URL = "https://lnbits.example.com"

Answer = httpx.Response | Exception
Step = Answer | Callable[[], Answer]


def row(status: str, **changes: Any) -> dict[str, Any]:
    """What LNbits writes down about a payment; an incoming one unless its amount says otherwise."""
    return {
        "checking_id": HASH.hex(),
        "payment_hash": HASH.hex(),
        "amount": 21_000,
        "fee": 0,
        "status": status,
        "preimage": PREIMAGE,  # there before anything is paid
        "updated_at": "2027-01-15T08:00:05.123456+00:00",  # NOW + 5
        "labels": [],
    } | changes


def outgoing(status: str, **changes: Any) -> dict[str, Any]:
    fee = -21 if status == "success" else -2000  # what is reserved, until it is known
    return row(status, **({"amount": -21_000, "fee": fee} | changes))


def found(details: dict[str, Any] | None, **changes: Any) -> httpx.Response:
    """What LNbits answers to a look at a payment of the key's own wallet."""
    if details is None:
        return error(404, "Payment does not exist.")
    paid = details["status"] == "success"
    body = {"paid": paid, "status": details["status"], "preimage": details["preimage"] if paid else None}
    return httpx.Response(200, json=body | {"details": details} | changes)


def error(status: int, detail: object, /, **more: Any) -> httpx.Response:
    return httpx.Response(status, json={"detail": detail, **more})


@dataclass
class FakeLnbits:
    """Answers each call by the next step of its script; the last one stays."""

    pay: deque[Step] = field(default_factory=deque)
    look: deque[Step] = field(default_factory=deque)
    create: deque[Step] = field(default_factory=deque)
    wallet: deque[Step] = field(default_factory=deque)
    reserve: deque[Step] = field(default_factory=deque)
    rows: deque[Step] = field(default_factory=deque)
    requests: list[httpx.Request] = field(default_factory=list)

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._handle)

    def sent(self, method: str = "POST") -> list[dict[str, Any]]:
        """The bodies of the requests of that method."""
        return [json.loads(request.content) for request in self.requests if request.method == method]

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        step = self._step(request)
        answer = step() if callable(step) else step
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def _step(self, request: httpx.Request) -> Step:
        path = request.url.path.removeprefix("/node")  # an LNbits may be below a path
        if request.method == "POST" and path == "/api/v1/payments":
            pays = json.loads(request.content)["out"]
            return _next(self.pay, error(500, "unscripted")) if pays else _next(self.create, self._make(request))
        if path == "/api/v1/payments/fee-reserve":
            return _next(self.reserve, httpx.Response(200, json={"fee_reserve": 2000}))
        if path == f"/api/v1/payments/{HASH.hex()}":
            made = any(body.get("out") is False for body in self.sent())
            return _next(self.look, found(row("pending") if made else None))
        if path == "/api/v1/payments/paginated":
            return _next(self.rows, httpx.Response(200, json={"data": [], "total": 0}))
        if path == "/api/v1/wallet":
            return _next(self.wallet, self._wallet(request))
        return error(404, "Not Found")

    def _make(self, request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)
        made = sum(body.get("out") is False for body in self.sent())  # the first has the payment hash that it knows
        text = invoice(
            amount_msat=asked["amount"] * 1000,
            expiry=asked["expiry"],
            description_hash=bytes.fromhex(asked.get("description_hash", "00" * 32)),
            created_at=NOW,
            payment_hash=HASH if made == 1 else hashlib.sha256(b"%d" % made).digest(),
        )
        assert bolt11.decode(text)
        return httpx.Response(201, json=row("pending", bolt11=text, payment_request=text))

    @staticmethod
    def _wallet(request: httpx.Request) -> httpx.Response:
        key = request.headers["X-Api-Key"]
        if key not in (INVOICE_KEY, ADMIN_KEY):
            return error(404, "Wallet not found.")
        body = {"name": "shop", "balance": 123_456}
        return httpx.Response(200, json=body | ({"id": "w1"} if key == ADMIN_KEY else {}))


def _next(steps: deque[Step], default: Step) -> Step:
    if not steps:
        return default
    return steps.popleft() if len(steps) > 1 else steps[0]
