"""A phoenixd as its 0.8 answers, with play money behind it.

Traps included: an invoice tells its preimage before it is paid, a payment that failed comes with status 200 and has no
word of its own in its row, and paying twice is answered as a failure.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import httpx

from rail402_lightning import bolt11
from tests.unit.rail402_lightning.backends.play import PlayNode

URL = "http://127.0.0.1:9740"
FULL, LIMITED = "full-access-5ec2e7", "limited-access-5ec2e7"


def text(status: int, words: str) -> httpx.Response:
    return httpx.Response(status, text=words)


NOT_FOUND = text(404, "Not found")


@dataclass
class FakePhoenixd(PlayNode):
    """Answers what the tests need of its API; `chain` is what it says that it is on."""

    chain: str = "regtest"
    bought_channel_for: int = 0
    """Sats that a channel cost while a payment came in."""

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._handle)

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        name = path.rsplit("/", 1)[0] if path.startswith("/payments/") else path
        return await self.serve(name, lambda: self._answer(request, path))

    async def _answer(self, request: httpx.Request, path: str) -> httpx.Response:
        user, _, password = base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).partition(b":")
        allowed = (FULL,) if path == "/payinvoice" else (FULL, LIMITED)
        if user or password.decode() not in allowed:
            return text(401, "Invalid authentication (use basic auth with the http password set in phoenix.conf)")
        form = {key: values[0] for key, values in parse_qs(request.content.decode()).items()}
        match request.method, path:
            case "GET", "/getinfo":
                body = {"nodeId": (await self.ledger.node_id()).hex(), "channels": [], "chain": self.chain}
                return httpx.Response(200, json=body | {"version": "0.8.0-402c2ea"})
            case "GET", "/getbalance":
                balance = await self.ledger.balance(self.wallet) // 1000
                return httpx.Response(200, json={"balanceSat": balance, "feeCreditSat": 0})
            case "POST", "/createinvoice":
                return await self._create(form)
            case "POST", "/payinvoice":
                return await self._pay(form)
            case "GET", _ if path.startswith("/payments/incoming/"):
                return await self._incoming(bytes.fromhex(path.rsplit("/", 1)[1]))
            case "GET", _ if path.startswith("/payments/outgoingbyhash/"):
                return await self._outgoing(bytes.fromhex(path.rsplit("/", 1)[1]))
        return text(404, "Unknown endpoint (check api doc)")

    async def _create(self, form: dict[str, str]) -> httpx.Response:
        if ("description" in form) is ("descriptionHash" in form):
            return text(400, "Must provide either a description or descriptionHash")
        made = await self.ledger.create_invoice(
            int(form["amountSat"]) * 1000,
            expiry_seconds=int(form["expirySeconds"]),
            description_hash=bytes.fromhex(form["descriptionHash"]),
        )
        body = {"amountSat": int(form["amountSat"]), "paymentHash": bolt11.decode(made).payment_hash.hex()}
        return httpx.Response(200, json=body | {"serialized": made})

    async def _incoming(self, payment_hash: bytes) -> httpx.Response:
        found = await self.ledger.lookup_invoice(payment_hash)
        if found is None:
            return NOT_FOUND
        received = found.amount_paid_msat // 1000
        body: dict[str, Any] = {
            "type": "incoming_payment",
            "paymentHash": payment_hash.hex(),
            "preimage": "ab" * 32,  # always there
            "isPaid": found.state == "settled",
            "isExpired": found.state == "expired",
            "receivedSat": max(0, received - self.bought_channel_for),
            "fees": min(received, self.bought_channel_for) * 1000,
            "createdAt": self.clock() * 1000,
        }
        if found.state == "settled":
            body |= {"requestedSat": received, "completedAt": (found.settled_at or 0) * 1000 + 250}
        return httpx.Response(200, json=body)

    async def _pay(self, form: dict[str, str]) -> httpx.Response:
        if "invoice" not in form:
            return text(400, "Request parameter invoice is missing")
        invoice = bolt11.decode(form["invoice"])
        known = await self.ledger.lookup_payment(invoice.payment_hash, self.wallet)
        if known is not None and known.state != "failed":
            said = "already been paid" if known.state == "succeeded" else "already in progress"
            return self._failed(invoice.payment_hash, f"this invoice has {said}")
        paid = await self.ledger.pay_invoice(form["invoice"], wallet=self.wallet, max_fee_msat=1 << 40)
        if paid.state != "succeeded" or paid.preimage is None:
            return self._failed(invoice.payment_hash, f"payment could not be sent: {paid.reason}")
        body = {
            "recipientAmountSat": paid.amount_msat // 1000,
            "routingFeeSat": paid.fee_msat // 1000,
            "paymentId": "1f3b1d5c-0000-4000-8000-000000000001",
            "paymentHash": invoice.payment_hash.hex(),
            "paymentPreimage": paid.preimage.hex(),
        }
        return httpx.Response(200, json=body)

    @staticmethod
    def _failed(payment_hash: bytes, reason: str) -> httpx.Response:
        return httpx.Response(200, json={"paymentHash": payment_hash.hex(), "reason": reason})

    async def _outgoing(self, payment_hash: bytes) -> httpx.Response:
        found = await self.ledger.lookup_payment(payment_hash, self.wallet)
        if found is None:
            return NOT_FOUND
        body: dict[str, Any] = {
            "type": "outgoing_payment",
            "paymentId": "1f3b1d5c-0000-4000-8000-000000000001",
            "paymentHash": payment_hash.hex(),
            "isPaid": found.state == "succeeded",
            "sent": (found.amount_msat + found.fee_msat) // 1000,
            "fees": found.fee_msat if found.state == "succeeded" else 0,
            "createdAt": self.clock() * 1000,
        }
        if found.state != "pending":
            body["completedAt"] = self.clock() * 1000
        if found.state == "succeeded" and found.preimage is not None:
            body["preimage"] = found.preimage.hex()
        return httpx.Response(200, json=body)
