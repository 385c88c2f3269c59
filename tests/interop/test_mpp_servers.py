"""Our client pays released MPP servers, whose Stripe and whose chain are our sandboxes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from rail402 import Payer
from rail402.dialects import DEFAULT_DIALECTS, X402V2, Mpp
from rail402.dialects._base64_json import from_base64
from rail402.errors import PaymentOutcomeUnknown
from rail402.money import Money
from rail402.protocol.dialect import Dialect
from rail402.protocol.rail import Wallet
from rail402_base import BaseWallet
from rail402_base.sandbox_keys import sandbox_signer
from rail402_stripe import StripeWallet
from rail402_stripe.wire import SANDBOX_PROFILE
from tests.interop.bank import ENDOWMENT, TOKEN, Bank
from tests.interop.peers import MPPX, PYMPP, Case, cases, program
from tests.services.processes import Process, free_ports, running

SERVERS = {MPPX: "mppx_server.mjs", PYMPP: "pympp_server.py"}


@asynccontextmanager
async def selling(case: Case, bank: Bank, directory: Path) -> AsyncIterator[tuple[str, Process]]:
    """A peer's server, and its origin."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    recipient = sandbox_signer(bank.directory, "publisher").address
    given = {"port": port, "bank": bank.url, "profile": SANDBOX_PROFILE, "recipient": recipient, "token": TOKEN}
    command = [*program(case.package.service, SERVERS[case.package], directory), json.dumps(given)]
    with running(case.package.name, command, directory / "peer") as process:
        await asyncio.to_thread(process.wait_until, "port", lambda: httpx.get(f"{url}/stripe", trust_env=False))
        yield url, process


@asynccontextmanager
async def paying(bank: Bank, wallet: Wallet, *dialects: Dialect) -> AsyncIterator[httpx.AsyncClient]:
    journal = f"sqlite:///{bank.directory}/wallet.db"
    payer = Payer([wallet], journal=journal, dialects=dialects or DEFAULT_DIALECTS, deadline=2)
    async with payer, httpx.AsyncClient(transport=payer.transport()) as client:
        yield client


@pytest.mark.parametrize("case", cases(None, "server", "stripe"), ids=str)
async def test_our_client_is_charged_once(case: Case, bank: Bank, tmp_path: Path) -> None:
    wallet = StripeWallet.sandbox(bank.directory)
    async with selling(case, bank, tmp_path) as (url, _), paying(bank, wallet) as client:
        response = await client.get(f"{url}/stripe")
    purchase = response.extensions["rail402"]
    assert (response.status_code, response.json()) == (200, {"n": 1})
    assert (purchase.outcome, purchase.price) == ("paid", Money.parse("0.50 USD"))
    (intent,) = await bank.intents()
    assert (intent["status"], intent["amount_received"]) == ("succeeded", 50)
    receipt = from_base64(response.headers["payment-receipt"], field="receipt")
    assert (receipt["status"], receipt["reference"]) == ("success", intent["id"])
    assert await bank.cents() == 50


EVM = {
    "evm by MPP": ("/evm", Mpp(), ""),
    "evm by x402": ("/evm/x402", X402V2(), ""),
    "evm by x402, as it is by default": ("/evm", X402V2(), "does not bind required route metadata"),
}


@pytest.mark.parametrize("case", cases(None, "server", *EVM), ids=str)
async def test_our_client_pays_usdc_once(case: Case, bank: Bank, tmp_path: Path) -> None:
    path, dialect, refusal = EVM[case.route]
    wallet = BaseWallet.sandbox(bank.directory)
    async with selling(case, bank, tmp_path) as (url, process), paying(bank, wallet, dialect) as client:
        if case.reason:
            with pytest.raises(PaymentOutcomeUnknown):
                await client.get(url + path)
            assert refusal in process.log_path.read_text()
            paid = 0
        else:
            response = await client.get(url + path)
            assert (response.status_code, response.json()) == (200, {"n": 1})
            assert response.extensions["rail402"].outcome == "paid"
            paid = 3000
    assert await bank.chain.balance_of(wallet.signer.address) == ENDOWMENT - paid
    assert await bank.chain.balance_of(sandbox_signer(bank.directory, "publisher").address) == paid
