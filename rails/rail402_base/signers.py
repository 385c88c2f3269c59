"""Whose key signs for a wallet, as a `[[wallets]]` table says it: one of four sources, for itself or for a contract."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import BeforeValidator, SecretStr

from rail402.config import Secret, resolve_secret, revealed
from rail402.errors import ConfigurationError
from rail402.protocol.base import Record
from rail402_base.keys import DEFAULT_DERIVATION_PATH, ContractSigner, LocalSigner, RemoteSigner, Signer
from rail402_base.rpc.signer import RpcSigner, SignMethod

__all__ = ["SIGNER_KEYS", "Address", "SignerTable"]


def _resolve_address(value: object) -> str:
    """An address may stand in the file, unless it holds a key: then it is referred to as a secret is."""
    if isinstance(value, str) and value.startswith(("https://", "http://")):
        return value
    return resolve_secret(value)


Address = Annotated[SecretStr, BeforeValidator(_resolve_address)]
"""The address of a node, a facilitator or a signer: itself, or `env:NAME` or `file:PATH` of one that holds a key."""

# Each source of signatures: what it needs besides, and what it may have.
_SOURCES: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "private_key": ((), ()),
    "keystore": (("keystore_password",), ()),
    "mnemonic": ((), ("mnemonic_passphrase", "derivation_path")),
    "signer": (("signer_address",), ("signer_method",)),
}

_LOCAL: Final = tuple(source for source in _SOURCES if source != "signer")

SIGNER_KEYS: Final = (*_SOURCES, *(key for needs, may in _SOURCES.values() for key in (*needs, *may)), "contract")
"""All keys of `SignerTable`."""


class SignerTable(Record):
    """The keys of a table that say who signs.

    Args:
        private_key: `env:NAME` or `file:PATH` of 64 hex digits.
        keystore: the path of an encrypted keystore file; keystore_password: `env:NAME` or `file:PATH`.
        mnemonic: `env:NAME` or `file:PATH` of BIP-39 words; mnemonic_passphrase: likewise, where there is one;
            derivation_path: the first Ethereum address unless given.
        signer: the URL of a remote signer, or `env:NAME` or `file:PATH` of one with a password; signer_address: the key
            that it signs with; signer_method: what it calls that, `eth_signTypedData_v4` unless given.
        contract: the address of a contract (ERC-1271) that pays, and reads the signature of the key above as its own.
    """

    private_key: Secret | None = None
    keystore: str | None = None
    keystore_password: Secret | None = None
    mnemonic: Secret | None = None
    mnemonic_passphrase: Secret | None = None
    derivation_path: str | None = None
    signer: Address | None = None
    signer_address: str | None = None
    signer_method: SignMethod | None = None
    contract: str | None = None

    def check_signer(self, *, is_needed: bool, is_local: bool = False) -> None:
        """Check that there is one source of signatures, with what belongs to it and nothing else.

        Args:
            is_needed: whether there must be one.
            is_local: whether it must be a key of this process, which signs for itself: one that signs transactions.

        Raises:
            ConfigurationError: there is none, or another one, or several, or a key is too many or missing.
        """
        named = [source for source in _SOURCES if getattr(self, source) is not None]
        sources = _LOCAL if is_local else tuple(_SOURCES)
        surplus = [key for key in ("signer", "contract") if is_local and getattr(self, key) is not None]
        if surplus:
            raise ConfigurationError(
                f"{surplus[0]} signs no transactions: a transfer needs one of {', '.join(sources)}"
            )
        if len(named) > 1 or (is_needed and not named):
            raise ConfigurationError(
                f"needs one of {', '.join(sources)}" + (f", and has {len(named)}" if named else "")
            )
        needs, may = _SOURCES[named[0]] if named else ((), ())
        for key in needs:
            if not getattr(self, key):
                raise ConfigurationError(f"{named[0]} needs {key}")
        for key in sorted(self.model_fields_set.intersection(SIGNER_KEYS).difference(named, needs, may, {"contract"})):
            raise ConfigurationError(f"{key} does not belong to {named[0] if named else 'a wallet without a signer'}")
        if self.contract is not None and not named:
            raise ConfigurationError(f"contract needs one of {', '.join(_SOURCES)}: the key whose signature it reads")

    def make_signer(self) -> Signer | None:
        """Return the signer that the keys describe, None where there are none.

        Raises:
            ConfigurationError: see `LocalSigner`, `RemoteSigner`, `ContractSigner` and `RpcSigner`.
        """
        if self.signer is not None:
            method = self.signer_method or "eth_signTypedData_v4"
            sign = RpcSigner(self.signer.get_secret_value(), self.signer_address or "", method=method)
            remote = RemoteSigner(self.signer_address or "", sign)  # which checks the address
            return remote if self.contract is None else ContractSigner(self.contract, sign)
        local = self.make_local()
        return local if self.contract is None or local is None else ContractSigner(self.contract, local.sign_typed_data)

    def make_local(self) -> LocalSigner | None:
        """Return the key of this process that the keys describe, None where there is none.

        Raises:
            ConfigurationError: see `LocalSigner`.
        """
        if self.private_key is not None:
            return LocalSigner.from_private_key(self.private_key.get_secret_value())
        if self.keystore is not None:
            path = _expanded(self.keystore)
            return LocalSigner.from_keystore(path, revealed(self.keystore_password) or "")
        if self.mnemonic is not None:
            return LocalSigner.from_mnemonic(
                self.mnemonic.get_secret_value(),
                passphrase=revealed(self.mnemonic_passphrase) or "",
                derivation_path=self.derivation_path or DEFAULT_DERIVATION_PATH,
            )
        return None


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(f"keystore: {path} is in the home of nobody") from error
