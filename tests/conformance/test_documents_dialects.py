"""The dialects of the documents, from the 402 to the delivery: X-Payment, X-Price, payment URIs and X-Receipt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe
from fastapi import FastAPI

from rail402 import Gate, Payer
from rail402.client.records import Purchase
from rail402.dialects import DEFAULT_DIALECTS, OPTIONAL_DIALECTS, Mpp, PaymentUri, XReceipt, dialect_by_name
from rail402.errors import AdministrativePaymentRequired, NoUsableOffer
from rail402.protocol.dialect import Context, Dialect, Fields
from rail402.protocol.offer import Offer
from rail402.protocol.rail import PaymentRail, Registry
from rail402.server.answers import MAX_CHALLENGE_BYTES
from rail402.testing.fakes import FakeClock, FakeLedger, FakeRail, FakeSpec, FakeWallet
from rail402_lightning import LightningRail, LightningWallet
from rail402_stripe import OwnCustomerWallet, StripeRail

URL = "http://testserver"
DIALECTS = [*OPTIONAL_DIALECTS, XReceipt()]
NAMES = [dialect.name for dialect in DIALECTS]
EVERY = [*DEFAULT_DIALECTS, *OPTIONAL_DIALECTS]


class Town:
    """A publisher who speaks `dialects`, and its agents."""

    def __init__(self, directory: Path, rails: list[PaymentRail], dialects: list[Dialect], clock: FakeClock) -> None:
        self.directory, self.rails, self.dialects, self.clock = directory, rails, dialects, clock
        self.gate = Gate(
            rails=rails,
            dialects=dialects,
            public_url=URL,
            store="memory://",
            clock=clock,
            reconcile_seconds=0,
            wait_seconds=0,
        )
        self.runs: list[str] = []
        self.price = "0.50 USD"
        app = FastAPI()
        self.gate.install(app)

        @app.api_route("/page/{name}", methods=["GET", "POST"])
        @self.gate.paid(lambda request: self.price)
        async def page(name: str) -> dict[str, int]:
            self.runs.append(name)
            return {"number": len(self.runs)}

        self.transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=self.transport, base_url=URL)
        self.sent: list[httpx.Request] = []
        self.lose = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/page/"):
            self.sent.append(request)
        response = await self.transport.handle_async_request(request)
        if self.lose and len(self.sent) > 1:
            self.lose -= 1
            raise httpx.ReadTimeout("no answer", request=request)
        return response

    async def buy(self, wallet: Any, dialects: list[Dialect] | None = None, path: str = "/page/one") -> httpx.Response:
        journal = f"sqlite:///{self.directory / 'journal.db'}"
        payer = Payer([wallet], journal=journal, clock=self.clock, dialects=dialects or self.dialects)

        async def sleep(seconds: float) -> None:
            self.clock.advance(int(seconds))

        payer.sleep = sleep
        inner = httpx.AsyncBaseTransport()
        inner.handle_async_request = self.handle_async_request  # type: ignore[method-assign]
        async with httpx.AsyncClient(transport=payer.transport(inner), base_url=URL) as client:
            response = await client.get(path)
        await payer.close()
        return response

    def context(self) -> Context:
        return Context(specs=Registry(rail.spec for rail in self.rails), now=self.clock())

    async def offer(self, dialect: Dialect, path: str = "/page/one") -> Offer:
        answer = await self.http.get(path)
        assert answer.status_code == 402
        (offer, *_) = dialect.offers(Fields(answer.headers.multi_items()), answer.content, self.context())
        return offer

    async def show(self, offer: Offer, payload: Any, path: str = "/page/one", **more: Any) -> httpx.Response:
        dialect = dialect_by_name(offer.dialect or "")
        headers = dict(dialect.credential(offer, dict(payload), self.context())) | more.pop("headers", {})
        headers = {name: value for name, value in headers.items() if name not in more.get("without", ())}
        return await self.http.request(more.get("method", "GET"), path, headers=headers)


def purchase(response: httpx.Response) -> Purchase:
    found = response.extensions["rail402"]
    assert isinstance(found, Purchase)
    return found


class Fakes(Town):
    """A town whose money is a Python object."""

    def __init__(self, directory: Path, dialects: list[Dialect], style: Any = "signed") -> None:
        self.ledger, self.spec = FakeLedger(), FakeSpec(style=style)
        super().__init__(directory, [FakeRail(self.ledger, self.spec)], dialects, FakeClock())
        self.wallet = FakeWallet(self.ledger, self.spec)

    async def paid(self, dialect: Dialect) -> tuple[Offer, Any]:
        offer = await self.offer(dialect)
        return offer, (await self.wallet.pay(offer, record_id=f"r{len(self.ledger.calls)}", now=self.clock())).payload


@pytest.fixture(params=DIALECTS, ids=NAMES)
async def fakes(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Fakes]:
    town = Fakes(tmp_path, [request.param])
    async with town.gate, town.http:
        yield town


# --- each dialect alone


async def test_an_agent_buys(fakes: Fakes) -> None:
    response = await fakes.buy(fakes.wallet)
    assert (response.status_code, fakes.runs) == (200, ["one"])
    assert (purchase(response).dialect, purchase(response).outcome) == (fakes.dialects[0].name, "paid")
    assert purchase(response).receipt is not None
    assert fakes.ledger.charged_total == 500_000
    name = {"x-payment": "x-payment-receipt", "x-receipt": "x-receipt-record"}.get(fakes.dialects[0].name)
    assert name is None or response.headers[name] == response.headers["receipt-record"]


async def test_a_lost_answer_is_asked_for_again_with_the_same_proof_and_costs_nothing(fakes: Fakes) -> None:
    fakes.lose = 1
    response = await fakes.buy(fakes.wallet)
    assert (response.status_code, fakes.runs) == (200, ["one"])
    assert response.headers["idempotent-replayed"] == "true"
    _, first, second = fakes.sent
    for field in ("x-payment-proof", "x-receipt", "x-payment-token"):
        assert first.headers.get(field) == second.headers.get(field)
    assert fakes.ledger.charged_total == 500_000


async def test_a_public_proof_alone_is_served_once_and_replays_nothing(fakes: Fakes) -> None:
    offer, payload = await fakes.paid(fakes.dialects[0])
    bare: dict[str, Any] = {"without": ("X-Payment-Token",)}
    assert (await fakes.show(offer, payload, **bare)).status_code == 200
    for shown in (bare, {}):  # nor does a token that did not come with the first one
        answer = await fakes.show(offer, payload, **shown)
        assert (answer.status_code, answer.json()["code"]) == (409, "replay_not_proven")
    assert fakes.runs == ["one"]


@pytest.mark.parametrize(("path", "method"), [("/page/two", "GET"), ("/page/one?x", "GET"), ("/page/one", "POST")])
async def test_a_payment_with_its_token_opens_its_own_request_only(fakes: Fakes, path: str, method: str) -> None:
    offer, payload = await fakes.paid(fakes.dialects[0])
    answer = await fakes.show(offer, payload, path, method=method)
    assert (answer.status_code, answer.json()["code"]) == (402, "resource_mismatch")
    assert (fakes.runs, fakes.ledger.charged_total) == ([], 0)
    assert (await fakes.show(offer, payload)).status_code == 200


async def test_a_token_of_another_server_or_of_another_price_is_refused(fakes: Fakes) -> None:
    offer, payload = await fakes.paid(fakes.dialects[0])
    for key, code in (("k9", "offer_unknown"), ("k1", "resource_mismatch")):
        made_up = {"X-Payment-Token": f"{key}.9999999999.{'A' * 22}.{'A' * 43}"}
        answer = await fakes.show(offer, payload, headers=made_up)
        assert (answer.status_code, answer.json()["code"]) == (402, code)
    fakes.price = "0.51 USD"
    answer = await fakes.show(offer, payload)
    assert answer.status_code == 402
    assert (fakes.runs, fakes.ledger.charged_total) == ([], 0)


async def test_unreadable_proofs_are_refused_without_a_challenge(fakes: Fakes) -> None:
    field = {"x-receipt": "X-Receipt"}.get(fakes.dialects[0].name, "X-Payment-Proof")
    for value in ("proof", "{", "0x00", "=" * 100):
        answer = await fakes.http.get("/page/one", headers={field: value})
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed_payment")
        assert "offers" not in answer.json()


async def test_a_challenge_of_an_unknown_rail_is_no_billing_matter(fakes: Fakes) -> None:
    stranger = FakeWallet(FakeLedger(), FakeSpec("stranger"))
    with pytest.raises(NoUsableOffer):
        await fakes.buy(stranger)


async def test_a_402_without_terms_is_never_paid(fakes: Fakes) -> None:
    body = b'{"error":"Your trial is over","price":"29 USD a month","link":"https://shop.example/billing"}'
    inner = httpx.MockTransport(lambda request: httpx.Response(402, content=body))
    payer = Payer([fakes.wallet], journal=f"sqlite:///{fakes.directory / 'journal.db'}", dialects=EVERY)
    async with httpx.AsyncClient(transport=payer.transport(inner), base_url=URL) as client:
        with pytest.raises(AdministrativePaymentRequired):
            await client.get("/")
    await payer.close()
    assert fakes.ledger.calls == []


# --- several at once


async def test_dialects_that_read_the_same_field_find_one_payment(tmp_path: Path) -> None:
    town = Fakes(tmp_path, EVERY)
    async with town.gate, town.http:
        offer, payload = await town.paid(dialect_by_name("x-price"))
        answer = await town.show(offer, payload)
        assert (answer.status_code, town.runs) == (200, ["one"])
        both = dict(XReceipt().credential(offer.model_copy(update={"dialect": "x-receipt"}), payload, town.context()))
        answer = await town.show(offer, payload, headers=both)
        assert (answer.status_code, answer.headers["idempotent-replayed"]) == (200, "true")


async def test_two_different_payments_are_refused(tmp_path: Path) -> None:
    town = Fakes(tmp_path, EVERY)
    async with town.gate, town.http:
        offer, payload = await town.paid(dialect_by_name("x-price"))
        _, other = await town.paid(dialect_by_name("x-receipt"))
        more = dict(
            XReceipt().credential(offer.model_copy(update={"dialect": "x-receipt"}), dict(other), town.context())
        )
        answer = await town.show(offer, payload, headers={"X-Receipt": more["X-Receipt"]})
        assert (answer.status_code, answer.json()["code"]) == (400, "several_payments")
        assert (town.runs, town.ledger.charged_total) == ([], 0)


async def test_a_payer_prefers_what_sends_the_offer_back(tmp_path: Path) -> None:
    town = Fakes(tmp_path, EVERY)
    async with town.gate, town.http:
        assert purchase(await town.buy(town.wallet)).dialect == "x402-v2"


async def test_one_402_says_all_of_them(tmp_path: Path) -> None:
    town = Fakes(tmp_path, EVERY)
    async with town.gate, town.http:
        answer = await town.http.get("/page/one")
        for dialect in EVERY:
            if dialect.name != "l402":
                assert dialect.offers(Fields(answer.headers.multi_items()), answer.content, town.context()), dialect
        assert {"x-payment", "x-price", "x-currency", "x-payment-address", "x-payment-required"} < set(answer.headers)
        assert 'rel="payment"' in answer.headers["link"]
        assert (answer.json()["price"], answer.json()["currency"]) == ("0.500000", "USD")
        lines = sum(len(name) + len(value) + 4 for name, value in answer.headers.multi_items())
        assert lines < MAX_CHALLENGE_BYTES
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        assert {"X-Payment", "X-Payment-Receipt", "X-Price", "Link"} < set(exposed)
        assert {"X-Payment-Proof", "X-Payment-Token"} < set(answer.headers["vary"].split(", "))


# --- still pending


async def test_a_payment_under_way_is_asked_for_again_with_the_same_proof(tmp_path: Path) -> None:
    town = Fakes(tmp_path, [PaymentUri()], style="invoice")
    async with town.gate, town.http:
        offer = await town.offer(PaymentUri())
        (key,) = town.ledger.invoices
        proof = town.ledger.proofs[key]  # which a payer has before the money is there
        answer = await town.show(offer, proof)
        assert (answer.status_code, answer.json()["code"]) == (402, "not_settled")
        assert answer.headers["retry-after"].isdigit()
        assert "link" not in answer.headers  # a new offer would invite a second payment
        assert not {"offers", "payment_uri"} & set(answer.json())
        await town.wallet.pay(offer, record_id="r1", now=town.clock())
        assert (await town.show(offer, proof)).status_code == 200


@pytest.mark.parametrize("body", [b"", b'{"code":"not_settled"}', b'{"payment_uri":"fake:fake?amount=9"}'])
async def test_a_402_after_the_payment_makes_the_client_send_the_same_proof(tmp_path: Path, body: bytes) -> None:
    town = Fakes(tmp_path, [PaymentUri()], style="invoice")
    refuse = 2

    class Slow(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal refuse
            if request.url.path.startswith("/page/"):
                town.sent.append(request)
            if "x-payment-proof" in request.headers and refuse:
                refuse -= 1
                return httpx.Response(402, content=body, request=request)
            return await town.transport.handle_async_request(request)

    async with town.gate, town.http:
        town.handle_async_request = Slow().handle_async_request  # type: ignore[method-assign]
        response = await town.buy(town.wallet)
        assert response.status_code == 200
        proofs = [request.headers.get("x-payment-proof") for request in town.sent]
        assert proofs[0] is None
        assert len(proofs) == 4
        assert len(set(proofs[1:])) == 1
        assert town.ledger.count("pay") == 1


# --- on the sandbox rails


async def test_lightning_by_its_uri(tmp_path: Path) -> None:
    clock = FakeClock()
    rail = LightningRail.sandbox(tmp_path, clock=clock)
    town = Town(tmp_path, [rail], [PaymentUri()], clock)
    town.price = "21 sat"
    async with town.gate, town.http:
        answer = await town.http.get("/page/one")
        assert answer.headers["link"] == f'<{answer.json()["payment_uri"]}>; rel="payment"'
        assert answer.json()["payment_uri"].startswith("lightning:lnbcrt")
        town.lose = 1
        response = await town.buy(LightningWallet.sandbox(tmp_path, clock=clock))
        assert (response.status_code, town.runs) == (200, ["one"])
        assert purchase(response).dialect == "payment-uri"
        preimage = town.sent[-1].headers["x-payment-proof"]
        assert len(preimage) == 64
        assert "x-payment-token" not in town.sent[-1].headers
        assert str(await rail.received()) == "21 sat"
        other = await town.http.get("/page/two", headers={"X-Payment-Proof": preimage})
        assert (other.status_code, other.json()["code"]) == (402, "resource_mismatch")


@pytest.fixture
async def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Town]:
    monkeypatch.setattr(stripe, "enable_telemetry", False)
    clock = FakeClock()
    town = Town(tmp_path, [StripeRail.sandbox(tmp_path, clock=clock)], [XReceipt(), Mpp(), PaymentUri()], clock)
    async with town.gate, town.http:
        yield town


async def test_stripe_by_the_id_of_a_payment_intent(card: Town) -> None:
    wallet = OwnCustomerWallet.sandbox(card.directory, clock=card.clock, transport=card.transport)
    card.lose = 1
    response = await card.buy(wallet, [XReceipt()])
    assert (response.status_code, card.runs) == (200, ["one"])
    shown = card.sent[-1].headers
    assert shown["x-receipt"].startswith("pi_")
    assert str(await card.rails[0].received()) == "0.5 USD"  # type: ignore[attr-defined]
    # The id alone is no secret: it opens nothing, and replays nothing.
    alone = {"X-Receipt": shown["x-receipt"]}
    for path in ("/page/one", "/page/two"):
        answer = await card.http.get(path, headers=alone)
        assert (answer.status_code, answer.json()["code"]) == (409, "replay_not_proven")
        assert "offers" not in answer.json()
    answer = await card.http.get("/page/two", headers=alone | {"X-Payment-Token": shown["x-payment-token"]})
    assert (answer.status_code, answer.json()["code"]) == (402, "resource_mismatch")
    assert card.runs == ["one"]


async def test_an_id_that_somebody_else_has_seen_first_opens_nothing(card: Town) -> None:
    wallet = OwnCustomerWallet.sandbox(card.directory, clock=card.clock, transport=card.transport)
    mine, thief = await card.offer(XReceipt()), await card.offer(XReceipt())
    paid = await wallet.pay(mine, record_id="r1", now=card.clock())
    await wallet.close()
    for offer, without in ((thief, ()), (mine, ("X-Payment-Token",))):
        answer = await card.show(offer, paid.payload, without=without)
        assert answer.status_code in (402, 409)
        assert answer.json()["code"] in ("resource_mismatch", "replay_not_proven")
    assert (await card.show(mine, paid.payload)).status_code == 200


async def test_an_altered_payment_object_has_nothing_prepared(card: Town) -> None:
    offer = await card.offer(XReceipt())
    assert offer.envelope is not None
    payment = offer.envelope["payment"]
    for changes in ({"amount": "1"}, {"order": "f" * 64}, {"offer_token": None}):
        asked = {"dialect": "x-receipt", "offer": {"payment": payment | changes}, "prepare": "payment_intent"}
        answer = await card.http.post("/.well-known/rail402/stripe", json=asked)
        assert answer.status_code == 402, changes


async def test_stripe_by_the_link_to_its_page(card: Town) -> None:
    answer = await card.http.get("/page/one")
    page = answer.json()["payment_uri"]
    assert page == answer.json()["offers"][0]["pay_url"]
    assert answer.headers["link"] == f'<{page}>; rel="payment"'
    assert "offer_token" not in answer.json()
    shown = await card.http.get(page)
    assert (shown.status_code, "0.50 USD" in shown.text) == (200, True)
