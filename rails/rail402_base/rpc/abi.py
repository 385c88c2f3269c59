"""What is asked of a token contract, what it answers, and why it reverts, encoded by hand. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from rail402.errors import PaymentRejected, RailUnavailable
from rail402.upstream import printable
from rail402_base.eip3009 import (
    Authorization,
    Domain,
    digest,
    is_signed_by_payer,
    keccak256,
    parse_address,
    split_signature,
)
from rail402_base.erc1271 import IS_VALID_SIGNATURE
from rail402_base.rpc.endpoint import Answer, Call, RpcError

__all__ = [
    "AUTHORIZATION_CANCELED",
    "AUTHORIZATION_USED",
    "MAX_CONTRACT_GAS",
    "TRANSFER",
    "address_word",
    "boolean",
    "call_data",
    "data",
    "eth_call",
    "is_contract_failure",
    "is_revert",
    "is_valid_signature_data",
    "quantity",
    "refusal",
    "revert_reason",
    "text",
    "transfer_call_data",
    "word_address",
]

AUTHORIZATION_USED: Final = "0x" + keccak256(b"AuthorizationUsed(address,bytes32)").hex()
AUTHORIZATION_CANCELED: Final = "0x" + keccak256(b"AuthorizationCanceled(address,bytes32)").hex()
TRANSFER: Final = "0x" + keccak256(b"Transfer(address,address,uint256)").hex()
"""The topics of the three events."""

MAX_CONTRACT_GAS: Final = 400_000
"""What a payment of a contract may use at most: a transfer, and what the contract does to check its signature."""

_TRANSFER_WITH_AUTHORIZATION: Final = (
    "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)"
)
_TRANSFER_WITH_BYTES: Final = "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)"
_MAX_TEXT: Final = 200

_is_quantity = re.compile(r"0x[0-9a-fA-F]{1,64}").fullmatch
_is_data = re.compile(r"0x(?:[0-9a-fA-F]{2})*").fullmatch
_hex_in = re.compile(r"0x[0-9a-fA-F]*").search

_ERROR_STRING: Final = keccak256(b"Error(string)")[:4]
# Errors with names of their own: the words that FiatTokenV2 uses for the same.
_CUSTOM_ERRORS: Final = {
    keccak256(signature.encode())[:4]: words
    for signature, words in {
        "ERC20InsufficientBalance(address,uint256,uint256)": "transfer amount exceeds balance",
        "ERC20InvalidReceiver(address)": "transfer to the zero address",
        "ERC3009InvalidAuthorizationTime(uint256,uint256)": "authorization is expired or not yet valid",
        "ERC3009InvalidSignature()": "invalid signature",
        "ERC3009UsedAuthorization(address,bytes32)": "authorization is used or canceled",
        "ECDSAInvalidSignature()": "invalid signature",
        "ECDSAInvalidSignatureS(bytes32)": "invalid signature",
        "EnforcedPause()": "paused",
    }.items()
}
# What geth, reth, Nethermind, Besu and anvil call the end of a program that does not revert.
_FAILURES: Final = (
    *("out of gas", "outofgas", "gas required exceeds", "gas uint64 overflow", "evm error", "vm execution error"),
    *("invalid opcode", "bad instruction", "invalid jump", "bad jump", "stack underflow", "stack limit"),
    *("stack overflow", "write protection", "static state change", "return data out of bounds", "execution halted"),
)
# Words in a reason, and the code for it; the first that fits.
_CODES: Final = (
    ("expired or not yet valid", "authorization_expired"),
    ("not yet valid", "not_yet_valid"),
    ("expired", "authorization_expired"),
    ("used or canceled", "proof_already_used"),
    ("authorization is used", "proof_already_used"),
    ("invalid signature", "signature_invalid"),
    ("zero address", "payee_mismatch"),
    ("exceeds balance", "insufficient_funds"),
    ("insufficient balance", "insufficient_funds"),
    ("blacklist", "payment_declined"),
    ("blocklist", "payment_declined"),
)


# --- asking


def call_data(function: str, *words: bytes) -> str:
    """Return what calls a function: its signature, such as `balanceOf(address)`, and its arguments of 32 bytes each."""
    return "0x" + (keccak256(function.encode())[:4] + b"".join(words)).hex()


def address_word(address: str) -> bytes:
    """Return an address as an argument."""
    return bytes(12) + bytes.fromhex(address[2:])


def transfer_call_data(domain: Domain, authorization: Authorization, signature: bytes) -> str:
    """Return what hands an authorization in: `transferWithAuthorization`.

    A key's signature goes in three parts, which every token of EIP-3009 takes. Another is a contract's, and goes as the
    bytes that it is: not all tokens have that function, and one that has not refuses the call.
    """
    numbers = (authorization.value, authorization.valid_after, authorization.valid_before)
    words = (
        address_word(authorization.from_),
        address_word(authorization.to),
        *(number.to_bytes(32, "big") for number in numbers),
        authorization.nonce,
    )
    if is_signed_by_payer(domain, authorization, signature):
        v, r, s = split_signature(signature)
        return call_data(_TRANSFER_WITH_AUTHORIZATION, *words, v.to_bytes(32, "big"), r, s)
    return call_data(_TRANSFER_WITH_BYTES, *words, *_bytes_last(signature, behind=len(words)))


def is_valid_signature_data(domain: Domain, authorization: Authorization, signature: bytes) -> str:
    """Return what asks a payer that is a contract whether the signature is its own (ERC-1271)."""
    return call_data(IS_VALID_SIGNATURE, digest(domain, authorization), *_bytes_last(signature, behind=1))


def _bytes_last(content: bytes, *, behind: int) -> tuple[bytes, ...]:
    """Encode bytes as the last argument, behind so many words: where they begin, how many, and they themselves."""
    start, size = 32 * (behind + 1), len(content)
    return start.to_bytes(32, "big"), size.to_bytes(32, "big"), content, bytes(-size % 32)


def eth_call(
    contract: str, called: str, *, block: str = "latest", sender: str | None = None, gas: int | None = None
) -> Call:
    """Return the call that reads from a contract.

    Args:
        called: the function and its arguments; see `call_data`.
        block: a name or a number in hex.
        sender: who would send it as a transaction.
        gas: what it may use; as much as the node allows unless given.
    """
    transaction = {"to": contract, "data": called}
    if sender is not None:
        transaction["from"] = sender
    if gas is not None:
        transaction["gas"] = hex(gas)
    return Call("eth_call", (transaction, block))


# --- answers


def quantity(answer: Answer) -> int:
    """Read a number: a quantity, or the word that a function returns.

    Raises:
        RailUnavailable: it is not one, or the call was refused.
    """
    _require_answer(answer)
    if not isinstance(answer, str) or not _is_quantity(answer):
        raise RailUnavailable("the node sent something else where a number belongs")
    return int(answer, 16)


def boolean(answer: Answer) -> bool:
    """Read the word that a function returns as a truth value; see `quantity`."""
    return quantity(answer) != 0


def data(answer: Answer) -> bytes:
    """Read bytes, such as a contract's code.

    Raises:
        RailUnavailable: they are none, or the call was refused.
    """
    _require_answer(answer)
    if answer == "0x0":  # what some nodes say for nothing
        return b""
    if not isinstance(answer, str) or not _is_data(answer):
        raise RailUnavailable("the node sent something else where bytes in hex belong")
    return bytes.fromhex(answer[2:])


def text(answer: Answer) -> str:
    """Read the one text that a function returns.

    Raises:
        RailUnavailable: it is not one, or the call was refused.
    """
    found = _string(data(answer))
    if found is None:
        raise RailUnavailable("the token contract sent something else where a text belongs")
    return found


def word_address(word: object) -> str:
    """Read an address out of a word in hex, such as a topic.

    Raises:
        RailUnavailable: it is not one.
    """
    if not isinstance(word, str) or len(word) != 66 or not word.startswith("0x" + 24 * "0") or not _is_quantity(word):
        raise RailUnavailable("the node sent something else where an address belongs")
    return parse_address("0x" + word[26:])


def _require_answer(answer: Answer) -> None:
    if isinstance(answer, RpcError):
        raise answer


def _string(words: bytes) -> str | None:
    """Decode `(string)`: an offset, a length, and that many bytes."""
    start = int.from_bytes(words[:32], "big")
    size = int.from_bytes(words[start : start + 32], "big")
    content = words[start + 32 : start + 32 + size]
    if len(words) < 64 or start != 32 or len(content) != size:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


# --- reverting


def is_revert(error: RpcError) -> bool:
    """Say whether it was the contract that refused, and not the node."""
    if error.number == 3 or "revert" in error.message.lower() or "revert" in str(error.data).lower():
        return True
    return _revert_data(error.data)[:4] in (_ERROR_STRING, *_CUSTOM_ERRORS)


def is_contract_failure(error: RpcError) -> bool:
    """Say whether a call failed by what a contract did: it reverted, used up its gas, or did what no program may."""
    said = error.message.lower()
    return is_revert(error) or any(words in said for words in _FAILURES)


def revert_reason(error: RpcError) -> str:
    """Return why a contract reverted, in its own words or in those of USDC's for the same; "" where it did not say."""
    returned = _revert_data(error.data)
    if returned[:4] == _ERROR_STRING:
        said = _string(returned[4:])
    elif returned:
        said = _CUSTOM_ERRORS.get(returned[:4], f"custom error 0x{returned[:4].hex()}")
    else:
        said = error.message.partition("execution reverted")[2].lstrip(": ")
    return printable((said or "")[:_MAX_TEXT])


def refusal(error: RpcError) -> PaymentRejected | RailUnavailable:
    """Return what it means for a payment that a call which would hand it in was refused.

    That is `PaymentRejected` with the reason code, or `RailUnavailable` where it is nothing the payer could change: the
    error itself, where the contracts have said nothing at all.
    """
    if not is_revert(error):
        if not is_contract_failure(error):
            return error
        return PaymentRejected(f"handing it in would fail: {error.message}", code="payment_declined")
    reason = revert_reason(error)
    if "paused" in reason.lower():
        return RailUnavailable("the token contract is paused by its issuer", retry_after=60)
    code = next((code for words, code in _CODES if words in reason.lower()), "payment_declined")
    return PaymentRejected(f"the token contract refuses it: {reason or 'no reason given'}", code=code)


def _revert_data(told: Any, depth: int = 3) -> bytes:
    """Find the returned bytes; nodes put them in a string, after a word, or into an object."""
    if isinstance(told, str):
        found = _hex_in(told)
        digits = found[0][2:] if found else ""
        return bytes.fromhex(digits) if len(digits) % 2 == 0 else b""
    if isinstance(told, Mapping) and depth:
        for name in ("data", "originalError", "result"):
            if inner := _revert_data(told.get(name), depth - 1):
                return inner
    return b""
