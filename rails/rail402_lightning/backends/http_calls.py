"""HTTP calls to a node: the one place where what goes wrong with them turns into our errors, for cln and phoenixd.

What matters about a call that failed is whether the node may have acted on it. `RailUnavailable` says that it surely
did not; `OutcomeUnknown` is everything else.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from rail402.errors import MalformedInput, OutcomeUnknown, RailUnavailable
from rail402.protocol.base import Json, parse_json
from rail402.upstream import NEVER_SENT, read_at_most
from rail402_lightning.backends.connections import (
    MAX_ANSWER,
    CertificateRefused,
    certificate_error,
    warn_of_plain_http,
)

__all__ = ["HttpCalls", "HttpReply", "whole_number"]


@dataclass(frozen=True, slots=True)
class HttpReply:
    """An answer.

    Attributes:
        status: the HTTP status.
        content: the body, whole.
    """

    status: int
    content: bytes = field(repr=False)

    def json(self, who: str) -> Json:
        """Return the JSON object that it is.

        Raises:
            OutcomeUnknown: it is none; whatever stands before the node may have made it.
        """
        try:
            return parse_json(self.content, field="answer", max_bytes=MAX_ANSWER)
        except MalformedInput as error:
            raise OutcomeUnknown(f"{who} answered {self.status}, and not with a JSON object") from error


class HttpCalls:
    """The connections to one node.

    Args:
        who: what the node is called in errors.
        url: its address, checked.
        credential: what the credential is called, for a warning.
        headers, auth: what is sent along with each call.
        tls: what certificates are checked with; None for those that any browser accepts.
        transport: what requests are sent through, for tests.
    """

    def __init__(
        self,
        who: str,
        url: str,
        *,
        credential: str,
        headers: Mapping[str, str] | None = None,
        auth: httpx.Auth | None = None,
        tls: ssl.SSLContext | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.who, self.url, self._credential = who, url, credential
        # Nothing compressed: the limit on an answer's size is one on what it takes in memory.
        self._headers = {**(headers or {}), "Accept-Encoding": "identity"}
        self._auth, self._transport, self._pinned = auth, transport, tls is not None
        self._tls = tls
        self._client: httpx.AsyncClient | None = None

    def __repr__(self) -> str:
        return f"HttpCalls({self.who!r}, {self.url!r})"

    async def close(self) -> None:
        """Close the connections; a further call opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def tls(self) -> ssl.SSLContext | None:
        """Return what certificates are checked with, and None for an address without TLS. It takes a while to load."""
        if not self.url.startswith("https"):
            return None
        self._tls = self._tls or httpx.create_ssl_context()
        return self._tls

    async def call(self, method: str, path: str, *, timeout: float, **content: Any) -> HttpReply:
        """Send a request and return the whole answer, whatever it says.

        Args:
            timeout: seconds for all of it.
            content: as httpx takes it: `json`, `data`, `params`.

        Raises:
            RailUnavailable: the node never got it.
            OutcomeUnknown: it may have, and there is no answer that can be read.
        """
        if self._client is None:
            warn_of_plain_http(self.url, self._credential)
            self._client = httpx.AsyncClient(
                base_url=self.url,
                headers=self._headers,
                auth=self._auth,
                transport=self._transport,
                verify=self.tls() or True,
            )
        try:
            stream = self._client.stream(method, path, timeout=timeout, **content)
            async with asyncio.timeout(timeout), stream as response:
                if "Content-Encoding" in response.headers:
                    raise OutcomeUnknown(f"{self.who} compressed its answer, which was not asked for")
                body = await read_at_most(response, MAX_ANSWER)
        except NEVER_SENT as error:
            raise self._unreachable(error) from error
        except (httpx.HTTPError, TimeoutError) as error:
            raise OutcomeUnknown(f"{self.who} gave no answer ({type(error).__name__})") from error
        if body is None:
            raise OutcomeUnknown(f"the answer of {self.who} is larger than {MAX_ANSWER} bytes")
        return HttpReply(response.status_code, body)

    def _unreachable(self, error: httpx.HTTPError) -> RailUnavailable:
        refused = certificate_error(error)
        if refused is None:
            return RailUnavailable(
                f"{self.who} cannot be reached at {self.url} ({type(error).__name__}); check that it runs, and the "
                "address"
            )
        fix = "copy the certificate in tls_cert again" if self._pinned else "set tls_cert if it signs its own"
        return CertificateRefused(f"the TLS certificate of {self.who} is refused ({refused.verify_message}): {fix}")


def whole_number(members: Json, name: str, *, who: str) -> int:
    """Return a whole number that is not negative.

    Raises:
        RailUnavailable: it is none.
    """
    value = members.get(name)
    if type(value) is not int or value < 0:
        raise RailUnavailable(f"{who} sent no whole number as {name}")
    return value
