"""What sellers gave back: asked of the real gate, believed where it is signed, and kept beside what was spent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from rail402.client import refunds
from rail402.client.budget import Budget
from rail402.client.payer import Payer
from rail402.client.records import PurchaseRecord, PurchaseState
from rail402.client.refunds import LookedAt, find_refunds, may_be_refunded
from rail402.money import Money
from rail402.protocol.receipt import Receipt, ReceiptKeys, RefundReceipt
from rail402.server.gate import Gate
from rail402.testing.fakes import FakeClock, FakeLedger, FakeRail, FakeSpec, FakeWallet

URL = "https://api.example.com"
PRICE = Money.parse("0.003 USD")

Answer = Callable[[httpx.Request], httpx.Response | None]


class Site:
    """A gate, an agent that buys from it, and a wire between them on which answers can be replaced."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.ledger = FakeClock(), FakeLedger()
        _, self.pem = ReceiptKeys.generate()
        self.rail = FakeRail(self.ledger, FakeSpec())
        self.gate = Gate(
            rails=[self.rail],
            store="memory://",
            public_url=URL,
            secret="s" * 32,
            receipt_key=self.pem,
            clock=self.clock,
            reconcile_seconds=0,
        )
        self.app = Starlette()
        self.app.add_route("/{name}", self.gate.paid("0.003 USD")(self.goods))
        self.gate.install(self.app)
        self.payer = Payer(
            [FakeWallet(self.ledger, FakeSpec())], Budget(), f"sqlite:///{folder}/wallet.db", clock=self.clock
        )
        self.asked: list[str] = []
        self.instead: Answer = lambda request: None

    async def goods(self, _: Request) -> Response:
        return PlainTextResponse("goods")

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        replaced = self.instead(request)
        return replaced or await httpx.ASGITransport(app=self.app).handle_async_request(request)

    async def buy(self, name: str = "a") -> PurchaseRecord:
        transport = self.payer.transport(httpx.ASGITransport(app=self.app))
        async with httpx.AsyncClient(transport=transport, base_url=URL) as client:
            response = await client.get(f"/{name}")
        assert response.status_code == 200
        record = await self.payer.journal.get(response.extensions["rail402"].record_id)
        assert record is not None
        return record

    async def refund(self) -> str:
        """Give the latest purchase's money back, and return its refund receipt."""
        (charge,) = await self.gate.services().store.recent(limit=1)
        refunded = await self.gate.refund(charge.id)
        assert refunded.refund_receipt is not None
        return refunded.refund_receipt

    async def look(self, *records: PurchaseRecord) -> list[LookedAt]:
        self.asked.clear()
        wire = httpx.MockTransport(self.handle_async_request)
        journal = self.payer.journal
        return [each async for each in find_refunds(journal, records, now=self.clock(), transport=wire)]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    async with site.gate, site.payer:
        yield site


def answers(body: Any, status: int = 200, path: str = "receipts/") -> Answer:
    """Answer requests for receipts so, and no others."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda request: httpx.Response(status, content=content) if path in request.url.path else None


async def test_what_was_given_back_is_written_down_with_the_sellers_word_for_it(site: Site) -> None:
    record = await site.buy()
    token = await site.refund()
    (found,) = await site.look(record)
    assert (found.error, found.record.refunded, found.record.refund_receipt) == (None, PRICE, token)
    kept = await site.payer.journal.get(record.id)
    assert kept == found.record
    assert (kept.state, kept.cost, kept.receipt) == (PurchaseState.COMMITTED, PRICE, record.receipt)
    assert token not in repr(kept)


async def test_it_counts_as_spent_all_the_same(site: Site) -> None:
    """A limit is for what leaves the wallet: a seller's word makes no room in it."""
    first, second = await site.buy("a"), await site.buy("b")
    before = await site.payer.spent()
    await site.refund()
    assert len(await site.look(first, second)) == 2
    assert await site.payer.spent() == before
    assert await site.payer.journal.refunded() == {"USD": PRICE}


async def test_until_then_nothing_changes(site: Site) -> None:
    record = await site.buy()
    assert await site.look(record) == [LookedAt(record)]
    assert await site.payer.journal.get(record.id) == record
    assert await site.payer.journal.refunded() == {}


async def test_who_is_asked(site: Site) -> None:
    record = await site.buy()
    await site.refund()
    (found,) = await site.look(record)
    assert len(site.asked) == 1
    unresolved = record.model_copy(update={"state": PurchaseState.UNKNOWN})
    bare = record.model_copy(update={"receipt": None})
    assert [may_be_refunded(each) for each in (record, found.record, unresolved, bare)] == [True, False, False, False]
    assert await site.look(found.record, unresolved, bare) == []
    assert site.asked == []


async def test_of_two_that_write_it_down_one_does_and_the_other_goes_on(site: Site) -> None:
    first = await site.buy("a")
    await site.refund()
    site.clock.advance(1)
    second = await site.buy("b")
    await site.refund()
    (known,) = await site.look(first)
    found = await site.look(first, second)  # with what was read before
    assert found[0] == known
    assert [(each.error, each.record.refunded) for each in found] == [(None, PRICE)] * 2
    assert await site.payer.journal.refunded() == {"USD": Money.parse("0.006 USD")}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"charge": "ch_" + "a" * 26}, "charge"),
        ({"amount": "3001"}, "amount"),
        ({"amount": "1"}, "amount"),
        ({"payment": "another"}, "payment"),
        ({"payee": "another"}, "payee"),
        ({"network": "fake:other"}, "network"),
        ({"issuer": "https://evil.example"}, "evil.example"),
    ],
)
async def test_a_refund_of_something_else_is_not_this_ones(site: Site, change: dict[str, str], said: str) -> None:
    record = await site.buy()
    await site.refund()
    (charge,) = await site.gate.services().store.recent(limit=1)
    lie = RefundReceipt.of(charge, issuer=URL).model_copy(update=change)
    site.instead = answers({"refund_receipt": ReceiptKeys(site.pem).sign(lie)})
    (found,) = await site.look(record)
    assert said in (found.error or "")
    assert await site.payer.journal.get(record.id) == record


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"amount": "9" * 70}, "amount"),
        ({"resource": f"{URL}/b"}, "resource"),
        ({"issued_at": 1}, "not when this was bought"),
    ],
)
async def test_a_receipt_of_something_else_is_not_gone_by(site: Site, change: dict[str, Any], said: str) -> None:
    """A receipt is kept as it came, also where it is not about this purchase."""
    record = await site.buy()
    await site.refund()
    (charge,) = await site.gate.services().store.recent(limit=1)
    keys = ReceiptKeys(site.pem)
    receipt = Receipt.of(charge, issuer=URL).model_copy(update=change)
    same = {"amount": receipt.amount}
    lie = RefundReceipt.of(charge, issuer=URL).model_copy(update=same)
    site.instead = answers({"refund_receipt": keys.sign(lie)})
    (found,) = await site.look(record.model_copy(update={"receipt": keys.sign(receipt)}))
    assert said in (found.error or "")
    assert await site.payer.journal.refunded() == {}


async def test_an_answer_that_never_ends_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def trickle() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0)

    record = await site.buy()
    monkeypatch.setattr(refunds, "_SECONDS", 0)
    site.instead = lambda request: httpx.Response(200, content=trickle())
    async with asyncio.timeout(20):
        (found,) = await site.look(record)
    assert found.error == f"{URL} does not answer (TimeoutError)"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (answers({"refund_receipt": "nonsense"}), "not a JWS"),
        (answers({"refund_receipt": 5}), "must be a text"),
        (answers(b"[]"), "must be a JSON object"),
        (answers(b"{"), "JSON"),
        (answers(b'{"refund_receipt": "' + b"x" * 70_000 + b'"}'), "no receipts"),
        (answers({}, 429), "answered 429"),
        (answers({}, 302), "answered 302"),
        (answers({}, 500), "answered 500"),
    ],
)
async def test_an_answer_that_says_nothing_changes_nothing(site: Site, answer: Answer, said: str) -> None:
    record = await site.buy()
    await site.refund()
    site.instead = answer
    (found,) = await site.look(record)
    assert said in (found.error or "")
    assert await site.payer.journal.get(record.id) == record
    site.instead = lambda request: None
    (found,) = await site.look(record)
    assert found.record.refunded == PRICE


async def test_a_seller_that_has_forgotten_it_or_is_gone(site: Site) -> None:
    record = await site.buy()
    site.instead = answers({"error": "there is no such charge"}, 404)
    assert await site.look(record) == [LookedAt(record)]

    def gone(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    site.instead = gone
    (found,) = await site.look(record)
    assert found.error == f"{URL} does not answer (ConnectError)"


@pytest.mark.parametrize("is_vouched_for", [True, False])
async def test_a_newer_key_counts_where_a_pinned_one_vouches_for_it(site: Site, is_vouched_for: bool) -> None:
    record = await site.buy()
    await site.refund()
    (charge,) = await site.gate.services().store.recent(limit=1)
    _, newer = ReceiptKeys.generate()
    old = site.gate.services().receipt_keys.jwks["keys"]
    keys = ReceiptKeys(newer, old if is_vouched_for else ())
    token = keys.sign(RefundReceipt.of(charge, issuer=URL))
    receipts, jwks = answers({"refund_receipt": token}), answers(keys.jwks, path="jwks.json")
    site.instead = lambda request: receipts(request) or jwks(request)
    (found,) = await site.look(record)
    assert found.record.refunded == (PRICE if is_vouched_for else None)
    assert ("vouches" in (found.error or "")) is not is_vouched_for
