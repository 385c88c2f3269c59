"""Kits that agents are built with, each with our payer in it: OpenAI's client, LangChain, CrewAI. No model runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rail402.stores import open_store
from tests.acceptance.test_examples import serving
from tests.interop.bank import Bank, Shop
from tests.interop.peers import CREWAI, LANGCHAIN, OPENAI, ROOT, Case, cases, program, run

SOURCES = [str(ROOT / "x402"), str(ROOT / "rails"), str(ROOT / "examples")]
TOOLS = ["fetch", "quote", "budget", "receipts", "wallets"]

CHAT = """\
You said: what does this cost?
paid {small}
You said: what does this cost?
paid {large}
refused: budget_exceeded
You said: what does this cost?
"""


async def asked(case: Case, name: str, directory: Path, environ: dict[str, str] | None = None, **given: Any) -> Any:
    """Run a program among the packages of a kit, and return what it says."""
    command = program(case.package.service, name, directory)
    return await run(command, json.dumps(given), directory=directory, env=environ)


@pytest.mark.parametrize("case", cases(OPENAI, "kit"), ids=str)
async def test_openai_s_client_pays_per_call(case: Case, tmp_path: Path) -> None:
    rail = case.route.rpartition(" ")[2]
    small, large = {"base": ("0.002 USDC", "0.003 USDC"), "lightning": ("4 sat", "5 sat")}[rail]
    atomic = {"base": [2000, 2000, 3000], "lightning": [4000, 4000, 5000]}[rail]
    with serving("chat_api", tmp_path) as (url, environment):
        env = {name: environment[name] for name in ("RAIL402_SANDBOX", "JOURNAL")}
        said = await asked(case, "openai_example.py", tmp_path, env, url=f"{url}/v1", sources=SOURCES, rail=rail)
        printed = [line.rstrip() for line in said["printed"].splitlines()]
        assert printed == CHAT.format(small=small, large=large).splitlines()
    store = open_store(environment["STORE"])
    await store.start()
    charges = await store.recent(limit=10)
    await store.close()
    assert {(charge.payment, charge.offer.rail) for charge in charges} == {("settled", rail)}
    assert sorted(charge.amount for charge in charges) == atomic


def calls(shop: Shop) -> list[tuple[str, dict[str, Any]]]:
    """What a model calls that looks around, wants too much for its money, and then buys."""
    report = {"url": f"{shop.url}/report"}
    return [
        ("wallets", {}),
        ("quote", report),
        ("fetch", report | {"max_cost": "0.10 USD"}),
        ("fetch", report),
        ("receipts", {"limit": 5}),
        ("budget", {}),
    ]


async def bought(said: Any, shop: Shop, bank: Bank) -> None:
    """Check that it came to just one purchase."""
    assert said["offered"] == TOOLS
    wallets, quote, refused, answer, receipts, budget = said["results"]
    assert [wallet["rail"] for wallet in wallets["wallets"]] == ["base"]
    assert (quote["price"], quote["rail"]) == ("0.5 USDC", "base")
    assert (refused["code"], refused["outcome"]) == ("budget_exceeded", "not_paid")
    assert (answer["status"], json.loads(answer["untrusted"]["text"])) == (200, {"n": 1})
    assert (answer["paid"]["price"], answer["paid"]["receipt"]) == ("0.5 USDC", "verified")
    assert [purchase["record"] for purchase in receipts["purchases"]] == [answer["paid"]["record"]]
    assert budget["per_hour"]["used"] == ["0.5 USD"]
    (charge,) = await shop.charges()
    assert (charge.payment, charge.offer.rail, charge.amount, shop.served) == ("settled", "base", 500_000, 1)
    assert await bank.chain.balance_of(shop.base.pay_to) == 500_000


@pytest.mark.parametrize("case", cases(LANGCHAIN, "kit"), ids=str)
async def test_an_agent_of_langchain_buys_once(case: Case, shop: Shop, bank: Bank, tmp_path: Path) -> None:
    await langchain_buys(case, "awaited", shop, bank, tmp_path)


@pytest.mark.parametrize("way", ["called", "awaited in the background"])
@pytest.mark.parametrize("kit", cases(LANGCHAIN, "kit"), ids=str)
async def test_so_does_one_that_awaits_nothing(kit: Case, way: str, shop: Shop, bank: Bank, tmp_path: Path) -> None:
    await langchain_buys(kit, way, shop, bank, tmp_path)


async def langchain_buys(case: Case, way: str, shop: Shop, bank: Bank, tmp_path: Path) -> None:
    given = {"sources": SOURCES, "play": str(bank.directory), "calls": calls(shop), "way": way}
    said = await asked(case, "langchain_agent.py", tmp_path, **given)
    await bought(said, shop, bank)
    assert said["last"] == "done"


@pytest.mark.parametrize("case", cases(CREWAI, "kit"), ids=str)
async def test_crewai_s_adapter_buys_once(case: Case, shop: Shop, bank: Bank, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from rail402.cli import main; main()"]
    command += ["mcp", "--wallets", "sandbox", "--rail", "base", "--allow-private"]
    env = {"RAIL402_SANDBOX": str(bank.directory), "HOME": str(tmp_path)}
    quiet = {"CREWAI_DISABLE_TELEMETRY": "true", "OTEL_SDK_DISABLED": "true"}
    said = await asked(case, "crewai_tools.py", tmp_path, quiet, command=command, env=env, calls=calls(shop))
    await bought(said, shop, bank)
