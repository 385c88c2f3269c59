"""Builds the real `stripe.StripeClient`: on a transport of our choice, without telemetry, no secrets in logs or errors.

The library reports telemetry by default: the previous request's duration, the platform's name and an identifier it
keeps in the user's configuration directory (`stripe/telemetry_id`). Its only switch is a global of the process, which
is not a library's to turn; the client built here drops those headers on their way out instead. The file is still made,
once: an application that wants none sets `stripe.enable_telemetry = False` before its first request, as our own command
line does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx
import stripe

from rail402.errors import ConfigurationError, MalformedInput
from rail402.protocol.base import nests_too_deep
from rail402.upstream import read_at_most

__all__ = ["STRIPE_API_BASE", "RailStripeClient", "stripe_client", "time_of"]

STRIPE_API_BASE = "https://api.stripe.com"

_SECRET_KEY = re.compile(r"(sk|rk)_(test|live)_[A-Za-z0-9_]{1,240}", re.ASCII)
_PUBLISHABLE_KEY = re.compile(r"pk_(test|live)_[A-Za-z0-9_]{1,240}", re.ASCII)
_SECRET = re.compile(r"(spt_|_secret_|whsec_|[sr]k_(?:test|live)_)[A-Za-z0-9_]+", re.ASCII)
_TELEMETRY_HEADERS = frozenset({"x-stripe-client-telemetry", "x-stripe-client-user-agent"})
_UNREADABLE = b'{"error": {"type": "api_error", "message": "Stripe gave an answer that cannot be read."}}'
_MAX_ANSWER = 16 << 20
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class _Redaction(logging.Filter):
    """Takes Stripe's secrets out of log records: both libraries log URLs, one of them whole bodies too."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if _SECRET.search(message):
            record.msg, record.args = _SECRET.sub(r"\1…", message), ()
        return True


_REDACTION = _Redaction()


class _HttpClient(stripe.HTTPClient):
    """The library's extension point for HTTP, on httpx: with an injectable transport and without telemetry.

    The library's own `HTTPXClient` is not used: it takes no transport, and it hands httpx its bodies in a way that
    httpx has deprecated.
    """

    name = "httpx"

    def __init__(self, *, transport: httpx.AsyncBaseTransport | None, timeout_seconds: float) -> None:
        super().__init__()
        self._client = httpx.AsyncClient(transport=transport, timeout=timeout_seconds)
        self._timeout_seconds = timeout_seconds

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: str | None = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        quiet = {name: value for name, value in headers.items() if name.lower() not in _TELEMETRY_HEADERS}
        try:
            stream = self._client.stream(method, url, headers=quiet, content=post_data)
            async with asyncio.timeout(self._timeout_seconds), stream as response:
                body = await read_at_most(response, _MAX_ANSWER)
        except (httpx.HTTPError, TimeoutError) as error:
            # The library's own clients raise this, and its retries look for it; the cause says what happened.
            message = f"no answer from Stripe: {type(error).__name__}"
            raise stripe.APIConnectionError(message, should_retry=True) from error  # type: ignore[no-untyped-call]
        if body is None:
            raise stripe.APIError(f"an answer of more than {_MAX_ANSWER} bytes", http_status=response.status_code)
        return _harmless(body, response.status_code), response.status_code, response.headers

    async def sleep_async(self, secs: float) -> None:
        await asyncio.sleep(secs)

    async def close_async(self) -> None:
        await self._client.aclose()


def _harmless(body: bytes, status: int) -> bytes:
    """Return the body, so that no error of the library can repeat a secret: its messages quote Stripe's, which may
    name a token, and whole bodies where they are no JSON. The library itself breaks over errors of another form."""
    failed = status >= 400
    try:
        text = body.decode()
        if nests_too_deep(text):
            raise MalformedInput("body", "is nested too deep")
        found = json.loads(text)
    except (ValueError, MalformedInput) as error:
        if failed:
            return _UNREADABLE
        message = "Stripe gave an answer that cannot be read"
        raise stripe.APIError(message, http_status=status) from error
    if not failed:
        return body
    is_error = isinstance(found, dict) and isinstance(found.get("error"), dict)
    return _SECRET.sub(r"\1…", text).encode() if is_error else _UNREADABLE


def time_of(headers: Mapping[str, str]) -> int | None:
    """Return when an answer was given by the clock of who gave it, Unix seconds; None where its `Date` is none."""
    try:
        moment = parsedate_to_datetime(headers["date"])
    except (KeyError, ValueError):
        return None
    return None if moment.tzinfo is None else int(moment.timestamp())


class RailStripeClient(stripe.StripeClient):
    """A `stripe.StripeClient` that can be closed: `await client.aclose()`, or `async with`."""

    def __init__(self, key: str, http_client: _HttpClient, *, api_base: str, max_network_retries: int) -> None:
        super().__init__(
            key,
            base_addresses={"api": api_base},
            http_client=http_client,
            max_network_retries=max_network_retries,
        )
        self._rail_http_client = http_client

    async def aclose(self) -> None:
        """Close the connections, and the transport with them."""
        await self._rail_http_client.close_async()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def stripe_client(
    key: str,
    *,
    publishable: bool = False,
    transport: httpx.AsyncBaseTransport | None = None,
    timeout_seconds: float = 30.0,
    max_network_retries: int = 0,
    api_base: str = STRIPE_API_BASE,
) -> RailStripeClient:
    """Build a client of the Stripe API; only its `..._async` methods may be used.

    Args:
        key: `sk_test_…`, `sk_live_…` or a restricted key `rk_…`; it appears in no error text.
        publishable: the key is a publishable one instead, `pk_…`, and never a secret one.
        transport: carries the requests instead of the network; a sandbox, say.
        timeout_seconds: for a whole answer.
        max_network_retries: how often the library itself sends a request again, with the same idempotency key.
        api_base: scheme, host and port of the API; `https`, unless the host is loopback or a transport is given.

    Raises:
        ConfigurationError: the key or the base address is not usable.
    """
    if not isinstance(key, str) or not (_PUBLISHABLE_KEY if publishable else _SECRET_KEY).fullmatch(key):
        wanted = "publishable key must look like pk_test_… or pk_live_…"
        if not publishable:
            wanted = "secret key must look like sk_test_…, sk_live_… or rk_…"
        raise ConfigurationError(f"the Stripe {wanted}, without spaces")
    address = urlsplit(api_base)
    private = transport is not None or address.hostname in _LOOPBACK_HOSTS
    if not address.hostname or address.scheme not in ({"https", "http"} if private else {"https"}):
        raise ConfigurationError(f"api_base {api_base!r} must be an https address (http only to this machine)")
    for name in ("stripe", "httpx"):
        logging.getLogger(name).addFilter(_REDACTION)  # once: the same filter is not added twice
    http_client = _HttpClient(transport=transport, timeout_seconds=timeout_seconds)
    return RailStripeClient(key, http_client, api_base=api_base.rstrip("/"), max_network_retries=max_network_retries)
