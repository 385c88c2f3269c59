"""x402, version 2: what may come back changed with a payment, a rail's own words, and signed offers and receipts."""

from __future__ import annotations

import base64
import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from rail402.dialects import X402V1, X402V2
from rail402.errors import MalformedInput, PaymentRejected, Rail402Error
from rail402.protocol.charge import PaymentState
from rail402.protocol.dialect import Context, Fields
from rail402.protocol.offer import Offer
from rail402.protocol.offer_receipt import OfferTerms, ReceiptTerms, did_document, keys_in, verify_jws
from rail402.protocol.order import EMPTY_BODY_DIGEST
from rail402.protocol.receipt import ReceiptKeys

from .dialect_fakes import (
    BASE,
    CLIENT,
    KEYS,
    LIGHTNING,
    NOW,
    ORDER,
    SERVER,
    STRIPE,
    challenge_of,
    charge_of,
    offer_of,
    vectors,
)

VECTORS = vectors("x402_v2_matching.json")
SIGNING = ReceiptKeys(
    {
        "kty": "OKP",
        "crv": "Ed25519",
        "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    }
)
DID = "did:web:api.example.com"
PUBLIC = keys_in(did_document(DID, SIGNING.jwks))
SIGNED = X402V2(offer_receipts=True)
SIGNER = replace(SERVER, sign=lambda claims: SIGNING.sign_as(DID, claims))


def decoded(value: str) -> Any:
    return json.loads(base64.b64decode(value, validate=True))


def encoded(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def pay(message: object) -> Offer:
    """Present a payment as the gate does: read, and its offer held against the token. Returns that offer."""
    (payment,) = SIGNED.payments(Fields([("payment-signature", encoded(message))]), EMPTY_BODY_DIGEST, SIGNER)
    assert payment.offer is not None
    KEYS.verify(payment.offer, ORDER)
    return payment.offer


def changed(case: dict[str, Any]) -> Any:
    message = copy.deepcopy(decoded(VECTORS["sdk_payment"]))
    for path, *value in [*case.get("set", {}).items(), *((path,) for path in case.get("without", []))]:
        *parents, last = path.split(".")
        members = message
        for name in parents:
            members = members[name]
        if value:
            members[last] = value[0]
        else:
            del members[last]
    return message


# --- what comes back


def test_the_official_sdk_answers_a_challenge_of_ours() -> None:
    sent = decoded(VECTORS["sdk_payment"])
    ((_, value),) = SIGNED.challenge(challenge_of(offer_of(BASE), description="An article"), SIGNER).fields
    challenge = decoded(value)

    assert sent["accepted"] == challenge["accepts"][0]
    assert (sent["resource"], sent["extensions"]) == (challenge["resource"], challenge["extensions"])
    assert pay(sent).amount == 3000


@pytest.mark.parametrize("case", VECTORS["accept"], ids=lambda case: case["name"])
def test_what_may_come_back_changed(case: dict[str, Any]) -> None:
    assert pay(changed(case)).canonical == offer_of(BASE).canonical


@pytest.mark.parametrize("case", VECTORS["reject"], ids=lambda case: case["name"])
def test_what_may_not(case: dict[str, Any]) -> None:
    with pytest.raises(Rail402Error) as caught:
        pay(changed(case))
    assert isinstance(caught.value, PaymentRejected | MalformedInput)
    assert caught.value.code == case["code"]


def test_rejections_are_as_many_as_acceptances() -> None:
    assert len(VECTORS["reject"]) >= len(VECTORS["accept"])


# --- a rail's own words


@pytest.fixture
def own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = {"amount_mismatch": "too_little"}
    for rail, dialect in ((LIGHTNING, "x402-v2"), (BASE, "x402-v1")):
        monkeypatch.setattr(rail.bindings[dialect], "reasons", reasons, raising=False)


@pytest.mark.usefixtures("own_words")
@pytest.mark.parametrize(
    ("rail", "word"),
    [
        ("lightning", "too_little"),
        ("stripe", "invalid_exact_evm_payload_authorization_value_mismatch"),
        ("", "invalid_exact_evm_payload_authorization_value_mismatch"),
        ("elsewhere", "invalid_exact_evm_payload_authorization_value_mismatch"),
    ],
)
def test_a_challenge_says_why_in_the_words_of_the_refused_payment_s_rail(rail: str, word: str) -> None:
    challenge = challenge_of(offer_of(LIGHTNING), code="amount_mismatch", rail=rail)
    ((_, value),) = X402V2().challenge(challenge, SERVER).fields

    assert decoded(value)["error"] == word


@pytest.mark.usefixtures("own_words")
@pytest.mark.parametrize(
    ("rail", "code", "word"),
    [
        (LIGHTNING, "amount_mismatch", "too_little"),
        (LIGHTNING, "offer_expired", "invalid_exact_evm_payload_authorization_valid_before"),
        (STRIPE, "amount_mismatch", "invalid_exact_evm_payload_authorization_value_mismatch"),
    ],
)
def test_so_does_a_settlement_that_did_not_succeed(rail: Any, code: str, word: str) -> None:
    (payment,) = X402V2().payments(Fields([("payment-signature", VECTORS["sdk_payment"])]), EMPTY_BODY_DIGEST, SERVER)
    charge = charge_of(offer_of(rail), PaymentState.REJECTED, code=code)

    ((_, value),) = X402V2().receipt(charge, payment, SERVER)

    assert decoded(value)["errorReason"] == word


@pytest.mark.usefixtures("own_words")
def test_and_so_does_version_1() -> None:
    field = encoded({"x402Version": 1, "scheme": "exact", "network": BASE.network, "payload": {"proof": "p"}})
    (payment,) = X402V1().payments(Fields([("x-payment", field)]), EMPTY_BODY_DIGEST, SERVER)
    charge = charge_of(offer_of(BASE), PaymentState.REJECTED, code="amount_mismatch")

    ((_, value),) = X402V1().receipt(charge, payment, SERVER)

    assert decoded(value)["errorReason"] == "too_little"


def test_a_payload_of_another_method_is_told_with_its_rail() -> None:
    message = decoded(VECTORS["sdk_payment"]) | {"payload": {"preimage": "00"}}
    with pytest.raises(PaymentRejected) as caught:
        pay(message)

    assert (caught.value.code, caught.value.rail) == ("payload_invalid", "base")


@pytest.mark.parametrize(
    ("facts", "transaction"),
    [
        ({}, ""),
        ({"transaction": "0xabc"}, "0xabc"),
        ({"rail_state": {"transaction": "0xdef"}}, "0xdef"),
        ({"rail_state": {"transaction": None}}, ""),
    ],
)
def test_a_pending_settlement_names_the_transaction_that_was_sent(facts: dict[str, Any], transaction: str) -> None:
    (payment,) = SIGNED.payments(Fields([("payment-signature", VECTORS["sdk_payment"])]), EMPTY_BODY_DIGEST, SIGNER)
    charge = charge_of(offer_of(BASE), PaymentState.UNKNOWN, payer="0xp", **facts)

    ((_, value),) = SIGNED.receipt(charge, payment, SIGNER)

    assert decoded(value) == {
        "success": False,
        "errorReason": "settlement_pending",
        "payer": "0xp",
        "transaction": transaction,
        "network": "eip155:84532",
    }


# --- signed offers and receipts


def test_every_offer_of_a_challenge_is_signed() -> None:
    made = [offer_of(BASE), offer_of(LIGHTNING)]
    ((_, value),) = SIGNED.challenge(challenge_of(made[0], offer_of(STRIPE), made[1]), SIGNER).fields
    message = decoded(value)
    extension = message["extensions"]["offer-receipt"]

    assert list(message["extensions"]) == ["payment-identifier", "offer-receipt"]
    assert extension["schema"]["required"] == ["offers"]
    assert [offer["acceptIndex"] for offer in extension["info"]["offers"]] == [0, 1]
    for entry, artifact, offer in zip(message["accepts"], extension["info"]["offers"], made, strict=True):
        terms = verify_jws(OfferTerms, artifact, PUBLIC)
        assert terms.fits(entry, ORDER.url)
        assert terms.valid_until == offer.expires_at


@pytest.mark.parametrize(("dialect", "context"), [(X402V2(), SIGNER), (SIGNED, SERVER)])
def test_nothing_is_signed_unless_it_is_asked_for_and_there_is_a_key(dialect: X402V2, context: Context) -> None:
    ((_, value),) = dialect.challenge(challenge_of(offer_of(BASE)), context).fields
    assert list(decoded(value)["extensions"]) == ["payment-identifier"]

    (payment,) = dialect.payments(Fields([("payment-signature", VECTORS["sdk_payment"])]), EMPTY_BODY_DIGEST, context)
    settled = charge_of(offer_of(BASE), PaymentState.SETTLED, payer="0xp", transaction="0x1", settled_at=NOW)
    assert "extensions" not in decoded(dialect.receipt(settled, payment, context)[0][1])
    assert (dialect.signs, X402V2().signs) == (dialect is SIGNED, False)


def settled(**facts: Any) -> list[tuple[str, str]]:
    (payment,) = SIGNED.payments(Fields([("payment-signature", VECTORS["sdk_payment"])]), EMPTY_BODY_DIGEST, SIGNER)
    charge = charge_of(offer_of(BASE), PaymentState.SETTLED, transaction="0xabc", **facts)
    return list(SIGNED.receipt(charge, payment, SIGNER))


def test_a_receipt_says_who_paid_for_what_and_not_by_which_transaction() -> None:
    artifact = SIGNED.signed_receipt(Fields(settled(payer="0xp", settled_at=NOW)))

    assert artifact is not None
    assert verify_jws(ReceiptTerms, artifact, PUBLIC).payload == {
        "version": 1,
        "network": "eip155:84532",
        "resourceUrl": ORDER.url,
        "payer": "0xp",
        "issuedAt": NOW,
    }


@pytest.mark.parametrize("facts", [{"settled_at": NOW}, {"payer": "0xp"}])
def test_nobody_knows_who_paid_so_there_is_no_receipt(facts: dict[str, Any]) -> None:
    assert SIGNED.signed_receipt(Fields(settled(**facts))) is None


def test_a_client_finds_the_signed_offers_of_what_it_chose_from() -> None:
    fields = SIGNED.challenge(challenge_of(offer_of(BASE)), SIGNER).fields
    (offer,) = SIGNED.offers(Fields(fields), b"", CLIENT)

    (artifact,) = X402V2().signed_offers(offer)
    assert verify_jws(OfferTerms, artifact, PUBLIC).amount == "3000"
    assert X402V2().signed_offers(offer_of(BASE)) == []


@pytest.mark.parametrize(
    "extensions",
    [
        None,
        [],
        {"offer-receipt": None},
        {"offer-receipt": {"info": []}},
        {"offer-receipt": {"info": {"offers": {}, "receipt": "x"}}},
        {"offer-receipt": {"info": {"offers": ["x"], "receipt": None}}},
    ],
)
def test_extensions_that_hold_none(extensions: Any) -> None:
    offer = offer_of(BASE).model_copy(update={"envelope": {"extensions": extensions}})

    assert SIGNED.signed_offers(offer) == []
    assert SIGNED.signed_receipt(Fields([("payment-response", encoded({"extensions": extensions}))])) is None


def test_a_response_without_the_field_has_no_receipt() -> None:
    assert SIGNED.signed_receipt(Fields()) is None
    with pytest.raises(MalformedInput, match="payment-response"):
        SIGNED.signed_receipt(Fields([("payment-response", "é")]))
