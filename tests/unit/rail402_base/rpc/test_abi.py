"""Encoding by hand: what is asked, what is answered, and why a contract reverts."""

from __future__ import annotations

from typing import Any

import pytest
from eth_abi import encode
from eth_utils import keccak

from rail402.errors import PaymentRejected, RailUnavailable
from rail402_base.eip3009 import digest
from rail402_base.rpc import abi
from rail402_base.rpc.endpoint import Call, RpcError
from tests.unit.rail402_base.rpc.chain import PAYER, TOKEN, Chain

REFUSED = RpcError(-32000, "no")


def test_a_call_is_what_the_usual_library_makes_of_it() -> None:
    expected = keccak(text="authorizationState(address,bytes32)")[:4] + encode(
        ["address", "bytes32"], [PAYER, b"n" * 32]
    )
    found = abi.call_data("authorizationState(address,bytes32)", abi.address_word(PAYER), b"n" * 32)
    assert found == "0x" + expected.hex()


def test_an_authorization_is_handed_in_with_the_selector_of_usdc() -> None:
    chain = Chain()
    authorization = chain.authorize(value=12345, valid_after=7)
    signature = chain.sign(authorization)
    kinds = ["address", "address", "uint256", "uint256", "uint256", "bytes32", "uint8", "bytes32", "bytes32"]
    values = (authorization.from_, authorization.to, 12345, 7, authorization.valid_before, authorization.nonce)
    expected = encode(kinds, [*values, signature[64], signature[:32], signature[32:64]])

    found = abi.transfer_call_data(TOKEN.domain, authorization, signature)

    assert found == "0xe3ee160e" + expected.hex()
    low = signature[:64] + bytes([signature[64] - 27])
    assert abi.transfer_call_data(TOKEN.domain, authorization, low) == found, "v of 0 and 1 counts as 27 and 28"


@pytest.mark.parametrize("size", [1, 31, 32, 33, 64, 65, 66, 700, 2048])
def test_a_contracts_signature_is_handed_in_as_the_bytes_that_it_is(size: int) -> None:
    chain = Chain()
    authorization = chain.authorize(value=12345, valid_after=7)
    signature = bytes(number % 256 for number in range(1, size + 1))
    kinds = ["address", "address", "uint256", "uint256", "uint256", "bytes32", "bytes"]
    values = [authorization.from_, authorization.to, 12345, 7, authorization.valid_before, authorization.nonce]

    found = abi.transfer_call_data(TOKEN.domain, authorization, signature)
    asked = abi.is_valid_signature_data(TOKEN.domain, authorization, signature)

    assert found == "0xcf092995" + encode(kinds, [*values, signature]).hex()
    message = digest(TOKEN.domain, authorization)
    assert asked == "0x1626ba7e" + encode(["bytes32", "bytes"], [message, signature]).hex()


def test_reading_a_contract() -> None:
    assert abi.eth_call("0x1", "0x2") == Call("eth_call", ({"to": "0x1", "data": "0x2"}, "latest"))
    call = abi.eth_call("0x1", "0x2", block="0x3", sender="0x4")
    assert call == Call("eth_call", ({"from": "0x4", "to": "0x1", "data": "0x2"}, "0x3"))
    bounded = abi.eth_call("0x1", "0x2", gas=17)
    assert bounded == Call("eth_call", ({"to": "0x1", "data": "0x2", "gas": "0x11"}, "latest"))


@pytest.mark.parametrize(("answer", "number"), [("0x0", 0), ("0x64", 100), ("0x" + "0" * 62 + "Ff", 255)])
def test_numbers(answer: str, number: int) -> None:
    assert abi.quantity(answer) == number
    assert abi.boolean(answer) == bool(number)


@pytest.mark.parametrize("answer", ["", "0x", "64", "0x" + "0" * 65, "0xg", 5, None, [], {}, "0x1\n", REFUSED])
def test_what_is_no_number(answer: Any) -> None:
    with pytest.raises(RailUnavailable):
        abi.quantity(answer)


@pytest.mark.parametrize(("answer", "found"), [("0x", b""), ("0x0", b""), ("0x00ff", b"\x00\xff"), ("0xAB", b"\xab")])
def test_bytes(answer: str, found: bytes) -> None:
    assert abi.data(answer) == found


@pytest.mark.parametrize("answer", ["", "0x1", "ff", None, 5, "0xzz", REFUSED])
def test_what_is_no_bytes(answer: Any) -> None:
    with pytest.raises(RailUnavailable):
        abi.data(answer)


@pytest.mark.parametrize("value", ["", "USDC", "x" * 100, "€"])
def test_texts(value: str) -> None:
    assert abi.text("0x" + encode(["string"], [value]).hex()) == value


@pytest.mark.parametrize(
    "answer",
    [
        "0x",
        "0x" + 32 * "00",
        "0x" + encode(["string"], ["USDC"]).hex()[:-64],
        "0x" + encode(["uint256", "uint256"], [32, 2**255]).hex(),
        "0x" + encode(["uint256", "uint256"], [2**255, 4]).hex(),
        "0x" + encode(["bytes"], [b"\xff"]).hex(),
        None,
        REFUSED,
    ],
)
def test_what_is_no_text(answer: Any) -> None:
    with pytest.raises(RailUnavailable):
        abi.text(answer)


def test_addresses_in_topics() -> None:
    assert abi.word_address("0x" + abi.address_word(PAYER).hex()) == PAYER
    for wrong in (None, 5, "", "0x" + "1" * 64, "0x" + "0" * 63, "0x" + "0" * 24 + "g" * 40):
        with pytest.raises(RailUnavailable):
            abi.word_address(wrong)


def test_the_topics() -> None:
    assert abi.TRANSFER == "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
    assert abi.AUTHORIZATION_USED == "0x98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5"
    assert abi.AUTHORIZATION_CANCELED == "0x1cdd46ff242716cdaa72d159d339a485b3438398348d68f09d7c8c0a59353d81"


# --- reverting


def error_string(reason: str) -> str:
    return "0x" + (keccak(text="Error(string)")[:4] + encode(["string"], [reason])).hex()


def custom(signature: str) -> str:
    return "0x" + keccak(text=signature)[:4].hex() + 96 * "00"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RpcError(3, "execution reverted", error_string("because")), "because"),
        (RpcError(3, "execution reverted: because"), "because"),
        (RpcError(-32000, "execution reverted: because", "0x"), "because"),
        (RpcError(-32603, "VM Exception", {"data": error_string("because")}), "because"),
        (RpcError(-32015, "VM execution error", "Reverted " + error_string("because")), "because"),
        (RpcError(-32000, "revert", {"originalError": {"data": error_string("because")}}), "because"),
        (RpcError(3, "execution reverted", custom("EnforcedPause()")), "paused"),
        (RpcError(3, "execution reverted", custom("Something()")), "custom error 0x"),
        (RpcError(3, "execution reverted", error_string("a\nb")), "a b"),
        (RpcError(3, "execution reverted", "0x08c379a0"), ""),
        (RpcError(3, "execution reverted", "0x123"), ""),
        (RpcError(3, "execution reverted"), ""),
        (RpcError(3, "reverted", {"data": {"data": {"data": {"data": error_string("too deep")}}}}), ""),
        (RpcError(3, "execution reverted", error_string("x" * 500)), "x" * 200),
    ],
)
def test_why_it_reverted(error: RpcError, says: str) -> None:
    assert abi.is_revert(error)
    reason = abi.revert_reason(error)
    assert reason.startswith(says)
    assert bool(reason) == bool(says)
    assert len(reason) <= 200


@pytest.mark.parametrize("error", [RpcError(-32000, "header not found"), RpcError(-32601, "no such method")])
def test_a_node_that_refuses_is_no_contract_that_reverts(error: RpcError) -> None:
    assert not abi.is_revert(error)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("FiatTokenV2: authorization is expired", "authorization_expired"),
        ("FiatTokenV2: authorization is not yet valid", "not_yet_valid"),
        ("FiatTokenV2: authorization is used or canceled", "proof_already_used"),
        ("FiatTokenV2: invalid signature", "signature_invalid"),
        ("ECRecover: invalid signature 's' value", "signature_invalid"),
        ("ERC20: transfer amount exceeds balance", "insufficient_funds"),
        ("ERC20: transfer to the zero address", "payee_mismatch"),
        ("Blacklistable: account is blacklisted", "payment_declined"),
        ("something else", "payment_declined"),
        ("", "payment_declined"),
    ],
)
def test_what_a_revert_means_for_a_payment(reason: str, code: str) -> None:
    refused = abi.refusal(RpcError(3, "execution reverted", error_string(reason)))
    assert isinstance(refused, PaymentRejected)
    assert refused.code == code


@pytest.mark.parametrize(
    ("signature", "code"),
    [
        ("ERC20InsufficientBalance(address,uint256,uint256)", "insufficient_funds"),
        ("ERC3009UsedAuthorization(address,bytes32)", "proof_already_used"),
        ("ERC3009InvalidSignature()", "signature_invalid"),
        ("ERC3009InvalidAuthorizationTime(uint256,uint256)", "authorization_expired"),
        ("ERC20InvalidReceiver(address)", "payee_mismatch"),
    ],
)
def test_tokens_of_openzeppelin_use_errors_of_their_own(signature: str, code: str) -> None:
    refused = abi.refusal(RpcError(3, "execution reverted", custom(signature)))
    assert isinstance(refused, PaymentRejected)
    assert refused.code == code


@pytest.mark.parametrize("data", [error_string("Pausable: paused"), custom("EnforcedPause()")])
def test_a_paused_token_is_nothing_that_the_payer_could_change(data: str) -> None:
    refused = abi.refusal(RpcError(3, "execution reverted", data))
    assert isinstance(refused, RailUnavailable)
    assert refused.retry_after


# --- what a contract does wrong without reverting

HALTS = [
    (-32000, "out of gas"),
    (-32000, "gas required exceeds allowance (400000)"),
    (-32003, "EVM error: OutOfGas"),
    (-32000, "invalid opcode: INVALID"),
    (-32000, "invalid jump destination"),
    (-32000, "stack underflow (0 <=> 1)"),
    (-32000, "write protection"),
    (-32015, "VM execution error."),
    (3, "execution reverted"),
]
TROUBLES = [
    (-32000, "missing trie node"),
    (-32000, "header not found"),
    (-32603, "internal error"),
    (-32002, "request timed out"),
    (-32601, "the method eth_call does not exist"),
]


@pytest.mark.parametrize(("number", "message"), HALTS)
def test_what_a_contract_did(number: int, message: str) -> None:
    error = RpcError(number, message)
    assert abi.is_contract_failure(error)
    refused = abi.refusal(error)
    assert isinstance(refused, PaymentRejected)
    assert refused.code == "payment_declined"


@pytest.mark.parametrize(("number", "message"), TROUBLES)
def test_what_a_node_did_is_held_against_nobody(number: int, message: str) -> None:
    error = RpcError(number, message)
    assert not abi.is_contract_failure(error)
    assert abi.refusal(error) is error
