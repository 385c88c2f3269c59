"""Our client pays for tools of released MCP servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client

from rail402 import Payer
from rail402.money import Money
from rail402.tools.mcp_client import PayingSession
from rail402_base import BaseWallet
from rail402_base.rpc.reader import ChainReader
from rail402_base.sandbox_keys import sandbox_signer
from rail402_stripe import StripeWallet
from rail402_stripe.wire import SANDBOX_PROFILE
from tests.interop.bank import TOKEN, Bank
from tests.interop.chain import PRICE
from tests.interop.peers import MPPX_MCP, X402_MCP, Case, cases, program
from tests.services.anvil import USDC, EvmChain
from tests.services.facilitator import OfficialFacilitator
from tests.services.processes import free_ports, running

PROGRAMS = {X402_MCP: "x402_mcp_server.py", MPPX_MCP: "mppx_server.mjs"}


@asynccontextmanager
async def selling(case: Case, given: dict[str, Any], directory: Path) -> AsyncIterator[tuple[str, Client]]:
    """A peer's server: its origin, and a client of it."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [*program(case.package.service, PROGRAMS[case.package], directory), json.dumps({"port": port, **given})]
    with running("mcp-peer", command, directory / "peer") as process:
        await asyncio.to_thread(process.wait_until, "port", lambda: httpx.get(url, trust_env=False))
        async with Client(f"{url}/mcp") as client:
            yield url, client


@pytest.mark.parametrize("case", cases(X402_MCP, "server"), ids=str)
async def test_our_client_pays_by_x402(
    case: Case, chain: EvmChain, official: OfficialFacilitator, tmp_path: Path
) -> None:
    payer, payee = chain.account(usdc=USDC), chain.account()
    reader = ChainReader(chain.url, chain.token)
    wallet = BaseWallet.from_private_key(payer.private_key, tokens=(chain.token,), chain=reader)
    given = {"facilitator": official.url, "payTo": payee.address}
    async with (
        Payer([wallet], journal=f"sqlite:///{tmp_path}/wallet.db") as purse,
        selling(case, given, tmp_path) as (url, client),
    ):
        called: Any = await PayingSession(purse, client, url).call_tool("report", {"n": 7})
    assert called.result.content[0].text == "report 7, the 1. one"
    assert (called.purchase.outcome, called.purchase.price) == ("paid", Money.parse("0.50 USDC"))
    assert called.result.meta["x402/payment-response"]["success"] is True
    assert (chain.usdc_of(payer.address), chain.usdc_of(payee.address)) == (USDC - PRICE, PRICE)


@pytest.mark.parametrize("case", cases(MPPX_MCP, "server"), ids=str)
async def test_our_client_pays_by_mpp(case: Case, bank: Bank, tmp_path: Path) -> None:
    recipient = sandbox_signer(bank.directory, "publisher").address
    given = {"bank": bank.url, "profile": SANDBOX_PROFILE, "recipient": recipient, "token": TOKEN, "mcp": True}
    async with (
        Payer([StripeWallet.sandbox(bank.directory)], journal=f"sqlite:///{tmp_path}/wallet.db") as purse,
        selling(case, given, tmp_path) as (url, client),
    ):
        called: Any = await PayingSession(purse, client, url).call_tool("stripe")
    assert called.result.content[0].text == "report 1"
    assert (called.purchase.outcome, called.purchase.dialect) == ("paid", "mpp")
    receipt = called.result.meta["org.paymentauth/receipt"]
    assert (receipt["status"], receipt["method"]) == ("success", "stripe")
    assert await bank.cents() == 50
