"""The extension `payment-identifier` of x402: the payer names its payment, so that it can send it again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from rail402.errors import MalformedInput, PaymentRejected
from rail402.protocol.base import Json, sha256_hex

__all__ = ["NAME", "declaration", "identifier_in", "with_identifier"]

NAME: Final = "payment-identifier"

_FORM: Final = "^[a-zA-Z0-9_-]+$"
_is_identifier = re.compile(r"[a-zA-Z0-9_-]{16,128}", re.ASCII).fullmatch


def declaration(*, required: bool) -> Json:
    """Return the extension as a challenge declares it."""
    identifier = {"type": "string", "minLength": 16, "maxLength": 128, "pattern": _FORM}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"required": {"type": "boolean"}, "id": identifier},
        "required": ["required"],
    }
    return {NAME: {"info": {"required": required}, "schema": schema}}


def identifier_in(message: Json, *, required: bool) -> str | None:
    """Return the id in the `extensions` of a PaymentPayload; None where there is none.

    Raises:
        MalformedInput: it has not the form of one, or is missing where it is required.
        PaymentRejected: `extension_mismatch`: what we declared came back altered.
    """
    extensions = message.get("extensions")
    extension = extensions.get(NAME) if isinstance(extensions, Mapping) else None
    identifier = None
    if extension is not None:
        info = extension.get("info") if isinstance(extension, Mapping) else None
        if not isinstance(info, Mapping) or info.get("required") is not required:
            raise PaymentRejected(f"the extension {NAME} came back altered", code="extension_mismatch")
        identifier = info.get("id")
    if identifier is None and required:
        raise MalformedInput(f"extensions.{NAME}.info.id", "is required here: 16 to 128 letters, digits, - and _")
    if identifier is not None and not (isinstance(identifier, str) and _is_identifier(identifier)):
        raise MalformedInput(f"extensions.{NAME}.info.id", "must be 16 to 128 letters, digits, - and _")
    return identifier


def with_identifier(extensions: Json, proof: Json) -> Json:
    """Add the id that a challenge asks for; the same proof always has the same one."""
    extension = extensions.get(NAME)
    info: Any = extension.get("info") if isinstance(extension, Mapping) else None
    if extension is None or not isinstance(info, Mapping):
        return extensions
    identifier = "pay_" + sha256_hex(json.dumps(dict(proof), sort_keys=True).encode())[:32]
    return {**extensions, NAME: {**extension, "info": {"id": identifier, **info}}}
