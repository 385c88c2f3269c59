"""18: answers that are no 200: redirects, 304 and 206, from functions, mounted apps and static files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tests.attacks.cases import Observe
from tests.conformance.test_base_end_to_end import World

ADAPTERS = ["fastapi", "starlette", "mounted"]
STATUSES = [201, 204, 206, 301, 302, 303, 304, 307, 308]


def sell(world: World, adapter: str, status: int) -> str:
    """Have `/goods` answer with that status; returns its path."""

    async def goods(request: Request) -> Response:
        world.runs.append("goods")
        if 300 < status < 400 and status != 304:
            return RedirectResponse("/the-goods", status)
        return Response(None if status in (204, 304) else b"part", status)

    match adapter:
        case "fastapi":

            @world.app.get("/goods")
            @world.gate.paid("0.003 USD")
            async def wrapped(request: Request) -> Response:
                return await goods(request)
        case "starlette":
            world.app.router.routes.append(Route("/goods", world.gate.paid("0.003 USD")(goods)))
        case "mounted":
            world.app.router.routes.append(Mount("/shop", Starlette(routes=[Route("/goods", goods)])))
            world.gate.protect("GET /shop/*", price="0.003 USD")
            return "/shop/goods"
    return "/goods"


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("status", STATUSES)
async def test_they_are_paid_for_like_any_success(tmp_path: Path, adapter: str, status: int, observed: Observe) -> None:
    world = World(tmp_path)
    path = sell(world, adapter, status)
    async with world.open():
        unpaid = await world.http.get(path)
        assert (unpaid.status_code, "location" in unpaid.headers, world.runs) == (402, False, [])
        fields = await world.payment(path)
        answer = await world.http.get(path, headers=fields)
        assert answer.status_code == status
        assert "receipt-record" in answer.headers
        await world.assert_books(paid=3000)
        again = await world.http.get(path, headers=fields)
        assert (again.status_code, again.headers.get("location")) == (status, answer.headers.get("location"))
        assert world.runs == ["goods"]
        await world.assert_books(paid=3000)
    observed("nine statuses below 400 are settled like a 200 in FastAPI, Starlette and mounted apps, and replayed")


async def test_what_a_redirect_says_is_withheld_where_the_money_does_not_come(
    tmp_path: Path, observed: Observe
) -> None:
    """The secret may be the address: it must not leave unpaid."""
    world = World(tmp_path)
    sell(world, "fastapi", 303)
    async with world.open():
        fields = await world.payment("/goods")
        await world.chain.inject("lost_answer")
        answer = await world.http.get("/goods", headers=fields)
        assert (answer.status_code, "location" in answer.headers) == (503, False)
    observed("the `Location` of a redirect stays back where settling fails")


@pytest.mark.parametrize(
    "fields", [{"range": "bytes=0-3"}, {"if-none-match": "*"}, {"range": "bytes=0-1,4-5"}], ids=str
)
async def test_conditions_and_ranges_of_static_files_are_not_free(
    tmp_path: Path, fields: dict[str, str], observed: Observe
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "book.txt").write_text("the whole book")
    world = World(tmp_path)
    world.app.mount("/files", StaticFiles(directory=files))
    world.gate.protect("GET /files/*", price="0.003 USD")
    async with world.open():
        asked = fields or {"if-none-match": _etag(files / "book.txt")}
        unpaid: httpx.Response = await world.http.get("/files/book.txt", headers=asked)
        assert (unpaid.status_code, b"book" in unpaid.content.replace(b"book.txt", b"")) == (402, False)
        assert "etag" not in unpaid.headers
        paid = await world.http.get("/files/book.txt", headers=asked | await world.payment("/files/book.txt"))
        assert paid.status_code in (206, 304)
        await world.assert_books(paid=3000)
    observed("ranges and conditions of static files are 402 first, with no `ETag`, and cost the whole price")


def _etag(path: Path) -> str:
    """What Starlette calls a file by: an attacker can guess it from its size and time."""
    stat = path.stat()
    return '"' + hashlib.md5(f"{stat.st_mtime}-{stat.st_size}".encode(), usedforsecurity=False).hexdigest() + '"'
