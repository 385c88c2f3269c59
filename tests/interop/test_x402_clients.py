"""Released x402 clients pay our server, on routes that offer three rails in all dialects at once.

The payments are handed in by our relayer, by the facilitator of PyPI's x402, and by our facilitator.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from rail402.dialects._base64_json import from_base64
from rail402.server.answers import MAX_CHALLENGE_BYTES
from tests.interop.bank import Bank
from tests.interop.chain import PRICE, ChainShop, facilitating, selling
from tests.interop.peers import X402, X402_AXIOS, X402_FETCH, X402_FETCH_V1, Case, cases, program, run
from tests.services.anvil import USDC, Account, EvmChain
from tests.services.facilitator import OfficialFacilitator

BODY = {"said": "naïve ☕"}
CLIENTS = {
    X402: ("x402_client.py", ""),
    X402_FETCH: ("x402_client.mjs", "fetch"),
    X402_AXIOS: ("x402_client.mjs", "axios"),
    X402_FETCH_V1: ("x402_v1_client.mjs", ""),
}
ALL = [case for package in CLIENTS for case in cases(package, "client")]
NAMING = [case for case in ALL if case.route.endswith("naming its payment")]
NAME = "pay_for_the_report_once"


@asynccontextmanager
async def our_shop(
    case: Case, chain: EvmChain, official: OfficialFacilitator, bank: Bank
) -> AsyncIterator[tuple[ChainShop, Account]]:
    """Our server, and the account that pays its gas."""
    if "our facilitator" in case.route:
        async with facilitating(chain, bank.directory) as (url, relayer), selling(chain, bank, url) as shop:
            yield shop, relayer
    else:
        url_or_none = official.url if "facilitator" in case.route else None
        async with selling(chain, bank, url_or_none) as shop:
            yield shop, official.relayer if url_or_none else shop.relayer


def path_of(case: Case) -> str:
    """The route on which the peer pays."""
    if case.route.endswith("POST with a body"):
        return "/echo"
    if case.route.endswith("paying upfront"):
        return "/upfront"
    return "/v1" if (case.package, case.route) == (X402, "httpx, version 1") else "/report"


async def buy(case: Case, shop: ChainShop, payer: Account, directory: Path, **more: str) -> Any:
    """Have the peer buy."""
    name, library = CLIENTS[case.package]
    path = path_of(case)
    given: dict[str, Any] = {"url": shop.url + path, "library": library or case.route.partition(",")[0]}
    given |= {"key": payer.private_key, **more} | ({"body": BODY} if path == "/echo" else {})
    return await run(program(case.package.service, name, directory), json.dumps(given), directory=directory)


async def test_the_402_says_everything_at_once(chain: EvmChain, bank: Bank) -> None:
    async with selling(chain, bank, None) as shop, httpx.AsyncClient(trust_env=False) as client:
        response = await client.get(f"{shop.url}/report")
    assert response.status_code == 402
    schemes = [line.split(", request=")[0].split()[0] for line in response.headers.get_list("www-authenticate")]
    methods = re.findall(r'method="(\w+)"', response.headers["www-authenticate"])
    assert (schemes, methods) == (["L402", "Payment", "Payment", "Payment"], ["evm", "lightning", "stripe"])
    required = from_base64(response.headers["payment-required"], field="payment-required")
    assert [accepts["network"].partition(":")[0] for accepts in required["accepts"]] == ["eip155", "lnbtc"]
    body = response.json()
    assert [accepts["network"] for accepts in body["accepts"]] == ["base-sepolia"]
    assert (body["x402Version"], body["type"], body["payment"]["network"]) == (1, "x402", "lightning")
    assert [offer["rail"] for offer in body["offers"]] == ["base", "lightning", "stripe"]
    assert sum(len(name) + len(value) + 4 for name, value in response.headers.raw) < MAX_CHALLENGE_BYTES


@pytest.mark.parametrize("case", [case for case in ALL if case not in NAMING], ids=str)
async def test_usdc_moves_once_and_the_answer_is_kept(
    case: Case, chain: EvmChain, official: OfficialFacilitator, bank: Bank, tmp_path: Path
) -> None:
    payer, is_v1 = chain.account(usdc=USDC), "version 1" in case.route
    async with our_shop(case, chain, official, bank) as (shop, relayer):
        gas = chain.ether_of(relayer.address)
        answer = await buy(case, shop, payer, tmp_path)
        charges = await shop.charges()
    goods = {"n": 1, "echo": BODY} if path_of(case) == "/echo" else {"n": 1}
    assert (answer["status"], answer["body"], answer["payments"]) == (200, goods, 1), answer

    (charge,) = charges
    assert (charge.payment, charge.dialect, charge.amount) == ("settled", "x402-v1" if is_v1 else "x402-v2", PRICE)
    settled, network = answer["settled"], "base-sepolia" if is_v1 else "eip155:84532"
    assert (settled["success"], settled["network"]) == (True, network)
    assert (settled["payer"], settled["transaction"]) == (payer.address, charge.transaction)
    receipt = chain.receipt(charge.transaction)
    assert receipt is not None
    assert receipt["from"] == relayer.address.lower()
    assert chain.ether_of(relayer.address) < gas
    assert (chain.usdc_of(payer.address), chain.usdc_of(shop.payee.address)) == (USDC - PRICE, PRICE)

    again = answer["again"]
    if is_v1:  # what it sends is all on the chain by now, for everybody to copy
        assert (again["status"], again["body"]["code"]) == (409, "replay_not_proven")
    else:
        assert again == {"status": 200, "body": goods}
    assert shop.served == 1


@pytest.mark.parametrize("case", NAMING, ids=str)
async def test_a_name_is_good_for_one_payment(
    case: Case, chain: EvmChain, official: OfficialFacilitator, bank: Bank, tmp_path: Path
) -> None:
    payer = chain.account(usdc=2 * USDC)
    async with our_shop(case, chain, official, bank) as (shop, _):
        answer = await buy(case, shop, payer, tmp_path, id=NAME)
        (charge,) = await shop.charges()
    assert (answer["status"], answer["again"]) == (200, {"status": 200, "body": {"n": 1}})
    assert (answer["payments"], answer["other"]) == (2, 409)
    assert charge.payment == "settled"
    assert (chain.usdc_of(payer.address), chain.usdc_of(shop.payee.address)) == (2 * USDC - PRICE, PRICE)
    assert shop.served == 1
