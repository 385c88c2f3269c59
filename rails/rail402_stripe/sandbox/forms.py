"""Reads Stripe's request parameters: form encoding with bracketed names, `metadata[order]=7&expand[0]=charge`. Pure.

Every way in which the bytes can be wrong is a 400; nothing here raises anything but `ApiError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote_plus

from rail402_stripe.sandbox.errors import ApiError, invalid, missing_param, unknown_param

__all__ = ["Params", "parse_form", "reject_body_type"]

_MAX_PAIRS = 500
_MAX_DEPTH = 5
_MAX_METADATA_KEYS, _MAX_METADATA_NAME, _MAX_METADATA_VALUE = 50, 40, 500
_MAX_TEXT = 5000

_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)

_Node = str | dict[str, "_Node"]


def parse_form(encoded: bytes) -> Params:
    """Decode a form-encoded body or query string.

    Raises:
        ApiError: 400; the bytes are not UTF-8, an escape is broken, a name is malformed or given twice, or there are
            too
            many of them.
    """
    pairs = [pair for pair in encoded.split(b"&") if pair]
    if len(pairs) > _MAX_PAIRS:
        raise invalid(None, f"A request may carry at most {_MAX_PAIRS} parameters.")
    root: dict[str, _Node] = {}
    for pair in pairs:
        name, _, value = pair.partition(b"=")
        _insert(root, _path(_decode(name)), _decode(value))
    return Params(root)


def _decode(encoded: bytes) -> str:
    try:
        text = encoded.decode("ascii")
        if _BROKEN_ESCAPE.search(text):
            raise invalid(None, "Invalid request: a percent escape is broken.")
        return unquote_plus(text, errors="strict")
    except UnicodeDecodeError as error:
        raise invalid(None, "Invalid request: parameters must be percent-encoded UTF-8.") from error


def _path(name: str) -> list[str]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise invalid(None, "Invalid request: a parameter's name is malformed.")
    steps = [match[1], *re.findall(r"\[([^\[\]]*)\]", match[2])]
    if len(steps) > _MAX_DEPTH:
        raise invalid(match[1], f"Parameters may be nested {_MAX_DEPTH} deep at most.")
    return steps


def _insert(root: dict[str, _Node], path: list[str], value: str) -> None:
    node = root
    for step in path[:-1]:
        child = node.setdefault(step or str(len(node)), {})
        if isinstance(child, str):
            raise invalid(path[0], f"Invalid request: {path[0]} is given both as a value and as an object.")
        node = child
    last = path[-1] or str(len(node))
    if last in node:
        raise invalid(path[0], f"Invalid request: {path[0]} is given twice.")
    node[last] = value


class Params:
    """The parameters of one request, or one nested object of them. Reading is by type, errors name the parameter."""

    def __init__(self, values: dict[str, _Node], prefix: str = "") -> None:
        self._values = values
        self._prefix = prefix

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def label(self, name: str) -> str:
        """Return the parameter's full name: `usage_limits[currency]`."""
        return f"{self._prefix}[{name}]" if self._prefix else name

    def only(self, allowed: Iterable[str]) -> None:
        """Refuse every parameter that is not in `allowed`."""
        unknown = sorted(self._values.keys() - set(allowed))
        if unknown:
            raise unknown_param(self.label(unknown[0])[:100])

    def text(self, name: str, *, max_length: int = _MAX_TEXT) -> str | None:
        """Return a string, or None if it was not sent."""
        node = self._values.get(name)
        if node is None:
            return None
        if isinstance(node, dict):
            raise invalid(self.label(name), f"Invalid string: {self.label(name)} is an object.")
        if not node:
            message = f"You passed an empty string for '{self.label(name)}', which cannot be unset."
            raise invalid(self.label(name), message, "parameter_invalid_empty")
        if len(node) > max_length:
            raise invalid(self.label(name), f"Invalid string: must be at most {max_length} characters.")
        return node

    def required_text(self, name: str) -> str:
        """Return a string that must have been sent."""
        value = self.text(name)
        if value is None:
            raise missing_param(self.label(name))
        return value

    def choice(self, name: str, allowed: tuple[str, ...]) -> str | None:
        """Return one of `allowed`, or None if it was not sent."""
        value = self.text(name)
        if value is not None and value not in allowed:
            raise invalid(self.label(name), f"Invalid {self.label(name)}: must be one of {', '.join(allowed)}.")
        return value

    def integer(self, name: str, *, least: int = 0) -> int | None:
        """Return an integer of at least `least`, or None if it was not sent."""
        value = self.text(name)
        if value is None:
            return None
        if not _INTEGER.fullmatch(value):
            raise invalid(self.label(name), f"Invalid integer: {value[:40]}", "parameter_invalid_integer")
        if int(value) < least:
            message = f"This value must be greater than or equal to {least}."
            raise invalid(self.label(name), message, "parameter_invalid_integer")
        return int(value)

    def boolean(self, name: str) -> bool:
        """Return a truth value; False if it was not sent."""
        value = self.choice(name, ("true", "false"))
        return value == "true"

    def child(self, name: str) -> Params:
        """Return a nested object; an empty one if it was not sent."""
        node = self._values.get(name, {})
        if isinstance(node, str):
            raise invalid(self.label(name), f"Invalid object: {self.label(name)} is a value.")
        return Params(node, self.label(name))

    def children(self, name: str) -> list[Params]:
        """Return an array of objects, in the order of their indexes."""
        array = self.child(name)
        return [array.child(index) for index in array._indexes()]

    def texts(self, name: str) -> list[str]:
        """Return an array of strings, in the order of their indexes."""
        array = self.child(name)
        return [array.required_text(index) for index in array._indexes()]

    def metadata(self) -> dict[str, str]:
        """Return the metadata; empty values mean "unset", which for a new object is the same as absent."""
        given = self.child("metadata")
        found: dict[str, str] = {}
        for name, value in given._values.items():
            if isinstance(value, dict) or len(value) > _MAX_METADATA_VALUE or len(name) > _MAX_METADATA_NAME:
                message = (
                    f"Metadata names have at most {_MAX_METADATA_NAME} characters, "
                    f"values are strings of at most {_MAX_METADATA_VALUE}."
                )
                raise invalid(given.label(name)[:100], message)
            if value:
                found[name] = value
        if len(found) > _MAX_METADATA_KEYS:
            raise invalid("metadata", f"Metadata can have up to {_MAX_METADATA_KEYS} keys.")
        return found

    def canonical(self) -> object:
        """Return the values for comparing two requests: independent of the order they were sent in."""
        return self._values

    def _indexes(self) -> list[str]:
        if not all(_INTEGER.fullmatch(index) and not index.startswith("-") for index in self._values):
            raise invalid(self._prefix, "Invalid array")
        return sorted(self._values, key=int)


def reject_body_type(content_type: str) -> None:
    """Refuse a body that is not form-encoded; a missing type passes, as it does at Stripe.

    Raises:
        ApiError: 400.
    """
    if content_type.partition(";")[0].strip().lower() not in ("", "application/x-www-form-urlencoded"):
        raise ApiError(400, "The request body must be application/x-www-form-urlencoded.")
