"""A gated request: its body read once and handed on, and what it asks to buy."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from functools import cached_property
from typing import Any
from urllib.parse import quote

from rail402.errors import MalformedInput
from rail402.protocol.base import sha256_hex
from rail402.protocol.dialect import Fields
from rail402.protocol.order import Order

__all__ = [
    "LOGIN",
    "ClientDisconnected",
    "GatedRequest",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "context_of",
    "read_body",
    "slot_of",
    "without_payment",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LOGIN = "authorization"
"""What begins the marks of logins in `context_of`."""

_CREDENTIAL = re.compile(r"(?:^|,)[ \t]*(?:payment|l402|lsat)[ \t]+[^,]*", re.IGNORECASE)
"""A payment in an Authorization line; what is left of the line without it is a login, whatever its form."""

_PATH_CHARS = "/:@!$&'()*+,;=~-._"
_MAX_URL = 8192


class ClientDisconnected(Exception):
    """The client went away before its request was complete."""


def without_payment(line: str) -> str:
    """Return what of an Authorization line is no payment: a login, or nothing."""
    return _CREDENTIAL.sub("", line).strip(" \t,")


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Read a request body of at most `limit` bytes.

    Raises:
        MalformedInput: `body_too_large`.
        ClientDisconnected: the client went away.
    """
    for declared in Fields.from_raw(scope["headers"]).all("content-length"):
        if not declared.isascii() or not declared.isdigit():
            raise MalformedInput("content-length", "must be a decimal number", code="malformed_request")
        if int(declared[:20]) > limit:
            raise MalformedInput("body", f"is larger than {limit} bytes", code="body_too_large")
    chunks, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise MalformedInput("body", f"is larger than {limit} bytes", code="body_too_large")
        chunks.append(chunk)
        more = message.get("more_body", False)
    return b"".join(chunks)


def context_of(fields: Fields) -> tuple[str, ...]:
    """Return digests of the cookies and of every Authorization that is no payment; each says which of them it is."""
    crumbs = [crumb.strip() for line in fields.all("cookie") for crumb in line.split(";")]
    logins = [without_payment(line) for line in fields.all("authorization")]
    marked = {("cookie", crumb) for crumb in crumbs if crumb} | {(LOGIN, login) for login in logins if login}
    return tuple(sorted(f"{kind}:{sha256_hex(text.encode())}" for kind, text in marked))


class GatedRequest:
    """One request to a paid route.

    Args:
        scope: the ASGI scope.
        receive: the server's receive.
        body: the whole body, already read.
        public_url: the origin that payers see.
        route: the route's id.

    Raises:
        MalformedInput: the URL is too long, or there are two different Idempotency-Keys.
    """

    def __init__(self, scope: Scope, receive: Receive, body: bytes, *, public_url: str, route: str) -> None:
        self.scope, self.body = scope, body
        self.fields = Fields.from_raw(scope["headers"])
        self._receive, self._replayed = receive, False
        self.order = Order(
            method=scope["method"], url=public_url + _target(scope), route=route, body_digest=sha256_hex(body)
        )
        self.slot = self._slot()

    async def receive(self) -> Message:
        """Hand the body on to the handler, then whatever the server says."""
        if not self._replayed:
            self._replayed = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        return await self._receive()

    def rewind(self) -> Receive:
        """Return a receive that hands the body on once more: for the price function, before the handler."""
        body = self.body

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        return receive

    @cached_property
    def context(self) -> tuple[str, ...]:
        """See `context_of`."""
        return context_of(self.fields)

    @property
    def preference(self) -> str:
        """The `Accept-Payment` of the request, as it came."""
        return ", ".join(self.fields.all("accept-payment"))

    def _slot(self) -> str:
        """Return where the response of one use of a pass is kept: the digest of the Idempotency-Key, or nothing."""
        keys = set(self.fields.all("idempotency-key"))
        if len(keys) > 1:
            raise MalformedInput("idempotency-key", "is there twice with different values", code="malformed_request")
        return "".join(slot_of(self.order, key) for key in keys)


def slot_of(order: Order, key: str) -> str:
    """Return where the response of one use of a pass is kept for the repeat of its request with the same key."""
    return "key:" + sha256_hex(f"{order.digest}:{key}".encode())


def _target(scope: Scope) -> str:
    """Return path and query exactly as they were sent."""
    raw = scope.get("raw_path") or quote(scope["path"], safe=_PATH_CHARS).encode()  # else "a?b" would be sold as "a"
    path = raw.partition(b"?")[0].decode("latin-1")
    query = scope.get("query_string", b"").decode("latin-1")
    target = f"{path}?{query}" if query else path
    if len(target) > _MAX_URL:
        raise MalformedInput("url", f"is longer than {_MAX_URL} characters", code="malformed_request")
    return target
