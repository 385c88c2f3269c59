"""An lnd and an LNbits in front of the sandbox node: the answers have the services' forms, the money is the ledger's.

Only what the backends call is there, as the versions that the integration tests run answer it.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import httpx

from rail402_lightning import bolt11
from rail402_lightning.sandbox import InvoiceStatus, PaymentStatus, SandboxLightning

__all__ = ["ADMIN_KEY", "INVOICE_KEY", "WALLET", "LateNode", "LnbitsService", "LndService", "silent"]

WALLET: Final = "agent"
INVOICE_KEY, ADMIN_KEY = "1f" * 16, "ad" * 16

_LOOK: Final = 0.1
_LAG: Final = 0.3
_INVOICE_STATES: Final = {"open": "OPEN", "settled": "SETTLED", "expired": "CANCELED", "canceled": "CANCELED"}
_PAYMENT_STATES: Final = {"pending": "IN_FLIGHT", "succeeded": "SUCCEEDED", "failed": "FAILED"}

Json = dict[str, Any]


class LateNode:
    """The sandbox's node. It shows a moment late what it was paid, as nodes do: the payer has the preimage before."""

    def __init__(self, node: SandboxLightning) -> None:
        self.pay_invoice, self.create_invoice = node.pay_invoice, node.create_invoice
        self.lookup_payment, self.balance = node.lookup_payment, node.balance
        self.node_id, self.wait_settled = node.node_id, node.wait_settled
        self._lookup, self._seen = node.lookup_invoice, dict[bytes, float]()

    async def lookup_invoice(self, payment_hash: bytes) -> InvoiceStatus | None:
        found, now = await self._lookup(payment_hash), asyncio.get_running_loop().time()
        if found is not None and found.state == "settled" and now - self._seen.setdefault(payment_hash, now) < _LAG:
            return replace(found, state="open", amount_paid_msat=0, settled_at=None)
        return found


class LndService(httpx.AsyncBaseTransport):
    """The REST API of an lnd whose node is the sandbox's."""

    def __init__(self, node: SandboxLightning) -> None:
        self._node = LateNode(node)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        match request.method, path.split("/")[1:]:
            case "GET", ["v1", "getinfo"]:
                chains = [{"chain": "bitcoin", "network": "regtest"}]
                return _json({"num_active_channels": 1, "synced_to_chain": True, "chains": chains, "version": "0.20.1"})
            case "GET", ["v1", "channels"]:
                return _json({"channels": [await self._channel()]})
            case "POST", ["v1", "invoices"]:
                return await self._create(json.loads(request.content))
            case "GET", ["v1", "invoice", digits]:
                found = await self._node.lookup_invoice(bytes.fromhex(digits))
                if found is None:
                    return _json({"code": 5, "message": "unable to locate invoice", "details": []}, 404)
                return _json(_booked(found))
            case "GET", ["v2", "invoices", "subscribe", text]:
                return _stream(self._watch(base64.urlsafe_b64decode(text)))
            case "POST", ["v2", "router", "send"]:
                return await self._send(json.loads(request.content))
            case "GET", ["v2", "router", "track", text]:
                return await self._track(base64.urlsafe_b64decode(text), request.url.params["no_inflight_updates"])
        return _json({"code": 5, "message": "Not Found", "details": []}, 404)

    async def _channel(self) -> Json:
        balance = await self._node.balance(WALLET)
        return {
            "active": True,
            "private": False,
            "initiator": False,
            "local_balance": str(balance // 1000 + 10_000),
            "remote_balance": "300000",
            "commit_fee": "2810",
            "local_constraints": {"chan_reserve_sat": "10000"},
            "remote_constraints": {"chan_reserve_sat": "10000"},
        }

    async def _create(self, asked: Json) -> httpx.Response:
        text = await self._node.create_invoice(
            int(asked["value_msat"]),
            expiry_seconds=int(asked["expiry"]),
            description_hash=base64.b64decode(asked["description_hash"]),
        )
        payment_hash = bolt11.decode(text).payment_hash
        return _json({"r_hash": _base64(payment_hash), "payment_request": text, "add_index": "1"})

    async def _watch(self, payment_hash: bytes) -> AsyncIterator[Json]:
        said = None
        while True:
            found = await self._node.lookup_invoice(payment_hash)
            if found is not None and found.state != said:
                said = found.state
                yield _booked(found)
            await asyncio.sleep(_LOOK)

    async def _send(self, asked: Json) -> httpx.Response:
        invoice = bolt11.decode(asked["payment_request"])
        before = await self._node.lookup_payment(invoice.payment_hash, WALLET)
        if before is not None and before.state != "failed":
            said = "invoice is already paid" if before.state == "succeeded" else "payment is in transition"
            return _json({"error": {"code": 6, "message": said, "details": []}}, 409)
        limit = int(asked["fee_limit_msat"])
        paid = await self._node.pay_invoice(invoice.text, wallet=WALLET, max_fee_msat=limit)
        return _stream(self._follow(paid.payment_hash))

    async def _track(self, payment_hash: bytes, only_the_end: str) -> httpx.Response:
        found = await self._node.lookup_payment(payment_hash, WALLET)
        if found is None:
            return _json({"error": {"code": 5, "message": "payment isn't initiated", "details": []}}, 404)
        return _stream(self._follow(payment_hash, only_the_end == "true"))

    async def _follow(self, payment_hash: bytes, only_the_end: bool = True) -> AsyncIterator[Json]:
        while True:
            found = await self._node.lookup_payment(payment_hash, WALLET)
            assert found is not None
            if found.state != "pending" or not only_the_end:
                yield _sent(found)
            if found.state != "pending":
                return
            await asyncio.sleep(_LOOK)


def _booked(found: InvoiceStatus) -> Json:
    return {
        "r_preimage": _base64(bytes(32)),
        "r_hash": _base64(found.payment_hash),
        "value_msat": str(found.amount_msat),
        "state": _INVOICE_STATES[found.state],
        "settle_date": str(found.settled_at or 0),
        "amt_paid_msat": str(found.amount_paid_msat),
        "htlcs": [],
    }


def _sent(found: PaymentStatus) -> Json:
    return {
        "payment_hash": found.payment_hash.hex(),
        "payment_preimage": (found.preimage or bytes(32)).hex(),
        "value_msat": str(found.amount_msat),
        "status": _PAYMENT_STATES[found.state],
        "fee_msat": str(found.fee_msat),
        "payment_index": "7",
        "failure_reason": "FAILURE_REASON_NO_ROUTE" if found.state == "failed" else "FAILURE_REASON_NONE",
        "htlcs": [],
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _json(body: Any, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=body)


class _Lines(httpx.AsyncByteStream):
    def __init__(self, messages: AsyncIterator[Json]) -> None:
        self._messages = messages

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for message in self._messages:
            yield json.dumps({"result": message}).encode() + b"\n"


def _stream(messages: AsyncIterator[Json]) -> httpx.Response:
    return httpx.Response(200, stream=_Lines(messages))


class LnbitsService(httpx.AsyncBaseTransport):
    """The API of an LNbits whose node is the sandbox's: the shop's wallet receives, another one pays."""

    def __init__(self, node: SandboxLightning) -> None:
        self._node = LateNode(node)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        key = request.headers["X-Api-Key"]
        match request.method, request.url.path.split("/")[3:]:
            case "GET", ["wallet"]:
                body: Json = {"name": "shop", "balance": await self._node.balance(WALLET)}
                return _json(body | ({"id": "w1"} if key == ADMIN_KEY else {}))
            case "POST", ["payments"]:
                asked = json.loads(request.content)
                return await (self._pay(asked["bolt11"]) if asked["out"] else self._create(asked))
            case "GET", ["payments", "fee-reserve"]:
                return _json({"fee_reserve": 2000})
            case "GET", ["payments", "paginated"]:
                return _json({"data": [], "total": 0})
            case "GET", ["payments", digits]:
                return await self._look(bytes.fromhex(digits), pays=key == ADMIN_KEY)
        return _json({"detail": "Not Found"}, 404)

    async def _create(self, asked: Json) -> httpx.Response:
        described = bytes.fromhex(asked["description_hash"]) if "description_hash" in asked else None
        text = await self._node.create_invoice(
            asked["amount"] * 1000, expiry_seconds=asked["expiry"], description_hash=described
        )
        found = await self._node.lookup_invoice(bolt11.decode(text).payment_hash)
        assert found is not None
        return _json(_row_in(found) | {"bolt11": text, "payment_request": text}, 201)

    async def _pay(self, text: str) -> httpx.Response:
        payment_hash = bolt11.decode(text).payment_hash
        before = await self._node.lookup_payment(payment_hash, WALLET)
        if before is not None and before.state == "succeeded":
            return _json({"detail": "Internal invoice already paid.", "status": "failed"}, 520)
        paid = await self._node.pay_invoice(text, wallet=WALLET, max_fee_msat=2000)
        if paid.state == "failed":
            return _json({"detail": f"Payment failed: {paid.reason}", "status": "failed"}, 520)
        return _json(_row_out(paid), 201)

    async def _look(self, payment_hash: bytes, *, pays: bool) -> httpx.Response:
        found = await (
            self._node.lookup_payment(payment_hash, WALLET) if pays else self._node.lookup_invoice(payment_hash)
        )
        if found is None:
            return _json({"detail": "Payment does not exist."}, 404)
        row = _row_out(found) if isinstance(found, PaymentStatus) else _row_in(found)
        is_paid = row["status"] == "success"
        return _json({"paid": is_paid, "preimage": row["preimage"] if is_paid else None, "details": row})

    def connect(self, url: str, **_: object) -> Any:
        """Open a websocket that tells when an invoice is paid; see `websockets.connect`."""
        return _open(lambda: self._node.lookup_invoice(bytes.fromhex(url.rpartition("/")[2])))


def _row_in(found: InvoiceStatus) -> Json:
    status = {"settled": "success", "open": "pending"}.get(found.state, "failed")
    labels = ["expired"] if found.state == "expired" else []
    return _row(found.payment_hash, found.amount_msat, 0, status) | {"labels": labels}


def _row_out(found: PaymentStatus) -> Json:
    status = {"succeeded": "success", "pending": "pending", "failed": "failed"}[found.state]
    fee = -found.fee_msat if found.state == "succeeded" else -2000
    row = _row(found.payment_hash, -found.amount_msat, fee, status)
    return row | {"preimage": (found.preimage or bytes(32)).hex()}


def _row(payment_hash: bytes, amount: int, fee: int, status: str) -> Json:
    digits = payment_hash.hex()
    facts = {"amount": amount, "fee": fee, "status": status, "preimage": "00" * 32, "labels": []}
    return {"checking_id": digits, "payment_hash": digits, **facts}


@asynccontextmanager
async def _open(look: Callable[[], Any]) -> AsyncIterator[_Socket]:
    yield _Socket(look)


class _Socket:
    def __init__(self, look: Callable[[], Any]) -> None:
        self._look = look

    async def recv(self) -> str:
        while True:
            found = await self._look()
            if found is not None and found.state != "open":
                return json.dumps({"pending": False})
            await asyncio.sleep(_LOOK)


@asynccontextmanager
async def silent(url: str, **_: object) -> AsyncIterator[_Silence]:
    """Open a websocket on which nothing is said; see `websockets.connect`."""
    yield _Silence()


class _Silence:
    async def recv(self) -> str:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")
