"""Both databases of a journal: nothing is bought beyond a limit, twice or unrecorded, whoever shares it."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from rail402.client.budget import Budget
from rail402.client.journal import Journal, JournalConflict
from rail402.client.journal_postgres import PostgresJournal
from rail402.client.limits import WINDOWS
from rail402.client.pins import Pin
from rail402.client.records import PurchaseRecord, PurchaseState
from rail402.client.rules import Rule, Subject
from rail402.errors import BudgetExceeded, ConfigurationError, OfferRefused, StoreError
from rail402.money import Money
from rail402.protocol.order import Order
from tests.unit.client.purchases import NOW, ORDER, entries, hour, pin, record, reserve

KEY_A, KEY_B, KEY_C = ({"kty": "OKP", "crv": "Ed25519", "x": name, "kid": name.lower()} for name in "ABC")


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Journal]:
    # By the clock of the test, and not by the server's.
    journal = Journal(url if url.startswith("sqlite:") else PostgresJournal(url, server_clock=False))
    await journal.start()
    try:
        yield journal
    finally:
        await journal.close()


@pytest.fixture
async def journal(url: str) -> AsyncIterator[Journal]:
    async with opened(url) as journal:
        yield journal


# --- purchases


async def test_what_is_written_is_read_again_whole(journal: Journal, url: str) -> None:
    written = await reserve(journal, record())
    changed = await journal.save(
        written.changed(state=PurchaseState.PRESENTED, proof={"signature": "s3cret", "n": 1}), now=NOW
    )
    assert (changed.version, await journal.get(written.id)) == (1, changed)
    await journal.close()
    await journal.start()
    assert await journal.get(written.id) == changed
    assert await journal.get("rec_none") is None


async def test_open_purchases_are_found_by_order_oldest_first(journal: Journal) -> None:
    other = Order(method="GET", url="https://shop.test/b", route="")
    for number, order in [(2, ORDER), (1, ORDER), (3, other)]:
        await reserve(journal, record(number, cost="0.1 USD", order=order))
    assert [found.created_at - NOW for found in await journal.open_for(ORDER.digest)] == [1, 2]
    assert [found.created_at - NOW for found in await journal.unresolved()] == [1, 2, 3]
    assert [found.created_at - NOW for found in await journal.newest(limit=2)] == [3, 2]
    assert [found.created_at - NOW for found in await journal.newest(before=record(2).id)] == [1]


@pytest.mark.parametrize("state", [PurchaseState.COMMITTED, PurchaseState.RELEASED])
async def test_a_resolved_purchase_is_final(journal: Journal, state: PurchaseState) -> None:
    done = await journal.save((await reserve(journal, record())).changed(state=state), now=NOW)
    assert not await journal.unresolved()
    with pytest.raises(JournalConflict):
        await journal.save(done.changed(state=PurchaseState.PRESENTED), now=NOW)
    assert await journal.get(done.id) == done


async def test_whoever_comes_late_changes_nothing(journal: Journal) -> None:
    mine = await reserve(journal, record())
    adopted = await journal.adopt(mine, now=NOW + 121, lease_until=NOW + 500)
    assert adopted is not None
    with pytest.raises(JournalConflict):
        await journal.save(mine.changed(state=PurchaseState.PRESENTED), now=NOW + 122)
    assert await journal.get(mine.id) == adopted


async def test_a_purchase_is_adopted_once_and_only_after_its_lease(journal: Journal) -> None:
    mine = await reserve(journal, record())
    assert await journal.adopt(mine, now=NOW + 119, lease_until=NOW + 500) is None
    rivals = [journal.adopt(mine, now=NOW + 120, lease_until=NOW + 500) for _ in range(8)]
    assert sum(found is not None for found in await asyncio.gather(*rivals)) == 1


async def test_one_id_is_one_purchase(journal: Journal) -> None:
    await reserve(journal, record())
    with pytest.raises(StoreError):
        await reserve(journal, record())


# --- the budget


async def test_what_is_reserved_counts_and_a_refused_purchase_leaves_nothing(journal: Journal) -> None:
    budget = Budget(per_hour="2 USD")
    for number in range(2):
        await reserve(journal, record(number), budget=budget)
    with pytest.raises(BudgetExceeded, match=r"of 2 USD per hour 0 USD is left.*2 USD is held"):
        await reserve(journal, record(2), budget=budget)
    assert len(await journal.unresolved()) == 2
    assert await hour(journal) == ("2 USD", "2 USD")


async def test_released_money_can_be_spent_again(journal: Journal) -> None:
    budget = Budget(per_hour="1 USD")
    first = await reserve(journal, record(), budget=budget)
    await journal.save(first.changed(state=PurchaseState.RELEASED), now=NOW)
    await reserve(journal, record(1), budget=budget)


async def test_what_was_withdrawn_counts_like_money_spent(journal: Journal) -> None:
    budget = Budget(per_hour="1 USD")
    first = await reserve(journal, record(), budget=budget)
    await journal.save(first.changed(state=PurchaseState.RELEASED, withdrawn=True), now=NOW + 10)
    assert await hour(journal, now=NOW + 10) == ("1 USD", "0 USD")
    assert await journal.unresolved() == []
    with pytest.raises(BudgetExceeded):
        await reserve(journal, record(1), budget=budget)
    assert await hour(journal, now=NOW + 10 + 3600) == ("0", "0")


async def test_committed_money_counts_at_its_true_cost_until_the_window_has_passed(journal: Journal) -> None:
    paid = await reserve(journal, record(cost="1 USD"))
    cost = Money.parse("0.4 USD")
    await journal.save(paid.changed(state=PurchaseState.COMMITTED, cost=cost), now=NOW + 10)
    assert await hour(journal, now=NOW + 10) == ("0.4 USD", "0 USD")
    assert await hour(journal, now=NOW + 10 + 3599) == ("0.4 USD", "0 USD")
    assert await hour(journal, now=NOW + 10 + 3600) == ("0", "0")
    day = (await journal.spent(now=NOW + 10 + 3600))["day"]["USD"]
    assert str(day.total) == "0.4 USD"


async def test_what_was_converted_shrinks_in_proportion(journal: Journal) -> None:
    paid = record(cost="1000 sat")
    budget = Budget(per_request="1 USD", per_hour="5 USD", per_day=None)
    await journal.reserve(paid, budget.entries(paid.reserved, {"USD": Money.parse("0.60 USD")}), now=NOW)
    await journal.save(paid.changed(state=PurchaseState.COMMITTED, cost=Money.parse("500 sat")), now=NOW)
    assert await hour(journal) == ("0.3 USD", "0 USD")
    assert str((await journal.spent(now=NOW))["day"]["BTC"].total) == "500 sat"


async def test_what_is_unknown_counts_however_old_it_is(journal: Journal) -> None:
    lost = await reserve(journal, record())
    await journal.save(lost.changed(state=PurchaseState.UNKNOWN), now=NOW)
    assert await hour(journal, now=NOW + 10**7) == ("1 USD", "1 USD")


async def test_what_is_open_but_certainly_spent_counts_by_its_time(journal: Journal) -> None:
    lost = await reserve(journal, record())
    facts = {"state": PurchaseState.UNKNOWN, "moved": True, "cost": Money.parse("0.5 USD")}
    spent = await journal.save(lost.changed(**facts), now=NOW)
    assert await hour(journal) == ("0.5 USD", "0 USD")
    assert await hour(journal, now=NOW + 3600) == ("0", "0")
    # Serving it later counts nothing a second time.
    await journal.save(spent.changed(state=PurchaseState.COMMITTED), now=NOW + 7200)
    assert await hour(journal, now=NOW + 7200) == ("0", "0")


async def test_a_broken_response_opens_its_purchase_again_and_counts_nothing_twice(journal: Journal) -> None:
    paid = await reserve(journal, record())
    served = await journal.save(paid.changed(state=PurchaseState.COMMITTED, cost=paid.reserved), now=NOW)
    await journal.reopen(served)
    (again,) = await journal.open_for(ORDER.digest)
    assert (again.state, again.version) == (PurchaseState.UNKNOWN, served.version + 1)
    await journal.save(again.changed(state=PurchaseState.COMMITTED, cost=paid.reserved), now=NOW)
    assert await hour(journal) == ("1 USD", "0 USD")


async def test_the_first_write_notes_when_the_wallet_was_asked_at_the_latest(journal: Journal) -> None:
    first = await reserve(journal, record())
    assert (first.asked_by, first.valid_until()) == (None, NOW + 300)
    late = await journal.save(first.changed(state=PurchaseState.PRESENTED), now=NOW + 1000)
    assert (late.asked_by, late.valid_until()) == (NOW + 1000, NOW + 1060)
    later = await journal.save(late.changed(state=PurchaseState.UNKNOWN), now=NOW + 2000)
    assert (later.asked_by, await journal.get(later.id)) == (NOW + 1000, later)


async def test_currencies_have_windows_of_their_own(journal: Journal) -> None:
    await reserve(journal, record(cost="1 USD"))
    await reserve(journal, record(1, cost="1000 sat"))
    assert (await hour(journal, "USD"), await hour(journal, "BTC")) == (("1 USD",) * 2, ("1000 sat",) * 2)


@pytest.mark.parametrize("seed", range(3))
async def test_windows_hold_what_was_bought_in_them_to_the_second(journal: Journal, seed: int) -> None:
    rng, now, cents = random.Random(seed), NOW, "0.{:02} USD".format
    under_way: list[PurchaseRecord] = []
    closed: list[tuple[int, int]] = []
    for number in range(80):
        now += rng.choice((0, 1, 29, 59, 60, 61, 1800, 3599, 3600, 30_000))
        for serial in range(rng.randrange(3)):
            under_way.append(await reserve(journal, record(10 * number + serial, cost=cents(9)), now=now))
        if under_way and rng.random() < 0.8:
            ended = under_way.pop(rng.randrange(len(under_way)))
            cost = rng.randrange(10)
            state = rng.choice((PurchaseState.COMMITTED, PurchaseState.COMMITTED, PurchaseState.RELEASED))
            await journal.save(ended.changed(state=state, cost=Money.parse(cents(cost))), now=now)
            closed += [(now, cost)] if state is PurchaseState.COMMITTED else []
        spent = await journal.spent(now=now)
        for level, seconds in WINDOWS.items():
            total = 9 * len(under_way) + sum(cost for at, cost in closed if seconds is None or at > now - seconds)
            held = spent[level].get("USD")
            assert total == (0 if held is None else held.total.amount * 100), (number, level)


async def test_a_window_is_read_after_2038(journal: Journal) -> None:
    await reserve(journal, record(), budget=Budget(per_hour="1 USD"), now=2**31)
    with pytest.raises(BudgetExceeded):
        await reserve(journal, record(1), budget=Budget(per_hour="1 USD"), now=2**31 + 60)


async def test_purchases_that_end_at_once_are_all_added_up(journal: Journal) -> None:
    budget = Budget(rules=[Rule(host="*", total="99 USD"), Rule(rail="*", per_hour="99 USD")])
    wanted = [record(number, cost="0.1 USD") for number in range(40)]
    for number, each in enumerate(wanted):
        subject = Subject(f"{number % 2}.test", "payee", f"rail{number % 3}")
        await journal.reserve(each, budget.entries(each.reserved, {}, subject), now=NOW)
    await asyncio.gather(
        *(journal.save(each.changed(state=PurchaseState.COMMITTED, cost=each.reserved), now=NOW) for each in wanted)
    )
    spent = await journal.spent_by_scope(now=NOW)
    totals = {scope: str(max(used["USD"].total for used in by.values() if used)) for scope, by in spent.items()}
    assert totals == {
        "": "4 USD",
        "host 0.test": "2 USD",
        "host 1.test": "2 USD",
        "rail rail0": "1.4 USD",
        "rail rail1": "1.3 USD",
        "rail rail2": "1.3 USD",
    }


async def test_64_tasks_never_pass_a_limit(journal: Journal) -> None:
    budget = Budget(per_hour="5 USD")
    results = await asyncio.gather(
        *(reserve(journal, record(number), budget=budget) for number in range(64)), return_exceptions=True
    )
    assert sum(isinstance(result, PurchaseRecord) for result in results) == 5
    assert sum(isinstance(result, BudgetExceeded) for result in results) == 59
    assert await hour(journal) == ("5 USD", "5 USD")


async def test_sums_beyond_all_counting_fail_closed(journal: Journal) -> None:
    vast = entries(Budget(per_request="10000000 USD", per_hour=None, per_day=None), "10000000 USD")
    for number in range(10):
        await journal.reserve(record(number), vast, now=NOW)
    with pytest.raises(StoreError):
        await journal.spent(now=NOW)
    limited = entries(Budget(per_request="10000000 USD", per_hour=None, per_day="1 USD"), "0.01 USD")
    with pytest.raises(StoreError):
        await journal.reserve(record(10, cost="0.01 USD"), limited, now=NOW)
    assert len(await journal.unresolved()) == 10


async def test_a_scope_holds_its_own_and_what_it_did_cost(journal: Journal) -> None:
    budget = Budget(rules=[Rule(host="*", total="3 USD"), Rule(rail="base", per_hour="2 USD")])
    wanted = [record(number) for number in range(3)]
    for number, host in enumerate(["a.test", "a.test", "b.test"]):
        subject = Subject(host, "payee", "base" if number else "stripe")
        await journal.reserve(wanted[number], budget.entries(wanted[number].reserved, {}, subject), now=NOW)
    await journal.save(wanted[0].changed(state=PurchaseState.RELEASED), now=NOW)
    await journal.save(wanted[1].changed(state=PurchaseState.COMMITTED, cost=Money.parse("0.4 USD")), now=NOW)
    spent = await journal.spent_by_scope(now=NOW)
    held = {
        scope: {level: str(used["USD"].total) for level, used in windows.items() if used}
        for scope, windows in spent.items()
    }
    assert held == {
        "": {"hour": "1.4 USD", "day": "1.4 USD", "total": "1.4 USD"},
        "host a.test": {"total": "0.4 USD"},
        "host b.test": {"total": "1 USD"},
        "rail base": {"hour": "1.4 USD"},
    }
    later = await journal.spent_by_scope(now=NOW + 10**8)
    assert str(later["host a.test"]["total"]["USD"].total) == "0.4 USD", "a total never forgets"
    assert str(later["rail base"]["hour"]["USD"].total) == "1 USD", "what is not resolved counts"


async def test_what_came_back_is_kept_beside_what_was_spent(journal: Journal) -> None:
    spent = await journal.save((await reserve(journal, record())).changed(state=PurchaseState.COMMITTED), now=NOW)
    back = spent.changed(refunded=Money.parse("0.4 USD"))
    await journal.refund(back, now=NOW)
    assert await journal.get(back.id) == back
    assert await journal.refunded() == {"USD": Money.parse("0.4 USD")}
    assert await hour(journal) == ("1 USD", "0 USD")
    with pytest.raises(JournalConflict):
        await journal.refund(back, now=NOW)


# --- many processes


RACED = Budget(
    per_hour="50 USD",
    per_day=None,
    total="10 USD",
    rules=[
        Rule(host="*", per_day="3 USD"),
        Rule(host="own.test", total="1 USD"),
        Rule(rail="base", per_hour="5 USD"),
        Rule(tool="search", per_hour="2 USD"),
    ],
)
HOSTS, RAILS = ("a.test", "b.test", "own.test", "c.test", "d.test"), ("base", "lightning", "stripe")
TOOLS = ("search", "search", None, "search", "write", "search", None)


def _spend(url: str, worker: int, results: Any) -> None:
    async def run() -> list[tuple[str, str, str | None]]:
        journal, won = Journal(url, busy_timeout=120), []
        await journal.start()
        for number in range(4):
            host, rail = HOSTS[(worker + number) % len(HOSTS)], RAILS[(worker + number) % len(RAILS)]
            tool = TOOLS[(worker + number) % len(TOOLS)]
            wanted = record(worker * 100 + number)
            counted = RACED.entries(wanted.reserved, {}, Subject(host, "payee", rail, tool))
            with suppress(BudgetExceeded):
                await journal.reserve(wanted, counted, now=NOW)
                won.append((host, rail, tool))
        await journal.close()
        return won

    results.put(asyncio.run(run()))


def _race(url: str, results: Any) -> None:
    """Fork 64 processes out of one that has loaded everything: 64 interpreters would take a minute to start."""
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_spend, args=(url, number, results), daemon=True) for number in range(64)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)


async def test_64_processes_never_pass_any_limit(journal: Journal, url: str) -> None:
    """Each makes four purchases of 1 USD: 256 that race for a total of 10 USD, at five hosts, on three rails and
    for two tools, one of which most of them are for."""
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    parent = spawn.Process(target=_race, args=(url, results))
    parent.start()
    try:
        won = [each for _ in range(64) for each in await asyncio.to_thread(results.get, timeout=60)]
    finally:
        await asyncio.to_thread(parent.join, 70)
    hosts, rails, tools = (Counter(each) for each in zip(*won, strict=True))
    assert len(won) == len(await journal.unresolved()) == 10, "the other limits leave room for all of the total"
    assert hosts["own.test"] <= 1
    assert max(hosts.values()) <= 3
    assert rails["base"] <= 5
    assert tools["search"] <= 2


# --- the kill switch


async def test_while_it_is_paused_nothing_new_is_reserved(journal: Journal, url: str) -> None:
    async with opened(url) as other:
        before = await reserve(journal, record(1))
        await journal.pause(now=NOW)
        await journal.pause(now=NOW + 5)
        assert await other.paused_since() == NOW
        with pytest.raises(BudgetExceeded, match="purchases are paused"):
            await reserve(other, record(2))
        assert await other.get(record(2).id) is None
        resolved = await other.save(before.changed(state=PurchaseState.RELEASED), now=NOW)
        assert resolved.state is PurchaseState.RELEASED, "what is open can still be resolved"
        await other.unpause()
        assert await journal.paused_since() is None
        await reserve(journal, record(2))


# --- the keys of issuers


async def test_the_first_keys_are_pinned_and_later_ones_need_a_pinned_one(journal: Journal) -> None:
    assert await journal.pin("https://a.test", [KEY_A], now=NOW)
    assert not await journal.pin("https://a.test", [KEY_B], now=NOW)
    assert await journal.pin("https://a.test", [KEY_B, KEY_A], now=NOW + 1)
    assert await journal.pin("https://a.test", [KEY_C, KEY_B], now=NOW + 2)
    assert await journal.pinned("https://a.test") == [KEY_A, KEY_B, KEY_C]
    assert await journal.pinned("https://b.test") == []


async def test_no_keys_pin_nothing_and_forgotten_keys_are_gone(journal: Journal) -> None:
    assert not await journal.pin("https://a.test", [], now=NOW)
    await journal.pin("https://a.test", [KEY_A], now=NOW)
    await journal.forget("https://a.test")
    assert await journal.pin("https://a.test", [KEY_B], now=NOW)


# --- payees and prices


async def bought(journal: Journal, *pins: Pin) -> None:
    number = len(await journal.newest())
    for offset, each in enumerate(pins):
        await journal.reserve(record(number + offset), (), now=NOW, pin=each)


@pytest.mark.parametrize(
    "elsewhere", ["http://shop.test/a/b", "https://SHOP.test.:444/a/b", "https://shop.test:8443/a/b?n=2"]
)
async def test_another_port_or_scheme_begins_nothing_anew(journal: Journal, elsewhere: str) -> None:
    await bought(journal, pin())
    with pytest.raises(OfferRefused, match=r"shop\.test was paid at shop on fake:fake, and now .* at thief"):
        await bought(journal, pin(payee="thief", url=elsewhere))
    with pytest.raises(OfferRefused, match=r"GET shop\.test/a/b did cost 1 USD, and now 2 USD"):
        await bought(journal, pin("2 USD", url=elsewhere))
    await bought(journal, pin(url=elsewhere))
    assert [len(found) for found in await journal.pins()] == [1, 1]


async def test_the_first_purchase_pins(journal: Journal) -> None:
    await bought(journal, pin(), pin("1.25 USD"))
    for changed in (pin("1.26 USD"), pin(payee="thief")):
        with pytest.raises(OfferRefused, match=r"unpin shop\.test") as caught:
            await bought(journal, changed)
        assert caught.value.code == "terms_changed"
    payees, prices = await journal.pins()
    assert [(found.host, found.payee) for found in payees] == [("shop.test", "shop")]
    assert [(found.method, found.path, str(found.price)) for found in prices] == [("GET", "/a/b", "1 USD")]
    assert len(await journal.newest()) == 2, "what was refused left nothing"


async def test_other_places_are_other_pins(journal: Journal) -> None:
    others = [
        pin("9 USD", url="https://shop.test:8443/c"),
        pin("9 USD", method="POST"),
        pin("9 USD", payee="thief", url="https://other.test/a/b"),
        replace(pin(payee="node"), network="fake:other"),
    ]
    await bought(journal, pin(), *others)


async def test_what_was_approved_is_known_from_then_on(journal: Journal) -> None:
    await bought(journal, pin())
    dear = pin("2 USD", payee="new")
    for approved in ((), ("price",), ("payee",), ("amount",)):
        with pytest.raises(OfferRefused):
            await bought(journal, replace(dear, approved=frozenset(approved)))
    await bought(journal, replace(dear, approved=frozenset({"price", "payee"})))
    await bought(journal, dear, pin("2.5 USD"))
    with pytest.raises(OfferRefused, match=r"did cost 2 USD, and now 2\.6 USD, over 25 % more"):
        await bought(journal, pin("2.6 USD"))


async def test_what_is_forgotten_is_believed_anew(journal: Journal) -> None:
    await bought(journal, pin(), pin(url="https://other.test/"))
    assert await journal.unpin("SHOP.test") == 2
    assert await journal.unpin("shop.test") == 0
    await bought(journal, pin("9 USD", payee="new"))
    assert {found.payee for found in (await journal.pins())[0]} == {"new", "shop"}
    with pytest.raises(ConfigurationError):
        await journal.unpin("*")
