"""30: The same at the addresses that cost nothing: receipts, refunds, what Stripe prepares, webhooks."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from rail402 import Gate
from rail402.dialects import Mpp
from rail402.protocol.dialect import Context, Fields
from rail402.protocol.endpoint import DISCOVERY, MAX_SIGNED_BODY
from rail402.protocol.rail import Registry
from rail402.server.limits import Limits
from rail402.testing.fakes import FakeClock
from rail402_lightning import LightningRail
from rail402_stripe import StripeRail
from rail402_stripe.sandbox import SandboxTransport
from tests.attacks.cases import Observe
from tests.unit.server.shop import URL, Wire

LIMITS = Limits(addresses="20/m", route_addresses="50/m")
FETCH = json.dumps({"preimage": "00" * 32, "invoice": "lnbcrt1"}).encode()
RECEIPT = "receipts/ch_" + "a" * 26


async def goods(_: Request) -> Response:
    return PlainTextResponse("the goods")


class Shop:
    """A publisher on Stripe and Lightning, with all addresses that these have, and clients with any address they like.

    Attributes:
        reached: how many requests reached Stripe.
    """

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.reached = FakeClock(), 0
        handle = SandboxTransport.handle_async_request

        async def counted(transport: SandboxTransport, request: httpx.Request) -> httpx.Response:
            self.reached += 1
            return await handle(transport, request)

        monkeypatch.setattr(SandboxTransport, "handle_async_request", counted)
        self.stripe = StripeRail.sandbox(directory, webhook_secrets=["whsec_1"], clock=self.clock)
        self.gate = Gate(
            rails=[self.stripe, LightningRail.sandbox(directory, clock=self.clock)],
            public_url=URL,
            store="memory://",
            clock=self.clock,
            reconcile_seconds=0,
            limits=LIMITS,
        )
        self.app = Starlette()
        self.app.add_route("/goods", self.gate.paid("1 USD", rails=["stripe"], dialects=["mpp"])(goods))
        self.gate.install(self.app)

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        client: str = "192.0.2.1",
        headers: dict[str, str] | None = None,
    ) -> Wire:
        scope = {"client": (client, 1)}
        return await Wire(self.app, DISCOVERY + path, method, chunks=[body], scope=scope, headers=headers or {}).run()

    async def preparation(self) -> bytes:
        """Return the message by which a payer has a payment prepared, for an offer of a fresh 402."""
        challenged = await Wire(self.app, "/goods").run()
        fields = Fields.from_raw(challenged.sent[0]["headers"])
        context = Context(specs=Registry([self.stripe.spec]), now=self.clock(), realm="shop.example")
        (offer,) = Mpp().offers(fields, challenged.body, context)
        assert offer.envelope is not None
        said = {"dialect": "mpp", "offer": dict(offer.envelope), "prepare": "payment_intent"}
        return json.dumps(said).encode()


async def test_of_one_client_and_of_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, observed: Observe) -> None:
    shop = Shop(tmp_path, monkeypatch)
    async with shop.gate:
        prepare = await shop.preparation()
        assert (await shop.ask("POST", "stripe", prepare, "192.0.2.200")).status == 200
        of_one = shop.reached
        for _ in range(100):
            answer = await shop.ask("POST", "stripe", prepare)
        assert (answer.status, answer.json()["code"]) == (429, "rate_limited")
        assert int(answer.one("retry-after")) >= 1
        assert shop.reached <= 21 * of_one
        for path, body in (("lightning/refund", FETCH), (RECEIPT, b"")):  # all addresses of one client count together
            assert (await shop.ask("POST" if body else "GET", path, body)).status == 429
        other = await shop.ask("POST", "lightning/refund", FETCH, "192.0.2.2")
        assert (other.status, other.json()["code"]) == (409, "refund_not_due")
        for number in range(100):
            answer = await shop.ask("POST", "stripe", prepare, f"198.51.100.{number}")
        assert answer.status == 429
        assert shop.reached <= 51 * of_one
        shop.clock.advance(int(answer.one("retry-after")))
        assert (await shop.ask("POST", "stripe", prepare, "192.0.2.3")).status == 200
    observed(
        "at the addresses where payments are prepared, refunds and receipts fetched: 429 with `Retry-After`, per client"
        " and altogether, and Stripe was asked no more"
    )


async def test_by_webhooks_that_are_not_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, observed: Observe
) -> None:
    shop = Shop(tmp_path, monkeypatch)
    async with shop.gate:
        before = shop.reached
        forged = {"stripe-signature": f"t={shop.clock()},v1={'00' * 32}"}
        event = json.dumps({"type": "payment_intent.succeeded", "data": {"object": {}}}).encode()
        answers = {(await shop.ask("POST", "stripe/webhook", event, headers=forged)).status for _ in range(100)}
        assert answers == {400}
        large = await shop.ask("POST", "stripe/webhook", event.ljust(MAX_SIGNED_BODY + 1), headers=forged)
        assert large.status == 413
        assert shop.reached == before
    observed("webhooks that Stripe did not sign: 400, or 413 above 256 KiB, and nothing is looked up")
