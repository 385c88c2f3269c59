"""What Nostr Wallet Connect puts on the wire (NIP-47): its address, signed events (NIP-01), encryption (NIP-44). Pure.

Relays see who talks to whom and when, and can hold back or repeat what they saw; they can read and forge nothing. An
event counts only if its signature is that of the wallet service, and an answer only if it names the request.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from coincurve import PrivateKey, PublicKey, PublicKeyXOnly
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES, ChaCha20
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7

from rail402.errors import ConfigurationError, MalformedInput
from rail402.protocol.base import parse_json
from rail402.upstream import is_private_host

__all__ = [
    "AUTH",
    "INFO",
    "MAX_MESSAGE",
    "NOTIFICATION",
    "REPLY",
    "REQUEST",
    "Connection",
    "Event",
    "conversation_key",
    "nip04_decrypt",
    "nip04_encrypt",
    "nip44_decrypt",
    "nip44_encrypt",
    "parse_connection",
    "read_event",
    "read_message",
    "sign_event",
]

INFO: Final = 13194
REQUEST: Final = 23194
REPLY: Final = 23195
NOTIFICATION: Final = 23197
AUTH: Final = 22242
"""What says to a relay who we are (NIP-42)."""

MAX_MESSAGE: Final = 1 << 18
"""Bytes of a relay's message above which it is not read: four times what NIP-47 asks of relays."""

_SCHEME: Final = "nostr+walletconnect:"
_MAX_RELAYS: Final = 8
_HEX_32: Final = re.compile("[0-9a-f]{64}")
_HEX_64: Final = re.compile("[0-9a-f]{128}")
_SALT: Final = b"nip44-v2"
_VERSION: Final = 2
_LONG: Final = 65_536


@dataclass(frozen=True, slots=True)
class Connection:
    """What a connection's address says.

    Attributes:
        wallet: the public key of the wallet service, 64 hexadecimal digits.
        relays: the addresses of the relays that it listens at.
        secret: our private key on this connection. Whoever has it can do what the connection allows.
        client: our public key.
    """

    wallet: str
    relays: tuple[str, ...]
    secret: bytes = field(repr=False)
    client: str


@dataclass(frozen=True, slots=True)
class Event:
    """A signed event (NIP-01)."""

    id: str
    pubkey: str
    created_at: int
    kind: int
    tags: tuple[tuple[str, ...], ...]
    content: str = field(repr=False)
    sig: str = field(repr=False)

    def tag(self, name: str) -> str | None:
        """Return the first value of the first tag of that name."""
        return next((tag[1] for tag in self.tags if len(tag) > 1 and tag[0] == name), None)

    def wire(self) -> dict[str, Any]:
        """Return the JSON object that it is for relays."""
        return {
            "id": self.id,
            "pubkey": self.pubkey,
            "created_at": self.created_at,
            "kind": self.kind,
            "tags": [list(tag) for tag in self.tags],
            "content": self.content,
            "sig": self.sig,
        }


# --- the address


def parse_connection(text: str) -> Connection:
    """Read `nostr+walletconnect://<key of the wallet>?relay=<address>&secret=<our key>`; there may be several relays.

    Raises:
        ConfigurationError: it is no such address, or leads to a relay without TLS in a public network. It is not
            repeated: it holds the secret.
    """
    try:
        parts = urlsplit(text.strip())
        query = parse_qs(parts.query, max_num_fields=32)
    except ValueError as error:
        raise _unfit("it cannot be read") from error
    wallet = (parts.netloc or parts.path).strip("/").lower()
    relays, secrets = tuple(dict.fromkeys(query.get("relay", []))), query.get("secret", [])
    if f"{parts.scheme}:" != _SCHEME or not _HEX_32.fullmatch(wallet):
        raise _unfit("it must be nostr+walletconnect:// and the wallet's key")
    if len(secrets) != 1 or not _HEX_32.fullmatch(secrets[0].lower()):
        raise _unfit("it must hold one secret, 64 hexadecimal digits")
    if not 1 <= len(relays) <= _MAX_RELAYS:
        raise _unfit(f"it must name from one to {_MAX_RELAYS} relays")
    for relay in relays:
        _check_relay(relay)
    try:
        PublicKeyXOnly(bytes.fromhex(wallet))
        secret = PrivateKey(bytes.fromhex(secrets[0]))
    except ValueError as error:
        raise _unfit("one of its keys is none") from error
    return Connection(wallet, relays, secret.secret, secret.public_key_xonly.format().hex())


def _check_relay(relay: str) -> None:
    try:
        parts = urlsplit(relay)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise _unfit("the address of a relay cannot be read") from error
    if parts.scheme not in ("ws", "wss") or not host or parts.username is not None or parts.fragment:
        raise _unfit("a relay must have an address such as wss://relay.example.com")
    if parts.scheme == "ws" and not is_private_host(host):
        raise _unfit(f"the relay at {host} must be asked by wss://")


def _unfit(why: str) -> ConfigurationError:
    return ConfigurationError(f"the connection of the wallet is no address of Nostr Wallet Connect: {why}")


# --- events


def sign_event(
    kind: int, content: str, *, tags: tuple[tuple[str, ...], ...], now: int, secret: bytes, random: bytes
) -> Event:
    """Return an event of ours.

    Args:
        now: Unix seconds.
        secret: the private key that signs.
        random: 32 bytes, for the signature (BIP-340).
    """
    key = PrivateKey(secret)
    pubkey = key.public_key_xonly.format().hex()
    digest = _digest(pubkey, now, kind, tags, content)
    return Event(digest.hex(), pubkey, now, kind, tags, content, key.sign_schnorr(digest, random).hex())


def read_event(value: object, *, author: str) -> Event:
    """Return an event whose id and signature are right, and whose author is the one expected.

    Raises:
        MalformedInput: it is none.
    """
    match value:
        case {
            "id": str(event_id),
            "pubkey": str(pubkey),
            "created_at": created_at,
            "kind": kind,
            "tags": list(tags),
            "content": str(content),
            "sig": str(sig),
        } if type(created_at) is int and type(kind) is int and all(map(_is_tag, tags)):
            frozen = tuple(tuple(tag) for tag in tags)
        case _:
            raise MalformedInput("event", "has not the form of one")
    if pubkey != author:
        raise MalformedInput("event", "is not the wallet's")
    digest = _digest(pubkey, created_at, kind, frozen, content)
    if event_id != digest.hex() or not _HEX_64.fullmatch(sig):
        raise MalformedInput("event", "has another id than it says")
    if not PublicKeyXOnly(bytes.fromhex(pubkey)).verify(bytes.fromhex(sig), digest):
        raise MalformedInput("event", "has no signature of the wallet")
    return Event(event_id, pubkey, created_at, kind, frozen, content, sig)


def _is_tag(tag: object) -> bool:
    return isinstance(tag, list) and all(isinstance(each, str) for each in tag)


def read_message(message: str | bytes) -> list[Any]:
    """Return the JSON array that a relay sent.

    Raises:
        MalformedInput: it is none.
    """
    text = message if isinstance(message, str) else message.decode("utf-8", errors="replace")
    match parse_json(f'{{"message":{text}}}', field="message", max_bytes=MAX_MESSAGE + 16):
        case {"message": list(found), **others} if not others:
            return found
    raise MalformedInput("message", "must be a JSON array")


def _digest(pubkey: str, created_at: int, kind: int, tags: tuple[tuple[str, ...], ...], content: str) -> bytes:
    said = [0, pubkey, created_at, kind, tags, content]
    return hashlib.sha256(json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()).digest()


# --- NIP-44, version 2


def shared_x(secret: bytes, public_key: str) -> bytes:
    """Return the x coordinate of the point that both keys make, which is not hashed.

    Raises:
        MalformedInput: one of them is no key.
    """
    try:
        return PublicKey(b"\x02" + bytes.fromhex(public_key)).multiply(secret).format()[1:]
    except ValueError as error:
        raise MalformedInput("key", "is none") from error


def conversation_key(secret: bytes, public_key: str) -> bytes:
    """Return the key of all messages between two keys.

    Raises:
        MalformedInput: one of them is no key.
    """
    return hmac.digest(_SALT, shared_x(secret, public_key), hashlib.sha256)


def nip44_encrypt(text: str, key: bytes, nonce: bytes) -> str:
    """Encrypt a text of 1 byte or more.

    Args:
        key: of the conversation.
        nonce: 32 bytes that were never used before.
    """
    data = text.encode()
    if not data:
        raise MalformedInput("text", "is empty")
    size = len(data)
    prefix = size.to_bytes(2) if size < _LONG else bytes(2) + size.to_bytes(4)
    cipher_key, cipher_nonce, mac_key = _message_keys(key, nonce)
    hidden = _chacha20(cipher_key, cipher_nonce, prefix + data.ljust(_padded(size), b"\0"))
    mac = hmac.digest(mac_key, nonce + hidden, hashlib.sha256)
    return base64.b64encode(bytes([_VERSION]) + nonce + hidden + mac).decode()


def nip44_decrypt(payload: str, key: bytes) -> str:
    """Return the text of a message.

    Raises:
        MalformedInput: it is none, of another version, or not for this conversation.
    """
    if payload.startswith("#") or not 132 <= len(payload) <= MAX_MESSAGE:
        raise MalformedInput("message", "is not of version 2 of NIP-44, or has no size of one")
    try:
        data = base64.b64decode(payload, validate=True)
    except ValueError as error:
        raise MalformedInput("message", "is not base64") from error
    if len(data) < 99 or data[0] != _VERSION:
        raise MalformedInput("message", "is not of version 2 of NIP-44, or has no size of one")
    nonce, hidden, mac = data[1:33], data[33:-32], data[-32:]
    cipher_key, cipher_nonce, mac_key = _message_keys(key, nonce)
    if not hmac.compare_digest(mac, hmac.digest(mac_key, nonce + hidden, hashlib.sha256)):
        raise MalformedInput("message", "is not for us")
    return _unpadded(_chacha20(cipher_key, cipher_nonce, hidden))


def _unpadded(shown: bytes) -> str:
    size, begin = int.from_bytes(shown[:2]), 2
    if size == 0:
        size, begin = int.from_bytes(shown[2:6]), 6
        if size < _LONG:
            raise MalformedInput("message", "is padded wrongly")
    data = shown[begin : begin + size]
    if len(data) != size or len(shown) != begin + _padded(size):
        raise MalformedInput("message", "is padded wrongly")
    return _decoded(data)


def _padded(size: int) -> int:
    """Return the size that a text is padded to, so that relays learn little of it."""
    if size <= 32:
        return 32
    power = 1 << (size - 1).bit_length()
    chunk = 32 if power <= 256 else power // 8
    return chunk * ((size - 1) // chunk + 1)


def _message_keys(key: bytes, nonce: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the keys of one message: HKDF's second half (RFC 5869)."""
    made = last = b""
    for number in (1, 2, 3):
        last = hmac.digest(key, last + nonce + bytes([number]), hashlib.sha256)
        made += last
    return made[:32], made[32:44], made[44:76]


def _chacha20(key: bytes, nonce: bytes, data: bytes) -> bytes:
    return Cipher(ChaCha20(key, bytes(4) + nonce), mode=None).encryptor().update(data)


# --- NIP-04, for wallets that know no better: it hides the text; what keeps it from change is the event's signature


def nip04_encrypt(text: str, secret: bytes, public_key: str, iv: bytes) -> str:
    """Encrypt a text the old way; `iv` is 16 bytes that were never used before."""
    padder = PKCS7(128).padder()
    encryptor = Cipher(AES(shared_x(secret, public_key)), CBC(iv)).encryptor()
    hidden = encryptor.update(padder.update(text.encode()) + padder.finalize()) + encryptor.finalize()
    return f"{base64.b64encode(hidden).decode()}?iv={base64.b64encode(iv).decode()}"


def nip04_decrypt(payload: str, secret: bytes, public_key: str) -> str:
    """Return the text of an old message.

    Raises:
        MalformedInput: it is none.
    """
    hidden, _, iv = payload.partition("?iv=")
    try:
        decryptor = Cipher(AES(shared_x(secret, public_key)), CBC(base64.b64decode(iv, validate=True))).decryptor()
        shown = decryptor.update(base64.b64decode(hidden, validate=True)) + decryptor.finalize()
        unpadder = PKCS7(128).unpadder()
        data = unpadder.update(shown) + unpadder.finalize()
    except ValueError as error:
        raise MalformedInput("message", "is not for us") from error
    return _decoded(data)


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MalformedInput("message", "is no text") from error
