"""What identifies and proves a payment, and what an agent looks at before it pays."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from rail402.errors import ConfigurationError, MalformedInput, OfferRefused, PaymentRejected
from rail402.protocol.offer import Flow
from rail402.protocol.order import Order
from rail402_lightning.request_binding import request_hash
from rail402_lightning.wire import LightningSpec, is_preimage_of
from tests.unit.rail402_lightning.invoices import (
    AMOUNT,
    EXPIRY,
    HASH,
    NOW,
    ORDER,
    OTHER_KEY,
    PAYEE,
    PREIMAGE,
    REGTEST,
    SPEC,
    invoice,
    offer,
    payment,
)

MAINNET = "lnbtc:000000000019d6689c085ae165831e93"
PAID: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "lnbtc.json").read_text(encoding="utf-8"))[
    "paid_invoice"
]
KEYS = frozenset({f"{REGTEST}:{HASH.hex()}"})
TOKEN = "k1.1.a.b"


def by_invoice(text: str, token: str | None = TOKEN) -> Any:
    """The payment that shows an invoice, as it is presented with an offer's token."""
    return payment(payload={"invoice": text}, dialect="x402-v2", offer=offer(text, token=token))


def test_one_mechanism_in_whole_sats_upfront() -> None:
    (mechanism,) = SPEC.mechanisms

    assert (SPEC.name, mechanism.name, mechanism.network, mechanism.asset) == ("lightning", "bolt11", REGTEST, "BTC")
    assert (mechanism.currency, mechanism.exponent, mechanism.step, mechanism.flows) == (
        "BTC",
        11,
        1000,
        (Flow.UPFRONT,),
    )
    assert SPEC.bare_replay


def test_a_network_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        LightningSpec("bitcoin")


# Identity.


def test_a_payment_is_known_by_its_payment_hash_whatever_shows_it() -> None:
    assert SPEC.identify(payment()) == KEYS
    assert SPEC.identify(by_invoice(invoice())) == KEYS


def test_networks_do_not_share_payments() -> None:
    assert LightningSpec("mainnet").identify(payment()) == {f"{MAINNET}:{HASH.hex()}"}


OTHER_FORMS = [
    base64.b64encode(bytes.fromhex(PREIMAGE)).decode(),  # as in lnd's JSON
    base64.urlsafe_b64encode(bytes.fromhex(PREIMAGE)).decode(),
    "0x" + PREIMAGE,
    f" {PREIMAGE}",
    " ".join(PREIMAGE[start : start + 2] for start in range(0, 64, 2)),
    PREIMAGE + "ab",
    PREIMAGE[:-2],
    PREIMAGE + "\n",
    "\uff41\uff42" * 32,  # full-width letters
]
"""What is not 64 hexadecimal digits, and might be taken for it by a lenient reader."""


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_a_preimage_has_one_form(form: str) -> None:
    with pytest.raises(MalformedInput, match="64 hexadecimal digits"):
        SPEC.identify(payment(form))
    assert not is_preimage_of(form, HASH)
    assert is_preimage_of(PREIMAGE.upper(), HASH)


@pytest.mark.parametrize("payload", [{}, {"preimage": 7}, {"preimage": "xy"}, {"invoice": invoice()}])
def test_a_payment_without_a_preimage_is_malformed(payload: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput):
        SPEC.identify(payment(payload=payload))


@pytest.mark.parametrize("shown", [7, "", "lnbcrt1nonsense", None])
def test_an_invoice_that_cannot_be_read_is_malformed(shown: object) -> None:
    with pytest.raises(MalformedInput):
        SPEC.identify(payment(payload={"invoice": shown}, offer=offer()))


def test_a_payment_hash_sent_for_its_preimage_is_recognised() -> None:
    assert SPEC.mistaken_keys(payment(HASH.hex())) == KEYS
    assert SPEC.mistaken_keys(by_invoice(invoice())) == frozenset()


# The proof.


def test_the_preimage_proves_the_payment() -> None:
    verified = SPEC.authenticate(offer(), payment())

    assert (verified.keys, verified.state) == (KEYS, {"payment_hash": HASH.hex()})


def test_the_scheme_s_own_vector_is_proven() -> None:
    spec = LightningSpec(PAID["network"])
    made = offer(
        PAID["invoice"],
        network=spec.network.id,
        amount=PAID["amount_msat"],
        payee=PAID["payee"],
        expires_at=PAID["created_at"] + PAID["expiry"],
        timeout_seconds=PAID["expiry"],
        dialect="x402-v2",
    )
    order = Order(method=PAID["method"], url=PAID["url"], route="")

    spec.check_offer(made, order, now=PAID["created_at"] + 10)
    verified = spec.authenticate(made, payment(PAID["preimage"]))

    assert verified.keys == {f"{MAINNET}:{PAID['payment_hash']}"}


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (offer(invoice(payment_hash=hashlib.sha256(b"another").digest())), "preimage_invalid"),
        (offer(amount=AMOUNT - 1000), "amount_mismatch"),
        (offer(invoice(amount_msat=None)), "amount_mismatch"),
        (offer(invoice(key=OTHER_KEY)), "payee_mismatch"),
        (offer(invoice(prefix="bc")), "network_mismatch"),
        (offer(network=MAINNET), "network_mismatch"),
    ],
)
def test_a_preimage_is_good_for_its_own_offer_only(made: Any, code: str) -> None:
    with pytest.raises(PaymentRejected) as caught:
        SPEC.authenticate(made, payment())

    assert caught.value.code == code


def test_an_invoice_counts_with_the_token_of_its_offer() -> None:
    text = invoice()

    assert SPEC.authenticate(offer(text, token=TOKEN), by_invoice(text)).keys == KEYS


def test_an_invoice_alone_replays_nothing() -> None:
    text = invoice()

    with pytest.raises(PaymentRejected) as caught:
        SPEC.authenticate(offer(text), by_invoice(text))  # the charge's offer is kept without its token

    assert caught.value.code == "replay_not_proven"


def test_an_invoice_of_another_payment_proves_nothing() -> None:
    other = invoice(payment_hash=bytes(32))

    with pytest.raises(PaymentRejected) as caught:
        SPEC.authenticate(offer(token=TOKEN), by_invoice(other))

    assert caught.value.code == "preimage_invalid"


@pytest.mark.parametrize("bad", [None, 7, "", "zz", "ab" * 31, PREIMAGE[:-1], "é"])
def test_what_is_no_preimage(bad: object) -> None:
    assert not is_preimage_of(bad, HASH)
    assert is_preimage_of(PREIMAGE, HASH)


# Before paying.


@pytest.mark.parametrize("dialect", ["x402-v2", "mpp", "x-receipt"])
def test_a_good_offer_is_not_refused(dialect: str) -> None:
    SPEC.check_offer(offer(dialect=dialect), ORDER, now=NOW)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (offer(extra={}), "must be a text"),
        (offer("lnbcrt1nonsense"), "bech32"),
        (offer(invoice(amount_msat=None)), "names no amount"),
        (offer(amount=1000), "another amount"),
        (offer(invoice(amount_msat=AMOUNT + 1)), "another amount"),
        (offer(invoice(key=OTHER_KEY)), "another payee"),
        (offer(payee="02" + "11" * 32), "another payee|payTo"),
        (offer(invoice(prefix="bc")), "for mainnet, and this wallet pays on regtest"),
        (offer(invoice(min_final_cltv_expiry=2017)), "2017 blocks"),
    ],
)
@pytest.mark.parametrize("dialect", ["x402-v2", "mpp", "x-receipt"])
def test_an_offer_that_is_not_what_it_says_is_refused(made: Any, why: str, dialect: str) -> None:
    with pytest.raises(OfferRefused, match=why):
        SPEC.check_offer(made.model_copy(update={"dialect": dialect}), ORDER, now=NOW)


@pytest.mark.parametrize(
    ("expiry", "left", "good"),
    [
        (600, 31, True),
        (600, 30, False),
        (600, 0, False),
        (600, -1, False),
        (60, 16, True),
        (60, 15, False),
        (2, 1, True),
    ],
)
def test_an_invoice_must_be_good_for_a_while(expiry: int, left: int, good: bool) -> None:
    made = offer(invoice(expiry=expiry), expires_at=NOW + expiry)
    if good:
        SPEC.check_offer(made, ORDER, now=NOW + expiry - left)
    else:
        with pytest.raises(OfferRefused, match="expire"):
            SPEC.check_offer(made, ORDER, now=NOW + expiry - left)


def test_an_offer_that_ends_before_its_invoice_counts_as_it_says() -> None:
    with pytest.raises(OfferRefused, match="expires in 5 s"):
        SPEC.check_offer(offer(expires_at=NOW + 5), ORDER, now=NOW)


@pytest.mark.parametrize(("dialect", "tolerated"), [("x402-v2", 60), ("mpp", 300), ("x-receipt", 300)])
def test_an_invoice_from_the_future_is_refused(dialect: str, tolerated: int) -> None:
    SPEC.check_offer(offer(dialect=dialect), ORDER, now=NOW - tolerated)

    with pytest.raises(OfferRefused, match="in the future"):
        SPEC.check_offer(offer(dialect=dialect), ORDER, now=NOW - tolerated - 1)


@pytest.mark.parametrize(
    "order",
    [
        ORDER.model_copy(update={"method": "POST"}),
        ORDER.model_copy(update={"url": ORDER.url + "&more"}),
        ORDER.model_copy(update={"url": ORDER.url.replace("https", "http")}),
        ORDER.model_copy(update={"body_digest": "00" * 32}),
    ],
)
def test_x402_pays_only_for_the_request_that_the_invoice_was_made_for(order: Order) -> None:
    with pytest.raises(OfferRefused, match="made for another request"):
        SPEC.check_offer(offer(dialect="x402-v2"), order, now=NOW)

    SPEC.check_offer(offer(dialect="x-receipt"), order, now=NOW)  # which has no such rule


def test_x402_wants_the_hash_of_the_request_and_no_plain_description() -> None:
    plain = invoice(description="an article", description_hash=None)

    with pytest.raises(OfferRefused, match="invalid_exact_lnbtc_request_binding"):
        SPEC.check_offer(offer(plain, dialect="x402-v2"), ORDER, now=NOW)
    said = {"invoice": plain, "requestHash": request_hash(ORDER).hex()}
    with pytest.raises(OfferRefused, match="invalid_exact_lnbtc_invoice_description"):
        SPEC.check_offer(offer(extra=said, dialect="x402-v2"), ORDER, now=NOW)

    SPEC.check_offer(offer(plain, dialect="mpp"), ORDER, now=NOW)


def test_x402_wants_the_expiry_that_it_says() -> None:
    with pytest.raises(OfferRefused, match="maxTimeoutSeconds"):
        SPEC.check_offer(offer(timeout_seconds=EXPIRY + 1, dialect="x402-v2"), ORDER, now=NOW)


def test_x402_refuses_a_binding_that_it_cannot_check() -> None:
    bound = {"invoice": invoice(), "requestBindingParams": {"headers": ["cookie"]}}

    with pytest.raises(OfferRefused, match="header fields of the request"):
        SPEC.check_offer(offer(extra=bound, dialect="x402-v2"), ORDER, now=NOW)
    unknown = {"invoice": invoice(), "requestBindingProfile": "http:2"}
    with pytest.raises(OfferRefused, match="invalid_exact_lnbtc_request_binding"):
        SPEC.check_offer(offer(extra=unknown, dialect="x402-v2"), ORDER, now=NOW)


@pytest.mark.parametrize("resource", [None, {}, "x", {"url": None}, {"url": ORDER.url + "&more"}, {"url": [ORDER.url]}])
def test_x402_wants_the_challenge_to_name_the_request_s_url(resource: object) -> None:
    SPEC.check_offer(offer(dialect="x402-v2", envelope={"resource": {"url": ORDER.url}}), ORDER, now=NOW)

    with pytest.raises(OfferRefused, match=r"resource\.url is not that"):
        SPEC.check_offer(offer(dialect="x402-v2", envelope={"resource": resource}), ORDER, now=NOW)


@pytest.mark.parametrize("url", ["https://shop.example/%zz", "https://shop.example/é", "https://me@shop.example/"])
def test_x402_pays_for_no_request_that_cannot_be_bound(url: str) -> None:
    with pytest.raises(OfferRefused, match="no payment can be bound"):
        SPEC.check_offer(offer(dialect="x402-v2"), ORDER.model_copy(update={"url": url}), now=NOW)


def test_the_payee_is_compared_because_an_altered_invoice_verifies_for_another() -> None:
    assert offer(invoice(key=OTHER_KEY)).payee == PAYEE  # what the 402 says beside it

    with pytest.raises(OfferRefused, match="another payee"):
        SPEC.check_offer(offer(invoice(key=OTHER_KEY), dialect="x402-v2"), ORDER, now=NOW)
