"""x402, version 2: what goes out, what comes back, and what is refused."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rail402.dialects import X402V2
from rail402.dialects._payment_identifier import declaration
from rail402.errors import ConfigurationError, MalformedInput, PaymentRejected
from rail402.protocol.charge import PaymentState
from rail402.protocol.dialect import Fields
from rail402.protocol.offer import Offer
from rail402.protocol.order import EMPTY_BODY_DIGEST

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
    terms,
    vectors,
)

X402 = X402V2()
VECTORS = vectors("x402_v2_headers.json")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def decoded(value: str) -> Any:
    return json.loads(base64.b64decode(value, validate=True))


def encoded(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def required(*offers: Offer, **more: Any) -> dict[str, Any]:
    ((name, value),) = X402.challenge(challenge_of(*offers, **more), SERVER).fields
    assert name == "PAYMENT-REQUIRED"
    found: dict[str, Any] = decoded(value)
    return found


def offers(message: object) -> list[Offer]:
    return X402.offers(Fields([("Payment-Required", encoded(message))]), b"", CLIENT)


def pay(offer: Offer, *, proof: Any = "sig", **changes: Any) -> dict[str, Any]:
    """The payment for an offer that the client read, as JSON, with members changed."""
    (read,) = offers(required(offer))
    ((_, value),) = X402.credential(read, {"proof": proof}, CLIENT)
    message: dict[str, Any] = decoded(value)
    return message | changes


def payments(message: object) -> list[Any]:
    return X402.payments(Fields([("Payment-Signature", encoded(message))]), EMPTY_BODY_DIGEST, SERVER)


def refusal(message: object) -> str:
    with pytest.raises(PaymentRejected) as caught:
        payments(message)
    return caught.value.code


# --- the challenge


def test_challenge_says_every_offer_that_x402_can_say() -> None:
    base, lightning = offer_of(BASE), offer_of(LIGHTNING)
    assert required(base, offer_of(STRIPE), lightning, description="An article", mime_type="text/plain") == {
        "x402Version": 2,
        "error": "payment_required",
        "resource": {"url": ORDER.url, "description": "An article", "mimeType": "text/plain"},
        "accepts": [
            {
                "scheme": "exact",
                "network": "eip155:84532",
                "asset": "coin",
                "amount": "3000",
                "payTo": "payee",
                "maxTimeoutSeconds": 60,
                "extra": {"token": base.token},
            },
            {
                "scheme": "exact",
                "network": LIGHTNING.network,
                "asset": "coin",
                "amount": "3000",
                "payTo": "payee",
                "maxTimeoutSeconds": 60,
                "extra": {"paymentFlow": "upfront", "invoice": "lnbcrt1", "token": lightning.token},
            },
        ],
        "extensions": declaration(required=False),
    }


@settings(derandomize=True, database=None, deadline=None)
@given(url=st.text(), description=st.text(), mime_type=st.text(max_size=8), extra=st.dictionaries(st.text(), JSON))
def test_the_challenge_is_one_json_text_whatever_is_sold(
    url: str, description: str, mime_type: str, extra: dict[str, Any]
) -> None:
    lightning = offer_of(LIGHTNING)
    try:
        offer = KEYS.issue(lightning.model_copy(update={"extra": extra}), ORDER, b"n" * 16)
    except ValueError:  # no offer has what canonical JSON cannot say
        return
    order = ORDER.model_copy(update={"url": url})
    challenge = challenge_of(offer, offer_of(BASE), of=order, description=description, mime_type=mime_type)
    said = {"url": url, "description": description, "mimeType": mime_type}
    entries = [LIGHTNING.bindings["x402-v2"].encode_offer(offer), BASE.bindings["x402-v2"].encode_offer(offer_of(BASE))]
    expected = {
        "x402Version": 2,
        "error": "payment_required",
        "resource": {name: text for name, text in said.items() if text or name == "url"},
        "accepts": [
            {**entry, "extra": {**entry.get("extra", {}), "token": each.token}}
            for entry, each in zip(entries, challenge.offers, strict=True)
        ],
        "extensions": declaration(required=False),
    }
    ((_, value),) = X402.challenge(challenge, SERVER).fields
    text = base64.b64decode(value, validate=True).decode("ascii")
    assert json.loads(text) == expected == X402.required(challenge, SERVER)
    assert list(json.loads(text)["accepts"][0]["extra"])[-1] == "token"


def test_optional_members_are_absent_and_the_json_is_compact() -> None:
    envelope = X402.challenge(challenge_of(offer_of(BASE), code="signature_invalid"), SERVER)
    text = base64.b64decode(envelope.fields[0][1], validate=True).decode()
    assert text.startswith(
        '{"x402Version":2,"error":"invalid_exact_evm_payload_signature","resource":{"url":"https://api.example.com/a?b=c"},"accepts":[{'
    )
    assert "null" not in text
    assert envelope.body == {}


def test_no_offer_no_challenge() -> None:
    assert X402.challenge(challenge_of(offer_of(STRIPE)), SERVER).fields == ()


# --- the payment


@pytest.mark.parametrize("rail", [BASE, LIGHTNING], ids=lambda rail: rail.name)
def test_a_payment_brings_back_the_offer_and_its_token(rail: Any) -> None:
    offer = offer_of(rail)
    (payment,) = payments(pay(offer))
    assert (payment.dialect, payment.rail, payment.payload) == ("x402-v2", rail.name, {"proof": "sig"})
    assert terms(payment.offer) == terms(offer)
    assert KEYS.verify(payment.offer, ORDER).expires_at == offer.expires_at


def test_no_field_no_payment() -> None:
    assert X402.payments(Fields([("authorization", "Bearer x")]), EMPTY_BODY_DIGEST, SERVER) == []


def test_reads_what_the_official_sdk_writes() -> None:
    (payment,) = X402.payments(
        Fields([("PAYMENT-SIGNATURE", f" {VECTORS['payment']['header']} ")]), EMPTY_BODY_DIGEST, SERVER
    )
    assert payment.payload == {"proof": "0xsigned"}
    assert payment.offer is not None
    assert (payment.offer.amount, payment.offer.expires_at) == (10_000, 1_800_000_300)


def test_nulls_and_additions_are_passed_over() -> None:
    offer = offer_of(LIGHTNING)
    message = pay(offer, resource=None, extensions=None, more=[1])
    message["accepted"] |= {"mimeType": None, "comment": "x"}
    message["accepted"]["extra"] |= {"nothing": None, "clientRef": {"a": 1}}
    del message["x402Version"]
    (payment,) = payments(message)
    assert KEYS.verify(payment.offer, ORDER).nonce


def test_alterations_show_in_the_token() -> None:
    message = pay(offer_of(LIGHTNING))
    for member, value in {"amount": "1", "payTo": "thief", "maxTimeoutSeconds": 61}.items():
        (payment,) = payments(message | {"accepted": message["accepted"] | {member: value}})
        with pytest.raises(PaymentRejected) as caught:
            KEYS.verify(payment.offer, ORDER)
        assert caught.value.code == "resource_mismatch"


@pytest.mark.parametrize("extra", [{}, None, {"token": None}, {"token": 5}, {"token": "mine"}, {"token": ""}])
def test_a_token_that_is_none_of_ours_does_not_hide_the_proof(extra: Any) -> None:
    """It may be known. Where it is not, the offer's token refuses it."""
    message = pay(offer_of(BASE))
    (payment,) = payments(message | {"accepted": message["accepted"] | {"extra": extra}})
    assert payment.payload == message["payload"]
    with pytest.raises(PaymentRejected) as caught:
        KEYS.verify(payment.offer, ORDER)
    assert caught.value.code == "offer_unknown"


def test_what_accepts_no_offer_of_ours_is_rejected() -> None:
    message = pay(offer_of(BASE))
    accepted = message["accepted"]
    assert refusal(message | {"accepted": accepted | {"network": "eip155:1"}}) == "method_not_offered"
    assert refusal(message | {"accepted": accepted | {"maxTimeoutSeconds": 2**60}}) == "offer_unknown"
    assert refusal(message | {"payload": {"preimage": "00"}}) == "payload_invalid"


def test_a_rail_names_what_is_wrong_with_its_payload() -> None:
    with pytest.raises(MalformedInput, match=r"payload\.proof"):
        payments(pay(offer_of(BASE), payload={"proof": 5}))


@pytest.mark.parametrize("vector", VECTORS["refused_payments"], ids=lambda vector: vector["name"])
def test_refused_payments(vector: dict[str, str]) -> None:
    with pytest.raises(MalformedInput, match=r"payment-signature|extra"):
        X402.payments(Fields([("payment-signature", vector["header"])]), EMPTY_BODY_DIGEST, SERVER)


def test_another_version_is_told_where_it_belongs() -> None:
    with pytest.raises(MalformedInput, match="version 1 payments go in X-PAYMENT"):
        payments({"x402Version": 1, "scheme": "exact"})


def test_several_and_oversized_fields() -> None:
    one, two = encoded(pay(offer_of(BASE))), encoded(pay(offer_of(LIGHTNING)))
    same = Fields([("payment-signature", one), ("Payment-Signature", one)])
    assert len(X402.payments(same, EMPTY_BODY_DIGEST, SERVER)) == 1
    with pytest.raises(MalformedInput) as caught:
        X402.payments(Fields([("payment-signature", one), ("payment-signature", two)]), EMPTY_BODY_DIGEST, SERVER)
    assert caught.value.code == "several_payments"
    with pytest.raises(MalformedInput, match="longer than 65536"):
        X402.payments(Fields([("payment-signature", "A" * 65_537)]), EMPTY_BODY_DIGEST, SERVER)


# --- the receipt


def settlement(state: PaymentState, **facts: Any) -> Any:
    offer = offer_of(BASE)
    (payment,) = payments(pay(offer))
    lines = X402.receipt(charge_of(offer, state, **facts), payment, SERVER)
    assert all(name == "PAYMENT-RESPONSE" for name, _ in lines)
    return [decoded(value) for _, value in lines]


def test_receipt_of_a_settled_charge() -> None:
    assert settlement(PaymentState.SETTLED, payer="0xp", transaction="0xabc") == [
        {"success": True, "payer": "0xp", "transaction": "0xabc", "network": "eip155:84532", "amount": "3000"}
    ]
    assert settlement(PaymentState.SETTLED, transaction="hash") == [
        {"success": True, "transaction": "hash", "network": "eip155:84532", "amount": "3000"}
    ]


def test_a_settlement_that_did_not_succeed_says_why() -> None:
    assert settlement(PaymentState.REJECTED, payer="0xp", code="insufficient_funds") == [
        {
            "success": False,
            "errorReason": "insufficient_funds",
            "payer": "0xp",
            "transaction": "",
            "network": "eip155:84532",
        }
    ]
    assert settlement(PaymentState.REJECTED)[0]["errorReason"] == "invalid_transaction_state"
    (unknown,) = settlement(PaymentState.UNKNOWN, transaction="0xabc")
    assert (unknown["errorReason"], unknown["transaction"]) == ("settlement_pending", "0xabc")


def test_where_no_settlement_was_tried_there_is_nothing_to_say() -> None:
    assert settlement(PaymentState.CLAIMED) == settlement(PaymentState.RELEASED) == []


# --- the client


def test_reads_the_official_sdks_challenge_and_echoes_it_untouched() -> None:
    header, message = VECTORS["required"]["header"], VECTORS["required"]["json"]
    (offer,) = X402.offers(Fields([("PAYMENT-REQUIRED", header)]), b"ignored", CLIENT)
    assert (offer.dialect, offer.rail, offer.amount, offer.expires_at) == ("x402-v2", "base", 10_000, NOW + 60)
    ((name, value),) = X402.credential(offer, {"proof": "0xsigned"}, CLIENT)
    assert name == "PAYMENT-SIGNATURE"
    assert decoded(value) == {
        "x402Version": 2,
        "payload": {"proof": "0xsigned"},
        "accepted": message["accepts"][0],
        "resource": message["resource"],
    }


def test_everything_unknown_in_a_chosen_entry_goes_back() -> None:
    message = required(offer_of(BASE))
    message["accepts"][0] |= {"x": None, "y": {"z": [1.5, "é", "\U0001d11e"]}}
    message["accepts"][0]["extra"] |= {"k": None, "paymentFlow": "authorization"}
    message |= {"extensions": {"bazaar": {"info": {"a": [True]}}}, "resource": None}
    (offer,) = offers(message)
    assert offer.envelope == {"accepted": message["accepts"][0], "extensions": message["extensions"]}
    ((_, value),) = X402.credential(offer, {"proof": "p"}, CLIENT)
    assert json.dumps(decoded(value)["accepted"]) == json.dumps(message["accepts"][0])
    assert decoded(value)["extensions"] == message["extensions"]


def test_no_field_no_offer() -> None:
    assert X402.offers(Fields(), json.dumps(required(offer_of(BASE))).encode(), CLIENT) == []


def test_entries_that_cannot_be_used_do_not_hide_the_others() -> None:
    message = required(offer_of(BASE), offer_of(LIGHTNING))
    base, lightning = message["accepts"]
    flows = [lightning | {"extra": lightning["extra"] | {"paymentFlow": flow}} for flow in ("later", ["upfront"], 5)]
    solana = base | {"network": "solana:x"}
    message["accepts"] = ["x", base | {"amount": "1e3"}, base | {"maxTimeoutSeconds": -1}, solana, *flows, lightning]
    assert [offer.rail for offer in offers(message)] == ["lightning"]


def test_nothing_usable_and_nothing_wrong_is_no_error() -> None:
    message = required(offer_of(BASE))
    assert offers(message | {"accepts": []}) == []
    assert offers(message | {"accepts": [message["accepts"][0] | {"scheme": "upto"}]}) == []


@pytest.mark.parametrize("vector", VECTORS["refused_challenges"], ids=lambda vector: vector["name"])
def test_refused_challenges(vector: dict[str, str]) -> None:
    with pytest.raises(MalformedInput):
        X402.offers(Fields([("payment-required", vector["header"])]), b"", CLIENT)


def test_a_payment_identifier_is_given_where_it_is_asked_for() -> None:
    def identified(extension: Any, proof: str = "p") -> Any:
        (offer,) = offers(required(offer_of(BASE)) | {"extensions": {"payment-identifier": extension, "other": 1}})
        ((_, value),) = X402.credential(offer, {"proof": proof}, CLIENT)
        extensions = decoded(value)["extensions"]
        assert extensions["other"] == 1
        return extensions["payment-identifier"]

    asked = {"info": {"required": True}, "schema": {"type": "object"}}
    answer = identified(asked)
    assert answer["info"].pop("id").startswith("pay_")
    assert answer == asked
    assert identified(asked)["info"]["id"] == identified(asked)["info"]["id"] != identified(asked, "q")["info"]["id"]
    assert 16 <= len(identified(asked)["info"]["id"]) <= 128
    assert identified({"info": {"id": "pay_0123456789abcdef"}}) == {"info": {"id": "pay_0123456789abcdef"}}
    for useless in (True, {"info": 1}, None):
        assert identified(useless) == useless


def test_extensions_that_are_no_object_go_back_as_they_are() -> None:
    (offer,) = offers(required(offer_of(BASE)) | {"extensions": ["x"]})
    ((_, value),) = X402.credential(offer, {"proof": "p"}, CLIENT)
    assert decoded(value)["extensions"] == ["x"]


def test_a_rail_that_does_not_speak_x402_has_no_credential() -> None:
    offer = offer_of(STRIPE).model_copy(update={"envelope": {"accepted": {}}})
    with pytest.raises(ConfigurationError, match="'stripe' does not speak x402-v2"):
        X402.credential(offer, {"proof": "p"}, CLIENT)


# --- properties


@given(
    st.sampled_from([BASE, LIGHTNING]),
    st.integers(1, 10**40),
    st.text(max_size=20),
    st.integers(1, 2**31 - 1),
    st.text(max_size=20),
    st.text(max_size=20),
)
def test_round_trip(rail: Any, amount: int, payee: str, seconds: int, proof: str, description: str) -> None:
    offer = offer_of(rail, amount=amount, payee=payee, seconds=seconds)
    envelope = X402.challenge(challenge_of(offer, description=description), SERVER)
    assert all(value.isascii() for _, value in envelope.fields)
    (read,) = X402.offers(Fields(envelope.fields), b"", CLIENT)
    assert terms(read) == terms(offer) | {"token": None, "expires_at": NOW + seconds}
    line = X402.credential(read, {"proof": proof}, CLIENT)
    (payment,) = X402.payments(Fields(line), EMPTY_BODY_DIGEST, SERVER)
    assert terms(payment.offer) == terms(offer)
    assert payment.payload == {"proof": proof}
    KEYS.verify(payment.offer, ORDER)


def survives(field: str, value: str) -> None:
    """Whatever the peer sends, it is read or refused by name; nothing else is ever raised."""
    fields = Fields([(field, value)])
    with contextlib.suppress(MalformedInput, PaymentRejected):
        X402.payments(fields, EMPTY_BODY_DIGEST, SERVER)
    with contextlib.suppress(MalformedInput, PaymentRejected):
        X402.offers(fields, b"", CLIENT)


FIELDS = st.sampled_from(["payment-signature", "payment-required"])


@given(FIELDS, st.text(st.characters(max_codepoint=0xFF)))
def test_hostile_text(field: str, value: str) -> None:
    survives(field, value)


@given(FIELDS, st.binary(max_size=200))
def test_hostile_bytes(field: str, value: bytes) -> None:
    survives(field, base64.b64encode(value).decode())


@given(FIELDS, st.sampled_from([*VECTORS["payment"]["json"], *VECTORS["required"]["json"]]), JSON)
def test_hostile_members(field: str, member: str, value: Any) -> None:
    message = VECTORS["payment"]["json"] | VECTORS["required"]["json"]
    survives(field, encoded(message | {member: value}))


@given(st.sampled_from([*VECTORS["payment"]["json"]["accepted"]]), JSON)
def test_hostile_requirements(member: str, value: Any) -> None:
    accepted = VECTORS["payment"]["json"]["accepted"] | {member: value}
    survives("payment-signature", encoded(VECTORS["payment"]["json"] | {"accepted": accepted}))
    survives("payment-required", encoded(VECTORS["required"]["json"] | {"accepts": [accepted]}))
