"""What `rail402 get` says where the money is gone and the answer is not in hand."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from rail402.cli.pay import _account, _Asked, _Get, _run
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


@pytest.mark.parametrize(
    ("fee", "outcome", "said"),
    [
        (None, "paid", "paid 0.5 USD in all"),
        ("0.01 USD", "paid", "paid 0.51 USD in all"),
        ("2 sat", "paid", "paid 0.5 USD and 2 sat in all"),
        ("0 USD", "unknown", "perhaps paid 0.5 USD in all"),
    ],
)
def test_what_was_spent_has_the_fees_in_it(fee: str | None, outcome: Any, said: str) -> None:
    purchase = Purchase(
        record_id="rec_1",
        outcome=outcome,
        price=Money.parse("0.50 USD"),
        fee=None if fee is None else Money.parse(fee),
        rail="base",
        dialect="mpp",
        receipt=None,
        receipt_error=None,
    )
    assert _account(purchase, None) == said
    room = Room(Money.parse("4 USD"), Money.parse("5 USD"), "total")
    assert _account(purchase, room) == f"{said} · 4 USD of 5 USD in total is left"
