"""Whose request it is, for limits: the address of the peer, or what a proxy of the publisher's own says it is.

An address tells clients apart and no more: it never decides about money. What a header says counts only where the peer
is a proxy that the publisher trusts, and then only as far as trusted proxies have written it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from rail402.errors import ConfigurationError, MalformedInput

__all__ = ["TrustedProxies"]

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NOBODY: Final = "local"
"""Who has no address: all that comes over a Unix socket counts as one client."""

_MAX_BYTES: Final = 4096
_MAX_HOPS: Final = 32

_PORT: Final = r"(?::[0-9]{1,5})?"
_HOP: Final = re.compile(
    rf"\[(?P<v6>[0-9A-Fa-f:.]+)\]{_PORT}|(?P<v4>[0-9.]+){_PORT}|(?P<bare>[0-9A-Fa-f:.]+)", re.ASCII
)

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 (of RFC 9110: a word)
_PAIR: Final = re.compile(
    rf'[ \t]*(?P<name>{_TOKEN})=(?:(?P<word>{_TOKEN})|"(?P<quoted>(?:[^"\\]|\\.)*)")[ \t]*(?P<end>[;,]|$)', re.ASCII
)


class TrustedProxies:
    """Tells clients apart behind the publisher's own proxies.

    Args:
        networks: where these proxies are, such as `10.0.0.0/8`. None: every peer counts by its own address.

    Raises:
        ConfigurationError: one is no network.
    """

    def __init__(self, networks: Iterable[str] = ()) -> None:
        try:
            self._networks: tuple[_Network, ...] = tuple(ipaddress.ip_network(network) for network in networks)
        except ValueError as error:
            raise ConfigurationError(f'trusted_proxies: {error}; write networks, such as "10.0.0.0/8"') from error

    def client_of(self, scope: Mapping[str, Any]) -> str:
        """Return who asks: an IPv4 address, or the /64 of an IPv6 address, since one client has all of it.

        Behind a trusted proxy it is the right-most hop of `X-Forwarded-For` or `Forwarded` (RFC 7239) that is not a
        trusted proxy itself. Where that hop cannot be read, or both fields are there and do not agree, it is the peer.

        Args:
            scope: the ASGI scope.
        """
        peer = str((scope.get("client") or ("",))[0])
        if not peer:
            return _NOBODY
        if self._networks and self.trusts(peer):
            peer = self._forwarded(scope.get("headers", ())) or peer
        return _as_client(peer)

    def trusts(self, text: str) -> bool:
        """Whether this is the address of one of these proxies."""
        address = _address(text)
        return address is not None and any(address in network for network in self._networks)

    def _forwarded(self, lines: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Return the hop that a trusted proxy was asked by; None where the fields do not tell."""
        found = {name: b",".join(value for key, value in lines if key == name) for name in _READERS}
        said = {name: value.decode("latin-1") for name, value in found.items() if value}
        if sum(map(len, said.values())) > _MAX_BYTES:
            return None
        try:
            clients = {self._last_untrusted(list(_READERS[name](value))) for name, value in said.items()}
        except MalformedInput:
            return None
        return clients.pop() if len(clients) == 1 else None

    def _last_untrusted(self, hops: list[str]) -> str:
        """Return the right-most hop that is no trusted proxy; the first one where all are.

        What is left of it was written by whoever it is, and not even read.
        """
        hop = ""
        for text in reversed(hops[-_MAX_HOPS:]):
            match = _HOP.fullmatch(text)
            hop = (match["v6"] or match["v4"] or match["bare"]) if match else ""
            if _address(hop) is None:
                raise MalformedInput("forwarded", "names no address")
            if not self.trusts(hop):
                break
        return str(_address(hop))


def _x_forwarded_for(value: str) -> Iterator[str]:
    return (hop.strip(" \t") for hop in value.split(","))


def _forwarded(value: str) -> Iterator[str]:
    """Yield the `for` of each element; an element without one is a hop that is not told."""
    position, hop = 0, ""
    while position < len(value) or position == 0:
        pair = _PAIR.match(value, position)
        if pair is None:
            raise MalformedInput("forwarded", "is not what RFC 7239 says")
        if pair["name"].lower() == "for":
            if hop:
                raise MalformedInput("forwarded", "has two hops in one element")
            hop = pair["word"] or re.sub(r"\\(.)", r"\1", pair["quoted"] or "")
        position = pair.end()
        if pair["end"] != ";":
            yield hop
            hop = ""
    if value.endswith((",", ";")):
        raise MalformedInput("forwarded", "ends too early")


_READERS: Final = {b"x-forwarded-for": _x_forwarded_for, b"forwarded": _forwarded}


@lru_cache(maxsize=4096)
def _address(text: str) -> _Address | None:
    """Return an address, IPv4 as such also where it is written as IPv6; None where it is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@lru_cache(maxsize=4096)
def _as_client(text: str) -> str:
    address = _address(text)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return text[:64] if address is None else str(address)
