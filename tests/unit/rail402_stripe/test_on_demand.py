"""Preparing payments: what is sent to Stripe and what is answered, by a transport whose answers are of any form."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest

from rail402.errors import ConfigurationError, MalformedInput, OutcomeUnknown, PaymentRejected, RailUnavailable
from rail402.protocol.binding import OfferKeys, parse_token
from rail402.protocol.charge import Operation
from rail402.protocol.dialect import Fields
from rail402.protocol.endpoint import EndpointReply, EndpointRequest
from rail402.protocol.offer import Flow, Offer
from rail402.testing.fakes import FakeClock
from rail402_stripe import OnDemand, StripeApi, StripeRail, StripeSpec, on_demand
from rail402_stripe.currencies import currency
from rail402_stripe.on_demand import Preparer
from rail402_stripe.verification import PAID_WITHIN
from tests.unit.rail402_stripe.account import ORDER, PRICE, Account

KEYS = OfferKeys({"k1": b"k" * 32})
ORIGIN = "https://shop.example"
SETTINGS = OnDemand(publishable_key="pk_test_1", checkout=True)


def offer_of(
    flow: Flow = Flow.ESCROW, expires_at: int = 1_800_000_600, nonce: bytes = b"n" * 16, settings: OnDemand = SETTINGS
) -> Offer:
    """Return an offer of the test mode, with its token."""
    offer = StripeSpec("stripe:test").offer(
        currency("usd"),
        payee="profile_test_1",
        amount=PRICE,
        flow=flow,
        expires_at=expires_at,
        payment_method_types=["card", "link"],
        other_proofs=settings.others(ORIGIN, customers=False),
    )
    return KEYS.issue(offer, ORDER, nonce)


class Gate:
    """A desk that knows one offer, by the envelope `{"it": "is mine"}`."""

    public_url = ORIGIN

    def __init__(self, offer: Offer) -> None:
        self.known, self.is_used = offer, False
        self.looked: list[tuple[Operation, list[str]]] = []
        self.how: dict[str, Any] = {}

    def offer(self, dialect: str, envelope: Mapping[str, Any], **how: Any) -> Offer:
        self.how = how
        if dialect != "mpp" or envelope != {"it": "is mine"}:
            raise PaymentRejected(code="offer_unknown")
        return self.known

    async def look_up(self, operation: Operation, *, keys: Iterable[str] = (), charge: str = "") -> bool:
        self.looked.append((operation, list(keys)))
        return self.is_used


class Stripe:
    """Says what it is told to say, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: Any = {}
        self.status = 200
        self.asked: list[tuple[str, str, dict[str, str], str | None]] = []
        self.api = StripeApi("sk_test_1", transport=httpx.MockTransport(self._handle))

    def _handle(self, request: httpx.Request) -> httpx.Response:
        form = dict(parse_qsl(request.content.decode()))
        self.asked.append((request.method, request.url.path, form, request.headers.get("idempotency-key")))
        return httpx.Response(self.status, json=self.answer)


@pytest.fixture
async def stripe_says() -> AsyncIterator[Stripe]:
    account = Stripe()
    yield account
    await account.api.close()


def request_of(body: Any, **fields: str) -> EndpointRequest:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return EndpointRequest(method="POST", query={}, fields=Fields(fields.items()), body=content)


async def prepare(stripe_says: Stripe, what: str, gate: Gate | None = None) -> EndpointReply:
    preparer = Preparer(stripe_says.api, SETTINGS, FakeClock())
    asked = {"dialect": "mpp", "offer": {"it": "is mine"}, "prepare": what}
    return await preparer.prepare(request_of(asked), gate or Gate(offer_of()))


def marks(offer: Offer | None = None) -> dict[str, str]:
    """Return the metadata of what was made for an offer, or for `offer_of()`."""
    return {"rail402_offer": parse_token((offer or offer_of()).token or "").key}


def intent(**changes: Any) -> dict[str, Any]:
    made = {"id": "pi_1", "client_secret": "pi_1_secret_1", "status": "requires_payment_method", "metadata": marks()}
    return {**made, **changes}


def session(**changes: Any) -> dict[str, Any]:
    return {
        "id": "cs_1",
        "url": "https://checkout.stripe.com/c/pay/cs_1#x",
        "status": "open",
        "expires_at": 7,
        "metadata": marks(),
        **changes,
    }


@pytest.mark.parametrize(("flow", "method"), [(Flow.ESCROW, "manual"), (Flow.UPFRONT, "automatic")])
async def test_a_payment_intent_is_made_for_the_offer(stripe_says: Stripe, flow: Flow, method: str) -> None:
    stripe_says.answer, offer = intent(), offer_of(flow)
    reply = await prepare(stripe_says, "payment_intent", Gate(offer))
    assert json.loads(reply.body) == {
        "payment_intent": "pi_1",
        "client_secret": "pi_1_secret_1",
        "publishable_key": "pk_test_1",
        "expires_at": offer.expires_at,
    }
    ((verb, path, form, key),) = stripe_says.asked
    mark = parse_token(offer.token or "").key
    bare = mark.rpartition(":")[2]
    assert (verb, path, key) == ("POST", "/v1/payment_intents", f"rail402:{bare}:payment_intent")
    assert form == {
        "amount": str(PRICE),
        "currency": "usd",
        "capture_method": method,
        "payment_method_types[0]": "card",
        "payment_method_types[1]": "link",
        "metadata[rail402_offer]": mark,
        "metadata[rail402_expires]": str(offer.expires_at),
        "metadata[rail402_realm]": "shop.example",
        "metadata[machine_payment]": "true",
        "expand[0]": "latest_charge",
    }


async def test_a_session_is_made_for_the_offer(stripe_says: Stripe) -> None:
    stripe_says.answer, offer = session(), offer_of()
    reply = await prepare(stripe_says, "checkout", Gate(offer))
    assert json.loads(reply.body) == {"url": session()["url"], "checkout_session": "cs_1", "expires_at": 7}
    ((verb, path, form, key),) = stripe_says.asked
    mark = parse_token(offer.token or "").key
    bare = mark.rpartition(":")[2]
    assert (verb, path, key) == ("POST", "/v1/checkout/sessions", f"rail402:{bare}:checkout")
    back = f"{ORIGIN}/.well-known/rail402/stripe/return?offer={bare}"
    assert (form["success_url"], form["cancel_url"]) == (f"{back}&session={{CHECKOUT_SESSION_ID}}", back)
    assert form["line_items[0][price_data][unit_amount]"] == str(PRICE)
    assert form["line_items[0][price_data][currency]"] == "usd"
    assert form["line_items[0][quantity]"] == "1"
    assert form["metadata[rail402_offer]"] == form["payment_intent_data[metadata][rail402_offer]"] == mark
    assert form["payment_intent_data[capture_method]"] == "manual"
    assert form["adaptive_pricing[enabled]"] == "false"
    assert form["client_reference_id"] == bare
    assert form["expires_at"] == str(offer.expires_at + 1860)


@pytest.mark.parametrize(
    ("what", "answer"),
    [
        ("payment_intent", intent(id=None)),
        ("payment_intent", intent(id="pi_/../x")),
        ("payment_intent", intent(client_secret=None)),
        ("checkout", session(id="pi_1")),
        ("checkout", session(id=None)),
        ("checkout", session(url=None)),
        ("checkout", session(url="javascript:alert(1)")),
        ("checkout", session(url="https://checkout.stripe.com/\r\nset-cookie: a=b")),
    ],
)
async def test_an_answer_that_is_none_is_passed_on_to_nobody(stripe_says: Stripe, what: str, answer: Any) -> None:
    stripe_says.answer = answer
    with pytest.raises((RailUnavailable, OutcomeUnknown)):
        await prepare(stripe_says, what)


@pytest.mark.parametrize(("what", "made"), [("payment_intent", intent), ("checkout", session)])
@pytest.mark.parametrize(
    "spoilt",
    [
        {"metadata": {"rail402_offer": "offer:0123456789abcdef0123456789abcdef"}},
        {"metadata": {}},
        {"metadata": None},
        {"metadata": "rail402_offer"},
        {"status": None},
    ],
)
async def test_nobody_is_asked_to_pay_what_was_made_for_another_offer(
    stripe_says: Stripe, what: str, made: Callable[..., dict[str, Any]], spoilt: dict[str, Any]
) -> None:
    stripe_says.answer = made(**spoilt)
    with pytest.raises(RailUnavailable):
        await prepare(stripe_says, what)


@pytest.mark.parametrize("what", ["payment_intent", "checkout"])
@pytest.mark.parametrize("code", ["payment_method_type_unavailable", None])
async def test_what_stripe_refuses_is_the_publisher_s_to_mend(
    stripe_says: Stripe, what: str, code: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    stripe_says.status, stripe_says.answer = 400, {"error": {"type": "invalid_request_error", "code": code}}
    with pytest.raises(RailUnavailable):
        await prepare(stripe_says, what)
    assert "payment_method_types" in caplog.text


@pytest.mark.parametrize(
    ("what", "answer"),
    [("payment_intent", intent(status="canceled")), ("checkout", session(status="expired", url=None))],
)
async def test_what_has_ended_is_not_offered_again(stripe_says: Stripe, what: str, answer: Any) -> None:
    stripe_says.answer = answer
    with pytest.raises(PaymentRejected) as caught:
        await prepare(stripe_says, what)
    assert caught.value.code == "offer_expired"


async def test_who_has_paid_is_sent_back(stripe_says: Stripe) -> None:
    stripe_says.answer, offer = session(status="complete", url=None), offer_of()
    found = json.loads((await prepare(stripe_says, "checkout", Gate(offer))).body)
    mark = parse_token(offer.token or "").key.rpartition(":")[2]
    assert found["url"] == f"{ORIGIN}/.well-known/rail402/stripe/return?offer={mark}&session=cs_1"


@pytest.mark.parametrize(("what", "answer"), [("payment_intent", intent()), ("checkout", session())])
async def test_nobody_is_asked_to_pay_for_an_offer_that_is_used(stripe_says: Stripe, what: str, answer: Any) -> None:
    stripe_says.answer, gate = answer, Gate(offer_of())
    gate.is_used = True
    with pytest.raises(PaymentRejected) as caught:
        await prepare(stripe_says, what, gate)
    assert caught.value.code == "offer_expired"
    assert gate.looked == [(Operation.HOLD, [parse_token(gate.known.token or "").key])]


@pytest.mark.parametrize(
    ("what", "answer"),
    [("payment_intent", intent(status="requires_capture")), ("checkout", session(status="complete", url=None))],
)
async def test_what_is_paid_is_shown_though_it_has_bought_already(stripe_says: Stripe, what: str, answer: Any) -> None:
    stripe_says.answer, gate = answer, Gate(offer_of())
    gate.is_used = True
    assert (await prepare(stripe_says, what, gate)).status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 2000,
        {"dialect": "mpp", "offer": {"it": "is mine"}},
        {"dialect": "mpp", "offer": {"it": "is mine"}, "prepare": ["checkout"]},
        {"dialect": "mpp", "offer": "it is mine", "prepare": "checkout"},
        {"dialect": "mpp", "prepare": "checkout"},
        b" " * 70_000 + b"{}",
    ],
)
async def test_a_request_that_cannot_be_read(stripe_says: Stripe, body: Any) -> None:
    with pytest.raises(MalformedInput):
        await Preparer(stripe_says.api, SETTINGS, FakeClock()).prepare(request_of(body), Gate(offer_of()))
    assert stripe_says.asked == []


@pytest.mark.parametrize(
    "offer",
    [
        offer_of(settings=OnDemand()),
        offer_of().model_copy(update={"rail": "base"}),
        offer_of().model_copy(update={"network": "stripe:live"}),
    ],
)
async def test_an_offer_that_is_not_paid_that_way(stripe_says: Stripe, offer: Offer) -> None:
    for what in ("payment_intent", "checkout"):
        with pytest.raises(MalformedInput, match="offer"):
            await prepare(stripe_says, what, Gate(offer))
    assert stripe_says.asked == []


# --- settings


@pytest.mark.parametrize("key", ["pk_live_1", "sk_test_1", "", "pk_test_a b"])
def test_a_publishable_key_of_another_mode_or_form_is_refused_without_being_repeated(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        StripeRail("sk_test_1", profile_id="profile_test_1", on_demand=OnDemand(publishable_key=key))
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "addresses"),
    [
        (OnDemand(), set()),
        (OnDemand(publishable_key="pk_test_1"), {("POST", "stripe"), ("GET", "stripe/return")}),
        (
            OnDemand(checkout=True),
            {("POST", "stripe"), ("GET", "stripe"), ("POST", "stripe/checkout"), ("GET", "stripe/return")},
        ),
    ],
)
async def test_only_what_is_switched_on_has_an_address(settings: OnDemand, addresses: set[tuple[str, str]]) -> None:
    rail = StripeRail("sk_test_1", profile_id="profile_test_1", on_demand=settings)
    assert set(rail.endpoints()) == addresses
    offer = offer_of(settings=settings)
    assert rail.pay_path(offer) == ("stripe" if settings.checkout else None)
    await rail.close()


async def test_an_account_s_id_alone_is_paid_by_nobody() -> None:
    with pytest.raises(ConfigurationError, match="nobody can pay"):
        StripeRail("sk_test_1", profile_id="acct_1")
    rail = StripeRail("sk_test_1", profile_id="acct_1", on_demand=SETTINGS)
    assert "acct_1" in repr(rail)
    await rail.close()


# --- what nobody paid


async def test_only_unpaid_ones_whose_time_is_over_are_cancelled(stripe_says: Stripe) -> None:
    clock = FakeClock()
    preparer = Preparer(stripe_says.api, SETTINGS, clock)
    gate, asked = Gate(offer_of(expires_at=clock() + 600)), {"dialect": "mpp", "offer": {"it": "is mine"}}
    stripe_says.answer = intent()
    await preparer.prepare(request_of(asked | {"prepare": "payment_intent"}), gate)
    clock.advance(600 + PAID_WITHIN)
    assert await preparer.cancel_unpaid() == 0
    assert len(stripe_says.asked) == 1
    clock.advance(1)
    stripe_says.status = 500  # it cannot be looked at: the next turn tries again
    with pytest.raises(RailUnavailable):
        await preparer.cancel_unpaid()
    stripe_says.status = 200
    for unreadable in (intent(status=None), intent(status={}), intent(id="pi_2", status="succeeded"), {}):
        stripe_says.answer = unreadable
        with pytest.raises(RailUnavailable):
            await preparer.cancel_unpaid()
    stripe_says.answer = intent()
    assert await preparer.cancel_unpaid() == 1
    assert stripe_says.asked[-1][:2] == ("POST", "/v1/payment_intents/pi_1/cancel")
    assert stripe_says.asked[-1][3] == "rail402:pi_1:unpaid"
    assert await preparer.cancel_unpaid() == 0


async def test_what_others_left_cannot_be_listed_and_the_rest_is_cancelled(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_demand, "_TURN_SECONDS", 0)
    preparer = Preparer(account.api, SETTINGS, account.clock)
    made = [await account.api.intent_of_key(f"made:{n}", amount=50, currency="usd") for n in range(3)]
    preparer._until = {intent["id"]: 0 for intent, _ in made}
    tries, cancelled = 0, asyncio.Event()

    async def too_many() -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            cancelled.set()
        raise RailUnavailable("more than can be read")

    monkeypatch.setattr(preparer, "find_left", too_many)
    account.spoil("/v1/payment_intents/*/cancel", "timeout")  # of one alone: the next turn makes up for it
    running = asyncio.create_task(preparer.run_forever())
    await cancelled.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await account.statuses() == ["canceled"] * 3


@pytest.mark.parametrize("status", ["requires_capture", "succeeded", "canceled", "processing"])
async def test_what_was_paid_meanwhile_is_left_alone(stripe_says: Stripe, status: str) -> None:
    clock = FakeClock()
    preparer = Preparer(stripe_says.api, SETTINGS, clock)
    asked = {"dialect": "mpp", "offer": {"it": "is mine"}, "prepare": "payment_intent"}
    offer = offer_of(expires_at=clock())
    stripe_says.answer = intent(metadata=marks(offer))
    await preparer.prepare(request_of(asked), Gate(offer))
    clock.advance(PAID_WITHIN + 1)
    stripe_says.answer = intent(status=status)
    assert await preparer.cancel_unpaid() == 0
    assert [line[0] for line in stripe_says.asked] == ["POST", "GET"]


@pytest.mark.parametrize(
    "left",
    [
        intent(metadata=None),
        intent(metadata={}),
        intent(metadata={"rail402_offer": "offer:1"}),
        intent(metadata={"rail402_offer": "offer:1", "rail402_expires": "soon"}),
        intent(metadata={"rail402_expires": "1"}),
        intent(metadata={"rail402_offer": "offer:1", "rail402_expires": "1"}, status="succeeded"),
        intent(metadata={"rail402_offer": "offer:1", "rail402_expires": "1"}, status="requires_capture"),
    ],
)
async def test_what_is_not_ours_or_paid_is_not_found(stripe_says: Stripe, left: dict[str, Any]) -> None:
    preparer = Preparer(stripe_says.api, SETTINGS, FakeClock())
    stripe_says.answer = {"data": [left], "has_more": False}
    await preparer.find_left()
    assert await preparer.cancel_unpaid() == 0
    assert [line[0] for line in stripe_says.asked] == ["GET"]


async def test_a_rail_that_runs_cancels_by_itself(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_demand, "_TURN_SECONDS", 0)
    marks = {"rail402_offer": "offer:1", "rail402_expires": str(account.clock() - PAID_WITHIN - 1)}
    await account.api.create_intent(None, "left", amount=PRICE, currency="usd", metadata=marks)
    await account.rail.start()
    await account.rail.start()  # one task, however often
    for _ in range(1000):
        if await account.statuses() == ["canceled"]:
            break
        await asyncio.sleep(0)
    else:
        pytest.fail("nothing was cancelled")
    await account.rail.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "rail402-stripe-unpaid"]
