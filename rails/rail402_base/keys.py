"""Who signs a payment: a raw key, a keystore file, a mnemonic, a signer somewhere else, or a contract's owners.

A private key never shows in a repr, a message or a chained exception.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from rail402.errors import ConfigurationError, MalformedInput, PaymentRejected
from rail402_base.eip3009 import (
    MAX_SIGNATURE,
    Authorization,
    Domain,
    address_of,
    digest,
    parse_address,
    recover,
    sign,
    split_signature,
    typed_data,
)
from rail402_base.erc1271 import require_deployed

__all__ = [
    "DEFAULT_DERIVATION_PATH",
    "ContractSigner",
    "LocalSigner",
    "RemoteSigner",
    "Signer",
    "TypedDataSigner",
    "parse_private_key",
]

# BIP-44: purpose 44', coin 60' (Ether), account 0', external chain 0, first address.
DEFAULT_DERIVATION_PATH = "m/44'/60'/0'/0/0"

TypedDataSigner = Callable[[dict[str, object]], Awaitable[bytes | str]]

_is_private_key = re.compile(r"(0x)?[0-9a-fA-F]{64}").fullmatch
_is_signature = re.compile(r"0x[0-9a-fA-F]{130}").fullmatch
_is_hex = re.compile(r"0x(?:[0-9a-fA-F]{2})*").fullmatch


class Signer(Protocol):
    """Signs EIP-3009 authorizations for one address."""

    @property
    def address(self) -> str:
        """Who pays, in EIP-55 form."""
        ...

    async def sign(self, domain: Domain, authorization: Authorization) -> bytes:
        """Sign a transfer out of `address`.

        Returns:
            65 bytes: r, s (low) and v (27 or 28). Of a contract, what it reads; see `ContractSigner`.

        Raises:
            ConfigurationError: the authorization is another payer's, or the signer is set up wrongly. Nothing is paid.
        """
        ...


class LocalSigner:
    """A private key in this process. Build it with one of the three `from_...` methods.

    Raises:
        ConfigurationError: the key cannot be used; the message says why and does not contain it.
    """

    __slots__ = ("_address", "_private_key")

    def __init__(self, private_key: bytes) -> None:
        self._address = address_of(private_key)
        self._private_key = private_key

    @classmethod
    def from_private_key(cls, text: str) -> LocalSigner:
        """From 64 hex digits, with or without `0x`."""
        return cls(parse_private_key(text))

    @classmethod
    def from_keystore(cls, path: str | Path, password: str) -> LocalSigner:
        """From an encrypted keystore file (Web3 Secret Storage, version 3), as geth, cast and eth-account write them.

        The key derivation is slow on purpose (about a second): call this at the start, not while requests wait.
        """
        try:
            keystore = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(f"the keystore file {path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ConfigurationError(f"the keystore file {path} is not a JSON file") from error
        # Version 4 holds the BLS key of a validator, which cannot sign a payment.
        if not isinstance(keystore, dict) or keystore.get("version") != 3:
            raise ConfigurationError(f"the file {path} is not a keystore of version 3 (Web3 Secret Storage)")
        return cls(_decrypt(keystore, password, path))

    @classmethod
    def from_mnemonic(
        cls, words: str, *, passphrase: str = "", derivation_path: str = DEFAULT_DERIVATION_PATH
    ) -> LocalSigner:
        """From a BIP-39 mnemonic, by default its first Ethereum address (BIP-44)."""
        return cls(_derive(words, passphrase, derivation_path))

    @property
    def address(self) -> str:
        """Who pays, in EIP-55 form."""
        return self._address

    def reveal_key(self) -> str:
        """Return the private key, 64 hex digits, for what signs more than authorizations. Secret."""
        return self._private_key.hex()

    async def sign(self, domain: Domain, authorization: Authorization) -> bytes:
        """Sign a transfer out of `address`; see `Signer.sign`."""
        _check_payer(self._address, authorization)
        return sign(digest(domain, authorization), self._private_key)

    async def sign_typed_data(self, message: dict[str, object]) -> bytes:
        """Sign any message (EIP-712), as the owner of a contract does; see `ContractSigner`."""
        from eth_account import Account  # slow to import, as below

        return bytes(Account.sign_typed_data(self._private_key, full_message=message).signature)

    def __repr__(self) -> str:
        return f"LocalSigner(address={self._address!r})"


class RemoteSigner:
    """A key elsewhere: a hardware wallet, a key service, another process.

    Args:
        address: the address of that key.
        sign_typed_data: takes the message as `eth_signTypedData_v4` does (a JSON object) and returns the signature, 65
            bytes or `0x` and 130 hex digits. What it raises reaches the caller as it is; raise `RailUnavailable` where
            the signer cannot be reached. Nothing has been paid at that point.

    Raises:
        ConfigurationError: the address is not one.
    """

    __slots__ = ("_address", "_sign_typed_data")

    def __init__(self, address: str, sign_typed_data: TypedDataSigner) -> None:
        self._address = _checked_address(address, "the remote signer's")
        self._sign_typed_data = sign_typed_data

    @property
    def address(self) -> str:
        """Who pays, in EIP-55 form."""
        return self._address

    async def sign(self, domain: Domain, authorization: Authorization) -> bytes:
        """Have a transfer out of `address` signed, and check that this very message was signed by this very key."""
        _check_payer(self._address, authorization)
        signature = _signature_bytes(await self._sign_typed_data(typed_data(domain, authorization)))
        try:
            v, r, s = split_signature(signature)
            signer = recover(digest(domain, authorization), signature)
        except PaymentRejected as error:
            raise ConfigurationError(f"the remote signer's signature cannot be used: {error.detail}") from error
        if signer != self._address:
            raise ConfigurationError(
                f"the remote signer did not sign this message with the key of {self._address}: "
                f"the signature is that of {signer}; check its address and that it signs typed data (EIP-712)"
            )
        return r + s + bytes((v,))

    def __repr__(self) -> str:
        return f"RemoteSigner(address={self._address!r})"


class ContractSigner:
    """A wallet that is a contract (ERC-1271), such as a Safe or a passkey's smart account. It must be deployed.

    What it signs is whatever the contract reads: an owner's signature, several, a passkey's with what belongs to it.
    Whether the contract accepts it only the chain can say: where it does not, the payment is refused and nothing is
    paid.

    Args:
        address: the contract's address: who pays.
        sign_typed_data: see `RemoteSigner`; returns the signature as the contract wants it, 2048 bytes at most, in
            bytes or as `0x` and hex digits.

    Raises:
        ConfigurationError: the address is not one.
    """

    __slots__ = ("_address", "_sign_typed_data")

    def __init__(self, address: str, sign_typed_data: TypedDataSigner) -> None:
        self._address = _checked_address(address, "the contract's")
        self._sign_typed_data = sign_typed_data

    @property
    def address(self) -> str:
        """Who pays, in EIP-55 form."""
        return self._address

    async def sign(self, domain: Domain, authorization: Authorization) -> bytes:
        """Have a transfer out of `address` signed; see `Signer.sign`."""
        _check_payer(self._address, authorization)
        signature = await self._sign_typed_data(typed_data(domain, authorization))
        if isinstance(signature, str) and _is_hex(signature):
            signature = bytes.fromhex(signature[2:])
        if not isinstance(signature, bytes) or not 0 < len(signature) <= MAX_SIGNATURE:
            raise ConfigurationError(f"the contract's signature must be 1 to {MAX_SIGNATURE} bytes or 0x and hex")
        try:
            require_deployed(signature)
        except PaymentRejected as error:
            raise ConfigurationError(f"the contract's signature cannot be used: {error.detail}") from error
        return bytes(signature)

    def __repr__(self) -> str:
        return f"ContractSigner(address={self._address!r})"


def parse_private_key(text: str, *, name: str = "the private key") -> bytes:
    """Read a private key: 64 hex digits, with or without `0x`.

    Args:
        name: what an error calls it.

    Raises:
        ConfigurationError: it is not one.
    """
    if not _is_private_key(text):
        raise ConfigurationError(f"{name} must be 64 hex digits, with or without 0x before them")
    key = bytes.fromhex(text.removeprefix("0x"))
    address_of(key)
    return key


def _checked_address(address: str, whose: str) -> str:
    try:
        return parse_address(address, "address", eip55=True)
    except MalformedInput as error:
        raise ConfigurationError(f"{whose} {error.detail}") from error


def _check_payer(address: str, authorization: Authorization) -> None:
    if authorization.from_ != address:
        raise ConfigurationError(f"the signer of {address} was asked to sign a payment from {authorization.from_}")


def _signature_bytes(signature: object) -> bytes:
    if isinstance(signature, str) and _is_signature(signature):
        return bytes.fromhex(signature[2:])
    if isinstance(signature, bytes) and len(signature) == 65:
        return bytes(signature)
    raise ConfigurationError("the remote signer must return 65 bytes, or 0x and 130 hex digits")


def _decrypt(keystore: dict[str, object], password: str, path: str | Path) -> bytes:
    from eth_account import Account  # most of a second to import: only who uses a keystore pays for it

    try:
        return bytes(Account.decrypt(keystore, password))
    except (KeyError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise ConfigurationError(
            f"the keystore file {path} cannot be opened: the password is wrong or the file is damaged"
        ) from error


def _derive(words: str, passphrase: str, derivation_path: str) -> bytes:
    from eth_account.hdaccount import key_from_seed, seed_from_mnemonic  # slow to import, as above
    from eth_utils.exceptions import ValidationError

    # The library's message quotes the words, so it must not become the context of ours.
    seed: bytes | None = None
    with suppress(ValidationError):
        seed = seed_from_mnemonic(words, passphrase)
    if seed is None:
        raise ConfigurationError("the mnemonic is not a BIP-39 phrase: check each word, their order and their number")
    try:
        return key_from_seed(seed, derivation_path)
    except (ValidationError, OverflowError) as error:
        raise ConfigurationError(
            f"the derivation path {derivation_path!r} must look like {DEFAULT_DERIVATION_PATH}"
        ) from error
