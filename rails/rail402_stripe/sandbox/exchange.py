"""One HTTP exchange with the sandbox, free of any server or client library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rail402_stripe.sandbox.errors import JsonObject

__all__ = ["MAX_BODY", "AnswerLost", "Request", "Response", "joined_headers", "json_response"]

MAX_BODY = 2**20
"""Bytes of a request body at most."""


class AnswerLost(Exception):
    """The client never gets an answer to this request: an ordered fault."""


@dataclass(frozen=True, slots=True)
class Request:
    """What came in. `headers` has lower-case names; `body` longer than `MAX_BODY` may be cut anywhere behind it."""

    method: str
    path: str
    query: bytes
    headers: Mapping[str, str] = field(repr=False)  # the key is in it
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Response:
    """What goes out."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)


def joined_headers(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return raw headers as a mapping with lower-case names; repeated ones are joined by a comma."""
    joined: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def json_response(status: int, body: JsonObject | str) -> Response:
    """Return a JSON answer; a string is taken as JSON already."""
    text = body if isinstance(body, str) else json.dumps(body)
    return Response(status, (("content-type", "application/json"),), text.encode())
