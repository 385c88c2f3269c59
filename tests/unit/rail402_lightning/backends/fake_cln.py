"""A Core Lightning behind clnrest as its 25.12 answers, with play money behind it.

Traps included: success is 201 and errors are 500, a label is taken only once, and a payment between two attempts is
listed as failed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from rail402_lightning import bolt11
from tests.unit.rail402_lightning.backends.play import PlayNode

URL = "http://127.0.0.1:3010"
RECEIVE, PAY = "rune-receive-5ec2e7==", "rune-pay-5ec2e7=="

METHODS = {
    RECEIVE: {"getinfo", "invoice", "listinvoices", "waitinvoice"},
    PAY: {"getinfo", "xpay", "pay", "listpays", "listpeerchannels"},
}


def error(code: int | None, message: str, *, status: int = 500) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "data": None, "message": message})


def done(body: dict[str, Any]) -> httpx.Response:
    return httpx.Response(201, json=body)


@dataclass
class FakeCln(PlayNode):
    """Answers what the tests need of its API.

    Attributes:
        info: what `getinfo` says beside the usual.
        channels: what `listpeerchannels` says; None for one that holds the wallet's money.
        unknown: methods that this version does not have.
        labels: the label of each payment hash.
        made: the invoice of each label.
        begun: when each payment was begun.
    """

    info: dict[str, Any] = field(default_factory=dict)
    channels: list[dict[str, Any]] | None = None
    unknown: set[str] = field(default_factory=set)
    labels: dict[str, str] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)
    begun: dict[str, int] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._handle)

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        method = request.url.path.removeprefix("/v1/")
        return await self.serve(method, lambda: self._answer(request, method))

    async def _answer(self, request: httpx.Request, method: str) -> httpx.Response:
        allowed = METHODS.get(request.headers.get("Rune", ""))
        if allowed is None or method not in allowed:
            return error(1502, "Not permitted: method is not equal to it", status=401)
        if method in self.unknown:
            return error(-32601, f"Unknown command '{method}'", status=404)
        params = json.loads(request.content)
        self.bodies.append({"method": method, **params})
        verbs: dict[str, Callable[[dict[str, Any]], Awaitable[httpx.Response]]] = {
            "getinfo": self._getinfo,
            "invoice": self._invoice,
            "listinvoices": self._listinvoices,
            "waitinvoice": self._waitinvoice,
            "xpay": lambda params: self._pay(params, "invstring"),
            "pay": lambda params: self._pay(params, "bolt11"),
            "listpays": self._listpays,
            "listpeerchannels": self._channels,
        }
        return await verbs[method](params)

    async def _getinfo(self, params: dict[str, Any]) -> httpx.Response:
        body = {"id": (await self.ledger.node_id()).hex(), "network": "regtest", "num_active_channels": 1}
        return done(body | self.info)

    async def _channels(self, params: dict[str, Any]) -> httpx.Response:
        rows = self.channels
        if rows is None:
            held = await self.ledger.balance(self.wallet)
            rows = [{"state": "CHANNELD_NORMAL", "peer_connected": True, "spendable_msat": held}]
        return done({"channels": rows})

    async def _invoice(self, params: dict[str, Any]) -> httpx.Response:
        if "amount_msat" not in params:
            return error(-32602, "missing required parameter: amount_msat")
        if params["label"] in self.labels.values():
            return error(900, f"Duplicate label '{params['label']}'")
        assert params["deschashonly"] is True
        made = await self.ledger.create_invoice(
            params["amount_msat"],
            expiry_seconds=params["expiry"],
            description_hash=hashlib.sha256(params["description"].encode()).digest(),
        )
        found = bolt11.decode(made)
        self.labels[found.payment_hash.hex()] = params["label"]
        self.made[params["label"]] = made
        return done({"bolt11": made, "payment_hash": found.payment_hash.hex(), "expires_at": found.expires_at})

    async def _listinvoices(self, params: dict[str, Any]) -> httpx.Response:
        wanted = params.get("payment_hash")
        if wanted is None:
            wanted = next((key for key, label in self.labels.items() if label == params["label"]), "00" * 32)
        found = await self.ledger.lookup_invoice(bytes.fromhex(wanted))
        if found is None:
            return done({"invoices": []})
        label = self.labels.get(wanted, "by hand")
        row: dict[str, Any] = {"label": label, "payment_hash": wanted, "expires_at": 0}
        row["bolt11"] = self.made.get(label)
        row["status"] = {"open": "unpaid", "settled": "paid", "expired": "expired"}[found.state]
        if found.state == "settled":
            row |= {"amount_received_msat": found.amount_paid_msat, "paid_at": found.settled_at}
            row |= {"payment_preimage": "ab" * 32}
        return done({"invoices": [row]})

    async def _waitinvoice(self, params: dict[str, Any]) -> httpx.Response:
        wanted = next(key for key, label in self.labels.items() if label == params["label"])
        found = await self.ledger.wait_settled(bytes.fromhex(wanted), 5)
        if found is None or found.state != "settled":
            return error(903, "invoice expired")
        return done({"label": params["label"], "status": "paid"})

    async def _pay(self, params: dict[str, Any], name: str) -> httpx.Response:
        if name not in params:
            return error(-32602, f"missing required parameter: {name}")
        self.begun[bolt11.decode(params[name]).payment_hash.hex()] = self.clock()
        paid = await self.ledger.pay_invoice(params[name], wallet=self.wallet, max_fee_msat=params["maxfee"])
        if paid.state == "pending":
            return error(209, "Timed out, with parts still pending")
        if paid.state == "failed" or paid.preimage is None:
            return error(205, f"Could not find a route: {paid.reason}")
        body = {"payment_preimage": paid.preimage.hex(), "amount_msat": paid.amount_msat}
        return done(body | {"amount_sent_msat": paid.amount_msat + paid.fee_msat})

    async def _listpays(self, params: dict[str, Any]) -> httpx.Response:
        found = await self.ledger.lookup_payment(bytes.fromhex(params["payment_hash"]), self.wallet)
        if found is None:
            return done({"pays": []})
        status = {"pending": "pending", "succeeded": "complete", "failed": "failed"}[found.state]
        row: dict[str, Any] = {"payment_hash": params["payment_hash"], "status": status}
        row["created_at"] = self.begun[params["payment_hash"]]
        row |= {"amount_msat": found.amount_msat, "amount_sent_msat": found.amount_msat + found.fee_msat}
        if found.preimage is not None:
            row["preimage"] = found.preimage.hex()
        return done({"pays": [row]})
