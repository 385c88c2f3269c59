"""PyPI x402 sells a tool over MCP: `python x402_mcp_server.py '{"port", "facilitator", "payTo"}'`."""

import asyncio
import json
import sys

from mcp.server.fastmcp import FastMCP
from x402.http import FacilitatorConfig, HTTPFacilitatorClient
from x402.mcp import create_payment_wrapper
from x402.mechanisms.evm.exact import ExactEvmServerScheme
from x402.schemas import ResourceConfig

from x402 import x402ResourceServer

given = json.loads(sys.argv[1])
network = "eip155:84532"
served = 0


async def main():
    seller = x402ResourceServer(HTTPFacilitatorClient(FacilitatorConfig(url=given["facilitator"])))
    seller.register(network, ExactEvmServerScheme())
    seller.initialize()
    terms = ResourceConfig(scheme="exact", network=network, pay_to=given["payTo"], price="$0.50")
    paid = create_payment_wrapper(seller, accepts=seller.build_payment_requirements(terms))
    server = FastMCP("peer", port=given["port"])

    @server.tool()
    @paid
    async def report(n: int) -> str:
        global served
        served += 1
        return f"report {n}, the {served}. one"

    await server.run_streamable_http_async()


asyncio.run(main())
