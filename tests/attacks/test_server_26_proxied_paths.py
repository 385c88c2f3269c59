"""26, through the proxy: the server behind it reads paths and methods as loosely as any server has ever done."""

from __future__ import annotations

import itertools
import posixpath
import unicodedata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from rail402.proxy.app import ProxyApp
from rail402.proxy.forwarder import Upstream
from rail402.server.gate import Gate
from tests.attacks.cases import Observe
from tests.attacks.sockets import exchange, head
from tests.attacks.test_server_26_paths import GOODS, METHODS, OVERRIDES, SPELLINGS
from tests.conformance.test_base_end_to_end import World
from tests.interop.bank import listening, served

PRICED = ["GET /paid", "GET /sub/paid", "* /files/*", "POST /report/", "GET /item/{id}"]
SOLD = ("/paid", "/sub/paid", "/files/", "/report", "/item/")

MORE = [
    *(
        "/report",
        "/report/",
        "/REPORT",
        "/report;x",
        "/item/1",
        "/Item/1",
        "/item/1/",
        "/item//1",
        "/item/a%2fb",
        "/item;x/1",
    ),
    *(
        "/%69tem/1",
        "/ITEM;x=/1",
        "/free/..;/paid",
        "/free/%2e%2e;/paid",
        "/free;/../paid",
        "/free/..%5cpaid",
        "/paid::$DATA",
    ),
    *(
        "/paid..",
        "/paid%20.",
        "/pa%EF%BD%89d",
        "/%EF%BC%8Fpaid",
        "/free%ef%bc%8f%ef%bc%8e%ef%bc%8e/paid",
        "/pa%C4%B0d",
        "/paid%e2%80%8b",
    ),
    *(
        "/free%3f/../paid",
        "/free%23/../paid",
        "/%25%37%30aid",
        "/%252570aid",
        "/paid%3b",
        "/paid%3Bx",
        "/FILES/x",
        "/files;x/paid.txt",
    ),
]
_OVERRIDE = ("x-http-method-override", "x-http-method", "x-method-override")
_REWRITE = (
    "x-original-url",
    "x-rewrite-url",
    "x-forwarded-prefix",
    "x-forwarded-path",
    "x-forwarded-uri",
    "x-original-uri",
)


class LooseServer:
    """Serves the goods for whatever might be meant by a path that costs something, by any method.

    Attributes:
        knows_options: whether it answers a preflight, and gives nothing away to who asks with OPTIONS.
    """

    def __init__(self) -> None:
        self.knows_options = False
        self.served: list[str] = []
        self.methods: set[str] = set()
        self.fields: dict[str, str] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        fields = {name.replace("_", "-"): value for name, value in self.fields.items()}
        told = [fields[name] for name in _REWRITE if name in fields]
        self.methods = {scope["method"].upper(), *(fields[name].upper() for name in _OVERRIDE if name in fields)}
        means = [self.reading(path) for path in (scope["raw_path"].decode("latin-1"), *told)]
        sold = any(
            path == sold.rstrip("/") or path.startswith(sold + "/" * (not sold.endswith("/")))
            for path in means
            for sold in SOLD
        )
        self.served.append(f"{scope['method']} {scope['raw_path'].decode('latin-1')}")
        asks = self.knows_options and self.methods == {"OPTIONS"}
        body = GOODS.encode() if sold and not asks else b"nothing"
        headers = [(b"content-length", str(len(body)).encode()), (b"x-goods", body)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def reading(self, path: str) -> str:
        for _ in range(5):
            path = unquote(path)
        path = unicodedata.normalize("NFKC", path.partition("#")[0].partition("?")[0].replace("\\", "/")).casefold()
        segments = [segment.partition(";")[0].partition("::")[0] for segment in path.split("/")]
        segments = [segment if segment in (".", "..") else segment.rstrip(". \u200b") for segment in segments]
        return posixpath.normpath("/" + "/".join(filter(None, segments)))


@asynccontextmanager
async def proxied(path: Path, unmatched: Any, **table: Any) -> AsyncIterator[tuple[World, LooseServer, int]]:
    world, server = World(path), LooseServer()
    gate = Gate(
        rails=[world.rail], public_url="http://testserver", store="memory://", clock=world.clock, reconcile_seconds=0
    )
    for pattern in PRICED:
        gate.protect(pattern, price="0.003 USD")
    with listening() as (behind, url), listening() as (found, _):
        proxy = ProxyApp(gate, Upstream(to=url), priced=PRICED, unmatched=unmatched, **table)
        async with served(server, behind), proxy, served(proxy, found, proxy_headers=False), world.payer:
            yield world, server, found.getsockname()[1]


@pytest.mark.parametrize("unmatched", ["pass", "refuse"])
@pytest.mark.parametrize("method", METHODS)
async def test_no_spelling_is_free_behind_the_proxy(
    tmp_path: Path, method: str, unmatched: str, observed: Observe
) -> None:
    async with proxied(tmp_path, unmatched) as (world, server, port):
        asked = 0
        for target in [*SPELLINGS, *MORE]:
            data = head(method, target.encode().decode("latin-1"), {"Content-Length": "0", "Connection": "close"})
            status, answered, body = await exchange(port, data)
            assert status in (0, 200, 204, 400, 402, 404, 405, 501), (method, target, status)
            assert GOODS.encode() not in body, (method, target)
            assert GOODS not in answered.get("x-goods", ""), (method, target)
            asked += status == 402
        assert asked >= (14 if method in ("GET", "HEAD") else 0)
        assert unmatched == "pass" or server.served == []
        await world.assert_books(paid=0)
    observed("nor behind the proxy, although the server there decodes five times, knows no case, and drops what it can")


REWRITES = [{name: "/paid"} for name in ("X-Original-URL", "X_Original_URL", "X-Rewrite-Url", "X-Forwarded-Uri")]
AS_GET = [{name: "GET"} for name in ("X-HTTP-Method", "X-HTTP-Method-Override", "X_HTTP_Method_Override")]


@pytest.mark.parametrize(
    "fields", [*OVERRIDES, *REWRITES, *AS_GET], ids=lambda fields: "=".join(*[next(iter(fields.items()))])
)
async def test_no_field_makes_it_free_behind_the_proxy(
    tmp_path: Path, fields: dict[str, str], observed: Observe
) -> None:
    """`POST /paid` is given away; by that nobody gets what `GET /paid` costs."""
    async with proxied(tmp_path, "pass", free=["POST /paid"]) as (world, server, port):
        for method, path in itertools.product(("GET", "POST", "PUT"), ("/paid", "/sub/paid", "/free", "/item/1")):
            status, _, body = await exchange(port, head(method, path, {"Content-Length": "0", **fields}))
            given = (method, path, status) == ("POST", "/paid", 200) and server.methods == {"POST"}
            assert status in (200, 400, 402, 405), (method, path, status)
            assert given or GOODS.encode() not in body, (method, path)
        await world.assert_books(paid=0)
    observed("nor by fields that name another path or method: they do not reach the server, or the request is refused")


async def test_preflights_that_are_free_open_nothing(tmp_path: Path, observed: Observe) -> None:
    """`OPTIONS /*` is free, for a service that answers preflights."""
    async with proxied(tmp_path, "refuse", free=["OPTIONS /*"]) as (world, server, port):
        server.knows_options = True
        preflight = {"Origin": "https://web.test", "Access-Control-Request-Method": "GET", "Content-Length": "0"}
        for fields in ({}, *REWRITES, *AS_GET):
            for target in ("/paid", "/PAID", "/paid/", "/paid;x", "/sub/paid", "/files/x", "/item/1", "/report"):
                status, answered, body = await exchange(port, head("OPTIONS", target, preflight | fields))
                assert status in (200, 400), (target, fields, status)
                assert status == 200 or fields in AS_GET, (target, fields)
                assert GOODS.encode() not in body + answered.get("x-goods", "").encode(), (target, fields)
        assert (await exchange(port, head("GET", "/paid")))[0] == 402
        await world.assert_books(paid=0)
    observed("where preflights are let through to a service that answers them, no field makes another method of them")


class ToPort(httpx.AsyncHTTPTransport):
    """Finds the public address at a port of this machine."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(host="127.0.0.1", port=self._port)
        return await super().handle_async_request(request)


async def test_who_pays_gets_what_was_matched(tmp_path: Path, observed: Observe) -> None:
    targets = ["/paid", "/%70aid?x=1", "/item/a;b", "/files/a%20b/c"]
    async with proxied(tmp_path, "pass") as (world, server, port):
        transport = world.payer.transport(ToPort(port))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            for target in targets:
                answer = await client.get(target)
                assert (answer.status_code, answer.text) == (200, GOODS)
        assert server.served == [f"GET {target.partition('?')[0]}" for target in targets]
        await world.assert_books(paid=len(targets) * 3000)
    observed("who pays gets the path that was matched, byte for byte")
