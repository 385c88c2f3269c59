"""The wallet of a customer who has saved a payment method: where its secret goes, and what is believed."""

from __future__ import annotations

from typing import Any

import pytest

from rail402.errors import ConfigurationError, OfferRefused, PaymentFailed
from rail402.money import Money
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import Order
from rail402.protocol.rail import Cost, NotPaid, Paid, Unknown
from rail402_stripe import CustomerSecretWallet
from rail402_stripe.currencies import currency
from rail402_stripe.proofs import OtherProofs
from rail402_stripe.wire import StripeSpec

NOW = 1_800_000_000
ORIGIN = "https://api.example.com"
SECRET = "a-secret-of-the-customer"


def make_offer(network: Any = "stripe:live", *, customers: bool = True, **changes: Any) -> Offer:
    offer = StripeSpec(network).offer(
        currency("usd"),
        payee="profile_1",
        amount=50,
        flow=Flow.ESCROW,
        expires_at=NOW + 600,
        payment_method_types=["card"],
        external_id=changes.pop("external_id", None),
        other_proofs=OtherProofs(customers=customers),
    )
    return offer.model_copy(update=changes)


def order(origin: str) -> Order:
    return Order(method="GET", url=f"{origin}/report", route="")


async def test_it_shows_the_secret_for_offers_that_take_customers() -> None:
    wallet = CustomerSecretWallet(SECRET, ORIGIN)
    assert await wallet.can_pay(make_offer()) == Cost(price=Money.parse("0.50 USD"))
    paid = await wallet.pay(make_offer(external_id="7"), record_id="rec_1", now=NOW)
    assert paid == Paid(payload={"customer": SECRET, "externalId": "7"}, fee=Money.parse("0 USD"))
    for other in (make_offer("stripe:test"), make_offer(customers=False), make_offer(mechanism="card")):
        assert await wallet.can_pay(other) is None
        with pytest.raises(PaymentFailed):
            await wallet.pay(other, record_id="rec_1", now=NOW)
    with pytest.raises(PaymentFailed):
        await wallet.pay(make_offer(), record_id="rec_1", now=NOW + 600)


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example.com",
        "http://api.example.com",
        "https://api.example.com:8443",
        "https://api.example.com.evil.com",
    ],
)
def test_another_origin_is_refused_before_anything(origin: str) -> None:
    spec = CustomerSecretWallet(SECRET, ORIGIN).spec
    spec.check_offer(make_offer(), order(ORIGIN), now=NOW)
    with pytest.raises(OfferRefused, match="alone") as caught:
        spec.check_offer(make_offer(), order(origin), now=NOW)
    assert SECRET not in str(caught.value)
    with pytest.raises(OfferRefused, match="expired"):  # and all that any wallet refuses
        spec.check_offer(make_offer(), order(ORIGIN), now=NOW + 600)


async def test_only_the_publisher_knows_what_became_of_it() -> None:
    wallet, payload = CustomerSecretWallet(SECRET, ORIGIN), {"customer": SECRET}
    assert await wallet.resume(make_offer(), None, record_id="r", now=NOW) == NotPaid()
    assert isinstance(await wallet.resume(make_offer(), payload, record_id="r", now=NOW + 10**7), Unknown)
    assert await wallet.withdraw(make_offer(), payload, record_id="r", now=NOW)


@pytest.mark.parametrize("secret", ["", "short", "with spaces in the middle", "ünïcödé-ünïcödé-ü", "a" * 513])
def test_what_is_no_secret_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        CustomerSecretWallet(secret, ORIGIN)
    assert not secret or secret not in str(caught.value)


@pytest.mark.parametrize(
    "origin", ["", "api.example.com", "https://", "https://api.example.com/", "https://API.example.com", "ftp://x"]
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ConfigurationError, match="origin"):
        CustomerSecretWallet(SECRET, origin)


def test_two_publishers_are_two_wallets() -> None:
    one, two = CustomerSecretWallet(SECRET, ORIGIN), CustomerSecretWallet(SECRET, "https://other.example")
    assert one.name != two.name
    assert SECRET not in repr(one) + repr(vars(one.spec)) + one.name
    assert CustomerSecretWallet.sandbox(SECRET, "http://localhost:8000").spec.mechanisms[0].network == "stripe:sandbox"
