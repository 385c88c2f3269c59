"""`rail402 mcp`: a payer as tools for a model, over the Model Context Protocol."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
from typing import TYPE_CHECKING, Annotated, Final

import httpx
import typer

from rail402.cli.pay import Wallets, open_payer
from rail402.config import resolve_secret
from rail402.errors import ConfigurationError
from rail402.tools.agent import DEFAULT_CAP, AgentTools

if TYPE_CHECKING:
    from mcp.server import MCPServer

__all__ = ["mcp"]

_HELP: Final = """Serve the tools fetch, quote, budget, receipts and wallets to a model, over MCP.

Over standard input and output, which is how hosts start it; with --port over HTTP on this machine, for callers that
send a bearer token: that of --token, or one that is made for this run and printed to standard error. A model pays
within the budget, at most --max a call, and reaches public addresses only."""

_Max = Annotated[str, typer.Option("--max", help="The most that one call may cost; the budget holds as well.")]
_Rails = Annotated[list[str] | None, typer.Option("--rail", help="Pay on this rail only; repeatable.")]
_Private = Annotated[bool, typer.Option("--allow-private", help="Let the model reach private addresses too.")]
_Tool = Annotated[str, typer.Option("--tool", help="What rules of the budget know this agent by.")]
_Port = Annotated[int | None, typer.Option(min=1, max=65_535, help="Serve streamable HTTP at 127.0.0.1:PORT/mcp.")]
_Token = Annotated[str | None, typer.Option(help="With --port: env:NAME or file:PATH of the token that callers need.")]


def mcp(
    wallets: Wallets = None,
    most: _Max = DEFAULT_CAP,
    rail: _Rails = None,
    allow_private: _Private = False,
    tool: _Tool = "fetch",
    port: _Port = None,
    token: _Token = None,
) -> None:
    secret = _secret(port, token)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)  # standard output belongs to the protocol
    payer = open_payer(wallets, rails=rail or [])
    transport = httpx.AsyncHTTPTransport() if allow_private else None
    tools = AgentTools(payer, cap=most, transport=transport, tool=tool)
    server = _server(tools, secret)
    asyncio.run(_serve(tools, server, port, None if token else secret))


mcp.__doc__ = _HELP


def _secret(port: int | None, token: str | None) -> str | None:
    """Return the token that callers need: the one that is referred to, or a new one; None where nobody calls by HTTP.

    Raises:
        typer.BadParameter: there is nothing at the reference's end, or no port.
    """
    if token is None:
        return None if port is None else secrets.token_urlsafe(32)
    if port is None:
        raise typer.BadParameter("is for --port; standard input and output need none", param_hint="--token")
    try:
        return resolve_secret(token)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--token") from error


async def _serve(tools: AgentTools, server: MCPServer[None], port: int | None, made: str | None) -> None:
    """Serve until the host hangs up.

    Args:
        made: the token that was made for this run, which nobody knows yet.
    """
    async with tools:
        if port is None:
            await server.run_stdio_async()
            return
        typer.echo(f"rail402 mcp: http://127.0.0.1:{port}/mcp", err=True)
        typer.echo("callers need the token" if made is None else f"Authorization: Bearer {made}", err=True)
        await server.run_streamable_http_async(host="127.0.0.1", port=port)


def _server(tools: AgentTools, token: str | None) -> MCPServer[None]:
    try:
        from rail402.tools.mcp_server import mcp_server
    except ImportError as error:
        raise ConfigurationError(f"this needs {error.name}; try: pip install 'rail402[mcp]'") from error
    from importlib.metadata import version

    return mcp_server(tools, version=version("rail402"), token=token)
