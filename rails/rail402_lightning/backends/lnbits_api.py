"""Calls to LNbits: the one place that knows HTTP and websockets, and that turns what goes wrong into our errors.

What matters about a call that failed is whether LNbits may have acted on it. `RailUnavailable` says that it surely did
not; `OutcomeUnknown` is everything else.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from rail402.errors import ConfigurationError, MalformedInput, OutcomeUnknown, RailUnavailable
from rail402.protocol.base import Json, parse_json
from rail402.upstream import NEVER_SENT, printable, read_at_most
from rail402_lightning.backends.connections import (
    MAX_ANSWER,
    certificate_error,
    checked_url,
    warn_of_plain_http,
)

__all__ = ["STREAM_LOST", "Answer", "Connect", "KeyRefused", "LnbitsApi"]

Connect = Callable[..., AbstractAsyncContextManager[Any]]
"""Opens a websocket, as `websockets.connect` does."""

STREAM_LOST: Final = (OSError, WebSocketException, ImportError)  # the last for want of a package for SOCKS proxies
"""What goes wrong with a websocket."""

_TIMEOUT: Final = 10
_MAX_DETAIL: Final = 200
_MAX_MESSAGE: Final = 1 << 16
_SECRETS: Final = re.compile(r"[0-9a-fA-F]{32,}")  # keys have 32 digits, preimages 64


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
        return printable(_SECRETS.sub("…", str(said))[:_MAX_DETAIL])

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
        url: the server's address, with the path that it is below if any; `http://` only in a private network, because
            the key is sent along, and with a warning unless that is this machine.
        key: the wallet's invoice key or admin key. Secret.
        transport: what requests are sent through, and connect: what websockets are opened by, for tests.

    Raises:
        ConfigurationError: the address cannot be used, or there is no key.
    """

    def __init__(
        self, url: str, key: str, *, transport: httpx.AsyncBaseTransport | None = None, connect: Connect = connect
    ) -> None:
        self.url = checked_url(url, of="LNbits", example="https://lnbits.example.com", credential="key")
        if not key or not key.isascii() or not key.isalnum():
            raise ConfigurationError("the LNbits key must be the wallet's API key, letters and digits")
        # Nothing compressed: the limit on an answer's size is one on what it takes in memory.
        self._headers = {"X-Api-Key": key, "Accept": "application/json", "Accept-Encoding": "identity"}
        self._transport, self._connect = transport, connect
        self._client: httpx.AsyncClient | None = None
        self._tls: ssl.SSLContext | None = None

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

    def listen(self, path: str, *, timeout: float) -> AbstractAsyncContextManager[Any]:
        """Return a websocket to open with `async with`, in `timeout` seconds; it raises one of `STREAM_LOST`.

        The key is not sent: LNbits asks for none there, so whatever comes out can be from anybody.
        """
        return self._connect(
            f"ws{self.url.removeprefix('http')}{path}",
            ssl=self._trusted() if self.url.startswith("https") else None,
            open_timeout=timeout,
            close_timeout=1,
            ping_interval=None,
            max_size=_MAX_MESSAGE,
            compression=None,
        )

    def _trusted(self) -> ssl.SSLContext:
        """Return the certificates that are trusted, the same for both ways of asking; they take a while to load."""
        self._tls = self._tls or httpx.create_ssl_context()
        return self._tls

    def _open(self) -> httpx.AsyncClient:
        warn_of_plain_http(self.url, "key")
        verify = self._trusted() if self.url.startswith("https") else True
        return httpx.AsyncClient(base_url=self.url, headers=self._headers, transport=self._transport, verify=verify)

    async def _call(self, method: str, path: str, *, timeout: int, **content: Any) -> Answer:
        if self._client is None:
            self._client = self._open()
        try:
            stream = self._client.stream(method, path, timeout=timeout, **content)
            async with asyncio.timeout(timeout), stream as response:
                if "Content-Encoding" in response.headers:
                    raise OutcomeUnknown("LNbits compressed its answer, which was not asked for")
                body = await read_at_most(response, MAX_ANSWER)
                if body is None:
                    raise OutcomeUnknown(f"the answer of LNbits is larger than {MAX_ANSWER} bytes")
        except NEVER_SENT as error:
            raise RailUnavailable(f"LNbits cannot be reached at {self.url}: {_cause(error)}") from error
        except (httpx.HTTPError, TimeoutError) as error:
            raise OutcomeUnknown(f"LNbits gave no answer ({type(error).__name__})") from error
        try:
            parsed = parse_json(body, field="answer", max_bytes=MAX_ANSWER)
        except MalformedInput as error:
            raise OutcomeUnknown(
                f"LNbits answered {response.status_code}, and not in JSON; is it at {self.url}?"
            ) from error
        return Answer(response.status_code, parsed, _retry_after(response))


def _retry_after(response: httpx.Response) -> int | None:
    value = response.headers.get("Retry-After", "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 7 else None


def _cause(error: httpx.HTTPError) -> str:
    """Return why there is no connection."""
    refused = certificate_error(error)
    if refused is None:
        return f"{type(error).__name__}; check that it runs, and the address"
    return (
        f"its TLS certificate is refused ({refused.verify_message}); have it renewed, or name the authority that "
        "signed it in SSL_CERT_FILE"
    )
