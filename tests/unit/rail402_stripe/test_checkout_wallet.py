"""The wallet that is a person: which links it takes, how long it waits, and what it believes."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from rail402.errors import PaymentActionRequired, PaymentFailed, RailUnavailable
from rail402.money import Money
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.rail import Cost, NotPaid, Unknown
from rail402_stripe import CheckoutWallet
from rail402_stripe.checkout_wallet import LINK_SECONDS
from rail402_stripe.currencies import currency
from rail402_stripe.proofs import OtherProofs
from rail402_stripe.wire import StripeSpec

NOW = 1_800_000_000
PLACE = "https://shop.example/.well-known/rail402/stripe"
LINK = "https://checkout.stripe.com/c/pay/cs_test_1"
ANSWER = {"checkout_session": "cs_test_1", "url": LINK}


def make_offer(network: Any = "stripe:test", checkout_url: str | None = PLACE, **changes: Any) -> Offer:
    offer = StripeSpec(network).offer(
        currency("usd"),
        payee="profile_1",
        amount=50,
        flow=Flow.ESCROW,
        expires_at=NOW + 600,
        payment_method_types=["card"],
        other_proofs=OtherProofs(checkout_url=checkout_url),
    )
    return offer.model_copy(update={"dialect": "mpp", "envelope": {"challenge": {}}} | changes)


def answering(answer: Any, network: Any = "stripe:test") -> tuple[CheckoutWallet, list[httpx.Request]]:
    requests: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json=answer)

    return CheckoutWallet(network=network, transport=httpx.MockTransport(handle)), requests


async def test_the_price_is_the_whole_cost_where_there_are_links() -> None:
    wallet, requests = answering(ANSWER)
    assert await wallet.can_pay(make_offer()) == Cost(price=Money.parse("0.50 USD"))
    for other in (make_offer("stripe:live"), make_offer(mechanism="card"), make_offer(checkout_url=None)):
        assert await wallet.can_pay(other) is None
        with pytest.raises(PaymentFailed):
            await wallet.pay(other, record_id="rec_1", now=NOW)
    with pytest.raises(PaymentFailed):
        await wallet.pay(make_offer(), record_id="rec_1", now=NOW + 600)
    assert requests == []


@pytest.mark.parametrize(("extra", "more"), [({}, {}), ({"external_id": "order-7"}, {"externalId": "order-7"})])
async def test_it_asks_for_a_link_and_waits(extra: Any, more: Any) -> None:
    wallet, requests = answering(ANSWER)
    offer = make_offer()
    offer = offer.model_copy(update={"extra": {**offer.extra, **extra}})
    with pytest.raises(PaymentActionRequired) as caught:
        await wallet.pay(offer, record_id="rec_1", now=NOW)
    assert caught.value.url == LINK
    assert caught.value.proof == {"checkoutSession": "cs_test_1", "url": LINK, **more}
    assert (str(requests[0].url), requests[0].method) == (PLACE, "POST")
    assert httpx.Response(200, content=requests[0].content).json() == {
        "dialect": "mpp",
        "offer": {"challenge": {}},
        "prepare": "checkout",
    }
    spec = wallet.spec.bindings["mpp"]
    assert spec.encode_proof(caught.value.proof) == {"checkoutSession": "cs_test_1", **more}
    await wallet.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"checkout_session": None},
        {"checkout_session": "cs_live_1"},
        {"checkout_session": "cs_1"},
        {"checkout_session": "pi_1"},
        {"checkout_session": "cs_test_1/../x"},
        {"url": None},
        {"url": ["x"]},
    ],
)
async def test_what_is_no_session_is_no_link(changes: Any) -> None:
    wallet, _ = answering(ANSWER | changes)
    with pytest.raises(PaymentFailed, match="no Checkout Session"):
        await wallet.pay(make_offer(), record_id="rec_1", now=NOW)


async def test_a_live_wallet_takes_live_sessions_only() -> None:
    wallet, _ = answering(ANSWER, "stripe:live")
    with pytest.raises(PaymentFailed):
        await wallet.pay(make_offer("stripe:live"), record_id="rec_1", now=NOW)
    wallet, _ = answering(ANSWER | {"checkout_session": "cs_live_1"}, "stripe:live")
    with pytest.raises(PaymentActionRequired):
        await wallet.pay(make_offer("stripe:live"), record_id="rec_1", now=NOW)


async def test_a_seller_that_cannot_be_reached_is_not_paid() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("down")

    wallet = CheckoutWallet(network="stripe:test", transport=httpx.MockTransport(handle))
    with pytest.raises(RailUnavailable):
        await wallet.pay(make_offer(), record_id="rec_1", now=NOW)


async def test_it_waits_while_the_link_may_be_open() -> None:
    wallet, requests = answering(ANSWER)
    offer, proof = make_offer(), {"checkoutSession": "cs_test_1", "url": LINK}
    last = offer.expires_at + LINK_SECONDS
    for now in (NOW, last):
        with pytest.raises(PaymentActionRequired) as caught:
            await wallet.resume(offer, proof, record_id="rec_1", now=now)
        assert caught.value.url == LINK
        assert not await wallet.withdraw(offer, proof, record_id="rec_1", now=now)
    assert isinstance(await wallet.resume(offer, proof, record_id="rec_1", now=last + 1), Unknown)
    assert await wallet.withdraw(offer, proof, record_id="rec_1", now=last + 1)
    assert requests == []


async def test_a_link_that_nobody_has_seen_is_not_paid() -> None:
    wallet, _ = answering(ANSWER)
    assert await wallet.resume(make_offer(), None, record_id="rec_1", now=NOW) == NotPaid()


def test_where_links_may_lead() -> None:
    assert CheckoutWallet().origins_for_people == {"https://checkout.stripe.com"}
    own = CheckoutWallet(origins=["https://pay.shop.example"])
    assert own.origins_for_people == {"https://checkout.stripe.com", "https://pay.shop.example"}
    assert CheckoutWallet.sandbox().origins_for_people == set()
    assert CheckoutWallet.sandbox().spec.mechanisms[0].network == "stripe:sandbox"
    assert repr(own) == "CheckoutWallet(network='stripe:live')"
