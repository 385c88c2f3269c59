"""After paying: only the same payment is shown, until it is served or the deadline."""

from __future__ import annotations

import httpx
import pytest

from rail402.errors import (
    PaymentOutcomeUnknown,
)
from rail402.testing.fakes import Ending, FakeSpec, FakeWallet
from tests.unit.client.shop import ANSWER_LOST, LOST, ORIGIN, PRICE, Answer, Make, Market


@pytest.mark.parametrize("first", [LOST, ANSWER_LOST, Answer(402), Answer(409), Answer(503)], ids=str)
async def test_only_the_same_payment_is_sent_again(market: Market, first: Answer) -> None:
    market.shop.script.extend([first, Answer(503, {"Retry-After": "7"}), LOST])
    response = await market.request(market.payer())
    assert response.text == "article 1"
    assert market.slept == [1, 7, 2]
    assert len(market.shop.proofs) == 4
    assert len(set(market.shop.proofs)) == 1
    assert market.ledger.count("pay") == 1
    assert market.ledger.charged_total == PRICE
    assert await market.states() == ["committed"]


async def test_at_the_deadline_the_outcome_is_unknown_and_the_amount_stays_reserved(market: Market) -> None:
    market.shop.script.extend([LOST] * 50)
    payer = market.payer()
    with pytest.raises(PaymentOutcomeUnknown, match=r"the connection failed; 0\.003 USD stay reserved") as caught:
        await market.request(payer)
    assert market.slept == [1, 2, 4, 8, 8]
    assert caught.value.outcome == "unknown"
    (record,) = await payer.journal.newest()
    assert (record.id, record.state, record.lease_until) == (caught.value.record_id, "unknown", 0)
    assert str((await payer.journal.spent(now=market.clock()))["hour"]["USD"].unresolved) == "0.003 USD"


async def test_a_retry_after_beyond_the_deadline_is_not_waited_for(market: Market) -> None:
    market.shop.script.append(Answer(503, {"Retry-After": "3600"}))
    with pytest.raises(PaymentOutcomeUnknown) as caught:
        await market.request(market.payer())
    assert (market.slept, caught.value.retry_after) == ([], 3600)


@pytest.mark.parametrize("value", ["soon", "-1", "", "Wed, 21 Oct 2026 07:28:00 GMT", "٣", "9" * 12])
async def test_other_values_of_retry_after_are_passed_over(market: Market, value: str) -> None:
    market.shop.script.append(Answer(503, [(b"Retry-After", value.encode())]))
    await market.request(market.payer())
    assert market.slept == [1]


async def test_a_wallet_may_know_what_a_refusal_comes_of(market: Market) -> None:
    wallet = FakeWallet(market.ledger, market.specs[0])
    wallet.advice = {"insufficient_funds": "look into the other pocket"}
    for code, said in (("insufficient_funds", r"insufficient_funds \(look into .*\);"), ("refunded", "refunded;")):
        market.shop.script.append(Answer(402, body={"code": code}))
        with pytest.raises(PaymentOutcomeUnknown, match=f"the server answered {said}"):
            await market.request(market.payer([wallet]), url=f"{ORIGIN}/{code}")


async def test_a_final_refusal_ends_the_wait(market: Market) -> None:
    market.shop.script.append(Answer(402, body={"code": "insufficient_funds"}))
    with pytest.raises(PaymentOutcomeUnknown, match="insufficient_funds"):
        await market.request(market.payer())
    assert market.slept == []


@pytest.mark.parametrize("code", ["not_settled", "payment_required", "never heard of", 7, None])
async def test_other_codes_do_not(market: Market, code: object) -> None:
    market.shop.script.append(Answer(402, body={"code": code}))
    assert (await market.request(market.payer())).status_code == 200
    assert market.slept == [1]


async def test_what_the_wallet_finds_unpaid_is_free_again(open_market: Make) -> None:
    market = open_market(specs=[FakeSpec("first"), FakeSpec("second")])
    market.shop.script.append(Answer(402, body={"code": "payment_declined"}))
    market.ledger.script("resume", Ending.NOT_PAID)
    response = await market.request(market.payer())
    assert response.extensions["rail402"].rail == "second"
    assert await market.states() == ["committed", "released"]


async def test_an_error_after_paying_is_handed_over_and_stays_open(market: Market) -> None:
    market.shop.status = 500
    payer = market.payer()
    response = await market.request(payer)
    assert (response.status_code, response.extensions["rail402"].outcome) == (500, "unknown")
    assert await market.states() == ["unknown"]
    # The same request goes on with the same payment.
    await market.request(payer)
    assert len(set(market.shop.proofs)) == 1
    assert market.ledger.charged_total == PRICE


async def test_a_body_that_breaks_off_is_fetched_again_with_the_same_payment(market: Market) -> None:
    market.shop.break_bodies = 1
    payer = market.payer()
    with pytest.raises(httpx.ReadError):
        await market.request(payer)
    assert await market.states() == ["unknown"]
    assert (await market.request(payer)).text == "article 1"
    assert market.ledger.charged_total == PRICE
    assert await market.states() == ["committed"]
