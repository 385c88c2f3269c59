"""While the end of a payment is not known, nobody who shows its proof is asked to pay again, whatever is beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from rail402.dialects import DEFAULT_DIALECTS, OPTIONAL_DIALECTS, dialect_by_name
from rail402.errors import MalformedInput
from rail402.protocol.charge import Charge, Delivery, Operation, PaymentState
from rail402.protocol.dialect import Fields
from rail402.protocol.payment import Payment
from rail402.server.limits import Limits
from rail402.server.pending import pending_among
from rail402.testing.fakes import Ending, FakeRail, FakeSpec
from tests.unit.server.market import market
from tests.unit.server.shop import Shop, Wire
from tests.unit.server.spoiled import BESIDE, TOKENS, WAYS, Lines

DIALECTS = [*DEFAULT_DIALECTS, *OPTIONAL_DIALECTS]
SPOKEN = [
    *(("signed", name) for name in ("x402-v2", "mpp", "x402-v1", "x-receipt", "x-payment", "x-price", "payment-uri")),
    *(("invoice", name) for name in ("x402-v2", "mpp", "l402", "x-receipt", "payment-uri")),
]
CASES = [(*spoken, way) for spoken in SPOKEN for way in WAYS[spoken[1]]]
NEIGHBOURS = [
    (*spoken, beside)
    for spoken in SPOKEN
    for beside, (field, _) in BESIDE.items()
    if field.lower() != dialect_by_name(spoken[1]).request_fields[0]
]
PENDING = [
    PaymentState.UNKNOWN,
    PaymentState.CLAIMED,
    PaymentState.HOLDING,
    PaymentState.HELD,
    PaymentState.SETTLING,
    PaymentState.RELEASING,
    PaymentState.REFUNDING,
]
ENDED = [PaymentState.SETTLED, PaymentState.RELEASED, PaymentState.REJECTED, PaymentState.REFUNDED]
OFFERS = ("payment-required", "www-authenticate", "x-payment", "x-payment-required", "x-price", "link")
MEMBERS = ("offers", "accepts", "payment", "payment_uri", "paymentAddress")


class Counter:
    """A shop that sells two things in every dialect, and what became of the one payment that was made there."""

    def __init__(self, style: str, dialect: str, **options: Any) -> None:
        self.shop = Shop(style=style, dialects=DIALECTS, wait_seconds=0, **options)
        self.dialect, self.runs = dialect, 0
        for path in ("/goods", "/other"):
            paid = self.shop.gate.paid("0.003 USD", flow="upfront")(self._goods)
            self.shop.app.add_route(path, paid, methods=["GET", "POST"])

    async def _goods(self, request: Request) -> Response:
        self.runs += 1
        return PlainTextResponse("the goods")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[dict[str, str]]:
        """Have a payment made whose outcome nobody knows; the fields that show it."""
        shop = self.shop
        async with shop.open():
            asked = await shop.client.get("/goods")
            speaker = dialect_by_name(self.dialect)
            (offer, *_) = speaker.offers(Fields(asked.headers.multi_items()), asked.content, shop.context())
            paid = await shop.wallet.pay(offer, record_id="r", now=shop.clock())
            fields = dict(speaker.credential(offer, dict(paid.payload), shop.context()))
            shop.ledger.script("settle", Ending.UNKNOWN_NOT_DONE)
            lost = await shop.client.get("/goods", headers=fields)
            assert (lost.status_code, lost.json()["code"]) == (503, "outcome_unknown")
            yield fields

    async def put(self, state: PaymentState) -> Charge:
        """Have the charge stand in that state, with a worker at it where one would be."""
        works = state in (PaymentState.CLAIMED, PaymentState.HELD)
        facts = {
            "payment": state,
            "operation": Operation.SETTLE if state is PaymentState.UNKNOWN else None,
            "delivery": Delivery.RUNNING if works else Delivery.FAILED,
            "reruns": 9,
            "code": "payment_declined" if state is PaymentState.REJECTED else None,
            "lease_until": self.shop.clock() + 1000,
        }
        return await self.shop.gate.services().store.save((await self.shop.only_charge()).model_copy(update=facts))

    async def show(self, lines: Lines, path: str = "/goods", method: str = "GET", body: bytes = b"") -> Wire:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in lines]
        return await self.shop.request(path, method, headers=raw, chunks=[body]).run()


def asks_to_pay(answer: Wire) -> bool:
    """Whether there is an offer in it, of whatever dialect."""
    said = answer.json()
    return any(answer.all(name) for name in OFFERS) or any(name in said for name in MEMBERS)


async def is_told_to_wait(counter: Counter, lines: Lines, **request: Any) -> None:
    """Show it in every state without an end."""
    for state in PENDING:
        charge = await counter.put(state)
        answer = await counter.show(lines, **request)
        told = f"{state}: {answer.status} {answer.body.decode()}"
        assert answer.status in (400, 409, 503), told
        assert not asks_to_pay(answer), told
        assert answer.json()["status"] == answer.status
        if answer.status == 503:
            assert int(answer.one("retry-after")) > 0
        assert await counter.shop.only_charge() == charge
    assert counter.runs == 0


@pytest.mark.parametrize(("style", "dialect", "way"), CASES)
async def test_a_spoiled_payment_is_not_asked_for_again(style: str, dialect: str, way: str) -> None:
    counter = Counter(style, dialect)
    async with counter.open() as fields:
        await is_told_to_wait(counter, WAYS[dialect][way](fields))


@pytest.mark.parametrize(("style", "dialect", "beside"), NEIGHBOURS)
async def test_nor_because_of_what_comes_beside_it(style: str, dialect: str, beside: str) -> None:
    counter = Counter(style, dialect)
    async with counter.open() as fields:
        other = BESIDE[beside]
        await is_told_to_wait(counter, [*fields.items(), other])
        await is_told_to_wait(counter, [other, *fields.items()])


@pytest.mark.parametrize(
    ("path", "method", "body"),
    [("/other", "GET", b""), ("/goods?page=2", "GET", b""), ("/goods", "POST", b""), ("/goods", "GET", b"x")],
)
@pytest.mark.parametrize(("style", "dialect"), SPOKEN)
async def test_nor_for_something_else(style: str, dialect: str, path: str, method: str, body: bytes) -> None:
    counter = Counter(style, dialect)
    async with counter.open() as fields:
        await is_told_to_wait(counter, [*fields.items()], path=path, method=method, body=body)


@pytest.mark.parametrize(("style", "dialect"), SPOKEN)
async def test_nor_when_its_offer_has_expired(style: str, dialect: str) -> None:
    counter = Counter(style, dialect)
    async with counter.open() as fields:
        counter.shop.clock.advance(10**6)
        await is_told_to_wait(counter, [*fields.items()])


@pytest.mark.parametrize(("style", "dialect"), SPOKEN)
async def test_nor_because_its_rail_is_not_taken_here(style: str, dialect: str) -> None:
    counter = Counter(style, dialect)
    shop = counter.shop
    gold = FakeRail(shop.ledger, FakeSpec("gold"))
    shop.gate._rails["gold"], shop.gate._registry._specs["gold"] = gold, gold.spec
    shop.app.add_route("/gold", shop.gate.paid("1 USD", rails=["gold"])(counter._goods))
    async with counter.open() as fields:
        assert asks_to_pay(await counter.show([], "/gold"))
        await is_told_to_wait(counter, [*fields.items()], path="/gold")


@pytest.mark.parametrize("state", [PaymentState.RELEASED, PaymentState.REJECTED, PaymentState.REFUNDED])
async def test_once_it_has_an_end_it_is(state: PaymentState) -> None:
    counter = Counter("signed", "x402-v2")
    async with counter.open() as fields:
        await counter.put(state)
        for way in ("scheme in capitals", "another signature"):
            answer = await counter.show(WAYS["x402-v2"][way](fields))
            assert (answer.status, asks_to_pay(answer)) == (402, True)


async def test_a_lease_that_lapsed_before_the_rail_was_asked_is_an_end() -> None:
    counter = Counter("signed", "x402-v2")
    async with counter.open() as fields:
        for state, asks in ((PaymentState.CLAIMED, True), (PaymentState.SETTLING, False), (PaymentState.HELD, False)):
            await counter.put(state)
            counter.shop.clock.advance(1000)
            answer = await counter.show(WAYS["x402-v2"]["scheme in capitals"](fields))
            assert asks_to_pay(answer) == asks


async def test_a_flood_of_spoiled_payments_is_not_looked_up_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter("signed", "x402-v1", limits=Limits(challenges="20/m"))
    async with counter.open() as fields:
        store = counter.shop.gate.services().store
        looked, find = 0, store.find

        async def counted(keys: Iterable[str]) -> Charge | None:
            nonlocal looked
            looked += 1
            return await find(keys)

        monkeypatch.setattr(store, "find", counted)
        lines = WAYS["x402-v1"]["another network"](fields)
        statuses = [(await counter.show(lines)).status for _ in range(30)]
        assert {503, 429} == set(statuses)
        assert looked == statuses.count(503)


# --- a token that does not fit


WITH_TOKENS = [*(("signed", name) for name in ("x402-v2", "x-receipt", "x-payment", "x-price", "payment-uri"))]
GARBLED = ["junk", "cut", "longer", "without its full stops"]


@pytest.mark.parametrize("token", GARBLED)
@pytest.mark.parametrize("state", [*PENDING, *ENDED])
@pytest.mark.parametrize(("style", "dialect"), [*WITH_TOKENS, ("invoice", "x402-v2")])
async def test_a_garbled_token_is_told_what_a_wrong_one_is(
    style: str, dialect: str, state: PaymentState, token: str
) -> None:
    counter = Counter(style, dialect)
    async with counter.open() as fields:
        await counter.put(state)
        wrong = await counter.show(WAYS[dialect]["token another nonce"](fields))
        garbled = await counter.show(WAYS[dialect][f"token {token}"](fields))
        assert (garbled.status, garbled.json()) == (wrong.status, wrong.json())
        assert garbled.json()["code"] == "replay_not_proven"
    assert counter.runs == 0


@pytest.mark.parametrize("token", GARBLED)
@pytest.mark.parametrize(("style", "dialect"), [*WITH_TOKENS, ("invoice", "x402-v2"), ("invoice", "x-receipt")])
async def test_a_garbled_token_pays_for_nothing(style: str, dialect: str, token: str) -> None:
    """Nothing is found by its proof: the token is refused as before, and a fresh offer is made."""
    counter = Counter(style, dialect)
    async with counter.open():
        other = Counter(style, dialect)
        async with other.shop.open():
            asked = await other.shop.client.get("/goods")
            speaker = dialect_by_name(dialect)
            (offer, *_) = speaker.offers(Fields(asked.headers.multi_items()), asked.content, other.shop.context())
            paid = await other.shop.wallet.pay(offer, record_id="r2", now=other.shop.clock())
            fields = dict(speaker.credential(offer, dict(paid.payload), other.shop.context()))
            answer = await other.show(WAYS[dialect][f"token {token}"](fields))
            assert (answer.status, answer.json()["code"]) == (402, "offer_unknown")
            assert asks_to_pay(answer)
            assert (await other.shop.charges(), other.runs, other.shop.ledger.count("verify")) == ([], 0, 0)
            assert (await other.show([*fields.items()])).status == 200


@pytest.mark.parametrize("dialect", ["x-receipt", "payment-uri"])
async def test_a_preimage_that_was_claimed_bare_needs_no_token(dialect: str) -> None:
    counter = Counter("invoice", dialect)
    async with counter.open() as fields:
        counter.shop.ledger.script("lookup", Ending.OK)
        await counter.shop.gate.reconcile()
        assert (await counter.show([*fields.items()])).body == b"the goods"
        for token in ("junk", "another nonce"):
            answer = await counter.show(WAYS[dialect][f"token {token}"](fields))
            assert (answer.status, answer.body) == (200, b"the goods")
    assert counter.runs == 1


# --- in calls of tools


@pytest.mark.parametrize(
    ("mpp", "spoiled"),
    [
        (False, {"accepted": {"scheme": "EXACT"}}),
        (False, {"extensions": {"payment-identifier": {}}}),
        (True, {"challenge": None}),
        (True, {"challenge": {"id": "x"}}),
    ],
)
async def test_nor_is_a_call_of_a_tool(mpp: bool, spoiled: dict[str, Any]) -> None:
    async with market(flow="upfront", wait_seconds=0).open() as selling:
        meta = await selling.quote("forecast", city="Oslo", mpp=mpp)
        selling.ledger.script("settle", Ending.UNKNOWN_NOT_DONE)
        await selling.call("forecast", meta, city="Oslo")
        ((name, message),) = meta.items()
        other = next(iter((await selling.quote("forecast", city="Rome", mpp=not mpp)).items()))
        for shown in ({name: message | spoiled}, {name: message, other[0]: other[1] | {"payload": {}, **spoiled}}):
            answer = await selling.call("forecast", shown, city="Oslo")
            said = str(answer)
            assert "503" in said or "400" in said, said
            assert "accepts" not in said
            assert "challenges" not in said
        assert selling.ledger.charged_total == 0


# --- how it is looked up


async def test_it_is_looked_up_on_every_network_of_its_rail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proof alone does not say which of them it is for."""
    identify = FakeSpec.identify

    def by_offer(spec: FakeSpec, payment: Payment) -> frozenset[str]:
        if payment.offer is None:
            raise MalformedInput("payment", "does not say in which token it is")
        return identify(spec, payment)

    counter = Counter("signed", "x402-v2")
    monkeypatch.setattr(FakeSpec, "identify", by_offer)
    async with counter.open() as fields:
        await is_told_to_wait(counter, WAYS["x402-v2"]["another network"](fields))


async def test_a_proof_that_cannot_be_read_is_not_looked_up() -> None:
    counter = Counter("invoice", "x402-v2")
    async with counter.open():
        unreadable = Payment(dialect="x402-v2", rail="fake", payload={"memo": "x"})
        assert await pending_among(counter.shop.gate.services(), [unreadable]) is None


def test_every_way_to_spoil_a_token_spoils_it() -> None:
    token = f"k1.1800000300.{'n' * 22}.{'m' * 43}"
    assert all(spoil(token) != token for spoil in TOKENS.values())
