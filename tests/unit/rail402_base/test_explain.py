"""What the rail says about texts of its own."""

from __future__ import annotations

import pytest

from rail402.errors import MalformedInput
from rail402.protocol.offer import Flow
from rail402_base.config import PLUGIN
from rail402_base.explain import describe, explain, network_name
from rail402_base.tokens import SANDBOX_USDC, TOKENS
from rail402_base.wire import BaseSpec
from tests.unit.rail402_base.payments import NOW, PAYEE, PRICE, TIMEOUT

OFFER = BaseSpec(SANDBOX_USDC).offer(
    SANDBOX_USDC,
    payee=PAYEE,
    amount=PRICE,
    flow=Flow.AUTHORIZATION,
    expires_at=NOW + 600,
    timeout_seconds=TIMEOUT,
)
USDC = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"


def test_a_spec_for_each_network() -> None:
    networks = [{each.network for each in spec.mechanisms} for spec in PLUGIN.specs()]
    assert networks == [{token.network.caip2} for token in TOKENS]
    assert [network_name(token.network.caip2) for token in TOKENS] == [
        "Base",
        "Base Sepolia",
        "Sandbox (no real money)",
    ]
    assert network_name("eip155:1") is None


def test_what_would_be_signed() -> None:
    said = describe(OFFER)
    assert said is not None
    assert said["domain"] == {
        "name": "Sandbox USDC",
        "version": "2",
        "chainId": 402402,
        "verifyingContract": SANDBOX_USDC.address,
    }
    assert said["message"] == {"to": PAYEE, "value": str(PRICE)}
    assert said["valid_for_seconds"] == TIMEOUT
    assert describe(OFFER.model_copy(update={"asset": PAYEE})) is None
    sent = describe(OFFER.model_copy(update={"mechanism": "transfer"}))
    assert sent is not None
    assert (sent["contract"], sent["message"]) == (SANDBOX_USDC.address, said["message"])
    assert "domain" not in sent


def test_a_payment_uri() -> None:
    explained = explain(f"ethereum:{USDC}@8453/transfer?address={PAYEE}&uint256=3000")
    assert explained is not None
    assert explained.kind == "payment URI (EIP-681)"
    assert explained.facts | {"parameters": None} == {
        "network": "eip155:8453",
        "network_name": "Base",
        "function": "transfer",
        "token": USDC,
        "token_name": "USDC",
        "payee": PAYEE,
        "amount": "3000",
        "price": "0.003 USDC",
        "parameters": None,
    }
    assert explained.notes == []


def test_what_a_payment_uri_leaves_open() -> None:
    unknown = explain(f"ethereum:{PAYEE}@1/transfer?address={PAYEE}")
    assert unknown is not None
    assert "price" not in unknown.facts
    assert len(unknown.notes) == 2
    ether = explain(f"ETHEREUM:{PAYEE}?value=1e18")
    assert ether is not None
    assert (ether.facts["amount"], ether.facts["network_name"]) == ("1" + 18 * "0", None)


def test_other_texts() -> None:
    hashed = explain("0x" + "AB" * 32)
    assert hashed is not None
    assert hashed.facts == {"hash": "0x" + "ab" * 32}
    for text in ("", "ab" * 32, "0x12", USDC, "lightning:abc"):
        assert explain(text) is None
    with pytest.raises(MalformedInput):
        explain("ethereum:bob")
