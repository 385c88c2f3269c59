"""One line that pays: with a wallets.toml that is found, or a payer that is given; async and not."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import Response

from rail402 import Budget, BudgetExceeded, ConfigurationError, Gate, Payer, PaymentOutcomeUnknown, fetch, fetch_sync
from rail402.client.toml import journal_from_toml
from rail402_base import BaseRail, BaseWallet
from tests.interop.bank import listening, served

WALLETS = '[budget]\nper_request = "0.50 USD"\n\n[[wallets]]\nname = "base"\nbackend = "sandbox"\n'

Fetch = Callable[..., Awaitable[httpx.Response]]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the play money is, and who has it: the `wallets.toml` of whoever runs this."""
    monkeypatch.setenv("RAIL402_SANDBOX", str(tmp_path / "play"))
    monkeypatch.setenv("RAIL402_WALLETS", str(tmp_path / "wallets.toml"))
    (tmp_path / "wallets.toml").write_text(WALLETS)
    return tmp_path / "play"


@pytest.fixture
async def url(play: Path) -> AsyncIterator[str]:
    with listening() as (found, origin):
        gate = Gate(rails=[BaseRail.sandbox(play)], public_url=origin, store="memory://")
        app = FastAPI()
        gate.install(app)

        @app.api_route("/echo", methods=["GET", "POST"])
        @gate.paid("0.10 USD")
        async def echo(request: Request) -> dict[str, Any]:
            said = {"method": request.method, "body": (await request.body()).decode()}
            return said | {"type": request.headers.get("content-type"), "mark": request.headers.get("x-mark")}

        @app.get("/dear")
        @gate.paid("0.80 USD")
        async def dear() -> None: ...

        @app.get("/packed")
        @gate.paid("0.10 USD")
        async def packed() -> Response:
            return Response(b"this is no gzip", headers={"Content-Encoding": "gzip"})

        async with served(app, found):
            yield origin


@pytest.fixture(params=["async", "sync"])
def fetching(request: pytest.FixtureRequest) -> Fetch:
    """Either of the two, to be awaited."""
    if request.param == "async":
        return fetch

    async def wait(url: str, **options: Any) -> httpx.Response:
        return await asyncio.to_thread(lambda: fetch_sync(url, **options))

    return wait


async def test_one_line_pays_with_the_wallets_of_the_file(url: str, fetching: Fetch, tmp_path: Path) -> None:
    response = await fetching(f"{url}/echo", headers={"X-Mark": "1"})
    assert response.json() == {"method": "GET", "body": "", "type": None, "mark": "1"}
    bought = response.extensions["rail402"]
    assert (str(bought.price), bought.outcome, bought.receipt.payer is not None) == ("0.1 USDC", "paid", True)
    journal, _ = journal_from_toml(tmp_path / "wallets.toml")
    await journal.start()
    assert [record.id for record in await journal.newest(limit=9)] == [bought.record_id]
    await journal.close()


async def test_what_is_sent(url: str, fetching: Fetch) -> None:
    sent = await fetching(f"{url}/echo", method="POST", json={"words": 2})
    assert sent.json() == {"method": "POST", "body": '{"words":2}', "type": "application/json", "mark": None}
    sent = await fetching(f"{url}/echo", method="POST", body="ä", headers=[("Content-Type", "text/plain")])
    assert sent.json() == {"method": "POST", "body": "ä", "type": "text/plain", "mark": None}
    with pytest.raises(ConfigurationError, match="either a body or json"):
        await fetching(f"{url}/echo", method="POST", body=b"1", json=1)


async def test_the_limits_of_the_file_and_of_the_call_hold(url: str, fetching: Fetch) -> None:
    with pytest.raises(BudgetExceeded, match=r"the limit is 0\.5 USD per request") as caught:
        await fetching(f"{url}/dear", at_most="2 USD")
    assert caught.value.outcome == "not_paid"
    with pytest.raises(BudgetExceeded, match=r"0\.05 USD"):
        await fetching(f"{url}/echo", at_most="0.05 USD")
    assert (await fetching(f"{url}/echo", at_most="0.10 USD")).status_code == 200


async def test_a_tool_has_the_limits_of_its_rule(url: str, fetching: Fetch, tmp_path: Path) -> None:
    rule = '[[budget.rules]]\ntool = "scout"\nper_day = "0.15 USD"\n\n[[wallets]]'
    (tmp_path / "wallets.toml").write_text(WALLETS.replace("[[wallets]]", rule))
    for number in range(2):
        assert (await fetching(f"{url}/echo?n={number}", tool=["scout", "writer"][number])).status_code == 200
    with pytest.raises(BudgetExceeded, match=r"of 0\.15 USD per day for the tool scout 0\.05 USD is left"):
        await fetching(f"{url}/echo?n=2", tool="scout")
    assert (await fetching(f"{url}/echo?n=2")).status_code == 200


async def test_a_payer_that_is_given_stays_open(
    url: str, fetching: Fetch, play: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAIL402_WALLETS", "/nowhere/wallets.toml")
    payer = Payer(
        [BaseWallet.sandbox(play)], Budget(per_hour="0.30 USD"), journal=f"sqlite:///{tmp_path / 'journal.db'}"
    )
    for mark in ("1", "2"):
        response = await fetching(f"{url}/echo", method="POST", body=mark, payer=payer)
        assert response.json()["body"] == mark
        assert payer.wallets
    with pytest.raises(BudgetExceeded):
        await fetching(f"{url}/dear", payer=payer)
    await asyncio.to_thread(payer.__exit__, None, None, None)


async def test_no_file_is_said(url: str, fetching: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAIL402_WALLETS", "/nowhere/wallets.toml")
    with pytest.raises(ConfigurationError, match=r"there is no /nowhere/wallets\.toml; make it with `rail402 init`"):
        await fetching(f"{url}/echo")


async def test_an_answer_that_cannot_be_read_is_paid_for(url: str, fetching: Fetch, tmp_path: Path) -> None:
    with pytest.raises(PaymentOutcomeUnknown, match="the answer cannot be read") as caught:
        await fetching(f"{url}/packed")
    assert caught.value.outcome == "paid"
    journal, _ = journal_from_toml(tmp_path / "wallets.toml")
    await journal.start()
    assert [record.id for record in await journal.newest(limit=9)] == [caught.value.record_id]
    await journal.close()


async def test_nobody_there_costs_nothing(play: Path, fetching: Fetch) -> None:
    with listening() as (_, nobody):
        pass
    with pytest.raises(httpx.ConnectError):
        await fetching(f"{nobody}/echo")


def test_both_take_the_same() -> None:
    assert inspect.signature(fetch).parameters == inspect.signature(fetch_sync).parameters
