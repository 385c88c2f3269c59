"""Gates that share a store: each closes what it has sold, and somebody says what none of them will close."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rail402.errors import RailUnavailable
from rail402.protocol.charge import Charge, Operation, PaymentState
from rail402.server.gate import Gate
from rail402.server.reconciler import Reconciler
from rail402.stores import MemoryStore
from rail402.testing.fakes import Ending, FakeLedger, FakeRail, FakeSpec
from rail402.testing.store_support import settled
from tests.unit.server.shop import URL, Shop
from tests.unit.server.test_reconciler import leave_unknown, shop_at

OTHER_URL = "https://other.example"
HOUR = 3600


@asynccontextmanager
async def beside(shop: Shop, *, url: str = URL, rail: str = "fake") -> AsyncIterator[Gate]:
    """Another gate on the shop's store; where it has a rail of the same name, that is the same till."""
    fake = FakeRail(shop.ledger if rail == "fake" else FakeLedger(), FakeSpec(name=rail))
    gate = Gate(rails=[fake], public_url=url, store=shop.gate._store, clock=shop.clock, reconcile_seconds=0)
    await gate.start()
    yield gate
    await gate.close()


def issuer(charge: Charge) -> Any:
    assert charge.receipt is not None
    return json.loads(base64.urlsafe_b64decode(charge.receipt.split(".")[1] + "=="))["iss"]


async def turns(gate: Gate, count: int = 1) -> None:
    """Have the gate's reconciler run for a while."""
    running = asyncio.create_task(Reconciler(gate.services()).run_forever(every=0))
    for _ in range(100 * count):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


OTHERS: list[dict[str, str]] = [{"rail": "other"}, {"url": OTHER_URL}, {"url": OTHER_URL, "rail": "other"}]


@pytest.mark.parametrize("other", OTHERS)
async def test_what_another_gate_has_sold_is_left_to_it(other: dict[str, str]) -> None:
    shop, _ = shop_at(store=MemoryStore())
    async with shop.open(), beside(shop, **other) as gate:
        await leave_unknown(shop)
        before = await shop.only_charge()
        assert await gate.reconcile() == 0
        await turns(gate)
        assert (await gate.reconcile_all()).looked_at == (0 if "url" in other else 1)
        assert await shop.only_charge() == before, "it was not even written"
        assert await shop.gate.reconcile() == 1
        charge = await shop.only_charge()
        assert (charge.payment, issuer(charge)) == (PaymentState.SETTLED, URL)


@pytest.mark.parametrize("other", OTHERS)
async def test_each_gate_has_a_leader_of_its_own(other: dict[str, str]) -> None:
    shop, _ = shop_at(store=MemoryStore())
    async with shop.open(), beside(shop, **other) as gate:
        leading = asyncio.create_task(Reconciler(gate.services()).run_forever(every=0))
        for _ in range(100):
            await asyncio.sleep(0)
        await leave_unknown(shop)
        await turns(shop.gate)
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)
        assert (await shop.only_charge()).payment is PaymentState.SETTLED


async def test_many_charges_of_others_do_not_keep_ours_waiting() -> None:
    shop, _ = shop_at(store=MemoryStore())
    async with shop.open(), beside(shop, rail="other", url=OTHER_URL) as gate:
        await leave_unknown(shop)
        charge = await shop.only_charge()
        for number in range(150):
            changes = {"id": f"ch_{number}", "keys": (f"tx:{number}",), "lease_until": 0}
            theirs = charge.offer.model_copy(update={"rail": "other"})
            await gate.services().store.claim(charge.model_copy(update=changes | {"offer": theirs}))
        assert await shop.gate.reconcile() == 1


async def test_a_webhook_at_the_wrong_gate_asks_nothing_for_the_right_one() -> None:
    shop, _ = shop_at(store=MemoryStore())
    async with shop.open(), beside(shop, url=OTHER_URL) as gate:
        await leave_unknown(shop)
        await Reconciler(gate.services()).look_at(await shop.only_charge(), Operation.SETTLE)
        assert (await shop.only_charge()).payment is PaymentState.UNKNOWN
        await Reconciler(shop.gate.services()).look_at(await shop.only_charge(), Operation.SETTLE)
        assert issuer(await shop.only_charge()) == URL


async def test_what_no_gate_closes_is_said_once_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    shop, _ = shop_at(store=MemoryStore())
    async with shop.open(), beside(shop, url=OTHER_URL, rail="other") as gate:
        for _ in range(3):
            await leave_unknown(shop)
        caplog.clear()
        await turns(gate, 3)
        assert caplog.messages == [], "its own gate may be about to look"
        shop.clock.advance(HOUR)
        await turns(gate, 3)
        (said,) = caplog.messages
        assert said.startswith(f"no gate closes 3 open charges on rail fake that were sold at {URL}, such as ch_")
        assert f"run a gate with the public_url {URL} and the rail fake" in said
        report = await gate.reconcile_all()
        assert (report.looked_at, [each.rail for each in report.open]) == (0, ["fake"] * 3)
        await shop.gate.reconcile()
        shop.clock.advance(HOUR)
        await turns(gate)
        assert (len(caplog.messages), (await gate.reconcile_all()).open) == (1, ())


async def test_a_rail_that_was_taken_out_is_said_to_be_missing(caplog: pytest.LogCaptureFixture) -> None:
    shop, _ = shop_at(store=MemoryStore())
    async with shop.open(), beside(shop, rail="other") as gate:
        await leave_unknown(shop)
        shop.clock.advance(HOUR)
        await turns(gate)
        assert "put the rail fake back into the gate" in caplog.text
        (left,) = (await gate.reconcile_all()).open
        assert left.advice.startswith("put the rail fake back into the gate")


async def test_claims_that_no_gate_has_to_close_are_let_go_of() -> None:
    shop, _ = shop_at(store=MemoryStore())
    async with shop.open(), beside(shop, url=OTHER_URL) as gate:
        await leave_unknown(shop)
        unknown = await shop.only_charge()
        changes = {"id": "ch_claimed", "keys": ("tx:1",), "payment": PaymentState.CLAIMED, "operation": None}
        store = gate.services().store
        await store.claim(unknown.model_copy(update=changes))
        shop.clock.advance(HOUR)
        await turns(gate)
        claimed = await store.get("ch_claimed")
        assert claimed is not None
        assert claimed.payment is PaymentState.RELEASED
        assert await store.get(unknown.id) == unknown


# --- pruning


async def test_workers_that_live_for_minutes_prune_once_an_hour() -> None:
    shop = Shop(retention_seconds=86_400)
    async with shop.open():
        store = shop.gate.services().store
        await store.claim(settled("tx:old", created_at=shop.clock() - 90 * 86_400, lease_until=0))
        pruned, prune = [], store.prune

        async def counted(*, before: int, now: int) -> int:
            pruned.append(now)
            return await prune(before=before, now=now)

        store.prune = counted  # type: ignore[method-assign]
        for _ in range(24):
            await turns(shop.gate)
            shop.clock.advance(600)
        assert [later - pruned[0] for later in pruned] == [0, HOUR, 2 * HOUR, 3 * HOUR]
        assert await store.find(["tx:old"]) is None


# --- how often a rail is asked


async def test_a_rail_that_says_pending_is_asked_less_and_less_often() -> None:
    shop, _ = shop_at()
    async with shop.open():
        await leave_unknown(shop)
        shop.ledger.script("lookup", *[Ending.PENDING] * 10_000)
        for _ in range(86_400 // 30):
            await shop.gate.reconcile()
            shop.clock.advance(30)
        assert shop.ledger.count("lookup") < 200
        assert shop.clock() < (await shop.only_charge()).lease_until <= shop.clock() + 600, "every ten minutes at least"


async def test_a_refund_that_cannot_be_made_now_is_asked_for_less_and_less_often() -> None:
    shop, _ = shop_at("upfront", 500)
    async with shop.open():
        refund, asked = shop.rail.refund, []

        async def down(charge: Charge) -> Any:
            asked.append(charge.asked_at)
            raise RailUnavailable("no ether for gas", retry_after=60)

        shop.rail.refund = down  # type: ignore[method-assign]
        await shop.client.get("/goods", headers=await shop.quote("/goods"))
        start = shop.clock()
        for _ in range(HOUR // 5):
            shop.clock.advance(5)
            await shop.gate.reconcile()
        assert 5 < len(asked) < 20
        (left,) = (await shop.gate.reconcile_all()).open
        assert (left.operation, left.since, left.last_word) == ("refund", start, "no ether for gas")
        assert left.looks > 5
        shop.rail.refund = refund  # type: ignore[method-assign]
        shop.clock.advance(600)
        assert await shop.gate.reconcile() == 1
        assert (await shop.only_charge()).payment is PaymentState.REFUNDED
