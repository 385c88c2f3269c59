"""Tools of other servers of the Model Context Protocol, paid for within a payer's limits. Needs the extra `mcp`.

A call travels as an HTTP request through the payer's transport, so that budget, journal, approval and receipts are the
same as everywhere: `_Carrier` stands where the network would be, and makes a tool call of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import quote

import httpx
from mcp.shared.exceptions import MCPError
from mcp.types import CONNECTION_CLOSED, REQUEST_TIMEOUT, CallToolResult

from rail402.client.httpx import AT_MOST, EXTENSION, METHOD, TOOL
from rail402.client.payer import Payer
from rail402.client.records import Purchase
from rail402.dialects._base64_json import compact_json
from rail402.errors import ConfigurationError, MalformedInput
from rail402.mcp import CODE, IDEMPOTENCY_KEY, RECEIPT, MppMcp, X402Mcp
from rail402.money import Money
from rail402.protocol.base import canonical_json, sha256_hex
from rail402.protocol.dialect import Fields
from rail402.protocol.order import TOOL_CALL

__all__ = ["Called", "PayingSession", "Session"]

_CALL: Final = "rail402_tool_call"
_ERROR: Final = "rail402_mcp_error"
_RECEIPT: Final = "Receipt-Record"
_PAYMENTS: Final = ("payment-signature", "authorization", "payment-authorization")
_LOST: Final = (CONNECTION_CLOSED, REQUEST_TIMEOUT)
"""The errors by which the session itself says that there is no answer."""

_UNREADABLE: Final = (RuntimeError, ValueError)
"""What a session raises over an answer that it cannot read, or that is not of the tool's own schema."""

_Fields = list[tuple[str, str]]


class Session(Protocol):
    """What calls are made on: `mcp.Client`, or `mcp.ClientSession`."""

    async def call_tool(
        self, name: str, arguments: dict[str, Any] | None = None, *, meta: Any = None, **options: Any
    ) -> Any: ...


@dataclass(frozen=True, slots=True)
class Called:
    """What a call has come to.

    Attributes:
        result: what the tool answers.
        purchase: what was bought by it; None where it was free.
    """

    result: CallToolResult
    purchase: Purchase | None


class PayingSession:
    """Calls tools, and pays for those that ask for it.

    Args:
        payer: pays, and stays open.
        session: is connected to the server.
        server: the origin by which budget, pins and receipts know the server: of its URL, where it has one.
        inner: what the keys of receipts are fetched through; over the network if left out.
    """

    def __init__(
        self, payer: Payer, session: Session, server: str, *, inner: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._server = server.rstrip("/")
        self._paying = payer.transport(_Carrier(session, inner))

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        at_most: str | Money | None = None,
        agent: str | None = None,
        **options: Any,
    ) -> Called:
        """Call a tool, and pay for it within the budget if it asks for that; each purchase once.

        Args:
            at_most: the most that this call may cost; never more than the budget allows.
            agent: for whom it is called, which rules of the budget may limit.
            options: what the session's own `call_tool` takes besides, such as `progress_callback`.

        Raises:
            ClientError: it was not bought, or not surely; `outcome` says what became of the money. The same call goes
                on with the same payment.
            StoreError: the journal cannot be used.
            MalformedInput: the arguments cannot be said in canonical JSON, to which a payment is bound.
            MCPError: the server answers with an error.
        """
        given = dict(arguments or {})
        try:
            content = canonical_json(given)
        except (ValueError, RecursionError) as error:
            raise MalformedInput("arguments", "hold a number or a text that canonical JSON cannot say") from error
        extensions: dict[str, Any] = {_CALL: _Call(name, given, options), METHOD: TOOL_CALL}
        extensions |= {} if at_most is None else {AT_MOST: at_most}
        extensions |= {} if agent is None else {TOOL: agent}
        url = f"{self._server}/tool/{quote(name, safe='')}"
        request = httpx.Request("POST", url, content=content, extensions=extensions)
        response = await self._paying.handle_async_request(request)
        failure: MCPError | None = response.extensions.get(_ERROR)
        if failure is not None:
            raise failure
        return Called(CallToolResult.model_validate_json(response.content), response.extensions.get(EXTENSION))


@dataclass(slots=True)
class _Call:
    """One call, and the last answer with challenges that can be read."""

    name: str
    arguments: dict[str, Any]
    options: Mapping[str, Any]
    asked: Mapping[str, Any] | None = None


class _Carrier(httpx.AsyncBaseTransport):
    """Makes tool calls of requests, and responses of their answers."""

    def __init__(self, session: Session, inner: httpx.AsyncBaseTransport | None) -> None:
        self._session, self._inner = session, inner
        self._x402, self._mpp = X402Mcp(), MppMcp()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        call = request.extensions.get(_CALL)
        if not isinstance(call, _Call):  # the keys of receipts
            return await self._fetched(request)
        fields = Fields.from_raw(request.headers.raw)
        meta = {**self._x402.meta_of(fields), **self._mpp.meta_of(fields, call.asked or {})}
        if meta:  # a payment is for one call, so that it names that call whenever it is made again
            shown = [value for name in _PAYMENTS for value in fields.all(name)]
            meta[IDEMPOTENCY_KEY] = sha256_hex(" ".join(shown).encode())
        try:
            result = await self._session.call_tool(call.name, call.arguments, meta=meta or None, **call.options)
        except MCPError as error:
            if meta and error.code in _LOST:
                raise httpx.ReadError(str(error), request=request) from error
            return self._refused(call, error)
        except _UNREADABLE as error:
            if meta:  # what became of the payment nobody knows
                raise httpx.ReadError(str(error), request=request) from error
            raise
        return self._answered(call, result.model_dump(mode="json", by_alias=True, exclude_none=True))

    async def _fetched(self, request: httpx.Request) -> httpx.Response:
        if self._inner is not None:
            return await self._inner.handle_async_request(request)
        async with AsyncExitStack() as opened:
            own = await opened.enter_async_context(httpx.AsyncHTTPTransport())
            response = await own.handle_async_request(request)
            response.stream = _Closing(response.stream, opened.pop_all())
            return response

    def _answered(self, call: _Call, said: Mapping[str, Any]) -> httpx.Response:
        """Return the response of a tool's result: 402 where it asks to be paid, an error's status where it is one."""
        meta = said.get("_meta") or {}
        fields = [*_read(lambda: self._x402.fields_of(said)), *self._challenges(call, {"result": said})]
        if fields:
            return _response(402, {"code": meta.get(CODE)}, fields)
        receipt = meta.get(RECEIPT)
        fields = [(_RECEIPT, receipt)] if isinstance(receipt, str) and receipt.isascii() else []
        status = 200
        if said.get("isError"):
            status = _status(said.get("structuredContent"), "status") if CODE in meta else 500
        return _response(status, said, fields)

    def _refused(self, call: _Call, error: MCPError) -> httpx.Response:
        """Return the response of an error: 402 where it asks to be paid; else the caller gets it in the end."""
        data = error.data if isinstance(error.data, dict) else {}
        fields = self._challenges(call, {"error": {"code": error.code, "data": error.data}})
        if fields:
            return _response(402, {"code": data.get(CODE)}, fields)
        response = _response(_status(data, "httpStatus"), {"code": data.get(CODE)}, [])
        response.extensions = {_ERROR: error}
        return response

    def _challenges(self, call: _Call, asked: Mapping[str, Any]) -> _Fields:
        """Return the challenges of an answer, and keep it: they go back as they came."""
        fields = _read(lambda: self._mpp.fields_of(asked))
        if fields:
            call.asked = asked
        return fields


class _Closing(httpx.AsyncByteStream):
    """A body that closes its transport in the end."""

    def __init__(self, inner: object, opened: AsyncExitStack) -> None:
        assert isinstance(inner, httpx.AsyncByteStream)
        self._inner, self._opened = inner, opened

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            yield chunk

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            await self._opened.aclose()


def _read(read: Callable[[], _Fields]) -> _Fields:
    """Return the terms that `read` finds; what it cannot read are none."""
    try:
        return read()
    except (MalformedInput, ConfigurationError):  # or it cannot stand in a header
        return []


def _status(said: Any, name: str) -> int:
    """Return the status that an error names; that of a server's mistake where it names none."""
    status = said.get(name) if isinstance(said, dict) else None
    return status if type(status) is int and 400 <= status < 600 and status != 402 else 500


def _response(status: int, body: Mapping[str, Any], fields: _Fields) -> httpx.Response:
    return httpx.Response(status, headers=fields, content=compact_json(dict(body)))
