"""The goods as a tool of MCP: the tool, the agent's calls of it, and what a stranger is told who makes them again."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import httpx
import httpx2
from fastapi import FastAPI
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp.types import TextContent

from rail402 import Gate, Payer
from rail402.errors import Rail402Error
from rail402.mcp import CHARGE, CODE, REPLAYED
from rail402.mcp.mpp import CREDENTIAL
from rail402.mcp.x402 import PAYMENT
from rail402.protocol.charge import Charge
from rail402.server.mcp import current_charge, paid_tool
from rail402.tools.mcp_client import PayingSession
from tests.crashes.scenarios import PRICES, Ending
from tests.crashes.servers import HarnessFailed
from tests.crashes.steps import Steps
from tests.crashes.world import TOOLS, World, lines, note

__all__ = ["app_with_tool", "call_tool", "run_of", "said_by_tool"]

_RECONNECTS: Final = 8
_SECONDS: Final = 1
_PLAIN: Final = {"host", "accept-encoding", "connection", "user-agent", "content-length"}


# --- the shop


@contextmanager
def run_of(world: World, charge: Charge | None, steps: Steps) -> Iterator[tuple[Ending, str]]:
    """One run of the handler, or of the tool: how it ends, and what it says."""
    assert charge is not None
    note(world.runs, charge.id)
    steps("the handler has begun")
    run, endings = len(lines(world.runs)), world.scenario.handler
    try:
        yield endings[min(run, len(endings)) - 1], f"run {run} of {charge.id}"
    finally:
        steps("the handler has ended")


def app_with_tool(world: World, gate: Gate, steps: Steps) -> FastAPI:
    """An app that sells the goods as a tool, over streamable HTTP. Each call is a request of its own that is answered
    with JSON, so that who overheard it can make it again."""
    server = MCPServer("shop", log_level="ERROR")

    @server.tool()
    @paid_tool(gate, PRICES[world.scenario.bank], flow=world.scenario.flow)
    async def goods() -> str:
        with run_of(world, current_charge(), steps) as (ending, text):
            if ending == "fails":
                raise ToolError("out of goods")
            if ending == "raises":
                raise RuntimeError("the tool is broken")
            return text

    served = server.streamable_http_app(streamable_http_path=TOOLS, json_response=True, stateless_http=True)
    app = FastAPI(lifespan=lambda _: server.session_manager.run())
    app.router.routes.extend(served.routes)
    return app


# --- the agent


class _Noted(httpx2.AsyncHTTPTransport):
    """Writes down the calls that are sent with a payment."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(verify=False)
        self._world, self._number = world, number

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        meta = (json.loads(request.content).get("params") or {}).get("_meta") or {}
        if meta.keys() & {PAYMENT, CREDENTIAL}:
            fields = {name: value for name, value in request.headers.items() if name not in _PLAIN}
            note(self._world.presented(self._number), {"fields": fields, "content": request.content.decode()})
        return await super().handle_async_request(request)


async def call_tool(world: World, number: int, payer: Payer, steps: Steps) -> None:
    """Call the tool, and keep the goods where they come. The SDK's client gives up where a connection breaks, and with
    it the call is cancelled: then it is made again, by a client of its own."""
    for _ in range(_RECONNECTS):
        try:
            await _call(world, number, payer, steps)
        except* (httpx.TransportError, httpx2.TransportError) as errors:
            logging.info("the connection is lost: %s", errors.exceptions)
        else:
            return
        await payer.sleep(_SECONDS)


async def _call(world: World, number: int, payer: Payer, steps: Steps) -> None:
    async with (
        httpx.AsyncHTTPTransport(verify=False) as inner,
        httpx2.AsyncClient(transport=_Noted(world, number), timeout=30) as http,
        Client(streamable_http_client(world.tools, http_client=http)) as client,
    ):
        try:
            called = await PayingSession(payer, client, world.origin, inner=inner).call_tool("goods")
        except (Rail402Error, MCPError) as error:
            logging.info("not served: %s: %s", type(error).__name__, error)
            return
        result = called.result
        logging.info("answered %s", result)
        if not result.is_error:
            (text,) = result.content
            assert isinstance(text, TextContent)
            steps("before it is used")
            note(world.received(number), {"body": text.text, "replayed": REPLAYED in (result.meta or {})})
            steps("after it is used")


# --- a stranger


def said_by_tool(answer: str) -> tuple[int, str, bool]:
    """What the answer to a call is as one of HTTP: its status, its body, and whether it is a replay.

    Raises:
        HarnessFailed: the gate did not answer, but what is in front of it; or it raised what it should not.
    """
    said: Mapping[str, Any] = json.loads(answer)
    result: Mapping[str, Any] = said.get("result") or {"isError": True, "content": []}
    meta = result.get("_meta") or said.get("error", {}).get("data") or {}
    if not meta.keys() & {CODE, CHARGE}:
        raise HarnessFailed(f"a call that was made again got an answer that is not the gate's: {answer}")
    body = "".join(each["text"] for each in result["content"])
    return 402 if result.get("isError") else 200, body, REPLAYED in meta
