"""A shop behind `httpx.MockTransport`: as little of a server as a client can be tested with, and its misbehaviour."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx

from rail402.client.budget import Budget
from rail402.client.payer import Payer
from rail402.clock import RandomBytes
from rail402.dialects import X402V2, Mpp, XReceipt
from rail402.errors import PaymentRejected
from rail402.protocol.base import sha256_hex
from rail402.protocol.binding import OfferKeys
from rail402.protocol.challenge import Challenge
from rail402.protocol.charge import Charge, Delivery, PaymentState
from rail402.protocol.dialect import Context, Dialect, Fields
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import Payment
from rail402.protocol.rail import Registry, Settled, Terms, Wallet
from rail402.protocol.receipt import Receipt, ReceiptKeys
from rail402.testing.fakes import FakeClock, FakeLedger, FakeRail, FakeSpec, FakeWallet

ORIGIN = "https://shop.test"
URL = f"{ORIGIN}/article?n=1"
PRICE = 3000


@dataclass
class Answer:
    """A scripted answer to a presented payment. It is given instead of serving; `served` serves first."""

    status: int | None = None
    headers: Any = ()
    body: Any = None
    served: bool = False


LOST = Answer()
ANSWER_LOST = Answer(served=True)


class BrokenStream(httpx.AsyncByteStream, httpx.SyncByteStream):
    """A body that breaks off after its first piece."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"the beginn"
        raise httpx.ReadError("broke off")

    def __iter__(self) -> Iterator[bytes]:
        yield b"the beginn"
        raise httpx.ReadError("broke off")


class Pieces(httpx.AsyncByteStream, httpx.SyncByteStream):
    """A body in pieces; counts what was asked for."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces, self.given, self.closed = pieces, 0, False

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            self.given += 1
            yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


class Shop:
    """Sells every path but `/free`; each payment is settled once and then replays its response."""

    def __init__(self, rails: Sequence[FakeRail], clock: FakeClock, dialects: Sequence[Dialect]) -> None:
        self.rails, self.clock, self.dialects = {rail.fake.name: rail for rail in rails}, clock, dialects
        self.keys = OfferKeys({"k1": bytes(32)})
        self.price, self.flow, self.timeout_seconds = PRICE, Flow.UPFRONT, 60
        self.receipts: ReceiptKeys | None = None
        self.jwks: Any = None
        self.script: deque[Answer] = deque()
        self.requests: list[httpx.Request] = []
        self.proofs: list[str] = []
        self.served: dict[str, httpx.Response] = {}
        self.offers: list[Offer] = []
        self.sold = 0
        self.status = 200
        self.break_bodies = 0
        self.before_serving: Callable[[], Awaitable[None]] | None = None
        self.change_receipt: dict[str, Any] = {}
        self._nonce = 0

    def context(self) -> Context:
        specs = Registry([rail.fake for rail in self.rails.values()])
        return Context(specs=specs, now=self.clock(), realm="shop.test", keys=self.keys)

    async def handle(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        self.requests.append(request)
        if request.url.path == "/.well-known/rail402/jwks.json":
            published = self.receipts.jwks if self.receipts and self.jwks is None else self.jwks
            return httpx.Response(404 if published is None else 200, json=published)
        if request.url.path == "/free":
            return httpx.Response(200, text="free")
        fields = Fields.from_raw(request.headers.raw)
        payments = [
            found for d in self.dialects for found in d.payments(fields, sha256_hex(request.content), self.context())
        ]
        order = Order(method=request.method, url=str(request.url), route="any", body_digest=sha256_hex(request.content))
        if not payments:
            return await self.challenge(order)
        (payment,) = payments
        self.proofs.append(json.dumps(dict(payment.payload), sort_keys=True))
        scripted = self.script.popleft() if self.script else None
        response = await self.serve(order, payment) if scripted is None or scripted.served else None
        if scripted is None:
            assert response is not None
            return response
        if scripted.status is None:
            raise httpx.ReadError("the connection broke")
        return httpx.Response(scripted.status, headers=scripted.headers, json=scripted.body)

    async def challenge(self, order: Order, code: str = "payment_required") -> httpx.Response:
        """Answer 402."""
        now, offers = self.clock(), []
        for rail in self.rails.values():
            mechanism = rail.fake.mechanism
            flow = self.flow if self.flow in mechanism.flows else mechanism.flows[0]
            terms = Terms(
                amount=self.price, flow=flow, now=now, expires_at=now + 300, timeout_seconds=self.timeout_seconds
            )
            offer = await rail.offer(order, mechanism, terms)
            assert offer is not None
            self._nonce += 1
            offers.append(self.keys.issue(offer, order, self._nonce.to_bytes(16)))
        self.offers += offers
        challenge = Challenge(order=order, price=offers[0].price, offers=tuple(offers), now=now, code=code)
        envelopes = [dialect.challenge(challenge, self.context()) for dialect in self.dialects]
        body: dict[str, Any] = {"error": "Payment required", "code": code}
        for envelope in envelopes:
            body |= envelope.body
        fields = [line for envelope in envelopes for line in envelope.fields]
        return httpx.Response(402, headers=fields, json=body)

    async def serve(self, order: Order, payment: Payment) -> httpx.Response:
        """Settle a payment and sell, or replay what it bought."""
        rail = self.rails[payment.rail]
        (key,) = rail.fake.identify(payment)
        if key not in self.served:
            if self.before_serving is not None:
                await self.before_serving()
            try:
                charge = await self.settle(rail, order, payment)
            except PaymentRejected as error:
                return await self.challenge(order, error.code)
            self.sold += 1
            self.served[key] = self.response(charge, payment)
        stored = self.served[key]
        if self.break_bodies:
            self.break_bodies -= 1
            return httpx.Response(stored.status_code, headers=stored.headers, stream=BrokenStream())
        return httpx.Response(stored.status_code, headers=stored.headers, content=stored.content)

    async def settle(self, rail: FakeRail, order: Order, payment: Payment) -> Charge:
        """Check a payment and take the money."""
        offer = payment.offer or next(
            o for o in self.offers if rail.issued_key(o) in (None, *rail.fake.identify(payment))
        )
        if payment.offer is not None:
            self.keys.verify(payment.offer, order)
        now = self.clock()
        verified = await rail.verify(offer, payment, rail.fake.authenticate(offer, payment), now=now)
        charge = Charge(
            id="ch_" + "a" * 26,
            order=order,
            offer=offer,
            price=offer.price,
            window=600,
            dialect=payment.dialect,
            keys=tuple(verified.keys),
            created_at=now,
            lease_until=now + 60,
            payer=verified.payer,
            rail_state=dict(verified.state),
        )
        settled = await rail.settle(charge, payment)
        if not isinstance(settled, Settled):
            raise PaymentRejected("not settled", code=getattr(settled, "code", "not_settled"))
        facts = {"transaction": settled.transaction, "settled_at": now, "valid_until": now + 600}
        state = {"payment": PaymentState.SETTLED, "delivery": Delivery.STORED}
        return charge.model_copy(update=facts | state)

    def response(self, charge: Charge, payment: Payment) -> httpx.Response:
        """Answer what was bought, with its receipts."""
        headers = [*self.dialects[0].receipt(charge, payment, self.context())] if payment.dialect == "x402-v2" else []
        if self.receipts is not None:
            receipt = Receipt.of(charge, issuer=ORIGIN).model_copy(update=self.change_receipt)
            headers.append(("Receipt-Record", self.receipts.sign(receipt)))
        return httpx.Response(self.status, headers=headers, text=f"article {self.sold}")


class Market:
    """A shop, the money, and agents that buy there."""

    def __init__(
        self, folder: Path, kind: Literal["async", "sync"], specs: Sequence[FakeSpec] = (), dialects: Any = None
    ) -> None:
        self.folder, self.kind, self.clock, self.ledger = folder, kind, FakeClock(), FakeLedger()
        self.dialects = dialects or (X402V2(), Mpp(), XReceipt())
        self.specs = list(specs) or [FakeSpec()]
        self.shop = Shop([FakeRail(self.ledger, spec) for spec in self.specs], self.clock, self.dialects)
        self.slept: list[float] = []
        self.payers: list[Payer] = []
        self.random_bytes: RandomBytes = _counting()

    async def sleep(self, seconds: float) -> None:
        """Pass the time."""
        self.slept.append(seconds)
        self.clock.advance(int(seconds))

    def payer(self, wallets: Sequence[Wallet] = (), **options: Any) -> Payer:
        """Make a payer on the market's journal."""
        payer = Payer(
            list(wallets) or [FakeWallet(self.ledger, spec) for spec in self.specs],
            options.pop("budget", None) or Budget(),
            options.pop("journal", f"sqlite:///{self.folder}/wallet.db"),
            clock=self.clock,
            random_bytes=self.random_bytes,
            **options,
        )
        payer.sleep = self.sleep
        self.payers.append(payer)
        return payer

    async def request(self, payer: Payer, method: str = "GET", url: str = URL, **options: Any) -> httpx.Response:
        """Make a request through one of the two transports."""
        if self.kind == "async":
            transport = payer.transport(httpx.MockTransport(self.shop.handle))
            async with httpx.AsyncClient(transport=transport, follow_redirects=True) as client:
                return await client.request(method, url, **options)

        def work() -> httpx.Response:
            inner = httpx.MockTransport(lambda request: asyncio.run(self.shop.handle(request)))
            with httpx.Client(transport=payer.sync_transport(inner), follow_redirects=True) as client:
                return client.request(method, url, **options)

        return await asyncio.to_thread(work)

    async def states(self) -> list[str]:
        """Return the states of all purchases, the newest first."""
        return [record.state.value for record in await self.payers[0].journal.newest()]

    async def close(self) -> None:
        """Close every payer, the way its kind of caller does."""
        for payer in self.payers:
            if self.kind == "async":
                await payer.close()
            else:
                await asyncio.to_thread(payer.__exit__, None, None, None)


Make = Callable[..., Market]
"""Opens a market; see the fixture `open_market`."""


def _counting() -> RandomBytes:
    count = 0

    def random_bytes(size: int) -> bytes:
        nonlocal count
        count += 1
        return count.to_bytes(size)

    return random_bytes
