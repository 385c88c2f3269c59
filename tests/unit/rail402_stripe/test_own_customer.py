"""The wallet of an own customer: what it asks the seller, what it believes, and that it confirms once."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from rail402.errors import (
    ConfigurationError,
    PaymentActionRequired,
    PaymentFailed,
    PaymentOutcomeUnknown,
    RailUnavailable,
)
from rail402.money import Money
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.rail import Cost, NotPaid, Paid, Unknown
from rail402_stripe import OwnCustomerWallet
from rail402_stripe.api import SANDBOX_PUBLISHABLE_KEY
from rail402_stripe.own_customer import PublishableApi, _Prepared
from rail402_stripe.sandbox import SANDBOX_URL
from rail402_stripe.sandbox.exchange import Request
from tests.unit.rail402_stripe.account import PRICE, Account

PLACE = "https://shop.example/.well-known/rail402/stripe"
SECURE = "pm_card_authenticationRequired"
CONFIRM = "/v1/payment_intents/*/confirm"


class Seller:
    """The seller's address: it prepares PaymentIntents in the sandbox, one for each offer, and can say anything."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.asked: list[tuple[str, Any]] = []
        self.answer: httpx.Response | Exception | None = None
        self.terms: dict[str, Any] = {}
        self.changes: dict[str, Any] = {}
        self.wallets: list[OwnCustomerWallet] = []

    async def handle(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((str(request.url), json.loads(request.content)))
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is not None:
            return self.answer
        terms = {"amount": PRICE, "currency": "usd", "capture_method": "manual"} | self.terms
        intent = await self.account.api.create_intent(None, "prepared", payment_method_types=["card"], **terms)
        said = {"payment_intent": intent["id"], "client_secret": intent["client_secret"]}
        return httpx.Response(200, json=said | self.changes)

    def wallet(self, method: Any = "pm_card_visa") -> OwnCustomerWallet:
        account, transport = self.account, httpx.MockTransport(self.handle)
        options: Any = {"payment_method": method, "transport": transport, "clock": account.clock}
        self.wallets.append(OwnCustomerWallet.sandbox(account.directory, **options))
        return self.wallets[-1]

    async def offer(self, flow: Flow = Flow.ESCROW) -> Offer:
        """Return an offer of the sandbox's rail, as it came to the client."""
        offer = await self.account.offer(flow)
        return offer.model_copy(update={"dialect": "mpp", "envelope": {"challenge": {"id": "1"}}})

    async def pay(self, wallet: OwnCustomerWallet, offer: Offer | None = None) -> Paid:
        offer = offer or await self.offer()
        return await wallet.pay(offer, record_id="rec_1", now=self.account.clock())

    async def resume(self, wallet: OwnCustomerWallet, offer: Offer, payload: Any) -> Any:
        return await wallet.resume(offer, payload, record_id="rec_1", now=self.account.clock())


@pytest.fixture
async def seller(account: Account) -> AsyncIterator[Seller]:
    seller = Seller(account)
    yield seller
    for wallet in seller.wallets:
        await wallet.close()


# --- what it pays


async def test_the_price_is_the_whole_cost_of_its_own_publishers_offers(seller: Seller) -> None:
    wallet, offer = seller.wallet(), await seller.offer()
    assert await wallet.can_pay(offer) == Cost(price=Money.parse("0.50 USD"))
    preparing = {"url": PLACE, "publishable_key": "pk_test_other"}
    extra = dict(offer.extra)
    for changes in (
        {"network": "stripe:test"},
        {"mechanism": "card"},
        {"extra": {"payment_method_types": ["card"]}},
        {"extra": extra | {"payment_intent": preparing}},
        {"extra": extra | {"payment_method_types": ["link"]}},
    ):
        other = offer.model_copy(update=changes)
        assert await wallet.can_pay(other) is None
        with pytest.raises(PaymentFailed):
            await seller.pay(wallet, other)
    assert seller.asked == []


@pytest.mark.parametrize(("flow", "status"), [(Flow.ESCROW, "requires_capture"), (Flow.UPFRONT, "succeeded")])
async def test_it_sends_the_offer_and_confirms_what_is_prepared(seller: Seller, flow: Flow, status: str) -> None:
    offer = await seller.offer(flow)
    seller.terms = {"capture_method": "manual" if flow is Flow.ESCROW else "automatic"}
    paid = await seller.pay(seller.wallet(), offer)
    assert seller.asked == [
        (PLACE, {"dialect": "mpp", "offer": {"challenge": {"id": "1"}}, "prepare": "payment_intent"})
    ]
    (intent,) = await seller.account.intents()
    assert intent["status"] == status
    assert paid == Paid(
        payload={"paymentIntent": intent["id"], "clientSecret": intent["client_secret"]},
        fee=Money.parse("0 USD"),
        moved=status == "succeeded",
    )
    spec, known = seller.account.rail.spec, {"paymentIntent": intent["id"]}
    assert spec.bindings["mpp"].encode_proof(paid.payload) == known  # the secret stays here


async def test_an_expired_offer_is_not_prepared(seller: Seller) -> None:
    offer = await seller.offer()
    seller.account.clock.advance(600)
    with pytest.raises(PaymentFailed):
        await seller.pay(seller.wallet(), offer)
    assert seller.asked == []


async def test_a_payment_method_for_each_payment(seller: Seller) -> None:
    async def method(offer: Offer) -> str:
        return "pm_card_visa" if offer.amount == PRICE else SECURE

    assert await seller.pay(seller.wallet(method))


# --- what the seller prepares is checked at Stripe


@pytest.mark.parametrize(
    ("terms", "what"),
    [
        ({"amount": 5000}, "amount"),
        ({"amount": PRICE + 1}, "amount"),
        ({"currency": "eur"}, "currency"),
        ({"capture_method": "automatic"}, "capture_method"),
    ],
)
async def test_other_terms_are_never_confirmed(seller: Seller, terms: Any, what: str) -> None:
    seller.terms = terms
    with pytest.raises(PaymentFailed, match=f"not what was offered: its {what}"):
        await seller.pay(seller.wallet())
    assert await seller.account.statuses() == ["requires_payment_method"]


@pytest.mark.parametrize(
    "changes",
    [
        {"payment_intent": "pi_1"},
        {"payment_intent": None},
        {"payment_intent": "pi_1/../../refunds"},
        {"client_secret": "pi_1_secret_x"},
        {"client_secret": None},
        {"client_secret": "x&amount=1"},
        {"payment_intent": "pi_9", "client_secret": "pi_9_secret_9"},
    ],
)
async def test_what_is_no_payment_intent_is_not_confirmed(seller: Seller, changes: Any) -> None:
    seller.changes = changes
    with pytest.raises(PaymentFailed) as caught:
        await seller.pay(seller.wallet())
    assert "secret_" not in str(caught.value)
    assert await seller.account.balance() == 0
    assert await seller.account.statuses() == ["requires_payment_method"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(400, json={"code": "malformed_request"}), PaymentFailed),
        (httpx.Response(402, json={"code": "offer_expired"}), PaymentFailed),
        (httpx.Response(404), PaymentFailed),
        (httpx.Response(503), RailUnavailable),
        (httpx.Response(302, headers={"Location": "https://evil.test/"}), RailUnavailable),
        (httpx.Response(200, text="<html>"), RailUnavailable),
        (httpx.Response(200, content=b" " * 70_000 + b"{}"), RailUnavailable),
        (httpx.Response(200, json={}), PaymentFailed),
        (httpx.ReadTimeout("slow"), RailUnavailable),
        (httpx.ConnectError("down"), RailUnavailable),
        (httpx.RemoteProtocolError("nonsense"), RailUnavailable),
    ],
)
async def test_a_seller_that_prepares_nothing_is_not_paid(seller: Seller, answer: Any, kind: type) -> None:
    seller.answer = answer
    with pytest.raises(kind):
        await seller.pay(seller.wallet())
    assert len(seller.asked) == 1
    assert await seller.account.intents() == []


# --- how a confirmation ends


@pytest.mark.parametrize(
    ("card", "code"),
    [
        ("pm_card_visa_chargeDeclined", "payment_failed"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "insufficient_funds"),
        ("pm_nobodys", "payment_failed"),
    ],
)
async def test_a_declined_card_pays_nothing(seller: Seller, card: str, code: str) -> None:
    with pytest.raises(PaymentFailed) as caught:
        await seller.pay(seller.wallet(card))
    assert caught.value.code == code
    assert await seller.account.statuses() == ["requires_payment_method"]


async def test_a_card_that_wants_its_person_waits(seller: Seller) -> None:
    wallet, offer = seller.wallet(SECURE), await seller.offer()
    with pytest.raises(PaymentActionRequired) as caught:
        await seller.pay(wallet, offer)
    (intent,) = await seller.account.intents()
    assert caught.value.url == f"{SANDBOX_URL}/c/authenticate/{intent['id']}"
    assert intent["next_action"]["redirect_to_url"]["return_url"] == f"{PLACE}/return"
    proof = caught.value.proof
    assert proof == {"paymentIntent": intent["id"], "clientSecret": intent["client_secret"]}
    with pytest.raises(PaymentActionRequired) as again:
        await seller.resume(wallet, offer, proof)
    assert again.value.url == caught.value.url
    assert wallet.origins_for_people == {SANDBOX_URL}


@pytest.mark.parametrize("answer", ["timeout", "server_error", "html", "truncated"])
async def test_a_lost_answer_is_looked_up(seller: Seller, answer: Any) -> None:
    seller.account.spoil(CONFIRM, answer, applied=True)
    assert (await seller.pay(seller.wallet())).payload["paymentIntent"]
    assert await seller.account.statuses() == ["requires_capture"]


async def test_a_confirmation_that_may_be_on_its_way_is_unknown_until_it_cannot_be(seller: Seller) -> None:
    wallet, offer = seller.wallet(), await seller.offer()
    seller.account.spoil(CONFIRM, "timeout", applied=False)
    with pytest.raises(PaymentOutcomeUnknown) as caught:
        await seller.pay(wallet, offer)
    proof = caught.value.proof
    assert isinstance(await seller.resume(wallet, offer, proof), Unknown)
    seller.account.clock.advance(720)
    assert isinstance(await seller.resume(wallet, offer, proof), Unknown)
    seller.account.clock.advance(1)
    assert await seller.resume(wallet, offer, proof) == NotPaid()
    assert await seller.account.statuses() == ["requires_payment_method"]  # it never confirmed again


async def test_a_lost_answer_that_cannot_be_looked_up_is_unknown(seller: Seller) -> None:
    wallet, offer = seller.wallet(), await seller.offer()
    look = wallet._api.look

    async def lost(*args: Any) -> Any:
        wallet._api.look = down  # type: ignore[method-assign]
        return await look(*args)

    async def down(*args: Any) -> Any:
        raise RailUnavailable("down")

    wallet._api.look = lost  # type: ignore[method-assign]
    seller.account.spoil(CONFIRM, "timeout", applied=True)
    with pytest.raises(PaymentOutcomeUnknown) as caught:
        await seller.pay(wallet, offer)
    with pytest.raises(RailUnavailable):
        await seller.resume(wallet, offer, caught.value.proof)
    wallet._api.look = look  # type: ignore[method-assign]
    assert isinstance(await seller.resume(wallet, offer, caught.value.proof), Paid)


async def test_a_busy_stripe_is_not_paid(seller: Seller) -> None:
    seller.account.spoil(CONFIRM, "rate_limited")
    with pytest.raises(RailUnavailable):
        await seller.pay(seller.wallet())
    assert await seller.account.statuses() == ["requires_payment_method"]


# --- what became of it


async def test_nothing_is_confirmed_again(seller: Seller) -> None:
    offer = await seller.offer()
    first = await seller.pay(seller.wallet(), offer)
    wallet = seller.wallet()
    wallet._api.confirm = None  # type: ignore[assignment, method-assign]
    assert (await seller.pay(wallet, offer)).payload == first.payload
    assert await seller.account.statuses() == ["requires_capture"]


async def test_a_payment_that_nobody_wrote_down_is_found_by_its_offer(seller: Seller) -> None:
    wallet, offer = seller.wallet(), await seller.offer()
    paid = await seller.pay(wallet, offer)
    found = await seller.resume(wallet, offer, None)
    assert isinstance(found, Paid)
    assert found.payload == paid.payload


async def test_an_action_that_nobody_wrote_down_is_found_by_its_offer(seller: Seller) -> None:
    wallet, offer = seller.wallet(SECURE), await seller.offer()
    with pytest.raises(PaymentActionRequired) as first:
        await seller.pay(wallet, offer)
    with pytest.raises(PaymentActionRequired) as again:
        await seller.resume(wallet, offer, None)
    assert (again.value.url, again.value.proof) == (first.value.url, first.value.proof)


async def test_one_that_may_still_arrive_is_written_down_first(seller: Seller) -> None:
    wallet, offer = seller.wallet(), await seller.offer()
    found = await seller.resume(wallet, offer, None)  # it ended before it confirmed, or a moment after
    assert isinstance(found, Paid)
    assert found.payload["clientSecret"]
    assert await seller.account.statuses() == ["requires_payment_method"]


@pytest.mark.parametrize("answer", [httpx.Response(402, json={"code": "offer_expired"}), httpx.ReadTimeout("slow")])
async def test_what_its_offer_does_not_tell_any_more_stays_unknown(seller: Seller, answer: Any) -> None:
    seller.answer = answer
    wallet, offer = seller.wallet(), await seller.offer()
    if isinstance(answer, Exception):
        with pytest.raises(RailUnavailable):
            await seller.resume(wallet, offer, None)
    else:
        assert isinstance(await seller.resume(wallet, offer, None), Unknown)


async def test_a_person_who_refuses_has_not_paid(seller: Seller) -> None:
    wallet, offer = seller.wallet(SECURE), await seller.offer()
    with pytest.raises(PaymentActionRequired) as caught:
        await seller.pay(wallet, offer)
    proof = caught.value.proof
    (intent,) = await seller.account.intents()
    form = {"content-type": "application/x-www-form-urlencoded"}
    path = f"/c/authenticate/{intent['id']}"
    await seller.account.sandbox.handle(Request("POST", path, b"", form, b"outcome=fail"))
    assert await seller.resume(wallet, offer, proof) == NotPaid()


async def test_what_is_canceled_is_not_paid(seller: Seller) -> None:
    wallet, offer = seller.wallet(), await seller.offer()
    paid = await seller.pay(wallet, offer)
    await seller.account.api.cancel(str(paid.payload["paymentIntent"]), "k")
    assert await seller.resume(wallet, offer, paid.payload) == NotPaid()


@pytest.mark.parametrize("payload", [{}, {"paymentIntent": "pi_1"}, {"paymentIntent": "pi_1", "clientSecret": "x"}])
async def test_a_proof_of_another_wallet_is_unknown(seller: Seller, payload: Any) -> None:
    assert isinstance(await seller.resume(seller.wallet(), await seller.offer(), payload), Unknown)


@pytest.mark.parametrize("status", ["processing", "something_new", None, 7])
async def test_what_is_under_way_or_unheard_of_is_unknown(seller: Seller, status: Any) -> None:
    wallet, offer = seller.wallet(), await seller.offer()
    paid = await seller.pay(wallet, offer)
    (intent,) = await seller.account.intents()

    async def look(*args: Any) -> Any:
        return {**intent, "status": status}

    wallet._api.look = look  # type: ignore[method-assign]
    assert isinstance(await seller.resume(wallet, offer, paid.payload), Unknown)
    with pytest.raises(PaymentOutcomeUnknown) as caught:
        await seller.pay(wallet, offer)
    assert caught.value.proof == paid.payload


@pytest.mark.parametrize("action", [None, {}, "redirect", {"redirect_to_url": None}, {"redirect_to_url": {"url": 7}}])
async def test_an_action_without_a_page_has_no_link(seller: Seller, action: Any) -> None:
    wallet, offer = seller.wallet(), await seller.offer()
    paid = await seller.pay(wallet, offer)
    (intent,) = await seller.account.intents()

    async def look(*args: Any) -> Any:
        return {**intent, "status": "requires_action", "next_action": action}

    wallet._api.look = look  # type: ignore[method-assign]
    with pytest.raises(PaymentActionRequired) as caught:
        await seller.resume(wallet, offer, paid.payload)
    assert caught.value.url is None


async def test_a_payment_intent_of_other_terms_says_nothing(seller: Seller) -> None:
    wallet, offer = seller.wallet(), await seller.offer()
    paid = await seller.pay(wallet, offer)
    other = offer.model_copy(update={"amount": PRICE + 1})
    assert isinstance(await seller.resume(wallet, other, paid.payload), Unknown)


@pytest.mark.parametrize("card", ["pm_card_visa", SECURE])
async def test_one_that_is_changed_before_it_is_confirmed_is_not_called_unpaid(seller: Seller, card: str) -> None:
    wallet, offer = seller.wallet(card), await seller.offer()
    confirm = wallet._api.confirm

    async def confirm_more(*args: Any) -> Any:
        return {**await confirm(*args), "amount": PRICE * 100}

    wallet._api.confirm = confirm_more  # type: ignore[method-assign]
    with pytest.raises(PaymentOutcomeUnknown) as caught:
        await seller.pay(wallet, offer)
    assert caught.value.proof is not None


# --- keys and secrets


@pytest.mark.parametrize(
    ("key", "method"),
    [("sk_test_1", "pm_1"), ("rk_live_1", "pm_1"), ("pk_1", "pm_1"), ("", "pm_1"), ("pk_test_1", "4242424242424242")],
)
def test_a_wrong_key_or_method_is_refused(key: str, method: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        OwnCustomerWallet(key, method)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(("key", "network"), [("pk_test_1", "stripe:test"), ("pk_live_1", "stripe:live")])
async def test_the_key_says_the_network(key: str, network: str) -> None:
    wallet = OwnCustomerWallet(key, "pm_1")
    assert network in wallet.name
    assert wallet.spec.mechanisms[0].network == network
    assert wallet.origins_for_people == {"https://hooks.stripe.com", "https://pm-redirects.stripe.com"}
    await wallet.close()


async def test_stripe_is_asked_with_the_publishable_key() -> None:
    requests: list[httpx.Request] = []
    answers = {"GET": {"id": "pi_1", "status": "requires_payment_method"}, "POST": {"id": "pi_1"}}

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json=answers[request.method])

    api = PublishableApi("pk_live_1", transport=httpx.MockTransport(answer))
    prepared = _Prepared("pi_1", "pi_1_secret_2")
    await api.look(prepared)
    await api.confirm(prepared, "pm_1", f"{PLACE}/return")
    await api.close()
    get, post = requests
    assert (get.method, get.url.path, get.url.params["client_secret"]) == (
        "GET",
        "/v1/payment_intents/pi_1",
        "pi_1_secret_2",
    )
    assert (post.method, post.url.path) == ("POST", "/v1/payment_intents/pi_1/confirm")
    assert dict(httpx.QueryParams(post.content.decode())) == {
        "client_secret": "pi_1_secret_2",
        "payment_method": "pm_1",
        "return_url": f"{PLACE}/return",
    }
    assert {request.headers["authorization"] for request in requests} == {"Bearer pk_live_1"}


async def test_no_secret_is_shown(seller: Seller, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    wallet, offer = seller.wallet(SECURE), await seller.offer()
    with pytest.raises(PaymentActionRequired) as caught:
        await seller.pay(wallet, offer)
    (intent,) = await seller.account.intents()
    secret = intent["client_secret"].partition("_secret_")[2]
    assert SANDBOX_PUBLISHABLE_KEY in repr(wallet)
    assert secret not in caplog.text + repr(caught.value) + str(caught.value) + repr(wallet)
