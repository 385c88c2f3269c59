"""Tools that cost something, on a server of the Model Context Protocol. Needs the extra `mcp`.

    server, gate = MCPServer("weather"), Gate(rails=[...], public_url="https://weather.example")

    @server.tool()
    @paid_tool(gate, "0.01 USD")
    async def forecast(city: str, context: Context) -> str: ...

A tool that raises, or returns an error, is not paid for. `tools/list` tells the price where the tool gets it there:

    sold = paid_tool(gate, "0.01 USD")

    @server.tool(meta=sold.meta)
    @sold
    async def forecast(city: str, context: Context) -> str: ...

The gate starts with the first call; close it with the server: `async with gate: ...`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, ParamSpec, get_args
from weakref import WeakKeyDictionary

import anyio.to_thread
from mcp.server import ServerRequestContext
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ResourceError, ToolError
from mcp.server.mcpserver.utilities.context_injection import find_context_parameter
from mcp.server.mcpserver.utilities.func_metadata import func_metadata
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolRequestParams, CallToolResult, InputRequiredResult, TextContent

from rail402.errors import ConfigurationError, GateNotInstalled, MalformedInput
from rail402.money import Money, as_money
from rail402.protocol.charge import Charge
from rail402.protocol.offer import Flow
from rail402.server.challenge import price_of
from rail402.server.delivery import Delivery
from rail402.server.gate import Gate
from rail402.server.request import Send
from rail402.server.settings import Price, Receipts, Rule
from rail402.server.tool_calls import Asks, ToolCall, ToolExchange
from rail402.server.tool_prices import SPOKEN, price_meta, price_sentence
from rail402.server.visit import Visit

__all__ = [
    "PaidTool",
    "current_charge",
    "paid_call_tool",
    "paid_tool",
    "price_meta",
    "price_sentence",
    "reduce_charge",
]

logger = logging.getLogger("rail402.server")

P = ParamSpec("P")
Result = CallToolResult | InputRequiredResult
CallTool = Callable[[ServerRequestContext[Any, Any], CallToolRequestParams], Awaitable[Result]]

_CONTEXT: Final = "rail402_context"
_PRICES: Final = WeakKeyDictionary[Gate, dict[str, object]]()
_running: ContextVar[tuple[Charge | None, Delivery | None]] = ContextVar("rail402_running_tool")


def paid_tool(
    gate: Gate,
    price: Price,
    *,
    rails: Sequence[str] | None = None,
    flow: Flow | str | None = None,
    receipt: Receipts | None = None,
    description: str = "",
    asks: Asks = "auto",
) -> PaidTool:
    """Put a price on a tool of an `MCPServer` (FastMCP); goes below `@server.tool()`.

    Arguments that do not fit the tool's schema are refused before anybody pays. A tool that asks its user for something
    (elicitation) is paid for once, with the call that it answers; where it raises because the user declines, it has
    failed, and the money is released or goes back as after any failure. With `upfront` it is taken before the question,
    and kept where nobody ever answers. What a parameter asks by `Resolve` comes before the price.

    Args:
        price: `"0.01 USD"`, a `Money`, or a function of the call's arguments (a mapping, with the values that the tool
            gets) that returns one of them, or None where the call is free.
        rails, flow, receipt, description: see `Gate.paid`.
        asks: how an unpaid call is answered; see `tool_calls.py`.

    Raises:
        ConfigurationError: a setting is wrong, the gate speaks neither x402 v2 nor MPP, or it sells another tool of
            that name at another price.
    """
    till = _Till(gate, asks)
    spoken = [name for name in SPOKEN if name in gate.dialects]
    rule = gate.rule(price, rails=rails, dialects=spoken, flow=flow, receipt=receipt, description=description)
    return PaidTool(till, rule, price_meta(gate, rule), price_sentence(gate, rule))


class PaidTool:
    """A decorator that puts a price on a tool; see `paid_tool`.

    Attributes:
        meta: what `tools/list` says of the price, for `@server.tool(meta=...)`; see `price_meta`.
        sentence: the same in words, for a description that the author writes.
    """

    def __init__(self, till: _Till, rule: Rule, meta: dict[str, Any], sentence: str) -> None:
        self._till, self._rule, self.meta, self.sentence = till, rule, meta, sentence

    def __call__(self, tool: Callable[P, Any]) -> Callable[P, Awaitable[Result]]:
        """Return the tool as it is sold."""
        till, rule = self._till, self._rule
        till.enter(tool.__name__, rule.price)
        signature = inspect.signature(tool, eval_str=True)
        convert = func_metadata(tool, skip_names=list(signature.parameters)).convert_result
        own_context = find_context_parameter(tool)

        @functools.wraps(tool)
        async def paid(*args: P.args, **kwargs: P.kwargs) -> Result:
            context: Any = kwargs.pop(_CONTEXT) if own_context is None else kwargs[own_context]

            async def run() -> Result:
                return convert(await _called(tool, args, kwargs))

            asked: ServerRequestContext[Any, Any] = context.request_context
            named = signature.bind(*args, **kwargs).arguments  # as the schema has read them: "yes" may be True by now
            given = {name: value for name, value in named.items() if name != own_context}
            return await till.sell(rule, asked, tool.__name__, lambda: _answered(run(), tool.__name__), given)

        if own_context is None:
            last = inspect.Parameter(_CONTEXT, inspect.Parameter.KEYWORD_ONLY, annotation=Context)
            paid.__signature__ = signature.replace(  # type: ignore[attr-defined]
                parameters=[*signature.parameters.values(), last]
            )
            paid.__annotations__ = {**tool.__annotations__, _CONTEXT: Context}
        return paid


def paid_call_tool(gate: Gate, tools: Mapping[str, Rule], *, asks: Asks = "auto") -> Callable[[CallTool], CallTool]:
    """Put prices on tools of the low-level `Server`: wrap what it gets as `on_call_tool`.

    Args:
        tools: what each of them asks, by name; see `Gate.rule`. The others are free.
        asks: how an unpaid call is answered; see `tool_calls.py`.

    Raises:
        ConfigurationError: the gate speaks neither x402 v2 nor MPP, or sells another tool of a name at another price.
    """
    till = _Till(gate, asks)
    for name, rule in tools.items():
        till.enter(name, rule.price)

    def decorate(call_tool: CallTool) -> CallTool:
        @functools.wraps(call_tool)
        async def paid(context: ServerRequestContext[Any, Any], params: CallToolRequestParams) -> Result:
            rule = tools.get(params.name)
            if rule is None:
                return await call_tool(context, params)
            return await till.sell(rule, context, params.name, lambda: call_tool(context, params))

        return paid

    return decorate


def current_charge() -> Charge | None:
    """Return the charge that pays for the tool that is running, as `Gate.charge` does on routes; None where the call is
    free.

    Raises:
        GateNotInstalled: no paid tool is running.
    """
    return _current()[0]


def reduce_charge(price: str | Money) -> bool:
    """Ask less than the price for the tool that is running, as `Gate.reduce` does on routes; see there.

    Returns:
        Whether only `price` is taken.

    Raises:
        ConfigurationError: `price` is nothing, more than the price, or in another currency.
        GateNotInstalled: no paid tool is running.
    """
    _, delivery = _current()
    return delivery is not None and delivery.reduce(as_money(price))


def _current() -> tuple[Charge | None, Delivery | None]:
    try:
        return _running.get()
    except LookupError:
        raise GateNotInstalled("no paid tool is running") from None


@contextmanager
def _paid_by(charge: Charge | None, delivery: Delivery | None) -> Iterator[None]:
    token = _running.set((charge, delivery))
    try:
        yield
    finally:
        _running.reset(token)


class _Till:
    """Sells the tools of one gate."""

    def __init__(self, gate: Gate, asks: Asks) -> None:
        if asks not in get_args(Asks):
            raise ConfigurationError(f"asks={asks!r} must be one of {', '.join(get_args(Asks))}")
        if gate.dialects.isdisjoint(SPOKEN):
            raise ConfigurationError(f"a tool is paid for by {' or '.join(SPOKEN)}, and this gate speaks neither")
        self._gate, self._asks = gate, asks

    def enter(self, tool: str, price: Price) -> None:
        """Note what a tool costs. Several servers may sell it (one for each session, say), at one price.

        ConfigurationError: a tool of that name has another price here, so that an offer for one pays for the other.
        """
        # A function that is made anew for each session goes by its name.
        known = getattr(price, "__qualname__", type(price)) if callable(price) else as_money(price)
        if _PRICES.setdefault(self._gate, {}).setdefault(tool, known) != known:
            raise ConfigurationError(
                f"two tools of one gate are called {tool} and have two prices: give each server a gate of its own"
            )

    async def sell(
        self,
        rule: Rule,
        context: ServerRequestContext[Any, Any],
        tool: str,
        run: Callable[[], Awaitable[Result]],
        given: Mapping[str, Any] | None = None,
    ) -> Result:
        """Answer a call; `run` makes what it asks for.

        Args:
            given: the arguments as the tool gets them, for its price; nothing where it gets them as they came.

        Raises:
            MCPError: it has to be paid, or was not accepted, and its client speaks MPP; or the tool raised it.
        """
        if not self._gate.started:
            await self._gate.start()
        services, http = self._gate.services(), context.request
        capabilities = context.session.client_capabilities
        try:
            call = ToolCall(
                context.params or {},
                server=services.settings.public_url,
                most=services.settings.max_body,
                tool=tool,
                scope=None if http is None else http.scope,
            )
            price = await price_of(rule, lambda: call.arguments if given is None else given)
        except MalformedInput as error:
            return CallToolResult(content=[TextContent(text=str(error))], is_error=True)
        if price is None:
            with _paid_by(None, None):
                return await run()
        exchange = ToolExchange(
            services, rule, call, self._asks, None if capabilities is None else capabilities.experimental
        )
        made: list[Result] = []

        async def handle(send: Send, charge: Charge, delivery: Delivery | None) -> None:
            with _paid_by(charge, delivery):
                result = await run()
            made.append(result)
            done = isinstance(result, CallToolResult) and not result.is_error
            if delivery is not None and isinstance(result, InputRequiredResult):
                delivery.interrupt()
            body = result.model_dump_json(by_alias=True, exclude_none=True).encode()
            length = (b"content-length", str(len(body)).encode())
            await send({"type": "http.response.start", "status": 200 if done else 500, "headers": [length]})
            await send({"type": "http.response.body", "body": body})

        await Visit(services, rule, price, exchange).run(handle)
        if exchange.error is not None:
            raise MCPError(**exchange.error)
        if exchange.result is not None:
            return CallToolResult.model_validate(exchange.result)
        return made[0].model_copy(update={"meta": {**(made[0].meta or {}), **exchange.meta}})


async def _called(tool: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call a tool; one that is no coroutine function runs in a thread, as it does without a price."""
    if inspect.iscoroutinefunction(tool):
        return await tool(*args, **kwargs)
    return await anyio.to_thread.run_sync(functools.partial(tool, *args, **kwargs))


async def _answered(running: Awaitable[Result], name: str) -> Result:
    """Return what a tool returns, or the error that it raises as the result that the SDK would make of it: what became
    of the payment is told with it.

    Raises:
        MCPError: the tool answers with an error of the protocol.
    """
    (outcome,) = await asyncio.gather(running, return_exceptions=True)
    if not isinstance(outcome, BaseException):
        return outcome
    if isinstance(outcome, MCPError) or not isinstance(outcome, Exception):
        raise outcome
    text = f"Error executing tool {name}"
    if isinstance(outcome, ToolError | ResourceError):
        text = f"{text}: {outcome}"
    else:  # its own text stays here
        logger.error("tool %r raised an unexpected exception", name, exc_info=outcome)
    return CallToolResult(content=[TextContent(text=text)], is_error=True)
