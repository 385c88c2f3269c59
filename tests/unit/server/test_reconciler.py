"""Whatever a request left open is closed: by what the rail says and by nothing else."""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from rail402.errors import OutcomeUnknown, RailUnavailable, StaleCharge, StoreError
from rail402.protocol.charge import Delivery, PaymentState
from rail402.protocol.rail import Pending, Settled
from rail402.server.reconciler import Reconciler
from rail402.testing.fakes import Ending
from tests.unit.server.shop import Shop

FLOWS = ["authorization", "escrow", "upfront"]


def shop_at(flow: str = "authorization", status: int = 200, **options: Any) -> tuple[Shop, list[int]]:
    shop, runs = Shop(**options), []

    async def goods(request: Request) -> Response:
        runs.append(1)
        return PlainTextResponse("the goods", status)

    shop.app.add_route("/goods", shop.gate.paid("0.003 USD", flow=flow)(goods))
    return shop, runs


async def leave_unknown(shop: Shop, ending: Ending = Ending.UNKNOWN_DONE, call: str = "settle") -> dict[str, str]:
    proof = await shop.quote("/goods")
    shop.ledger.script(call, ending)
    assert (await shop.client.get("/goods", headers=proof)).status_code == 503
    return proof


@pytest.mark.parametrize("flow", FLOWS)
async def test_pending_is_asked_again_soon_and_closed_when_it_arrives(flow: str) -> None:
    shop, _ = shop_at(flow)
    async with shop.open():
        await leave_unknown(shop, Ending.PENDING)
        key = str((await shop.only_charge()).rail_state["key"])
        for _ in range(3):
            assert await shop.gate.reconcile() == 0
            assert (await shop.only_charge()).payment is PaymentState.UNKNOWN
            assert await shop.gate.reconcile() == 0  # not again at once
            shop.clock.advance(2)
        assert shop.ledger.count("lookup") == 3
        shop.ledger.arrive(key)
        assert await shop.gate.reconcile() == 1
        assert (await shop.only_charge()).payment is PaymentState.SETTLED


async def test_a_lookup_that_gives_no_answer_is_repeated_less_and_less_often() -> None:
    shop, _ = shop_at()
    async with shop.open():
        await leave_unknown(shop)
        shop.ledger.script("lookup", *[Ending.UNAVAILABLE, Ending.UNKNOWN_DONE] * 20)
        times = []
        for _ in range(2000):
            before = shop.ledger.count("lookup")
            await shop.gate.reconcile()
            if shop.ledger.count("lookup") > before:
                times.append(shop.clock() - 1_800_000_000)
            shop.clock.advance(1)
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert gaps == sorted(gaps)
        assert (gaps[0], gaps[-1] <= 600, len(times) < 20) == (2, True, True)


@pytest.mark.parametrize("error", [RailUnavailable("down"), OutcomeUnknown("who knows"), RuntimeError("a bug")])
async def test_one_charge_that_goes_wrong_does_not_keep_the_others_open(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    shop, _ = shop_at()
    async with shop.open():
        poisoned = await leave_unknown(shop)
        key = str((await shop.only_charge()).rail_state["key"])
        await leave_unknown(shop)
        lookup = shop.rail.lookup

        async def sometimes(charge: Any, operation: Any) -> Any:
            if charge.rail_state["key"] == key:
                raise error
            return await lookup(charge, operation)

        shop.rail.lookup = sometimes  # type: ignore[method-assign]
        with caplog.at_level(logging.CRITICAL):
            assert await shop.gate.reconcile() == 1
            assert await shop.gate.reconcile() == 0  # and it is put off, not tried in circles
        states = sorted(charge.payment.value for charge in await shop.charges())
        assert states == ["settled", "unknown"]
        shop.rail.lookup = lookup  # type: ignore[method-assign]
        shop.clock.advance(600)
        assert await shop.gate.reconcile() == 1
        assert (await shop.client.get("/goods", headers=poisoned)).status_code in (200, 402)


async def test_a_nonsense_answer_of_a_rail_is_one_charges_problem(caplog: pytest.LogCaptureFixture) -> None:
    shop, _ = shop_at("escrow", 500)
    async with shop.open():
        proof = await shop.quote("/goods")
        shop.ledger.script("release", Ending.UNKNOWN_NOT_DONE)
        await shop.client.get("/goods", headers=proof)

        async def nonsense(charge: Any) -> Any:
            return Pending()

        working, shop.rail.release = shop.rail.release, nonsense  # type: ignore[method-assign]
        assert await shop.gate.reconcile() == 0
        assert (await shop.only_charge()).payment is PaymentState.UNKNOWN
        shop.rail.release = working  # type: ignore[method-assign]
        shop.clock.advance(600)
        assert await shop.gate.reconcile() == 1
        assert (await shop.only_charge()).payment is PaymentState.RELEASED
        assert not shop.ledger.held


async def test_a_lookup_that_hangs_does_not_hang_the_rest() -> None:
    shop, _ = shop_at()
    async with shop.open():
        await leave_unknown(shop)
        await leave_unknown(shop)
        object.__setattr__(shop.gate.services().settings, "settle_seconds", 0)
        hung = 0

        async def hang_once(name: str, key: str) -> None:
            nonlocal hung
            hung += 1
            if hung == 1:
                await asyncio.Event().wait()

        shop.ledger.before = hang_once
        assert await shop.gate.reconcile() <= 1
        assert hung == 2


@pytest.mark.parametrize("ending", [Ending.UNKNOWN_DONE, Ending.UNKNOWN_NOT_DONE, Ending.UNAVAILABLE])
async def test_a_held_charge_with_a_stored_response_is_captured(ending: Ending) -> None:
    shop, runs = shop_at("escrow")
    async with shop.open():
        proof = await leave_unknown(shop, ending)
        assert await shop.gate.reconcile() == 1
        charge = await shop.only_charge()
        assert (charge.payment, charge.delivery) == (PaymentState.SETTLED, Delivery.STORED)
        assert (await shop.client.get("/goods", headers=proof)).text == "the goods"
        assert (len(runs), shop.ledger.charged_total, shop.ledger.held) == (1, 3000, {})


async def test_a_capture_that_keeps_failing_is_tried_again_later_each_time() -> None:
    shop, _ = shop_at("escrow")
    async with shop.open():
        await leave_unknown(shop, Ending.UNKNOWN_NOT_DONE)
        shop.ledger.script("settle", *[Ending.UNKNOWN_NOT_DONE] * 5)
        for _ in range(100):
            await shop.gate.reconcile()
        assert shop.ledger.count("settle") == 2  # the request's and one of ours: then it waits
        for _ in range(10):
            shop.clock.advance(600)
            await shop.gate.reconcile()
        assert (await shop.only_charge()).payment is PaymentState.SETTLED


@pytest.mark.parametrize("ending", [Ending.UNKNOWN_DONE, Ending.UNKNOWN_NOT_DONE])
async def test_a_hold_whose_answer_was_lost_is_released(ending: Ending) -> None:
    shop, runs = shop_at("escrow")
    async with shop.open():
        proof = await leave_unknown(shop, ending, "hold")
        assert await shop.gate.reconcile() == 1
        assert (await shop.only_charge()).payment is PaymentState.RELEASED
        assert not shop.ledger.held
        assert (await shop.client.get("/goods", headers=proof)).text == "the goods"
        assert (len(runs), shop.ledger.charged_total) == (1, 3000)


async def test_a_definitive_refusal_closes_it() -> None:
    shop, _ = shop_at()
    async with shop.open():
        proof = await leave_unknown(shop, Ending.UNKNOWN_NOT_DONE)
        shop.ledger.script("lookup", Ending.FAILED)
        assert await shop.gate.reconcile() == 1
        answer = await shop.client.get("/goods", headers=proof)
        assert (answer.status_code, answer.json()["code"]) == (402, "payment_declined")


@pytest.mark.parametrize("ending", [Ending.UNKNOWN_DONE, Ending.UNKNOWN_NOT_DONE])
async def test_a_refund_whose_answer_was_lost_ends_as_refunded(ending: Ending) -> None:
    shop, _ = shop_at("upfront", 500)
    async with shop.open():
        proof = await shop.quote("/goods")
        shop.ledger.script("refund", ending)
        await shop.client.get("/goods", headers=proof)
        before = await shop.only_charge()
        assert (before.payment, before.operation) == (PaymentState.UNKNOWN, "refund")
        shop.clock.advance(50)
        assert await shop.gate.reconcile() == 1
        charge = await shop.only_charge()
        assert (charge.payment, shop.ledger.charged_total) == (PaymentState.REFUNDED, 0)
        assert (charge.valid_until, charge.receipt) == (before.valid_until, before.receipt)


async def test_a_refund_that_never_happened_and_is_refused_then_is_settled_money_still() -> None:
    shop, _ = shop_at("upfront", 500)
    async with shop.open():
        proof = await shop.quote("/goods")
        shop.ledger.script("refund", Ending.UNKNOWN_NOT_DONE, Ending.FAILED)
        shop.ledger.script("lookup", Ending.NOT_PAID)
        await shop.client.get("/goods", headers=proof)
        assert await shop.gate.reconcile() == 1
        assert (await shop.only_charge()).payment is PaymentState.SETTLED


@pytest.mark.parametrize("flow", FLOWS)
async def test_lapsed_claims_are_closed_without_anybody_asking(flow: str) -> None:
    shop, _ = shop_at(flow)
    async with shop.open():
        proof = await shop.quote("/goods")
        task = asyncio.create_task(shop.request("/goods", headers=proof).run())
        reached = asyncio.Event()

        async def stop(name: str, key: str) -> None:
            if name in ("hold", "settle"):
                reached.set()
                await asyncio.Event().wait()

        shop.ledger.before = stop
        await reached.wait()
        task.cancel()
        for working in list(shop.gate.services().tasks):
            working.cancel()
        await asyncio.gather(task, return_exceptions=True)
        shop.ledger.before = None
        assert await shop.gate.reconcile() == 0
        shop.clock.advance(121)
        assert await shop.gate.reconcile() == 1
        assert (await shop.only_charge()).payment is PaymentState.RELEASED
        assert not shop.ledger.held


async def test_a_charge_on_a_rail_that_is_gone_is_kept() -> None:
    shop, _ = shop_at()
    async with shop.open():
        await leave_unknown(shop)
        services = shop.gate.services()
        rails, services.rails = services.rails, {}
        before = await shop.only_charge()
        assert await shop.gate.reconcile() == 0
        assert await shop.only_charge() == before, "nobody writes what is not theirs to close"
        services.rails = rails
        assert await shop.gate.reconcile() == 1


async def test_who_comes_second_leaves_it_to_the_other() -> None:
    shop, _ = shop_at()
    async with shop.open():
        await leave_unknown(shop)
        counts = await asyncio.gather(*(shop.gate.reconcile() for _ in range(5)))
        assert sum(counts) == 1
        assert shop.ledger.count("lookup") >= 1


async def test_a_charge_that_moves_on_while_it_is_put_off_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    shop, _ = shop_at()
    async with shop.open():
        await leave_unknown(shop)
        store = shop.gate.services().store

        async def bug(*_: Any) -> Any:
            async def stale(*_: Any, **__: Any) -> Any:
                raise StaleCharge("moved on")

            store.save = stale  # type: ignore[method-assign]
            raise RuntimeError("a bug")

        shop.rail.lookup = bug  # type: ignore[method-assign]
        assert await shop.gate.reconcile() == 0


async def test_a_store_that_is_down_ends_the_run() -> None:
    shop, _ = shop_at()
    async with shop.open():
        await leave_unknown(shop)

        async def down(*_: Any, **__: Any) -> Any:
            raise StoreError("down")

        shop.gate.services().store.save = down  # type: ignore[method-assign]
        with pytest.raises(StoreError):
            await shop.gate.reconcile()


async def test_the_rails_time_and_transaction_are_in_the_charge() -> None:
    shop, _ = shop_at()
    async with shop.open():
        await leave_unknown(shop)

        async def late(*_: Any) -> Any:
            return Settled(transaction="tx-1", payer="bob", state={"seen": 1}, keys=frozenset({"tx:1"}))

        shop.rail.lookup = late  # type: ignore[method-assign]
        await shop.gate.reconcile()
        charge = await shop.only_charge()
        assert (charge.transaction, charge.payer, charge.rail_state["seen"]) == ("tx-1", "bob", 1)
        assert "tx:1" in charge.keys
        assert charge.valid_until == shop.clock() + 600


async def test_it_runs_on_and_survives_a_store_that_is_down(caplog: pytest.LogCaptureFixture) -> None:
    shop, _ = shop_at()
    ran = asyncio.Event()
    async with shop.open():
        calls = 0

        async def unresolved(**_: Any) -> list[Any]:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise StoreError("down for a moment")
            ran.set()
            return []

        shop.gate.services().store.unresolved = unresolved  # type: ignore[method-assign]
        pruned: list[int] = []

        async def prune(*, before: int, now: int) -> int:
            pruned.append(now - before)
            return 0

        shop.gate.services().store.prune = prune  # type: ignore[method-assign]
        running = asyncio.create_task(Reconciler(shop.gate.services()).run_forever(every=0))
        await asyncio.wait_for(ran.wait(), 5)
        for _ in range(100):
            await asyncio.sleep(0)
        assert pruned == [30 * 86_400]
        shop.clock.advance(3600)  # once an hour
        for _ in range(100):
            await asyncio.sleep(0)
        assert pruned == [30 * 86_400] * 2
        running.cancel()
        assert "will try again" in caplog.text
