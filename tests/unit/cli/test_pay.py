"""What `rail402 get` says where the money is gone and the answer is not in hand."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner

from rail402.cli.app import app
from rail402.cli.pay import _account, _Asked, _Get, _run, _tell
from rail402.client.httpx import EXTENSION
from rail402.client.limits import Room
from rail402.client.records import Purchase
from rail402.money import Money
from tests.unit.client.shop import URL, BrokenStream, Market, Pieces


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[Market]:
    opened = Market(tmp_path, "async")
    yield opened
    await opened.close()


ANSWERS: dict[str, Callable[[], httpx.Response]] = {
    "broken off": lambda: httpx.Response(200, stream=BrokenStream()),
    "a redirect to nowhere": lambda: httpx.Response(302, headers={"Location": "https://shop.test:port/"}),
    "no gzip": lambda: httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=Pieces(b"no gzip")),
}


@pytest.mark.parametrize("answer", list(ANSWERS))
def test_what_was_paid_for_is_not_said_to_have_had_no_answer(
    market: Market, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    async def handle(request: httpx.Request) -> httpx.Response:
        response = await market.shop.handle(request)
        return response if response.status_code == 402 else ANSWERS[answer]()

    payer: Any = market.payer()
    paying = payer.transport(httpx.MockTransport(handle))
    monkeypatch.setattr(payer, "transport", lambda: paying)
    with pytest.raises(typer.Exit) as ended:
        _run(_Asked(request=httpx.Request("GET", URL), payer=payer, options=_Get(url=URL, as_json=True)))
    said = json.loads(capsys.readouterr().out)
    assert (ended.value.exit_code, said["outcome"], said["record_id"][:4]) == (6, "paid", "rec_")
    assert market.ledger.count("pay") == 1


def bought(outcome: Any, fee: str | None = None, price: str = "0.50 USD") -> Purchase:
    return Purchase(
        record_id="rec_1",
        outcome=outcome,
        price=Money.parse(price),
        fee=None if fee is None else Money.parse(fee),
        rail="base",
        dialect="mpp",
        receipt=None,
        receipt_error=None,
    )


ROOM = Room(Money.parse("4 USD"), Money.parse("5 USD"), "total")


@pytest.mark.parametrize(
    ("price", "fee", "said"),
    [
        ("0.50 USD", None, "paid 0.5 USD in all"),
        ("0.50 USD", "0.01 USD", "paid 0.51 USD in all"),
        ("0.50 USD", "2 sat", "paid 0.5 USD and 2 sat in all"),
        ("21 sat", "21 msat", "paid 21.021 sat in all"),
    ],
)
def test_what_was_spent_has_the_fees_in_it(price: str, fee: str | None, said: str) -> None:
    purchase = bought("paid", fee, price)
    assert _account(purchase, None) == said
    assert _account(purchase, ROOM) == f"{said} · 4 USD of 5 USD in total is left"


def test_what_is_perhaps_paid_is_said_to_be_held() -> None:
    held = "0.5 USD held until it is known: rail402 receipts recover"
    assert _account(bought("unknown"), None) == held
    assert _account(bought("unknown"), ROOM) == f"4 USD of 5 USD in total is left · {held}"


@pytest.mark.parametrize(
    ("status", "purchase", "code"),
    [
        (200, bought("paid"), 0),
        (404, bought("paid"), 1),
        (404, None, 1),
        (404, bought("unknown"), 6),
        (500, bought("unknown"), 6),
    ],
)
def test_money_whose_fate_is_not_known_has_its_own_exit_code(
    status: int, purchase: Purchase | None, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    request = httpx.Request("GET", URL)
    response = httpx.Response(status, request=request, extensions={} if purchase is None else {EXTENSION: purchase})
    asked: Any = _Asked(request=request, payer=None, options=_Get(url=URL))  # type: ignore[arg-type]
    with pytest.raises(typer.Exit) as ended:
        _tell(asked, response, None)
    assert ended.value.exit_code == code


@pytest.mark.parametrize("most", ["10 cents", "ten", "0 USD", "5 EUR"])
@pytest.mark.parametrize("wallets", ["sandbox", "wallets.toml"])
def test_a_wrong_limit_is_wrong_usage_of_its_option(
    most: str, wallets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wallets.toml").write_text('[[wallets]]\nname = "base"\nbackend = "sandbox"\n')
    said = CliRunner().invoke(app, ["get", URL, "--max", most, "--wallets", wallets])
    assert (said.exit_code, said.stdout) == (2, "")
    assert "Invalid value for --max: " in said.stderr
    assert "wallets.toml" not in said.stderr
    assert "configuration" not in said.stderr
