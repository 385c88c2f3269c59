"""What is secret is not shown by accident."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from rail402.cli.hiding import hidden, offer_token, only_public, read_macaroon, revealed
from rail402.errors import MalformedInput

TOKEN = f"k1.1800000600.{'A' * 22}.{'B' * 43}"
MACAROONS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "macaroons.json").read_text(encoding="utf-8")
)["vectors"]


def test_members_that_are_known_to_be_secret_are_hidden_wherever_they_stand() -> None:
    value = {"a": [{"preimage": "p", "amount": "1"}], "signature": {"r": "x", "v": 27}, "macaroon": None, "mac": ["m"]}
    shown = revealed(hidden(value), secrets=False)
    assert shown["a"][0]["amount"] == "1"
    assert shown["macaroon"] is None
    for secret in (shown["a"][0]["preimage"], shown["signature"]["r"], shown["signature"]["v"], shown["mac"][0]):
        assert secret.startswith("sha256:")
    assert revealed(hidden(value), secrets=True) == {**value, "signature": {"r": "x", "v": "27"}}


def test_a_secret_is_told_from_another_by_its_digest() -> None:
    assert revealed(SecretStr("abc"), secrets=False) == "sha256:ba7816bf8f01… (3 characters, hidden)"
    assert hidden({"proof": SecretStr("abc")})["proof"].get_secret_value() == "abc"


def test_of_a_proof_only_what_is_known_to_be_public_is_shown() -> None:
    payload = {"authorization": {"from": "0x1", "nonce": "0x2"}, "signature": "0x3", "permit": {"deep": ["0x4"]}}
    shown = revealed(only_public(payload), secrets=False)
    assert shown["authorization"] == {"from": "0x1", "nonce": "0x2"}
    assert "0x3" not in str(shown)
    assert "0x4" not in str(shown)


def test_an_offer_token_is_taken_apart_and_its_nonce_is_secret() -> None:
    explained = offer_token(TOKEN)
    assert explained is not None
    assert (explained.facts["kid"], explained.facts["expires_at"]) == ("k1", 1_800_000_600)
    assert "A" * 22 not in json.dumps(revealed(explained.facts, secrets=False))
    assert revealed(explained.facts, secrets=True)["nonce"] == "A" * 22
    assert "cannot be checked" in explained.notes[0]
    assert offer_token("k1.2.3") is None
    assert revealed(hidden({"token": TOKEN}), secrets=False)["token"]["kid"] == "k1"


@pytest.mark.parametrize("vector", MACAROONS, ids=lambda vector: vector["name"])
def test_macaroons_of_a_real_library_are_explained(vector: dict[str, Any]) -> None:
    plain = vector["base64"]
    for text in (plain, plain.rstrip("=").replace("+", "-").replace("/", "_")):
        facts = read_macaroon(text).facts
        assert facts["caveats"] == vector["caveats"]
        assert facts["location"] == vector["location"]
        assert revealed(facts["signature"], secrets=True) == vector["signature"]
        assert vector["signature"] not in json.dumps(revealed(facts, secrets=False))


def test_the_identifier_of_an_l402_macaroon_has_its_payment_hash() -> None:
    facts = read_macaroon(MACAROONS[0]["base64"]).facts
    assert facts["identifier"] == {"version": 0, "payment_hash": "11" * 32, "token_id": "22" * 32}


def test_a_macaroon_in_hexadecimal_and_caveats_with_secrets() -> None:
    from rail402.dialects.macaroon import mint

    made = mint(b"k" * 32, b"id", caveats=[b"preimage=" + b"ab" * 32, f"rail402_offer={TOKEN}".encode(), b"\xff"])
    facts = revealed(read_macaroon(made.serialize().hex()).facts, secrets=False)
    assert facts["identifier"] == b"id".hex()
    assert "ab" * 32 not in str(facts)
    assert facts["caveats"][1]["rail402_offer"]["kid"] == "k1"
    assert facts["caveats"][2] == "0xff"


@pytest.mark.parametrize("text", ["02zz", "Ag", "AgEE*", "A" * 30_000, "02" * 4])
def test_what_is_no_macaroon(text: str) -> None:
    with pytest.raises(MalformedInput):
        read_macaroon(text)
