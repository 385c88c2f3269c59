"""A request to charge that arrives when nobody counts with it any more: one payment stays one charge at Stripe.

The payer waits for minutes, is told that nothing was taken, and shows the same payment again. Then the first request,
which a proxy has kept, arrives: before the second one, while its answer is under way, or after it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from rail402.protocol.charge import PaymentState
from rail402.testing.faults import FAULTS, Exchange, Fault, Faults, FaultyTransport
from rail402_stripe import StripeApi, StripeRail
from rail402_stripe.sandbox import SANDBOX_URL, SandboxTransport
from rail402_stripe.sandbox.idempotency import KEPT_SECONDS
from rail402_stripe.wire import SANDBOX_PROFILE
from tests.conformance.test_stripe_end_to_end import Shop
from tests.conformance.test_stripe_on_demand import SECRET, Customers, no_telemetry_file, saved, show
from tests.unit.rail402_stripe.account import CREATE, PRICE, Account

__all__ = ["no_telemetry_file"]

LATE = 121


class Kept:
    """A proxy that keeps requests, and hands them on when it is told to."""

    def __init__(self) -> None:
        self.requests: list[Callable[[], Awaitable[httpx.Response]]] = []

    async def behave(self, exchange: Exchange) -> httpx.Response:
        self.requests.append(exchange.deliver)
        raise httpx.ReadTimeout("no answer", request=exchange.request)

    async def let_go(self) -> list[int]:
        """Hand all of them on; return what Stripe answers."""
        kept, self.requests = self.requests, []
        return [(await deliver()).status_code for deliver in kept]


class World:
    """A shop on Stripe's sandbox, whose calls pass a proxy."""

    def __init__(self, directory: Path, flow: str) -> None:
        self.customers = Customers()
        self.account = account = Account(directory, customers=self.customers)
        self.faults, self.kept = Faults(), Kept()
        wire = FaultyTransport(SandboxTransport(account.sandbox), self.faults)
        api = StripeApi(StripeApi.sandbox_key, transport=wire, api_base=SANDBOX_URL)
        api.network = "stripe:sandbox"
        account.rail = StripeRail(api, profile_id=SANDBOX_PROFILE, customers=self.customers, clock=account.clock)
        account.rail.is_sandbox = True
        self.shop = Shop(account, flow, "memory://")

    def keep(self) -> None:
        """Have the proxy keep the next request to charge."""
        self.faults.on(Fault("kept", self.kept.behave), "POST", CREATE)

    async def proof(self, kind: str) -> dict[str, str]:
        """Return what can be charged more than once, as far as Stripe is concerned."""
        if kind == "customer":
            self.customers.known[SECRET] = await saved(self.account)
            return {"customer": SECRET}
        return {"spt": await self.account.token(max_amount=10 * PRICE)}

    async def live(self) -> list[str]:
        """Return the states of what money is in, or reserved by."""
        return [state for state in await self.account.statuses() if state in ("succeeded", "requires_capture")]

    async def pass_time(self, seconds: int = LATE) -> None:
        self.account.clock.advance(seconds)
        await self.shop.gate.reconcile()


@pytest.mark.parametrize("arrives", ["before the second", "after the second", "never"])
@pytest.mark.parametrize("kind", ["customer", "spt"])
@pytest.mark.parametrize("flow", ["upfront", "escrow"])
async def test_it_charges_nothing_more(tmp_path: Path, flow: str, kind: str, arrives: str) -> None:
    world = World(tmp_path, flow)
    async with world.shop.open() as shop:
        proof, offer = await world.proof(kind), await shop.offer()
        world.keep()
        assert (await show(shop, offer, proof)).status_code == 503
        await world.pass_time()
        assert (await shop.only_charge()).payment is PaymentState.RELEASED
        if arrives == "before the second":
            assert await world.kept.let_go() == [400]
        assert (await show(shop, offer, proof)).json() == {"n": 1}
        if arrives == "after the second":
            assert await world.kept.let_go() == [400]
        assert (await shop.only_charge()).payment is PaymentState.SETTLED
        assert await world.account.balance() == PRICE
        assert await world.live() == ["succeeded"]
    await world.account.close()


@pytest.mark.parametrize("late", [LATE, 600])
@pytest.mark.parametrize("flow", ["upfront", "escrow"])
async def test_what_arrives_between_two_looks_is_found(tmp_path: Path, flow: str, late: int) -> None:
    """The request lands after the list was read and before its key is used up, however late that is."""
    world = World(tmp_path, flow)

    async def overtaken(exchange: Exchange) -> httpx.Response:
        assert await world.kept.let_go() == [200]
        return await exchange.deliver()

    async with world.shop.open() as shop:
        proof, offer = await world.proof("customer"), await shop.offer()
        world.keep()
        assert (await show(shop, offer, proof)).status_code == 503
        world.faults.on(Fault("overtaken", overtaken), "POST", CREATE)
        await world.pass_time(late)
        if flow == "upfront":
            assert (await shop.only_charge()).payment is PaymentState.SETTLED
        assert (await show(shop, offer, proof)).json() == {"n": 1}
        assert await world.account.balance() == PRICE
        assert await world.live() == ["succeeded"]
    await world.account.close()


@pytest.mark.parametrize("landed", [30, 600, 90_000, None])
async def test_a_look_after_a_day_does_not_rely_on_a_key_that_stripe_has_forgotten(
    tmp_path: Path, landed: int | None
) -> None:
    """The gate was down when the request landed, and comes back when Stripe does not know its key any more."""
    world = World(tmp_path, "upfront")
    async with world.shop.open() as shop:
        proof, offer = await world.proof("customer"), await shop.offer()
        world.keep()
        assert (await show(shop, offer, proof)).status_code == 503
        world.account.clock.advance(landed or 0)
        if landed is not None:
            assert await world.kept.let_go() == [200]
        await world.pass_time(2 * KEPT_SECONDS)
        found = (await shop.only_charge()).payment
        assert found is (PaymentState.RELEASED if landed is None else PaymentState.SETTLED)
        if landed is None:
            assert await world.kept.let_go() == [400]
        assert await world.live() == ([] if landed is None else ["succeeded"])
    await world.account.close()


@pytest.mark.parametrize("fault", ["reset, never arrived", "reset, carried out", "500 JSON", "502 page, carried out"])
async def test_until_it_is_shut_out_the_outcome_stays_unknown(tmp_path: Path, fault: str) -> None:
    world = World(tmp_path, "upfront")
    async with world.shop.open() as shop:
        proof, offer = await world.proof("customer"), await shop.offer()
        world.keep()
        assert (await show(shop, offer, proof)).status_code == 503
        world.faults.on(FAULTS[fault], "POST", CREATE)
        await world.pass_time()
        assert (await shop.only_charge()).payment is PaymentState.UNKNOWN
        assert (await show(shop, offer, proof)).status_code == 503
        for _ in range(3):
            await world.pass_time()
        assert (await shop.only_charge()).payment is PaymentState.RELEASED
        assert await world.kept.let_go() == [400]
        assert await world.live() == []
    await world.account.close()
