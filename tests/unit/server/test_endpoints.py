"""A rail's own addresses below `/.well-known/rail402/`."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from rail402.errors import ConfigurationError, RailUnavailable
from rail402.protocol.binding import parse_token
from rail402.protocol.charge import Operation, PaymentState
from rail402.protocol.endpoint import (
    MAX_BODY,
    MAX_SIGNED_BODY,
    Desk,
    Endpoint,
    EndpointReply,
    EndpointRequest,
    Signed,
)
from rail402.protocol.offer import Offer
from rail402.server.gate import Gate
from rail402.server.limits import Limits
from rail402.testing.fakes import Ending, FakeLedger, FakeRail, FakeSpec
from tests.unit.server.shop import URL, Shop


class DeskRail(FakeRail):
    """Prepares payments at `fake`, and is told at `fake/hook` what happened."""

    def endpoints(self) -> Mapping[tuple[str, str], Endpoint]:
        return {("GET", "fake"): self.page, ("POST", "fake"): self.prepare, ("POST", "fake/hook"): Signed(self.hook)}

    def pay_path(self, offer: Offer) -> str | None:
        return "fake"

    async def page(self, request: EndpointRequest, desk: Desk) -> EndpointReply:
        envelope = json.loads(base64.urlsafe_b64decode(request.query["offer"] + "=="))
        offer = desk.offer(request.query["dialect"], envelope)
        return EndpointReply(body=f"pay {offer.price} for {request.query['url']}".encode(), media_type="text/plain")

    async def prepare(self, request: EndpointRequest, desk: Desk) -> EndpointReply:
        message = json.loads(request.body)
        offer = desk.offer(message["dialect"], message["offer"])
        assert offer.token is not None
        return EndpointReply.of({"amount": offer.amount, "key": parse_token(offer.token).key, "at": desk.public_url})

    async def hook(self, request: EndpointRequest, desk: Desk) -> EndpointReply:
        message = json.loads(request.body)
        operation = Operation(message["operation"])
        if message["operation"] == "hold":
            raise RailUnavailable("not now", retry_after=7)
        found = await desk.look_up(operation, keys=message.get("keys", []), charge=message.get("charge", ""))
        return EndpointReply.of({"found": found}, status=200 if found else 409)


def make_shop(**options: Any) -> Shop:
    shop = Shop(install=False)
    shop.rail = DeskRail(shop.ledger, FakeSpec())
    settings = {"store": "memory://", "reconcile_seconds": 0, "wait_seconds": 1} | options
    shop.gate = Gate(rails=[shop.rail], public_url=URL, clock=shop.clock, **settings)
    shop.gate.install(shop.app)
    return shop


async def goods(request: Request) -> Response:
    return PlainTextResponse("the goods")


def sell(shop: Shop) -> None:
    shop.app.add_route("/goods", shop.gate.paid("0.003 USD")(goods), methods=["GET", "POST"])


# --- an offer that comes back


async def test_an_offer_comes_back_to_be_prepared() -> None:
    shop = make_shop()
    sell(shop)
    async with shop.open():
        # The request's body is none of the preparation's business: it is checked when the payment is shown.
        challenged = await shop.client.post("/goods", content=b"a body")
        (offer,) = shop.offers(challenged, "mpp")
        message = {"dialect": "mpp", "offer": dict(offer.envelope or {})}
        answers = [await shop.client.post("/.well-known/rail402/fake", json=message) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].json() == answers[1].json()
        assert (answers[0].json()["amount"], answers[0].json()["at"]) == (3000, URL)
        assert answers[0].headers["cache-control"] == "no-store"
        assert await shop.charges() == []


async def test_a_person_gets_a_link_that_holds_the_offer() -> None:
    shop = make_shop()
    sell(shop)
    async with shop.open():
        (offer,) = (await shop.client.get("/goods?id=1&x=%22")).json()["offers"]
        link = urlsplit(offer["pay_url"])
        assert f"{link.scheme}://{link.netloc}{link.path}" == f"{URL}/.well-known/rail402/fake"
        assert parse_qs(link.query)["url"] == [f"{URL}/goods?id=1&x=%22"]
        page = await shop.client.get(offer["pay_url"])
        assert page.text == f"pay 0.003 USD for {URL}/goods?id=1&x=%22"


async def test_what_a_browser_could_not_fetch_has_no_link() -> None:
    shop = make_shop()
    sell(shop)
    async with shop.open():
        (offer,) = (await shop.client.post("/goods", content=b"x")).json()["offers"]
        assert "pay_url" not in offer


async def test_rails_without_a_page_have_no_link() -> None:
    shop = Shop()
    sell(shop)
    async with shop.open():
        (offer,) = (await shop.client.get("/goods")).json()["offers"]
        assert "pay_url" not in offer


def altered(challenge: dict[str, str]) -> dict[str, str]:
    request = json.loads(base64.urlsafe_b64decode(challenge["request"] + "=="))
    request["amount"] = "1"
    return challenge | {"request": base64.urlsafe_b64encode(json.dumps(request).encode()).decode().rstrip("=")}


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        (lambda message: message | {"dialect": "x402-v2"}, 400, "malformed_payment"),
        (lambda message: message | {"dialect": "gopher"}, 400, "malformed_payment"),
        (lambda message: message | {"offer": {}}, 400, "malformed_payment"),
        (lambda message: message | {"offer": {"challenge": {}}}, 400, "malformed_payment"),
        (
            lambda message: message | {"offer": {"challenge": altered(message["offer"]["challenge"])}},
            402,
            "offer_unknown",
        ),
    ],
)
async def test_what_is_no_offer_of_ours_is_refused(change: Any, status: int, code: str) -> None:
    shop = make_shop()
    sell(shop)
    async with shop.open():
        (offer,) = shop.offers(await shop.client.get("/goods"), "mpp")
        message = change({"dialect": "mpp", "offer": dict(offer.envelope or {})})
        answer = await shop.client.post("/.well-known/rail402/fake", json=message)
        assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_an_expired_offer_is_not_prepared() -> None:
    shop = make_shop()
    sell(shop)
    async with shop.open():
        (offer,) = shop.offers(await shop.client.get("/goods"), "mpp")
        shop.clock.advance(offer.expires_at - shop.clock() + 1)
        message = {"dialect": "mpp", "offer": dict(offer.envelope or {})}
        answer = await shop.client.post("/.well-known/rail402/fake", json=message)
        assert (answer.status_code, answer.json()["code"]) == (402, "offer_expired")


# --- hints from outside


async def test_a_hint_makes_the_lookup_come_at_once() -> None:
    shop = make_shop()
    sell(shop)
    async with shop.open():
        shop.ledger.script("settle", Ending.UNKNOWN_DONE)
        assert (await shop.buy("/goods")).status_code == 503
        charge = await shop.only_charge()
        assert charge.payment is PaymentState.UNKNOWN
        other = {"operation": "refund", "charge": charge.id}
        assert (await shop.client.post("/.well-known/rail402/fake/hook", json=other)).json() == {"found": True}
        assert (await shop.only_charge()).payment is PaymentState.UNKNOWN, "it was not being refunded"
        hint = {"operation": "settle", "charge": charge.id}
        for _ in range(2):
            assert (await shop.client.post("/.well-known/rail402/fake/hook", json=hint)).json() == {"found": True}
        assert ((await shop.only_charge()).payment, shop.ledger.count("lookup")) == (PaymentState.SETTLED, 1)


@pytest.mark.parametrize("ending", [Ending.NOT_PAID, Ending.PENDING])
async def test_a_hint_is_no_evidence(ending: Ending) -> None:
    shop = make_shop()
    sell(shop)
    async with shop.open():
        shop.ledger.script("settle", Ending.UNKNOWN_NOT_DONE)
        await shop.buy("/goods")
        charge = await shop.only_charge()
        shop.ledger.script("lookup", ending)
        await shop.client.post("/.well-known/rail402/fake/hook", json={"operation": "settle", "keys": charge.keys})
        expected = PaymentState.RELEASED if ending is Ending.NOT_PAID else PaymentState.UNKNOWN
        assert ((await shop.only_charge()).payment, shop.ledger.charged_total) == (expected, 0)


async def test_a_hint_about_nothing_we_know_is_to_come_again() -> None:
    shop = make_shop()
    async with shop.open():
        hint = {"operation": "settle", "charge": "ch_none"}
        assert (await shop.client.post("/.well-known/rail402/fake/hook", json=hint)).status_code == 409


async def test_a_refund_that_was_made_elsewhere_is_found() -> None:
    shop = make_shop()
    sell(shop)
    async with shop.open():
        proof = await shop.quote("/goods")
        assert (await shop.client.get("/goods", headers=proof)).status_code == 200
        charge = await shop.only_charge()
        hint = {"operation": "refund", "charge": charge.id}
        await shop.client.post("/.well-known/rail402/fake/hook", json=hint)
        assert (await shop.only_charge()).payment is PaymentState.SETTLED, "nothing was refunded"
        assert (await shop.client.get("/goods", headers=proof)).status_code == 200
        (key,) = shop.ledger.charged
        shop.ledger.refund(key)
        await shop.client.post("/.well-known/rail402/fake/hook", json=hint)
        assert (await shop.only_charge()).payment is PaymentState.REFUNDED
        replayed = await shop.client.get("/goods", headers=proof)
        assert (replayed.status_code, replayed.json()["code"]) == (402, "refunded")


# --- the addresses themselves


async def test_an_error_of_an_endpoint_is_its_answer() -> None:
    shop = make_shop()
    async with shop.open():
        answer = await shop.client.post("/.well-known/rail402/fake/hook", json={"operation": "hold"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
        assert answer.json()["code"] == "rail_unavailable"
        assert (await shop.client.put("/.well-known/rail402/fake")).status_code == 405


@pytest.mark.parametrize(("path", "most"), [("fake", MAX_BODY), ("fake/hook", MAX_SIGNED_BODY)])
async def test_a_body_has_a_bound_of_its_own_whatever_a_paid_route_takes(path: str, most: int) -> None:
    shop = make_shop(max_body=1)
    async with shop.open():
        address = f"/.well-known/rail402/{path}"
        message = json.dumps({"operation": "hold", "dialect": "gopher", "offer": {}}).encode()
        fits = await shop.client.post(address, content=message.ljust(most))
        assert fits.status_code in (400, 503)
        large = await shop.client.post(address, content=message.ljust(most + 1))
        assert (large.status_code, large.json()["code"]) == (413, "body_too_large")


# --- how often


HOOK, PAGE, RECEIPT = "fake/hook", "fake?dialect=mpp&offer=e30", "receipts/ch_" + "a" * 26


async def asked(shop: Shop, method: str, path: str, times: int, **fields: str) -> list[int]:
    """Ask one address so many times, and return what it answered."""
    message = {"operation": "hold", "dialect": "gopher", "offer": {}}
    content = json.dumps(message).encode() if method == "POST" else None
    url = f"/.well-known/rail402/{path}"
    return [(await shop.client.request(method, url, content=content, headers=fields)).status_code for _ in range(times)]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", PAGE, 400), ("POST", "fake", 400), ("GET", RECEIPT, 404), ("HEAD", RECEIPT, 404)],
)
async def test_one_client_asks_an_address_so_often_and_no_more(method: str, path: str, status: int) -> None:
    shop = make_shop(limits=Limits(addresses="3/m"))
    async with shop.open():
        assert await asked(shop, method, path, 5) == [status, status, status, 429, 429]
        refused = await shop.client.get(f"/.well-known/rail402/{RECEIPT}")
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert int(refused.headers["retry-after"]) >= 1
        shop.clock.advance(int(refused.headers["retry-after"]))
        assert await asked(shop, method, path, 1) == [status]


async def test_all_addresses_of_one_client_count_together_and_each_of_all_clients() -> None:
    proxied = Limits(addresses="4/m", route_addresses="6/m", trusted_proxies=["127.0.0.0/8"])
    shop = make_shop(limits=proxied)
    async with shop.open():
        mine, other, third = ({"x-forwarded-for": f"192.0.2.{number}"} for number in range(3))
        assert await asked(shop, "GET", RECEIPT, 2, **mine) == [404, 404]
        assert await asked(shop, "GET", PAGE, 3, **mine) == [400, 400, 429]
        assert await asked(shop, "GET", RECEIPT, 4, **other) == [404] * 4
        assert await asked(shop, "GET", RECEIPT, 1, **third) == [429]
        assert await asked(shop, "GET", PAGE, 1, **third) == [400]


async def test_what_is_signed_or_published_is_not_counted() -> None:
    shop = make_shop(limits=Limits(addresses="1/m", route_addresses="1/m"))
    async with shop.open():
        assert await asked(shop, "POST", HOOK, 5) == [503] * 5
        assert await asked(shop, "GET", "jwks.json", 5) == [200] * 5
        assert await asked(shop, "GET", "nothing", 5) == [404] * 5
        assert await asked(shop, "GET", RECEIPT, 1) == [404]


async def test_without_limits_no_address_is_counted() -> None:
    shop = make_shop(limits=None)
    async with shop.open():
        assert set(await asked(shop, "GET", RECEIPT, 301)) == {404}


async def test_two_rails_cannot_have_one_address() -> None:
    ledger = FakeLedger()
    second = DeskRail(ledger, FakeSpec(name="other"))
    gate = Gate(rails=[DeskRail(ledger, FakeSpec()), second], public_url=URL, store="memory://")
    with pytest.raises(ConfigurationError, match="GET fake"):
        await gate.start()
