"""What the tests of the facilitator share: one over the fake rail, and payments for it."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from rail402.clock import Clock
from rail402.facilitator.app import facilitator_app
from rail402.facilitator.policy import FacilitatorSettings
from rail402.facilitator.service import Facilitator
from rail402.protocol.base import Json, sha256_hex
from rail402.protocol.offer import Flow, Offer
from rail402.stores.base import Store
from rail402.stores.memory import MemoryStore
from rail402.testing.fakes import FakeClock, FakeLedger, FakeRail, FakeSpec

NETWORK = "fake:fake"
PRICE = 3000
PAYEE, PAYER = "shop", "alice"

SPEC = FakeSpec()

_nonces = itertools.count()


class Desk:
    """A facilitator over the fake rail, and what is asked of it over its app."""

    def __init__(self, *, store: Store | None = None, token: str | None = None, **settings: Any) -> None:
        self.ledger, self.clock, self.store = FakeLedger(), FakeClock(), store or MemoryStore()
        self.rail = FakeRail(self.ledger, SPEC)
        self.settings = FacilitatorSettings(**{"wait_seconds": 1, "reconcile_seconds": 0} | settings)
        self.token = token
        self.facilitator = self.another(self.clock)

    def another(self, clock: Clock) -> Facilitator:
        """Return another facilitator on the same store, ledger and settings: the next process."""
        return Facilitator([self.rail], store=self.store, settings=self.settings, clock=clock)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[httpx.AsyncClient]:
        app = facilitator_app(self.facilitator, token=self.token)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with self.facilitator, httpx.AsyncClient(transport=transport, base_url="http://desk") as client:
            yield client

    def body(self, *, version: int = 2, key: str | None = None, **changes: Any) -> dict[str, Any]:
        """Return the body of `/verify` and `/settle` for an honest payment; `changes` are of its offer."""
        return body_of(offer(**changes), version=version, now=self.clock(), key=key)


def offer(**changes: Any) -> Offer:
    """Return an offer of the fake rail."""
    mechanism = SPEC.mechanism
    honest: dict[str, Any] = {
        "rail": SPEC.name,
        "mechanism": mechanism.name,
        "network": mechanism.network,
        "asset": mechanism.asset,
        "amount": PRICE,
        "currency": mechanism.currency,
        "exponent": mechanism.exponent,
        "payee": PAYEE,
        "expires_at": 0,
        "timeout_seconds": 300,
        "flow": Flow.AUTHORIZATION,
    }
    return Offer(**honest | changes)


def body_of(terms: Offer, *, version: int, now: int, key: str | None = None, payer: str = PAYER) -> dict[str, Any]:
    """Return a body with a fresh proof for `terms`, or the one that `key` names."""
    nonce = sha256_hex((key or f"proof {next(_nonces)}").encode())
    proof = SPEC.proof(terms, payer=payer, nonce=nonce, valid_before=now + 600)
    binding = SPEC.bindings[f"x402-v{version}"]
    requirements = binding.encode_offer(terms)
    assert requirements is not None
    chosen: Json = {"accepted": requirements, "payload": proof}
    if version == 1:
        chosen = {"scheme": "exact", "network": NETWORK, "payload": proof}
    body: dict[str, Any] = {
        "x402Version": version,
        "paymentPayload": {"x402Version": version, **chosen},
        "paymentRequirements": requirements,
    }
    whole: dict[str, Any] = json.loads(json.dumps(body))  # nothing in it is shared
    return whole


def key_of(body: Json) -> str:
    """Return under which key the fake ledger has the money of a body."""
    return SPEC.key(body["paymentPayload"]["payload"]["nonce"])
