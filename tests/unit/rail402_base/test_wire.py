"""The rail on the wire: the specification's own example, what is read, what is left to others, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from rail402.errors import ConfigurationError, MalformedInput, OfferRefused, PaymentRejected
from rail402.protocol.binding import OfferKeys
from rail402.protocol.offer import Flow, Offer
from rail402.protocol.rail import PublicHalves
from rail402_base.eip3009 import Authorization, digest, sign
from rail402_base.tokens import BASE_SEPOLIA_USDC, BASE_USDC, SANDBOX_USDC, TOKENS, Token
from rail402_base.wire import ZERO_ADDRESS, BaseSpec, authorization_key, payload_of, transfer_key
from tests.unit.rail402_base.payments import (
    NOW,
    ORDER,
    PAYEE,
    PAYER,
    PAYER_KEY,
    PRICE,
    THIRD,
    THIRD_KEY,
    TIMEOUT,
    present,
    signed,
    vectors,
)

VECTORS = vectors()
EXAMPLE = VECTORS["specification"]
SEPOLIA = BaseSpec(BASE_SEPOLIA_USDC)
SANDBOX = BaseSpec(SANDBOX_USDC)
SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def changed(case: dict[str, Any]) -> dict[str, Any]:
    """The specification's requirements with the changes of a vector."""

    def replace(members: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in (members | change).items() if value is not None}

    accepted = replace(EXAMPLE["accepted"], case.get("change", {}))
    if "extra" in case:
        accepted["extra"] = replace(accepted["extra"], case["extra"])
    return accepted


def decode(wire: dict[str, Any], spec: BaseSpec = SEPOLIA) -> Offer | None:
    return spec.bindings["x402-v2"].decode_offer(wire, expires_at=NOW + 600)


def decoded(wire: dict[str, Any], spec: BaseSpec = SEPOLIA) -> Offer:
    offer = decode(wire, spec)
    assert offer is not None
    return offer


def offer_of(token: Token = SANDBOX_USDC, **changes: Any) -> Offer:
    offer = BaseSpec(token).offer(
        token, payee=PAYEE, amount=PRICE, flow=Flow.AUTHORIZATION, expires_at=NOW + 600, timeout_seconds=TIMEOUT
    )
    return offer.model_copy(update=changes)


def authorization(**changes: Any) -> Authorization:
    members: dict[str, Any] = {
        "from_": PAYER,
        "to": PAYEE,
        "value": PRICE,
        "valid_after": 0,
        "valid_before": NOW + TIMEOUT,
        "nonce": bytes(31) + b"\x07",
    }
    return Authorization(**(members | changes))


def refusal(offer: Offer, payload: dict[str, Any], spec: BaseSpec = SANDBOX) -> str:
    with pytest.raises(PaymentRejected) as caught:
        spec.authenticate(offer, present(payload, offer))
    return caught.value.code


# Offers


def test_the_specifications_example_is_read() -> None:
    offer = decoded(EXAMPLE["accepted"])
    assert (offer.rail, offer.mechanism, offer.network) == ("base", "eip3009", "eip155:84532")
    assert (offer.asset, offer.payee) == (EXAMPLE["accepted"]["asset"], EXAMPLE["accepted"]["payTo"])
    assert (offer.amount, str(offer.price), offer.timeout_seconds) == (10_000, "0.01 USDC", 60)
    assert (offer.flow, offer.expires_at) == (Flow.AUTHORIZATION, NOW + 600)


@pytest.mark.parametrize("vector", VECTORS["key_11"], ids=lambda vector: vector["accepted"]["network"])
def test_what_is_written_is_what_the_official_sdk_reads(vector: dict[str, Any]) -> None:
    spec = BaseSpec(TOKENS)
    offer = decoded(vector["accepted"], spec)
    assert spec.bindings["x402-v2"].encode_offer(offer) == vector["accepted"]


def test_only_a_flow_that_is_not_the_default_is_written() -> None:
    upfront = offer_of(flow=Flow.UPFRONT)
    wire = SANDBOX.bindings["x402-v2"].encode_offer(upfront)
    assert wire["extra"] == {"name": "Sandbox USDC", "version": "2", "paymentFlow": "upfront"}
    assert decoded(dict(wire), SANDBOX) == upfront


@pytest.mark.parametrize("case", VECTORS["same_offer"], ids=lambda case: case["name"])
def test_the_same_offer_in_other_words_fits_its_token(case: dict[str, Any]) -> None:
    keys = OfferKeys({"k1": bytes(32)})
    issued = keys.issue(decoded(EXAMPLE["accepted"]), ORDER, bytes(16))
    echoed = decoded(changed(case)).model_copy(update={"token": issued.token})
    assert keys.verify(echoed, ORDER)
    assert echoed == issued


@pytest.mark.parametrize(
    "change", [{"amount": "9999"}, {"payTo": THIRD}, {"maxTimeoutSeconds": 61}], ids=lambda change: next(iter(change))
)
def test_an_altered_offer_does_not_fit_its_token(change: dict[str, Any]) -> None:
    keys = OfferKeys({"k1": bytes(32)})
    issued = keys.issue(decoded(EXAMPLE["accepted"]), ORDER, bytes(16))
    echoed = decoded(EXAMPLE["accepted"] | change).model_copy(update={"token": issued.token})
    with pytest.raises(PaymentRejected):
        keys.verify(echoed, ORDER)


@pytest.mark.parametrize("case", VECTORS["not_ours"], ids=lambda case: case["name"])
def test_what_is_not_ours_is_left_to_others(case: dict[str, Any]) -> None:
    assert decode(changed(case)) is None


@pytest.mark.parametrize("case", VECTORS["malformed"], ids=lambda case: case["name"])
def test_a_malformed_offer_names_the_member(case: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput) as caught:
        decode(changed(case))
    assert caught.value.field == case["field"]
    assert caught.value.status == 400


def test_an_offer_of_another_token_is_not_written() -> None:
    with pytest.raises(ConfigurationError, match="none of this rail's tokens"):
        SEPOLIA.bindings["x402-v2"].encode_offer(offer_of(SANDBOX_USDC))


def test_a_spec_needs_tokens_each_once() -> None:
    for tokens in ([], [BASE_USDC, BASE_USDC]):
        with pytest.raises(ConfigurationError, match="tokens"):
            BaseSpec(tokens)


def test_a_mechanism_per_token() -> None:
    spec = BaseSpec(TOKENS)
    assert [mechanism.network for mechanism in spec.mechanisms] == ["eip155:8453", "eip155:84532", "eip155:402402"]
    for mechanism, token in zip(spec.mechanisms, TOKENS, strict=True):
        assert (mechanism.name, mechanism.asset, mechanism.currency) == ("eip3009", token.address, "USDC")
        assert (mechanism.exponent, mechanism.step) == (6, 1)
        assert mechanism.flows == (Flow.AUTHORIZATION, Flow.UPFRONT)
    assert (spec.name, spec.bare_replay) == ("base", False)


# Payments


def test_the_specifications_payment_is_genuine() -> None:
    payload = SEPOLIA.bindings["x402-v2"].decode_proof(EXAMPLE["payload"])
    assert payload == EXAMPLE["payload"]
    offer = decoded(EXAMPLE["accepted"])
    payment = present(EXAMPLE["payload"], offer)
    assert SEPOLIA.identify(payment) == {EXAMPLE["key"]}
    verified = SEPOLIA.authenticate(offer, payment)
    assert verified.payer == EXAMPLE["payload"]["authorization"]["from"]
    assert verified.keys == {EXAMPLE["key"]}
    assert verified.state == {
        "from": verified.payer,
        "nonce": EXAMPLE["payload"]["authorization"]["nonce"],
        "valid_before": "1740672154",
    }


@pytest.mark.parametrize("vector", VECTORS["key_11"], ids=lambda vector: vector["accepted"]["network"])
def test_the_official_sdks_payments_are_genuine_on_their_own_network_only(vector: dict[str, Any]) -> None:
    spec = BaseSpec(TOKENS)
    signer = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
    payload = {
        "signature": vector["signature"],
        "authorization": EXAMPLE["payload"]["authorization"] | {"from": signer},
    }
    genuine = spec.authenticate(decoded(vector["accepted"], spec), present(payload))
    assert (genuine.payer, "proof_digest" in genuine.state) == (signer, False)
    for other in VECTORS["key_11"]:
        if other is not vector:  # no key has signed there, so that only a contract could say that it is its own
            assert "proof_digest" in spec.authenticate(decoded(other["accepted"], spec), present(payload)).state


def test_a_payload_travels_as_it_is() -> None:
    binding, payload = SANDBOX.bindings["x402-v2"], signed(authorization())
    assert binding.encode_proof(payload) == payload
    assert binding.decode_proof(payload | {"memo": "x"}) == payload


@pytest.mark.parametrize("payload", [{}, {"preimage": "00"}, {"signature": "0x", "permit2Authorization": {}}])
def test_another_methods_payload_is_left_to_others(payload: dict[str, Any]) -> None:
    assert SANDBOX.bindings["x402-v2"].decode_proof(payload) is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"authorization": None}, "authorization"),
        ({"authorization": []}, "authorization"),
        ({"signature": "0x"}, "signature"),
        ({"signature": None}, "signature"),
    ],
)
def test_a_malformed_payload_names_the_member(change: dict[str, Any], field: str) -> None:
    payload = signed(authorization()) | change
    with pytest.raises(MalformedInput) as caught:
        SANDBOX.bindings["x402-v2"].decode_proof(payload)
    assert caught.value.field == field
    with pytest.raises(MalformedInput):
        SANDBOX.identify(present(payload, offer_of()))


def test_the_key_is_the_same_however_the_payment_is_spelt() -> None:
    offer, payload = offer_of(), signed(authorization())
    shouted = {
        "signature": payload["signature"],
        "authorization": {
            **payload["authorization"],
            "from": "0x" + PAYER[2:].upper(),
            "nonce": "0x" + payload["authorization"]["nonce"][2:].upper(),
        },
    }
    (key,) = SANDBOX.identify(present(payload, offer))
    assert SANDBOX.identify(present(shouted, offer)) == SANDBOX.authenticate(offer, present(shouted)).keys == {key}
    assert key == key.lower() == authorization_key(SANDBOX_USDC, authorization())


def test_one_nonce_is_another_key_for_another_payer_token_or_nonce() -> None:
    keys = {
        authorization_key(SANDBOX_USDC, authorization()),
        authorization_key(SANDBOX_USDC, authorization(from_=THIRD)),
        authorization_key(SANDBOX_USDC, authorization(nonce=bytes(32))),
        authorization_key(BASE_USDC, authorization()),
        authorization_key(BASE_SEPOLIA_USDC, authorization()),
    }
    assert len(keys) == 5
    # What the payer may choose freely beside the nonce does not make another payment of it.
    assert authorization_key(SANDBOX_USDC, authorization(value=1, to=THIRD, valid_before=5)) in keys


def test_the_key_of_a_transfer() -> None:
    assert transfer_key(BASE_USDC, "0xAB" + 62 * "0", 3) == "tx:eip155:8453/0xab" + 62 * "0" + "/3"


def test_a_payment_without_its_offer_is_in_the_only_token() -> None:
    payment = present(signed(authorization()))
    assert SANDBOX.identify(payment) == {authorization_key(SANDBOX_USDC, authorization())}
    with pytest.raises(MalformedInput, match="which token"):
        BaseSpec(TOKENS).identify(payment)


def test_nothing_is_mistaken_for_a_payment() -> None:
    assert not isinstance(SANDBOX, PublicHalves)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"value": PRICE - 1}, "amount_mismatch"),
        ({"value": PRICE + 1}, "amount_mismatch"),
        ({"value": 0}, "amount_mismatch"),
        ({"value": 2**256 - 1}, "amount_mismatch"),
        ({"to": THIRD}, "payee_mismatch"),
        ({"from_": THIRD}, "signature_invalid"),
        ({"from_": ZERO_ADDRESS}, "signature_invalid"),
    ],
)
def test_a_payment_for_something_else_is_refused(change: dict[str, Any], code: str) -> None:
    assert refusal(offer_of(), signed(authorization(**change))) == code


@pytest.mark.parametrize("token", [BASE_USDC, BASE_SEPOLIA_USDC], ids=lambda token: token.network.caip2)
def test_a_payment_in_another_token_is_refused(token: Token) -> None:
    assert refusal(offer_of(), signed(authorization(), token=token)) == "signature_invalid"


def test_an_offer_that_the_rail_never_made_is_refused() -> None:
    payload = signed(authorization())
    assert refusal(offer_of(BASE_USDC), payload) == "network_mismatch"
    assert refusal(offer_of(asset=THIRD), payload) == "asset_mismatch"


@pytest.mark.parametrize(
    "member", ["to", "value", "validAfter", "validBefore", "nonce"], ids=lambda member: f"altered {member}"
)
def test_what_was_altered_after_signing_is_refused(member: str) -> None:
    payload = signed(authorization())
    altered = {"to": THIRD, "value": "3001", "validAfter": "1", "validBefore": "9999999999", "nonce": "0x" + 64 * "1"}
    payload["authorization"] = {**payload["authorization"], member: altered[member]}
    offer = offer_of(payee=THIRD) if member == "to" else offer_of(amount=3001) if member == "value" else offer_of()
    assert refusal(offer, payload) == "signature_invalid"


def test_a_forged_or_malleable_signature_is_refused() -> None:
    good = sign(digest(SANDBOX_USDC.domain, authorization()), PAYER_KEY)
    assert SANDBOX.authenticate(offer_of(), present(dict(payload_of(authorization(), good)))).payer == PAYER
    high_s = (SECP256K1_ORDER - int.from_bytes(good[32:64], "big")).to_bytes(32, "big")
    forgeries = [
        sign(digest(SANDBOX_USDC.domain, authorization()), THIRD_KEY),
        good[:32] + high_s + bytes((55 - good[64],)),
        good[:64] + bytes((55 - good[64],)),
        good[:64] + b"\x1d",
        bytes(64) + b"\x1b",
        bytes([good[0] ^ 1]) + good[1:],
    ]
    for forged in forgeries:
        assert refusal(offer_of(), dict(payload_of(authorization(), forged))) == "signature_invalid"


# What a client checks


def test_an_honest_offer_passes() -> None:
    SANDBOX.check_offer(offer_of(), ORDER, now=NOW)
    SANDBOX.check_offer(offer_of(flow=Flow.UPFRONT), ORDER, now=NOW)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"network": "eip155:8453"}, "no token that is known"),
        ({"asset": THIRD}, "no token that is known"),
        ({"mechanism": "permit2"}, "no token that is known"),
        ({"exponent": 18}, "the token does not"),
        ({"currency": "EURC"}, "the token does not"),
        ({"amount": 2**256}, "that many units"),
        ({"payee": ZERO_ADDRESS}, "zero address"),
        ({"flow": Flow.ESCROW}, "escrow"),
        ({"expires_at": NOW}, "expired"),
    ],
)
def test_an_offer_that_is_not_what_it_claims_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(OfferRefused, match=reason):
        SANDBOX.check_offer(offer_of(**change), ORDER, now=NOW)
