"""A tool call of the Model Context Protocol as the gate's flow sees it: what it asks to buy, and how it is answered.

JSON only: what an SDK makes of it is its own business. x402 and MPP answer an unpaid call in different ways, and one
answer cannot be both. A call gets the error of MPP (-32042) where it brings a credential of MPP, or where its client
has announced the capability `experimental.payment`; any other gets the result of x402, which has the challenges of MPP
in its `_meta` as well: that is where mppx looks for them too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Literal
from urllib.parse import quote

from rail402.dialects._base64_json import compact_json
from rail402.dialects.mpp import Mpp
from rail402.dialects.x402_v2 import X402V2
from rail402.errors import MalformedInput, Rail402Error
from rail402.mcp import CHARGE, CODE, IDEMPOTENCY_KEY, RECEIPT, REPLAYED, MppMcp, X402Mcp
from rail402.mcp.mpp import CREDENTIAL, PAYMENT_REQUIRED_META
from rail402.mcp.x402 import PAYMENT
from rail402.protocol.base import Json, canonical_json, sha256_hex
from rail402.protocol.challenge import Challenge
from rail402.protocol.charge import Charge, PaymentState
from rail402.protocol.dialect import Fields
from rail402.protocol.order import TOOL_CALL, Order
from rail402.protocol.payment import Payment
from rail402.server.exchange import Exchange, read_each
from rail402.server.request import Message, Scope, context_of, slot_of
from rail402.server.services import Services
from rail402.server.settings import Rule

__all__ = ["Asks", "ToolCall", "ToolExchange"]

Asks = Literal["auto", "x402", "mpp"]
"""How an unpaid call is answered: as its client wants it, or always the way of one of them that can say an offer."""

_CAPABILITY: Final = "payment"
_MALFORMED: Final = -32602
_INTERNAL: Final = -32603


class ToolCall:
    """What one `tools/call` says.

    Its order has the method `TOOL_CALL`, the URL `<server>/tool/<name>`, and in place of a body's digest that of the
    arguments, in canonical JSON (RFC 8785).

    Args:
        params: its `params`.
        server: the origin that payers see, which nothing has to answer at.
        tool: the tool's own name, where one is called in the course of another one's call.
        scope: the ASGI scope of the HTTP request that it came in; nothing where it came otherwise.
        most: bytes of canonical arguments that are taken.

    Raises:
        MalformedInput: the arguments cannot be said in canonical JSON, or are too long; or the idempotency key is no
            printable text.
    """

    preference = ""

    def __init__(
        self, params: Json, *, server: str, most: int, tool: str | None = None, scope: Scope | None = None
    ) -> None:
        self.scope: Scope = {} if scope is None else scope
        self.name: str = params["name"]
        self.arguments: Json = params.get("arguments") or {}
        self.meta: Json = params.get("_meta") or {}
        self.context = context_of(Fields.from_raw(self.scope.get("headers", ())))
        try:
            arguments = canonical_json(self.arguments)
        except (ValueError, RecursionError) as error:
            problem = "hold a number or a text that canonical JSON cannot say"
            raise MalformedInput("arguments", problem, code="malformed_request") from error
        if len(arguments) > most:
            raise MalformedInput("arguments", f"are longer than {most} bytes", code="body_too_large")
        self.order = Order(
            method=TOOL_CALL,
            url=f"{server}/tool/{quote(self.name, safe='')}",
            route=f"tools/call {tool or self.name}",
            body_digest=sha256_hex(arguments),
        )
        key = self.meta.get(IDEMPOTENCY_KEY)
        if not (key is None or (isinstance(key, str) and key.isprintable())):
            raise MalformedInput(IDEMPOTENCY_KEY, "must be a printable text", code="malformed_request")
        self.slot = "" if key is None else slot_of(self.order, key)


class ToolExchange(Exchange):
    """A tool call and its answer. The body of a response is the JSON of a result, and its head says whether it failed.

    Args:
        call: what is asked.
        asks: how an unpaid call is answered.
        experimental: the experimental capabilities that the client announced.

    Attributes:
        result: the answer, where it is a result and not what the tool has just made.
        error: the answer, where it is a JSON-RPC error: `code`, `message` and `data`.
        meta: what the `_meta` of a tool's result says of its charge.
    """

    def __init__(self, services: Services, rule: Rule, call: ToolCall, asks: Asks, experimental: Json | None) -> None:
        self.request: ToolCall = call
        self.result: dict[str, Any] | None = None
        self.error: dict[str, Any] | None = None
        self._services, self._asks = services, asks
        self._x402, self._mpp = _codecs(services, rule)
        self._announces_mpp = _CAPABILITY in (experimental or {})
        self.meta: dict[str, Any] = {}

    def payments(self) -> list[Payment]:
        context, meta = self._services.context(), self.request.meta
        readers: list[Callable[[], Payment | None]] = []
        if self._x402 is not None:
            readers.append(partial(self._x402.payment, meta, context))
        if self._mpp is not None:
            readers.append(partial(self._mpp.payment, {"params": {"_meta": meta}}, context))
        return read_each(partial(_shown, read) for read in readers)

    async def ask(self, challenge: Challenge, charge: Charge | None, payment: Payment | None) -> None:
        context = self._services.context()
        result = None if self._x402 is None else self._x402.result(_named_as_x402_does(challenge), context)
        error = None if self._mpp is None else self._mpp.error(challenge, context)
        told = self._told(challenge.code, charge, payment)
        if error is not None and (result is None or self._wants_mpp):
            self.error = {**error, "data": {**error["data"], **told}}
        elif result is not None:
            mpp = {} if error is None else {PAYMENT_REQUIRED_META: error["data"]}
            self.result = {**result, "_meta": {**mpp, **told}}
        else:
            unsaid = Rail402Error(
                challenge.detail or "nothing that it costs can be said here", code="method_not_offered"
            )
            await self.refuse(unsaid, charge, payment)

    async def refuse(self, error: Rail402Error, charge: Charge | None, payment: Payment | None) -> None:
        told, status = self._told(error.code, charge, payment), error.status
        retry = {"retryAfter": error.retry_after or 2} if error.retryable else {}
        if self._wants_mpp:
            code = _MALFORMED if isinstance(error, MalformedInput) else _INTERNAL
            problem = error.reason.problem(error.detail, status=status)
            self.error = {
                "code": code,
                "message": str(error),
                "data": {"httpStatus": status, "problem": problem, **retry, **told},
            }
            return
        said = {"error": str(error), "code": error.code, "status": status, **retry}
        content = [{"type": "text", "text": compact_json(said).decode()}]
        self.result = {"isError": True, "content": content, "structuredContent": said, "_meta": told}

    async def begin(self, head: Message, charge: Charge, payment: Payment | None, *, replayed: bool = False) -> None:
        self.meta = _charge(charge)
        if payment is not None:
            self.meta |= {**self._receipt(charge, payment), RECEIPT: charge.receipt}
        if replayed:
            self.meta[REPLAYED] = True

    async def send(self, message: Message) -> None:
        if REPLAYED in self.meta:  # in one message; of any other response the tool's own result is at hand
            result = json.loads(message["body"])
            self.result = {**result, "_meta": {**(result.get("_meta") or {}), **self.meta}}

    @property
    def _wants_mpp(self) -> bool:
        if self._mpp is None or self._x402 is None:
            return self._x402 is None
        if PAYMENT in self.request.meta or CREDENTIAL in self.request.meta:
            return CREDENTIAL in self.request.meta
        return self._announces_mpp if self._asks == "auto" else self._asks == "mpp"

    def _told(self, code: str, charge: Charge | None, payment: Payment | None) -> dict[str, Any]:
        """Return the reason, what a refusal says of its charge, and how its dialect says that it did not settle."""
        if charge is None:
            return {CODE: code}
        told = {CODE: code, **_charge(charge)}
        if payment is not None and charge.payment is not PaymentState.SETTLED:
            told |= self._receipt(charge, payment)
        return told

    def _receipt(self, charge: Charge, payment: Payment) -> Mapping[str, Any]:
        codec = self._mpp if payment.dialect == Mpp.name else self._x402
        assert codec is not None
        return codec.receipt(charge, payment, self._services.context())


def _codecs(services: Services, rule: Rule) -> tuple[X402Mcp | None, MppMcp | None]:
    """Return how the route's dialects travel in tool calls; its other dialects do not."""
    spoken = services.dialects_of(rule)
    x402 = next((X402Mcp(dialect) for dialect in spoken if isinstance(dialect, X402V2)), None)
    mpp = next((MppMcp(dialect) for dialect in spoken if isinstance(dialect, Mpp)), None)
    return x402, mpp


def _shown(read: Callable[[], Payment | None]) -> list[Payment]:
    payment = read()
    return [] if payment is None else [payment]


def _named_as_x402_does(challenge: Challenge) -> Challenge:
    """Return the challenge with the URL that x402 gives to a tool."""
    order = challenge.order
    named = order.model_copy(update={"url": f"mcp:/{order.url.removeprefix(order.origin)}"})
    return challenge.model_copy(update={"order": named})


def _charge(charge: Charge) -> dict[str, Any]:
    return {CHARGE: {"id": charge.id, "payment": charge.payment.value}}
