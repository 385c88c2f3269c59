"""The rail in x402 version 1: other names, the same authorization."""

from __future__ import annotations

from typing import Any

import pytest

from rail402.errors import MalformedInput
from rail402.protocol.offer import Flow, Offer
from rail402_base.tokens import BASE_SEPOLIA_USDC, BASE_USDC
from rail402_base.wire import BaseSpec
from tests.unit.rail402_base.payments import NOW, PAYEE, TIMEOUT, vectors

SPEC = BaseSpec([BASE_SEPOLIA_USDC, BASE_USDC])
BINDING = SPEC.bindings["x402-v1"]
PAYLOAD = vectors()["specification"]["payload"]


def offer_of(**changes: Any) -> Offer:
    offer = SPEC.offer(
        BASE_SEPOLIA_USDC,
        payee=PAYEE,
        amount=3000,
        flow=Flow.AUTHORIZATION,
        expires_at=NOW + TIMEOUT,
        timeout_seconds=TIMEOUT,
    )
    return offer.model_copy(update=changes)


def test_requirements_have_the_old_names() -> None:
    wire = BINDING.encode_offer(offer_of())
    assert wire == {
        "scheme": "exact",
        "network": "base-sepolia",
        "maxAmountRequired": "3000",
        "asset": BASE_SEPOLIA_USDC.address,
        "payTo": PAYEE,
        "maxTimeoutSeconds": TIMEOUT,
        "extra": {"name": "USDC", "version": "2"},
    }
    assert BINDING.decode_offer(wire, expires_at=NOW + TIMEOUT) == offer_of()


@pytest.mark.parametrize(
    "change",
    [{"network": "eip155:84532"}, {"network": "solana"}, {"network": None}, {"scheme": "upto"}, {"asset": PAYEE}],
)
def test_others_are_left_alone(change: dict[str, Any]) -> None:
    assert BINDING.decode_offer({**BINDING.encode_offer(offer_of()), **change}, expires_at=NOW) is None


@pytest.mark.parametrize("amount", [None, 3000, "0", "-1", "1.5", "amount"])
def test_an_amount_that_cannot_be_read(amount: object) -> None:
    wire = {**BINDING.encode_offer(offer_of()), "amount": "3000", "maxAmountRequired": amount}
    with pytest.raises(MalformedInput):
        BINDING.decode_offer(wire, expires_at=NOW)


def test_a_payment_says_whose_it_is() -> None:
    wire = {"scheme": "exact", "network": "base-sepolia", "payload": PAYLOAD}
    payload = BINDING.decode_proof(wire)
    assert payload == SPEC.bindings["x402-v2"].decode_proof(PAYLOAD)
    assert BINDING.encode_proof(payload or {}) == {"payload": payload}
    assert BINDING.decode_proof(wire | {"network": "eip155:84532"}) is None
    assert BINDING.decode_proof(wire | {"scheme": "upto"}) is None
    with pytest.raises(MalformedInput):
        BINDING.decode_proof(wire | {"payload": {"authorization": {}}})
