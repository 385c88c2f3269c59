"""Signed offers and receipts of the format eip712, against the specification's examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rail402.errors import MalformedInput
from rail402_base.offer_receipt import offer_digest, receipt_digest, signed_offer, signed_receipt

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "offer_receipts.json").read_text())
EIP712 = VECTORS["eip712"]
READ: dict[str, Any] = {"offer": signed_offer, "receipt": signed_receipt}
DIGEST: dict[str, Any] = {"offer": offer_digest, "receipt": receipt_digest}


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
