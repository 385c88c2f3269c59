"""Which transfer pays for what, and who has proven to have made it."""

from __future__ import annotations

from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from hypothesis import given
from hypothesis import strategies as st

from rail402.errors import ConfigurationError, MalformedInput, PaymentRejected, Rail402Error
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.order import Order
from rail402.protocol.payment import Payment
from rail402_base.chain import Deposit, Deposits
from rail402_base.eip3009 import sign
from rail402_base.tokens import BASE_SEPOLIA_USDC, SANDBOX_USDC
from rail402_base.transfers import (
    TransferProof,
    Transfers,
    accepted,
    message_digest,
    order_terms,
    parse_proof,
    proof_text,
)
from rail402_base.wire import BaseSpec
from tests.unit.rail402_base.payments import NOW, ORDER, PAYEE, PAYER, PAYER_KEY, PRICE, THIRD, THIRD_KEY, Till, signed

HASH = "0x" + 64 * "a"
SPEC = BaseSpec(SANDBOX_USDC, transfers=True)


def offer_of(**changes: Any) -> Offer:
    offer = SPEC.transfer_offer(
        SANDBOX_USDC,
        payee=PAYEE,
        amount=PRICE,
        expires_at=NOW + 600,
        timeout_seconds=180,
        extra=order_terms(ORDER),
    )
    return offer.model_copy(update=changes)


def deposits(*all_: Deposit, at: int = NOW, succeeded: bool = True) -> Deposits:
    return Deposits(at=at, succeeded=succeeded, all=all_)


def deposit(value: int = PRICE, payer: str = PAYER, log_index: int = 0, **members: Any) -> Deposit:
    return Deposit(payer=payer, value=value, log_index=log_index, **members)


def present(payload: dict[str, Any]) -> Payment:
    return Payment(dialect="x-price", rail="base", payload=payload)


# --- the signature


def test_the_text_names_everything() -> None:
    assert proof_text(offer_of(), HASH) == "\n".join(
        [
            "I paid for this request (rail402 proof of payment)",
            "Request: GET https://api.example.com/a",
            "Network: eip155:402402",
            f"Payee: {PAYEE}",
            f"Transaction: {HASH}",
        ]
    )
    assert proof_text(offer_of(extra={}), HASH) is None


def test_it_is_what_every_wallet_signs_as_a_message() -> None:
    text = proof_text(offer_of(), HASH)
    assert text is not None
    theirs = Account.sign_message(encode_defunct(text=text), PAYER_KEY).signature
    assert bytes(theirs) == sign(message_digest(text), PAYER_KEY)
    payload = {"transaction": HASH, "signature": "0x" + bytes(theirs).hex()}
    verified = SPEC.authenticate(offer_of(), present(payload))
    assert (verified.payer, verified.is_payer) == (PAYER, True)
    assert verified.keys == SPEC.identify(present(payload)) == {f"tx:eip155:402402/{HASH}"}


@pytest.mark.parametrize(
    "change",
    [
        {"payee": THIRD},
        {"network": "eip155:1"},
        {"extra": order_terms(Order(method="POST", url=ORDER.url, route=""))},
        {"extra": order_terms(Order(method="GET", url=ORDER.url + "?", route=""))},
    ],
)
def test_a_signature_for_something_else_is_somebody_elses(change: dict[str, Any]) -> None:
    text = proof_text(offer_of(**change), HASH)
    assert text is not None
    payload = TransferProof(HASH, sign(message_digest(text), PAYER_KEY)).payload
    assert SPEC.authenticate(offer_of(), present(payload)).payer != PAYER
    other = TransferProof("0x" + 64 * "b", sign(message_digest(proof_text(offer_of(), HASH) or ""), PAYER_KEY)).payload
    assert SPEC.authenticate(offer_of(), present(other)).payer != PAYER


def test_a_bare_hash_proves_no_payer() -> None:
    verified = SPEC.authenticate(offer_of(), present({"transaction": HASH}))
    assert (verified.payer, verified.is_payer) == (None, False)


def test_a_signature_of_no_form_is_refused() -> None:
    for signature in (bytes(65), b"\x01" * 64 + b"\x09", b"\xff" * 64 + b"\x1b"):
        payload = {"transaction": HASH, "signature": "0x" + signature.hex()}
        with pytest.raises(PaymentRejected) as caught:
            SPEC.authenticate(offer_of(), present(payload))
        assert caught.value.code == "signature_invalid"
    with pytest.raises(PaymentRejected):
        SPEC.authenticate(offer_of(extra={}), present({"transaction": HASH, "signature": "0x" + 130 * "1"}))


async def test_a_payment_of_the_other_mechanism_is_no_payment_of_this_one(tmp_path: Any) -> None:
    till = Till(tmp_path)
    authorization = present(signed(till.authorization()))
    for offer, payment in ((offer_of(), authorization), (await till.offer(), present({"transaction": HASH}))):
        with pytest.raises(PaymentRejected) as caught:
            SPEC.authenticate(offer, payment)
        assert caught.value.code == "payload_invalid"


# --- reading


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"transaction": None},
        {"transaction": HASH[2:]},
        {"transaction": HASH + "a"},
        {"transaction": HASH + "\n"},
        {"transaction": "0x" + 64 * "g"},
        {"transaction": [HASH]},
        {"transaction": HASH, "signature": ""},
        {"transaction": HASH, "signature": "0x" + 128 * "1"},
        {"transaction": HASH, "signature": 130 * "1"},
        {"transaction": HASH, "signature": True},
    ],
)
def test_what_is_no_proof(payload: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput) as caught:
        parse_proof(payload)
    assert caught.value.code == "payload_invalid"


@given(st.dictionaries(st.sampled_from(["transaction", "signature", "x"]), st.text() | st.integers() | st.none()))
def test_anything_is_read_or_refused(payload: dict[str, Any]) -> None:
    try:
        proof = parse_proof(payload)
    except Rail402Error:
        return
    assert parse_proof(proof.payload) == proof


def test_a_hash_has_one_spelling() -> None:
    assert parse_proof({"transaction": "0x" + 64 * "A"}).transaction == HASH


# --- which transfer


def test_the_transfer_that_pays() -> None:
    assert accepted(Transfers(), offer_of(), deposits(deposit()), signer=None, now=NOW) == deposit()
    more = deposit(PRICE + 1)
    assert accepted(Transfers(), offer_of(), deposits(more), signer=PAYER, now=NOW) == more


def test_among_several_the_first_that_fits_and_that_no_authorization_made() -> None:
    found = deposits(
        deposit(PRICE - 1, log_index=1),
        deposit(nonces=(bytes(32),), log_index=2),
        deposit(log_index=4),
        deposit(log_index=3, payer=THIRD),
    )
    assert accepted(Transfers(), offer_of(), found, signer=None, now=NOW).log_index == 3
    assert accepted(Transfers(), offer_of(), found, signer=PAYER, now=NOW).log_index == 4


@pytest.mark.parametrize(
    ("found", "signer", "code"),
    [
        (None, None, "not_settled"),
        (deposits(deposit(), succeeded=False), None, "payment_declined"),
        (deposits(), None, "payee_mismatch"),
        (deposits(deposit(PRICE - 1)), None, "amount_mismatch"),
        (deposits(deposit(PRICE - 1), deposit(PRICE - 1)), None, "amount_mismatch"),
        (deposits(deposit()), THIRD, "signature_invalid"),
        (deposits(deposit(), deposit(PRICE - 1, payer=THIRD)), THIRD, "signature_invalid"),
        (deposits(deposit(), at=NOW - 3601), None, "authorization_expired"),
    ],
)
def test_what_pays_for_nothing(found: Deposits | None, signer: str | None, code: str) -> None:
    with pytest.raises(PaymentRejected) as caught:
        accepted(Transfers(), offer_of(), found, signer=signer, now=NOW)
    assert caught.value.code == code
    assert caught.value.retryable is (code == "not_settled")


def test_the_bounds_of_time() -> None:
    terms = Transfers(max_age=10, not_before=NOW)
    accepted(terms, offer_of(), deposits(deposit()), signer=None, now=NOW + 10)
    for at, now in ((NOW, NOW + 11), (NOW - 1, NOW)):
        with pytest.raises(PaymentRejected):
            accepted(terms, offer_of(), deposits(deposit(), at=at), signer=None, now=now)


def test_where_payers_must_sign() -> None:
    with pytest.raises(PaymentRejected, match="sign for it"):
        accepted(Transfers(must_sign=True), offer_of(), deposits(deposit()), signer=None, now=NOW)
    accepted(Transfers(must_sign=True), offer_of(), deposits(deposit()), signer=PAYER, now=NOW)


@pytest.mark.parametrize("terms", [{"max_age": 0}, {"max_age": 86_401}, {"confirmations": 0}, {"not_before": -1}])
def test_terms_that_make_no_sense(terms: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        Transfers(**terms)


def test_mechanisms_are_asked_for() -> None:
    assert [each.name for each in BaseSpec(SANDBOX_USDC).mechanisms] == ["eip3009"]
    both = BaseSpec([SANDBOX_USDC, BASE_SEPOLIA_USDC], transfers=True).mechanisms
    assert [(each.name, each.network) for each in both] == [
        ("eip3009", "eip155:402402"),
        ("eip3009", "eip155:84532"),
        ("transfer", "eip155:402402"),
        ("transfer", "eip155:84532"),
    ]
    assert {each.flows for each in both if each.name == "transfer"} == {(Flow.UPFRONT,)}


def test_somebody_elses_key_signs_as_somebody_else() -> None:
    text = proof_text(offer_of(), HASH)
    assert text is not None
    payload = TransferProof(HASH, sign(message_digest(text), THIRD_KEY)).payload
    assert SPEC.authenticate(offer_of(), present(payload)).payer == THIRD
