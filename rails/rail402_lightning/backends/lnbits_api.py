"""Calls to the REST API of LNbits: the one place that knows HTTP, and that turns what goes wrong into our errors.

What matters about a call that failed is whether LNbits may have acted on it. `RailUnavailable` says that it surely did
not; `OutcomeUnknown` is everything else.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from rail402.errors import ConfigurationError, MalformedInput, OutcomeUnknown, RailUnavailable
from rail402.protocol.base import Json, parse_json

__all__ = ["Answer", "KeyRefused", "LnbitsApi"]

MAX_ANSWER: Final = 1 << 20
"""Bytes of an answer above which it is not read on."""

_TIMEOUT: Final = 10
_MAX_DETAIL: Final = 200
_SECRETS: Final = re.compile(r"[0-9a-fA-F]{32,}")  # keys have 32 digits, preimages 64
_LOCAL_NAMES: Final = (".localhost", ".local", ".internal", ".lan", ".onion")
_NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


class KeyRefused(RailUnavailable):
    """LNbits does not accept the key: it knows no such wallet, or the key may not do this."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with a JSON object.

    Attributes:
        status: the HTTP status.
        retry_after: seconds, where LNbits names them.
    """

    status: int
    body: Json = field(repr=False)
    retry_after: int | None = None

    @property
    def detail(self) -> str:
        """What LNbits says is wrong, shortened, without anything that could be a key or a preimage."""
        said = self.body.get("detail") or self.body.get("error") or ""
        text = _SECRETS.sub("…", str(said))
        return "".join(char if char.isprintable() else " " for char in text[:_MAX_DETAIL])

    def expect(self, *statuses: int) -> Json:
        """Return the body of an answer with one of these statuses.

        Raises:
            RailUnavailable: it has another one.
        """
        if self.status not in statuses:
            raise self.error()
        return self.body

    def error(self) -> RailUnavailable:
        """Return what this answer is where it is none that was hoped for."""
        if self.status in (401, 403) or (self.status, self.detail) == (404, "Wallet not found."):
            return KeyRefused(
                f"LNbits refuses the key ({self.status}: {self.detail}); copy it from the wallet's page, under API keys"
            )
        return RailUnavailable(f"LNbits answered {self.status}: {self.detail}", retry_after=self.retry_after)


class LnbitsApi:
    """One wallet of one LNbits server.

    Args:
        url: the server's address; `http://` only in a private network, because the key is sent along.
        key: the wallet's invoice key or admin key. Secret.
        transport: what requests are sent through, for tests.

    Raises:
        ConfigurationError: the address cannot be used, or there is no key.
    """

    def __init__(self, url: str, key: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.url = _checked_url(url)
        if not key or not key.isascii() or not key.isalnum():
            raise ConfigurationError("the LNbits key must be the wallet's API key, letters and digits")
        # Nothing compressed: the limit on an answer's size is one on what it takes in memory.
        self._headers = {"X-Api-Key": key, "Accept": "application/json", "Accept-Encoding": "identity"}
        self._transport = transport
        self._client: httpx.AsyncClient | None = None

    def __repr__(self) -> str:
        return f"LnbitsApi({self.url!r})"

    async def close(self) -> None:
        """Close the connections; a further call opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def get(self, path: str, params: Mapping[str, str] | None = None, *, timeout: int = _TIMEOUT) -> Answer:
        """Read something; `timeout` in seconds.

        Raises:
            RailUnavailable: there is no answer that can be read.
        """
        try:
            return await self._call("GET", path, params=params, timeout=timeout)
        except OutcomeUnknown as error:
            raise RailUnavailable(error.detail) from error

    async def post(self, path: str, body: Json, *, timeout: int = _TIMEOUT) -> Answer:
        """Have something done; `timeout` in seconds.

        Raises:
            RailUnavailable: LNbits never got it.
            OutcomeUnknown: it may have, and there is no answer that can be read.
        """
        return await self._call("POST", path, json=dict(body), timeout=timeout)

    async def _call(self, method: str, path: str, *, timeout: int, **content: Any) -> Answer:
        if self._client is None:
            self._client = httpx.AsyncClient(base_url=self.url, headers=self._headers, transport=self._transport)
        try:
            stream = self._client.stream(method, path, timeout=timeout, **content)
            async with asyncio.timeout(timeout), stream as response:
                if "Content-Encoding" in response.headers:
                    raise OutcomeUnknown("LNbits compressed its answer, which was not asked for")
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER:
                        raise OutcomeUnknown(f"the answer of LNbits is larger than {MAX_ANSWER} bytes")
        except _NEVER_SENT as error:
            raise RailUnavailable(f"LNbits cannot be reached at {self.url} ({type(error).__name__})") from error
        except (httpx.HTTPError, TimeoutError) as error:
            raise OutcomeUnknown(f"LNbits gave no answer ({type(error).__name__})") from error
        try:
            parsed = parse_json(bytes(body), field="answer", max_bytes=MAX_ANSWER)
        except MalformedInput as error:
            raise OutcomeUnknown(f"LNbits answered {response.status_code}, and not in JSON") from error
        return Answer(response.status_code, parsed, _retry_after(response))


def _retry_after(response: httpx.Response) -> int | None:
    value = response.headers.get("Retry-After", "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 7 else None


def _checked_url(url: str) -> str:
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"url={url!r} is not an address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.host or parts.query or parts.userinfo:
        raise ConfigurationError("url must be the address of LNbits, such as https://lnbits.example.com")
    if parts.scheme == "http" and not _is_private(parts.host):
        raise ConfigurationError(f"url={url!r} would send the key in the clear; use https")
    return url.rstrip("/")


def _is_private(host: str) -> bool:
    """Say whether a host is this machine, in a private network, or reached through Tor."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith(_LOCAL_NAMES)
