"""Each flow from the 402 to the delivery, and each way in which the rail can answer."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from rail402.errors import ConfigurationError
from rail402.protocol.charge import Charge, Delivery, PaymentEvent, PaymentState
from rail402.protocol.rail import Held
from rail402.protocol.receipt import verify_receipt
from rail402.server.operations import conclude, refund
from rail402.server.paywall import CHARGE_KEY
from rail402.server.reconciler import Reconciler
from rail402.testing.fakes import Ending
from tests.unit.server.shop import URL, Shop

FLOWS = ["authorization", "escrow", "upfront"]


def make_shop(flow: str, status: int = 200, **options: Any) -> tuple[Shop, list[Charge]]:
    """Return a shop with one paid route, and the list of the charges its handler has served."""
    shop, served = Shop(**options), []

    async def goods(request: Request) -> Response:
        served.append(request.scope[CHARGE_KEY])
        return JSONResponse({"n": len(served)}, status)

    shop.app.add_route("/goods", shop.gate.paid("0.003 USD", flow=flow)(goods), methods=["GET", "POST"])
    return shop, served


@pytest.mark.parametrize("flow", FLOWS)
async def test_paid_once_served_once_replayed_freely(flow: str) -> None:
    shop, served = make_shop(flow)
    async with shop.open():
        unpaid = await shop.client.get("/goods")
        assert unpaid.status_code == 402
        assert unpaid.headers["cache-control"] == "no-store"
        assert shop.ledger.charged_total == 0
        proof = await shop.proof(unpaid)
        first = await shop.client.get("/goods", headers=proof)
        again = await shop.client.get("/goods", headers=proof)
        assert (first.status_code, again.status_code) == (200, 200)
        assert first.content == again.content == b'{"n":1}'
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        assert first.headers["cache-control"] == "private"
        assert shop.ledger.charged_total == 3000
        assert len(served) == 1
        charge = await shop.only_charge()
        assert (charge.payment, charge.delivery) == (PaymentState.SETTLED, Delivery.STORED)
        assert shop.ledger.count("settle") == 1


@pytest.mark.parametrize("flow", FLOWS)
async def test_the_receipt_verifies_offline(flow: str) -> None:
    shop, _ = make_shop(flow)
    async with shop.open():
        response = await shop.buy("/goods")
        jwks = (await shop.client.get("/.well-known/rail402/jwks.json")).json()
        receipt = verify_receipt(response.headers["receipt-record"], jwks, issuer=URL)
        charge = await shop.only_charge()
        assert receipt.charge == charge.id
        assert receipt.resource == f"{URL}/goods"
        assert receipt.request_digest == charge.order.request_digest
        assert receipt.amount == "3000"
        assert receipt.sandbox
        assert receipt.response_digest == hashlib.sha256(response.content).hexdigest()


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("status", [400, 404, 500])
async def test_a_failed_handler_costs_nothing(flow: str, status: int) -> None:
    shop, _ = make_shop(flow, status)
    async with shop.open():
        response = await shop.buy("/goods")
        charge = await shop.only_charge()
        assert response.status_code == status
        assert charge.id in response.headers["rail402-charge"]
        assert shop.ledger.charged_total == 0
        assert not shop.ledger.held
        state = PaymentState.REFUNDED if flow == "upfront" else PaymentState.RELEASED
        assert (charge.payment, charge.delivery) == (state, Delivery.FAILED)
        assert "receipt-record" not in response.headers


@pytest.mark.parametrize("flow", FLOWS)
async def test_an_exception_costs_nothing_and_names_the_charge(flow: str) -> None:
    shop = Shop()

    async def broken(request: Request) -> Response:
        raise RuntimeError("a bug")

    shop.app.add_route("/broken", shop.gate.paid("0.003 USD", flow=flow)(broken))
    async with shop.open():
        response = await shop.buy("/broken")
        assert response.status_code == 500
        assert (await shop.only_charge()).id in response.headers["rail402-charge"]
        assert "bug" not in response.text
        assert shop.ledger.charged_total == 0


async def test_a_released_payment_may_be_tried_again() -> None:
    shop, statuses = Shop(), iter([500, 200])

    async def flaky(request: Request) -> Response:
        return JSONResponse({}, next(statuses))

    shop.app.add_route("/flaky", shop.gate.paid("0.003 USD")(flaky))
    async with shop.open():
        proof = await shop.quote("/flaky")
        assert (await shop.client.get("/flaky", headers=proof)).status_code == 500
        assert (await shop.client.get("/flaky", headers=proof)).status_code == 200
        charge = await shop.only_charge()
        assert charge.attempt == 2
        assert shop.ledger.charged_total == 3000


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("happened", [True, False])
async def test_an_unknown_settlement_is_never_guessed(flow: str, happened: bool) -> None:
    shop, served = make_shop(flow)
    async with shop.open():
        proof = await shop.quote("/goods")
        shop.ledger.script("settle", Ending.UNKNOWN_DONE if happened else Ending.UNKNOWN_NOT_DONE)
        first = await shop.client.get("/goods", headers=proof)
        again = await shop.client.get("/goods", headers=proof)
        for response in (first, again):
            assert response.status_code == 503
            assert "retry-after" in response.headers
            assert "payment-required" not in response.headers
        assert (await shop.only_charge()).payment is PaymentState.UNKNOWN
        shop.clock.advance(1000)
        assert await shop.gate.reconcile() == 1
        last = await shop.client.get("/goods", headers=proof)
        if happened or flow == "escrow":
            assert last.status_code == 200
            assert shop.ledger.charged_total == 3000
            assert len(served) == 1
        else:
            assert last.status_code == 402  # released, and the authorization has expired by now
            assert shop.ledger.charged_total == 0


async def test_the_response_of_an_unknown_settlement_is_served_once_it_is_settled() -> None:
    shop, served = make_shop("authorization")
    async with shop.open():
        proof = await shop.quote("/goods")
        shop.ledger.script("settle", Ending.UNKNOWN_DONE)
        await shop.client.get("/goods", headers=proof)
        shop.clock.advance(1000)
        await shop.gate.reconcile()
        response = await shop.client.get("/goods", headers=proof)
        assert response.headers["idempotent-replayed"] == "true"
        assert response.headers["receipt-record"]
        assert len(served) == 1


@pytest.mark.parametrize("flow", FLOWS)
async def test_a_definitive_failure_withholds_the_response(flow: str) -> None:
    shop, _ = make_shop(flow)
    async with shop.open():
        proof = await shop.quote("/goods")
        shop.ledger.script("hold" if flow == "escrow" else "settle", Ending.FAILED)
        response = await shop.client.get("/goods", headers=proof)
        assert response.status_code == 402
        assert response.json()["code"] == "payment_declined"
        assert "payment-required" in response.headers  # a fresh challenge
        assert b'"n"' not in response.content
        assert (await shop.only_charge()).payment is PaymentState.REJECTED
        assert (await shop.client.get("/goods", headers=proof)).status_code == 402


@pytest.mark.parametrize("call", ["verify", "settle"])
async def test_a_rail_that_is_down_burns_nothing(call: str) -> None:
    shop, _ = make_shop("authorization")
    async with shop.open():
        proof = await shop.quote("/goods")
        shop.ledger.script(call, Ending.UNAVAILABLE)
        down = await shop.client.get("/goods", headers=proof)
        assert down.status_code == 503
        assert "payment-required" not in down.headers
        assert (await shop.client.get("/goods", headers=proof)).status_code == 200
        assert shop.ledger.charged_total == 3000


async def test_no_rail_up_means_503_instead_of_a_402_nobody_can_pay() -> None:
    shop, _ = make_shop("authorization")
    async with shop.open():
        shop.ledger.script("offer", Ending.UNAVAILABLE)
        response = await shop.client.get("/goods")
        assert response.status_code == 503


@pytest.mark.parametrize("flow", FLOWS)
async def test_fifty_at_once_are_one_handler_run_and_one_settlement(flow: str) -> None:
    shop = Shop(wait_seconds=5)
    runs, running, gate = 0, asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Response:
        nonlocal runs
        runs += 1
        running.set()
        await gate.wait()
        return JSONResponse({"run": runs})

    shop.app.add_route("/slow", shop.gate.paid("0.003 USD", flow=flow)(slow))
    async with shop.open():
        proof = await shop.quote("/slow")
        tasks = [asyncio.create_task(shop.client.get("/slow", headers=proof)) for _ in range(50)]
        await running.wait()
        gate.set()
        responses = await asyncio.gather(*tasks)
        assert {response.status_code for response in responses} == {200}
        assert {response.content for response in responses} == {b'{"run":1}'}
        assert runs == 1
        assert shop.ledger.count("settle") == 1


async def test_who_waits_too_long_gets_409() -> None:
    shop = Shop(wait_seconds=0)
    running, gate = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Response:
        running.set()
        await gate.wait()
        return JSONResponse({})

    shop.app.add_route("/slow", shop.gate.paid("0.003 USD")(slow))
    async with shop.open():
        proof = await shop.quote("/slow")
        first = asyncio.create_task(shop.client.get("/slow", headers=proof))
        await running.wait()
        second = await shop.client.get("/slow", headers=proof)
        assert second.status_code == 409
        assert second.headers["retry-after"]
        gate.set()
        assert (await first).status_code == 200


async def test_a_cancelled_request_does_not_cancel_the_settlement() -> None:
    shop, _ = make_shop("authorization")
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def pause(name: str, key: str) -> None:
        if name == "settle":
            reached.set()
            await go_on.wait()

    async with shop.open():
        proof = await shop.quote("/goods")
        shop.ledger.before = pause
        request = asyncio.create_task(shop.client.get("/goods", headers=proof))
        await reached.wait()
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        go_on.set()
        await shop.gate.services().drain()
        assert (await shop.only_charge()).payment is PaymentState.SETTLED
        response = await shop.client.get("/goods", headers=proof)
        assert response.status_code == 200
        assert shop.ledger.charged_total == 3000


async def test_a_late_worker_serves_what_is_paid_for_still_and_keeps_nothing() -> None:
    shop = Shop()

    async def slow(request: Request) -> Response:
        shop.clock.advance(1000)
        await shop.gate.reconcile()
        return JSONResponse({"goods": 1})

    shop.app.add_route("/slow", shop.gate.paid("0.003 USD", flow="upfront")(slow))
    async with shop.open():
        assert (await shop.buy("/slow")).json() == {"goods": 1}
        charge = await shop.only_charge()
        assert (charge.payment, charge.delivery) == (PaymentState.SETTLED, Delivery.FAILED)
        assert shop.ledger.charged_total == 3000


@pytest.mark.parametrize("length", [None, "5"])
async def test_a_late_worker_withholds_a_stream_that_was_refunded_meanwhile(length: str | None) -> None:
    shop = Shop()

    async def slow(request: Request) -> Response:
        shop.clock.advance(1000)
        await shop.gate.reconcile()
        await refund(shop.gate.services(), shop.rail, await shop.only_charge())
        return StreamingResponse(iter([b"goo", b"ds"]), headers={"content-length": length} if length else None)

    shop.app.add_route("/slow", shop.gate.paid("0.003 USD", flow="upfront")(slow))
    async with shop.open():
        response = await shop.buy("/slow")
        assert (response.status_code, response.json()["code"]) == (402, "refunded")
        assert shop.ledger.charged_total == 0


async def test_a_late_worker_withholds_what_was_refunded_meanwhile() -> None:
    shop = Shop()

    async def slow(request: Request) -> Response:
        shop.clock.advance(1000)  # our lease lapses,
        await shop.gate.reconcile()  # the run counts as failed,
        services, charge = shop.gate.services(), await shop.only_charge()
        await refund(services, shop.rail, charge)  # and the publisher gives the money back
        return JSONResponse({"goods": 1})

    shop.app.add_route("/slow", shop.gate.paid("0.003 USD", flow="upfront")(slow))
    async with shop.open():
        response = await shop.buy("/slow")
        assert response.status_code == 402
        assert response.json()["code"] == "refunded"
        assert b"goods" not in response.content
        assert shop.ledger.charged_total == 0


async def test_what_is_older_than_the_retention_is_forgotten() -> None:
    shop, _ = make_shop("authorization", retention_seconds=86_400)
    async with shop.open():
        await shop.buy("/goods")
        reconciler = Reconciler(shop.gate.services())
        shop.clock.advance(86_000)
        assert await reconciler.prune() == 0
        shop.clock.advance(2000)
        assert await reconciler.prune() == 1
        assert await shop.charges() == []


async def test_nonsense_from_a_rail_tells_nothing() -> None:
    shop, _ = make_shop("authorization")
    async with shop.open():
        await shop.buy("/goods")
        settled = await shop.only_charge()
        lost = settled.on(PaymentEvent.REFUND, lease_until=0).on(PaymentEvent.LOST, lease_until=0)
        assert conclude(shop.gate.services(), lost, Held()) is lost


async def test_a_fixed_price_that_nobody_can_pay_stops_the_start() -> None:
    shop = Shop()
    shop.gate.protect("GET /goods", price="21 sat")  # the fake rail takes dollars, and there are no rates
    shop.app.add_route("/goods", lambda request: JSONResponse({}))
    with pytest.raises(ConfigurationError, match="no rate leads from 21 sat to USD; give the gate rates="):
        await shop.gate.start()


def test_a_misspelt_setting_is_told_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"no settings \['max_bodi'\]; .*'max_body'"):
        Shop(max_bodi=1)


async def test_a_rail_that_hangs_over_an_offer_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rail402.server.challenge._OFFER_SECONDS", 0)
    shop, _ = make_shop("authorization")

    async def hang(name: str, key: str) -> None:
        await asyncio.Event().wait()

    async with shop.open():
        shop.ledger.before = hang
        response = await shop.client.get("/goods")
        assert response.status_code == 503
        assert response.json()["code"] == "rail_unavailable"
