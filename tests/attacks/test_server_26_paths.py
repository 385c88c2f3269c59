"""26: other spellings of a paid path, other methods, mounted apps and websockets, as bytes on a socket."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from rail402.errors import ConfigurationError
from tests.attacks.cases import Observe
from tests.attacks.sockets import exchange, head
from tests.conformance.test_base_end_to_end import World
from tests.interop.bank import listening, served

GOODS = "the goods"

SPELLINGS = [
    *("/paid", "/paid/", "//paid", "/paid//", "/./paid", "/x/../paid", "/../paid", "/%70aid", "/%50aid", "/p%61id"),
    *("/paid%2f", "/paid%00", "/paid;x", "/paid;x=1", "/PAID", "/Paid", "/paid?", "/paid?x=1", "/paid#x", "/paid%3f"),
    *("/paid.json", "/paid%20", "/%2fpaid", "/paid\\", "/paid%5c", "/paid/../paid", "/%2e/paid", "/paid/%2e%2e/paid"),
    *("/%2570aid", "/paid%09", "/paid%0d%0a", "/\u0070aid", "/paid%c0%af", "/paid/.", "/paid/..;/paid", "///paid"),
    *("http://testserver/paid", "http://evil.test/paid", "/sub/paid", "/sub//paid", "//sub/paid", "/sub/%70aid"),
    *("/sub/../paid", "/SUB/paid", "/sub/paid/", "/router/paid", "/router/../paid", "/router/%70aid", "*", "paid"),
    *("/files/paid.txt", "/files//paid.txt", "/files/./paid.txt", "/files/%70aid.txt", "/files/../files/paid.txt"),
    *("/files/PAID.TXT", "/files/paid.txt/", "/files\\paid.txt", "/files/..%2ffiles/paid.txt"),
    *("/blind/paid", "/blind//paid", "/blind", "/%62lind/paid", "/download"),
]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get", "Get", "BREW"]
OVERRIDES = [
    {"X-HTTP-Method-Override": "OPTIONS"},
    {"X-HTTP-Method": "OPTIONS"},
    {"X-Method-Override": "TRACE"},
    {"X-Original-URL": "/free"},
    {"X-Rewrite-URL": "/free"},
    {"X-Forwarded-Prefix": "/free"},
    {"X-Forwarded-Path": "/free"},
    {"Forwarded": "for=127.0.0.1;host=free"},
    {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAMAAABkAAQCAAAAAAIAAAAA"},
    {"Expect": "100-continue"},
    {"Origin": "null", "Access-Control-Request-Method": "GET"},
    {"Purpose": "prefetch", "Sec-Purpose": "prefetch"},
]


class Blind:
    """An app that does the same whatever the method, and takes websockets; it writes down what it did.

    Attributes:
        runs: the methods that it was asked by.
    """

    def __init__(self) -> None:
        self.runs: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.runs.append(scope.get("method", scope["type"]))
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": GOODS})
        else:
            fields = {"X-Goods": GOODS, "Set-Cookie": f"goods={GOODS}"}
            await RedirectResponse(f"https://cdn.example/?signature={GOODS}", headers=fields)(scope, receive, send)


def plant(world: World, files: Path) -> Blind:
    """The same goods in every way that an app has to serve them, and something that is free."""
    files.mkdir()
    (files / "paid.txt").write_text(GOODS)

    async def goods(request: Any) -> PlainTextResponse:
        return PlainTextResponse(GOODS)

    @world.app.api_route("/paid", methods=["GET", "POST"])
    @world.gate.paid("0.003 USD")
    async def paid() -> PlainTextResponse:
        return PlainTextResponse(GOODS)

    @world.app.get("/free")
    async def free() -> str:
        return "free"

    router = APIRouter()
    router.get("/paid")(world.gate.paid("0.003 USD")(_text))
    world.app.include_router(router, prefix="/router")
    world.app.router.routes.append(Mount("/sub", Starlette(routes=[Route("/paid", goods)])))
    world.gate.protect("GET /sub/*", price="0.003 USD")
    world.app.mount("/files", StaticFiles(directory=files))
    world.gate.protect("* /files/*", price="0.003 USD")
    blind = Blind()
    world.app.mount("/blind", blind)
    world.gate.protect("GET /blind/*", price="0.003 USD")
    world.app.router.routes.append(Route("/download", blind))
    world.gate.protect("* /download", price="0.003 USD")
    world.app.add_middleware(BaseHTTPMiddleware, dispatch=_as_it_is)
    return blind


async def _text() -> PlainTextResponse:
    return PlainTextResponse(GOODS)


async def _as_it_is(request: Any, call_next: Any) -> Any:
    """As many apps have one: it runs what is behind it in a task of its own."""
    return await call_next(request)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[tuple[World, int, Blind]]:
    world = World(path)
    blind = plant(world, path / "files")
    with listening() as (found, _):
        async with world.open(), served(world.app, found):
            yield world, found.getsockname()[1], blind


@pytest.mark.parametrize("method", METHODS)
async def test_no_spelling_is_free(tmp_path: Path, method: str, observed: Observe) -> None:
    async with opened(tmp_path) as (world, port, blind):
        asked = 0
        for target in SPELLINGS:
            data = head(method, target.encode().decode("latin-1"), {"Content-Length": "0", "Connection": "close"})
            status, answered, body = await exchange(port, data)
            assert status in (0, 204, 307, 400, 402, 404, 405), (method, target, status)
            assert status != 204 or method == "OPTIONS", (method, target)
            assert GOODS.encode() not in body, (method, target)
            assert not any(GOODS in value for value in answered.values()), (method, target)
            asked += status == 402
        assert asked >= (9 if method in ("GET", "HEAD") else 0)
        assert blind.runs == []
        await world.assert_books(paid=0)
    observed(
        "64 spellings of six paid routes by twelve methods: 307, 400, 402, 404 or 405, 204 to `OPTIONS`, and never the"
        " goods, nor a field of theirs; an app that cannot tell methods apart never ran"
    )


PREFLIGHTS: list[dict[str, str]] = [
    {},
    {"Origin": "https://evil.test"},
    {"Origin": "https://evil.test", "Access-Control-Request-Method": "GET"},
    {"X-HTTP-Method-Override": "GET"},
    {"PAYMENT-SIGNATURE": "junk"},
]


@pytest.mark.parametrize("fields", PREFLIGHTS, ids=lambda fields: next(reversed(fields), "plain"))
async def test_options_run_nothing_that_is_sold(tmp_path: Path, fields: dict[str, str], observed: Observe) -> None:
    async with opened(tmp_path) as (_, port, blind):
        for path in ("/blind/paid", "/download", "/files/paid.txt"):
            status, answered, body = await exchange(port, head("OPTIONS", path, {"Content-Length": "0", **fields}))
            assert (status, body) == (204, b"")
            assert answered.keys() <= {"date", "server", "cache-control", "allow"}
        assert blind.runs == []
    observed("`OPTIONS` is answered by the gate with 204 and no field of the handler's, which does not run")


@pytest.mark.parametrize("fields", OVERRIDES, ids=lambda fields: next(iter(fields)))
async def test_no_field_makes_it_free(tmp_path: Path, fields: dict[str, str], observed: Observe) -> None:
    async with opened(tmp_path) as (_, port, blind):
        paths = ("/paid", "/router/paid", "/sub/paid", "/files/paid.txt", "/blind/paid", "/download")
        for method, path in itertools.product(("GET", "POST"), paths):
            data = head(method, path, {"Content-Length": "0", **fields})
            status, _, body = await exchange(port, data)
            assert status in (402, 404, 405), (method, path, status)
            assert GOODS.encode() not in body
        assert blind.runs == []
    observed("nor do fields that some servers take for the method or the path")


async def test_a_websocket_is_refused(tmp_path: Path, observed: Observe) -> None:
    async with opened(tmp_path) as (world, _, blind):
        for path in ("/paid", "/sub/paid", "/router/paid", "/files/paid.txt", "/blind/paid", "/download"):
            sent: list[Any] = []
            scope = {
                "type": "websocket",
                "asgi": {"version": "3.0"},
                "scheme": "ws",
                "path": path,
                "raw_path": path.encode(),
                "query_string": b"",
                "root_path": "",
                "headers": [(b"host", b"testserver")],
                "subprotocols": [],
                "state": {},
            }
            await world.app(scope, _connect, _collect(sent))  # type: ignore[arg-type]
            assert [each["type"] for each in sent] in (["websocket.close"], ["websocket.http.response.start"])
        assert blind.runs == [], "an app that would take a websocket was not asked"
    world = World(tmp_path / "other")
    world.app.websocket("/paid")(world.gate.paid("0.003 USD")(_text))
    with pytest.raises(ConfigurationError):
        await world.gate.start()
    observed("a websocket of a paid path is closed, and one with a price keeps the app from starting")


async def _connect() -> dict[str, str]:
    return {"type": "websocket.connect"}


def _collect(sent: list[Any]) -> Any:
    async def send(message: Any) -> None:
        sent.append(message)

    return send


async def test_a_mounted_app_has_no_door_of_its_own(tmp_path: Path, observed: Observe) -> None:
    """`root_path` is what a proxy says; a handler that is reached around the gate refuses to serve."""
    async with opened(tmp_path) as (world, _, _):
        for root in ("", "/sub", "/router", "/x"):
            path = f"{root}/paid"
            scope = {
                "type": "http",
                "asgi": {"version": "3.0"},
                "http_version": "1.1",
                "method": "GET",
                "scheme": "http",
                "path": path,
                "raw_path": path.encode(),
                "query_string": b"",
                "root_path": root,
                "headers": [(b"host", b"testserver")],
                "state": {},
            }
            sent: list[Any] = []
            await world.app(scope, _empty, _collect(sent))  # type: ignore[arg-type]
            assert GOODS.encode() not in b"".join(each.get("body", b"") for each in sent)
    bare = FastAPI()
    bare.get("/paid")(World(tmp_path / "other").gate.paid("0.003 USD")(_text))
    with listening() as (found, _):
        async with served(bare, found):
            status, _, body = await exchange(found.getsockname()[1], head("GET", "/paid"))
    assert (status, GOODS.encode() in body) == (500, False)
    observed("a root path that a proxy claims opens nothing; a marked handler in an app without its gate is 500")


async def _empty() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}
