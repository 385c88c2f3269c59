"""A publisher and an agent on the sandbox node, through the whole gate and the whole payer, and the money counted."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from rail402 import Gate, Payer
from rail402.client.records import Purchase
from rail402.dialects.mpp import Mpp
from rail402.dialects.x402_v2 import X402V2
from rail402.dialects.x_receipt import XReceipt
from rail402.errors import OutcomeUnknown, PaymentFailed, PaymentOutcomeUnknown, RailUnavailable
from rail402.money import Money
from rail402.protocol.dialect import Dialect
from rail402.testing.fakes import FakeClock
from rail402_lightning import InvoiceStatus, LightningRail, LightningWallet
from rail402_lightning.backends.sandbox import SandboxReceiver, SandboxSender
from rail402_lightning.sandbox import Books, SandboxLightning

URL = "http://testserver"
PRICE = 21_000
FEE = 21  # the sandbox's routes cost a thousandth
WAIT = 0.5  # seconds in which a payment may arrive after it is presented


class Flaky(SandboxReceiver):
    """A receiver that loses some of its answers."""

    def __init__(self, node: SandboxLightning) -> None:
        super().__init__(node)
        self.lost: deque[Exception | None] = deque()
        self.late = 0
        self.looked = asyncio.Event()

    async def status(self, payment_hash: bytes) -> InvoiceStatus | None:
        self.looked.set()
        if self.late:
            self.late -= 1
            return InvoiceStatus(state="open")
        error = self.lost.popleft() if self.lost else None
        if error is not None:
            raise error
        return await super().status(payment_hash)


class Town:
    """A publisher, an agent, and the node between them."""

    def __init__(self, directory: Path) -> None:
        self.clock = FakeClock()
        self.directory = directory
        rail = LightningRail.sandbox(directory, clock=self.clock, wait_seconds=WAIT)
        assert isinstance(rail.receiver, SandboxReceiver)
        self.node = rail.receiver.node
        self.receiver = rail.receiver = Flaky(self.node)
        self.gate = Gate(
            rails=[rail], public_url=URL, store="memory://", clock=self.clock, reconcile_seconds=0, wait_seconds=1
        )
        self.runs: list[str] = []
        self.failures = 0
        app = FastAPI()
        self.gate.install(app)

        @app.api_route("/article/{name}", methods=["GET", "POST"])
        @self.gate.paid("21 sat")
        async def article(name: str) -> dict[str, str]:
            self.runs.append(name)
            if self.failures:
                self.failures -= 1
                raise RuntimeError("the handler failed")
            return {"article": name}

        @app.get("/book")
        @self.gate.paid("900 sat")
        async def book() -> str:
            self.runs.append("book")
            return "book"

        self.transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=self.transport, base_url=URL)

    def payer(self, *dialects: Dialect, name: str = "agent") -> Payer:
        wallet = LightningWallet.sandbox(self.directory, clock=self.clock, name=name)
        assert isinstance(wallet.sender, SandboxSender)
        options: dict[str, Any] = {"dialects": dialects} if dialects else {}
        payer = Payer([wallet], journal=f"sqlite:///{self.directory / 'journal.db'}", clock=self.clock, **options)

        async def sleep(seconds: float) -> None:
            self.clock.advance(int(seconds))

        payer.sleep = sleep
        return payer

    async def buy(self, payer: Payer, url: str = "/article/one", method: str = "GET") -> httpx.Response:
        async with httpx.AsyncClient(transport=payer.transport(self.transport), base_url=URL) as client:
            return await client.request(method, url)

    async def pay(self, invoice: str) -> str:
        """Pay an invoice as any wallet would; returns the preimage."""
        status = await self.node.pay_invoice(invoice, wallet="stranger", max_fee_msat=1000)
        assert status.preimage is not None
        return status.preimage.hex()

    async def books(self) -> Books:
        books = await self.node.books()
        assert books.balanced
        return books


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    town = Town(tmp_path)
    async with town.gate, town.http:
        yield town
        assert (await town.books()).in_flight_msat == 0


def purchase(response: httpx.Response) -> Purchase:
    found = response.extensions["rail402"]
    assert isinstance(found, Purchase)
    return found


def required(response: httpx.Response) -> dict[str, Any]:
    """What `PAYMENT-REQUIRED` of a 402 accepts."""
    accepted: dict[str, Any] = json.loads(base64.b64decode(response.headers["payment-required"]))["accepts"][0]
    return accepted


def signature(accepted: dict[str, Any], payload: dict[str, Any]) -> dict[str, str]:
    message = {"x402Version": 2, "accepted": accepted, "payload": payload}
    return {"PAYMENT-SIGNATURE": base64.b64encode(json.dumps(message).encode()).decode()}


@pytest.mark.parametrize("dialect", [X402V2(), Mpp(), XReceipt()], ids=lambda dialect: dialect.name)
async def test_an_agent_buys_once_in_every_dialect(town: Town, dialect: Dialect) -> None:
    async with town.payer(dialect) as payer:
        response = await town.buy(payer, "/article/one?page=2")

    bought = purchase(response)
    assert (response.status_code, response.json(), town.runs) == (200, {"article": "one"}, ["one"])
    assert (bought.dialect, bought.price, bought.fee) == (dialect.name, Money.parse("21 sat"), Money.parse("21 msat"))
    assert bought.receipt is not None
    assert (bought.receipt.rail, bought.receipt.amount, bought.receipt.sandbox) == ("lightning", str(PRICE), True)
    assert bought.receipt.resource == f"{URL}/article/one?page=2"
    books = await town.books()
    assert (books.received_msat, books.fees_msat) == (PRICE, FEE)


async def test_one_invoice_serves_every_dialect_and_pays_once(town: Town) -> None:
    challenge = await town.http.get("/article/one")
    accepted = required(challenge)
    invoice = accepted["extra"]["invoice"]
    assert challenge.json()["payment"]["invoice"] == invoice
    mpp = challenge.headers["www-authenticate"].partition('request="')[2].partition('"')[0]
    assert json.loads(base64.urlsafe_b64decode(mpp + "=="))["methodDetails"]["invoice"] == invoice

    preimage = await town.pay(invoice)
    bare = await town.http.get("/article/one", headers={"X-Receipt": preimage})
    again = await town.http.get("/article/one", headers={"X-Receipt": preimage.upper()})
    other_dialect = await town.http.get("/article/one", headers=signature(accepted, {"preimage": preimage}))

    assert [answer.status_code for answer in (challenge, bare, again, other_dialect)] == [402, 200, 200, 200]
    assert bare.headers["x-receipt-record"] == again.headers["x-receipt-record"]
    assert "idempotent-replayed" not in bare.headers
    assert again.headers["idempotent-replayed"] == other_dialect.headers["idempotent-replayed"] == "true"
    assert bare.content == again.content == other_dialect.content
    assert town.runs == ["one"]
    assert (await town.books()).received_msat == PRICE


async def test_of_many_requests_with_one_payment_one_runs_the_handler(town: Town) -> None:
    accepted = required(await town.http.get("/article/one"))
    headers = {"X-Receipt": await town.pay(accepted["extra"]["invoice"])}

    answers = await asyncio.gather(*(town.http.get("/article/one", headers=headers) for _ in range(20)))

    assert {answer.status_code for answer in answers} == {200}
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == len(town.runs) == 1


async def test_what_was_claimed_with_a_token_is_not_replayed_without_it(town: Town) -> None:
    accepted = required(await town.http.get("/article/one"))
    preimage = await town.pay(accepted["extra"]["invoice"])
    first = await town.http.get("/article/one", headers=signature(accepted, {"preimage": preimage}))

    bare = await town.http.get("/article/one", headers={"X-Receipt": preimage})

    assert (first.status_code, bare.status_code, bare.json()["code"]) == (200, 409, "replay_not_proven")


@pytest.mark.parametrize(
    ("method", "url"), [("GET", "/book"), ("GET", "/article/one?page=2"), ("POST", "/article/one")]
)
async def test_a_payment_opens_its_own_request_only(town: Town, method: str, url: str) -> None:
    accepted = required(await town.http.get("/article/one"))
    preimage = await town.pay(accepted["extra"]["invoice"])

    for headers in ({"X-Receipt": preimage}, signature(accepted, {"preimage": preimage})):
        refused = await town.http.request(method, url, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (402, "resource_mismatch")

    assert town.runs == []
    assert (await town.http.get("/article/one", headers={"X-Receipt": preimage})).status_code == 200


async def test_terms_that_were_altered_are_not_ours(town: Town) -> None:
    cheap = required(await town.http.get("/article/one"))
    dear = required(await town.http.get("/book"))
    preimage = await town.pay(cheap["extra"]["invoice"])

    for altered in (
        {**dear, "extra": {**dear["extra"], "invoice": cheap["extra"]["invoice"]}},
        {**cheap, "amount": "1000"},
        {**cheap, "extra": {**cheap["extra"], "requestHash": "00" * 32}},
        {**cheap, "maxTimeoutSeconds": 99_999},
    ):
        refused = await town.http.get("/book", headers=signature(altered, {"preimage": preimage}))
        assert (refused.status_code, refused.json()["code"]) == (402, "resource_mismatch")
    assert town.runs == []


async def test_a_preimage_that_was_not_paid_for_opens_nothing(town: Town) -> None:
    accepted = required(await town.http.get("/article/one"))

    wrong = await town.http.get("/article/one", headers=signature(accepted, {"preimage": "ab" * 32}))
    stranger = await town.http.get("/article/one", headers={"X-Receipt": "ab" * 32})
    malformed = await town.http.get("/article/one", headers=signature(accepted, {"preimage": "ab" * 31}))

    assert (wrong.status_code, wrong.json()["code"]) == (402, "preimage_invalid")
    assert (stranger.status_code, stranger.json()["code"]) == (402, "offer_unknown")
    assert malformed.status_code == 400
    assert (await town.books()).received_msat == 0


async def test_a_payment_hash_for_the_preimage_is_told_apart_and_invites_no_second_payment(town: Town) -> None:
    accepted = required(await town.http.get("/article/one"))
    preimage = await town.pay(accepted["extra"]["invoice"])
    status = await town.node.lookup_invoice(hashlib.sha256(bytes.fromhex(preimage)).digest())
    assert status is not None

    mistaken = await town.http.get("/article/one", headers={"X-Receipt": status.payment_hash.hex()})

    assert (mistaken.status_code, "payment" in mistaken.json()) == (400, False)
    assert "preimage" in mistaken.json()["error"]


async def test_a_client_of_the_older_draft_shows_the_invoice_and_the_node_decides(town: Town) -> None:
    accepted = required(await town.http.get("/article/one"))
    invoice = accepted["extra"]["invoice"]
    headers = signature(accepted, {"invoice": invoice})

    early = await town.http.get("/article/one", headers=headers)
    await town.pay(invoice)
    paid = await town.http.get("/article/one", headers=headers)
    again = await town.http.get("/article/one", headers=headers)

    assert (early.status_code, early.json()["code"], early.headers["retry-after"]) == (402, "not_settled", "2")
    assert "payment-required" not in early.headers
    assert (paid.status_code, again.status_code, again.content) == (200, 200, paid.content)
    assert town.runs == ["one"]


@pytest.mark.parametrize("shows", ["preimage", "invoice"])
async def test_a_payer_who_is_quicker_than_the_publisher_s_node_is_served_at_once(town: Town, shows: str) -> None:
    accepted = required(await town.http.get("/article/one"))
    invoice = accepted["extra"]["invoice"]
    town.receiver.late = 1  # its first look comes before the money
    preimage = await town.pay(invoice)
    payload = {"preimage": preimage} if shows == "preimage" else {"invoice": invoice}

    served = await town.http.get("/article/one", headers=signature(accepted, payload))

    assert (served.status_code, town.runs, town.receiver.late) == (200, ["one"], 0)
    assert (await town.books()).received_msat == PRICE


async def test_a_payment_that_arrives_while_it_is_waited_for_is_served(town: Town) -> None:
    accepted = required(await town.http.get("/article/one"))
    invoice = accepted["extra"]["invoice"]

    town.receiver.looked.clear()
    waiting = asyncio.create_task(town.http.get("/article/one", headers=signature(accepted, {"invoice": invoice})))
    await town.receiver.looked.wait()
    await town.pay(invoice)

    assert (await waiting).status_code == 200
    assert town.runs == ["one"]


@pytest.mark.parametrize("trouble", ["the node is down for a moment", "an answer is lost", "the handler fails once"])
async def test_a_client_of_the_older_draft_is_served_after_trouble(town: Town, trouble: str) -> None:
    """It has no preimage to show: it shows the invoice again, with the token of its offer."""
    accepted = required(await town.http.get("/article/one"))
    invoice = accepted["extra"]["invoice"]
    await town.pay(invoice)
    match trouble:
        case "the node is down for a moment":
            town.receiver.lost.extend([None, RailUnavailable("down")])
        case "an answer is lost":
            town.receiver.lost.extend([None, OutcomeUnknown("lost")])
        case _:
            town.failures = 1
    headers = signature(accepted, {"invoice": invoice})
    assert (await town.http.get("/article/one", headers=headers)).status_code >= 500
    town.clock.advance(5)
    await town.gate.reconcile()
    stranger = signature(required(await town.http.get("/article/one")), {"invoice": invoice})
    assert (await town.http.get("/article/one", headers=stranger)).json()["code"] == "replay_not_proven"
    again = await town.http.get("/article/one", headers=headers)
    assert (again.status_code, again.json()) == (200, {"article": "one"})
    assert (await town.http.get("/article/one", headers=headers)).content == again.content


async def test_an_invoice_without_its_own_token_is_no_proof(town: Town) -> None:
    mine, theirs = [required(await town.http.get("/article/one")) for _ in range(2)]
    preimage = await town.pay(theirs["extra"]["invoice"])  # by somebody else
    payload = {"invoice": theirs["extra"]["invoice"]}

    stolen = await town.http.get("/article/one", headers=signature(mine, payload))
    swapped = {**theirs, "extra": {**theirs["extra"], "token": mine["extra"]["token"]}}
    forged = await town.http.get("/article/one", headers=signature(swapped, payload))
    assert (await town.http.get("/article/one", headers={"X-Receipt": preimage})).status_code == 200
    late = await town.http.get("/article/one", headers=signature(swapped, payload))

    assert [(answer.status_code, answer.json()["code"]) for answer in (stolen, forged, late)] == [
        (402, "preimage_invalid"),
        (402, "resource_mismatch"),
        (409, "replay_not_proven"),
    ]


async def test_a_failed_handler_runs_once_more_for_the_same_payment(town: Town) -> None:
    town.failures = 1
    accepted = required(await town.http.get("/article/one"))
    headers = signature(accepted, {"preimage": await town.pay(accepted["extra"]["invoice"])})

    failed = await town.http.get("/article/one", headers=headers)
    served = await town.http.get("/article/one", headers=headers)

    assert (failed.status_code, served.status_code, town.runs) == (500, 200, ["one", "one"])
    assert (await town.books()).received_msat == PRICE


async def test_an_answer_of_the_node_that_was_lost_is_found_by_the_reconciler(town: Town) -> None:
    accepted = required(await town.http.get("/article/one"))
    headers = signature(accepted, {"preimage": await town.pay(accepted["extra"]["invoice"])})
    town.receiver.lost.extend([None, OutcomeUnknown("the answer was lost")])  # verified, then not settled

    lost = await town.http.get("/article/one", headers=headers)
    again = await town.http.get("/article/one", headers=headers)
    town.clock.advance(600)
    closed = await town.gate.reconcile()
    served = await town.http.get("/article/one", headers=headers)

    assert [(answer.status_code, answer.json()["code"]) for answer in (lost, again)] == [(503, "outcome_unknown")] * 2
    assert "payment-required" not in lost.headers
    assert (closed, served.status_code, town.runs) == (1, 200, ["one"])
    assert (await town.books()).received_msat == PRICE


async def test_an_agent_waits_for_a_node_that_is_down_for_a_moment(town: Town) -> None:
    down = RailUnavailable("the node is down")
    town.receiver.lost.extend([down, None, down])  # at the first look, and once more after it was verified

    async with town.payer() as payer:
        response = await town.buy(payer)

    assert (response.status_code, town.runs) == (200, ["one"])
    assert (await town.books()).received_msat == PRICE


async def test_an_agent_finds_its_payment_again_after_its_own_node_lost_the_answer(town: Town) -> None:
    await town.node.script("next", "lost-answer")

    async with town.payer() as payer:
        with pytest.raises(PaymentOutcomeUnknown):
            await town.buy(payer)
        response = await town.buy(payer)

    assert (response.status_code, purchase(response).outcome, town.runs) == (200, "paid", ["one"])
    books = await town.books()
    assert (books.received_msat, books.fees_msat) == (PRICE, FEE)


async def test_an_agent_whose_payment_failed_pays_with_the_next_invoice(town: Town) -> None:
    await town.node.script("next", "fail")

    async with town.payer() as payer:
        with pytest.raises(PaymentFailed, match="could not pay"):
            await town.buy(payer)
        response = await town.buy(payer)

    assert response.status_code == 200
    assert (await town.books()).received_msat == PRICE


async def test_a_paid_invoice_is_served_late_and_an_unpaid_one_is_not(town: Town) -> None:
    paid, unpaid = [required(await town.http.get("/article/one")) for _ in range(2)]
    preimage = await town.pay(paid["extra"]["invoice"])
    town.clock.advance(1800)

    late = await town.http.get("/article/one", headers=signature(paid, {"preimage": preimage}))
    expired = await town.http.get("/article/one", headers=signature(unpaid, {"invoice": unpaid["extra"]["invoice"]}))

    assert (late.status_code, expired.status_code, expired.json()["code"]) == (200, 402, "offer_expired")
    assert "payment-required" in expired.headers
