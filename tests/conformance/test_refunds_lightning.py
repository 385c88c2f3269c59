"""Refunds on Lightning: granted by the seller, fetched by who proves to have paid, paid once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from rail402.dialects.l402 import L402
from rail402.dialects.mpp import Mpp
from rail402.dialects.x402_v2 import X402V2
from rail402.errors import ConfigurationError
from rail402.protocol.charge import Charge, PaymentState
from rail402.protocol.dialect import Context, Dialect, Fields
from rail402.protocol.rail import Registry
from rail402.protocol.receipt import verify_refund
from rail402.server.gate import Gate
from rail402.testing.fakes import FakeClock
from rail402_lightning import LightningRail, bolt11
from rail402_lightning.backends.sandbox import SandboxSender, open_sandbox
from rail402_lightning.sandbox import ENDOWMENT_MSAT

URL = "http://testserver"
PRICE = 21_000
FEE = 21  # the sandbox's routes cost a thousandth
REFUND = "/.well-known/rail402/lightning/refund"


class Dead(BaseException):
    """The process is gone."""


class Worker:
    """One worker's gate; all workers of a directory share store, node and clock."""

    def __init__(self, path: Path, clock: FakeClock) -> None:
        self.clock = clock
        self.node = open_sandbox(path, clock=clock)
        self.rail = LightningRail.sandbox(path, clock=clock, wait_seconds=0, mint_ahead=0)
        self.gate = Gate(
            rails=[self.rail],
            public_url=URL,
            store=f"sqlite:///{path}/charges.db",
            clock=clock,
            reconcile_seconds=0,
            wait_seconds=0,
        )
        self.app = FastAPI()
        self.gate.install(self.app)
        self.runs = 0
        self.http: httpx.AsyncClient

        @self.app.api_route("/goods", methods=["GET", "POST"])
        @self.gate.paid("21 sat")
        async def goods() -> dict[str, int]:
            self.runs += 1
            return {"run": self.runs}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Worker]:
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        async with self.gate, httpx.AsyncClient(transport=transport, base_url=URL) as self.http:
            yield self
        await self.node.close()

    @property
    def sender(self) -> SandboxSender:
        assert self.rail._refunding is not None
        assert isinstance(self.rail._refunding.sender, SandboxSender)
        return self.rail._refunding.sender

    async def buy(self) -> tuple[Charge, str]:
        """Buy once; return the charge and the preimage."""
        invoice = (await self.http.get("/goods")).json()["payment"]["invoice"]
        paid = await self.node.pay_invoice(invoice, wallet="agent", max_fee_msat=1000)
        assert paid.preimage is not None
        assert (await self.show(paid.preimage.hex())).status_code == 200
        return await self.charge(), paid.preimage.hex()

    async def granted(self) -> tuple[Charge, str]:
        """Buy, and grant the refund of it."""
        charge, preimage = await self.buy()
        return await self.gate.refund(charge.id), preimage

    async def charge(self) -> Charge:
        return (await self.gate.services().store.recent(limit=1))[0]

    async def show(self, preimage: str) -> httpx.Response:
        return await self.http.get("/goods", headers={"X-Receipt": preimage})

    async def invoice(self, msat: int = PRICE, *, seconds: int = 600) -> str:
        """An invoice of the payer's."""
        return await self.node.create_invoice(msat, expiry_seconds=seconds)

    async def granted_in(self, dialect: Dialect, method: str = "GET") -> tuple[str, dict[str, str]]:
        """Buy with an offer's token, and grant the refund; return the preimage, and the fields that showed it."""
        content = b"a body" if method == "POST" else None
        asked = await self.http.request(method, "/goods", content=content)
        context = Context(specs=Registry([self.rail.spec]), now=self.clock(), realm="testserver")
        (offer,) = dialect.offers(Fields(asked.headers.multi_items()), asked.content, context)
        paid = await self.node.pay_invoice(offer.extra["invoice"], wallet="agent", max_fee_msat=1000)
        assert paid.preimage is not None
        shown = dict(dialect.credential(offer, {"preimage": paid.preimage.hex()}, context))
        assert (await self.http.request(method, "/goods", content=content, headers=shown)).status_code == 200
        await self.gate.refund((await self.charge()).id)
        return paid.preimage.hex(), shown

    async def fetch(self, preimage: Any, invoice: Any, shown: Mapping[str, str] | None = None) -> httpx.Response:
        return await self.http.post(REFUND, json={"preimage": preimage, "invoice": invoice}, headers=shown)

    async def assert_given_back(self, *invoices: str, bought: int = 1) -> None:
        """These invoices were paid by the publisher, each once, and nothing else was."""
        for invoice in invoices:
            status = await self.node.lookup_invoice(bolt11.decode(invoice).payment_hash)
            assert status is not None
            assert (status.state, status.amount_paid_msat) == ("settled", PRICE)
        books = await self.node.books()
        assert books.balanced
        spent = ENDOWMENT_MSAT - await self.node.balance("publisher")
        assert spent == len(invoices) * (PRICE + FEE)
        assert books.received_msat == PRICE * (bought + len(invoices))


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[tuple[Worker, Worker]]:
    clock = FakeClock()
    async with Worker(tmp_path, clock).open() as one, Worker(tmp_path, clock).open() as other:
        yield one, other


@pytest.fixture
async def shop(workers: tuple[Worker, Worker]) -> Worker:
    return workers[0]


async def test_who_paid_fetches_it_and_has_a_receipt(shop: Worker) -> None:
    charge, preimage = await shop.buy()
    granted = await shop.gate.refund(charge.id)
    assert (granted.payment, granted.refund_due_at) == (PaymentState.SETTLED, shop.clock())
    assert await shop.gate.refund(charge.id) == granted
    await shop.assert_given_back()
    invoice = await shop.invoice()
    answer = await shop.fetch(preimage, invoice)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["charge"], found["payment"]) == (charge.id, "refunded")
    assert found["transaction"] == bolt11.decode(invoice).payment_hash.hex()
    record = verify_refund(found["refund_receipt"], shop.gate.services().receipt_keys.jwks, issuer=URL)
    assert (record.charge, record.amount, record.transaction) == (charge.id, str(PRICE), found["transaction"])
    await shop.assert_given_back(invoice)
    assert await shop.gate.refund(charge.id) == await shop.charge()
    again = await shop.fetch(preimage, await shop.invoice())
    assert again.json() == found
    await shop.assert_given_back(invoice)


async def test_what_is_granted_buys_nothing_any_more(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    _, preimage = await one.granted()
    for worker in workers:
        answer = await worker.show(preimage)
        assert (answer.status_code, answer.json()["code"]) == (402, "refunded")
    assert (await one.fetch(preimage, await one.invoice())).status_code == 200
    answer = await other.show(preimage)
    assert (answer.status_code, answer.json()["code"], one.runs + other.runs) == (402, "refunded", 1)


async def test_nothing_is_fetched_that_was_not_granted(shop: Worker) -> None:
    _, preimage = await shop.buy()
    for proof in (preimage, "5" * 64):
        answer = await shop.fetch(proof, await shop.invoice())
        assert (answer.status_code, answer.json()["code"]) == (409, "refund_not_due")
    await shop.assert_given_back()


@pytest.mark.parametrize("proof", ["hash", "id", "short", None, 5])
async def test_only_the_preimage_proves_who_paid(shop: Worker, proof: Any) -> None:
    charge, preimage = await shop.granted()
    public = {"hash": hashlib.sha256(bytes.fromhex(preimage)).hexdigest(), "id": charge.id, "short": preimage[:-2]}
    answer = await shop.fetch(public.get(proof, proof), await shop.invoice())
    assert answer.status_code in (400, 409)
    await shop.assert_given_back()


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("dialect", [X402V2(), Mpp(), L402()], ids=lambda dialect: dialect.name)
async def test_who_paid_with_a_token_shows_it_again(shop: Worker, dialect: Dialect, method: str) -> None:
    """The preimage is known to every node that forwarded the payment."""
    preimage, shown = await shop.granted_in(dialect, method)
    _, of_another = await shop.granted_in(dialect, method)
    thief, invoice = await shop.invoice(), await shop.invoice()
    for fields in ({}, {"X-Receipt": preimage}, of_another):
        answer = await shop.fetch(preimage, thief, fields)
        assert (answer.status_code, answer.json()["code"]) == (409, "replay_not_proven")
    shop.clock.advance(24 * 3600)  # its offer has expired long ago
    invoice = await shop.invoice()
    answers = [await shop.fetch(preimage, invoice, shown) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()
    await shop.assert_given_back(invoice, bought=2)
    assert (await shop.fetch(preimage, thief)).json()["code"] == "replay_not_proven"


@pytest.mark.parametrize("msat", [PRICE - 1000, PRICE + 1000, 1_000_000])
async def test_only_the_very_amount_is_paid(shop: Worker, msat: int) -> None:
    _, preimage = await shop.granted()
    answer = await shop.fetch(preimage, await shop.invoice(msat))
    assert (answer.status_code, "exactly 21000 msat" in answer.json()["error"]) == (400, True)
    await shop.assert_given_back()


@pytest.mark.parametrize("invoice", ["", "lnbcrt1", "lnbc1", None, 5, "x" * 9000, []])
async def test_what_is_no_invoice(shop: Worker, invoice: Any) -> None:
    _, preimage = await shop.granted()
    assert (await shop.fetch(preimage, invoice)).status_code == 400
    for body in (b"", b"[]", b"{", b'{"preimage":"x"}', b"x" * 20_000):
        assert (await shop.http.post(REFUND, content=body)).status_code == 400
    await shop.assert_given_back()


async def test_invoices_that_are_not_paid(shop: Worker) -> None:
    charge, preimage = await shop.granted()
    assert "60 s at least" in (await shop.fetch(preimage, await shop.invoice(seconds=59))).json()["error"]
    own = charge.offer.extra["invoice"]
    assert "is the one that was paid" in (await shop.fetch(preimage, own)).json()["error"]
    elsewhere = await shop.invoice()
    await shop.sender.pay(elsewhere, max_fee_msat=1000)  # for something else
    answer = await shop.fetch(preimage, elsewhere)
    assert (answer.status_code, "has paid this invoice before" in answer.json()["error"]) == (409, True)
    assert (await shop.charge()).payment is PaymentState.SETTLED


async def test_one_invoice_is_one_refund(shop: Worker) -> None:
    _, first = await shop.granted()
    shop.clock.advance(1)
    _, second = await shop.granted()
    invoice = await shop.invoice()
    await shop.node.script("next", "pending-then-settle")
    assert (await shop.fetch(first, invoice)).status_code == 503  # in flight
    assert (await shop.fetch(second, invoice)).status_code == 409
    await shop.node.release(bolt11.decode(invoice).payment_hash)
    await shop.gate.reconcile_all()
    answer = await shop.fetch(second, invoice)
    assert (answer.status_code, answer.json()["code"]) == (409, "refund_not_due")
    states = [charge.payment for charge in await shop.gate.services().store.recent(limit=2)]
    assert sorted(states) == ["refunded", "settled"]


async def test_one_invoice_for_two_refunds_at_once_is_claimed_by_one(shop: Worker) -> None:
    """Neither has asked the node yet when the other is written."""
    _, first = await shop.granted()
    shop.clock.advance(1)
    _, second = await shop.granted()
    invoice, lookup = await shop.invoice(), shop.sender.lookup
    both = asyncio.Barrier(2)

    async def together(payment_hash: bytes) -> Any:
        found = await lookup(payment_hash)
        await both.wait()
        return found

    shop.sender.lookup = together  # type: ignore[method-assign]
    answers = await asyncio.gather(shop.fetch(first, invoice), shop.fetch(second, invoice))
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    shop.sender.lookup = lookup  # type: ignore[method-assign]
    assert (await shop.node.books()).received_msat == 3 * PRICE


async def test_many_at_once_are_paid_once(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    _, preimage = await one.granted()
    invoices = [await one.invoice() for _ in range(6)]
    fetching = [(one, other)[number % 2].fetch(preimage, invoice) for number, invoice in enumerate(invoices)]
    answers = await asyncio.gather(*fetching)
    assert {answer.status_code for answer in answers} <= {200, 503, 409}
    paid = [
        each
        for each in invoices
        if (await one.node.lookup_invoice(bolt11.decode(each).payment_hash)).state == "settled"
    ]  # type: ignore[union-attr]
    assert len(paid) == 1
    await one.assert_given_back(*paid)


async def test_after_a_failure_another_invoice_is_taken(shop: Worker) -> None:
    _, preimage = await shop.granted()
    first, second = await shop.invoice(), await shop.invoice()
    await shop.node.script("next", "fail")
    answer = await shop.fetch(preimage, first)
    assert (answer.status_code, "was not paid" in answer.json()["error"]) == (503, True)
    assert (await shop.show(preimage)).json()["code"] == "refunded"  # it still buys nothing
    assert (await shop.fetch(preimage, second)).status_code == 200
    await shop.assert_given_back(second)


async def test_no_other_invoice_is_taken_while_the_first_may_be_paid(shop: Worker) -> None:
    _, preimage = await shop.granted()
    first, second = await shop.invoice(), await shop.invoice()
    await shop.node.script("next", "pending-then-settle")
    assert (await shop.fetch(preimage, first)).status_code == 503
    for invoice in (first, second):
        assert (await shop.fetch(preimage, invoice)).status_code == 503
    await shop.node.release(bolt11.decode(first).payment_hash)
    shop.clock.advance(10)
    await shop.gate.reconcile_all()
    assert (await shop.fetch(preimage, second)).json()["transaction"] == bolt11.decode(first).payment_hash.hex()
    await shop.assert_given_back(first)


async def test_an_answer_that_is_lost_is_looked_up(shop: Worker) -> None:
    _, preimage = await shop.granted()
    invoice = await shop.invoice()
    await shop.node.script("next", "lost-answer")
    assert (await shop.fetch(preimage, invoice)).status_code == 503
    await shop.gate.reconcile_all()
    assert (await shop.fetch(preimage, invoice)).json()["payment"] == "refunded"
    await shop.assert_given_back(invoice)


@pytest.mark.parametrize("call", ["made", "not made"])
async def test_it_is_paid_once_when_the_process_dies(workers: tuple[Worker, Worker], call: str) -> None:
    dying, other = workers
    _, preimage = await dying.granted()
    first, second, pay = await other.invoice(), await other.invoice(), dying.sender.pay

    async def die(invoice: str, *, max_fee_msat: int) -> Any:
        if call == "made":
            await pay(invoice, max_fee_msat=max_fee_msat)
        raise Dead

    dying.sender.pay = die  # type: ignore[method-assign]
    await asyncio.gather(dying.fetch(preimage, first), return_exceptions=True)
    assert (await other.charge()).payment is PaymentState.REFUNDING
    assert (await other.fetch(preimage, second)).status_code == 503
    other.clock.advance(130)
    await other.gate.reconcile_all()
    if call == "made":
        assert (await other.fetch(preimage, second)).json()["payment"] == "refunded"
        await other.assert_given_back(first)
        return
    assert (await other.charge()).payment is PaymentState.SETTLED
    answer = await other.fetch(preimage, second)  # the first may yet be paid: its request may be on its way
    assert (answer.status_code, answer.json()["code"]) == (409, "refund_not_due")
    assert (await other.fetch(preimage, first)).status_code == 200
    await other.assert_given_back(first)


async def test_another_invoice_is_taken_once_the_first_has_expired(workers: tuple[Worker, Worker]) -> None:
    dying, other = workers
    _, preimage = await dying.granted()
    first = await other.invoice()

    async def die(invoice: str, *, max_fee_msat: int) -> Any:
        raise Dead

    dying.sender.pay = die  # type: ignore[method-assign]
    await asyncio.gather(dying.fetch(preimage, first), return_exceptions=True)
    other.clock.advance(661)
    await other.gate.reconcile_all()
    second = await other.invoice()
    assert (await other.fetch(preimage, second)).status_code == 200
    await other.assert_given_back(second)


async def test_fees_have_a_ceiling(shop: Worker) -> None:
    _, preimage = await shop.granted()

    async def dear(invoice: str, *, max_fee_msat: int) -> int:
        return max_fee_msat + 1

    shop.sender.fee_ceiling = dear  # type: ignore[method-assign]
    answer = await shop.fetch(preimage, await shop.invoice())
    assert (answer.status_code, "in fees" in answer.json()["error"]) == (503, True)
    await shop.assert_given_back()


async def test_a_rail_that_cannot_pay_says_so(shop: Worker) -> None:
    charge, preimage = await shop.buy()
    shop.rail._refunding = None
    with pytest.raises(ConfigurationError, match="with_refunds"):
        await shop.gate.refund(charge.id)
    assert (await shop.show(preimage)).status_code == 200
    assert LightningRail(shop.rail.receiver, network="regtest").endpoints() == {}
