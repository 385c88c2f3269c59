"""`rail402 mcp`: a payer as tools for a model, over the Model Context Protocol."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Annotated, Final

import httpx
import typer

from rail402.cli.pay import Wallets, open_payer
from rail402.errors import ConfigurationError
from rail402.tools.agent import DEFAULT_CAP, AgentTools

if TYPE_CHECKING:
    from mcp.server import MCPServer

__all__ = ["mcp"]

_HELP: Final = """Serve the tools fetch, quote, budget, receipts and wallets to a model, over MCP.

Over standard input and output, which is how hosts start it; with --port over HTTP on this machine. A model pays within
the budget, at most --max a call, and reaches public addresses only."""

_Max = Annotated[str, typer.Option("--max", help="The most that one call may cost; the budget holds as well.")]
_Rails = Annotated[list[str] | None, typer.Option("--rail", help="Pay on this rail only; repeatable.")]
_Private = Annotated[bool, typer.Option("--allow-private", help="Let the model reach private addresses too.")]
_Tool = Annotated[str, typer.Option("--tool", help="What rules of the budget know this agent by.")]
_Port = Annotated[int | None, typer.Option(min=1, max=65_535, help="Serve streamable HTTP at 127.0.0.1:PORT/mcp.")]


def mcp(
    wallets: Wallets = None,
    most: _Max = DEFAULT_CAP,
    rail: _Rails = None,
    allow_private: _Private = False,
    tool: _Tool = "fetch",
    port: _Port = None,
) -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)  # standard output belongs to the protocol
    payer = open_payer(wallets, rails=rail or [])
    transport = httpx.AsyncHTTPTransport() if allow_private else None
    tools = AgentTools(payer, cap=most, transport=transport, tool=tool)
    asyncio.run(_serve(tools, port))


mcp.__doc__ = _HELP


async def _serve(tools: AgentTools, port: int | None) -> None:
    async with tools:
        server = _server(tools)
        if port is None:
            await server.run_stdio_async()
        else:
            typer.echo(f"rail402 mcp: http://127.0.0.1:{port}/mcp", err=True)
            await server.run_streamable_http_async(host="127.0.0.1", port=port)


def _server(tools: AgentTools) -> MCPServer[None]:
    try:
        from rail402.tools.mcp_server import mcp_server
    except ImportError as error:
        raise ConfigurationError(f"this needs {error.name}; try: pip install 'rail402[mcp]'") from error
    from importlib.metadata import version

    return mcp_server(tools, version=version("rail402"))
