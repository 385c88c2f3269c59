"""Released MPP clients pay our server, on a route that offers everything in all dialects at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from tests.interop.bank import ENDOWMENT, FAKE_SECRET, TOKEN, Bank, Shop
from tests.interop.peers import MPPX, PYMPP, Case, cases, program, run

BODY = {"said": "naïve ☕"}
PRICE = {"stripe": 50, "evm": 500_000, "fake": 500_000}
CLIENTS = {MPPX: "mppx_client.mjs", PYMPP: "pympp_client.py"}
METHODS = {"stripe": "stripe", "evm": "evm", "custom method": "fake", "stripe, POST with a body": "stripe"}


async def buy(case: Case, shop: Shop, bank: Bank, directory: Path, **more: Any) -> Any:
    method, has_body = METHODS[case.route], case.route.endswith("body")
    path = "echo" if has_body else "report"
    given = {"url": f"{shop.url}/{path}", "bank": bank.url, "method": method, "token": TOKEN}
    given |= {"body": BODY} if has_body else {}
    command = program(case.package.service, CLIENTS[case.package], directory)
    return await run(command, json.dumps(given | more), directory=directory)


async def bought(case: Case, shop: Shop, answer: Any) -> Any:
    """Check what the peer got, and return the only charge."""
    method = METHODS[case.route]
    goods = {"n": 1, "echo": BODY} if case.route.endswith("body") else {"n": 1}
    assert (answer["status"], answer["body"]) == (200, goods), answer
    (charge,) = await shop.charges()
    assert (charge.payment, charge.dialect, charge.amount) == ("settled", "mpp", PRICE[method])
    receipt = answer["receipt"]
    assert (receipt["status"], receipt["method"], receipt["reference"]) == ("success", method, charge.transaction)
    assert len(receipt["challengeId"]) == 43
    assert shop.served == 1
    return charge


@pytest.mark.parametrize("case", cases(None, "client", "stripe", "stripe, POST with a body"), ids=str)
async def test_a_card_is_charged_once(case: Case, shop: Shop, bank: Bank, tmp_path: Path) -> None:
    assert await bank.cents() == 0
    charge = await bought(case, shop, await buy(case, shop, bank, tmp_path))
    (intent,) = await bank.intents()
    assert (intent["id"], intent["status"], intent["amount_received"]) == (charge.transaction, "succeeded", 50)
    assert await bank.cents() == 50


@pytest.mark.parametrize("case", cases(None, "client", "evm"), ids=str)
async def test_usdc_moves_once(case: Case, shop: Shop, bank: Bank, tmp_path: Path) -> None:
    payer = Account.create()
    await bank.chain.endow(payer.address)
    charge = await bought(case, shop, await buy(case, shop, bank, tmp_path, key="0x" + bytes(payer.key).hex()))
    assert charge.payer == payer.address
    assert await bank.chain.balance_of(payer.address) == ENDOWMENT - 500_000
    assert await bank.chain.balance_of(shop.base.pay_to) == 500_000


@pytest.mark.parametrize("case", cases(None, "client", "custom method"), ids=str)
async def test_a_third_party_s_method_is_paid_once(case: Case, shop: Shop, bank: Bank, tmp_path: Path) -> None:
    charge = await bought(case, shop, await buy(case, shop, bank, tmp_path, key=FAKE_SECRET))
    assert charge.payer == case.package.name
    assert shop.ledger.charged_total == 500_000
