"""Start and stop with the app, and the discovery addresses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from rail402.errors import ConfigurationError
from tests.unit.server.shop import Shop


async def goods(request: Request) -> Response:
    return PlainTextResponse("the goods")


class Server:
    """The lifespan of an app, as a server drives it."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.said: list[Any] = []
        self._orders: asyncio.Queue[str] = asyncio.Queue()
        self._answered = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def order(self, what: str) -> str:
        """Send one order, and return the type of the app's answer; an exception before one is raised."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        self._answered.clear()
        self._orders.put_nowait(f"lifespan.{what}")
        answered = asyncio.create_task(self._answered.wait())
        await asyncio.wait({answered, self._task}, return_when=asyncio.FIRST_COMPLETED)
        answered.cancel()
        if not self._answered.is_set():
            self._task.result()
        return str(self.said[-1]["type"])

    async def _run(self) -> None:
        await self._app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, self._receive, self._send)

    async def _receive(self) -> dict[str, str]:
        return {"type": await self._orders.get()}

    async def _send(self, message: Any) -> None:
        self.said.append(message)
        self._answered.set()

    async def end(self) -> BaseException | None:
        assert self._task is not None
        await asyncio.wait({self._task})
        return self._task.exception()


def shop_with_lifespan(steps: list[str], failing: str = "") -> Shop:
    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        steps.append(f"app starts, gate {shop.gate.started}")
        if failing == "startup":
            raise RuntimeError("the app does not start")
        yield
        steps.append(f"app stops, gate {shop.gate.started}")
        if failing == "shutdown":
            raise RuntimeError("the app does not stop")

    shop = Shop(Starlette(lifespan=lifespan))
    shop.app.add_route("/goods", shop.gate.paid("0.003 USD")(goods))
    return shop


async def test_the_gate_is_open_before_the_app_and_closed_after_it() -> None:
    steps: list[str] = []
    shop = shop_with_lifespan(steps)
    server = Server(shop.app)
    assert await server.order("startup") == "lifespan.startup.complete"
    assert shop.gate.started
    assert await server.order("shutdown") == "lifespan.shutdown.complete"
    assert not shop.gate.started
    assert steps == ["app starts, gate True", "app stops, gate True"]
    assert await server.end() is None


@pytest.mark.parametrize("mistake", ["pattern", "rail"])
async def test_a_gate_that_cannot_start_is_reported_as_a_failed_startup(mistake: str) -> None:
    shop = shop_with_lifespan([])
    if mistake == "pattern":
        shop.gate.protect("GET /nowhere", price="1 USD")
    else:

        async def misconfigured() -> None:
            raise ConfigurationError("another node")

        shop.rail.start = misconfigured  # type: ignore[method-assign]
    server = Server(shop.app)
    assert await server.order("startup") == "lifespan.startup.failed"
    assert ("/nowhere" if mistake == "pattern" else "another node") in server.said[-1]["message"]
    assert isinstance(await server.end(), ConfigurationError)
    assert not shop.gate.started


@pytest.mark.parametrize("failing", ["startup", "shutdown"])
async def test_a_gate_is_closed_whatever_becomes_of_the_app(failing: str) -> None:
    shop = shop_with_lifespan([], failing)
    server = Server(shop.app)
    first = await server.order("startup")
    if failing == "shutdown":
        assert first == "lifespan.startup.complete"
        first = await server.order("shutdown")
    assert first == f"lifespan.{failing}.failed"
    assert isinstance(await server.end(), RuntimeError)
    assert (shop.gate.started, shop.rail.started) == (False, False)


async def test_without_a_lifespan_the_first_request_starts_it() -> None:
    shop = Shop()
    shop.app.add_route("/goods", shop.gate.paid("0.003 USD")(goods))
    shop.app.add_route("/free", goods)
    assert (await shop.request("/free").run()).status == 200
    assert shop.gate.started
    await shop.gate.close()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/.well-known/rail402/jwks.json", 200),
        ("HEAD", "/.well-known/rail402/jwks.json", 200),
        ("POST", "/.well-known/rail402/jwks.json", 405),
        ("GET", "/.well-known/rail402/", 404),
        ("GET", "/.well-known/rail402/other", 404),
        ("GET", "/.well-known/rail402", 404),
    ],
)
async def test_discovery(method: str, path: str, status: int) -> None:
    shop = Shop()
    async with shop.open():
        wire = await shop.request(path, method).run()
        assert wire.status == status
        if status == 200:
            assert (wire.one("content-type"), wire.one("cache-control")) == (
                "application/jwk-set+json",
                "public, max-age=300",
            )
            if method == "HEAD":
                assert wire.body == b""
            else:
                (key,) = wire.json()["keys"]
                assert (key["crv"], "d" in key) == ("Ed25519", False)
            assert wire.one("access-control-allow-origin") == "*"
        elif path.endswith(("/", "other", "json")):
            assert wire.one("cache-control") == "no-store"
