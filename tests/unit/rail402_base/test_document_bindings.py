"""The small dialects' JSON: what we say, what others say, and what is none of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rail402.errors import MalformedInput
from rail402.protocol.offer import Flow, Offer
from rail402_base.tokens import BASE_SEPOLIA_USDC, BASE_USDC, TOKENS
from rail402_base.transfers import order_terms
from rail402_base.wire import BaseSpec
from tests.unit.rail402_base.payments import NOW, ORDER, PAYEE, PRICE, signed

SPEC = BaseSpec([BASE_USDC, BASE_SEPOLIA_USDC], transfers=True)
DOCUMENTS = ("x-payment", "x-price", "payment-uri", "x-receipt")
TRANSFERS = DOCUMENTS[1:]
HASH, SIGNATURE = "0x" + 64 * "a", "0x" + 130 * "1"
_VECTORS = Path(__file__).parents[2] / "vectors" / "evm_documents.json"
VECTORS: dict[str, Any] = json.loads(_VECTORS.read_text(encoding="utf-8"))


def transfer_offer(**changes: Any) -> Offer:
    offer = SPEC.transfer_offer(
        BASE_USDC, payee=PAYEE, amount=PRICE, expires_at=NOW, timeout_seconds=300, extra={"signature": "eip191"}
    )
    return offer.model_copy(update=changes)


def authorized_offer(flow: Flow = Flow.AUTHORIZATION) -> Offer:
    return SPEC.offer(BASE_USDC, payee=PAYEE, amount=PRICE, flow=flow, expires_at=NOW, timeout_seconds=180)


@pytest.mark.parametrize("dialect", TRANSFERS)
def test_what_we_say_of_a_transfer_we_read(dialect: str) -> None:
    binding = SPEC.bindings[dialect]
    wire = binding.encode_offer(transfer_offer(extra=order_terms(ORDER)))
    assert wire is not None
    assert binding.decode_offer(wire, expires_at=NOW) == transfer_offer()
    assert binding.encode_offer(authorized_offer()) is None


@pytest.mark.parametrize("flow", [Flow.AUTHORIZATION, Flow.UPFRONT])
def test_what_x_payment_says_of_an_authorization_we_read(flow: Flow) -> None:
    binding = SPEC.bindings["x-payment"]
    wire = binding.encode_offer(authorized_offer(flow))
    assert wire is not None
    assert binding.decode_offer(wire, expires_at=NOW) == authorized_offer(flow)
    nonced = binding.decode_offer({**wire, "nonce": "0x" + 64 * "B"}, expires_at=NOW)
    assert nonced is not None
    assert nonced.extra == {"nonce": "0x" + 64 * "b"}
    assert binding.encode_offer(transfer_offer()) is None


@pytest.mark.parametrize("dialect", ["x402-v2", "x402-v1", "mpp"])
def test_the_dialects_with_an_echo_say_no_transfer(dialect: str) -> None:
    assert SPEC.bindings[dialect].encode_offer(transfer_offer()) is None


@pytest.mark.parametrize("vector", VECTORS["accept"], ids=lambda vector: vector["title"])
def test_what_others_say(vector: dict[str, Any]) -> None:
    offer = SPEC.bindings[vector["dialect"]].decode_offer(vector["wire"], expires_at=NOW)
    assert offer is not None
    said = (offer.mechanism, offer.network, offer.asset, str(offer.amount), offer.payee)
    assert list(said) == vector["offer"]


@pytest.mark.parametrize("vector", VECTORS["not_ours"], ids=lambda vector: vector["title"])
def test_what_is_another_rails(vector: dict[str, Any]) -> None:
    assert SPEC.bindings[vector["dialect"]].decode_offer(vector["wire"], expires_at=NOW) is None


@pytest.mark.parametrize("vector", VECTORS["reject"], ids=lambda vector: vector["title"])
def test_what_cannot_be_read(vector: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput):
        SPEC.bindings[vector["dialect"]].decode_offer(vector["wire"], expires_at=NOW)


def test_a_price_without_a_network_means_the_first_that_is_paid_on() -> None:
    wire = {"price": "0.10", "currency": "USDC", "paymentAddress": PAYEE}
    for tokens, network in (((BASE_SEPOLIA_USDC, BASE_USDC), "eip155:84532"), (TOKENS, "eip155:8453")):
        offer = BaseSpec(tokens).bindings["x-price"].decode_offer(wire, expires_at=NOW)
        assert offer is not None
        assert (offer.network, offer.amount) == (network, 100_000)


# --- proofs


@pytest.mark.parametrize("dialect", ["x-payment", "x-price", "payment-uri"])
def test_one_field_is_one_payment_in_all_dialects(dialect: str, tmp_path: Path) -> None:
    from tests.unit.rail402_base.payments import Till

    binding = SPEC.bindings[dialect]
    for payload in ({"transaction": HASH}, {"transaction": HASH, "signature": SIGNATURE}):
        assert binding.decode_proof(binding.encode_proof(payload)) == payload
    assert binding.decode_proof({"proof": {"transaction": HASH.upper().replace("X", "x"), "other": 1}}) == {
        "transaction": HASH
    }
    payload = signed(Till(tmp_path).authorization())
    assert binding.decode_proof({"proof": payload}) == payload
    for other in ({"preimage": 64 * "a"}, {"paymentIntent": "pi_1"}, {}):
        assert binding.decode_proof({"proof": other}) is None
    assert binding.decode_proof({"proof": "text"}) is None
    for wrong in ({"transaction": "0x1"}, {"authorization": 1}, {"authorization": {}, "signature": "0x"}):
        with pytest.raises(MalformedInput):
            binding.decode_proof({"proof": wrong})


def test_a_receipt_is_a_hash_perhaps_with_a_signature() -> None:
    binding = SPEC.bindings["x-receipt"]
    for payload in ({"transaction": HASH}, {"transaction": HASH, "signature": SIGNATURE}):
        assert binding.decode_proof(binding.encode_proof(payload)) == payload
    assert binding.encode_proof({"transaction": HASH}) == {"receipt": HASH}
    assert binding.decode_proof({"receipt": "0x" + 64 * "A"}) == {"transaction": HASH}
    for other in (64 * "a", HASH + ".", f"{HASH}.{HASH}", HASH + "\n", "pi_1", "", 5):
        assert binding.decode_proof({"receipt": other}) is None


def test_without_transfers_a_hash_is_nothing() -> None:
    spec = BaseSpec(BASE_USDC)
    for dialect in ("x-payment", "x-price", "payment-uri"):
        assert spec.bindings[dialect].decode_proof({"proof": {"transaction": HASH}}) is None
    assert spec.bindings["x-receipt"].decode_proof({"receipt": HASH}) is None


NAMES = st.sampled_from(
    ["price", "currency", "paymentAddress", "network", "asset", "receiver", "nonce", "uri", "address", "amount"]
)
VALUES = (
    st.text(max_size=80)
    | st.integers()
    | st.none()
    | st.sampled_from(
        ["0.003", "USDC", PAYEE, "base", "eip155:8453", BASE_USDC.address, f"ethereum:{PAYEE}@8453/transfer"]
    )
)


@pytest.mark.parametrize("dialect", DOCUMENTS)
@given(wire=st.dictionaries(NAMES, VALUES | st.lists(VALUES, max_size=2)))
def test_anything_is_read_or_refused(dialect: str, wire: dict[str, Any]) -> None:
    binding = SPEC.bindings[dialect]
    try:
        offer = binding.decode_offer(wire, expires_at=NOW)
    except MalformedInput:
        return
    if offer is not None:
        again = binding.encode_offer(offer)
        assert again is not None
        read = binding.decode_offer(again, expires_at=NOW)
        assert read is not None
        assert (read.network, read.amount, read.payee) == (offer.network, offer.amount, offer.payee)
