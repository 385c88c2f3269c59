"""A worker dies at any step, or comes back late; another one goes on from the same store and the same money."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from rail402.protocol.charge import Delivery, PaymentState
from rail402.server.settings import Receipts
from rail402.stores.memory import MemoryStore
from rail402.testing.fakes import FakeClock, FakeLedger
from tests.unit.server.shop import Shop, Wire

FLOWS = ["authorization", "escrow", "upfront"]
HANDLERS = ["whole", "stream", "broken stream", "fails", "raises"]


class Dead(BaseException):
    """The process is gone: nothing that it still does has any effect."""


class Life:
    """Counts the steps of a worker, and ends at one of them."""

    def __init__(self, steps: int) -> None:
        self.left, self.over = steps, False

    async def step(self, *_: Any) -> None:
        self.left -= 1
        self.over = self.over or self.left < 0
        if self.over:
            raise Dead


class MortalStore:
    """One worker's connection to a shared store: it breaks before or after any verb, and then for good."""

    def __init__(self, store: MemoryStore, life: Life) -> None:
        self._store, self._life = store, life

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def remember(self, name: str, value: str) -> str:
        return await self._store.remember(name, value)

    def __getattr__(self, verb: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            await self._life.step()
            answer = await getattr(self._store, verb)(*args, **kwargs)
            await self._life.step()
            return answer

        return call


class World:
    """A store, money and a clock that outlive every worker."""

    def __init__(self, flow: str, handler: str = "whole", uses: int = 1) -> None:
        self.store, self.ledger, self.clock = MemoryStore(), FakeLedger(), FakeClock()
        self.flow, self.handler, self.uses, self.runs = flow, handler, uses, 0

    def worker(self, life: Life | None = None) -> Shop:
        store = self.store if life is None else MortalStore(self.store, life)
        shop = Shop(clock=self.clock, ledger=self.ledger, store=store, wait_seconds=0)
        paid = shop.gate.paid("0.003 USD", flow=self.flow, receipt=Receipts(valid="1d", uses=self.uses))
        shop.app.add_route("/goods", paid(self._goods))
        return shop

    async def _goods(self, request: Request) -> Response:
        self.runs += 1
        match self.handler:
            case "fails":
                return JSONResponse({}, 500)
            case "raises":
                raise RuntimeError("a bug")
            case "stream":
                return StreamingResponse(iter([b"goo", b"ds"]))
            case "broken stream":
                return StreamingResponse(_breaking())
        return Response(b"goods")


async def _breaking() -> Any:
    yield b"goo"
    raise RuntimeError("the source broke")


async def die_at(world: World, step: int, key: str = "") -> tuple[Wire, dict[str, str], bool]:
    """Let a worker serve one payment until it dies; return the exchange, the payment, and whether it died."""
    life = Life(steps=1_000_000)
    shop = world.worker(life)
    async with shop.open():
        proof = await shop.quote("/goods") | ({"idempotency-key": key} if key else {})
        life.left = step
        world.ledger.before = world.ledger.after = life.step
        wire = shop.request("/goods", headers=proof)
        await asyncio.gather(wire.run(), return_exceptions=True)
        await shop.gate.services().drain()
        world.ledger.before = world.ledger.after = None
    return wire, proof, life.over


async def served_in_the_end(world: World, proof: dict[str, str], *, at_once: bool) -> int:
    """Let another worker take over, and the payer ask with the same payment until there is a last word."""
    world.handler = "whole"
    async with (shop := world.worker()).open():
        if at_once:
            await shop.request("/goods", headers=proof).run()
        world.clock.advance(130)  # the lease has lapsed; the payer's authorization has not
        for _ in range(3):
            await shop.gate.reconcile()
            world.clock.advance(3)
        assert not world.ledger.held
        for _ in range(3):
            answer = await shop.request("/goods", headers=proof).run()
            if answer.status in (200, 402):
                break
        assert not await world.store.unresolved(now=world.clock() + 10_000, limit=10)
    return answer.status


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("flow", FLOWS)
async def test_charged_is_served_plus_refunded_wherever_a_worker_dies(flow: str, handler: str, at_once: bool) -> None:
    step, died = 0, True
    while died:
        world = World(flow, handler)
        wire, proof, died = await die_at(world, step)
        status = await served_in_the_end(world, proof, at_once=at_once)
        assert status in (200, 402), step
        assert len(await world.store.recent(limit=10)) <= 1, step
        charged = world.ledger.charged_total
        assert charged == (3000 if status == 200 else 0), step
        if wire.sent and wire.status == 200:
            assert status == 200, step  # what was served was not given back
        assert world.runs <= 3, step
        step += 1
    assert step > 5  # it did die at many steps


@pytest.mark.parametrize("flow", FLOWS)
async def test_a_handler_that_never_works_costs_nothing_wherever_a_worker_dies(flow: str) -> None:
    step, died = 0, True
    while died:
        world = World(flow, "fails")
        _, proof, died = await die_at(world, step)
        async with (shop := world.worker()).open():
            for seconds in (130, 3, 3):
                world.clock.advance(seconds)
                await shop.gate.reconcile()
                assert (await shop.request("/goods", headers=proof).run()).status != 200, step
            await shop.gate.reconcile()
        assert (world.ledger.charged_total, len(world.ledger.held)) == (0, 0), step
        step += 1


@pytest.mark.parametrize("handler", ["whole", "stream", "broken stream"])
@pytest.mark.parametrize("flow", FLOWS)
async def test_what_was_never_given_does_not_expire(flow: str, handler: str) -> None:
    step, died = 0, True
    while died:
        world = World(flow, handler)
        _, proof, died = await die_at(world, step)
        world.handler = "whole"
        async with (shop := world.worker()).open():
            world.clock.advance(130)
            await shop.gate.reconcile()
            charges = await world.store.recent(limit=1)
            world.clock.advance(2 * 86_400)  # the window was a day
            answer = await shop.request("/goods", headers=proof).run()
        if charges and charges[0].delivery in (Delivery.STORED, Delivery.STREAMED):
            assert (answer.status, answer.json()["code"]) == (402, "receipt_expired"), step
        else:
            assert answer.status == (200 if world.ledger.charged_total else 402), step
        step += 1


@pytest.mark.parametrize("handler", ["whole", "stream", "fails"])
@pytest.mark.parametrize("flow", FLOWS)
async def test_a_pass_keeps_all_its_uses_wherever_a_worker_dies(flow: str, handler: str) -> None:
    step, died = 0, True
    while died:
        world = World(flow, handler, uses=3)
        _, proof, died = await die_at(world, step, key="1")
        status = await served_in_the_end(world, proof, at_once=False)
        assert status == 200, step
        async with (shop := world.worker()).open():
            for key, status in [("1", 200), ("2", 200), ("3", 200), ("4", 402), ("2", 200)]:
                answer = await shop.request("/goods", headers=proof | {"idempotency-key": key}).run()
                assert answer.status == status, (step, key)
        assert world.ledger.charged_total == 3000
        step += 1


# --- two workers


class Pause:
    """Stops the first call of that name until it is let go."""

    def __init__(self, call: str) -> None:
        self.call, self.reached, self.go_on = call, asyncio.Event(), asyncio.Event()

    async def __call__(self, name: str, key: str) -> None:
        if name == self.call and not self.reached.is_set():
            self.reached.set()
            await self.go_on.wait()


async def test_a_late_handler_can_neither_settle_nor_overwrite() -> None:
    world, let_go, waiting = World("authorization"), asyncio.Event(), asyncio.Event()
    slow, quick = world.worker(), world.worker()
    served = iter([b"late", b"quick"])

    async def goods(request: Request) -> Response:
        body = next(served)
        if body == b"late":
            waiting.set()
            await let_go.wait()
        return Response(body)

    for shop in (slow, quick):
        shop.app.router.routes.clear()
        shop.gate._marked.clear()
        shop.app.add_route("/goods", shop.gate.paid("0.003 USD")(goods))
    async with slow.open(), quick.open():
        proof = await slow.quote("/goods")
        late = asyncio.create_task(slow.request("/goods", headers=proof).run())
        await waiting.wait()
        world.clock.advance(130)
        taken_over = await quick.request("/goods", headers=proof).run()
        assert (taken_over.status, taken_over.body) == (200, b"quick")
        let_go.set()
        refused = await late
        assert (refused.status, refused.json()["code"]) == (409, "store_conflict")
        assert b"late" not in refused.body
        assert (world.ledger.count("settle"), world.ledger.charged_total) == (1, 3000)
        again = await slow.request("/goods", headers=proof).run()
        assert again.body == b"quick"
        (charge,) = await world.store.recent(limit=10)
        assert (charge.attempt, charge.delivery) == (2, Delivery.STORED)


async def test_a_late_handler_sends_nothing_once_another_has_run_in_its_place() -> None:
    world, let_go, waiting = World("upfront"), asyncio.Event(), asyncio.Event()
    slow, quick = world.worker(), world.worker()
    served = iter([b"late", b"quick"])

    async def goods(request: Request) -> Response:
        body = next(served)
        if body == b"late":
            waiting.set()
            await let_go.wait()
        return Response(body)

    for shop in (slow, quick):
        shop.app.router.routes.clear()
        shop.gate._marked.clear()
        shop.app.add_route("/goods", shop.gate.paid("0.003 USD", flow="upfront")(goods))
    async with slow.open(), quick.open():
        proof = await slow.quote("/goods")
        late = asyncio.create_task(slow.request("/goods", headers=proof).run())
        await waiting.wait()
        world.clock.advance(130)
        assert (await quick.request("/goods", headers=proof).run()).body == b"quick"
        let_go.set()
        refused = await late
        assert (refused.status, b"late" in refused.body) == (503, False)
        assert (await slow.request("/goods", headers=proof).run()).body == b"quick"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_late_settlement_is_left_to_the_lookup(when: str) -> None:
    world, pause = World("upfront"), Pause("settle")
    slow, quick = world.worker(), world.worker()
    async with slow.open(), quick.open():
        proof = await slow.quote("/goods")
        setattr(world.ledger, when, pause)
        late = asyncio.create_task(slow.request("/goods", headers=proof).run())
        await pause.reached.wait()
        busy = await quick.request("/goods", headers=proof).run()
        assert (busy.status, busy.json()["code"]) == (409, "payment_in_progress")
        world.clock.advance(130)
        unknown = await quick.request("/goods", headers=proof).run()
        assert (unknown.status, unknown.json()["code"]) == (503, "outcome_unknown")
        await quick.gate.reconcile()
        served = await quick.request("/goods", headers=proof).run()
        assert served.status == 200
        pause.go_on.set()
        assert (await late).status == 503
        assert (world.runs, world.ledger.charged_total) == (1, 3000)
        (charge,) = await world.store.recent(limit=10)
        assert (charge.payment, charge.delivery) == (PaymentState.SETTLED, Delivery.STORED)


async def test_a_hold_whose_handler_is_late_is_released_and_not_captured() -> None:
    world, let_go, waiting = World("escrow"), asyncio.Event(), asyncio.Event()
    slow, quick = world.worker(), world.worker()

    async def goods(request: Request) -> Response:
        waiting.set()
        await let_go.wait()
        return Response(b"late")

    slow.app.router.routes.clear()
    slow.gate._marked.clear()
    slow.app.add_route("/goods", slow.gate.paid("0.003 USD", flow="escrow")(goods))
    async with slow.open(), quick.open():
        proof = await slow.quote("/goods")
        late = asyncio.create_task(slow.request("/goods", headers=proof).run())
        await waiting.wait()
        world.clock.advance(130)
        releasing = await quick.request("/goods", headers=proof).run()
        assert (releasing.status, releasing.json()["code"]) == (503, "outcome_unknown")
        await quick.gate.reconcile()
        assert not world.ledger.held
        let_go.set()
        refused = await late
        assert refused.status == 409
        assert b"late" not in refused.body
        assert (world.ledger.count("settle"), world.ledger.charged_total) == (0, 0)


@pytest.mark.parametrize("flow", FLOWS)
async def test_two_workers_share_one_run(flow: str) -> None:
    world = World(flow)
    workers = [world.worker() for _ in range(2)]
    async with workers[0].open(), workers[1].open():
        proof = await workers[0].quote("/goods")
        answers = await asyncio.gather(*(shop.request("/goods", headers=proof).run() for shop in workers * 10))
        assert {answer.status for answer in answers} <= {200, 409}
        assert [answer.body for answer in answers if answer.status == 200].count(b"goods") >= 1
        assert (world.runs, world.ledger.count("settle"), world.ledger.charged_total) == (1, 1, 3000)
