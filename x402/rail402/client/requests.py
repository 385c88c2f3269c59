"""A payer for requests: an adapter that pays for what is answered with 402. Needs the package `requests`.

::

    payer = Payer([...])
    with payer, requests.Session() as session:
        session.mount("https://", PayingAdapter(payer))
        response = session.get("https://api.example.com/article/402")
        response.rail402.receipt

It is the same purchase as with httpx, over requests' own connections: certificates, proxies and time-outs are the
session's. What is answered is read whole, also where a stream was asked for: a purchase closes with its last byte.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
import requests
import urllib3
from requests.adapters import BaseAdapter, HTTPAdapter

from rail402.client.httpx import AT_MOST, EXTENSION
from rail402.client.payer import Payer

__all__ = ["PayingAdapter"]

_PIECE: Final = 65_536


@dataclass(frozen=True, slots=True)
class _Redirected:
    """The call that was redirected, and the request that was. It stands among a request's hooks, which are the one
    thing that requests hands on, as it is, to what follows the redirect."""

    call: Any
    request: requests.PreparedRequest


class PayingAdapter(BaseAdapter):
    """Sends requests through another adapter, and pays; see `Payer.sync_transport`.

    A response has what was bought as `response.rail402`, None where nothing was. As everywhere, a call pays once and at
    the origin that it was made to, also where the session follows redirects.

    Args:
        payer: pays; used through this adapter only.
        inner: what requests are sent through; a `requests.adapters.HTTPAdapter` if left out.
        at_most: the most that one request may cost, such as `"0.10 USD"`, where that is less than the budget allows.
    """

    def __init__(self, payer: Payer, inner: BaseAdapter | None = None, *, at_most: str | None = None) -> None:
        super().__init__()
        self._payer, self._inner, self._at_most = payer, inner or HTTPAdapter(), at_most

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send the request.

        Raises:
            ClientError: see `PurchaseFlow.run`. requests' own exceptions for what goes wrong on the way.
        """
        asked = self._asked(request)
        options = {"timeout": timeout, "verify": verify, "cert": cert, "proxies": proxies}
        wire = _Wire(self._inner, request, asked.url, options)
        try:
            answer = self._payer.sync_transport(wire).handle_request(asked)
            answer.request = asked
            try:
                content = answer.read()
            finally:
                answer.close()
        except httpx.DecodingError as error:
            raise requests.exceptions.ContentDecodingError(str(error)) from error
        except httpx.TransportError as error:
            if isinstance(error.__cause__, requests.exceptions.RequestException):
                raise error.__cause__ from error
            raise
        response = wire.response_of(answer)
        if response.is_redirect:
            request.hooks[EXTENSION] = [_Redirected(asked.extensions[EXTENSION], request)]
        raw: Any = io.BytesIO(content)
        raw._original_response = getattr(response.raw, "_original_response", None)  # where a session finds cookies
        vars(response).update(_content=content, _content_consumed=True, rail402=answer.extensions.get(EXTENSION))
        vars(response).update(raw=raw, request=request, connection=self)
        return response

    def _asked(self, request: requests.PreparedRequest) -> httpx.Request:
        """Return the request as httpx has them."""
        extensions: dict[str, Any] = {} if self._at_most is None else {AT_MOST: self._at_most}
        for redirected in request.hooks.pop(EXTENSION, ()):
            if redirected.request is not request:  # else it is sent again, which is a call of its own
                extensions[EXTENSION] = redirected.call
        body = request.body.encode() if isinstance(request.body, str) else request.body
        return httpx.Request(
            request.method or "GET",
            request.url or "",
            headers=[(_text(name), _text(value)) for name, value in request.headers.items()],
            stream=httpx.ByteStream(body or b"") if isinstance(body, bytes | None) else _Unrepeatable(),
            extensions=extensions,
        )

    def close(self) -> None:
        """Close the inner adapter; the payer stays open."""
        self._inner.close()


class _Unrepeatable(httpx.SyncByteStream):
    """Stands for a body that can be read once: nothing is paid for such a request."""

    def __iter__(self) -> Iterator[bytes]:
        raise AssertionError("its own adapter reads it")


class _Wire(httpx.BaseTransport):
    """requests' adapter as httpx sees it."""

    def __init__(
        self, adapter: BaseAdapter, asked: requests.PreparedRequest, url: httpx.URL, options: dict[str, Any]
    ) -> None:
        self._adapter, self._asked, self._url, self._options = adapter, asked, url, options
        self._responses: dict[int, requests.Response] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        prepared = self._asked.copy()
        prepared.method, prepared.url = request.method, str(request.url)
        prepared.headers = requests.structures.CaseInsensitiveDict(
            {name: value for name, value in request.headers.items() if name != "host"}
        )
        options = self._options
        if request.url != self._url:  # beside the caller's request: a key set, say
            prepared.body, options = None, options | {"timeout": request.extensions["timeout"]["read"]}
        try:
            response = self._adapter.send(prepared, stream=True, **options)
        except requests.exceptions.Timeout as error:
            raise httpx.ReadTimeout(str(error), request=request) from error
        except requests.exceptions.RequestException as error:  # it does not say whether anything was sent
            raise httpx.ReadError(str(error), request=request) from error
        answer = httpx.Response(response.status_code, headers=_lines(response), stream=_Raw(response))
        self._responses[id(answer)] = response
        return answer

    def response_of(self, answer: httpx.Response) -> requests.Response:
        """Return what requests made of an answer."""
        return self._responses[id(answer)]


class _Raw(httpx.SyncByteStream):
    """A body as it came, still encoded."""

    def __init__(self, response: requests.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        try:
            while piece := self._response.raw.read(_PIECE, decode_content=False):
                yield piece
        except urllib3.exceptions.ReadTimeoutError as error:
            raise httpx.ReadTimeout(str(error)) from requests.exceptions.ConnectionError(error)
        except urllib3.exceptions.HTTPError as error:
            raise httpx.ReadError(str(error)) from requests.exceptions.ChunkedEncodingError(error)

    def close(self) -> None:
        self._response.close()


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _lines(response: requests.Response) -> list[tuple[str, str]]:
    """Return every header line; several challenges are several lines of one name."""
    return list(response.raw.headers.items())
