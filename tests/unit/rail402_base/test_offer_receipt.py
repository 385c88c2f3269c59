"""Signed offers and receipts of the format eip712, against the specification's examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.errors import MalformedInput
from rail402.protocol.offer_receipt import OfferTerms, ReceiptTerms, read_terms
from rail402_base.eip3009 import address_of, sign
from rail402_base.offer_receipt import offer_digest, receipt_digest, signed_offer, signed_receipt

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "offer_receipts.json").read_text())
EIP712 = VECTORS["eip712"]
READ: dict[str, Any] = {"offer": signed_offer, "receipt": signed_receipt}
DIGEST: dict[str, Any] = {"offer": offer_digest, "receipt": receipt_digest}
KEY = bytes([7] * 32)


def cases(section: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", EIP712[section], ids=lambda vector: vector["name"])


@cases("accept")
def test_the_signer_is_found(vector: dict[str, Any]) -> None:
    signed = READ[vector["kind"]](vector["artifact"])

    assert signed.signer == vector["signer"]
    assert DIGEST[vector["kind"]](signed.terms).hex() == vector["digest"]
    said = {name: value for name, value in vector["artifact"]["payload"].items() if value != ""}
    assert signed.terms.payload == said


@cases("another_signer")
def test_what_was_altered_is_signed_by_somebody_else(vector: dict[str, Any]) -> None:
    assert READ[vector["kind"]](vector["artifact"]).signer != EIP712["accept"][0]["signer"]


@cases("reject")
def test_what_is_none_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput) as caught:
        READ[vector["kind"]](vector["artifact"])

    assert caught.value.code == "receipt_invalid"


def test_an_offer_and_a_receipt_are_never_taken_for_each_other() -> None:
    offer, receipt = EIP712["accept"][:2]

    for read, artifact in ((signed_offer, receipt["artifact"]), (signed_receipt, offer["artifact"])):
        with pytest.raises(MalformedInput):
            read(artifact)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
TEXT, SECONDS = st.text(max_size=40), st.integers(0, 2**53 - 1)
PAYLOADS: dict[str, Any] = {
    "offer": dict.fromkeys(["network", "resourceUrl", "scheme", "asset", "payTo", "amount"], TEXT)
    | {"validUntil": SECONDS},
    "receipt": dict.fromkeys(["network", "resourceUrl", "payer", "transaction"], TEXT) | {"issuedAt": SECONDS},
}
TERMS: dict[str, Any] = {"offer": OfferTerms, "receipt": ReceiptTerms}


def survives(artifact: Any) -> None:
    """Whatever it is, it is read, or refused as no signed offer or receipt."""
    for read in (signed_offer, signed_receipt):
        refused = None
        try:
            read(artifact)
        except MalformedInput as error:
            refused = error.code
        assert refused in (None, "receipt_invalid")


@given(st.data(), st.sampled_from(["offer", "receipt"]))
def test_whatever_is_signed_is_read_and_its_signer_found(data: st.DataObject, kind: str) -> None:
    terms = read_terms(TERMS[kind], data.draw(st.fixed_dictionaries(PAYLOADS[kind])))
    signature = "0x" + sign(DIGEST[kind](terms), KEY).hex()
    artifact = json.loads(json.dumps({"format": "eip712", "payload": terms.payload, "signature": signature}))

    assert READ[kind](artifact) == (terms, address_of(KEY))


@given(
    st.sampled_from([vector["artifact"] for vector in EIP712["accept"]]),
    st.sampled_from(["format", "signature", "payload", *EIP712["accept"][0]["artifact"]["payload"], "issuedAt"]),
    JSON | st.binary(min_size=65, max_size=65).map(lambda signature: "0x" + signature.hex()),
)
def test_hostile_members_give_typed_errors(artifact: dict[str, Any], member: str, value: Any) -> None:
    survives(artifact | {member: value})
    survives(artifact | {"payload": artifact["payload"] | {member: value}})


@given(JSON | st.dictionaries(st.sampled_from(["format", "signature", "payload"]), JSON | st.just("eip712")))
def test_hostile_json_gives_typed_errors(artifact: Any) -> None:
    survives(artifact)
