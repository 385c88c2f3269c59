"""OPTIONS of what is sold: the gate answers, and nothing that is paid for runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

from tests.unit.server.shop import Shop

PREFLIGHT = {"origin": "https://web.example", "access-control-request-method": "GET"}
CORS = Middleware(CORSMiddleware, allow_origins=["https://web.example"])


class Goods:
    """An ASGI app that does the same whatever the method; it writes down what it did."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.ran.append(scope["method"])
        fields = {"X-Answer": "42", "Access-Control-Allow-Origin": "*"}
        await RedirectResponse("https://cdn.example/?signature=1", headers=fields)(scope, receive, send)


def in_every_way(goods: Goods) -> Mapping[str, Any]:
    """Routes that give the goods away to any method, by their paths."""
    return {
        "/route": Route("/route", goods),
        "/mount/x": Mount("/mount", goods),
        "/cors/x": Mount("/cors", CORSMiddleware(goods, allow_origins=["https://web.example"])),
        "/layers/x": Mount("/layers", goods, middleware=[Middleware(GZipMiddleware), CORS]),
        "/inner": Route("/inner", goods, methods=["GET", "OPTIONS"], middleware=[CORS]),
    }


@pytest.mark.parametrize("fields", [{}, PREFLIGHT, {"origin": "https://web.example"}], ids=["plain", "preflight", "no"])
async def test_no_app_is_entered_by_options(fields: dict[str, str]) -> None:
    goods = Goods()
    ways = in_every_way(goods)
    shop = Shop(Starlette(routes=list(ways.values())))
    for path in ways:
        shop.gate.protect(f"* {path[:-1]}*", price="1 USD")
    async with shop.open():
        for path in ways:
            wire = await shop.request(path, "OPTIONS", headers=fields).run()
            assert wire.status in (200, 204)
            assert (wire.all("location"), wire.all("x-answer")) == ([], [])
            assert (await shop.client.get(path)).status_code == 402
    assert goods.ran == []


async def test_cors_middleware_inside_a_route_answers_preflights() -> None:
    ways = in_every_way(Goods())
    shop = Shop(Starlette(routes=list(ways.values())))
    for path in ways:
        shop.gate.protect(f"* {path[:-1]}*", price="1 USD")
    async with shop.open():
        for path in ("/cors/x", "/layers/x", "/inner"):
            allowed = await shop.client.options(path, headers=PREFLIGHT)
            assert allowed.headers["access-control-allow-origin"] == "https://web.example"
            refused = await shop.client.options(path, headers=PREFLIGHT | {"origin": "https://other.example"})
            assert "access-control-allow-origin" not in refused.headers
        for path in ("/route", "/mount/x"):
            assert "access-control-allow-origin" not in (await shop.client.options(path, headers=PREFLIGHT)).headers


async def test_cors_middleware_outside_goes_on_working() -> None:
    goods = Goods()
    shop = Shop(Starlette(routes=[Mount("/mount", goods)], middleware=[CORS]))
    shop.gate.protect("* /mount/*", price="1 USD")
    async with shop.open():
        preflight = await shop.client.options("/mount/x", headers=PREFLIGHT)
        assert (preflight.status_code, preflight.headers["access-control-allow-methods"]) == (200, "GET")
        plain = await shop.client.options("/mount/x", headers={"origin": "https://web.example"})
        assert (plain.status_code, plain.headers["access-control-allow-origin"]) == (204, "https://web.example")
    assert goods.ran == []


async def test_code_for_options_alone_answers_for_itself() -> None:
    class Endpoint(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("the goods")

        async def options(self, request: Request) -> Response:
            return PlainTextResponse("mine", headers={"Allow": "GET"})

    app = FastAPI()
    app.add_route("/class", Endpoint)
    app.add_route("/two", _get, methods=["GET"])
    app.add_route("/two", _options, methods=["OPTIONS"])
    shop = Shop(app)
    for path in ("/class", "/two"):
        shop.gate.protect(f"* {path}", price="1 USD")
    async with shop.open():
        for path in ("/class", "/two"):
            assert (await shop.client.options(path)).text == "mine"
            assert (await shop.client.get(path)).status_code == 402


async def test_a_price_on_it_is_another_matter() -> None:
    app = FastAPI()
    shop = Shop(app)
    app.add_route("/paid", shop.gate.paid("1 USD")(_options), methods=["OPTIONS"])
    async with shop.open():
        answer = await shop.client.options("/paid")
        assert (answer.status_code, answer.text, answer.headers["allow"]) == (204, "", "OPTIONS")


async def _get(request: Request) -> Response:
    return PlainTextResponse("the goods")


async def _options(request: Request) -> Response:
    return PlainTextResponse("mine")
