"""Calls to clnrest, the plugin of Core Lightning: `POST /v1/<method>` with a rune, JSON in and out."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx

from rail402.errors import ConfigurationError, OutcomeUnknown, RailUnavailable
from rail402.protocol.base import Json
from rail402_lightning.backends.connections import checked_url, pinned_tls, shown
from rail402_lightning.backends.http_calls import HttpCalls

__all__ = ["ClnApi", "ClnError", "RuneRefused", "UnknownMethod", "millisatoshis"]

_WHO: Final = "Core Lightning"
_TIMEOUT: Final = 10
_DONE: Final = frozenset({200, 201})
_UNKNOWN_METHOD: Final = -32601

# clnrest may answer with these before the method is called, and with no others.
_REFUSED: Final = frozenset({401, 403})
_NO_SUCH: Final = frozenset({404, 405})


class ClnError(RailUnavailable):
    """Core Lightning answered with an error.

    Attributes:
        rpc_code: see the manual page of the method; None where clnrest itself failed.
        message: its own words, without anything that could be a secret.
    """

    def __init__(self, rpc_code: int | None, message: str) -> None:
        self.rpc_code, self.message = rpc_code, message
        super().__init__(f"Core Lightning answered: {message} (code {rpc_code})")


class RuneRefused(ClnError):
    """The rune is not accepted, or not for this method; nothing was done."""


class UnknownMethod(ClnError):
    """This Core Lightning has no such method; nothing was done."""


class ClnApi:
    """One Core Lightning, by its clnrest.

    Args:
        url: the address of clnrest; `http://` only in a private network, because the rune is sent along.
        rune: says what may be called. Secret.
        tls_cert: clnrest's own authority, `ca.pem`, as a path or as PEM text; None where its certificate is a public
            one.
        transport: what requests are sent through, for tests.

    Raises:
        ConfigurationError: address, rune or certificate cannot be used.
    """

    def __init__(
        self,
        url: str,
        rune: str,
        *,
        tls_cert: str | Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = checked_url(url, of="clnrest", example="https://127.0.0.1:3010", credential="rune")
        if not rune or not rune.isascii() or not rune.isprintable() or " " in rune:
            raise ConfigurationError("the rune must be one that lightning-cli createrune made")
        tls: ssl.SSLContext | None = pinned_tls(tls_cert, of="the node's ca.pem")
        headers = {"Rune": rune, "Accept": "application/json"}
        self._calls = HttpCalls(_WHO, self.url, credential="rune", headers=headers, tls=tls, transport=transport)

    def __repr__(self) -> str:
        return f"ClnApi({self.url!r})"

    async def close(self) -> None:
        """Close the connections; a further call opens new ones."""
        await self._calls.close()

    async def ask(self, method: str, params: Json | None = None) -> Json:
        """Call a method that changes nothing.

        Raises:
            ClnError: Core Lightning answered with an error.
            RailUnavailable: there is no answer that can be read.
        """
        try:
            return await self.do(method, params or {})
        except OutcomeUnknown as error:
            raise RailUnavailable(error.detail) from error

    async def do(self, method: str, params: Json, *, timeout: float = _TIMEOUT) -> Json:
        """Call a method; `timeout` in seconds.

        Raises:
            ClnError: Core Lightning answered with an error.
            RailUnavailable: it never got the call.
            OutcomeUnknown: it may have, and there is no answer that can be read.
        """
        reply = await self._calls.call("POST", f"/v1/{method}", timeout=timeout, json=dict(params))
        body = reply.json(_WHO)
        if reply.status in _DONE:
            return body
        raise _error(reply.status, body)


def _error(status: int, body: Json) -> ClnError | OutcomeUnknown:
    """Return what an answer is that holds no result. What has not the form of an error comes from something else."""
    error = body.get("error")
    said: Mapping[str, Any] = error if isinstance(error, dict) else body
    code, message = said.get("code"), said.get("message")
    if not isinstance(message, str) or not (code is None or type(code) is int):
        return OutcomeUnknown(f"Core Lightning answered {status} in a form that is not known here")
    if status in _REFUSED:
        return RuneRefused(code, shown(message))
    if status in _NO_SUCH and code == _UNKNOWN_METHOD:
        return UnknownMethod(code, shown(message))
    return ClnError(code, shown(message))


def millisatoshis(members: Json, name: str) -> int:
    """Return an amount, which older versions write as `"1000msat"`.

    Raises:
        RailUnavailable: it is none.
    """
    value = members.get(name)
    if isinstance(value, str):
        digits = value.removesuffix("msat")
        value = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 20 else None
    if type(value) is not int or value < 0:
        raise RailUnavailable(f"Core Lightning sent no amount as {name}")
    return value
