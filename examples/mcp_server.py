"""Tools that cost something: a server of the Model Context Protocol that sells forecasts, and gives the time away.

uvicorn --app-dir examples mcp_server:app     # at http://127.0.0.1:8000/mcp
python examples/mcp_server.py                 # over standard input and output
"""

import asyncio
import os
from datetime import UTC, datetime

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError

from rail402 import Gate
from rail402.server.mcp import paid_tool
from rail402_base import BaseRail

server = MCPServer("weather")
gate = Gate(
    rails=[BaseRail.sandbox()],
    public_url=os.environ.get("PUBLIC_URL", "http://127.0.0.1:8000"),
    store=os.environ.get("STORE", "sqlite:///charges.db"),
)

SKIES = {"rome": "sunny", "oslo": "snow"}

price = paid_tool(gate, "0.01 USD", description="A forecast for one city")


@server.tool(meta=price.meta)  # so that agents see the price before they call
@price
async def forecast(city: str, context: Context) -> str:
    """Say what the weather will be."""
    await context.report_progress(1, 2, "looking at the sky")
    if city.lower() not in SKIES:
        raise ToolError(f"there is no forecast for {city}")  # and nobody pays for that
    return f"{SKIES[city.lower()]} in {city}"


@server.tool()
async def now() -> str:
    """Say what time it is."""
    return datetime.now(UTC).isoformat(timespec="seconds")


app = server.streamable_http_app()
gate.install(app)


async def main() -> None:
    async with gate:
        await server.run_stdio_async()


if __name__ == "__main__":
    asyncio.run(main())
