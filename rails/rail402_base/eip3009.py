"""EIP-3009 `transferWithAuthorization`: reading, hashing (EIP-712), signing and recovering. Pure.

An authorization is a cheque: the token holder signs who gets how much, from when until when, under a random nonce, and
anyone may hand it in. The contract keeps the nonces that were used. What is signed is

    keccak256(0x1901 || domain separator || keccak256(type hash || one 32-byte word per member))

where the domain names the token contract and its chain, so a cheque for one token is worth nothing at another.

It is written out by hand because it is small and because a server does it for every payment: one public key recovery
by libsecp256k1 is most of what a verification costs. An address is text in its EIP-55 form everywhere in this package,
so that `==` is enough to compare two of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from coincurve import PrivateKey, PublicKey
from Crypto.Hash import keccak as _keccak

from rail402.errors import ConfigurationError, MalformedInput, PaymentRejected

__all__ = [
    "CANCEL_TYPEHASH",
    "MAX_SIGNATURE",
    "TRANSFER_TYPEHASH",
    "Authorization",
    "Domain",
    "address_of",
    "cancel_digest",
    "digest",
    "is_signed_by_payer",
    "keccak256",
    "message_of",
    "parse_address",
    "parse_authorization",
    "recover",
    "same_address",
    "sign",
    "split_signature",
    "typed_data",
]

MAX_UINT256 = 2**256 - 1
MAX_SIGNATURE = 2048
"""Bytes of a signature at most. A key makes 65; a contract reads what it likes: 700 of a passkey, 65 of each owner."""

# Half the order of secp256k1: of the two signatures (r, s) and (r, n - s) that both verify, EIP-2 allows the lower.
_HALF_ORDER = bytes.fromhex("7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0")
_WORD_PADDING = bytes(12)
_BIT_6 = int.from_bytes(40 * b"\x40", "big")

_is_address = re.compile(r"0x[0-9a-fA-F]{40}").fullmatch
# One spelling per number: no sign, no leading zero, no exponent, and ASCII digits only (int() would take any script's).
_is_uint = re.compile(r"0|[1-9][0-9]{0,77}").fullmatch
_is_nonce = re.compile(r"0x[0-9a-fA-F]{64}").fullmatch
_is_signature = re.compile(rf"0x(?:[0-9a-fA-F]{{2}}){{1,{MAX_SIGNATURE}}}").fullmatch


def keccak256(data: bytes) -> bytes:
    """The hash of Ethereum: Keccak-256 as it was before SHA-3 changed the padding."""
    return _keccak.new(digest_bits=256, data=data).digest()


_DOMAIN_TYPEHASH = keccak256(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
TRANSFER_TYPEHASH = keccak256(
    b"TransferWithAuthorization(address from,address to,uint256 value,"
    b"uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
CANCEL_TYPEHASH = keccak256(b"CancelAuthorization(address authorizer,bytes32 nonce)")


def _malformed(member: str, detail: str) -> MalformedInput:
    return MalformedInput(member, detail, code="payload_invalid")


@lru_cache(maxsize=4096)
def _checksum(address: bytes) -> str:
    """Spell 20 bytes as EIP-55 does: a letter is a capital where the hash of the small letters has a digit above 7.

    Done on all 40 characters at once, which takes a third off the time. Among ASCII's hex digits bit 6 is set in the
    letters only and bit 3 in 8 and 9 only; bit 5 is what makes a letter small.
    """
    small = address.hex().encode()
    text = int.from_bytes(small, "big")
    marks = int.from_bytes(keccak256(small).hex()[:40].encode(), "big")
    above_7 = marks | marks << 3
    capitals = text & above_7 & _BIT_6
    return "0x" + (text ^ capitals >> 1).to_bytes(40, "big").decode()


def parse_address(text: object, member: str = "address", *, eip55: bool = False) -> str:
    """Read an address in any mix of cases and return its EIP-55 form.

    Args:
        text: `0x` and 40 hex digits.
        member: how an error names it.
        eip55: whether mixed case must be a correct EIP-55 checksum. Ask for it where a person typed the address; what
            a program sent is bound by a signature, and not every program gets the capitals right.

    Raises:
        MalformedInput: it is not an address, or its capitals say that a digit was mistyped.
    """
    if not isinstance(text, str) or not _is_address(text):
        raise _malformed(member, "must be an address: 0x and 40 hex digits")
    address = _checksum(bytes.fromhex(text[2:]))
    if eip55 and text != address and not (text[2:].islower() or text[2:].isupper()):
        raise _malformed(member, "has a wrong EIP-55 checksum: one of its characters is mistyped")
    return address


def same_address(one: str, other: str) -> bool:
    """Whether two addresses are the same one, however their letters are spelt."""
    return one.lower() == other.lower()


def _word(address: str) -> bytes:
    return _WORD_PADDING + bytes.fromhex(address[2:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """The EIP-712 domain of a token contract; its separator is computed once, here.

    Attributes:
        name: what the contract answers to `name()`; part of what is signed, so spelt exactly.
        version: what it answers to `version()`.
        chain_id: the EIP-155 number of the chain.
        verifying_contract: the token's address.
        separator: the 32 bytes that `DOMAIN_SEPARATOR()` answers.

    Raises:
        MalformedInput: the address or the chain id cannot be one.
    """

    name: str
    version: str
    chain_id: int
    verifying_contract: str
    separator: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        contract = parse_address(self.verifying_contract, "domain.verifyingContract")
        if type(self.chain_id) is not int or not 0 < self.chain_id <= MAX_UINT256:
            raise _malformed("domain.chainId", "must be a positive integer")
        separator = keccak256(
            _DOMAIN_TYPEHASH
            + keccak256(self.name.encode())
            + keccak256(self.version.encode())
            + self.chain_id.to_bytes(32, "big")
            + _word(contract)
        )
        object.__setattr__(self, "verifying_contract", contract)
        object.__setattr__(self, "separator", separator)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """The message of a `TransferWithAuthorization`, checked and with its addresses in EIP-55 form.

    Attributes:
        from_: who pays and signs.
        to: who is paid.
        value: atomic units of the token.
        valid_after: unix seconds; the contract wants `now > valid_after`.
        valid_before: unix seconds; the contract wants `now < valid_before`.
        nonce: 32 bytes, once per payer and token.

    Raises:
        MalformedInput: a member is out of its range; code `payload_invalid`.
    """

    from_: str
    to: str
    value: int
    valid_after: int
    valid_before: int
    nonce: bytes

    def __post_init__(self) -> None:
        object.__setattr__(self, "from_", parse_address(self.from_, "authorization.from"))
        object.__setattr__(self, "to", parse_address(self.to, "authorization.to"))
        for member, number in (
            ("authorization.value", self.value),
            ("authorization.validAfter", self.valid_after),
            ("authorization.validBefore", self.valid_before),
        ):
            if type(number) is not int or not 0 <= number <= MAX_UINT256:
                raise _malformed(member, "must be an integer of 0 to 2^256 - 1")
        if not isinstance(self.nonce, bytes) or len(self.nonce) != 32:
            raise _malformed("authorization.nonce", "must be 32 bytes")


def parse_authorization(payload: Mapping[str, object]) -> tuple[Authorization, bytes]:
    """Read the payload of an x402 `exact` EVM payment: `signature` and `authorization`. Unknown members are left alone.

    Args:
        payload: the decoded JSON object. Numbers are decimal strings, byte strings are `0x` and hex digits.

    Returns:
        The authorization and its signature, neither of them verified. It is 65 bytes where a key has made it; whatever
        the payer's contract reads otherwise, up to `MAX_SIGNATURE`.

    Raises:
        MalformedInput: the message names the member; code `payload_invalid`.
    """
    if not isinstance(payload, Mapping):
        raise _malformed("payload", "must be an object")
    signature = payload.get("signature")
    if not isinstance(signature, str) or not _is_signature(signature):
        raise _malformed("signature", f"must be a string of 0x and hex digits, for 1 to {MAX_SIGNATURE} bytes")
    members = payload.get("authorization")
    if not isinstance(members, Mapping):
        raise _malformed("authorization", "must be an object")
    authorization = Authorization(
        # The constructor checks that these two are addresses.
        from_=members.get("from"),  # type: ignore[arg-type]
        to=members.get("to"),  # type: ignore[arg-type]
        value=_uint(members, "value"),
        valid_after=_uint(members, "validAfter"),
        valid_before=_uint(members, "validBefore"),
        nonce=_nonce(members),
    )
    return authorization, bytes.fromhex(signature[2:])


def _uint(members: Mapping[str, object], name: str) -> int:
    text = members.get(name)
    if not isinstance(text, str) or not _is_uint(text):
        raise _malformed(f"authorization.{name}", "must be a string of decimal digits, without sign or leading zeros")
    return int(text)


def _nonce(members: Mapping[str, object]) -> bytes:
    text = members.get("nonce")
    if not isinstance(text, str) or not _is_nonce(text):
        raise _malformed("authorization.nonce", "must be a string of 0x and 64 hex digits (32 bytes)")
    return bytes.fromhex(text[2:])


def digest(domain: Domain, authorization: Authorization) -> bytes:
    """The 32 bytes that are signed to transfer (EIP-712, `encodeData` of EIP-3009's `TransferWithAuthorization`)."""
    struct_hash = keccak256(
        TRANSFER_TYPEHASH
        + _word(authorization.from_)
        + _word(authorization.to)
        + authorization.value.to_bytes(32, "big")
        + authorization.valid_after.to_bytes(32, "big")
        + authorization.valid_before.to_bytes(32, "big")
        + authorization.nonce
    )
    return keccak256(b"\x19\x01" + domain.separator + struct_hash)


def cancel_digest(domain: Domain, authorizer: str, nonce: bytes) -> bytes:
    """The 32 bytes that are signed to make a nonce worthless (EIP-3009's `CancelAuthorization`)."""
    struct_hash = keccak256(CANCEL_TYPEHASH + _word(authorizer) + nonce)
    return keccak256(b"\x19\x01" + domain.separator + struct_hash)


def message_of(authorization: Authorization) -> dict[str, str]:
    """Return an authorization as JSON writes it, in what is signed and in what is sent; numbers as decimal strings."""
    return {
        "from": authorization.from_,
        "to": authorization.to,
        "value": str(authorization.value),
        "validAfter": str(authorization.valid_after),
        "validBefore": str(authorization.valid_before),
        "nonce": "0x" + authorization.nonce.hex(),
    }


def typed_data(domain: Domain, authorization: Authorization) -> dict[str, object]:
    """The same message as the JSON object that `eth_signTypedData_v4` and hardware or remote signers take."""
    return {
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "verifyingContract", "type": "address"},
            ],
            "TransferWithAuthorization": [
                {"name": "from", "type": "address"},
                {"name": "to", "type": "address"},
                {"name": "value", "type": "uint256"},
                {"name": "validAfter", "type": "uint256"},
                {"name": "validBefore", "type": "uint256"},
                {"name": "nonce", "type": "bytes32"},
            ],
        },
        "primaryType": "TransferWithAuthorization",
        "domain": {
            "name": domain.name,
            "version": domain.version,
            "chainId": domain.chain_id,
            "verifyingContract": domain.verifying_contract,
        },
        # Strings, because a signer written in JavaScript would round a larger number.
        "message": message_of(authorization),
    }


def split_signature(signature: bytes) -> tuple[int, bytes, bytes]:
    """Take a signature apart as the contract wants it: `v` (27 or 28, also where it was given as 0 or 1), `r`, `s`.

    Raises:
        PaymentRejected: the contract would refuse its form; code `signature_invalid`.
    """
    if len(signature) != 65:
        raise PaymentRejected("the signature must be 65 bytes: r, s and v", code="signature_invalid")
    r, s, v = signature[:32], signature[32:64], signature[64]
    if v not in (0, 1, 27, 28):
        raise PaymentRejected("the signature's v must be 27 or 28", code="signature_invalid")
    if s > _HALF_ORDER:
        raise PaymentRejected("the signature is malleable: its s must be in the lower half", code="signature_invalid")
    return (v if v >= 27 else v + 27), r, s


def recover(digest: bytes, signature: bytes) -> str:
    """The address whose key made this signature over these 32 bytes.

    Args:
        digest: what was signed.
        signature: r, s and v; 65 bytes.

    Returns:
        An address. A signature over anything else, or an altered one, recovers to some other address: compare it.

    Raises:
        PaymentRejected: no key can have made it, or the contract would refuse its form; code `signature_invalid`.
    """
    v, r, s = split_signature(signature)
    try:
        public_key = PublicKey.from_signature_and_message(r + s + bytes((v - 27,)), digest, hasher=None)
    except ValueError as error:
        raise PaymentRejected("the signature belongs to no key", code="signature_invalid") from error
    return _address(public_key)


def is_signed_by_payer(domain: Domain, authorization: Authorization, signature: bytes) -> bool:
    """Whether the key of the payer's address made the signature; else only a contract at it could accept it."""
    try:
        return recover(digest(domain, authorization), signature) == authorization.from_
    except PaymentRejected:
        return False


def sign(digest: bytes, private_key: bytes) -> bytes:
    """Sign 32 bytes with a raw private key: deterministic (RFC 6979), low s, v of 27 or 28.

    Raises:
        ConfigurationError: the private key is not one.
    """
    signature = _private_key(private_key).sign_recoverable(digest, hasher=None)
    return signature[:64] + bytes((signature[64] + 27,))


def address_of(private_key: bytes) -> str:
    """The address of a raw private key of 32 bytes.

    Raises:
        ConfigurationError: the private key is not one.
    """
    return _address(_private_key(private_key).public_key)


def _private_key(secret: bytes) -> PrivateKey:
    if len(secret) != 32:
        raise ConfigurationError("a private key must be 32 bytes")
    try:
        return PrivateKey(secret)
    except ValueError as error:
        raise ConfigurationError("the private key is zero or not below the order of secp256k1") from error


def _address(public_key: PublicKey) -> str:
    return _checksum(keccak256(public_key.format(compressed=False)[1:])[12:])
