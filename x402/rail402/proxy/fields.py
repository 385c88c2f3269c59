"""The header fields of a proxy: what of a request goes up, what of a response comes down, and what is added.

Upstream believes what it is told of payer, client and origin, so all of that is the proxy's own word: whatever a client
sends by these names is dropped, also with `_` or another sign for `-`, which CGI and WSGI do not tell apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import urlsplit

from rail402.dialects import DEFAULT_DIALECTS, OPTIONAL_DIALECTS
from rail402.protocol.charge import Charge
from rail402.protocol.dialect import Dialect
from rail402.server.addresses import TrustedProxies
from rail402.server.request import Scope, without_payment

__all__ = ["Downward", "Line", "Upward", "declared_length", "folded_name"]

Line = tuple[bytes, bytes]

_LOGIN: Final = b"authorization"
_LOCATIONS: Final = (b"location", b"content-location")

_OF_ONE_CONNECTION: Final = {
    *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization"),
    *(b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
}
"""RFC 9110, section 7.6.1; besides what `Connection` names."""

_OURS: Final = {
    *(b"content-length", b"transfer-encoding", b"expect", b"forwarded", b"host", b"x-real-ip", b"x-rewrite-url"),
    b"proxy",
}
_OURS_BEGIN: Final = (b"rail402-", b"x-forwarded-", b"x-original-")
"""What a client does not say upstream: what is the proxy's to say, what some servers take for the path, and `Proxy`,
which CGI makes `HTTP_PROXY` of (CVE-2016-5385)."""

_CLOSE: Final = (b"connection", b"close")
"""One request a connection: bytes after the end of a response (a body after HEAD, or one that is longer than its
Content-Length) would be the answer to the next request, which is somebody else's."""

_WITHOUT_BODY: Final = (204, 304)


class Upward:
    """Makes the fields of requests.

    Args:
        public_url: the origin that clients see.
        host: what upstream gets as `Host`, whatever the client sent.
        dialects: those of the gate. The fields that payments travel in stay here, whatever dialect is spoken.
        trusted: the proxies before this one, whose `X-Forwarded-For` is carried on.
    """

    def __init__(self, public_url: str, host: str, dialects: Iterable[Dialect], trusted: TrustedProxies) -> None:
        public = urlsplit(public_url)
        self._host, self._trusted = (b"host", host.encode()), trusted
        self._origin = [
            (b"x-forwarded-proto", public.scheme.encode()),
            (b"x-forwarded-host", public.netloc.encode()),
        ]
        known = (*dialects, *DEFAULT_DIALECTS, *OPTIONAL_DIALECTS)
        self._dropped = {_LOGIN, *_OURS} | {name.encode() for dialect in known for name in dialect.request_fields}

    def __call__(self, scope: Scope, charge: Charge | None) -> list[Line]:
        """Return the fields that a request goes up with; `charge` is what paid for it."""
        kept = []
        for name, value in _of_the_message(scope["headers"]):
            word = folded_name(name)
            login = without_payment(value.decode("latin-1")) if word == _LOGIN else ""
            if login:
                kept.append((name, login.encode("latin-1")))
            elif word not in self._dropped and not word.startswith(_OURS_BEGIN):
                kept.append((name, value))
        via = (b"via", scope["http_version"].encode() + b" rail402")
        return [self._host, _CLOSE, *kept, via, *_framing(scope), *self._client(scope), *self._origin, *_paid(charge)]

    def _client(self, scope: Scope) -> list[Line]:
        """Return who asks: the addresses that a trusted proxy told, and that of who connects."""
        peer = str((scope.get("client") or ("",))[0])
        told = [value for name, value in scope["headers"] if name.lower() == b"x-forwarded-for"]
        hops = [*(told if self._trusted.trusts(peer) else []), peer.encode()]
        return [(b"x-forwarded-for", b", ".join(filter(None, hops)))] if any(hops) else []


def folded_name(name: bytes) -> bytes:
    """Return the name of a field as the loosest server reads it: in lower case, with `-` for every other sign."""
    return re.sub(rb"[^a-z0-9]", b"-", name.lower())


def _of_the_message(lines: Iterable[Line]) -> Iterator[Line]:
    """Yield the fields of a message that are not about the connection it came on (RFC 9110, section 7.6.1)."""
    lines = list(lines)
    named = {
        word.strip().lower() for name, value in lines if name.lower() == b"connection" for word in value.split(b",")
    }
    return ((name, value) for name, value in lines if name.lower() not in _OF_ONE_CONNECTION | named)


def _framing(scope: Scope) -> list[Line]:
    """Return how the body's end is found: as the client said it, in words of our own."""
    if any(name.lower() == b"transfer-encoding" for name, _ in scope["headers"]):
        return [(b"transfer-encoding", b"chunked")]
    length = declared_length(scope["headers"])
    return [] if length is None else [(b"content-length", str(length).encode())]


def _paid(charge: Charge | None) -> list[Line]:
    """Return what upstream is told of the payment."""
    if charge is None:
        return []
    said = {"charge": charge.id, "rail": charge.offer.rail, "price": str(charge.price), "payer": charge.payer or ""}
    # Rails choose what a payer is called; what is not a plain word in a header is not told.
    return [(f"rail402-{name}".encode(), each.encode()) for name, each in said.items() if each and _is_plain(each)]


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def declared_length(lines: Iterable[Line]) -> int | None:
    """Return the Content-Length of a message; None where it has none, or says its end in another way."""
    words = {name.lower(): value for name, value in lines if name.lower() in (b"content-length", b"transfer-encoding")}
    length = words.get(b"content-length", b"")
    return int(length) if re.fullmatch(rb"[0-9]{1,18}", length) and b"transfer-encoding" not in words else None


class Downward:
    """Makes the fields of responses.

    Args:
        public_url: the origin that clients see.
        upstream: that of the upstream; redirects to it lead to the other one.
    """

    def __init__(self, public_url: str, upstream: str) -> None:
        self._public, self._upstream = public_url.encode(), upstream.encode()

    def __call__(self, lines: Iterable[Line], status: int) -> list[Line]:
        """Return the fields that a response comes down with.

        What it says of a payment is an echo: the gate speaks for itself.
        """
        lines = list(lines)
        unsized = status in _WITHOUT_BODY or declared_length(lines) is None
        return [
            (name, self._moved(value) if name.lower() in _LOCATIONS else value)
            for name, value in _of_the_message(lines)
            if not (unsized and name.lower() == b"content-length") and not name.lower().startswith(b"rail402-")
        ]

    def _moved(self, location: bytes) -> bytes:
        rest = location.removeprefix(self._upstream)
        return self._public + rest if rest != location and rest[:1] in (b"", b"/", b"?") else location
