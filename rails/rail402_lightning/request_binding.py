"""What binds an invoice to one request: the profiles of x402's `exact` scheme on `lnbtc`.

The server puts the hash of the request into the invoice as its description hash, which the node signs. The client
computes the same hash from the request that it is about to pay for, so that an invoice made for another request, or by
another server for its own, does not pass for this one's. `http:1` is for HTTP requests, `mcp:1` for MCP's `tools/call`.

Everything here raises `MalformedInput` for a request that the profiles cannot say: that is the scheme's
`invalid_exact_lnbtc_request_binding`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from rail402.errors import MalformedInput
from rail402.protocol.base import Json, canonical_json
from rail402.protocol.order import Order

__all__ = [
    "MCP_PROFILE",
    "PROFILE",
    "UNBOUND",
    "bound_headers",
    "bound_request",
    "bound_tool_call",
    "check_parameters",
    "request_hash",
]

PROFILE: Final = "http:1"
MCP_PROFILE: Final = "mcp:1"

UNBOUND: Final = b"rail402: any order of this price"
"""What an invoice is made for that is bound to no request; x402 does not offer it."""

_DOMAIN: Final = "x402:exact:lnbtc:bolt11:"
_NO_HEADERS: Final[Mapping[str, str | None]] = MappingProxyType({})
_PAYMENT_HEADER: Final = "payment-signature"
_UNBOUND_METADATA: Final = frozenset({"x402/payment", "progressToken"})

_is_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII).fullmatch
_is_header_name = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+", re.ASCII).fullmatch
_is_header_value = re.compile(r"[\t\x20-\x7e]*", re.ASCII).fullmatch
# What no client sends unescaped is refused; brackets and bars in a query are not, although RFC 3986 wants them escaped.
_URL: Final = re.compile(
    r"https?://(?P<host>\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?:[/?](?:%[0-9A-Fa-f]{2}|[!$&-;=?-\[\]^-~])*)?",
    re.ASCII,
)
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?:%[0-9A-Fa-f]{2}|[!$&-;=?-\[\]_a-z~])+", re.ASCII)


def bound_request(order: Order, headers: Mapping[str, str | None] = _NO_HEADERS) -> bytes:
    """Return the text whose hash stands for an HTTP request: canonical JSON (RFC 8785).

    Args:
        headers: the bound header fields; see `bound_headers`.

    Raises:
        MalformedInput: its method or URL is not one.
    """
    if not _is_token(order.method):
        raise MalformedInput("method", "is not a method of HTTP")
    _check_url(order.url, "url")
    return canonical_json(
        {
            "domain": _DOMAIN + PROFILE,
            "method": order.method,
            "url": order.url,
            "bodyHash": order.body_digest,
            "headers": [{"name": name, "valueHash": _header_hash(headers[name])} for name in sorted(headers)],
        }
    )


def request_hash(order: Order, headers: Mapping[str, str | None] = _NO_HEADERS) -> bytes:
    """Return the SHA-256 of the bound request, 32 bytes: the scheme's `requestHash`. Raises: see `bound_request`."""
    return hashlib.sha256(bound_request(order, headers)).digest()


def bound_headers(names: Sequence[str], lines: Iterable[tuple[str, str]]) -> dict[str, str | None]:
    """Return the fields called `names` as they are bound: by name, their lines trimmed and joined by `, ` as RFC 9421
    does, and None where the request has no such field.

    Raises:
        MalformedInput: the names are no list for `http:1`, or a value is not printable ASCII.
    """
    check_parameters(PROFILE, {"headers": list(names)})
    found: dict[str, list[str]] = {}
    for name, value in lines:
        if name.lower() in names and not _is_header_value(value):
            raise MalformedInput(name.lower(), "is not printable ASCII")
        found.setdefault(name.lower(), []).append(value.strip(" \t"))
    return {name: ", ".join(found[name]) if name in found else None for name in names}


def bound_tool_call(server: str, params: Json, metadata: Sequence[str] = ()) -> bytes:
    """Return the text whose hash stands for a `tools/call` of MCP: canonical JSON (RFC 8785).

    Args:
        server: the MCP server's URI, as both sides have configured it.
        params: the call's `params`.
        metadata: the names of the members of `params._meta` that are bound.

    Raises:
        MalformedInput: the call is not one, or holds what canonical JSON cannot say.
    """
    check_parameters(MCP_PROFILE, {"server": server, "metadata": list(metadata)})
    name, arguments, meta = params.get("name"), params.get("arguments", {}), params.get("_meta", {})
    if not isinstance(name, str) or not name:
        raise MalformedInput("params.name", "must be a text")
    if not isinstance(arguments, Mapping) or not isinstance(meta, Mapping):
        raise MalformedInput("params", "its arguments and _meta must be objects")
    try:
        said = {each: canonical_json(meta[each]) if each in meta else None for each in metadata}
        bound = [{"name": each, "valueHash": _value_hash(said[each])} for each in metadata]
        call = {"server": server, "method": "tools/call", "name": name, "arguments": arguments, "metadata": bound}
        return canonical_json({"domain": _DOMAIN + MCP_PROFILE, **call})
    except (ValueError, RecursionError) as error:
        raise MalformedInput("params", "holds a number or a text that canonical JSON cannot say") from error


def check_parameters(profile: object, parameters: object) -> None:
    """Check what a challenge says of its binding: `requestBindingProfile` and `requestBindingParams`.

    Raises:
        MalformedInput: the profile is not known, or these are not its parameters.
    """
    members, check = _PROFILES.get(profile if isinstance(profile, str) else "", (frozenset(), None))
    if check is None:
        raise MalformedInput("requestBindingProfile", f"must be one of {', '.join(_PROFILES)}")
    if not isinstance(parameters, Mapping) or set(parameters) != members:
        raise MalformedInput("requestBindingParams", f"must have {' and '.join(sorted(members))}, and nothing else")
    check(parameters)


def _check_http(parameters: Json) -> None:
    names = _names(parameters["headers"], lambda name: name.encode())
    if not all(_is_header_name(name) for name in names) or _PAYMENT_HEADER in names:
        raise MalformedInput("requestBindingParams.headers", f"must be lower-case names, {_PAYMENT_HEADER} not among")


def _check_mcp(parameters: Json) -> None:
    server, names = parameters["server"], _names(parameters["metadata"], lambda name: name.encode("utf-16-be"))
    if not isinstance(server, str) or not _URI.fullmatch(server):
        raise MalformedInput("requestBindingParams.server", "must be an absolute URI without a fragment")
    if server.lower().startswith(("http:", "https:")):
        _check_url(server, "requestBindingParams.server")
    elif "@" in server.partition("//")[2].partition("/")[0]:
        raise MalformedInput("requestBindingParams.server", "must not name a user")
    if not all(names) or not _UNBOUND_METADATA.isdisjoint(names):
        raise MalformedInput("requestBindingParams.metadata", f"must be names other than {sorted(_UNBOUND_METADATA)}")


_PROFILES: Final[Mapping[str, tuple[frozenset[str], Callable[[Json], None]]]] = MappingProxyType(
    {PROFILE: (frozenset({"headers"}), _check_http), MCP_PROFILE: (frozenset({"server", "metadata"}), _check_mcp)}
)


def _names(value: object, order: Callable[[str], bytes]) -> list[str]:
    """Return a list of different texts that are in order."""
    try:
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            keys = [order(name) for name in value]
            if all(one < other for one, other in itertools.pairwise(keys)):
                return value
    except UnicodeEncodeError:  # half a surrogate pair
        pass
    raise MalformedInput("requestBindingParams", "must hold a list of different names in their order")


def _check_url(url: str, field: str) -> None:
    match = _URL.fullmatch(url)
    if match is None or not 0 < int(match["port"] or 1) < 65_536:
        raise MalformedInput(field, "must be an absolute http or https URL in ASCII, without user name and fragment")
    if match["host"].startswith("["):
        try:
            ipaddress.IPv6Address(match["host"][1:-1])
        except ValueError as error:
            raise MalformedInput(field, "its host is not an IPv6 address") from error


def _header_hash(value: str | None) -> str:
    return _value_hash(None if value is None else value.encode("ascii"))


def _value_hash(said: bytes | None) -> str:
    """Tell an absent value from an empty one."""
    return hashlib.sha256(b"\0" if said is None else b"\1" + said).hexdigest()
