"""The 402: every offer in every dialect at once, and refusals that invite nobody to pay again."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from rail402.dialects._base64_json import from_base64
from rail402.errors import RailUnavailable
from rail402.protocol.offer import Flow
from rail402.protocol.order import Order
from rail402.rates import FixedRates
from rail402.server.answers import MAX_CHALLENGE_BYTES
from rail402.server.challenge import _kept
from rail402.server.gate import Gate
from rail402.testing.fakes import Ending, FakeRail, FakeSpec
from tests.unit.server.shop import URL, Shop


async def goods(request: Request) -> Response:
    return PlainTextResponse("the goods")


def shop_with(rails: list[FakeSpec], *, price: str = "0.003 USD", terms: Any = None, **options: Any) -> Shop:
    """Return a shop with these rails, and the goods at that price."""
    shop = Shop(install=False)
    made = [FakeRail(shop.ledger, spec) for spec in rails]
    defaults = {"store": "memory://", "reconcile_seconds": 0, "clock": shop.clock}
    shop.gate = Gate(rails=made, public_url=URL, **(defaults | options))
    shop.rail = made[0]
    shop.gate.install(shop.app)
    shop.app.add_route("/goods", shop.gate.paid(price, **(terms or {}))(goods), methods=["GET", "POST"])
    return shop


def accepts(answer: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = from_base64(answer.headers["payment-required"], field="x")["accepts"]
    return found


async def test_every_rail_in_every_dialect_at_once_in_the_publishers_order() -> None:
    shop = shop_with([FakeSpec("one"), FakeSpec("two", style="invoice")])
    async with shop.open():
        answer = await shop.client.get("/goods")
        assert answer.status_code == 402
        assert [entry["network"] for entry in accepts(answer)] == ["fake:one", "fake:two"]
        lines = answer.headers.get_list("www-authenticate")
        marks = ("L402 macaroon=", 'method="one"', 'method="two"')
        assert [mark in line for mark, line in zip(marks, lines, strict=True)] == [True] * 3
        body = answer.json()
        assert [offer["rail"] for offer in body["offers"]] == ["one", "two"]
        assert (body["type"], body["payment"]["network"]) == (
            "x402",
            "fake:two",
        )  # there is room for one: for the preimage
        assert (body["price"], body["code"], body["resource"]["url"]) == (
            "0.003 USD",
            "payment_required",
            f"{URL}/goods",
        )
        assert body["offers"][0]["expires_at"] == shop.clock() + 600
        assert len({entry["extra"]["token"] for entry in accepts(answer)}) == 2


async def test_the_route_chooses_its_rails_and_their_order() -> None:
    specs = [FakeSpec("one"), FakeSpec("two"), FakeSpec("three")]
    shop = shop_with(specs, terms={"rails": ["three", "one"]})
    async with shop.open():
        assert [entry["network"] for entry in accepts(await shop.client.get("/goods"))] == ["fake:three", "fake:one"]


@pytest.mark.parametrize("flow", [None, *Flow])
async def test_the_flow_is_the_routes_where_the_rail_has_it(flow: Flow | None) -> None:
    shop = shop_with([FakeSpec("one"), FakeSpec("two", style="invoice")], terms={"flow": flow})
    async with shop.open():
        flows = [entry["extra"]["paymentFlow"] for entry in accepts(await shop.client.get("/goods"))]
        assert flows == [flow or "authorization", "upfront"]


async def test_nothing_is_written_for_an_unpaid_402_but_an_invoice() -> None:
    for spec, rows in [(FakeSpec("signed"), 0), (FakeSpec("invoice", style="invoice"), 1)]:
        shop = shop_with([spec])
        async with shop.open():
            await shop.client.get("/goods")
            issued = [await shop.gate.services().store.issued(key) for key in shop.ledger.invoices]
            assert [row is not None for row in issued] == [True] * rows
            assert await shop.charges() == []


async def test_when_too_many_invoices_are_unpaid_that_rail_is_not_offered() -> None:
    shop = shop_with([FakeSpec("signed"), FakeSpec("invoice", style="invoice")], issued_capacity=2)
    async with shop.open():
        rails = [[offer["rail"] for offer in (await shop.client.get("/goods")).json()["offers"]] for _ in range(3)]
        assert rails == [["signed", "invoice"], ["signed", "invoice"], ["signed"]]
        shop.clock.advance(601)
        assert len((await shop.client.get("/goods")).json()["offers"]) == 2


async def test_a_rail_that_is_down_does_not_take_the_others_away() -> None:
    shop = shop_with([FakeSpec("one"), FakeSpec("two")])
    async with shop.open():

        async def down(*_: Any) -> Any:
            raise RailUnavailable("down")

        shop.rail.offer = down  # type: ignore[method-assign]
        answer = await shop.client.get("/goods")
        assert (answer.status_code, [entry["network"] for entry in accepts(answer)]) == (402, ["fake:two"])


async def test_an_offer_is_made_again_only_where_it_is_ours_for_this_order() -> None:
    shop = shop_with([FakeSpec("invoice", style="invoice")])
    async with shop.open():
        services, now = shop.gate.services(), shop.clock()
        (read,) = shop.offers(await shop.client.get("/goods"))
        order = Order(method="GET", url=f"{URL}/goods", route="GET /goods")
        offer = services.offer_keys.issue(read.model_copy(update={"expires_at": now + 600}), order, bytes(16))
        request: Any = SimpleNamespace(order=order)
        kept = _kept(services, request, offer, now)
        assert kept is not None
        assert (kept.token, kept.dialect, kept.envelope) == (offer.token, None, None)
        altered = offer.model_copy(update={"amount": offer.amount - 1})
        other: Any = SimpleNamespace(order=order.model_copy(update={"url": f"{URL}/other"}))
        assert _kept(services, request, altered, now) is None
        assert _kept(services, other, offer, now) is None
        assert _kept(services, request, offer, now + 300) is not None
        assert _kept(services, request, offer, now + 301) is None


async def test_prices_are_converted_and_rounded_up() -> None:
    lightning = FakeSpec("sats", currency="BTC", exponent=11, step=1000)
    rates = FixedRates({"BTC/USD": "60000"})
    shop = shop_with([FakeSpec("usd"), lightning], price="0.01 USD", rates=rates)
    async with shop.open():
        answer = await shop.client.get("/goods")
        assert [entry["amount"] for entry in accepts(answer)] == ["10000", "17000"]
        assert [offer["price"] for offer in answer.json()["offers"]] == ["0.01 USD", "17 sat"]


async def test_a_rail_without_a_rate_is_not_offered() -> None:
    shop = shop_with([FakeSpec("usd"), FakeSpec("sats", currency="BTC", exponent=11)])
    async with shop.open():
        assert [entry["network"] for entry in accepts(await shop.client.get("/goods"))] == ["fake:usd"]


async def test_problem_json_for_who_asks_for_it() -> None:
    shop = shop_with([FakeSpec()], terms={"description": "One article"})
    accept = {"accept": "text/html, application/PROBLEM+json;q=0.9"}
    async with shop.open():
        answer = await shop.client.get("/goods", headers=accept)
        assert (answer.status_code, answer.headers["content-type"]) == (402, "application/problem+json")
        body = answer.json()
        assert (body["status"], body["type"]) == (402, "https://paymentauth.org/problems/payment-required")
        assert body["resource"] == {"url": f"{URL}/goods", "description": "One article"}
        assert accepts(answer)
        proof = await shop.proof(answer)
        shop.ledger.script("verify", Ending.UNAVAILABLE)
        refused = await shop.client.get("/goods", headers=proof | accept)
        assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
        assert refused.json()["status"] == 503


async def test_a_refusal_without_a_challenge_says_when_to_come_back() -> None:
    shop = shop_with([FakeSpec()])
    async with shop.open():
        proof = await shop.quote("/goods")
        shop.ledger.script("verify", Ending.UNAVAILABLE)
        answer = await shop.client.get("/goods", headers=proof)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.headers["cache-control"] == "no-store"
        assert not {"payment-required", "www-authenticate"} & set(answer.headers)
        assert "offers" not in answer.json()
        malformed = await shop.client.get("/goods", headers={"payment-signature": "junk"})
        assert (malformed.status_code, "retry-after" in malformed.headers) == (400, False)


async def test_a_payment_that_was_refused_is_told_why_with_the_fresh_challenge() -> None:
    shop = shop_with([FakeSpec()])
    async with shop.open():
        proof = await shop.quote("/goods")
        shop.ledger.balances["alice"] = 1
        answer = await shop.client.get("/goods", headers=proof)
        assert (answer.status_code, answer.json()["code"]) == (402, "insufficient_funds")
        assert answer.json()["error"] == "the balance is too small"
        assert from_base64(answer.headers["payment-required"], field="x")["error"] == "insufficient_funds"


@pytest.mark.parametrize("text", ['"quotes" and \\', "line\r\nbreak\x00", "日本語 ü", "<script>"])
async def test_a_description_of_any_text_stays_text(text: str) -> None:
    shop = shop_with([FakeSpec()], terms={"description": text})
    async with shop.open():
        wire = await shop.request("/goods").run()
        assert wire.json()["resource"]["description"] == text
        for message in wire.sent:
            for _, value in message.get("headers", ()):
                assert not set(b"\r\n\x00") & set(value)
        assert wire.one("content-type") == "application/json"


async def test_the_clients_preference_orders_and_leaves_out_mpp_s_offers() -> None:
    shop = shop_with([FakeSpec("one"), FakeSpec("two"), FakeSpec("three")])
    async with shop.open():
        answer = await shop.client.get("/goods", headers={"Accept-Payment": "two/charge, */charge;q=0.5, one/*;q=0"})
        lines = answer.headers.get_list("www-authenticate")
        assert [line.split('method="')[1].split('"')[0] for line in lines] == ["two", "three"]
        assert [entry["network"] for entry in accepts(answer)] == ["fake:one", "fake:two", "fake:three"]


async def test_the_402_of_a_head_has_the_offers_in_its_fields() -> None:
    shop = shop_with([FakeSpec()])
    async with shop.open():
        answer = await shop.client.head("/goods")
        assert accepts(answer)


def challenge_lines(answer: Any) -> list[tuple[str, str]]:
    fields = [(name.decode(), value.decode()) for name, value in answer.headers.raw]
    return [(name, value) for name, value in fields if name.lower() in ("payment-required", "www-authenticate")]


def size(lines: list[tuple[str, str]]) -> int:
    return sum(len(name) + len(value) + 4 for name, value in lines)


async def test_a_description_leaves_the_fields_before_any_offer_does() -> None:
    shop = shop_with([FakeSpec("one"), FakeSpec("two", style="invoice")], terms={"description": "word " * 500})
    async with shop.open():
        answer = await shop.client.get("/goods")
        lines = challenge_lines(answer)
        schemes = [value.partition(" ")[0] for name, value in lines if name.lower() == "www-authenticate"]
        assert schemes == ["L402", "Payment", "Payment"]
        assert size(lines) <= MAX_CHALLENGE_BYTES
        assert all("word" not in value for _, value in lines)
        assert "description" not in from_base64(answer.headers["payment-required"], field="x")["resource"]
        assert answer.json()["resource"]["description"] == "word " * 500


async def test_what_is_too_large_loses_its_last_lines(caplog: pytest.LogCaptureFixture) -> None:
    shop = shop_with([FakeSpec(f"rail{number}", style="invoice") for number in range(9)])
    async with shop.open():
        answer = await shop.client.get("/goods")
        lines = challenge_lines(answer)
        methods = [value.split('method="')[1].split('"')[0] for _, value in lines[1:]]
        assert 0 < len(methods) < 9
        assert methods == [f"rail{number}" for number in range(len(methods))]
        assert len(accepts(answer)) == 9
        assert size(lines) <= MAX_CHALLENGE_BYTES < size(lines) + 700
        assert "left out" in caplog.text
        (entry, *_) = answer.json()["accepts"]
        assert entry["network"] == "fake:rail0"


async def test_one_line_stays_however_large_it_is() -> None:
    shop = shop_with([FakeSpec(f"rail{number}") for number in range(30)])
    async with shop.open():
        lines = challenge_lines(await shop.client.get("/goods"))
        assert [name for name, _ in lines] == ["PAYMENT-REQUIRED"]
        assert size(lines) > MAX_CHALLENGE_BYTES


async def test_all_fields_together_fit_what_common_proxies_buffer() -> None:
    shop = shop_with([FakeSpec("one"), FakeSpec("two"), FakeSpec("three", style="invoice")])
    async with shop.open():
        wire = await shop.request("/goods?" + "q" * 200).run()
        lines = wire.sent[0]["headers"]
        assert sum(len(name) + len(value) + 4 for name, value in lines) <= 7 * 1024
        assert json.loads(wire.body)
