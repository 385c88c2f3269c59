from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from rail402.errors import ConfigurationError, MalformedInput, PaymentRejected
from rail402_base import eip3009
from rail402_base.eip3009 import (
    Authorization,
    Domain,
    address_of,
    cancel_digest,
    digest,
    keccak256,
    parse_address,
    parse_authorization,
    recover,
    same_address,
    sign,
    split_signature,
    typed_data,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "eip3009.json").read_text(encoding="utf-8"))
KEY = bytes.fromhex(VECTORS["private_key"][2:])
PAYER = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
PAYEE = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

DOMAINS = {
    each["network"]: Domain(
        name=each["name"],
        version=each["version"],
        chain_id=int(each["network"].removeprefix("eip155:")),
        verifying_contract=each["address"],
    )
    for each in VECTORS["domains"]
}
BASE = DOMAINS["eip155:8453"]
MESSAGE = Authorization(
    from_=PAYER,
    to=PAYEE,
    value=10_000,
    valid_after=1_740_672_089,
    valid_before=1_740_672_154,
    nonce=bytes.fromhex("f3746613c2d920b5fdabc0856f2aeb2d4f88ee6037b8cc5d04a71a4462f13480"),
)

uint256 = st.integers(0, 2**256 - 1)
addresses = st.binary(min_size=20, max_size=20).map(lambda address: to_checksum_address(address))
private_keys = st.integers(1, ORDER - 1).map(lambda number: number.to_bytes(32, "big"))
nonces = st.binary(min_size=32, max_size=32)
domains = st.builds(
    Domain,
    name=st.text(max_size=20),
    version=st.text(max_size=3),
    chain_id=st.integers(1, 2**256 - 1),
    verifying_contract=addresses,
)
authorizations = st.builds(
    Authorization,
    from_=addresses,
    to=addresses,
    value=uint256,
    valid_after=uint256,
    valid_before=uint256,
    nonce=nonces,
)


def unhex(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def by_name(vectors: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in vectors]


def good_payload() -> dict[str, Any]:
    return {"signature": VECTORS["transfers"][1]["signature"], "authorization": dict(VECTORS["authorization"])}


# Hashes and domains


def test_keccak_is_not_sha3() -> None:
    assert keccak256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"


@given(st.binary(max_size=500))
def test_keccak_agrees_with_eth_utils(data: bytes) -> None:
    assert keccak256(data) == keccak(data)


def test_the_type_hashes_are_those_of_the_deployed_contract() -> None:
    assert unhex(VECTORS["type_hashes"]["transfer"]) == eip3009.TRANSFER_TYPEHASH
    assert unhex(VECTORS["type_hashes"]["cancel"]) == eip3009.CANCEL_TYPEHASH


@pytest.mark.parametrize("vector", VECTORS["domains"], ids=lambda vector: vector["network"])
def test_the_domain_separators_are_those_of_the_deployed_contracts(vector: dict[str, Any]) -> None:
    assert DOMAINS[vector["network"]].separator == unhex(vector["separator"])


def test_a_domain_is_frozen_and_normalises_its_address() -> None:
    lower = Domain(name="USD Coin", version="2", chain_id=8453, verifying_contract=BASE.verifying_contract.lower())
    assert lower == BASE
    assert lower.verifying_contract == BASE.verifying_contract
    with pytest.raises(FrozenInstanceError):
        lower.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("other", [{"name": "USDC"}, {"version": "1"}, {"chain_id": 1}, {"verifying_contract": PAYEE}])
def test_every_member_of_a_domain_is_signed(other: dict[str, Any]) -> None:
    members = {"name": "USD Coin", "version": "2", "chain_id": 8453, "verifying_contract": BASE.verifying_contract}
    assert Domain(**{**members, **other}).separator != BASE.separator


@pytest.mark.parametrize(
    ("member", "other"),
    [
        ("domain.chainId", {"chain_id": 0}),
        ("domain.chainId", {"chain_id": -1}),
        ("domain.chainId", {"chain_id": 2**256}),
        ("domain.chainId", {"chain_id": "8453"}),
        ("domain.verifyingContract", {"verifying_contract": "0x12"}),
    ],
)
def test_a_domain_refuses_what_cannot_be(member: str, other: dict[str, Any]) -> None:
    members = {"name": "USD Coin", "version": "2", "chain_id": 8453, "verifying_contract": BASE.verifying_contract}
    with pytest.raises(MalformedInput) as caught:
        Domain(**{**members, **other})
    assert caught.value.field == member


# Addresses


@pytest.mark.parametrize("address", VECTORS["checksums"])
def test_addresses_are_spelt_as_eip_55_says(address: str) -> None:
    assert parse_address(address.lower()) == address
    assert parse_address("0x" + address[2:].upper()) == address
    assert parse_address(address, eip55=True) == address


@given(st.binary(min_size=20, max_size=20))
def test_checksums_agree_with_eth_utils(address: bytes) -> None:
    assert parse_address("0x" + address.hex()) == to_checksum_address(address)


def test_only_where_a_person_typed_it_capitals_must_be_right() -> None:
    mistyped = PAYEE.replace("B", "b")
    assert parse_address(mistyped) == PAYEE
    with pytest.raises(MalformedInput, match="pay_to: has a wrong EIP-55 checksum"):
        parse_address(mistyped, "pay_to", eip55=True)
    assert parse_address(PAYEE.lower(), eip55=True) == PAYEE
    assert parse_address("0x" + PAYEE[2:].upper(), eip55=True) == PAYEE


def test_an_address_of_digits_only_has_no_case() -> None:
    digits = "0x4020000000000000000000000000000000000402"
    assert parse_address(digits, eip55=True) == digits


def test_equality_ignores_case() -> None:
    assert same_address(PAYEE, PAYEE.lower())
    assert not same_address(PAYEE, PAYER)


# Digests


@pytest.mark.parametrize("vector", VECTORS["transfers"], ids=lambda vector: vector["network"])
def test_the_official_sdk_signs_the_same(vector: dict[str, Any]) -> None:
    domain = DOMAINS[vector["network"]]
    authorization, signature = parse_authorization({**vector, "authorization": VECTORS["authorization"]})
    assert authorization == MESSAGE
    assert signature == unhex(vector["signature"])
    assert digest(domain, authorization) == unhex(vector["digest"])
    assert recover(unhex(vector["digest"]), signature) == authorization.from_ == address_of(KEY)
    assert sign(unhex(vector["digest"]), KEY) == signature


@given(domains, authorizations, private_keys)
@settings(max_examples=60, deadline=None)
def test_digests_and_signatures_agree_with_eth_account(
    domain: Domain, authorization: Authorization, private_key: bytes
) -> None:
    signable = encode_typed_data(full_message=typed_data(domain, authorization))
    theirs = Account.sign_message(signable, private_key)
    ours = sign(digest(domain, authorization), private_key)
    assert digest(domain, authorization) == bytes(theirs.message_hash)
    assert ours == bytes(theirs.signature)
    assert recover(digest(domain, authorization), ours) == Account.recover_message(signable, signature=ours)
    assert address_of(private_key) == Account.from_key(private_key).address


@given(domains, addresses, nonces)
@settings(max_examples=30, deadline=None)
def test_cancellations_agree_with_eth_account(domain: Domain, authorizer: str, nonce: bytes) -> None:
    signable = encode_typed_data(
        domain_data={
            "name": domain.name,
            "version": domain.version,
            "chainId": domain.chain_id,
            "verifyingContract": domain.verifying_contract,
        },
        message_types={
            "CancelAuthorization": [{"name": "authorizer", "type": "address"}, {"name": "nonce", "type": "bytes32"}]
        },
        message_data={"authorizer": authorizer, "nonce": nonce},
    )
    assert cancel_digest(domain, authorizer, nonce) == keccak(b"\x19\x01" + signable.header + signable.body)


@pytest.mark.parametrize(
    "other",
    [
        {"from": PAYEE},
        {"to": PAYER},
        {"value": "10001"},
        {"validAfter": "1740672090"},
        {"validBefore": "1740672155"},
        {"nonce": "0x" + 64 * "0"},
    ],
)
def test_a_signature_covers_every_member(other: dict[str, str]) -> None:
    payload = good_payload()
    payload["authorization"].update(other)
    authorization, signature = parse_authorization(payload)
    assert recover(digest(BASE, authorization), signature) != PAYER


# Signatures


@pytest.mark.parametrize("vector", by_name(VECTORS["rejected_signatures"]))
def test_signatures_that_the_contract_or_the_curve_refuse(vector: dict[str, Any]) -> None:
    with pytest.raises(PaymentRejected) as caught:
        recover(unhex(VECTORS["transfers"][1]["digest"]), unhex(vector["signature"]))
    assert caught.value.code == "signature_invalid"


def test_the_malleable_twin_is_a_good_signature_but_for_eip_2() -> None:
    """The vector proves something only if a verifier without the rule would take it."""
    [twin] = [each for each in VECTORS["rejected_signatures"] if "malleable" in each["name"]]
    signature = unhex(twin["signature"])
    assert signature != unhex(VECTORS["transfers"][1]["signature"])
    signable = encode_typed_data(full_message=typed_data(BASE, MESSAGE))
    assert Account.recover_message(signable, signature=signature) == PAYER


def test_v_may_count_from_0_or_from_27() -> None:
    for number in range(1, 9):
        key = number.to_bytes(32, "big")
        message = digest(BASE, MESSAGE)
        signature = sign(message, key)
        assert signature[64] in (27, 28)
        from_zero = signature[:64] + bytes((signature[64] - 27,))
        assert recover(message, from_zero) == recover(message, signature) == address_of(key)
        assert split_signature(from_zero) == split_signature(signature)
        assert split_signature(signature) == (signature[64], signature[:32], signature[32:64])


def test_no_other_v_is_taken_even_where_the_curve_has_a_point_for_it() -> None:
    """libsecp256k1 also takes 2 and 3, for an r that passed the order; the contract does not."""
    signature = sign(digest(BASE, MESSAGE), KEY)
    for v in set(range(256)) - {0, 1, 27, 28}:
        with pytest.raises(PaymentRejected, match="v must be 27 or 28"):
            split_signature(signature[:64] + bytes((v,)))


@given(private_keys, nonces, st.integers(0, 64 * 8 - 1))
@settings(deadline=None)
def test_a_flipped_bit_never_recovers_the_signer(private_key: bytes, message: bytes, bit: int) -> None:
    signature = bytearray(sign(message, private_key))
    signature[bit // 8] ^= 1 << bit % 8
    try:
        recovered = recover(message, bytes(signature))
    except PaymentRejected:
        return  # there is no such point, or s is too high
    assert recovered != address_of(private_key)


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(32), bytes(33), ORDER.to_bytes(32, "big"), b"\xff" * 32])
def test_what_is_no_private_key_signs_nothing_and_is_not_quoted(key: bytes) -> None:
    for use in (lambda: sign(bytes(32), key), lambda: address_of(key)):
        with pytest.raises(ConfigurationError, match="private key") as caught:
            use()
        assert not key or key.hex() not in str(caught.value)


def test_signing_is_deterministic_and_low_s() -> None:
    for number in range(1, 30):
        message = number.to_bytes(32, "big")
        assert sign(message, KEY) == sign(message, KEY)
        assert int.from_bytes(sign(message, KEY)[32:64], "big") <= ORDER // 2
        # The same nonce rule (RFC 6979) as libsecp256k1 used plainly.
        assert sign(message, KEY)[:64] == PrivateKey(KEY).sign_recoverable(message, hasher=None)[:64]


# Payloads


def test_members_that_are_not_known_are_left_alone() -> None:
    payload = good_payload()
    payload["type"] = "authorization"
    payload["authorization"]["memo"] = 5
    assert parse_authorization(payload)[0] == MESSAGE


def test_addresses_of_a_payload_are_taken_in_any_case() -> None:
    payload = good_payload()
    payload["authorization"].update({"from": PAYER.lower(), "to": "0x" + PAYEE[2:].upper()})
    authorization, _ = parse_authorization(payload)
    assert (authorization.from_, authorization.to) == (PAYER, PAYEE)


@pytest.mark.parametrize("number", [0, 1, 2**53 + 1, 2**256 - 1])
def test_numbers_reach_to_the_end_of_uint256(number: int) -> None:
    payload = good_payload()
    payload["authorization"].update({"value": str(number), "validAfter": str(number), "validBefore": str(number)})
    authorization, _ = parse_authorization(payload)
    assert authorization.value == authorization.valid_after == authorization.valid_before == number


@pytest.mark.parametrize("vector", by_name(VECTORS["rejected_payloads"]))
def test_malformed_payloads_name_the_member(vector: dict[str, Any]) -> None:
    payload = good_payload()
    *parents, name = vector["member"].split(".")
    members = payload[parents[0]] if parents else payload
    if vector["value"] is None:
        del members[name]
    else:
        members[name] = vector["value"]
    with pytest.raises(MalformedInput) as caught:
        parse_authorization(payload)
    assert caught.value.field == vector["field"]
    assert caught.value.code == "payload_invalid"
    assert caught.value.status == 402


@pytest.mark.parametrize("payload", [None, [], "text", 5, b"{}"])
def test_a_payload_must_be_an_object(payload: Any) -> None:
    with pytest.raises(MalformedInput, match="payload: must be an object"):
        parse_authorization(payload)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(["signature", *VECTORS["authorization"]]), json_values)
def test_whatever_a_member_is_the_error_is_ours(name: str, value: Any) -> None:
    payload = good_payload()
    (payload if name == "signature" else payload["authorization"])[name] = value
    before = copy.deepcopy(payload)
    try:
        authorization, signature = parse_authorization(payload)
    except MalformedInput as error:
        assert error.field.endswith(name)  # noqa: PT017 (reading it is as right)
    else:
        assert typed_data(BASE, authorization)["message"] == payload["authorization"] | {
            "from": authorization.from_,
            "to": authorization.to,
        }
        assert "0x" + signature.hex() == payload["signature"]
    assert repr(payload) == repr(before)


@pytest.mark.parametrize(
    ("member", "other"),
    [
        ("authorization.from", {"from_": "0x12"}),
        ("authorization.to", {"to": None}),
        ("authorization.value", {"value": -1}),
        ("authorization.value", {"value": 1.0}),
        ("authorization.value", {"value": 2**256}),
        ("authorization.validAfter", {"valid_after": "0"}),
        ("authorization.validBefore", {"valid_before": 2**256}),
        ("authorization.nonce", {"nonce": bytes(31)}),
        ("authorization.nonce", {"nonce": 64 * "0"}),
    ],
)
def test_an_authorization_is_checked_however_it_is_made(member: str, other: dict[str, Any]) -> None:
    members = {each: getattr(MESSAGE, each) for each in Authorization.__slots__}
    with pytest.raises(MalformedInput) as caught:
        Authorization(**{**members, **other})
    assert caught.value.field == member


def test_an_authorization_is_frozen_and_keyword_only() -> None:
    with pytest.raises(FrozenInstanceError):
        MESSAGE.value = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        Authorization(PAYER, PAYEE, 1, 0, 1, bytes(32))  # type: ignore[call-arg]


@pytest.mark.parametrize("module", ["eip3009", "tokens", "sandbox", "keys"])
def test_importing_does_not_import_eth_account(module: str) -> None:
    code = f"import sys, rail402_base.{module}; print([m for m in sys.modules if m.startswith(('eth_', 'web3'))])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
