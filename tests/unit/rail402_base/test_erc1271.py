"""Signatures of payers that are contracts, as far as that needs no chain."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from rail402.errors import MalformedInput, PaymentRejected
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.payment import Payment
from rail402_base.eip3009 import Authorization, address_of, digest, keccak256, parse_authorization, sign
from rail402_base.erc1271 import is_accepted, proof_digest, require_deployed
from rail402_base.tokens import BASE_USDC, SANDBOX_USDC, Token
from rail402_base.wire import BaseSpec, authorization_key, payload_of

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "erc1271.json").read_text())
NOW = 1_740_672_100
PAYEE = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
KEY = bytes([1]) * 32
PAYER = address_of(KEY)


def named(vectors: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(each, id=each["name"]) for each in vectors]


def text_of(vector: dict[str, Any]) -> Any:
    return vector["signature"] if "signature" in vector else "0x" + "78" * int(vector["bytes"])


def authorization(**members: Any) -> Authorization:
    honest: dict[str, Any] = {"from_": PAYER, "to": PAYEE, "value": 3000, "valid_after": 0}
    return Authorization(**(honest | {"valid_before": NOW + 180, "nonce": bytes(32)} | members))


def presented(signature: Any, token: Token = BASE_USDC) -> tuple[BaseSpec, Offer, Payment]:
    spec = BaseSpec(token)
    offer = spec.offer(
        token, payee=PAYEE, amount=3000, flow=Flow.AUTHORIZATION, expires_at=NOW + 600, timeout_seconds=180
    )
    payload = dict(payload_of(authorization(), b"")) | {"signature": signature}
    return spec, offer, Payment(dialect="x402-v2", rail=spec.name, payload=payload, offer=offer)


@pytest.mark.parametrize("function", VECTORS["selectors"])
def test_selectors(function: str) -> None:
    assert "0x" + keccak256(function.encode())[:4].hex() == VECTORS["selectors"][function]


@pytest.mark.parametrize("vector", named(VECTORS["answers"]))
def test_what_a_contracts_answer_means(vector: dict[str, Any]) -> None:
    assert is_accepted(bytes.fromhex(vector["answer"][2:])) is vector["accepted"]


@pytest.mark.parametrize("vector", named(VECTORS["signatures"]))
def test_a_signature_of_no_key_is_left_to_the_chain(vector: dict[str, Any]) -> None:
    text = text_of(vector)
    signature = bytes.fromhex(text[2:])
    spec, offer, payment = presented(text)
    assert parse_authorization(payment.payload) == (authorization(), signature)

    verified = spec.authenticate(offer, payment)

    assert verified.state["proof_digest"] == proof_digest(signature) == hashlib.sha256(signature).hexdigest()
    assert (verified.payer, verified.is_payer, verified.came_before) == (PAYER, False, False)
    assert verified.keys == {authorization_key(BASE_USDC, authorization())} == spec.identify(payment)
    assert signature.hex() not in repr(verified) or len(signature) < 8


def test_a_keys_signature_needs_no_word_of_the_chain() -> None:
    signature = sign(digest(BASE_USDC.domain, authorization()), KEY)
    for same in (signature, signature[:64] + bytes([signature[64] - 27])):
        spec, offer, payment = presented("0x" + same.hex())
        assert "proof_digest" not in spec.authenticate(offer, payment).state
    spec, offer, payment = presented("0x" + (signature + b"\x00").hex())
    assert "proof_digest" in spec.authenticate(offer, payment).state, "66 bytes are no key's"


@pytest.mark.parametrize("vector", named(VECTORS["malformed"]))
def test_what_is_no_signature(vector: dict[str, Any]) -> None:
    spec, offer, payment = presented(text_of(vector))
    for read in (parse_authorization, spec.bindings["x402-v2"].decode_proof):
        with pytest.raises(MalformedInput) as caught:
            read(payment.payload)  # type: ignore[operator]
        assert (caught.value.field, caught.value.code) == ("signature", "payload_invalid")
    with pytest.raises(MalformedInput):
        spec.authenticate(offer, payment)


@pytest.mark.parametrize("vector", named(VECTORS["undeployed"]))
def test_a_wallet_that_is_not_deployed(vector: dict[str, Any]) -> None:
    spec, offer, payment = presented(vector["signature"])
    with pytest.raises(PaymentRejected, match="ERC-6492") as caught:
        spec.authenticate(offer, payment)
    assert caught.value.code == "wallet_undeployed"
    assert caught.value.reason.x402 == "invalid_exact_evm_payload_undeployed_smart_wallet"


@pytest.mark.parametrize("vector", named(VECTORS["signatures"]))
def test_what_is_not_wrapped(vector: dict[str, Any]) -> None:
    require_deployed(bytes.fromhex(text_of(vector)[2:]))


@pytest.mark.parametrize("size", [1, 64, 65, 66, 2048])
def test_the_sandbox_has_no_contracts(size: int) -> None:
    spec, offer, payment = presented("0x" + "11" * size, SANDBOX_USDC)
    with pytest.raises(PaymentRejected, match="the sandbox has no contracts") as caught:
        spec.authenticate(offer, payment)
    assert caught.value.code == "signature_invalid"


@pytest.mark.parametrize("dialect", ["x402-v2", "x402-v1", "mpp", "x-payment"])
@pytest.mark.parametrize("size", [1, 66, 2048])
def test_every_dialect_carries_any_signature(dialect: str, size: int) -> None:
    spec, _, payment = presented("0x" + "ab" * size)
    binding = spec.bindings[dialect]
    wire = dict(binding.encode_proof(payment.payload))
    if dialect == "x402-v1":
        wire |= {"scheme": "exact", "network": BASE_USDC.network.v1_name}
    assert binding.decode_proof(wire) == payment.payload
