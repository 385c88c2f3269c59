"""Only to public addresses: for URLs that somebody else chose, a model above all.

A name is resolved once, every address that it has must be public, and the connection goes to the one that was checked:
a name that resolves to something else a moment later changes nothing. Redirects are requests of their own and pass
here as well.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import httpx

from rail402.errors import OfferRefused

__all__ = ["PublicOnly", "Resolve", "is_public"]

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a name, for a port."""

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
# All that the Internet has of IPv6; the rest is local, or IPv4 in forms that only a translator nearby knows.
_UNICAST: Final = ipaddress.ip_network("2000::/3")
_MAX_TRIED: Final = 4
_FIX: Final = ". For services of your own start `rail402 mcp` with --allow-private; in code, give another transport"
_PORTS: Final = {"http": 80, "https": 443}


def is_public(address: str) -> bool:
    """Say whether an IP address is one of the public Internet, with every IPv4 address inside it looked at too."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found not in _UNICAST and found not in _NAT64:
        return False
    return found.is_global and not found.is_multicast and all(inner.is_global for inner in _inside(found))


def _inside(address: _Address) -> list[ipaddress.IPv4Address]:
    """Return the IPv4 addresses that an IPv6 address stands for (mapped, 6to4, Teredo, NAT64)."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in inner if each is not None]


async def _resolve(name: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class PublicOnly(httpx.AsyncBaseTransport):
    """Sends requests through `inner`, to public addresses only: `payer.transport(PublicOnly())`.

    Args:
        inner: what requests are sent through; one of its own if left out. It must use no proxy, which would resolve
            names by itself, and keep no connection: the next request for that address may be for another name, whose
            certificate nobody would look at.
        resolve: returns the addresses of a name; the system's resolver if left out.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport | None = None, *, resolve: Resolve = _resolve) -> None:
        once = httpx.Limits(max_keepalive_connections=0)
        self._inner, self._resolve = inner or httpx.AsyncHTTPTransport(limits=once), resolve

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request, to an address that was checked.

        Raises:
            OfferRefused: the host has an address that is not public; nothing was sent.
            httpx.ConnectError: the name cannot be resolved.
        """
        url = request.url
        name = url.raw_host.decode("ascii")  # resolvers have rules of their own for other alphabets
        try:
            addresses = await self._resolve(name, url.port or _PORTS.get(url.scheme, 0))
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError(f"{name} cannot be resolved", request=request) from error
        if not addresses or not all(map(is_public, addresses)):
            raise OfferRefused(f"{name} is not a public address{_FIX}", code="address_not_public")
        *others, last = list(dict.fromkeys(addresses))[:_MAX_TRIED]
        for address in others:
            with suppress(httpx.ConnectError, httpx.ConnectTimeout):  # nothing was sent there
                return await self._inner.handle_async_request(_pinned(request, name, address))
        return await self._inner.handle_async_request(_pinned(request, name, last))

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()


def _pinned(request: httpx.Request, name: str, address: str) -> httpx.Request:
    """Return the request for one address of its host."""
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,  # with the name as its Host
        stream=request.stream,
        extensions={"sni_hostname": name, **request.extensions},
    )
