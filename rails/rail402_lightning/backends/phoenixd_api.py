"""Calls to phoenixd's HTTP API: forms in; out comes JSON where things went well, and plain text where they did not."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from websockets.asyncio.client import connect

from rail402.errors import ConfigurationError, OutcomeUnknown, RailUnavailable
from rail402.protocol.base import Json
from rail402_lightning.backends.connections import checked_url, shown
from rail402_lightning.backends.http_calls import HttpCalls
from rail402_lightning.backends.lnbits_api import Connect

__all__ = ["Answer", "PasswordRefused", "PhoenixdApi"]

_WHO: Final = "phoenixd"
_TIMEOUT: Final = 10
_MAX_MESSAGE: Final = 1 << 16


class PasswordRefused(RailUnavailable):
    """phoenixd does not accept the password, or not for this; it did nothing."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of phoenixd.

    Attributes:
        status: the HTTP status.
        body: the JSON object of an answer of 200, else empty.
        detail: the words of any other answer, without anything that could be a secret.
    """

    status: int
    body: Json = field(default_factory=dict, repr=False)
    detail: str = ""

    def expect(self) -> Json:
        """Return the body of an answer of 200.

        Raises:
            RailUnavailable: it is another one.
        """
        if self.status != 200:
            raise self.error()
        return self.body

    def error(self) -> RailUnavailable:
        """Return what an answer other than 200 is."""
        if self.status in (401, 403):
            return PasswordRefused(
                f"phoenixd refuses the password ({self.status}); it is http-password in its phoenix.conf, or "
                "http-password-limited-access, which cannot pay"
            )
        return RailUnavailable(f"phoenixd answered {self.status}: {self.detail}")


class PhoenixdApi:
    """One phoenixd.

    Args:
        url: its address; `http://` only in a private network, because the password is sent along.
        password: `http-password`, or `http-password-limited-access`. Secret.
        transport: what requests are sent through, and connect: what websockets are opened by, for tests.

    Raises:
        ConfigurationError: the address cannot be used, or there is no password.
    """

    def __init__(
        self, url: str, password: str, *, transport: httpx.AsyncBaseTransport | None = None, connect: Connect = connect
    ) -> None:
        self.url = checked_url(url, of=_WHO, example="http://127.0.0.1:9740", credential="password")
        if not password or not password.isascii() or not password.isprintable():
            raise ConfigurationError("the password of phoenixd must be the one in its phoenix.conf")
        auth = httpx.BasicAuth("", password)
        self._calls = HttpCalls(_WHO, self.url, credential="password", auth=auth, transport=transport)
        self._auth, self._connect = auth, connect

    def __repr__(self) -> str:
        return f"PhoenixdApi({self.url!r})"

    async def close(self) -> None:
        """Close the connections; a further call opens new ones."""
        await self._calls.close()

    async def get(self, path: str) -> Answer:
        """Read something.

        Raises:
            RailUnavailable: there is no answer that can be read.
        """
        try:
            return await self._call("GET", path, timeout=_TIMEOUT)
        except OutcomeUnknown as error:
            raise RailUnavailable(error.detail) from error

    async def post(self, path: str, form: Mapping[str, str], *, timeout: float = _TIMEOUT) -> Answer:
        """Have something done; `timeout` in seconds.

        Raises:
            RailUnavailable: phoenixd never got it.
            OutcomeUnknown: it may have, and there is no answer that can be read.
        """
        return await self._call("POST", path, timeout=timeout, data=dict(form))

    async def _call(self, method: str, path: str, *, timeout: float, **content: Any) -> Answer:
        reply = await self._calls.call(method, path, timeout=timeout, **content)
        if reply.status == 200:
            return Answer(200, reply.json(_WHO))
        return Answer(reply.status, detail=shown(reply.content.decode("utf-8", errors="replace")))

    def listen(self, path: str, *, timeout: float) -> AbstractAsyncContextManager[Any]:
        """Return a websocket to open with `async with`, in `timeout` seconds; it raises one of `STREAM_LOST`."""
        signed = next(self._auth.auth_flow(httpx.Request("GET", self.url)))
        return self._connect(
            f"ws{self.url.removeprefix('http')}{path}",
            additional_headers={"Authorization": signed.headers["Authorization"]},
            ssl=self._calls.tls(),
            open_timeout=timeout,
            close_timeout=1,
            max_size=_MAX_MESSAGE,
            compression=None,
        )
