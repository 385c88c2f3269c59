"""Making, starting and closing a gate."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from rail402.errors import ConfigurationError, GateNotInstalled, RailUnavailable, StoreError
from rail402.protocol.receipt import ReceiptKeys, verify_receipt
from rail402.server.gate import Gate
from rail402.stores.memory import MemoryStore
from rail402.testing.fakes import FakeClock, FakeLedger, FakeRail, FakeSpec
from tests.unit.server.shop import URL, Shop

SECRET = "s" * 32


class RealRail(FakeRail):
    """A rail that moves real money, as far as the gate can tell."""

    is_sandbox = False


class FreeRail(RealRail):
    """A rail on a test network."""

    is_test = True


def make(**options: Any) -> Gate:
    defaults: dict[str, Any] = {"rails": [FakeRail(FakeLedger())], "public_url": URL, "store": "memory://"}
    return Gate(**(defaults | options))


async def goods(request: Request) -> Response:
    return PlainTextResponse("the goods")


# --- making one


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rails": []}, "rails"),
        ({"rails": [FakeRail(FakeLedger()), FakeRail(FakeLedger())]}, "two rails are called 'fake'"),
        ({"dialects": []}, "dialects"),
        ({"public_url": "shop.example"}, "public_url"),
        ({"store": "mysql://user:hunter2@host/db"}, "mysql"),
        ({"secret": "short"}, "at least 32 bytes"),
        ({"secret": {}}, "secret"),
        ({"secret": {"no spaces": SECRET}}, "no spaces"),
        ({"receipt_key": "no key"}, "receipt key"),
        ({"max_boddy": 1}, "max_boddy"),
        ({"max_body": -1}, "max_body"),
        ({"rails": [RealRail(FakeLedger())]}, "keygen"),
        ({"rails": [RealRail(FakeLedger())], "secret": SECRET}, "keygen"),
    ],
)
def test_a_wrong_setting_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as raised:
        make(**options)
    assert "hunter2" not in str(raised.value)


def test_offers_are_good_for_no_longer_than_a_rail_can_keep_them() -> None:
    rail = FakeRail(FakeLedger())
    rail.max_offer_seconds = 600
    make(rails=[rail], offer_seconds=600)
    with pytest.raises(ConfigurationError, match="offer_seconds must be 600 at most with the rail fake"):
        make(rails=[rail], offer_seconds=601)


@pytest.mark.parametrize("kind", [FakeRail, FreeRail])
def test_play_money_does_not_buy_beside_real_money(kind: type[FakeRail]) -> None:
    rails = [RealRail(FakeLedger(), FakeSpec("real")), kind(FakeLedger(), FakeSpec("play"))]
    for order in (rails, rails[::-1]):
        with pytest.raises(ConfigurationError, match="in one gate would sell for nothing"):
            make(rails=order, secret=SECRET, receipt_key=ReceiptKeys.generate()[1])


@pytest.mark.parametrize(
    ("terms", "named"),
    [
        ({"rails": ["gold"]}, r"there is no rail 'gold'.*fake"),
        ({"rails": []}, "rails"),
        ({"rails": "fake"}, "list of names"),
        ({"dialects": ["x402"]}, r"there is no dialect 'x402'.*x402-v2"),
        ({"dialects": "mpp"}, "list of names"),
        ({"flow": "later"}, r"flow='later' must be"),
        ({"price": "0 USD"}, "more than zero"),
        ({"price": "three dollars"}, "is not an amount"),
        ({"price": 3}, "is not an amount"),
        ({"price": None}, "is not an amount"),
    ],
)
def test_a_wrong_term_is_named_where_it_is_written(terms: dict[str, Any], named: str) -> None:
    gate, price = make(), terms.get("price", "1 USD")
    with pytest.raises(ConfigurationError, match=named):
        gate.paid(price, **{name: value for name, value in terms.items() if name != "price"})
    with pytest.raises(ConfigurationError, match=named):
        gate.protect("GET /x", **({"price": price} | terms))


def test_nothing_secret_is_shown() -> None:
    gate = make(secret={"k1": SECRET}, receipt_key=ReceiptKeys.generate()[1])
    assert SECRET not in repr(vars(gate))


# --- starting and closing


async def test_before_it_starts_it_has_no_parts() -> None:
    gate = make()
    with pytest.raises(GateNotInstalled, match=r"gate\.install"):
        gate.services()
    assert not gate.started
    async with gate:
        assert gate.started
        assert gate.services().settings.public_url == URL
        await gate.start()
        assert await gate.reconcile() == 0
    assert not gate.started
    await gate.close()


async def test_it_is_installed_on_one_app() -> None:
    gate = make()
    gate.install(FastAPI())
    with pytest.raises(ConfigurationError, match="one gate per app"):
        gate.install(FastAPI())


@pytest.mark.parametrize("failing", ["store", "second rail", "routes"])
async def test_what_was_opened_is_closed_where_the_rest_does_not_start(failing: str) -> None:
    ledger = FakeLedger()
    rails = [FakeRail(ledger, FakeSpec("one")), FakeRail(ledger, FakeSpec("two"))]
    opened: list[str] = []

    class Recording(MemoryStore):
        async def start(self) -> None:
            if failing == "store":
                raise StoreError("down")
            opened.append("store")

        async def close(self) -> None:
            opened.remove("store")

    async def misconfigured() -> None:
        raise ConfigurationError("the key is wrong")

    gate = make(rails=rails, store=Recording())
    app = FastAPI()
    gate.install(app)
    if failing == "second rail":
        rails[1].start = misconfigured  # type: ignore[method-assign]
    if failing == "routes":
        gate.protect("GET /nowhere", price="1 USD")
    for _ in range(2):
        with pytest.raises((StoreError, ConfigurationError)):
            await gate.start()
        assert (opened, [rail.started for rail in rails], gate.started) == ([], [False, False], False)


async def test_a_rail_that_cannot_be_reached_yet_stops_nobody_else() -> None:
    shop = Shop()

    async def down(*_: Any) -> Any:
        raise RailUnavailable("no node")

    shop.app.add_route("/goods", shop.gate.paid("0.003 USD")(goods))
    shop.app.add_route("/free", goods)
    shop.rail.start = shop.rail.offer = down  # type: ignore[method-assign]
    async with shop.open():
        assert (await shop.client.get("/goods")).status_code == 503
        assert (await shop.client.get("/free")).status_code == 200


async def test_a_rate_feed_that_is_down_yet_stops_nobody() -> None:
    class Down:
        async def rate(self, base: str, quote: str) -> None:
            raise RailUnavailable("no rates")

    shop = Shop(rates=Down())
    shop.app.add_route("/goods", shop.gate.paid("21 sat")(goods))
    shop.app.add_route("/free", goods)
    async with shop.open():
        assert (await shop.client.get("/goods")).status_code == 503
        assert (await shop.client.get("/free")).status_code == 200


async def test_a_rail_that_does_not_close_leaves_nothing_else_open() -> None:
    ledger = FakeLedger()
    rails = [FakeRail(ledger, FakeSpec("one")), FakeRail(ledger, FakeSpec("two"))]

    async def broken() -> None:
        raise RailUnavailable("cannot close")

    rails[1].close = broken  # type: ignore[method-assign]
    gate = make(rails=rails)
    await gate.start()
    with pytest.raises(RailUnavailable):
        await gate.close()
    assert not rails[0].started


async def test_an_app_may_start_again_and_its_routes_have_one_gate_each() -> None:
    shop = Shop(store=MemoryStore())
    shop.app.add_route("/goods", shop.gate.paid("0.003 USD")(goods))
    for number in range(1, 4):
        async with shop.open():
            assert (await shop.buy("/goods")).text == "the goods"
            assert shop.ledger.charged_total == 3000 * number
            if number == 1:
                shop.app.add_route("/late", shop.gate.paid("0.003 USD")(goods))
            else:
                assert (await shop.client.get("/late")).status_code == 402


async def test_many_first_requests_start_it_once() -> None:
    shop = Shop()
    starts = 0

    async def start() -> None:
        nonlocal starts
        starts += 1
        await asyncio.sleep(0)

    shop.rail.start = start  # type: ignore[method-assign]
    shop.app.add_route("/goods", shop.gate.paid("0.003 USD")(goods))
    wires = await asyncio.gather(*(shop.request("/goods").run() for _ in range(10)))
    assert ({wire.status for wire in wires}, starts) == ({402}, 1)
    await shop.gate.close()


async def test_closing_waits_for_money_that_is_moving() -> None:
    shop, reached, go_on = Shop(), asyncio.Event(), asyncio.Event()
    shop.app.add_route("/goods", shop.gate.paid("0.003 USD")(goods))

    async def pause(name: str, key: str) -> None:
        if name == "settle":
            reached.set()
            await go_on.wait()

    await shop.gate.start()
    async with shop.open():
        proof = await shop.quote("/goods")
        shop.ledger.before = pause
        request = asyncio.create_task(shop.request("/goods", headers=proof).run())
        await reached.wait()
        request.cancel()
        closing = asyncio.create_task(shop.gate.close())
        await asyncio.gather(request, return_exceptions=True)
        assert not closing.done()
        go_on.set()
        await closing
        assert shop.ledger.charged_total == 3000
        assert not shop.rail.started


async def test_the_reconciler_runs_while_it_is_open() -> None:
    gate = make(reconcile_seconds=3600)
    async with gate:
        assert len(gate.services().tasks) == 1
    async with make(reconcile_seconds=0) as quiet:
        assert not quiet.services().tasks


# --- keys


async def test_workers_on_one_store_take_each_others_offers_and_receipts_in_the_sandbox() -> None:
    store, clock, ledger = MemoryStore(), FakeClock(), FakeLedger()
    shops = [Shop(store=store, clock=clock, ledger=ledger) for _ in range(2)]
    for shop in shops:
        shop.app.add_route("/goods", shop.gate.paid("0.003 USD")(goods))
    async with shops[0].open(), shops[1].open():
        proof = await shops[0].quote("/goods")
        served = await shops[1].client.get("/goods", headers=proof)
        jwks = (await shops[0].client.get("/.well-known/rail402/jwks.json")).json()
        assert verify_receipt(served.headers["receipt-record"], jwks).sandbox


async def test_a_secret_is_rotated_without_refusing_open_offers() -> None:
    store, clock, ledger = MemoryStore(), FakeClock(), FakeLedger()

    def worker(secret: Any) -> Shop:
        shop = Shop(store=store, clock=clock, ledger=ledger, secret=secret)
        shop.app.add_route("/goods", shop.gate.paid("0.003 USD")(goods))
        return shop

    old, both, new = worker({"a": "a" * 32}), worker({"b": b"b" * 32, "a": "a" * 32}), worker({"b": "b" * 32})
    async with old.open(), both.open(), new.open():
        for dialect in ("x402-v2", "mpp"):
            proof = await old.proof(await old.client.get("/goods"), dialect)
            assert (await new.client.get("/goods", headers=proof)).status_code == 402
            assert (await both.client.get("/goods", headers=proof)).status_code == 200
            fresh = await both.proof(await both.client.get("/goods"), dialect)
            assert (await new.client.get("/goods", headers=fresh)).status_code == 200


async def test_retired_receipt_keys_stay_published() -> None:
    (_, old), (new_keys, new) = ReceiptKeys.generate(), ReceiptKeys.generate()
    gate = make(receipt_key=new, retired_receipt_keys=[old], secret=SECRET)
    async with gate:
        keys = gate.services().receipt_keys.jwks["keys"]
        assert [key["kid"] for key in keys] == [new_keys.kid, ReceiptKeys(old).kid]


def test_real_money_with_its_keys_is_fine() -> None:
    make(rails=[RealRail(FakeLedger())], secret=SECRET.encode(), receipt_key=ReceiptKeys.generate()[1])
