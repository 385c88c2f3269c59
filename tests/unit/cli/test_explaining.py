"""What strings of this field say."""

from __future__ import annotations

import base64
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rail402.cli.explaining import MAX_TEXT, Explainer
from rail402.cli.hiding import revealed
from rail402.errors import MalformedInput
from rail402.plugins import Explained
from rail402.protocol.receipt import ReceiptKeys, RefundReceipt
from tests.unit.cli.samples import (
    EVM,
    NOW,
    PAYEE,
    base_offer,
    invoice,
    lightning_offer,
    plugins,
    required,
    said,
    stripe_offer,
    to_base64,
)

PLUGINS = plugins()
VECTORS = Path(__file__).parents[2] / "vectors"
TOKEN = f"k1.1800000600.{'A' * 22}.{'B' * 43}"
PREIMAGE = "ab" * 32
SIGNATURE = "0x" + "cd" * 65
AUTHORIZATION = {
    "from": PAYEE,
    "to": PAYEE,
    "value": "3000",
    "validAfter": "0",
    "validBefore": "1800000100",
    "nonce": "0x" + "11" * 32,
}
PROOF = {"signature": SIGNATURE, "authorization": AUTHORIZATION}
KEYS, _ = ReceiptKeys.generate()


def vectors(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    return read


def explain(text: str, jwks: dict[str, Any] | None = None) -> Explained:
    return Explainer(PLUGINS, now=NOW, jwks=jwks).explain(text)


def facts(text: str, *, secrets: bool = False) -> dict[str, Any]:
    shown: dict[str, Any] = revealed(explain(text).facts, secrets=secrets)
    json.dumps(shown)
    return shown


def jws(header: dict[str, Any], claims: dict[str, Any]) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims)]
    return ".".join([*parts, "c2ln"])


# --- x402


def test_a_challenge_of_the_official_sdk() -> None:
    header = vectors("x402_v2_headers")["required"]["header"]
    for text in (header, f"PAYMENT-REQUIRED: {header}", f"payment-required:{header}\r\n"):
        explained = explain(text)
        assert explained.kind == "x402 v2 challenge (PaymentRequired)"
        (offer,) = explained.facts["offers"]
        assert (offer["rail"], offer["price"], offer["network_names"]) == ("base", "0.01 USDC", ["Base Sepolia"])
        assert offer["verdict"] == "known"


def test_a_payment_and_a_settlement_of_the_official_sdk() -> None:
    vector = vectors("x402_v2_headers")
    explained = explain(f"PAYMENT-SIGNATURE: {vector['payment']['header']}")
    assert explained.kind == "x402 v2 payment (PaymentPayload)"
    proof = revealed(explained.facts, secrets=True)["payload"]["proof"]
    assert proof not in json.dumps(revealed(explained.facts, secrets=False)["payload"])
    assert explain(f"PAYMENT-RESPONSE: {vector['response']['header']}").kind == "x402 settlement (SettleResponse)"


def test_a_payment_says_which_rail_knows_it() -> None:
    read = facts(to_base64({"x402Version": 2, "accepted": EVM | {"extra": {"token": TOKEN}}, "payload": PROOF}))
    assert read["known_to_rails"] == ["base"]
    assert read["accepted"]["extra"]["token"]["kid"] == "k1"
    broken = facts(to_base64({"x402Version": 2, "accepted": EVM, "payload": {**PROOF, "signature": "0x1"}}))
    assert broken["known_to_rails"] == []
    assert broken["problems"][0].startswith("base: ")
    strange = facts(to_base64({"x402Version": 2, "accepted": EVM, "payload": {"transaction": "AQAAAA"}}))
    assert (strange["known_to_rails"], strange["problems"]) == ([], [])
    assert "AQAAAA" not in json.dumps(strange)


def test_version_1() -> None:
    payment = {"x402Version": 1, "scheme": "exact", "network": "base", "payload": PROOF}
    explained = explain(f"X-PAYMENT: {to_base64(payment)}")
    assert explained.kind == "x402 v1 payment (PaymentPayload)"
    assert explained.facts["known_to_rails"] == ["base"]
    assert SIGNATURE not in json.dumps(facts(to_base64(payment)))
    assert facts(to_base64(payment), secrets=True)["payload"] == PROOF
    _, body = said(base_offer(), lightning_offer())
    explained = explain(json.dumps(body))
    assert explained.kind == "x402 v1 challenge (PaymentRequired)"
    assert [offer["dialect"] for offer in explained.facts["offers"]] == ["x402-v1", "x-receipt"]
    settled = to_base64({"success": False, "errorReason": "insufficient_funds", "network": "base"})
    assert facts(f"X-PAYMENT-RESPONSE: {settled}")["errorReason"] == "insufficient_funds"
    odd = {"x402Version": 1, "scheme": "exact", "network": ["base"], "payload": {}}
    with pytest.raises(MalformedInput):
        explain(to_base64(odd))


# --- MPP and L402


def test_challenges_of_www_authenticate() -> None:
    lines, _ = said(base_offer(), lightning_offer(), stripe_offer())
    values = [value for name, value in lines if name == "WWW-Authenticate"]
    explained = explain(f"WWW-Authenticate: Basic realm=x, {', '.join(values)}")
    assert explained.kind == "MPP and L402 challenge"
    assert sorted(offer["rail"] for offer in explained.facts["offers"]) == ["base", "lightning", "lightning", "stripe"]
    assert explained.notes == ["other schemes beside it, which ask for no payment: basic"]
    payment = next(each for each in explained.facts["challenges"] if each["scheme"] == "Payment")
    assert payment["request"]["amount"] == "3000"
    assert payment["opaque"]["token"]["kid"] == "k1"
    l402 = next(each for each in explained.facts["challenges"] if each["scheme"] == "L402")
    assert l402["macaroon"]["caveats"][0]["rail402_offer"]["kid"] == "k1"


def test_a_challenge_of_mpp_with_a_request_that_is_no_json() -> None:
    explained = explain('Payment id="a", realm="r", method="m", intent="i", request="***"')
    shown = revealed(explained.facts, secrets=False)
    assert shown["offers"][0]["verdict"] == "unreadable"
    assert shown["challenges"][0]["request"].startswith("sha256:")


def test_a_credential_of_mpp() -> None:
    message = {
        "challenge": {"id": "a", "realm": "r", "method": "lightning", "intent": "charge", "request": "eyJhIjoiMSJ9"},
        "payload": {"preimage": PREIMAGE},
        "source": "did:x",
    }
    text = to_base64(message).rstrip("=")
    for line in (f"Payment {text}", f"Authorization: Payment {text}", f"Payment-Authorization: Payment {text}", text):
        explained = explain(line)
        assert explained.kind == "MPP credential"
        assert explained.facts["known_to_rails"] == ["lightning"]
        assert explained.facts["challenge"]["request"] == {"a": "1"}
        assert explained.facts["source"] == "did:x"
        assert PREIMAGE not in json.dumps(facts(line))


def test_older_clients_send_opaque_decoded() -> None:
    message = {"challenge": {"id": "a", "opaque": {"token": TOKEN}}, "payload": {}}
    assert facts(to_base64(message))["challenge"]["opaque"]["token"]["kid"] == "k1"


def test_a_receipt_of_mpp() -> None:
    receipt = {"method": "stripe", "reference": "pi_1", "status": "success", "timestamp": "2026-01-01T00:00:00Z"}
    assert explain(f"Payment-Receipt: {to_base64(receipt)}").kind == "MPP receipt (Payment-Receipt)"


@pytest.mark.parametrize("word", ["L402", "LSAT", "l402"])
def test_a_credential_of_l402(word: str) -> None:
    macaroon = vectors("macaroons")["vectors"][0]
    line = f"Authorization: {word} {macaroon['base64']}:{PREIMAGE}"
    read = facts(line)
    assert read["macaroon"]["identifier"]["payment_hash"] == "11" * 32
    assert PREIMAGE not in json.dumps(read)
    assert macaroon["signature"] not in json.dumps(read)
    assert facts(line, secrets=True)["preimage"] == PREIMAGE


def test_a_token_of_l402_that_is_no_macaroon() -> None:
    read = facts(f"L402 opaque-token:{PREIMAGE}")
    assert read["macaroon"]["note"].startswith("no macaroon that can be read")
    assert "opaque-token" not in json.dumps(read)
    challenge = facts(f'L402 invoice="{invoice()}", version="0"')["challenges"][0]
    assert challenge["macaroon"] is None


# --- the rest


def test_macaroons_tokens_and_invoices() -> None:
    assert explain(vectors("macaroons")["vectors"][0]["base64"]).kind == "macaroon"
    assert explain(TOKEN).kind == "offer token of rail402"
    for text in (invoice(), f"lightning:{invoice()}", invoice().upper()):
        read = facts(text)
        assert (read["amount_sat"], read["amount_msat"]) == (21, 21_000)
        assert (read["created_at"], read["expires_at"]) == (NOW, NOW + 600)
        assert read["payment_secret"].startswith("sha256:")


@pytest.mark.parametrize(
    "vector", vectors("bolt11")["invalid"], ids=lambda vector: str(vector.get("name") or vector["field"])
)
def test_a_broken_invoice_is_said_to_be_broken(vector: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput):
        explain(vector["invoice"])


def test_a_proof_by_itself() -> None:
    assert explain(PREIMAGE).kind.startswith("32 bytes: a preimage")
    assert explain(f"X-Receipt: {PREIMAGE}").facts.keys() == {"preimage", "its_payment_hash"}
    assert explain("0x" + PREIMAGE).kind.startswith("32 bytes with 0x")
    assert explain(json.dumps(PROOF)).facts["known_to_rails"] == ["base"]
    assert explain("spt_123").kind.startswith("shared payment token")


def test_bodies_and_key_sets() -> None:
    assert explain('{"type":"x402","payment":{"network":"x"}}').kind == "payment terms (x-receipt)"
    people = explain('{"price":"1 USD","offers":[{"rail":"base","pay_url":"https://a"}]}')
    assert people.facts["offers"][0]["pay_url"] == "https://a"
    public = explain(json.dumps(KEYS.jwks))
    assert (public.kind, public.notes) == ("JWK Set", [])
    private = explain('{"keys":[{"kty":"OKP","d":"secret-part"}]}')
    assert "PRIVATE" in private.notes[0]
    assert "secret-part" not in json.dumps(revealed(private.facts, secrets=False))


def test_a_receipt_is_read_without_its_keys() -> None:
    explained = explain(f"Receipt-Record: {jws({'alg': 'EdDSA', 'kid': 'k', 'typ': 'rail402-receipt+jwt'}, {'v': 1})}")
    assert explained.kind == "receipt of rail402 (JWS)"
    assert "signature_verifies" not in explained.facts
    assert "its claim iss is missing or has the wrong form" in explained.notes
    assert "was not checked" in explained.notes[-1]
    other = explain(jws({"alg": "EdDSA", "typ": "interaction-record+jwt"}, {"iss": "a"}))
    assert other.kind == "JWS, no receipt of rail402"


def test_a_refund_receipt_is_no_receipt() -> None:
    record = RefundReceipt(
        issuer="https://shop.example",
        charge="ch_1",
        issued_at=NOW,
        rail="base",
        network="eip155:8453",
        asset="USDC",
        amount="3000",
        price="0.003 USDC",
        payee="shop",
        payment="0x1",
    )
    explained = explain(KEYS.sign(record), KEYS.jwks)
    assert (explained.kind, explained.facts["signature_verifies"]) == ("refund receipt of rail402 (JWS)", True)
    assert "signed it for https://shop.example" in explained.notes[-1]


def test_a_signature_that_does_not_count() -> None:
    text = jws({"alg": "EdDSA", "kid": KEYS.kid, "typ": "rail402-receipt+jwt"}, {"v": 1})
    explained = explain(text, KEYS.jwks)
    assert explained.facts["signature_verifies"] is False
    assert "does NOT count" in explained.notes[-1]


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "hello", "-", ":", "a: b", "{}", "{", '{"a":1}', "eyJhIjoxfQ", "eyJ", "0x12", "..", "a.b.c"),
        *("Bearer abc", "Authorization: Basic YTpi", "WWW-Authenticate: Basic", "PAYMENT-REQUIRED: ***", "Payment ***"),
        *("Payment-Receipt: eyJhIjoxfQ", "lnbc1", "lightning:abc", "ethereum:", "ethereum:abc", "L402 a", "AgEE", "02"),
        *("Receipt-Record: a", "PAYMENT-REQUIRED: ", "k1.1.a.b", "\x00", "\ud800", "a" * (MAX_TEXT + 1)),
        *('{"accepts":[]}', '{"keys":[1]}', '{"payload":{}}'),
    ],
)
def test_what_cannot_be_read_is_a_typed_error(text: str) -> None:
    with pytest.raises(MalformedInput):
        explain(text)


def test_what_is_no_unicode_is_replaced() -> None:
    assert facts("L402 a:\ud800", secrets=True)["preimage"] == "?"


def test_an_error_does_not_repeat_the_text() -> None:
    secret = "hunter2-hunter2"
    for text in (secret, f"Authorization: Basic {secret}", f"Payment {secret}", f"PAYMENT-SIGNATURE: {secret}"):
        with pytest.raises(MalformedInput) as caught:
            explain(text)
        assert secret not in str(caught.value)


STARTS = [
    *("", "Payment ", "L402 ", "WWW-Authenticate: Payment ", "Authorization: LSAT ", "PAYMENT-REQUIRED: ", "{", "eyJ"),
    *("lnbc", "lightning:", "ethereum:0x", "Ag", "02", "X-PAYMENT: ", "Receipt-Record: ", "k1.1800000600.", "spt_"),
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(STARTS), st.text() | st.text("abcAgEe0123456789._-:=/+,\"' {}[]"))
@example("ethereum:0x", "209693Bc6afc0C5328bA36FaF03C514EF312287C@1/transfer?uint256=1e99")
@example("", to_base64({"x402Version": 10**400, "accepts": []}))
@example("", '{"payment":{"expiry_seconds":1e3,"invoice":1}}')
def test_any_text_is_explained_or_refused(start: str, rest: str) -> None:
    try:
        facts(start + rest)
    except MalformedInput:
        return


WORDS = ["x402Version", "accepts", "accepted", "payload", "challenge", "payment", "success", "transaction", "keys"]
MEMBERS = st.sampled_from([*WORDS, "scheme", "network", "method", "reference", "status", "timestamp", "signature"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=5) | st.just(EVM) | st.just(PROOF),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBERS, inner, max_size=4),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(MEMBERS, VALUES, max_size=6), st.booleans())
def test_any_json_is_explained_or_refused(message: dict[str, Any], encoded: bool) -> None:
    try:
        facts(to_base64(message) if encoded else json.dumps(message))
    except MalformedInput:
        return


@pytest.mark.parametrize(
    "text",
    [
        "Payment " + "a=," * 40_000,
        "L402 " * 25_000,
        "WWW-Authenticate: " + 'Payment a="' * 11_000,
        "a" * MAX_TEXT,
        "a.a.a." * 20_000,
        "lnbc" + "q" * 100_000,
        "ethereum:" + "a" * 100_000,
        "eyJ" + "A" * 120_000,
        "{" + '"a":' * 30_000,
        json.dumps({"x402Version": 1, "accepts": [EVM] * 400, "x": "y" * 20_000})[:MAX_TEXT],
        required(*[EVM] * 180, pad="y" * 1000)[:MAX_TEXT],
    ],
    ids=lambda text: text[:12],
)
def test_no_text_takes_long(text: str) -> None:
    began = time.monotonic()
    with suppress(MalformedInput):
        facts(text)
    assert time.monotonic() - began < 5


# --- the dialects that are not on by default


@pytest.mark.parametrize(
    ("text", "rail"),
    [
        ("0x" + "11" * 32, "base"),
        (PREIMAGE, "lightning"),
        (json.dumps(PROOF), "base"),
        (to_base64(PROOF), "base"),
        (json.dumps({"transaction": "0x" + "11" * 32, "signature": SIGNATURE}), "base"),
    ],
)
def test_proofs_in_x_payment_proof(text: str, rail: str) -> None:
    read = facts(f"X-Payment-Proof: {text}")
    assert read["known_to_rails"] == [rail]
    assert SIGNATURE not in json.dumps(read)
    assert PREIMAGE not in json.dumps(read)
    if "transaction" in read["payload"]:
        assert read["payload"]["transaction"] == "0x" + "11" * 32


def test_receipts_in_x_receipt() -> None:
    signed = f"X-Receipt: 0x{'11' * 32}.{SIGNATURE}"
    read = facts(signed)
    assert read["known_to_rails"] == ["base"]
    assert SIGNATURE not in json.dumps(read)
    assert facts("pi_123")["known_to_rails"] == ["stripe"]


def test_challenges_of_other_dialects() -> None:
    x_payment = {"price": "0.003", "receiver": PAYEE, "network": "base", "asset": "USDC"}
    for text in (json.dumps(x_payment), f"X-Payment: {json.dumps(x_payment)}", f"X-Payment: {to_base64(x_payment)}"):
        explained = explain(text)
        assert explained.kind == "payment terms (x-payment)"
        assert explained.facts["offers"][0]["price"] == "0.003 USDC"
    x_price = {"price": "0.10", "currency": "USDC", "paymentAddress": PAYEE}
    assert explain(json.dumps(x_price)).kind == "payment terms (x-price)"
    uri = f"ethereum:{EVM['asset']}@402402/transfer?address={PAYEE}&uint256=3000"
    link = explain(f'Link: <{uri}>; rel="payment"')
    assert link.facts["offers"][0]["price"] == "0.003 USDC"
    with pytest.raises(MalformedInput):
        explain('Link: <https://a.example/>; rel="next"')
