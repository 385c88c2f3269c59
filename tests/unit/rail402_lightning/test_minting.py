"""Invoices ahead of demand: each for one payer, never too old, never too many, and none for what nobody wants."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
from typing import Any

import pytest

from rail402.errors import ConfigurationError, RailUnavailable
from rail402_lightning import bolt11
from rail402_lightning import minting as module
from rail402_lightning.backends import InvoiceStatus
from rail402_lightning.minting import AHEAD, Minter, Wanted
from rail402_lightning.rail import LightningRail
from rail402_lightning.request_binding import bound_request, request_hash
from rail402_lightning.wire import invoice_of
from tests.unit.rail402_lightning.invoices import AMOUNT, EXPIRY, MECHANISM, NOW, ORDER, ToldReceiver, invoice, terms

ONE = Wanted(AMOUNT, EXPIRY, b"one order")
OTHER = Wanted(AMOUNT, EXPIRY, b"another order")


class Node(ToldReceiver):
    """A node that makes as many invoices as it is asked for, now, and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.made, self.failing, self.tried = NOW, list[bytes](), False, 0
        self.gate: asyncio.Event | None = None
        self._numbers = itertools.count()

    async def create_invoice(self, amount_msat: int, *, expiry_seconds: int, hashed_description: bytes) -> str:
        self.tried += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.failing:
            raise RailUnavailable("the node is down")
        self.made.append(hashed_description)
        return invoice(
            amount_msat=amount_msat,
            expiry=expiry_seconds,
            created_at=self.now,
            payment_hash=hashlib.sha256(b"%d" % next(self._numbers)).digest(),
            description_hash=hashlib.sha256(hashed_description).digest(),
        )

    def repeat(self) -> None:
        """Begin with the payment hashes from the start again."""
        self._numbers = itertools.count()

    async def status(self, payment_hash: bytes) -> InvoiceStatus:
        return InvoiceStatus(state="open")


class Bench:
    """A minter and its node; its pauses are counted and take no time."""

    def __init__(self, ahead: int = 4) -> None:
        self.node, self.pauses = Node(), list[float]()
        self.minter = Minter(self.node, ahead=ahead, sleep=self._sleep)
        self.shown: list[bytes] = []

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    async def ask(self, wanted: Wanted = ONE, times: int = 1) -> list[bolt11.Invoice]:
        made = [await self.minter.invoice(wanted, now=self.node.now) for _ in range(times)]
        self.shown += [each.payment_hash for each in made]
        return made

    async def idle(self) -> None:
        """Let the background finish."""
        if self.minter._filling is not None:
            await asyncio.wait({self.minter._filling}, timeout=5)


@pytest.fixture
async def bench() -> Any:
    bench = Bench()
    yield bench
    await bench.minter.close()
    assert len(set(bench.shown)) == len(bench.shown)  # each was shown to one payer only


class TestDemand:
    async def test_what_is_asked_for_once_or_twice_is_not_minted_ahead(self, bench: Bench) -> None:
        await bench.ask(times=2)
        await bench.idle()
        assert (len(bench.node.made), bench.minter.ready) == (2, 0)

    async def test_what_is_in_demand_is_there_without_the_node(self, bench: Bench) -> None:
        await bench.ask(times=6)
        await bench.idle()
        assert bench.minter.ready == 4
        made = len(bench.node.made)
        bench.node.gate = asyncio.Event()  # a node that does not answer any more
        await bench.ask(times=4)
        assert len(bench.node.made) == made
        bench.node.gate.set()

    async def test_asked_for_now_and_then_is_no_demand(self, bench: Bench) -> None:
        for _ in range(20):
            await bench.ask()
            bench.node.now += 30
        await bench.idle()
        assert (len(bench.node.made), bench.minter.ready) == (20, 0)

    async def test_one_ahead_for_each_that_was_asked_for(self, bench: Bench) -> None:
        await bench.ask(times=3)
        await bench.idle()
        assert (len(bench.node.made), bench.minter.ready) == (4, 1)
        for _ in range(50):
            await bench.ask()
            await bench.idle()
        assert (bench.minter.ready, len(bench.node.made)) == (1, 54)
        assert len(bench.node.made) <= 2 * len(bench.shown)

    async def test_orders_have_invoices_of_their_own(self, bench: Bench) -> None:
        for wanted in (ONE, OTHER, Wanted(AMOUNT * 2, EXPIRY, ONE.hashed), Wanted(AMOUNT, EXPIRY * 2, ONE.hashed)):
            await bench.ask(wanted, times=5)
            await bench.idle()
            (found,) = await bench.ask(wanted)
            assert (found.amount_msat, found.expiry) == (wanted.amount, wanted.seconds)
            assert found.description_hash == hashlib.sha256(wanted.hashed).digest()

    async def test_a_flood_of_different_addresses_mints_nothing_ahead_and_is_forgotten(self, bench: Bench) -> None:
        for number in range(3000):
            await bench.ask(Wanted(AMOUNT, EXPIRY, b"%d" % number))
        await bench.idle()
        assert (len(bench.node.made), bench.minter.ready) == (3000, 0)
        assert len(bench.minter._asked) == module._MAX_ASKED
        assert len(bench.minter._pools) == 0

    async def test_so_many_orders_are_in_demand_at_a_time(self, bench: Bench) -> None:
        for number in range(100):
            await bench.ask(Wanted(AMOUNT, EXPIRY, b"%d" % number), times=4)
            await bench.idle()
        assert len(bench.minter._pools) == module._MAX_POOLS
        assert bench.minter.ready <= module._MAX_POOLS * 4

    async def test_turned_off(self) -> None:
        bench = Bench(ahead=0)
        await bench.ask(times=20)
        assert (len(bench.node.made), bench.minter.ready, bench.minter._filling) == (20, 0, None)

    @pytest.mark.parametrize("ahead", [-1, 101, True, 1.5, "8", None])
    def test_how_many_is_a_whole_number(self, ahead: Any) -> None:
        with pytest.raises(ConfigurationError, match="mint_ahead="):
            Minter(Node(), ahead=ahead)
        with pytest.raises(ConfigurationError, match="mint_ahead="):
            LightningRail(Node(), network="regtest", mint_ahead=ahead)


class TestAge:
    async def test_what_has_less_than_three_quarters_of_its_life_left_is_dropped(self, bench: Bench) -> None:
        await bench.ask(times=6)
        await bench.idle()
        bench.node.now += EXPIRY // 4
        (last,) = await bench.ask()
        assert last.created_at == NOW
        bench.node.now += 1
        (fresh,) = await bench.ask()
        assert fresh.created_at == bench.node.now
        assert bench.minter.ready == 0

    async def test_after_a_pause_there_is_no_demand_until_it_is_asked_for_again(self, bench: Bench) -> None:
        await bench.ask(times=6)
        await bench.idle()
        made = len(bench.node.made)
        bench.node.now += 60
        await bench.ask()
        await bench.idle()
        assert (len(bench.node.made), bench.minter.ready) == (made, 3)
        await bench.ask()
        await bench.idle()
        assert (len(bench.node.made), bench.minter.ready) == (made + 1, 3)


class TestBackground:
    async def test_no_faster_than_ten_a_second(self, bench: Bench) -> None:
        await bench.ask(times=8)
        await bench.idle()
        assert bench.pauses
        assert set(bench.pauses) == {0.1}

    async def test_nothing_runs_while_nobody_asks(self, bench: Bench) -> None:
        before = asyncio.all_tasks()
        await bench.ask(times=6)
        await bench.idle()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before

    async def test_a_node_that_fails_is_asked_ever_more_seldom(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        await bench.ask(times=6)
        await bench.idle()
        bench.pauses.clear()
        bench.node.failing = True
        with caplog.at_level(logging.WARNING):
            for _ in range(4):
                await bench.ask()  # from what is there
                await bench.idle()
        assert bench.pauses == [0.2, 0.4, 0.8, 1.6]
        assert len(caplog.records) == 4
        with pytest.raises(RailUnavailable):
            await bench.ask()
        bench.node.failing = False
        await bench.idle()
        await bench.ask()
        await bench.idle()
        assert (bench.minter.ready, bench.pauses[-1]) == (1, 0.1)

    async def test_for_what_else_is_owed_a_node_that_fails_is_not_asked_either(self, bench: Bench) -> None:
        for wanted in (ONE, OTHER):
            await bench.ask(wanted, times=6)
            await bench.idle()
        bench.node.failing = True
        tried = bench.node.tried
        for wanted in (ONE, OTHER, ONE, OTHER):  # from what is there
            await bench.ask(wanted)
        await bench.idle()
        assert bench.node.tried == tried + 1

    async def test_the_pause_has_an_end(self, bench: Bench) -> None:
        await bench.ask(times=3)
        await bench.idle()
        bench.node.failing = True
        for _ in range(15):
            bench.minter._pools[ONE].owed = 1
            bench.minter._fill()
            await bench.idle()
        assert max(bench.pauses) == module._MAX_PAUSE

    async def test_what_the_node_makes_wrongly_is_not_kept(self, bench: Bench) -> None:
        await bench.ask(times=3)
        await bench.idle()
        bench.node.create_invoice = ToldReceiver(changes={"amount_msat": 1000}).create_invoice  # type: ignore[method-assign]
        await bench.ask()
        await bench.idle()
        assert bench.minter.ready == 0

    async def test_no_payment_hash_is_sold_twice(self, bench: Bench) -> None:
        """A node that repeats itself would have one payment pay two orders, also by what was minted ahead."""
        await bench.ask(times=6)
        await bench.idle()
        bench.node.repeat()
        await bench.ask(times=4)  # from what is there; what is minted ahead for them is a repetition
        await bench.idle()
        assert bench.minter.ready == 0
        for wanted in (ONE, OTHER):
            with pytest.raises(RailUnavailable, match="a payment hash that it used before"):
                await bench.ask(wanted)
        await bench.minter.close()
        bench.node.repeat()
        with pytest.raises(RailUnavailable, match="used before"):  # closing forgets no hash
            await bench.ask()

    async def test_a_bounded_number_of_hashes_is_remembered(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_MAX_GIVEN", 8)
        await bench.ask(times=2)
        for number in range(20):
            await bench.ask(Wanted(AMOUNT, EXPIRY, b"%d" % number))
        assert len(bench.minter._given) == 8

    async def test_closing_stops_it_and_forgets_what_is_there(self, bench: Bench) -> None:
        await bench.ask(times=6)
        await bench.idle()
        bench.node.gate = asyncio.Event()
        await bench.ask()
        task = bench.minter._filling
        assert task is not None
        assert not task.done()
        await bench.minter.close()
        assert (task.cancelled(), bench.minter.ready) == (True, 0)
        bench.node.gate = None
        await bench.ask()  # it can be used again
        assert bench.minter._filling is None


class TestRail:
    @pytest.fixture
    async def rail(self) -> Any:
        rail = LightningRail(Node(), network="regtest", wait_seconds=0)
        yield rail
        await rail.close()

    async def offers(self, rail: LightningRail, times: int, **changes: Any) -> list[bolt11.Invoice]:
        made = [await rail.offer(ORDER, MECHANISM, terms(**changes)) for _ in range(times)]
        return [invoice_of(each) for each in made if each is not None]

    async def test_invoices_are_bound_to_the_order_where_a_dialect_binds_them(self, rail: LightningRail) -> None:
        for dialects in (None, ["x402-v2", "l402"]):
            (found,) = await self.offers(rail, 1, dialects=dialects)
            assert found.description_hash == request_hash(ORDER)

    async def test_elsewhere_one_is_as_good_as_another(self, rail: LightningRail) -> None:
        (found,) = await self.offers(rail, 1, dialects=["l402", "mpp"])
        assert found.description_hash != request_hash(ORDER)
        other = ORDER.model_copy(update={"url": "https://shop.example/\u00fc"})  # which none could be bound to
        made = await rail.offer(other, MECHANISM, terms(dialects=["l402"]))
        assert made is not None
        assert invoice_of(made).description_hash == found.description_hash
        assert await rail.offer(other, MECHANISM, terms(dialects=["x402-v2"])) is None

    async def test_an_offer_says_what_is_left_of_its_invoice(self, rail: LightningRail) -> None:
        found = await self.offers(rail, 6)
        assert rail._minter._filling is not None
        await asyncio.wait({rail._minter._filling}, timeout=5)
        made = await rail.offer(ORDER, MECHANISM, terms(now=NOW + 100, expires_at=NOW + 100 + EXPIRY))
        assert made is not None
        assert (made.expires_at, made.timeout_seconds) == (NOW + EXPIRY, EXPIRY)
        assert invoice_of(made).payment_hash not in {each.payment_hash for each in found}
        assert invoice_of(made).description_hash == hashlib.sha256(bound_request(ORDER)).digest()
        rail.spec.check_offer(made.model_copy(update={"dialect": "x402-v2"}), ORDER, now=NOW + 100)

    async def test_closing_the_rail_ends_it(self, rail: LightningRail) -> None:
        await self.offers(rail, 6)
        task = rail._minter._filling
        assert task is not None
        await rail.close()
        assert (task.done(), rail._minter.ready) == (True, 0)

    async def test_a_few_are_minted_ahead_unless_told(self, rail: LightningRail) -> None:
        assert rail.mints_offers
        assert rail._minter._ahead == AHEAD == 8
        assert LightningRail(Node(), network="regtest", mint_ahead=0)._minter._ahead == 0
