"""What the reconciler says of what it cannot close, and how soon it believes that something was not done."""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import Any

import pytest

from rail402.protocol.charge import Charge, PaymentState
from rail402.server.reconciler import Reconciler
from rail402.testing.fakes import Ending
from tests.unit.server.shop import Shop
from tests.unit.server.test_reconciler import leave_unknown, shop_at

START = 1_800_000_000


async def test_what_cannot_be_closed_is_reported() -> None:
    shop, _ = shop_at()
    async with shop.open():
        await leave_unknown(shop)
        await leave_unknown(shop, Ending.PENDING)
        shop.clock.advance(90)
        await leave_unknown(shop, Ending.UNKNOWN_NOT_DONE)
        shop.ledger.script("lookup", Ending.OK, Ending.OK, Ending.UNAVAILABLE)
        seen: list[tuple[int, int]] = []
        report = await shop.gate.reconcile_all(lambda done, of: seen.append((done, of)))
        assert (report.looked_at, report.closed, len(report.open)) == (3, 1, 2)
        assert seen == [(1, 3), (2, 3), (3, 3)]
        by_word = {each.last_word: each for each in report.open}
        assert set(by_word) == {"under way", "the fake rail is scripted to be down for lookup"}
        pending = by_word["under way"]
        assert (pending.rail, pending.network, pending.operation) == ("fake", "fake:fake", "settle")
        assert (pending.since, pending.looks, pending.next_look_at) == (START, 1, START + 90 + 22)
        assert "fake can be reached" in pending.advice
        (named,) = [charge for charge in await shop.charges() if charge.id == pending.charge]
        assert (named.last_word, named.looks) == ("under way", 1)
        assert report.facts()["open"][0]["charge"] == report.open[0].charge


async def test_a_charge_whose_rail_is_gone_is_reported_with_the_fix() -> None:
    shop, _ = shop_at()
    async with shop.open():
        await leave_unknown(shop)
        shop.gate.services().rails = {}
        (left,) = (await shop.gate.reconcile_all()).open
        assert left.advice.startswith("put the rail fake back")


async def test_it_looks_at_once_at_what_was_put_off_and_never_at_what_a_worker_has() -> None:
    shop, _ = shop_at("escrow")
    async with shop.open():
        await leave_unknown(shop)
        shop.ledger.script("lookup", *[Ending.UNAVAILABLE] * 3)
        assert len((await shop.gate.reconcile_all()).open) == 1
        assert await shop.gate.reconcile() == 0  # not its turn
        assert len((await shop.gate.reconcile_all()).open) == 1
        assert shop.ledger.count("lookup") == 2
        proof = await shop.quote("/goods")
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def pause(name: str, key: str) -> None:
            if name == "hold":
                reached.set()
                await go_on.wait()

        shop.ledger.before = pause
        working = asyncio.create_task(shop.request("/goods", headers=proof).run())
        await reached.wait()
        assert (await shop.gate.reconcile_all()).looked_at == 1
        go_on.set()
        assert (await working).status == 200


@pytest.mark.parametrize("every", [1, 5])
async def test_it_is_logged_less_and_less_often(every: int, caplog: pytest.LogCaptureFixture) -> None:
    shop, _ = shop_at()
    async with shop.open():
        await leave_unknown(shop)
        caplog.clear()
        shop.ledger.script("lookup", *[Ending.PENDING] * 10_000)
        ages: list[int] = []
        for _ in range(7200 // every):
            shop.clock.advance(every)
            with caplog.at_level(logging.WARNING):
                await shop.gate.reconcile()
            ages += [shop.clock() - START] * len([each for each in caplog.records if "is open for" in each.message])
            caplog.clear()
        assert 2 <= len(ages) <= 8
        assert all(later >= 1.8 * earlier for earlier, later in itertools.pairwise(ages))
        assert ages[0] >= 60


async def test_the_log_says_what_is_open_and_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    shop, _ = shop_at()
    async with shop.open():
        await leave_unknown(shop)
        shop.clock.advance(100)
        shop.ledger.script("lookup", Ending.UNAVAILABLE)
        await shop.gate.reconcile()
        (charge,) = await shop.charges()
        text = f"charge {charge.id}: settle on fake is open for 100 s: the fake rail is scripted to be down for lookup;"
        assert text in caplog.text


# --- one leader


async def run_a_while(*reconcilers: Reconciler) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(each.run_forever(every=0)) for each in reconcilers]
    for _ in range(50):
        await asyncio.sleep(0)
    return tasks


async def end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Counting(Reconciler):
    """Counts its turns."""

    turns = 0

    async def run_once(self) -> Any:
        self.turns += 1
        return await super().run_once()


async def test_one_of_several_workers_works_and_another_takes_over_when_it_dies() -> None:
    shop, _ = shop_at()
    async with shop.open():
        services = shop.gate.services()
        first, second = Counting(services), Counting(services)
        (one,) = await run_a_while(first)
        (two,) = await run_a_while(second)
        assert (first.turns > 1, second.turns) == (True, 0)
        lead = services.store.lead

        async def cut_off(name: str, holder: str, *, now: int, seconds: int) -> bool:
            if holder == first._holder:
                await asyncio.Event().wait()
            return await lead(name, holder, now=now, seconds=seconds)

        services.store.lead = cut_off  # type: ignore[method-assign]
        before = first.turns
        for _ in range(50):
            await asyncio.sleep(0)
        assert second.turns == 0  # the first one's time has not lapsed
        shop.clock.advance(16)
        for _ in range(50):
            await asyncio.sleep(0)
        assert second.turns > 1
        assert first.turns <= before + 1
        services.store.lead = lead  # type: ignore[method-assign]
        await end(one, two)


async def test_a_leader_that_stops_makes_room_at_once() -> None:
    shop, _ = shop_at()
    async with shop.open():
        first, second = Counting(shop.gate.services()), Counting(shop.gate.services())
        tasks = await run_a_while(first, second)
        assert second.turns == 0
        await end(tasks[0])
        for _ in range(50):
            await asyncio.sleep(0)
        assert second.turns > 1
        await end(tasks[1])


async def test_who_is_asked_by_hand_need_not_lead() -> None:
    shop, _ = shop_at()
    async with shop.open():
        tasks = await run_a_while(Reconciler(shop.gate.services()))
        await leave_unknown(shop)
        await end(*tasks)
        assert await shop.gate.services().store.lead("reconciler", "somebody else", now=shop.clock(), seconds=60)
        charge = await shop.only_charge()
        closed = await shop.gate.reconcile()
        assert closed == (0 if charge.payment is PaymentState.SETTLED else 1)
        assert (await shop.only_charge()).payment is PaymentState.SETTLED


async def test_a_leader_renews_while_a_long_run_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    shop, _ = shop_at()
    async with shop.open():
        services = shop.gate.services()
        monkeypatch.setattr("rail402.server.reconciler._LEAST_LEADERSHIP", 0.03)
        calls: list[float] = []
        lead, going_on = services.store.lead, asyncio.Event()

        async def counted(name: str, holder: str, *, now: int, seconds: int) -> bool:
            calls.append(seconds)
            if len(calls) > 3:
                going_on.set()
            return await lead(name, holder, now=now, seconds=1)

        services.store.lead = counted  # type: ignore[method-assign]

        class Slow(Reconciler):
            async def run_once(self) -> Any:
                await going_on.wait()  # until it was renewed
                return await super().run_once()

        task = asyncio.create_task(Slow(services).run_forever(every=0))
        async with asyncio.timeout(5):
            await going_on.wait()
        await end(task)


# --- calls that are still on their way


async def cut_off(shop: Shop, call: str) -> tuple[Charge, asyncio.Event]:
    """Buy; the call is cut off after `settle_seconds`, and reaches the rail when the event is set."""
    arrive = asyncio.Event()
    pending: list[asyncio.Task[Any]] = []
    ledger = shop.ledger
    original = ledger.call

    async def lagging(name: str, key: str, move: Any = None) -> Ending:
        if name != call or pending:
            return await original(name, key, move)

        async def later() -> None:
            await arrive.wait()
            await original(name, key, move)

        pending.append(asyncio.create_task(later()))
        await asyncio.Event().wait()  # no answer ever comes
        raise AssertionError

    ledger.call = lagging  # type: ignore[method-assign]
    object.__setattr__(shop.gate.services().settings, "settle_seconds", 0)
    proof = await shop.quote("/goods")
    await shop.client.get("/goods", headers=proof)
    object.__setattr__(shop.gate.services().settings, "settle_seconds", 60)
    return await shop.only_charge(), arrive


async def landed(shop: Shop, arrive: asyncio.Event) -> None:
    arrive.set()
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("call", ["settle", "refund"])
async def test_a_call_that_was_cut_off_is_not_called_undone_while_it_may_arrive(call: str) -> None:
    shop, _ = shop_at("upfront", 500 if call == "refund" else 200)
    other, _ = shop_at("upfront", clock=shop.clock, ledger=shop.ledger, store=shop.gate._store)
    async with shop.open(), other.open():
        charge, arrive = await cut_off(shop, call)
        assert charge.payment is PaymentState.UNKNOWN
        assert charge.asked_at == START
        charge = await shop.gate._store.save(charge.model_copy(update={"landing_until": shop.clock() + 60}))
        for seconds in (0, 2, 30, 27):
            shop.clock.advance(seconds)
            await other.gate.reconcile_all()  # another worker, which knows only what is written
            assert (await shop.only_charge()).payment is PaymentState.UNKNOWN
        await landed(shop, arrive)
        await other.gate.reconcile_all()
        found = await shop.only_charge()
        assert found.payment is (PaymentState.REFUNDED if call == "refund" else PaymentState.SETTLED)


async def test_what_was_cut_off_lands_within_as_long_again() -> None:
    shop, _ = shop_at("upfront")
    async with shop.open():
        charge, _ = await cut_off(shop, "settle")
        assert charge.landing_until == shop.clock()  # settle_seconds was 0
        await shop.gate.reconcile_all()
        assert (await shop.only_charge()).payment is PaymentState.RELEASED


async def test_a_call_is_never_begun_under_a_lease_that_it_might_outlast() -> None:
    """The write took so long that another worker could look the charge up beside the call."""
    shop, _ = shop_at("upfront", 500)
    async with shop.open():
        services = shop.gate.services()
        save, asked = services.store.save, []

        async def slow(charge: Charge, **options: Any) -> Charge:
            saved = await save(charge, **options)
            if charge.payment is PaymentState.REFUNDING:
                asked.append(charge.asked_at)
                shop.clock.advance(61 if len(asked) == 1 else 0)
            return saved

        async def in_call(name: str, key: str) -> None:
            if name == "refund":
                charge = await shop.only_charge()
                assert charge.lease_until - shop.clock() >= services.settings.settle_seconds

        proof = await shop.quote("/goods")
        services.store.save = slow  # type: ignore[method-assign]
        shop.ledger.before = in_call
        assert (await shop.client.get("/goods", headers=proof)).status_code == 500
        assert asked == [START, START + 61]
        assert (await shop.only_charge()).payment is PaymentState.REFUNDED
        assert shop.ledger.count("refund") == 1
