"""Purchases that are not resolved: later calls, other processes, crashes."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from rail402.client.flow import PurchaseFlow
from rail402.client.httpx import _seen
from rail402.client.journal import Journal
from rail402.client.records import PurchaseRecord, PurchaseState
from rail402.client.services import PAY_SECONDS, RESERVE_LEASE
from rail402.dialects import XReceipt
from rail402.errors import PaymentOutcomeUnknown, StoreError
from rail402.testing.fakes import Ending, FakeSpec, FakeWallet
from tests.unit.client.shop import ANSWER_LOST, LOST, ORIGIN, PRICE, URL, Answer, Make, Market

# --- a later call, or a new process


async def test_a_later_call_goes_on_with_the_payment(market: Market) -> None:
    market.shop.script.extend([ANSWER_LOST] + [LOST] * 5)
    payer = market.payer()
    with pytest.raises(PaymentOutcomeUnknown):
        await market.request(payer)
    market.shop.script.clear()
    response = await market.request(payer)
    assert response.text == "article 1"
    assert response.extensions["rail402"].outcome == "paid"
    assert market.ledger.count("pay") == 1
    assert len(set(market.shop.proofs)) == 1
    assert (await market.request(payer)).text == "article 2"


async def test_another_order_is_not_held_up(market: Market) -> None:
    market.shop.script.extend([LOST] * 6)
    payer = market.payer()
    with pytest.raises(PaymentOutcomeUnknown):
        await market.request(payer)
    assert (await market.request(payer, url=f"{ORIGIN}/other")).text == "article 1"
    assert (await market.request(payer, "POST", content=b"body")).text == "article 2"


@pytest.mark.parametrize("style", ["signed", "invoice"])
@pytest.mark.parametrize("ending", [Ending.UNKNOWN_DONE, Ending.UNKNOWN_NOT_DONE, Ending.PENDING])
async def test_a_wallet_without_an_answer_is_asked_again_before_anything_new(
    open_market: Make, style: Any, ending: Ending
) -> None:
    market = open_market(specs=[FakeSpec(style=style)])
    market.ledger.script("pay", ending)
    payer = market.payer()
    with pytest.raises(PaymentOutcomeUnknown) as caught:
        await market.request(payer)
    assert market.shop.proofs == []
    if ending is Ending.PENDING:
        with pytest.raises(PaymentOutcomeUnknown, match="does not know yet"):
            await market.request(payer)
        record = await payer.journal.get(str(caught.value.record_id))
        assert record is not None
        market.ledger.arrive(
            record.id if style == "signed" else str(market.shop.rails["fake"].issued_key(record.offer))
        )
    response = await market.request(payer)
    assert response.text == "article 1"
    assert market.ledger.charged_total == PRICE
    assert market.ledger.count("pay") == (2 if ending is Ending.UNKNOWN_NOT_DONE else 1)
    assert not await payer.journal.unresolved()


async def test_an_expired_proof_that_was_not_taken_makes_room_for_a_new_purchase(market: Market) -> None:
    market.shop.script.extend([LOST] * 6)
    payer = market.payer()
    with pytest.raises(PaymentOutcomeUnknown):
        await market.request(payer)
    market.clock.advance(100)
    assert (await market.request(payer)).text == "article 1"
    assert market.ledger.count("pay") == 2
    assert market.ledger.charged_total == PRICE
    assert await market.states() == ["committed", "released"]


async def test_a_paid_order_that_is_never_served_closes_after_an_hour(open_market: Make) -> None:
    market = open_market(specs=[FakeSpec(style="invoice")])
    gone = Answer(402, body={"code": "receipt_expired"})
    market.shop.script.extend([gone] * 3)
    payer = market.payer()
    outcomes = []
    for wait in (0, 400, 4000):
        market.clock.advance(wait)
        with pytest.raises(PaymentOutcomeUnknown) as caught:
            await market.request(payer)
        outcomes.append(caught.value.outcome)
    assert outcomes == ["paid", "paid", "paid"]
    assert "the same request buys anew" in str(caught.value)
    assert await market.states() == ["committed"]
    assert (await market.request(payer)).status_code == 200
    assert market.ledger.charged_total == 2 * PRICE


async def test_a_resumed_proof_is_shown_even_while_the_wallet_is_down(market: Market) -> None:
    market.shop.script.extend([LOST] * 6)
    payer = market.payer()
    with pytest.raises(PaymentOutcomeUnknown):
        await market.request(payer)
    market.ledger.script("resume", Ending.UNAVAILABLE)
    assert (await market.request(payer)).text == "article 1"
    assert market.ledger.count("pay") == 1


async def test_without_its_wallet_an_open_purchase_blocks_its_order(market: Market) -> None:
    market.shop.script.extend([LOST] * 6)
    with pytest.raises(PaymentOutcomeUnknown):
        await market.request(market.payer())
    other = market.payer([FakeWallet(market.ledger, market.specs[0], payer="bob")])
    for _ in range(2):
        with pytest.raises(PaymentOutcomeUnknown, match="'fake:alice', which is not here") as caught:
            await market.request(other)
        for fix in ("in the folder that it was begun with", f"`rail402 receipts write-off {caught.value.record_id}`"):
            assert fix in caught.value.detail
    assert market.ledger.count("pay") == 1


async def test_without_its_dialect_an_open_purchase_blocks_its_order(market: Market) -> None:
    market.shop.script.extend([LOST] * 6)
    with pytest.raises(PaymentOutcomeUnknown):
        await market.request(market.payer())
    other = market.payer(dialects=[XReceipt()])
    for _ in range(2):
        with pytest.raises(PaymentOutcomeUnknown, match="begun in x402-v2"):
            await market.request(other)
    assert market.ledger.count("pay") == 1


async def test_a_purchase_that_another_process_works_on_is_waited_for(market: Market) -> None:
    market.shop.script.extend([LOST] * 6)
    first = market.payer()
    with pytest.raises(PaymentOutcomeUnknown):
        await market.request(first)
    (record,) = await first.journal.unresolved()
    await first.journal.adopt(record, now=market.clock(), lease_until=market.clock() + 10_000)
    with pytest.raises(PaymentOutcomeUnknown, match="another process") as caught:
        await market.request(market.payer())
    assert caught.value.record_id == record.id
    assert sum(market.slept[-30:]) == 30
    assert market.ledger.count("pay") == 1


async def test_calls_side_by_side_share_no_payment(market: Market) -> None:
    payer = market.payer()
    texts = [response.text for response in await asyncio.gather(*(market.request(payer) for _ in range(4)))]
    assert sorted(texts) == [f"article {number}" for number in (1, 2, 3, 4)]


# --- crashes


@pytest.mark.parametrize("style", ["signed", "invoice"])
@pytest.mark.parametrize("steps", range(1, 12))
@pytest.mark.parametrize("kind", ["async"])  # the steps are the same in both drivers
async def test_a_crash_at_any_step_never_pays_twice(open_market: Make, style: Any, steps: int) -> None:
    market = open_market(specs=[FakeSpec(style=style)])
    finished = await run_steps(market, steps)
    market.clock.advance(RESERVE_LEASE)
    payer = market.payer()
    response = await market.request(payer)
    assert response.text == ("article 2" if finished else "article 1")
    assert not await payer.journal.unresolved()
    taken = set(market.shop.proofs)
    assert market.ledger.charged_total == market.shop.sold * PRICE
    assert market.shop.sold == (2 if finished else 1)
    assert len(taken) >= market.shop.sold


async def run_steps(market: Market, steps: int) -> bool:
    """Run a purchase for that many commands and drop it there; return whether it was finished."""
    payer = market.payer()
    await payer.start()
    request = httpx.Request("GET", URL)
    transport: Any = payer.transport(httpx.MockTransport(market.shop.handle))
    flow = PurchaseFlow(transport._services, _seen(request))
    run = flow.run()
    command = next(run)
    try:
        for _ in range(steps):
            command = run.send(await transport._perform(command, request))
    except StopIteration:
        return True
    run.close()
    return False


@pytest.mark.parametrize("kind", ["async"])
async def test_a_cancelled_call_can_be_gone_on_with_at_once(open_market: Make) -> None:
    market = open_market()
    serving = asyncio.Event()

    async def stall() -> None:
        serving.set()
        await asyncio.Event().wait()

    market.shop.before_serving = stall
    payer = market.payer()
    call = asyncio.create_task(market.request(payer))
    await serving.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    market.shop.before_serving = None
    assert (await market.request(payer)).text == "article 1"
    assert market.ledger.count("pay") == 1


async def test_a_wallet_that_never_answers_counts_as_unknown(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rail402.client.flow.PAY_SECONDS", 0.01)
    assert PAY_SECONDS < RESERVE_LEASE

    async def stall(name: str, key: str) -> None:
        if name == "pay":
            await asyncio.Event().wait()

    market.ledger.before = stall
    with pytest.raises(PaymentOutcomeUnknown):
        await market.request(market.payer())
    assert await market.states() == ["unknown"]


async def test_without_a_journal_nothing_is_paid(market: Market) -> None:
    payer = market.payer()
    (market.folder / "wallet.db").mkdir()
    with pytest.raises(Exception, match="cannot be opened"):
        await market.request(payer)
    assert not market.ledger.count("pay")


async def test_what_was_served_is_handed_over_though_the_journal_failed(
    market: Market, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    payer = market.payer()
    save = Journal.save

    async def fail(self: Journal, record: PurchaseRecord, *, now: int) -> PurchaseRecord:
        if record.state is PurchaseState.COMMITTED:
            raise StoreError("the disk is full")
        return await save(self, record, now=now)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "save", fail)
        assert (await market.request(payer)).text == "article 1"
    assert "served but could not be closed" in caplog.text
    assert (await market.request(payer)).text == "article 1", "the same payment, no second one"
    assert market.ledger.count("pay") == 1


async def test_a_resumed_payment_that_turns_out_unpaid_is_bought_anew(market: Market) -> None:
    payer = market.payer()
    market.shop.script.extend([LOST] * 6)
    with pytest.raises(PaymentOutcomeUnknown):
        await market.request(payer)
    market.shop.script.clear()
    market.shop.script.append(Answer(402, body={"code": "payment_declined"}))
    market.ledger.script("resume", Ending.OK, Ending.NOT_PAID)
    assert (await market.request(payer)).text == "article 1"
    assert await market.states() == ["committed", "released"]
    assert market.ledger.charged_total == PRICE
