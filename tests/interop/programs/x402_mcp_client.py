"""PyPI x402 pays once for a tool, and shows the payment again: `python x402_mcp_client.py '{"url", "tool", "key"}'`."""

import asyncio
import json
import sys

from eth_account import Account
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from x402.mcp import x402MCPSession
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.exact import register_exact_evm_client

from x402 import x402Client

given = json.loads(sys.argv[1])
paid, progress = [], []


class Session(ClientSession):
    async def call_tool(self, name, arguments=None, meta=None, **more):
        async def note(*seen):
            progress.append(seen)

        paid.extend([meta] if meta else [])
        return await super().call_tool(name, arguments, progress_callback=note, meta=meta, **more)


async def main():
    wallet = x402Client().set_spend_controls({"allowed_assets": True})  # else it pays in the usual coins only
    register_exact_evm_client(wallet, EthAccountSigner(Account.from_key(given["key"])))
    async with streamablehttp_client(given["url"]) as (read, write, _), Session(read, write) as session:
        await session.initialize()
        answer = await x402MCPSession(session, wallet).call_tool(given["tool"], {"n": 1})
        payments = len(paid)
        again = await session.call_tool(given["tool"], {"n": 1}, meta=paid[0])
    said = {"content": [each.model_dump() for each in answer.content], "payments": payments, "progress": progress}
    said["settled"] = answer.payment_response.model_dump(by_alias=True, exclude_none=True)
    print(json.dumps({**said, "again": again.model_dump(by_alias=True, exclude_none=True)}))


asyncio.run(main())
