"""Our client pays released x402 servers, whose payments are handed in by the facilitator of PyPI's x402 and by ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from rail402.dialects._base64_json import from_base64
from rail402.errors import PaymentOutcomeUnknown
from rail402.money import Money
from tests.interop.chain import PRICE, facilitating, paying
from tests.interop.peers import X402, X402_EXPRESS, X402_EXPRESS_V1, Case, cases, program
from tests.services.anvil import USDC, EvmChain
from tests.services.facilitator import OfficialFacilitator
from tests.services.processes import Process, free_ports, running

SERVERS = {X402: "x402_server.py", X402_EXPRESS: "x402_server.mjs", X402_EXPRESS_V1: "x402_v1_server.mjs"}
ALL = [case for package in SERVERS for case in cases(package, "server")]
FORGETTING = [case for case in ALL if case.route.endswith("its answer lost")]


@dataclass
class Wire(httpx.AsyncBaseTransport):
    """Notes what is sent, and loses the first answer to a payment if told to."""

    losing: bool = False
    payments: list[dict[str, str]] = field(default_factory=list)
    inner: httpx.AsyncHTTPTransport = field(default_factory=lambda: httpx.AsyncHTTPTransport(trust_env=False))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self.inner.handle_async_request(request)
        shown = {name: request.headers[name] for name in ("payment-signature", "x-payment") if name in request.headers}
        if shown:
            self.payments.append(shown)
            if self.losing and len(self.payments) == 1:
                await response.aread()
                await response.aclose()
                raise httpx.ReadError("the answer was lost", request=request)
        return response

    async def aclose(self) -> None:
        await self.inner.aclose()


@asynccontextmanager
async def peer_shop(
    case: Case, chain: EvmChain, official: OfficialFacilitator, payee: str, directory: Path
) -> AsyncIterator[tuple[str, Process]]:
    """The peer's server, and its origin."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    given = {"port": port, "framework": case.route.partition(",")[0].lower(), "payTo": payee}
    given["facilitator"] = official.url
    async with AsyncExitStack() as stack:
        if "our facilitator" in case.route:
            given["facilitator"], _ = await stack.enter_async_context(facilitating(chain, directory))
        command = [*program(case.package.service, SERVERS[case.package], directory), json.dumps(given)]
        process = stack.enter_context(running("x402-peer", command, directory / "peer"))
        # In a thread: a peer that starts asks the facilitator, and ours runs in this loop.
        await asyncio.to_thread(process.wait_until, "port", lambda: httpx.get(f"{url}/report", trust_env=False))
        yield url, process


@pytest.mark.parametrize("case", [case for case in ALL if case not in FORGETTING], ids=str)
async def test_our_client_pays_once(case: Case, chain: EvmChain, official: OfficialFacilitator, tmp_path: Path) -> None:
    payer, payee, is_v1 = chain.account(usdc=USDC), chain.account(), "version 1" in case.route
    wire, path = Wire(), "/named" if case.route.endswith("to be named") else "/report"
    async with (
        peer_shop(case, chain, official, payee.address, tmp_path) as (url, process),
        paying(chain, payer, tmp_path, wire) as client,
    ):
        response = await client.get(url + path)
        assert (response.status_code, response.json()) == (200, {"n": 1})
        assert (chain.usdc_of(payer.address), chain.usdc_of(payee.address)) == (USDC - PRICE, PRICE)
        (shown,) = wire.payments
        async with httpx.AsyncClient(trust_env=False) as plain:
            again = await plain.get(url + path, headers=shown)
        assert again.status_code == 402
        log = process.log_path.read_text()

    purchase = response.extensions["rail402"]
    assert (purchase.outcome, purchase.price) == ("paid", Money.parse("0.50 USDC"))
    assert purchase.dialect == ("x402-v1" if is_v1 else "x402-v2")
    settled = from_base64(response.headers["x-payment-response" if is_v1 else "payment-response"], field="response")
    assert (settled["success"], settled["payer"]) == (True, payer.address)
    receipt = chain.receipt(settled["transaction"])
    assert receipt is not None
    assert int(receipt["status"], 16) == 1
    assert (chain.usdc_of(payer.address), chain.usdc_of(payee.address)) == (USDC - PRICE, PRICE)
    if path == "/named":
        payment = from_base64(shown["payment-signature"], field="payment")
        assert f"named: {payment['extensions']['payment-identifier']['info']['id']}\n" in log


@pytest.mark.parametrize("case", FORGETTING, ids=str)
async def test_a_lost_answer_is_not_paid_for_again(
    case: Case, chain: EvmChain, official: OfficialFacilitator, tmp_path: Path
) -> None:
    payer, payee, wire = chain.account(usdc=USDC), chain.account(), Wire(losing=True)
    async with (
        peer_shop(case, chain, official, payee.address, tmp_path) as (url, _),
        paying(chain, payer, tmp_path, wire) as client,
    ):
        with pytest.raises(PaymentOutcomeUnknown, match=r"the server answered 402; 0\.5 USDC stay reserved"):
            await client.get(url + ("/report" if case.package == X402_EXPRESS_V1 else "/named"))
    assert len({tuple(each.values()) for each in wire.payments}) == 1 < len(wire.payments)
    assert (chain.usdc_of(payer.address), chain.usdc_of(payee.address)) == (USDC - PRICE, PRICE)
