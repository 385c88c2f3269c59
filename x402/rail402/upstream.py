"""What backends have in common when they ask another machine: whose it is, what was surely not sent, what is read."""

from __future__ import annotations

import ipaddress
from typing import Final

import httpx

__all__ = ["NEVER_SENT", "is_private_host", "printable", "read_at_most"]

NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
"""What httpx raises before anything of a request has left."""

_LOCAL_NAMES: Final = (".localhost", ".local", ".internal", ".lan", ".onion")


def is_private_host(host: str) -> bool:
    """Say whether a host is this machine, in a private network, or reached through Tor."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith(_LOCAL_NAMES)


def printable(text: str) -> str:
    """Return words of a peer with a blank for everything that does not print, line breaks included."""
    return "".join(char if char.isprintable() else " " for char in text)


async def read_at_most(response: httpx.Response, most: int) -> bytes | None:
    """Return the whole body of a streamed response; None where it is larger than `most` bytes, and is not read on."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > most:
            return None
    return bytes(body)
