"""A purchase from the first request to the response, in both drivers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from rail402.client.budget import Budget
from rail402.dialects import X402V2, Mpp, XReceipt
from rail402.errors import (
    AdministrativePaymentRequired,
    BudgetExceeded,
    ClientError,
    NoUsableOffer,
    PaymentFailed,
    PaymentOutcomeUnknown,
    StreamingBodyRefused,
)
from rail402.money import Money
from rail402.testing.fakes import Ending, FakeLedger, FakeSpec, FakeWallet
from tests.unit.client.shop import LOST, ORIGIN, PRICE, Make, Market

# --- what is paid, and what is not


async def test_a_free_route_costs_nothing_and_opens_no_journal(market: Market) -> None:
    response = await market.request(market.payer(), url=f"{ORIGIN}/free")
    assert response.text == "free"
    assert "rail402" not in response.extensions
    assert not (market.folder / "wallet.db").exists()


@pytest.mark.parametrize("style", ["signed", "invoice"])
@pytest.mark.parametrize("dialect", [X402V2(), Mpp(), XReceipt()], ids=lambda dialect: dialect.name)
async def test_a_402_is_paid_once_in_every_dialect(open_market: Make, style: Any, dialect: Any) -> None:
    market = open_market(specs=[FakeSpec(style=style)], dialects=[dialect])
    payer = market.payer(dialects=[dialect])
    response = await market.request(payer)
    assert (response.status_code, response.text) == (200, "article 1")
    purchase = response.extensions["rail402"]
    assert (purchase.outcome, str(purchase.price), purchase.rail) == ("paid", "0.003 USD", "fake")
    assert purchase.dialect == dialect.name
    assert market.ledger.charged_total == PRICE
    (record,) = await payer.journal.newest()
    assert (record.state, record.cost, record.id) == ("committed", purchase.price, purchase.record_id)
    assert market.ledger.count("pay") == 1


async def test_the_same_request_later_is_a_new_purchase(market: Market) -> None:
    payer = market.payer()
    assert [(await market.request(payer)).text for _ in range(2)] == ["article 1", "article 2"]
    assert market.ledger.charged_total == 2 * PRICE


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
async def test_nothing_but_a_402_is_paid(market: Market, status: int) -> None:
    sell = market.shop.handle

    async def refuse(request: httpx.Request) -> httpx.Response:
        challenge = await sell(request)
        return httpx.Response(status, headers=challenge.headers, content=challenge.content)

    market.shop.handle = refuse  # type: ignore[method-assign]
    assert (await market.request(market.payer())).status_code == status
    assert not market.ledger.count("pay")


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(402),
        httpx.Response(402, text="pay your bill"),
        httpx.Response(402, json={"error": "quota"}),
        httpx.Response(402, content=b"x" * 1_100_000),
    ],
    ids=["empty", "text", "json", "huge"],
)
async def test_a_402_without_terms_is_administrative(market: Market, answer: httpx.Response) -> None:
    async def handle(request: httpx.Request) -> httpx.Response:
        return answer

    market.shop.handle = handle  # type: ignore[method-assign]
    with pytest.raises(AdministrativePaymentRequired):
        await market.request(market.payer())


async def test_a_402_for_other_rails_is_not_administrative(market: Market) -> None:
    with pytest.raises(NoUsableOffer, match="no kind of payment that the wallets here can make"):
        await market.request(market.payer([FakeWallet(FakeLedger(), FakeSpec("other"))]))


# --- request bodies


async def test_a_body_is_sent_again_exactly(market: Market) -> None:
    body = bytes(range(256)) * 10
    response = await market.request(market.payer(), "POST", content=body, headers={"X-Own": "1"})
    assert response.status_code == 200
    first, second = market.shop.requests
    assert first.content == second.content == body
    added = set(second.headers.raw) - set(first.headers.raw)
    assert {name.lower() for name, _ in added} == {b"payment-signature"}
    assert set(first.headers.raw) <= set(second.headers.raw)


async def test_a_streamed_body_is_refused_before_paying(market: Market) -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"one"

    def sync_stream() -> Iterator[bytes]:
        yield b"one"

    content: Any = stream() if market.kind == "async" else sync_stream()
    with pytest.raises(StreamingBodyRefused, match=r"request\.read\(\)"):
        await market.request(market.payer(), "POST", content=content)
    assert not market.ledger.count("pay")


async def test_a_streamed_body_passes_where_nothing_is_sold(market: Market) -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"one"

    content: Any = stream() if market.kind == "async" else iter([b"one"])
    assert (await market.request(market.payer(), "POST", f"{ORIGIN}/free", content=content)).text == "free"


# --- origins


@pytest.mark.parametrize("when", ["before", "after"])
async def test_no_payment_follows_a_redirect_to_another_origin(market: Market, when: str) -> None:
    elsewhere: list[httpx.Request] = []
    sell = market.shop.handle

    async def handle(request: httpx.Request) -> httpx.Response:
        if request.url.host != "shop.test":
            elsewhere.append(request)
            return httpx.Response(200, text="elsewhere")
        response = await sell(request)
        if when == "before" or response.status_code == 200:
            return httpx.Response(302, headers={"Location": "http://evil.test/"})
        return response

    market.shop.handle = handle  # type: ignore[method-assign]
    assert (await market.request(market.payer())).text == "elsewhere"
    (request,) = elsewhere
    assert not {"payment-signature", "authorization", "x-receipt"} & set(request.headers)
    assert market.ledger.charged_total == (0 if when == "before" else PRICE)


async def test_the_requests_own_field_is_never_replaced(open_market: Make) -> None:
    market = open_market(dialects=[Mpp(), XReceipt()])
    payer = market.payer(dialects=[Mpp(), XReceipt()])
    response = await market.request(payer, headers={"Authorization": "Bearer own"})
    assert response.extensions["rail402"].dialect == "x-receipt"
    assert market.shop.requests[-1].headers["authorization"] == "Bearer own"
    with pytest.raises(NoUsableOffer, match="authorization of its own"):
        await market.request(market.payer(dialects=[Mpp()]), headers={"Authorization": "Bearer own"})


# --- the budget


async def test_above_the_limit_nothing_is_signed(market: Market) -> None:
    with pytest.raises(
        BudgetExceeded, match=r"fake 0\.003 USD \(x402-v2, mpp, x-receipt\): the limit is 0\.002 USD per request"
    ):
        await market.request(market.payer(budget=Budget(per_request="0.002 USD")))
    assert not market.ledger.count("pay")
    assert await market.states() == []


async def test_the_fee_ceiling_is_reserved_and_the_true_fee_spent(market: Market) -> None:
    fee = {"fee_ceiling": Money.parse("0.001 USD"), "fee": Money.parse("0.0004 USD")}
    wallet = FakeWallet(market.ledger, market.specs[0], **fee)
    with pytest.raises(BudgetExceeded, match=r"may cost 0\.004 USD"):
        await market.request(market.payer([wallet], budget=Budget(per_request="0.0039 USD")))
    payer = market.payer([wallet], budget=Budget(per_hour="0.0074 USD"))
    for _ in range(2):
        assert str((await market.request(payer)).extensions["rail402"].fee) == "0.0004 USD"
    spent = (await payer.journal.spent(now=market.clock()))["hour"]["USD"]
    assert (str(spent.total), str(spent.unresolved)) == ("0.0068 USD", "0 USD")
    with pytest.raises(BudgetExceeded, match=r"0\.0006 USD is left"):
        await market.request(payer)


async def test_calls_side_by_side_never_pass_a_limit(market: Market) -> None:
    payer = market.payer(budget=Budget(per_hour="0.015 USD"))
    calls = [market.request(payer) for _ in range(16 if market.kind == "sync" else 64)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(result, httpx.Response) for result in results) == 5
    assert all(isinstance(result, httpx.Response | BudgetExceeded) for result in results)
    assert market.ledger.charged_total == 5 * PRICE
    assert market.ledger.count("pay") == 5


# --- several wallets


async def test_the_next_wallet_pays_only_where_the_first_definitively_did_not(open_market: Make) -> None:
    market = open_market(specs=[FakeSpec("first"), FakeSpec("second")])
    market.ledger.script("pay", Ending.FAILED)
    payer = market.payer()
    assert (await market.request(payer)).extensions["rail402"].rail == "second"
    assert await market.states() == ["committed", "released"]
    market.ledger.script("pay", Ending.UNKNOWN_NOT_DONE)
    with pytest.raises(PaymentOutcomeUnknown, match="stay reserved"):
        await market.request(payer)
    assert market.ledger.count("pay") == 3
    assert market.ledger.charged_total == PRICE


async def test_a_wallet_that_is_down_lets_the_next_one_pay(open_market: Make) -> None:
    market = open_market(specs=[FakeSpec("first"), FakeSpec("second")])
    market.ledger.script("pay", Ending.UNAVAILABLE)
    assert (await market.request(market.payer())).extensions["rail402"].rail == "second"


async def test_if_no_wallet_could_pay_the_error_says_so_for_each(open_market: Make) -> None:
    market = open_market(specs=[FakeSpec("first"), FakeSpec("second")])
    market.ledger.script("pay", Ending.FAILED, Ending.UNAVAILABLE)
    with pytest.raises(PaymentFailed, match=r"first 0\.003 USD .*; second 0\.003 USD .*scripted to be down") as caught:
        await market.request(market.payer())
    assert caught.value.outcome == "not_paid"
    assert await market.states() == ["released", "released"]


# --- secrets


async def test_no_secret_is_shown_anywhere(
    market: Market, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    market.shop.script.extend([LOST] * 6)
    payer = market.payer()
    with pytest.raises(ClientError) as caught:
        await market.request(payer)
    response = await market.request(payer)
    (record,) = await payer.journal.newest()
    assert record.proof is not None
    shown = caplog.text + str(caught.value)
    for thing in (caught.value, payer, record, record.offer, payer.journal, response.extensions, payer._services):
        shown += repr(thing)
    for secret in (record.proof["signature"], record.proof["nonce"], str(market.shop.offers[0].token)):
        assert secret not in shown
