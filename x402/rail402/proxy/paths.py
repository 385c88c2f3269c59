"""Which path a request means, and what it costs: the table of a proxy's routes.

The server behind a proxy reads a path by rules of its own: it may decode twice, join slashes, drop `;parameters`, fold
case. What is sold must be what it serves, so a path goes up as it was sent, and is refused where it can be read in two
ways: anywhere, if no sane client writes it so; else where a looser reading of it costs something other than it says.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import Final
from urllib.parse import unquote_to_bytes

from rail402.errors import ConfigurationError, GateNotInstalled
from rail402.proxy.problems import Problem
from rail402.server.paywall import CHARGE_KEY, App
from rail402.server.request import Receive, Scope, Send
from rail402.server.routes import read_pattern

__all__ = ["PricedRoute", "RouteTable", "plain_path"]

_RAW: Final = re.compile(rb"/(?:[^%#?\\\x00-\x20\x7f-\xff]|%[0-9A-Fa-f]{2})*")
_SEPARATOR: Final = re.compile(rb"%2f|%5c", re.IGNORECASE)
_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}")

_QUERY: Final = re.compile("[?#]")
_PARAMETERS: Final = re.compile(";|::")  # with two colons, NTFS names a stream of a file

_WILDCARD: Final = re.compile(r"(\*|\{[A-Za-z_][A-Za-z0-9_]*(?::path)?\})")
_NOT_IN_PATTERNS: Final = re.compile(r"[?#%;\\{}\s]|//|\.(?:/|$)")

_METHOD: Final = re.compile(r"[A-Z][A-Z_-]*")
_NEVER_FORWARDED: Final = ("CONNECT", "TRACE")
_OVERRIDES: Final = frozenset({"x-http-method", "x-http-method-override", "x-method-override"})


def plain_path(raw: bytes) -> str:
    """Return a request's path, decoded.

    Args:
        raw: as it was sent, without the query.

    Raises:
        Problem: 400, where servers do not agree on what it says.
    """
    if not _RAW.fullmatch(raw):
        raise _ambiguous("is not one of RFC 3986 that begins with a slash")
    if _SEPARATOR.search(raw):
        raise _ambiguous("has an encoded slash or backslash")
    try:
        path = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise _ambiguous("is not UTF-8") from error
    if any(unicodedata.category(char) == "Cc" for char in path):
        raise _ambiguous("has a control character")
    if _ESCAPE.search(path):
        raise _ambiguous("is encoded twice")
    folded = _folded(path)
    if "//" in path or folded.count("/") != path.count("/") or "\\" in folded:
        raise _ambiguous("has an empty segment, or what may be another slash")
    if any(segment.partition(";")[0] in (".", "..") for segment in folded.split("/")):
        raise _ambiguous("has a dot segment")
    return path


def _ambiguous(why: str) -> Problem:
    return Problem(400, "ambiguous_path", f"the path {why}; write it as plainly as it can be written")


def _folded(path: str) -> str:
    """Return a path as a server reads it that knows neither case nor kinds of letters, nor letters without width."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())
    return "".join(char for char in plain if unicodedata.category(char) != "Cf")


def _loose_readings(path: str) -> Iterable[str]:
    """Return what a path may be elsewhere: without an encoded query, `;parameters`, or dots and blanks after a name;
    and all that without a last slash."""
    segments = _QUERY.split(_folded(path))[0].split("/")
    reading = "/".join(_PARAMETERS.split(segment)[0].rstrip(". ") for segment in segments)
    return {reading, reading.rstrip("/") or "/"}


class PricedRoute:
    """A route in front of which the gate puts its paywall.

    Attributes:
        path, methods, endpoint: what the gate looks at; no methods: all of them.
        handle: what is called with a request.
    """

    def __init__(self, path: str, methods: frozenset[str] | None, app: App) -> None:
        self.path, self.methods, self._app = path, methods, app
        self.endpoint = self.handle = self._admitted

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on that has passed the gate.

        Raises:
            GateNotInstalled: it has not.
        """
        if CHARGE_KEY not in scope:
            raise GateNotInstalled(f"{self.path} is for sale, and no gate protects it")
        await self._app(scope, receive, send)


class _Pattern:
    """A line of the table; free where it has no route."""

    def __init__(self, text: str, app: App | None) -> None:
        method, path = read_pattern(text, free=app is None)
        if _NOT_IN_PATTERNS.search(_WILDCARD.sub("x", path)):
            raise ConfigurationError(
                f"{text!r}: write the path decoded, with *, {{name}} and {{name:path}}; it has no query, no blank, no"
                " ; % # or backslash, no empty segment and none that ends with a dot"
            )
        self.methods, self.names_options = _methods(method), method in ("*", "OPTIONS")
        self.route = None if app is None else PricedRoute(path, self.methods, app)
        self.exact, self.loose = _regex(path), _regex(_folded(path).rstrip("/") or "/")

    def takes(self, method: str) -> bool:
        """Whether it is for that method."""
        return self.methods is None or method in self.methods


def _methods(method: str) -> frozenset[str] | None:
    """Return the methods that a pattern of this one is for: who asks for less than it gives is asked for the same."""
    with_it = {"OPTIONS", "HEAD"} if method == "GET" else {"OPTIONS"}
    return None if method == "*" else frozenset({method, *with_it})


def _regex(path: str) -> re.Pattern[str]:
    parts = _WILDCARD.split(path)  # every second one is a wildcard
    return re.compile("".join(_piece(part) if number % 2 else re.escape(part) for number, part in enumerate(parts)))


def _piece(wildcard: str) -> str:
    return ".*" if wildcard == "*" or wildcard.endswith(":path}") else "[^/]+"


class RouteTable:
    """What every request costs.

    Args:
        priced: the patterns that have a price, in order.
        free: the patterns that have none; they come before those that do.
        unmatched: whether what no pattern is for is forwarded.
        app: what a request is handed to that may pass.

    Attributes:
        routes: what the gate puts its paywalls in front of.

    Raises:
        ConfigurationError: a pattern is none, or cannot match.
    """

    def __init__(self, priced: Iterable[str], free: Iterable[str], app: App, *, unmatched: bool) -> None:
        self._patterns = [_Pattern(text, None) for text in free] + [_Pattern(text, app) for text in priced]
        self._unmatched = unmatched
        self.routes = [pattern.route for pattern in self._patterns if pattern.route is not None]
        for route in self.routes:
            self._check_sold(route)

    def choose(self, method: str, path: str, fields: Collection[str]) -> PricedRoute | None:
        """Return the route of a request; None where it is free.

        Args:
            path: what `plain_path` says.
            fields: the names of the request's header fields, lower case, with `-` for `_`.

        Raises:
            Problem: it is not forwarded, and why.
        """
        if not _METHOD.fullmatch(method) or method in _NEVER_FORWARDED:
            raise Problem(501, "method_not_forwarded", "this method is not forwarded")
        matching = [pattern for pattern in self._patterns if pattern.exact.fullmatch(path)]
        found = self._first(method, matching)
        alike = list(matching)
        for reading in _loose_readings(path):
            read_so = [pattern for pattern in self._patterns if pattern.loose.fullmatch(reading)]
            like = self._first(method, read_so)
            if like is not found and like is not None and like.route is not None:
                raise _ambiguous("may be read as one that has another price")
            alike += read_so
        if found is None:
            if self._unmatched:
                return None
            raise Problem(404, "not_served", "nothing is served here")
        if not found.takes(method):
            allowed = {each for pattern in matching for each in pattern.methods or ()}
            allow = {"Allow": ", ".join(sorted(allowed))}
            raise Problem(405, "method_not_served", "this path is sold, and not by this method", allow)
        if any(pattern.route for pattern in alike) and not _OVERRIDES.isdisjoint(fields):
            raise Problem(400, "method_override", "say the method that you mean: what this path costs depends on it")
        return found.route

    def _check_sold(self, route: PricedRoute) -> None:
        for pattern in self._patterns:
            same = pattern.methods is None or (route.methods is not None and route.methods <= pattern.methods)
            if pattern.route is None and same and pattern.exact.fullmatch(route.path):
                raise ConfigurationError(f"nothing of {route.path} is sold: a free pattern covers it, and comes before")

    def _first(self, method: str, matching: Sequence[_Pattern]) -> _Pattern | None:
        """Return the first pattern for a method; where there is none, the first that sells by another.

        `OPTIONS` is no more free than any other method of the path is, unless a pattern names it.
        """
        if method == "OPTIONS":
            named = [pattern for pattern in matching if pattern.names_options]
            matching = named or sorted(matching, key=lambda pattern: pattern.route is None)
        sold = (pattern for pattern in matching if pattern.route is not None)
        return next((pattern for pattern in matching if pattern.takes(method)), None) or next(sold, None)
