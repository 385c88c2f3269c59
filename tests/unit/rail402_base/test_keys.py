from __future__ import annotations

import json
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data

from rail402.errors import ConfigurationError, RailUnavailable
from rail402_base.eip3009 import Authorization, digest, recover, typed_data
from rail402_base.keys import ContractSigner, LocalSigner, RemoteSigner, Signer
from rail402_base.tokens import BASE_SEPOLIA_USDC, BASE_USDC

KEY = 32 * "1f"
ADDRESS = Account.from_key(KEY).address
OTHER_KEY = 32 * "2e"
DOMAIN = BASE_USDC.domain
AUTHORIZATION = Authorization(
    from_=ADDRESS,
    to="0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
    value=10_000,
    valid_after=0,
    valid_before=1_740_672_154,
    nonce=bytes(range(32)),
)
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
# The mnemonic of BIP-39's own vectors, in use everywhere; its first addresses are known to every wallet.
MNEMONIC = "test test test test test test test test test test test junk"
MNEMONIC_ADDRESSES = ["0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266", "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"]


def signature_by(key: str, message: dict[str, object]) -> bytes:
    return bytes(Account.sign_message(encode_typed_data(full_message=message), key).signature)


def everything_said(error: BaseException) -> str:
    """The message, its chain (suppressed contexts too) and the traceback, as a log might keep them."""
    said = "".join(traceback.format_exception(error))
    link: BaseException | None = error
    while link is not None:
        said += f"\n{link!r} {link.args!r}"
        link = link.__cause__ or link.__context__
    return said


async def assert_signs(signer: Signer) -> None:
    signature = await signer.sign(DOMAIN, AUTHORIZATION)
    assert signer.address == ADDRESS
    assert len(signature) == 65
    assert signature[64] in (27, 28)
    assert recover(digest(DOMAIN, AUTHORIZATION), signature) == ADDRESS


# Local keys


@pytest.mark.parametrize("text", [KEY, "0x" + KEY, "0x" + KEY.upper()])
async def test_a_private_key_in_hex(text: str) -> None:
    await assert_signs(LocalSigner.from_private_key(text))


@pytest.mark.parametrize(
    "text",
    ["", "0x", KEY[:-1], KEY + "1", KEY[:-1] + "g", " " + KEY, KEY + "\n", "0X" + KEY, 64 * "0", 64 * "f", 64 * "１"],
)
def test_a_private_key_that_is_none(text: str) -> None:
    with pytest.raises(ConfigurationError, match="private key") as caught:
        LocalSigner.from_private_key(text)
    assert len(text) < 10 or text.strip() not in everything_said(caught.value)


def test_a_key_never_shows() -> None:
    signer = LocalSigner.from_private_key(KEY)
    assert repr(signer) == str(signer) == f"LocalSigner(address='{ADDRESS}')"
    assert not hasattr(signer, "__dict__")
    with pytest.raises(AttributeError):
        signer.address = "0x"  # type: ignore[misc]


async def test_a_signer_signs_for_nobody_else() -> None:
    other = replace(AUTHORIZATION, from_=Account.from_key(OTHER_KEY).address)

    async def never(_: dict[str, object]) -> bytes:
        raise AssertionError("a remote signer was asked to sign for another address")

    for signer in (LocalSigner.from_private_key(KEY), RemoteSigner(ADDRESS, never)):
        with pytest.raises(ConfigurationError, match=f"signer of {ADDRESS} was asked"):
            await signer.sign(DOMAIN, other)


# Keystore files


@pytest.fixture(scope="module")
def keystore() -> dict[str, Any]:
    encrypted: dict[str, Any] = Account.encrypt(bytes.fromhex(KEY), "correct horse", kdf="pbkdf2", iterations=2)
    return encrypted


async def test_a_keystore_file(tmp_path: Path, keystore: dict[str, Any]) -> None:
    path = tmp_path / "keystore.json"
    path.write_text(json.dumps(keystore))
    await assert_signs(LocalSigner.from_keystore(path, "correct horse"))
    await assert_signs(LocalSigner.from_keystore(str(path), "correct horse"))


def test_a_wrong_password(tmp_path: Path, keystore: dict[str, Any]) -> None:
    path = tmp_path / "keystore.json"
    path.write_text(json.dumps(keystore))
    with pytest.raises(ConfigurationError, match=r"keystore\.json cannot be opened: the password is wrong") as caught:
        LocalSigner.from_keystore(path, "battery staple")
    assert "battery staple" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "is not a JSON file"),
        ("{", "is not a JSON file"),
        ("\xff", "is not a JSON file"),
        ("[]", "is not a keystore of version 3"),
        ("{}", "is not a keystore of version 3"),
        ('{"version": 4}', "is not a keystore of version 3"),
        ('{"version": 3}', "cannot be opened"),
        ('{"version": 3, "crypto": []}', "cannot be opened"),
        ('{"version": 3, "crypto": {"kdf": "none"}}', "cannot be opened"),
        ('{"version": 3, "crypto": {"kdf": "scrypt", "kdfparams": {}}}', "cannot be opened"),
        ('{"version": 3, "crypto": {"kdf": "pbkdf2", "kdfparams": {"prf": 1, "salt": 2}}}', "cannot be opened"),
    ],
)
def test_a_file_that_is_no_keystore(tmp_path: Path, content: str, match: str) -> None:
    path = tmp_path / "keystore.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigurationError, match=match):
        LocalSigner.from_keystore(path, "password")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.json cannot be read: No such file"):
        LocalSigner.from_keystore(tmp_path / "none.json", "password")


# Mnemonics


def test_a_mnemonic_gives_the_addresses_that_wallets_show() -> None:
    assert LocalSigner.from_mnemonic(MNEMONIC).address == MNEMONIC_ADDRESSES[0]
    assert LocalSigner.from_mnemonic(MNEMONIC, derivation_path="m/44'/60'/0'/0/1").address == MNEMONIC_ADDRESSES[1]
    assert LocalSigner.from_mnemonic(MNEMONIC, passphrase="TREZOR").address not in MNEMONIC_ADDRESSES


@pytest.mark.parametrize(
    "words",
    [
        "",
        "legal winner thank year wave sausage worth useful legal winner thank thank",  # a wrong checksum
        "legal winner thank year wave sausage worth useful legal winner thank",  # a word short
        "legal winner thank year wave sausage worth useful legal winner thank yellovv",
        "quick brown fox",
    ],
)
def test_a_mnemonic_that_is_none_is_never_quoted(words: str) -> None:
    with pytest.raises(ConfigurationError, match="not a BIP-39 phrase") as caught:
        LocalSigner.from_mnemonic(words)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert not words or words not in everything_said(caught.value)


@pytest.mark.parametrize("path", ["", "44'/60'", "m/x", "m/44''", "m/-1", "m/99999999999", "m/2147483648'", "m//0"])
def test_a_derivation_path_that_is_none(path: str) -> None:
    with pytest.raises(ConfigurationError, match="derivation path") as caught:
        LocalSigner.from_mnemonic(MNEMONIC, derivation_path=path)
    assert MNEMONIC not in everything_said(caught.value)


def test_the_library_is_left_as_it_was() -> None:
    LocalSigner.from_mnemonic(MNEMONIC)
    with pytest.raises(AttributeError, match="disabled"):
        Account.from_mnemonic(MNEMONIC)


# Remote signers


async def test_a_remote_signer_takes_typed_data() -> None:
    seen: list[dict[str, object]] = []

    async def remote(message: dict[str, object]) -> bytes:
        seen.append(message)
        return signature_by(KEY, message)

    signer = RemoteSigner(ADDRESS.lower(), remote)
    await assert_signs(signer)
    assert repr(signer) == f"RemoteSigner(address='{ADDRESS}')"
    assert seen[0]["primaryType"] == "TransferWithAuthorization"
    json.dumps(seen[0])  # it goes over a wire


async def test_a_remote_signer_may_answer_in_hex_and_count_v_from_0() -> None:
    async def remote(message: dict[str, object]) -> str:
        signature = signature_by(KEY, message)
        return "0x" + (signature[:64] + bytes((signature[64] - 27,))).hex()

    await assert_signs(RemoteSigner(ADDRESS, remote))


async def test_a_remote_signer_with_another_key() -> None:
    async def remote(message: dict[str, object]) -> bytes:
        return signature_by(OTHER_KEY, message)

    with pytest.raises(ConfigurationError, match=f"did not sign this message with the key of {ADDRESS}"):
        await RemoteSigner(ADDRESS, remote).sign(DOMAIN, AUTHORIZATION)


async def test_a_remote_signer_that_signs_something_else() -> None:
    async def remote(message: dict[str, Any]) -> bytes:
        message["message"]["value"] = "99999"
        return signature_by(KEY, message)

    with pytest.raises(ConfigurationError, match="did not sign this message"):
        await RemoteSigner(ADDRESS, remote).sign(DOMAIN, AUTHORIZATION)


async def test_a_remote_signer_that_signs_for_another_token() -> None:
    local = LocalSigner.from_private_key(KEY)

    async def remote(_: dict[str, object]) -> bytes:
        return await local.sign(BASE_SEPOLIA_USDC.domain, AUTHORIZATION)

    with pytest.raises(ConfigurationError, match="did not sign this message"):
        await RemoteSigner(ADDRESS, remote).sign(DOMAIN, AUTHORIZATION)


async def test_a_remote_signer_with_high_s() -> None:
    async def remote(message: dict[str, object]) -> bytes:
        signature = signature_by(KEY, message)
        high = ORDER - int.from_bytes(signature[32:64], "big")
        return signature[:32] + high.to_bytes(32, "big") + bytes((signature[64] ^ 7,))  # 27 (0x1b) <-> 28 (0x1c)

    with pytest.raises(ConfigurationError, match="lower half"):
        await RemoteSigner(ADDRESS, remote).sign(DOMAIN, AUTHORIZATION)


@pytest.mark.parametrize("answer", [None, b"", bytes(64), bytes(66), "", "0x", 130 * "0", "0x" + 128 * "0", 5])
async def test_a_remote_signer_that_returns_no_signature(answer: Any) -> None:
    async def remote(_: dict[str, object]) -> Any:
        return answer

    with pytest.raises(ConfigurationError, match="must return 65 bytes"):
        await RemoteSigner(ADDRESS, remote).sign(DOMAIN, AUTHORIZATION)


async def test_what_a_remote_signer_raises_reaches_the_caller() -> None:
    async def remote(_: dict[str, object]) -> bytes:
        raise RailUnavailable("the key service does not answer")

    with pytest.raises(RailUnavailable, match="key service"):
        await RemoteSigner(ADDRESS, remote).sign(DOMAIN, AUTHORIZATION)


@pytest.mark.parametrize("address", ["", "0x12", ADDRESS[2:], ADDRESS.swapcase().replace("0X", "0x"), None])
def test_a_remote_signer_needs_an_address(address: Any) -> None:
    async def remote(_: dict[str, object]) -> bytes:
        return bytes(65)

    with pytest.raises(ConfigurationError, match="the remote signer's address"):
        RemoteSigner(address, remote)


# --- a contract's


@pytest.mark.parametrize("size", [1, 65, 66, 2048])
@pytest.mark.parametrize("as_text", [True, False])
async def test_a_contracts_signature_is_left_as_it_is(size: int, as_text: bool) -> None:
    asked: list[dict[str, object]] = []
    signature = bytes([7]) * size

    async def owners(message: dict[str, object]) -> bytes | str:
        asked.append(message)
        return "0x" + signature.hex() if as_text else signature

    signer = ContractSigner(ADDRESS, owners)
    assert await signer.sign(DOMAIN, AUTHORIZATION) == signature
    assert asked == [typed_data(DOMAIN, AUTHORIZATION)]
    assert repr(signer) == f"ContractSigner(address='{ADDRESS}')"
    assert signer.address == ADDRESS


@pytest.mark.parametrize("answer", [None, b"", bytes(2049), "", "0x", "0x0", "07", "0x" + "00" * 2049, 5, ["0x01"]])
async def test_a_contracts_owners_who_return_no_signature(answer: Any) -> None:
    async def owners(_: dict[str, object]) -> Any:
        return answer

    with pytest.raises(ConfigurationError, match="must be 1 to 2048 bytes"):
        await ContractSigner(ADDRESS, owners).sign(DOMAIN, AUTHORIZATION)


async def test_a_contract_that_is_not_deployed_pays_nothing() -> None:
    async def owners(_: dict[str, object]) -> bytes:
        return bytes(96) + bytes.fromhex(16 * "6492")

    with pytest.raises(ConfigurationError, match="ERC-6492"):
        await ContractSigner(ADDRESS, owners).sign(DOMAIN, AUTHORIZATION)


async def test_a_contract_signs_for_itself_only() -> None:
    async def owners(_: dict[str, object]) -> bytes:
        raise AssertionError("nobody is asked")

    other = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
    with pytest.raises(ConfigurationError, match="was asked to sign a payment from"):
        await ContractSigner(other, owners).sign(DOMAIN, AUTHORIZATION)
    with pytest.raises(ConfigurationError, match="the contract's address"):
        ContractSigner("0x12", owners)
