"""Which parts of what peers send are secrets, so that showing them is a decision and not an accident."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import SecretStr

from rail402.dialects import macaroon
from rail402.errors import MalformedInput, PaymentRejected
from rail402.plugins import Explained
from rail402.protocol.binding import parse_token

__all__ = ["hidden", "offer_token", "only_public", "read_macaroon", "revealed"]

_SECRET: Final = {
    *("signature", "preimage", "spt", "macaroon", "token", "mac", "opaque"),
    *("customer", "proof", "receipt", "client_secret", "clientSecret", "payment_secret", "paymentSecret"),
    *("credential", "password"),
}
"""Members that hold a secret wherever they stand."""

_PUBLIC: Final = {
    *("paymentIntent", "checkoutSession"),
    *("from", "to", "value", "validAfter", "validBefore", "nonce", "type"),
    *("hash", "externalId", "authorization", "invoice", "paymentHash", "network", "scheme"),
    *("asset", "amount"),
}
"""Members of a proof that say nothing by which somebody else could pay or be served; all others are hidden."""

_is_hash = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII).fullmatch

_USUAL_IDENTIFIER: Final = 66  # L402: a version of 2 bytes, the payment hash, the token's id


def hidden(value: Any) -> Any:
    """Return a JSON value with every member that is known to be secret as a `SecretStr`."""
    if isinstance(value, Mapping):
        return {name: _all_hidden(item) if name in _SECRET else hidden(item) for name, item in value.items()}
    return [hidden(item) for item in value] if isinstance(value, list) else value


def only_public(payload: Any, name: str = "") -> Any:
    """Return a proof of payment with everything as a `SecretStr` that is not known to be public."""
    if isinstance(payload, Mapping):
        return {name: only_public(item, name) for name, item in payload.items()}
    if isinstance(payload, list):
        return [only_public(item, name) for item in payload]
    if name == "transaction" and isinstance(payload, str) and _is_hash(payload):  # and no signed transaction
        return payload
    return payload if name in _PUBLIC else _all_hidden(payload)


def revealed(value: Any, *, secrets: bool) -> Any:
    """Return a JSON value whose secrets are shown, or else each replaced by the beginning of its SHA-256."""
    if isinstance(value, SecretStr):
        text = value.get_secret_value()
        return text if secrets else f"sha256:{_digest(text)}… ({len(text)} characters, hidden)"
    if isinstance(value, Mapping):
        return {name: revealed(item, secrets=secrets) for name, item in value.items()}
    return [revealed(item, secrets=secrets) for item in value] if isinstance(value, (list, tuple)) else value


def offer_token(text: str) -> Explained | None:
    """Return what one of our offer tokens says, None for any other text."""
    try:
        parts = parse_token(text)
    except PaymentRejected:
        return None
    facts = {"kid": parts.kid, "expires_at": parts.expires_at, "nonce": SecretStr(parts.nonce)}
    note = "it cannot be checked without the secret of the server that made it, and without its offer"
    return Explained("offer token of rail402", facts | {"mac": SecretStr(parts.mac.hex())}, [note])


def read_macaroon(text: str) -> Explained:
    """Return what a macaroon in base64 (either alphabet) or in hexadecimal says.

    Raises:
        MalformedInput: it is none.
    """
    read = macaroon.parse(_macaroon_bytes(text))
    facts: dict[str, Any] = {"location": _text(read.location), "identifier": read.identifier.hex()}
    if len(read.identifier) == _USUAL_IDENTIFIER:
        facts["identifier"] = {
            "version": int.from_bytes(read.identifier[:2], "big"),
            "payment_hash": read.identifier[2:34].hex(),
            "token_id": read.identifier[34:].hex(),
        }
    facts["caveats"] = [_caveat(caveat) for caveat in read.caveats]
    facts["signature"] = SecretStr(read.signature.hex())
    return Explained("macaroon", facts, ["its signature can be checked only by the server that made it"])


def _macaroon_bytes(text: str) -> bytes:
    try:
        if text.startswith("02") and len(text) % 2 == 0:
            return bytes.fromhex(text)
    except ValueError:
        pass  # then it is base64 that happens to begin so
    if len(text) > 2 * macaroon.MAX_BYTES:
        raise MalformedInput("macaroon", f"is longer than {macaroon.MAX_BYTES} bytes")
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError as error:
        raise MalformedInput("macaroon", "is neither base64 nor hexadecimal") from error


def _caveat(caveat: bytes) -> Any:
    condition, equals, value = _text(caveat).partition("=")
    token = offer_token(value)
    if token is not None:
        return {condition: token.facts}
    return {condition: SecretStr(value)} if condition in _SECRET else condition + equals + value


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return f"0x{data.hex()}"


def _all_hidden(value: Any) -> Any:
    """Return a value with all of its leaves hidden; of an offer token only what is secret in it."""
    if isinstance(value, Mapping):
        return {name: _all_hidden(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_all_hidden(item) for item in value]
    if value is None or isinstance(value, (bool, SecretStr)):
        return value
    token = offer_token(value) if isinstance(value, str) else None
    return SecretStr(str(value)) if token is None else token.facts


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]
