"""Which routes cost something: found in every kind of app, reached only through the gate, under any spelling."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException
from fastapi.responses import StreamingResponse
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles

from rail402.errors import ConfigurationError, GateNotInstalled
from rail402.protocol.charge import Charge
from rail402.server.routes import Protected, mark
from rail402.server.settings import Receipts, Rule
from rail402.testing.fakes import Ending
from tests.unit.server.shop import Shop

PRICE = "0.003 USD"


async def goods(request: Request) -> Response:
    return PlainTextResponse("the goods")


async def prices(shop: Shop, *requests: str) -> list[str | int]:
    """Return the price of each request such as `GET /x`, or its status where it has none."""
    found: list[str | int] = []
    for request in requests:
        method, path = request.split()
        answer = await shop.client.request(method, path)
        if answer.status_code == 402 and method != "HEAD":
            found.append(answer.json()["price"])
        else:
            found.append(answer.status_code)
    return found


# --- FastAPI


async def test_fastapi_handlers_of_every_kind() -> None:
    app = FastAPI()
    shop = Shop(app)
    gate = shop.gate

    @app.get("/async/{n}")
    @gate.paid(PRICE)
    async def asynchronous(n: int, q: str = "") -> dict[str, Any]:
        return {"n": n, "q": q}

    @app.get("/sync/{n}")
    @gate.paid(PRICE)
    def synchronous(n: int) -> dict[str, Any]:
        return {"n": n}

    @app.get("/request")
    @gate.paid(PRICE)
    async def with_request(request: Request) -> dict[str, Any]:
        return {"path": request.url.path}

    @app.get("/sync-request")
    @gate.paid(PRICE)
    def sync_with_request(request: Request) -> dict[str, Any]:
        return {"path": request.url.path}

    @app.post("/body")
    @gate.paid(PRICE)
    async def with_body(item: dict[str, int]) -> dict[str, int]:
        return item

    @app.get("/lines")
    @gate.paid(PRICE)
    async def generated() -> AsyncIterator[dict[str, int]]:
        for n in range(2):
            yield {"n": n}

    @app.get("/free")
    async def free() -> dict[str, int]:
        return {}

    async with shop.open():
        assert (await shop.buy("/async/3?q=x")).json() == {"n": 3, "q": "x"}
        assert (await shop.buy("/sync/4")).json() == {"n": 4}
        assert (await shop.buy("/request")).json() == {"path": "/request"}
        assert (await shop.buy("/sync-request")).json() == {"path": "/sync-request"}
        assert (await shop.buy("/body", "POST", json={"a": 1})).json() == {"a": 1}
        assert (await shop.buy("/lines")).text.replace(" ", "").split() == ['{"n":0}', '{"n":1}']
        free_answer = await shop.client.get("/free")
        assert free_answer.status_code == 200
        assert not {"vary", "cache-control", "access-control-expose-headers"} & set(free_answer.headers)
        assert shop.ledger.charged_total == 6 * 3000
        documented = (await shop.client.get("/openapi.json")).json()["paths"]
        assert [one["name"] for one in documented["/async/{n}"]["get"]["parameters"]] == ["n", "q"]


async def test_server_sent_events_of_fastapi() -> None:
    sse = pytest.importorskip("fastapi.sse")
    app = FastAPI()
    shop = Shop(app)

    @app.get("/events", response_class=sse.EventSourceResponse)
    @shop.gate.paid(PRICE)
    async def events() -> AsyncIterator[dict[str, int]]:
        for n in range(3):
            yield {"n": n}

    async with shop.open():
        proof = await shop.quote("/events")
        shop.ledger.script("settle", Ending.NOT_PAID)
        refused = await shop.client.get("/events", headers=proof)
        assert (refused.status_code, refused.json()["code"]) == (402, "not_settled")
        served = await shop.client.get("/events", headers=proof)
        assert served.headers["content-type"].startswith("text/event-stream")
        lines = [line.replace(" ", "") for line in served.text.split("\n") if line]
        assert lines == [f'data:{{"n":{n}}}' for n in range(3)]
        assert served.headers["cache-control"] == "private, no-cache"
        assert shop.ledger.charged_total == 3000


async def test_invalid_parameters_cost_nothing() -> None:
    app = FastAPI()
    shop = Shop(app)

    @app.get("/n/{n}")
    @shop.gate.paid(PRICE, flow="upfront")
    async def number(n: int) -> int:
        return n

    async with shop.open():
        assert (await shop.buy("/n/x")).status_code == 422
        assert shop.ledger.charged_total == 0


async def test_the_charge_is_a_dependency() -> None:
    app = FastAPI()
    shop = Shop(app)
    seen: list[Any] = []

    def price(request: Request) -> str | None:
        return None if "free" in request.query_params else PRICE

    @app.get("/goods")
    @shop.gate.paid(price, flow="upfront")
    async def paid(charge: Charge | None = Depends(shop.gate.charge)) -> str:  # noqa: B008 (FastAPI's form)
        seen.append(charge)
        return "" if charge is None else charge.id

    @app.get("/unpaid")
    async def unpaid(charge: Charge = Depends(shop.gate.charge)) -> None: ...  # noqa: B008

    async with shop.open():
        answer = await shop.buy("/goods")
        assert answer.json() == (await shop.only_charge()).id
        assert seen[0].settled_at is not None
        assert (await shop.client.get("/goods?free")).json() == ""
        assert (await shop.client.get("/unpaid")).status_code == 500


@pytest.mark.parametrize("flow", ["authorization", "escrow", "upfront"])
async def test_dependencies_that_refuse_keep_their_meaning_and_cost_nothing(flow: str) -> None:
    app = FastAPI()
    shop = Shop(app)

    def login(authorization: Annotated[str, Header()] = "") -> None:
        if "Bearer" not in authorization:
            raise HTTPException(401, "log in", headers={"WWW-Authenticate": "Bearer"})
        if "admin" not in authorization:
            raise HTTPException(403, "not you")

    @app.get("/goods", dependencies=[Depends(login)])
    @shop.gate.paid(PRICE, flow=flow)
    async def paid() -> str:
        return "the goods"

    async with shop.open():
        for authorization, status in [("", 401), ("Bearer user", 403), ("Bearer admin", 200)]:
            proof = await shop.quote("/goods", headers={"authorization": authorization})
            answer = await shop.client.get("/goods", headers=proof | {"authorization": authorization})
            assert answer.status_code == status
            assert shop.ledger.charged_total == (3000 if status == 200 else 0)
            if status == 401:
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json() == {"detail": "log in"}


async def test_a_dependency_that_cleans_up_does_so_when_the_money_does_not_come() -> None:
    app, steps = FastAPI(), []
    shop = Shop(app)

    async def connection() -> AsyncIterator[str]:
        steps.append("open")
        try:
            yield "connection"
        finally:
            steps.append("close")

    @app.get("/goods")
    @shop.gate.paid(PRICE)
    async def paid(connection: str = Depends(connection)) -> StreamingResponse:
        return StreamingResponse(iter([connection]))

    async with shop.open():
        proof = await shop.quote("/goods")
        shop.ledger.balances["alice"] = 0
        assert (await shop.client.get("/goods", headers=proof)).status_code == 402
        assert steps == []
        shop.ledger.balances.clear()
        assert (await shop.client.get("/goods", headers=proof)).text == "connection"
        assert steps == ["open", "close"]


# --- routers, mounts, hosts


async def test_an_included_router_and_one_within_it() -> None:
    app, inner, outer = FastAPI(), APIRouter(prefix="/inner"), APIRouter(prefix="/outer")
    shop = Shop(app)

    @inner.get("/goods")
    @shop.gate.paid(PRICE)
    async def paid() -> str:
        return "the goods"

    @inner.get("/listed")
    async def listed() -> str:
        return "the goods"

    @inner.get("/free")
    async def free() -> str:
        return "free"

    inner.add_route("/plain", goods)
    inner.mount("/files", Starlette(routes=[Route("/{name}", goods)]))
    outer.include_router(inner)
    app.include_router(outer, prefix="/v1")
    shop.gate.protect("GET /v1/outer/inner/listed", price="1 USD")
    shop.gate.protect("GET /v1/outer/plain", price="2 USD")  # FastAPI puts a router's own prefix on API routes only
    shop.gate.protect("GET /v1/outer/files/*", price="3 USD")
    paths = [f"/v1/outer/{name}" for name in ("inner/goods", "inner/listed", "plain", "files/a", "inner/free")]
    async with shop.open():
        assert await prices(shop, *(f"GET {path}" for path in paths)) == [PRICE, "1 USD", "2 USD", "3 USD", 200]
        for path in paths[:4]:
            assert "the goods" in (await shop.buy(path)).text
        assert {charge.order.route for charge in await shop.charges()} >= {f"GET {paths[0]}", f"GET {paths[2]}"}


async def test_a_router_that_is_included_twice_is_paid_under_both_paths() -> None:
    app, router = FastAPI(), APIRouter()
    shop = Shop(app)

    @router.get("/goods")
    @shop.gate.paid(PRICE)
    async def paid() -> str:
        return "the goods"

    app.include_router(router, prefix="/a")
    app.include_router(router, prefix="/b")
    async with shop.open():
        for prefix in ("/a", "/b"):
            assert (await shop.buy(f"{prefix}/goods")).json() == "the goods"
        crossed = await shop.client.get("/b/goods", headers=await shop.quote("/a/goods"))
        assert crossed.json()["code"] == "resource_mismatch"


@pytest.mark.parametrize("pattern", ["GET /a/goods", "GET /b/goods"])
async def test_a_pattern_for_one_of_the_paths_of_a_shared_route_is_refused(pattern: str) -> None:
    app, router = FastAPI(), APIRouter()
    shop = Shop(app)

    @router.get("/goods")
    async def shared() -> str:
        return "the goods"

    app.include_router(router, prefix="/a")
    app.include_router(router, prefix="/b")
    shop.gate.protect(pattern, price=PRICE)
    with pytest.raises(ConfigurationError, match="mark it"):
        await shop.gate.start()


async def test_a_pattern_for_all_the_paths_of_a_shared_route() -> None:
    app, router = FastAPI(), APIRouter()
    shop = Shop(app)

    @router.get("/goods")
    async def shared() -> str:
        return "the goods"

    app.include_router(router, prefix="/a")
    app.include_router(router, prefix="/b")
    shop.gate.protect("GET /a/*", price=PRICE)
    shop.gate.protect("GET /b/*", price=PRICE)
    async with shop.open():
        assert await prices(shop, "GET /a/goods", "GET /b/goods") == [PRICE, PRICE]


async def test_mounts_and_hosts_of_every_depth(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("the goods")
    inner = Starlette(routes=[Route("/marked", goods), Route("/listed", goods), Route("/free", goods)])
    app = Starlette(
        routes=[
            Mount("/sub", Starlette(routes=[Mount("/inner", inner)])),
            Mount("/files", StaticFiles(directory=tmp_path)),
            Host("api.example", Router([Route("/by-host", goods)])),
        ]
    )
    shop = Shop(app)
    inner.router.routes[0] = Route("/marked", shop.gate.paid(PRICE)(goods))
    shop.gate.protect("GET /sub/inner/listed", price="1 USD")
    shop.gate.protect("* /files/*", price="2 USD")
    shop.gate.protect("GET /by-host", price="3 USD")
    async with shop.open():
        found = await prices(shop, *(f"GET /sub/inner/{name}" for name in ("marked", "listed", "free")))
        assert found == [PRICE, "1 USD", 200]
        assert await prices(shop, "GET /files/f.txt", "GET /files/../files/f.txt") == ["2 USD", "2 USD"]
        by_host = await shop.client.get("/by-host", headers={"host": "api.example"})
        assert by_host.json()["price"] == "3 USD"
        assert (await shop.buy("/sub/inner/marked")).text == "the goods"
        assert (await shop.buy("/files/f.txt")).text == "the goods"


async def test_a_pattern_over_a_mounted_app_is_one_gate_and_not_two() -> None:
    sub = Starlette(routes=[Route("/goods", goods), Mount("/more", Starlette(routes=[Route("/goods", goods)]))])
    shop = Shop(Starlette(routes=[Mount("/sub", sub)]))
    shop.gate.protect("* /sub/*", price=PRICE)
    async with shop.open():
        for path in ("/sub/goods", "/sub/more/goods"):
            assert (await shop.buy(path)).text == "the goods"


# --- spellings


@pytest.mark.parametrize(
    "path",
    [
        *("/goods", "/goods/", "//goods", "/goods//", "/./goods", "/x/../goods", "/%67oods", "/goods%2f", "/goods%00"),
        *(
            "/goods;x",
            "/goods;x=1",
            "/GOODS",
            "/Goods",
            "/goods?",
            "/goods?x=1",
            "/goods#x",
            "/goods%3f",
            "/goods.json",
        ),
        *("/goods%20", "/%2fgoods", "/goods\\", "/good\u0455", "/goods/../goods", "/%2e/goods", "/goods%5c"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "PUT", "get", "TRACE", "PROPFIND", "GET "])
async def test_no_spelling_of_a_paid_path_is_free(path: str, method: str) -> None:
    shop = Shop()
    shop.app.add_route("/goods", shop.gate.paid(PRICE)(goods), methods=["GET", "POST"])
    async with shop.open():
        wire = await shop.request(path.encode().decode("latin-1"), method).run()
        assert wire.status in (307, 402, 404, 405)
        assert b"the goods" not in wire.body
        assert wire.status != 402 or method in ("GET", "HEAD", "POST")


@pytest.mark.parametrize("path", ["/any/goods", "/any/%67oods", "/any//goods", "/any/goods/", "/any/a%2fb", "/any/a?b"])
async def test_a_path_parameter_gets_what_was_paid_for_and_nothing_else(path: str) -> None:
    shop = Shop()

    async def named(request: Request) -> Response:
        return PlainTextResponse(request.path_params["name"])

    shop.app.add_route("/any/{name:path}", shop.gate.paid(PRICE)(named))
    async with shop.open():
        first = await shop.request(path).run()
        assert first.status == 402
        assert first.json()["resource"]["url"] == "https://shop.example" + path
        proof = await shop.quote("/any/goods")
        answer = await shop.request(path, headers=proof).run()
        assert answer.status == (200 if path == "/any/goods" else 402)


async def test_a_trailing_slash_redirects_without_the_goods() -> None:
    shop = Shop()
    shop.app.add_route("/goods/", shop.gate.paid(PRICE)(goods))
    async with shop.open():
        wire = await shop.request("/goods").run()
        assert (wire.status, wire.body) == (307, b"")
        assert wire.one("location").endswith("/goods/")


async def test_the_wrong_method_is_405_before_any_402() -> None:
    app = FastAPI()
    shop = Shop(app)

    @app.post("/only-post")
    @shop.gate.paid(PRICE)
    async def only_post() -> str:
        return "the goods"

    app.add_route("/only-get", shop.gate.paid(PRICE)(goods))
    async with shop.open():
        assert await prices(shop, "GET /only-post", "PUT /only-post", "DELETE /only-get") == [405, 405, 405]
        assert await prices(shop, "POST /only-post", "HEAD /only-get") == [PRICE, 402]


# --- patterns


async def test_patterns_ask_for_the_methods_they_name() -> None:
    shop = Shop()
    shop.app.add_route("/goods", goods, methods=["GET", "POST", "PUT", "DELETE", "OPTIONS"])
    shop.gate.protect("GET /goods", price="1 USD")
    shop.gate.protect("POST /goods", price="100 USD")
    shop.gate.protect("* /goods", price="7 USD")
    async with shop.open():
        found = await prices(shop, "GET /goods", "HEAD /goods", "POST /goods", "PUT /goods", "DELETE /goods")
        assert found == ["1 USD", 402, "100 USD", "7 USD", "7 USD"]
        cheap = await shop.quote("/goods")
        assert (await shop.client.post("/goods", headers=cheap)).json()["code"] == "resource_mismatch"
        routes = [charge.order.route for charge in await shop.charges()]
        assert routes == []
        await shop.buy("/goods", "POST")
        assert (await shop.only_charge()).order.route == "POST /goods"
        assert (await shop.client.options("/goods")).text == ""


async def test_a_pattern_for_one_method_leaves_the_others_free() -> None:
    shop = Shop()
    shop.app.add_route("/goods", goods, methods=["GET", "POST", "OPTIONS"])
    shop.gate.protect("POST /goods", price=PRICE)
    async with shop.open():
        assert await prices(shop, "GET /goods", "HEAD /goods", "POST /goods") == [200, 200, PRICE]
        assert (await shop.client.options("/goods")).text == ""  # which would give away what POST costs


async def test_an_app_that_names_no_methods_cannot_be_entered_by_another() -> None:
    shop = Shop()

    async def raw(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("the goods")(scope, receive, send)

    shop.app.mount("/raw", raw)
    shop.gate.protect("POST /raw/*", price="2 USD")
    shop.gate.protect("GET /raw/*", price="1 USD")
    async with shop.open():
        found = await prices(shop, *(f"{method} /raw/x" for method in ("POST", "GET", "HEAD", "PUT", "BREW")))
        assert found == ["2 USD", "1 USD", 402, "2 USD", "2 USD"]
        assert "the goods" not in (await shop.client.options("/raw/x")).text


async def test_an_endpoint_class_is_gated_by_method() -> None:
    class Goods(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("the goods")

        async def post(self, request: Request) -> Response:
            return PlainTextResponse("free")

    shop = Shop(Starlette(routes=[Route("/goods", Goods), Route("/get-only", Goods, methods=["GET"])]))
    shop.gate.protect("GET /goods", price=PRICE)
    shop.gate.protect("* /get-only", price=PRICE)
    async with shop.open():
        assert await prices(shop, "GET /goods", "HEAD /goods", "POST /goods", "PUT /goods") == [PRICE, 402, 200, 405]
        assert await prices(shop, "GET /get-only", "POST /get-only") == [PRICE, 405]
        assert (await shop.buy("/goods")).text == "the goods"


@pytest.mark.parametrize(
    ("pattern", "paid"),
    [
        ("GET /a/{slug}", ["/a/x"]),
        ("GET /a/*", ["/a/x", "/a/x/y"]),
        ("GET *", None),
        ("GET /*", ["/a/x", "/a/x/y", "/b", "/[c]"]),
        ("GET /[c]", ["/[c]"]),
        ("GET /?", ["/b"]),
    ],
)
async def test_a_pattern_is_the_path_of_the_route(pattern: str, paid: list[str] | None) -> None:
    shop = Shop()
    for path in ("/a/{slug}", "/a/{slug}/y", "/b", "/[c]"):
        shop.app.add_route(path, goods)
    if paid is None:
        with pytest.raises(ConfigurationError, match="write a method and a path"):
            shop.gate.protect(pattern, price=PRICE)
        return
    shop.gate.protect(pattern, price=PRICE)
    async with shop.open():
        found = {path: (await shop.client.get(path)).status_code for path in ("/a/x", "/a/x/y", "/b", "/[c]")}
        assert [path for path, status in found.items() if status == 402] == paid


@pytest.mark.parametrize("pattern", ["", "/goods", "GET", "GET goods", "get /goods", "FETCH /goods", "GET  /goods"])
def test_what_is_no_pattern_is_refused_at_once(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match="write a method and a path"):
        Shop().gate.protect(pattern, price=PRICE)
    rule = Rule(price=PRICE)
    assert Protected("* /{a}/*", rule).matches(None, "/{a}/b")


@pytest.mark.parametrize("pattern", ["GET /nowhere", "POST /goods", "GET /goods/", "GET /Goods", "GET /goods/*"])
async def test_a_pattern_that_matches_no_route_is_an_error_at_the_start(pattern: str) -> None:
    shop = Shop()
    shop.app.add_route("/goods", goods)
    shop.gate.protect(pattern, price=PRICE)
    with pytest.raises(ConfigurationError, match="no route matches") as raised:
        await shop.gate.start()
    assert pattern in str(raised.value)
    answer = shop.request("/goods")
    with pytest.raises(ConfigurationError):  # and no request is served meanwhile
        await answer.run()
    assert answer.status == 500


async def test_a_pattern_that_an_earlier_one_covers_is_an_error_and_not_a_cheap_route() -> None:
    shop = Shop()
    shop.app.add_route("/reports/dear", goods)
    shop.app.add_route("/reports/cheap", goods)
    shop.gate.protect("* /reports/*", price="0.001 USD")
    shop.gate.protect("GET /reports/dear", price="100 USD")
    with pytest.raises(ConfigurationError, match=r"GET /reports/dear.*earlier pattern"):
        await shop.gate.start()


async def test_the_price_on_the_endpoint_counts_before_any_pattern() -> None:
    shop = Shop()
    shop.app.add_route("/reports/dear", shop.gate.paid("100 USD")(goods))
    shop.app.add_route("/reports/cheap", goods)
    shop.gate.protect("* /reports/*", price="0.001 USD")
    async with shop.open():
        assert await prices(shop, "GET /reports/dear", "GET /reports/cheap") == ["100 USD", "0.001 USD"]


async def test_protecting_after_the_start_is_an_error() -> None:
    shop = Shop()
    shop.app.add_route("/goods", goods)
    async with shop.open():
        with pytest.raises(ConfigurationError, match="before the app starts"):
            shop.gate.protect("GET /goods", price=PRICE)


# --- wiring mistakes


async def test_decorators_in_the_wrong_order_are_an_error_at_the_start() -> None:
    app = FastAPI()
    shop = Shop(app)

    @shop.gate.paid(PRICE)
    @app.get("/goods")
    async def upside_down() -> str:
        return "the goods"

    with pytest.raises(ConfigurationError, match=r"upside_down.*below the route decorator"):
        await shop.gate.start()


async def test_a_decorator_between_the_route_and_the_price_is_fine() -> None:
    app = FastAPI()
    shop = Shop(app)

    def logged(function: Any) -> Any:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        return wrapper

    @app.get("/goods")
    @logged
    @shop.gate.paid(PRICE)
    async def paid() -> str:
        return "the goods"

    class Handlers:
        @shop.gate.paid("1 USD")
        async def method(self, request: Request) -> Response:
            return PlainTextResponse("the goods")

    app.add_route("/method", Handlers().method)
    app.add_route("/partial", functools.partial(shop.gate.paid("2 USD")(partially), extra=1))
    async with shop.open():
        assert await prices(shop, "GET /goods", "GET /method", "GET /partial") == [PRICE, "1 USD", "2 USD"]
        for path in ("/goods", "/method", "/partial"):
            assert "the goods" in (await shop.buy(path)).text


async def partially(request: Request, extra: int) -> Response:
    return PlainTextResponse(f"the goods {extra}")


@pytest.mark.parametrize("synchronous", [True, False])
async def test_a_marked_endpoint_that_is_reached_without_its_gate_raises(synchronous: bool) -> None:
    shop = Shop(install=False)

    def plain(request: Request) -> Response:
        return PlainTextResponse("the goods")

    shop.app.add_route("/goods", shop.gate.paid(PRICE)(plain if synchronous else goods))
    other = Shop(shop.app)  # another gate is on the app, and passes it by
    shop.app.add_route("/other", other.gate.paid(PRICE)(goods))
    async with other.open():
        wire = other.request("/goods")
        with pytest.raises(GateNotInstalled, match="did not pass the gate"):
            await wire.run()
        assert wire.status == 500
        assert b"the goods" not in wire.body
        assert await prices(other, "GET /other") == [PRICE]


async def test_a_route_that_is_added_after_the_start_is_not_served_for_nothing() -> None:
    shop = Shop()
    shop.app.add_route("/goods", shop.gate.paid(PRICE)(goods))
    async with shop.open():
        shop.app.add_route("/late", shop.gate.paid(PRICE)(goods))
        wire = shop.request("/late")
        with pytest.raises(GateNotInstalled):
            await wire.run()
        assert wire.status == 500


async def test_two_gates_on_one_app_ask_for_their_own_routes() -> None:
    first = Shop()
    second = Shop(first.app)
    first.app.add_route("/first", first.gate.paid("1 USD")(goods))
    first.app.add_route("/second", second.gate.paid("2 USD")(goods))
    async with first.open(), second.open():
        assert await prices(first, "GET /first", "GET /second") == ["1 USD", "2 USD"]
        assert (await second.buy("/second")).text == "the goods"
        assert (first.ledger.charged_total, second.ledger.charged_total) == (0, 2_000_000)


@pytest.mark.parametrize("marked", [True, False])
async def test_a_websocket_cannot_have_a_price(marked: bool) -> None:
    shop = Shop()

    async def socket(websocket: Any) -> None: ...

    if marked:
        shop.app.router.routes.append(WebSocketRoute("/ws", shop.gate.paid(PRICE)(socket)))
    else:
        shop.app.router.routes.append(WebSocketRoute("/ws", socket))
        shop.gate.protect("* /ws", price=PRICE)
    with pytest.raises(ConfigurationError, match="websocket"):
        await shop.gate.start()


def test_the_price_goes_on_functions() -> None:
    class Endpoint(HTTPEndpoint):
        pass

    for endpoint in (Endpoint, StaticFiles, functools.partial(goods)):
        with pytest.raises(ConfigurationError, match=r"gate\.protect"):
            mark(endpoint, Rule(price=PRICE))  # type: ignore[type-var]


# --- around the gate


async def test_middleware_of_the_app_works_around_it() -> None:
    middleware = [
        Middleware(CORSMiddleware, allow_origins=["https://web.example"], allow_headers=["*"]),
        Middleware(GZipMiddleware, minimum_size=10),
    ]
    shop = Shop(Starlette(middleware=middleware))

    async def long(request: Request) -> Response:
        return PlainTextResponse("the goods " * 100, headers={"Vary": "Accept-Language"})

    shop.app.add_route("/goods", shop.gate.paid(PRICE)(long))
    origin = {"origin": "https://web.example"}
    async with shop.open():
        preflight = origin | {"access-control-request-method": "GET", "access-control-request-headers": "x-receipt"}
        asked = await shop.client.options("/goods", headers=preflight)
        assert (asked.status_code, asked.headers["access-control-allow-headers"]) == (200, "x-receipt")
        unpaid = await shop.client.get("/goods", headers=origin)
        assert unpaid.headers["access-control-allow-origin"] == "https://web.example"
        assert "PAYMENT-REQUIRED" in unpaid.headers["access-control-expose-headers"]
        proof = await shop.proof(unpaid)
        for _ in range(2):
            paid = await shop.client.get("/goods", headers=proof | origin | {"accept-encoding": "gzip"})
            assert (paid.text, paid.headers["content-encoding"]) == ("the goods " * 100, "gzip")
            vary = paid.headers["vary"]
            for name in ("Accept-Encoding", "Accept-Language", "Authorization", "Origin", "Payment-Signature"):
                assert name in vary
        assert shop.ledger.charged_total == 3000


async def test_a_middleware_that_runs_the_app_in_a_task_of_its_own() -> None:
    async def passing(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["x-passed"] = "1"
        return response

    app = Starlette(middleware=[Middleware(BaseHTTPMiddleware, dispatch=passing)])
    sub = Starlette(middleware=[Middleware(BaseHTTPMiddleware, dispatch=passing)])
    app.mount("/sub", sub)
    shop = Shop(app)
    sub.add_route("/goods", shop.gate.paid(PRICE)(goods))
    async with shop.open():
        proof = await shop.quote("/sub/goods")
        shop.ledger.balances["alice"] = 0
        refused = await shop.client.get("/sub/goods", headers=proof)
        assert (refused.status_code, refused.headers["x-passed"]) == (402, "1")
        shop.ledger.balances.clear()
        assert (await shop.client.get("/sub/goods", headers=proof)).text == "the goods"


async def test_free_routes_are_not_touched() -> None:
    shop = Shop()
    shop.app.add_route("/goods", shop.gate.paid(PRICE, receipt=Receipts(uses=2))(goods))
    shop.app.add_route("/free", goods)
    free = shop.app.router.routes[1]
    async with shop.open():
        assert "handle" not in vars(free)
        answers = await asyncio.gather(*(shop.client.get("/free") for _ in range(3)))
        assert {answer.text for answer in answers} == {"the goods"}
        assert (await shop.client.get("/free", headers={"payment-signature": "junk"})).status_code == 200
