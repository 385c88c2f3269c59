"""28: a shared cache in front, which serves one payer's goods to everybody, or one asker's 402."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.responses import Response

from rail402.dialects import DEFAULT_DIALECTS
from tests.attacks.cases import Observe
from tests.conformance.test_base_end_to_end import World

HANDLERS = {
    "nothing": [],
    "public": [("Cache-Control", "public, max-age=86400, s-maxage=86400, immutable")],
    "twice": [("Cache-Control", "public"), ("cache-control", "max-age=600")],
    "for a CDN": [("CDN-Cache-Control", "max-age=600"), ("Surrogate-Control", "max-age=600")],
    "vary on something": [("Vary", "Accept-Encoding"), ("Cache-Control", "max-age=1")],
    "an old way": [("Expires", "Thu, 01 Dec 2033 16:00:00 GMT"), ("Pragma", "public")],
    "no-store": [("Cache-Control", "no-store")],
}


class SharedCache(httpx.AsyncBaseTransport):
    """A cache as RFC 9111 allows a shared one: it keeps what it may keep, by URL and what `Vary` names."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner, self.kept, self.hits = inner, list[tuple[httpx.Request, httpx.Response]](), 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        for asked, kept in self.kept:
            names = [name.strip() for name in kept.headers.get("vary", "").split(",") if name.strip()]
            same = asked.url == request.url and all(
                asked.headers.get(name) == request.headers.get(name) for name in names
            )
            if same and "*" not in names:
                self.hits += 1
                return httpx.Response(kept.status_code, headers=kept.headers, content=kept.content)
        response = await self.inner.handle_async_request(request)
        await response.aread()
        if self.may_keep(request, response):
            self.kept.append((request, response))
        return response

    def may_keep(self, request: httpx.Request, response: httpx.Response) -> bool:
        said = ", ".join(response.headers.get_list("cache-control")).lower()
        words = {word.strip().partition("=")[0] for word in said.split(",")}
        if any(name.endswith(("cdn-cache-control", "surrogate-control")) for name in response.headers):
            return True  # many CDNs mind nothing else
        if words & {"no-store", "private"}:
            return False
        if "authorization" in request.headers and not words & {"public", "s-maxage", "must-revalidate"}:
            return False
        heuristic = response.status_code in (200, 203, 204, 206, 300, 301, 404, 405, 410, 414, 501)
        return bool(words & {"public", "s-maxage", "max-age"}) or "expires" in response.headers or heuristic


@pytest.fixture(params=HANDLERS.values(), ids=HANDLERS)
async def shop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)

    @world.app.get("/cached")
    @world.gate.paid("0.003 USD")
    async def cached() -> Response:
        world.runs.append("cached")
        response = Response(f"run {len(world.runs)}")
        for name, value in request.param:
            response.headers.append(name, value)
        return response

    async with world.open():
        yield world


async def test_nobody_gets_what_another_paid_for(shop: World, observed: Observe) -> None:
    cache = SharedCache(httpx.ASGITransport(shop.app, raise_app_exceptions=False))
    async with httpx.AsyncClient(transport=cache, base_url="http://testserver") as client:
        assert (await client.get("/cached")).status_code == 402
        fields = await shop.payment("/cached")
        paid = await client.get("/cached", headers=fields)
        assert (paid.status_code, paid.text) == (200, "run 1")
        again = await client.get("/cached", headers=fields)
        assert again.headers["idempotent-replayed"] == "true"
        stranger = await client.get("/cached")
        assert (stranger.status_code, stranger.text == "run 1") == (402, False)
        other = await client.get("/cached", headers=await shop.payment("/cached"))
        assert (other.status_code, other.text) == (200, "run 2")
        assert (cache.hits, cache.kept) == (0, [])
    observed("a shared cache keeps neither 402 nor goods, whatever the handler says to caches, CDNs included")


async def test_what_the_answers_say(shop: World, observed: Observe) -> None:
    unpaid = await shop.http.get("/cached")
    paid = await shop.http.get("/cached", headers=await shop.payment("/cached"))
    assert unpaid.headers["cache-control"] == "no-store"
    words = {word.strip().partition("=")[0] for word in paid.headers["cache-control"].split(",")}
    assert "private" in words
    assert not words & {"public", "s-maxage"}
    for answer in (unpaid, paid):
        varies = {name.strip().lower() for line in answer.headers.get_list("vary") for name in line.split(",")}
        assert {name.lower() for dialect in DEFAULT_DIALECTS for name in dialect.request_fields} <= varies
    observed("`no-store` on 402, `private` on what was paid, `Vary` on every payment field of every dialect")


async def test_refusals_are_not_kept_either(shop: World, observed: Observe) -> None:
    fields = await shop.payment("/cached")
    await shop.chain.inject("lost_answer")
    answers = [
        await shop.http.get("/cached", headers={"PAYMENT-SIGNATURE": "junk"}),
        await shop.http.get("/cached", headers=fields),
        await shop.http.get("/cached", headers=await shop.payment("/cached", value=1)),
    ]
    assert [each.status_code for each in answers] == [400, 503, 402]
    assert {each.headers["cache-control"] for each in answers} == {"no-store"}
    observed("and `no-store` on 400 and 503")
