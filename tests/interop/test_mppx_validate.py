"""`mppx validate` looks at our server: its challenges, its documents, and in the end it pays."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rail402 import Gate
from rail402.rates import FixedRates
from rail402_lightning import LightningRail
from rail402_stripe import StripeRail
from tests.interop.bank import Bank, Shop, listening, served
from tests.interop.peers import Case, cases, node, run


async def validate(case: Case, url: str, directory: Path, env: dict[str, str] | None = None) -> list[Any]:
    """Run it, and return all its checks."""
    command = node(case.package.service, case.package.name, "dist/bin.js")
    report = await run(command, "validate", url, "--outputJson", directory=directory, env=env)
    assert report["discovery"]["found"]
    assert report["discovery"]["valid"]
    parts = [endpoint[part] for endpoint in report["endpoints"] for part in ("challenge", "errorHandling", "payment")]
    return [*report["discovery"]["checks"], *(check for part in parts for check in part)]


def all_pass(checks: list[Any]) -> None:
    """Every check passes; what is skipped is a payment, for which it has no key, no wallet, or no leave."""
    bad = [check for check in checks if check["severity"] not in ("pass", "skip")]
    assert bad == []
    assert all(check["label"].startswith("Payment [") for check in checks if check["severity"] == "skip")


@pytest.mark.parametrize("case", cases(None, "validator", "FastAPI"), ids=str)
async def test_every_check_passes(case: Case, shop: Shop, tmp_path: Path) -> None:
    checks = await validate(case, shop.url, tmp_path)
    all_pass(checks)
    labels = Counter(check["label"] for check in checks)
    assert labels["Returns 402 without credentials"] == labels["Error response includes fresh challenge"] == 2
    assert labels["llms.txt found and nonempty"] == labels["x402 payment challenge"] - 1 == 1
    assert len([check for check in checks if check["severity"] == "pass"]) >= 38
    assert await shop.charges() == []


@pytest.mark.parametrize("case", cases(None, "validator", "Starlette"), ids=str)
async def test_an_app_without_documents_of_its_own_passes_too(case: Case, bank: Bank, tmp_path: Path) -> None:
    async def report(request: Request) -> Response:
        return JSONResponse({"for": request.path_params["day"]})

    with listening() as (found, url):
        shop = Shop(bank, url, app=Starlette())
        shop.app.add_route("/report/{day:int}", shop.gate.paid("0.50 USD")(report), methods=["GET", "POST"])
        async with served(shop.app, found):
            checks = await validate(case, url, tmp_path)
    all_pass(checks)
    assert Counter(check["label"] for check in checks)["Returns 402 without credentials"] == 2


def card(bank: Bank) -> dict[str, str]:
    """Have it make its tokens at our Stripe."""
    mint = f"{bank.url}/v1/test_helpers/shared_payment/granted_tokens"
    return {"MPPX_STRIPE_SECRET_KEY": "sk_test_peer", "MPPX_STRIPE_SPT_URL": mint}


@pytest.mark.parametrize("case", cases(None, "validator", "FastAPI, paying by card"), ids=str)
async def test_what_it_buys_passes(case: Case, shop: Shop, bank: Bank, tmp_path: Path) -> None:
    checks = await validate(case, shop.url, tmp_path, card(bank))
    all_pass(checks)
    assert Counter(check["label"] for check in checks)["Payment [stripe]: successful"] == 2
    assert (shop.served, await bank.cents()) == (2, 100)


@pytest.mark.parametrize("case", cases(None, "validator", "a route with L402"), ids=str)
async def test_where_l402_comes_first_it_looks_no_further(case: Case, bank: Bank, tmp_path: Path) -> None:
    with listening() as (found, url):
        rails = [StripeRail.sandbox(bank.directory), LightningRail.sandbox(bank.directory)]
        gate = Gate(rails=rails, store="memory://", public_url=url, rates=FixedRates({"BTC/USD": "60000"}))
        app = FastAPI()
        gate.install(app)

        @app.get("/report")
        @gate.paid("0.50 USD")
        async def report() -> None: ...

        async with served(app, found):
            checks = await validate(case, url, tmp_path)
    skipped = [(check["label"], check["detail"]) for check in checks if check["severity"] != "pass"]
    assert skipped == [("Not an MPP endpoint", "WWW-Authenticate scheme is not Payment")]


@pytest.mark.parametrize("case", cases(None, "client", "stripe, from its command line"), ids=str)
async def test_its_command_line_buys(case: Case, shop: Shop, bank: Bank, tmp_path: Path) -> None:
    command = node(case.package.service, case.package.name, "dist/bin.js")
    answer = await run(
        command, f"{shop.url}/report", "-M", "paymentMethod=pm_card_visa", directory=tmp_path, env=card(bank)
    )
    assert answer == {"n": 1}
    assert (shop.served, await bank.cents()) == (1, 50)
