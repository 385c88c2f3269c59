"""Taking less than the price, and giving it back."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from rail402.errors import ConfigurationError, GateNotInstalled
from rail402.protocol.charge import Delivery, PaymentState
from rail402.protocol.rail import PaymentRail
from rail402.protocol.receipt import verify_receipt
from rail402.testing.fakes import Ending
from tests.unit.server.shop import Shop


def sell(shop: Shop, reduced: str | None, **terms: Any) -> None:
    """Sell `/goods` for 0.003 USD, asking only `reduced` when it turns out to be worth less."""
    said: list[bool] = []

    async def goods(request: Request) -> Response:
        if reduced is not None:
            said.append(shop.gate.reduce(request, reduced))
        return PlainTextResponse(f"the goods {said}")

    shop.app.add_route("/goods", shop.gate.paid("0.003 USD", **terms)(goods))


# --- less


@pytest.mark.parametrize(
    ("reduced", "taken"), [("0.001 USD", 1000), ("0.0010001 USD", 1001), ("0.003 USD", 3000), ("0.0000001 USD", 1)]
)
async def test_less_is_taken_of_what_is_held(reduced: str, taken: int) -> None:
    shop = Shop()
    sell(shop, reduced, flow="escrow")
    shop.ledger.balances["alice"] = 10_000
    async with shop.open():
        answer = await shop.buy("/goods")
        assert answer.text == "the goods [True]"
        assert (shop.ledger.charged_total, shop.ledger.held) == (taken, {})
        jwks = (await shop.client.get("/.well-known/rail402/jwks.json")).json()
        receipt = verify_receipt(answer.headers["receipt-record"], jwks)
        assert (receipt.amount, receipt.price) == (str(taken), f"{taken / 10**6:f}".rstrip("0") + " USD")
        charge = await shop.only_charge()
        assert (charge.amount, charge.offer.amount) == (taken, 3000)
        assert (await shop.gate.refund(charge.id)).payment is PaymentState.REFUNDED
        (refunded,) = shop.ledger.refunded.values()
        assert refunded.amount == taken


@pytest.mark.parametrize(
    ("offered", "now", "asked", "said", "taken"),
    [
        ("0.004 USD", "0.002 USD", "0.001 USD", True, 1000),
        ("0.002 USD", "0.004 USD", "0.002 USD", True, 2000),
        ("0.002 USD", "0.004 USD", "0.003 USD", False, 2000),  # no more is held
    ],
)
async def test_a_price_that_has_moved_since_the_offer(
    offered: str, now: str, asked: str, said: bool, taken: int
) -> None:
    shop, prices, found = Shop(), [offered], []

    async def goods(request: Request) -> Response:
        found.append(shop.gate.reduce(request, asked))
        return PlainTextResponse("the goods")

    shop.app.add_route("/goods", shop.gate.paid(lambda request: prices[-1], flow="escrow")(goods))
    async with shop.open():
        proof = await shop.quote("/goods")
        prices.append(now)
        assert (await shop.client.get("/goods", headers=proof)).status_code == 200
        assert (found, shop.ledger.charged_total) == ([said], taken)


async def test_the_lower_amount_survives_a_lost_capture() -> None:
    shop = Shop()
    sell(shop, "0.001 USD", flow="escrow")
    async with shop.open():
        shop.ledger.script("settle", Ending.UNKNOWN_DONE)
        proof = await shop.quote("/goods")
        assert (await shop.client.get("/goods", headers=proof)).status_code == 503
        await shop.gate.reconcile()
        assert (await shop.client.get("/goods", headers=proof)).text == "the goods [True]"
        assert shop.ledger.charged_total == 1000


@pytest.mark.parametrize("flow", ["authorization", "upfront"])
async def test_what_is_not_held_is_taken_whole(flow: str) -> None:
    shop = Shop()
    sell(shop, "0.001 USD", flow=flow)
    async with shop.open():
        assert (await shop.buy("/goods")).text == "the goods [False]"
        assert shop.ledger.charged_total == 3000


async def test_a_rail_that_takes_all_or_nothing() -> None:
    shop = Shop()
    shop.rail.takes_less = False
    sell(shop, "0.001 USD", flow="escrow")
    async with shop.open():
        assert (await shop.buy("/goods")).text == "the goods [False]"
        assert shop.ledger.charged_total == 3000


@pytest.mark.parametrize("reduced", ["0 USD", "0.0030001 USD", "0.001 EUR"])
async def test_what_is_no_lower_price_fails_the_handler(reduced: str) -> None:
    shop = Shop()
    sell(shop, reduced, flow="escrow")
    async with shop.open():
        assert (await shop.buy("/goods")).status_code == 500
        assert (shop.ledger.charged_total, shop.ledger.held) == (0, {})


async def test_too_late_to_ask_less() -> None:
    shop, errors = Shop(), []

    class Late(PlainTextResponse):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            try:
                shop.gate.reduce(Request(scope), "0.001 USD")
            except ConfigurationError as error:
                errors.append(error.detail)
            await send({"type": "http.response.body", "body": b"the goods"})

    async def goods(request: Request) -> Response:
        return Late()

    shop.app.add_route("/goods", shop.gate.paid("0.003 USD", flow="escrow")(goods))
    async with shop.open():
        assert (await shop.buy("/goods")).text == "the goods"
        assert (errors, shop.ledger.charged_total) == (["reduce the price before the response begins"], 3000)


async def test_a_request_that_did_not_pass_the_gate() -> None:
    shop = Shop()
    with pytest.raises(GateNotInstalled):
        shop.gate.reduce(Request({"type": "http"}), "0.001 USD")


async def test_a_free_request_has_nothing_to_reduce() -> None:
    shop = Shop()

    async def goods(request: Request) -> Response:
        return PlainTextResponse(str(shop.gate.reduce(request, "0.001 USD")))

    shop.app.add_route("/goods", shop.gate.paid(lambda request: None)(goods))
    async with shop.open():
        assert (await shop.client.get("/goods")).text == "False"


# --- back


async def test_a_refund_is_made_once() -> None:
    shop = Shop()
    sell(shop, None)
    async with shop.open():
        await shop.buy("/goods")
        charge = await shop.only_charge()
        for _ in range(3):
            assert (await shop.gate.refund(charge.id)).payment is PaymentState.REFUNDED
        assert (shop.ledger.count("refund"), shop.ledger.charged_total) == (1, 0)


@pytest.mark.parametrize(
    ("ending", "state"),
    [(Ending.FAILED, PaymentState.SETTLED), (Ending.UNKNOWN_DONE, PaymentState.UNKNOWN)],
)
async def test_a_refund_that_does_not_go_through(ending: Ending, state: PaymentState) -> None:
    shop = Shop()
    sell(shop, None)
    async with shop.open():
        await shop.buy("/goods")
        charge = await shop.only_charge()
        shop.ledger.script("refund", ending)
        assert (await shop.gate.refund(charge.id)).payment is state
        await shop.gate.reconcile()
        settled = ending is Ending.FAILED
        after = await shop.only_charge()
        assert after.payment is (PaymentState.SETTLED if settled else PaymentState.REFUNDED)
        assert (after.delivery, shop.ledger.charged_total) == (Delivery.STORED, 3000 if settled else 0)


async def test_what_cannot_be_refunded() -> None:
    shop = Shop()
    sell(shop, None)
    async with shop.open():
        with pytest.raises(ConfigurationError, match="there is no charge ch_none"):
            await shop.gate.refund("ch_none")
        shop.ledger.script("settle", Ending.FAILED)
        await shop.buy("/goods")
        charge = await shop.only_charge()
        with pytest.raises(ConfigurationError, match="its payment is rejected"):
            await shop.gate.refund(charge.id)


class NoRefunds(PaymentRail):
    """A rail on which money goes one way."""

    async def offer(self, *args: Any, **kwargs: Any) -> Any: ...

    async def verify(self, *args: Any, **kwargs: Any) -> Any: ...

    async def settle(self, *args: Any, **kwargs: Any) -> Any: ...

    async def lookup(self, *args: Any, **kwargs: Any) -> Any: ...


async def test_a_rail_that_gives_nothing_back() -> None:
    shop = Shop()
    sell(shop, None)
    async with shop.open():
        await shop.buy("/goods")
        shop.gate.services().rails = {"fake": NoRefunds()}
        charge = await shop.only_charge()
        with pytest.raises(ConfigurationError, match="the rail fake gives nothing back"):
            await shop.gate.refund(charge.id)
