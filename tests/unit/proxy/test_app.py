"""The proxy behind its gate: what is sold, what is free, what is refused, and what is said about it."""

from __future__ import annotations

import logging
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from rail402.errors import ConfigurationError, GateNotInstalled
from rail402.proxy.app import ProxyApp
from rail402.proxy.forwarder import Upstream
from rail402.server.settings import Receipts
from tests.unit.proxy.played import TO, answer, proxied
from tests.unit.server.shop import Shop, Wire


async def test_what_is_sold_is_sold_and_what_is_free_is_free() -> None:
    shop, upstream = proxied("GET /article/{slug}", "POST /summarise", free=("GET /article/about",))
    async with shop.open():
        for path in ("/article/402", "/article/a%20b"):
            quoted = await shop.client.get(path)
            assert (quoted.status_code, quoted.json()["price"]) == (402, "0.003 USD")
            assert (await shop.buy(path)).content == b"the goods"
        assert (await shop.client.get("/article/about")).content == b"the goods"
        assert (await shop.buy("/summarise", "POST", content=b"x")).status_code == 200
        assert {charge.order.route for charge in await shop.charges()} == {"GET /article/{slug}", "POST /summarise"}
        assert {charge.order.url for charge in await shop.charges()} >= {"https://shop.example/article/a%20b"}
    assert len(upstream.asked) == 4


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/other", 404, "not_served"),
        ("POST", "/article/402", 405, "method_not_served"),
        ("GET", "/ARTICLE/402", 400, "ambiguous_path"),
        ("GET", "//article/402", 400, "ambiguous_path"),
        ("TRACE", "/article/402", 501, "method_not_forwarded"),
    ],
)
async def test_what_is_refused_never_reaches_upstream(method: str, path: str, status: int, code: str) -> None:
    shop, upstream = proxied("GET /article/{slug}")
    async with shop.open():
        wire = await shop.request(path, method).run()
    assert (wire.status, wire.json()["status"], wire.json()["code"]) == (status, status, code)
    assert (wire.one("content-type"), wire.one("cache-control")) == ("application/problem+json", "no-store")
    assert wire.all("allow") == (["GET, HEAD, OPTIONS"] if status == 405 else [])
    assert upstream.asked == []


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "x_http_method_override", "X.HTTP.Method"])
async def test_a_method_is_not_overridden(name: str) -> None:
    shop, upstream = proxied("GET /x", free=("POST /x",))
    async with shop.open():
        answered = await shop.client.post("/x", headers={name: "GET"})
    assert (answered.status_code, answered.json()["code"]) == (400, "method_override")
    assert upstream.asked == []


async def test_options_of_what_is_sold_never_reach_upstream() -> None:
    shop, upstream = proxied("GET /x", "* /all")
    fields = {"origin": "https://web.example", "access-control-request-method": "GET"}
    async with shop.open():
        for path, allow in (("/x", ["GET, HEAD, OPTIONS"]), ("/all", [])):
            wire = await shop.request(path, "OPTIONS", headers=fields).run()
            assert (wire.status, wire.body, wire.all("allow"), wire.all("location")) == (204, b"", allow, [])
    assert upstream.asked == []


async def test_a_free_pattern_lets_the_service_answer_preflights() -> None:
    shop, upstream = proxied("GET /x", free=("OPTIONS /*",))
    upstream.play = lambda asked: answer(status=204, headers=[("Access-Control-Allow-Origin", "https://web.example")])
    async with shop.open():
        wire = await shop.request("/x", "OPTIONS").run()
        assert (wire.status, wire.one("access-control-allow-origin")) == (204, "https://web.example")
        assert (await shop.client.get("/x")).status_code == 402
    assert [asked.method for asked in upstream.asked] == ["OPTIONS"]


async def test_head_costs_what_get_costs() -> None:
    shop, upstream = proxied("GET /x")
    async with shop.open():
        assert (await shop.client.head("/x")).status_code == 402
    assert upstream.asked == []


async def test_a_pass_is_good_for_as_many_requests_as_it_says() -> None:
    shop, upstream = proxied("GET /x/{n}", protect={"receipt": Receipts(uses=2)})
    async with shop.open():
        proof = await shop.quote("/x/1")
        statuses = [(await shop.client.get(f"/x/{n}", headers=proof)).status_code for n in (1, 2, 3)]
    assert statuses == [200, 200, 402]
    assert len(upstream.asked) == 2


@pytest.mark.parametrize("path", ["/free", "/x", "/other"])
async def test_websockets_are_not_forwarded(path: str) -> None:
    shop, upstream = proxied("GET /x", free=("GET /free",), unmatched="pass")
    async with shop.open():
        asked = await shop.client.get(path, headers={"Connection": "Upgrade", "Upgrade": "WebSocket"})
        assert (asked.status_code, asked.json()["code"]) == (501, "websocket_not_forwarded")
        wire = Wire(shop.app, path, scope={"type": "websocket"})
        await wire.run()
    assert [message["type"] for message in wire.sent] == ["websocket.close"]
    assert upstream.asked == []


async def test_the_gate_s_own_addresses_are_the_gate_s() -> None:
    shop, upstream = proxied("GET /x", unmatched="pass")
    upstream.play = lambda asked: answer(b"upstream's own", status=404 if asked.target == b"/llms.txt" else 200)
    async with shop.open():
        assert (await shop.client.get("/.well-known/rail402/jwks.json")).json()["keys"]
        assert upstream.asked == []
        assert "`GET /x` costs 0.003 USD" in (await shop.client.get("/llms.txt")).text
        assert (await shop.client.get("/openapi.json")).text == "upstream's own"


@pytest.mark.parametrize("own", [True, False])
async def test_an_answer_has_one_date(own: bool) -> None:
    shop, upstream = proxied("GET /x", free=("GET /free",))
    said = [("Date", "Sun, 06 Nov 1994 08:49:37 GMT")] if own else []
    upstream.play = lambda asked: answer(headers=[*said, ("Content-Length", "0")])
    async with shop.open():
        (date,) = (await shop.request("/free").run()).all("date")
        (refused,) = (await shop.request("/x").run()).all("date")
        expected = 784111777 if own else shop.clock()
        assert parsedate_to_datetime(date).timestamp() == expected
        assert parsedate_to_datetime(refused).timestamp() == shop.clock()


async def test_a_line_a_request_without_what_is_nobody_s_business(caplog: pytest.LogCaptureFixture) -> None:
    shop, _ = proxied("GET /x", free=("GET /free",))
    with caplog.at_level(logging.INFO, "rail402.proxy"):
        async with shop.open():
            await shop.client.get("/free?token=secret")
            await shop.buy("/x")
            await shop.request("/x", scope={"raw_path": b"/a%0ab\nc"}).run()
            charge = await shop.only_charge()
    lines = [record.getMessage() for record in caplog.records if record.name == "rail402.proxy"]
    assert lines == ["GET /free 200", "GET /x 402", f"GET /x 200 {charge.id}; payment=settled", "GET /a%0ab c 400"]


async def test_a_lifespan_opens_the_gate_and_closes_everything() -> None:
    shop, upstream = proxied("GET /x")
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[Any] = []
    open_between: list[bool] = []

    async def receive() -> Any:
        open_between.append(shop.gate.started)
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await shop.app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert (open_between, shop.gate.started, upstream.closed) == ([False, True], False, True)


async def test_it_is_opened_and_closed_by_hand_too() -> None:
    shop, upstream = proxied("GET /x")
    async with shop.app as app:
        assert shop.gate.started
        assert (await Wire(app, "/x").run()).status == 402
    assert (shop.gate.started, upstream.closed) == (False, True)


@pytest.mark.parametrize(
    ("protected", "priced"),
    [
        (["GET /docs/*", "GET /docs/{id}"], ["GET /docs/*", "GET /docs/{id}"]),
        (["GET /x", "GET /y"], ["GET /x"]),
        (["GET /x", "GET /x"], ["GET /x", "GET /x"]),
    ],
)
async def test_a_price_that_nobody_would_ever_be_asked_is_a_mistake(protected: list[str], priced: list[str]) -> None:
    shop = Shop(install=False)
    for pattern in protected:
        shop.gate.protect(pattern, price="0.003 USD")
    app = ProxyApp(shop.gate, Upstream(to=TO), priced=priced)
    with pytest.raises(ConfigurationError, match="no route matches"):
        async with app:
            pass


async def test_a_pattern_without_a_price_is_not_had_for_nothing() -> None:
    shop = Shop(install=False)
    app = ProxyApp(shop.gate, Upstream(to=TO), priced=["GET /x"])
    async with app:
        for method in ("GET", "HEAD", "OPTIONS"):
            with pytest.raises(GateNotInstalled, match="/x is for sale"):
                await Wire(app, "/x", method).run()
