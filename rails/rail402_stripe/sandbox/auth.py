"""API keys: who may call what (docs.stripe.com/keys).

The sandbox takes test keys only, and all of them belong to its one account.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Literal

from rail402_stripe.sandbox.errors import ApiError

__all__ = ["KeyKind", "authenticate", "secret_key_required"]

KeyKind = Literal["secret", "publishable"]

_KEY = re.compile(r"(sk|rk|pk)_test_[\x21-\x7e]{0,240}", re.ASCII)
_LIVE = re.compile(r"(sk|pk|rk)_live_")


def authenticate(headers: Mapping[str, str], body_key: str | None) -> KeyKind:
    """Return the kind of the request's key: `Bearer`, the user of `Basic`, or, as Stripe.js does it, `key=pk_…`.

    Raises:
        ApiError: 401; there is none, or it is no test key. The key is not repeated.
    """
    key = _header_key(headers.get("authorization", ""))
    if key is None and body_key is not None and body_key.startswith("pk_"):
        key = body_key
    if key is None:
        raise _refused("You did not provide an API key, or not as `Authorization: Bearer sk_test_…`.")
    if _LIVE.match(key):
        raise _refused("This is a sandbox: it takes test keys only, and you sent a live key.")
    match = _KEY.fullmatch(key)
    if match is None:
        raise _refused("Invalid API Key provided.")
    return "publishable" if match[1] == "pk" else "secret"


def secret_key_required() -> ApiError:
    """Return the 401 for a publishable key on an endpoint that moves money."""
    return ApiError(
        401,
        "This API call cannot be made with a publishable API key. Please use a secret API key.",
        code="secret_key_required",
    )


def _header_key(header: str) -> str | None:
    scheme, _, credentials = header.partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    if scheme.lower() == "basic":
        try:
            user, _, _ = base64.b64decode(credentials.strip(), validate=True).decode("ascii").partition(":")
        except ValueError as error:  # binascii.Error and UnicodeDecodeError are ValueErrors
            raise _refused("Invalid API Key provided.") from error
        return user
    return None


def _refused(message: str) -> ApiError:
    return ApiError(401, message)
