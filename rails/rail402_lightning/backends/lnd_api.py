"""Calls to the REST API of lnd: the one place that knows HTTP, and that turns what goes wrong into our errors.

What matters about a call that failed is whether lnd may have acted on it. `RailUnavailable` says that it surely did
not; `OutcomeUnknown` is everything else. `LndError` is lnd's own answer, whose gRPC code and message say more.

lnd writes bytes in three ways: standard base64 in the bodies, base64url in the paths, and hexadecimal digits where a
payment's hash and preimage are concerned, and in the path of an invoice.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from rail402.errors import MalformedInput, OutcomeUnknown, RailUnavailable
from rail402.protocol.base import Json, parse_json
from rail402.upstream import NEVER_SENT, read_at_most
from rail402_lightning.backends.connections import (
    MAX_ANSWER,
    CertificateRefused,
    certificate_error,
    checked_url,
    pinned_tls,
    shown,
    warn_of_plain_http,
)
from rail402_lightning.backends.lnd_macaroon import read_macaroon

__all__ = [
    "LndApi",
    "LndError",
    "MacaroonRefused",
    "NotReady",
    "as_base64",
    "as_base64url",
    "from_base64",
]

NOT_FOUND: Final = 5
"""The gRPC code of what does not exist."""

_TIMEOUT: Final = 10

# lnd tells the preimage of an invoice before it is paid, at the top and among its HTLCs; nobody here is to see it.
_NEVER_TOLD: Final = frozenset({"r_preimage", "htlcs"})

_USUAL_CODE: Final = 2  # which lnd gives most of its errors, so that only the words tell them apart
_PERMISSION_CODES: Final = frozenset({7, 16})
_PERMISSION_WORDS: Final = ("permission denied", "macaroon", "verification failed", "caveat", "root key")
_STARTING_WORDS: Final = ("wallet locked", "wallet not created", "starting up", "waiting to start")

_CERTIFICATE: Final = {
    9: "the TLS certificate of lnd is not valid yet; is the clock right?",
    10: "the TLS certificate of lnd has expired: delete tls.cert and tls.key at lnd, restart it, copy tls.cert here",
    62: "the TLS certificate of lnd is for another name than that in url: set tlsextradomain on the node",
    64: "the TLS certificate of lnd is for another address than that in url: set tlsextraip on the node",
}
_UNKNOWN_CERTIFICATE: Final = "the TLS certificate of lnd is not the one in tls_cert: copy the node's tls.cert again"
_UNSIGNED_CERTIFICATE: Final = "the TLS certificate of lnd is signed by itself: set tls_cert to a copy of its tls.cert"


class LndError(RailUnavailable):
    """lnd answered with an error.

    Attributes:
        grpc_code: see https://grpc.github.io/grpc/core/md_doc_statuscodes.html.
        message: lnd's own words, without anything that could be a secret.
    """

    def __init__(self, grpc_code: int, message: str) -> None:
        self.grpc_code, self.message = grpc_code, message
        super().__init__(f"lnd answered: {message} (code {grpc_code})")


class MacaroonRefused(LndError):
    """lnd does not accept the macaroon, or not for this; it did nothing."""


class NotReady(LndError):
    """lnd's wallet is locked, or lnd is starting; it did nothing."""


class LndApi:
    """One lnd.

    Args:
        url: the address of its REST API; `http://` only in a private network, because the macaroon is sent along.
        macaroon: hexadecimal digits, bytes, or the path of a file. Secret.
        tls_cert: the node's own certificate, `tls.cert`, as a path or as PEM text; no other one is then accepted. None
            where it has one that any browser accepts.
        transport: what requests are sent through, for tests.

    Raises:
        ConfigurationError: address, macaroon or certificate cannot be used.
    """

    def __init__(
        self,
        url: str,
        macaroon: str | bytes | Path,
        *,
        tls_cert: str | Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = checked_url(url, of="lnd's REST API", example="https://127.0.0.1:8080", credential="macaroon")
        self.macaroon = read_macaroon(macaroon)
        self._pinned = tls_cert is not None
        self._verify = pinned_tls(tls_cert, of="lnd's tls.cert") or ssl.create_default_context()
        self._transport = transport
        # Streams are open for long; they must not keep the other calls from a connection.
        self._clients: dict[str, httpx.AsyncClient] = {}

    def __repr__(self) -> str:
        return f"LndApi({self.url!r})"

    async def close(self) -> None:
        """Close the connections; a further call opens new ones."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.aclose()

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Json:
        """Read something.

        Raises:
            LndError: lnd answered with an error.
            RailUnavailable: there is no answer that can be read.
        """
        try:
            return await self._call("GET", path, params=params)
        except OutcomeUnknown as error:
            raise RailUnavailable(error.detail) from error

    async def post(self, path: str, body: Json) -> Json:
        """Have something done.

        Raises:
            LndError: lnd answered with an error.
            RailUnavailable: lnd never got it.
            OutcomeUnknown: it may have, and there is no answer that can be read.
        """
        return await self._call("POST", path, json=dict(body))

    async def follow(
        self,
        method: str,
        path: str,
        until: Callable[[Json], bool],
        *,
        params: Mapping[str, str] | None = None,
        body: Json | None = None,
    ) -> Json:
        """Read the messages of a stream, and return the first for which `until` is true. It waits without end.

        Raises:
            LndError: lnd answered with an error.
            RailUnavailable: lnd never got it.
            OutcomeUnknown: the stream ended before, or holds what cannot be read.
        """
        content = {"json": dict(body)} if body is not None else {}
        timeout = httpx.Timeout(_TIMEOUT, read=None)
        async with self._request("streams", method, path, timeout=timeout, params=params, **content) as response:
            if response.status_code != 200:
                raise _error(response.status_code, await _read(response))
            first = True
            async with aclosing(_lines(response)) as lines:
                async for line in lines:
                    result = _parse(line).get("result")
                    if not isinstance(result, dict):
                        error = _error(response.status_code, line)
                        # After a message it is no refusal any more.
                        raise error if first else OutcomeUnknown(error.detail)
                    if until(told := _told(result)):
                        return told
                    first = False
        raise OutcomeUnknown("lnd ended its answer too early")

    async def _call(self, method: str, path: str, **content: Any) -> Json:
        try:
            async with (
                asyncio.timeout(_TIMEOUT),
                self._request("calls", method, path, timeout=_TIMEOUT, **content) as response,
            ):
                body = await _read(response)
        except TimeoutError as error:
            raise OutcomeUnknown(f"lnd gave no answer in {_TIMEOUT} s") from error
        if response.status_code != 200:
            raise _error(response.status_code, body)
        return _told(_parse(body))

    @asynccontextmanager
    async def _request(self, pool: str, method: str, path: str, **content: Any) -> AsyncIterator[httpx.Response]:
        if pool not in self._clients:
            if not self._clients:
                warn_of_plain_http(self.url, "macaroon")
            self._clients[pool] = httpx.AsyncClient(
                base_url=self.url,
                # Nothing compressed: the limit on an answer's size is one on what it takes in memory.
                headers={"Grpc-Metadata-macaroon": self.macaroon.hex(), "Accept-Encoding": "identity"},
                verify=self._verify,
                transport=self._transport,
            )
        try:
            async with self._clients[pool].stream(method, path, **content) as response:
                if "Content-Encoding" in response.headers:
                    raise OutcomeUnknown("lnd compressed its answer, which was not asked for")
                yield response
        except NEVER_SENT as error:
            raise self._unreachable(error) from error
        except httpx.HTTPError as error:
            raise OutcomeUnknown(f"lnd gave no answer ({type(error).__name__})") from error

    def _unreachable(self, error: httpx.HTTPError) -> RailUnavailable:
        """Say why there was no connection."""
        refused = certificate_error(error)
        if refused is not None:
            unknown = _UNKNOWN_CERTIFICATE if self._pinned else _UNSIGNED_CERTIFICATE
            return CertificateRefused(_CERTIFICATE.get(refused.verify_code, unknown))
        return RailUnavailable(
            f"lnd cannot be reached at {self.url} ({type(error).__name__}); check that it runs, and restlisten there"
        )


def as_base64(data: bytes) -> str:
    """Write bytes as lnd reads them in a body."""
    return base64.b64encode(data).decode()


def as_base64url(data: bytes) -> str:
    """Write bytes as lnd reads them in a path, padding included."""
    return base64.urlsafe_b64encode(data).decode()


def from_base64(value: object) -> bytes | None:
    """Read bytes of a body; None if it is not standard base64."""
    try:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else None
    except ValueError:
        return None


async def _read(response: httpx.Response) -> bytes:
    """Return a whole body."""
    body = await read_at_most(response, MAX_ANSWER)
    if body is None:
        raise OutcomeUnknown(f"the answer of lnd is larger than {MAX_ANSWER} bytes")
    return body


async def _lines(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Yield the lines of a body that are not empty, as they come."""
    pending = b""
    async for chunk in response.aiter_bytes():
        *lines, pending = (pending + chunk).split(b"\n")
        if len(pending) > MAX_ANSWER:
            raise OutcomeUnknown(f"a message of lnd is larger than {MAX_ANSWER} bytes")
        for line in filter(bytes.strip, lines):
            yield line
    if pending.strip():
        yield pending


def _parse(data: bytes) -> Json:
    try:
        return parse_json(data, field="answer", max_bytes=MAX_ANSWER)
    except MalformedInput as error:
        raise OutcomeUnknown("lnd did not answer in JSON") from error


def _told(message: Json) -> Json:
    return {name: value for name, value in message.items() if name not in _NEVER_TOLD}


def _error(status: int, body: bytes) -> LndError | OutcomeUnknown:
    """Return what an answer is that holds no result. What does not have lnd's form comes from something before it."""
    try:
        parsed = parse_json(body, field="answer", max_bytes=MAX_ANSWER)
    except MalformedInput:
        return OutcomeUnknown(f"lnd answered {status}, and not in JSON")
    error = parsed.get("error", parsed)  # streams put it one level deeper
    code, said = (error.get("code"), error.get("message")) if isinstance(error, Mapping) else (None, None)
    if type(code) is not int or not isinstance(said, str):
        return OutcomeUnknown(f"lnd answered {status} in a form that is not known here")
    message = shown(said)
    if code == _USUAL_CODE and any(words in said for words in _STARTING_WORDS):
        return NotReady(code, message)
    if code in _PERMISSION_CODES or (code == _USUAL_CODE and any(words in said for words in _PERMISSION_WORDS)):
        return MacaroonRefused(code, message)
    return LndError(code, message)
