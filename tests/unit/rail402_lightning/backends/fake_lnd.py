"""An lnd made of scripted answers, in the form that version 0.20 gives, and the macaroons that it bakes."""

from __future__ import annotations

import base64
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.unit.rail402_lightning.invoices import HASH, NOW, PREIMAGE, invoice

URL = "https://lnd.example.com:8080"

Answer = httpx.Response | Exception
Step = Answer | Callable[[], Answer]

R_HASH = base64.b64encode(HASH).decode()
HASH_URL = base64.urlsafe_b64encode(HASH).decode()
assert R_HASH != HASH_URL, "else the tests cannot tell the two alphabets apart"


def macaroon(*permissions: str) -> bytes:
    """A macaroon of lnd's form for permissions such as `info:read`."""
    grouped: dict[str, list[str]] = {}
    for permission in permissions:
        entity, _, action = permission.partition(":")
        grouped.setdefault(entity, []).append(action)
    ops = b"".join(
        _field(3, _field(1, entity.encode()) + b"".join(_field(2, action.encode()) for action in actions))
        for entity, actions in grouped.items()
    )
    identifier = b"\x03" + _field(1, bytes(range(200, 216))) + _field(2, b"0") + ops
    return b"\x02\x01\x03lnd\x02" + _sized(identifier) + b"\x00\x00\x06\x20" + bytes(range(128, 160))


def _field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _sized(value)


def _sized(value: bytes) -> bytes:
    length = len(value)
    return (bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])) + value


RECEIVING = macaroon("info:read", "invoices:read", "invoices:write")
PAYING = macaroon("info:read", "offchain:read", "offchain:write")


def info(**changes: Any) -> httpx.Response:
    body = {
        "version": "0.20.1-beta",
        "identity_pubkey": "02" * 33,
        "num_active_channels": 1,
        "synced_to_chain": True,
        "chains": [{"chain": "bitcoin", "network": "regtest"}],
    }
    return httpx.Response(200, json=body | changes)


def channel(**changes: Any) -> dict[str, Any]:
    body = {
        "active": True,
        "private": False,
        "initiator": False,
        "local_balance": "600000",
        "remote_balance": "300000",
        "commit_fee": "2810",
        "local_constraints": {"chan_reserve_sat": "10000"},
        "remote_constraints": {"chan_reserve_sat": "10000"},
    }
    return body | changes


def channels(*all_of_them: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json={"channels": list(all_of_them)})


def booked(state: str, **changes: Any) -> dict[str, Any]:
    """What lnd writes down about an invoice. The preimage is there from the start."""
    return {
        "r_preimage": base64.b64encode(bytes.fromhex(PREIMAGE)).decode(),
        "r_hash": R_HASH,
        "value_msat": "21000",
        "state": state,
        "settle_date": str(NOW + 5) if state == "SETTLED" else "0",
        # A payment that is held has arrived as far as this number is concerned.
        "amt_paid_msat": "21000" if state in ("SETTLED", "ACCEPTED") else "0",
        "htlcs": [],
    } | changes


def made(**changes: Any) -> httpx.Response:
    return httpx.Response(200, json={"r_hash": R_HASH, "payment_request": invoice(), "add_index": "1"} | changes)


def sent(status: str, **changes: Any) -> dict[str, Any]:
    """What lnd writes down about a payment."""
    paid = status == "SUCCEEDED"
    return {
        "payment_hash": HASH.hex(),
        "payment_preimage": PREIMAGE if paid else "00" * 32,
        "value_msat": "21000",
        "status": status,
        "fee_msat": "1021" if paid else "0",
        "payment_index": "7",
        "failure_reason": "FAILURE_REASON_NO_ROUTE" if status == "FAILED" else "FAILURE_REASON_NONE",
        "htlcs": [],
    } | changes


def stream(*messages: dict[str, Any], status: int = 200) -> httpx.Response:
    """A stream of messages that then ends."""
    lines = "".join(json.dumps({"result": message}) + "\n" for message in messages)
    return httpx.Response(status, content=lines.encode())


def open_stream(*messages: dict[str, Any]) -> Callable[[], httpx.Response]:
    """A stream of messages that stays open."""

    async def chunks() -> AsyncIterator[bytes]:
        import asyncio

        for message in messages:
            yield (json.dumps({"result": message}) + "\n").encode()
        await asyncio.Event().wait()

    return lambda: httpx.Response(200, content=chunks())


def error(message: str, code: int = 2, status: int = 500) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "message": message, "details": []})


def stream_error(message: str, code: int = 2, status: int = 500) -> httpx.Response:
    return httpx.Response(status, json={"error": {"code": code, "message": message, "details": []}})


NO_INVOICE = error("unable to locate invoice", 5, 404)
NO_PAYMENT = stream_error("payment isn't initiated", 5, 404)
LOCKED = "wallet locked, unlock it to enable full RPC access"
STARTING = "the RPC server is in the process of starting up, but not yet ready to accept calls"


@dataclass
class FakeLnd:
    """Answers each call by the next step of its script; the last one stays."""

    info: deque[Step] = field(default_factory=deque)
    channels: deque[Step] = field(default_factory=deque)
    create: deque[Step] = field(default_factory=deque)
    invoice: deque[Step] = field(default_factory=deque)
    watch: deque[Step] = field(default_factory=deque)
    look: deque[Step] = field(default_factory=deque)
    pay: deque[Step] = field(default_factory=deque)
    track: deque[Step] = field(default_factory=deque)
    requests: list[httpx.Request] = field(default_factory=list)

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._handle)

    def bodies(self) -> list[dict[str, Any]]:
        """The bodies of the requests that have one."""
        return [json.loads(request.content) for request in self.requests if request.method == "POST"]

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        step = self._step(request)
        answer = step() if callable(step) else step
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer.stream, httpx.ByteStream):
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
        return answer

    def _step(self, request: httpx.Request) -> Step:
        match request.method, request.url.raw_path.decode().partition("?")[0]:
            case "GET", "/v1/getinfo":
                return _next(self.info, info())
            case "GET", "/v1/channels" if request.url.params["active_only"] == "true":
                return _next(self.channels, channels(channel()))
            case "POST", "/v1/invoices":
                return _next(self.create, made())
            case "GET", path if path == f"/v1/invoice/{HASH.hex()}":
                return _next(self.invoice, NO_INVOICE)
            case "GET", path if path == f"/v2/invoices/subscribe/{HASH_URL}":
                return _next(self.watch, open_stream())
            case "POST", "/v2/router/send":
                return _next(self.pay, stream_error("unscripted"))
            case "GET", path if path == f"/v2/router/track/{HASH_URL}":
                waits = request.url.params["no_inflight_updates"] == "true"
                return _next(self.track if waits else self.look, NO_PAYMENT)
        return error("Not Found", 5, 404)


def _next(steps: deque[Step], default: Step) -> Step:
    if not steps:
        return default
    return steps.popleft() if len(steps) > 1 else steps[0]
