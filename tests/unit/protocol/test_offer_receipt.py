"""Signed offers and receipts of the format jws: who may sign, and what is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey

from rail402.errors import MalformedInput
from rail402.protocol.offer_receipt import (
    OfferTerms,
    ReceiptTerms,
    did_document,
    did_of,
    keys_in,
    read_terms,
    verify_jws,
)
from rail402.protocol.receipt import ReceiptKeys, verify_receipt

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "offer_receipts.json").read_text())
JWS = VECTORS["jws"]
DID: str = JWS["did"]
KEYS = keys_in(did_document(DID, JWS["jwks"]))
OFFER, RECEIPT = JWS["offer"], JWS["receipt"]
URL = OFFER["payload"]["resourceUrl"]
SIGNING = ReceiptKeys(
    {
        "kty": "OKP",
        "crv": "Ed25519",
        "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    }
)


def signed(payload: Any, did: str = DID) -> dict[str, Any]:
    return {"format": "jws", "signature": SIGNING.sign_as(did, payload)}


def refused(artifact: Any, **more: Any) -> str:
    with pytest.raises(MalformedInput) as caught:
        verify_jws(OfferTerms, artifact, KEYS, **more)
    assert caught.value.code == "receipt_invalid"
    return str(caught.value)


def with_header(**changes: Any) -> dict[str, Any]:
    """The offer with its header changed; the signature does not fit any more, which is looked at last."""
    header, payload, signature = OFFER["artifact"]["signature"].split(".")
    members = json.loads(base64.urlsafe_b64decode(header + "==")) | changes
    text = json.dumps({name: value for name, value in members.items() if value is not ...})
    altered = base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()
    return {"format": "jws", "signature": f"{altered}.{payload}.{signature}"}


def test_what_was_signed_is_read() -> None:
    offer = verify_jws(OfferTerms, OFFER["artifact"], KEYS)
    receipt = verify_jws(ReceiptTerms, RECEIPT["artifact"], KEYS)

    assert (offer.payload, receipt.payload) == (OFFER["payload"], RECEIPT["payload"])
    assert (offer.amount, offer.valid_until, receipt.transaction) == ("10000", 1_703_123_516, "")


def test_the_signature_is_over_canonical_json_under_a_did_url() -> None:
    header, payload, _ = OFFER["artifact"]["signature"].split(".")

    assert json.loads(base64.urlsafe_b64decode(header + "==")) == {"alg": "EdDSA", "kid": f"{DID}#{SIGNING.kid}"}
    text = base64.urlsafe_b64decode(payload + "==").decode()
    assert text == json.dumps(OFFER["payload"], sort_keys=True, separators=(",", ":"))
    assert SIGNING.sign_as(DID, OFFER["payload"]) == OFFER["artifact"]["signature"]


@pytest.mark.parametrize("version", [True, "1", 2, None])
def test_a_version_is_the_number_one(version: Any) -> None:
    refused(signed(OFFER["payload"] | {"version": version}))


def test_it_is_no_receipt_of_the_gate_s() -> None:
    with pytest.raises(MalformedInput, match="header must be"):
        verify_receipt(RECEIPT["artifact"]["signature"], JWS["jwks"])


@pytest.mark.parametrize(("alg", "curve"), [("ES256K", "secp256k1"), ("ES256", "P-256")])
def test_keys_of_others_are_of_other_kinds(alg: str, curve: str) -> None:
    key = ECKey.generate_key(curve)
    header = {"alg": alg, "kid": f"{DID}#key-1"}
    token = jws.serialize_compact(header, json.dumps(OFFER["payload"]).encode(), key, algorithms=[alg])
    document = {
        "id": DID,
        "verificationMethod": [{"id": "#key-1", "publicKeyJwk": key.as_dict(private=False)}],
        "assertionMethod": [f"{DID}#key-1"],
    }

    terms = verify_jws(OfferTerms, {"format": "jws", "signature": token}, keys_in(document))

    assert terms.payload == OFFER["payload"]
    other = {f"{DID}#key-1": ECKey.generate_key(curve).as_dict(private=False)}
    with pytest.raises(MalformedInput, match="not a JWS signed by"):
        verify_jws(OfferTerms, {"format": "jws", "signature": token}, other)


def test_another_host_may_not_sign_for_a_resource() -> None:
    elsewhere = signed(OFFER["payload"] | {"resourceUrl": "https://other.example/premium-data"})

    assert "not by did:web:other.example" in refused(elsewhere)
    assert verify_jws(OfferTerms, elsewhere, KEYS, did=DID).resource_url.startswith("https://other.example/")
    assert "not by did:web:pay.example" in refused(OFFER["artifact"], did="did:web:pay.example")


@pytest.mark.parametrize("url", ["/a", "", "https://", "https://me@api.example.com/", "https://[x]/", "https://[::1/"])
def test_a_resource_must_have_a_host(url: str) -> None:
    refused(signed(OFFER["payload"] | {"resourceUrl": url}))


@pytest.mark.parametrize(
    "artifact",
    [
        None,
        "x",
        {},
        {"format": "jws"},
        {"format": "eip712", "signature": OFFER["artifact"]["signature"]},
        {"format": "jws", "signature": 7},
        {"format": "jws", "signature": ""},
        {"format": "jws", "signature": "a.b"},
        {"format": "jws", "signature": "é.é.é"},
        {"format": "jws", "signature": "a" * 16_385},
        {"format": "jws", "signature": OFFER["artifact"]["signature"][:-4] + "AAAA"},
        with_header(alg="none"),
        with_header(alg="HS256"),
        with_header(alg="ES256K"),
        with_header(kid=...),
        with_header(kid=7),
        with_header(kid=["x"]),
        with_header(kid=f"{DID}#other"),
        with_header(jwk=JWS["jwks"]["keys"][0]),
        with_header(crit=["x"]),
        with_header(typ="JWT"),  # allowed, and not what was signed
    ],
)
def test_what_is_no_signed_offer_is_refused(artifact: Any) -> None:
    refused(artifact)


@pytest.mark.parametrize("members", [{"jwk": JWS["jwks"]["keys"][0]}, {"jku": "https://x.example"}, {"x": 1}])
def test_a_header_that_points_to_keys_is_refused_though_it_is_signed(members: dict[str, Any]) -> None:
    key = ECKey.generate_key("P-256")
    keys = {f"{DID}#key-1": key.as_dict(private=False)}
    header = {"alg": "ES256", "kid": f"{DID}#key-1"}
    registry = jws.JWSRegistry(algorithms=["ES256"], strict_check_header=False)
    for more, good in (({}, True), ({"typ": "JWT"}, True), (members, False)):
        token = jws.serialize_compact(header | more, json.dumps(OFFER["payload"]).encode(), key, registry=registry)
        artifact = {"format": "jws", "signature": token}
        if good:
            assert verify_jws(OfferTerms, artifact, keys).amount == "10000"
        else:
            with pytest.raises(MalformedInput):
                verify_jws(OfferTerms, artifact, keys)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": "1"},
        {"more": 1},
        {"amount": 10000},
        {"amount": None},
        {"validUntil": "1703123516"},
        {"validUntil": -1},
        {"validUntil": True},
        {"payTo": None},
    ],
)
def test_terms_of_another_form_are_refused(change: dict[str, Any]) -> None:
    assert "payload" in refused(signed(OFFER["payload"] | change))
    with pytest.raises(MalformedInput, match=r"payload\."):
        read_terms(OfferTerms, OFFER["payload"] | change)


@pytest.mark.parametrize("payload", [None, [], "x", 7])
def test_a_payload_is_an_object(payload: object) -> None:
    with pytest.raises(MalformedInput, match="payload"):
        read_terms(ReceiptTerms, payload)


def test_a_receipt_is_no_offer() -> None:
    refused(RECEIPT["artifact"])


def test_an_offer_fits_its_entry_of_accepts() -> None:
    terms = read_terms(OfferTerms, OFFER["payload"])
    entry = {name: OFFER["payload"][name] for name in ("scheme", "network", "asset", "payTo", "amount")}

    assert terms.fits(entry | {"maxTimeoutSeconds": 60}, URL)
    assert not terms.fits(entry, URL + "?more")
    for name in entry:
        assert not terms.fits(entry | {name: "other"}, URL)
        assert not terms.fits({key: value for key, value in entry.items() if key != name}, URL)


# --- the DID


@pytest.mark.parametrize(
    ("url", "did"),
    [
        ("https://api.example.com", "did:web:api.example.com"),
        ("https://API.example.com/a/b?c", "did:web:api.example.com"),
        ("http://localhost:8000", "did:web:localhost%3A8000"),
        ("https://[::1]:8443/", "did:web:%5B%3A%3A1%5D%3A8443"),
    ],
)
def test_a_host_s_did(url: str, did: str) -> None:
    assert did_of(url) == did


def test_the_document_names_every_key_and_holds_no_private_part() -> None:
    pair = ReceiptKeys(ReceiptKeys.generate()[1], [JWS["jwks"]["keys"][0]])
    document = did_document(DID, pair.jwks)

    assert document["id"] == DID
    assert [method["id"] for method in document["verificationMethod"]] == document["assertionMethod"]
    assert {method["type"] for method in document["verificationMethod"]} == {"JsonWebKey2020"}
    assert {method["controller"] for method in document["verificationMethod"]} == {DID}
    assert all("d" not in method["publicKeyJwk"] for method in document["verificationMethod"])
    assert [name.partition("#")[2] for name in keys_in(document)] == [pair.kid, SIGNING.kid]


@pytest.mark.parametrize(
    "document", [None, [], {}, {"id": DID}, {"verificationMethod": []}, {"id": 7, "verificationMethod": []}]
)
def test_what_is_no_document_is_refused(document: object) -> None:
    with pytest.raises(MalformedInput, match=r"did\.json"):
        keys_in(document)


def test_only_keys_of_the_did_that_may_assert_count() -> None:
    key = JWS["jwks"]["keys"][0]
    methods: list[Any] = [
        {"id": "#a", "publicKeyJwk": key},
        {"id": "#b", "publicKeyJwk": key},
        {"id": f"{DID}#c", "publicKeyJwk": key},
        {"id": "did:web:other.example#d", "publicKeyJwk": key},
        {"id": "#e", "publicKeyMultibase": "z6Mk"},
        {"id": 7, "publicKeyJwk": key},
        "x",
    ]
    document: dict[str, Any] = {"id": DID, "verificationMethod": methods}

    assert set(keys_in(document)) == {f"{DID}#{name}" for name in "abc"}
    assert set(keys_in(document | {"assertionMethod": ["#a", f"{DID}#c"]})) == {f"{DID}#a", f"{DID}#c"}


@pytest.mark.parametrize(
    "jwk", [{}, {"kty": "OKP"}, {"kty": "EC", "crv": "P-256"}, {"kty": "oct", "k": "AA"}, {"kty": 1}]
)
def test_keys_that_are_none_verify_nothing(jwk: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput):
        verify_jws(OfferTerms, OFFER["artifact"], {f"{DID}#{SIGNING.kid}": jwk})


@given(st.text(), st.binary(max_size=200), st.binary(max_size=200))
def test_hostile_artifacts(text: str, header: bytes, payload: bytes) -> None:
    encoded = [base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (header, payload)]
    for signature in (text, f"{encoded[0]}.{encoded[1]}.AA"):
        with pytest.raises(MalformedInput):
            verify_jws(OfferTerms, {"format": "jws", "signature": signature}, KEYS)
