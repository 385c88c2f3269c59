"""The rail in MPP: the method `evm`, and the nonce that answers a challenge."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from rail402.errors import MalformedInput, PaymentRejected
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.payment import Payment
from rail402_base.bindings import challenge_nonces
from rail402_base.keys import LocalSigner
from rail402_base.tokens import BASE_SEPOLIA_USDC, BASE_USDC
from rail402_base.wallet import BaseWallet
from rail402_base.wire import BaseSpec
from tests.unit.rail402_base.payments import NOW, PAYEE, PAYER_KEY, TIMEOUT

SPEC = BaseSpec([BASE_SEPOLIA_USDC, BASE_USDC])
BINDING = SPEC.bindings["mpp"]
CHALLENGE = {"challenge": {"id": "abc", "realm": "api.example.com"}}


def offer_of(**changes: Any) -> Offer:
    offer = SPEC.offer(
        BASE_SEPOLIA_USDC,
        payee=PAYEE,
        amount=3000,
        flow=Flow.AUTHORIZATION,
        expires_at=NOW + 600,
        timeout_seconds=TIMEOUT,
    )
    return offer.model_copy(update=changes)


def request_of(**changes: Any) -> dict[str, Any]:
    wire: Any = BINDING.encode_offer(offer_of())
    return {**wire, "request": {**wire["request"], **changes}}


def details_of(**changes: Any) -> dict[str, Any]:
    return request_of(methodDetails={**request_of()["request"]["methodDetails"], **changes})


@pytest.mark.parametrize("flow", [Flow.AUTHORIZATION, Flow.UPFRONT])
def test_an_offer_comes_back_as_it_was(flow: Flow) -> None:
    wire: Any = BINDING.encode_offer(offer_of(flow=flow))
    assert (wire["method"], wire["intent"]) == ("evm", "charge")
    details = {"chainId": 84532, "credentialTypes": ["authorization"], "decimals": 6, "timeoutSeconds": TIMEOUT}
    if flow is Flow.AUTHORIZATION:
        details["paymentFlow"] = "authorization"
    assert wire["request"] == {
        "amount": "3000",
        "currency": BASE_SEPOLIA_USDC.address,
        "recipient": PAYEE,
        "methodDetails": details,
    }
    assert BINDING.decode_offer(wire, expires_at=NOW + 600) == offer_of(flow=flow)


def test_what_a_plain_server_says_is_enough() -> None:
    wire = request_of(recipient=PAYEE.lower(), methodDetails={"chainId": 84532})
    offer = BINDING.decode_offer(wire, expires_at=NOW + 60)
    assert offer is not None
    assert (offer.payee, offer.flow, offer.timeout_seconds) == (PAYEE, Flow.UPFRONT, 300)


@pytest.mark.parametrize(
    "wire",
    [
        {**request_of(), "method": "tempo"},
        {**request_of(), "intent": "session"},
        {**request_of(), "request": None},
        request_of(currency=PAYEE),
        details_of(chainId=1),
        details_of(chainId="84532x"),
        details_of(credentialTypes=["permit2", "hash"]),
        details_of(credentialTypes="authorization"),
        details_of(decimals=18),
        details_of(splits=[{"amount": "1", "recipient": PAYEE}]),
    ],
)
def test_others_are_left_alone(wire: dict[str, Any]) -> None:
    assert BINDING.decode_offer(wire, expires_at=NOW) is None


@pytest.mark.parametrize(
    "wire",
    [
        request_of(amount=3000),
        request_of(amount="0"),
        request_of(amount="1.5"),
        request_of(recipient="0x12"),
        request_of(recipient=None),
        request_of(currency=None),
        request_of(methodDetails=None),
        details_of(timeoutSeconds=0),
        details_of(timeoutSeconds="60"),
    ],
)
def test_what_is_wrong_is_named(wire: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput):
        BINDING.decode_offer(wire, expires_at=NOW)


def test_the_nonces_are_those_of_the_released_sdks() -> None:
    drafts, pympps = challenge_nonces(CHALLENGE)
    assert drafts.hex() == "e1adfd8f031bdf83646eee741bda35015ff27366153d3ec246a28e6d3960b516"
    assert pympps.hex() == "5fc7620ab10ee4cbef955fe0902682f5688d24749a3a0322452c6728cd3d1425"


async def proof_for(envelope: dict[str, Any], **changes: Any) -> Any:
    wallet = BaseWallet(LocalSigner.from_private_key(PAYER_KEY.hex()), tokens=[BASE_SEPOLIA_USDC], max_timeout=900)
    offer = offer_of(dialect="mpp", envelope=envelope, **changes)
    return (await wallet.pay(offer, record_id="r1", now=NOW)).payload


async def test_a_wallet_answers_the_challenge_until_it_expires() -> None:
    payload = await proof_for(CHALLENGE)
    assert payload["authorization"]["nonce"] == "0x" + challenge_nonces(CHALLENGE)[0].hex()
    assert payload["authorization"]["validBefore"] == str(NOW + 600)
    wire = BINDING.encode_proof(payload)
    assert wire == {"type": "authorization", **payload["authorization"], "signature": payload["signature"]}
    assert BINDING.decode_proof(wire) == payload


async def test_a_proof_is_of_its_challenge() -> None:
    payload = await proof_for(CHALLENGE)
    payment = Payment(dialect="mpp", rail="base", payload=payload, offer=offer_of(), envelope=CHALLENGE)
    assert SPEC.authenticate(offer_of(), payment).payer is not None
    other = payment.model_copy(update={"envelope": {"challenge": {"id": "abd", "realm": "api.example.com"}}})
    with pytest.raises(PaymentRejected, match="challenge hash mismatch") as caught:
        SPEC.authenticate(offer_of(), other)
    assert caught.value.code == "resource_mismatch"
    elsewhere = other.model_copy(update={"dialect": "x402-v2"})
    assert SPEC.authenticate(offer_of(), elsewhere).payer is not None


@pytest.mark.parametrize(
    ("opaque", "form"),
    [({"_mpp_nonce": "ab" * 32}, 1), ({"token": "k1.1.a.b"}, 0), ({}, 0), ("!", 0), ("_mpp_nonce", 0)],
)
async def test_a_challenge_of_pympp_s_is_answered_in_its_form(opaque: Any, form: int) -> None:
    if isinstance(opaque, dict):
        opaque = base64.urlsafe_b64encode(json.dumps(opaque).encode()).decode().rstrip("=")
    envelope = {"challenge": {**CHALLENGE["challenge"], "opaque": opaque}}
    payload = await proof_for(envelope)
    assert payload["authorization"]["nonce"] == "0x" + challenge_nonces(envelope)[form].hex()


@pytest.mark.parametrize("change", [{"type": "permit2"}, {"type": None}])
async def test_other_credential_types_are_left_alone(change: dict[str, Any]) -> None:
    assert BINDING.decode_proof({**BINDING.encode_proof(await proof_for(CHALLENGE)), **change}) is None


@pytest.mark.parametrize("name", ["from", "to", "value", "validAfter", "validBefore", "nonce", "signature"])
async def test_a_credential_that_lacks_a_member_is_malformed(name: str) -> None:
    wire = dict(BINDING.encode_proof(await proof_for(CHALLENGE)))
    with pytest.raises(MalformedInput):
        BINDING.decode_proof({**wire, name: None})
