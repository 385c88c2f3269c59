"""Who watches a payer is told of every step, in its order, and takes no part in the purchase."""

from __future__ import annotations

import threading
from dataclasses import asdict
from typing import Any

import httpx
import pytest

from rail402.client.journal import Journal
from rail402.client.progress import Receiving, Step
from rail402.errors import PaymentOutcomeUnknown
from rail402.money import Money
from rail402.testing.fakes import FakeWallet
from tests.unit.client.shop import LOST, ORIGIN, URL, Answer, BrokenStream, Market, Pieces

FREE = f"{ORIGIN}/free"


def watched(market: Market, **options: Any) -> tuple[Any, list[Step]]:
    """Return a payer, and the list of what it tells."""
    payer, told = market.payer(**options), list[Step]()
    payer.on_progress = told.append
    return payer, told


def names(told: list[Step]) -> list[str]:
    return [type(step).__name__ for step in told]


def said(step: Step) -> dict[str, Any]:
    """Return what a step says beside the request."""
    facts = asdict(step)
    assert (facts.pop("method"), facts.pop("url")) == ("GET", URL)
    return facts


async def test_a_purchase_is_told_step_by_step(market: Market) -> None:
    wallet = FakeWallet(market.ledger, market.specs[0], fee_ceiling=Money.parse("0.001 USD"))
    payer, told = watched(market, wallets=[wallet])
    response = await market.request(payer)
    assert names(told) == ["Asking", "Paying", "Presenting"]
    assert said(told[1]) == {
        "record_id": response.extensions["rail402"].record_id,
        "wallet": "fake:alice",
        "rail": "fake",
        "price": asdict(Money.parse("0.003 USD")),
        "total": asdict(Money.parse("0.004 USD")),
        "is_resumed": False,
    }


async def test_every_pause_is_told_with_its_length_and_its_reason(market: Market) -> None:
    market.shop.script.extend([LOST, Answer(503, {"Retry-After": "7"}), Answer(409), Answer(402)])
    payer, told = watched(market)
    await market.request(payer)
    pauses = [said(step) for step in told if type(step).__name__ == "Waiting"]
    assert pauses == [
        {"seconds": 1, "why": "the connection failed"},
        {"seconds": 7, "why": "the server answered 503"},
        {"seconds": 2, "why": "the server answered 409"},
        {"seconds": 4, "why": "the server answered 402"},
    ]
    assert [each["seconds"] for each in pauses] == market.slept
    assert names(told) == ["Asking", "Paying", *["Presenting", "Waiting"] * 4, "Presenting"]


async def test_no_word_of_a_server_is_told(market: Market) -> None:
    market.shop.script.append(Answer(503, body={"code": "\x1b[2Jpay me", "error": "\x1b]0;owned\x07"}))
    payer, told = watched(market)
    await market.request(payer)
    assert "pay me" not in repr(told)
    assert "owned" not in repr(told)


async def test_an_earlier_purchase_is_told_as_such(market: Market) -> None:
    market.shop.script.extend([LOST] * 6)
    with pytest.raises(PaymentOutcomeUnknown) as lost:
        await market.request(market.payer())
    market.shop.script.clear()
    payer, told = watched(market)
    await market.request(payer)
    assert names(told) == ["Asking", "Paying", "Presenting"]
    assert (said(told[1])["is_resumed"], said(told[1])["record_id"]) == (True, lost.value.record_id)


async def test_that_another_process_is_at_it_is_told(market: Market) -> None:
    market.shop.script.extend([LOST] * 6)
    with pytest.raises(PaymentOutcomeUnknown):
        await market.request(market.payer())
    other = Journal(f"sqlite:///{market.folder}/wallet.db")
    await other.start()
    (record,) = await other.unresolved()
    now = market.clock()
    assert await other.adopt(record, now=now, lease_until=now + 3) is not None
    await other.close()
    market.shop.script.clear()
    payer, told = watched(market)
    await market.request(payer)
    waited = names(told).count("Waiting")
    assert waited >= 3
    assert said(told[1]) == {"seconds": 1, "why": "another process is buying the same"}
    assert names(told) == ["Asking", *["Waiting"] * waited, "Paying", "Presenting"]


@pytest.mark.parametrize(
    ("length", "expected"), [("11", 11), (None, None), ("9" * 16, None), ("-1", None), ("x", None)]
)
@pytest.mark.parametrize("url", [URL, FREE])
async def test_bytes_are_counted_as_they_come(
    market: Market, url: str, length: str | None, expected: int | None
) -> None:
    sell = market.shop.handle

    async def handle(request: httpx.Request) -> httpx.Response:
        answer = await sell(request)
        headers = {} if length is None else {"Content-Length": length}
        return (
            answer
            if answer.status_code == 402
            else httpx.Response(200, headers=headers, stream=Pieces(b"one", b"two", b"three"))
        )

    market.shop.handle = handle  # type: ignore[method-assign]
    payer, told = watched(market)
    assert (await market.request(payer, url=url)).text == "onetwothree"
    pieces = [step for step in told if isinstance(step, Receiving)]
    assert [(step.received, step.expected) for step in pieces] == [(3, expected), (6, expected), (11, expected)]
    assert {step.url for step in told} == {url}


async def test_a_free_body_that_breaks_off_is_an_error_as_before(market: Market) -> None:
    async def handle(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=BrokenStream())

    market.shop.handle = handle  # type: ignore[method-assign]
    payer, told = watched(market)
    with pytest.raises(httpx.ReadError):
        await market.request(payer, url=FREE)
    assert names(told) == ["Asking", "Receiving"]


async def test_it_is_told_in_the_thread_of_the_caller(market: Market) -> None:
    threads = set()
    payer = market.payer()
    payer.on_progress = lambda step: threads.add(threading.current_thread().name)
    await market.request(payer)
    assert len(threads) == 1
    assert (threading.current_thread().name in threads) is (market.kind == "async")


@pytest.mark.parametrize("kind_of_step", ["Paying", "Presenting", "Waiting"])
async def test_a_watcher_that_raises_is_an_interruption(market: Market, kind_of_step: str) -> None:
    market.shop.script.append(Answer(503))

    def fail(step: Step) -> None:
        if type(step).__name__ == kind_of_step:
            raise KeyError(kind_of_step)

    payer = market.payer()
    payer.on_progress = fail
    with pytest.raises(KeyError):
        await market.request(payer)
    payer.on_progress = None
    market.shop.script.clear()
    assert (await market.request(payer)).text == "article 1"
    assert market.ledger.count("pay") == 1
    assert len(set(market.shop.proofs)) == 1


async def test_a_watcher_that_raises_over_the_body_loses_no_purchase(market: Market) -> None:
    sell = market.shop.handle

    async def in_pieces(request: httpx.Request) -> httpx.Response:
        answer = await sell(request)
        if answer.status_code == 402:
            return answer
        return httpx.Response(200, headers=dict(answer.headers), stream=Pieces(b"one", b"two"))

    def fail(step: Step) -> None:
        if isinstance(step, Receiving):
            raise KeyError("Receiving")

    market.shop.handle = in_pieces  # type: ignore[method-assign]
    payer = market.payer()
    payer.on_progress = fail
    with pytest.raises(KeyError):
        await market.request(payer)
    payer.on_progress = None
    await market.request(payer)
    assert market.ledger.count("pay") == 1
